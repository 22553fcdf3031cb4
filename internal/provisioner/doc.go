// Package provisioner is the loops of Berth: read, decide, write.
//
//   - the provision loop turns pending pods into a Snapshot, asks
//     capacity.Solve for a Plan and stores it as NodeClaims (intent);
//   - the lifter launches claims, identical ones together (lift.go);
//   - the lifecycle reconciler follows each claim: register, initialize,
//     and takes it down again: cordon, drain, terminate, remove the Node;
//   - the bind loop gives pods the seats that were bought for them;
//   - the disruption loop gives back nodes that are empty or expired, within
//     their Provisioner's budgets;
//   - the collector terminates instances that no claim owns and notices claims
//     whose instance is gone;
//   - the catalogue keeps offerings, prices and what was learned about
//     exhausted ones, and publishes them for the webhook and the next leader.
//
// Guarantees, and where they come from:
//
//   - At most one instance lives per claim: the launch is recorded in the
//     claims' status, with a token that EC2 honours, before EC2 is called
//     (batch.go). A crash in between replays the same request (settle.go).
//   - Limits are never overrun: one goroutine alone creates claims, and it
//     counts those that the cache does not show yet (book.go, provision.go).
//   - A claim's finalizer goes only after EC2 has said that the instance is
//     terminated, or has not known it in two readings apart (terminate.go).
//   - A node is emptied before it is terminated, or its deadline has passed
//     (terminate.go, package drain).
//   - Nothing is thrown away on an empty answer: a node that looks empty is
//     tainted first, and looked at again, live, before it goes (disrupt.go).
//
// Everything is derived again from the API server after a restart; what is in
// memory only (seats, breaker counts) makes it faster, never right or wrong.
package provisioner
