package ec2sim

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/internal/catalog"
)

// launchSpec is all that is needed to make instances of one kind: template,
// request and override together, looked up and checked.
type launchSpec struct {
	data        templateData
	template    *template // nil without one
	version     int
	typ         *catalog.Type
	image       *image
	subnet      *subnet
	groups      []securityGroup
	profileName string
	spot        bool
	userData    []byte
	tags        map[string]map[string]string // by resource type
}

func (l *launchSpec) pool() pool { return pool{l.typ.Name, l.subnet.zone.Name, l.spot} }

// resolve looks up what the data names and checks that it can be launched in
// the subnet. It covers everything but capacity and zone support.
func (s *Sim) resolve(data templateData, subnetID, zone string, spot bool) (*launchSpec, error) {
	l := &launchSpec{data: data, spot: spot}
	if data.ImageID == "" {
		return nil, missing("ImageId")
	}
	if data.InstanceType == "" {
		return nil, missing("InstanceType")
	}
	var ok bool
	if l.typ, ok = s.cfg.Catalog.Type(data.InstanceType); !ok {
		return nil, errf("InvalidParameterValue", "Invalid value '%s' for InstanceType.", data.InstanceType)
	}
	var err error
	if l.image, err = s.image(data.ImageID); err != nil {
		return nil, err
	}
	if !slices.Contains(l.typ.Architectures, l.image.arch) {
		return nil, errf("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the architecture of the instance type or AMI.",
			strings.Join(l.typ.Architectures, ","), l.image.arch)
	}
	if l.subnet, err = s.placeSubnet(&data, subnetID, zone); err != nil {
		return nil, err
	}
	groupIDs := data.SecurityGroupIDs
	for _, n := range data.Interfaces {
		groupIDs = append(groupIDs, n.Groups...)
	}
	for _, id := range groupIDs {
		g, err := s.group(id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(l.groups, g) {
			l.groups = append(l.groups, g)
		}
	}
	if len(l.groups) == 0 {
		l.groups = s.groups[1:] // the VPC's default group
	}
	if err := s.place(l); err != nil {
		return nil, err
	}
	if l.profileName, err = s.profileName(data.Profile); err != nil {
		return nil, err
	}
	if l.userData, err = base64.StdEncoding.DecodeString(data.UserData); err != nil {
		return nil, errf("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if l.tags, err = specTags(data.TagSpecs, templateTags...); err != nil {
		return nil, err
	}
	return l, nil
}

// placeSubnet finds the subnet from the request, the template's primary
// interface or the zone. There is no default VPC: without either, a launch is
// refused as EC2-VPC refuses it.
func (s *Sim) placeSubnet(data *templateData, subnetID, zone string) (*subnet, error) {
	if subnetID == "" {
		for _, n := range data.Interfaces {
			if n.SubnetID != "" {
				subnetID = n.SubnetID
			}
		}
	}
	if zone == "" && data.Placement != nil {
		zone = data.Placement.AvailabilityZone + data.Placement.AvailabilityZoneID
	}
	if subnetID == "" && zone == "" {
		return nil, errf("MissingInput", "No subnets found for the default VPC '': specify a subnet or an Availability Zone")
	}
	if subnetID == "" {
		for _, sn := range s.subnets {
			if sn.zone.Name == zone || sn.zone.ID == zone {
				return sn, nil
			}
		}
		return nil, errf("InvalidParameterValue", "Invalid availability zone: [%s]", zone)
	}
	sn, err := s.subnet(subnetID)
	if err != nil {
		return nil, err
	}
	if zone != "" && zone != sn.zone.Name && zone != sn.zone.ID {
		return nil, errf("InvalidParameterValue", "The availability zone '%s' does not match the subnet's, '%s'", zone, sn.zone.Name)
	}
	return sn, nil
}

func (s *Sim) profileName(p *profile) (string, error) {
	if p == nil || p.Name == "" && p.Arn == "" {
		return "", nil
	}
	name := p.Name
	if p.Arn != "" {
		prefix := "arn:aws:iam::" + AccountID + ":instance-profile/"
		if name != "" || !strings.HasPrefix(p.Arn, prefix) {
			return "", errf("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN", p.Arn)
		}
		name = strings.TrimPrefix(p.Arn, prefix)
	}
	if !slices.Contains(s.cfg.InstanceProfiles, name) {
		return "", errf("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", name)
	}
	return name, nil
}

// offered refuses a pool that does not exist: a type that the zone does not
// offer, or that is not sold in this way.
func (s *Sim) offered(p pool, block bool) *apiError {
	if !s.cfg.Catalog.Offers(s.region.Name, p.typeName, p.zone) {
		return errf("Unsupported", "Your requested instance type (%s) is not supported in your requested Availability Zone (%s). Please retry your request by not specifying an Availability Zone or choosing another one. The requested configuration is currently not supported.", p.typeName, p.zone)
	}
	if block {
		return nil // The block is there, or the target is refused.
	}
	if !p.spot {
		if _, ok := s.cfg.Catalog.OnDemandPrice(s.region.Name, p.typeName); !ok {
			return errf("Unsupported", "The requested configuration is currently not supported. Please check the documentation for supported configurations.")
		}
		return nil
	}
	t, _ := s.cfg.Catalog.Type(p.typeName)
	if !slices.Contains(t.UsageClasses, "spot") {
		return errf("Unsupported", "The instance type '%s' is not supported as Spot. The requested configuration is currently not supported.", p.typeName)
	}
	if _, ok := s.cfg.Catalog.SpotPrice(s.region.Name, p.typeName, p.zone); !ok {
		return noCapacity(p)
	}
	return nil
}

// price is what an hour costs in the pool; 0 for one that does not exist.
func (s *Sim) price(p pool) float64 {
	var price float64
	if p.spot {
		price, _ = s.cfg.Catalog.SpotPrice(s.region.Name, p.typeName, p.zone)
	} else {
		price, _ = s.cfg.Catalog.OnDemandPrice(s.region.Name, p.typeName)
	}
	return price
}

// stock is what can be launched now.
func (s *Sim) stock() *stock {
	st := &stock{pools: map[pool]int{}, subnets: map[string]int{}, reserved: map[string]int{}, open: map[pool]int{}, launches: s.launchesLeft(), vcpus: s.quotasLeft(), quotas: s.quotas}
	for p, sl := range s.pools {
		st.pools[p] = sl.left
	}
	for _, sn := range s.subnets {
		st.subnets[sn.id] = sn.ips.free
	}
	for _, r := range s.reserved {
		st.reserved[r.id] = r.left(s.clock.Now())
		st.open[pool{r.typeName, r.zone, false}] = s.openFor(pool{r.typeName, r.zone, false})
	}
	return st
}

// maxTagged refuses more tags than a resource may have.
func maxTagged(tags map[string]string) *apiError {
	if ownTags(tags) > maxTags {
		return errf("TagLimitExceeded", "The maximum number of tags for a resource is %d.", maxTags)
	}
	return nil
}

// launch makes count instances. The caller has checked that capacity and
// addresses are there.
func (s *Sim) launch(c *call, l *launchSpec, count int, extra map[string]string, clientToken string) []*instance {
	p := l.pool()
	reservation := s.newID("r-")
	var out []*instance
	for index := range count {
		ip, ok := l.subnet.ips.take()
		if !ok {
			panic("ec2sim: a launch was granted in a full subnet")
		}
		in := s.occupy(l)
		if sl := s.pools[p]; sl != nil && in == nil {
			sl.left--
		}
		s.seq++
		s.launches++
		s.placed(l)
		i := &instance{
			number: s.launches,
			id:     s.newID("i-"), reservation: reservation, index: index, seq: s.seq, spec: l, ip: ip, pool: p, price: s.price(p),
			capacity: in, launched: c.now, eni: s.newID("eni-"), clientToken: clientToken,
		}
		i.node = s.privateDNS(ip.String())
		if p.spot {
			i.spotRequest = s.newID("sir-")
		}
		for _, d := range i.devices() {
			i.volumes = append(i.volumes, volume{s.newID("vol-"), d})
		}
		s.unseen(i)
		s.setLaunchTags(i, extra)
		s.instances = append(s.instances, i)
		s.byID[i.id] = i
		out = append(out, i)
		s.doom(i)
		s.schedule(c.now.Add(s.runningTime), dueRunning, i)
		s.schedule(c.now.Add(s.boot), dueBoot, i)
		if in != nil && in.block {
			s.endWithBlock(i)
		}
	}
	s.launchesDone(count)
	s.announce(out, "pending")
	return out
}

// setLaunchTags gives the instance and its parts their tags, and the tags that
// AWS adds itself.
func (s *Sim) setLaunchTags(i *instance, extra map[string]string) {
	tags := maps.Clone(extra)
	if tags == nil {
		tags = map[string]string{}
	}
	maps.Copy(tags, i.spec.tags["instance"])
	if t := i.spec.template; t != nil {
		tags["aws:ec2launchtemplate:id"] = t.id
		tags["aws:ec2launchtemplate:version"] = strconv.Itoa(i.spec.version)
	}
	s.tags[i.id] = tags
	part := func(id, kind string) {
		s.tags[id] = map[string]string{}
		maps.Copy(s.tags[id], i.spec.tags[kind])
	}
	part(i.eni, "network-interface")
	for _, v := range i.volumes {
		part(v.id, "volume")
	}
	if i.spotRequest != "" {
		part(i.spotRequest, "spot-instances-request")
	}
}

// privateDNS is the host name of an address ("Amazon EC2 instance hostnames",
// IP name: us-east-1 has a domain of its own).
func (s *Sim) privateDNS(ip string) string {
	domain := s.cfg.Region + ".compute.internal"
	if s.cfg.Region == "us-east-1" {
		domain = "ec2.internal"
	}
	return "ip-" + strings.ReplaceAll(ip, ".", "-") + "." + domain
}
