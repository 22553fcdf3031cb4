package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// tokenEC2 is EC2 as far as launching goes: it honours tokens.
type tokenEC2 struct {
	mu sync.Mutex
	// first is how many instances the first call gets at most; 0 is all.
	first   int
	calls   int
	answers map[string]ec2.Launched
	live    map[string]string // Token by instance id.
	ended   map[string]bool
}

func newTokenEC2(first int) *tokenEC2 {
	return &tokenEC2{first: first, answers: map[string]ec2.Launched{}, live: map[string]string{}, ended: map[string]bool{}}
}

func (e *tokenEC2) launch(claim *v1alpha1.NodeClaim) (ec2.Launched, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := claim.Status.Launch
	if len(in.Overrides) == 0 || in.Token == "" {
		return ec2.Launched{}, errors.New("nothing is recorded")
	}
	got, ok := e.answers[in.Token]
	if !ok {
		size := max(1, len(in.Members))
		n := size
		if e.calls++; e.calls == 1 && e.first > 0 {
			n = min(n, e.first)
		}
		for range n {
			id := fmt.Sprintf("i-%03d", len(e.live))
			e.live[id] = in.Token
			got.Instances = append(got.Instances, ec2.Instance{ID: id, Type: "m5.large", Zone: "a", PrivateDNSName: "node-" + id, Launch: in.Token})
		}
		if n < size {
			got.Short = &ec2.CapacityError{Fault: ec2.Fault{Action: "CreateFleet", Code: "InsufficientInstanceCapacity"}}
		}
		e.answers[in.Token] = got
	}
	got.Instances = slices.Clone(got.Instances)
	return got, nil
}

// process is one life of a provisioner's launching: it reaches the outside
// through a killer only.
type process struct {
	cloud // Nil: what is not implemented here is not called.
	ec2   *tokenEC2
	kill  *killer
	loops *Loops
}

func (p *process) PrepareLaunch(context.Context, *v1alpha1.NodeClaim, int) (*v1alpha1.LaunchIntent, error) {
	err := p.kill.do(func() error { return nil })
	return &v1alpha1.LaunchIntent{CapacityType: "on-demand", LaunchTemplateID: "lt",
		Overrides: []v1alpha1.LaunchOverride{{InstanceType: "m5.large", Zone: "a", SubnetID: "s"}}}, err
}

func (p *process) Room(want int) int { return want }

func (p *process) Launch(_ context.Context, claim *v1alpha1.NodeClaim) (ec2.Launched, error) {
	var got ec2.Launched
	err := p.kill.do(func() (err error) { got, err = p.ec2.launch(claim); return err })
	return got, err
}

func (p *process) Find(_ context.Context, token string) ([]ec2.Instance, error) {
	var out []ec2.Instance
	err := p.kill.do(func() error {
		p.ec2.mu.Lock()
		defer p.ec2.mu.Unlock()
		for id, t := range p.ec2.live {
			if t == token && !p.ec2.ended[id] {
				out = append(out, ec2.Instance{ID: id, Type: "m5.large", Zone: "a", PrivateDNSName: "node-" + id, Launch: t})
			}
		}
		slices.SortFunc(out, func(a, b ec2.Instance) int { return strings.Compare(a.ID, b.ID) })
		return nil
	})
	return out, err
}

func (p *process) Tag(context.Context, string, *v1alpha1.NodeClaim) error {
	return p.kill.do(func() error { return nil })
}

func (p *process) Instance(_ context.Context, id string) (ec2.Instance, error) {
	err := p.kill.do(func() error { return nil })
	return ec2.Instance{ID: id, PrivateDNSName: "node-" + id}, err
}

func (p *process) Terminate(_ context.Context, id string) error {
	return p.kill.do(func() error {
		p.ec2.mu.Lock()
		defer p.ec2.mu.Unlock()
		p.ec2.ended[id] = true
		return nil
	})
}

// killer ends a process at its nth call to the outside.
type killer struct {
	mu    sync.Mutex
	n, at int
	phase phase
	dead  bool
}

type phase string

const (
	beforeCall  phase = "before"
	afterEffect phase = "after the effect of"
)

var errDead = errors.New("the process is dead")

func (k *killer) do(call func() error) error {
	k.mu.Lock()
	if k.dead {
		k.mu.Unlock()
		return errDead
	}
	k.n++
	hit := k.n == k.at
	k.dead = hit && k.phase == beforeCall
	k.mu.Unlock()
	if hit && k.phase == beforeCall {
		return errDead
	}
	err := call()
	if hit {
		k.mu.Lock()
		k.dead = true
		k.mu.Unlock()
		return errDead
	}
	return err
}

func (k *killer) isDead() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead
}

func (k *killer) calls() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n
}

