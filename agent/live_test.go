package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// gpus is a live source of two GPUs that are 40 % active, each with a
// goroutine of its own. Device A is held by pod-a.
type gpus struct {
	now    func() int64
	gone   atomic.Bool // B is not there any more
	silent bool        // it does not say who holds A
	hold   chan string // pods that hold A from now on
}

func (g *gpus) Run(ctx context.Context, producer func() sampler.Producer) error {
	done := make(chan struct{}, 2)
	for _, id := range []string{"GPU-A", "GPU-B"} {
		p := producer()
		go func() {
			defer func() { done <- struct{}{} }()
			defer p.Close()
			if id == "GPU-B" && g.gone.Load() {
				return
			}
			g.read(ctx, id, p.Yield)
		}()
	}
	<-done
	<-done
	return nil
}

func (g *gpus) read(ctx context.Context, id string, yield func(*sampler.Event)) {
	now := g.now()
	yield(&sampler.Event{Kind: sampler.DeviceAdded, Time: now, Node: "n", DeviceID: id, Device: &attribution.Device{
		ID: id, Cluster: "default", Node: "n", Model: "H100",
	}})
	hold := func(pod string) {
		yield(&sampler.Event{Kind: sampler.Held, Time: g.now(), Node: "n", DeviceID: id, Replicas: 1, Owner: podOwner(pod)})
	}
	var holds chan string
	if id == "GPU-A" {
		holds = g.hold
		if !g.silent {
			hold("pod-a")
		}
	}
	first := now
	for {
		now = g.now()
		yield(&sampler.Event{Kind: sampler.Sampled, Time: now, Node: "n", DeviceID: id, Sample: &sampler.Sample{SMActive: (now - first) / 10 * 4}})
		next := now - now%sec + sec + 1e8
		select {
		case <-ctx.Done():
			return
		case pod := <-holds:
			hold(pod)
		case <-time.After(time.Duration(next - now)):
		}
	}
}

func podOwner(pod string) *attribution.Owner {
	return &attribution.Owner{Kind: attribution.Container, Cluster: "default", Node: "n", Namespace: "ns", Pod: pod, Container: "c"}
}

// box is a machine and what outlasts an agent on it.
type box struct {
	t      *testing.T
	ledger *ledger
	disk   *memfs.FS
	step   atomic.Int64 // by which the wall clock was set
	boot   string
	up     int64 // Unix ns of the machine's start
	log    strings.Builder
	gone   bool
	spool  int64
	maxGap time.Duration
	holds  bool              // the source takes holdings over, and states none itself
	hold   chan string       // see gpus
	held   []sampler.Holding // what the last run began with
	during func(*Agent)      // called at the end of a run
}

func newBox(t *testing.T) *box {
	return &box{t: t, ledger: newLedger(t), disk: memfs.New(), boot: "boot-1", up: time.Now().UnixNano() - 3600*sec}
}

// run runs an agent for a while. kill cuts it off at the end of it.
func (b *box) run(d time.Duration, kill bool, during ...func()) {
	b.t.Helper()
	k := dial(b.t, b.ledger)
	defer k.close()
	rig := newRig(nil, b.disk, k)
	rig.cfg.Node = "n"
	if b.maxGap > 0 {
		rig.cfg.Limits.MaxGap.Duration = b.maxGap
	}
	rig.deps.Log = (&LogConfig{Level: "info", Format: "text"}).Logger(&b.log)
	rig.deps.Machine = Machine{
		Wall:   func() int64 { return time.Now().UnixNano() + b.step.Load() },
		Uptime: func() int64 { return time.Now().UnixNano() - b.up },
		BootID: b.boot,
	}
	rig.source = Source{Holds: b.holds, Live: func(from Beginning) (sampler.Live, error) {
		g := &gpus{now: from.Now, silent: b.holds, hold: b.hold}
		g.gone.Store(b.gone)
		b.held = from.Held
		return everything{g}, nil
	}}
	a := rig.agent(b.t)
	if b.spool > 0 {
		a.cfg.Spool.MaxBytes = b.spool
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for _, f := range during {
		<-time.After(d / time.Duration(len(during)+1))
		f()
	}
	<-time.After(d / time.Duration(len(during)+1))
	if b.during != nil {
		b.during(a)
	}
	if kill {
		k.cut.Store(true)
		left := b.disk.Crash(rand.New(rand.NewPCG(1, 2)))
		k.server.Stop()
		cancel()
		if err := <-done; err != nil {
			b.t.Logf("killed: %v", err)
		}
		b.disk = left
		return
	}
	cancel()
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
}

// want checks that the ledger has every second of [from, to) exactly, and
// which of them are unobserved on device A.
func (b *box) want(from, to attribution.Second, unobserved func(attribution.Second) bool) {
	b.t.Helper()
	b.ledger.check()
	got := b.ledger.seconds("n")
	for s := from; s < to; s++ {
		text, ok := got[s]
		if !ok {
			b.t.Fatalf("second %d of [%d, %d) is missing; log:\n%s", s, from, to, b.log.String())
		}
		if n := strings.Count(text, "GPU-A"); n != 1 {
			b.t.Fatalf("second %d has device A %d times:\n%s", s, n, text)
		}
		a, _, _ := strings.Cut(text, "\n")
		if unobserved == nil {
			continue
		}
		if is := strings.Contains(a, "[pod-a unobserved 1000000000 "); is != unobserved(s) {
			b.t.Fatalf("second %d of [%d, %d): unobserved %v:\n%s", s, from, to, is, a)
		}
	}
}

func now() attribution.Second { return attribution.Second(time.Now().Unix()) }

func TestLiveNodeSealsEachSecondInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		start := now()
		b.run(60*time.Second, false, func() {
			synctest.Wait()
			b.ledger.mu.Lock()
			live := b.ledger.live
			b.ledger.mu.Unlock()
			// Seconds 1 to 28 are over by 30, less one of grace; the first are not
			// sent live before the agent is connected.
			if live < 15 || live > 28 {
				t.Errorf("%d seconds are live after 30 s", live)
			}
		})
		b.want(start+1, start+57, func(attribution.Second) bool { return false })
		if n := len(b.ledger.seconds("n")); n < 57 || n > 60 {
			t.Fatalf("%d seconds in a minute", n)
		}
	})
}

