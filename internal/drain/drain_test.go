package drain

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func diffNodes(want, got *corev1.Node) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty())
}

var testNode = NodeFacts{Name: "n1", UID: "n1-uid", TaintSeen: start.Add(-time.Minute), CordonedAt: start.Add(-time.Minute)}

// pod builds a running pod on the test node; each option changes it.
func pod(name string, options ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), CreationTimestamp: metav1.Time{Time: start.Add(-time.Hour)}},
		Spec:       corev1.PodSpec{NodeName: "n1", TerminationGracePeriodSeconds: &grace},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, o := range options {
		o(p)
	}
	return p
}

func ready(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func labelled(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{key: value} }
}

func annotated(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{key: value} }
}

func owned(apiVersion, kind, name string, uid types.UID) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: &yes}}
	}
}

func tolerating(t corev1.Toleration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{t} }
}

func terminating(since time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: start.Add(-since)} }
}

func critPod(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }

func TestClassify(t *testing.T) {
	priority := int32(2_000_001_000)
	long := int64(1) << 40
	tests := map[string]struct {
		pods []*corev1.Pod
		// left until the deadline; 0 means none recorded.
		left time.Duration
		want []string
	}{
		"an ordinary pod is evicted":                       {pods: []*corev1.Pod{pod("a")}, left: time.Hour, want: []string{"Evict"}},
		"without a deadline nothing is deleted":            {pods: []*corev1.Pod{pod("a")}, want: []string{"Evict"}},
		"exactly at deadline minus grace it is deleted":    {pods: []*corev1.Pod{pod("a")}, left: 30 * time.Second, want: []string{"Delete 30s"}},
		"just before that it is still evicted":             {pods: []*corev1.Pod{pod("a")}, left: 30*time.Second + 1, want: []string{"Evict"}},
		"with less time left it gets what is left":         {pods: []*corev1.Pod{pod("a")}, left: 7*time.Second + 900*time.Millisecond, want: []string{"Delete 7s"}},
		"at the last moment it still gets a second":        {pods: []*corev1.Pod{pod("a")}, left: time.Millisecond, want: []string{"Delete 1s"}},
		"past the deadline it still gets a second":         {pods: []*corev1.Pod{pod("a")}, left: -time.Minute, want: []string{"Delete 1s"}},
		"a grace period of an age does not overflow":       {pods: []*corev1.Pod{pod("a", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &long })}, left: time.Hour, want: []string{"Delete 1h0m0s"}},
		"critical pods wait for ordinary ones":             {pods: []*corev1.Pod{pod("c", critPod), pod("a")}, left: time.Hour, want: []string{"Wait", "Evict"}},
		"critical by priority is critical":                 {pods: []*corev1.Pod{pod("c", func(p *corev1.Pod) { p.Spec.Priority = &priority }), pod("a")}, left: time.Hour, want: []string{"Wait", "Evict"}},
		"critical pods go when ordinary ones have":         {pods: []*corev1.Pod{pod("c", critPod)}, left: time.Hour, want: []string{"Evict"}},
		"an ordinary pod that terminates still goes first": {pods: []*corev1.Pod{pod("c", critPod), pod("a", terminating(0))}, left: time.Hour, want: []string{"Wait", "Wait"}},
		"one that is stuck does not":                       {pods: []*corev1.Pod{pod("c", critPod), pod("a", terminating(time.Minute))}, left: time.Hour, want: []string{"Evict", "Skip"}},
		"nor do DaemonSet pods":                            {pods: []*corev1.Pod{pod("c", critPod), pod("d", owned("apps/v1", "DaemonSet", "d", "d"))}, left: time.Hour, want: []string{"Evict", "Skip"}},
		"past their time critical pods do not wait":        {pods: []*corev1.Pod{pod("c", critPod), pod("a")}, left: 20 * time.Second, want: []string{"Delete 20s", "Delete 20s"}},
		"a static pod of this node is skipped": {
			pods: []*corev1.Pod{pod("s", annotated(corev1.MirrorPodAnnotationKey, "h"), owned("v1", "Node", "n1", "n1-uid"))}, left: time.Hour, want: []string{"Skip"}},
		"the annotation alone is a spoof": {pods: []*corev1.Pod{pod("s", annotated(corev1.MirrorPodAnnotationKey, "h"))}, left: time.Hour, want: []string{"Evict"}},
		"so is a Node of the same name and another UID": {
			pods: []*corev1.Pod{pod("s", annotated(corev1.MirrorPodAnnotationKey, "h"), owned("v1", "Node", "n1", "other"))}, left: time.Hour, want: []string{"Evict"}},
		"a DaemonSet of another API group is not one": {pods: []*corev1.Pod{pod("d", owned("example.com/v1", "DaemonSet", "d", "d"))}, left: time.Hour, want: []string{"Evict"}},
		"tolerating our taint is skipped":             {pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Key: "berth.dev/disrupted", Operator: corev1.TolerationOpExists}))}, left: time.Hour, want: []string{"Skip"}},
		"tolerating it with an empty value too":       {pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Key: "berth.dev/disrupted", Effect: corev1.TaintEffectNoSchedule}))}, left: time.Hour, want: []string{"Skip"}},
		"tolerating another value is not":             {pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Key: "berth.dev/disrupted", Value: "x"}))}, left: time.Hour, want: []string{"Evict"}},
		"tolerating another effect is not":            {pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Key: "berth.dev/disrupted", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}))}, left: time.Hour, want: []string{"Evict"}},
		"tolerating everything is evicted once":       {pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists}))}, left: time.Hour, want: []string{"Evict"}},
		"and not again when it comes back": {
			pods: []*corev1.Pod{pod("a", tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists}), func(p *corev1.Pod) { p.CreationTimestamp = metav1.Time{Time: start} })},
			left: time.Hour, want: []string{"Skip"}},
		"finished pods are skipped":                {pods: []*corev1.Pod{pod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, left: time.Hour, want: []string{"Skip"}},
		"pods of other nodes are skipped":          {pods: []*corev1.Pod{pod("a", func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, left: time.Hour, want: []string{"Skip"}},
		"a terminating pod is waited for":          {pods: []*corev1.Pod{pod("a", terminating(59*time.Second))}, left: time.Hour, want: []string{"Wait"}},
		"but not for ever":                         {pods: []*corev1.Pod{pod("a", terminating(60*time.Second))}, left: time.Hour, want: []string{"Skip"}},
		"one that outlives the deadline is told":   {pods: []*corev1.Pod{pod("a", terminating(-5*time.Minute))}, left: 20 * time.Second, want: []string{"Delete 20s"}},
		"one that ends about then is left alone":   {pods: []*corev1.Pod{pod("a", terminating(-22*time.Second))}, left: 20 * time.Second, want: []string{"Wait"}},
		"one with time of its own left is as well": {pods: []*corev1.Pod{pod("a", terminating(-5*time.Minute))}, left: time.Minute, want: []string{"Wait"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var deadline time.Time
			if tc.left != 0 {
				deadline = start.Add(tc.left)
			}
			var got []string
			for _, v := range Classify(tc.pods, testNode, start, deadline) {
				s := string(v.Action)
				if v.Action == Delete {
					s += " " + v.Grace.String()
				}
				if v.Reason == "" {
					t.Error("no reason")
				}
				got = append(got, s)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoNotDisrupt(t *testing.T) {
	tests := map[string]struct {
		key, value string
		want       string
	}{
		"true protects":                         {"berth.dev/do-not-disrupt", "true", "berth.dev/do-not-disrupt=true"},
		"false does not":                        {"berth.dev/do-not-disrupt", "false", ""},
		"a duration still running protects":     {"berth.dev/do-not-disrupt", "2h", "berth.dev/do-not-disrupt=2h"},
		"a duration that is over does not":      {"berth.dev/do-not-disrupt", "1h", ""},
		"nonsense protects":                     {"berth.dev/do-not-disrupt", "2 hours", "berth.dev/do-not-disrupt=2 hours"},
		"Karpenter's word counts":               {"karpenter.sh/do-not-disrupt", "true", "karpenter.sh/do-not-disrupt=true"},
		"Cluster Autoscaler's word counts":      {"cluster-autoscaler.kubernetes.io/safe-to-evict", "false", "cluster-autoscaler.kubernetes.io/safe-to-evict=false"},
		"safe-to-evict true protects from none": {"cluster-autoscaler.kubernetes.io/safe-to-evict", "true", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, ok := DoNotDisrupt(pod("a", annotated(tc.key, tc.value)), start); got != tc.want || ok != (tc.want != "") {
				t.Errorf("got %q, %v, want %q", got, ok, tc.want)
			}
		})
	}
	t.Run("the start of the pod counts, not its creation", func(t *testing.T) {
		p := pod("a", annotated("berth.dev/do-not-disrupt", "30m"))
		p.Status.StartTime = &metav1.Time{Time: start.Add(-10 * time.Minute)}
		if _, ok := DoNotDisrupt(p, start); !ok {
			t.Error("not protected")
		}
	})
}

// scripted answers each pod with one error, and remembers who was asked.
type scripted struct {
	answers map[string]error
	asked   chan string
}

func (s scripted) Evict(_ context.Context, pod types.NamespacedName, _ types.UID, _ *int64) error {
	s.asked <- pod.Name
	return s.answers[pod.Name]
}

func (s scripted) Delete(ctx context.Context, pod types.NamespacedName, uid types.UID, _ int64) error {
	return s.Evict(ctx, pod, uid, nil)
}

func pdb(name string, selects map[string]string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: selects}},
	}
}

func TestPassUnderstandsAnswers(t *testing.T) {
	web := labelled("app", "web")
	one := []*policyv1.PodDisruptionBudget{pdb("web", map[string]string{"app": "web"})}
	two := append(one, pdb("all", map[string]string{}))
	until := start.Add(time.Hour - 30*time.Second)
	blocked := func(b Block, detail string, pdbs ...string) Result {
		return Result{Remaining: 1, Blocked: []Blocker{{Pod: "ns/a", Owner: "ReplicaSet/web-1", PDB: pdbs, Reason: b, Detail: detail, Until: until}}}
	}
	tests := map[string]struct {
		answer error
		pdbs   []*policyv1.PodDisruptionBudget
		want   Result
		// next try, least and most.
		from, to time.Duration
	}{
		"accepted is not gone":             {want: Result{Remaining: 1, Evicted: []string{"ns/a"}}, from: time.Second, to: time.Second},
		"not found is gone":                {answer: statusErr(404, metav1.StatusReasonNotFound), want: Result{Done: true}},
		"a conflict is looked at again":    {answer: statusErr(409, metav1.StatusReasonConflict), want: Result{Remaining: 1}, from: time.Second, to: time.Second},
		"a timeout is looked at again":     {answer: context.DeadlineExceeded, want: Result{Remaining: 1}, from: time.Second, to: time.Second},
		"busy budgets are looked at again": {answer: statusErr(504, metav1.StatusReasonTimeout), want: Result{Remaining: 1}, from: time.Second, to: time.Second},
		"429 with the cause is the budget": {
			answer: statusErr(429, metav1.StatusReasonTooManyRequests, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: "needs 2"}), pdbs: one,
			want: blocked(BlockBudget, "needs 2", "web"), from: time.Second, to: 2 * time.Second},
		"403 with the budget's cause is the budget": {
			answer: statusErr(403, metav1.StatusReasonForbidden, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: "negative"}), pdbs: one,
			want: blocked(BlockBudget, "negative", "web"), from: time.Second, to: 2 * time.Second},
		"429 without the cause is a busy server": {
			answer: statusErr(429, metav1.StatusReasonTooManyRequests), pdbs: one,
			want: Result{Remaining: 1, Throttled: true}, from: 2 * time.Second, to: 4 * time.Second},
		"500 with two budgets never clears": {
			answer: statusErr(500, ""), pdbs: two, want: blocked(BlockBudgets, "code 500", "all", "web"), from: slow, to: slow},
		"500 with one budget is a failure": {
			answer: statusErr(500, metav1.StatusReasonInternalError), pdbs: one, want: blocked(BlockRefused, "code 500", "web"), from: 10 * time.Second, to: 12 * time.Second},
		"403 of an ending namespace waits": {
			answer: statusErr(403, metav1.StatusReasonForbidden, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}),
			want:   blocked(BlockNamespace, ""), from: 10 * time.Second, to: 12 * time.Second},
		"403 of anybody else is a refusal": {
			answer: statusErr(403, metav1.StatusReasonForbidden), want: blocked(BlockRefused, "code 403"), from: 10 * time.Second, to: 12 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			api := scripted{answers: map[string]error{"a": tc.answer}, asked: make(chan string, 1)}
			got := Pass(t.Context(), api, Input{
				Node: testNode, Pods: []*corev1.Pod{pod("a", web, ready, owned("apps/v1", "ReplicaSet", "web-1", "u"))},
				PDBs: tc.pdbs, Now: start, Started: start, Deadline: start.Add(time.Hour),
			})
			if got.NextTry < tc.from || got.NextTry > tc.to {
				t.Errorf("next try %s, want %s to %s", got.NextTry, tc.from, tc.to)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Result{}, "NextTry")); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if !got.Done && got.Message() == "" {
				t.Error("no message")
			}
		})
	}
}

