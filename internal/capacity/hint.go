package capacity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Hint is the content of annotation berth.dev/placement: where an empty node
// for a pod would come from, as the webhook knew it when the pod was created.
// Advisory: it is never the basis of a decision, and nothing begins sooner for it. It
// tells whoever looks at the pod, and is counted against what was bought.
type Hint struct {
	// Provisioner is the name of the one that would be asked.
	Provisioner string
	// InstanceType, CapacityType and Zone of the cheapest offering.
	InstanceType, CapacityType, Zone string
	// Share of that node's price, in $/h, that the pod takes by its largest
	// share of any resource.
	Share float64
	// Version of the Offerings that this follows from.
	Version int64
}

// maxHint bounds what ParseHint looks at, in bytes: tenants can write the
// annotation too.
const maxHint = 512

// String is the annotation's value:
//
//	provisioner=default,offering=m7i.large/spot/us-west-2a,share=0.00312,offerings=42
func (h Hint) String() string {
	b := make([]byte, 0, 128)
	b = append(b, "provisioner="...)
	b = append(b, h.Provisioner...)
	b = append(b, ",offering="...)
	b = append(b, h.InstanceType...)
	b = append(b, '/')
	b = append(b, h.CapacityType...)
	b = append(b, '/')
	b = append(b, h.Zone...)
	b = append(b, ",share="...)
	b = strconv.AppendFloat(b, h.Share, 'f', 5, 64)
	b = append(b, ",offerings="...)
	b = strconv.AppendInt(b, h.Version, 10)
	return string(b)
}

// ParseHint reads what String wrote. Keys that it does not know are ignored; a
// value without Provisioner and offering, or a long one, is an error.
func ParseHint(s string) (Hint, error) {
	var h Hint
	if len(s) > maxHint {
		return h, fmt.Errorf("placement hint of %d bytes, at most %d are read", len(s), maxHint)
	}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return Hint{}, fmt.Errorf("placement hint: %q is not key=value", part)
		}
		var err error
		switch key {
		case "provisioner":
			h.Provisioner = value
		case "offering":
			f := strings.Split(value, "/")
			if len(f) != 3 {
				return Hint{}, fmt.Errorf("placement hint: offering %q is not type/capacity type/zone", value)
			}
			h.InstanceType, h.CapacityType, h.Zone = f[0], f[1], f[2]
		case "share":
			h.Share, err = strconv.ParseFloat(value, 64)
			if err == nil && !(h.Share >= 0 && h.Share <= math.MaxFloat64) {
				err = fmt.Errorf("%q is no price", value)
			}
		case "offerings":
			h.Version, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return Hint{}, fmt.Errorf("placement hint: %s: %w", key, err)
		}
	}
	if h.Provisioner == "" || h.InstanceType == "" || h.CapacityType == "" || h.Zone == "" {
		return Hint{}, fmt.Errorf("placement hint: provisioner or offering is missing in %q", s)
	}
	return h, nil
}
