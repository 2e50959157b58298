package ingest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func TestHello(t *testing.T) {
	boot := make([]byte, 16)
	for name, c := range map[string]struct {
		m    *pb.FromAgent
		code codes.Code
	}{
		"none":          {&pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}}, codes.InvalidArgument},
		"no node":       {helloOf("c", "", boot), codes.InvalidArgument},
		"long node":     {helloOf("c", strings.Repeat("n", 254), boot), codes.InvalidArgument},
		"control":       {helloOf("c\n", "n", boot), codes.InvalidArgument},
		"not UTF-8":     {helloOf("c", "\xff", boot), codes.InvalidArgument},
		"short boot":    {helloOf("c", "n", boot[1:]), codes.InvalidArgument},
		"no cluster ok": {helloOf("", "n", boot), codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, newMemStore(), quick())
			a := r.dial(nodeID{}, attribution.Boot{})
			a.send(c.m)
			if c.code == codes.OK {
				w := a.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil }).GetWelcome()
				if w.Version != "test" || w.StoredThrough != 0 {
					t.Errorf("welcome %v", w)
				}
			} else if err := <-a.ended; status.Code(err) != c.code {
				t.Errorf("ended with %v", err)
			}
			r.drain()
		})
	}
}

func helloOf(cluster, node string, boot []byte) *pb.FromAgent {
	return &pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: cluster, Node: node, Boot: boot}}}
}

func TestSilentStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newMemStore(), Options{})
		a := r.dial(nodeID{}, attribution.Boot{})
		begun := time.Now()
		if err := <-a.ended; status.Code(err) != codes.DeadlineExceeded || time.Since(begun) != 10*time.Second {
			t.Errorf("ended after %v with %v", time.Since(begun), err)
		}
		r.drain()
	})
}

func TestWelcomeThenRateCardThenEveryChange(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	r.s.SetRateCard(&pb.RateCard{Revision: 1})
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	a := r.connect(id, boot)
	a.chunk(c)
	a.flush()
	a.awaitAck(c)
	// Only the newest card is sent: one that comes before it is sent takes its
	// place.
	a.await("card 1", func(m *pb.ToAgent) bool { return m.GetRateCard().GetRevision() == 1 })
	r.s.SetRateCard(&pb.RateCard{Revision: 2})
	a.await("card 2", func(m *pb.ToAgent) bool { return m.GetRateCard().GetRevision() == 2 })
	a.mu.Lock()
	if a.got[0].GetWelcome() == nil {
		t.Errorf("got %v", a.got)
	}
	a.mu.Unlock()
	a = r.connect(id, boot)
	w := a.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil }).GetWelcome()
	if w.StoredThrough != int64(c.End()) {
		t.Errorf("stored through %d: want %d", w.StoredThrough, c.End())
	}
	a.await("card 2", func(m *pb.ToAgent) bool { return m.GetRateCard().GetRevision() == 2 })
	r.drain()
}

func TestNewerStreamEndsTheOlder(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 3) // not a minute: pending
	old := r.connect(id, boot)
	for _, c := range all {
		old.chunk(c)
	}
	old.flush()
	old.awaitAck(all[2])
	pending := makeChunk(id, boot, base+30, 10)
	old.chunk(pending)
	awaitAccepted(t, r, 4) // not Pending: a commit gives its memory back after its acks
	a := r.connect(id, boot)
	if err := <-old.ended; status.Code(err) != codes.Aborted {
		t.Errorf("the older stream ended with %v", err)
	}
	a.chunk(pending) // sent again: pending from the older stream
	a.flush()
	a.awaitAck(pending)
	if s := r.s.Stats(); s.Superseded != 1 || s.Duplicate != 1 || s.Streams != 1 {
		t.Errorf("counted %+v", s)
	}
	if n := r.s.Nodes(); len(n) != 1 || !n[0].Connected || n[0].AgentVersion != "a1" {
		t.Errorf("nodes %+v", n)
	}
	r.drain()
	st.wantExactly(t, append(all, pending))
}

// An agent that reads no answers holds up nobody else, not even the stop.
func TestStuckStreamHarmsNobody(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	stuck := &pipe{in: make(chan *pb.FromAgent), out: make(chan *pb.ToAgent)}
	var hangUp context.CancelFunc
	stuck.ctx, hangUp = context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.s.Stream(stuck) }()
	stuck.in <- helloOf("c", "stuck", make([]byte, 16))

	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 60)
	a := r.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[59])
	if err := r.s.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	hangUp() // what stopping gRPC does
	if err := <-ended; err == nil {
		t.Error("the stuck stream ended well")
	}
	a.hangUp()
	r.stop()
	if err := <-r.ran; err != nil {
		t.Error(err)
	}
	st.wantExactly(t, all)
}

