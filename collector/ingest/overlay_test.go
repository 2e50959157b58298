package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// since is what a question sees, decoded and kept.
func since(s *Server, commits uint64, from, to attribution.Second, f func(*attribution.Chunk)) error {
	return s.Since(commits, from, to, func(x store.Pending) { f(x.Chunk(nil)) })
}

// view is every second of a node that a query sees, and how often.
func view(t *testing.T, s *Server, st *memStore) map[attribution.Second]int {
	t.Helper()
	for {
		seen := make(map[attribution.Second]int)
		err := st.View(context.Background(), func(r store.Reader) error {
			_ = r.Ranges(context.Background(), func(x store.Range) error {
				for s := x.From; s < x.To; s++ {
					seen[s]++
				}
				return nil
			})
			return since(s, r.Commits(), 0, maxSecond, func(c *attribution.Chunk) {
				for s := c.Key.Sequence; s < c.End(); s++ {
					seen[s]++
				}
			})
		})
		if errors.Is(err, ErrStale) {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return seen
	}
}

// However chunks move from live to pending to stored, a query sees every second
// once, and what it has seen it sees again.
func TestSinceExactlyOnceWhileCommitting(t *testing.T) {
	t.Run("decoded", func(t *testing.T) { seenOnceWhileCommitting(t, 0) })
	t.Run("encoded", func(t *testing.T) { seenOnceWhileCommitting(t, 1) })
}

func seenOnceWhileCommitting(t *testing.T, decodedBytes int64) {
	st := newMemStore()
	o := quick()
	o.Limits.BatchRows = 1 // a group a commit
	o.Limits.DecodedBytes = decodedBytes
	r := start(t, st, o)
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 120)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			end := base
			for {
				seen := view(t, r.s, st)
				for s := base; s < base+attribution.Second(len(seen)); s++ {
					if seen[s] != 1 {
						t.Errorf("second %d of %d is seen %d times", s-base, len(seen), seen[s])
						return
					}
				}
				if now := base + attribution.Second(len(seen)); now < end {
					t.Errorf("seconds through %d were seen, now through %d", end, now)
					return
				} else {
					end = now
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	a := r.connect(id, boot)
	for i, c := range all {
		if i%3 == 0 {
			a.chunk(c)
			continue
		}
		for _, s := range secondsOf(c) {
			a.live(s)
		}
		a.closed(c)
		if i%7 == 0 {
			a.flush()
		}
	}
	a.flush()
	a.awaitAck(all[len(all)-1])
	close(done)
	readers.Wait()
	if n := len(view(t, r.s, st)); n != 1200 {
		t.Errorf("%d seconds are seen in the end: want 1200", n)
	}
	if s := r.s.Stats(); s.Resend != 0 || s.Commits < 10 {
		t.Errorf("counted %+v", s)
	}
	r.drain()
	st.wantExactly(t, all)
}

func TestSinceTellsStaleViews(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	a := r.connect(id, boot)
	for _, c := range chunksOf(id, boot, base, keepCommits+2) {
		a.chunk(c)
		a.flush()
		a.awaitAck(c)
	}
	commits := r.s.writer.commits // acked, hence written before
	count := func(since uint64) (n int, err error) {
		err = r.s.Since(since, 0, maxSecond, func(store.Pending) { n++ })
		return n, err
	}
	if n, err := count(commits - 2); n != 2 || err != nil {
		t.Errorf("two commits ago: %d chunks, %v", n, err)
	}
	if n, err := count(commits); n != 0 || err != nil {
		t.Errorf("now: %d chunks, %v", n, err)
	}
	if n, err := count(0); n != 0 || !errors.Is(err, ErrStale) {
		t.Errorf("long ago: %d chunks, %v", n, err)
	}
	r.drain()
}

func TestLiveSecondsBecomeTheirChunk(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	a := r.connect(id, boot)
	for i, s := range secondsOf(c) {
		if i != 4 {
			a.live(s)
		}
	}
	a.closed(c) // one second is missing
	a.await("resend", func(m *pb.ToAgent) bool { return m.GetResend() != nil })
	after := makeChunk(id, boot, base+10, 10)
	a.chunk(after)
	a.flush()
	a.await("commit", func(*pb.ToAgent) bool { return true })
	for !st.stored(after.Key) {
		a.flush()
	}
	if a.acks() != 0 {
		t.Error("an ack covers a chunk that was asked for again")
	}
	a.chunk(c)
	a.flush()
	a.awaitAck(after)
	a.closed(c) // again: a duplicate, though no live second is left
	a.awaitAck(c)
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{c, after})
	if got := st.chunks[c.Key]; string(got.Digest) != string(a.encode(c).Digest) {
		t.Error("another digest is stored")
	}
}

func TestLiveSecondsOfAnotherBootAreDropped(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id := nodeID{"c", "n"}
	visible := func() attribution.Second { return r.s.Nodes()[0].VisibleThrough }
	a := r.connect(id, attribution.Boot{1})
	a.live(secondsOf(makeChunk(id, attribution.Boot{1}, base, 1))[0])
	a.flush() // taken in after it
	a.flush()
	if visible() != base+1 {
		t.Errorf("visible through %d", visible())
	}
	b := r.connect(id, attribution.Boot{1})
	b.flush()
	if visible() != base+1 {
		t.Error("a stream of the same boot made live seconds vanish")
	}
	b = r.connect(id, attribution.Boot{2})
	b.flush()
	if visible() != 0 {
		t.Errorf("visible through %d, in another boot", visible())
	}
	r.drain()
}

func TestExtent(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	if from, to := r.s.Extent(); from != 0 || to != 0 {
		t.Errorf("empty: %d to %d", from, to)
	}
	for i := range 2 {
		id := nodeID{"c", fmt.Sprint(i)}
		a := r.connect(id, attribution.Boot{})
		a.chunk(makeChunk(id, attribution.Boot{}, base+attribution.Second(100*i), 10))
		a.live(makeChunk(id, attribution.Boot{}, base+attribution.Second(100*i+10), 1))
		a.send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: &pb.Roster{}}}) // taken in after them
		a.send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: &pb.Roster{}}})
	}
	if from, to := r.s.Extent(); from != base || to != base+111 {
		t.Errorf("%d to %d", from-base, to-base)
	}
	r.drain()
}
