package ec2sim

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// tag is a tag on the wire.
type tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type tagSpec struct {
	ResourceType string `xml:"resourceType"`
	Tags         []tag  `q:"Tag" xml:"tagSet>item"`
}

// maxTags is the number of tags of one's own on a resource ("Tag your Amazon
// EC2 resources", restrictions).
const maxTags = 50

// toMap checks tags of one request: lengths, the reserved prefix, doubles.
func toMap(tags []tag) (map[string]string, error) {
	out := make(map[string]string, len(tags))
	for _, t := range tags {
		if _, twice := out[t.Key]; twice {
			return nil, errf("InvalidParameterValue", "Duplicate tag key '%s' specified.", t.Key)
		}
		if t.Key == "" || utf8.RuneCountInString(t.Key) > 128 {
			return nil, errf("InvalidParameterValue", "Tag key '%s' must have between 1 and 128 characters.", t.Key)
		}
		if utf8.RuneCountInString(t.Value) > 256 {
			return nil, errf("InvalidParameterValue", "The value of tag '%s' must have at most 256 characters.", t.Key)
		}
		if strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return nil, errf("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		}
		out[t.Key] = t.Value
	}
	if len(out) > maxTags {
		return nil, errf("TagLimitExceeded", "The maximum number of tags for a resource is %d.", maxTags)
	}
	return out, nil
}

// specTags collects the TagSpecifications of a request by resource type. Only
// the allowed types may be there, each once.
func specTags(specs []tagSpec, allowed ...string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for _, spec := range specs {
		if !slices.Contains(allowed, spec.ResourceType) {
			return nil, errf("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", spec.ResourceType)
		}
		if _, twice := out[spec.ResourceType]; twice {
			return nil, errf("InvalidParameterValue", "The resource type '%s' is specified twice.", spec.ResourceType)
		}
		if len(spec.Tags) == 0 {
			return nil, errf("InvalidParameterValue", "Tag specification must have at least one tag")
		}
		m, err := toMap(spec.Tags)
		if err != nil {
			return nil, err
		}
		out[spec.ResourceType] = m
	}
	return out, nil
}

// ownTags counts the tags that are not AWS's.
func ownTags(tags map[string]string) int {
	n := 0
	for k := range tags {
		if !strings.HasPrefix(k, "aws:") {
			n++
		}
	}
	return n
}

// tagList is the wire form, sorted by key.
func tagList(tags map[string]string) []tag {
	out := make([]tag, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, tag{k, tags[k]})
	}
	return out
}

// kinds are resource types by the prefix of their ids, and the code for an id
// that is not there.
var kinds = []struct{ prefix, kind, notFound string }{
	{"i-", "instance", "InvalidInstanceID.NotFound"},
	{"vol-", "volume", "InvalidVolume.NotFound"},
	{"eni-", "network-interface", "InvalidNetworkInterfaceID.NotFound"},
	{"lt-", "launch-template", "InvalidLaunchTemplateId.NotFound"},
	{"subnet-", "subnet", "InvalidSubnetID.NotFound"},
	{"sg-", "security-group", "InvalidGroup.NotFound"},
	{"vpc-", "vpc", "InvalidVpcID.NotFound"},
	{"ami-", "image", "InvalidAMIID.NotFound"},
	{"sir-", "spot-instances-request", "InvalidSpotInstanceRequestID.NotFound"},
	{"fleet-", "fleet", "InvalidFleetId.NotFound"},
}

func kindOf(id string) (kind, notFound string) {
	for _, k := range kinds {
		if strings.HasPrefix(id, k.prefix) {
			return k.kind, k.notFound
		}
	}
	return "", "InvalidID"
}

type tagsInput struct {
	ResourceIDs []string `q:"ResourceId"`
	Tags        []struct {
		Key   string
		Value *string
	} `q:"Tag"`
}

type boolAnswer struct {
	Return bool `xml:"return"`
}

