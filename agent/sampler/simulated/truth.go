package simulated

import "github.com/gpuledger/gpuledger/attribution"

// Truth is what happened in a simulation so far: what a ledger that was told
// all its events must come to. It runs ahead of the events that Next returned
// by less than a second, and is exact once Next has returned io.EOF.
type Truth struct {
	DeviceTime int64             // ns of all devices, whatever they did
	Unobserved int64             // ns of them in gaps
	Used       map[string]int64  // observed SM activity in ns, by the app's name
	Served     map[string]Served // by model
}

// Served is what was served of one model.
type Served struct {
	Success, Failures     attribution.Count
	Input, Cached, Output int64 // tokens
}

type served = Served

type truth struct {
	unobserved int64
	deviceTime int64
	used       map[*app]int64
	served     map[string]*served
}

// Truth is what happened so far.
func (s *Script) Truth() Truth {
	t := Truth{
		DeviceTime: s.truth.deviceTime, Unobserved: s.truth.unobserved,
		Used: make(map[string]int64), Served: make(map[string]Served),
	}
	for a, ns := range s.truth.used {
		t.Used[a.name] += ns
	}
	for model, x := range s.truth.served {
		t.Served[model] = *x
	}
	return t
}
