package uplink_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// TestLaw5AnHourAway: what was appended while the collector was away arrives,
// complete and in order.
func TestLaw5AnHourAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := time.Now().Add(time.Hour)
		col := &collector{storedThrough: 77}
		w := newWorld(t, col, func(o *uplink.Options) { o.Client = flaky{o.Client, func() bool { return time.Now().Before(away) }} })
		defer w.end()
		w.run()
		for range 360 {
			w.append(1)
			time.Sleep(10 * time.Second)
		}
		if through, err := w.up.Welcomed(t.Context()); err != nil || through != 77 {
			t.Fatal(through, err)
		}
		w.drain()
		w.complete(false)
		if !slices.IsSorted(col.order) || len(col.order) != 360 || col.streams != 1 {
			t.Fatalf("%d chunks over %d streams, in order: %v", len(col.order), col.streams, slices.IsSorted(col.order))
		}
		if st := w.up.Status(); !st.Connected || st.Streams < 100 || st.LastAck != w.next-10 || st.ChunksSent != 360 {
			t.Fatalf("%+v", st)
		}
	})
}

// flaky is a client that can't reach anyone while away is true.
type flaky struct {
	pb.IngestClient
	away func() bool
}

func TestLiveThenAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		w := newWorld(t, col, nil)
		defer w.end()
		w.live(start) // no stream: dropped
		w.run()
		synctest.Wait()
		for chunk := range 5 {
			for i := range attribution.Second(10) {
				if chunk != 3 || i != 4 { // this one's chunk travels in full
					w.live(w.next + i)
				}
				synctest.Wait()
			}
			w.append(1)
		}
		w.drain()
		w.complete(true)
		if col.alone != 1 {
			t.Fatalf("%d live seconds told by no other", col.alone)
		}
		if st := w.up.Status(); st.LiveSent != 49 || st.LiveDropped != 1 || st.ChunksClosed != 4 || st.ChunksSent != 1 || col.lives != 49 {
			t.Fatalf("%+v", st)
		}
		if b := col.stored[int64(start)+30]; string(b) != string(body(start+30)) {
			t.Fatalf("the chunk with a second missing came as %q", b)
		}
	})
}

// TestLiveTogether: live seconds travel as often as the collector asks for, and at
// the latest when their chunk is closed, which is announced like any.
func TestLiveTogether(t *testing.T) {
	for every, want := range map[uint32][]int{
		0: nil, 1: nil, 2: {2, 2, 2, 2, 2}, 3: {3, 3, 3}, 4: {4, 4, 2}, 7: {7, 3}, 10: {10}, 1000: {10},
	} {
		synctest.Test(t, func(t *testing.T) {
			col := &collector{every: every}
			w := newWorld(t, col, nil)
			defer w.end()
			w.run()
			synctest.Wait()
			for range 3 {
				col.together = nil
				for i := range attribution.Second(10) {
					w.live(w.next + i)
					synctest.Wait()
				}
				w.append(1)
				synctest.Wait()
				if !slices.Equal(col.together, want) {
					t.Errorf("every %d s: %v seconds travelled together, want %v", every, col.together, want)
				}
			}
			w.drain()
			w.complete(true)
			if st := w.up.Status(); st.LiveSent != 30 || st.LiveDropped != 0 || st.ChunksClosed != 3 || col.lives != 30 || col.alone != 1 {
				t.Errorf("every %d s: %+v, %d came, %d told by no other", every, st, col.lives, col.alone)
			}
		})
	}
}

func TestLiveIsDroppedWhileBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{keep: true}
		w := newWorld(t, col, func(o *uplink.Options) { o.InFlightChunks = 4 })
		defer w.end()
		w.append(20)
		w.run()
		synctest.Wait()
		for i := range attribution.Second(10) {
			w.live(w.next + i)
		}
		synctest.Wait()
		if st := w.up.Status(); st.LiveSent != 0 || st.LiveDropped != 6 || st.InFlight != 4 || col.most != 4 {
			t.Fatalf("%+v, at most %d in flight", st, col.most)
		}
	})
}

// TestLaw4ReconnectSendsAgain ends streams with chunks in flight.
func TestLaw4ReconnectSendsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		seen := 0
		col.onChunk = func(_ pb.Ingest_StreamServer, c *pb.Chunk) (bool, error) {
			if seen++; seen%7 == 0 {
				return true, status.Error(codes.Unavailable, "restarting")
			}
			col.store(c)
			return seen%3 != 0, nil // acknowledges every third only
		}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(40)
		w.run()
		synctest.Wait()
		col.mu.Lock()
		col.onChunk = func(pb.Ingest_StreamServer, *pb.Chunk) (bool, error) {
			if seen++; seen%7 == 0 {
				return true, status.Error(codes.Unavailable, "restarting")
			}
			return false, nil
		}
		col.mu.Unlock()
		w.drain()
		w.complete(false)
		if col.streams < 3 {
			t.Fatalf("only %d streams", col.streams)
		}
	})
}

func TestBackoffGrowsAndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		fails := 0
		col.onHello = func(s pb.Ingest_StreamServer) {
			if fails++; fails == 12 { // a good while, then gone
				select {
				case <-time.After(2 * time.Minute):
				case <-s.Context().Done():
				}
			}
		}
		col.onChunk = func(pb.Ingest_StreamServer, *pb.Chunk) (bool, error) {
			return true, status.Error(codes.Unavailable, "no")
		}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(1)
		w.run()
		time.Sleep(10 * time.Minute)
		col.mu.Lock()
		defer col.mu.Unlock()
		var gaps []time.Duration
		for i := range 13 {
			gaps = append(gaps, col.began[i+1].Sub(col.began[i]).Round(time.Millisecond))
		}
		ms := time.Millisecond // with a jitter of ×0.75
		want := []time.Duration{
			150 * ms, 300 * ms, 600 * ms, 1200 * ms, 2400 * ms, 4800 * ms, 9600 * ms, 19200 * ms,
			22500 * ms, 22500 * ms, 22500 * ms, 2*time.Minute + 150*ms, 300 * ms,
		}
		if !slices.Equal(gaps, want) {
			t.Fatalf("pauses %v: want %v", gaps, want)
		}
	})
}

