package ec2sim

import (
	"net/url"
	"strconv"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"
)

// TestAccounting: whatever is launched, terminated and waited for, in whatever
// order, addresses, slots of a limited pool, tags and the heap of what is due
// agree with the instances that are there.
func TestAccounting(t *testing.T) {
	const capacity = 6
	rapid.Check(t, func(t *rapid.T) {
		clock := clocktesting.NewFakeClock(start)
		s, err := New(Config{
			Region: "us-west-2", ClusterName: "demo", Clock: clock, BootDelay: bootDelay, TerminateDelay: terminateDelay,
			Subnets: []SubnetConfig{{"us-west-2a", "10.0.0.0/28"}, {"us-west-2b", "10.0.1.0/28"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		limited := pool{"m5.large", "us-west-2a", false}
		s.pools[limited] = &slots{capacity}
		idle := len(s.tags)
		do := func(action string, params ...string) *apiError {
			form := url.Values{"Version": {"2016-11-15"}}
			for i := 0; i < len(params); i += 2 {
				form.Set(params[i], params[i+1])
			}
			_, err := s.answerQuery(action, "r", form)
			return err
		}
		t.Repeat(map[string]func(*rapid.T){
			"launch": func(t *rapid.T) {
				sn := rapid.SampledFrom(s.subnets).Draw(t, "subnet")
				count := rapid.IntRange(1, 4).Draw(t, "count")
				free := sn.ips.free
				if sn.zone.Name == limited.zone {
					free = min(free, s.pools[limited].left)
				}
				err := do("RunInstances", "MinCount", strconv.Itoa(count), "MaxCount", strconv.Itoa(count), "SubnetId", sn.id, "InstanceType", "m5.large",
					"ImageId", s.params["/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/recommended/image_id"][1].value)
				if (err == nil) != (count <= free) {
					t.Fatalf("%d instances where there is room for %d: %v", count, free, err)
				}
			},
			"terminate": func(t *rapid.T) {
				if len(s.instances) == 0 {
					t.Skip("none there")
				}
				if err := do("TerminateInstances", "InstanceId.1", rapid.SampledFrom(s.instances).Draw(t, "instance").id); err != nil {
					t.Fatal(err)
				}
			},
			"wait": func(t *rapid.T) {
				clock.Step(time.Duration(rapid.IntRange(1, 4000).Draw(t, "seconds")) * time.Second)
				if err := do("DescribeVpcs"); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				held := map[*subnet]int{}
				inPool := 0
				for _, i := range s.instances {
					if s.byID[i.id] != i || s.tags[i.id] == nil {
						t.Fatalf("instance %s is not indexed", i.id)
					}
					if i.state == stateTerminated {
						continue
					}
					held[i.spec.subnet]++
					if i.pool == limited {
						inPool++
					}
				}
				for _, sn := range s.subnets {
					if sn.ips.free != 11-held[sn] {
						t.Fatalf("subnet %s has %d free addresses beside %d instances", sn.id, sn.ips.free, held[sn])
					}
				}
				if left := s.pools[limited].left; left != capacity-inPool {
					t.Fatalf("the pool has %d left beside %d instances", left, inPool)
				}
				if len(s.byID) != len(s.instances) {
					t.Fatalf("%d indexed, %d there", len(s.byID), len(s.instances))
				}
				if len(s.instances) == 0 && len(s.tags) != idle {
					t.Fatalf("%d tagged things are left behind", len(s.tags)-idle)
				}
			},
		})
	})
}
