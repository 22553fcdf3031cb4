// Package manifest reads Kubernetes manifests and turns them into the planner's
// Snapshot: what would be there once they were applied.
//
// A Set collects objects, from files (Read) or from a cluster (Add). Objects
// that the planner has no use for are left out with a note; what cannot be read
// is an error that names file, document and field. Snapshot then does what the
// API server and the controllers would do to the objects before kube-scheduler
// sees a pod: requests default to limits, workloads become pods, StatefulSets
// make claims, claims get the default class and bind to volumes that wait for
// them, DaemonSets put their pods on the nodes there are.
//
// Everything is deterministic: names and UIDs of made-up objects derive from
// their owners.
package manifest