func TestResendAndReject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		again := map[int64]int{}
		col.asked = map[int64]bool{}
		col.onChunk = func(s pb.Ingest_StreamServer, c *pb.Chunk) (bool, error) {
			q := c.GetSequence()
			again[q]++
			switch {
			case q == int64(start)+10 && again[q] < 3, len(c.GetBody()) == 0:
				col.asked[q] = true
				return true, s.Send(&pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: boot[:], Sequence: q}}})
			case q == int64(start)+30:
				err := s.Send(&pb.ToAgent{Message: &pb.ToAgent_Reject{Reject: &pb.Reject{Boot: boot[:], Sequence: q, Reason: "overlaps"}}})
				return true, err
			}
			delete(col.asked, q)
			return false, nil
		}
		w := newWorld(t, col, nil)
		defer w.end()
		w.run()
		synctest.Wait()
		for i := range attribution.Second(10) { // goes out live, and is announced; its body is asked for
			w.live(w.next + i)
			synctest.Wait()
		}
		w.append(1)
		synctest.Wait()
		w.live(w.next) // the collector may lack what it would be told by
		w.live(w.next + 1)
		synctest.Wait()
		if col.alone != 2 || col.lives != 12 {
			t.Fatalf("%d of %d live seconds told by no other", col.alone, col.lives)
		}
		w.append(5)
		w.drain()
		for s := start; s < w.next; s += 10 {
			b, ok := col.stored[int64(s)]
			if s == start+30 {
				if ok {
					t.Fatal("the rejected chunk is stored")
				}
				continue
			}
			if string(b) != string(body(s)) {
				t.Fatalf("chunk %d came as %q", s, b)
			}
		}
		st := w.up.Status()
		if again[int64(start)+10] != 3 || again[int64(start)] != 2 || st.Resends != 3 || st.Rejected != 1 || st.Ignored != 0 {
			t.Fatalf("%v; %+v", again, st)
		}
		if sp := w.sp.Stats(); sp.Rejected != 1 || sp.UnackedChunks != 0 {
			t.Fatalf("%+v", sp)
		}
	})
}

// TestHostileCollector says things about chunks that were never sent.
func TestHostileCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{keep: true}
		col.onHello = func(s pb.Ingest_StreamServer) {
			for _, m := range []*pb.ToAgent{
				ackOf(boot, int64(start)+1_000_000),
				ackOf(attribution.Boot{9}, int64(start)),
				{Message: &pb.ToAgent_Ack{Ack: &pb.Ack{Boot: []byte("short"), Sequence: 1 << 62}}},
				{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: boot[:], Sequence: -1 << 63}}},
				{Message: &pb.ToAgent_Reject{Reject: &pb.Reject{Boot: boot[:], Sequence: 5, Reason: strings.Repeat("x", 1<<16)}}},
				{Message: &pb.ToAgent_Welcome{Welcome: &pb.Welcome{StoredThrough: -5}}},
				{},
			} {
				if err := s.Send(m); err != nil {
					col.fail("%v", err)
				}
			}
		}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(3)
		w.run()
		synctest.Wait()
		if st, sp := w.up.Status(), w.sp.Stats(); st.Ignored != 7 || sp.UnackedChunks != 3 || sp.Rejected != 0 {
			t.Fatalf("%+v; %+v", st, sp)
		}
		w.drain()
		w.complete(false)
		if col.flushes != 1 {
			t.Fatalf("%d flushes", col.flushes)
		}
	})
}

func TestRateCardsAndSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []uint32
		col := &collector{cards: []*pb.RateCard{{Revision: 1}, {Revision: 2}}}
		w := newWorld(t, col, func(o *uplink.Options) {
			o.OnRateCard = func(c *pb.RateCard) { got = append(got, c.GetRevision()) }
		})
		defer w.end()
		w.run()
		synctest.Wait()
		if !slices.Equal(got, []uint32{1, 2}) {
			t.Fatalf("cards %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		col := &collector{silent: true}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(1)
		w.run()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := w.up.Welcomed(ctx); err == nil {
			t.Fatal("welcomed by nobody")
		}
		if st := w.up.Status(); st.Connected || !strings.Contains(st.LastError, "no welcome") || st.Streams < 2 || len(col.order) != 0 {
			t.Fatalf("%+v", st)
		}
		if err := w.up.Drain(ctx); err == nil {
			t.Fatal("drained to nobody")
		}
	})
}

// TestDamagedChunk gives up what the disk has lost, and only that.
func TestDamagedChunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		w := newWorld(t, col, nil)
		defer w.end()
		_, id, r := rosterAt(w.next)
		if err := w.sp.AppendChunk(chunkOf(w.next, id, []byte("\xff not a message")), r); err != nil {
			t.Fatal(err)
		}
		w.next += 10
		w.append(2)
		w.run()
		w.drain()
		if len(col.stored) != 2 || w.sp.Stats().Rejected != 1 {
			t.Fatalf("%d stored, %+v", len(col.stored), w.sp.Stats())
		}
	})
}
