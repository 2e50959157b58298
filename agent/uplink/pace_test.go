package uplink_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/uplink"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	everything = pb.Pace_PACE_EVERYTHING
	chunks     = pb.Pace_PACE_CHUNKS
	nothing    = pb.Pace_PACE_NOTHING
)

// setPace has the collector change the pace, and waits until the uplink knows.
func (w *world) setPace(p pb.Pace) {
	w.col.setPace(p)
	synctest.Wait()
}

// came is what the collector was sent so far: chunks in full or announced, live
// seconds, requests to flush.
func (w *world) came() [3]int {
	synctest.Wait()
	w.col.mu.Lock()
	defer w.col.mu.Unlock()
	return [3]int{len(w.col.order), w.col.lives, w.col.flushes}
}

// wantCame compares came.
func (w *world) wantCame(when string, want [3]int) {
	w.t.Helper()
	if got := w.came(); got != want {
		w.t.Fatalf("%s: %v chunks, live seconds and flushes came: want %v", when, got, want)
	}
}

// tenSeconds offers a chunk's seconds live, and closes it.
func (w *world) tenSeconds() {
	for i := range attribution.Second(10) {
		w.live(w.next + i)
		synctest.Wait()
	}
	w.append(1)
	synctest.Wait()
}

// commit has the collector acknowledge all that it has, and from here on
// everything as it comes.
func (w *world) commit() {
	synctest.Wait()
	w.col.mu.Lock()
	w.col.keep = false
	newest := slices.Max(append(w.col.order, 0))
	w.col.mu.Unlock()
	w.col.say(ackOf(boot, newest))
}

func TestHeldFromTheWelcomeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{pace: nothing}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(30)
		w.run()
		synctest.Wait()
		if st := w.up.Status(); !st.Connected || st.Pace != nothing || st.InFlight != 0 {
			t.Fatalf("%+v", st)
		}
		w.tenSeconds()
		w.up.Flush()
		time.Sleep(time.Hour)
		w.wantCame("held", [3]int{})
		if st := w.up.Status(); st.Streams != 1 || st.LiveDropped != 10 || st.Unacked != 31 {
			t.Fatalf("%+v", st)
		}
		w.setPace(everything)
		w.drain()
		w.complete(false)
		if !slices.IsSorted(col.order) || len(col.order) != 31 || w.up.Status().Pace != everything {
			t.Fatalf("%d chunks came, in order: %v; %+v", len(col.order), slices.IsSorted(col.order), w.up.Status())
		}
	})
}

// Held amid a backlog, with chunks in flight: only what is asked for again is
// sent, and the request to flush comes when the uplink is let go.
func TestHeldAmidABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{keep: true}
		w := newWorld(t, col, func(o *uplink.Options) { o.InFlightChunks = 8 })
		defer w.end()
		w.append(30)
		w.run()
		w.wantCame("to begin with", [3]int{8, 0, 0})
		w.setPace(nothing)
		col.say(ackOf(boot, int64(start)+30)) // four of them: there is room
		w.up.Flush()
		w.wantCame("held", [3]int{8, 0, 0})
		again := int64(start) + 50
		col.say(&pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: boot[:], Sequence: again}}})
		w.wantCame("asked again", [3]int{9, 0, 0})
		if col.order[8] != again {
			t.Fatalf("asked for %d, got %d", again, col.order[8])
		}
		w.append(1)
		w.wantCame("held again", [3]int{9, 0, 0})
		w.setPace(chunks)
		w.wantCame("let go", [3]int{13, 0, 0})
		w.commit()
		w.wantCame("acknowledged", [3]int{32, 0, 1})
		w.drain()
		w.complete(false)
		if order := slices.Delete(col.order, 8, 9); !slices.IsSorted(order) {
			t.Fatalf("came in another order: %v", order)
		}
	})
}

