// Package ec2 is the only package that knows AWS. It finds out what can be
// bought and where (Discover, Resolve), launches exactly one instance for each
// NodeClaim (PrepareLaunch, Launch), looks instances up by their tags and
// terminates them.
//
// # A launch happens once
//
// PrepareLaunch turns a claim into a LaunchIntent: a token made of the
// cluster, the claim's UID and the number of the attempt, the launch templates
// by id and version, and the lines of the request in order. The caller stores
// it in the claim's status. Launch then sends a request that is a function of
// the stored claim alone, so that whoever repeats it, after whatever crash,
// sends the same bytes under the same ClientToken and EC2 answers with the
// same instance. An attempt may be for several claims that are identical: the
// status of one of them, the lead, is then the record, and names the others.
// EC2 replays a refusal as faithfully as a success; hence the
// caller begins a new attempt (PrepareLaunch again) once Error.Definite says
// that EC2 has refused, and repeats the old attempt for everything else. Where
// the token is refused because the request differs (ErrTokenMismatch: another
// version of Berth made it), Find tells by the tags whether there is an
// instance to adopt.
//
// # A throttle is not a lack of capacity
//
// EC2 says "too fast" in two ways: HTTP 503 for the call, and
// RequestLimitExceeded for a line of an otherwise successful CreateFleet. Both
// are ErrThrottled and neither is ever among the refused offerings. A token
// bucket for every API, within the sizes that AWS publishes, makes bursts wait
// here and not at EC2; refusals slow it down, since others in the account draw
// on the same bucket at EC2 (limits.go).
//
// # Not found is not gone
//
// Terminate and Instance report an instance that EC2 does not know as
// ErrNotFound, because a young instance may be unknown for a while. Terminated
// is what EC2 says is terminated.
//
// All AWS settings come from the SDK's standard chain (AWS_REGION,
// AWS_ENDPOINT_URL, credentials …). No type of the SDK leaves the package.
package ec2
