package ec2sim

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

type stateItem struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

func stateOf(s state) stateItem { return stateItem{stateCodes[s], s.String()} }

type groupRef struct {
	ID   string `xml:"groupId"`
	Name string `xml:"groupName"`
}

type instanceItem struct {
	ID              string    `xml:"instanceId"`
	ImageID         string    `xml:"imageId"`
	State           stateItem `xml:"instanceState"`
	PrivateDNS      string    `xml:"privateDnsName"`
	DNS             string    `xml:"dnsName"`
	Reason          string    `xml:"reason"`
	KeyName         string    `xml:"keyName,omitempty"`
	Index           int       `xml:"amiLaunchIndex"`
	Type            string    `xml:"instanceType"`
	Launched        string    `xml:"launchTime"`
	Placement       placement `xml:"placement"`
	PlatformDetails string    `xml:"platformDetails"`
	Monitoring      struct {
		State string `xml:"state"`
	} `xml:"monitoring"`
	SubnetID    string `xml:"subnetId,omitempty"`
	VPC         string `xml:"vpcId,omitempty"`
	PrivateIP   string `xml:"privateIpAddress,omitempty"`
	SourceDest  bool   `xml:"sourceDestCheck"`
	StateReason *struct {
		Code    string `xml:"code"`
		Message string `xml:"message"`
	} `xml:"stateReason"`
	Arch           string           `xml:"architecture"`
	RootDeviceType string           `xml:"rootDeviceType"`
	RootDeviceName string           `xml:"rootDeviceName"`
	Devices        []attachedVolume `xml:"blockDeviceMapping>item"`
	Virtualization string           `xml:"virtualizationType"`
	Lifecycle      string           `xml:"instanceLifecycle,omitempty"`
	SpotRequestID  string           `xml:"spotInstanceRequestId,omitempty"`
	ReservedIn     string           `xml:"capacityReservationId,omitempty"`
	Reservation    *reservedItem    `xml:"capacityReservationSpecification"`
	ClientToken    string           `xml:"clientToken"`
	Tags           []tag            `xml:"tagSet>item"`
	Hypervisor     string           `xml:"hypervisor"`
	Profile        *struct {
		Arn string `xml:"arn"`
		ID  string `xml:"id"`
	} `xml:"iamInstanceProfile"`
	Groups       []groupRef      `xml:"groupSet>item"`
	Interfaces   []interfaceItem `xml:"networkInterfaceSet>item"`
	EbsOptimized bool            `xml:"ebsOptimized"`
	EnaSupport   bool            `xml:"enaSupport"`
	CPU          struct {
		Cores   int `xml:"coreCount"`
		Threads int `xml:"threadsPerCore"`
	} `xml:"cpuOptions"`
	Metadata   *metadataOptions `xml:"metadataOptions"`
	BootMode   string           `xml:"bootMode"`
	DNSOptions struct {
		HostnameType string `xml:"hostnameType"`
	} `xml:"privateDnsNameOptions"`
}

// reservedItem is what an instance's launch said about Capacity Reservations.
type reservedItem struct {
	Preference string `xml:"capacityReservationPreference,omitempty"`
	Target     *struct {
		ID string `xml:"capacityReservationId"`
	} `xml:"capacityReservationTarget"`
}

// reservedItem of an instance; a launch that says nothing uses open ones.
func (i *instance) reservedItem() *reservedItem {
	if id := i.spec.data.target(); id != "" {
		return &reservedItem{Target: &struct {
			ID string `xml:"capacityReservationId"`
		}{id}}
	}
	if c := i.spec.data.CapacityReservation; c != nil && c.Preference != "" {
		return &reservedItem{Preference: c.Preference}
	}
	return &reservedItem{Preference: "open"}
}

type attachedVolume struct {
	Name string `xml:"deviceName"`
	Ebs  struct {
		VolumeID            string `xml:"volumeId"`
		Status              string `xml:"status"`
		AttachTime          string `xml:"attachTime"`
		DeleteOnTermination bool   `xml:"deleteOnTermination"`
	} `xml:"ebs"`
}

type interfaceItem struct {
	ID         string     `xml:"networkInterfaceId"`
	SubnetID   string     `xml:"subnetId"`
	VPC        string     `xml:"vpcId"`
	OwnerID    string     `xml:"ownerId"`
	Status     string     `xml:"status"`
	PrivateIP  string     `xml:"privateIpAddress"`
	PrivateDNS string     `xml:"privateDnsName"`
	SourceDest bool       `xml:"sourceDestCheck"`
	Groups     []groupRef `xml:"groupSet>item"`
	Attachment struct {
		DeviceIndex         int    `xml:"deviceIndex"`
		Status              string `xml:"status"`
		DeleteOnTermination bool   `xml:"deleteOnTermination"`
	} `xml:"attachment"`
	Type string `xml:"interfaceType"`
}

