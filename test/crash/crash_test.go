package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

const (
	launches     = 30
	firstLaunch  = 12
	terminations = 10
	stages       = 3
	// sampled is how many runs are made without BERTH_CRASH.
	sampled = 2
)

// TestKilledAtEveryCall runs a scenario of 30 launches and 10 terminations once
// to count the calls that the provisioner makes, to AWS and to the API server.
// Then it kills the provisioner, with SIGKILL, at each of them: before the call,
// after its effect, and after its reply. All must be as it should be within a
// minute of each kill, and no invariant may break on the way.
//
// The scenario has three stages, each of which begins when all is as the one
// before should leave it: so a run can kill once in each.
//
// BERTH_CRASH=all tries all points. BERTH_CRASH=writes tries those after which the
// world differs: what a killed process has read, or not, dies with it, so that
// each write's effect leaves a state, and all other points leave the state of
// the write before. Else a few of all are drawn, another few each time.
// BERTH_CRASH_PART=2/4 makes the second quarter of the runs: parts can run side by
// side, or one after the other, each on a control plane of its own.
func TestKilledAtEveryCall(t *testing.T) {
	var undisturbed [stages]outcome
	t.Run("undisturbed", func(t *testing.T) {
		w := newWorld(t, nil)
		undisturbed = w.scenario([stages]point{})
		if n := len(w.fleets); n > 3 {
			t.Errorf("%d CreateFleet calls for %d identical nodes in two batches", n, launches)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	var points [stages][]point
	for s, o := range undisturbed {
		logCalls(t, s, o.calls)
		points[s] = everyPoint(len(o.calls))
		switch os.Getenv("BERTH_CRASH") {
		case "all":
		case "writes":
			points[s] = slices.DeleteFunc(points[s], func(p point) bool {
				return p.call > 1 && (p.moment != afterEffect || reads(o.calls[p.call-1]))
			})
		default:
			rand.Shuffle(len(points[s]), func(i, j int) { points[s][i], points[s][j] = points[s][j], points[s][i] })
			points[s] = points[s][:sampled]
		}
	}
	all := part(t, together(points))
	kills, kinds, slowest, began := 0, map[string]bool{}, time.Duration(0), time.Now()
	for i, at := range all {
		if i%25 == 0 && i > 0 {
			fmt.Printf("%d of %d runs, %d kills, %s; slowest recovery %s\n", i, len(all), kills, time.Since(began).Round(time.Second), slowest)
		}
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			for s, o := range newWorld(t, nil).scenario(at) {
				switch {
				case o.struck == "": // No point is left in this stage, or it needed fewer calls.
				case o.recovery > patience:
					t.Errorf("stage %d: %s after the kill (%s %s)", s+1, o.recovery, at[s].moment, o.struck)
				default:
					kills++
					kinds[string(at[s].moment)+" "+o.struck] = true
					slowest = max(slowest, o.recovery)
				}
			}
		})
	}
	t.Logf("%d runs, %d kills at %d kinds of points, slowest recovery %s", len(all), kills, len(kinds), slowest)
}

// logCalls tells what a stage consists of.
func logCalls(t *testing.T, stage int, calls []string) {
	t.Helper()
	kinds := map[string]int{}
	for _, c := range calls {
		kinds[c]++
	}
	t.Logf("stage %d: %d calls of %d kinds", stage+1, len(calls), len(kinds))
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		what := "writes"
		if reads(k) {
			what = "reads"
		}
		t.Logf("%s %4d x %s", what, kinds[k], k)
	}
	if len(calls) < 100 {
		t.Fatalf("%d calls only: %v", len(calls), calls)
	}
}

// point is when the process is to be killed; the zero point is never.
type point struct {
	call   int
	moment moment
}

func (p point) String() string {
	if p == (point{}) {
		return "never"
	}
	return fmt.Sprintf("%s call %d", p.moment, p.call)
}

func everyPoint(calls int) []point {
	var out []point
	for i := 1; i <= calls; i++ {
		for _, m := range []moment{before, afterEffect, afterReply} {
			out = append(out, point{i, m})
		}
	}
	return out
}

// together are runs that try all points of each stage.
func together(points [stages][]point) [][stages]point {
	var out [][stages]point
	for s, list := range points {
		for i, p := range list {
			if i == len(out) {
				out = append(out, [stages]point{})
			}
			out[i][s] = p
		}
	}
	return out
}

