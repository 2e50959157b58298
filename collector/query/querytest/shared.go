package querytest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
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

// Ledger is a ledger in memory that several collectors write to, each by a
// [Shared] of its own. It is dumb, and right: it keeps chunks by their keys and
// works everything else out from them. Its methods are for any goroutine.
type Ledger struct {
	// Fault, if set, is asked before each call of a store's method that may
	// fail, by the method's name: the error is returned and nothing is done;
	// AfterCommit, after each commit that was done: the error is returned though.
	Fault       func(method string) error
	AfterCommit func() error

	mu        sync.Mutex
	nodes     map[attribution.ChunkKey][]kept // by nodeOf, each in order
	documents map[store.DocumentKind][]store.Document
	journal   *rerating.Journal
	changes   uint64 // of documents and journal
	view      *Store // of chunks and journal; nil: to be made
	commits   int
}

// kept is a stored chunk.
type kept struct {
	decoded *attribution.Chunk
	encoded Encoded
}

// NewLedger makes an empty one.
func NewLedger() *Ledger {
	return &Ledger{nodes: make(map[attribution.ChunkKey][]kept), documents: make(map[store.DocumentKind][]store.Document)}
}

// Shared is one collector's way to a [Ledger]. It is a store.Shared.
type Shared struct {
	l *Ledger

	mu      sync.Mutex
	commits uint64
	changes uint64 // of the ledger, that Refresh has told of
	mapping store.Mapping
}

var _ store.Shared = (*Shared)(nil)

// Open is what one more collector opens.
func (l *Ledger) Open() *Shared {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Shared{l: l, changes: l.changes}
}

// Chunks is everything that is stored, in order of (cluster, node, sequence).
func (l *Ledger) Chunks() []*attribution.Chunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.state().Decoded)
}

// Commits is how many commits there were, by whomever.
func (l *Ledger) Commits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commits
}

func (l *Ledger) fault(method string) error {
	if l.Fault == nil {
		return nil
	}
	return l.Fault(method)
}

// state is what a reader sees, which does not change any more.
func (l *Ledger) state() *Store {
	if l.view != nil {
		return l.view
	}
	s := NewStore()
	s.journal, s.documents = l.journal, nil
	for _, n := range slices.SortedFunc(maps.Keys(l.nodes), func(a, b attribution.ChunkKey) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Node, b.Node))
	}) {
		for _, k := range l.nodes[n] {
			s.Decoded, s.Encoded = append(s.Decoded, k.decoded), append(s.Encoded, k.encoded)
			s.run(k.decoded)
		}
	}
	for _, r := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		s.fold(r)
	}
	l.view = s
	return s
}

// Commit stores what is not there yet.
func (s *Shared) Commit(_ context.Context, b *store.Batch) error {
	if err := s.l.fault("Commit"); err != nil {
		return err
	}
	if err := s.commit(b); err != nil {
		return err
	}
	if s.l.AfterCommit != nil {
		return s.l.AfterCommit()
	}
	return nil
}

