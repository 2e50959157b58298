package chunker_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/chunker"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

const start = attribution.Second(1_700_000_003)

var boot = attribution.Boot{1, 2, 3}

// node is a meter's stand-in: facts under an arbitrary numbering.
type node struct {
	devices  []attribution.Device
	owners   []attribution.Owner
	subjects []attribution.Subject
	shift    uint32 // of all numbers but nobody's
}

func newNode(devices int, shift uint32) *node {
	n := &node{owners: []attribution.Owner{{}}, shift: shift}
	for i := range devices {
		n.devices = append(n.devices, attribution.Device{ID: fmt.Sprintf("GPU-%03d", i), Cluster: "c", Node: "n", Model: "H100"})
		n.owners = append(n.owners, attribution.Owner{
			Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: fmt.Sprintf("pod-%03d", i),
			PodUID: fmt.Sprint(i), Container: "main", Labels: attribution.Labels{{Key: "app", Value: fmt.Sprintf("app-%d", i%7)}},
		})
		n.subjects = append(n.subjects, attribution.Subject{Owner: n.owner(i), Model: "sdxl"})
	}
	return n
}

func (n *node) owner(device int) uint32 { return uint32(device) + 1 + n.shift }

func (n *node) Device(i uint32) *attribution.Device   { return &n.devices[i-n.shift] }
func (n *node) Method(i uint16) string                { return []string{"sm", "sm/device"}[i] }
func (n *node) Subject(i uint32) *attribution.Subject { return &n.subjects[i-n.shift] }
func (n *node) Measure(uint16) attribution.Measure    { return attribution.Success }
func (n *node) Owner(i uint32) *attribution.Owner {
	if i == 0 {
		return &n.owners[0]
	}
	return &n.owners[i-n.shift]
}

// second is one second, in an order that depends on the numbering.
func (n *node) second(s attribution.Second) (ws []attribution.DeviceWindow, ts []attribution.Tally) {
	for i := range n.devices {
		used := (int64(s)*7919 + int64(i)*104729) % attribution.WindowNanos
		ws = append(ws, attribution.DeviceWindow{
			Device: uint32(i) + n.shift, Method: uint16(i & 1), Second: s, Energy: used / 3,
			Slices: []attribution.Slice{
				{Owner: n.owner(i), Basis: attribution.Reserved, Time: attribution.WindowNanos - used},
				{Owner: n.owner(i), Basis: attribution.Used, Time: used, SMActive: used, Memory: 80 << 30},
			},
		})
		if (int64(s)+int64(i))%5 == 0 {
			ts = append(ts, attribution.Tally{Second: s, Subject: uint32(i) + n.shift, Value: int64(attribution.One)})
		}
	}
	if n.shift%2 == 1 {
		slices.Reverse(ws)
	}
	return ws, ts
}

// flat prices every device alike until a second, then at twice that.
type flat struct {
	price   money.Amount
	change  attribution.Second
	without string
	asked   *int
}

func (f flat) Prices(ds []attribution.Device, s attribution.Second, out []attribution.Price) {
	if f.asked != nil {
		*f.asked++
	}
	for i := range ds {
		out[i] = attribution.Price{PerHour: f.price, Revision: 1}
		if s >= f.change {
			out[i].PerHour *= 2
		}
		if ds[i].ID == f.without {
			out[i] = attribution.Price{}
		}
	}
}

func (f flat) NextChange(s attribution.Second) attribution.Second {
	if s < f.change {
		return f.change
	}
	return rating.Never
}

type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func openSpool(t tb, fsys spool.FS, o spool.Options) *spool.Spool {
	t.Helper()
	o.Boot = boot
	sp, err := spool.Open(fsys, "/s", o)
	if err != nil {
		t.Fatal(err)
	}
	return sp
}

func newChunker(t tb, sp *spool.Spool, o chunker.Options) *chunker.Chunker {
	t.Helper()
	o.Cluster, o.Node, o.Spool = "c", "n", sp
	c, err := chunker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.SetPricer(flat{price: 2_500_000_000, change: start + 20})
	return c
}

func seal(t tb, c *chunker.Chunker, n *node, s attribution.Second) {
	t.Helper()
	ws, ts := n.second(s)
	if err := c.Seal(s, ws, ts, n); err != nil {
		t.Fatal(err)
	}
}

