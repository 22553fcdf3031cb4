package ec2sim

import (
	"container/heap"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/berth-dev/berth/internal/ec2sim/kubelet"
)

// state is the life of an instance ("Amazon EC2 instance state changes"). The
// order of the values is the order of life.
type state int

const (
	statePending state = iota
	stateRunning
	stateShuttingDown
	stateTerminated
)

var stateNames = []string{"pending", "running", "shutting-down", "terminated"}
var stateCodes = []int{0, 16, 32, 48}

func (s state) String() string { return stateNames[s] }

type instance struct {
	id, reservation, node, eni, spotRequest, clientToken string

	index, seq int
	spec       *launchSpec
	ip         netip.Addr
	pool       pool
	// capacity is the Capacity Reservation that it runs in; nil for none.
	capacity *reservation
	price    float64
	volumes  []volume

	state                                         state
	reasonCode, reasonMessage                     string
	launched, running, joined, ending, terminated time.Time
	booted, failed                                bool
	console                                       []string

	// number counts the launches; draws depend on it and not on the random id.
	number int
	// knownAt and listedAt are from when on calls by id and lists have it;
	// until tagsAt its tags look like tagsBefore.
	knownAt, listedAt, tagsAt time.Time
	tagsBefore                map[string]string
	tagChanges                int
	// doom is why it will never run.
	doom                                          *Late
	impairedInstance, impairedSystem, impairedEBS bool
	impairedSince                                 time.Time
	events                                        []scheduled
}

type volume struct {
	id string
	device
}

// devices are the volumes: the image's, changed and extended by the template's
// mappings.
func (i *instance) devices() []device {
	out := slices.Clone(i.spec.image.devices)
	for _, m := range i.spec.data.Devices {
		at := slices.IndexFunc(out, func(d device) bool { return d.name == m.DeviceName })
		switch {
		case m.NoDevice != "" && at >= 0:
			out = slices.Delete(out, at, at+1)
		case m.Ebs == nil:
		case at >= 0 && m.Ebs.VolumeSize != nil:
			out[at].gib = int(*m.Ebs.VolumeSize)
		case at < 0 && m.Ebs.VolumeSize != nil:
			out = append(out, device{m.DeviceName, int(*m.Ebs.VolumeSize)})
		}
	}
	return out
}

// machine is what boots.
func (i *instance) machine() kubelet.Machine {
	disk := 0
	for _, d := range i.devices() {
		if d.name == i.spec.image.dataDevice {
			disk = d.gib
		}
	}
	return kubelet.Machine{
		InstanceID: i.id, NodeName: i.node, IP: i.ip.String(), Zone: i.pool.zone, Type: i.spec.typ,
		Image: i.spec.image.boot, DiskGiB: disk, UserData: i.spec.userData,
	}
}

// dueKind is what happens to an instance when its time comes.
type dueKind int

const (
	dueRunning dueKind = iota
	dueBoot
	dueTerminated
	dueForget
	dueInterrupt
	dueBlockNotice
	dueBlockEnd
)

type dueItem struct {
	at   time.Time
	seq  int
	kind dueKind
	i    *instance
}

