package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNodesOfTheCollectorsOwn(t *testing.T) {
	if join.NodePrefix != ingest.OwnPrefix {
		t.Errorf("%q and %q", join.NodePrefix, ingest.OwnPrefix)
	}
}

// Whatever happens to the collector and its store, the ledger has what the
// gateway counted, once.
func TestLaw4GatewayExactlyOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		r := newRig(rt, dir)
		total := make(map[sum]int64)
		r.g.round(rt.Context()) // the baseline of a process that began with us
		measures := []attribution.Measure{attribution.Success, attribution.TokensInput, attribution.TokensOutput, attribution.Aborted}
		acts := map[string]func(*rapid.T){
			"serve": func(t *rapid.T) {
				s := served(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "tenant"), rapid.SampledFrom(measures).Draw(t, "measure"))
				v := rapid.Int64Range(0, 5_000_000).Draw(t, "count")
				if rapid.IntRange(0, 30).Draw(t, "huge") == 0 {
					v = 3 * attribution.MaxPerSecond
				}
				p := r.behind[rapid.IntRange(0, len(r.behind)-1).Draw(t, "process")]
				p.counts[s] += v
				total[s] += v
			},
			"round": func(*rapid.T) { r.round() },
			"other replica answers": func(t *rapid.T) {
				r.pick = rapid.IntRange(0, len(r.behind)-1).Draw(t, "process")
			},
			"replica added": func(*rapid.T) {
				if len(r.behind) < 4 {
					r.now = r.now.Add(3 * time.Second)
					r.behind = append(r.behind, r.begin())
				}
			},
			"gateway restarts": func(*rapid.T) {
				r.away, r.ledger.down = false, false
				r.round() // what it served after its last page would be lost with it
				r.now = r.now.Add(2500 * time.Millisecond)
				r.behind[r.pick] = r.begin()
			},
			"away":   func(t *rapid.T) { r.away = rapid.Bool().Draw(t, "away") },
			"commit": func(t *rapid.T) { r.ledger.commit(rapid.IntRange(0, 9).Draw(t, "chunks")) },
			"store":  func(t *rapid.T) { r.ledger.down = rapid.Bool().Draw(t, "down") },
			"crash":  func(t *rapid.T) { r.crash(time.Duration(rapid.IntRange(0, 900).Draw(t, "away")) * time.Second) },
			"time goes": func(t *rapid.T) {
				next := r.now.Add(time.Duration(rapid.IntRange(-20, 900).Draw(t, "s")) * time.Second)
				if next.Unix() > r.starts[0]/1e9+10 { // what begins before us, by the clock, is a baseline
					r.now = next
				}
			},
			"the clock is set": func(t *rapid.T) {
				next := r.now.Add(time.Duration(rapid.SampledFrom([]int{-180, -70, -30, 30, 70, 180}).Draw(t, "minutes")) * time.Minute)
				if next.Unix() > r.starts[0]/1e9+10 {
					r.now = next
				}
			},
		}
		rt.Repeat(acts)
		r.away, r.ledger.down = false, false
		for i := range r.behind { // the last pages of all, with room for what is owed
			r.pick = i
			for range 8 {
				r.round()
			}
		}
		for len(r.g.book.owed) > 0 {
			r.ledger.commit(len(r.ledger.open))
			r.now = r.now.Add(10 * time.Minute)
			r.round()
		}
		r.ledger.commit(len(r.ledger.open))
		got := r.ledger.sums()
		for s, v := range total {
			if got[s] != v {
				rt.Fatalf("%+v: the ledger has %d, the gateway served %d", s, got[s], v)
			}
			delete(got, s)
		}
		if len(got) > 0 {
			rt.Fatalf("the ledger has more: %v", got)
		}
	})
}

func TestSecondsRunOn(t *testing.T) {
	r := newRig(t, t.TempDir())
	for range 20 {
		r.round()
	}
	r.away = true
	for range 4 {
		r.round()
	}
	r.away = false
	r.round()
	runs := func() (n int, last attribution.Second) {
		cs := slices.Concat(r.ledger.durable, r.ledger.open)
		for _, c := range cs {
			if c.Key.Sequence != last {
				n++
			}
			last = c.End()
		}
		return n, last
	}
	n, last := runs()
	if now := attribution.Second(r.now.Unix()); n != 1 || last != now+1 {
		t.Errorf("%d runs of seconds, the last until %d: want one until %d", n, last, now+1)
	}
	r.away = true
	for range 20 {
		r.round()
	}
	r.away = false
	r.round()
	if n, _ := runs(); n != 2 {
		t.Errorf("%d runs of seconds after minutes away: want 2", n)
	}
}

