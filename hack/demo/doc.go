// Command demo shows Berth's main job on a real control plane and checks each
// step of it from outside: pods come, the right machines are bought for them,
// the pods run there, the pods go, the machines go, nothing is left.
//
//	make demo           all of it; exit status 0 only if every check holds
//	make demo KEEP=1    the same, and the cluster stays for kubectl
//
// What it knows it has from watches of the API server and from ec2sim's admin
// endpoint, and every time in it is its own clock's: it asks Berth nothing. It
// shares no code with the planner or the loops, and judges whether a pod is
// where it may be with kube-scheduler's own helpers.
//
// The story is in story.go. What was seen is a world (world.go), kept by a
// journal (journal.go); checks.go, removal.go and timeline.go are pure
// functions of it.
package main
