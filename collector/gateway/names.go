package gateway

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/attribution"
)

// Other is the name of all that a limit leaves without a name of its own.
const Other = "(other)"

const (
	// maxName is how many bytes a name may have.
	maxName = 256
	// forgetAfter is how long a name keeps its place without being heard of.
	forgetAfter attribution.Second = 24 * 3600
)

// names are the names of one kind that are told apart: at most so many, each
// kept as long as it is heard of once a day.
type names struct {
	most int
	seen map[string]attribution.Second // when last
	// settled is until when no name is old enough to make room.
	settled attribution.Second
	folded  uint64 // how often a name was left without a place
}

func newNames(most int) *names {
	return &names{most: most, seen: make(map[string]attribution.Second), settled: math.MinInt64}
}

// fold is the name under which s counts: s itself where it has a place.
func (n *names) fold(s string, now attribution.Second) string {
	if s == "" {
		return ""
	}
	if _, ok := n.seen[s]; ok {
		n.seen[s] = now
		return s
	}
	if !isName(s) || (len(n.seen) >= n.most && !n.room(now)) {
		n.folded++
		return Other
	}
	s = strings.Clone(s) // not the page that it is part of
	n.seen[s] = now
	return s
}

// room drops the names that were not heard of for a day, and reports whether
// there were any. It looks again only once one of the others may be due.
func (n *names) room(now attribution.Second) bool {
	if now < n.settled {
		return false
	}
	oldest := attribution.Second(math.MaxInt64)
	for s, last := range n.seen {
		if now-last >= forgetAfter {
			delete(n.seen, s)
			continue
		}
		oldest = min(oldest, last)
	}
	if len(n.seen) < n.most {
		n.settled = math.MinInt64
		return true
	}
	n.settled = oldest + forgetAfter
	return false
}

// putBack forgets that names were heard of after latest, which the clock no
// longer tells.
func (n *names) putBack(latest attribution.Second) {
	for s, last := range n.seen {
		n.seen[s] = min(last, latest)
	}
	n.settled = math.MinInt64
}

func isName(s string) bool {
	if len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// cleanBackend is an address without what may be secret in it.
func cleanBackend(s string) string {
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "", s
	} else {
		scheme += "://"
	}
	host, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if path = strings.TrimRight(path, "/"); path != "" {
		path = "/" + path
	}
	return scheme + host + path
}

// cleanModel is a model's name without the first of the prefixes that it has.
func cleanModel(s string, prefixes []string) string {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(s, p); ok && rest != "" {
			return rest
		}
	}
	return s
}
