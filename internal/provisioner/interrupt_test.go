package provisioner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

// box is a queue: what is received and not removed stays.
type box struct {
	mu     sync.Mutex
	list   []ec2.Message
	broken bool
}

func (b *box) Receive(context.Context) ([]ec2.Message, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]ec2.Message(nil), b.list...), nil
}

func (b *box) Delete(_ context.Context, list []ec2.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken {
		return errors.New("the queue is broken")
	}
	for _, m := range list {
		for i := range b.list {
			if b.list[i].ID == m.ID {
				b.list = append(b.list[:i], b.list[i+1:]...)
				break
			}
		}
	}
	return nil
}

// hospital is EC2's word on single instances.
type hospital map[string]string

func (h hospital) Instances(context.Context) ([]ec2.Instance, error) { return nil, nil }
func (h hospital) Instance(_ context.Context, id string) (ec2.Instance, error) {
	state, ok := h[id]
	if !ok {
		return ec2.Instance{}, ec2.ErrNotFound
	}
	return ec2.Instance{ID: id, State: state}, nil
}
func (h hospital) Terminate(context.Context, string) error { return nil }
func (h hospital) DeleteUnusedTemplates(context.Context, map[string]bool, time.Duration) (int, error) {
	return 0, nil
}
func (h hospital) Troubles(context.Context) ([]ec2.Trouble, error) { return nil, nil }

const ourInstance = "i-0aaaaaaaaaaaaaaaa"

// scene is one claim with its node, on a client that keeps what is written.
type scene struct {
	t      *testing.T
	client client.Client
	queue  *box
	*interruption
}

func newScene(t *testing.T, cloud hospital, hooks interceptor.Funcs) *scene {
	t.Helper()
	scheme := testScheme(t)
	claim := &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "uid-a", Finalizers: []string{v1alpha1.Finalizer}},
		Spec:       v1alpha1.NodeClaimSpec{Provisioner: v1alpha1.ProvisionerRef{Name: "pool"}},
		Status: v1alpha1.NodeClaimStatus{InstanceID: ourInstance, ProviderID: "aws:///us-west-2a/" + ourInstance, NodeName: "node-a",
			InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: v1alpha1.CapacityTypeSpot},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "uid-node-a"}, Spec: corev1.NodeSpec{ProviderID: claim.Status.ProviderID}}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim, node).WithStatusSubresource(claim).WithInterceptorFuncs(hooks).Build()

	inf := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, &v1alpha1.NodeClaim{}, 0, toolscache.Indexers{instanceIndex: indexInstance})
	if err := inf.GetIndexer().Add(claim.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	p := &Loops{cfg: Config{Client: c, APIReader: c, Recorder: events.NewFakeRecorder(100)}, log: logr.Discard(),
		stores: &stores{claims: inf, nodes: informerOf[*corev1.Node](t, nil)}, book: newBook(), catalogue: newCatalogue("us-west-2")}
	var err error
	if p.metrics, err = newMetrics(prometheus.NewRegistry(), p); err != nil {
		t.Fatal(err)
	}
	p.fleet = newFleet(p, cloud)
	q := &box{}
	return &scene{t, c, q, newInterruption(p, q, cloud, newCheckup(p, cloud))}
}

// get sends a message and has it handled.
func (s *scene) get(id, body string) {
	s.t.Helper()
	s.queue.list = append(s.queue.list, ec2.Message{ID: id, Body: []byte(body), ReceivedAt: time.Now()})
	s.again()
}

// again handles what is in the queue.
func (s *scene) again() {
	s.t.Helper()
	list, _ := s.queue.Receive(s.t.Context())
	s.handle(s.t.Context(), list)
}

