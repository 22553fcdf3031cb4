package capacity_test

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

func TestVerdictNamesTheCheapestNodeOrTheNearestMiss(t *testing.T) {
	const market = `
type m7.large 2 8Gi 0.10 0.03
type m7.xlarge 4 16Gi 0.20 0.07
type m7g.large 2 8Gi 0.08 0.02 arch=arm64
type g5.xlarge 4 16Gi 1.00 0.40 gpu=1
type r9.large 2 16Gi 0.01 0.01 soldout
provisioner default {"requirements":[{"key":"team","operator":"In","values":["a","b"]},{"key":"rack","operator":"Exists"}]}
provisioner spot {"weight":5,"taints":[{"key":"spot","effect":"NoSchedule"}],"requirements":[{"key":"berth.dev/capacity-type","operator":"In","values":["spot"]}]}
provisioner full {"weight":9,"limits":{"nodes":"0"},"taints":[{"key":"full","effect":"NoSchedule"}]}
daemonset agent 100m 100Mi
pod `
	for name, tc := range map[string]struct{ pod, want string }{
		"an ordinary pod gets the cheapest":                   {"p 1 1 2Gi", "default m7.large/on-demand/us-west-2a"},
		"DaemonSets take their share":                         {"p 1 1.9 2Gi", "default m7.xlarge/on-demand/us-west-2a"},
		"the heavier Provisioner comes first where tolerated": {`p 1 1 2Gi {"tolerations":[{"key":"spot","operator":"Exists"}]}`, "spot m7.large/spot/us-west-2a"},
		"a full Provisioner is passed over":                   {`p 1 1 2Gi {"tolerations":[{"operator":"Exists"}]}`, "spot m7.large/spot/us-west-2a"},
		"zone and type by selector":                           {`p 1 1 2Gi {"nodeSelector":{"topology.kubernetes.io/zone":"us-west-2c","berth.dev/instance-cpu":"4"}}`, "default m7.xlarge/on-demand/us-west-2c"},
		"own label with listed values":                        {`p 1 1 2Gi {"nodeSelector":{"team":"b"}}`, "default m7.large/on-demand/us-west-2a"},
		"own label with any value":                            {`p 1 1 2Gi {"nodeSelector":{"rack":"r17"}}`, "default m7.large/on-demand/us-west-2a"},
		"own label with a value that is not listed":           {`p 1 1 2Gi {"nodeSelector":{"team":"c"}}`, "NodeSelector allow c under team in Provisioner default"},
		"arm64 is not allowed":                                {`p 1 1 2Gi {"nodeSelector":{"kubernetes.io/arch":"arm64"}}`, "NodeSelector allow arm64 under kubernetes.io/arch in Provisioner default"},
		"too large":                                           {"p 1 5 2Gi", "Resources ask for at most 3.82 CPU, or allow larger instance types in Provisioner default"},
		"memory that is told to fit does fit":                 {`p 1 3 14Gi`, "Resources ask for at most 13.7Gi memory, or allow larger instance types in Provisioner default"},
		"sold out":                                            {`p 1 1 2Gi {"nodeSelector":{"berth.dev/instance-family":"r9"}}`, "Unavailable allow more instance types, zones or capacity types in Provisioner default"},
		"a gate":                                              {`p 1 1 2Gi {"schedulingGates":[{"name":"g"}]}`, "SchedulingGate whoever set the gate must remove it"},
		"a host of a certain name":                            {`p 1 1 2Gi {"nodeSelector":{"kubernetes.io/hostname":"h"}}`, "NodeSelector remove kubernetes.io/hostname from what the pod requires"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseScenario(market + tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			index := capacity.NewIndex(s.Provisioners, s.DaemonSetPods)
			for range 2 { // The second answer comes from memory.
				got := ""
				if c, rs := index.Verdict(s.Pods[0]); c != nil {
					got = c.Provisioner.Name + " " + c.InstanceType + "/" + c.CapacityType + "/" + c.Zone
				} else if len(rs) > 0 {
					got = string(rs[0].Constraint) + " " + rs[0].Fix
				}
				if got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			}
		})
	}
}

func TestVerdictAgreesWithSolve(t *testing.T) {
	for seed := range uint64(200) {
		s := drawSnapshot(fromSeed(seed), false)
		s.Nodes = nil
		index := capacity.NewIndex(s.Provisioners, s.DaemonSetPods)
		for _, p := range s.Pods {
			if len(p.Spec.Volumes) > 0 {
				continue
			}
			alone := *s
			alone.Pods = []*corev1.Pod{p}
			plan := capacity.Solve(&alone)
			c, rs := index.Verdict(p)
			switch {
			case (c != nil) != (len(plan.Launches) == 1):
				t.Errorf("seed %d, %s: verdict %v %v, plan %s", seed, p.Name, c, rs, describe(plan))
			case c != nil && (c.Price != plan.HourlyCost || c.Provisioner != plan.Launches[0].Provisioner):
				t.Errorf("seed %d, %s: verdict %+v, plan %s", seed, p.Name, c, describe(plan))
			case c == nil && len(rs) == 0:
				t.Errorf("seed %d, %s: no reason", seed, p.Name)
			}
		}
	}
}

func TestAnIndexServesManyAtOnce(t *testing.T) {
	s := drawSnapshot(fromSeed(3), false)
	index := capacity.NewIndex(s.Provisioners, s.DaemonSetPods)
	var all sync.WaitGroup
	answers := make([]string, 8)
	for i := range answers {
		all.Go(func() {
			var b strings.Builder
			for _, p := range s.Pods {
				c, rs := index.Verdict(p)
				if c != nil {
					b.WriteString(c.InstanceType)
				}
				for _, r := range rs {
					b.WriteString(r.Detail)
				}
			}
			answers[i] = b.String()
		})
	}
	all.Wait()
	for _, a := range answers {
		if a != answers[0] {
			t.Errorf("answers differ: %q and %q", a, answers[0])
		}
	}
}