// dueHeap orders what is to happen by time, then by the order it was planned.
type dueHeap []dueItem

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(a, b int) bool {
	if !h[a].at.Equal(h[b].at) {
		return h[a].at.Before(h[b].at)
	}
	return h[a].seq < h[b].seq
}
func (h dueHeap) Swap(a, b int) { h[a], h[b] = h[b], h[a] }

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(dueItem)) }

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func (s *Sim) schedule(at time.Time, kind dueKind, i *instance) {
	s.seq++
	heap.Push(&s.due, dueItem{at, s.seq, kind, i})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tick does all that is due. It runs under the lock, before every call and
// whenever Run's timer fires, so that nobody sees a state that is out of date.
func (s *Sim) tick(now time.Time) {
	for len(s.due) > 0 && !s.due[0].at.After(now) {
		d := heap.Pop(&s.due).(dueItem)
		i := d.i
		switch d.kind {
		case dueRunning:
			switch {
			case i.state != statePending:
			case i.doom != nil:
				i.reasonCode, i.reasonMessage = i.doom.Code, i.doom.Message
				s.end(i, d.at)
			default:
				i.state, i.running = stateRunning, d.at
				s.announce([]*instance{i}, "running")
			}
		case dueBoot:
			if i.state <= stateRunning {
				i.booted = true
				i.say("Linux version %s; instance %s booted", i.spec.image.boot.Kernel, i.id)
				if s.kubelet != nil {
					s.kubelet.Boot(i.machine())
				}
			}
		case dueTerminated:
			s.end(i, d.at)
		case dueForget:
			s.forget(i)
		case dueBlockNotice:
			if i.state <= stateRunning {
				s.announceBlockEnd(i)
			}
		case dueBlockEnd:
			s.shutDown(i, d.at, "Server.CapacityBlockTermination", "Server.CapacityBlockTermination: the Capacity Block ends")
		case dueInterrupt:
			s.shutDown(i, d.at, "Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
		}
	}
}

// shutDown begins the end of an instance that lives.
func (s *Sim) shutDown(i *instance, at time.Time, code, message string) {
	if i.state >= stateShuttingDown {
		return
	}
	i.state, i.ending = stateShuttingDown, at
	i.reasonCode, i.reasonMessage = code, message
	if s.kubelet != nil && i.booted {
		s.kubelet.Stop(i.machine())
	}
	s.announce([]*instance{i}, "shutting-down")
	s.schedule(at.Add(s.terminateTime), dueTerminated, i)
}

// end frees what the instance held.
func (s *Sim) end(i *instance, at time.Time) {
	i.state, i.terminated = stateTerminated, at
	i.spec.subnet.ips.give(i.ip)
	if i.capacity != nil {
		i.capacity.used--
	} else if sl := s.pools[i.pool]; sl != nil {
		sl.left++
	}
	for _, v := range i.volumes {
		delete(s.tags, v.id)
	}
	delete(s.tags, i.eni)
	s.announce([]*instance{i}, "terminated")
	s.schedule(at.Add(terminatedVisible), dueForget, i)
}

func (s *Sim) forget(i *instance) {
	delete(s.byID, i.id)
	delete(s.tags, i.id)
	delete(s.tags, i.spotRequest)
	s.instances = slices.DeleteFunc(s.instances, func(o *instance) bool { return o == i })
}

// maxConsole is how many lines a console keeps.
const maxConsole = 200

func (i *instance) say(format string, args ...any) {
	if len(i.console) == maxConsole {
		i.console = i.console[1:]
	}
	i.console = append(i.console, fmt.Sprintf(format, args...))
}

// kubeletEvent takes news from an instance's kubelet.
func (s *Sim) kubeletEvent(e kubelet.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.byID[e.InstanceID]
	if i == nil {
		return
	}
	if e.Console != "" {
		i.say("%s", e.Console)
	}
	if e.Joined {
		i.joined = s.clock.Now()
	}
	if e.Failed {
		i.failed = true
	}
}

// announce logs a change of state and publishes it.
func (s *Sim) announce(list []*instance, state string) {
	for _, i := range list {
		s.log.Info("instance "+state, zap.String("instance", i.id), zap.String("type", i.pool.typeName), zap.String("zone", i.pool.zone), zap.Bool("spot", i.pool.spot), zap.String("node", i.node))
		s.publish("EC2 Instance State-change Notification", s.arn("ec2", "instance/"+i.id), map[string]any{"instance-id": i.id, "state": state})
	}
}

// interrupt gives a spot instance its notice, and takes it away after that.
func (s *Sim) interrupt(i *instance, now time.Time, notice time.Duration) {
	// The zone stands where other events have the Region, and there is no
	// account ("Spot Instance interruption notices").
	s.publish("EC2 Spot Instance Interruption Warning", "arn:aws:ec2:"+i.pool.zone+":instance/"+i.id, map[string]any{"instance-id": i.id, "instance-action": "terminate"})
	s.log.Info("instance interrupted", zap.String("instance", i.id), zap.Duration("notice", notice))
	s.schedule(now.Add(notice), dueInterrupt, i)
}

// rebalance says that a spot instance is at risk.
func (s *Sim) rebalance(i *instance) {
	s.publish("EC2 Instance Rebalance Recommendation", "arn:aws:ec2:"+i.pool.zone+":instance/"+i.id, map[string]any{"instance-id": i.id})
}
