package ec2sim

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// template is a launch template with its versions; version n is versions[n-1].
type template struct {
	id, name string
	created  time.Time
	seq      int
	versions []templateVersion
}

type templateVersion struct {
	description string
	created     time.Time
	data        templateData
}

// templateData is what a launch template can say, as far as the stand-in
// knows it; the wire names of request and answer differ.
type templateData struct {
	ImageID          string           `q:"ImageId" xml:"imageId,omitempty"`
	InstanceType     string           `xml:"instanceType,omitempty"`
	KeyName          string           `xml:"keyName,omitempty"`
	UserData         string           `xml:"userData,omitempty"`
	EbsOptimized     *bool            `xml:"ebsOptimized"`
	SecurityGroupIDs []string         `q:"SecurityGroupId" xml:"securityGroupIdSet>item,omitempty"`
	Devices          []blockDevice    `q:"BlockDeviceMapping" xml:"blockDeviceMappingSet>item,omitempty"`
	Interfaces       []netInterface   `q:"NetworkInterface" xml:"networkInterfaceSet>item,omitempty"`
	TagSpecs         []tagSpec        `q:"TagSpecification" xml:"tagSpecificationSet>item,omitempty"`
	Profile          *profile         `q:"IamInstanceProfile" xml:"iamInstanceProfile"`
	Metadata         *metadataOptions `q:"MetadataOptions" xml:"metadataOptions"`
	Placement        *placement       `xml:"placement"`
	Market           *marketOptions   `q:"InstanceMarketOptions" xml:"instanceMarketOptions"`
	Monitoring       *struct {
		Enabled *bool `xml:"enabled"`
	} `xml:"monitoring"`
	CapacityReservation *struct {
		Preference string `q:"CapacityReservationPreference" xml:"capacityReservationPreference,omitempty"`
		Target     *struct {
			ID string `q:"CapacityReservationId" xml:"capacityReservationId,omitempty"`
		} `q:"CapacityReservationTarget" xml:"capacityReservationTarget"`
	} `q:"CapacityReservationSpecification" xml:"capacityReservationSpecification"`
	CPU *struct {
		CoreCount      *int32 `xml:"coreCount"`
		ThreadsPerCore *int32 `xml:"threadsPerCore"`
	} `q:"CpuOptions" xml:"cpuOptions"`
	Credit *struct {
		CPUCredits string `q:"CpuCredits" xml:"cpuCredits"`
	} `q:"CreditSpecification" xml:"creditSpecification"`
	PrivateDNS *struct {
		HostnameType                    string `xml:"hostnameType,omitempty"`
		EnableResourceNameDnsARecord    *bool  `xml:"enableResourceNameDnsARecord"`
		EnableResourceNameDnsAAAARecord *bool  `xml:"enableResourceNameDnsAAAARecord"`
	} `q:"PrivateDnsNameOptions" xml:"privateDnsNameOptions"`
	DisableApiTermination             *bool  `xml:"disableApiTermination"`
	InstanceInitiatedShutdownBehavior string `xml:"instanceInitiatedShutdownBehavior,omitempty"`
}

type blockDevice struct {
	DeviceName  string `xml:"deviceName,omitempty"`
	VirtualName string `xml:"virtualName,omitempty"`
	NoDevice    string `xml:"noDevice,omitempty"`
	Ebs         *struct {
		DeleteOnTermination *bool  `xml:"deleteOnTermination"`
		Encrypted           *bool  `xml:"encrypted"`
		Iops                *int32 `xml:"iops"`
		KmsKeyID            string `q:"KmsKeyId" xml:"kmsKeyId,omitempty"`
		SnapshotID          string `q:"SnapshotId" xml:"snapshotId,omitempty"`
		Throughput          *int32 `xml:"throughput"`
		VolumeSize          *int32 `xml:"volumeSize"`
		VolumeType          string `xml:"volumeType,omitempty"`
	} `xml:"ebs"`
}

type netInterface struct {
	DeviceIndex              *int32   `xml:"deviceIndex"`
	NetworkCardIndex         *int32   `xml:"networkCardIndex"`
	SubnetID                 string   `q:"SubnetId" xml:"subnetId,omitempty"`
	Groups                   []string `q:"SecurityGroupId" xml:"groupSet>groupId,omitempty"`
	AssociatePublicIPAddress *bool    `q:"AssociatePublicIpAddress" xml:"associatePublicIpAddress"`
	DeleteOnTermination      *bool    `xml:"deleteOnTermination"`
	Description              string   `xml:"description,omitempty"`
	InterfaceType            string   `xml:"interfaceType,omitempty"`
}