// stored reads every chunk, checks it by the laws, and returns the bodies.
func stored(t tb, sp *spool.Spool) (bodies [][]byte, chunks []*attribution.Chunk) {
	t.Helper()
	if err := sp.Sync(); err != nil {
		t.Fatal(err)
	}
	for at := spool.Start; ; {
		c, ok, err := sp.Read(at)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return bodies, chunks
		}
		at = c.Sequence
		b, err := sp.Roster(c.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		var mr pb.Roster
		var m pb.Chunk
		if err := errors.Join(proto.Unmarshal(b, &mr), proto.Unmarshal(c.Body, &m)); err != nil {
			t.Fatal(err)
		}
		roster, err := wire.DecodeRoster(&mr)
		if err != nil {
			t.Fatal(err)
		}
		if roster.Fingerprint() != c.RosterID {
			t.Fatalf("chunk %d: the roster is not the one named", c.Sequence)
		}
		chunk, err := wire.DecodeChunk(&m, "c", "n", roster)
		if err != nil {
			t.Fatal(err)
		}
		bodies, chunks = append(bodies, c.Body), append(chunks, chunk)
	}
}

func TestChunksEndAtTheTen(t *testing.T) {
	sp := openSpool(t, memfs.New(), spool.Options{})
	c := newChunker(t, sp, chunker.Options{})
	n := newNode(3, 5)
	for s := start; s < start+25; s++ {
		seal(t, c, n, s)
	}
	seal(t, c, n, start+30) // after a gap
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	_, chunks := stored(t, sp)
	var got []string
	for _, c := range chunks {
		got = append(got, fmt.Sprintf("%d+%d", c.Key.Sequence-start, c.Seconds))
		if c.Key.Sequence == start+17 { // prices change within it
			first, last := &c.Windows[0], &c.Windows[c.Seconds-1]
			if first.Price.PerHour != 2_500_000_000 || last.Price.PerHour != 5_000_000_000 {
				t.Fatalf("prices %v and %v", first.Price, last.Price)
			}
		}
	}
	if want := []string{"0+7", "7+10", "17+8", "30+1"}; !slices.Equal(got, want) {
		t.Fatalf("chunks %v: want %v", got, want)
	}
	if err := c.Seal(start+30, nil, nil, n); err == nil {
		t.Fatal("sealed a second twice")
	}
	if c.Next() != start+31 || sp.Next() != start+31 {
		t.Fatalf("next %d, in the spool %d", c.Next(), sp.Next())
	}
}

// TestLaw4SameBytesAfterRestart: the same windows give byte-identical chunks,
// however often the agent crashed in between, in whatever numbering and order
// the facts came.
func TestLaw4SameBytesAfterRestart(t *testing.T) {
	const total = 34
	sp := openSpool(t, memfs.New(), spool.Options{})
	c := newChunker(t, sp, chunker.Options{})
	n := newNode(4, 0)
	for s := start; s < start+total; s++ {
		seal(t, c, n, s)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	want, _ := stored(t, sp)

	rapid.Check(t, func(t *rapid.T) {
		fsys := memfs.New()
		sp := openSpool(t, fsys, spool.Options{})
		lives := 0
		journal := chunker.Options{Journal: true}
		c := newChunker(t, sp, journal)
		n := newNode(4, uint32(rapid.IntRange(0, 9).Draw(t, "numbering")))
		for s := start; s < start+total; s++ {
			seal(t, c, n, s)
			if err := sp.Sync(); err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 4).Draw(t, "crash") == 0 {
				lives++
				fsys = fsys.Crash(nil)
				sp = openSpool(t, fsys, spool.Options{})
				c = newChunker(t, sp, journal)
				n = newNode(4, uint32(rapid.IntRange(0, 9).Draw(t, "numbering")))
				if c.Next() != s+1 {
					t.Fatalf("after a crash next is %d, not %d", c.Next(), s+1)
				}
			}
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		got, _ := stored(t, sp)
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("after %d crashes the chunks differ", lives)
		}
	})
}

// TestLaw3FullSpool: what Seal took is kept while the spool is full, what it
// refused is not, and the caller learns where to go on.
func TestLaw3FullSpool(t *testing.T) {
	fsys := memfs.New()
	sp := openSpool(t, fsys, spool.Options{MaxBytes: 64 << 10})
	c := newChunker(t, sp, chunker.Options{Journal: true})
	n := newNode(4, 0)
	s := start
	var err error
	for ; err == nil; s++ {
		if s > start+100_000 {
			t.Fatal("the spool never fills")
		}
		ws, ts := n.second(s)
		err = c.Seal(s, ws, ts, n)
	}
	next := s - 1
	if !errors.Is(err, spool.ErrFull) || c.Next() != next {
		t.Fatalf("refused %d with %v, next is %d", next, err, c.Next())
	}
	if st := c.Stats(); st.Refused != 1 || st.NotJournaled == 0 || st.Seconds != uint64(next-start) {
		t.Fatalf("%+v", st)
	}
	_, before := stored(t, sp)
	sp.Ack(before[len(before)-1].Key.Sequence)
	seal(t, c, n, next)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	_, after := stored(t, sp)
	all := append(before, after...)
	for i, x := range all[1:] {
		if x.Key.Sequence != all[i].End() {
			t.Fatalf("chunk %d does not follow %d", x.Key.Sequence, all[i].End())
		}
	}
	if all[len(all)-1].End() != next+1 {
		t.Fatalf("the last chunk ends at %d, not %d", all[len(all)-1].End(), next+1)
	}
}

