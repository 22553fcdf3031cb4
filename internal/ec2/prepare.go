package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// maxOverrides bounds the lines of a CreateFleet request. EC2 takes 300 by
	// default, and refuses payloads that are too large before that.
	maxOverrides = 60
	// maxLineBytes bounds what all lines together take of the request's body.
	// AWS publishes no limit; refusals are known from requests of some 100 KiB.
	maxLineBytes = 24 << 10
	// lineFraming is what a line takes beside its values: the names of its
	// parameters ("LaunchTemplateConfigs.1.Overrides.60.InstanceType=").
	lineFraming = 170
)

// LaunchToken is the ClientToken of an attempt: a function of the cluster, the
// claim and the number of the attempt. 52 letters and digits; EC2 takes 64.
func LaunchToken(clusterUID, claimUID string, attempt int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", clusterUID, claimUID, attempt))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
}

// PrepareLaunch puts together the claim's next attempt: attempt 1, or the one
// after the attempt in its status, which EC2 must have refused for certain
// (Definite). It makes sure that the launch templates exist; it launches
// nothing. The claim's offerings should be without those that are known to be
// exhausted; one capacity type is tried in one attempt, that of the first
// offering that can be had. count is how many instances the attempt is for.
//
// A *ConfigError says what a person must change; a *CapacityError, whose
// Refused is never empty, that no subnet in the offerings' zones has a free
// address.
func (c *Cloud) PrepareLaunch(ctx context.Context, claim *v1alpha1.NodeClaim, count int) (*v1alpha1.LaunchIntent, error) {
	wrap := func(err error) error { return fmt.Errorf("preparing the launch of claim %s: %w", claim.Name, err) }
	r, err := c.Resolve(ctx, claim.Spec.Provisioner.Name, &claim.Spec.NodeTemplate)
	if err != nil {
		return nil, wrap(err)
	}
	if !r.Ready() {
		return nil, wrap(&ConfigError{Fault: Fault{Action: "PrepareLaunch", Message: r.Planner().Why}, Fix: "see the conditions of provisioner " + claim.Spec.Provisioner.Name})
	}
	if err := c.discovered(ctx); err != nil {
		return nil, wrap(err)
	}
	lines, err := chooseLines(claim.Spec.Offerings, c.machine, r, c.addresses.bestSubnets(r.Subnets))
	if err != nil {
		return nil, wrap(err)
	}
	c.sayMaxPods(lines, &claim.Spec.NodeTemplate)
	lines = fewTemplates(lines)
	intent := &v1alpha1.LaunchIntent{Attempt: 1, StartedAt: metav1.Now(), CapacityType: lines[0].capacityType, CapacityBlock: lines[0].reservation.Block}
	if claim.Status.Launch != nil {
		intent.Attempt = claim.Status.Launch.Attempt + 1
	}
	intent.Token = LaunchToken(c.cfg.ClusterUID, string(claim.UID), intent.Attempt)
	templates := map[variant]Template{}
	for _, l := range lines {
		t, ok := templates[l.variant()]
		if !ok {
			if t, err = c.template(ctx, claim, r, l); err != nil {
				return nil, wrap(err)
			}
			templates[l.variant()] = t
		}
		o := v1alpha1.LaunchOverride{InstanceType: l.instanceType, Zone: l.zone, SubnetID: l.subnet}
		switch {
		case intent.LaunchTemplateID == "":
			intent.LaunchTemplateID, intent.LaunchTemplateVersion = t.ID, t.Version
		case intent.LaunchTemplateID != t.ID:
			o.LaunchTemplateID, o.LaunchTemplateVersion = t.ID, t.Version
		}
		intent.Overrides = append(intent.Overrides, o)
	}
	c.addresses.plan(intent.Token, lines[0].subnet, count, time.Now())
	return intent, nil
}

// zonesOf are the offerings' zones, in words.
func zonesOf(offerings []capacity.OfferingRef) string {
	var zones []string
	for _, o := range offerings {
		zones = append(zones, o.Zone)
	}
	slices.Sort(zones)
	return strings.Join(slices.Compact(zones), ", ")
}

// template returns the launch template for a line: the Provisioner's own, or
// one of Berth's.
func (c *Cloud) template(ctx context.Context, claim *v1alpha1.NodeClaim, r Resolved, l line) (Template, error) {
	if r.Own != nil {
		return *r.Own, nil
	}
	t := &claim.Spec.NodeTemplate
	doc, err := c.userDataFor(claim.Spec.Provisioner.Name, t, l)
	if err != nil {
		return Template{}, &ConfigError{Fault: Fault{Action: "CreateLaunchTemplate", Message: flat(err.Error())}, Fix: "check the Provisioner"}
	}
	return c.ensureTemplate(ctx, templateData(templateInput{
		spec: &t.EC2, image: l.image, userData: doc, securityGroups: r.SecurityGroups, instanceProfile: r.InstanceProfile, reservation: l.reservation,
		tags: c.interfaceTags(claim.Spec.Provisioner.Name, &t.EC2),
	}))
}

