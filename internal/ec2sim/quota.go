package ec2sim

import (
	"errors"
	"fmt"
	"strings"
)

// Quota is a limit on the vCPUs of the account's instances of one bucket
// ("On-Demand Instance quotas", "Spot Instance quotas" in the EC2 user guide).
// Instances count until they are terminated. Without an order nothing is
// limited.
type Quota struct {
	// Bucket is standard (A, C, D, H, I, M, R, T, Z), dl, f, g (G and VT), hpc,
	// inf, mac, p, trn, u (high memory) or x.
	Bucket string `json:"bucket"`
	// CapacityType is on-demand or spot.
	CapacityType string `json:"capacityType"`
	// VCPUs is the limit; -1 is none.
	VCPUs int `json:"vcpus"`
}

type quotaKey struct {
	bucket string
	spot   bool
}

var quotaBuckets = []struct {
	name     string
	prefixes []string
}{
	{"dl", []string{"dl"}},
	{"f", []string{"f"}},
	{"g", []string{"g", "vt"}},
	{"hpc", []string{"hpc"}},
	{"inf", []string{"inf"}},
	{"mac", []string{"mac"}},
	{"p", []string{"p"}},
	{"trn", []string{"trn"}},
	{"u", []string{"u"}},
	{"x", []string{"x"}},
	{"standard", []string{"a", "c", "d", "h", "i", "m", "r", "t", "z", "im", "is"}},
}

// quotaBucket of an instance type: by the letters before its generation.
func quotaBucket(typeName string) string {
	letters := typeName
	if at := strings.IndexAny(typeName, "0123456789-."); at >= 0 {
		letters = typeName[:at]
	}
	for _, b := range quotaBuckets {
		for _, p := range b.prefixes {
			if letters == p {
				return b.name
			}
		}
	}
	return "standard"
}

func (s *Sim) setQuota(in *Quota) error {
	known := false
	for _, b := range quotaBuckets {
		known = known || b.name == in.Bucket
	}
	if !known {
		return fmt.Errorf("bucket %q is none", in.Bucket)
	}
	if in.CapacityType != "spot" && in.CapacityType != "on-demand" {
		return fmt.Errorf("capacityType %q is neither on-demand nor spot", in.CapacityType)
	}
	key := quotaKey{in.Bucket, in.CapacityType == "spot"}
	switch {
	case in.VCPUs < -1:
		return errors.New("vcpus is below -1")
	case in.VCPUs == -1:
		delete(s.quotas, key)
	default:
		s.quotas[key] = in.VCPUs
	}
	return nil
}

// quotasLeft is what is left of each quota, in vCPUs.
func (s *Sim) quotasLeft() map[quotaKey]int {
	left := make(map[quotaKey]int, len(s.quotas))
	for k, n := range s.quotas {
		left[k] = n
	}
	if len(left) == 0 {
		return left
	}
	for _, i := range s.instances {
		key := quotaKey{quotaBucket(i.pool.typeName), i.pool.spot}
		if _, limited := left[key]; limited && i.state != stateTerminated {
			left[key] -= i.spec.typ.VCPUs
		}
	}
	return left
}

// overQuota is EC2's refusal, as an item of errorSet or of RunInstances
// ("Error codes for the Amazon EC2 API").
func overQuota(key quotaKey, limit int) *apiError {
	if key.spot {
		return errf("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
	}
	return errf("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of %d allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.", limit)
}
