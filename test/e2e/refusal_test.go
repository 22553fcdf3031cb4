package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// TestProvisionersAreCheckedAtApply sends specs to the real API server. Each
// refusal must name the field and say what is wrong with it.
func TestProvisionersAreCheckedAtApply(t *testing.T) {
	for name, tc := range map[string]struct {
		spec string
		// refused is what the message must contain; empty: accepted.
		refused []string
	}{
		"nothing at all":     {spec: `{}`},
		"every kind of rule": {spec: everything},
		"an unknown operator": {
			spec:    `{requirements: [{key: kubernetes.io/arch, operator: Is, values: [arm64]}]}`,
			refused: []string{"spec.requirements[0].operator", "NotIn"}},
		"In without values": {
			spec:    `{requirements: [{key: kubernetes.io/arch, operator: In}]}`,
			refused: []string{"spec.requirements[0]", "at least one value"}},
		"Gt with a word": {
			spec:    `{requirements: [{key: berth.dev/instance-cpu, operator: Gt, values: [many]}]}`,
			refused: []string{"spec.requirements[0]", "whole number"}},
		"an unknown berth.dev label": {
			spec:    `{requirements: [{key: berth.dev/instance-colour, operator: Exists}]}`,
			refused: []string{"spec.requirements[0]", "instance-{category"}},
		"a requirement on the host name": {
			spec:    `{requirements: [{key: kubernetes.io/hostname, operator: In, values: [a]}]}`,
			refused: []string{"spec.requirements[0]", "cannot be required"}},
		"an architecture that does not exist": {
			spec:    `{requirements: [{key: kubernetes.io/arch, operator: In, values: [x86_64]}]}`,
			refused: []string{"spec.requirements[0]", "amd64 and arm64"}},
		"a capacity type that does not exist": {
			spec:    `{requirements: [{key: berth.dev/capacity-type, operator: In, values: [cheap]}]}`,
			refused: []string{"spec.requirements[0]", "spot, on-demand"}},
		"a label under our domain": {
			spec:    `{labels: {berth.dev/team: a}}`,
			refused: []string{"spec.labels", "set by Berth"}},
		"a label that follows from the instance": {
			spec:    `{labels: {topology.kubernetes.io/zone: us-west-2a}}`,
			refused: []string{"spec.labels", "requirements instead"}},
		"a taint with an unknown effect": {
			spec:    `{taints: [{key: a, effect: Never}]}`,
			refused: []string{"spec.taints", "NoExecute"}},
		"a taint twice": {
			spec:    `{taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule, value: b}]}`,
			refused: []string{"spec.taints[1]", "Duplicate"}},
		"a taint that is a startup taint too": {
			spec:    `{taints: [{key: a, effect: NoSchedule}], startupTaints: [{key: a, effect: NoSchedule}]}`,
			refused: []string{"spec.startupTaints", "taints"}},
		"a limit on something unknown": {
			spec:    `{limits: {cpus: "5"}}`,
			refused: []string{"spec.limits", "hourlyCost"}},
		"a negative limit": {
			spec:    `{limits: {cpu: "-5"}}`,
			refused: []string{"spec.limits", "negative"}},
		"a negative ttl": {
			spec:    `{ttlSecondsAfterEmpty: -1}`,
			refused: []string{"spec.ttlSecondsAfterEmpty"}},
		"a budget that is no number": {
			spec:    `{disruption: {budgets: [{nodes: half}]}}`,
			refused: []string{"spec.disruption.budgets[0].nodes"}},
		"a schedule without duration": {
			spec:    `{disruption: {budgets: [{nodes: "1", schedule: "0 2 * * *"}]}}`,
			refused: []string{"spec.disruption.budgets[0]", "go together"}},
		"a schedule that is no cron line": {
			spec:    `{disruption: {budgets: [{nodes: "1", schedule: "nightly", duration: 1h}]}}`,
			refused: []string{"spec.disruption.budgets[0].schedule"}},
		"a drain without end": {
			spec:    `{drain: {deadline: 0s}}`,
			refused: []string{"spec.drain.deadline"}},
		"an unknown binding": {
			spec:    `{binding: Sometimes}`,
			refused: []string{"spec.binding", "Nominate"}},
		"an AMI by two ways": {
			spec:    `{ec2: {amis: [{id: ami-1, alias: al2023@latest}]}}`,
			refused: []string{"spec.ec2.amis[0]", "exactly one"}},
		"a custom AMI without image": {
			spec:    `{ec2: {amiFamily: Custom}}`,
			refused: []string{"spec.ec2", "Custom needs"}},
		"a subnet by tag and id": {
			spec:    `{ec2: {subnets: [{id: subnet-1, tags: {a: b}}]}}`,
			refused: []string{"spec.ec2.subnets[0]", "either id or tags"}},
		"a reserved tag": {
			spec:    `{ec2: {tags: {kubernetes.io/cluster/other: owned}}}`,
			refused: []string{"spec.ec2.tags", "reserved"}},
		"a launch template without version": {
			spec:    `{ec2: {launchTemplate: {name: mine}}}`,
			refused: []string{"spec.ec2.launchTemplate.version"}},
		"user data that is no MIME document": {
			spec:    `{ec2: {userData: "Content-Type: multipart/mixed; boundary=x\n\nno parts"}}`,
			refused: []string{"spec.ec2.userData"}},
		"requirements that contradict each other": {
			spec: `{requirements: [{key: kubernetes.io/arch, operator: In, values: [arm64]},
			        {key: kubernetes.io/arch, operator: In, values: [amd64]}]}`,
			refused: []string{"spec.requirements", "kubernetes.io/arch"}},
		"a field that does not exist": {
			spec:    `{requirement: []}`,
			refused: []string{"requirement"}},
	} {
		t.Run(name, func(t *testing.T) {
			pr := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Provisioner",
				"metadata": map[string]any{"name": "check-" + utilrand.String(6)},
			}}
			var spec map[string]any
			if err := yaml.Unmarshal([]byte(tc.spec), &spec); err != nil {
				t.Fatal(err)
			}
			pr.Object["spec"] = spec
			err := shared.Client.Create(t.Context(), pr, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
			if len(tc.refused) == 0 {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if !contains(err.Error(), tc.refused...) {
				t.Fatalf("refused with %q, which does not name all of %q", err, tc.refused)
			}
		})
	}
}