func TestStateFile(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	serve := func(r *rig, n int64) { r.behind[0].counts[tokens] += n }
	for name, c := range map[string]struct {
		between func(*rig)
		want    int64
	}{
		"kept": {func(*rig) {}, 111},
		"lost": {func(r *rig) { _ = os.Remove(r.g.file) }, 101},
		"damaged": {func(r *rig) {
			text, _ := os.ReadFile(r.g.file)
			_ = os.WriteFile(r.g.file, text[:len(text)/2], 0o600)
		}, 101},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.round()
			serve(r, 1)
			r.round()
			r.ledger.commit(99)
			serve(r, 10)
			before := r.g.book.boot
			c.between(r)
			r.crash(time.Hour)
			r.round()
			serve(r, 100)
			r.round()
			r.ledger.commit(99)
			r.want(tokens, c.want)
			if (r.g.book.boot == before) != (name == "kept") {
				t.Errorf("boot %x, then %x", before, r.g.book.boot)
			}
			if _, err := os.Stat(r.g.file + ".corrupt"); (err == nil) != (name == "damaged") {
				t.Errorf("set aside: %v", err)
			}
		})
	}
}

// An older copy of the state file would count again what the ledger has.
func TestLaw3OlderStateIsNotUsed(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	old, err := os.ReadFile(r.g.file)
	if err != nil {
		t.Fatal(err)
	}
	r.behind[0].counts[tokens] += 7
	r.round()
	r.ledger.commit(99)
	if err := os.WriteFile(r.g.file, old, 0o600); err != nil {
		t.Fatal(err)
	}
	r.crash(time.Minute)
	r.round()
	r.round()
	r.ledger.commit(99)
	r.want(tokens, 7)
}

// While nothing becomes durable the gateway is left alone, and what is kept is
// bounded; afterwards all of it is there.
func TestLaw8StoreDown(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	r.ledger.down = true
	for range 2 * mostUnstored {
		r.behind[0].counts[tokens]++
		r.round()
	}
	if n := len(r.g.book.unstored); n > mostUnstored+20 {
		t.Errorf("%d chunks are kept", n)
	}
	s := r.g.status
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "nothing durable") || !strings.Contains(s.Warnings[0], errDown.Error()) {
		t.Errorf("warnings: %q", s.Warnings)
	}
	r.ledger.down = false
	r.round()
	r.ledger.commit(1 << 20)
	r.round()
	r.ledger.commit(1 << 20)
	r.want(tokens, 2*mostUnstored)
}

// A clock that was a year ahead, and then is put right, holds up nothing: not
// with a record from then, and not with chunks that were never given.
func TestLaw8ClockPutBack(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	right := r.now
	for n, durable := range []int{99, 0} {
		before := r.ledger.sums()[tokens]
		r.now = r.now.Add(365 * 24 * time.Hour)
		r.behind[0].counts[tokens] += 5
		r.round()
		r.ledger.commit(durable)
		right = right.Add(time.Hour)
		r.now = right
		if n == 1 {
			r.crash(0)
		}
		r.behind[0].counts[tokens] += 7
		r.round()
		r.ledger.commit(99)
		r.want(tokens, before+12)
		s := r.g.status
		if len(s.Warnings) > 0 || s.Error != "" {
			t.Errorf("%+v", s)
		}
		last := r.ledger.durable[len(r.ledger.durable)-1]
		if now := attribution.Second(r.now.Unix()); last.End() != now+1 {
			t.Errorf("the last chunk ends at %d; it is %d", last.End(), now)
		}
	}
	// It goes on from there, and its state file is no older than the ledger.
	r.crash(time.Second)
	r.behind[0].counts[tokens] += 2
	r.round()
	r.ledger.commit(99)
	r.want(tokens, 26)
}

// Seconds that somebody else wrote are left to him; what was counted comes in
// others, of another life.
func TestConflict(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	now := attribution.Second(r.now.Unix())
	alien := r.g.book.chunk(now+1, now.ChunkStart()+attribution.ChunkSeconds, nil)
	alien.Key.Boot = attribution.Boot{9}
	r.ledger.durable = append(r.ledger.durable, r.ledger.open...)
	r.ledger.open = []*attribution.Chunk{alien}
	r.behind[0].counts[tokens] = 5
	boot := r.g.book.boot
	for range 5 {
		r.round()
	}
	r.ledger.commit(99)
	r.want(tokens, 5)
	if r.g.book.boot == boot || r.g.status.Rejected == 0 {
		t.Errorf("boot %x, status %+v", r.g.book.boot, r.g.status)
	}
}

