package ec2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// resolve a template that must be answered.
func resolve(t *testing.T, c *Cloud, in *v1alpha1.NodeTemplate) Resolved {
	t.Helper()
	r, err := c.Resolve(t.Context(), "default", in)
	if err != nil {
		t.Fatal(err)
	}
	var conditions []string
	for _, f := range r.Findings {
		conditions = append(conditions, f.Condition)
		if f.Reason == "" || f.Message == "" || strings.Contains(f.Message, "\n") {
			t.Errorf("finding %+v", f)
		}
	}
	want := []string{v1alpha1.ConditionValid, v1alpha1.ConditionSubnetsReady, v1alpha1.ConditionSecurityGroupsReady, v1alpha1.ConditionAMIsReady, v1alpha1.ConditionInstanceProfileReady}
	if diff := cmp.Diff(want, conditions); diff != "" {
		t.Error(diff)
	}
	return r
}

// finding of one condition.
func finding(r Resolved, condition string) Finding {
	for _, f := range r.Findings {
		if f.Condition == condition {
			return f
		}
	}
	return Finding{}
}

func TestResolveDefaults(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	r := resolve(t, c, &v1alpha1.NodeTemplate{})
	if !r.Ready() {
		t.Fatalf("findings: %+v", r.Findings)
	}
	p := r.Planner()
	if diff := cmp.Diff([]string{"us-west-2a", "us-west-2b", "us-west-2c", "us-west-2d"}, p.Zones); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"amd64", "arm64"}, p.Archs); diff != "" {
		t.Error(diff)
	}
	if !p.Ready || p.Why != "" || p.RootVolumeBytes != 20*gibibyte {
		t.Errorf("%+v", p)
	}
	for _, s := range r.Subnets {
		if s.FreeIPs <= 0 || s.VPC == "" || s.ZoneID == "" {
			t.Errorf("%+v", s)
		}
	}
	if len(r.SecurityGroups) != 1 || r.InstanceProfile != "berth-node" {
		t.Errorf("%+v", r)
	}

	// The same questions again, and another Provisioner's, cost no calls.
	before := sim.calls("ec2:DescribeSubnets") + sim.calls("ec2:DescribeImages") + sim.calls("ssm:GetParameters") + sim.calls("ec2:RunInstances")
	if _, err := c.Resolve(t.Context(), "other", &v1alpha1.NodeTemplate{Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if after := sim.calls("ec2:DescribeSubnets") + sim.calls("ec2:DescribeImages") + sim.calls("ssm:GetParameters") + sim.calls("ec2:RunInstances"); after != before {
		t.Errorf("%d calls more", after-before)
	}
}

func TestDeprecatedImagesThatAreNamedAreUsed(t *testing.T) {
	s := newStandIn(t, nil)
	const pinned = "al2023@v20260512"
	fresh := resolve(t, s.cloud(nil), &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{Alias: pinned}}}})
	if m := finding(fresh, v1alpha1.ConditionAMIsReady).Message; !fresh.Ready() || strings.Contains(m, "deprecated") {
		t.Fatal(m)
	}
	for _, i := range fresh.Images {
		s.post("deprecate", ec2sim.Deprecation{ImageID: i.ID, At: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)})
	}
	id := fresh.Images[0].ID
	for name, term := range map[string]v1alpha1.AMITerm{
		"an alias": {Alias: pinned}, "an id": {ID: id},
		"a parameter": {SSMParameter: al2023Param("1.37", "x86_64", "standard", "v20260512")},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolve(t, s.cloud(nil), &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{term}}})
			if f := finding(r, v1alpha1.ConditionAMIsReady); !f.OK || !strings.Contains(f.Message, "deprecated since 2026-06-01") {
				t.Errorf("%+v", f)
			}
		})
	}
	// Who searches means what is there today.
	r := resolve(t, s.cloud(nil), &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{Name: "amazon-eks-node-al2023-x86_64-standard-1.37-*"}}}})
	if len(r.Images) != 1 || r.Images[0].Deprecated != "" {
		t.Errorf("found by name: %+v", r.Images)
	}
}

