package archive

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// What a summary is told of each thing: an encoding that differs where the
// things do.

func appendInts(b []byte, vs ...int64) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

func appendText[T ~string | ~[]byte](b []byte, ss ...T) []byte {
	for _, s := range ss {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

func appendSeries(b []byte, s *rollup.Series) []byte {
	b = append(append(b, s.Device[:]...), s.Owner[:]...)
	b = appendInts(b, int64(s.Basis), int64(s.Revision))
	return appendText(b, s.Method)
}

func appendSums(b []byte, s *rollup.Sums) []byte {
	return appendInts(b, s.Time, s.SMActive, s.Memory, s.Energy, s.Cost)
}

func dayOf(s attribution.Second) attribution.Second { return rollup.Day.Start(s) }

func (s *Summary) rangeOf(x *store.Range) {
	s.buf = appendText(s.buf[:0], x.Cluster, x.Node, string(x.Boot[:]), string(x.Previous), string(x.Link))
	s.buf = appendInts(s.buf, int64(x.From), int64(x.To))
	s.add(kindRanges, 0, s.buf, int64(x.To-x.From))
}

func (s *Summary) chunk(c *store.Chunk, r *store.Roster) {
	s.buf = appendText(s.buf[:0], c.Key.Cluster, c.Key.Node, string(c.Key.Boot[:]), string(c.RosterID[:]), string(c.Digest), string(c.Previous))
	s.buf = appendInts(s.buf, int64(c.Key.Sequence), int64(c.Seconds))
	for _, body := range [...][]byte{c.Body, r.Body} {
		h := sha256.Sum256(body)
		s.buf = append(s.buf, h[:]...)
	}
	s.add(kindChunks, dayOf(c.Key.Sequence), s.buf, int64(c.Seconds))
}

func (s *Summary) row(res rollup.Resolution, r *rollup.Row) {
	s.buf = appendSums(appendSeries(appendInts(s.buf[:0], int64(r.Bucket)), &r.Series), &r.Sums)
	s.add(kindRows(res), dayOf(r.Bucket), s.buf, r.Time, r.SMActive, r.Memory, r.Energy, r.Cost)
}

func (s *Summary) tally(res rollup.Resolution, r *rollup.TallyRow) {
	x := &r.Series
	s.buf = append(appendInts(s.buf[:0], int64(r.Bucket), r.Value), x.Owner[:]...)
	s.buf = appendText(s.buf, x.Model, x.Tenant, x.Tier, string(x.Measure))
	s.add(kindTallies(res), dayOf(r.Bucket), s.buf, r.Value)
}

func (s *Summary) transfer(res rollup.Resolution, t *store.Moved) {
	s.buf = appendSums(appendSeries(appendInts(s.buf[:0], int64(t.Entry), int64(t.Bucket), int64(t.To), t.CostAfter), &t.Series), &t.Sums)
	s.add(kindTransfers(res), dayOf(t.Bucket), s.buf, t.Sums.Time, t.Sums.Cost, t.CostAfter)
}

func (s *Summary) document(d *store.Document) {
	s.buf = appendText(appendInts(s.buf[:0], int64(d.Revision), d.Applied.UnixNano()), d.Body)
	s.add(kindDocuments(d.Kind), 0, s.buf)
}

// marks takes what is known beside the parts. Long before 1970 is never, however
// long.
func (s *Summary) marks(m *store.Marks) {
	mark := func(what string, r rollup.Resolution, at attribution.Second) {
		s.buf = appendInts(appendText(s.buf[:0], what), int64(r), int64(max(at, -attribution.MaxSecond)))
		s.add(kindMarks, 0, s.buf)
	}
	for _, r := range rolledMarks {
		mark("rolled", r, m.Rolled[r])
	}
	for _, r := range keptMarks {
		mark("kept", r, m.Kept[r])
	}
}

// The resolutions that have marks.
var (
	rolledMarks = [...]rollup.Resolution{rollup.Hour, rollup.Day}
	keptMarks   = [...]rollup.Resolution{store.Seconds, rollup.Minute, rollup.Hour, rollup.Day}
	rowsOf      = [...]rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day}
)
