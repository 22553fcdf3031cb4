package admission

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// stand is a store on a client's objects; the test says what has changed.
type stand struct {
	client.Client
	informers *informertest.FakeInformers
	// missing counts down: so often there is no CRD.
	missing atomic.Int32
}

func (s *stand) GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error) {
	if _, ok := obj.(*v1alpha1.Provisioner); ok && s.missing.Add(-1) >= 0 {
		return nil, &meta.NoKindMatchError{}
	}
	return s.informers.GetInformer(ctx, obj, opts...)
}

func (s *stand) WaitForCacheSync(context.Context) bool { return true }

// TestFeedFollowsTheCluster runs a Feed in a bubble in which time is what the
// test waits for.
func TestFeedFollowsTheCluster(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := &stand{Client: fake.NewClientBuilder().WithScheme(scheme).Build(), informers: &informertest.FakeInformers{Scheme: scheme}}
		s.missing.Store(2)
		f, err := NewFeed(FeedConfig{Cache: s, Namespace: "berth-system", Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		synctest.Wait()
		if f.Synced() || f.Current() != nil {
			t.Fatal("something is known without the CRD")
		}
		time.Sleep(2 * crdRetry)
		synctest.Wait()
		if !f.Synced() {
			t.Fatal("the CRD has come, and nothing is known")
		}
		hint := func() string {
			in, err := ParsePod(plainPod)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := f.Current().place(&in.pod, capacity.ShapeHash(&in.pod))
			return a.hint
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		// changed tells the Feed, and lets it work.
		changed := func(obj client.Object) {
			t.Helper()
			informer, err := s.informers.FakeInformerFor(ctx, obj)
			must(err)
			informer.Add(obj)
			time.Sleep(rebuildPause)
			synctest.Wait()
		}
		if got := hint(); got != "" {
			t.Errorf("hint %q without anything", got)
		}

		p := defaultProvisioner()
		must(s.Create(ctx, p))
		o := testOfferings()
		o.At = time.Now()
		data, err := capacity.EncodeOfferings(o)
		must(err)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: v1alpha1.OfferingsConfigMap},
			BinaryData: map[string][]byte{capacity.OfferingsKey: data}}
		must(s.Create(ctx, cm))
		changed(cm)
		const small = "provisioner=default,offering=m7i.large/on-demand/us-west-2a,share=0.05181,offerings=42"
		if got := hint(); got != small {
			t.Errorf("hint %q", got)
		}

		ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent"}}
		ds.Spec.Template.Spec.Containers = []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1500m")}}}}
		must(s.Create(ctx, ds))
		changed(ds)
		if got := hint(); got == small || got == "" {
			t.Errorf("with a DaemonSet that takes most of the small type: hint %q", got)
		}
		ds.Spec.Template.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("1m")
		ds.Spec.Template.Spec.RuntimeClassName = new("boxed")
		must(s.Update(ctx, ds))
		changed(ds)
		if got := hint(); got != small {
			t.Errorf("with a small DaemonSet: hint %q", got)
		}
		boxed := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "boxed"}, Handler: "boxed",
			Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": resource.MustParse("1500m")}}}
		must(s.Create(ctx, boxed))
		changed(boxed)
		if got := hint(); got == small || got == "" {
			t.Errorf("with a DaemonSet whose class takes most of the small type: hint %q", got)
		}
		must(s.Delete(ctx, ds))
		changed(ds)

		cm.BinaryData[capacity.OfferingsKey] = []byte("garbage")
		must(s.Update(ctx, cm))
		changed(cm)
		if got := hint(); got != small {
			t.Errorf("with unreadable offerings: hint %q, want the last", got)
		}
		if !f.Current().trusted {
			t.Error("fresh offerings are not trusted")
		}
		time.Sleep(staleAfter)
		synctest.Wait()
		if f.Current().trusted {
			t.Error("offerings are trusted although they have grown old")
		}
		must(s.Delete(ctx, cm))
		changed(cm)
		if got := hint(); got != "" {
			t.Errorf("without offerings: hint %q", got)
		}
		stop()
		must(<-ended)
	})
}

