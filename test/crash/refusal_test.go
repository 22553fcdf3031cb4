package crash

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// created is how many claims the provisioner has created in all its lives.
func (w *world) created() int { return strings.Count(w.log(), `"msg":"claim created"`) }

// TestNoCapacity takes away what the planner would have bought. The pods get
// nodes of what is left, without new claims, or a verdict when nothing is.
func TestNoCapacity(t *testing.T) {
	const wanted = 20
	family := []string{"m5.large", "m5.xlarge", "m5.2xlarge", "c5.large", "c5.xlarge", "c5.2xlarge"}
	for name, tc := range map[string]struct {
		types         []string
		capacityTypes []string
		empty         []ec2sim.PoolState
		// only says what may be launched.
		only func(ec2sim.InstanceState) bool
	}{
		"every spot offering of a family": {
			types: []string{"m5.large", "m5.xlarge", "m6i.large"}, capacityTypes: []string{"spot", "on-demand"},
			empty: []ec2sim.PoolState{{InstanceType: "m5.*", Zone: "*", CapacityType: "spot"}},
			only: func(i ec2sim.InstanceState) bool {
				return i.CapacityType != "spot" || !strings.HasPrefix(i.Type, "m5.")
			}},
		"one zone": {
			types: family, capacityTypes: []string{"on-demand"},
			empty: []ec2sim.PoolState{{InstanceType: "*", Zone: "us-west-2a", CapacityType: "*"}},
			only:  func(i ec2sim.InstanceState) bool { return i.Zone != "us-west-2a" }},
		"all but one offering": {
			types: family, capacityTypes: []string{"spot", "on-demand"},
			empty: []ec2sim.PoolState{{InstanceType: "*", Zone: "*", CapacityType: "*"}, {InstanceType: "c5.2xlarge", Zone: "us-west-2c", CapacityType: "on-demand", Capacity: -1}},
			only: func(i ec2sim.InstanceState) bool {
				return i.Type == "c5.2xlarge" && i.Zone == "us-west-2c" && i.CapacityType == "on-demand"
			}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *ec2sim.Config) { c.BootDelay = time.Hour })
			for _, p := range tc.empty {
				w.admin("POST", "pools", p, nil)
			}
			w.create(provisioner("ice", func(p *v1alpha1.Provisioner) {
				require(corev1.LabelInstanceTypeStable, tc.types...)(p)
				require(v1alpha1.LabelCapacityType, tc.capacityTypes...)(p)
			}))
			w.start()
			w.ready("ice")
			began := time.Now()
			w.create(pods("ice", wanted)...)
			w.until("all are launched", func() bool { return w.launched() >= wanted })
			took := time.Since(began)
			t.Logf("%d nodes after %s, %d claims created, %d CreateFleet calls", wanted, took, w.created(), len(w.fleets))
			if n := w.created(); n > wanted+wanted/10 {
				t.Errorf("%d claims were created for %d nodes", n, wanted)
			}
			for _, i := range w.state().Instances {
				if !tc.only(i) {
					t.Errorf("%s %s in %s was launched", i.Type, i.CapacityType, i.Zone)
				}
			}
		})
	}
}

// TestNothingIsLeft: the pods are told, offerings are left alone for longer and
// longer, and once there is capacity again, the pods get their nodes.
func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t, func(c *ec2sim.Config) { c.BootDelay = time.Hour })
	w.admin("POST", "pools", ec2sim.PoolState{InstanceType: "*", Zone: "*", CapacityType: "*"}, nil)
	w.create(provisioner("none", func(p *v1alpha1.Provisioner) {
		require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large")(p)
		require(v1alpha1.LabelCapacityType, "on-demand")(p)
	}))
	w.start()
	w.ready("none")
	w.create(pods("none", 5)...)
	w.until("every pod is told", func() bool { return len(w.verdicts("none")) == 5 })
	for pod, text := range w.verdicts("none") {
		if !strings.Contains(text, "EC2 has none of") {
			t.Errorf("pod %s is told %q", pod, text)
		}
	}
	tries := len(w.fleets)
	// Nothing is tried before the offerings' time is over, whatever wakes the planner.
	w.create(pods("other", 1)...)
	w.until("the planner has looked again", func() bool { return len(w.verdicts("other")) == 1 })
	if n := len(w.fleets); n != tries {
		t.Errorf("%d calls, then %d", tries, n)
	}
	// Two types in four zones; they are published a moment later.
	w.until("the offerings are left alone", func() bool { return len(w.unavailable()) == 8 })
	for key, until := range w.unavailable() {
		if d := time.Until(until); d < time.Minute || d > 4*time.Minute {
			t.Errorf("%s is left alone for %s", key, d)
		}
	}
}

