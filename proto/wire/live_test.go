package wire_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// receiver is the other end of a stream.
type receiver struct {
	decoder wire.LiveDecoder
	rosters map[attribution.Fingerprint]*attribution.Roster
}

func newReceiver() *receiver {
	return &receiver{rosters: map[attribution.Fingerprint]*attribution.Roster{}}
}

// take reads a message as it looks after travelling, and its roster.
func (r *receiver) take(m *pb.Live, roster *attribution.Roster) (*attribution.Chunk, error) {
	r.rosters[roster.Fingerprint()] = roster
	var travelled pb.Live
	if err := proto.Unmarshal(must(proto.Marshal(m)), &travelled); err != nil {
		return nil, err
	}
	head, err := r.decoder.Peek(&travelled)
	if err != nil {
		return nil, err
	}
	c, err := r.decoder.Decode(&travelled, "c", "n", attribution.Boot{3}, r.rosters[head.RosterID])
	if err == nil && c.Key.Sequence != head.Second {
		return nil, fmt.Errorf("second %d looked like %d", c.Key.Sequence, head.Second)
	}
	return c, err
}

// secondsOf a chunk, each with the roster of what occurs in it.
func sealed(c *attribution.Chunk) []*attribution.Chunk {
	out := secondsOf(c)
	for i, one := range out {
		windows := slices.Clone(one.Windows)
		for j := range windows {
			windows[j].Slices = slices.Clone(windows[j].Slices)
		}
		out[i] = attribution.BuildChunk(one.Key, 1, c.Roster.Facts(), windows, slices.Clone(one.Tallies))
	}
	return out
}

// sameFacts compares what chunks say under whatever rosters.
func sameFacts(t *rapid.T, got, want *attribution.Chunk) {
	if !reflect.DeepEqual(got.Key, want.Key) {
		t.Fatalf("key %v, want %v", got.Key, want.Key)
	}
	// Join makes rosters canonical.
	g := attribution.Join(got.Key, got.Seconds, []*attribution.Chunk{got})
	if id := want.Roster.Fingerprint(); must(wire.Digest(g, id)) != must(wire.Digest(want, id)) || g.Roster.Fingerprint() != id {
		t.Fatalf("got  %+v\nwant %+v", g, want)
	}
}

// Any seconds arrive as they were sent, and make the chunk that they make
// here. Of those that are lost on the way, and that were told by lost ones,
// the other side knows that it does not have them.
func TestLaw4LiveSecondsArriveAsTheyWereSentOrNotAtAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChunk(t, 10)
		var e wire.LiveEncoder
		r := newReceiver()
		var here, there []*attribution.Chunk
		last, lost := attribution.Second(0), false
		for _, s := range sealed(c) {
			if rapid.IntRange(0, 9).Draw(t, "skipped") == 0 {
				continue // the stream was slow, and never saw it
			}
			if rapid.IntRange(0, 9).Draw(t, "reset") == 0 {
				e.Reset()
			}
			here = append(here, s)
			m := must(e.Encode(s, s.Roster.Fingerprint()))
			roster, id := e.Roster()
			if roster.Fingerprint() != id {
				t.Fatal("the roster has another fingerprint")
			}
			if m.GetBase() != 0 && m.GetBase() != int64(last) {
				t.Fatalf("second %d is told by %d, sent was %d", s.Key.Sequence, m.GetBase(), last)
			}
			last = s.Key.Sequence
			if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
				lost = true
				continue
			}
			got, err := r.take(m, roster)
			switch {
			case errors.Is(err, wire.ErrNoBase) && lost && m.GetBase() != 0:
			case err != nil:
				t.Fatal(err)
			default:
				lost = false
				sameFacts(t, got, s)
				there = append(there, got)
			}
		}
		want := attribution.Join(c.Key, c.Seconds, here)
		got := attribution.Join(c.Key, c.Seconds, there)
		same := must(wire.Digest(want, want.Roster.Fingerprint())) == must(wire.Digest(got, got.Roster.Fingerprint()))
		if same != (len(here) == len(there)) && len(want.Windows)+len(want.Tallies) != len(got.Windows)+len(got.Tallies) {
			t.Fatalf("%d of %d seconds arrived; the same chunk: %v", len(there), len(here), same)
		}
	})
}

