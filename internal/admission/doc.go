// Package admission answers the API server's admission reviews: it hints pods
// at the capacity that would be bought for them, and defaults and validates
// Provisioners. Deleting it changes what people are told, and shares of spot for
// pods to come; never what is bought for a pod or when.
//
// A review becomes a decision in a pure function (DecidePod,
// DefaultProvisioner, ValidateProvisioner) of the object and a Snapshot of what
// is known, and the decision becomes a hand-built JSON patch with warnings. No
// API call is made on the way: the Snapshot is immutable, built in the
// background from informers (Feed) and swapped behind an atomic pointer.
//
// What makes it harmless, and where each promise is kept:
//
//   - The mutators never deny. Whatever goes wrong, a panic included, becomes
//     allowed:true with a warning (Handler). failurePolicy Ignore would not help:
//     a denial is an answer, not a failure.
//   - A patch can always be applied: a map is added where there is none, a key
//     where there is one, nothing is removed that the object does not have, and
//     only keys of our own are touched (podPatch).
//   - The output depends on the object and the Snapshot alone, so that
//     admitting what was admitted changes nothing.
//   - Work is bounded: bodies by bytes and nesting, all bodies together by a
//     budget, decisions by slots. What exceeds it is shed: pods by allowing,
//     Provisioners by 503, from separate pools.
//   - Handlers are detached from the process's and the connection's context,
//     and Server keeps serving, with Connection: close, while it drains.
//
// The package knows no AWS, no drain and no provisioning loop.
package admission