type reservationItem struct {
	ID        string         `xml:"reservationId"`
	OwnerID   string         `xml:"ownerId"`
	Groups    []groupRef     `xml:"groupSet>item"`
	Instances []instanceItem `xml:"instancesSet>item"`
}

// lifecycle is how an instance was bought; empty: on demand.
func (i *instance) lifecycle() string {
	switch {
	case i.pool.spot:
		return "spot"
	case i.spec.data.block():
		return "capacity-block"
	default:
		return ""
	}
}

// reservedIn is the Capacity Reservation that an instance runs in, or "".
func (i *instance) reservedIn() string {
	if i.capacity == nil {
		return ""
	}
	return i.capacity.id
}

func (s *Sim) instanceItem(i *instance) instanceItem {
	l := i.spec
	item := instanceItem{
		ID: i.id, ImageID: l.image.id, State: stateOf(i.state), Reason: i.reasonMessage, KeyName: l.data.KeyName, Index: i.index, Type: l.typ.Name,
		Launched: query.Time(i.launched), Placement: placement{AvailabilityZone: l.subnet.zone.Name, AvailabilityZoneID: l.subnet.zone.ID, Tenancy: "default"},
		PlatformDetails: "Linux/UNIX", Arch: l.image.arch, RootDeviceType: "ebs", RootDeviceName: l.image.devices[0].name, Virtualization: "hvm",
		SpotRequestID: i.spotRequest, Reservation: i.reservedItem(), ClientToken: i.clientToken, Tags: tagList(s.instanceTags(i)), Hypervisor: "xen", EnaSupport: true, BootMode: "uefi-preferred",
		EbsOptimized: l.data.EbsOptimized != nil && *l.data.EbsOptimized,
	}
	if p := l.data.Placement; p != nil {
		item.Placement.GroupName = p.GroupName
	}
	item.Monitoring.State = "disabled"
	item.CPU.Cores, item.CPU.Threads = l.typ.VCPUs/l.typ.ThreadsPerCore, l.typ.ThreadsPerCore
	item.DNSOptions.HostnameType = "ip-name"
	item.Metadata = s.metadata(l)
	item.Lifecycle = i.lifecycle()
	item.ReservedIn = i.reservedIn()
	if i.reasonCode != "" {
		item.StateReason = &struct {
			Code    string `xml:"code"`
			Message string `xml:"message"`
		}{i.reasonCode, i.reasonMessage}
	}
	if l.profileName != "" {
		item.Profile = &struct {
			Arn string `xml:"arn"`
			ID  string `xml:"id"`
		}{"arn:aws:iam::" + AccountID + ":instance-profile/" + l.profileName, "AIPA" + strings.ToUpper(l.profileName)}
	}
	if i.state == stateTerminated {
		// A terminated instance has no network and no volumes any more.
		return item
	}
	for _, g := range l.groups {
		item.Groups = append(item.Groups, groupRef{g.id, g.name})
	}
	item.PrivateDNS, item.PrivateIP, item.SubnetID, item.VPC, item.SourceDest = i.node, i.ip.String(), l.subnet.id, s.vpc, true
	nic := interfaceItem{
		ID: i.eni, SubnetID: l.subnet.id, VPC: s.vpc, OwnerID: AccountID, Status: "in-use", PrivateIP: i.ip.String(), PrivateDNS: i.node, SourceDest: true, Groups: item.Groups, Type: "interface",
	}
	nic.Attachment.Status, nic.Attachment.DeleteOnTermination = "attached", true
	item.Interfaces = []interfaceItem{nic}
	for _, v := range i.volumes {
		a := attachedVolume{Name: v.name}
		a.Ebs.VolumeID, a.Ebs.Status, a.Ebs.AttachTime, a.Ebs.DeleteOnTermination = v.id, "attached", query.Time(i.launched), true
		item.Devices = append(item.Devices, a)
	}
	return item
}

// metadata is what the instance's metadata service is set to: EC2's defaults
// (the image asks for IMDSv2 with two hops) under the template's wishes.
func (s *Sim) metadata(l *launchSpec) *metadataOptions {
	hops := int32(2)
	m := metadataOptions{State: "applied", HTTPEndpoint: "enabled", HTTPTokens: "required", HTTPPutResponseHopLimit: &hops, HTTPProtocolIPv6: "disabled", InstanceMetadataTags: "disabled"}
	if w := l.data.Metadata; w != nil {
		for _, f := range []struct {
			to   *string
			from string
		}{{&m.HTTPEndpoint, w.HTTPEndpoint}, {&m.HTTPTokens, w.HTTPTokens}, {&m.HTTPProtocolIPv6, w.HTTPProtocolIPv6}, {&m.InstanceMetadataTags, w.InstanceMetadataTags}} {
			if f.from != "" {
				*f.to = f.from
			}
		}
		if w.HTTPPutResponseHopLimit != nil {
			m.HTTPPutResponseHopLimit = w.HTTPPutResponseHopLimit
		}
	}
	return &m
}