// part is every nth run, from the kth, where BERTH_CRASH_PART is k/n.
func part(t *testing.T, runs [][stages]point) [][stages]point {
	t.Helper()
	text := os.Getenv("BERTH_CRASH_PART")
	if text == "" {
		return runs
	}
	var k, n int
	if _, err := fmt.Sscanf(text, "%d/%d", &k, &n); err != nil || k < 1 || k > n {
		t.Fatalf("BERTH_CRASH_PART=%s: want 1/4 to 4/4, or the like", text)
	}
	var out [][stages]point
	for i := k - 1; i < len(runs); i += n {
		out = append(out, runs[i])
	}
	return out
}

// outcome of a stage: the calls that the provisioner made, the one at which it was
// killed, if it was, and how long after that all was as it should be.
type outcome struct {
	calls    []string
	struck   string
	recovery time.Duration
}

// scenario launches 30 nodes, in two batches, and gives 10 of them back. In each
// of these stages it kills the provisioner once, where it is told to.
func (w *world) scenario(kills [stages]point) (out [stages]outcome) {
	w.t.Helper()
	foreign := w.foreignInstance()
	w.create(provisioner("crash", func(p *v1alpha1.Provisioner) {
		require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large", "m6i.large")(p)
		require(v1alpha1.LabelCapacityType, "on-demand")(p)
		p.Spec.TTLSecondsAfterEmpty = new(int64(1))
		p.Spec.Limits = corev1.ResourceList{v1alpha1.LimitNodes: resource.MustParse("32"), v1alpha1.LimitHourlyCost: resource.MustParse("4"), corev1.ResourceCPU: resource.MustParse("66")}
	}))
	wanted := pods("crash", launches)
	for s, begin := range [stages]func() (nodes int){
		func() int { w.create(wanted[:firstLaunch]...); w.start(); return firstLaunch },
		func() int { w.create(wanted[firstLaunch:]...); return launches },
		func() int { w.giveBack(); return launches - terminations },
	} {
		w.arm(kills[s].call, kills[s].moment)
		nodes := begin()
		w.until(fmt.Sprintf("%d nodes are there, and no more", nodes), func() bool { return w.settled(nodes) })
		out[s].calls, out[s].struck = w.made()
		out[s].recovery = w.sinceKill()
	}
	w.report(w.look().Violations())
	for _, i := range w.state().Instances {
		if i.ID == foreign && i.State != "running" && i.State != "pending" {
			w.t.Errorf("the foreign instance is %s", i.State)
		}
	}
	return out
}

// giveBack deletes 10 pods and the claims of their nodes.
func (w *world) giveBack() {
	w.t.Helper()
	doomed := map[string]bool{}
	list := w.podList()
	slices.SortFunc(list, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	now := int64(0)
	w.each(terminations, func(i int) error {
		return plane.Client.Delete(w.ctx, &list[i], &client.DeleteOptions{GracePeriodSeconds: &now})
	})
	for _, p := range list[:terminations] {
		doomed[p.Spec.NodeName] = true
	}
	claims := w.claims()
	w.each(len(claims), func(i int) error {
		if !doomed[claims[i].Status.NodeName] {
			return nil
		}
		return plane.Client.Delete(w.ctx, &claims[i])
	})
}

// settled reports whether n nodes are there and no more: for each a claim that
// is ready, a Node, an instance with the claim's tags, and a pod on it.
func (w *world) settled(n int) bool {
	// The watch is asked first: it costs the API server nothing.
	return w.settledIn(view, n) && w.settledIn(plane.Client, n)
}

func (w *world) settledIn(cluster client.Reader, n int) bool {
	var claims v1alpha1.NodeClaimList
	var nodes corev1.NodeList
	var list corev1.PodList
	for _, err := range []error{cluster.List(w.ctx, &claims), cluster.List(w.ctx, &nodes), cluster.List(w.ctx, &list, inNamespace)} {
		if err != nil {
			return false // The next look may succeed; none that does is a timeout.
		}
	}
	if !allUp(claims.Items, n) || len(nodes.Items) != n {
		return false
	}
	byID := map[string]ec2sim.InstanceState{}
	live := 0
	for _, i := range w.state().Instances {
		if i.State != "terminated" && i.Tags[v1alpha1.TagClusterUID] == w.uid {
			byID[i.ID] = i
			live++
		}
	}
	labels := map[string]map[string]string{}
	for _, node := range nodes.Items {
		labels[node.Name] = node.Labels
	}
	pods := map[string]int{}
	for _, p := range list.Items {
		pods[p.Spec.NodeName]++
	}
	for _, c := range claims.Items {
		i := byID[c.Status.InstanceID]
		switch {
		case i.Tags[v1alpha1.TagNodeClaimUID] != string(c.UID):
			return false
		case labels[c.Status.NodeName][corev1.LabelInstanceTypeStable] != i.Type || labels[c.Status.NodeName][v1alpha1.LabelNodeClaim] != c.Name:
			return false
		case pods[c.Status.NodeName] != 1:
			return false
		}
	}
	return live == n
}

// allUp reports whether there are n claims, all initialized and to stay.
func allUp(claims []v1alpha1.NodeClaim, n int) bool {
	return len(claims) == n && !slices.ContainsFunc(claims, func(c v1alpha1.NodeClaim) bool {
		return !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) || c.DeletionTimestamp != nil
	})
}