func (s *Shared) commit(b *store.Batch) error {
	ks, err := decodeBatch(b)
	if err != nil {
		return err
	}
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.journal.Next() - 1; b.Journal != n {
		return fmt.Errorf("%w: %d entries, not %d", store.ErrOutdated, n, b.Journal)
	}
	if err := checkSums(b, ks, l.journal); err != nil {
		return err
	}
	var fresh []kept
	for _, k := range ks {
		there, err := l.there(k)
		if err != nil {
			return err
		}
		if !there {
			fresh = append(fresh, k)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Number != s.commits+1 {
		return fmt.Errorf("%w: number %d after %d", store.ErrBadBatch, b.Number, s.commits)
	}
	for _, k := range fresh {
		n := nodeOf(k.decoded.Key)
		at, _ := slices.BinarySearchFunc(l.nodes[n], k.decoded.Key.Sequence, func(x kept, s attribution.Second) int {
			return cmp.Compare(x.decoded.Key.Sequence, s)
		})
		l.nodes[n] = slices.Insert(l.nodes[n], at, k)
	}
	s.commits++
	l.commits++
	l.view = nil
	return nil
}

// there reports whether a chunk is stored; one that overlaps others is an error.
func (l *Ledger) there(k kept) (bool, error) {
	key := k.decoded.Key
	for _, have := range l.nodes[nodeOf(key)] {
		switch other := have.decoded; {
		case other.Key.Sequence >= k.decoded.End() || other.End() <= key.Sequence:
		case other.Key == key && bytes.Equal(have.encoded.Chunk.Digest, k.encoded.Chunk.Digest):
			return true, nil
		default:
			return false, fmt.Errorf("%w: %v, by %v", store.ErrDuplicate, key, other.Key)
		}
	}
	return false, nil
}

// nodeOf is the key of a node's chunks: that of a chunk without what tells them
// apart.
func nodeOf(k attribution.ChunkKey) attribution.ChunkKey {
	return attribution.ChunkKey{Cluster: k.Cluster, Node: k.Node}
}

func decodeBatch(b *store.Batch) ([]kept, error) {
	rosters := map[attribution.Fingerprint]*attribution.Roster{}
	encoded := map[attribution.Fingerprint]store.Roster{}
	for _, r := range b.Rosters {
		m := &pb.Roster{}
		if err := proto.Unmarshal(r.Body, m); err != nil {
			return nil, fmt.Errorf("%w: roster: %w", store.ErrBadBatch, err)
		}
		x, err := wire.DecodeRoster(m)
		if err != nil || x.Fingerprint() != r.ID {
			return nil, fmt.Errorf("%w: roster %v: %w", store.ErrBadBatch, r.ID, err)
		}
		rosters[r.ID], encoded[r.ID] = x, store.Roster{ID: r.ID, Body: bytes.Clone(r.Body)}
	}
	out := make([]kept, 0, len(b.Chunks))
	for _, c := range b.Chunks {
		r := rosters[c.RosterID]
		if r == nil {
			return nil, fmt.Errorf("%w: roster %v is not there", store.ErrBadBatch, c.RosterID)
		}
		m := &pb.Chunk{
			Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds), RosterId: c.RosterID[:],
			Body: c.Body, Digest: c.Digest, Previous: c.Previous,
		}
		x, err := wire.DecodeChunk(m, c.Key.Cluster, c.Key.Node, r)
		if err != nil {
			return nil, fmt.Errorf("%w: chunk %v: %w", store.ErrBadBatch, c.Key, err)
		}
		c.Body, c.Digest, c.Previous = bytes.Clone(c.Body), bytes.Clone(c.Digest), bytes.Clone(c.Previous)
		out = append(out, kept{x, Encoded{c, encoded[c.RosterID]}})
	}
	return out, nil
}

// checkSums fails where a batch's rows are not the sums of its chunks.
func checkSums(b *store.Batch, ks []kept, j *rerating.Journal) error {
	type key struct {
		bucket attribution.Second
		series rollup.Series
	}
	sums := func(rows []rollup.Row) map[key]rollup.Sums {
		out := map[key]rollup.Sums{}
		for _, r := range rows {
			k := key{r.Bucket, r.Series}
			x := out[k]
			x.Time += r.Time
			x.SMActive += r.SMActive
			x.Memory += r.Memory
			x.Energy += r.Energy
			x.Cost += r.Cost
			out[k] = x
		}
		return out
	}
	f := rollup.NewFold()
	for _, k := range ks {
		if err := f.Add(j.Rate(k.decoded), rollup.FactsOf(k.decoded.Roster)); err != nil {
			return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
		}
	}
	if !reflect.DeepEqual(sums(b.Rows), sums(f.Rows())) {
		return fmt.Errorf("%w: its rows are not the sums of its chunks", store.ErrBadBatch)
	}
	return nil
}

// View gives the state of this moment.
func (s *Shared) View(_ context.Context, f func(store.Reader) error) error {
	if err := s.l.fault("View"); err != nil {
		return err
	}
	s.l.mu.Lock()
	state := *s.l.state()
	s.mu.Lock()
	state.Number, state.Map = s.commits, s.mapping
	s.mu.Unlock()
	s.l.mu.Unlock()
	return f(&state)
}

// NodeRanges is what is stored of a node.
func (s *Shared) NodeRanges(_ context.Context, cluster, node string) ([]store.Range, error) {
	if err := s.l.fault("NodeRanges"); err != nil {
		return nil, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	of := Store{}
	for _, k := range s.l.nodes[nodeOf(attribution.ChunkKey{Cluster: cluster, Node: node})] {
		of.run(k.decoded)
	}
	return of.Runs, nil
}

// Refresh tells whether documents or the journal have changed since it was
// called last.
func (s *Shared) Refresh(context.Context) (changed bool, err error) {
	if err := s.l.fault("Refresh"); err != nil {
		return false, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.changes != s.l.changes
	s.changes = s.l.changes
	return changed, nil
}

// SetMapping sets this collector's rules.
func (s *Shared) SetMapping(_ context.Context, m store.Mapping) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mapping = m
	return nil
}

// PutDocument keeps a document for all.
func (s *Shared) PutDocument(_ context.Context, kind store.DocumentKind, body []byte, at time.Time) (uint32, error) {
	if err := s.l.fault("PutDocument"); err != nil {
		return 0, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.put(kind, body, at), nil
}

func (l *Ledger) put(kind store.DocumentKind, body []byte, at time.Time) uint32 {
	n := uint32(len(l.documents[kind]) + 1)
	l.documents[kind] = append(l.documents[kind], store.Document{Kind: kind, Revision: n, Applied: at, Body: slices.Clone(body)})
	l.changes++
	return n
}

// Document returns a document.
func (s *Shared) Document(ctx context.Context, kind store.DocumentKind, revision uint32) (store.Document, error) {
	if err := s.l.fault("Document"); err != nil {
		return store.Document{}, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	of := Store{documents: s.l.documents}
	return of.Document(ctx, kind, revision)
}

// Rerate appends to the journal.
func (s *Shared) Rerate(_ context.Context, r *store.Rerating) error {
	if err := s.l.fault("Rerate"); err != nil {
		return err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	next, err := s.l.journal.With(r.Entry)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrBadBatch, err)
	}
	body, err := r.Entry.Marshal()
	if err != nil {
		return err
	}
	s.l.put(store.Reratings, body, r.Entry.Applied)
	s.l.journal, s.l.view = next, nil
	return nil
}

// Roll does nothing: all is rolled.
func (s *Shared) Roll(context.Context, attribution.Second) error { return s.l.fault("Roll") }

// Retain does nothing: all is kept.
func (s *Shared) Retain(context.Context, store.Retention, attribution.Second) error {
	return s.l.fault("Retain")
}

// Close does nothing.
func (s *Shared) Close() error { return nil }
