package ec2sim

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/berth-dev/berth/internal/catalog"
)

var vpcRange = netip.MustParsePrefix("10.0.0.0/16")

type subnet struct {
	id   string
	zone catalog.Zone
	ips  *ipPool
}

type securityGroup struct{ id, name, description string }

// buildNetwork makes the VPC, its subnets and security groups, with the tags
// by which EKS and Berth find them.
func (s *Sim) buildNetwork() error {
	cluster := "kubernetes.io/cluster/" + s.cfg.ClusterName
	s.vpc = s.newID("vpc-")
	s.tags[s.vpc] = map[string]string{"Name": s.cfg.ClusterName, cluster: "shared"}
	configs := s.cfg.Subnets
	if configs == nil {
		for i, z := range s.region.Zones {
			configs = append(configs, SubnetConfig{Zone: z.Name, CIDR: fmt.Sprintf("10.0.%d.0/19", 32*i)})
		}
	}
	for _, c := range configs {
		zone, ok := s.region.Zone(c.Zone)
		if !ok {
			return fmt.Errorf("subnet %s: there is no zone %q in %s", c.CIDR, c.Zone, s.region.Name)
		}
		prefix, err := netip.ParsePrefix(c.CIDR)
		if err != nil {
			return fmt.Errorf("subnet in %s: %w", c.Zone, err)
		}
		if !vpcRange.Overlaps(prefix) || prefix.Bits() < vpcRange.Bits() {
			return fmt.Errorf("subnet %s is not inside %s", prefix, vpcRange)
		}
		for _, other := range s.subnets {
			if other.ips.prefix.Overlaps(prefix) {
				return fmt.Errorf("subnets %s and %s overlap", prefix, other.ips.prefix)
			}
		}
		pool, err := newIPPool(prefix)
		if err != nil {
			return fmt.Errorf("subnet in %s: %w", c.Zone, err)
		}
		sn := &subnet{id: s.newID("subnet-"), zone: zone, ips: pool}
		s.subnets = append(s.subnets, sn)
		s.tags[sn.id] = map[string]string{
			"Name": s.cfg.ClusterName + "-private-" + zone.Name, cluster: "shared",
			"berth.dev/discovery": s.cfg.ClusterName, "kubernetes.io/role/internal-elb": "1",
		}
	}
	s.groups = []securityGroup{
		{s.newID("sg-"), "eks-cluster-sg-" + s.cfg.ClusterName, "EKS created security group applied to ENI that is attached to EKS Control Plane master nodes, as well as any managed workloads."},
		{s.newID("sg-"), "default", "default VPC security group"},
	}
	s.tags[s.groups[0].id] = map[string]string{"Name": s.groups[0].name, cluster: "owned", "berth.dev/discovery": s.cfg.ClusterName}
	s.tags[s.groups[1].id] = map[string]string{}
	return nil
}