// What is decoded shares nothing with the decoder.
func TestLiveSecondsAreTheCallers(t *testing.T) {
	var e wire.LiveEncoder
	r := newReceiver()
	for _, s := range sealed(genExample(shape{devices: 2, owners: 3, seconds: 10, reserved: true, changing: true})) {
		m := must(e.Encode(s, s.Roster.Fingerprint()))
		roster, _ := e.Roster()
		got := must(r.take(m, roster))
		if want := must(wire.Digest(s, attribution.Fingerprint{})); must(wire.Digest(attribution.Join(got.Key, 1, []*attribution.Chunk{got}), attribution.Fingerprint{})) != want {
			t.Fatalf("second %d is another", s.Key.Sequence)
		}
		for _, c := range []*attribution.Chunk{s, got} {
			for i := range c.Windows {
				c.Windows[i].Energy, c.Windows[i].Device = -1, 99
				clear(c.Windows[i].Slices)
			}
		}
	}
}

// Seconds that are looked at when they come, and read in one go when they are
// wanted, are the same.
func TestLiveSecondsMayBeReadLater(t *testing.T) {
	var e wire.LiveEncoder
	var d wire.LiveDecoder
	seconds := sealed(genExample(shape{devices: 2, owners: 3, seconds: 10, reserved: true, tallies: true, changing: true}))
	rosters := make(map[attribution.Fingerprint]*attribution.Roster)
	var ms []*pb.Live
	var heads []wire.LiveHead
	for _, s := range seconds {
		m := must(e.Encode(s, s.Roster.Fingerprint()))
		roster, id := e.Roster()
		rosters[id] = roster
		ms, heads = append(ms, m), append(heads, must(d.Peek(m)))
	}
	for i, m := range ms {
		got := must(d.Decode(m, "c", "n", attribution.Boot{3}, rosters[heads[i].RosterID]))
		want := seconds[i]
		if want.Key.Sequence != heads[i].Second || heads[i].Bytes == 0 {
			t.Errorf("second %d looked like %+v", want.Key.Sequence, heads[i])
		}
		g := attribution.Join(got.Key, 1, []*attribution.Chunk{got})
		if must(wire.Digest(g, attribution.Fingerprint{})) != must(wire.Digest(want, attribution.Fingerprint{})) {
			t.Errorf("second %d is another", want.Key.Sequence)
		}
	}
}

// genExample is a shape on the node that receivers are of.
func genExample(s shape) *attribution.Chunk {
	c := s.chunk()
	c.Key.Cluster, c.Key.Node, c.Key.Boot = "c", "n", attribution.Boot{3}
	for i := range c.Roster.Devices {
		c.Roster.Devices[i].Cluster, c.Roster.Devices[i].Node = "c", "n"
	}
	for i := range c.Roster.Owners {
		if c.Roster.Owners[i].Kind != attribution.Nobody {
			c.Roster.Owners[i].Cluster, c.Roster.Owners[i].Node = "c", "n"
		}
	}
	return c
}

// A steady stream sends its roster once, though owners come and go.
func TestLiveRostersGrowRatherThanChange(t *testing.T) {
	var e wire.LiveEncoder
	ids, own := map[attribution.Fingerprint]bool{}, map[attribution.Fingerprint]bool{}
	for n := range 30 {
		c := genExample(shape{devices: 2, owners: 4, seconds: 10, changing: true, seed: 7})
		c.Key.Sequence += attribution.Second(10 * n)
		for i := range c.Windows {
			c.Windows[i].Second += attribution.Second(10 * n)
			attribution.Rate(&c.Windows[i])
		}
		for i := range c.Tallies {
			c.Tallies[i].Second += attribution.Second(10 * n)
		}
		for _, s := range sealed(c) {
			must(e.Encode(s, s.Roster.Fingerprint()))
			_, id := e.Roster()
			ids[id], own[s.Roster.Fingerprint()] = true, true
		}
	}
	if len(ids) > 4 || len(own) < 5 {
		t.Errorf("%d rosters of %d went out", len(ids), len(own))
	}
}