func TestOnlyWhatMattersIsNews(t *testing.T) {
	limited := func(change func(*v1alpha1.Provisioner)) *v1alpha1.Provisioner {
		p := defaultProvisioner()
		p.Spec.Limits = corev1.ResourceList{"cpu": resource.MustParse("10")}
		if change != nil {
			change(p)
		}
		return p
	}
	for name, c := range map[string]struct {
		a, b *v1alpha1.Provisioner
		want bool
	}{
		"a new spec":                         {limited(nil), limited(func(p *v1alpha1.Provisioner) { p.Generation++ }), true},
		"a deletion":                         {limited(nil), limited(func(p *v1alpha1.Provisioner) { p.DeletionTimestamp = &metav1.Time{} }), true},
		"the use of limits":                  {limited(nil), limited(func(p *v1alpha1.Provisioner) { p.Status.Nodes++ }), true},
		"the use of limits in resources":     {limited(nil), limited(func(p *v1alpha1.Provisioner) { p.Status.Resources = p.Spec.Limits }), true},
		"conditions":                         {limited(nil), limited(func(p *v1alpha1.Provisioner) { p.Status.Conditions = []metav1.Condition{{}} }), false},
		"the use of limits that are not set": {defaultProvisioner(), func() *v1alpha1.Provisioner { p := defaultProvisioner(); p.Status.Nodes++; return p }(), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := provisionerMatters(c.a, c.b); got != c.want {
				t.Errorf("matters %v, want %v", got, c.want)
			}
		})
	}
	a, b := &appsv1.DaemonSet{}, &appsv1.DaemonSet{}
	b.Status.NumberReady = 5
	if specMatters(a, b) {
		t.Error("a DaemonSet's status is news")
	}
	if b.Generation = 2; !specMatters(a, b) {
		t.Error("a DaemonSet's spec is no news")
	}
}

// TestSnapshotCountsWhatIsUsed: a Provisioner at its limit, or not ready, or
// being deleted, is not hinted at.
func TestSnapshotCountsWhatIsUsed(t *testing.T) {
	in, err := ParsePod(plainPod)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.Provisioner, *capacity.Offerings)
		hinted bool
	}{
		"as it is": {func(*v1alpha1.Provisioner, *capacity.Offerings) {}, true},
		"at its limit of cpu": {func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
			p.Status.Resources = corev1.ResourceList{"cpu": resource.MustParse("9")}
		}, false},
		"at its limit of nodes": {func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
			p.Spec.Limits["nodes"] = resource.MustParse("3")
			p.Status.Nodes = 3
		}, false},
		"at its limit of cost": {func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
			p.Spec.Limits["hourlyCost"] = resource.MustParse("1")
			p.Status.HourlyCost = v1alpha1.NewPrice(0.95)
		}, false},
		"not ready": {func(_ *v1alpha1.Provisioner, o *capacity.Offerings) {
			o.Provisioners = map[string]capacity.Resolved{"default": {Why: "no subnet"}}
		}, false},
		"ready in one zone": {func(_ *v1alpha1.Provisioner, o *capacity.Offerings) {
			o.Provisioners = map[string]capacity.Resolved{"default": {Ready: true, Zones: []string{"us-west-2b"}}}
		}, true},
		"being deleted": {func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
			p.DeletionTimestamp = &metav1.Time{Time: testNow}
		}, false},
		"all exhausted": {func(_ *v1alpha1.Provisioner, o *capacity.Offerings) {
			for i := range o.Machines {
				for j := range o.Machines[i].Offerings {
					o.Machines[i].Offerings[j].UnavailableUntil = testNow.Add(time.Minute)
				}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, o := defaultProvisioner(), testOfferings()
			p.Spec.Limits = corev1.ResourceList{"cpu": resource.MustParse("10")}
			c.change(p, o)
			s := NewSnapshot(Inputs{Now: testNow, Provisioners: []*v1alpha1.Provisioner{p}, Offerings: o})
			d := DecidePod(in, s, "", 0)
			if hinted := d.Result == ResultHinted; hinted != c.hinted {
				t.Errorf("result %s: %v", d.Result, d.Warnings)
			}
		})
	}
}

// TestExhaustedOfferingsReturn: types are remembered from one Snapshot to the
// next, but not beyond the time at which an offering counts again.
func TestExhaustedOfferingsReturn(t *testing.T) {
	o := testOfferings()
	for j := range o.Machines[4].Offerings {
		o.Machines[4].Offerings[j].UnavailableUntil = testNow.Add(time.Minute)
	}
	in, err := ParsePod(plainPod)
	if err != nil {
		t.Fatal(err)
	}
	memory := typeMemory{}
	hint := func(at time.Time) string {
		s := newSnapshot(Inputs{Now: at, Provisioners: []*v1alpha1.Provisioner{defaultProvisioner()}, Offerings: o}, memory)
		a, _ := s.place(&in.pod, capacity.ShapeHash(&in.pod))
		h, err := capacity.ParseHint(a.hint)
		if err != nil {
			t.Fatal(err)
		}
		return h.InstanceType
	}
	if got := hint(testNow); got != "c7a.xlarge" {
		t.Errorf("while it is exhausted: %s", got)
	}
	if got := hint(testNow.Add(30 * time.Second)); got != "c7a.xlarge" {
		t.Errorf("half a minute later: %s", got)
	}
	if got := hint(testNow.Add(time.Minute)); got != "m7i.large" {
		t.Errorf("when it counts again: %s", got)
	}
}
