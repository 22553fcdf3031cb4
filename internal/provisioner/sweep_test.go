package provisioner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// estate is what EC2 lists of this cluster, and what was ended of it.
type estate struct {
	mu    sync.Mutex
	list  map[string]ec2.Instance
	err   error
	ended []string
	// inUse and age are what launch templates were last to be spared for.
	inUse map[string]bool
	age   time.Duration
}

func newEstate(list ...ec2.Instance) *estate {
	e := &estate{list: map[string]ec2.Instance{}}
	for _, i := range list {
		e.list[i.ID] = i
	}
	return e
}

func (e *estate) Instances(context.Context) ([]ec2.Instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.list)), e.err
}

func (e *estate) Instance(_ context.Context, id string) (ec2.Instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, ok := e.list[id]
	if !ok {
		return i, ec2.ErrNotFound
	}
	return i, nil
}

func (e *estate) Terminate(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = append(e.ended, id)
	delete(e.list, id)
	return nil
}

func (e *estate) DeleteUnusedTemplates(_ context.Context, inUse map[string]bool, age time.Duration) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inUse, e.age = inUse, age
	return 0, nil
}

// fail makes listings fail, or with nil succeed again.
func (e *estate) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

// over are the instances that were ended, sorted.
func (e *estate) over() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(slices.Values(e.ended))
}

// aged is an instance of ours that was launched some time ago.
func aged(id string, ago time.Duration) ec2.Instance {
	return ec2.Instance{ID: id, State: ec2.StateRunning, LaunchedAt: time.Now().Add(-ago), ClaimUID: "uid-" + id}
}

