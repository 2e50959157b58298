package nvml

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const second = int64(1e9)

func newProcesses(owners sampler.Owners) *processes {
	return &processes{device: "A", owners: owners, byPID: map[uint32]*process{}, dropped: &dropped{}}
}

func active(p *processes) map[uint32]int64 {
	m := map[uint32]int64{}
	for _, r := range p.appendTo(nil, true) {
		m[r.PID] = r.SMActive
	}
	return m
}

// The driver answers with a mean over the time that it is asked about. What
// was idle before the last question is not asked about again.
func TestIdleTimeDoesNotThinOutWhatFollows(t *testing.T) {
	now := uint64(1_700_000_000_000_000)
	p := newProcesses(&fakeOwners{ids: map[uint32]sampler.Identity{1: {Start: 1, Command: "a"}}})
	if got := p.after(now); got != 0 {
		t.Fatalf("the first question is after %d, want 0", got)
	}
	p.list([]running{{pid: 1}})
	p.share([]processShare{{1, now - 5, 50}}, second, now)
	for range 12 { // nothing newer
		now += 1e6
		p.share(nil, second, now)
	}
	if got := p.after(now + 1e6); got != now-1e6 {
		t.Fatalf("asked after %d, want %d", got, now-1e6)
	}
	p.share([]processShare{{1, now - 200_000, 80}}, second, now+1e6) // late, and not lost
	if got := active(p); got[1] != 1_300_000_000 {
		t.Fatalf("active = %v", got)
	}
}

func TestProcessSharesAreFiltered(t *testing.T) {
	now := uint64(1_700_000_000_000_000)
	p := newProcesses(&fakeOwners{ids: map[uint32]sampler.Identity{1: {Start: 1, Command: "a"}, 2: {Start: 2, Command: "b"}}})
	p.list([]running{{pid: 1, memory: 10}, {pid: 1, memory: 20}, {pid: 2, memory: -1}})
	p.share([]processShare{
		{1, now - 10, 50},
		{1, now - 5, 100},    // the mean of both
		{2, now - 7, 37100},  // garbage
		{9, now - 6, 40},     // not on the device
		{2, now + 60e6, 100}, // of the future
	}, second, now)
	if got := active(p); got[1] != 750_000_000 || got[2] != 0 || len(got) != 2 {
		t.Fatalf("active = %v", got)
	}
	if p.after(now) != now-5 {
		t.Fatalf("the cursor is %d, want the newest credible sample", p.after(now))
	}
	p.list([]running{{pid: 1, memory: 20}, {pid: 2}})
	p.share([]processShare{{1, now - 5, 100}}, second, now) // seen before
	if got := active(p); got[1] != 750_000_000 {
		t.Fatalf("a stale sample counted: %v", got)
	}
	d := p.dropped
	if d.percent.Load() != 1 || d.stale.Load() != 1 || d.future.Load() != 1 || d.unlisted.Load() != 1 {
		t.Fatalf("dropped: %d %d %d %d", d.percent.Load(), d.stale.Load(), d.future.Load(), d.unlisted.Load())
	}
	// The wall clock goes back an hour: the cursor follows, samples count on.
	back := now - 3600e6
	if after := p.after(back); after != back {
		t.Fatalf("after a step back the cursor is %d, want %d", after, back)
	}
	p.list([]running{{pid: 1}})
	p.share([]processShare{{1, back + 1, 100}}, second, back+2)
	if got := active(p); got[1] != 1_750_000_000 {
		t.Fatalf("after a step back: %v", got)
	}
}

func TestExitedProcessKeepsItsFinalSecond(t *testing.T) {
	p := newProcesses(&fakeOwners{ids: map[uint32]sampler.Identity{1: {Start: 1, Command: "a"}}})
	p.list([]running{{pid: 1}})
	active(p)
	p.list(nil)
	p.share([]processShare{{1, 5, 30}}, second, 10)
	if got := active(p); got[1] != 300_000_000 {
		t.Fatalf("the final second is lost: %v", got)
	}
	p.list(nil)
	p.share([]processShare{{1, 9, 30}}, second, 10)
	if got := active(p); len(got) != 0 {
		t.Fatalf("a dead process goes on: %v", got)
	}
}

