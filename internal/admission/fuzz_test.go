package admission

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// FuzzCheckUserData: whatever somebody pastes, there is an answer, in bounds.
func FuzzCheckUserData(f *testing.F) {
	for _, doc := range []string{
		"", "#!/bin/sh\necho", "#cloud-config\na: [", "#cloud-config\nruncmd: []", "[settings.kubernetes]\nmax-pods = 5", "settings = 1", "[settings]\nkubernetes = 2",
		"apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig", "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"B\"\n\n--B\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--B--\n",
		"Content-Type: multipart/mixed\n\n", "Content-Type: multipart/mixed; boundary=B\n\n--B\n\nx\n--B--", "Content-Type: ;;;\n\n", "{{ .Evil }}\x00", "a: *a", "&a [*a]",
	} {
		for _, family := range []v1alpha1.AMIFamily{"", v1alpha1.AMIFamilyAL2023, v1alpha1.AMIFamilyBottlerocket, v1alpha1.AMIFamilyCustom} {
			f.Add(string(family), doc)
		}
	}
	f.Fuzz(func(t *testing.T, family, doc string) {
		err := checkUserData(v1alpha1.AMIFamily(family), doc)
		if err == nil && len(doc) > maxUserData {
			t.Errorf("%d bytes accepted", len(doc))
		}
		if err == nil && family != string(v1alpha1.AMIFamilyCustom) && strings.TrimSpace(doc) != "" && strings.Contains(doc, "\x00") {
			t.Error("a NUL byte accepted")
		}
	})
}

// FuzzProvisioner: whatever a Provisioner says, defaulting and validation end
// without a panic; the defaults apply, and a second time add nothing.
func FuzzProvisioner(f *testing.F) {
	for _, doc := range []string{
		`{"metadata":{"name":"a"},"spec":{}}`, `{"spec":null}`, `{"spec":[]}`, `null`, `[]`,
		`{"metadata":{"name":"a"},"spec":{"requirements":[{"key":"kubernetes.io/arch","operator":"In","values":["arm64"]},{"key":"a","operator":"Gt","values":[]},{"key":"a","operator":"Lt","values":["-9223372036854775808"]}],"limits":{"cpu":"9e18","hourlyCost":"1n"}}}`,
		`{"spec":{"requirements":null,"ec2":{"amis":null,"subnets":[],"amiFamily":null,"launchTemplate":{}}}}`,
		`{"spec":{"disruption":{"budgets":[{"schedule":"TZ= 0","timeZone":"../../etc/passwd"},{"schedule":"CRON_TZ=a"},{"schedule":"@every 1s"}]},"taints":[{}],"startupTaints":[{}],"labels":{"":""},"annotations":{"a":"b"}}}`,
		`{"spec":{"requirements":[{"key":"a","operator":"NotIn","values":["9"]},{"key":"a","operator":"Gt","values":["8"]},{"key":"a","operator":"Lt","values":["10"]}]}}`,
		`{"spec":{"requirements":[{"key":"a","operator":"Gt","values":["9223372036854775807"]}],"limits":{"cpu":"-1"}}}`,
	} {
		f.Add(doc)
	}
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	claim := &v1alpha1.NodeClaim{}
	claim.Status.InstanceType, claim.Status.HourlyPrice = "m7i.large", "0.1"
	fleet := Fleet{Claims: []*v1alpha1.NodeClaim{claim}, RefuseAbove: 0.5}
	f.Fuzz(func(t *testing.T, doc string) {
		d, err := DefaultProvisioner([]byte(doc), nil, "prod")
		if err == nil && len(d.Patch) > 0 && !ambiguous(doc) {
			after := applyPatch(t, doc, d.Patch)
			again, err := DefaultProvisioner([]byte(after), nil, "prod")
			if err != nil || len(again.Patch) > 0 {
				t.Errorf("the second time: %s, %v\nafter %s", again.Patch, err, after)
			}
		}
		p := &v1alpha1.Provisioner{}
		if json.Unmarshal([]byte(doc), p) != nil {
			return
		}
		for _, old := range []*v1alpha1.Provisioner{nil, p.DeepCopy(), defaultProvisioner(), gpuProvisioner()} {
			if v := ValidateProvisioner(p, old, s, fleet); (v.Denied != "") != (v.Result == ResultDenied) {
				t.Errorf("denied %q with result %s", v.Denied, v.Result)
			}
			// What was stored was written by somebody too.
			if old != nil {
				ValidateProvisioner(old, p, s, fleet)
			}
		}
	})
}