func TestLiveIsDurableAndMakesTheChunk(t *testing.T) {
	fsys := memfs.New()
	sp := openSpool(t, fsys, spool.Options{})
	var seconds []*attribution.Chunk
	c := newChunker(t, sp, chunker.Options{Journal: true, Live: func(second *attribution.Chunk, id attribution.Fingerprint) {
		s := second.Key.Sequence
		if next := openSpool(t, fsys.Crash(nil), spool.Options{}).Next(); next != s+1 {
			t.Errorf("second %d went out before it was durable: next is %d", s, next)
		}
		if second.Seconds != 1 || second.Roster.Fingerprint() != id {
			t.Errorf("%d seconds under roster %v, not %v", second.Seconds, second.Roster.Fingerprint(), id)
		}
		if err := second.Check(); err != nil {
			t.Error(err)
		}
		live := *second // the slices are the chunker's
		live.Windows = slices.Clone(second.Windows)
		seconds = append(seconds, &live)
	}})
	n := newNode(3, 2)
	for s := start; s < start+7; s++ {
		seal(t, c, n, s)
	}
	_, chunks := stored(t, sp)
	if len(seconds) != 7 || len(chunks) != 1 {
		t.Fatalf("%d live seconds, %d chunks", len(seconds), len(chunks))
	}
	var windows int
	for _, s := range seconds {
		windows += len(s.Windows)
	}
	if windows != len(chunks[0].Windows) {
		t.Fatalf("%d live windows make a chunk of %d", windows, len(chunks[0].Windows))
	}
}

// Who listens is given every second, priced, also where the spool is full or
// keeps no journal.
func TestSealedIsTold(t *testing.T) {
	for _, journal := range []bool{false, true} {
		sp := openSpool(t, memfs.New(), spool.Options{})
		var seconds []attribution.Second
		c := newChunker(t, sp, chunker.Options{Journal: journal, Sealed: func(second *attribution.Chunk) {
			if err := second.Check(); err != nil || second.Seconds != 1 || !second.Windows[0].Price.Known() {
				t.Errorf("second %d: %d seconds at price %+v: %v", second.Key.Sequence, second.Seconds, second.Windows[0].Price, err)
			}
			seconds = append(seconds, second.Key.Sequence)
		}})
		c.SetPricer(flat{})
		n := newNode(3, 2)
		for s := start; s < start+23; s++ {
			seal(t, c, n, s)
		}
		if len(seconds) != 23 || seconds[0] != start || seconds[22] != start+22 {
			t.Errorf("journal %v: told of %v", journal, seconds)
		}
	}
}

func TestLaw9UnpricedIsTold(t *testing.T) {
	sp := openSpool(t, memfs.New(), spool.Options{})
	var told []string
	c := newChunker(t, sp, chunker.Options{Unpriced: func(d *attribution.Device, s attribution.Second) {
		told = append(told, fmt.Sprintf("%s@%d", d.ID, s-start))
	}})
	n := newNode(2, 0)
	c.SetPricer(nil)
	seal(t, c, n, start)
	asked := 0
	c.SetPricer(flat{price: 1, change: start + 3, without: "GPU-001", asked: &asked})
	for s := start + 1; s < start+6; s++ {
		seal(t, c, n, s)
	}
	if want := []string{"GPU-000@0", "GPU-001@0", "GPU-001@1"}; !slices.Equal(told, want) {
		t.Fatalf("told %v: want %v", told, want)
	}
	if st := c.Stats(); st.UnpricedWindows != 2+5 || st.Windows != 12 || asked != 2 {
		t.Fatalf("%+v, asked %d times", st, asked)
	}
}

// BenchmarkSeal is a replay: 96 devices, chunks of ten seconds, no journal.
func BenchmarkSeal(b *testing.B) {
	for _, devices := range []int{8, 96} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			sp := openSpool(b, memfs.New(), spool.Options{})
			c := newChunker(b, sp, chunker.Options{})
			n := newNode(devices, 0)
			type second struct {
				windows []attribution.DeviceWindow
				tallies []attribution.Tally
			}
			var seconds []second
			for i := range 100 {
				ws, ts := n.second(start + attribution.Second(i))
				seconds = append(seconds, second{ws, ts})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s, x := start+attribution.Second(i), &seconds[i%len(seconds)]
				for j := range x.windows {
					x.windows[j].Second = s
				}
				for j := range x.tallies {
					x.tallies[j].Second = s
				}
				if err := c.Seal(s, x.windows, x.tallies, n); err != nil {
					b.Fatal(err)
				}
				if s%10 == 0 {
					sp.Ack(s - 20)
				}
			}
			b.ReportMetric(float64(b.N*devices)/b.Elapsed().Seconds(), "windows/s")
		})
	}
}
