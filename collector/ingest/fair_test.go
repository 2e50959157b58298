package ingest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Whatever comes and goes, the budget is never exceeded, nobody waits while there
// is room, and in the end nobody waits.
func TestBudgetBoundsAndGrants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.Int64Range(10, 100).Draw(rt, "bytes")
		// Who takes how much; 0: gives all back; less: needs some more or less for
		// what it has.
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) charge {
			return charge{chunks: rapid.Int64Range(0, 3).Draw(t, "holder"), bytes: rapid.Int64Range(-20, most+10).Draw(t, "size")}
		}), 1, 60).Draw(rt, "steps")
		wrong := ""
		synctest.Test(t, func(t *testing.T) { wrong = playBudget(t.Context(), most, steps) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

func playBudget(ctx context.Context, most int64, steps []charge) (wrong string) {
	b := newBudget(1000, most, func() {})
	holders := []*holder{{}, {}, {}, {}}
	waiting := make([]bool, 4)
	granted := make(chan int, 4)
	settle := func() {
		synctest.Wait()
		for len(granted) > 0 {
			waiting[<-granted] = false
		}
		if wrong == "" {
			wrong = checkBudget(b, holders, waiting)
		}
	}
	for _, step := range steps {
		i := int(step.chunks)
		switch h := holders[i]; {
		case step.bytes < 0 && h.chunks > 0:
			b.more(h, max(step.bytes+10, -h.bytes))
		case step.bytes < 0:
		case step.bytes == 0:
			b.give(charge{h, h.chunks, h.bytes})
		case !waiting[i]:
			waiting[i] = true
			go func() {
				if b.take(ctx, h, step.bytes, unheard) == nil {
					granted <- i
				}
			}()
		}
		settle()
	}
	for b.chunks > 0 {
		for _, h := range holders {
			b.give(charge{h, h.chunks, h.bytes})
		}
		settle()
	}
	return wrong
}

func unheard() {}

// What becomes free goes to whoever holds least, not to who came first.
func TestBudgetGoesToWhoHoldsLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		b := newBudget(100, 10, func() { asked++ })
		greedy, modest := &holder{}, &holder{}
		for range 10 {
			if err := b.take(t.Context(), greedy, 1, unheard); err != nil {
				t.Fatal(err)
			}
		}
		var order []string
		wait := func(name string, by *holder) {
			go func() {
				if b.take(t.Context(), by, 1, unheard) == nil {
					order = append(order, name)
				}
			}()
			synctest.Wait()
		}
		wait("greedy", greedy)
		wait("modest", modest)
		if asked != 2 {
			t.Errorf("the writer was asked %d times to make room: want once each", asked)
		}
		b.give(charge{greedy, 1, 1})
		synctest.Wait()
		if len(order) != 1 || order[0] != "modest" || asked != 3 {
			t.Errorf("granted %v, asked %d times: want the modest one, and to be asked for the other", order, asked)
		}
		b.give(charge{greedy, 1, 1})
		synctest.Wait()
		if len(order) != 2 {
			t.Errorf("granted %v", order)
		}
	})
}

// Who gives up waiting holds nothing, and keeps nobody else waiting.
func TestBudgetWaitersMayGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100, 10, func() {})
		h := []*holder{{}, {}, {}}
		if err := b.take(t.Context(), h[0], 8, unheard); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- b.take(ctx, h[1], 5, unheard) }()
		synctest.Wait()
		go func() { ended <- b.take(t.Context(), h[2], 5, unheard) }()
		synctest.Wait()
		cancel()
		if err := <-ended; err == nil {
			t.Error("it was granted")
		}
		b.give(charge{h[0], 1, 8})
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if b.chunks != 1 || h[1].bytes != 0 {
			t.Errorf("%d chunks are taken, %d bytes by who gave up", b.chunks, h[1].bytes)
		}
	})
}