func TestLaw2OverflowIsCountedUnderOther(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.o.MaxTenants = 3
	r.open()
	r.round()
	for i := range 10 {
		r.behind[0].counts[served(fmt.Sprintf("t%d", i), attribution.Success)] = int64(i+1) * int64(attribution.One)
	}
	r.behind[0].counts[served("t0", "latency/4")] = 3
	for i := range 2 * mostMeasures {
		r.behind[0].counts[served("t0", attribution.FailurePrefix+attribution.Measure(fmt.Sprintf("r%03d", i)))] = 1
	}
	r.round()
	r.ledger.commit(99)
	r.want(served("t2", attribution.Success), 3*int64(attribution.One))
	r.want(served(Other, attribution.Success), (4+5+6+7+8+9+10)*int64(attribution.One))
	r.want(served("t0", attribution.FailurePrefix+Other), mostMeasures)
	r.want(served("t0", "latency/4"), 0)
	s := r.g.status
	if s.Tenants != 3 || s.Folded != 7+mostMeasures || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "max_tenants") {
		t.Errorf("%+v", s)
	}
	c := r.ledger.durable[len(r.ledger.durable)-1]
	if o := c.Roster.Owners[0]; o.Node != "gateway/g" || o.Cluster != "default" || o.Controller != "http://llama.prod" || len(o.Labels) != 1 {
		t.Errorf("owner %+v", o)
	}
}

// More than fits into one second goes into the next ones.
func TestManySums(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.o.MaxTenants = 6000
	r.open()
	r.round()
	want := int64(0)
	for i := range r.o.MaxTenants {
		name := fmt.Sprintf("%s%d", strings.Repeat("x", 200), i)
		for _, m := range []attribution.Measure{attribution.Success, attribution.TokensInput} {
			r.behind[0].counts[served(name, m)] = 1
			want++
		}
	}
	for range 15 {
		r.round()
		for _, e := range r.g.book.unstored {
			if _, err := encodeChunk(e.chunk); err != nil {
				t.Error(err)
			}
		}
		r.ledger.commit(99)
	}
	got := int64(0)
	for _, v := range r.ledger.sums() {
		got += v
	}
	if got != want || len(r.g.book.owed) > 0 {
		t.Errorf("%d of %d are there, %d owed", got, want, len(r.g.book.owed))
	}
	if s := r.g.status; s.Rejected > 0 || len(s.Warnings) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestReplicasBehindOneAddress(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	r.behind = append(r.behind, r.begin())
	for i := range 10 {
		r.pick = i % 2
		r.behind[0].counts[tokens] += 3
		r.behind[1].counts[tokens] += 10
		r.round()
	}
	r.pick = 0
	r.round()
	r.ledger.commit(999)
	r.want(tokens, 130)
	if s := r.g.status; len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "resolve: all") || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

// A gateway that is said to be in another cluster goes on under its new node.
func TestClusterChanges(t *testing.T) {
	tokens := served("a", attribution.TokensInput)
	r := newRig(t, t.TempDir())
	r.round()
	r.behind[0].counts[tokens] += 7
	r.round()
	open := r.ledger.open
	r.o.Cluster = "east"
	r.behind[0].counts[tokens] += 100
	r.crash(time.Minute)
	r.round()
	if len(r.ledger.open) <= len(open) {
		t.Fatalf("%d chunks", len(r.ledger.open))
	}
	r.ledger.commit(99)
	r.round()
	r.want(tokens, 107)
	if n := len(r.g.book.unstored); n > 3 || r.ledger.StoredThrough("east", "gateway/g") == 0 || r.ledger.StoredThrough("default", "gateway/g") == 0 {
		t.Errorf("%d chunks are kept; stored through %+v", n, r.g.status)
	}
}

func TestOpenManyAndStop(t *testing.T) {
	r := newRig(t, t.TempDir())
	d := r.deps()
	d.Dir = filepath.Join(r.dir, "more", "gateways")
	d.Resolve = func(context.Context, string) ([]string, error) { return nil, errDown }
	gs, err := Open([]Options{{Name: "a", URLs: []string{"http://a"}, ResolveAll: true}, {Name: "b", URLs: []string{"http://b"}, ResolveAll: true}}, d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- gs.Run(ctx) }()
	for gs.Status()[0].Error == "" || gs.Status()[1].Error == "" {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := gs.Status()[1]; s.Name != "b" || !strings.Contains(s.Warnings[0], errDown.Error()) {
		t.Errorf("%+v", s)
	}
}
