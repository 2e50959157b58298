package nvmlstub

import (
	"time"
)

// holds says whether a span covers a time, both in ns since the start.
func (s Span) holds(t int64) bool {
	return int64(s.At) <= t && (s.For == 0 || t < int64(s.At+s.For))
}

// edges appends the span's ends.
func (s Span) edges(dst []int64) []int64 {
	dst = append(dst, int64(s.At))
	if s.For != 0 {
		dst = append(dst, int64(s.At+s.For))
	}
	return dst
}

// busy says whether a process wants its device at a time (ns since the start,
// which is at Unix time start), and until when that stays so.
func (p *Process) busy(start, t int64) (wants bool, until int64) {
	until = 1<<63 - 1
	if p.Off != 0 {
		cycle := int64(p.On + p.Off)
		phase := (start + t) % cycle
		wants = phase < int64(p.On)
		if wants {
			until = t + int64(p.On) - phase
		} else {
			until = t + cycle - phase
		}
	} else {
		wants = true
	}
	return wants && p.holds(t), until
}

// TrueSM is the SM time of the i'th process between two times: what it wanted,
// or its part of the device (or instance) where all together wanted more than
// there is. A process line is taken for one process that lives for as long as
// the line holds; of one that matches, set the line's Span to its life first.
// The scenario must have a Start.
func (s *Scenario) TrueSM(i int, from, to time.Time) time.Duration {
	return s.truth(s.Processes[i].Device, from, to)[i]
}

// TrueDeviceSM is the SM time of a device or of a MIG instance as a whole. Of
// a GPU in MIG mode, it is that of its instances by their size.
func (s *Scenario) TrueDeviceSM(uuid string, from, to time.Time) time.Duration {
	var sum time.Duration
	for _, d := range s.truth(uuid, from, to) {
		sum += d
	}
	for _, in := range s.Instances {
		if in.Device == uuid {
			compute := in.Compute
			if compute == 0 {
				compute = in.Slices
			}
			sum += s.TrueDeviceSM(in.UUID, from, to) * time.Duration(compute) / time.Duration(s.slices(uuid))
		}
	}
	return sum
}

func (s *Scenario) slices(uuid string) int {
	for _, d := range s.Devices {
		if d.UUID == uuid && d.Slices != 0 {
			return d.Slices
		}
	}
	return 7
}

// exists says whether a unit is there at a time, if it is a MIG instance.
func (s *Scenario) exists(uuid string, t int64) bool {
	instance := false
	for _, in := range s.Instances {
		if in.UUID == uuid {
			instance = true
			if in.holds(t) {
				return true
			}
		}
	}
	return !instance
}

// truth is the SM time of each process on a device or instance.
func (s *Scenario) truth(unit string, from, to time.Time) []time.Duration {
	start := s.Start.UnixNano()
	now, end := from.UnixNano()-start, to.UnixNano()-start
	out := make([]time.Duration, len(s.Processes))
	var edges []int64
	for i := range s.Processes {
		edges = s.Processes[i].edges(edges)
	}
	for _, in := range s.Instances {
		edges = in.edges(edges)
	}
	for now < end {
		next, wanted := end, 0
		for _, e := range edges {
			if e > now {
				next = min(next, e)
			}
		}
		for i := range s.Processes {
			p := &s.Processes[i]
			if p.Device != unit || !s.exists(unit, now) {
				continue
			}
			wants, until := p.busy(start, now)
			next = min(next, until)
			if wants {
				wanted += p.SM
			}
		}
		for i := range s.Processes {
			p := &s.Processes[i]
			if p.Device != unit || !s.exists(unit, now) {
				continue
			}
			if wants, _ := p.busy(start, now); wants {
				out[i] += time.Duration((next - now) * int64(p.SM) / int64(max(wanted, 100)))
			}
		}
		now = next
	}
	return out
}
