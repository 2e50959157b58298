package faults

import (
	"time"

	"github.com/gpuledger/gpuledger/test/faults/network"
)

func networkFaults() []fault {
	cut := network.Conditions{Cut: true}
	return []fault{
		{"network cut both ways", false, func(w *world) { w.spoil(cut, cut) }},
		{"network cut towards the collector", false, func(w *world) { w.spoil(cut, network.Conditions{}) }},
		// What is stored is not known to be: it is sent again.
		{"network cut towards the agent", true, func(w *world) { w.spoil(network.Conditions{}, cut) }},
		{"network slow, lossy, doubling, out of order", false, func(w *world) {
			bad := network.Conditions{LossPercent: 3, TwicePct: 5, Delay: 20 * time.Millisecond, Jitter: 40 * time.Millisecond, Rate: 50_000}
			w.join()
			w.link.Set(network.Left, bad)
			w.link.Set(network.Right, bad)
			w.begin()
			w.pass(w.stopped() / 10)
			if w.link.Lost(network.Left)+w.link.Lost(network.Right) == 0 {
				w.t.Error("the network has lost nothing")
			}
			w.note("everything is late")
		}},
		{"network cut again and again", false, func(w *world) {
			w.play.minutes = 120 // all of it takes up to 25 s
			w.join()
			w.begin()
			for range 5 {
				w.aWhile()
				w.link.Set(network.Side(w.rng.IntN(2)), cut)
				w.away(between(w.rng, 0, 3*time.Second))
				w.link.Set(network.Left, network.Conditions{})
				w.link.Set(network.Right, network.Conditions{})
			}
			w.note("everything is late")
		}},
	}
}

// join puts a link between agent and collector.
func (w *world) join() {
	w.t.Helper()
	w.why = "no network namespaces, or no TUN devices, without root"
	w.link = network.New(w.t, w.seed)
	w.why = ""
	if s, ok := w.place.(served); ok {
		for _, at := range s.addresses() {
			w.link.Reach(w.t, network.Right, at)
		}
	}
}

// spoil spoils the network for a while in the middle of the play.
func (w *world) spoil(fromAgent, fromCollector network.Conditions) {
	w.t.Helper()
	w.join()
	w.begin()
	w.aWhile()
	w.link.Set(network.Left, fromAgent)
	w.link.Set(network.Right, fromCollector)
	for range 2 {
		w.away(w.stopped() / 2)
	}
	w.link.Set(network.Left, network.Conditions{})
	w.link.Set(network.Right, network.Conditions{})
	if w.link.Lost(network.Left)+w.link.Lost(network.Right) == 0 {
		w.t.Error("nothing was lost on the way: the network was never cut")
	}
	w.note("`gpuledger status`: away, or STORED stands still")
}
