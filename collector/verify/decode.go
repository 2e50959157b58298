package verify

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// job is a chunk for a worker.
type job struct {
	number int
	chunk  store.Chunk
	roster *rosterIDs
}

// failure is the first chunk, by number, that a worker could not read.
type failure struct {
	number int
	err    error
}

// chunks reads and sums the kept chunks of [from, to), with several workers.
// Whichever worker is faster, the first broken chunk is the one that is told.
func (r *run) chunks(ctx context.Context, from, to attribution.Second, cover *coverage) (*fold, error) {
	jobs := make([]chan job, r.cfg.Workers)
	folds := make([]*fold, r.cfg.Workers)
	failures := make([]failure, r.cfg.Workers)
	var wg sync.WaitGroup
	for i := range folds {
		folds[i], jobs[i] = newFold(r.journal), make(chan job, jobsWaiting)
		wg.Go(func() {
			for j := range jobs[i] {
				if failures[i].err != nil {
					continue // drain
				}
				if err := folds[i].decode(&j); err != nil {
					failures[i] = failure{j.number, err}
				}
			}
		})
	}
	readErr := r.feed(ctx, from, to, cover, jobs)
	for _, c := range jobs {
		close(c)
	}
	wg.Wait()

	var first failure
	for _, f := range failures {
		if f.err != nil && (first.err == nil || f.number < first.number) {
			first = f
		}
	}
	if first.err != nil {
		return nil, first.err
	}
	if readErr != nil {
		return nil, readErr
	}
	for i, f := range folds[1:] {
		folds[0].merge(f)
		folds[1+i] = nil
	}
	return folds[0], nil
}

// jobsWaiting is how many chunks may wait for one worker.
const jobsWaiting = 16

// worker is who adds up a chunk. All of a node's minute is one worker's, so that no
// two have sums of one row; one node's minutes are several workers'.
func worker(node uint32, c *store.Chunk, workers int) int {
	minute := int64(rollup.Minute.Start(c.Key.Sequence)) / int64(rollup.Minute)
	return int(uint64(int64(node)+minute) % uint64(workers)) //nolint:gosec // any minute will do
}

// feed hands a slab's chunks to the workers.
func (r *run) feed(ctx context.Context, from, to attribution.Second, cover *coverage, jobs []chan job) error {
	rosters, home := map[rollup.Fingerprint]*rosterIDs{}, uint32(0) // a node's
	number := 0
	return r.reader.Chunks(ctx, from, to, func(c *store.Chunk, ro *store.Roster) error {
		node := r.facts.node(c.Key.Cluster, c.Key.Node)
		if err := cover.chunk(node, c); err != nil {
			return err
		}
		if err := r.chains.chunk(r, node, c); err != nil {
			return err
		}
		if node != home {
			clear(rosters)
			home = node
		}
		ids := rosters[c.RosterID]
		if ids == nil {
			roster, err := decodeRoster(c, ro)
			if err != nil {
				return err
			}
			ids = r.facts.roster(roster)
			if len(rosters) >= maxRosters {
				clear(rosters)
			}
			rosters[c.RosterID] = ids
		}
		j := job{number, *c, ids}
		j.chunk.Body, j.chunk.Digest = slices.Clone(c.Body), slices.Clone(c.Digest)
		number++
		if number%tellEvery == 0 {
			if err := r.tell(int64(number)); err != nil {
				return err
			}
		}
		select {
		case jobs[worker(node, c, len(jobs))] <- j:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// tellEvery is how many chunks are read between two reports.
const tellEvery = 256

// maxRosters bounds how many decoded rosters of a node are kept at hand.
const maxRosters = 64

func decodeRoster(c *store.Chunk, ro *store.Roster) (*attribution.Roster, error) {
	if ro == nil || ro.ID != c.RosterID {
		return nil, broken(4, chunkName(c), "its roster %v is not stored", c.RosterID)
	}
	var m pb.Roster
	if err := proto.Unmarshal(ro.Body, &m); err != nil {
		return nil, broken(4, chunkName(c), "its roster %v can't be read: %v", c.RosterID, err)
	}
	roster, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, lawOf(err, chunkName(c))
	}
	if id := roster.Fingerprint(); id != c.RosterID {
		return nil, broken(4, chunkName(c), "its roster is stored as %v, but its content is %v", c.RosterID, id)
	}
	return roster, nil
}

// decode reads one chunk and adds it.
func (f *fold) decode(j *job) error {
	c := &j.chunk
	m := &pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(max(c.Seconds, 0)),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}
	decoded, err := wire.DecodeChunk(m, c.Key.Cluster, c.Key.Node, j.roster.roster)
	if err != nil {
		return lawOf(err, chunkName(c))
	}
	f.chunk(f.journal.Rate(decoded), j.roster)
	f.journal.Steps(decoded, func(id uint32, before, after *attribution.Chunk) { f.step(id, before, after, j.roster) })
	return nil
}

// lawOf makes a break of what decoding found.
func lawOf(err error, where string) error {
	if b := (*attribution.Broken)(nil); errors.As(err, &b) {
		return b
	}
	if m := (*wire.Malformed)(nil); errors.As(err, &m) {
		return broken(m.Law, where, "%s: %s", m.Field, m.Reason)
	}
	return broken(4, where, "%v", err)
}