// foreignInstance launches an instance that looks like one of ours and is of
// another cluster with the same name. Nobody may touch it.
func (w *world) foreignInstance() string {
	w.t.Helper()
	id, err := runInstance(w, map[string]string{
		v1alpha1.TagClusterPrefix + plane.ClusterName: "owned", v1alpha1.TagClusterUID: "another-cluster",
		v1alpha1.TagProvisioner: "crash", v1alpha1.TagNodeClaim: "crash-1", v1alpha1.TagNodeClaimUID: "uid-1",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// TestFiveHundredNodesAtOnce wants 500 nodes at once, and then the same with 20
// kills at random calls.
func TestFiveHundredNodesAtOnce(t *testing.T) {
	if os.Getenv("BERTH_CRASH") != "all" {
		t.Skip("takes minutes: part of make test-crash")
	}
	const nodes = 500
	for _, kills := range []int{0, 20} {
		t.Run(fmt.Sprintf("%d kills", kills), func(t *testing.T) {
			w := newWorld(t, func(c *ec2sim.Config) { c.Unthrottled = true; c.BootDelay = time.Hour })
			w.arm(0, "")
			w.create(provisioner("burst", func(p *v1alpha1.Provisioner) {
				require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large", "m6i.large")(p)
				require(v1alpha1.LabelCapacityType, "on-demand")(p)
			}))
			w.start()
			w.ready("burst")
			began := time.Now()
			w.create(pods("burst", nodes)...)
			wanted := time.Now() // All of them: from here on 500 nodes are wanted at once.
			for range kills {
				w.arm(1+rand.IntN(60), []moment{before, afterEffect, afterReply}[rand.IntN(3)])
				w.until("it is killed or done", func() bool {
					_, hit := w.made()
					return hit != "" || w.launched() >= nodes
				})
			}
			w.arm(0, "")
			w.until("all are launched", func() bool { return w.launched() >= nodes })
			calls, asked, last := 0, 0, time.Time{}
			w.mu.Lock()
			for _, f := range w.fleets {
				calls, asked, last = calls+1, asked+f.count, f.at
			}
			w.mu.Unlock()
			live := w.state().Live
			t.Logf("%d instances, %d CreateFleet calls for %d, the last %s after the last pod was created and %s after the first, %d lives", live, calls, asked, last.Sub(wanted), last.Sub(began), w.starts)
			if live != nodes || len(w.claims()) != nodes {
				t.Errorf("%d instances, %d claims", live, len(w.claims()))
			}
			if kills == 0 && calls > 20 {
				t.Errorf("%d calls", calls)
			}
			if d := last.Sub(wanted); kills == 0 && d > 5*time.Second && os.Getenv("BERTH_CRASH") == "all" {
				t.Errorf("all were requested after %s", d)
			}
		})
	}
}

// launched is how many claims have an instance.
func (w *world) launched() int {
	var list v1alpha1.NodeClaimList
	if err := view.List(w.ctx, &list); err != nil {
		return 0 // The context has ended.
	}
	n := 0
	for _, c := range list.Items {
		if c.Status.InstanceID != "" {
			n++
		}
	}
	return n
}

// ready waits until a Provisioner can be bought from.
func (w *world) ready(name string) {
	w.t.Helper()
	w.until("Provisioner "+name+" is ready", func() bool {
		c := w.condition(name, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionTrue
	})
}

// condition of a Provisioner, nil without one.
func (w *world) condition(name, kind string) *metav1.Condition {
	pr := &v1alpha1.Provisioner{}
	if err := plane.Client.Get(w.ctx, client.ObjectKey{Name: name}, pr); err != nil {
		return nil
	}
	return meta.FindStatusCondition(pr.Status.Conditions, kind)
}
