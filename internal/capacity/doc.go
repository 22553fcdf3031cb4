// Package capacity is the planner: a pure function from a Snapshot of what is
// wanted and what there is to a Plan of what to buy and who goes where. It
// knows Kubernetes scheduling and money; it knows no cloud API, client, clock,
// logger or context. The same Snapshot gives the same Plan, in any input order.
//
// # How Solve works
//
// Waiting pods that are interchangeable form a shape (shapes.go); what follows
// depends on the number of shapes, not of pods. All that can be bought forms the
// market (market.go): a column for each Provisioner, choice of own labels,
// instance type and offering, with the room that DaemonSets leave.
//
// A shape is planned in one of three ways (solve.go). When only what is on the
// same node matters to it, it is local. When domains across nodes matter (zone
// spread, zone anti-affinity, being together in a zone), its pods are first
// divided among the domains, each pod to the cheapest domain that kube-scheduler
// would accept in that state (split.go); each share is then local. Who must be near
// other waiting pods is divided after those, and the first of them go where there is
// a place for all, at the least cost of all. When its place hangs on the host that other waiting pods
// get, it is placed last, pod by pod (careful.go), and then those whose domains hang
// on it are divided. Where DaemonSets' pods count, too, how many will come is learnt
// from attempt to attempt (company.go). Counters
// (counters.go, census.go) keep what kube-scheduler would count: running pods by the
// sets of labels that they share. Domains that could get a node are counted where
// nodes are to be bought; nodes that are there are filled first without them, and
// what the finished plan can do without is not bought (spare.go).
//
// Local shares first fill nodes that exist or are coming (fill.go). For the rest
// nodes are bought by price-guided patterns (packer.go, setup.go, start.go, greedy.go,
// knapsack.go):
// what a pod is worth comes from the duals of a small linear program over
// resources; the pattern that is worth most for its price is bought as often as
// there are pods for it. Plans from several worths are made at the same time where
// there are many shapes, each by itself, and compared in a fixed order. A time budget
// is spent on the cheapest mixture of patterns, from all that these plans have on,
// rounded to whole nodes (colgen.go), on the cheapest choices of few nodes, if few will
// do (few.go, cover.go), and, where rounding has cost something, on taking a few nodes
// apart and packing them anew (improve.go).
//
// Limits are left aside at first. Where the plan goes beyond one, it is made again
// with regard to them, by the plain search alone, and where they make room scarce,
// shapes are planned one after the other by priority and age. When a finished attempt turns out to break a spread
// constraint, because nodes bought for others are new domains, it is repeated
// with that in mind.
//
// A gang is a group of pods that are planned all or nothing (groups.go). One that
// cannot have as many places as it needs is left out, and the rest is planned as
// if it did not exist; one that must stay in one zone is planned in each.
//
// # What a Plan guarantees
//
// There is an order in which kube-scheduler's filters accept every pod of the
// Plan on its node, with all of the Plan's nodes and their DaemonSets' pods there
// from the start. Pods that are Unschedulable are refused on all these nodes, and
// on an empty node of every offering that the limits leave, unless their group as
// a whole has no place. Of a group as many pods as it needs have a place, or none
// has. Limits are never exceeded, also when alternatives are bought instead.
// LowerBound is proven (bound.go). hack/parity lets kube-scheduler's own plugins
// judge all this on random Snapshots.
//
// What kube-scheduler reads and this package reads as well: requests of
// containers, init containers and sidecars, of the pod as a whole, overhead,
// resizes in place (resources.go); node selector, affinity with all its terms and
// fields (nodereq.go); taints (taints.go); host ports (ports.go); pod affinity and
// anti-affinity, also that of pods which run, with namespaces, selectors and label
// keys (query.go, counters.go); topology spread with both policies, minDomains
// and the constraints that kube-scheduler gives pods without any
// (defaultspread.go); claims that are bound, that wait for their first consumer,
// and volumes that are there for them, attach limits of nodes that are there, are
// coming or are to be bought (volumes.go, volumebook.go).
//
// # What it takes for granted
//
// DaemonSets' pods come to every node that they tolerate, select and fit, in order
// of priority; their own spread constraints and affinities do not hold them back.
// Nodes declare every feature that a pod may need of its kubelet. A claim for
// devices (DRA) is a Reason: nothing tells which type would satisfy it. A volume
// that several claims could be bound to is promised to the oldest pod's.
//
// # What a plan is judged by
//
// The price, and stated weights for what money does not show (objective.go):
// what is lost with a node (the larger its part of the whole, the more), the
// number of nodes, interruptions of spot, and a part of what the mean of the five
// cheapest interchangeable spot pools is above the cheapest (rates.go). Room left
// on new nodes is worth something where pods have come before: what it holds of
// their mix, and the more surely the more of them there are (salvage.go).
//
// Preferences (preferred affinities and anti-affinities, ScheduleAnyway,
// PreferNoSchedule) are weights, too, never requirements that are dropped one by
// one (preferences.go): what a pod prefers of its node makes others dearer for it,
// by a share of what the pod costs; what it prefers of the pods near it decides
// who gets which of the seats that are bought. Pods that are planned one by one
// (careful.go) and workloads in which no two pods are alike (buckets.go) go
// without. Preferences of running pods about those to come are not looked at.
//
// # Planning again
//
// A Memory (memory.go) plans as Solve does and keeps what consecutive Snapshots
// have in common, so that one more pod costs milliseconds on a large cluster.
package capacity
