package ec2sim

import (
	"slices"
)

// placementGroup is one of EC2's ("Placement groups for your Amazon EC2
// instances").
type placementGroup struct {
	id, name, strategy string
	// zone of a cluster group's instances, once there was one.
	zone string
}

// placementStrategies that a group may have.
var placementStrategies = []string{"cluster", "partition", "spread"}

type placementItem struct {
	ID       string `xml:"groupId"`
	Name     string `xml:"groupName"`
	Strategy string `xml:"strategy"`
	State    string `xml:"state"`
}

func (g *placementGroup) item() placementItem {
	return placementItem{g.id, g.name, g.strategy, "available"}
}

func (s *Sim) createPlacementGroup(c *call, in *struct {
	GroupName string
	Strategy  string
}) (any, error) {
	if in.GroupName == "" {
		return nil, missing("GroupName")
	}
	if !slices.Contains(placementStrategies, in.Strategy) {
		return nil, invalidValue("Strategy", in.Strategy)
	}
	if _, err := s.placementGroup(in.GroupName); err == nil {
		return nil, errf("InvalidPlacementGroup.Duplicate", "The Placement Group '%s' already exists.", in.GroupName)
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	g := &placementGroup{id: s.newID("pg-"), name: in.GroupName, strategy: in.Strategy}
	s.placements = append(s.placements, g)
	return struct {
		Group placementItem `xml:"placementGroup"`
	}{g.item()}, nil
}

func (s *Sim) describePlacementGroups(_ *call, in *struct {
	GroupNames []string `q:"GroupName"`
}) (any, error) {
	out := struct {
		Groups []placementItem `xml:"placementGroupSet>item"`
	}{}
	for _, name := range in.GroupNames {
		g, err := s.placementGroup(name)
		if err != nil {
			return nil, err
		}
		out.Groups = append(out.Groups, g.item())
	}
	if len(in.GroupNames) == 0 {
		for _, g := range s.placements {
			out.Groups = append(out.Groups, g.item())
		}
	}
	return out, nil
}

func (s *Sim) placementGroup(name string) (*placementGroup, error) {
	for _, g := range s.placements {
		if g.name == name {
			return g, nil
		}
	}
	return nil, errf("InvalidPlacementGroup.Unknown", "The Placement Group '%s' is unknown.", name)
}

// placed notes where the first instance of a cluster group is.
func (s *Sim) placed(l *launchSpec) {
	if l.data.Placement == nil {
		return
	}
	if g, err := s.placementGroup(l.data.Placement.GroupName); err == nil && g.zone == "" {
		g.zone = l.subnet.zone.Name
	}
}

// place checks that an instance may be launched into its placement group: one of
// strategy cluster stays in the zone of its first.
func (s *Sim) place(l *launchSpec) error {
	if l.data.Placement == nil || l.data.Placement.GroupName == "" {
		return nil
	}
	g, err := s.placementGroup(l.data.Placement.GroupName)
	if err != nil {
		return err
	}
	if g.strategy == "cluster" && !slices.Contains(l.typ.PlacementStrategies, "cluster") {
		return errf("InvalidParameterCombination", "Cluster placement groups are not supported by the '%s' instance type. Specify a supported instance type or change the placement group strategy, and try again.", l.typ.Name)
	}
	if zone := l.subnet.zone.Name; g.strategy == "cluster" && g.zone != "" && g.zone != zone {
		return errf("InvalidParameterCombination", "The placement group '%s' is in %s, the subnet in %s", g.name, g.zone, zone)
	}
	return nil
}
