// Package drain empties one node, politely.
//
// It decides (Classify, pure), does one bounded pass (Pass) and reports
// (Result). It never sleeps and never loops until done: whoever drains calls
// Pass again after Result.NextTry with what it then knows.
//
// The order of a drain:
//
//  1. Cordon: taint berth.dev/disrupted:NoSchedule and the label that takes the
//     node out of load balancers, in one write. Uncordon takes back exactly
//     what Cordon added.
//  2. The caller's own watch shows the taint. Until then, and for MinDrain
//     after, kube-scheduler may still be binding pods here, so no pass says
//     that it is done.
//  3. Passes: pods are evicted in tiers, ordinary ones before critical ones.
//     Each eviction carries the pod's UID, so that a pod of the same name
//     elsewhere is never hit.
//  4. From deadline − grace on, a pod is deleted, whatever its disruption
//     budgets say, with min(its own grace period, the time left), and never
//     with grace period 0: that would free its name before its container ends.
//  5. When the pods are gone, the volumes that they had attached are waited for.
//
// At the deadline the drain is done, whatever is left.
//
// What is not evicted: DaemonSet pods (their controller would put them back, or
// leaves them be; they end with the node), static pods of this very node,
// finished pods, and pods that tolerate the taint by its name. A pod that
// tolerates every taint is evicted once; if its replacement is scheduled here
// again, that one ends with the node, for otherwise the drain would chase it
// until the deadline.
//
// berth.dev/do-not-disrupt keeps a node from being chosen for disruption. Once
// a drain has begun it only is reported (Verdict.Protected).
package drain
