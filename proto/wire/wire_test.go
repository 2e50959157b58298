package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// genChunk draws any valid chunk: pairs of owner and basis that come, stay and
// go, gaps in time, priced or not, extreme numbers.
func genChunk(t *rapid.T, maxSeconds int) *attribution.Chunk {
	facts := genFacts(t)
	start := attribution.Second(rapid.Int64Range(-8e8, 8e8).Draw(t, "ten") * 10)
	skip := rapid.IntRange(0, 9).Draw(t, "skip")
	seconds := rapid.IntRange(1, min(10-skip, maxSeconds)).Draw(t, "seconds")
	key := attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{3}, Sequence: start + attribution.Second(skip)}
	var windows []attribution.DeviceWindow
	for d := range facts.Devices {
		var ss []attribution.Slice
		for s := range seconds {
			if rapid.IntRange(0, 5).Draw(t, "gap") == 0 {
				continue
			}
			if ss == nil || rapid.IntRange(0, 2).Draw(t, "pairs change") == 0 {
				ss = genPairs(t, facts)
			} else {
				ss = slices.Clone(ss)
			}
			genTimes(t, ss)
			w := attribution.DeviceWindow{
				Device: uint32(d), Method: uint16(rapid.IntRange(0, len(facts.Methods)-1).Draw(t, "method")),
				Second: key.Sequence + attribution.Second(s), Energy: rapid.Int64Range(0, attribution.MaxPerSecond).Draw(t, "energy"), Slices: ss,
			}
			if rapid.Bool().Draw(t, "priced") {
				w.Price.PerHour = money.Amount(rapid.Int64Range(0, int64(attribution.MaxPerHour)).Draw(t, "price"))
				w.Price.Revision = rapid.Uint32Range(1, math.MaxUint32).Draw(t, "revision")
			}
			windows = append(windows, w)
		}
	}
	var tallies []attribution.Tally
	for range rapid.IntRange(0, 8).Draw(t, "tallies") {
		tallies = append(tallies, attribution.Tally{
			Second:  key.Sequence + attribution.Second(rapid.IntRange(0, seconds-1).Draw(t, "tally second")),
			Subject: uint32(rapid.IntRange(0, len(facts.Subjects)-1).Draw(t, "subject")),
			Measure: uint16(rapid.IntRange(0, len(facts.Measures)-1).Draw(t, "measure")),
			Value:   rapid.Int64Range(0, attribution.MaxPerSecond/8).Draw(t, "value"),
		})
	}
	c := attribution.BuildChunk(key, seconds, facts.Facts(), windows, tallies)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}

func genFacts(t *rapid.T) *attribution.Roster {
	labels := func() attribution.Labels {
		return attribution.MakeLabels(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"", "ü"}), 0, 2).Draw(t, "labels"))
	}
	r := &attribution.Roster{
		Owners: []attribution.Owner{{}}, Methods: []string{"sm", "sm/process"},
		Measures: []attribution.Measure{attribution.Success, attribution.TokensInput},
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "devices") {
		d := attribution.Device{
			ID: fmt.Sprintf("GPU-%d", i), Cluster: "c", Node: "n", Model: "H100", CapacityType: "spot", MemoryBytes: 80 << 30, Labels: labels(),
			Sensors: attribution.Sensors(rapid.Uint8Range(0, 3).Draw(t, "sensors")), Remainder: rapid.Bool().Draw(t, "remainder"),
		}
		if rapid.Bool().Draw(t, "mig") {
			d.Parent, d.Profile, d.Share = "GPU-x", "1g.10gb", attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8}
		}
		r.Devices = append(r.Devices, d)
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "owners") {
		r.Owners = append(r.Owners,
			attribution.Owner{
				Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: fmt.Sprintf("p%d", i), PodUID: "u",
				Container: "k", ControllerKind: "Job", Controller: "j", Labels: labels(),
			},
			attribution.Owner{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: uint32(i), Command: "x"})
		r.Subjects = append(r.Subjects, attribution.Subject{Owner: uint32(len(r.Owners) - 2), Model: "m", Tenant: "t", Tier: "gold"})
	}
	return r
}

