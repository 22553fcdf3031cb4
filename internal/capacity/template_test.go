package capacity

import (
	"encoding/json"
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// specOf reads a Provisioner's spec.
func specOf(t *testing.T, doc string) *v1alpha1.ProvisionerSpec {
	t.Helper()
	s := &v1alpha1.ProvisionerSpec{}
	if err := json.Unmarshal([]byte(doc), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// twins are pairs of specs that stand for the same nodes: as they may be written,
// and as the API server and the webhook complete them.
var twins = map[string][2]string{
	"nothing said": {`{}`, `{"ec2":{"amiFamily":"AL2023","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"required","httpPutResponseHopLimit":1},
		"subnets":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"securityGroups":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"amis":[{"alias":"al2023@latest"}]}}`},
	"groups alone": {`{"labels":{"a":"b"},"ec2":{"amiFamily":"AL2023","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"required","httpPutResponseHopLimit":1},"securityGroups":[{"id":"sg-1"}]}}`,
		`{"labels":{"a":"b"},"ec2":{"amiFamily":"AL2023","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"required","httpPutResponseHopLimit":1},
		"subnets":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"securityGroups":[{"id":"sg-1"}],"amis":[{"alias":"al2023@latest"}]}}`},
	"Bottlerocket": {`{"ec2":{"amiFamily":"Bottlerocket","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"optional","httpPutResponseHopLimit":2}}}`,
		`{"ec2":{"amiFamily":"Bottlerocket","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"optional","httpPutResponseHopLimit":2},
		"subnets":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"securityGroups":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"amis":[{"alias":"bottlerocket@latest"}]}}`},
	"a launch template, and what it replaces": {`{"kubelet":{"clusterDNS":["10.0.0.1"]},"ec2":{"amiFamily":"AL2023","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"optional","httpPutResponseHopLimit":1},
		"securityGroups":[{"id":"sg-1"}],"capacityReservations":[{"id":"cr-1"}],"launchTemplate":{"name":"t","version":"1"}}}`,
		`{"ec2":{"amiFamily":"AL2023","metadataOptions":{"httpEndpoint":"enabled","httpTokens":"required","httpPutResponseHopLimit":1},
		"subnets":[{"tags":{"kubernetes.io/cluster/prod":"*"}}],"launchTemplate":{"name":"t","version":"1"}}}`},
}

// changes of the second of "nothing said" that nodes differ by.
var changes = []string{
	`{"labels":{"a":"b"}}`, `{"taints":[{"key":"a","effect":"NoSchedule"}]}`, `{"kubelet":{"maxPods":5}}`,
	`{"ec2":{"amiFamily":"Bottlerocket"}}`, `{"ec2":{"subnets":[{"tags":{"kubernetes.io/cluster/other":"*"}}]}}`,
	`{"ec2":{"securityGroups":[{"id":"sg-1"}]}}`, `{"ec2":{"amis":[{"alias":"al2023@v20260101"}]}}`,
	`{"ec2":{"metadataOptions":{"httpPutResponseHopLimit":2}}}`, `{"ec2":{"launchTemplate":{"name":"t","version":"1"}}}`,
}

func TestTemplateHashIsOfWhatATemplateStandsFor(t *testing.T) {
	for name, pair := range twins {
		if a, b := TemplateHash(specOf(t, pair[0]), "prod"), TemplateHash(specOf(t, pair[1]), "prod"); a != b {
			t.Errorf("%s: %s as written, %s completed", name, a, b)
		}
	}
	seen := map[string]string{TemplateHash(specOf(t, `{}`), "prod"): "{}"}
	for _, c := range changes {
		hash := TemplateHash(specOf(t, c), "prod")
		if other, ok := seen[hash]; ok {
			t.Errorf("%s has the hash of %s", c, other)
		}
		seen[hash] = c
	}
	// What most clusters have stored keeps its hash.
	whole := specOf(t, twins["nothing said"][1])
	if TemplateHash(whole, "prod") != hashOf(whole.NodeTemplate) {
		t.Error("the hash of a template that says all is not the one of what it says")
	}
	said := specOf(t, `{}`)
	TemplateHash(said, "prod")
	if said.EC2.AMIFamily != "" || said.EC2.Subnets != nil {
		t.Error("the spec was changed")
	}
}

// oldClaim is a claim of a Provisioner as Berth made it before templates were
// completed for their hashes, and as the API server stores it.
func oldClaim(t *testing.T, s *v1alpha1.ProvisionerSpec) *v1alpha1.NodeClaim {
	t.Helper()
	c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationProvisionerHash: hashOf(s.NodeTemplate)}}}
	c.Spec.NodeTemplate = *s.NodeTemplate.DeepCopy()
	if c.Spec.EC2.AMIFamily == "" {
		c.Spec.EC2.AMIFamily = v1alpha1.AMIFamilyAL2023
	}
	if c.Spec.EC2.MetadataOptions == (v1alpha1.MetadataOptions{}) {
		c.Spec.EC2.MetadataOptions = v1alpha1.MetadataOptions{HTTPEndpoint: "enabled", HTTPTokens: "required", HTTPPutResponseHopLimit: 1}
	}
	labels := map[string]string{"chosen-by": "the-planner"}
	maps.Copy(labels, c.Spec.Labels)
	c.Spec.Labels = labels
	return c
}

// TestAnUpgradeIsNoDrift: neither claims made before hashes were of completed
// templates, nor the webhook's first look at their Provisioner, nor what has to be
// taken out beside a launch template, makes nodes drift; a change still does.
func TestAnUpgradeIsNoDrift(t *testing.T) {
	for name, pair := range twins {
		for i, made := range pair {
			c := oldClaim(t, specOf(t, made))
			for j, now := range pair {
				if !MadeAlike(specOf(t, now), "prod")(c) {
					t.Errorf("%s: a claim made of form %d has drifted from form %d", name, i, j)
				}
			}
		}
	}
	for _, made := range twins["nothing said"] {
		for _, change := range changes {
			if MadeAlike(specOf(t, change), "prod")(oldClaim(t, specOf(t, made))) {
				t.Errorf("no drift by %s", change)
			}
		}
	}
	// Labels that are taken away count too, though the claim's copy has them.
	if MadeAlike(specOf(t, `{}`), "prod")(oldClaim(t, specOf(t, `{"labels":{"a":"b"}}`))) {
		t.Error("no drift by a label that is gone")
	}
	alike := MadeAlike(specOf(t, `{}`), "prod")
	for range 2 { // The second answer is a remembered one.
		if !alike(oldClaim(t, specOf(t, `{}`))) || alike(oldClaim(t, specOf(t, `{"labels":{"a":"b"}}`))) || !alike(&v1alpha1.NodeClaim{}) {
			t.Error("claims of several templates are mixed up")
		}
	}
}
