// Package memory is a ledger in memory, as dumb as the contract of package
// store lets it be: sums are plain maps, queries scan all chunks. Simulations
// run collectors on it, because it can be as bad as a store can be.
//
// A [Ledger] is what lasts: the disk, or the cluster behind the collectors. A
// [Store] is one collector's way to it, and dies with the collector: what it
// was doing then is done as a whole or not at all.
package memory

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Ledger is everything that is durable. Its methods are for any goroutine.
type Ledger struct {
	mu      sync.RWMutex
	writes  uint64 // batches committed by anyone
	nodes   map[NodeID][]*Chunk
	rosters map[attribution.Fingerprint]*roster
	owners  map[attribution.Fingerprint]*attribution.Owner
	devices map[attribution.Fingerprint]*attribution.Device
	rows    map[rollup.Resolution]map[rowKey]rollup.Sums
	tallies map[rollup.Resolution]map[tallyKey]int64
	rolled  map[rollup.Resolution]attribution.Second
	moved   []rerating.Transfer
	journal *rerating.Journal
	docs    map[store.DocumentKind][]store.Document
}

// NodeID names a node.
type NodeID struct{ Cluster, Node string }

// Chunk is a stored chunk with what it says.
type Chunk struct {
	store.Chunk
	roster *roster
	Facts  *attribution.Chunk
}

type roster struct {
	stored  store.Roster
	decoded *attribution.Roster
	facts   *rollup.Facts
}

type rowKey struct {
	bucket attribution.Second
	series rollup.Series
}

type tallyKey struct {
	bucket attribution.Second
	series rollup.TallySeries
}

// NewLedger is an empty ledger.
func NewLedger() *Ledger {
	l := &Ledger{
		nodes: map[NodeID][]*Chunk{}, rosters: map[attribution.Fingerprint]*roster{},
		owners: map[attribution.Fingerprint]*attribution.Owner{}, devices: map[attribution.Fingerprint]*attribution.Device{},
		rows: map[rollup.Resolution]map[rowKey]rollup.Sums{}, tallies: map[rollup.Resolution]map[tallyKey]int64{},
		rolled: map[rollup.Resolution]attribution.Second{}, docs: map[store.DocumentKind][]store.Document{},
	}
	for _, r := range resolutions() {
		l.rows[r], l.tallies[r] = map[rowKey]rollup.Sums{}, map[tallyKey]int64{}
	}
	return l
}

func resolutions() []rollup.Resolution {
	return []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day}
}

// Chunks is all chunks of a node in order of time.
func (l *Ledger) Chunks(id NodeID) []*Chunk {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Clone(l.nodes[id])
}

// Journal is the journal of reratings.
func (l *Ledger) Journal() *rerating.Journal {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.journal
}

// commit adds a batch as a whole, or nothing. known says that a chunk which is
// there with the same digest is no error. It is called with mu held.
func (l *Ledger) commit(b *store.Batch, known bool) error {
	if n := l.journal.Next() - 1; b.Journal != n {
		return fmt.Errorf("%w: the batch is rated by %d entries, there are %d", store.ErrOutdated, b.Journal, n)
	}
	rosters := make(map[attribution.Fingerprint]*roster)
	for i := range b.Rosters {
		r, err := readRoster(b.Rosters[i])
		if err != nil {
			return err
		}
		rosters[r.stored.ID] = r
	}
	fresh := make([]*Chunk, 0, len(b.Chunks))
	for i := range b.Chunks {
		switch there, same := l.has(&b.Chunks[i]); {
		case there && known && same:
			continue
		case there:
			return fmt.Errorf("%w: %+v", store.ErrDuplicate, b.Chunks[i].Key)
		}
		c, err := l.read(&b.Chunks[i], rosters)
		if err != nil {
			return err
		}
		fresh = append(fresh, c)
	}
	sums := b
	if len(fresh) < len(b.Chunks) { // the batch's sums are of all its chunks
		if sums = l.sum(fresh); len(fresh) == 0 {
			return nil
		}
	}
	for _, r := range sums.Rows {
		owner, device := r.Series.Owner, r.Series.Device
		if sums.Owners[owner] == nil && l.owners[owner] == nil || sums.Devices[device] == nil && l.devices[device] == nil {
			return fmt.Errorf("%w: a row's facts are missing", store.ErrBadBatch)
		}
	}
	for _, c := range fresh {
		l.insert(c)
	}
	l.addSums(sums)
	l.writes++
	return nil
}

