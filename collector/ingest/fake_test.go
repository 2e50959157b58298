package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// memStore keeps the store's contract in memory, as far as ingestion asks.
type memStore struct {
	store.Store // what ingestion does not ask for is nil

	mu      sync.RWMutex // held for reading by views
	commits uint64
	has     map[nodeID]*seconds
	chunks  map[attribution.ChunkKey]store.Chunk
	rows    map[string]rollup.Sums
	tallies map[string]int64
	moved   []rerating.Transfer
	journal *rerating.Journal
	rolled  attribution.Second
	largest int                         // chunks in one batch
	told    map[rollup.Fingerprint]bool // owners, devices and rosters

	// fault, if set, is asked before every commit.
	fault func(*store.Batch) error
}

func newMemStore() *memStore {
	return &memStore{
		has: make(map[nodeID]*seconds), chunks: make(map[attribution.ChunkKey]store.Chunk),
		rows: make(map[string]rollup.Sums), tallies: make(map[string]int64),
		told: make(map[rollup.Fingerprint]bool),
	}
}

func (m *memStore) KnowsOwner(f rollup.Fingerprint) bool  { return m.knows(f) }
func (m *memStore) KnowsDevice(f rollup.Fingerprint) bool { return m.knows(f) }
func (m *memStore) KnowsRoster(f rollup.Fingerprint) bool { return m.knows(f) }

func (m *memStore) knows(f rollup.Fingerprint) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.told[f]
}

// tell has it know what a batch brings along.
func (m *memStore) tell(b *store.Batch) {
	for f := range b.Owners {
		m.told[f] = true
	}
	for f := range b.Devices {
		m.told[f] = true
	}
	for i := range b.Rosters {
		m.told[b.Rosters[i].ID] = true
	}
}

func (m *memStore) Commit(_ context.Context, b *store.Batch) error {
	if f := m.fault; f != nil {
		if err := f(b); err != nil {
			return err
		}
	}
	return m.apply(b)
}

func (m *memStore) apply(b *store.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b.Number != m.commits+1 {
		return fmt.Errorf("%w: number %d after %d", store.ErrBadBatch, b.Number, m.commits)
	}
	if n := m.journal.Next() - 1; b.Journal != n {
		return fmt.Errorf("%w: %d entries, not %d", store.ErrOutdated, n, b.Journal)
	}
	for _, c := range b.Chunks {
		id := nodeID{c.Key.Cluster, c.Key.Node}
		if h := m.has[id]; h != nil && h.judge(chunkSpan(c)) != fresh {
			return fmt.Errorf("%w: %v", store.ErrDuplicate, c.Key)
		}
	}
	m.tell(b)
	for _, c := range b.Chunks {
		if !m.told[c.RosterID] {
			return fmt.Errorf("%w: a chunk's roster is missing", store.ErrBadBatch)
		}
		id := nodeID{c.Key.Cluster, c.Key.Node}
		if m.has[id] == nil {
			m.has[id] = &seconds{}
		}
		m.has[id].add(chunkSpan(c))
		m.chunks[c.Key] = c
	}
	for _, r := range b.Rows {
		if !m.told[r.Series.Owner] || !m.told[r.Series.Device] {
			return fmt.Errorf("%w: a row's facts are missing", store.ErrBadBatch)
		}
		k := fmt.Sprint(r.Bucket, r.Series)
		s := m.rows[k]
		s.Time, s.SMActive, s.Memory, s.Energy, s.Cost = s.Time+r.Time, s.SMActive+r.SMActive, s.Memory+r.Memory, s.Energy+r.Energy, s.Cost+r.Cost
		m.rows[k] = s
	}
	m.moved = append(m.moved, b.Transfers...)
	for _, r := range b.Tallies {
		m.tallies[fmt.Sprint(r.Bucket, r.Series)] += r.Value
	}
	m.largest = max(m.largest, len(b.Chunks))
	m.commits++
	return nil
}

func chunkSpan(c store.Chunk) span {
	return span{c.Key.Sequence, c.Key.Sequence + attribution.Second(c.Seconds), c.Key.Boot}
}

