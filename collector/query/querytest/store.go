// Package querytest holds what tests of the query side share: a small
// deterministic world, and a store in memory whose rows can be damaged.
package querytest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Store is a store.Store in memory: queries are answered by package scan over
// the chunks, rows by folding them. It has no roll and no retention of its
// own; its fields are what a reader sees, for tests to change. It is not for
// concurrent writers.
type Store struct {
	Number  uint64 // number of the newest commit
	Decoded []*attribution.Chunk
	// What Reader.Chunks and Ranges give.
	Encoded []Encoded
	Runs    []store.Range
	// What Reader.Rows and TallyRows give, by resolution.
	Facts    map[rollup.Resolution][]store.FactRow
	Counts   map[rollup.Resolution][]store.TallyFactRow
	RolledTo map[rollup.Resolution]attribution.Second

	// Seconds before it are gone: queries that need them are too fine.
	KeptFrom attribution.Second
	Map      store.Mapping
	// Before, if set, is called as each view begins.
	Before    func()
	documents map[store.DocumentKind][]store.Document
	journal   *rerating.Journal
}

// Encoded is a stored chunk with its roster.
type Encoded struct {
	Chunk  store.Chunk
	Roster store.Roster
}

// NewStore stores chunks, in any order, and rolls all of it.
func NewStore(chunks ...*attribution.Chunk) *Store {
	s := &Store{
		Facts: map[rollup.Resolution][]store.FactRow{}, Counts: map[rollup.Resolution][]store.TallyFactRow{},
		RolledTo:  map[rollup.Resolution]attribution.Second{},
		documents: map[store.DocumentKind][]store.Document{},
	}
	s.Add(chunks...)
	return s
}

// Add stores more chunks as one commit.
func (s *Store) Add(chunks ...*attribution.Chunk) {
	s.Number++
	s.Decoded = append(s.Decoded, chunks...)
	slices.SortFunc(s.Decoded, func(a, b *attribution.Chunk) int {
		return cmp.Or(cmp.Compare(a.Key.Cluster, b.Key.Cluster), cmp.Compare(a.Key.Node, b.Key.Node), cmp.Compare(a.Key.Sequence, b.Key.Sequence))
	})
	s.Encoded, s.Runs = nil, nil
	for _, c := range s.Decoded {
		s.Encoded = append(s.Encoded, Encode(c))
		s.run(c)
	}
	for _, r := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		s.fold(r)
	}
}

// Encode is a chunk as it is stored.
func Encode(c *attribution.Chunk) Encoded {
	id := c.Roster.Fingerprint()
	m, err := wire.EncodeChunk(c, id)
	if err != nil {
		panic(fmt.Sprintf("BUG: querytest: %v", err))
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(c.Roster))
	if err != nil {
		panic(fmt.Sprintf("BUG: querytest: %v", err))
	}
	return Encoded{
		store.Chunk{Key: c.Key, Seconds: c.Seconds, RosterID: id, Body: m.GetBody(), Digest: m.GetDigest()},
		store.Roster{ID: id, Body: body},
	}
}

func (s *Store) run(c *attribution.Chunk) {
	k := c.Key
	if n := len(s.Runs); n > 0 {
		if l := &s.Runs[n-1]; l.Cluster == k.Cluster && l.Node == k.Node && l.Boot == k.Boot && l.To == k.Sequence {
			l.To = c.End()
			return
		}
	}
	s.Runs = append(s.Runs, store.Range{Cluster: k.Cluster, Node: k.Node, Boot: k.Boot, From: k.Sequence, To: c.End()})
}

