package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// play runs a script to its end and returns what the ledger then has.
func play(t *testing.T, s *tape) (*ledger, Summary) {
	t.Helper()
	l := newLedger(t)
	k := dial(t, l)
	defer k.close()
	a := newRig(s, memfs.New(), k).agent(t)
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.check()
	return l, a.Summary()
}

func TestPlayerSealsEverySecondOnce(t *testing.T) {
	const seconds = 95
	l, sum := play(t, record(1, 3, seconds, 1_700_000_003))
	for n := range 3 {
		got := l.seconds(fmt.Sprintf("n%d", n))
		for s := attribution.Second(1_700_000_003); s < 1_700_000_003+seconds; s++ {
			if windows := strings.Count(got[s], "GPU-"); windows != 2 {
				t.Fatalf("n%d second %d has %d windows:\n%s", n, s, windows, got[s])
			}
		}
		if len(got) != seconds {
			t.Fatalf("n%d has %d seconds", n, len(got))
		}
	}
	if sum.Windows != 3*2*seconds || sum.UnpricedWindows != 0 || sum.Nodes != 3 || sum.Chunks != 3*10 {
		t.Fatalf("summary %+v", sum)
	}
	if l.flushes == 0 {
		t.Fatal("the collector was never asked to flush")
	}
}

// Kill -9 at any operation of the disk, with any part of what was not synced
// lost, any number of times: the union of chunks is that of the run that was
// left alone, and no chunk ever comes back as another.
func TestLaw3KilledPlayerGoesOnWithTheSameChunks(t *testing.T) {
	script := record(7, 3, 200, 1_700_000_000)
	want, _ := play(t, script.again())
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			l, disk := newLedger(t), memfs.New()
			for life := 0; ; life++ {
				var died bool
				if disk, died = live(t, l, disk, script.again(), int64(20+r.IntN(150)), r); !died {
					break
				}
				if life == 100 {
					t.Fatal("it never comes to the end")
				}
			}
			l.check()
			for n := range 3 {
				node := fmt.Sprintf("n%d", n)
				if got := l.seconds(node); !maps.Equal(got, want.seconds(node)) {
					t.Fatalf("%s differs from the run that was left alone: %s", node, difference(got, want.seconds(node)))
				}
			}
			if !maps.EqualFunc(l.digests, want.digests, func(a, b []byte) bool { return string(a) == string(b) }) {
				t.Fatal("the chunks differ")
			}
		})
	}
}

// live is one life of an agent: after so many operations of its disk, disk and
// network are gone at once.
func live(t *testing.T, l *ledger, disk *memfs.FS, s sampler.Script, ops int64, r *rand.Rand) (left *memfs.FS, died bool) {
	t.Helper()
	k := dial(t, l)
	defer k.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var dead atomic.Bool
	disk.SetHook(func(memfs.Op, string) error {
		if ops--; ops > 0 {
			return nil
		}
		dead.Store(true)
		k.cut.Store(true)
		go k.server.Stop()
		cancel()
		return errCut
	})
	rig := newRig(s, disk, k)
	rig.cfg.Limits.DrainTimeout = Duration{time.Millisecond}
	err := rig.agent(t).Run(ctx)
	if !dead.Load() && err != nil {
		t.Fatalf("an agent that was left alone: %v", err)
	}
	disk.SetHook(nil)
	return disk.Crash(r), dead.Load()
}

func difference(got, want map[attribution.Second]string) string {
	for s, w := range want {
		if got[s] != w {
			return fmt.Sprintf("second %d is\n%swant\n%s", s, got[s], w)
		}
	}
	for s, g := range got {
		if _, ok := want[s]; !ok {
			return fmt.Sprintf("second %d is too many: %s", s, g)
		}
	}
	return "not at all"
}

// In real time a window is sealed one second after its end, not before, and
// goes out live; the seconds are those of the same script as fast as possible.
func TestPlayerInRealTime(t *testing.T) {
	for _, speed := range []float64{1, 4} {
		t.Run(fmt.Sprint(speed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now().Unix() + 2
				script := record(3, 2, 60, start)
				want, _ := play(t, script.again())
				l := newLedger(t)
				k := dial(t, l)
				defer k.close()
				rig := newRig(script.again(), memfs.New(), k)
				rig.source.Speed = speed
				a := rig.agent(t)
				done := make(chan error, 1)
				began := time.Now()
				go func() { done <- a.Run(t.Context()) }()
				for i := range 10 {
					<-time.After(time.Duration(5e9 / speed))
					synctest.Wait()
					passed := int64(float64(time.Since(began)) * speed)
					want := uint64(max(passed/sec-1, 0)) * 2 * 2
					if got := a.Summary().Windows; got > want || got+2*2 < want {
						t.Fatalf("look %d: %d windows are sealed after %d virtual seconds, want %d", i, got, passed/sec, want)
					}
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if virtual := time.Duration(61e9 / speed); took < virtual || took > virtual+3*time.Second {
					t.Fatalf("60 s at speed %v took %v", speed, took)
				}
				l.check()
				if speed == 1 && l.live < 50 {
					t.Fatalf("only %d seconds went out live", l.live)
				}
				for _, node := range []string{"n0", "n1"} {
					if got := l.seconds(node); !maps.Equal(got, want.seconds(node)) {
						t.Fatal(difference(got, want.seconds(node)))
					}
				}
			})
		})
	}
}