// What the stream's roster has accumulated is left behind in time.
func TestLaw8LiveRostersStayBounded(t *testing.T) {
	var e wire.LiveEncoder
	r := newReceiver()
	most, rosters := 0, map[attribution.Fingerprint]bool{}
	for n := range 1000 {
		key := attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{3}, Sequence: attribution.Second(1000 + n)}
		facts := &attribution.Roster{
			Devices: []attribution.Device{{ID: "GPU", Cluster: "c", Node: "n"}},
			Owners:  []attribution.Owner{{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: uint32(n)}},
			Methods: []string{"sm"},
		}
		s := attribution.BuildChunk(key, 1, facts.Facts(), []attribution.DeviceWindow{{
			Second: key.Sequence, Slices: []attribution.Slice{{Basis: attribution.Unattributed, Time: attribution.WindowNanos}},
		}}, nil)
		m := must(e.Encode(s, s.Roster.Fingerprint()))
		roster, id := e.Roster()
		most, rosters[id] = max(most, len(roster.Owners)), true
		if _, err := r.take(m, roster); err != nil {
			t.Fatal(err)
		}
	}
	if most > 66 || most < 60 {
		t.Errorf("a roster has %d owners, of seconds that have one", most)
	}
}

func TestLiveSecondsOfAnySizeArrive(t *testing.T) {
	for _, s := range append(slices.Clone(shapes), struct {
		name string
		shape
	}{"16x96", shape{devices: 16, owners: 96, seconds: 3, reserved: true}}) {
		t.Run(s.name, func(t *testing.T) {
			c := genExample(s.shape)
			var e wire.LiveEncoder
			r := newReceiver()
			for _, x := range secondsOf(c) {
				got, err := r.take(must(e.Encode(x, c.Roster.Fingerprint())), c.Roster)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, x)
			}
		})
	}
}

