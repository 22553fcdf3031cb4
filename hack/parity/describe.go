package main

import (
	"fmt"
	"strings"

	"github.com/berth-dev/berth/internal/capacity"
)

// describe writes the scenario's plan for people.
func describe(s *scenario) string {
	p := capacity.Solve(s.snapshot())
	var b strings.Builder
	for i := range p.Launches {
		l := &p.Launches[i]
		fmt.Fprintf(&b, "\nnew-%d %s %s/%s/%s:", i, l.Provisioner.Name, l.InstanceType, l.CapacityType, l.Zone)
		for _, pod := range l.Pods {
			b.WriteString(" " + pod.Name)
		}
	}
	for _, pl := range p.Placements {
		fmt.Fprintf(&b, "\n%s on %s", pl.Pod.Name, pl.Node.Name)
	}
	for _, u := range p.Unschedulable {
		fmt.Fprintf(&b, "\nno place for %s:", u.Pod.Name)
		for _, r := range u.Reasons {
			fmt.Fprintf(&b, " [%s %s: %s]", r.Provisioner, r.Constraint, r.Detail)
		}
	}
	return b.String()
}