func TestLaw3RestartBillsTheTimeAway(t *testing.T) {
	for name, kill := range map[string]bool{"stopped": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				start := now()
				b.run(63*time.Second, kill)
				stop := now()
				<-time.After(100 * time.Second)
				again := now()
				b.run(40*time.Second, false)
				b.want(start+1, again+36, nil)
				b.want(stop+1, again, func(attribution.Second) bool { return true })
				b.want(start+2, stop-12, func(attribution.Second) bool { return false })
				b.want(again+3, again+36, func(attribution.Second) bool { return false })
			})
		})
	}
}

// What an agent seals in the midst of a ten, right after its start or after it
// has caught up, a power cut does not undo.
func TestLaw3EverySecondIsJournaledFromTheStartOn(t *testing.T) {
	for name, away := range map[string]time.Duration{"at once": 0, "after catching up": 200 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				b.run(63*time.Second, true)
				<-time.After(away)
				again := now()
				b.run(6*time.Second+500*time.Millisecond, true)
				b.run(20*time.Second, false)
				b.want(again+2, again+4, func(attribution.Second) bool { return false })
			})
		})
	}
}

// A source that knows the holdings of before gets them, and they stay when it
// adds their device; a change of one is kept with its second, not with its ten.
func TestLaw3HoldingsOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.holds, b.hold = true, make(chan string)
		// It holds from second 5 and from second 15 on; the tens' state is kept at 2 and 12.
		b.run(20*time.Second, true, func() { b.hold <- "pod-a" }, func() {}, func() { b.hold <- "pod-b" })
		killed := now()
		<-time.After(30 * time.Second)
		b.run(20*time.Second, false)
		if len(b.held) != 2 || b.held[0].DeviceID != "GPU-A" || b.held[0].Owner.Pod != "pod-a" || b.held[1].Owner.Pod != "pod-b" || b.held[1].Replicas != 1 {
			t.Fatalf("the second run begins with %+v", b.held)
		}
		b.ledger.check()
		for s, text := range b.ledger.seconds("n") {
			a, _, _ := strings.Cut(text, "\n")
			if s >= killed && (!strings.Contains(a, "[pod-a ") || !strings.Contains(a, "[pod-b ")) {
				t.Fatalf("second %d, %d after the kill, is not both pods':\n%s", s, s-killed, a)
			}
		}
	})
}

// An agent that is killed again and again, in the midst of tens, stays in
// time: what it sealed after its state was kept is not taken for time that is
// still to come.
func TestLaw3RestartsDoNotRunAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		start := now()
		for range 12 {
			b.run(19*time.Second, true)
			<-time.After(time.Second)
		}
		b.run(40*time.Second, false)
		b.want(start+1, now()-3, nil)
		for s := range b.ledger.seconds("n") {
			if s >= now() {
				t.Fatalf("second %d is billed, %d before it has passed", s, s-now()+1)
			}
		}
	})
}

// While the machine was down nothing ran, and nothing is billed.
func TestLaw3RebootBillsFromTheMachinesStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.run(63*time.Second, true)
		stop := now()
		<-time.After(500 * time.Second)
		b.boot, b.up = "boot-2", time.Now().UnixNano()
		up := now()
		<-time.After(50 * time.Second)
		again := now()
		b.run(40*time.Second, false)
		b.want(up, again, func(attribution.Second) bool { return true })
		for s := range b.ledger.seconds("n") {
			if s > stop && s < up {
				t.Fatalf("second %d is billed, but the machine was down from %d to %d", s, stop, up)
			}
		}
	})
}

func TestMaxGapBoundsWhatIsBilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.run(35*time.Second, true)
		stop := now()
		b.maxGap = time.Hour
		<-time.After(3 * time.Hour)
		again := now()
		b.run(40*time.Second, false)
		oldest := again - 3600
		b.want(oldest+20, again, func(attribution.Second) bool { return true })
		for s := range b.ledger.seconds("n") {
			if s > stop && s < oldest-20 {
				t.Fatalf("second %d is billed, %d before the agent came back", s, again-s)
			}
		}
	})
}

// The wall clock is set by an hour, while the agent runs and while it does
// not: every second is there once, and the seconds are as many as have passed,
// but for the twentieth that is slewed in.
func TestLaw8SteppedClockBillsNoSecondTwice(t *testing.T) {
	for _, step := range []int64{3600 * sec, -3600 * sec} {
		t.Run(fmt.Sprint(time.Duration(step)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				start := now()
				b.run(200*time.Second, false, func() { b.step.Store(step) })
				<-time.After(20 * time.Second)
				b.run(100*time.Second, false)
				got := b.ledger.seconds("n")
				passed := int(now() - start)
				first, last := attribution.Second(1<<62), attribution.Second(0)
				for s := range got {
					first, last = min(first, s), max(last, s)
				}
				if int(last-first)+1 != len(got) {
					t.Fatalf("%d seconds in [%d, %d]: some are missing", len(got), first, last)
				}
				slewed := 220 / slewPart
				if len(got) < passed-6-slewed-6 || len(got) > passed+slewed {
					t.Fatalf("%d seconds are billed in %d", len(got), passed)
				}
				b.want(first, last+1, nil)
			})
		})
	}
}

// The spool fills while the collector is stuck: seconds are let go, and made
// up for as unobserved when there is space. None is missing in the end.
func TestFullSpoolLetsGoAndMakesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.spool = 64 << 10
		b.ledger.gate = make(chan struct{})
		start := now()
		b.run(3000*time.Second, false, func() {}, func() { close(b.ledger.gate) })
		if !strings.Contains(b.log.String(), "SPOOL IS FULL") || !strings.Contains(b.log.String(), "has space again") {
			t.Fatalf("the log says nothing of a full spool:\n%s", b.log.String())
		}
		b.want(start+1, now()-4, nil)
		text := b.ledger.seconds("n")
		unobserved := 0
		for s := start + 2; s < now()-4; s++ {
			if strings.Contains(text[s], "[pod-a unobserved 1000000000 ") {
				unobserved++
			}
		}
		if unobserved < 100 || unobserved > 2900 {
			t.Fatalf("%d seconds of 3000 are unobserved", unobserved)
		}
	})
}

// The disk is full and the collector stuck: what the spool's memory holds is
// not lost, and when acknowledgements make room on the disk it is written,
// sent and journaled as ever.
func TestLaw8LiveNodeOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.disk.SetCapacity(48 << 10)
		b.ledger.gate = make(chan struct{})
		start := now()
		b.run(3000*time.Second, false, func() {}, func() { close(b.ledger.gate) }, func() {})
		if !strings.Contains(b.log.String(), "no space left") || !strings.Contains(b.log.String(), "writing again") {
			t.Fatalf("the log says nothing of a full disk:\n%s", b.log.String())
		}
		b.want(start+1, now()-4, nil)
		text := b.ledger.seconds("n")
		for s := start + 2; s < now()-4; s++ {
			if strings.Contains(text[s], "unobserved") {
				t.Fatalf("second %d is unobserved:\n%s", s, text[s])
			}
		}
		if b.ledger.live < 1000 {
			t.Fatalf("only %d seconds went out live: it has not caught up", b.ledger.live)
		}
	})
}

// A device that does not come back after a restart is billed for a while, as
// a lost one, and then no longer.
func TestDeviceThatIsGoneAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.run(60*time.Second, false)
		b.gone = true
		again := now()
		b.run(1000*time.Second, false)
		got := b.ledger.seconds("n")
		if !strings.Contains(got[again+forgetAfter-20], "GPU-B") || strings.Contains(got[again+forgetAfter+20], "GPU-B") {
			t.Fatalf("want GPU-B for %d s:\n%s%s", forgetAfter, got[again+forgetAfter-20], got[again+forgetAfter+20])
		}
	})
}

func TestLiveNodeWithoutRateCardGoesOnUnpriced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.ledger.card = nil
		start := now()
		b.run(60*time.Second, false)
		b.want(start+12, start+55, nil)
		if !strings.Contains(b.log.String(), "UNPRICED") {
			t.Fatalf("nobody is told:\n%s", b.log.String())
		}
	})
}