func (s *scene) claim() *v1alpha1.NodeClaim {
	s.t.Helper()
	c := &v1alpha1.NodeClaim{}
	if err := s.client.Get(s.t.Context(), client.ObjectKey{Name: "a"}, c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *scene) tainted() bool {
	s.t.Helper()
	n := &corev1.Node{}
	if err := s.client.Get(s.t.Context(), client.ObjectKey{Name: "node-a"}, n); err != nil {
		s.t.Fatal(err)
	}
	return drain.Cordoned(n)
}

func notification(kind, detail string, at time.Time) string {
	return fmt.Sprintf(`{"version":"0","id":"1","detail-type":%q,"source":"aws.ec2","time":%q,"resources":[],"detail":%s}`, kind, at.UTC().Format(time.RFC3339), detail)
}

func spot(instance string, at time.Time) string {
	return notification("EC2 Spot Instance Interruption Warning", `{"instance-id":"`+instance+`","instance-action":"terminate"}`, at)
}

// within reports whether a recorded deadline is the wanted one, in seconds.
func within(t *testing.T, c *v1alpha1.NodeClaim, want time.Time) {
	t.Helper()
	if c.Status.DrainDeadline == nil {
		t.Fatal("no deadline is recorded")
	}
	if d := c.Status.DrainDeadline.Sub(want); d < -2*time.Second || d > 2*time.Second {
		t.Errorf("deadline %s, want %s", c.Status.DrainDeadline, want)
	}
}

func TestSpotNotice(t *testing.T) {
	now := time.Now()
	s := newScene(t, hospital{}, interceptor.Funcs{})
	s.get("1", spot(ourInstance, now))
	c := s.claim()
	if c.DeletionTimestamp == nil || c.Annotations[v1alpha1.AnnotationDisruptionReason] != string(v1alpha1.ReasonInterrupted) {
		t.Errorf("the claim is not being removed as interrupted: %v", c.Annotations)
	}
	within(t, c, now.Add(105*time.Second))
	if !s.tainted() {
		t.Error("the node is not tainted")
	}
	if len(s.queue.list) != 0 {
		t.Error("the message is still in the queue")
	}
	left := s.catalogue.open("pool", []v1alpha1.ClaimOffering{{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: v1alpha1.CapacityTypeSpot}}, time.Now())
	if len(left) != 0 {
		t.Error("its offering is bought again at once")
	}
}

func TestDeadlineOnlyMovesEarlier(t *testing.T) {
	now := time.Now()
	s := newScene(t, hospital{}, interceptor.Funcs{})
	s.get("1", spot(ourInstance, now))
	s.get("2", spot(ourInstance, now.Add(30*time.Second))) // Twice, and later.
	within(t, s.claim(), now.Add(105*time.Second))
	s.get("3", spot(ourInstance, now.Add(-60*time.Second))) // The first one, out of order.
	within(t, s.claim(), now.Add(45*time.Second))
	began := time.Now()
	s.get("4", spot(ourInstance, now.Add(-600*time.Second))) // Long past: pods get a moment.
	least, most := began.Add(leastNotice-time.Second), time.Now().Add(leastNotice+time.Second)
	if d := s.claim().Status.DrainDeadline; d == nil || d.Time.Before(least) || d.After(most) {
		t.Errorf("deadline %s, want %s to %s", d, least, most)
	}
}

func TestNoticeForANodeThatDrainsAlready(t *testing.T) {
	s := newScene(t, hospital{}, interceptor.Funcs{})
	c := s.claim()
	c.Status.DrainDeadline = &metav1.Time{Time: time.Now().Add(time.Hour)}
	if err := s.client.Status().Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.get("1", spot(ourInstance, now))
	within(t, s.claim(), now.Add(105*time.Second))
}

func TestForeignAndIdleMessagesAreRemoved(t *testing.T) {
	s := newScene(t, hospital{}, interceptor.Funcs{})
	s.get("1", spot("i-0bbbbbbbbbbbbbbbb", time.Now()))
	s.get("2", `{"detail-type":"Object Created","source":"aws.s3","time":"2026-01-01T00:00:00Z","detail":{}}`)
	if len(s.queue.list) != 0 || s.claim().DeletionTimestamp != nil || s.tainted() {
		t.Errorf("%d messages are left, or a node of ours was touched", len(s.queue.list))
	}
}

func TestPoisonIsRemovedAndCountedOnce(t *testing.T) {
	s := newScene(t, hospital{}, interceptor.Funcs{})
	s.queue.broken = true
	s.get("1", `{"detail-type":"EC2 Spot`)
	s.again()
	s.queue.broken = false
	s.again()
	if n := testutil.ToFloat64(s.metrics.poison); n != 1 || len(s.queue.list) != 0 {
		t.Errorf("counted %v times, %d left", n, len(s.queue.list))
	}
}

func TestWhatFailsComesAgain(t *testing.T) {
	broken := true
	s := newScene(t, hospital{}, interceptor.Funcs{
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if broken {
				return errors.New("the API server is away")
			}
			return c.Delete(ctx, o, opts...)
		}})
	now := time.Now()
	s.get("1", spot(ourInstance, now))
	if len(s.queue.list) != 1 {
		t.Fatal("a message that was not acted on is gone")
	}
	broken = false
	s.again()
	if len(s.queue.list) != 0 || s.claim().DeletionTimestamp == nil || !s.tainted() {
		t.Error("the second time did not finish it")
	}
	within(t, s.claim(), now.Add(105*time.Second))
}