// taggable returns the tag maps of the ids; s.tags holds one for every
// resource that exists.
func (s *Sim) taggable(ids []string) ([]map[string]string, error) {
	if len(ids) == 0 {
		return nil, missing("resourceIdSet")
	}
	var out []map[string]string
	for _, id := range ids {
		m, ok := s.tags[id]
		if i := s.byID[id]; !ok || i != nil && !s.known(i) {
			_, code := kindOf(id)
			return nil, errf(code, "The ID '%s' does not exist", id)
		}
		out = append(out, m)
	}
	return out, nil
}

// tagsOfChange must be called before the tags of the ids change.
func (s *Sim) tagsOfChange(ids []string) {
	for _, id := range ids {
		if i := s.byID[id]; i != nil {
			s.tagsChange(i)
		}
	}
}

func (s *Sim) createTags(c *call, in *tagsInput) (any, error) {
	if len(in.Tags) == 0 {
		return nil, missing("tagSet")
	}
	var list []tag
	for _, t := range in.Tags {
		value := ""
		if t.Value != nil {
			value = *t.Value
		}
		list = append(list, tag{t.Key, value})
	}
	set, err := toMap(list)
	if err != nil {
		return nil, err
	}
	maps_, err := s.taggable(in.ResourceIDs)
	if err != nil {
		return nil, err
	}
	for _, m := range maps_ {
		union := maps.Clone(m)
		maps.Copy(union, set)
		if ownTags(union) > maxTags {
			return nil, errf("TagLimitExceeded", "The maximum number of tags for a resource has been reached.")
		}
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	s.tagsOfChange(in.ResourceIDs)
	for _, m := range maps_ {
		maps.Copy(m, set)
	}
	return &boolAnswer{true}, nil
}

// deleteTags removes tags; one with a value is removed only where it has that
// value. Without tags, all of one's own go.
func (s *Sim) deleteTags(c *call, in *tagsInput) (any, error) {
	maps_, err := s.taggable(in.ResourceIDs)
	if err != nil {
		return nil, err
	}
	for _, t := range in.Tags {
		if strings.HasPrefix(t.Key, "aws:") {
			return nil, errf("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		}
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	s.tagsOfChange(in.ResourceIDs)
	for _, m := range maps_ {
		if len(in.Tags) == 0 {
			maps.DeleteFunc(m, func(k, _ string) bool { return !strings.HasPrefix(k, "aws:") })
		}
		for _, t := range in.Tags {
			if have, ok := m[t.Key]; ok && (t.Value == nil || *t.Value == have) {
				delete(m, t.Key)
			}
		}
	}
	return &boolAnswer{true}, nil
}

type describeTagsInput struct {
	Filters    []filter `q:"Filter"`
	MaxResults *int32
	NextToken  string
}

type tagDescription struct {
	ResourceID   string `xml:"resourceId"`
	ResourceType string `xml:"resourceType"`
	Key          string `xml:"key"`
	Value        string `xml:"value"`
}

func (s *Sim) describeTags(_ *call, in *describeTagsInput) (any, error) {
	var all []tagDescription
	for _, id := range slices.Sorted(maps.Keys(s.tags)) {
		kind, _ := kindOf(id)
		set := s.tags[id]
		if i := s.byID[id]; i != nil {
			set = s.instanceTags(i)
		}
		for _, t := range tagList(set) {
			all = append(all, tagDescription{id, kind, t.Key, t.Value})
		}
	}
	kept, err := apply(all, in.Filters, fields[tagDescription]{
		"key":           one(func(t tagDescription) string { return t.Key }),
		"value":         one(func(t tagDescription) string { return t.Value }),
		"resource-id":   one(func(t tagDescription) string { return t.ResourceID }),
		"resource-type": one(func(t tagDescription) string { return t.ResourceType }),
	}, nil)
	if err != nil {
		return nil, err
	}
	items, next, err := page(kept, byIndex, paging{5, 1000, 1000}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &struct {
		Tags []tagDescription `xml:"tagSet>item"`
		Next string           `xml:"nextToken,omitempty"`
	}{items, next}, nil
}
