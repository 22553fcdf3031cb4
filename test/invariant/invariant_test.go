package invariant

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func instance(id, claim string, change func(*ec2sim.InstanceState)) ec2sim.InstanceState {
	i := ec2sim.InstanceState{ID: id, State: "running", Type: "m5.large", Price: 0.1, Launched: start, Tags: map[string]string{
		v1alpha1.TagClusterUID: "ours", v1alpha1.TagProvisioner: "default", v1alpha1.TagNodeClaim: claim, v1alpha1.TagNodeClaimUID: claim, v1alpha1.TagLaunch: "T"}}
	if change != nil {
		change(&i)
	}
	return i
}

func claim(name string, change func(*v1alpha1.NodeClaim)) v1alpha1.NodeClaim {
	c := v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{v1alpha1.Finalizer}}}
	if change != nil {
		change(&c)
	}
	return c
}

func recorded(token string, members ...string) func(*v1alpha1.NodeClaim) {
	return func(c *v1alpha1.NodeClaim) {
		c.Status.Launch = &v1alpha1.LaunchIntent{Token: token, Overrides: []v1alpha1.LaunchOverride{{InstanceType: "m5.large"}}}
		for _, m := range members {
			c.Status.Launch.Members = append(c.Status.Launch.Members, v1alpha1.LaunchMember{Name: m})
		}
	}
}

func joined(token, lead string) func(*v1alpha1.NodeClaim) {
	return func(c *v1alpha1.NodeClaim) { c.Status.Launch = &v1alpha1.LaunchIntent{Token: token, Lead: lead} }
}

func owns(id string) func(*v1alpha1.NodeClaim) {
	return func(c *v1alpha1.NodeClaim) { c.Status.InstanceID = id }
}

func limited(limits corev1.ResourceList) v1alpha1.Provisioner {
	pr := v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	pr.Spec.Limits = limits
	return pr
}

// TestEveryViolationIsSeen: a check that sees nothing proves nothing.
func TestEveryViolationIsSeen(t *testing.T) {
	terminated := func(i *ec2sim.InstanceState) { i.State = "terminated" }
	foreign := func(i *ec2sim.InstanceState) { i.Tags[v1alpha1.TagClusterUID] = "theirs" }
	two := []ec2sim.InstanceState{instance("i-1", "a", nil), instance("i-2", "b", nil)}
	later := start.Add(time.Hour)
	for name, tc := range map[string]struct {
		world World
		judge func(World) []string
		want  string // Empty: nothing is wrong.
	}{
		"one instance a claim":                {World{Instances: two}, World.Violations, ""},
		"two alive for a claim":               {World{Instances: []ec2sim.InstanceState{instance("i-1", "a", nil), instance("i-2", "a", nil)}}, World.Violations, "i-1 and i-2 are alive for claim a"},
		"a second after the first":            {World{Instances: []ec2sim.InstanceState{instance("i-1", "a", terminated), instance("i-2", "a", nil)}}, World.Violations, ""},
		"another cluster's do not count":      {World{Instances: []ec2sim.InstanceState{instance("i-1", "a", foreign), instance("i-2", "a", nil)}}, World.Violations, ""},
		"two claims with one instance":        {World{Claims: []v1alpha1.NodeClaim{claim("a", owns("i-1")), claim("b", owns("i-1"))}}, World.Violations, "same instance i-1"},
		"as many nodes as the limit":          {World{Instances: two, Provisioners: []v1alpha1.Provisioner{limited(corev1.ResourceList{v1alpha1.LimitNodes: resource.MustParse("2")})}}, World.Violations, ""},
		"more nodes than the limit":           {World{Instances: two, Provisioners: []v1alpha1.Provisioner{limited(corev1.ResourceList{v1alpha1.LimitNodes: resource.MustParse("1")})}}, World.Violations, "2 of nodes"},
		"more dollars than the limit":         {World{Instances: two, Provisioners: []v1alpha1.Provisioner{limited(corev1.ResourceList{v1alpha1.LimitHourlyCost: resource.MustParse("0.19")})}}, World.Violations, "of hourlyCost"},
		"more CPU than the limit":             {World{Instances: two, VCPUs: func(string) int { return 2 }, Provisioners: []v1alpha1.Provisioner{limited(corev1.ResourceList{"cpu": resource.MustParse("3")})}}, World.Violations, "4 of cpu"},
		"a recorded launch":                   {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("T"))}}, func(w World) []string { return w.Launch("T", 1) }, ""},
		"a recorded launch of two":            {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("T", "a", "b")), claim("b", joined("T", "a"))}}, func(w World) []string { return w.Launch("T", 2) }, ""},
		"a launch that nobody records":        {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("S"))}}, func(w World) []string { return w.Launch("T", 1) }, "no claim records"},
		"a launch without token":              {World{}, func(w World) []string { return w.Launch("", 1) }, "without token"},
		"a launch of more than is recorded":   {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("T"))}}, func(w World) []string { return w.Launch("T", 2) }, "as one of 1"},
		"a launch before all have joined":     {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("T", "a", "b")), claim("b", nil)}}, func(w World) []string { return w.Launch("T", 2) }, "takes no part"},
		"a launch for a claim that is gone":   {World{Claims: []v1alpha1.NodeClaim{claim("a", recorded("T", "a", "b"))}}, func(w World) []string { return w.Launch("T", 2) }, "not there"},
		"a launch without finalizer":          {World{Claims: []v1alpha1.NodeClaim{claim("a", func(c *v1alpha1.NodeClaim) { recorded("T")(c); c.Finalizers = nil })}}, func(w World) []string { return w.Launch("T", 1) }, "nothing keeps"},
		"terminating what is being removed":   {World{Instances: two, Claims: []v1alpha1.NodeClaim{claim("a", func(c *v1alpha1.NodeClaim) { owns("i-1")(c); c.DeletionTimestamp = &metav1.Time{} })}}, func(w World) []string { return w.Terminate("i-1", start) }, ""},
		"terminating what is to stay":         {World{Instances: two, Claims: []v1alpha1.NodeClaim{claim("a", owns("i-1"))}}, func(w World) []string { return w.Terminate("i-1", later) }, "is to stay"},
		"terminating an old orphan":           {World{Instances: two}, func(w World) []string { return w.Terminate("i-1", later) }, ""},
		"terminating a young orphan":          {World{Instances: two}, func(w World) []string { return w.Terminate("i-1", start.Add(time.Minute)) }, "only 1m0s old"},
		"terminating for an open launch":      {World{Instances: two, Claims: []v1alpha1.NodeClaim{claim("a", recorded("T"))}}, func(w World) []string { return w.Terminate("i-1", later) }, "still waits"},
		"terminating a foreign instance":      {World{Instances: []ec2sim.InstanceState{instance("i-1", "a", foreign)}}, func(w World) []string { return w.Terminate("i-1", later) }, "foreign"},
		"terminating what was never launched": {World{}, func(w World) []string { return w.Terminate("i-9", later) }, "never launched"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.world.ClusterUID = "ours"
			got := Text(tc.judge(tc.world))
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("found %q, want %q", got, tc.want)
			}
		})
	}
}