// look reads EC2 and sweeps, as the loop does.
func look(t *testing.T, f *fleet) {
	t.Helper()
	if err := f.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestOrphansAreEndedOnTheSecondLook: and what may belong to somebody never.
func TestOrphansAreEndedOnTheSecondLook(t *testing.T) {
	recorded := &v1alpha1.NodeClaim{Status: v1alpha1.NodeClaimStatus{Launch: &v1alpha1.LaunchIntent{Attempt: 1, Token: "open"}}}
	planned := &v1alpha1.NodeClaim{Spec: v1alpha1.NodeClaimSpec{LaunchWith: &v1alpha1.LaunchMembership{Token: "open"}}}
	served := recorded.DeepCopy()
	served.Status.InstanceID = "i-b"
	ending, open := aged("i-x", time.Hour), aged("i-x", time.Hour)
	ending.State, open.Launch = ec2.StateShuttingDown, "open"
	for name, tc := range map[string]struct {
		inst  ec2.Instance
		claim *v1alpha1.NodeClaim
		want  []string
	}{
		"old, and nobody's":                  {inst: aged("i-x", orphanAge+time.Second), want: []string{"i-x"}},
		"young":                              {inst: aged("i-x", orphanAge-time.Minute)},
		"of a claim":                         {inst: aged("i-b", time.Hour), claim: served},
		"of a launch that a claim waits for": {inst: open, claim: recorded},
		"of a launch that a claim was created for":     {inst: open, claim: planned},
		"of a launch whose claim has another instance": {inst: open, claim: served, want: []string{"i-x"}},
		"ending by itself":                             {inst: ending},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
			if tc.claim != nil {
				c := tc.claim.DeepCopy()
				c.Name = "b"
				y.create(c)
				c.Status = tc.claim.Status
				if err := y.api.Status().Update(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			e := newEstate(tc.inst, aged("i-a", time.Hour), aged("i-b", time.Hour))
			if tc.claim != served {
				delete(e.list, "i-b")
			}
			f := newFleet(y.Loops, e)
			look(t, f)
			if over := e.over(); len(over) != 0 {
				t.Errorf("%v ended at first sight", over)
			}
			look(t, f)
			look(t, f)
			if diff := cmp.Diff(tc.want, e.over()); diff != "" {
				t.Errorf("ended (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnOrphanThatIsAdoptedStays: between two looks its claim's status was written.
func TestAnOrphanThatIsAdoptedStays(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
	e := newEstate(aged("i-a", time.Hour), aged("i-x", time.Hour))
	f := newFleet(y.Loops, e)
	look(t, f)
	adopter := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	y.create(adopter)
	adopter.Status.InstanceID = "i-x"
	if err := y.api.Status().Update(t.Context(), adopter); err != nil {
		t.Fatal(err)
	}
	look(t, f)
	look(t, f)
	if over := e.over(); len(over) != 0 {
		t.Errorf("%v ended", over)
	}
}

// TestOrphansAreEndedAFewAtATime: a tenth of all that there are, or three.
func TestOrphansAreEndedAFewAtATime(t *testing.T) {
	for orphans, want := range map[int]int{2: 2, 10: 3, 30: 3, 60: 6} {
		t.Run(fmt.Sprint(orphans), func(t *testing.T) {
			y := newYard(t, 0, v1alpha1.ProvisionerSpec{})
			var list []ec2.Instance
			for n := range orphans {
				list = append(list, aged(fmt.Sprint("i-", n), time.Hour))
			}
			e := newEstate(list...)
			f := newFleet(y.Loops, e)
			look(t, f)
			look(t, f)
			if n := len(e.over()); n != want {
				t.Errorf("%d of %d ended at once, want %d", n, orphans, want)
			}
		})
	}
}

// TestNothingIsCollectedWhileListingsFail: neither EC2's nor the API server's.
func TestNothingIsCollectedWhileListingsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 0, v1alpha1.ProvisionerSpec{})
		e := newEstate(aged("i-x", time.Hour))
		f := newFleet(y.Loops, e)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		time.Sleep(time.Second) // The first look suspects it.
		e.fail(errors.New("no answer"))
		time.Sleep(10 * sweepEvery)
		if over := e.over(); len(over) != 0 {
			t.Errorf("%v ended while EC2 could not be read", over)
		}
		e.fail(nil)
		time.Sleep(sweepEvery)
		if diff := cmp.Diff([]string{"i-x"}, e.over()); diff != "" {
			t.Errorf("when EC2 can be read again (-want +got):\n%s", diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	y := newYard(t, 0, v1alpha1.ProvisionerSpec{})
	e := newEstate(aged("i-x", time.Hour))
	f := newFleet(y.Loops, e)
	look(t, f)
	under, ok := y.api.(client.WithWatch)
	if !ok {
		t.Fatal("the fake client does not watch")
	}
	f.cfg.APIReader = interceptor.NewClient(under, interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("no answer")
		}})
	if err := f.sweep(t.Context()); err == nil || len(e.over()) != 0 {
		t.Errorf("error %v, ended %v", err, e.over())
	}
}

// TestInstancesOfAnotherClusterAreNotSeen: it may have our name.
func TestInstancesOfAnotherClusterAreNotSeen(t *testing.T) {
	a := newAccount(t)
	theirs, err := ec2.New(t.Context(), ec2.Config{
		ClusterName: "prod", ClusterUID: "another", ClusterEndpoint: "https://127.0.0.1:6443", ClusterCA: "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=",
		KubernetesVersion: "1.37", ServiceCIDR: "10.96.0.0/12", DefaultInstanceProfile: "berth-node",
	})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for name, cloud := range map[string]*ec2.Cloud{"ours": a.Cloud, "theirs": theirs} {
		claim := wanted(name, 1)[0]
		claim.Spec.Offerings[0].Zone = "us-west-2a"
		if claim.Status.Launch, err = cloud.PrepareLaunch(t.Context(), claim, 1); err != nil {
			t.Fatal(err)
		}
		got, err := cloud.Launch(t.Context(), claim)
		if err != nil || len(got.Instances) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		ids[name] = got.Instances[0].ID
	}
	f := newFleet(newYard(t, 0, v1alpha1.ProvisionerSpec{}).Loops, a.Cloud)
	look(t, f)
	if diff := cmp.Diff([]string{ids["ours"]}, slices.Collect(maps.Keys(f.snapshot()))); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	if err := a.Terminate(t.Context(), ids["theirs"]); !errors.Is(err, ec2.ErrForeign) {
		t.Errorf("terminating one of theirs: %v", err)
	}
}

// TestTemplatesOfLaunchesAreSpared: those of each line too, and of claims that
// have their instance.
func TestTemplatesOfLaunchesAreSpared(t *testing.T) {
	y := newYard(t, 0, v1alpha1.ProvisionerSpec{})
	e := newEstate()
	for name, l := range map[string]*v1alpha1.LaunchIntent{
		"launching": {LaunchTemplateID: "lt-1", Overrides: []v1alpha1.LaunchOverride{{}, {LaunchTemplateID: "lt-2"}}},
		"launched":  {LaunchTemplateID: "lt-3"},
		"new":       nil,
	} {
		c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		y.create(c)
		c.Status.Launch = l
		if err := y.api.Status().Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	f := newFleet(y.Loops, e)
	look(t, f)
	for _, id := range []string{"lt-1", "lt-2", "lt-3"} {
		if !e.inUse[id] {
			t.Errorf("template %s is not in use", id)
		}
	}
	if e.age != templatesEvery {
		t.Errorf("templates may be deleted when they are %s old", e.age)
	}
	e.inUse = nil
	look(t, f)
	if e.inUse != nil {
		t.Error("templates are looked at in every sweep")
	}
}
