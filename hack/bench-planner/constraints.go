package main

import (
	"math/rand/v2"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// small is the size of a small service: 100 m to 1.5 CPUs, 100 MiB to 4 GiB.
func small(r *rand.Rand) size {
	return generic(r, 1)[0]
}

// fifths are pods of which a fifth each is plain, spread over zones, spread over
// hosts, together in a zone, and apart on hosts: all of the last fifth from each
// other, the others within one of seven groups.
func fifths(seed uint64, n int) []*corev1.Pod {
	r := rand.New(rand.NewPCG(seed, 3))
	sizes := make([]size, n)
	for i := range sizes {
		sizes[i] = small(r)
		sizes[i].app = r.IntN(7)
	}
	list := pods(sizes)
	for i, p := range list {
		kind := strconv.Itoa(i % 5)
		p.Labels["app"] = kind + "-" + p.Labels["app"]
		self := &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}
		switch i % 5 {
		case 1:
			p.Spec.TopologySpreadConstraints = spreadOver(corev1.LabelTopologyZone, corev1.DoNotSchedule, self)
		case 2:
			p.Spec.TopologySpreadConstraints = spreadOver(corev1.LabelHostname, corev1.DoNotSchedule, self)
		case 3:
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone, LabelSelector: self}}}}
		case 4:
			p.Labels["app"] = "apart"
			self.MatchLabels["app"] = "apart"
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: self}}}}
		}
	}
	return list
}

func spreadOver(key string, action corev1.UnsatisfiableConstraintAction, self *metav1.LabelSelector) []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: action, LabelSelector: self}}
}

// preferences are pods that would rather be in some zone, and rather apart from
// each other, on hosts.
func preferences(seed uint64, n int, zones []string) []*corev1.Pod {
	r := rand.New(rand.NewPCG(seed, 4))
	sizes := make([]size, n)
	for i := range sizes {
		sizes[i] = small(r)
		sizes[i].app = r.IntN(7)
	}
	list := pods(sizes)
	for _, p := range list {
		app, _ := strconv.Atoi(p.Labels["app"])
		p.Spec.Affinity = &corev1.Affinity{
			NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 100,
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zones[app%len(zones)]}}}}}}},
			PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100,
				PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname,
					LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}}}}},
		}
	}
	return list
}

// constrain makes, of the workload's apps, one in four ask for a zone, one in
// five spread over zones, one in five spread over hosts at most ten on each more
// than elsewhere, and half ask for amd64.
func constrain(r *rand.Rand, list []*corev1.Pod, zones []string) {
	type choice struct {
		zone         string
		zones, hosts bool
		onlyAMD64    bool
	}
	apps := map[string]*choice{}
	for _, p := range list {
		app := p.Labels["app"]
		c := apps[app]
		if c == nil {
			c = &choice{onlyAMD64: r.IntN(2) == 0}
			switch x := r.IntN(100); {
			case x < 25:
				c.zone = zones[r.IntN(len(zones))]
			case x < 45:
				c.zones = true
			case x < 65:
				c.hosts = true
			}
			apps[app] = c
		}
		self := &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		p.Spec.NodeSelector = map[string]string{}
		if c.zone != "" {
			p.Spec.NodeSelector[corev1.LabelTopologyZone] = c.zone
		}
		if c.onlyAMD64 {
			p.Spec.NodeSelector[corev1.LabelArchStable] = "amd64"
		}
		if c.zones {
			p.Spec.TopologySpreadConstraints = spreadOver(corev1.LabelTopologyZone, corev1.DoNotSchedule, self)
		}
		if c.hosts {
			p.Spec.TopologySpreadConstraints = spreadOver(corev1.LabelHostname, corev1.DoNotSchedule, self)
			p.Spec.TopologySpreadConstraints[0].MaxSkew = 10
		}
	}
}

// near are three small pods for each app, all of which must be in the zone of
// a pod that waits, too; with a zone given, simply in that zone.
func near(seed uint64, apps int, zone string) []*corev1.Pod {
	list := replicas(seed, apps)
	db := pods([]size{{2000, 8 << 10, 0}})[0]
	db.Name, db.Labels["app"] = "db", "db"
	for _, p := range list {
		if zone != "" {
			p.Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: zone}
			continue
		}
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}}}
	}
	return append(list, db)
}

// oneTeam are three small pods for each app, which as a whole spread over zones.
func oneTeam(seed uint64, apps int) []*corev1.Pod {
	list := replicas(seed, apps)
	for _, p := range list {
		p.Labels["team"] = "red"
		p.Spec.TopologySpreadConstraints = spreadOver(corev1.LabelTopologyZone, corev1.DoNotSchedule,
			&metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}})
	}
	return list
}

// replicas are three small pods for each app.
func replicas(seed uint64, apps int) []*corev1.Pod {
	r := rand.New(rand.NewPCG(seed, 5))
	var sizes []size
	for app := range apps {
		s := small(r)
		s.app = app
		sizes = append(sizes, s, s, s)
	}
	return pods(sizes)
}