// userDataFor is the user data of the instances of a line.
func (c *Cloud) userDataFor(provisioner string, t *v1alpha1.NodeTemplate, l line) (string, error) {
	b := c.bootstrap(provisioner, t)
	if l.maxPods > 0 {
		b.kubelet.MaxPods = &l.maxPods
	}
	return userData(family(&t.EC2), b)
}

// line is one line of a request.
type line struct {
	instanceType, zone, subnet, capacityType string
	image                                    Image
	// reservation to launch into; without an ID for none.
	reservation Reservation
	// maxPods that the kubelet is told; 0 leaves it to the image.
	maxPods int32
}

// variant is what two lines must have in common to share a launch template.
type variant struct {
	image, reservation string
	maxPods            int32
}

func (l line) variant() variant { return variant{l.image.ID, l.reservation.ID, l.maxPods} }

// chooseLines turns offerings into the lines of one attempt, in the offerings'
// order: those with the capacity type of the first that has an image and a
// subnet with a free address, at most maxOverrides and maxLineBytes. A Capacity
// Block is asked for alone, since EC2 takes no other line beside it. Spot dearer than the same
// claim's cheapest on-demand offering is left out: it costs more and can be
// taken away.
func chooseLines(offerings []v1alpha1.ClaimOffering, machine func(string) *capacity.Machine, r Resolved, subnets map[string]string) ([]line, error) {
	cheapest := cheapestOnDemand(offerings)
	var (
		lines    []line
		bytes    int
		noRoom   []capacity.OfferingRef
		full     []capacity.OfferingRef
		noImages []string
	)
	for _, o := range offerings {
		if len(lines) == maxOverrides || len(lines) > 0 && o.CapacityType != lines[0].capacityType {
			continue
		}
		price := o.HourlyPrice.Dollars()
		if o.CapacityType == v1alpha1.CapacityTypeSpot && cheapest > 0 && price > cheapest {
			continue
		}
		m := machine(o.InstanceType)
		if m == nil {
			noImages = append(noImages, o.InstanceType+": not a type that this region offers")
			continue
		}
		image, ok := r.image(m)
		if !ok {
			noImages = append(noImages, o.InstanceType+": no image for "+machineNeeds(m))
			continue
		}
		subnet, ok := subnets[o.Zone]
		if !ok {
			noRoom = append(noRoom, capacity.OfferingRef{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType, Price: price})
			continue
		}
		if bytes += lineFraming + len(o.InstanceType) + len(subnet); bytes > maxLineBytes {
			break
		}
		l := line{instanceType: o.InstanceType, zone: o.Zone, subnet: subnet, capacityType: o.CapacityType, image: image}
		if o.CapacityType == v1alpha1.CapacityTypeReserved {
			if l.reservation, ok = r.reservation(o.InstanceType, o.Zone, time.Now()); !ok {
				full = append(full, capacity.OfferingRef{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType, Price: price})
				continue
			}
			if l.reservation.Block && len(lines) > 0 {
				continue
			}
		}
		if lines = append(lines, l); l.reservation.Block {
			break
		}
	}
	switch {
	case len(lines) > 0:
		return lines, nil
	case len(full) > 0:
		return nil, &CapacityError{Refused: append(refusals(ClassCapacity, full...), refusals(ClassAddresses, noRoom...)...),
			Fault: Fault{Action: "PrepareLaunch", Code: "ReservationCapacityExceeded", Message: "the capacity reservations that the claim may use have no room left"}}
	case len(noRoom) > 0:
		return nil, &CapacityError{Refused: refusals(ClassAddresses, noRoom...), Fix: roomFixes[codeSubnetFull],
			Fault: Fault{Action: "PrepareLaunch", Code: codeSubnetFull, Message: "no subnet in " + zonesOf(noRoom) + " has a free address"}}
	case len(noImages) > 0:
		slices.Sort(noImages)
		return nil, &ConfigError{Fix: "check ec2.amis", Fault: Fault{Action: "PrepareLaunch", Message: strings.Join(slices.Compact(noImages), "; ")}}
	default:
		return nil, &ConfigError{Fault: Fault{Action: "PrepareLaunch", Message: "the claim has no offering that is worth its price"}, Fix: "delete the claim"}
	}
}

// cheapestOnDemand price among offerings; 0 without any.
func cheapestOnDemand(offerings []v1alpha1.ClaimOffering) float64 {
	cheapest := 0.0
	for _, o := range offerings {
		if price := o.HourlyPrice.Dollars(); o.CapacityType == v1alpha1.CapacityTypeOnDemand && (cheapest == 0 || price < cheapest) {
			cheapest = price
		}
	}
	return cheapest
}

// machineNeeds says which image a machine needs: "arm64 with nvidia".
func machineNeeds(m *capacity.Machine) string {
	if m.GPU == nil {
		return m.Arch
	}
	return m.Arch + " with " + m.GPU.Manufacturer
}
