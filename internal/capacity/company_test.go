package capacity_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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

// hold compares a plan with that for pods without some demand: it may cost little more,
// and have so many nodes more.
func hold(t *testing.T, what string, got, than *capacity.Plan, more int) {
	t.Helper()
	if got.HourlyCost > 1.05*than.HourlyCost || len(got.Launches) > len(than.Launches)+more {
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
		hold(t, fmt.Sprintf("%d apps", apps), plan, solveFor(t, selecting, nil), 3)
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

// spreadTeam are three pods for each of n apps of one team, which as a whole is
// spread over zones.
func spreadTeam(n int) []*corev1.Pod {
	var pods []*corev1.Pod
	for i := range n {
		for k := range 3 {
			p := benchPod(fmt.Sprintf("app-%d-%d", i, k), fmt.Sprintf("app-%d", i), int64(100*(1+i%13)), int64(128*(1+i%29)))
			p.Labels["team"] = "red"
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}}}}
			pods = append(pods, p)
		}
	}
	return pods
}

// agent is a DaemonSet's pod with these labels.
func agent(labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent", Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}}}}}}
}

func TestDaemonSetThatASpreadCountsCostsLittle(t *testing.T) {
	for _, apps := range []int{50, 500} {
		with := solveFor(t, spreadTeam(apps), []*corev1.Pod{agent(map[string]string{"team": "red"})})
		more := 3
		if apps == 500 {
			more = 11 // Nodes whose DaemonSets' pods a spread needs are not given up.
		}
		hold(t, fmt.Sprintf("%d apps", apps), with, solveFor(t, spreadTeam(apps), []*corev1.Pod{agent(nil)}), more)
	}
}

func TestDaemonSetThatASpreadOverHostsCountsCostsNothing(t *testing.T) {
	for _, skew := range []int32{2, 5} {
		var plans []*capacity.Plan
		for _, labels := range []map[string]string{{"team": "red"}, nil} {
			pods := spreadTeam(50)
			for _, p := range pods {
				p.Spec.TopologySpreadConstraints[0].TopologyKey = corev1.LabelHostname
				p.Spec.TopologySpreadConstraints[0].MaxSkew = skew
			}
			plans = append(plans, solveFor(t, pods, []*corev1.Pod{agent(labels)}))
		}
		hold(t, fmt.Sprintf("maxSkew %d", skew), plans[0], plans[1], 3)
	}
}

func TestDaemonSetsPodsThatAreFarMoreInOneZoneAreReckonedWith(t *testing.T) {
	var plans []*capacity.Plan
	for _, labels := range []map[string]string{{"team": "red"}, nil} {
		plans = append(plans, solveFor(t, teamBesideBig(), []*corev1.Pod{agent(labels)}))
	}
	hold(t, "40 nodes with the DaemonSet's pod in one zone", plans[0], plans[1], 3)
}

// teamBesideBig are 300 pods that are spread over zones and 40 in one zone that need a
// host each.
func teamBesideBig() []*corev1.Pod {
	pods := spreadTeam(100)
	for i := range 40 {
		p := benchPod(fmt.Sprintf("big-%d", i), "big", 4000, 4096)
		p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: "us-west-2a"}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "big"}}}}}}
		pods = append(pods, p)
	}
	return pods
}

func TestPodsNearADaemonSetsPodsArePacked(t *testing.T) {
	near, plain := appsNearDB(100)[1:], appsNearDB(100)[1:]
	for _, p := range plain {
		p.Spec.Affinity = nil
	}
	with := solveFor(t, near, []*corev1.Pod{agent(map[string]string{"app": "db"})})
	// They are in all zones, which takes more nodes.
	if without := solveFor(t, plain, []*corev1.Pod{agent(nil)}); with.HourlyCost > 1.06*without.HourlyCost || len(with.Launches) > len(without.Launches)+16 {
		t.Errorf("%.3f $/h and %d nodes, want about the %.3f $/h and %d nodes of those that need no company", with.HourlyCost, len(with.Launches), without.HourlyCost, len(without.Launches))
	}
}

func TestPlansWithDaemonSetsThatCountAreAccepted(t *testing.T) {
	hosts := spreadTeam(12)
	for _, p := range hosts {
		c := p.Spec.TopologySpreadConstraints[0]
		c.TopologyKey, c.MaxSkew = corev1.LabelHostname, 3
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	for name, pods := range map[string][]*corev1.Pod{"spread": spreadTeam(12), "near": appsNearDB(12)[1:], "spread over hosts, too": hosts} {
		t.Run(name, func(t *testing.T) {
			s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: pods, DaemonSetPods: []*corev1.Pod{agent(map[string]string{"app": "db", "team": "red"})},
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