// FuzzWorkload: whatever a review of a workload holds, it is allowed as it is, with
// warnings that fit a line; a dry run says the same and tells nobody.
func FuzzWorkload(f *testing.F) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	for _, kind := range []string{"Deployment", "Job", "CronJob", "DaemonSet", "Pod"} {
		for _, doc := range []string{
			`{"metadata":{"name":"web","namespace":"shop","uid":"7"},"spec":{"replicas":200,"template":{"metadata":{"labels":{"app":"web"},"annotations":{"berth.dev/spot-share":"70%","berth.dev/do-not-disrupt":"true"}},"spec":{"containers":[{"name":"a","ports":[{"hostPort":80}],"resources":{"requests":{"cpu":"1"}}}]}}}}`,
			`{"spec":{"jobTemplate":{"spec":{"parallelism":3,"completions":1,"template":{"spec":{"nodeSelector":{"kubernetes.io/os":"windows"}}}}}}}`,
			`{"metadata":{"ownerReferences":[{"controller":true}]},"spec":{"template":{}}}`, `{"spec":{"template":null}}`, `null`, `[]`, `{"spec":{"replicas":-9223372036854775808,"template":{"spec":{}}}}`,
			`{"spec":{"template":{"spec":{"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchExpressions":[{"key":"","operator":"x"}]}}]}}}}}}`,
		} {
			f.Add(kind, doc, doc, true)
			f.Add(kind, doc, "", false)
		}
	}
	f.Fuzz(func(t *testing.T, kind, doc, old string, update bool) {
		operation := "CREATE"
		if update {
			operation = "UPDATE"
		}
		if w, err := ParseWorkload(kind, doc); err == nil && (w.template == "" || w.Object().Kind != kind) {
			t.Errorf("%q was read as %+v", doc, w)
		}
		review := reviewOf(kind, "workloads", operation, doc, old)
		_, d, err := reviewWorkload(review, s, 1)
		if err != nil {
			return
		}
		if d.Denied != "" || len(d.Patch) > 0 {
			t.Errorf("denied %q, patched %s", d.Denied, d.Patch)
		}
		for _, w := range d.Warnings {
			if len(w) > maxAdvice {
				t.Errorf("a warning of %d bytes: %s", len(w), w)
			}
		}
		if strings.Contains(doc+old, "dryRun") {
			return
		}
		_, dry, err := reviewWorkload(strings.Replace(review, `"dryRun":false`, `"dryRun":true`, 1), s, 1)
		if err != nil || len(dry.Warnings) != len(d.Warnings) || dry.About != nil {
			t.Errorf("a dry run answers %q about %v, error %v", dry.Warnings, dry.About, err)
		}
	})
}

// FuzzSharedPod: whatever a pod that asks for a share of spot holds, its patch
// applies, and admitting it again changes nothing.
func FuzzSharedPod(f *testing.F) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	for _, spec := range []string{
		`{"containers":[{"name":"a"}]}`, `{}`, `{"affinity":null}`, `{"affinity":{}}`, `{"affinity":{"nodeAffinity":null}}`, `{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":null}}}`,
		`{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}}`, `{"nodeSelector":{"berth.dev/capacity-type":"spot"}}`,
		`{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{}]}}}}`,
	} {
		for _, labels := range []string{`null`, `{}`, `{"a":"b"}`, `{"berth.dev/capacity-choice":"spot"}`, `{"berth.dev/capacity-choice":"x"}`} {
			f.Add(spec, labels, "70%", "1")
		}
	}
	f.Fuzz(func(t *testing.T, spec, labels, share, min string) {
		annotations, err := json.Marshal(map[string]string{v1alpha1.AnnotationSpotShare: share, v1alpha1.AnnotationMinOnDemand: min})
		if err != nil {
			return
		}
		doc := `{"metadata":{"labels":` + labels + `,"annotations":` + string(annotations) + `,"ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]},"spec":` + spec + `}`
		if !json.Valid([]byte(doc)) || ambiguous(doc) {
			return
		}
		ledger := NewSpotLedger()
		_, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, ledger, 0)
		if err != nil || len(d.Patch) == 0 {
			return
		}
		after := applyPatch(t, doc, d.Patch)
		_, again, err := reviewPod(reviewOf("Pod", "pods", "CREATE", after, ""), s, ledger, 0)
		if err != nil || len(again.Patch) > 0 {
			t.Errorf("the second time: %s, %v\nafter %s", again.Patch, err, after)
		}
	})
}