func TestResolveCountsVolumes(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	for name, tc := range map[string]struct {
		in   v1alpha1.EC2
		want int
	}{
		"AL2023":                              {v1alpha1.EC2{}, 1},
		"a second device":                     {v1alpha1.EC2{BlockDevices: []v1alpha1.BlockDevice{{DeviceName: "/dev/xvda"}, {DeviceName: "/dev/xvdc"}}}, 2},
		"Bottlerocket":                        {v1alpha1.EC2{AMIFamily: v1alpha1.AMIFamilyBottlerocket}, 2},
		"Bottlerocket with its data's volume": {v1alpha1.EC2{AMIFamily: v1alpha1.AMIFamilyBottlerocket, BlockDevices: []v1alpha1.BlockDevice{{DeviceName: "/dev/xvdb"}}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if r := resolve(t, c, &v1alpha1.NodeTemplate{EC2: tc.in}); r.Planner().Volumes != tc.want {
				t.Errorf("%d volumes, want %d", r.Planner().Volumes, tc.want)
			}
		})
	}
}

func TestResolveNamesWhatIsMissing(t *testing.T) {
	sim := newStandIn(t, nil)
	tests := map[string]struct {
		in        v1alpha1.EC2
		condition string
		reason    string
		says      string
	}{
		"subnets by tag":        {v1alpha1.EC2{Subnets: []v1alpha1.SelectorTerm{{Tags: map[string]string{"team": "nobody"}}}}, v1alpha1.ConditionSubnetsReady, ReasonNotFound, "no subnet with tags team=nobody"},
		"subnets by id":         {v1alpha1.EC2{Subnets: []v1alpha1.SelectorTerm{{ID: "subnet-0123"}, {ID: "subnet-0124"}}}, v1alpha1.ConditionSubnetsReady, ReasonNotFound, "no subnet with ids subnet-0123, subnet-0124"},
		"security groups":       {v1alpha1.EC2{SecurityGroups: []v1alpha1.SelectorTerm{{ID: "sg-0123"}}}, v1alpha1.ConditionSecurityGroupsReady, ReasonNotFound, "no security group with id sg-0123"},
		"an image by id":        {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{ID: "ami-0123"}}}, v1alpha1.ConditionAMIsReady, ReasonNotFound, "id ami-0123"},
		"an image by name":      {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{Name: "golden-*", Owner: "self"}}}, v1alpha1.ConditionAMIsReady, ReasonNotFound, "name golden-* of self"},
		"an image by parameter": {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{SSMParameter: "/mine"}}}, v1alpha1.ConditionAMIsReady, ReasonNotFound, "SSM parameter /mine"},
		"an image of a day that never was": {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{Alias: "al2023@v19990101"}}}, v1alpha1.ConditionAMIsReady, ReasonNotFound,
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/amazon-eks-node-al2023-x86_64-standard-1.37-v19990101/image_id"},
		"an instance profile": {v1alpha1.EC2{InstanceProfile: "nobody"}, v1alpha1.ConditionInstanceProfileReady, ReasonNotFound, "instance profile nobody"},
		"a launch template":   {v1alpha1.EC2{LaunchTemplate: &v1alpha1.LaunchTemplateRef{Name: "nobody", Version: "3"}}, v1alpha1.ConditionAMIsReady, ReasonNotFound, "launch template nobody version 3"},
		"an alias of another family": {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{Alias: "bottlerocket@latest"}}}, v1alpha1.ConditionValid, ReasonInvalid,
			"set ec2.amiFamily: Bottlerocket"},
		"an image by nothing":        {v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{}}}, v1alpha1.ConditionValid, ReasonInvalid, "ec2.amis[0] matches every image"},
		"subnets by nothing":         {v1alpha1.EC2{Subnets: []v1alpha1.SelectorTerm{{}}}, v1alpha1.ConditionSubnetsReady, ReasonInvalid, "ec2.subnets[0] selects by nothing"},
		"security groups by nothing": {v1alpha1.EC2{SecurityGroups: []v1alpha1.SelectorTerm{{ID: "sg-0123"}, {Tags: map[string]string{}}}}, v1alpha1.ConditionSecurityGroupsReady, ReasonInvalid, "ec2.securityGroups[1] selects by nothing"},
		"reservations by nothing":    {v1alpha1.EC2{CapacityReservations: []v1alpha1.SelectorTerm{{}}}, v1alpha1.ConditionValid, ReasonInvalid, "ec2.capacityReservations[0] selects by nothing"},
		"user data that is none":     {v1alpha1.EC2{UserData: "echo"}, v1alpha1.ConditionValid, ReasonInvalid, "ec2.userData"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			simtest.Isolate(t, sim.url)
			r := resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{EC2: tc.in})
			f := finding(r, tc.condition)
			if f.OK || f.Reason != tc.reason || !strings.Contains(f.Message, tc.says) {
				t.Errorf("finding %+v, want %s with %q", f, tc.reason, tc.says)
			}
			if p := r.Planner(); p.Ready || !strings.Contains(p.Why, tc.says) {
				t.Errorf("for the planner: %+v", p)
			}
			for _, other := range r.Findings {
				if !other.OK && other.Condition != tc.condition && other.Reason != ReasonWaiting {
					t.Errorf("also found: %+v", other)
				}
			}
		})
	}
}