func TestStateChangesAreVerified(t *testing.T) {
	state := func(s string) string {
		return notification("EC2 Instance State-change Notification", `{"instance-id":"`+ourInstance+`","state":"`+s+`"}`, time.Now())
	}
	for name, tc := range map[string]struct {
		cloud hospital
		event string
		gone  bool
	}{
		"an instance that shuts down":                   {hospital{ourInstance: "shutting-down"}, "shutting-down", true},
		"one that was stopped by hand":                  {hospital{ourInstance: "stopped"}, "stopping", true},
		"an event that is old: it runs":                 {hospital{ourInstance: "running"}, "stopping", false},
		"not found is not gone: the fleet looks, apart": {hospital{}, "terminated", false},
		"one that starts":                               {hospital{ourInstance: "running"}, "running", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, tc.cloud, interceptor.Funcs{})
			s.get("1", state(tc.event))
			if gone := s.claim().DeletionTimestamp != nil; gone != tc.gone || s.tainted() != tc.gone {
				t.Errorf("removed %t, want %t", gone, tc.gone)
			}
			if len(s.queue.list) != 0 {
				t.Error("the message is still there")
			}
		})
	}
}

func TestCapacityBlockEnd(t *testing.T) {
	s := newScene(t, hospital{}, interceptor.Funcs{})
	end := time.Now().Add(40 * time.Minute)
	s.get("1", notification("EC2 Capacity Reservation Instance Interruption Warning",
		`{"instance-id":"`+ourInstance+`","instance-action":"terminate","instance-termination-time":"`+end.UTC().Format(time.RFC3339)+`"}`, time.Now()))
	within(t, s.claim(), end.Add(-noticeMargin))
}

// TestCapacityBlockEndWithoutNotice: the second source says the same, also while
// other nodes of the pool are leaving.
func TestCapacityBlockEndWithoutNotice(t *testing.T) {
	end := time.Now().Add(9 * time.Minute)
	s := newScene(t, hospital{}, interceptor.Funcs{})
	s.health.troubles = map[string]ec2.Trouble{ourInstance: {InstanceID: ourInstance, Events: []ec2.PlannedEvent{{Code: ec2.CodeBlockEnd, NotBefore: end}}}}
	s.health.begun["uid-b"] = true
	d, ok := s.health.announced(s.claim(), time.Now())
	if !ok || d.event != "CapacityBlockEnds" || !d.deadline.Equal(end.Add(-noticeMargin)) {
		t.Errorf("%+v, %t", d, ok)
	}
}

func TestPlannedEvents(t *testing.T) {
	start := time.Now().Add(3 * 24 * time.Hour)
	s := newScene(t, hospital{}, interceptor.Funcs{})
	h := s.health
	h.troubles = map[string]ec2.Trouble{ourInstance: {InstanceID: ourInstance, Events: []ec2.PlannedEvent{{Code: "instance-retirement", NotBefore: start}}}}
	d, ok := h.announced(s.claim(), time.Now())
	if !ok || d.event != "ScheduledChange" || !d.deadline.Equal(start.Add(-noticeMargin)) {
		t.Errorf("%+v, %t", d, ok)
	}
	// While another node of the pool is leaving, what is days ahead waits.
	other := s.claim()
	other.Name, other.UID, other.Status.InstanceID = "b", "uid-b", "i-0bbbbbbbbbbbbbbbb"
	if err := s.stores.claims.GetIndexer().Add(other); err != nil {
		t.Fatal(err)
	}
	h.begun["uid-b"] = true
	if _, ok := h.announced(s.claim(), time.Now()); ok {
		t.Error("two nodes of two leave at the same time")
	}
	h.troubles[ourInstance].Events[0].NotBefore = time.Now().Add(30 * time.Minute)
	if _, ok := h.announced(s.claim(), time.Now()); !ok {
		t.Error("what is close waits")
	}
}
