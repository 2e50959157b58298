package chunker_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/chunker"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// crowd is a node whose seconds are of any size. Its facts are numbered from
// shift on, but for nobody.
type crowd struct {
	shift  uint32
	owners []attribution.Owner
	first  map[byte]int // of the owners of a kind of second
}

const (
	crowdDevices  = 2
	crowdMeasures = 40
	smallOwners   = 3
)

// The kinds of seconds: small; with tallies so many that two such seconds do
// not fit one chunk, or not even one; with labels so large that the two kinds
// do not fit one chunk, or one kind not by itself; with owners that do not fit
// even without labels.
const kinds = "stTabLO"

func newCrowd(shift uint32) *crowd {
	c := &crowd{shift: shift, owners: []attribution.Owner{{}}, first: map[byte]int{}}
	for _, k := range []byte(kinds) {
		c.first[k] = len(c.owners)
		pod, label := "pod", ""
		switch k {
		case 'a', 'b', 'L':
			label = strings.Repeat("x", 4000)
		case 'O':
			pod = strings.Repeat("y", 4000)
		}
		for i := range crowdOwners(k) {
			o := attribution.Owner{
				Kind: attribution.Container, Cluster: "c", Node: "n", Pod: pod, PodUID: fmt.Sprintf("%c%d", k, i),
				Labels: attribution.Labels{{Key: "app", Value: "app"}},
			}
			if label != "" {
				o.Labels = append(o.Labels, attribution.Label{Key: "x", Value: label}, attribution.Label{Key: "y", Value: label[i%100:]})
			}
			c.owners = append(c.owners, o)
		}
	}
	return c
}

func crowdOwners(kind byte) int {
	switch kind {
	case 'a', 'b':
		return 350
	case 'L':
		return 700
	case 'O':
		return 1200
	}
	return smallOwners
}

func crowdTallies(kind byte) int {
	switch kind {
	case 't':
		return 50_000
	case 'T':
		return 160_000
	case 'O':
		return 0
	}
	return 5
}

func (c *crowd) Device(i uint32) *attribution.Device {
	return &attribution.Device{ID: fmt.Sprintf("GPU-%d", i-c.shift), Cluster: "c", Node: "n", Model: "H100"}
}
func (c *crowd) Method(uint16) string { return "sm" }
func (c *crowd) Owner(i uint32) *attribution.Owner {
	if i == 0 {
		return &c.owners[0]
	}
	return &c.owners[i-c.shift]
}

func (c *crowd) Subject(i uint32) *attribution.Subject {
	return &attribution.Subject{Owner: c.shift + 1 + (i-c.shift)%smallOwners, Model: fmt.Sprintf("m%d", i-c.shift)}
}

func (c *crowd) Measure(i uint16) attribution.Measure {
	return attribution.Measure(fmt.Sprintf("failure/%d", i))
}

// second is a second of a kind.
func (c *crowd) second(s attribution.Second, kind byte) (ws []attribution.DeviceWindow, ts []attribution.Tally) {
	for d := range uint32(crowdDevices) {
		w := attribution.DeviceWindow{Device: c.shift + d, Second: s, Energy: noise(s, d) % 1_000_000}
		left, n := attribution.WindowNanos, crowdOwners(kind)
		for i := range n {
			t := left / int64(n-i)
			if i < n-1 {
				t -= noise(s, uint32(i)) % (t/8 + 1)
			}
			left -= t
			w.Slices = append(w.Slices, attribution.Slice{
				Owner: c.shift + uint32(c.first[kind]+i), Basis: attribution.Used, Time: t, SMActive: t / 2, Memory: 1 << 30,
			})
		}
		ws = append(ws, w)
	}
	for i := range crowdTallies(kind) {
		ts = append(ts, attribution.Tally{
			Second: s, Subject: c.shift + uint32(i/crowdMeasures), Measure: uint16(i % crowdMeasures),
			Value: noise(s, uint32(i)) % attribution.MaxPerSecond,
		})
	}
	return ws, ts
}

// noise does not compress.
func noise(s attribution.Second, i uint32) int64 {
	x := uint64(s)*0x9e3779b97f4a7c15 + uint64(i)*0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return int64((x ^ x>>31) >> 1)
}

