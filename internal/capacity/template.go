package capacity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TemplateHash is a hash of all in a Provisioner that a node is made of, with what
// Berth takes where nothing is said: that the webhook writes it down changes
// nothing. A claim of another hash has drifted, unless it is older than that (see
// MadeAlike).
func TemplateHash(s *v1alpha1.ProvisionerSpec, clusterName string) string {
	return hashOf(s.NodeTemplate.Complete(clusterName))
}

func hashOf(t v1alpha1.NodeTemplate) string {
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// MadeAlike returns a function that reports whether a claim was made of a template
// that stands for the same nodes as the Provisioner's does now. A claim without a
// hash is taken for one.
//
// Claims that were made before templates were completed for this have the hash of
// theirs as it was written. Such a claim is alike when its own copy of the
// template, completed, equals the Provisioner's. The copy's labels, to which the
// planner adds, do not count: that the hash is the one of the copy with the
// Provisioner's labels proves that those were the same.
func MadeAlike(s *v1alpha1.ProvisionerSpec, clusterName string) func(*v1alpha1.NodeClaim) bool {
	now := TemplateHash(s, clusterName)
	// Claims of one old hash are of one template.
	known := map[string]bool{"": true, now: true}
	return func(c *v1alpha1.NodeClaim) bool {
		was := c.Annotations[v1alpha1.AnnotationProvisionerHash]
		alike, ok := known[was]
		if !ok {
			copied := c.Spec.NodeTemplate
			copied.Labels = s.Labels
			alike = hashOf(copied.Complete(clusterName)) == now && (was == hashOf(copied) || was == hashOf(undefaulted(copied)))
			known[was] = alike
		}
		return alike
	}
}

// undefaulted takes back what the API server has written into a claim whose
// Provisioner says nothing at all under ec2.
func undefaulted(t v1alpha1.NodeTemplate) v1alpha1.NodeTemplate {
	t.EC2.AMIFamily, t.EC2.MetadataOptions = "", v1alpha1.MetadataOptions{}
	return t
}