func TestPassHoldsBackAfterAThrottle(t *testing.T) {
	busy := statusErr(429, metav1.StatusReasonTooManyRequests)
	api := scripted{answers: map[string]error{}, asked: make(chan string, 200)}
	var pods []*corev1.Pod
	for i := range 200 {
		p := pod("p" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
		api.answers[p.Name] = busy
		pods = append(pods, p)
	}
	r := Pass(t.Context(), api, Input{Node: testNode, Pods: pods, Now: start, Deadline: start.Add(time.Hour)})
	if !r.Throttled || r.Remaining != 200 {
		t.Errorf("got %+v", r)
	}
	if n := len(api.asked); n > 2*passConcurrency {
		t.Errorf("%d calls after the server asked for fewer", n)
	}
}

func TestPassAsksABudgetOnce(t *testing.T) {
	full := statusErr(429, metav1.StatusReasonTooManyRequests, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause})
	api := scripted{answers: map[string]error{}, asked: make(chan string, 200)}
	var pods []*corev1.Pod
	for i := range 100 {
		p := pod("p"+string(rune('a'+i/26))+string(rune('a'+i%26)), labelled("app", "web"), ready)
		api.answers[p.Name] = full
		pods = append(pods, p)
	}
	unready := pod("unready", labelled("app", "web"))
	r := Pass(t.Context(), api, Input{
		Node: testNode, Pods: append(pods, unready), PDBs: []*policyv1.PodDisruptionBudget{pdb("web", map[string]string{"app": "web"})},
		Now: start, Started: start, Deadline: start.Add(time.Hour),
	})
	if len(r.Blocked) != 100 || !cmp.Equal(r.Evicted, []string{"ns/unready"}) {
		t.Errorf("blocked %d, evicted %v", len(r.Blocked), r.Evicted)
	}
	if n := len(api.asked); n > 2*passConcurrency {
		t.Errorf("asked %d times", n)
	}
	if m := r.Message(); !strings.Contains(m, "PodDisruptionBudget web") || !strings.Contains(m, "2026-01-02T04:03:35Z") {
		t.Errorf("message %q names neither budget nor time", m)
	}
}