func (m *memStore) View(_ context.Context, f func(store.Reader) error) error {
	m.mu.RLock()
	r := memReader{m: m, commits: m.commits}
	for id, h := range m.has {
		for _, s := range h.spans {
			r.ranges = append(r.ranges, store.Range{Cluster: id.cluster, Node: id.node, Boot: s.boot, From: s.from, To: s.to})
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(r.ranges, func(a, b store.Range) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Node, b.Node), cmp.Compare(a.From, b.From))
	})
	return f(r)
}

func (m *memStore) Roll(_ context.Context, through attribution.Second) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rolled = through
	return nil
}

func (m *memStore) Retain(context.Context, store.Retention, attribution.Second) error { return nil }

// state is the number of commits and chunks, and how far rows are rolled.
func (m *memStore) state() (commits uint64, chunks int, rolled attribution.Second) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.commits, len(m.chunks), m.rolled
}

func (m *memStore) stored(k attribution.ChunkKey) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, ok := m.chunks[k]
	return ok
}

type memReader struct {
	store.Reader
	m       *memStore
	commits uint64
	ranges  []store.Range
}

func (r memReader) Commits() uint64 { return r.commits }

func (r memReader) Journal(context.Context) (*rerating.Journal, error) { return r.m.journal, nil }

func (r memReader) Ranges(_ context.Context, f func(store.Range) error) error {
	for _, x := range r.ranges {
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// pipe is a stream without a network. Like the real one it holds up the sender
// until the other side takes what was sent.
type pipe struct {
	grpc.ServerStream
	ctx context.Context
	in  chan *pb.FromAgent
	out chan *pb.ToAgent
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*pb.FromAgent, error) {
	select {
	case m, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, status.FromContextError(p.ctx.Err()).Err()
	}
}

func (p *pipe) Send(m *pb.ToAgent) error {
	select {
	case p.out <- m:
		return nil
	case <-p.ctx.Done():
		return status.FromContextError(p.ctx.Err()).Err()
	}
}

// agent is the other end of a pipe. It reads answers until told not to.
type agent struct {
	t     testing.TB
	id    nodeID
	boot  attribution.Boot
	p     *pipe
	drop  context.CancelFunc
	ended chan error // the handler's
	why   error      // what it was, once the server was drained

	mu      sync.Mutex
	got     []*pb.ToAgent
	changed chan struct{}
	onAck   func(attribution.Second)
	wg      sync.WaitGroup
	rosters map[attribution.Fingerprint]bool
	lives   wire.LiveEncoder
}

type rig struct {
	t      testing.TB
	s      *Server
	stop   context.CancelFunc
	ran    chan error
	agents []*agent
}

func quick() Options {
	return Options{
		Version: "test", AllowFuture: true, Log: slog.New(slog.DiscardHandler),
		Timing: Timing{Linger: time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond},
	}
}

func start(t testing.TB, st store.Store, o Options) *rig {
	t.Helper()
	s, err := New(context.Background(), st, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &rig{t: t, s: s, stop: stop, ran: make(chan error, 1)}
	go func() { r.ran <- s.Run(ctx) }()
	return r
}

// kill stops at once, as a crash does: nothing more is committed.
func (r *rig) kill() error {
	r.stop()
	for _, a := range r.agents {
		a.hangUp()
	}
	return <-r.ran
}

// drain stops gracefully.
func (r *rig) drain() {
	r.t.Helper()
	if err := r.s.Drain(context.Background()); err != nil {
		r.t.Errorf("drain: %v", err)
	}
	for _, a := range r.agents {
		a.why = <-a.ended
		a.hangUp()
	}
	r.stop()
	if err := <-r.ran; err != nil {
		r.t.Errorf("run: %v", err)
	}
}

func (r *rig) connect(id nodeID, boot attribution.Boot) *agent {
	a := r.dial(id, boot)
	a.send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: id.cluster, Node: id.node, Boot: boot[:], Version: "a1"}}})
	return a
}

func (r *rig) dial(id nodeID, boot attribution.Boot) *agent {
	ctx, drop := context.WithCancel(context.Background())
	a := &agent{
		t: r.t, id: id, boot: boot, drop: drop, changed: make(chan struct{}), rosters: make(map[attribution.Fingerprint]bool),
		p:     &pipe{ctx: ctx, in: make(chan *pb.FromAgent), out: make(chan *pb.ToAgent)},
		ended: make(chan error, 2),
	}
	a.wg.Add(2)
	go func() {
		defer a.wg.Done()
		err := r.s.Stream(a.p)
		drop() // as gRPC ends the context with the handler
		a.ended <- err
		a.ended <- err
	}()
	go func() {
		defer a.wg.Done()
		for {
			select {
			case m := <-a.p.out:
				a.take(m)
			case <-ctx.Done():
				return
			}
		}
	}()
	r.agents = append(r.agents, a)
	return a
}