// sum is a batch with the sums of some chunks.
func (l *Ledger) sum(cs []*Chunk) *store.Batch {
	f, transfers := rollup.NewFold(), rerating.Transfers{}
	for _, c := range cs {
		if err := f.Add(l.journal.Rate(c.Facts), c.roster.facts); err != nil {
			panic("BUG: a chunk that was folded before can't be: " + err.Error())
		}
		l.journal.Steps(c.Facts, func(id uint32, before, after *attribution.Chunk) { transfers.Add(id, before, after, c.roster.facts) })
	}
	return &store.Batch{Rows: f.Rows(), Tallies: f.Tallies(), Owners: f.Owners(), Devices: f.Devices(), Transfers: transfers.List()}
}

func (l *Ledger) insert(c *Chunk) {
	id := NodeID{c.Key.Cluster, c.Key.Node}
	l.rosters[c.RosterID] = c.roster
	cs := l.nodes[id]
	l.nodes[id] = slices.Insert(cs, after(cs, c.Key.Sequence), c)
}

// after is the place of the first chunk that ends after a second.
func after(cs []*Chunk, s attribution.Second) int {
	i, _ := slices.BinarySearchFunc(cs, s, func(c *Chunk, s attribution.Second) int {
		if c.Facts.End() <= s {
			return -1
		}
		return 1
	})
	return i
}

// has reports whether any second of a chunk is there, and whether it is this
// very chunk.
func (l *Ledger) has(c *store.Chunk) (there, same bool) {
	cs := l.nodes[NodeID{c.Key.Cluster, c.Key.Node}]
	i := after(cs, c.Key.Sequence)
	if i == len(cs) || cs[i].Key.Sequence >= c.Key.Sequence+attribution.Second(c.Seconds) {
		return false, false
	}
	return true, cs[i].Key == c.Key && cs[i].Seconds == c.Seconds && string(cs[i].Digest) == string(c.Digest)
}

func readRoster(r store.Roster) (*roster, error) {
	var m pb.Roster
	if err := proto.Unmarshal(r.Body, &m); err != nil {
		return nil, fmt.Errorf("%w: roster: %w", store.ErrBadBatch, err)
	}
	x, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, fmt.Errorf("%w: roster: %w", store.ErrBadBatch, err)
	}
	return &roster{stored: store.Roster{ID: r.ID, Body: slices.Clone(r.Body)}, decoded: x, facts: rollup.FactsOf(x)}, nil
}

// read decodes a chunk as it would be read back.
func (l *Ledger) read(c *store.Chunk, rosters map[attribution.Fingerprint]*roster) (*Chunk, error) {
	r := l.rosters[c.RosterID]
	if r == nil {
		r = rosters[c.RosterID]
	}
	if r == nil {
		return nil, fmt.Errorf("%w: a chunk's roster is missing", store.ErrBadBatch)
	}
	own := *c
	own.Body, own.Digest, own.Previous = slices.Clone(c.Body), slices.Clone(c.Digest), slices.Clone(c.Previous)
	out, err := Decode(&own, r.decoded)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	return &Chunk{own, r, out}, nil
}

// Decode is what a stored chunk says.
func Decode(c *store.Chunk, r *attribution.Roster) (*attribution.Chunk, error) {
	return wire.DecodeChunk(&pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}, c.Key.Cluster, c.Key.Node, r)
}

// addSums adds a batch's sums at every resolution that holds their time.
func (l *Ledger) addSums(b *store.Batch) {
	for f, o := range b.Owners {
		if l.owners[f] == nil {
			l.owners[f] = o
		}
	}
	for f, d := range b.Devices {
		if l.devices[f] == nil {
			l.devices[f] = d
		}
	}
	for _, res := range resolutions() {
		for _, r := range b.Rows {
			if l.holds(res, r.Bucket) {
				l.addRow(res, rowKey{res.Start(r.Bucket), r.Series}, r.Sums)
			}
		}
		for _, t := range b.Tallies {
			if l.holds(res, t.Bucket) {
				l.tallies[res][tallyKey{res.Start(t.Bucket), t.Series}] += t.Value
			}
		}
	}
	l.moved = append(l.moved, b.Transfers...)
}

// holds reports whether a minute's sums are at a resolution.
func (l *Ledger) holds(res rollup.Resolution, minute attribution.Second) bool {
	return res == rollup.Minute || minute < l.rolled[res]
}