type profile struct {
	Arn  string `xml:"arn,omitempty"`
	Name string `xml:"name,omitempty"`
}

type metadataOptions struct {
	State                   string `q:"-" xml:"state,omitempty"`
	HTTPEndpoint            string `q:"HttpEndpoint" xml:"httpEndpoint,omitempty"`
	HTTPTokens              string `q:"HttpTokens" xml:"httpTokens,omitempty"`
	HTTPPutResponseHopLimit *int32 `q:"HttpPutResponseHopLimit" xml:"httpPutResponseHopLimit"`
	HTTPProtocolIPv6        string `q:"HttpProtocolIpv6" xml:"httpProtocolIpv6,omitempty"`
	InstanceMetadataTags    string `xml:"instanceMetadataTags,omitempty"`
}

type placement struct {
	AvailabilityZone   string `xml:"availabilityZone,omitempty"`
	AvailabilityZoneID string `q:"AvailabilityZoneId" xml:"availabilityZoneId,omitempty"`
	GroupName          string `xml:"groupName,omitempty"`
	Tenancy            string `xml:"tenancy,omitempty"`
}

type marketOptions struct {
	MarketType  string `xml:"marketType,omitempty"`
	SpotOptions *struct {
		MaxPrice                     string `xml:"maxPrice,omitempty"`
		SpotInstanceType             string `xml:"spotInstanceType,omitempty"`
		InstanceInterruptionBehavior string `xml:"instanceInterruptionBehavior,omitempty"`
	} `xml:"spotOptions"`
}

// marketTypes are how a launch can be paid for; empty is on demand.
var marketTypes = []string{"", "spot", "capacity-block"}

// templateTags are the resource types a template may tag at launch.
var templateTags = []string{"instance", "volume", "network-interface", "spot-instances-request"}