func TestPassDoesNothingBeforeTheTaintIsSeen(t *testing.T) {
	api := scripted{asked: make(chan string, 1)}
	node := testNode
	node.TaintSeen = time.Time{}
	r := Pass(t.Context(), api, Input{Node: node, Pods: []*corev1.Pod{pod("a")}, Now: start, Deadline: start.Add(-time.Hour)})
	if r.Done || r.Remaining != 1 || len(api.asked) != 0 || r.NextTry != time.Second {
		t.Errorf("got %+v after %d calls", r, len(api.asked))
	}
	node.TaintSeen = start.Add(-2 * time.Second)
	r = Pass(t.Context(), api, Input{Node: node, Now: start, Deadline: start.Add(time.Hour)})
	if r.Done || r.NextTry != 3*time.Second {
		t.Errorf("an empty node, tainted two seconds ago: got %+v", r)
	}
}

// TestNodesLeaveLoadBalancersBeforeTheyEnd: a node that was held before is taken out of
// load balancers when its drain begins, and stays for MinDrain after that.
func TestNodesLeaveLoadBalancersBeforeTheyEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		excluded time.Duration // Before now; 0: somebody else did, long ago.
		deadline time.Duration
		left     time.Duration
	}{
		"just now":                    {time.Second, time.Hour, MinDrain - time.Second},
		"long enough ago":             {MinDrain, time.Hour, 0},
		"just now, past its deadline": {time.Second, -time.Minute, MinDrain - time.Second},
		"by somebody else":            {0, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
			Hold(n, start.Add(-time.Hour))
			if tc.excluded == 0 {
				n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
			}
			Cordon(n, start.Add(-tc.excluded))
			r := Pass(t.Context(), nil, Input{Node: Facts(n, start.Add(-time.Hour)), Now: start, Started: start.Add(-time.Hour), Deadline: start.Add(tc.deadline)})
			if r.Done != (tc.left == 0) || r.NextTry != tc.left {
				t.Errorf("done %t, next try %s; want %s", r.Done, r.NextTry, tc.left)
			}
		})
	}
}

func TestPassEndsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	api := scripted{asked: make(chan string, 1)}
	r := Pass(ctx, api, Input{Node: testNode, Pods: []*corev1.Pod{pod("a")}, Now: start, Deadline: start.Add(time.Hour)})
	if r.Done || r.Remaining != 1 || len(r.Evicted) != 0 || len(api.asked) != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestPassWaitsForVolumes(t *testing.T) {
	attachment := func(node, pv string) *storagev1.VolumeAttachment {
		a := &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{NodeName: node}}
		if pv != "" {
			a.Spec.Source.PersistentVolumeName = &pv
		}
		return a
	}
	all := []*storagev1.VolumeAttachment{attachment("n1", "left"), attachment("n1", "kept"), attachment("n1", ""), attachment("n2", "far")}
	daemon := pod("d", owned("apps/v1", "DaemonSet", "d", "d"), func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	})
	in := Input{
		Node: testNode, Pods: []*corev1.Pod{daemon}, Attachments: all, Now: start, Deadline: start.Add(time.Hour),
		PVCs: map[string]*corev1.PersistentVolumeClaim{"ns/d-v": {Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "kept"}}},
	}
	if r := Pass(t.Context(), nil, in); r.Done || !cmp.Equal(r.Attachments, []string{"left"}) {
		t.Errorf("got %+v, want to wait for the volume of a pod that has left", r)
	}
	lost := in
	lost.Node.Unreachable = true
	if r := Pass(t.Context(), nil, lost); !r.Done || r.Expired {
		t.Errorf("got %+v, want done: nobody will detach", r)
	}
	late := in
	late.Deadline = start
	if r := Pass(t.Context(), nil, late); !r.Done || !r.Expired {
		t.Errorf("got %+v, want done: the deadline has passed", r)
	}
}