// TestNegativeReservationsAreInvalid: a kubelet would not start with them.
func TestNegativeReservationsAreInvalid(t *testing.T) {
	sim := newStandIn(t, nil)
	minus := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("-2")}
	for says, k := range map[string]v1alpha1.Kubelet{"kubelet.systemReserved[cpu]: -2 is negative": {SystemReserved: minus}, "kubelet.kubeReserved[cpu]: -2 is negative": {KubeReserved: minus}} {
		r := resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{Kubelet: &k})
		if f := finding(r, v1alpha1.ConditionValid); f.OK || f.Reason != ReasonInvalid || f.Message != says {
			t.Errorf("finding %+v, want %q", f, says)
		}
	}
}

func TestResolveTellsATermThatMatchesNothingBesideOthers(t *testing.T) {
	sim := newStandIn(t, nil)
	st := sim.state()
	r := resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{Subnets: []v1alpha1.SelectorTerm{
		{ID: st.Subnets[0].ID}, {Tags: map[string]string{"team": "nobody"}}}}})
	f := finding(r, v1alpha1.ConditionSubnetsReady)
	if !f.OK || len(r.Subnets) != 1 || !strings.Contains(f.Message, "none with tags team=nobody") {
		t.Errorf("%+v", f)
	}
}

// TestImagesFollowTheClustersVersion: after an upgrade, nodes with the old
// images have drifted.
func TestImagesFollowTheClustersVersion(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(func(cfg *Config) { cfg.KubernetesVersion = "1.36" })
	before := resolve(t, c, &v1alpha1.NodeTemplate{})
	if err := c.SetKubernetesVersion("1.37"); err != nil {
		t.Fatal(err)
	}
	after := resolve(t, c, &v1alpha1.NodeTemplate{})
	m := &capacity.Machine{Arch: "amd64"}
	old, _ := before.image(m)
	if now, ok := after.image(m); !ok || !strings.Contains(old.Name, "-1.36-") || !strings.Contains(now.Name, "-1.37-") {
		t.Errorf("before %s, now %s", old.Name, now.Name)
	}
	if reason, _ := after.Drift(Instance{ImageID: old.ID, SubnetID: after.Subnets[0].ID}, m); reason != DriftImage {
		t.Errorf("drift %q", reason)
	}
	if err := c.SetKubernetesVersion("v1.38"); err == nil || c.KubernetesVersion() != "1.37" {
		t.Errorf("%v, version %s", err, c.KubernetesVersion())
	}
}

