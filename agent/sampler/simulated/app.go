package simulated

import "github.com/gpuledger/gpuledger/attribution"

// appKind is what sort of work an app does.
type appKind uint8

const (
	server appKind = iota // inference
	trainer
	notebook
	shortJobs
	hostProcess
	unknownProcess
)

// app is something that runs, in any number of seats. It is immutable.
type app struct {
	kind           appKind
	name           string // of the controller, or the command of a bare process
	namespace      string
	controllerKind string
	labels         attribution.Labels
	processes      int
	memory         int64 // bytes of a pod
	peak           int64 // thousandths of a device that it asks for at its busiest hour
	// A pod lives up to life seconds, and the next comes up to pause seconds
	// after it. Life 0 is for ever.
	life, pause int64

	// Of servers:
	model                 string
	request               int64 // ns of a whole device's SM activity
	input, cached, output int64 // mean tokens of a request, 0: no tokens
	latency               int64 // bucket of an unhurried request
	customers             []customer
}

// customer is someone that a gateway knows, with a weight of requests.
type customer struct {
	tenant, tier string
	weight       int64
}

// day is the load by the hour, in thousandths of the busiest (UTC).
var day = [24]int64{
	300, 240, 200, 180, 180, 220, 320, 480, 650, 780, 860, 900,
	880, 900, 940, 1000, 980, 930, 880, 820, 720, 600, 480, 380,
}

// hourly is the load at a Unix second, straight between the hours.
func hourly(unix int64) int64 {
	h, past := unix/3600%24, unix%3600
	return day[h] + (day[(h+1)%24]-day[h])*past/3600
}

// demand is what a pod asks of its device at a tick, in thousandths.
func (a *app) demand(x *seat, tick, unix int64) int64 {
	age := tick - x.pod.born
	switch a.kind {
	case server:
		return a.serverDemand(x, age, tick, unix)
	case trainer:
		if age%600 < 12 { // it loads, or writes a checkpoint
			return 40
		}
		return a.peak - below(80, x.seed, uint64(tick))
	case notebook: // a cell is run now and then
		if below(12, x.seed, uint64(tick/45)) != 0 {
			return 0
		}
		return a.peak - below(200, x.seed, uint64(tick))
	case shortJobs, hostProcess:
		return a.peak - below(100, x.seed, uint64(tick))
	case unknownProcess:
		if below(3, x.seed, uint64(tick/20)) != 0 {
			return 0
		}
		return a.peak
	}
	panic("BUG: simulated: an app of no kind")
}

// serverDemand follows the day, comes in bursts of some seconds, and is often
// nothing at all: requests are few and large.
func (a *app) serverDemand(x *seat, age, tick, unix int64) int64 {
	if a.peak == 0 || (age < 20 && x.count > 1) { // it loads its weights
		return 0
	}
	load := a.peak * hourly(unix) / whole
	spell := uint64(tick / 6)
	switch c := below(whole, x.seed, spell); {
	case c > load+250: // the busier, the fewer the quiet spells
		return 0
	case c < 90: // burst
		load = load*2 + 150
	}
	return max(load+below(160, x.seed^1, uint64(tick))-80, 0)
}