func TestPassReportsProtectedPods(t *testing.T) {
	api := scripted{asked: make(chan string, 2)}
	r := Pass(t.Context(), api, Input{
		Node: testNode, Pods: []*corev1.Pod{pod("a", annotated("berth.dev/do-not-disrupt", "true")), pod("b")},
		Now: start, Deadline: start.Add(time.Hour),
	})
	if diff := cmp.Diff([]string{"ns/a"}, r.Protected); diff != "" {
		t.Error(diff)
	}
	if len(r.Evicted) != 2 {
		t.Errorf("evicted %v", r.Evicted)
	}
}

func TestUncordonOfABrokenRecordTakesTheTaint(t *testing.T) {
	node := &corev1.Node{}
	Cordon(node, start)
	node.Annotations["berth.dev/cordoned"] = "{"
	if !Uncordon(node) || Cordoned(node) {
		t.Error("the taint, whose key is Berth's alone, is still there")
	}
	if _, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; !ok {
		t.Error("the label, which may be somebody's, is gone")
	}
}

func TestEvictorCallsOnceAndNamesTheUID(t *testing.T) {
	var calls []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		r.Body.Read(body)
		calls = append(calls, r.Method+" "+r.URL.Path+" "+string(body))
		w.Header().Set("Retry-After", "10")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":429,"reason":"TooManyRequests","details":{"causes":[{"reason":"DisruptionBudget","message":"no"}],"retryAfterSeconds":10}}`))
	}))
	defer server.Close()
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEvictor(clients.CoreV1().RESTClient())
	name := types.NamespacedName{Namespace: "ns", Name: "a"}
	one := int64(1)
	if a := interpret(e.Evict(t.Context(), name, "u1", &one)); a.kind != blocked || a.block != BlockBudget || a.detail != "no" {
		t.Errorf("eviction: %+v", a)
	}
	if err := e.Delete(t.Context(), name, "u1", 7); err == nil {
		t.Error("deletion: no error")
	}
	want := []string{
		`POST /api/v1/namespaces/ns/pods/a/eviction {"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"a","namespace":"ns"},"deleteOptions":{"gracePeriodSeconds":1,"preconditions":{"uid":"u1"}}}`,
		`DELETE /api/v1/namespaces/ns/pods/a {"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":7,"preconditions":{"uid":"u1"}}`,
	}
	for i := range calls {
		calls[i] = strings.TrimSpace(calls[i])
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	server.Close()
	if a := interpret(e.Evict(t.Context(), name, "u1", nil)); a.kind != again {
		t.Errorf("no server: %+v", a)
	}
	if a := interpret(errors.New("x")); a.kind != again {
		t.Errorf("any other error: %+v", a)
	}
}
