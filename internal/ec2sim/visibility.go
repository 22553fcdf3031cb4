package ec2sim

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// Lag is a distribution of delays. AWS publishes none ("Eventual consistency in
// the Amazon EC2 API" only advises to poll from seconds to minutes), so it is
// piecewise uniform: between 0 and Usual, or, for a share of the instances,
// between Usual and Tail, or between Tail and Outlier.
type Lag struct {
	// Usual, Tail and Outlier are durations such as "3s", each at least the one
	// before; empty is 0, or as the one before.
	Usual   string `json:"usual,omitempty"`
	Tail    string `json:"tail,omitempty"`
	Outlier string `json:"outlier,omitempty"`
	// TailShare and OutlierShare are shares from 0 to 1.
	TailShare    float64 `json:"tailShare,omitempty"`
	OutlierShare float64 `json:"outlierShare,omitempty"`
}

// Visibility is how long after its launch an instance stays unseen. It counts
// for instances launched from now on.
type Visibility struct {
	// ByID is for calls that name the instance: InvalidInstanceID.NotFound,
	// also from TerminateInstances and CreateTags.
	ByID Lag `json:"byId"`
	// List is for Describe calls with filters or without anything.
	List Lag `json:"list"`
	// Tags is for an instance's tags in answers and tag filters, and counts for
	// later changes of tags too.
	Tags Lag `json:"tags"`
}

// lag is a Lag that has been read.
type lag struct {
	usual, tail, outlier    time.Duration
	tailShare, outlierShare float64
}

func (l Lag) read(name string) (lag, error) {
	out := lag{tailShare: l.TailShare, outlierShare: l.OutlierShare}
	least := time.Duration(0)
	for _, f := range []struct {
		to   *time.Duration
		text string
	}{{&out.usual, l.Usual}, {&out.tail, l.Tail}, {&out.outlier, l.Outlier}} {
		d, err := duration(name, f.text)
		if err != nil {
			return out, err
		}
		if f.text == "" {
			d = least
		}
		if d < least {
			return out, fmt.Errorf("%s: usual, tail and outlier must not decrease", name)
		}
		*f.to, least = d, d
	}
	if l.TailShare < 0 || l.OutlierShare < 0 || l.TailShare+l.OutlierShare > 1 {
		return out, fmt.Errorf("%s: the shares are not between 0 and 1", name)
	}
	return out, nil
}

// at is the delay that belongs to two numbers from 0 to 1.
func (l lag) at(share, within float64) time.Duration {
	from, to := time.Duration(0), l.usual
	switch {
	case share < l.outlierShare:
		from, to = l.tail, l.outlier
	case share < l.outlierShare+l.tailShare:
		from, to = l.usual, l.tail
	}
	return from + time.Duration(within*float64(to-from))
}

func (s *Sim) lagged(l lag, what string, n int) time.Duration {
	if l == (lag{}) {
		return 0
	}
	return l.at(s.draw(what+" share", n), s.draw(what, n))
}

func (s *Sim) setVisibility(in *Visibility) error {
	byID, err1 := in.ByID.read("byId")
	list, err2 := in.List.read("list")
	tags, err3 := in.Tags.read("tags")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	s.lags.byID, s.lags.list, s.lags.tags = byID, list, tags
	return nil
}

// Hide makes live instances invisible for a while: a list that leaves them out,
// or NotFound for what is there.
type Hide struct {
	// InstanceID or Zone says which: one instance, or all that a zone has now.
	InstanceID string `json:"instanceId,omitempty"`
	Zone       string `json:"zone,omitempty"`
	// For is how long: a duration.
	For string `json:"for"`
	// List hides from lists, ByID from calls that name the instance; neither
	// means both.
	List bool `json:"list,omitempty"`
	ByID bool `json:"byId,omitempty"`
}

func (s *Sim) hide(in *Hide) error {
	d, err := duration("for", in.For)
	if err != nil {
		return err
	}
	if d == 0 || (in.InstanceID == "") == (in.Zone == "") {
		return errors.New("give for, and either instanceId or zone")
	}
	until, found := s.clock.Now().Add(d), false
	for _, i := range s.instances {
		if i.id != in.InstanceID && i.pool.zone != in.Zone {
			continue
		}
		found = true
		if in.List || !in.ByID {
			i.listedAt = until
		}
		if in.ByID || !in.List {
			i.knownAt = until
		}
	}
	if !found {
		return fmt.Errorf("there is no instance %s%s", in.InstanceID, in.Zone)
	}
	return nil
}

// unseen sets from when on a new instance is seen.
func (s *Sim) unseen(i *instance) {
	i.knownAt = i.launched.Add(s.lagged(s.lags.byID, "visible by id", i.number))
	i.listedAt = i.launched.Add(s.lagged(s.lags.list, "visible in lists", i.number))
	s.tagsChange(i)
}

// tagsChange must be called before an instance's tags are changed: what is
// there now is what is seen for a while.
func (s *Sim) tagsChange(i *instance) {
	now := s.clock.Now()
	i.tagChanges++
	d := s.lagged(s.lags.tags, "visible tags of "+i.id, i.tagChanges)
	if d == 0 {
		return
	}
	if !now.Before(i.tagsAt) {
		i.tagsBefore = maps.Clone(s.tags[i.id])
	}
	if at := now.Add(d); at.After(i.tagsAt) {
		i.tagsAt = at
	}
}

// instanceTags are an instance's tags as they are seen now.
func (s *Sim) instanceTags(i *instance) map[string]string {
	if s.clock.Now().Before(i.tagsAt) {
		return i.tagsBefore
	}
	return s.tags[i.id]
}

// known reports whether calls that name the instance find it, listed whether
// lists have it.
func (s *Sim) known(i *instance) bool  { return i != nil && !s.clock.Now().Before(i.knownAt) }
func (s *Sim) listed(i *instance) bool { return !s.clock.Now().Before(i.listedAt) }