func (a *agent) take(m *pb.ToAgent) {
	if ack := m.GetAck(); ack != nil && a.onAck != nil {
		a.onAck(attribution.Second(ack.Sequence))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, m)
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) hangUp() {
	a.drop()
	a.wg.Wait()
}

// send reports whether the message was taken before the stream ended.
func (a *agent) send(m *pb.FromAgent) bool {
	select {
	case a.p.in <- m:
		return true
	case <-a.p.ctx.Done():
		return false
	}
}

func (a *agent) roster(r *attribution.Roster) attribution.Fingerprint {
	id := r.Fingerprint()
	if !a.rosters[id] {
		a.rosters[id] = true
		a.send(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.EncodeRoster(r)}})
	}
	return id
}

func (a *agent) encode(c *attribution.Chunk) *pb.Chunk {
	m, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

func (a *agent) chunk(c *attribution.Chunk) bool {
	a.roster(c.Roster)
	return a.send(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: a.encode(c)}})
}

// live sends seconds, several together.
func (a *agent) live(cs ...*attribution.Chunk) {
	var ms []*pb.Live
	for _, c := range cs {
		m, err := a.lives.Encode(c, c.Roster.Fingerprint())
		if err != nil {
			a.t.Fatal(err)
		}
		r, _ := a.lives.Roster()
		a.roster(r)
		ms = append(ms, m)
	}
	if len(ms) == 1 {
		a.send(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: ms[0]}})
		return
	}
	a.send(&pb.FromAgent{Message: &pb.FromAgent_Lives{Lives: &pb.LiveSeconds{Seconds: ms}}})
}

func (a *agent) closed(c *attribution.Chunk) {
	a.send(&pb.FromAgent{Message: &pb.FromAgent_Closed{Closed: wire.CloseChunk(a.encode(c))}})
}

func (a *agent) flush() { a.send(&pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}}) }

// await waits for an answer that is as wanted, or fails the test when the
// stream ends before.
func (a *agent) await(what string, want func(*pb.ToAgent) bool) *pb.ToAgent {
	a.t.Helper()
	for seen := 0; ; {
		a.mu.Lock()
		got, changed := a.got, a.changed
		a.mu.Unlock()
		for ; seen < len(got); seen++ {
			if want(got[seen]) {
				return got[seen]
			}
		}
		select {
		case <-changed:
		case <-a.p.ctx.Done():
			a.t.Fatalf("the stream ended before %s: %v", what, <-a.ended)
		}
	}
}

func (a *agent) awaitAck(c *attribution.Chunk) {
	a.t.Helper()
	a.await(fmt.Sprintf("ack of %d", c.Key.Sequence), func(m *pb.ToAgent) bool {
		return m.GetAck() != nil && m.GetAck().Sequence >= int64(c.Key.Sequence)
	})
}

func (a *agent) awaitReject(c *attribution.Chunk) string {
	a.t.Helper()
	m := a.await(fmt.Sprintf("reject of %d", c.Key.Sequence), func(m *pb.ToAgent) bool {
		return m.GetReject() != nil && m.GetReject().Sequence == int64(c.Key.Sequence)
	})
	return m.GetReject().Reason
}

func (a *agent) acks() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.got {
		if m.GetAck() != nil {
			n++
		}
	}
	return n
}

var errDown = fmt.Errorf("%w: disk full", store.ErrUnavailable)

