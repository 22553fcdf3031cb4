package capacity_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// appsNearDB are a database's pod and three pods for each of n apps, which must
// be in the database's zone.
func appsNearDB(n int) []*corev1.Pod {
	pods := []*corev1.Pod{benchPod("db-0", "db", 2000, 8192)}
	for i := range n {
		for k := range 3 {
			p := benchPod(fmt.Sprintf("app-%d-%d", i, k), fmt.Sprintf("app-%d", i), int64(100*(1+i%13)), int64(128*(1+i%29)))
			pods = append(pods, near(p, "db"))
		}
	}
	return pods
}

func solveFor(t *testing.T, pods, daemons []*corev1.Pod) *capacity.Plan {
	t.Helper()
	begin := time.Now()
	plan := capacity.Solve(&capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: pods, DaemonSetPods: daemons,
		Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}})
	if len(plan.Unschedulable) > 0 {
		t.Fatalf("%d pods have no place: %+v", len(plan.Unschedulable), plan.Unschedulable[0].Reasons)
	}
	t.Logf("%d pods: %d nodes, %.3f $/h, gap %.2f %%, %s", len(pods), len(plan.Launches), plan.HourlyCost, 100*plan.Gap(), time.Since(begin))
	return plan
}

func hold(t *testing.T, what string, got, than *capacity.Plan) {
	t.Helper()
	if got.HourlyCost > 1.05*than.HourlyCost || len(got.Launches) > len(than.Launches)+3 {
		t.Errorf("%s: %.3f $/h and %d nodes, want about the %.3f $/h and %d nodes of those without", what,
			got.HourlyCost, len(got.Launches), than.HourlyCost, len(than.Launches))
	}
}

func TestPodsNearAnotherThatWaitsArePackedLikePodsOfItsZone(t *testing.T) {
	for _, apps := range []int{50, 300} {
		plan := solveFor(t, appsNearDB(apps), nil)
		zone := plan.Launches[0].Zone
		for _, l := range plan.Launches {
			if l.Zone != zone {
				t.Errorf("launches in %s and %s", zone, l.Zone)
			}
		}
		selecting := appsNearDB(apps)
		for _, p := range selecting {
			p.Spec.Affinity = nil
			p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: zone}
		}
		hold(t, fmt.Sprintf("%d apps", apps), plan, solveFor(t, selecting, nil))
	}
}

// near makes the pod require a pod with this app label in its zone.
func near(p *corev1.Pod, app string) *corev1.Pod {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}}}
	return p
}

func TestPodsThatOthersMustBeNearGoWhereAllCanBe(t *testing.T) {
	inZone := func(p *corev1.Pod, zone string) *corev1.Pod {
		p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: zone}
		return p
	}
	for name, pods := range map[string][]*corev1.Pod{
		"one of them must be in one zone":  {benchPod("db-0", "db", 500, 1024), near(benchPod("a-0", "a", 500, 1024), "db"), inZone(near(benchPod("b-0", "b", 500, 1024), "db"), "us-west-2c")},
		"near one that is near one":        {benchPod("db-0", "db", 500, 1024), near(benchPod("a-0", "a", 500, 1024), "db"), inZone(near(benchPod("b-0", "b", 500, 1024), "a"), "us-west-2c")},
		"near each other, one near itself": {near(benchPod("a-0", "a", 500, 1024), "b"), near(benchPod("a-1", "a", 500, 1024), "b"), inZone(near(benchPod("b-0", "b", 500, 1024), "b"), "us-west-2c")},
		"in two zones": {benchPod("db-0", "db", 500, 1024), benchPod("db-1", "db", 500, 1024),
			inZone(near(benchPod("a-0", "a", 500, 1024), "db"), "us-west-2a"), inZone(near(benchPod("b-0", "b", 500, 1024), "db"), "us-west-2c")},
	} {
		t.Run(name, func(t *testing.T) {
			s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: pods,
				Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}}
			plan := capacity.Solve(s)
			for _, u := range plan.Unschedulable {
				t.Errorf("%s: %+v", u.Pod.Name, u.Reasons)
			}
			for _, w := range judge(s, plan) {
				t.Error(w)
			}
		})
	}
}