func TestHostileLiveSecondsAreRefused(t *testing.T) {
	c := genExample(shape{devices: 2, owners: 2, seconds: 2, reserved: true})
	id, ss := c.Roster.Fingerprint(), secondsOf(c)
	plain := func(change func(*pb.Columns)) []byte {
		m := wire.EncodeColumns(ss[1])
		change(m)
		return must(proto.Marshal(m))
	}
	told := func(change func(*pb.Columns)) *pb.Live {
		var e wire.LiveEncoder
		must(e.Encode(ss[0], id))
		m := must(e.Encode(ss[1], id))
		var columns pb.Columns
		if err := proto.Unmarshal(m.GetPlain(), &columns); err != nil {
			t.Fatal(err)
		}
		change(&columns)
		m.Plain = must(proto.Marshal(&columns))
		return m
	}
	for name, tc := range map[string]struct {
		field string
		m     *pb.Live
	}{
		"nothing":           {"roster_id", nil},
		"empty":             {"live.seconds", &pb.Live{RosterId: id[:]}},
		"short roster ID":   {"roster_id", &pb.Live{RosterId: id[:3]}},
		"both":              {"live.roster_id", &pb.Live{RosterId: id[:], Base: int64(ss[0].Key.Sequence)}},
		"noise":             {"columns", &pb.Live{RosterId: id[:], Plain: []byte("noise noise")}},
		"packed noise":      {"live.zstd", &pb.Live{RosterId: id[:], Zstd: []byte("noise noise")}},
		"a bomb":            {"live.zstd", &pb.Live{RosterId: id[:], Zstd: pack(make([]byte, wire.MaxColumns+1))}},
		"a huge packed one": {"live.zstd", &pb.Live{RosterId: id[:], Zstd: make([]byte, wire.MaxBody+1)}},
		"a huge one":        {"live.plain", &pb.Live{RosterId: id[:], Plain: make([]byte, wire.MaxColumns+1)}},
		"two seconds":       {"live.seconds", &pb.Live{RosterId: id[:], Plain: plain(func(m *pb.Columns) { m.Seconds = 2 })}},
		"the same second":   {"live.first_second", told(func(m *pb.Columns) { m.FirstSecond = 0 })},
		"an earlier second": {"live.first_second", told(func(m *pb.Columns) { m.FirstSecond = -5 })},
		"an absurd second":  {"live.first_second", told(func(m *pb.Columns) { m.FirstSecond = math.MaxInt64 })},
		"a far second":      {"time", told(func(m *pb.Columns) { m.FirstSecond = int64(attribution.MaxSecond) })},
		"a device too far":  {"device", told(func(m *pb.Columns) { m.DeviceStep = []uint32{0, 7} })},
		"a device twice":    {"device", told(func(m *pb.Columns) { m.DeviceStep = []uint32{0, math.MaxUint32} })},
		"too few steps":     {"columns.device_step", told(func(m *pb.Columns) { m.DeviceStep = []uint32{1} })},
		"more windows":      {"columns.slice_count", told(func(m *pb.Columns) { m.SliceCount = make([]uint32, wire.MaxWindows+1) })},
		"fewer windows":     {"columns.", told(func(m *pb.Columns) { m.SliceCount = make([]uint32, 1) })},
		"windows repeated":  {"columns.slice_count", told(func(m *pb.Columns) { m.SliceCount = append(make([]uint32, 9), wire.MaxSlices/2, 0, 0) })},
		"time over":         {"columns.time_ns_delta", told(func(m *pb.Columns) { m.TimeNsDelta[0] = 1e9 })},
		"time wraps":        {"columns.time_ns_delta", told(func(m *pb.Columns) { m.TimeNsDelta[0] = math.MaxInt64 })},
		"energy wraps":      {"columns", told(func(m *pb.Columns) { m.EnergyUjDelta = []int64{math.MaxInt64, math.MaxInt64} })},
		"revision wraps":    {"columns.price_revision_delta", told(func(m *pb.Columns) { m.PriceRevisionDelta = []int64{math.MaxInt64, 0} })},
		"memory wraps": {"memory", told(func(m *pb.Columns) {
			m.MemoryByteSecondsDelta = append([]int64{math.MaxInt64}, make([]int64, slicesOf(ss[1])-1)...)
		})},
		"a tally of nothing": {"tally", told(func(m *pb.Columns) { m.TallyKeyStep, m.TallyValue = []uint64{0}, []int64{1} })},
	} {
		t.Run(name, func(t *testing.T) {
			var e wire.LiveEncoder
			var d wire.LiveDecoder
			take := func(m *pb.Live) error {
				_, err := d.Peek(m)
				if err == nil {
					_, err = d.Decode(m, "c", "n", c.Key.Boot, c.Roster)
				}
				return err
			}
			if err := take(must(e.Encode(ss[0], id))); err != nil {
				t.Fatal(err)
			}
			err := take(tc.m)
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, attribution.ErrBroken) {
				t.Fatalf("got %v", err)
			}
			if !strings.HasPrefix(err.Error(), "law ") || !strings.Contains(err.Error(), tc.field) {
				t.Errorf("want the law and %q in: %v", tc.field, err)
			}
		})
	}
	var d wire.LiveDecoder
	if _, err := d.Decode(told(func(*pb.Columns) {}), "c", "n", c.Key.Boot, c.Roster); !errors.Is(err, wire.ErrNoBase) {
		t.Errorf("a second told by one that never came: %v", err)
	}
}