// runCrowd seals one second after the other from start on, and crashes after those
// that crash says.
func runCrowd(t tb, pattern string, o chunker.Options, crash func(i int) (shift uint32, yes bool)) (*spool.Spool, chunker.Stats) {
	t.Helper()
	fsys := memfs.New()
	sp := openSpool(t, fsys, spool.Options{})
	c := newChunker(t, sp, o)
	n := newCrowd(0)
	for i := range len(pattern) {
		s := start + attribution.Second(i)
		ws, ts := n.second(s, pattern[i])
		if err := c.Seal(s, ws, ts, n); err != nil {
			t.Fatal(err)
		}
		if shift, yes := crash(i); yes {
			if err := sp.Sync(); err != nil {
				t.Fatal(err)
			}
			fsys = fsys.Crash(nil)
			sp = openSpool(t, fsys, spool.Options{})
			c = newChunker(t, sp, o)
			n = newCrowd(shift)
			if c.Next() != s+1 {
				t.Fatalf("after a crash next is %d, not %d", c.Next(), s+1)
			}
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return sp, c.Stats()
}

func never(int) (uint32, bool) { return 0, false }

// held is the device time of every owner, by what remains of its identity.
func held(sum map[string]int64, w *attribution.DeviceWindow, owner func(uint32) *attribution.Owner) {
	for _, s := range w.Slices {
		uid := owner(s.Owner).PodUID
		if uid == "" || uid[0] == 'O' { // these may become unattributed
			uid = ""
		}
		sum[uid] += s.Time
	}
}

// TestLaw2NoDeviceTimeIsLost: whatever the sizes of the seconds, every window
// is in a chunk that the collector takes, whole, and its time with the owner
// that it was sealed with, unless there are more owners than can be told.
func TestLaw2NoDeviceTimeIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := drawPattern(t)
		sp, st := runCrowd(t, pattern, chunker.Options{Journal: rapid.Bool().Draw(t, "journal")}, never)
		want, got := map[string]int64{}, map[string]int64{}
		wantTallies, gotTallies, unowned := 0, 0, 0
		n := newCrowd(0)
		for i := range len(pattern) {
			ws, ts := n.second(start+attribution.Second(i), pattern[i])
			for i := range ws {
				held(want, &ws[i], n.Owner)
			}
			wantTallies += len(ts)
			if pattern[i] == 'O' {
				unowned += crowdDevices
			}
		}
		windows := 0
		next := start
		_, chunks := stored(t, sp) // checked by the laws: a window's times sum to a second
		for _, c := range chunks {
			if c.Key.Sequence != next {
				t.Fatalf("%s: a chunk begins at %d, not %d", pattern, c.Key.Sequence, next)
			}
			next = c.End()
			windows += len(c.Windows)
			gotTallies += len(c.Tallies)
			for i := range c.Windows {
				held(got, &c.Windows[i], func(o uint32) *attribution.Owner { return &c.Roster.Owners[o] })
			}
		}
		if next != start+attribution.Second(len(pattern)) || windows != len(pattern)*crowdDevices || !equalSums(got, want) {
			t.Fatalf("%s: %d windows up to %d with %v: want %d with %v", pattern, windows, next, got, len(pattern)*crowdDevices, want)
		}
		if gotTallies+int(st.DroppedTallies) != wantTallies {
			t.Fatalf("%s: %d tallies and %d dropped: want %d", pattern, gotTallies, st.DroppedTallies, wantTallies)
		}
		if int(st.UnownedWindows) != unowned || st.LostWindows != 0 || int(st.Chunks) != len(chunks) {
			t.Fatalf("%s: %+v, %d chunks", pattern, st, len(chunks))
		}
	})
}

func equalSums(a, b map[string]int64) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// drawPattern is mostly small: the large ones take their time.
func drawPattern(t *rapid.T) string {
	b := []byte(strings.Repeat("s", rapid.IntRange(2, 12).Draw(t, "seconds")))
	for range rapid.IntRange(0, 2).Draw(t, "large") {
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = kinds[rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")]
	}
	return string(b)
}

// TestLaw4SameCutsAfterCrash: chunks are cut at the same places and hold the
// same, with or without a journal, however often the agent crashes, whatever
// the sizes of the seconds.
func TestLaw4SameCutsAfterCrash(t *testing.T) {
	for _, pattern := range []string{"ttsst", "sTsts", "sabss", "saLbs", "sOs", "sssssstTLOaabbs"} {
		t.Run(pattern, func(t *testing.T) {
			sp, _ := runCrowd(t, pattern, chunker.Options{}, never)
			want, chunks := stored(t, sp)
			if len(chunks) < 3 {
				t.Fatalf("%d chunks: this cuts nothing", len(chunks))
			}
			for every := range 3 { // 0: no crash
				crash := func(i int) (uint32, bool) { return uint32(i * 7), every > 0 && i%every == 0 }
				sp, _ := runCrowd(t, pattern, chunker.Options{Journal: true}, crash)
				if got, _ := stored(t, sp); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Fatalf("with a crash after every %d seconds the chunks differ: %d, not %d", every, len(got), len(want))
				}
			}
		})
	}
}