// As fast as possible means that prices are waited for, however long.
func TestPlayerWaitsForTheRateCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		k := dial(t, l)
		defer k.close()
		k.cut.Store(true)
		var log strings.Builder
		rig := newRig(record(4, 1, 30, 1_700_000_000), memfs.New(), k)
		rig.deps.Log = (&LogConfig{Level: "info", Format: "text"}).Logger(&log)
		a := rig.agent(t)
		done := make(chan error, 1)
		go func() { done <- a.Run(t.Context()) }()
		<-time.After(time.Hour)
		synctest.Wait()
		if n := a.Summary().Windows; n != 0 {
			t.Fatalf("%d windows without a price", n)
		}
		k.cut.Store(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "waiting for the collector's rate card") {
			t.Fatalf("the log does not say what it waits for:\n%s", log.String())
		}
		l.check()
		if s := a.Summary(); s.Windows != 60 || s.UnpricedWindows != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// A spool that is too small for the script, and a collector that is slow to
// acknowledge: the player waits, and nothing is lost.
func TestPlayerWaitsForSpace(t *testing.T) {
	script := record(5, 1, 3000, 1_700_000_000)
	want, _ := play(t, script.again())
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		l.gate = make(chan struct{})
		k := dial(t, l)
		defer k.close()
		a := newRig(script.again(), memfs.New(), k).agent(t)
		a.cfg.Spool.MaxBytes = 64 << 10 // less than a configuration may say
		done := make(chan error, 1)
		go func() { done <- a.Run(t.Context()) }()
		<-time.After(time.Minute)
		synctest.Wait()
		if n := a.Summary().Windows; n == 0 || n > 5000 {
			t.Fatalf("%d of 6000 windows with nothing acknowledged", n)
		}
		close(l.gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		l.check()
		if got := l.seconds("n0"); !maps.Equal(got, want.seconds("n0")) {
			t.Fatal(difference(got, want.seconds("n0")))
		}
	})
}

// Several nodes share a disk that holds a small part of the script, and the
// collector acknowledges only when it is asked to: the player asks, the nodes
// make room for each other, and nothing is lost.
func TestLaw8PlayerOnAFullDisk(t *testing.T) {
	const nodes = 4
	script := record(8, nodes, 3000, 1_700_000_000)
	want, _ := play(t, script.again())
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		l.hold = true
		k := dial(t, l)
		defer k.close()
		disk := memfs.New()
		disk.SetCapacity(nodes*2*4096 + 24<<10)
		began := time.Now()
		if err := newRig(script.again(), disk, k).agent(t).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		l.check()
		for n := range nodes {
			node := fmt.Sprintf("n%d", n)
			if got := l.seconds(node); !maps.Equal(got, want.seconds(node)) {
				t.Fatal(difference(got, want.seconds(node)))
			}
		}
		if l.flushes < 2*nodes {
			t.Errorf("only %d flushes: the disk was never full", l.flushes)
		}
	})
}

// Chunks that a disk damaged before they were sent are played again.
func TestLaw3PlayerGoesBackToDamage(t *testing.T) {
	script := record(9, 1, 1200, 1_700_000_000)
	want, _ := play(t, script.again())
	disk := memfs.New()
	var left *memfs.FS // when the power is cut
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		l.gate = make(chan struct{})
		k := dial(t, l)
		defer k.close()
		rig := newRig(script.again(), disk, k)
		rig.cfg.Limits.DrainTimeout = Duration{time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		a := rig.agent(t)
		go func() { done <- a.Run(ctx) }()
		<-time.After(time.Second)
		synctest.Wait()
		if n := a.Summary().Windows; n != 2*1200 {
			t.Errorf("%d windows are in the spool", n)
		}
		left = disk.Crash(nil)
		cancel()
		close(l.gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	segment := filepath.Join("/state", "c", "n0", "0000000001.seg")
	if err := left.Flip(segment, 8*20_000); err != nil {
		t.Fatal(err)
	}
	l := newLedger(t)
	k := dial(t, l)
	defer k.close()
	if err := newRig(script.again(), left, k).agent(t).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.check()
	if got := l.seconds("n0"); !maps.Equal(got, want.seconds("n0")) {
		t.Fatal(difference(got, want.seconds("n0")))
	}
}

func TestPlayerFailsOnABadScript(t *testing.T) {
	boom := errors.New("line 7 is broken")
	for name, change := range map[string]func(*tape){
		"the script's error": func(s *tape) { s.fail = boom },
		"an unlisted node":   func(s *tape) { s.events[5].Node = "stranger" },
		"an impossible event": func(s *tape) {
			s.events = append(s.events, sampler.Event{Kind: sampler.Sampled, Time: s.end, Node: "n0", DeviceID: "GPU-unknown", Sample: &sampler.Sample{}})
		},
		"a node twice": func(s *tape) { s.nodes = append(s.nodes, s.nodes[0]) },
		"no nodes":     func(s *tape) { s.nodes = nil },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			k := dial(t, l)
			defer k.close()
			s := record(6, 1, 30, 1_700_000_000)
			change(s)
			if err := newRig(s, memfs.New(), k).agent(t).Run(t.Context()); err == nil {
				t.Fatal("no error")
			}
			l.check()
		})
	}
}
