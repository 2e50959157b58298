package node

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// claim is what one owner should have of a device.
type claim struct {
	owner string
	loads []*load
	fixed time.Duration // used beside the loads
	basis string        // of what the loads did
	holds int64
}

// by is a claim of a container's.
func by(c *container) claim { return claim{owner: c.owner(), basis: "used"} }

// host is the claim of the processes that are in no container.
func host(loads ...*load) claim { return claim{basis: "used", loads: loads} }

// nobodys is activity that maps to no owner.
func nobodys(loads ...*load) claim { return claim{basis: "unattributed", loads: loads} }

// used says which processes are the owner's.
func (c claim) used(loads ...*load) claim {
	c.loads = append(c.loads, loads...)
	return c
}

// holding says how many replicas of the device it holds.
func (c claim) holding(replicas int64) claim {
	c.holds = replicas
	return c
}

// amounts says how much the owner used, where that is not what its processes
// did.
func (c claim) amounts(d time.Duration) claim {
	c.fixed += d
	return c
}

type part struct{ owner, basis string }

// expect compares a device's time with what it should be: for each owner what
// its processes used in truth; what is left is reserved by the holders, by
// replicas, or, without any, unallocated. Anything else is an error, as soon
// as it is more than the driver's samples can be off.
func (l *ledger) expect(device string, claims ...claim) {
	l.t.Helper()
	l.within(device, l.tolerance(device), claims...)
}

// within is expect with another tolerance.
func (l *ledger) within(device string, tolerance time.Duration, claims ...claim) {
	l.t.Helper()
	from, to := time.Unix(l.from, 0), time.Unix(l.to, 0)
	want := map[part]time.Duration{}
	idle, held := time.Duration(l.to-l.from)*time.Second, int64(0)
	for _, c := range claims {
		d := sm(from, to, c.loads...) + c.fixed
		want[part{c.owner, c.basis}] += d
		idle -= d
		held += c.holds
	}
	for _, c := range claims {
		if held > 0 && c.holds > 0 {
			want[part{c.owner, "reserved"}] += idle * time.Duration(c.holds) / time.Duration(held)
		}
	}
	if held == 0 {
		want[part{"", "unallocated"}] = idle
	}
	l.compare(device, want, tolerance)
}

// compare checks each owner's time on each basis.
func (l *ledger) compare(device string, want map[part]time.Duration, tolerance time.Duration) {
	l.t.Helper()
	got := map[part]time.Duration{}
	for _, r := range l.rows {
		if r.device == device {
			got[part{r.owner, r.basis}] += r.time
		}
	}
	all := maps.Clone(want)
	for k := range got {
		all[k] += 0
	}
	keys := slices.SortedFunc(maps.Keys(all), func(a, b part) int { return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.basis, b.basis)) })
	var table strings.Builder
	bad := false
	fmt.Fprintf(&table, "%s, %d s from second %d (%s)\n%-44s %-13s %9s %9s %9s %9s\n", device, l.to-l.from, l.from-l.n.gpus.Start.Unix(),
		strings.Join(l.methods(device), ", "), "owner", "basis", "truth", "ledger", "off", "may be")
	for _, k := range keys {
		off := got[k] - want[k]
		mark := ""
		if off.Abs() > tolerance {
			bad, mark = true, " ✗"
		}
		fmt.Fprintf(&table, "%-44s %-13s %8.3fs %8.3fs %+8.3fs %8.3fs%s\n", cmp.Or(k.owner, "-"), k.basis,
			want[k].Seconds(), got[k].Seconds(), off.Seconds(), tolerance.Seconds(), mark)
	}
	if bad {
		l.t.Errorf("%s\n%s", table.String(), l)
	} else if !l.quiet {
		l.t.Log(table.String())
	}
}

// unobserved is what a device's time should be while it can't be read: the
// holders', by replicas.
func (l *ledger) unobserved(device string, claims ...claim) {
	l.t.Helper()
	all, held := time.Duration(l.to-l.from)*time.Second, int64(0)
	for _, c := range claims {
		held += c.holds
	}
	want := map[part]time.Duration{}
	for _, c := range claims {
		want[part{c.owner, "unobserved"}] = all * time.Duration(c.holds) / time.Duration(held)
	}
	if held == 0 {
		want[part{"", "unobserved"}] = all
	}
	l.compare(device, want, time.Microsecond)
}