// TestLaw8WhatDoesNotFit: what goes of a second that is too large is the least
// that has to, is counted, and is told of once.
func TestLaw8WhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		pattern string
		cuts    string // seconds of the chunks
		want    func(chunker.Stats) bool
		told    string
	}{
		{"sss", "3", func(s chunker.Stats) bool { return s.DroppedTallies+s.UnlabeledOwners+s.UnownedWindows == 0 }, ""},
		{"stts", "2 2", func(s chunker.Stats) bool { return s.DroppedTallies == 0 }, ""},
		{"sabs", "1 1 1 1", func(s chunker.Stats) bool { return s.UnlabeledOwners == 0 }, ""},
		{"sTTs", "1 1 1 1", func(s chunker.Stats) bool { return s.DroppedTallies == 320_000 && s.UnlabeledOwners == 0 }, "SERVED"},
		{"sLLs", "1 1 1 1", func(s chunker.Stats) bool {
			return s.UnlabeledOwners > 0 && s.UnlabeledOwners < 2*400 && s.UnownedWindows == 0
		}, "WITHOUT LABELS"},
		{"sOOs", "1 1 1 1", func(s chunker.Stats) bool { return s.UnownedWindows == 2*crowdDevices && s.DroppedTallies == 0 }, "UNATTRIBUTED"},
	} {
		t.Run(c.pattern, func(t *testing.T) {
			var log bytes.Buffer
			sp, st := runCrowd(t, c.pattern, chunker.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, never)
			var cuts []string
			_, chunks := stored(t, sp)
			for _, x := range chunks {
				cuts = append(cuts, fmt.Sprint(x.Seconds))
			}
			if got := strings.Join(cuts, " "); got != c.cuts || !c.want(st) || st.LostWindows != 0 {
				t.Fatalf("chunks of %s seconds, want %s; %+v", got, c.cuts, st)
			}
			if n := strings.Count(log.String(), c.told); c.told != "" && n != 1 {
				t.Fatalf("told %d times: %s", n, &log)
			}
			if c.told == "" && log.Len() > 0 {
				t.Fatalf("told of nothing: %s", &log)
			}
		})
	}
}

// TestLaw8LabelsOfTheLargestGo: an owner whose labels no roster takes loses
// them, its neighbours do not.
func TestLaw8LabelsOfTheLargestGo(t *testing.T) {
	sp := openSpool(t, memfs.New(), spool.Options{})
	c := newChunker(t, sp, chunker.Options{})
	n := newNode(3, 0)
	n.owners[2].Labels = attribution.Labels{{Key: "app", Value: strings.Repeat("x", wire.MaxText+1)}}
	seal(t, c, n, start)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	_, chunks := stored(t, sp)
	var labels []int
	for _, o := range chunks[0].Roster.Owners {
		labels = append(labels, len(o.Labels))
	}
	if st := c.Stats(); !slices.Equal(labels, []int{1, 0, 1}) || st.UnlabeledOwners != 1 {
		t.Fatalf("labels %v: want those of the second owner gone; %+v", labels, st)
	}
}

// TestLaw8DevicesBeyondTheFormat: only what the format has no place for at all
// is lost, and counted.
func TestLaw8DevicesBeyondTheFormat(t *testing.T) {
	sp := openSpool(t, memfs.New(), spool.Options{})
	c := newChunker(t, sp, chunker.Options{})
	seal(t, c, newNode(wire.MaxDevices+1, 0), start)
	seal(t, c, newNode(2, 0), start+1)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	_, chunks := stored(t, sp)
	if st := c.Stats(); st.LostWindows != wire.MaxDevices+1 || len(chunks) != 1 || chunks[0].Key.Sequence != start+1 {
		t.Fatalf("%+v, %d chunks", st, len(chunks))
	}
}

// TestLaw8WeightIsABound: what weighs little enough travels for sure.
func TestLaw8WeightIsABound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wild := func(limit int64) int64 {
			return rapid.OneOf(rapid.Just(int64(0)), rapid.Just(limit), rapid.Int64Range(0, limit)).Draw(t, "value")
		}
		devices := rapid.IntRange(1, 40).Draw(t, "devices")
		n := newNode(devices, 0)
		seconds := rapid.IntRange(1, 10).Draw(t, "seconds")
		first := attribution.Second(1_700_000_000)
		var windows []attribution.DeviceWindow
		var tallies []attribution.Tally
		weight := 0
		for s := first; s < first+attribution.Second(seconds); s++ {
			ws, ts := n.second(s)
			for i := range ws {
				w := &ws[i]
				used := wild(attribution.WindowNanos)
				w.Energy = wild(attribution.MaxPerSecond)
				w.Price = attribution.Price{PerHour: attribution.MaxPerHour, Revision: uint32(wild(1<<32-2)) + 1}
				w.Slices[0].Time, w.Slices[1].Time = attribution.WindowNanos-used, used
				w.Slices[0].SMActive, w.Slices[1].SMActive = wild(attribution.WindowNanos-used), wild(used)
				w.Slices[0].Memory, w.Slices[1].Memory = wild(attribution.MaxPerSecond), wild(attribution.MaxPerSecond)
			}
			for i := range ts {
				ts[i].Value = wild(attribution.MaxPerSecond)
			}
			weight += chunker.Weigh(ws, ts)
			windows, tallies = append(windows, ws...), append(tallies, ts...)
		}
		key := attribution.ChunkKey{Cluster: "c", Node: "n", Boot: boot, Sequence: first}
		m := wire.EncodeColumns(attribution.BuildChunk(key, seconds, n, windows, tallies))
		const heads = 128 // of the columns
		if size := proto.Size(m); size > weight+heads {
			t.Fatalf("%d bytes weigh %d", size, weight)
		}
		if chunker.MaxWeight >= wire.MaxBody {
			t.Fatal("the bound is beyond what travels")
		}
	})
}