func genPairs(t *rapid.T, facts *attribution.Roster) []attribution.Slice {
	var all []attribution.Slice
	for o := range facts.Owners {
		for _, b := range attribution.Bases {
			switch k := facts.Owners[o].Kind; {
			case b == attribution.Unobserved,
				k == attribution.Nobody && (b == attribution.Unallocated || b == attribution.Unattributed),
				k == attribution.Container && (b == attribution.Used || b == attribution.Reserved),
				k == attribution.UnknownProcess && b == attribution.Unattributed:
				all = append(all, attribution.Slice{Owner: uint32(o), Basis: b})
			}
		}
	}
	n := rapid.IntRange(1, len(all)).Draw(t, "pairs")
	return slices.Clone(rapid.Permutation(all).Draw(t, "order")[:n])
}

func genTimes(t *rapid.T, ss []attribution.Slice) {
	weights, parts := make([]int64, len(ss)), make([]int64, len(ss))
	for i := range weights {
		weights[i] = rapid.OneOf(rapid.Just(int64(1)), rapid.Int64Range(0, 1e9)).Draw(t, "weight")
	}
	weights[0]++
	apportion.ByWeight(attribution.WindowNanos, weights, parts)
	for i := range ss {
		ss[i].Time = parts[i]
		ss[i].SMActive = rapid.OneOf(rapid.Just(parts[i]), rapid.Just(int64(0)), rapid.Int64Range(0, attribution.WindowNanos)).Draw(t, "sm")
		ss[i].Memory = rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, attribution.MaxPerSecond)).Draw(t, "memory")
	}
}

func TestLaw4AChunkArrivesAsItWasSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChunk(t, 10)
		id := c.Roster.Fingerprint()
		m := must(wire.EncodeChunk(c, id))
		text, err := proto.Marshal(wire.EncodeRoster(c.Roster))
		if err != nil {
			t.Fatal(err)
		}
		var rosterMessage pb.Roster
		if err := proto.Unmarshal(text, &rosterMessage); err != nil {
			t.Fatal(err)
		}
		roster, err := wire.DecodeRoster(&rosterMessage)
		if err != nil {
			t.Fatal(err)
		}
		if roster.Fingerprint() != id {
			t.Fatalf("the roster became %+v, was %+v", roster, c.Roster)
		}
		got, err := wire.DecodeChunk(m, "c", "n", roster)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, c)
		if err := got.Check(); err != nil {
			t.Fatal(err)
		}
		if d := must(wire.Digest(got, id)); !bytes.Equal(d[:], m.GetDigest()) {
			t.Fatalf("digest %x, was %x", d, m.GetDigest())
		}
		kept := must(wire.EncodeKept(c, id))
		if !bytes.Equal(kept.GetDigest(), m.GetDigest()) {
			t.Fatalf("kept under digest %x, sent under %x", kept.GetDigest(), m.GetDigest())
		}
		var mem wire.Arena
		for range 2 { // the second time into memory that was used
			again, err := wire.DecodeChunkIn(&mem, kept, "c", "n", roster)
			if err != nil {
				t.Fatal(err)
			}
			same(t, again, c)
			for i := range again.Windows {
				again.Windows[i].Energy = -1
				for j := range again.Windows[i].Slices {
					again.Windows[i].Slices[j].Cost = -1
				}
			}
			mem.Reset()
		}
	})
}

func TestLaw1RealisticChunksArriveWhole(t *testing.T) {
	for _, s := range shapes {
		c := s.chunk()
		m := must(wire.EncodeChunk(c, c.Roster.Fingerprint()))
		got, err := wire.DecodeChunk(m, c.Key.Cluster, c.Key.Node, c.Roster)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		same(t, got, c)
	}
}

