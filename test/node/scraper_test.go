package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// A pod lives for 1.5 s on a GPU that it shares with another, three times, at
// different places in a second. Each time it is billed for 1.5 s, give or take
// a window: for what it used, and for its half of the idle time while it held
// the GPU. What scrapers make of the same episode is shown beside it.
func TestPodOfOneAndAHalfSeconds(t *testing.T) {
	e := episode{lives: 1500 * time.Millisecond, used: 40, others: 20}
	n := newNode(t, h100(gpuA, 0))
	n.gpus.Scan = 10 * time.Millisecond
	steady := n.pod("prod/steady", has("main", gpuA+"::0"))
	n.run(steady.c("main"), nvmlstub.Process{Device: gpuA, SM: e.others})
	n.start()
	n.pause(2 * time.Second)
	var bills []time.Duration
	for _, phase := range []time.Duration{0, 300 * time.Millisecond, 700 * time.Millisecond} {
		bills = append(bills, e.play(n, phase))
	}
	t.Log(e.table(bills))
}

// play has the pod live from a place in a second on, and says what it is billed.
// Where that is wrong it is played again, twice: on a machine that is busy with
// other tests the agent may hear a second late that a pod has come or gone.
func (e *episode) play(n *node, phase time.Duration) time.Duration {
	n.t.Helper()
	for try := 1; ; try++ {
		process := n.plan(nvmlstub.Process{Device: gpuA, SM: e.used})
		at := time.Now().Truncate(time.Second).Add(2*time.Second + phase)
		n.until(at.Sub(n.gpus.Start))
		from := time.Now()
		brief := n.pod(fmt.Sprintf("ci/brief-%d", len(n.pods)), has("main", gpuA+"::1"))
		process.start(brief.c("main"))
		n.until(at.Add(e.lives).Sub(n.gpus.Start))
		process.stop()
		brief.delete()
		held := time.Since(from)
		bill, err := e.bill(n.ledger(from.Unix()-1, from.Unix()+5), brief.c("main").owner(), process, held)
		if err == nil {
			return bill
		}
		if try == 3 {
			n.t.Fatalf("three times it is billed for what it was not:\n%v", err)
		}
		n.t.Logf("playing it again: %v", err)
	}
}

// episode is a pod that lives on a shared GPU beside another. Its process and
// the other's want so many percent of it.
type episode struct {
	lives        time.Duration
	used, others int
}

// share is the pod's part of the GPU while it is there, in percent: what it
// uses, and half of what is idle.
func (e *episode) share() int { return e.used + (100-e.used-e.others)/2 }

// truth is the device time that the pod answers for.
func (e *episode) truth() time.Duration { return e.lives * time.Duration(e.share()) / 100 }

// bill is the device time that the ledger has the pod answer for, and what is
// wrong with it.
func (e *episode) bill(l *ledger, owner string, process *load, held time.Duration) (time.Duration, error) {
	l.t.Helper()
	var wrong []error
	near := func(what string, got, want, may time.Duration) {
		l.t.Logf("%s: %v (true: %v ± %v)", what, got, want, may)
		if (got - want).Abs() > may {
			wrong = append(wrong, fmt.Errorf("%s: %v, and not %v ± %v", what, got, want, may))
		}
	}
	used, reserved := l.sum(gpuA, owner, "used"), l.sum(gpuA, owner, "reserved")
	// It is in up to three readings, of which each rounds, and the stub's scanner
	// finds it a few milliseconds late, or a few more on a busy machine.
	near("used", used, l.true(process), 3*5*time.Millisecond+100*time.Millisecond*time.Duration(e.used)/100)
	// While it lives, half of the idle time is the pod's.
	half := held * time.Duration(100-e.used-e.others) / 200
	window := time.Second * time.Duration(100-e.others) / 200 // in which it holds and does nothing
	near("reserved", reserved, half, window)
	// Its whole bill says how long it was there.
	near("billed as if it had lived", (used+reserved)*100/time.Duration(e.share()), held, time.Second)
	if costs := l.cost(gpuA, owner); costs <= 0 {
		wrong = append(wrong, fmt.Errorf("it costs %v\n%s", costs, l))
	}
	return used + reserved, errors.Join(wrong...)
}

// scraped is what the pod answers for by a scraper that looks at so many
// phases of its interval: whoever it sees at a scrape answers for the whole
// interval, with the share that he has at that instant. That is generous:
// dcgm-exporter shows one pod of those that share a GPU, and Prometheus makes
// its own of series that are there for one sample.
func (e *episode) scraped(interval time.Duration, phases int) (bills []time.Duration) {
	for i := range phases {
		bill := time.Duration(0)
		// The pod is there from 0 on; the scrapes are at the phase and each
		// interval after it.
		for at := interval * time.Duration(2*i+1) / time.Duration(2*phases); at < e.lives; at += interval {
			bill += interval * time.Duration(e.share()) / 100
		}
		bills = append(bills, bill)
	}
	return bills
}

// table shows how the episode is billed.
func (e *episode) table(ours []time.Duration) string {
	const phases = 200
	var b strings.Builder
	fmt.Fprintf(&b, "a pod that lives %v with %d %% of a shared GPU: %v of device time\n", e.lives, e.share(), e.truth())
	fmt.Fprintf(&b, "%-34s %12s %13s %14s\n", "billed by", "mean", "worst error", "nothing at all")
	for _, x := range []struct {
		who   string
		bills []time.Duration
	}{
		{fmt.Sprintf("this ledger (%d episodes)", len(ours)), ours},
		{fmt.Sprintf("a scrape every 15 s (%d phases)", phases), e.scraped(15*time.Second, phases)},
		{fmt.Sprintf("a scrape every 60 s (%d phases)", phases), e.scraped(60*time.Second, phases)},
	} {
		var sum, worst time.Duration
		nothing := 0
		for _, bill := range x.bills {
			sum += bill
			if off := bill - e.truth(); off.Abs() > worst.Abs() {
				worst = off
			}
			if bill == 0 {
				nothing++
			}
		}
		fmt.Fprintf(&b, "%-34s %11.3fs %+12.0f%% %13.1f%%\n", x.who, (sum / time.Duration(len(x.bills))).Seconds(),
			100*worst.Seconds()/e.truth().Seconds(), 100*float64(nothing)/float64(len(x.bills)))
	}
	return b.String()
}

// A scraper is right on average, and hardly ever right: it bills nothing, but
// for the part of its phases in which it meets the pod.
func TestScraperIsFairOnAverage(t *testing.T) {
	e := episode{lives: 1500 * time.Millisecond, used: 40, others: 20}
	for _, interval := range []time.Duration{15 * time.Second, 60 * time.Second} {
		const phases = 200
		var sum time.Duration
		nothing := 0
		for _, bill := range e.scraped(interval, phases) {
			sum += bill
			if bill == 0 {
				nothing++
			}
		}
		near(t, fmt.Sprintf("the mean of a scrape every %v", interval), sum/phases, e.truth(), time.Millisecond)
		if want := phases - int(phases*e.lives/interval); nothing != want {
			t.Errorf("a scrape every %v bills nothing in %d phases, and not in %d", interval, nothing, want)
		}
	}
}