// reservations groups instances that were launched together.
func (s *Sim) reservations(list []*instance) []reservationItem {
	var out []reservationItem
	at := map[string]int{}
	for _, i := range list {
		n, ok := at[i.reservation]
		if !ok {
			n = len(out)
			at[i.reservation] = n
			out = append(out, reservationItem{ID: i.reservation, OwnerID: AccountID})
		}
		out[n].Instances = append(out[n].Instances, s.instanceItem(i))
	}
	return out
}

// find looks up instances; one unknown id fails all ("Error codes":
// InvalidInstanceID.NotFound, .Malformed).
func (s *Sim) find(ids []string) ([]*instance, error) {
	var out []*instance
	var unknown []string
	for _, id := range ids {
		if !strings.HasPrefix(id, "i-") || len(id) != len("i-")+17 {
			return nil, errf("InvalidInstanceID.Malformed", "Invalid id: \"%s\" (expecting \"i-...\")", id)
		}
		if i := s.byID[id]; s.known(i) {
			if !slices.Contains(out, i) {
				out = append(out, i)
			}
		} else {
			unknown = append(unknown, id)
		}
	}
	switch len(unknown) {
	case 0:
		return out, nil
	case 1:
		return nil, errf("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", unknown[0])
	default:
		return nil, errf("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", strings.Join(unknown, ", "))
	}
}

func (s *Sim) instanceFields() fields[*instance] {
	alive := func(f func(*instance) string) func(*instance) []string {
		return func(i *instance) []string {
			if i.state == stateTerminated {
				return nil
			}
			return []string{f(i)}
		}
	}
	groups := func(f func(securityGroup) string) func(*instance) []string {
		return func(i *instance) []string {
			var out []string
			for _, g := range i.spec.groups {
				out = append(out, f(g))
			}
			return out
		}
	}
	return fields[*instance]{
		"instance-id":                         one(func(i *instance) string { return i.id }),
		"instance-state-name":                 one(func(i *instance) string { return i.state.String() }),
		"instance-state-code":                 one(func(i *instance) string { return strconv.Itoa(stateCodes[i.state]) }),
		"instance-type":                       one(func(i *instance) string { return i.pool.typeName }),
		"image-id":                            one(func(i *instance) string { return i.spec.image.id }),
		"architecture":                        one(func(i *instance) string { return i.spec.image.arch }),
		"availability-zone":                   one(func(i *instance) string { return i.pool.zone }),
		"availability-zone-id":                one(func(i *instance) string { return i.spec.subnet.zone.ID }),
		"reservation-id":                      one(func(i *instance) string { return i.reservation }),
		"client-token":                        one(func(i *instance) string { return i.clientToken }),
		"launch-time":                         one(func(i *instance) string { return query.Time(i.launched) }),
		"owner-id":                            one(func(*instance) string { return AccountID }),
		"instance-lifecycle":                  some((*instance).lifecycle),
		"capacity-reservation-id":             some((*instance).reservedIn),
		"spot-instance-request-id":            one(func(i *instance) string { return i.spotRequest }),
		"private-dns-name":                    alive(func(i *instance) string { return i.node }),
		"private-ip-address":                  alive(func(i *instance) string { return i.ip.String() }),
		"network-interface.private-dns-name":  alive(func(i *instance) string { return i.node }),
		"network-interface.addresses.private": alive(func(i *instance) string { return i.ip.String() }),
		"subnet-id":                           alive(func(i *instance) string { return i.spec.subnet.id }),
		"vpc-id":                              alive(func(*instance) string { return s.vpc }),
		"instance.group-id":                   groups(func(g securityGroup) string { return g.id }),
		"instance.group-name":                 groups(func(g securityGroup) string { return g.name }),
	}
}

type instanceIDs struct {
	InstanceIDs []string `q:"InstanceId"`
}