// fold works out rows slice by slice.
func (s *Store) fold(res rollup.Resolution) {
	type key struct {
		bucket  attribution.Second
		series  rollup.Series
		tally   rollup.TallySeries
		isTally bool
	}
	rows, tallies := map[key]*store.FactRow{}, map[key]*store.TallyFactRow{}
	for _, c := range s.Decoded {
		c = s.journal.Rate(c)
		for i := range c.Windows {
			w := &c.Windows[i]
			d := &c.Roster.Devices[w.Device]
			for j := range w.Slices {
				sl := &w.Slices[j]
				o := &c.Roster.Owners[sl.Owner]
				if sl.Time == 0 && sl.SMActive == 0 && sl.Memory == 0 && sl.Energy == 0 {
					continue // nothing is no row, see rollup.Row
				}
				k := key{bucket: res.Start(w.Second), series: rollup.Series{
					Device: d.Fingerprint(), Owner: o.Fingerprint(), Basis: sl.Basis, Method: c.Roster.Methods[w.Method], Revision: w.Price.Revision,
				}}
				if rows[k] == nil {
					rows[k] = &store.FactRow{Bucket: k.bucket, Device: d, Owner: o, Basis: sl.Basis, Method: k.series.Method, Revision: w.Price.Revision}
				}
				x := &rows[k].Sums
				x.Time += sl.Time
				x.SMActive += sl.SMActive
				x.Memory += sl.Memory
				x.Energy += sl.Energy
				x.Cost += int64(sl.Cost)
			}
		}
		for _, t := range c.Tallies {
			sub := &c.Roster.Subjects[t.Subject]
			o := &c.Roster.Owners[sub.Owner]
			k := key{bucket: res.Start(t.Second), isTally: true, tally: rollup.TallySeries{
				Owner: o.Fingerprint(), Model: sub.Model, Tenant: sub.Tenant, Tier: sub.Tier, Measure: c.Roster.Measures[t.Measure],
			}}
			if tallies[k] == nil {
				tallies[k] = &store.TallyFactRow{Bucket: k.bucket, Owner: o, Model: sub.Model, Tenant: sub.Tenant, Tier: sub.Tier, Measure: k.tally.Measure}
			}
			tallies[k].Value += t.Value
		}
		s.RolledTo[res] = max(s.RolledTo[res], res.Start(c.End()+attribution.Second(res)-1))
	}
	s.Facts[res], s.Counts[res] = nil, nil
	for _, r := range rows {
		s.Facts[res] = append(s.Facts[res], *r)
	}
	for _, r := range tallies {
		s.Counts[res] = append(s.Counts[res], *r)
	}
	slices.SortFunc(s.Facts[res], func(a, b store.FactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareDevices(a.Device, b.Device), attribution.CompareOwners(a.Owner, b.Owner),
			cmp.Compare(a.Basis, b.Basis), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Revision, b.Revision))
	})
	slices.SortFunc(s.Counts[res], func(a, b store.TallyFactRow) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareOwners(a.Owner, b.Owner), cmp.Compare(a.Model, b.Model),
			cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Measure, b.Measure))
	})
}

// View gives the store itself.
func (s *Store) View(_ context.Context, f func(store.Reader) error) error {
	if s.Before != nil {
		s.Before()
	}
	return f(s)
}

// Commits is the number of the newest commit.
func (s *Store) Commits() uint64 { return s.Number }

func (s *Store) scan(ctx context.Context, q *store.Query) (*scan.Scan, error) {
	if err := cmp.Or(q.Check(), ctx.Err()); err != nil {
		return nil, err
	}
	for _, x := range []int64{int64(q.From), int64(q.To), q.Step} {
		if x%60 != 0 && q.From < s.KeptFrom {
			return nil, store.ErrTooFine
		}
	}
	served := scan.Served{}
	for _, c := range s.Decoded {
		served.Chunk(c)
	}
	sc := scan.New(q, scan.Env{Map: s.Map, Served: served.Of})
	for _, c := range s.Decoded {
		sc.Chunk(s.journal.Rate(c))
	}
	return sc, nil
}

// Query scans all chunks.
func (s *Store) Query(ctx context.Context, q *store.Query) ([]store.Row, error) {
	sc, err := s.scan(ctx, q)
	if err != nil {
		return nil, err
	}
	return sc.Rows(), nil
}

// QueryTallies scans all chunks.
func (s *Store) QueryTallies(ctx context.Context, q *store.Query) ([]store.TallyRow, error) {
	sc, err := s.scan(ctx, q)
	if err != nil {
		return nil, err
	}
	return sc.Tallies(), nil
}

// Served tells what is known of owners' tallies.
func (s *Store) Served(_ context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error) {
	all, out := scan.Served{}, map[rollup.Fingerprint]store.Served{}
	for _, c := range s.Decoded {
		all.Chunk(c)
	}
	for _, o := range owners {
		if x, ok := all[o]; ok {
			out[o] = x
		}
	}
	return out, nil
}

// Owners gives the facts of owners.
func (s *Store) Owners(_ context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]*attribution.Owner, error) {
	out := map[rollup.Fingerprint]*attribution.Owner{}
	for _, c := range s.Decoded {
		for i := range c.Roster.Owners {
			o := &c.Roster.Owners[i]
			if f := o.Fingerprint(); slices.Contains(owners, f) {
				out[f] = o
			}
		}
	}
	return out, nil
}