func TestHostileMessagesEndTheStreamOrAreRejected(t *testing.T) {
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	good := makeChunk(id, boot, base, 10)
	foreign := makeChunk(nodeID{"c", "other"}, boot, base, 10)
	for name, c := range map[string]struct {
		send   func(a *agent)
		reject bool
		code   codes.Code
	}{
		"second hello":   {send: func(a *agent) { a.send(helloOf("c", "n", boot[:])) }, code: codes.InvalidArgument},
		"nothing":        {send: func(a *agent) { a.send(&pb.FromAgent{}) }, code: codes.InvalidArgument},
		"no roster":      {send: func(a *agent) { a.rosters[good.Roster.Fingerprint()] = true; a.chunk(good) }, code: codes.FailedPrecondition},
		"another boot":   {send: func(a *agent) { a.chunk(makeChunk(id, attribution.Boot{2}, base, 10)) }, code: codes.InvalidArgument},
		"closed nothing": {send: func(a *agent) { a.send(&pb.FromAgent{Message: &pb.FromAgent_Closed{}}) }, code: codes.InvalidArgument},
		"bad roster": {send: func(a *agent) {
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: &pb.Roster{Owners: []*pb.Owner{{Kind: 99}}}}})
		}, code: codes.InvalidArgument},
		"bad live": {send: func(a *agent) {
			x := good.Roster.Fingerprint()
			a.roster(good.Roster)
			b, err := proto.Marshal(&pb.Columns{Seconds: 1, DeviceStep: []uint32{9}})
			if err != nil {
				a.t.Fatal(err)
			}
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: &pb.Live{RosterId: x[:], Plain: b}}})
		}, code: codes.InvalidArgument},
		"bad live, told by a good one": {send: func(a *agent) {
			s := secondsOf(good)
			a.live(s[0])
			b, err := proto.Marshal(&pb.Columns{FirstSecond: 1, Seconds: 1, DeviceStep: []uint32{9}})
			if err != nil {
				a.t.Fatal(err)
			}
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: &pb.Live{Base: int64(base), Plain: b}}})
			a.closed(good) // until then it waits
		}, code: codes.InvalidArgument},
		"too many live": {send: func(a *agent) {
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Lives{Lives: &pb.LiveSeconds{Seconds: make([]*pb.Live, 11)}}})
		}, code: codes.InvalidArgument},
		"foreign roster": {send: func(a *agent) { a.chunk(foreign) }, reject: true},
		"broken body": {send: func(a *agent) {
			a.roster(good.Roster)
			m := a.encode(good)
			m.Body = m.Body[:len(m.Body)/2]
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
		}, reject: true},
		"other digest": {send: func(a *agent) {
			a.roster(good.Roster)
			m := a.encode(good)
			m.Digest = make([]byte, 32)
			a.send(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
		}, reject: true},
		"before 1970": {send: func(a *agent) { a.chunk(makeChunk(id, boot, -base, 10)) }, reject: true},
		"far future":  {send: func(a *agent) { a.chunk(makeChunk(id, boot, base+86400, 10)) }, reject: true},
		"too much energy": {send: func(a *agent) {
			c := makeChunk(id, boot, base, 10)
			for i := range c.Windows {
				c.Windows[i].Energy = 1 << 60
				attribution.Rate(&c.Windows[i])
			}
			a.chunk(c)
		}, reject: true},
	} {
		t.Run(name, func(t *testing.T) {
			st := newMemStore()
			o := quick()
			o.AllowFuture = false
			o.Clock = func() time.Time { return time.Unix(int64(base), 0) }
			r := start(t, st, o)
			a := r.connect(id, boot)
			c.send(a)
			if c.reject {
				a.await("reject", func(m *pb.ToAgent) bool { return m.GetReject() != nil && m.GetReject().Reason != "" })
				if r.s.Stats().Rejected != 1 {
					t.Errorf("counted %+v", r.s.Stats())
				}
				a.hangUp()
			} else {
				if err := <-a.ended; status.Code(err) != c.code {
					t.Errorf("ended with %v", err)
				}
				if r.s.Stats().Invalid != 1 {
					t.Errorf("counted %+v", r.s.Stats())
				}
			}
			r.drain()
			st.wantExactly(t, nil)
		})
	}
}

func TestRostersAreBoundedPerStream(t *testing.T) {
	r := &rosters{most: 3, mostBytes: 1000, pool: &pool{most: 1 << 20}, room: &room{}}
	put := func(i byte, bytes int) {
		_ = r.put(&roster{id: attribution.Fingerprint{i}, size: bytes})
	}
	for i := range byte(5) {
		put(i, 10)
		if r.get(attribution.Fingerprint{0}) == nil {
			t.Fatal("the one in use was dropped")
		}
	}
	if len(r.list) != 3 || r.bytes != 30 || r.get(attribution.Fingerprint{2}) != nil {
		t.Errorf("%d rosters, %d bytes", len(r.list), r.bytes)
	}
	put(9, 995)
	if len(r.list) != 1 || r.bytes != 995 {
		t.Errorf("%d rosters, %d bytes", len(r.list), r.bytes)
	}
}