func (s *Sim) describeInstances(_ *call, in *struct {
	describeInput
	instanceIDs
}) (any, error) {
	all, err := s.chosen(in.InstanceIDs, in.MaxResults)
	if err != nil {
		return nil, err
	}
	kept, err := apply(all, in.Filters, s.instanceFields(), s.instanceTags)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, func(i int) int { return kept[i].seq }, paging{5, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &struct {
		Items []reservationItem `xml:"reservationSet>item"`
		Next  string            `xml:"nextToken,omitempty"`
	}{s.reservations(list), next}, nil
}

// chosen are the instances with the ids, or all. Ids and MaxResults exclude
// each other.
func (s *Sim) chosen(ids []string, maxResults *int32) ([]*instance, error) {
	if len(ids) == 0 {
		return slices.DeleteFunc(slices.Clone(s.instances), func(i *instance) bool { return !s.listed(i) }), nil
	}
	if maxResults != nil {
		return nil, errf("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
	}
	return s.find(ids)
}

type instanceStatus struct {
	ID       string        `xml:"instanceId"`
	Zone     string        `xml:"availabilityZone"`
	ZoneID   string        `xml:"availabilityZoneId"`
	State    stateItem     `xml:"instanceState"`
	System   statusSummary `xml:"systemStatus"`
	Instance statusSummary `xml:"instanceStatus"`
	EBS      statusSummary `xml:"attachedEbsStatus"`
	Events   []statusEvent `xml:"eventsSet>item"`
}

func (s *Sim) describeInstanceStatus(_ *call, in *struct {
	describeInput
	instanceIDs
	IncludeAllInstances bool
}) (any, error) {
	all, err := s.chosen(in.InstanceIDs, in.MaxResults)
	if err != nil {
		return nil, err
	}
	if !in.IncludeAllInstances {
		all = slices.DeleteFunc(slices.Clone(all), func(i *instance) bool { return i.state != stateRunning })
	}
	none := func(*instance) []string { return nil }
	kept, err := apply(all, in.Filters, fields[*instance]{
		"availability-zone":            one(func(i *instance) string { return i.pool.zone }),
		"availability-zone-id":         one(func(i *instance) string { return i.spec.subnet.zone.ID }),
		"instance-state-name":          one(func(i *instance) string { return i.state.String() }),
		"instance-state-code":          one(func(i *instance) string { return strconv.Itoa(stateCodes[i.state]) }),
		"instance-status.status":       one((*instance).instanceCheck),
		"instance-status.reachability": one(func(i *instance) string { return reachability(i.instanceCheck()) }),
		"system-status.status":         one((*instance).systemCheck),
		"system-status.reachability":   one(func(i *instance) string { return reachability(i.systemCheck()) }),
		"attached-ebs-status.status":   one((*instance).ebsCheck),
		"event.code":                   eventFields(func(e scheduled) string { return e.Code }),
		"event.description":            eventFields(func(e scheduled) string { return eventText(e.Code) }),
		"event.instance-event-id":      eventFields(func(e scheduled) string { return e.id }),
		"event.not-after":              none,
		"event.not-before":             eventFields(func(e scheduled) string { return query.Time(e.NotBefore) }),
	}, nil)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, func(i int) int { return kept[i].seq }, paging{5, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []instanceStatus
	for _, i := range list {
		item := instanceStatus{ID: i.id, Zone: i.pool.zone, ZoneID: i.spec.subnet.zone.ID, State: stateOf(i.state),
			System: i.summary(i.systemCheck()), Instance: i.summary(i.instanceCheck()), EBS: i.summary(i.ebsCheck())}
		for _, e := range i.events {
			item.Events = append(item.Events, statusEvent{e.id, e.Code, eventText(e.Code), query.Time(e.NotBefore)})
		}
		items = append(items, item)
	}
	return &struct {
		Items []instanceStatus `xml:"instanceStatusSet>item"`
		Next  string           `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type stateChange struct {
	ID       string    `xml:"instanceId"`
	Current  stateItem `xml:"currentState"`
	Previous stateItem `xml:"previousState"`
}

func (s *Sim) terminateInstances(c *call, in *struct {
	instanceIDs
	Force          bool
	SkipOsShutdown bool
}) (any, error) {
	if len(in.InstanceIDs) == 0 {
		return nil, missing("InstanceId")
	}
	list, err := s.find(in.InstanceIDs)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if p := i.spec.data.DisableApiTermination; p != nil && *p {
			return nil, errf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.id)
		}
	}
	if err := s.throttle(terminateTokens, c.action, len(list)); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	var items []stateChange
	for _, i := range list {
		before := i.state
		s.shutDown(i, c.now, "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
		items = append(items, stateChange{i.id, stateOf(i.state), stateOf(before)})
	}
	s.tick(c.now) // with no delay they are terminated at once
	return &struct {
		Items []stateChange `xml:"instancesSet>item"`
	}{items}, nil
}

func (s *Sim) getConsoleOutput(c *call, in *struct {
	InstanceID string `q:"InstanceId"`
	Latest     bool
}) (any, error) {
	list, err := s.find([]string{in.InstanceID})
	if err != nil {
		return nil, err
	}
	return &struct {
		ID     string `xml:"instanceId"`
		Time   string `xml:"timestamp"`
		Output string `xml:"output"`
	}{in.InstanceID, query.Time(c.now), base64.StdEncoding.EncodeToString([]byte(strings.Join(list[0].console, "\n")))}, nil
}