func TestAVersionOfAParameterIsFollowed(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	latest := al2023Param("1.37", "x86_64", "standard", "latest")
	r := resolve(t, c, &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{SSMParameter: latest + ":1"}}}})
	if len(r.Images) != 1 || !strings.HasSuffix(r.Images[0].Name, "v20260512") {
		t.Errorf("version 1: %+v", r.Images)
	}
	r = resolve(t, c, &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIs: []v1alpha1.AMITerm{{SSMParameter: latest + ":1"}, {SSMParameter: latest}, {SSMParameter: latest + ":3"}}}})
	if f := finding(r, v1alpha1.ConditionAMIsReady); len(r.Images) != 2 || !strings.Contains(f.Message, "none with SSM parameter "+latest+":3") {
		t.Errorf("with the newest, and one that is not there: %+v, %+v", r.Images, f)
	}
}

func TestResolveBottlerocketAndVariants(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	if _, err := c.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for family, marks := range map[v1alpha1.AMIFamily]map[string]string{
		v1alpha1.AMIFamilyAL2023:       {"m5.large": "x86_64-standard", "m7g.large": "arm64-standard", "g5.xlarge": "x86_64-nvidia"},
		v1alpha1.AMIFamilyBottlerocket: {"m5.large": "x86_64", "m7g.large": "arm64", "g5.xlarge": "nvidia-x86_64"},
	} {
		r := resolve(t, c, &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{AMIFamily: family}})
		if !r.Ready() {
			t.Errorf("%s: %+v", family, r.Findings)
		}
		for name, mark := range marks {
			if i, ok := r.image(c.machine(name)); !ok || !strings.Contains(i.Name, mark) {
				t.Errorf("%s: %s runs %+v, want one named %s", family, name, i, mark)
			}
		}
	}
}

