package plan

import (
	"context"
	"fmt"
	"maps"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// Edges is where pieces of seconds are answered from.
type Edges struct {
	// Reader is asked for chunks, for the journal, where there are pieces of
	// seconds, and for what owners served, where the query asks for that.
	Reader interface {
		Chunks(ctx context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) error
		Journal(ctx context.Context) (*rerating.Journal, error)
		Served(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error)
	}
	// Mapping is what rules say of owners; nil: nothing.
	Mapping store.Mapping
	// Decode decodes a stored chunk. Chunks of one roster may share it.
	Decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)
}

// Slices answers the query for slices: what the store sums of the rows and what
// is scanned of the seconds. Errors are those of sum and of the reader, a chunk
// that cannot be decoded [store.ErrCorrupt], and [store.ErrTooMany].
func (p *Plan) Slices(ctx context.Context, e *Edges, sum func(context.Context, *Plan) ([]store.Row, error)) ([]store.Row, error) {
	rows, seconds, err := parts(ctx, p, e, sum)
	if err != nil || seconds == nil {
		return nil, err
	}
	return scan.MergeRows(rows, seconds.Rows()), nil
}

// Tallies is Slices for the query for tallies.
func (p *Plan) Tallies(ctx context.Context, e *Edges, sum func(context.Context, *Plan) ([]store.TallyRow, error)) ([]store.TallyRow, error) {
	rows, seconds, err := parts(ctx, p, e, sum)
	if err != nil || seconds == nil {
		return nil, err
	}
	return scan.MergeTallies(rows, seconds.Tallies()), nil
}

// parts are the two partial answers; no scan where nothing is stored.
func parts[R any](ctx context.Context, p *Plan, e *Edges, sum func(context.Context, *Plan) ([]R, error)) ([]R, *scan.Scan, error) {
	if len(p.Rows) == 0 && len(p.Seconds) == 0 {
		return nil, nil, nil
	}
	var rows []R
	if len(p.Rows) > 0 {
		var err error
		if rows, err = sum(ctx, p); err != nil {
			return nil, nil, err
		}
	}
	seconds, err := e.scan(ctx, p)
	return rows, seconds, err
}

// scannedAtOnce is how many chunks are decoded before what their owners served is
// asked for.
const scannedAtOnce = 256

// edge is a scan of the seconds of one query.
type edge struct {
	*Edges
	scan   *scan.Scan
	asks   bool        // for what owners served
	served scan.Served // what is known of that
}

func (e *Edges) scan(ctx context.Context, p *Plan) (*scan.Scan, error) {
	x := &edge{Edges: e, served: make(scan.Served)}
	x.scan = scan.New(p.Query, scan.Env{Map: e.Mapping, Served: x.served.Of})
	if len(p.Seconds) == 0 {
		return x.scan, nil
	}
	x.asks = p.Query.OfServed()
	journal, err := e.Reader.Journal(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Seconds {
		if err := x.piece(ctx, s, journal); err != nil {
			return nil, err
		}
	}
	return x.scan, nil
}

// piece scans the chunks of a piece as the journal rates them.
func (x *edge) piece(ctx context.Context, p Piece, journal *rerating.Journal) error {
	var chunks []*attribution.Chunk
	flush := func() error {
		if err := x.learn(ctx, chunks); err != nil {
			return err
		}
		for _, c := range chunks {
			x.scan.Part(c, p.From, p.To)
			if err := x.scan.Full(); err != nil {
				return err
			}
		}
		chunks = chunks[:0]
		return nil
	}
	err := x.Reader.Chunks(ctx, p.From, p.To, func(ch *store.Chunk, ro *store.Roster) error {
		c, err := x.Decode(ch, ro)
		if err != nil {
			return fmt.Errorf("%w: node %q chunk %d: %w", store.ErrCorrupt, ch.Key.Node, ch.Key.Sequence, err)
		}
		if chunks = append(chunks, journal.Rate(c)); len(chunks) < scannedAtOnce {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// learn finds what the owners of chunks served, if the query asks for it.
func (x *edge) learn(ctx context.Context, chunks []*attribution.Chunk) error {
	if !x.asks {
		return nil
	}
	var owners []rollup.Fingerprint
	var last *attribution.Roster
	for _, c := range chunks {
		if c.Roster == last {
			continue
		}
		last = c.Roster
		for i := range c.Roster.Owners {
			f := c.Roster.Owners[i].Fingerprint()
			if _, ok := x.served[f]; !ok {
				x.served[f] = store.Served{}
				owners = append(owners, f)
			}
		}
	}
	served, err := x.Reader.Served(ctx, owners)
	maps.Copy(x.served, served)
	return err
}