// unavailable are the offerings that are left alone, as they are published.
func (w *world) unavailable() map[string]time.Time {
	out := map[string]time.Time{}
	for _, m := range w.published().Machines {
		for _, o := range m.Offerings {
			if o.UnavailableUntil.After(time.Now()) {
				out[fmt.Sprintf("%s %s in %s", m.Name, o.CapacityType, o.Zone)] = o.UnavailableUntil
			}
		}
	}
	return out
}

func (w *world) published() *capacity.Offerings {
	var cm corev1.ConfigMap
	if err := plane.Client.Get(w.ctx, keyOf("berth-system", v1alpha1.OfferingsConfigMap), &cm); err != nil {
		return &capacity.Offerings{}
	}
	o, err := capacity.DecodeOfferings(cm.BinaryData[capacity.OfferingsKey])
	if err != nil {
		w.t.Error(err)
		return &capacity.Offerings{}
	}
	return o
}

// verdicts are the last NoBerth events of a Provisioner's pods.
func (w *world) verdicts(prefix string) map[string]string {
	var list corev1.EventList
	if err := plane.Client.List(w.ctx, &list, inNamespace); err != nil {
		return nil
	}
	there := map[string]bool{}
	for _, p := range w.podList() {
		there[string(p.UID)] = true
	}
	out := map[string]string{}
	for _, e := range list.Items {
		if e.Reason == "NoBerth" && there[string(e.InvolvedObject.UID)] && strings.HasPrefix(e.InvolvedObject.Name, prefix+"-") {
			out[e.InvolvedObject.Name] = e.Message
		}
	}
	return out
}

