package process

import (
	"fmt"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// replace ends a process and gives its pid to another, as hooks of a fakeProc
// that hold its lock may.
func (f *fakeProc) replace(pid uint32, by *fakeProcess) {
	f.procs[pid].ended = true
	f.procs[pid] = by
}

func another(pid uint32) *fakeProcess {
	return &fakeProcess{stat: statText(pid, "second", 200, 0), cgroup: "0::/\n"}
}

// The file that is kept is of the process that was met, not of one that has
// its pid a moment later.
func TestKeptFileIsTheSameProcess(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.start(42, "first", 100, "0::/\n")
	w.proc.afterCgroup = func() {
		w.proc.afterCgroup = nil
		w.proc.replace(42, another(42))
	}
	if id, ok := w.Identify(42); !ok || id.Start != 100 {
		t.Fatalf("first: %+v, %v", id, ok)
	}
	if id, ok := w.Identify(42); !ok || id.Start != 200 {
		t.Fatalf("the pid is the second's now: %+v, %v", id, ok)
	}
}

// Cgroups that could not be read are tried again, and are those of the process
// that was met.
func TestCgroupsAreTriedAgain(t *testing.T) {
	for _, reused := range []bool{false, true} {
		t.Run(fmt.Sprint("reused=", reused), func(t *testing.T) {
			w := newWorld(t, nil)
			p := w.proc.start(42, "first", 100, "0::/\n")
			w.proc.change(p, func(p *fakeProcess) { p.unreadable = true })
			first, _ := w.Identify(42)
			w.proc.change(p, func(p *fakeProcess) { p.unreadable = false })
			if reused {
				w.proc.beforeStat = func() {
					w.proc.beforeStat = nil
					w.proc.replace(42, another(42))
				}
			}
			w.Identify(42)
			want := attribution.HostProcess
			if reused {
				want = attribution.UnknownProcess
			}
			if o := w.Owner("GPU-1", 42, first); o.Kind != want || o.Command != "first" {
				t.Errorf("%+v", o)
			}
		})
	}
}

// A proc file system without comm has stat.
func TestWithoutNames(t *testing.T) {
	w := newWorld(t, nil)
	w.proc.noNames = true
	w.proc.start(42, "first", 100, "0::/\n")
	w.Identify(42)
	opens, reads, _ := w.proc.counts()
	w.Identify(42)
	if o, r, _ := w.proc.counts(); o != opens || r != reads+1 {
		t.Errorf("%d opens and %d reads for a check", o-opens, r-reads)
	}
	w.proc.start(42, "second", 200, "0::/\n")
	if id, ok := w.Identify(42); !ok || id.Start != 200 {
		t.Errorf("%+v, %v", id, ok)
	}
}