func TestResolveOwnLaunchTemplate(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	images := resolve(t, c, &v1alpha1.NodeTemplate{}).Images
	image := images[0]
	made, err := c.ec2.CreateLaunchTemplate(t.Context(), &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String("mine"),
		LaunchTemplateData: &types.RequestLaunchTemplateData{ImageId: aws.String(image.ID),
			BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String(image.RootDevice), Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(70)}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kind := "m5.large"
	if image.Arch == "arm64" {
		kind = "m7g.large"
	}
	claim := newClaim("a", offer(kind, "us-west-2a", onDemand, "0.1"))
	claim.Spec.EC2 = v1alpha1.EC2{LaunchTemplate: &v1alpha1.LaunchTemplateRef{Name: "mine", Version: "1"}}
	r := resolve(t, c, &claim.Spec.NodeTemplate)
	if !r.Ready() || r.RootVolumeBytes != 70*gibibyte || len(r.Planner().Archs) != 1 {
		t.Errorf("%+v", r)
	}
	record(t, c, claim)
	if l := claim.Status.Launch; l.LaunchTemplateID != *made.LaunchTemplate.LaunchTemplateId || l.LaunchTemplateVersion != "1" {
		t.Errorf("%+v", l)
	}
	if inst, err := one(c.Launch(t.Context(), claim)); err != nil || inst.ImageID != image.ID {
		t.Errorf("%+v, %v", inst, err)
	}
}

func TestResolveDenied(t *testing.T) {
	for action, condition := range map[string]string{
		"DescribeSubnets": v1alpha1.ConditionSubnetsReady, "DescribeSecurityGroups": v1alpha1.ConditionSecurityGroupsReady,
		"DescribeImages": v1alpha1.ConditionAMIsReady, "ssm:GetParameters": v1alpha1.ConditionAMIsReady,
	} {
		t.Run(action, func(t *testing.T) {
			sim := newStandIn(t, nil)
			c := sim.cloud(nil)
			sim.fault(ec2sim.Fault{Action: action, Code: "UnauthorizedOperation", Message: "You are not authorized", HTTPStatus: 403, Count: -1})
			f := finding(resolve(t, c, &v1alpha1.NodeTemplate{}), condition)
			if f.OK || !strings.Contains(f.Message, "You are not authorized") || !strings.Contains(f.Message, "deploy/") {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestTheProfileIsJudgedByWhatIsSaidOfIt(t *testing.T) {
	for name, tc := range map[string]struct {
		code, message string
		ok            bool
	}{
		"the role may not be passed": {"UnauthorizedOperation", "User: berth is not authorized to perform: iam:PassRole on resource: role/node", false},
		"there is no such profile":   {"InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", false},
		"a policy denies the type":   {"UnauthorizedOperation", "User: berth is not authorized to perform: ec2:RunInstances on resource: instance/* with an explicit deny in a service control policy", true},
		"AWS does not say what":      {"UnauthorizedOperation", "You are not authorized to perform this operation.", true},
		"a bad block device":         {"InvalidBlockDeviceMapping", "Volume of size 20GB is smaller than snapshot", true},
	} {
		t.Run(name, func(t *testing.T) {
			sim := newStandIn(t, nil)
			c := sim.cloud(nil)
			sim.fault(ec2sim.Fault{Action: "RunInstances", Code: tc.code, Message: tc.message, HTTPStatus: 403, Count: -1})
			f := finding(resolve(t, c, &v1alpha1.NodeTemplate{}), v1alpha1.ConditionInstanceProfileReady)
			if f.OK != tc.ok || !f.OK && !strings.Contains(f.Message, tc.message) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestProfilesAreJudgedBySettings: what is said of one Provisioner's launches
// is not said of another's, though both have the same profile.
func TestProfilesAreJudgedBySettings(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	sim.fault(ec2sim.Fault{Action: "RunInstances", Code: "UnauthorizedOperation", Message: "not authorized to perform: iam:PassRole", HTTPStatus: 403, Count: 1})
	a := resolve(t, c, &v1alpha1.NodeTemplate{})
	b := resolve(t, c, &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{Subnets: []v1alpha1.SelectorTerm{{ID: a.Subnets[1].ID}}}})
	if finding(a, v1alpha1.ConditionInstanceProfileReady).OK || !finding(b, v1alpha1.ConditionInstanceProfileReady).OK {
		t.Errorf("%+v\n%+v", a.Findings, b.Findings)
	}
	before := sim.calls("ec2:RunInstances")
	if again := resolve(t, c, &v1alpha1.NodeTemplate{}); finding(again, v1alpha1.ConditionInstanceProfileReady).OK || sim.calls("ec2:RunInstances") != before {
		t.Errorf("asked again: %+v", again.Findings)
	}
}

func TestResolveWhileEC2IsAway(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	sim.fault(ec2sim.Fault{Action: "DescribeSubnets", Code: "RequestLimitExceeded", HTTPStatus: 503, Count: 3})
	if _, err := c.Resolve(t.Context(), "default", &v1alpha1.NodeTemplate{}); !errors.Is(err, ErrThrottled) || !strings.Contains(err.Error(), "provisioner default") {
		t.Errorf("nothing is known yet: %v", err)
	}
	if r := resolve(t, c, &v1alpha1.NodeTemplate{}); !r.Ready() {
		t.Fatalf("%+v", r.Findings)
	}
	c.forget()
	sim.fault(ec2sim.Fault{Action: "DescribeSubnets", Code: "RequestLimitExceeded", HTTPStatus: 503, Count: 3})
	if r := resolve(t, c, &v1alpha1.NodeTemplate{}); !r.Ready() {
		t.Errorf("a throttle makes a good Provisioner bad: %+v", r.Findings)
	}
}

// between puts a proxy before the stand-in, which sees each request's form and
// may change the answer.
func (s *standIn) between(see func(form url.Values, answer string) string) {
	s.t.Helper()
	behind, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
			return
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = behind.Scheme, behind.Host, ""
		out.Body = io.NopCloser(bytes.NewReader(body))
		res, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			s.t.Error(err)
			return
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			s.t.Error(err)
			return
		}
		form, _ := url.ParseQuery(string(body)) // JSON requests are no forms; nobody looks at them.
		w.WriteHeader(res.StatusCode)
		_, _ = io.WriteString(w, see(form, string(answer)))
	}))
	s.t.Cleanup(proxy.Close)
	simtest.Isolate(s.t, proxy.URL)
}

func TestResolveGroupOfAnotherVPC(t *testing.T) {
	sim := newStandIn(t, nil)
	vpc := sim.state().VPC
	sim.between(func(form url.Values, answer string) string {
		if form.Get("Action") == "DescribeSecurityGroups" {
			return strings.ReplaceAll(answer, vpc, "vpc-other")
		}
		return answer
	})
	f := finding(resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{}), v1alpha1.ConditionSecurityGroupsReady)
	if f.OK || f.Reason != ReasonConflict || !strings.Contains(f.Message, "vpc-other") {
		t.Errorf("%+v", f)
	}
}

// TestTheProfilesDryRunIsAsLaunchesAre: policies may demand IMDSv2 or encrypted
// volumes.
func TestTheProfilesDryRunIsAsLaunchesAre(t *testing.T) {
	sim := newStandIn(t, nil)
	var sent url.Values
	sim.between(func(form url.Values, answer string) string {
		if form.Get("Action") == "RunInstances" {
			sent = form
		}
		return answer
	})
	resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{
		Tags:            map[string]string{"cost-center": "42"},
		MetadataOptions: v1alpha1.MetadataOptions{HTTPPutResponseHopLimit: 2},
		BlockDevices:    []v1alpha1.BlockDevice{{DeviceName: "/dev/xvda", VolumeSize: ptr(resource.MustParse("50Gi")), KMSKeyID: "key"}},
	}})
	for key, want := range map[string]string{
		"MetadataOptions.HttpTokens": "required", "MetadataOptions.HttpEndpoint": "enabled", "MetadataOptions.HttpPutResponseHopLimit": "2",
		"BlockDeviceMapping.1.DeviceName": "/dev/xvda", "BlockDeviceMapping.1.Ebs.VolumeSize": "50", "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
		"BlockDeviceMapping.1.Ebs.Encrypted": "true", "BlockDeviceMapping.1.Ebs.KmsKeyId": "key", "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
		"TagSpecification.1.Tag.2.Key": "cost-center",
	} {
		if got := sent.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// TestTheProfilesDryRunIsTagged: policies allow launches with the cluster's
// tags alone, so an untagged dry run would find every profile forbidden.
func TestTheProfilesDryRunIsTagged(t *testing.T) {
	sim := newStandIn(t, nil)
	tagged := map[string]bool{}
	sim.between(func(form url.Values, answer string) string {
		if form.Get("Action") != "RunInstances" {
			return answer
		}
		for n := 1; form.Has(fmt.Sprintf("TagSpecification.%d.ResourceType", n)); n++ {
			at := fmt.Sprintf("TagSpecification.%d.", n)
			for k := 1; form.Has(fmt.Sprintf("%sTag.%d.Key", at, k)); k++ {
				tag := fmt.Sprintf("%sTag.%d.", at, k)
				tagged[form.Get(at+"ResourceType")+" "+form.Get(tag+"Key")+"="+form.Get(tag+"Value")] = true
			}
		}
		return answer
	})
	resolve(t, sim.cloud(nil), &v1alpha1.NodeTemplate{})
	for _, kind := range []string{"instance", "volume", "network-interface"} {
		for _, tag := range []string{"kubernetes.io/cluster/demo=owned", v1alpha1.TagClusterUID + "=" + testConfig().ClusterUID} {
			if !tagged[kind+" "+tag] {
				t.Errorf("no tag %s on the %s", tag, kind)
			}
		}
	}
}