func checkBudget(b *budget, holders []*holder, waiting []bool) string {
	var chunks, bytes int64
	for _, h := range holders {
		chunks, bytes = chunks+h.chunks, bytes+h.bytes
	}
	n := 0
	for _, w := range waiting {
		if w {
			n++
		}
	}
	switch {
	case chunks != b.chunks || bytes != b.bytes:
		return fmt.Sprintf("holders have %d bytes in %d chunks, the budget says %d in %d", bytes, chunks, b.bytes, b.chunks)
	case bytes > b.maxBytes && chunks > 1:
		return fmt.Sprintf("%d bytes are taken of %d", bytes, b.maxBytes)
	case n > 0 && chunks == 0:
		return "there is room, and someone waits"
	case n != len(b.waiting):
		return fmt.Sprintf("%d wait: %d are on the list", n, len(b.waiting))
	}
	return ""
}

// emptyPools has what is pooled made anew: a zstd decoder of another bubble
// cannot be used in this one.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

// A node that floods as fast as it is let, over a store that takes 100 ms a
// commit and is 500 chunks behind, does not keep others waiting: their minutes
// are durable after eight commits, at most one for room for each of the six
// chunks, the one that runs, and their own.
func TestAFloodingNodeHoldsUpNobody(t *testing.T) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		st := newMemStore()
		st.fault = func(*store.Batch) error {
			time.Sleep(100 * time.Millisecond) // virtual
			return nil
		}
		o := quick()
		o.Limits.PendingChunks = 512
		o.Limits.BatchRows = 16 // four minutes of a node
		r := start(t, st, o)
		flood := r.connect(nodeID{"c", "flood"}, attribution.Boot{1})
		stop := make(chan struct{})
		flooded := make(chan []*attribution.Chunk, 1)
		go func() {
			var sent []*attribution.Chunk
			for i := 0; ; i++ {
				select {
				case <-stop:
					flooded <- sent
					return
				default:
				}
				c := makeChunk(flood.id, flood.boot, base+attribution.Second(10*i), 10)
				if !flood.chunk(c) {
					flooded <- sent
					return
				}
				sent = append(sent, c)
			}
		}()
		time.Sleep(5 * time.Second) // virtual: it has all that it gets
		if n, _ := r.s.Pending(); n < 500 {
			t.Fatalf("%d chunks are pending: the flood is none", n)
		}
		var all []*attribution.Chunk
		var normal []*agent
		for i := range 8 {
			a := r.connect(nodeID{"c", fmt.Sprint(i)}, attribution.Boot{1})
			normal = append(normal, a)
		}
		for minute := range 5 {
			for _, a := range normal {
				cs := chunksOf(a.id, a.boot, base+attribution.Second(60*minute), 6)
				began := time.Now()
				for _, c := range cs {
					a.chunk(c)
				}
				a.awaitAck(cs[5])
				if d := time.Since(began); d > 800*time.Millisecond {
					t.Errorf("minute %d of %q was durable after %v: the flood comes first", minute, a.id.node, d)
				}
				all = append(all, cs...)
			}
		}
		close(stop)
		sent := <-flooded
		flood.flush()
		flood.awaitAck(sent[len(sent)-1])
		r.drain()
		st.wantExactly(t, append(all, sent...))
	})
}

// An agent that takes none of the collector's answers is dropped when they have
// waited long enough, and what it sent stays.
func TestAnAgentThatDoesNotReadIsDropped(t *testing.T) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		st := newMemStore()
		r := start(t, st, Options{AllowFuture: true})
		ctx, hangUp := context.WithCancel(t.Context())
		p := &pipe{ctx: ctx, in: make(chan *pb.FromAgent), out: make(chan *pb.ToAgent)}
		ended := make(chan error, 1)
		go func() {
			defer hangUp() // as gRPC does
			ended <- r.s.Stream(p)
		}()
		a := &agent{t: t, id: nodeID{"c", "deaf"}, boot: attribution.Boot{1}, p: p, rosters: make(map[attribution.Fingerprint]bool)}
		a.send(helloOf("c", "deaf", a.boot[:]))
		c := makeChunk(a.id, a.boot, base, 10)
		began := time.Now()
		a.chunk(c)
		if err := <-ended; status.Code(err) != codes.ResourceExhausted || time.Since(began) != time.Minute {
			t.Errorf("ended after %v with %v", time.Since(began), err)
		}
		if s := r.s.Stats(); s.Unread != 1 || s.Streams != 0 {
			t.Errorf("counted %+v", s)
		}
		r.drain()
		st.wantExactly(t, []*attribution.Chunk{c})
	})
}