// makeChunk makes a chunk of a node: n seconds from `from`, two devices, three
// owners whose shares depend on the second.
func makeChunk(id nodeID, boot attribution.Boot, from attribution.Second, n int) *attribution.Chunk {
	r := &attribution.Roster{Methods: []string{"sm/device"}, Measures: []attribution.Measure{attribution.Success}}
	for d := range 2 {
		r.Devices = append(r.Devices, attribution.Device{
			ID: fmt.Sprintf("GPU-%s-%d", id.node, d), Cluster: id.cluster, Node: id.node, Model: "H100", Sensors: attribution.SensorEnergy,
		})
	}
	r.Owners = append(r.Owners, attribution.Owner{})
	for o := range 2 {
		r.Owners = append(r.Owners, attribution.Owner{
			Kind: attribution.Container, Cluster: id.cluster, Node: id.node, Namespace: "ns", Pod: fmt.Sprintf("pod-%d", o), Container: "c",
		})
	}
	r.Subjects = []attribution.Subject{{Owner: 1, Model: "llama"}}
	var ws []attribution.DeviceWindow
	var ts []attribution.Tally
	for i := range n {
		s := from + attribution.Second(i)
		for d := range 2 {
			used := max(int64(s)*7919+int64(d)*31, 0) % attribution.WindowNanos
			ws = append(ws, attribution.DeviceWindow{
				Device: uint32(d), Second: s, Energy: 300_000_000 + int64(s%7), Price: attribution.Price{PerHour: 5 * money.Unit / 2, Revision: 1},
				Slices: []attribution.Slice{
					{Owner: 1, Basis: attribution.Used, Time: used, SMActive: used, Memory: 1 << 30},
					{Owner: 1, Basis: attribution.Reserved, Time: (attribution.WindowNanos - used) / 2},
					{Owner: 2, Basis: attribution.Reserved, Time: attribution.WindowNanos - used - (attribution.WindowNanos-used)/2},
				},
			})
		}
		ts = append(ts, attribution.Tally{Second: s, Value: int64(s%5) * int64(attribution.One)})
	}
	return attribution.BuildChunk(attribution.ChunkKey{Cluster: id.cluster, Node: id.node, Boot: boot, Sequence: from}, n, r.Facts(), ws, ts)
}

// secondsOf cuts a chunk into its live seconds, each with a roster of its own.
func secondsOf(c *attribution.Chunk) []*attribution.Chunk {
	var out []*attribution.Chunk
	for s := c.Key.Sequence; s < c.End(); s++ {
		var ws []attribution.DeviceWindow
		for _, w := range c.Windows {
			if w.Second == s {
				w.Slices = slices.Clone(w.Slices)
				ws = append(ws, w)
			}
		}
		var ts []attribution.Tally
		for _, t := range c.Tallies {
			if t.Second == s {
				ts = append(ts, t)
			}
		}
		key := c.Key
		key.Sequence = s
		out = append(out, attribution.BuildChunk(key, 1, c.Roster.Facts(), ws, ts))
	}
	return out
}

// wantExactly fails unless the store holds each chunk once, and their sums.
func (m *memStore) wantExactly(t interface {
	Helper()
	Fatalf(string, ...any)
}, chunks []*attribution.Chunk,
) {
	t.Helper()
	want := newMemStore()
	for i, c := range chunks {
		f := rollup.NewFold()
		if err := f.Add(c, rollup.FactsOf(c.Roster)); err != nil {
			t.Fatalf("fold: %v", err)
		}
		b := &store.Batch{Number: uint64(i + 1), Chunks: []store.Chunk{{Key: c.Key, Seconds: c.Seconds}}, Rows: f.Rows(), Tallies: f.Tallies(), Owners: f.Owners(), Devices: f.Devices(), Rosters: []store.Roster{{}}}
		if err := want.Commit(context.Background(), b); err != nil {
			t.Fatalf("expected state: %v", err)
		}
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.chunks) != len(want.chunks) {
		t.Fatalf("the store has %d chunks: want %d", len(m.chunks), len(want.chunks))
	}
	for k, w := range want.rows {
		if m.rows[k] != w {
			t.Fatalf("row %s: %+v, want %+v", k, m.rows[k], w)
		}
	}
	if len(m.rows) != len(want.rows) || len(m.tallies) != len(want.tallies) {
		t.Fatalf("%d rows and %d tallies: want %d and %d", len(m.rows), len(m.tallies), len(want.rows), len(want.tallies))
	}
	for k, w := range want.tallies {
		if m.tallies[k] != w {
			t.Fatalf("tally %s: %d, want %d", k, m.tallies[k], w)
		}
	}
}

// maxSecond is after everything.
const maxSecond = attribution.MaxSecond + 100

var errBoom = errors.New("boom")