// method checks that nothing but one method shared a device out.
func (l *ledger) method(device, method string) {
	l.t.Helper()
	if got := l.methods(device); !slices.Equal(got, []string{method}) {
		l.t.Errorf("%s was shared out by %q, and not by %s", device, got, method)
	}
}

// tolerance is how far the ledger may be off: see the package's doc.
func (l *ledger) tolerance(device string) time.Duration {
	_, d := l.tolerances(device)
	return d
}

// exact is how far it may be off where the split over processes does not
// matter.
func (l *ledger) exact(device string) time.Duration {
	d, _ := l.tolerances(device)
	return d
}

func (l *ledger) tolerances(device string) (exact, sampled time.Duration) {
	from, to := time.Unix(l.from, 0), time.Unix(l.to, 0)
	seconds, processes := float64(l.to-l.from), 0.0
	var moved, activity float64 // s
	for _, x := range l.n.truth {
		p := &l.n.gpus.Processes[x.line]
		if x.device != device || x.begun.After(to) || (!x.living() && x.ended.Before(from)) {
			continue
		}
		share, on, off := float64(p.SM)/100, p.On.Seconds(), p.Off.Seconds()
		processes++
		activity += sm(from, to, x).Seconds() / seconds
		moved += share * unsure(x.begun, from, to)
		if !x.living() {
			moved += share * unsure(x.ended, from, to)
		}
		if off > 0 { // how far what it did is from a straight line, at each end
			moved += 2 * share * on * off / (on + off)
		}
	}
	nanos := func(seconds float64) time.Duration { return time.Duration(seconds * 1e9) }
	exact = nanos((processes+1)*seconds*0.005 + moved)
	if l.n.gpus.Sampling == nvmlstub.Exact {
		return exact, exact
	}
	// An owner may have any part of the activity, so the widest is allowed.
	period := cmp.Or(l.n.gpus.Period, time.Second/6).Seconds()
	deviation := activity * period * math.Sqrt(seconds/period/4)
	return exact, exact + nanos(4.5*deviation+2*period)
}

// unsure is for how long it may be unsure what a process did that began or
// ended at a time: between two readings, where that is about an end of what is
// compared, and else as long as the stub takes to find it.
func unsure(at, from, to time.Time) float64 {
	const reading = 1500 * time.Millisecond
	switch {
	case at.Sub(from).Abs() < reading, at.Sub(to).Abs() < reading:
		return 1
	case at.After(from) && at.Before(to):
		return 0.1
	}
	return 0
}

// each has f look at every second by itself.
func (l *ledger) each(f func(second *ledger)) {
	l.t.Helper()
	for s := l.from; s < l.to; s++ {
		second := l.between(s, s+1)
		second.quiet = true
		f(second)
	}
}

// mostMissed is in how many seconds of a test an agent may not have looked at a
// device in time, for want of a processor.
const mostMissed = 2

// eachSeen is each without the seconds in which some time of a device is
// unobserved: see observeSeen.
func (l *ledger) eachSeen(device string, f func(second *ledger)) {
	l.t.Helper()
	missed := 0
	l.each(func(s *ledger) {
		if s.sum(device, "*", "unobserved") == 0 {
			f(s)
		} else if missed++; missed > mostMissed {
			l.t.Errorf("some time of %s is unobserved in %d seconds\n%s", device, missed, s)
		}
	})
}

// lateness is how much later than it should something that happens so often does at
// most: what a busy machine does to all that is timed.
func lateness(t *testing.T, every time.Duration) func() time.Duration {
	var most atomic.Int64
	go func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case now := <-ticker.C:
				most.Store(max(most.Load(), int64(now.Sub(last)-every)))
				last = now
			case <-t.Context().Done():
				return
			}
		}
	}()
	return func() time.Duration { return time.Duration(most.Load()) }
}

// near fails where a duration is further off than it may be.
func near(t *testing.T, what string, got, want, may time.Duration) {
	t.Helper()
	if (got - want).Abs() > may {
		t.Errorf("%s: %v, and not %v ± %v", what, got, want, may)
	} else {
		t.Logf("%s: %v (true: %v ± %v)", what, got, want, may)
	}
}
