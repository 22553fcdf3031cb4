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
	f.Fuzz(func(t *testing.T, doc string) {
		d, err := DefaultProvisioner([]byte(doc), "prod")
		if err == nil && len(d.Patch) > 0 && !ambiguous(doc) {
			after := applyPatch(t, doc, d.Patch)
			again, err := DefaultProvisioner([]byte(after), "prod")
			if err != nil || len(again.Patch) > 0 {
				t.Errorf("the second time: %s, %v\nafter %s", again.Patch, err, after)
			}
		}
		p := &v1alpha1.Provisioner{}
		if json.Unmarshal([]byte(doc), p) != nil {
			return
		}
		if v := ValidateProvisioner(p, nil, s, Fleet{}); (v.Denied != "") != (v.Result == ResultDenied) {
			t.Errorf("denied %q with result %s", v.Denied, v.Result)
		}
	})
}
