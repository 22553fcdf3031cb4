package ec2

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// anyValue in a selector's tags stands for any value.
const anyValue = "*"

// tagFilters select by tags, all of which must match.
func tagFilters(tags map[string]string) []types.Filter {
	out := make([]types.Filter, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if v := tags[k]; v == anyValue {
			out = append(out, filter("tag-key", literal(k)))
		} else {
			out = append(out, filter("tag:"+k, literal(v)))
		}
	}
	return out
}

// literal protects the wildcards of EC2's filters ("Filter your resources").
var literalReplacer = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

func literal(s string) string { return literalReplacer.Replace(s) }

// query is one Describe call.
type query struct {
	filters []types.Filter
	// owners of images; nil for other objects.
	owners []string
	// says is the term in a person's words.
	says string
}

// key identifies a query.
func (q query) key() string {
	var b strings.Builder
	for _, f := range q.filters {
		fmt.Fprintf(&b, "%q%q", *f.Name, f.Values)
	}
	fmt.Fprintf(&b, "%q", q.owners)
	return b.String()
}

// selectorQueries turn terms into calls: one for all ids together and one for
// each set of tags. idFilter is the filter's name for an id.
func selectorQueries(terms []v1alpha1.SelectorTerm, idFilter string) []query {
	var ids []string
	var out []query
	for _, t := range terms {
		if t.ID != "" {
			ids = append(ids, t.ID)
			continue
		}
		out = append(out, query{filters: tagFilters(t.Tags), says: saysTags(t.Tags)})
	}
	if len(ids) > 0 {
		slices.Sort(ids)
		ids = slices.Compact(ids)
		out = append(out, query{filters: []types.Filter{filter(idFilter, ids...)}, says: saysIDs(ids)})
	}
	return out
}

// emptyTerm says what is wrong with a term that has neither id nor tags: asked of
// EC2, it would match everything. Empty when there is none. The CRD refuses such
// terms; of a Provisioner that was stored without its rules they are left.
func emptyTerm(field string, terms []v1alpha1.SelectorTerm) string {
	for i, t := range terms {
		if t.ID == "" && len(t.Tags) == 0 {
			return fmt.Sprintf("%s[%d] selects by nothing, which would match everything: set id or tags", field, i)
		}
	}
	return ""
}