func TestRostersTravelPacked(t *testing.T) {
	r := genExample(shape{devices: 8, owners: 8, seconds: 1, tallies: true}).Roster
	b := must(proto.Marshal(wire.EncodeRoster(r)))
	m := wire.PackRoster(b)
	got, err := wire.DecodeRoster(m)
	if err != nil || got.Fingerprint() != r.Fingerprint() {
		t.Fatalf("got %+v, %v", got, err)
	}
	if n := proto.Size(m); n > len(b)/3 {
		t.Errorf("%d bytes became %d", len(b), n)
	}
	many := &pb.Roster{Owners: make([]*pb.Owner, wire.MaxParts+1)}
	labels := &pb.Roster{Owners: []*pb.Owner{{Labels: make([]*pb.Label, wire.MaxParts)}}}
	for name, tc := range map[string]struct {
		law  int
		zstd []byte
	}{
		"noise":        {4, []byte("noise noise noise")},
		"packed noise": {4, wire.PackRoster([]byte("noise noise")).GetZstd()},
		"a bomb":       {8, pack(make([]byte, wire.MaxColumns+1))},
		"too large":    {8, pack(must(proto.Marshal(&pb.Roster{Methods: []string{strings.Repeat("x", wire.MaxRoster)}})))},
		"in itself":    {4, pack(must(proto.Marshal(m)))},
		"many entries": {8, pack(must(proto.Marshal(many)))},
		"many labels":  {8, pack(must(proto.Marshal(labels)))},
	} {
		_, err := wire.DecodeRoster(&pb.Roster{Zstd: tc.zstd})
		var malformed *wire.Malformed
		if !errors.As(err, &malformed) || malformed.Law != tc.law || malformed.Field != "roster.zstd" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLive sends whatever messages the bytes say, one after the other, to one
// decoder. What it yields keeps the laws, and goes on from here to another as
// it is.
func FuzzLive(f *testing.F) {
	c := genExample(shape{devices: 2, owners: 3, seconds: 10, reserved: true, tallies: true, changing: true})
	id := c.Roster.Fingerprint()
	var e wire.LiveEncoder
	var seed strings.Builder
	for _, s := range secondsOf(c) {
		must(protodelim.MarshalTo(&seed, must(e.Encode(s, id))))
	}
	f.Add([]byte(seed.String()))
	f.Add([]byte(seed.String()[40:]))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d, next wire.LiveDecoder
		var e wire.LiveEncoder
		in := strings.NewReader(string(data))
		for {
			var m pb.Live
			if err := (protodelim.UnmarshalOptions{MaxSize: 1 << 20}).UnmarshalFrom(in, &m); err != nil {
				return
			}
			head, err := d.Peek(&m)
			if err != nil {
				continue
			}
			got, err := d.Decode(&m, "c", "n", c.Key.Boot, c.Roster)
			if err != nil {
				continue
			}
			if got.Key.Sequence != head.Second {
				t.Fatalf("second %d looked like %d", got.Key.Sequence, head.Second)
			}
			if err := got.Check(); err != nil {
				t.Fatal(err)
			}
			again, err := next.Decode(must(e.Encode(got, id)), "c", "n", c.Key.Boot, c.Roster)
			if err != nil {
				t.Fatal(fmt.Errorf("%+v: %w", got, err))
			}
			same(t, again, got)
		}
	})
}

// A roster as large as travels, of texts that compress badly, is unpacked too.
func TestALargeRosterIsUnpacked(t *testing.T) {
	r := &attribution.Roster{Methods: []string{"m"}}
	text := make([]byte, wire.MaxText/2)
	for i := range 1800 {
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(text)
		r.Owners = append(r.Owners, attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Pod: hex.EncodeToString(text)})
	}
	packed := wire.PackRoster(must(proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(r))))
	if n := len(packed.GetZstd()); n < wire.MaxBody {
		t.Fatalf("%d bytes: this is about more than %d", n, wire.MaxBody)
	}
	got, err := wire.UnpackRoster(packed.GetZstd())
	if err != nil || got.Fingerprint() != r.Fingerprint() {
		t.Fatal("it is another", err)
	}
}