const everything = `
labels: {team: a}
annotations: {example.com/contact: a}
taints: [{key: dedicated, value: a, effect: NoSchedule}]
startupTaints: [{key: example.com/cni, effect: NoExecute}]
requirements:
- {key: kubernetes.io/arch, operator: In, values: [amd64, arm64]}
- {key: topology.kubernetes.io/zone, operator: NotIn, values: [us-west-2d]}
- {key: berth.dev/capacity-type, operator: In, values: [spot, on-demand]}
- {key: berth.dev/instance-cpu, operator: Gt, values: ["1"]}
- {key: berth.dev/instance-cpu, operator: Lt, values: ["65"]}
- {key: berth.dev/instance-gpu-name, operator: DoesNotExist}
- {key: team, operator: Exists}
weight: 10
limits: {cpu: "1000", memory: 4000Gi, nvidia.com/gpu: "8", nodes: "50", hourlyCost: "99.5"}
ttlSecondsAfterEmpty: 0
ttlSecondsUntilExpired: 2592000
consolidation: {enabled: false}
disruption: {budgets: [{nodes: 20%}, {nodes: "0", reasons: [Expired], schedule: "0 8 * * 1-5", duration: 10h, timeZone: Europe/Berlin}]}
drain: {deadline: 30m}
binding: Immediate
kubelet:
  maxPods: 60
  systemReserved: {cpu: 100m, memory: 200Mi}
  kubeReserved: {ephemeral-storage: 2Gi}
  evictionHard: {memory.available: 5%, nodefs.available: 10Gi}
  clusterDNS: [10.100.0.10]
ec2:
  amiFamily: Bottlerocket
  amis: [{alias: bottlerocket@latest}]
  subnets: [{tags: {Name: "*"}}, {id: subnet-0abc}]
  securityGroups: [{id: sg-0abc}]
  instanceProfile: nodes
  userData: "[settings.host-containers.admin]\nenabled = false\n"
  blockDevices: [{deviceName: /dev/xvdb, rootVolume: true, volumeSize: 100Gi, volumeType: gp3, iops: 4000, throughput: 250}]
  metadataOptions: {httpPutResponseHopLimit: 2}
  tags: {cost-center: "42"}
  capacityReservations: [{id: cr-0abc}]
`