// Without live seconds chunks come in full; a chunk is announced again once all
// of its seconds are live.
func TestPaceWithoutLiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{}
		w := newWorld(t, col, nil)
		defer w.end()
		w.run()
		synctest.Wait()
		w.tenSeconds()
		for i := range attribution.Second(4) { // live, and the rest of the chunk is not
			w.live(w.next + i)
		}
		synctest.Wait()
		w.setPace(chunks)
		for i := range attribution.Second(6) {
			w.live(w.next + 4 + i)
		}
		w.append(1)
		w.tenSeconds()
		w.wantCame("without live seconds", [3]int{3, 14, 0})
		for i := range attribution.Second(3) {
			w.live(w.next + i)
		}
		w.setPace(everything)
		for i := range attribution.Second(7) {
			w.live(w.next + 3 + i)
			synctest.Wait()
		}
		w.append(1)
		w.tenSeconds()
		w.wantCame("with live seconds", [3]int{5, 31, 0})
		w.drain()
		w.complete(true)
		for i, full := range []bool{false, true, true, true, false} {
			if b := col.stored[int64(start)+10*int64(i)]; (len(b) > 0) != full {
				t.Errorf("chunk %d came as %q", i, b)
			}
		}
		if st := w.up.Status(); st.ChunksClosed != 2 || st.ChunksSent != 3 || st.LiveSent != 31 || st.LiveDropped != 19 || col.alone != 1 {
			t.Fatalf("%+v, %d told by no other", st, col.alone)
		}
	})
}

// Live seconds that wait when the pace comes are dropped, and counted.
func TestPaceDropsTheLiveSecondsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{keep: true}
		w := newWorld(t, col, func(o *uplink.Options) { o.InFlightChunks = 1 })
		defer w.end()
		w.append(3)
		w.run()
		synctest.Wait()
		for i := range attribution.Second(3) { // wait for the backlog
			w.live(w.next + i)
		}
		synctest.Wait()
		if st := w.up.Status(); st.LiveDropped != 0 {
			t.Fatalf("%+v", st)
		}
		w.setPace(chunks)
		if st := w.up.Status(); st.LiveDropped != 3 {
			t.Fatalf("%+v", st)
		}
		w.commit()
		w.drain()
		w.setPace(everything)
		w.wantCame("in the end", [3]int{3, 0, col.flushes})
	})
}

// A pace of a newer collector changes nothing.
func TestUnknownPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{pace: 77}
		w := newWorld(t, col, nil)
		defer w.end()
		w.append(1)
		w.run()
		w.drain()
		w.setPace(nothing)
		w.setPace(-1)
		w.append(1)
		w.wantCame("held", [3]int{1, 0, col.flushes})
		if st := w.up.Status(); st.Pace != nothing || st.Ignored != 2 {
			t.Fatalf("%+v", st)
		}
		w.setPace(everything)
		w.drain()
		w.complete(false)
	})
}

// two are collectors of which the other is better when better is closed.
type two struct {
	client pb.IngestClient
	next   int
	better chan struct{}
}

func (o *two) Next(context.Context) (uplink.Collector, error) {
	o.next++
	return uplink.Collector{Name: fmt.Sprint(o.next), Client: o.client}, nil
}

func (o *two) Better(ctx context.Context) bool {
	if o.next > 1 {
		<-ctx.Done()
		return false
	}
	select {
	case <-o.better:
		return true
	case <-ctx.Done():
		return false
	}
}

// One that is held leaves for a better collector as any other does.
func TestHeldLeavesForABetterCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		col := &collector{pace: nothing}
		where := &two{better: make(chan struct{})}
		w := newWorld(t, col, func(o *uplink.Options) { where.client, o.Client, o.Collectors = o.Client, nil, where })
		defer w.end()
		w.append(5)
		w.run()
		w.wantCame("held", [3]int{})
		col.mu.Lock()
		col.pace = everything
		col.mu.Unlock()
		close(where.better)
		w.drain()
		w.complete(false)
		if st := w.up.Status(); st.Moves != 1 || st.Streams != 2 || st.Pace != everything {
			t.Fatalf("%+v", st)
		}
	})
}

// pacing plays random steps, and checks after each that nothing came that was
// not wanted.
type pacing struct {
	*world
	pace   pb.Pace
	story  []string
	hangUp func()
}

// line is a client whose streams can be cut.
type line struct {
	pb.IngestClient
	cut func()
}

func (l *line) Stream(ctx context.Context, opts ...grpc.CallOption) (grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent], error) {
	ctx, l.cut = context.WithCancel(ctx)
	return l.IngestClient.Stream(ctx, opts...)
}