// TestBadInput: what a person must put right ends in a condition that names
// AWS's code, the resource and the remedy; it is not tried again and again, and
// another Provisioner gets its nodes all the same.
func TestBadInput(t *testing.T) {
	denied := "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:role/berth is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-west-2:123456789012:instance/* because no identity-based policy allows it"
	architecture := "The architecture 'x86_64' of the specified instance type does not match the architecture 'arm64' of the specified AMI."
	bad := func(f ec2sim.Fault) func(*world) {
		// It hits the bad Provisioner only: the other buys another type.
		f.Action, f.Count, f.Pool = "CreateFleet", -1, &ec2sim.PoolPattern{InstanceType: "m5.*"}
		return func(w *world) { w.fault(f) }
	}
	for name, tc := range map[string]struct {
		prepare func(*world)
		change  func(*v1alpha1.Provisioner)
		// pods that want a node each; 0: 3.
		pods int
		// reason of the condition LaunchesSucceed; empty: condition is Ready.
		reason string
		says   []string
		// heals: Berth puts it right by itself.
		heals bool
	}{
		"a denied permission": {prepare: bad(ec2sim.Fault{Code: "UnauthorizedOperation", Message: denied}),
			reason: "NotAuthorized", says: []string{"UnauthorizedOperation", "instance/*", "deploy/"}},
		"an unknown AMI": {change: func(p *v1alpha1.Provisioner) { p.Spec.EC2.AMIs = []v1alpha1.AMITerm{{ID: "ami-0123456789abcdef0"}} },
			says: []string{"ami-0123456789abcdef0"}},
		"an AMI that goes away": {prepare: bad(ec2sim.Fault{Code: "InvalidAMIID.NotFound", Message: "The image id '[ami-0123]' does not exist"}),
			reason: "ImageUnusable", says: []string{"InvalidAMIID.NotFound", "ami-0123", "ec2.amis"}},
		"an AMI of another architecture": {prepare: bad(ec2sim.Fault{Code: "InvalidParameterValue", Message: architecture}),
			reason: "ImageUnusable", says: []string{"InvalidParameterValue", "m5.large", "kubernetes.io/arch"}},
		"a missing instance profile": {change: func(p *v1alpha1.Provisioner) { p.Spec.EC2.InstanceProfile = "nobody" },
			says: []string{"nobody"}},
		"a quota of vCPUs": {prepare: func(w *world) {
			w.admin("POST", "quotas", ec2sim.Quota{Bucket: "standard", CapacityType: "on-demand", VCPUs: 2}, nil)
		}, reason: "QuotaExceeded", says: []string{"VcpuLimitExceeded", "m5.large", "Service Quotas"}},
		// A /28 has 11 addresses.
		"an exhausted subnet": {change: require(corev1.LabelTopologyZone, "us-west-2b"), pods: 13,
			reason: "SubnetFull", says: []string{"InsufficientFreeAddressesInSubnet", "us-west-2b", "ec2.subnets"}},
		"a launch template that somebody deletes": {prepare: func(w *world) {
			w.fault(ec2sim.Fault{Action: "CreateFleet", Code: "InvalidLaunchTemplateId.NotFound", Message: "The specified launch template, with template ID lt-1, does not exist."})
		},
			heals: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *ec2sim.Config) {
				c.BootDelay = time.Hour
				c.Subnets = []ec2sim.SubnetConfig{{Zone: "us-west-2a", CIDR: "10.0.0.0/19"}, {Zone: "us-west-2b", CIDR: "10.0.32.0/28"}}
			})
			if tc.prepare != nil {
				tc.prepare(w)
			}
			w.create(provisioner("bad", func(p *v1alpha1.Provisioner) {
				require(corev1.LabelInstanceTypeStable, "m5.large")(p)
				require(v1alpha1.LabelCapacityType, "on-demand")(p)
				if tc.change != nil {
					tc.change(p)
				}
			}), provisioner("good", func(p *v1alpha1.Provisioner) {
				require(corev1.LabelInstanceTypeStable, "c5.large")(p)
				require(v1alpha1.LabelCapacityType, "spot")(p)
			}))
			w.start()
			w.ready("good")
			w.create(append(pods("bad", cmp.Or(tc.pods, 3)), pods("good", 2)...)...)
			if tc.heals {
				w.until("all are launched", func() bool { return w.launched() == 5 })
				if n := w.created(); n != 5 {
					t.Errorf("%d claims were created for 5 nodes", n)
				}
				return
			}
			kind := v1alpha1.ConditionLaunchesSucceed
			if tc.reason == "" {
				kind = v1alpha1.ConditionReady
			}
			var got *metav1.Condition
			w.until("the condition says so", func() bool {
				got = w.condition("bad", kind)
				return got != nil && got.Status == metav1.ConditionFalse
			})
			for _, part := range tc.says {
				if !strings.Contains(got.Message, part) {
					t.Errorf("%s: %s: %q does not name %q", kind, got.Reason, got.Message, part)
				}
			}
			if tc.reason != "" && got.Reason != tc.reason {
				t.Errorf("reason %s, want %s", got.Reason, tc.reason)
			}
			good := func() int {
				n := 0
				for _, c := range w.claims() {
					if c.Spec.Provisioner.Name == "good" && c.Status.InstanceID != "" {
						n++
					}
				}
				return n
			}
			w.until("the other Provisioner has its nodes", func() bool { return good() == 2 })
			// It is not tried again at once, whatever wakes the planner.
			calls := len(w.fleets)
			w.create(pods("late", 1)...)
			w.until("the planner has looked again", func() bool { return len(w.verdicts("late")) == 1 })
			if n := len(w.fleets); n > calls+1 {
				t.Errorf("%d calls, then %d", calls, n)
			}
		})
	}
}