// A roster is decoded while anything has it, and is what it was when it is decoded
// again. The one that each stream used last stays decoded where there is room.
func TestLaw8RostersThatNothingHasAreNotDecoded(t *testing.T) {
	hot := &room{}
	r := &rosters{most: 64, mostBytes: 1 << 20, pool: &pool{most: 1 << 20}, room: hot}
	other := &rosters{most: 64, mostBytes: 1 << 20, pool: &pool{most: 1 << 20}, room: hot}
	var all []*roster
	for i := range 9 {
		c := makeChunk(nodeID{"c", fmt.Sprint(i)}, attribution.Boot{1}, base, 10)
		x, err := decodeRoster(wire.EncodeRoster(c.Roster))
		if err != nil {
			t.Fatal(err)
		}
		hot.most = decodedRoster * int64(x.size)
		if err := errors.Join(r.put(x), other.put(x)); err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	want := func(when string, decoded ...int) {
		t.Helper()
		runtime.GC()
		for i, x := range all {
			if is := x.decoded.Load().Value() != nil; is != slices.Contains(decoded, i) {
				t.Errorf("%s roster %d is decoded: %v", when, i, is)
			}
		}
	}
	want("after all came,", 8)
	used := all[3].content()
	want("while one is used,", 3, 8)
	if again := all[3].content(); again != used {
		t.Error("there are two of a roster")
	}
	runtime.KeepAlive(used)
	r.get(all[5].id)
	want("when another was used last,", 5)
	for i, x := range all {
		if c := x.content(); r.get(x.id) != x || c.Fingerprint() != x.id || c.Devices[0].Node != fmt.Sprint(i) {
			t.Errorf("roster %d is another: %+v", i, c)
		}
	}
	r.release()
	other.release()
	want("when the streams have ended,")
	if used := hot.used.Load(); used != 0 {
		t.Errorf("%d bytes are taken of the room that nobody has", used)
	}
}

func TestNodesAreBounded(t *testing.T) {
	o := quick()
	o.Limits.Nodes = 2
	r := start(t, newMemStore(), o)
	for i := range 2 {
		a := r.connect(nodeID{"c", fmt.Sprint(i)}, attribution.Boot{})
		a.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil })
	}
	a := r.connect(nodeID{"c", "third"}, attribution.Boot{})
	if err := <-a.ended; status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the third node ended with %v", err)
	}
	r.agents[0].hangUp() // it left nothing behind
	b := r.connect(nodeID{"c", "third"}, attribution.Boot{})
	b.await("welcome", func(m *pb.ToAgent) bool { return m.GetWelcome() != nil })
	r.drain()
}

// A group waits for its minute, but not for ever.
func TestGroupsWaitForTheirMinute(t *testing.T) {
	st := newMemStore()
	var ahead atomic.Int64
	o := quick()
	o.Clock = func() time.Time { return time.Unix(int64(base), ahead.Load()) }
	r := start(t, st, o)
	pass := func(d time.Duration) {
		ahead.Add(int64(d))
		for range 3 { // a job done is a turn begun
			if err := r.s.Do(context.Background(), func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		}
	}
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 7)
	a := r.connect(id, boot)
	for _, c := range all[:5] {
		a.chunk(c)
	}
	accepted := func(n int64) {
		for r.s.Stats().Accepted < n {
			pass(0)
		}
	}
	accepted(5)
	pass(60 * time.Second)
	if commits, _, _ := st.state(); commits != 0 {
		t.Error("committed before the minute was complete")
	}
	a.chunk(all[5])
	a.chunk(all[6])
	accepted(7)
	for n := int64(7); n > 1; n, _ = r.s.Pending() {
		pass(time.Millisecond)
	}
	a.awaitAck(all[5])
	if commits, chunks, _ := st.state(); chunks != 6 || commits != 1 {
		t.Errorf("%d chunks in %d commits: want the minute's 6 in 1", chunks, commits)
	}
	pass(92 * time.Second)
	for n := int64(1); n > 0; n, _ = r.s.Pending() {
		pass(time.Millisecond)
	}
	a.awaitAck(all[6])
	pass(time.Minute)
	if _, _, rolled := st.state(); rolled != all[6].End() {
		t.Errorf("rolled through %d", rolled)
	}
	r.drain()
	st.wantExactly(t, all)
}

func TestHalfClosedStreamGetsItsAcks(t *testing.T) {
	st := newMemStore()
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	a := r.connect(id, boot)
	a.chunk(c)
	close(a.p.in)
	if err := <-a.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	a.wg.Wait()
	if a.acks() != 1 || !st.stored(c.Key) {
		t.Error("it ended before its chunk was durable and acknowledged")
	}
	r.drain()
}

