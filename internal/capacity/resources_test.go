package capacity

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func requests(kv ...string) corev1.ResourceRequirements {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return corev1.ResourceRequirements{Requests: l}
}

func TestPodRequestsCountAllThatKubeSchedulerCounts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for name, tc := range map[string]struct {
		spec corev1.PodSpec
		want Resources
	}{
		"containers add up, zero is nothing": {
			corev1.PodSpec{Containers: []corev1.Container{
				{Resources: requests("cpu", "0.1", "memory", "1Gi")}, {Resources: requests("cpu", "1m", "nvidia.com/gpu", "0")}}},
			Resources{"cpu": 101, "memory": gib, "pods": 1},
		},
		"a large init container sets the floor, a sidecar runs beside": {
			corev1.PodSpec{
				InitContainers: []corev1.Container{
					{Resources: requests("cpu", "200m"), RestartPolicy: &always}, {Resources: requests("cpu", "3")}},
				Containers: []corev1.Container{{Resources: requests("cpu", "1")}}},
			Resources{"cpu": 3200, "pods": 1},
		},
		"overhead adds, pod-level requests replace": {
			corev1.PodSpec{
				Overhead:   corev1.ResourceList{"memory": resource.MustParse("120Mi")},
				Resources:  ptrTo(requests("cpu", "2")),
				Containers: []corev1.Container{{Resources: requests("cpu", "1", "memory", "1Gi")}}},
			Resources{"cpu": 2000, "memory": gib + 120*mib, "pods": 1},
		},
		"no requests: one seat": {corev1.PodSpec{Containers: []corev1.Container{{}}}, Resources{"pods": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, PodRequests(&corev1.Pod{Spec: tc.spec})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPlainPodsRequestWhatTheGeneralRuleSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pod := &corev1.Pod{}
		for range rapid.IntRange(1, 3).Draw(t, "containers") {
			c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
			for _, name := range []corev1.ResourceName{"cpu", "memory", "nvidia.com/gpu"} {
				if q := rapid.SampledFrom([]string{"", "0", "1", "1500u", "1500m", "300M", "1Gi", "-1"}).Draw(t, string(name)); q != "" {
					c.Resources.Requests[name] = resource.MustParse(q)
				}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		if d := cmp.Diff(generalRequests(pod, false), PodRequests(pod)); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}

func TestFitsIgnoresWhatIsNotRequested(t *testing.T) {
	free := Resources{"cpu": 1000, "memory": -1}
	if !(Resources{"cpu": 1000}).Fits(free) {
		t.Error("a pod without memory must fit an overcommitted node")
	}
	if (Resources{"cpu": 1001}).Fits(free) || (Resources{"nvidia.com/gpu": 1}).Fits(free) {
		t.Error("a pod that asks for more than is free must not fit")
	}
}

func TestShapeHashSeesWhatSchedulingSees(t *testing.T) {
	base := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a", Labels: map[string]string{"app": "x"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "i", Resources: requests("cpu", "1", "memory", "1Gi"),
				Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}
	}
	want := ShapeHash(base())
	for name, change := range map[string]func(*corev1.Pod){
		"name, image, command and quantity spelling": func(p *corev1.Pod) {
			p.Name, p.UID = "b", "u"
			p.Spec.Containers[0].Image, p.Spec.Containers[0].Command = "j", []string{"c"}
			p.Spec.Containers[0].Resources = requests("cpu", "1000m", "memory", "1024Mi")
		},
		"owner": func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{Name: "rs"}} },
		"ordinal of a stateful set": func(p *corev1.Pod) {
			p.Labels["statefulset.kubernetes.io/pod-name"], p.Labels["apps.kubernetes.io/pod-index"] = "a-0", "0"
		},
	} {
		p := base()
		change(p)
		if got := ShapeHash(p); got != want {
			t.Errorf("%s must not change the hash", name)
		}
	}
	seen := map[string]string{want: "the pod itself"}
	for name, change := range map[string]func(*corev1.Pod){
		"namespace":     func(p *corev1.Pod) { p.Namespace = "m" },
		"label":         func(p *corev1.Pod) { p.Labels["app"] = "y" },
		"request":       func(p *corev1.Pod) { p.Spec.Containers[0].Resources = requests("cpu", "2") },
		"node selector": func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} },
		"toleration":    func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "k"}} },
		"host port":     func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostPort = 80 },
		"priority":      func(p *corev1.Pod) { p.Spec.Priority = ptrTo[int32](5) },
		"volume": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
		},
		"min domains": func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "z", MinDomains: ptrTo[int32](2)}}
		},
		"spread": func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "z"}}
		},
		"gate": func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} },
		"pod anti-affinity": func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "z"}}}}
		},
		"pod affinity": func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "z"}}}}
		},
	} {
		p := base()
		change(p)
		h := ShapeHash(p)
		if other, ok := seen[h]; ok {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[h] = name
	}
}

func TestAmountsReadAsPeopleWriteThem(t *testing.T) {
	tests := []struct {
		name          corev1.ResourceName
		v             int64
		down, atLeast string
	}{
		{corev1.ResourceCPU, 191450, "191.45", "191.45"},
		{corev1.ResourceCPU, 2000, "2", "2"},
		{corev1.ResourceCPU, 50, "0.05", "0.05"},
		{corev1.ResourceMemory, 3 << 29, "1.5Gi", "1.5Gi"},
		{corev1.ResourceMemory, 3<<29 + 1, "1.5Gi", "1.6Gi"},
		{corev1.ResourceMemory, 2<<30 - 1, "1.9Gi", "2Gi"},
		{corev1.ResourceMemory, 7<<20 + 1, "7Mi", "8Mi"},
		{corev1.ResourceEphemeralStorage, 1000, "1000", "1000"},
		{"nvidia.com/gpu", 8, "8", "8"},
	}
	for _, c := range tests {
		if got := quantityOf(c.name, c.v); got != c.down {
			t.Errorf("%s %d, rounded down: %s, want %s", c.name, c.v, got, c.down)
		}
		if got := quantityAtLeast(c.name, c.v); got != c.atLeast {
			t.Errorf("%s %d, rounded up: %s, want %s", c.name, c.v, got, c.atLeast)
		}
	}
}