// same compares chunks; no windows are as good nil as empty.
func same(t interface{ Fatalf(string, ...any) }, got, want *attribution.Chunk) {
	g, w := *got, *want
	if len(g.Windows)+len(w.Windows) == 0 {
		g.Windows, w.Windows = nil, nil
	}
	if len(g.Tallies)+len(w.Tallies) == 0 {
		g.Tallies, w.Tallies = nil, nil
	}
	g.Roster, w.Roster = nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("got  %+v\nwant %+v", g, w)
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

// The digest is what chunks are known by: it must never change.
func TestDigestIsStable(t *testing.T) {
	c := shape{devices: 2, owners: 2, seconds: 10, reserved: true, tallies: true, changing: true}.chunk()
	d := must(wire.Digest(c, c.Roster.Fingerprint()))
	const want = "62bab54d39c5f8499b95aebe17d63980159da55f3dcc098e96929f6b0376d259"
	if got := hex.EncodeToString(d[:]); got != want {
		t.Errorf("digest %s, want %s: chunks stored before can no longer be told as the same", got, want)
	}
}

func TestDigestCoversTheKey(t *testing.T) {
	c := shape{devices: 1, owners: 2, seconds: 2, reserved: true}.chunk()
	id := c.Roster.Fingerprint()
	seen := map[string]bool{}
	for _, change := range []func(c *attribution.Chunk, id *attribution.Fingerprint){
		func(*attribution.Chunk, *attribution.Fingerprint) {},
		func(c *attribution.Chunk, _ *attribution.Fingerprint) { c.Key.Cluster += "x" },
		func(c *attribution.Chunk, _ *attribution.Fingerprint) { c.Key.Node += "x" },
		func(c *attribution.Chunk, _ *attribution.Fingerprint) { c.Key.Boot[15]++ },
		func(c *attribution.Chunk, _ *attribution.Fingerprint) { c.Key.Sequence-- },
		func(c *attribution.Chunk, _ *attribution.Fingerprint) { c.Seconds++ },
		func(_ *attribution.Chunk, id *attribution.Fingerprint) { id[0]++ },
		func(c *attribution.Chunk, _ *attribution.Fingerprint) {
			c.Key.Cluster, c.Key.Node = c.Key.Cluster+c.Key.Node[:1], c.Key.Node[1:]
		},
	} {
		d, e := *c, id
		change(&d, &e)
		x := must(wire.Digest(&d, e))
		seen[string(x[:])] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d digests of 8 chunks", len(seen))
	}
}

func TestSmallOnTheWire(t *testing.T) {
	for _, tc := range []struct {
		name string
		shape
		most float64 // bytes per slice, message and all
	}{
		{"8 devices, 4 owners, used and reserved", shape{devices: 8, owners: 4, seconds: 10, reserved: true}, 4},
		{"8 devices, 4 slices", shape{devices: 8, owners: 4, seconds: 10}, 6},
	} {
		c := tc.chunk()
		m := must(wire.EncodeChunk(c, c.Roster.Fingerprint()))
		if got := float64(proto.Size(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})) / float64(slicesOf(c)); got > tc.most {
			t.Errorf("%s: %.2f bytes per slice, want at most %.0f", tc.name, got, tc.most)
		}
	}
}

func pack(b []byte) []byte { return must(zstd.NewWriter(nil)).EncodeAll(b, nil) }

// repack gives a message another body, with a digest that fits.
func repack(m *pb.Chunk, c *attribution.Chunk, columns *pb.Columns) *pb.Chunk {
	plain := must(proto.MarshalOptions{Deterministic: true}.Marshal(columns))
	out := proto.CloneOf(m)
	out.Body = pack(plain)
	d := wire.DigestOfColumns(c.Key, int(m.GetSeconds()), c.Roster.Fingerprint(), plain)
	out.Digest = d[:]
	return out
}