// A commit succeeds and says that it failed.
func TestCommitThatFailedToSayItSucceeded(t *testing.T) {
	st := newMemStore()
	first := true
	st.fault = func(b *store.Batch) error {
		if first {
			first = false
			if err := st.apply(b); err != nil {
				return err
			}
			return errDown
		}
		return nil
	}
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 9)
	a := r.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[8])
	if s := r.s.Stats(); s.Duplicate == 0 || s.CommitFailures != 1 {
		t.Errorf("counted %+v", s)
	}
	r.drain()
	st.wantExactly(t, all)
}

// The store has what the server believes to be new: from this boot, and from
// another.
func TestDuplicatesThatOnlyTheStoreKnows(t *testing.T) {
	st := newMemStore()
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 4)
	once := sync.OnceFunc(func() {
		h := &seconds{}
		h.add(span{all[0].Key.Sequence, all[0].End(), boot})
		h.add(span{all[2].Key.Sequence, all[2].End(), attribution.Boot{9}})
		st.has[id] = h
	})
	st.fault = func(*store.Batch) error {
		once()
		return nil
	}
	r := start(t, st, quick())
	a := r.connect(id, boot)
	for _, c := range all {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[3])
	a.awaitReject(all[2])
	if s := r.s.Stats(); s.Conflict != 1 || s.Duplicate != 1 {
		t.Errorf("counted %+v", s)
	}
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{all[1], all[3]})
}

// A commit that succeeds and says that it failed leaves no gap: a view from
// before it cannot be completed any more, and is told so.
func TestAViewFromBeforeALostCommitIsStale(t *testing.T) {
	st := newMemStore()
	var once sync.Once
	st.fault = func(b *store.Batch) (err error) {
		once.Do(func() {
			if err = st.apply(b); err == nil {
				err = store.ErrUnavailable
			}
		})
		return err
	}
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	a := r.connect(id, boot)
	a.chunk(c)
	a.flush()
	a.awaitAck(c)
	if err := r.s.Since(0, base, base+10, func(store.Pending) {}); !errors.Is(err, ErrStale) {
		t.Errorf("laid over commit 0: %v", err)
	}
	if err := r.s.Since(1, base, base+10, func(x store.Pending) { t.Errorf("%v comes twice", x.Key()) }); err != nil {
		t.Error(err)
	}
	r.drain()
	st.wantExactly(t, []*attribution.Chunk{c})
}

// An error that waiting won't cure ends the writer, and every stream with it.
func TestBrokenStoreEndsTheWriter(t *testing.T) {
	st := newMemStore()
	st.fault = func(*store.Batch) error { return errBoom }
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	a := r.connect(id, boot)
	a.chunk(makeChunk(id, boot, base, 10))
	a.flush()
	if err := <-a.ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	if a.acks() > 0 {
		t.Error("an ack without a commit")
	}
	a.hangUp()
	if err := <-r.ran; !errors.Is(err, errBoom) {
		t.Errorf("the writer ended with %v", err)
	}
	if err := r.s.Do(context.Background(), func(context.Context) error { return nil }); err == nil {
		t.Error("a job was done by nobody")
	}
}

func TestJobsRunBetweenCommitsAndWhileTheStoreFails(t *testing.T) {
	st := newMemStore()
	failing := make(chan struct{}, 1)
	st.fault = func(*store.Batch) error {
		select {
		case failing <- struct{}{}:
		default:
		}
		return errDown
	}
	r := start(t, st, quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	a := r.connect(id, boot)
	a.chunk(makeChunk(id, boot, base, 10))
	a.flush()
	<-failing
	for range 3 {
		if err := r.s.Do(context.Background(), func(context.Context) error { return errBoom }); !errors.Is(err, errBoom) {
			t.Errorf("the job's error is %v", err)
		}
	}
	if err := r.kill(); err != nil {
		t.Error(err)
	}
}

func TestUnpricedDevicesAreShoutedAbout(t *testing.T) {
	r := start(t, newMemStore(), quick())
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	for i := range c.Windows {
		if c.Windows[i].Device == 0 {
			c.Windows[i].Price = attribution.Price{}
			attribution.Rate(&c.Windows[i])
		}
	}
	a := r.connect(id, boot)
	a.chunk(c)
	a.flush()
	a.awaitAck(c)
	if ws := r.s.Warnings(); len(ws) != 1 || !strings.Contains(ws[0], `1 devices of model "H100"`) {
		t.Errorf("warnings %q", ws)
	}
	if n := r.s.Stats().Unpriced; n != 10 {
		t.Errorf("%d unpriced device seconds: want 10", n)
	}
	r.drain()
}
