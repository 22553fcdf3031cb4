package provisioner

import (
	"errors"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// failingMapper cannot reach the API server.
type failingMapper struct{ meta.RESTMapper }

var errUnreachable = errors.New("the API server is not there")

func (failingMapper) RESTMapping(schema.GroupKind, ...string) (*meta.RESTMapping, error) {
	return nil, errUnreachable
}

// testScheme knows Kubernetes' kinds and ours.
func testScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return scheme
}

// TestPodGroupsAreWatchedWhereTheyAreServed: older clusters do not know them.
func TestPodGroupsAreWatchedWhereTheyAreServed(t *testing.T) {
	scheme := testScheme(t)
	serving := func(versions ...string) meta.RESTMapper {
		m := meta.NewDefaultRESTMapper(nil)
		for _, v := range versions {
			m.Add(schema.GroupVersionKind{Group: "scheduling.k8s.io", Version: v, Kind: "PodGroup"}, meta.RESTScopeNamespace)
		}
		return m
	}
	for name, c := range map[string]struct {
		mapper  meta.RESTMapper
		watched bool
		err     error
	}{
		"served":               {serving("v1beta1"), true, nil},
		"not served":           {serving(), false, nil},
		"another version only": {serving("v1alpha3"), false, nil},
		"API server not there": {failingMapper{}, false, errUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := newStores(t.Context(), &informertest.FakeInformers{Scheme: scheme}, c.mapper, false)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err == nil && (s.podGroups != nil) != c.watched {
				t.Errorf("watched: %t, want %t", s.podGroups != nil, c.watched)
			}
		})
	}
}

// storesWith are stores that hold these objects.
func storesWith(t *testing.T, objects ...runtime.Object) *stores {
	t.Helper()
	s := &stores{}
	for _, into := range []*toolscache.SharedIndexInformer{
		&s.pods, &s.nodes, &s.claims, &s.provisioners, &s.daemonSets, &s.replicaSets, &s.statefulSets, &s.jobs,
		&s.pvcs, &s.pvs, &s.storageClasses, &s.csiNodes, &s.namespace, &s.attachments, &s.pdbs, &s.podGroups,
		&s.runtimeClasses, &s.priorityClasses,
	} {
		*into = toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, &corev1.Pod{}, 0, toolscache.Indexers{})
	}
	if err := s.pods.AddIndexers(podIndexers); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		into := s.pods
		switch o.(type) {
		case *schedulingv1beta1.PodGroup:
			into = s.podGroups
		case *appsv1.DaemonSet:
			into = s.daemonSets
		case *nodev1.RuntimeClass:
			into = s.runtimeClasses
		case *schedulingv1.PriorityClass:
			into = s.priorityClasses
		case *corev1.Node:
			into = s.nodes
		case *corev1.Pod:
		default:
			t.Fatalf("no store for %T", o)
		}
		if err := into.GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestTheSnapshotHasPodGroupsAndTheirHeldPods: a pod that is not planned for is
// still one of its group.
func TestTheSnapshotHasPodGroupsAndTheirHeldPods(t *testing.T) {
	now := time.Unix(1000, 0)
	group := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "train"}}
	group.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2}
	member := func(name string, priority int32) *corev1.Pod {
		p := podNamed(name)
		p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &group.Name}
		p.Spec.Priority = &priority
		return p
	}
	held, waits := member("held", 1), member("waits", 2)
	p := &Loops{stores: storesWith(t, group, held, waits), book: newBook()}
	p.book.wasted[capacity.ShapeHash(held)] = waste{count: breakerLimit, last: now}

	s := p.read(now).snapshot
	if d := gocmp.Diff(map[string]capacity.PodGroup{"default/train": {MinCount: 2}}, s.Groups); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	if len(s.Pods) != 1 || s.Pods[0] != waits || len(s.Held) != 1 || s.Held[0].Pod != held {
		t.Fatalf("pods %v, held %v", s.Pods, s.Held)
	}
	plan := capacity.Solve(s)
	if len(plan.Unschedulable) != 1 || !strings.Contains(plan.Unschedulable[0].Reasons[0].Detail, "default/held has none") {
		t.Errorf("plan %+v", plan.Unschedulable)
	}

	p.stores.podGroups = nil
	if s := p.read(now).snapshot; s.Groups != nil {
		t.Errorf("groups %v where none are served", s.Groups)
	}
}
