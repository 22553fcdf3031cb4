package provisioner

import (
	"fmt"
	"strings"
	"time"

	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

// blame is what EC2 last refused a Provisioner, until a launch of it succeeds.
type blame struct {
	class ec2.Class
	why   string
	// stops: no launch can succeed before something is changed, so that none is
	// tried until the time is over. It grows with each refusal of the class.
	stops  bool
	until  time.Time
	streak int
}

// pauses are how long launches for a Provisioner stop at first, and at most,
// after a refusal of a class that waiting alone does not cure.
var pauses = map[ec2.Class]struct{ first, most time.Duration }{
	ec2.ClassDenied:      {30 * time.Second, 10 * time.Minute},
	ec2.ClassCredentials: {30 * time.Second, 10 * time.Minute},
	ec2.ClassImage:       {30 * time.Second, 10 * time.Minute},
	ec2.ClassNetwork:     {30 * time.Second, 10 * time.Minute},
	ec2.ClassSettings:    {time.Minute, 10 * time.Minute},
	// A new profile takes some seconds to be known everywhere.
	ec2.ClassProfile: {10 * time.Second, 5 * time.Minute},
	// One of Berth's own is made again at once; this is for those of the user.
	ec2.ClassTemplate: {10 * time.Second, 5 * time.Minute},
}

// outages are how long an offering that EC2 refused is left alone at first, and
// at most.
var outages = map[ec2.Class]struct{ first, most time.Duration }{
	ec2.ClassCapacity: {3 * time.Minute, 30 * time.Minute},
	// Other instances of the account may end, and somebody may raise the quota.
	ec2.ClassQuota: {2 * time.Minute, 15 * time.Minute},
	// Addresses come back as nodes and pods go.
	ec2.ClassAddresses: {30 * time.Second, 5 * time.Minute},
}

// refused notes what EC2 refused a Provisioner. A refusal that only changed
// settings can cure stops its launches for a while.
func (c *catalogue) refused(provisioner string, why error, now time.Time) {
	class := ec2.ClassOf(why)
	if class == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.blamed[provisioner]
	r := blame{class: class, why: why.Error()}
	if p, stops := pauses[class]; stops {
		if was.class == class {
			if now.Before(was.until) {
				return // The launches of one moment are one piece of news.
			}
			r.streak = was.streak + 1
		}
		r.stops, r.until = true, now.Add(min(p.first<<min(r.streak, 10), p.most))
	}
	c.blamed[provisioner] = r
}

// succeeded forgets what was refused before.
func (c *catalogue) succeeded(provisioner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.blamed, provisioner)
	c.proven[provisioner] = true
}

// works reports whether this process has seen a launch for a Provisioner succeed.
func (c *catalogue) works(provisioner string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proven[provisioner]
}

// lastRefusal is what EC2 last refused a Provisioner, if no launch has succeeded since.
func (c *catalogue) lastRefusal(provisioner string) (blame, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.blamed[provisioner]
	return r, ok
}

// blamedFor returns why launches for a Provisioner are stopped, if they are.
func (c *catalogue) blamedFor(provisioner string, now time.Time) (string, bool) {
	r, ok := c.lastRefusal(provisioner)
	return r.why, ok && r.stops && now.Before(r.until)
}

// text is the message of the condition.
func (r blame) text() string {
	if r.stops {
		return fmt.Sprintf("%s; tried again after %s", r.why, r.until.UTC().Format("15:04:05 MST"))
	}
	return r.why
}

// exhausted learns from a launch for a Provisioner which offerings EC2 did not
// give, and for how long to leave them alone: longer each time. What was refused
// for a setting rests for this Provisioner only.
func (c *catalogue) exhausted(provisioner string, refused []ec2.Refusal, now time.Time) {
	if len(refused) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	quota := map[offeringKey]bool{}
	for _, r := range refused {
		if r.Class == ec2.ClassQuota {
			for _, o := range c.overQuota(r.OfferingRef) {
				quota[offeringKey{o.InstanceType, o.Zone, o.CapacityType, ""}] = true
			}
		}
	}
	for _, r := range refused {
		key := offeringKey{r.InstanceType, r.Zone, r.CapacityType, ""}
		o, ok := outages[r.Class]
		if p, setting := pauses[r.Class]; setting {
			o, ok = p, true
			key.provisioner = provisioner
		}
		if !ok {
			o = outages[ec2.ClassCapacity]
		}
		if r.Class != ec2.ClassQuota {
			c.rest(key, o.first, o.most, now)
		}
	}
	for key := range quota {
		c.rest(key, outages[ec2.ClassQuota].first, outages[ec2.ClassQuota].most, now)
	}
	c.version++
}

// rest leaves an offering alone for a while.
func (c *catalogue) rest(key offeringKey, first, most time.Duration, now time.Time) {
	was := c.ice[key]
	if now.Before(was.until) {
		return // Refused to two launches at the same time: one piece of news.
	}
	if was.until.Add(most).Before(now) {
		was.streak = 0
	}
	c.ice[key] = ice{until: now.Add(min(first<<was.streak, most)), streak: min(was.streak+1, 8)}
}

// restsUntil is until when an offering is left alone, by all and by a Provisioner.
func (c *catalogue) restsUntil(provisioner, instanceType, zone, capacityType string) time.Time {
	until := c.ice[offeringKey{instanceType, zone, capacityType, ""}].until
	if provisioner != "" {
		until = laterOf(until, c.ice[offeringKey{instanceType, zone, capacityType, provisioner}].until)
	}
	return until
}

// overQuota are a refused offering and all others that draw on the same quota of
// vCPUs and need as many or more of it. Smaller ones may still fit.
func (c *catalogue) overQuota(refused capacity.OfferingRef) []capacity.OfferingRef {
	out := []capacity.OfferingRef{refused}
	of := c.byName[refused.InstanceType]
	if of == nil {
		return out
	}
	for _, m := range c.machines {
		if m.VCPUs < of.VCPUs || quotaBucket(m.Name) != quotaBucket(of.Name) {
			continue
		}
		for _, o := range m.Offerings {
			if o.CapacityType == refused.CapacityType {
				out = append(out, capacity.OfferingRef{InstanceType: m.Name, Zone: o.Zone, CapacityType: o.CapacityType})
			}
		}
	}
	return out
}

// quotaBucket names the vCPU quota that an instance type draws on ("On-Demand
// Instance quotas" in the EC2 user guide): the families A, C, D, H, I, M, R, T
// and Z share the standard one, others have one for each letter.
func quotaBucket(instanceType string) string {
	letters := instanceType
	if at := strings.IndexAny(instanceType, "0123456789-."); at >= 0 {
		letters = instanceType[:at]
	}
	switch letters {
	case "a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z":
		return "standard"
	case "vt", "gr":
		return "g"
	}
	return letters
}
