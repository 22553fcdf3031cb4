package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestDefaultSpreadIsReadFromTheSchedulersConfiguration(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	zone := []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "topology.kubernetes.io/zone", WhenUnsatisfiable: corev1.DoNotSchedule}}
	list := func(args string) string {
		return head + "profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: {type: MostAllocated}}\n  - name: PodTopologySpread\n    args: {" + args + "}\n"
	}
	tests := map[string]struct {
		in, err string
		want    []corev1.TopologySpreadConstraint
	}{
		"constraints of a list":            {in: list("defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]"), want: zone},
		"nothing said":                     {in: head},
		"kube-scheduler's own defaults":    {in: list("defaultingType: System")},
		"another scheduler's profile":      {in: strings.Replace(list("defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]"), "- pluginConfig", "- schedulerName: other\n  pluginConfig", 1)},
		"constraints without List":         {in: list("defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]"), err: "profiles[0].pluginConfig[1].args.defaultConstraints need defaultingType: List"},
		"no skew":                          {in: list("defaultingType: List, defaultConstraints: [{topologyKey: z, whenUnsatisfiable: DoNotSchedule}]"), err: "defaultConstraints[0].maxSkew: 0 is not 1 or more"},
		"no key":                           {in: list("defaultingType: List, defaultConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]"), err: "topologyKey: is missing"},
		"a slip in what happens otherwise": {in: list("defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: Never}]"), err: `"Never" is neither`},
		"a selector":                       {in: list("defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]"), err: "labelSelector: must not be set"},
		"no domains":                       {in: list("defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, minDomains: 0}]"), err: "minDomains: 0 is not"},
		"another kind":                     {in: "apiVersion: v1\nkind: Pod\n", err: `not "v1", "Pod"`},
		"no YAML":                          {in: "profiles: [", err: "kube-scheduler's configuration: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := DefaultSpread(strings.NewReader(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func FuzzDefaultSpread(f *testing.F) {
	f.Add("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}}]}]")
	f.Fuzz(func(t *testing.T, in string) {
		cs, err := DefaultSpread(strings.NewReader(in))
		if err != nil && cs != nil {
			t.Error("constraints beside an error")
		}
		for i := range cs {
			if cs[i].MaxSkew < 1 || cs[i].TopologyKey == "" || cs[i].LabelSelector != nil {
				t.Errorf("accepted %+v", cs[i])
			}
		}
	})
}
