// Package rendezvous places keys on members by highest random weight: every
// key has an order of preference over all members, which whoever knows the
// members works out alike, without talking to anyone.
//
// Each pair of key and member has a weight that looks random, and a key prefers
// the members in order of falling weight. Hence:
//
//   - Balance: each member is the first choice of about its share of keys, and
//     each other member the second choice of about its share of those.
//   - Minimal movement: when a member goes, only the keys that it was first
//     choice of move, spread over all others; when one comes, it takes its share
//     from all others, and no key moves between those.
//
// The weight is a pure function of the two names: it must not change between
// versions, or a fleet moves while it is upgraded. It is the first 64 bits of
// SHA-256 over the key's length, the key, and the member. It is worked out a few
// times a minute, so that its cost does not matter and its quality does.
package rendezvous

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Weight is how much a key prefers a member.
func Weight(key, member string) uint64 {
	b := make([]byte, 0, 128)
	b = binary.BigEndian.AppendUint64(b, uint64(len(key)))
	b = append(b, key...)
	b = append(b, member...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// Compare orders two members by a key's preference: negative where it prefers
// a. It is 0 for one and the same member only.
func Compare(key, a, b string) int {
	return cmp.Or(cmp.Compare(Weight(key, b), Weight(key, a)), cmp.Compare(a, b))
}

// Order is the members in order of a key's preference, each once. Neither the
// order nor the number of times in which they are given matters.
func Order(key string, members []string) []string {
	type weighted struct {
		member string
		weight uint64
	}
	ws := make([]weighted, len(members))
	for i, m := range members {
		ws[i] = weighted{m, Weight(key, m)}
	}
	slices.SortFunc(ws, func(a, b weighted) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.member, b.member))
	})
	out := make([]string, 0, len(ws))
	for _, w := range ws {
		if n := len(out); n == 0 || out[n-1] != w.member {
			out = append(out, w.member)
		}
	}
	return out
}