// through is a client whose calls pass the killer.
func (k *killer) through(base client.WithWatch) client.WithWatch {
	return interceptor.NewClient(base, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return k.do(func() error { return c.Create(ctx, o, opts...) })
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return k.do(func() error { return c.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			return k.do(func() error { return c.List(ctx, list, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return k.do(func() error { return c.Patch(ctx, o, patch, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return k.do(func() error { return c.Delete(ctx, o, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return k.do(func() error { return c.SubResource(sub).Patch(ctx, o, patch, opts...) })
		},
	})
}

// world is what outlives a process.
type world struct {
	t   *testing.T
	api client.WithWatch
	ec2 *tokenEC2
}

func newWorld(t *testing.T, first int, claims ...*v1alpha1.NodeClaim) *world {
	t.Helper()
	b := fake.NewClientBuilder().WithScheme(testScheme(t)).WithStatusSubresource(&v1alpha1.NodeClaim{})
	for _, c := range claims {
		b = b.WithObjects(c)
	}
	return &world{t, b.Build(), newTokenEC2(first)}
}

// wanted are n identical claims.
func wanted(group string, n int) []*v1alpha1.NodeClaim {
	var out []*v1alpha1.NodeClaim
	for i := range n {
		name := fmt.Sprintf("%s-%02d", group, i)
		out = append(out, &v1alpha1.NodeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}, Finalizers: []string{v1alpha1.Finalizer}},
			Spec: v1alpha1.NodeClaimSpec{
				Provisioner: v1alpha1.ProvisionerRef{Name: group},
				Offerings:   []v1alpha1.ClaimOffering{{InstanceType: "m5.large", Zone: "a", CapacityType: "on-demand", HourlyPrice: "0.1"}},
			},
		})
	}
	return out
}

func (w *world) start(kill *killer) *process {
	p := &process{ec2: w.ec2, kill: kill}
	c := kill.through(w.api)
	informer := func(o runtime.Object) toolscache.SharedIndexInformer {
		return toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, o, 0, toolscache.Indexers{})
	}
	p.loops = &Loops{
		cfg: Config{Client: c, APIReader: c, Cloud: p, ClusterUID: "cluster", Recorder: events.NewFakeRecorder(10_000)},
		log: logr.Discard(), stores: &stores{claims: informer(&v1alpha1.NodeClaim{})},
		book: newBook(), catalogue: newCatalogue("us-west-2"), wake: make(chan struct{}, 1), idle: make(chan struct{}, 1),
	}
	var err error
	if p.loops.metrics, err = newMetrics(prometheus.NewRegistry(), p.loops); err != nil {
		w.t.Fatal(err)
	}
	p.loops.nominator = newNominator(p.loops)
	p.loops.lifter = newLifter(p.loops, p)
	p.loops.lifter.patience, p.loops.lifter.doubtPatience = 100*time.Millisecond, 100*time.Millisecond // This EC2 shows all at once.
	return p
}

// run creates claims and reconciles all that there are until each has its
// instance or is gone, or the process is dead.
func (w *world) run(ctx context.Context, p *process, create ...*v1alpha1.NodeClaim) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = p.loops.lifter.run(ctx) })
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.loops.lifter.pokes: // All claims are looked at all the time.
			}
		}
	})
	created := make(chan struct{})
	wg.Go(func() {
		defer close(created)
		for i, err := range p.loops.lifter.create(ctx, create, func(int) {}) {
			if err != nil && !p.kill.isDead() {
				w.t.Errorf("claim %s: %v", create[i].Name, err)
			}
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !p.kill.isDead() && ctx.Err() == nil {
		complete := false
		select {
		case <-created:
			complete = true
		default:
		}
		claims := w.claims()
		store := p.loops.stores.claims.GetStore()
		var cached []any
		for i := range claims {
			cached = append(cached, &claims[i])
		}
		if err := store.Replace(cached, ""); err != nil {
			w.t.Error(err)
		}
		left := 0
		for i := range claims {
			c := p.loops.written.newer(claims[i].DeepCopy())
			if c.Status.InstanceID == "" || c.DeletionTimestamp != nil {
				left++
				w.reconcile(ctx, p, c)
			}
		}
		if left == 0 && complete {
			return
		}
		<-tick.C
	}
}

// reconcile is the part of the lifecycle that launching has.
func (w *world) reconcile(ctx context.Context, p *process, c *v1alpha1.NodeClaim) {
	if c.DeletionTimestamp == nil {
		_, _, _ = p.loops.lifter.place(ctx, c) // What fails is done again.
		return
	}
	if c.Status.InstanceID == "" {
		if _, settled, err := p.loops.lifter.settle(ctx, c); !settled || err != nil {
			return
		}
	}
	if c.Status.InstanceID != "" {
		w.ec2.mu.Lock()
		w.ec2.ended[c.Status.InstanceID] = true
		w.ec2.mu.Unlock()
	}
	if p.loops.lifter.needed(c) {
		return
	}
	before := c.DeepCopy()
	controllerutil.RemoveFinalizer(c, v1alpha1.Finalizer)
	_ = p.loops.cfg.Client.Patch(ctx, c, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

func (w *world) claims() []v1alpha1.NodeClaim {
	var list v1alpha1.NodeClaimList
	if err := w.api.List(context.Background(), &list); err != nil {
		w.t.Error(err)
	}
	return list.Items
}

// check holds the end to the guarantee: one instance for each claim, and none
// beside them.
func (w *world) check(t *testing.T, claims int) {
	t.Helper()
	owner := map[string]string{}
	list := w.claims()
	for _, c := range list {
		id := c.Status.InstanceID
		if id == "" {
			t.Errorf("claim %s has no instance: %+v", c.Name, c.Status.Launch)
		}
		if other, taken := owner[id]; taken {
			t.Errorf("claims %s and %s both have instance %s", c.Name, other, id)
		}
		owner[id] = c.Name
	}
	if len(list) != claims {
		t.Errorf("%d claims, want %d", len(list), claims)
	}
	w.ec2.mu.Lock()
	defer w.ec2.mu.Unlock()
	for id := range w.ec2.live {
		if owner[id] == "" && !w.ec2.ended[id] {
			t.Errorf("instance %s is nobody's", id)
		}
	}
}

// burst are claims of three kinds, of which the first call gets a part only.
func burst() []*v1alpha1.NodeClaim {
	return slices.Concat(wanted("big", 5), wanted("mid", 2), wanted("lone", 1))
}

const (
	firstCall = 2
	burstSize = 8
)

func TestIdenticalClaimsShareACall(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	many := func() []*v1alpha1.NodeClaim { return slices.Concat(wanted("big", 250), wanted("lone", 1)) }
	for name, tc := range map[string]struct{ there, created []*v1alpha1.NodeClaim }{
		"found":   {there: many()},
		"created": {created: many()},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 0, tc.there...)
			kill := &killer{}
			w.run(ctx, w.start(kill), tc.created...)
			w.check(t, 251)
			if w.ec2.calls != 4 { // 100, 100, 50 and 1.
				t.Errorf("%d calls", w.ec2.calls)
			}
			// For each claim one to create it or to have it join, one for the
			// instance, one for its tags; a few for each batch.
			if n := kill.calls(); n > 3*251+5*4 {
				t.Errorf("%d calls to the outside", n)
			}
		})
	}
}

// TestKilledAtEveryCall ends the process at each of its calls to the outside,
// before the call and after its effect, and lets another finish. (After its
// reply is before the next call.) Meanwhile leads and members may be deleted.
func TestKilledAtEveryCall(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var points sync.WaitGroup
	defer points.Wait()
	gate := make(chan struct{}, 32) // They wait more than they work.
	for _, created := range []bool{false, true} {
		begin := func(t *testing.T, kill *killer) *world {
			t.Helper()
			if created {
				w := newWorld(t, firstCall)
				w.run(ctx, w.start(kill), burst()...)
				return w
			}
			w := newWorld(t, firstCall, burst()...)
			w.run(ctx, w.start(kill))
			return w
		}
		count := &killer{}
		begin(t, count).check(t, burstSize)
		calls := count.calls()
		if calls < 30 {
			t.Fatalf("%d calls only", calls)
		}
		try := func(t *testing.T, kill *killer, deleted []string) {
			t.Helper()
			w := begin(t, kill)
			left := map[string]bool{}
			for _, c := range w.claims() {
				left[c.Name] = true
			}
			for _, name := range deleted {
				_ = w.api.Delete(ctx, &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}})
				delete(left, name)
			}
			w.run(ctx, w.start(&killer{}))
			w.check(t, len(left))
		}
		for _, deleted := range [][]string{nil, {"big-00", "big-02", "mid-01"}} {
			for _, ph := range []phase{beforeCall, afterEffect} {
				for at := 1; at <= calls; at++ {
					gate <- struct{}{}
					points.Go(func() {
						defer func() { <-gate }()
						t.Run(fmt.Sprintf("%s call %d, %d deleted, created %t", ph, at, len(deleted), created), func(t *testing.T) {
							try(t, &killer{at: at, phase: ph}, deleted)
						})
					})
				}
			}
		}
	}
}

// TestMissedWhileBusy: a claim that the reconciler comes to while its launch is
// being carried out comes back when that is over, whatever it ends with.
func TestMissedWhileBusy(t *testing.T) {
	c := wanted("a", 1)[0]
	p := newWorld(t, 0, c).start(&killer{})
	l := p.loops.lifter
	if !l.begin(c.Name) {
		t.Fatal("it is busy already")
	}
	if _, _, err := l.place(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.pokes:
		t.Fatal("it comes back while it is busy")
	case <-time.After(50 * time.Millisecond):
	}
	l.end(t.Context(), c)
	select {
	case e := <-l.pokes:
		if e.Object.GetName() != c.Name {
			t.Errorf("%s comes back", e.Object.GetName())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not come back")
	}
}

// TestTwoLeaders lets two processes launch the same claims at the same time: a
// leader that does not know yet that it is none.
func TestTwoLeaders(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			w := newWorld(t, firstCall, burst()...)
			var wg sync.WaitGroup
			for range 2 {
				p := w.start(&killer{})
				wg.Go(func() { w.run(ctx, p) })
			}
			wg.Wait()
			w.check(t, burstSize)
		})
	}
}