func TestPIDReuseIsAnotherProcess(t *testing.T) {
	owners := &fakeOwners{ids: map[uint32]sampler.Identity{1: {Start: 1, Command: "a"}}}
	p := newProcesses(owners)
	p.list([]running{{pid: 1}})
	p.share([]processShare{{1, 5, 100}}, second, 10)
	first := p.appendTo(nil, true)[0]
	owners.set(1, sampler.Identity{Start: 2, Command: "b"})
	p.list([]running{{pid: 1}})
	next := p.appendTo(nil, true)[0]
	if first.SMActive != second || next.SMActive != 0 || next.Start != 2 || next.Owner.Command != "b" {
		t.Fatalf("first %+v, then %+v", first, next)
	}
}

func TestUnreadableProcessIsUnknownUntilRead(t *testing.T) {
	owners := &fakeOwners{ids: map[uint32]sampler.Identity{}}
	p := newProcesses(owners)
	p.list([]running{{pid: 7}})
	if o := p.appendTo(nil, true)[0].Owner; o.Kind != attribution.UnknownProcess || o.PID != 7 {
		t.Fatalf("owner = %+v", o)
	}
	owners.set(7, sampler.Identity{Start: 3, Command: "late"})
	p.list([]running{{pid: 7}})
	if o := p.appendTo(nil, true)[0].Owner; o.Kind != attribution.HostProcess || o.Command != "late" {
		t.Fatalf("owner = %+v", o)
	}
}

func TestMPSServerIsSharedByItsClients(t *testing.T) {
	ids := map[uint32]sampler.Identity{1: {Start: 1, Command: "nvidia-cuda-mps"}, 2: {Start: 2, Command: "a"}, 3: {Start: 3, Command: "b"}}
	for name, test := range map[string]struct {
		memory [2]int64
		want   [2]int64
	}{
		"by memory": {[2]int64{300, 100}, [2]int64{750_000_000, 250_000_000}},
		"equally":   {[2]int64{0, 0}, [2]int64{500_000_000, 500_000_000}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcesses(&fakeOwners{ids: ids})
			for range 2 { // the server's counter never grows, so it is given once
				p.list([]running{{pid: 1}, {2, test.memory[0], true}, {3, test.memory[1], true}})
				p.share([]processShare{{1, p.cursor + 1, 100}}, second, 100)
				if c, alone := p.shareServers(); c != creditClients || !alone {
					t.Fatal("nobody is told of the split")
				}
			}
			got := active(p)
			if got[1] != 0 || got[2] != 2*test.want[0] || got[3] != 2*test.want[1] {
				t.Fatalf("active = %v, want twice %v", got, test.want)
			}
		})
	}
}

// Whatever the driver returns: no panic, no counter that goes back or faster
// than time, no process twice.
func TestProcessesWithstandAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := &fakeOwners{ids: map[uint32]sampler.Identity{}}
		p := newProcesses(owners)
		pids := rapid.Uint32Range(0, 6)
		last := map[[2]uint64]int64{}
		for range rapid.IntRange(1, 12).Draw(t, "readings") {
			for range rapid.IntRange(0, 2).Draw(t, "starts") {
				owners.ids[pids.Draw(t, "pid")] = sampler.Identity{Start: rapid.Uint64Range(0, 3).Draw(t, "start"), Command: rapid.SampledFrom([]string{"a", mpsServer}).Draw(t, "command")}
			}
			p.list(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) running {
				return running{pids.Draw(t, "pid"), rapid.Int64().Draw(t, "memory"), rapid.Bool().Draw(t, "client")}
			}), 0, 6).Draw(t, "running"))
			now := rapid.Uint64Range(0, 1<<62).Draw(t, "now")
			p.after(now)
			p.share(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) processShare {
				return processShare{pids.Draw(t, "pid"), rapid.Uint64().Draw(t, "time"), rapid.Uint32().Draw(t, "percent")}
			}), 0, 6).Draw(t, "shares"), second, now)
			p.shareServers()
			seen := map[uint32]bool{}
			before := last
			last = map[[2]uint64]int64{} // one that was away begins anew
			var sum int64
			for _, r := range p.appendTo(nil, true) {
				key := [2]uint64{uint64(r.PID), r.Start}
				if r.SMActive < before[key] && r.SMActive != 0 {
					t.Fatalf("the counter of %v went from %d to %d", key, before[key], r.SMActive)
				}
				if seen[r.PID] || r.MemoryBytes < 0 || r.Owner == nil {
					t.Fatalf("impossible reading %+v", r)
				}
				seen[r.PID] = true
				sum += r.SMActive - before[key]
				last[key] = r.SMActive
			}
			if sum > 7*second {
				t.Fatalf("a second of seven processes holds %d ns", sum)
			}
		}
	})
}