// saysTags is "tags a=b,c=*".
func saysTags(tags map[string]string) string {
	parts := make([]string, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return "tags " + strings.Join(parts, ",")
}

// saysIDs is "id a" or "ids a, b".
func saysIDs(ids []string) string {
	if len(ids) == 1 {
		return "id " + ids[0]
	}
	return "ids " + strings.Join(ids, ", ")
}

// imagePlan says how a Provisioner's images are found: by parameters of SSM
// whose values are image ids, or by queries.
type imagePlan struct {
	params  []imageParam
	queries []query
}

// imageParam is an SSM parameter, and what the image is for that it names.
type imageParam struct {
	name string
	// arch is what the image must be; "" for whatever it is.
	arch string
	// accelerators that the image has drivers for; nil for any.
	accelerators []string
	// optional: not every version and region has it.
	optional bool
}

// planImages turns a Provisioner's amis (or its family's default) into look-ups.
// A message instead says what is wrong with them.
func planImages(family v1alpha1.AMIFamily, terms []v1alpha1.AMITerm, kubernetesVersion string) (imagePlan, string) {
	if len(terms) == 0 {
		alias := family.DefaultAlias()
		if alias == "" {
			return imagePlan{}, fmt.Sprintf("amiFamily %s needs ec2.amis", family)
		}
		terms = []v1alpha1.AMITerm{{Alias: alias}}
	}
	var plan imagePlan
	var ids []string
	for i, t := range terms {
		switch {
		case t.Alias != "":
			params, wrong := aliasParams(family, t.Alias, kubernetesVersion)
			if wrong != "" {
				return imagePlan{}, wrong
			}
			plan.params = append(plan.params, params...)
		case t.SSMParameter != "":
			plan.params = append(plan.params, imageParam{name: t.SSMParameter})
		case t.ID != "":
			ids = append(ids, t.ID)
		case anyImage(t):
			return imagePlan{}, fmt.Sprintf("ec2.amis[%d] matches every image of Amazon: set alias, id, ssmParameter, a name or tags", i)
		default:
			plan.queries = append(plan.queries, imageQuery(t))
		}
	}
	if len(ids) > 0 {
		slices.Sort(ids)
		plan.queries = append(plan.queries, idQuery(slices.Compact(ids)))
	}
	return plan, ""
}

// anyImage reports whether a term by name and tags matches all that others have
// made: it has neither, or a name of wildcards alone.
func anyImage(t v1alpha1.AMITerm) bool {
	if len(t.Tags) > 0 {
		return false
	}
	return t.Name == "" || strings.Trim(t.Name, "*?") == "" && (t.Owner == "" || t.Owner == "amazon")
}

// idQuery finds images by id.
func idQuery(ids []string) query {
	return query{filters: []types.Filter{filter("image-id", ids...)}, says: saysIDs(ids)}
}

// imageQuery finds images by name or tags.
func imageQuery(t v1alpha1.AMITerm) query {
	q := query{owners: []string{"self", "amazon"}, filters: tagFilters(t.Tags)}
	var says []string
	if t.Name != "" {
		q.filters = append([]types.Filter{filter("name", t.Name)}, q.filters...)
		says = append(says, "name "+t.Name)
	}
	if len(t.Tags) > 0 {
		says = append(says, saysTags(t.Tags))
	}
	if t.Owner != "" {
		q.owners = []string{t.Owner}
	}
	q.says = strings.Join(says, " and ") + " of " + strings.Join(q.owners, " or ")
	return q
}

// aliasParams are the SSM parameters behind an alias: "Retrieve recommended
// Amazon Linux AMI IDs" in the EKS user guide, and "SSM parameters" in
// Bottlerocket's documentation.
func aliasParams(family v1alpha1.AMIFamily, alias, kubernetesVersion string) ([]imageParam, string) {
	name, version, _ := strings.Cut(alias, "@")
	wants := map[string]v1alpha1.AMIFamily{"al2023": v1alpha1.AMIFamilyAL2023, "bottlerocket": v1alpha1.AMIFamilyBottlerocket}[name]
	if wants == "" {
		return nil, fmt.Sprintf("ec2.amis: unknown alias %q; known are al2023@… and bottlerocket@…", alias)
	}
	if wants != family {
		return nil, fmt.Sprintf("ec2.amis: alias %s is of family %s; set ec2.amiFamily: %s", alias, wants, wants)
	}
	var out []imageParam
	for _, arch := range []struct{ kubernetes, amazon string }{{"amd64", "x86_64"}, {"arm64", "arm64"}} {
		if wants == v1alpha1.AMIFamilyAL2023 {
			for _, v := range []struct {
				variant     string
				accelerator string
			}{{"standard", ""}, {"nvidia", makerNVIDIA}, {"neuron", makerAWS}} {
				out = append(out, imageParam{
					name: al2023Param(kubernetesVersion, arch.amazon, v.variant, version),
					arch: arch.kubernetes, accelerators: []string{v.accelerator}, optional: v.variant != "standard",
				})
			}
			continue
		}
		// Bottlerocket's standard variant has the Neuron driver.
		out = append(out,
			imageParam{name: bottlerocketParam(kubernetesVersion, arch.amazon, version), arch: arch.kubernetes, accelerators: []string{"", makerAWS}},
			imageParam{name: bottlerocketParam(kubernetesVersion+"-nvidia", arch.amazon, version), arch: arch.kubernetes, accelerators: []string{makerNVIDIA}, optional: true})
	}
	return out, ""
}

func al2023Param(kubernetesVersion, arch, variant, version string) string {
	image := "recommended"
	if version != "latest" {
		image = fmt.Sprintf("amazon-eks-node-al2023-%s-%s-%s-%s", arch, variant, kubernetesVersion, version)
	}
	return fmt.Sprintf("/aws/service/eks/optimized-ami/%s/amazon-linux-2023/%s/%s/%s/image_id", kubernetesVersion, arch, variant, image)
}

func bottlerocketParam(variant, arch, version string) string {
	return fmt.Sprintf("/aws/service/bottlerocket/aws-k8s-%s/%s/%s/image_id", variant, arch, strings.TrimPrefix(version, "v"))
}
