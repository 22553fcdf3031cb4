// Package certs keeps the webhook's serving certificate: it makes or finds one,
// has the API server trust it, and hands it to each TLS handshake, so that
// nothing restarts when it changes.
//
// Modes. self: a CA of our own in a Secret of our own. cert-manager: Issuers
// and Certificates of cert-manager, whose cainjector writes the trust. files: a
// folder that somebody else fills. auto: cert-manager where it is installed and
// has issued, self otherwise; looked at again all the time.
//
// # The rule
//
// Of the leaves at hand, one is served that every caBundle live in the cluster
// verifies for the name that the API server calls, and whose CA has been there
// long enough for every API server to have noticed, as long as there is such a
// one (Choose). This holds in every mode and is what makes renewal, rotation of
// the CA and a change of mode free of failing calls: the next leaf waits until
// it is trusted, and the last one serves until then.
//
// # Rotation by ourselves
//
// Next decides what is due, from the Secret, the live caBundles and the time,
// and nothing else; carrying it out is thin. A CA is replaced in three steps,
// each of which may be the last before a crash:
//
//  1. The new CA joins the bundle in the Secret, and the bundle is published.
//  2. Only when all live caBundles have held the new CA for Policy.Settle (API
//     servers watch, they are not told) does it sign a leaf.
//  3. The old CA stays in the bundle until it expires, later than any leaf that
//     it has signed; its key goes as soon as the new CA is trusted everywhere.
//
// Times are wall-clock times, read anew every few seconds, so that a machine
// that slept renews when it wakes. Renewal is due at two thirds of the life,
// less a jitter that follows from the serial number. Replicas need no leader:
// the Secret is written with its resourceVersion, and whoever loses reads again.
//
// # What is stored
//
// Secret berth-webhook-tls: tls.crt and tls.key, the newest leaf; previous.crt
// and previous.key, the one before, for replicas that start while the newest is
// not yet trusted; ca.crt, all CAs that have not expired, newest first; ca.key,
// the keys of those that may still sign. cert-manager writes to Secrets of
// other names, so that the two never touch the same.
package certs