func TestHostileChunksAreRefused(t *testing.T) {
	c := shape{devices: 2, owners: 2, seconds: 5, reserved: true, tallies: true}.chunk()
	good := must(wire.EncodeChunk(c, c.Roster.Fingerprint()))
	type message struct {
		chunk   *pb.Chunk
		columns *pb.Columns
	}
	for _, tc := range []struct {
		name  string
		field string
		spoil func(m *message)
	}{
		{"no boot", "boot", func(m *message) { m.chunk.Boot = nil }},
		{"no seconds", "chunk.seconds", func(m *message) { m.chunk.Seconds = 0 }},
		{"many seconds", "chunk.seconds", func(m *message) { m.chunk.Seconds = math.MaxUint32 }},
		{"no roster", "roster_id", func(m *message) { m.chunk.RosterId = []byte{1} }},
		{"no body", "chunk.body", func(m *message) { m.chunk.Body = nil }},
		{"noise for a body", "chunk.body", func(m *message) { m.chunk.Body = []byte("noise noise noise") }},
		{"half a body", "chunk.body", func(m *message) { m.chunk.Body = m.chunk.Body[:len(m.chunk.Body)/2] }},
		{"a huge body", "chunk.body", func(m *message) { m.chunk.Body = make([]byte, wire.MaxBody+1) }},
		{"a bomb", "chunk.body", func(m *message) { m.chunk.Body = pack(make([]byte, wire.MaxColumns+1)) }},
		{"a chain of frames", "chunk.body", func(m *message) { m.chunk.Body = append(m.chunk.Body, m.chunk.Body...) }},
		{"another digest", "chunk.digest", func(m *message) { m.chunk.Digest[0]++ }},
		{"another boot's digest", "chunk.digest", func(m *message) { m.chunk.Boot[0]++ }},
		{"another sequence's digest", "chunk.digest", func(m *message) { m.chunk.Sequence++ }},

		{"other seconds", "columns.seconds", func(m *message) { m.columns.Seconds-- }},
		{"another first second", "columns.first_second", func(m *message) { m.columns.FirstSecond++ }},
		{"a device too far", "device", func(m *message) { m.columns.DeviceStep[0] = 9 }},
		{"a second too far", "second", func(m *message) {
			m.columns.SecondStep = make([]uint32, len(m.columns.SliceCount))
			m.columns.SecondStep[1] = 9
		}},
		{"a first window without slices", "columns.owner_basis_step", func(m *message) { m.columns.SliceCount[0] = 0 }},
		{"absurdly many slices", "columns.slice_count", func(m *message) { m.columns.SliceCount[0] = math.MaxUint32 }},
		{"more slices in all than allowed", "columns.slice_count", func(m *message) { m.columns.SliceCount[0] = wire.MaxSlices/5 + 1 }},
		{"more windows than allowed", "columns.slice_count", func(m *message) { m.columns.SliceCount = make([]uint32, wire.MaxWindows+1) }},
		{"fewer slices than columns", "columns.", func(m *message) { m.columns.SliceCount[0]-- }},
		{"windows missing", "columns.", func(m *message) { m.columns.SliceCount = m.columns.SliceCount[:3] }},
		{"no such method", "method", func(m *message) { m.columns.MethodDelta = []int64{0, 7, 0, 0, 0, 0, 0, 0, 0, 0} }},
		{"method out of range", "columns.method_delta", func(m *message) { m.columns.MethodDelta = []int64{-1, 0, 0, 0, 0, 0, 0, 0, 0, 0} }},
		{"negative revision", "columns.price_revision_delta", func(m *message) { m.columns.PriceRevisionDelta[0] = math.MinInt64 }},
		{"negative energy", "energy", func(m *message) { m.columns.EnergyUjDelta[0] = math.MinInt64 }},
		{"absurd energy", "energy", func(m *message) { m.columns.EnergyUjDelta[0] = math.MaxInt64 }},
		{"absurd price", "price", func(m *message) { m.columns.PriceNanoPerHourDelta[0] = math.MaxInt64 }},
		{"no basis", "columns.owner_basis_step", func(m *message) { m.columns.OwnerBasisStep[0] = 8 }},
		{"absurd owner", "columns.owner_basis_step", func(m *message) { m.columns.OwnerBasisStep[0] = math.MaxUint32 }},
		{"owner not on the roster", "owner", func(m *message) { m.columns.OwnerBasisStep[0] = 60000 * 8 }},
		{"pair twice", "basis twice", func(m *message) { m.columns.OwnerBasisStep[m.columns.SliceCount[0]-1] = 0 }},
		{"time beyond the second", "columns.time_ns_delta", func(m *message) { m.columns.TimeNsDelta[0] = 1e9 + 1 }},
		{"negative time", "columns.time_ns_delta", func(m *message) { m.columns.TimeNsDelta[0] = -1 }},
		{"overflowing time", "columns.time_ns_delta", func(m *message) { m.columns.TimeNsDelta[5] = math.MaxInt64 }},
		{"activity beyond the second", "SM-active", func(m *message) {
			m.columns.IdleSmNs = make([]int64, slicesOf(c))
			m.columns.IdleSmNs[0] = math.MinInt64
		}},
		{"negative memory", "memory", func(m *message) { m.columns.MemoryByteSecondsDelta[0] = math.MinInt64 }},
		{"one time too many", "columns.time_ns_delta", func(m *message) { m.columns.TimeNsDelta = append(m.columns.TimeNsDelta, 0) }},
		{"one time too few", "columns.time_ns_delta", func(m *message) { m.columns.TimeNsDelta = m.columns.TimeNsDelta[:len(m.columns.TimeNsDelta)-1] }},
		{"a tally without value", "columns.tally_value", func(m *message) { m.columns.TallyValue = m.columns.TallyValue[1:] }},
		{"a tally twice", "tally", func(m *message) { m.columns.TallyKeyStep[1] = 0 }},
		{"a tally of nobody", "tally", func(m *message) { m.columns.TallyKeyStep[0] = math.MaxUint64 }},
		{"a negative tally", "tally", func(m *message) { m.columns.TallyValue[0] = -1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := message{proto.CloneOf(good), proto.CloneOf(wire.EncodeColumns(c))}
			tc.spoil(&m)
			if !proto.Equal(m.columns, wire.EncodeColumns(c)) {
				m.chunk = repack(m.chunk, c, m.columns)
			}
			_, err := wire.DecodeChunk(m.chunk, c.Key.Cluster, c.Key.Node, c.Roster)
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, attribution.ErrBroken) {
				t.Fatalf("got %v", err)
			}
			if !strings.HasPrefix(err.Error(), "law ") || !strings.Contains(err.Error(), tc.field) {
				t.Errorf("want the law and %q in: %v", tc.field, err)
			}
		})
	}
	if _, err := wire.DecodeChunk(good, c.Key.Cluster, "another", c.Roster); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("another node's chunk: %v", err)
	}
	if _, err := wire.DecodeChunk(good, c.Key.Cluster, c.Key.Node, c.Roster); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if _, err := wire.DecodeChunk(nil, "c", "n", c.Roster); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no message: %v", err)
	}
}

