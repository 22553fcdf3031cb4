package ec2

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// shown is a query as a person would write it.
func shown(queries []query) []string {
	var out []string
	for _, q := range queries {
		var parts []string
		for _, f := range q.filters {
			parts = append(parts, *f.Name+"="+strings.Join(f.Values, "|"))
		}
		if q.owners != nil {
			parts = append(parts, "owners="+strings.Join(q.owners, "|"))
		}
		out = append(out, strings.Join(parts, " "))
	}
	return out
}

func TestSelectorQueries(t *testing.T) {
	got := selectorQueries([]v1alpha1.SelectorTerm{
		{ID: "subnet-2"},
		{Tags: map[string]string{"team": "a*b?", "kubernetes.io/cluster/x": "*"}},
		{ID: "subnet-1"}, {ID: "subnet-2"},
	}, "subnet-id")
	want := []string{
		`tag-key=kubernetes.io/cluster/x tag:team=a\*b\?`,
		"subnet-id=subnet-1|subnet-2",
	}
	if diff := cmp.Diff(want, shown(got)); diff != "" {
		t.Error(diff)
	}
	if got[0].key() == got[1].key() {
		t.Error("two questions with one key")
	}
}

func TestPlanImages(t *testing.T) {
	al, br, custom := v1alpha1.AMIFamilyAL2023, v1alpha1.AMIFamilyBottlerocket, v1alpha1.AMIFamilyCustom
	tests := map[string]struct {
		family  v1alpha1.AMIFamily
		terms   []v1alpha1.AMITerm
		params  []string
		queries []string
		wrong   string
	}{
		"AL2023 by default": {family: al, params: []string{
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/recommended/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/nvidia/recommended/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/neuron/recommended/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/standard/recommended/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/nvidia/recommended/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/neuron/recommended/image_id",
		}},
		"AL2023 of a day": {family: al, terms: []v1alpha1.AMITerm{{Alias: "al2023@v20260101"}}, params: []string{
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/amazon-eks-node-al2023-x86_64-standard-1.37-v20260101/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/nvidia/amazon-eks-node-al2023-x86_64-nvidia-1.37-v20260101/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/neuron/amazon-eks-node-al2023-x86_64-neuron-1.37-v20260101/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/standard/amazon-eks-node-al2023-arm64-standard-1.37-v20260101/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/nvidia/amazon-eks-node-al2023-arm64-nvidia-1.37-v20260101/image_id",
			"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/arm64/neuron/amazon-eks-node-al2023-arm64-neuron-1.37-v20260101/image_id",
		}},
		"Bottlerocket of a version": {family: br, terms: []v1alpha1.AMITerm{{Alias: "bottlerocket@v1.20.0"}}, params: []string{
			"/aws/service/bottlerocket/aws-k8s-1.37/x86_64/1.20.0/image_id",
			"/aws/service/bottlerocket/aws-k8s-1.37-nvidia/x86_64/1.20.0/image_id",
			"/aws/service/bottlerocket/aws-k8s-1.37/arm64/1.20.0/image_id",
			"/aws/service/bottlerocket/aws-k8s-1.37-nvidia/arm64/1.20.0/image_id",
		}},
		"ids together, names and tags by themselves, own parameters": {family: custom,
			terms:  []v1alpha1.AMITerm{{ID: "ami-2"}, {Name: "golden-*", Owner: "123456789012"}, {Tags: map[string]string{"a": "b"}, Name: "x"}, {ID: "ami-1"}, {SSMParameter: "/mine"}},
			params: []string{"/mine"}, queries: []string{"name=golden-* owners=123456789012", "name=x tag:a=b owners=self|amazon", "image-id=ami-1|ami-2"}},
		"a name that is empty":          {family: al, terms: []v1alpha1.AMITerm{{ID: "ami-1"}, {Name: ""}}, wrong: "ec2.amis[1] matches every image of Amazon"},
		"tags that are empty":           {family: al, terms: []v1alpha1.AMITerm{{Tags: map[string]string{}}}, wrong: "ec2.amis[0] matches every image of Amazon"},
		"an owner and nothing else":     {family: al, terms: []v1alpha1.AMITerm{{Owner: "self"}}, wrong: "ec2.amis[0] matches"},
		"a name of wildcards":           {family: al, terms: []v1alpha1.AMITerm{{Name: "**"}}, wrong: "ec2.amis[0] matches"},
		"any image of one's own":        {family: al, terms: []v1alpha1.AMITerm{{Name: "*", Owner: "self"}}, queries: []string{"name=* owners=self"}},
		"an alias of another family":    {family: al, terms: []v1alpha1.AMITerm{{Alias: "bottlerocket@latest"}}, wrong: "set ec2.amiFamily: Bottlerocket"},
		"an alias that nobody knows":    {family: al, terms: []v1alpha1.AMITerm{{Alias: "al2@latest"}}, wrong: "unknown alias"},
		"a custom family without image": {family: custom, wrong: "needs ec2.amis"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			plan, wrong := planImages(tc.family, tc.terms, "1.37")
			if (wrong == "") != (tc.wrong == "") || !strings.Contains(wrong, tc.wrong) {
				t.Fatalf("message %q, want one with %q", wrong, tc.wrong)
			}
			var params []string
			for _, p := range plan.params {
				params = append(params, p.name)
			}
			if diff := cmp.Diff(tc.params, params); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.queries, shown(plan.queries)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestImageOf(t *testing.T) {
	name := "x"
	if _, ok := imageOf(types.Image{ImageId: &name, Architecture: types.ArchitectureValuesX8664Mac}); ok {
		t.Error("an image of macOS is no image for nodes")
	}
}