// Live seconds of all nodes are bounded together. At the bound those with more
// than their share lose their oldest, others nothing; all is stored in the end.
func TestLiveSecondsOfAllNodesAreBounded(t *testing.T) {
	st := newMemStore()
	o := quick()
	o.Limits.LiveTotalBytes = 20_000
	r := start(t, st, o)
	seconds := func(node string, n int) (*agent, *attribution.Chunk) {
		a := r.connect(nodeID{"c", node}, attribution.Boot{1})
		c := makeChunk(a.id, a.boot, base, n)
		for _, s := range secondsOf(c) {
			a.live(s)
		}
		return a, c
	}
	var all []*attribution.Chunk
	var agents []*agent
	for i := range 10 {
		a, c := seconds(fmt.Sprint(i), 10)
		agents, all = append(agents, a), append(all, c)
	}
	a, c := seconds("modest", 2)
	for i, a := range agents {
		a.closed(all[i])
	}
	a.closed(c)
	for i, a := range append(agents, a) {
		c := append(all, c)[i]
		// Either it was complete, or it is asked for.
		a.flush()
		m := a.await("ack or resend", func(m *pb.ToAgent) bool { return m.GetAck() != nil || m.GetResend() != nil })
		if m.GetResend() != nil {
			if a.id.node == "modest" {
				t.Error("a node within its share lost a second")
			}
			a.chunk(c)
			a.flush()
		}
		a.awaitAck(c)
	}
	if s := r.s.Stats(); s.LiveShed == 0 || s.LiveDropped < s.LiveShed {
		t.Errorf("counted %+v", s)
	}
	if used := r.s.lives.used.Load(); used != 0 || r.s.lives.holders.Load() != 0 {
		t.Errorf("%d bytes are counted of live seconds that are gone", used)
	}
	r.drain()
	st.wantExactly(t, append(all, c))
}

// However many streams send rosters, together they keep within the bound, give
// or take what came before; who keeps to its share keeps its own.
func TestRostersOfAllStreamsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pool{most: 1000}
		streams := make([]*rosters, 5)
		for i := range streams {
			streams[i] = &rosters{most: 64, mostBytes: 800, pool: p, room: &room{}}
		}
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			r := streams[rapid.IntRange(0, 4).Draw(t, "stream")]
			size := rapid.IntRange(1, 400).Draw(t, "size")
			before := r.bytes
			err := r.put(&roster{id: attribution.Fingerprint{byte(i), byte(i >> 8)}, size: size})
			if err != nil && before+int64(size) <= 200 {
				t.Fatalf("%d bytes in all were refused: a fifth is %d", before+int64(size), 200)
			}
			if rapid.IntRange(0, 20).Draw(t, "leave") == 0 {
				r.release()
			}
			total := int64(0)
			for _, r := range streams {
				total += r.bytes
			}
			if total != p.used.Load() || total > 2*p.most {
				t.Fatalf("%d bytes are held, %d counted of %d", total, p.used.Load(), p.most)
			}
		}
	})
}

// Where memory is short, so much is committed as gives some back: the minutes that are
// nearest to whole. To commit all that is open in parts would be as many rows for each
// part, and keep memory short.
func TestWhereMemoryIsShortTheFullestMinutesGoFirst(t *testing.T) {
	r := start(t, newMemStore(), quick())
	full, fresh := nodeID{"c", "full"}, nodeID{"c", "fresh"}
	a := r.connect(full, attribution.Boot{1})
	for _, c := range chunksOf(full, attribution.Boot{1}, base, 5) {
		a.chunk(c)
	}
	r.connect(fresh, attribution.Boot{1}).chunk(makeChunk(fresh, attribution.Boot{1}, base, 10))
	awaitAccepted(t, r, 6)
	openOf := func(id nodeID) []*group {
		n := r.s.nodes[id]
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.Clone(n.open)
	}
	if err := r.s.Do(t.Context(), func(context.Context) error {
		r.s.o.Limits.PendingBytes = commitPart * openOf(full)[0].bytes
		for range 2 { // the second time something is ready already
			r.s.relieve()
			if a, b := len(openOf(full)), len(openOf(fresh)); a != 0 || b != 1 {
				t.Errorf("%d and %d minutes are open: want the full one to be ready, the other open", a, b)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.drain()
}