func (s *Sim) subnet(id string) (*subnet, error) {
	for _, sn := range s.subnets {
		if sn.id == id {
			return sn, nil
		}
	}
	return nil, errf("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
}

func (s *Sim) group(id string) (securityGroup, error) {
	for _, g := range s.groups {
		if g.id == id {
			return g, nil
		}
	}
	return securityGroup{}, errf("InvalidGroup.NotFound", "The security group '%s' does not exist", id)
}

func (s *Sim) arn(service, rest string) string {
	return "arn:aws:" + service + ":" + s.cfg.Region + ":" + AccountID + ":" + rest
}

// describeInput is what most Describe calls of the network take.
type describeInput struct {
	Filters    []filter `q:"Filter"`
	MaxResults *int32
	NextToken  string
}

type subnetItem struct {
	ID               string `xml:"subnetId"`
	ARN              string `xml:"subnetArn"`
	State            string `xml:"state"`
	VPC              string `xml:"vpcId"`
	CIDR             string `xml:"cidrBlock"`
	Free             int    `xml:"availableIpAddressCount"`
	Zone             string `xml:"availabilityZone"`
	ZoneID           string `xml:"availabilityZoneId"`
	DefaultForAz     bool   `xml:"defaultForAz"`
	MapPublicIP      bool   `xml:"mapPublicIpOnLaunch"`
	AssignIPv6       bool   `xml:"assignIpv6AddressOnCreation"`
	OwnerID          string `xml:"ownerId"`
	IPv6Native       bool   `xml:"ipv6Native"`
	Tags             []tag  `xml:"tagSet>item"`
	PrivateDNSOption struct {
		HostnameType string `xml:"hostnameType"`
	} `xml:"privateDnsNameOptionsOnLaunch"`
}

func (s *Sim) describeSubnets(_ *call, in *struct {
	describeInput
	SubnetIDs []string `q:"SubnetId"`
}) (any, error) {
	all := s.subnets
	if len(in.SubnetIDs) > 0 {
		all = nil
		for _, id := range in.SubnetIDs {
			sn, err := s.subnet(id)
			if err != nil {
				return nil, err
			}
			all = append(all, sn)
		}
	}
	zone := one(func(sn *subnet) string { return sn.zone.Name })
	zoneID := one(func(sn *subnet) string { return sn.zone.ID })
	cidr := one(func(sn *subnet) string { return sn.ips.prefix.String() })
	kept, err := apply(all, in.Filters, fields[*subnet]{
		"subnet-id":                  one(func(sn *subnet) string { return sn.id }),
		"vpc-id":                     one(func(*subnet) string { return s.vpc }),
		"state":                      one(func(*subnet) string { return "available" }),
		"availability-zone":          zone,
		"availabilityZone":           zone,
		"availability-zone-id":       zoneID,
		"availabilityZoneId":         zoneID,
		"cidr-block":                 cidr,
		"cidr":                       cidr,
		"owner-id":                   one(func(*subnet) string { return AccountID }),
		"available-ip-address-count": one(func(sn *subnet) string { return strconv.Itoa(sn.ips.free) }),
		"map-public-ip-on-launch":    one(func(*subnet) string { return "false" }),
		"default-for-az":             one(func(*subnet) string { return "false" }),
	}, func(sn *subnet) map[string]string { return s.tags[sn.id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{5, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []subnetItem
	for _, sn := range list {
		item := subnetItem{
			ID: sn.id, ARN: s.arn("ec2", "subnet/"+sn.id), State: "available", VPC: s.vpc, CIDR: sn.ips.prefix.String(), Free: sn.ips.free,
			Zone: sn.zone.Name, ZoneID: sn.zone.ID, OwnerID: AccountID, Tags: tagList(s.tags[sn.id]),
		}
		item.PrivateDNSOption.HostnameType = "ip-name"
		items = append(items, item)
	}
	return &struct {
		Items []subnetItem `xml:"subnetSet>item"`
		Next  string       `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type groupItem struct {
	OwnerID     string `xml:"ownerId"`
	ID          string `xml:"groupId"`
	Name        string `xml:"groupName"`
	ARN         string `xml:"securityGroupArn"`
	Description string `xml:"groupDescription"`
	VPC         string `xml:"vpcId"`
	Tags        []tag  `xml:"tagSet>item"`
}

func (s *Sim) describeSecurityGroups(_ *call, in *struct {
	describeInput
	GroupIDs   []string `q:"GroupId"`
	GroupNames []string `q:"GroupName"`
}) (any, error) {
	all := s.groups
	if len(in.GroupIDs) > 0 {
		all = nil
		for _, id := range in.GroupIDs {
			g, err := s.group(id)
			if err != nil {
				return nil, err
			}
			all = append(all, g)
		}
	}
	if len(in.GroupNames) > 0 {
		all = slices.DeleteFunc(slices.Clone(all), func(g securityGroup) bool { return !slices.Contains(in.GroupNames, g.name) })
	}
	kept, err := apply(all, in.Filters, fields[securityGroup]{
		"group-id":    one(func(g securityGroup) string { return g.id }),
		"group-name":  one(func(g securityGroup) string { return g.name }),
		"description": one(func(g securityGroup) string { return g.description }),
		"vpc-id":      one(func(securityGroup) string { return s.vpc }),
		"owner-id":    one(func(securityGroup) string { return AccountID }),
	}, func(g securityGroup) map[string]string { return s.tags[g.id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{5, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []groupItem
	for _, g := range list {
		items = append(items, groupItem{AccountID, g.id, g.name, s.arn("ec2", "security-group/"+g.id), g.description, s.vpc, tagList(s.tags[g.id])})
	}
	return &struct {
		Items []groupItem `xml:"securityGroupInfo>item"`
		Next  string      `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type vpcItem struct {
	ID        string `xml:"vpcId"`
	State     string `xml:"state"`
	CIDR      string `xml:"cidrBlock"`
	OwnerID   string `xml:"ownerId"`
	IsDefault bool   `xml:"isDefault"`
	Tenancy   string `xml:"instanceTenancy"`
	Tags      []tag  `xml:"tagSet>item"`
}

func (s *Sim) describeVpcs(_ *call, in *struct {
	describeInput
	VpcIDs []string `q:"VpcId"`
}) (any, error) {
	for _, id := range in.VpcIDs {
		if id != s.vpc {
			return nil, errf("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", id)
		}
	}
	kept, err := apply([]string{s.vpc}, in.Filters, fields[string]{
		"vpc-id":    func(id string) []string { return []string{id} },
		"state":     one(func(string) string { return "available" }),
		"cidr":      one(func(string) string { return vpcRange.String() }),
		"owner-id":  one(func(string) string { return AccountID }),
		"isDefault": one(func(string) string { return "false" }),
	}, func(id string) map[string]string { return s.tags[id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{5, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []vpcItem
	for _, id := range list {
		items = append(items, vpcItem{id, "available", vpcRange.String(), AccountID, false, "default", tagList(s.tags[id])})
	}
	return &struct {
		Items []vpcItem `xml:"vpcSet>item"`
		Next  string    `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type zoneItem struct {
	Name        string `xml:"zoneName"`
	ID          string `xml:"zoneId"`
	State       string `xml:"zoneState"`
	Region      string `xml:"regionName"`
	Group       string `xml:"groupName"`
	BorderGroup string `xml:"networkBorderGroup"`
	Type        string `xml:"zoneType"`
	OptIn       string `xml:"optInStatus"`
}

func (s *Sim) describeAvailabilityZones(_ *call, in *struct {
	Filters              []filter `q:"Filter"`
	ZoneNames            []string `q:"ZoneName"`
	ZoneIDs              []string `q:"ZoneId"`
	AllAvailabilityZones bool
}) (any, error) {
	for _, want := range slices.Concat(in.ZoneNames, in.ZoneIDs) {
		if _, ok := s.region.Zone(want); !ok {
			return nil, errf("InvalidParameterValue", "Invalid availability zone: [%s]", want)
		}
	}
	all := slices.DeleteFunc(slices.Clone(s.region.Zones), func(z catalog.Zone) bool {
		return len(in.ZoneNames) > 0 && !slices.Contains(in.ZoneNames, z.Name) || len(in.ZoneIDs) > 0 && !slices.Contains(in.ZoneIDs, z.ID)
	})
	kept, err := apply(all, in.Filters, fields[catalog.Zone]{
		"zone-name":     one(func(z catalog.Zone) string { return z.Name }),
		"zone-id":       one(func(z catalog.Zone) string { return z.ID }),
		"region-name":   one(func(catalog.Zone) string { return s.region.Name }),
		"state":         one(func(catalog.Zone) string { return "available" }),
		"zone-type":     one(func(catalog.Zone) string { return "availability-zone" }),
		"group-name":    one(func(catalog.Zone) string { return s.region.Name }),
		"opt-in-status": one(func(catalog.Zone) string { return "opt-in-not-required" }),
	}, nil)
	if err != nil {
		return nil, err
	}
	var items []zoneItem
	for _, z := range kept {
		items = append(items, zoneItem{z.Name, z.ID, "available", s.region.Name, s.region.Name, s.region.Name, "availability-zone", "opt-in-not-required"})
	}
	return &struct {
		Items []zoneItem `xml:"availabilityZoneInfo>item"`
	}{items}, nil
}
