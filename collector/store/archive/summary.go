package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Summary tells what a ledger holds: per kind of thing and day, how many there
// are, their sums, and a digest over all of them in their order. Two ledgers
// with the same summary are the same.
type Summary struct {
	sums map[place]*sum
	buf  []byte
}

// place is a kind of thing and a day, by its first second; 0 for what is of no
// day.
type place struct {
	kind string
	day  attribution.Second
}

// sum is of the things at one place.
type sum struct {
	count  int64
	sums   []big.Int // as measuresOf says
	hash   hash.Hash
	digest []byte // once the hash is done
}

// The kinds of things beside rows.
const (
	kindRanges = "ranges"
	kindChunks = "chunks"
	kindMarks  = "watermarks"
)

func kindRows(r rollup.Resolution) string      { return "rows per " + nameOf(r) }
func kindTallies(r rollup.Resolution) string   { return "tallies per " + nameOf(r) }
func kindTransfers(r rollup.Resolution) string { return "rerated rows per " + nameOf(r) }
func kindDocuments(k store.DocumentKind) string {
	return "documents (" + string(k) + ")"
}

func nameOf(r rollup.Resolution) string {
	switch r {
	case rollup.Minute:
		return "minute"
	case rollup.Hour:
		return "hour"
	case rollup.Day:
		return "day"
	case store.Seconds:
		return "second"
	}
	panic(fmt.Sprintf("BUG: a resolution of %d seconds", r))
}

// measuresOf names the sums of a kind.
func measuresOf(kind string) []string {
	switch {
	case strings.HasPrefix(kind, "rows"):
		return []string{"device time (ns)", "SM time (ns)", "memory (byte seconds)", "energy (µJ)", "cost"}
	case strings.HasPrefix(kind, "tallies"):
		return []string{"value"}
	case strings.HasPrefix(kind, "rerated"):
		return []string{"device time (ns)", "cost before", "cost after"}
	case kind == kindRanges, kind == kindChunks:
		return []string{"seconds"}
	}
	return nil
}

func newSummary() *Summary { return &Summary{sums: make(map[place]*sum)} }

// add notes one thing: what it is, in an encoding of its own, and its measures.
func (s *Summary) add(kind string, day attribution.Second, thing []byte, measures ...int64) {
	p := place{kind, day}
	x := s.sums[p]
	if x == nil {
		x = &sum{hash: sha256.New(), sums: make([]big.Int, len(measures))}
		s.sums[p] = x
	}
	x.count++
	for i, m := range measures {
		x.sums[i].Add(&x.sums[i], big.NewInt(m))
	}
	x.hash.Write(binary.BigEndian.AppendUint32(nil, uint32(len(thing))))
	x.hash.Write(thing)
}

// close computes the digests. Nothing is added any more.
func (s *Summary) close() {
	for _, x := range s.sums {
		x.digest, x.hash = x.hash.Sum(nil), nil
	}
}

// count is how many things of a kind there are.
func (s *Summary) count(kind string) (n int64) {
	for p, x := range s.sums {
		if p.kind == kind {
			n += x.count
		}
	}
	return n
}

// String is what a ledger holds, in a few words.
func (s *Summary) String() string {
	rows := s.count(kindRows(rollup.Minute)) + s.count(kindRows(rollup.Hour)) + s.count(kindRows(rollup.Day))
	tallies := s.count(kindTallies(rollup.Minute)) + s.count(kindTallies(rollup.Hour)) + s.count(kindTallies(rollup.Day))
	documents := int64(0)
	for _, k := range store.DocumentKinds {
		documents += s.count(kindDocuments(k))
	}
	return fmt.Sprintf("%d chunks, %d rows, %d tallies, %d ranges, %d documents", s.count(kindChunks), rows, tallies, s.count(kindRanges), documents)
}

// Difference is the first thing in which two ledgers differ. It is an error.
type Difference struct{ Where, A, B string }

func (d *Difference) Error() string {
	return fmt.Sprintf("the ledgers differ in %s: %s, and %s", d.Where, d.A, d.B)
}

// Equal is nil where two summaries are the same, else a *[Difference]. a and b
// name them.
func (s *Summary) Equal(t *Summary, a, b string) error {
	places := slices.Concat(s.places(), t.places())
	slices.SortFunc(places, comparePlaces)
	for _, p := range slices.Compact(places) {
		x, y := s.sums[p], t.sums[p]
		if x != nil && y != nil && slices.Equal(x.digest, y.digest) && x.count == y.count {
			continue
		}
		d := &Difference{Where: p.String()}
		d.A, d.B = tell(p.kind, x, y, a), tell(p.kind, y, x, b)
		return d
	}
	return nil
}

// places are all that there is something at, in order.
func (s *Summary) places() []place { return slices.SortedFunc(maps.Keys(s.sums), comparePlaces) }

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.day, b.day))
}

func (p place) String() string {
	if p.day == 0 {
		return p.kind
	}
	return p.kind + " of " + time.Unix(int64(p.day), 0).UTC().Format(time.DateOnly)
}

// tell is what one ledger has at a place, beside what the other has.
func tell(kind string, x, other *sum, name string) string {
	if x == nil {
		return name + " has none"
	}
	text := fmt.Sprintf("%s has %d", name, x.count)
	if other == nil || x.count != other.count {
		return text
	}
	for i, m := range measuresOf(kind) {
		if i >= len(x.sums) || i >= len(other.sums) {
			break
		}
		if x.sums[i].Cmp(&other.sums[i]) == 0 {
			continue
		}
		value := x.sums[i].String()
		if strings.HasPrefix(m, "cost") {
			value = money.Text(&x.sums[i])
		}
		return fmt.Sprintf("%s with a %s of %s", text, m, value)
	}
	return fmt.Sprintf("%s of the same sums (digest %x)", text, x.digest[:4])
}

// Compare is nil where two ledgers hold the same, each in a view of its own,
// else a *[Difference] (or what kept it from finding out). It takes as long as
// reading both, and little memory.
func Compare(ctx context.Context, a, b store.Store) error {
	x, err := Summarize(ctx, a)
	if err != nil {
		return fmt.Errorf("read the first ledger: %w", err)
	}
	y, err := Summarize(ctx, b)
	if err != nil {
		return fmt.Errorf("read the second ledger: %w", err)
	}
	return x.Equal(y, "the first", "the second")
}

// Summarize reads a whole ledger.
func Summarize(ctx context.Context, s store.Store) (*Summary, error) {
	w := newWalker(nil)
	if err := w.walk(ctx, s); err != nil {
		return nil, err
	}
	return w.summary, nil
}
