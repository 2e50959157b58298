package faults

import (
	"syscall"
	"time"

	"github.com/gpuledger/gpuledger/internal/loopback"
)

// stopped is how long a program hangs, and a network is cut: longer than it
// takes to notice that a peer is gone (30 s), where all faults are tried.
func (w *world) stopped() time.Duration {
	if repeats(w.t) == 0 {
		return 2 * time.Second
	}
	return between(w.rng, 20*time.Second, 45*time.Second)
}

func processFaults() []fault {
	return []fault{
		{"agent killed three times", true, func(w *world) {
			w.begin()
			for range 3 {
				w.aWhile()
				w.agent.Kill()
				w.startAgent()
			}
		}},
		{"collector killed three times", true, func(w *world) {
			w.begin()
			for range 3 {
				w.aWhile()
				w.collector.Kill()
				w.away(between(w.rng, 0, time.Second))
				w.startCollector()
			}
			w.sees(w.agent, time.Minute, "the stream ended; what is not acknowledged is kept and sent again")
		}},
		{"both killed at once", false, func(w *world) {
			w.begin()
			for range 3 {
				w.aWhile()
				w.collector.Signal(syscall.SIGKILL)
				w.agent.Kill()
				w.collector.Kill()
				w.begin()
			}
		}},
		{"agent hangs (SIGSTOP)", false, func(w *world) {
			w.begin()
			w.aWhile()
			w.agent.Signal(syscall.SIGSTOP)
			w.away(w.stopped())
			w.agent.Signal(syscall.SIGCONT)
			w.note("nothing is sealed meanwhile")
		}},
		{"collector hangs (SIGSTOP)", false, func(w *world) {
			w.begin()
			w.aWhile()
			w.collector.Signal(syscall.SIGSTOP)
			w.away(w.stopped())
			w.collector.Signal(syscall.SIGCONT)
			w.note("nothing is acknowledged meanwhile")
		}},
		{"two collectors on one ledger", true, twoCollectors},
		{"store's server killed three times", false, func(w *world) {
			s, ok := w.place.(served)
			if !ok {
				w.skip("the store is no server")
			}
			w.begin()
			for range 3 {
				w.aWhile()
				s.kill()
				w.pass(between(w.rng, 0, 2*time.Second))
				s.start(w.t)
			}
			// What notices first is chance: a commit, a node's hello, the documents.
			w.mayHaveSeen("the store fails; nothing is acknowledged until it works",
				"a stream is refused, since the store does not tell", "does not come into force here; trying again")
		}},
		{"two agents on one state folder", false, func(w *world) {
			w.begin()
			w.aWhile()
			first := w.agent
			w.startAgent()
			if !w.agent.Within(time.Minute) || w.agent.Err == nil {
				w.t.Fatalf("a second agent took the state folder: %v", w.agent.Err)
			}
			w.sees(w.agent, time.Second, "held by another process")
			w.agent = first
		}},
	}
}

func twoCollectors(w *world) {
	w.file()
	w.begin()
	w.aWhile()
	addr, err := loopback.Address()
	if err != nil {
		w.t.Fatal(err)
	}
	second := w.launch(w.place, "second", addr)
	if !second.Within(time.Minute) || second.Err == nil {
		w.t.Fatalf("a second collector took the ledger: %v", second.Err)
	}
	w.sees(second, time.Second, "is already in use by process")
}