func TestClaimSpecIsImmutable(t *testing.T) {
	b := newBench(t, shared, nil)
	claim := b.lone("web")
	claim.Spec.Offerings[0].InstanceType = "m5.24xlarge"
	err := b.c.Client.Update(b.ctx, &claim)
	if err == nil || !strings.Contains(err.Error(), "immutable") {
		t.Fatalf("changing a claim's spec: %v", err)
	}
}

// TestBadCommandLines: one line that says what to do, and exit code 2.
func TestBadCommandLines(t *testing.T) {
	bin, err := cluster.Bin()
	if err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	kubeconfig := shared.Kubeconfig
	aws := []string{"AWS_ACCESS_KEY_ID=sim", "AWS_SECRET_ACCESS_KEY=sim"}
	for name, tc := range map[string]struct {
		args []string
		env  []string
		want string
	}{
		"provisioner with an unknown flag": {[]string{"provisioner", "--no-such-flag"}, nil, "--help"},
		"provisioner without cluster name": {[]string{"provisioner", "--kubeconfig", kubeconfig}, nil, "--cluster-name"},
		"provisioner without kubeconfig":   {[]string{"provisioner", "--cluster-name", "x", "--kubeconfig", nowhere}, nil, "--kubeconfig"},
		"provisioner without region":       {[]string{"provisioner", "--cluster-name", "x", "--kubeconfig", kubeconfig}, aws, "AWS_REGION"},
		"provisioner with an endpoint that is not there": {[]string{"provisioner", "--cluster-name", "x", "--kubeconfig", kubeconfig},
			append(aws, "AWS_REGION=us-west-2", "AWS_ENDPOINT_URL=http://127.0.0.1:1"), "AWS_ENDPOINT_URL"},
		"provisioner in a region that does not exist": {[]string{"provisioner", "--cluster-name", "x", "--kubeconfig", kubeconfig},
			append(aws, "AWS_REGION=mars-north-1", "AWS_ENDPOINT_URL="+shared.EC2Endpoint), "AWS_REGION"},
		"provisioner with an unknown log level":       {[]string{"provisioner", "--cluster-name", "x", "--log-level", "loud"}, nil, "--log-level"},
		"webhook with an unknown flag":                {[]string{"webhook", "--no-such-flag"}, nil, "--help"},
		"webhook without kubeconfig":                  {[]string{"webhook", "--cluster-name", "x", "--kubeconfig", nowhere}, nil, "--kubeconfig"},
		"ec2sim with an unknown flag":                 {[]string{"ec2sim", "--no-such-flag"}, nil, "help"},
		"devcluster with an unknown flag":             {[]string{"devcluster", "up", "--no-such-flag"}, nil, "help"},
		"kubectl-berth with a file that is not there": {[]string{"kubectl-berth", "plan", "-f", nowhere}, nil, nowhere},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, tc.args[0]), tc.args[1:]...)
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true"}, tc.env...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 2 {
				t.Fatalf("exit: %v; want code 2\n%s", err, stderr.String())
			}
			if got := strings.TrimSpace(stderr.String()); strings.Count(got, "\n") > 0 || !strings.Contains(got, tc.want) {
				t.Fatalf("said %q; want one line with %q", got, tc.want)
			}
		})
	}
}