func (l *Ledger) addRow(res rollup.Resolution, k rowKey, s rollup.Sums) {
	x := l.rows[res][k]
	x.Time += s.Time
	x.SMActive += s.SMActive
	x.Memory += s.Memory
	x.Energy += s.Energy
	x.Cost += s.Cost
	if l.rows[res][k] = x; x == (rollup.Sums{}) {
		delete(l.rows[res], k)
	}
}

// roll folds finished hours and days.
func (l *Ledger) roll(through attribution.Second) {
	for _, res := range []rollup.Resolution{rollup.Hour, rollup.Day} {
		from, to := l.rolled[res], res.Start(through)
		if to <= from {
			continue
		}
		for k, s := range l.rows[rollup.Minute] {
			if k.bucket >= from && k.bucket < to {
				l.addRow(res, rowKey{res.Start(k.bucket), k.series}, s)
			}
		}
		for k, v := range l.tallies[rollup.Minute] {
			if k.bucket >= from && k.bucket < to {
				l.tallies[res][tallyKey{res.Start(k.bucket), k.series}] += v
			}
		}
		l.rolled[res] = to
	}
}

// rerate makes an entry's transfers.
func (l *Ledger) rerate(r *store.Rerating, shared bool) error {
	next, err := l.journal.With(r.Entry)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	if n := l.seconds(r.Entry.From, r.Entry.To); shared && r.Entry.Undoes == 0 && n != r.Seconds {
		return fmt.Errorf("%w: it is planned of %d seconds, and %d are stored of its time", store.ErrOutdated, r.Seconds, n)
	}
	l.addSums(&store.Batch{Owners: r.Owners, Devices: r.Devices})
	if undone := r.Entry.Undoes; undone != 0 {
		l.moved = slices.DeleteFunc(l.moved, func(t rerating.Transfer) bool {
			if t.Entry == undone {
				l.transfer(&t, -1)
			}
			return t.Entry == undone
		})
	}
	for i := range r.Transfers {
		l.transfer(&r.Transfers[i], 1)
	}
	l.moved = append(l.moved, r.Transfers...)
	l.journal = next
	body, err := r.Entry.Marshal()
	if err != nil {
		return err
	}
	l.put(store.Reratings, body, r.Entry.Applied)
	return nil
}

// seconds counts those of all nodes in [from, to).
func (l *Ledger) seconds(from, to attribution.Second) (n int64) {
	for id := range l.nodes {
		for _, x := range l.ranges(id) {
			n += int64(max(0, min(x.To, to)-max(x.From, from)))
		}
	}
	return n
}

// transfer moves sums from a series to its other revision, or back.
func (l *Ledger) transfer(t *rerating.Transfer, sign int64) {
	for _, res := range resolutions() {
		if !l.holds(res, t.Bucket) {
			continue
		}
		take, give := t.Sums, t.Sums
		give.Cost = t.CostAfter
		to := t.Series
		to.Revision = t.To
		l.addRow(res, rowKey{res.Start(t.Bucket), t.Series}, times(take, -sign))
		l.addRow(res, rowKey{res.Start(t.Bucket), to}, times(give, sign))
	}
}

func times(s rollup.Sums, n int64) rollup.Sums {
	return rollup.Sums{Time: n * s.Time, SMActive: n * s.SMActive, Memory: n * s.Memory, Energy: n * s.Energy, Cost: n * s.Cost}
}

func (l *Ledger) put(kind store.DocumentKind, body []byte, at time.Time) uint32 {
	n := uint32(len(l.docs[kind]) + 1)
	l.docs[kind] = append(l.docs[kind], store.Document{Kind: kind, Revision: n, Applied: at, Body: slices.Clone(body)})
	return n
}

// ids are the nodes in order.
func (l *Ledger) ids() []NodeID {
	ids := make([]NodeID, 0, len(l.nodes))
	for id := range l.nodes {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b NodeID) int { return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Node, b.Node)) })
	return ids
}

// ranges are a node's runs of one boot and chain.
func (l *Ledger) ranges(id NodeID) (out []store.Range) {
	for _, c := range l.nodes[id] {
		if n := len(out); n > 0 {
			if r := &out[n-1]; r.Boot == c.Key.Boot && r.To == c.Key.Sequence && string(r.Link) == string(c.Previous) {
				r.To, r.Link = c.Facts.End(), c.Link()
				continue
			}
		}
		out = append(out, store.Range{
			Cluster: id.Cluster, Node: id.Node, Boot: c.Key.Boot, From: c.Key.Sequence, To: c.Facts.End(),
			Previous: c.Previous, Link: c.Link(),
		})
	}
	return out
}