// Columns that claim more entries than allowed are refused before they take
// memory.
func TestLaw8ColumnsAreBoundedBeforeTheyAreRead(t *testing.T) {
	c := shape{devices: 1, owners: 1, seconds: 1, reserved: true}.chunk()
	m := must(wire.EncodeChunk(c, c.Roster.Fingerprint()))
	columns := wire.EncodeColumns(c)
	columns.MemoryByteSecondsDelta = make([]int64, 4*wire.MaxSlices)
	_, err := wire.DecodeChunk(repack(m, c, columns), c.Key.Cluster, c.Key.Node, c.Roster)
	var malformed *wire.Malformed
	if !errors.As(err, &malformed) || malformed.Law != 8 {
		t.Errorf("got %v", err)
	}
}

func TestHostileRostersAreRefused(t *testing.T) {
	long := strings.Repeat("x", wire.MaxText+1)
	for name, m := range map[string]*pb.Roster{
		"many devices":       {Devices: make([]*pb.Device, wire.MaxDevices+1)},
		"many owners":        {Owners: make([]*pb.Owner, wire.MaxOwners+1)},
		"many methods":       {Methods: make([]string, wire.MaxMethods+1)},
		"many subjects":      {Subjects: make([]*pb.Subject, wire.MaxSubjects+1)},
		"many measures":      {Measures: make([]string, wire.MaxMeasures+1)},
		"long device ID":     {Devices: []*pb.Device{{Id: long}}},
		"long command":       {Owners: []*pb.Owner{{Command: long}}},
		"long method":        {Methods: []string{long}},
		"long measure":       {Measures: []string{long}},
		"long tenant":        {Owners: []*pb.Owner{{}}, Subjects: []*pb.Subject{{Tenant: long}}},
		"long label":         {Owners: []*pb.Owner{{Labels: []*pb.Label{{Key: "k", Value: long}}}}},
		"many labels":        {Devices: []*pb.Device{{Labels: make([]*pb.Label, wire.MaxLabels+1)}}},
		"owner of no kind":   {Owners: []*pb.Owner{{Kind: 99}}},
		"owner of odd kind":  {Owners: []*pb.Owner{{Kind: 257}}},
		"owner of bad kind":  {Owners: []*pb.Owner{{Kind: -1}}},
		"subject of nobody":  {Subjects: []*pb.Subject{{}}},
		"subject far beyond": {Subjects: []*pb.Subject{{Owner: math.MaxUint32}}},
	} {
		if _, err := wire.DecodeRoster(m); !errors.Is(err, wire.ErrMalformed) || !strings.Contains(err.Error(), "roster.") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := wire.DecodeRoster(nil); err != nil || len(r.Devices) != 0 {
		t.Errorf("nothing: %v, %v", r, err)
	}
}

func TestRateCardsArriveAsTheyWereSent(t *testing.T) {
	want := &rating.Card{
		Revision: 7, Currency: "EUR", Policy: "dominant",
		Prices: []rating.PriceRule{
			{Model: "*", PerDeviceHour: 1},
			{Model: "H100", CapacityType: "spot", NodeLabels: attribution.Labels{{Key: "a", Value: "b"}}, From: 5, To: 9, PerDeviceHour: rating.MaxAmount},
		},
		Overheads: []rating.Overhead{{Name: "power", NodeLabels: attribution.Labels{{Key: "a", Value: ""}}, From: 5, To: 9, PerNodeHour: 3, PerDeviceHour: 4}},
	}
	got, err := wire.DecodeRateCard(wire.EncodeRateCard(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, m := range map[string]*pb.RateCard{
		"nothing":        nil,
		"negative":       {Currency: "EUR", Prices: []*pb.PriceRule{{Model: "*", NanoPerDeviceHour: -1}}},
		"many prices":    {Currency: "EUR", Prices: make([]*pb.PriceRule, rating.MaxPrices+1)},
		"many overheads": {Currency: "EUR", Prices: []*pb.PriceRule{{Model: "*"}}, Overheads: make([]*pb.Overhead, rating.MaxOverheads+1)},
		"no such policy": {Currency: "EUR", Policy: "fair", Prices: []*pb.PriceRule{{Model: "*"}}},
	} {
		if _, err := wire.DecodeRateCard(m); err == nil {
			t.Errorf("%s is fine", name)
		}
	}
	if c, err := wire.DecodeRateCard(&pb.RateCard{Currency: "EUR", Prices: []*pb.PriceRule{{Model: "*"}}}); err != nil || c.Policy != "sm" {
		t.Errorf("default policy: %+v, %v", c, err)
	}
}