// check refuses what EC2 refuses when a template is made; ids are looked up at
// launch only.
func (d *templateData) check() error {
	if _, err := specTags(d.TagSpecs, templateTags...); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(d.UserData)
	if err != nil {
		return errf("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(raw) > 16<<10 {
		return errf("InvalidUserData.Malformed", "User data is limited to 16384 bytes")
	}
	if len(d.SecurityGroupIDs) > 0 && len(d.Interfaces) > 0 {
		return errf("InvalidParameterCombination", "Network interfaces and an instance-level security groups may not be specified on the same request")
	}
	if m := d.Metadata; m != nil {
		for _, f := range []struct {
			name, value string
			allowed     []string
		}{
			{"HttpTokens", m.HTTPTokens, []string{"", "optional", "required"}},
			{"HttpEndpoint", m.HTTPEndpoint, []string{"", "enabled", "disabled"}},
			{"HttpProtocolIpv6", m.HTTPProtocolIPv6, []string{"", "enabled", "disabled"}},
			{"InstanceMetadataTags", m.InstanceMetadataTags, []string{"", "enabled", "disabled"}},
		} {
			if !slices.Contains(f.allowed, f.value) {
				return invalidValue("MetadataOptions."+f.name, f.value)
			}
		}
		if h := m.HTTPPutResponseHopLimit; h != nil && (*h < 1 || *h > 64) {
			return invalidValue("MetadataOptions.HttpPutResponseHopLimit", strconv.Itoa(int(*h)))
		}
	}
	if m := d.Market; m != nil && !slices.Contains(marketTypes, m.MarketType) {
		return invalidValue("InstanceMarketOptions.MarketType", m.MarketType)
	}
	if c := d.CapacityReservation; c != nil && c.Preference != "" && c.Target != nil {
		return errf("InvalidParameterCombination", "CapacityReservationPreference and CapacityReservationTarget exclude each other")
	}
	seen := map[string]bool{}
	for _, b := range d.Devices {
		if b.DeviceName == "" {
			return missing("BlockDeviceMapping.DeviceName")
		}
		if seen[b.DeviceName] {
			return errf("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", b.DeviceName)
		}
		seen[b.DeviceName] = true
		if b.Ebs == nil {
			continue
		}
		if v := b.Ebs.VolumeSize; v != nil && (*v < 1 || *v > 65536) {
			return errf("InvalidParameterValue", "Volume of %dGiB is not between 1 and 65536", *v)
		}
		if !slices.Contains([]string{"", "standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"}, b.Ebs.VolumeType) {
			return invalidValue("BlockDeviceMapping.Ebs.VolumeType", b.Ebs.VolumeType)
		}
	}
	return nil
}

type templateItem struct {
	ID        string `xml:"launchTemplateId"`
	Name      string `xml:"launchTemplateName"`
	Created   string `xml:"createTime"`
	CreatedBy string `xml:"createdBy"`
	Default   int    `xml:"defaultVersionNumber"`
	Latest    int    `xml:"latestVersionNumber"`
	Tags      []tag  `xml:"tagSet>item"`
}

const createdBy = "arn:aws:iam::" + AccountID + ":root"

func (s *Sim) templateItem(t *template) templateItem {
	return templateItem{t.id, t.name, query.Time(t.created), createdBy, 1, len(t.versions), tagList(s.tags[t.id])}
}

type templateVersionItem struct {
	ID          string       `xml:"launchTemplateId"`
	Name        string       `xml:"launchTemplateName"`
	Version     int          `xml:"versionNumber"`
	Description string       `xml:"versionDescription,omitempty"`
	Created     string       `xml:"createTime"`
	CreatedBy   string       `xml:"createdBy"`
	Default     bool         `xml:"defaultVersion"`
	Data        templateData `xml:"launchTemplateData"`
}

func (t *template) item(version int) templateVersionItem {
	v := t.versions[version-1]
	return templateVersionItem{t.id, t.name, version, v.description, query.Time(v.created), createdBy, version == 1, v.data}
}

type templateAnswer struct {
	Template templateItem `xml:"launchTemplate"`
}

func (s *Sim) createLaunchTemplate(c *call, in *struct {
	ClientToken        string
	LaunchTemplateName string
	VersionDescription string
	LaunchTemplateData *templateData
	TagSpecs           []tagSpec `q:"TagSpecification"`
}) (any, error) {
	if old, ok, err := s.replay(c, "", in.ClientToken); ok || err != nil {
		return old, err
	}
	if n := len(in.LaunchTemplateName); n < 3 || n > 128 {
		return nil, errf("InvalidLaunchTemplateName.MalformedException", "Launch template name must be between 3 and 128 characters")
	}
	if in.LaunchTemplateData == nil {
		return nil, missing("LaunchTemplateData")
	}
	if err := in.LaunchTemplateData.check(); err != nil {
		return nil, err
	}
	tags, err := specTags(in.TagSpecs, "launch-template")
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.templates, func(t *template) bool { return t.name == in.LaunchTemplateName }) {
		return nil, errf("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	s.seq++
	t := &template{id: s.newID("lt-"), name: in.LaunchTemplateName, created: c.now, seq: s.seq}
	t.versions = []templateVersion{{in.VersionDescription, c.now, *in.LaunchTemplateData}}
	s.templates = append(s.templates, t)
	s.tags[t.id] = map[string]string{}
	maps.Copy(s.tags[t.id], tags["launch-template"])
	answer := &templateAnswer{s.templateItem(t)}
	s.remember(c, "", in.ClientToken, answer, nil)
	return answer, nil
}

type templateRef struct {
	LaunchTemplateID   string `q:"LaunchTemplateId"`
	LaunchTemplateName string
}

// findTemplate looks a template up by id or name, exactly one of which must
// be there.
func (s *Sim) findTemplate(ref templateRef) (*template, error) {
	switch {
	case ref.LaunchTemplateID != "" && ref.LaunchTemplateName != "":
		return nil, errf("InvalidParameterCombination", "Either launch template ID or launch template name must be specified, not both")
	case ref.LaunchTemplateID != "":
		for _, t := range s.templates {
			if t.id == ref.LaunchTemplateID {
				return t, nil
			}
		}
		return nil, errf("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", ref.LaunchTemplateID)
	case ref.LaunchTemplateName != "":
		for _, t := range s.templates {
			if t.name == ref.LaunchTemplateName {
				return t, nil
			}
		}
		return nil, errf("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", ref.LaunchTemplateName)
	default:
		return nil, missing("LaunchTemplateId")
	}
}

// version resolves $Default (always 1 here), $Latest and numbers; empty is
// the default.
func (t *template) version(text string) (int, error) {
	switch text {
	case "", "$Default":
		return 1, nil
	case "$Latest":
		return len(t.versions), nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > len(t.versions) {
		return 0, errf("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version %s for the launch template with ID %s.", text, t.id)
	}
	return n, nil
}

func (s *Sim) createLaunchTemplateVersion(c *call, in *struct {
	templateRef
	ClientToken        string
	SourceVersion      string
	VersionDescription string
	LaunchTemplateData *templateData
}) (any, error) {
	if old, ok, err := s.replay(c, "", in.ClientToken); ok || err != nil {
		return old, err
	}
	t, err := s.findTemplate(in.templateRef)
	if err != nil {
		return nil, err
	}
	if in.LaunchTemplateData == nil {
		return nil, missing("LaunchTemplateData")
	}
	if in.SourceVersion != "" {
		return nil, errf("InvalidParameterValue", "SourceVersion is not implemented here: send the whole LaunchTemplateData")
	}
	if err := in.LaunchTemplateData.check(); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	t.versions = append(t.versions, templateVersion{in.VersionDescription, c.now, *in.LaunchTemplateData})
	answer := &struct {
		Version templateVersionItem `xml:"launchTemplateVersion"`
	}{t.item(len(t.versions))}
	s.remember(c, "", in.ClientToken, answer, nil)
	return answer, nil
}

func (s *Sim) describeLaunchTemplates(_ *call, in *struct {
	describeInput
	IDs   []string `q:"LaunchTemplateId"`
	Names []string `q:"LaunchTemplateName"`
}) (any, error) {
	all := s.templates
	if len(in.IDs)+len(in.Names) > 0 {
		all = nil
		var refs []templateRef
		for _, id := range in.IDs {
			refs = append(refs, templateRef{LaunchTemplateID: id})
		}
		for _, name := range in.Names {
			refs = append(refs, templateRef{LaunchTemplateName: name})
		}
		for _, ref := range refs {
			t, err := s.findTemplate(ref)
			if err != nil {
				return nil, err
			}
			all = append(all, t)
		}
	}
	kept, err := apply(all, in.Filters, fields[*template]{
		"launch-template-name": one(func(t *template) string { return t.name }),
		"create-time":          one(func(t *template) string { return query.Time(t.created) }),
	}, func(t *template) map[string]string { return s.tags[t.id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, func(i int) int { return kept[i].seq }, paging{1, 200, 200}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []templateItem
	for _, t := range list {
		items = append(items, s.templateItem(t))
	}
	return &struct {
		Items []templateItem `xml:"launchTemplates>item"`
		Next  string         `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

func (s *Sim) describeLaunchTemplateVersions(_ *call, in *struct {
	describeInput
	templateRef
	Versions   []string `q:"LaunchTemplateVersion"`
	MinVersion string
	MaxVersion string
	// ResolveAlias has no effect: a launch refuses images that are no ids.
	ResolveAlias bool
}) (any, error) {
	var items []templateVersionItem
	switch {
	case in.LaunchTemplateID == "" && in.LaunchTemplateName == "":
		// Without a template only $Latest and $Default of all can be asked for.
		if len(in.Versions) == 0 {
			return nil, missing("LaunchTemplateId")
		}
		for _, t := range s.templates {
			for _, text := range in.Versions {
				if text != "$Latest" && text != "$Default" {
					return nil, missing("LaunchTemplateId")
				}
				n, err := t.version(text)
				if err != nil {
					return nil, err
				}
				items = append(items, t.item(n))
			}
		}
	default:
		t, err := s.findTemplate(in.templateRef)
		if err != nil {
			return nil, err
		}
		first, last := 1, len(t.versions)
		if in.MinVersion != "" {
			if first, err = t.version(in.MinVersion); err != nil {
				return nil, err
			}
		}
		if in.MaxVersion != "" {
			if last, err = t.version(in.MaxVersion); err != nil {
				return nil, err
			}
		}
		if len(in.Versions) > 0 {
			for _, text := range in.Versions {
				n, err := t.version(text)
				if err != nil {
					return nil, err
				}
				items = append(items, t.item(n))
			}
			break
		}
		for n := last; n >= first; n-- {
			items = append(items, t.item(n))
		}
	}
	kept, err := apply(items, in.Filters, fields[templateVersionItem]{
		"image-id":           one(func(v templateVersionItem) string { return v.Data.ImageID }),
		"instance-type":      one(func(v templateVersionItem) string { return v.Data.InstanceType }),
		"is-default-version": one(func(v templateVersionItem) string { return strconv.FormatBool(v.Default) }),
	}, nil)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{1, 200, 200}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &struct {
		Items []templateVersionItem `xml:"launchTemplateVersionSet>item"`
		Next  string                `xml:"nextToken,omitempty"`
	}{list, next}, nil
}

func (s *Sim) deleteLaunchTemplate(c *call, in *templateRef) (any, error) {
	t, err := s.findTemplate(*in)
	if err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	answer := &templateAnswer{s.templateItem(t)}
	s.templates = slices.DeleteFunc(s.templates, func(o *template) bool { return o == t })
	delete(s.tags, t.id)
	return answer, nil
}