// Devices lists devices by their minute rows.
func (s *Store) Devices(_ context.Context, from, to attribution.Second, fs []store.Filter) ([]store.DeviceRow, error) {
	var out []store.DeviceRow
	for _, r := range s.Facts[rollup.Minute] {
		keep := r.Bucket < to && r.Bucket+60 > from
		for i := range fs {
			keep = keep && fs[i].Match(scan.DeviceKey(fs[i].Dimension, r.Device))
		}
		if !keep {
			continue
		}
		i := slices.IndexFunc(out, func(d store.DeviceRow) bool { return attribution.CompareDevices(&d.Device, r.Device) == 0 })
		if i < 0 {
			out = append(out, store.DeviceRow{Device: *r.Device, First: r.Bucket})
			i = len(out) - 1
		}
		out[i].First, out[i].Last = min(out[i].First, r.Bucket), max(out[i].Last, r.Bucket+60)
	}
	return out, nil
}

// Extent is that of the runs.
func (s *Store) Extent(context.Context) (from, to attribution.Second, err error) {
	for i, r := range s.Runs {
		if i == 0 || r.From < from {
			from = r.From
		}
		to = max(to, r.To)
	}
	return from, to, nil
}

// Ranges gives the runs.
func (s *Store) Ranges(_ context.Context, f func(store.Range) error) error {
	for _, r := range s.Runs {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// Chunks gives the encoded chunks, in a buffer that is used again.
func (s *Store) Chunks(_ context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) error {
	var body, digest []byte
	for _, e := range s.Encoded {
		c, r := e.Chunk, e.Roster
		if c.Key.Sequence >= to || c.Key.Sequence+attribution.Second(c.Seconds) <= from {
			continue
		}
		body, digest = append(body[:0], c.Body...), append(digest[:0], c.Digest...)
		c.Body, c.Digest = body, digest
		if err := f(&c, &r); err != nil {
			return err
		}
	}
	return nil
}

// Rows gives the fact rows.
func (s *Store) Rows(_ context.Context, r rollup.Resolution, from, to attribution.Second, f func(*store.FactRow) error) error {
	for _, x := range s.Facts[r] {
		if x.Bucket >= from && x.Bucket < to {
			if err := f(&x); err != nil {
				return err
			}
		}
	}
	return nil
}

// TallyRows gives the tally rows.
func (s *Store) TallyRows(_ context.Context, r rollup.Resolution, from, to attribution.Second, f func(*store.TallyFactRow) error) error {
	for _, x := range s.Counts[r] {
		if x.Bucket >= from && x.Bucket < to {
			if err := f(&x); err != nil {
				return err
			}
		}
	}
	return nil
}

// Kept is KeptFrom, for seconds; everything else is.
func (s *Store) Kept(r rollup.Resolution) attribution.Second {
	if r == store.Seconds {
		return s.KeptFrom
	}
	return -1 << 62
}

// Rolled is the end of what is there.
func (s *Store) Rolled(r rollup.Resolution) attribution.Second { return s.RolledTo[r] }

// SetMapping sets the rules.
func (s *Store) SetMapping(_ context.Context, m store.Mapping) error {
	s.Map = m
	return nil
}

// PutDocument keeps a document.
func (s *Store) PutDocument(_ context.Context, kind store.DocumentKind, body []byte, at time.Time) (uint32, error) {
	n := uint32(len(s.documents[kind]) + 1)
	s.documents[kind] = append(s.documents[kind], store.Document{Kind: kind, Revision: n, Applied: at, Body: slices.Clone(body)})
	return n, nil
}

// Document returns a document.
func (s *Store) Document(_ context.Context, kind store.DocumentKind, revision uint32) (store.Document, error) {
	ds := s.documents[kind]
	if revision == 0 {
		revision = uint32(len(ds))
	}
	if revision == 0 || int(revision) > len(ds) {
		return store.Document{}, store.ErrNotFound
	}
	return ds[revision-1], nil
}

// Commit, Roll, Retain and Close are not what this store is for.

// Commit refuses.
func (s *Store) Commit(context.Context, *store.Batch) error { return store.ErrUnavailable }

// Roll does nothing: all is rolled.
func (s *Store) Roll(context.Context, attribution.Second) error { return nil }

// Retain does nothing.
func (s *Store) Retain(context.Context, store.Retention, attribution.Second) error { return nil }

// Close does nothing.
func (s *Store) Close() error { return nil }