func (p *pacing) act(what, extra int) (failure string) {
	before, again := p.came(), int64(0)
	switch what {
	case 0, 1: // the collector changes its mind
		p.pace = pb.Pace(extra % 3)
		p.col.mu.Lock()
		p.col.pace = p.pace // that of the next stream as well
		p.col.mu.Unlock()
		p.setPace(p.pace)
		p.story = append(p.story, p.pace.String())
	case 2, 3, 4: // ten seconds pass
		p.tenSeconds()
		p.story = append(p.story, "a chunk, live")
	case 5: // more that was never offered live
		p.append(1 + extra)
		p.story = append(p.story, fmt.Sprintf("%d chunks", 1+extra))
	case 6:
		p.up.Flush()
		p.story = append(p.story, "flush")
	case 7: // the collector asks for one again
		if st := p.up.Status(); st.InFlight > 0 {
			again = max(int64(p.sp.Stats().Acked)+10, int64(start))
			p.col.say(&pb.ToAgent{Message: &pb.ToAgent_Resend{Resend: &pb.Resend{Boot: boot[:], Sequence: again}}})
			p.story = append(p.story, fmt.Sprintf("resend of %d", again-int64(start)))
		}
	case 8: // it commits a part
		p.col.mu.Lock()
		n, order := len(p.col.order), p.col.order
		p.col.mu.Unlock()
		if inFlight := p.up.Status().InFlight; n > 0 && inFlight > 0 {
			p.col.say(ackOf(boot, order[max(n-1-extra, 0)]))
			p.story = append(p.story, "ack")
		}
	case 9: // the stream ends; the next may be held as this one was
		p.hangUp()
		time.Sleep(time.Minute)
		p.story = append(p.story, "hang up")
	}
	after := p.came()
	switch {
	case p.pace == everything:
	case before[1] != after[1]:
		failure = "a live second came"
	case p.pace == nothing && again != 0:
		if p.col.order[after[0]-1] != again || after[0] != before[0]+1 {
			failure = "another chunk came than was asked for"
		}
	case p.pace == nothing && before != after:
		failure = "something came"
	}
	return failure
}

// Whatever the collector does: no chunk is lost, none comes before those before
// it, and nothing comes that the pace does not allow.
func TestLaw4AnyPace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [2]int {
			return [2]int{rapid.IntRange(0, 9).Draw(rt, "what"), rapid.IntRange(0, 5).Draw(rt, "extra")}
		}), 1, 30).Draw(rt, "steps")
		welcome := pb.Pace(rapid.IntRange(0, 2).Draw(rt, "welcome"))
		failure := ""
		synctest.Test(t, func(t *testing.T) {
			l := &line{}
			w := newWorld(t, &collector{keep: true, pace: welcome}, func(o *uplink.Options) {
				l.IngestClient, o.Client, o.InFlightChunks = o.Client, l, 12
			})
			defer w.end()
			w.run()
			synctest.Wait()
			p := &pacing{world: w, pace: welcome, story: []string{welcome.String()}, hangUp: func() { l.cut() }}
			for _, s := range steps {
				if why := p.act(s[0], s[1]); why != "" {
					failure = fmt.Sprintf("%s: %s", strings.Join(p.story, "; "), why)
					return
				}
			}
			w.col.mu.Lock()
			w.col.pace = everything
			w.col.mu.Unlock()
			w.setPace(everything)
			w.append(1)
			w.commit()
			w.drain()
			failure = p.verdict()
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// verdict checks what the collector has in the end.
func (p *pacing) verdict() string {
	p.complete(true)
	newest := int64(start) - 10
	for _, q := range p.col.order {
		if q > newest+10 {
			return fmt.Sprintf("%s: chunk %d came before the one before it", strings.Join(p.story, "; "), q-int64(start))
		}
		newest = max(newest, q)
	}
	for q, b := range p.col.stored {
		if len(b) > 0 && string(b) != string(body(attribution.Second(q))) {
			return fmt.Sprintf("%s: chunk %d came as %q", strings.Join(p.story, "; "), q-int64(start), b)
		}
	}
	return ""
}
