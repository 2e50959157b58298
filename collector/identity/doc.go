// Package identity holds an agent's stream to the node that it has proved to
// be on, so that no node writes another's ledger.
//
//	stream ─▶ who is it? ─▶ hello: is that its node? ─▶ ingest
//	          certificate     no: PermissionDenied
//	          or token        nothing of it has been looked at
//
// # Proof
//
// A certificate, verified in the handshake, names the node by a URI, a DNS
// name or its common name; [Certificates] says how. A service account's token
// is shown to the Kubernetes API server, which says whose it is and, since
// Kubernetes 1.32, on which node the pod is that it was made for; [Tokens] asks
// it. Of who shows both, the token counts: a bad one is not made good by a
// certificate.
//
// The kubelet gets tokens for pods of its own node only, so whoever owns a node
// can say of itself only that it is that node. That is what is claimed here,
// and no more: what a node says of its own GPUs is its word.
//
// # For how long
//
// A certificate and a token end at a time that they name. A stream ends with
// what it was begun with, and the agent begins another. Nothing is lost: what
// was not acknowledged is sent again.
//
// # Closed where in doubt
//
// Whoever can't be identified writes nothing, also where that is because the
// API server does not answer; agents keep what they have and try again.
package identity
