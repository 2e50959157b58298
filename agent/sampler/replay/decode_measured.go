package replay

import (
	"slices"
	"strconv"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

func (d *decoder) sample(e *sampler.Event) {
	s := one(&d.samples)
	e.Kind, e.Sample = sampler.Sampled, s
	procs := d.scratch.processes[:0]
	var seen uint32
	var sm, memory uint32 // processes that say it
	for d.more('}') {
		switch d.key(sampleKeys, &seen) {
		case 0:
			e.Time = d.time()
		case 1:
			d.deviceID(e)
		case 2:
			s.SMActive = d.counter()
		case 3:
			s.Energy = d.counter()
		case 4:
			s.Gap = d.bool()
		case 5:
			s.ProcessSM = d.bool()
		case 6:
			for d.open('['); d.more(']'); {
				if len(procs) == maxProcesses {
					d.fail("no device has so many", "more than %d processes", maxProcesses)
				}
				procs = append(procs, d.process(&sm, &memory))
			}
		}
	}
	d.end()
	d.need(sampleKeys, seen, 3)
	d.scratch.processes = procs
	s.Processes = keep(&d.processes, procs)
	x := d.rules.devices[e.DeviceID]
	if x == nil || x.facts == nil {
		return // rules finds fault with it
	}
	d.measured("energy_uj", seen>>3&1, x.facts.Sensors&attribution.SensorEnergy != 0, 1)
	d.measured("sm_active_ns of a process", sm, s.ProcessSM, len(procs))
	d.measured("memory_bytes of a process", memory, x.facts.Sensors&attribution.SensorMemory != 0, len(procs))
}

// measured finds fault with readings that are there without their sensor, or
// not all there with it: 0 is not unknown.
func (s *scanner) measured(what string, there uint32, sensor bool, all int) {
	switch {
	case sensor && int(there) < all:
		s.fail("write a 0 where 0 was measured; what is not measured is not declared", "%s is missing", what)
	case !sensor && there > 0:
		s.fail("a reading needs its sensor in the device's sensors, or process_sm", "%s was not measured", what)
	}
}

func (s *scanner) counter() int64 { return s.int(1<<63 - 1) }

func (d *decoder) process(sm, memory *uint32) (p sampler.Process) {
	d.open('{')
	var seen uint32
	for d.more('}') {
		switch d.key(processKeys, &seen) {
		case 0:
			p.PID = uint32(d.int(1<<32 - 1))
		case 1:
			p.Start = d.fixed(0, 1<<64-1)
		case 2:
			p.Owner = d.ownerRef()
		case 3:
			p.SMActive = d.counter()
			*sm++
		case 4:
			p.MemoryBytes = d.int(maxMemory)
			*memory++
		}
	}
	d.need(processKeys, seen, 3)
	return p
}

func (d *decoder) tally(e *sampler.Event) {
	t := one(&d.tallies)
	e.Kind, e.Tally = sampler.Tallied, t
	d.scratch.values = d.scratch.values[:0]
	var seen uint32
	for d.more('}') {
		switch d.key(tallyKeys, &seen) {
		case 0:
			e.Time = d.time()
		case 1:
			t.Owner = d.ownerRef()
		case 2:
			t.Seconds = d.int(maxInterval / attribution.WindowNanos)
		case 3:
			t.Model = d.intern()
		case 4:
			t.Tenant = d.intern()
		case 5:
			t.Tier = d.intern()
		case 6:
			d.count(attribution.Success)
		case 7:
			d.counts(d.failure)
		case 8:
			d.counts(d.tokens)
		case 9:
			d.counts(func() attribution.Measure { return d.bucket(latency) })
		case 10:
			d.count(attribution.Queue)
		case 11:
			d.counts(func() attribution.Measure { return d.bucket(firstToken) })
		case 12:
			d.count(attribution.Running)
		case 13:
			d.count(attribution.KVCache)
		case 14:
			d.count(attribution.Observed)
		case 15:
			d.count(attribution.Checkpoint)
		}
	}
	d.end()
	d.need(tallyKeys, seen, 3)
	if t.Owner != nil {
		e.Node = t.Owner.Node
	}
	byMeasure := func(a, b sampler.Value) int { return compareMeasures(a.Measure, b.Measure) }
	if !slices.IsSortedFunc(d.scratch.values, byMeasure) {
		slices.SortFunc(d.scratch.values, byMeasure)
	}
	t.Values = keep(&d.values, d.scratch.values)
}

// counts reads an object whose keys measure turns into measures.
func (d *decoder) counts(measure func() attribution.Measure) {
	for d.open('{'); d.more('}'); {
		m := measure()
		if d.bad == nil && d.take(':') {
			d.count(m)
		}
	}
}

// count reads a measure's value: tokens are whole, events may be fractions.
func (d *decoder) count(m attribution.Measure) {
	where, limit := measureOf(m)
	scale := 6
	if where == tokens {
		scale = 0
	}
	v := int64(d.fixed(scale, uint64(limit)))
	d.scratch.values = append(d.scratch.values, sampler.Value{Measure: m, Value: v})
}

func (d *decoder) failure() attribution.Measure {
	b := append([]byte(attribution.FailurePrefix), d.bytes()...)
	if len(b) == len(attribution.FailurePrefix) {
		d.fail("name the class of failure", "failures without a reason")
	}
	return attribution.Measure(d.known(b))
}

func (d *decoder) tokens() attribution.Measure {
	i := d.oneOf(tokenKeys)
	return [...]attribution.Measure{"", attribution.TokensInput, attribution.TokensCached, attribution.TokensOutput, attribution.TokensAborted}[i+1]
}

func (d *decoder) bucket(histogram place) attribution.Measure {
	prefix := placePrefixes[histogram]
	b := append([]byte(prefix), d.bytes()...)
	m := attribution.Measure(d.known(b))
	if d.bad == nil && bucketOf(m, histogram) < 0 {
		d.fail("a bucket is a number from 0 to "+strconv.Itoa(attribution.Buckets-1), "unknown %s bucket %q", placeKeys[histogram], b[len(prefix):])
	}
	return m
}
