package chunker

import "github.com/gpuledger/gpuledger/attribution"

// batch holds the windows and tallies of some seconds. Its memory is used
// again from chunk to chunk.
type batch struct {
	windows []attribution.DeviceWindow
	slices  []attribution.Slice
	tallies []attribution.Tally
}

// mark is a place in a batch.
type mark struct{ windows, tallies int }

func (b *batch) mark() mark { return mark{len(b.windows), len(b.tallies)} }

func (b *batch) reset() {
	clear(b.windows)
	b.windows, b.slices, b.tallies = b.windows[:0], b.slices[:0], b.tallies[:0]
}

// add copies a second, its numbers moved up by base.
func (b *batch) add(windows []attribution.DeviceWindow, tallies []attribution.Tally, base numbers) {
	for i := range windows {
		w := windows[i]
		w.Device += base.device
		w.Method += base.method
		// Where this grows, the windows before keep the old array.
		n := len(b.slices)
		b.slices = append(b.slices, w.Slices...)
		w.Slices = b.slices[n:len(b.slices):len(b.slices)]
		if base.owner != 0 {
			for j := range w.Slices {
				w.Slices[j].Owner += base.owner
			}
		}
		b.windows = append(b.windows, w)
	}
	for _, t := range tallies {
		t.Subject += base.subject
		t.Measure += base.measure
		b.tallies = append(b.tallies, t)
	}
}

// numbers are the first numbers of a part.
type numbers struct {
	device, owner, subject uint32
	method, measure        uint16
}

// parts resolves the numbers of an open chunk: first those of the rosters of
// recovered seconds, one behind the other, then the meter's own. Without
// recovered seconds, which is nearly always, it is the meter's numbering.
type parts struct {
	rosters  []part
	end      numbers // where the meter's begin
	facts    attribution.Facts
	subjects map[uint32]*attribution.Subject // moved up
}

type part struct {
	id     attribution.Fingerprint
	roster *attribution.Roster
	base   numbers
}

func (p *parts) reset() { *p = parts{} }

// meter makes facts the last part.
func (p *parts) meter(facts attribution.Facts) numbers {
	p.facts = facts
	return p.end
}

// recovered adds a recovered second's roster, unless it is there.
func (p *parts) recovered(id attribution.Fingerprint, r *attribution.Roster) numbers {
	for _, x := range p.rosters {
		if x.id == id {
			return x.base
		}
	}
	base := p.end
	p.rosters = append(p.rosters, part{id, r, base})
	p.end = numbers{
		device:  base.device + uint32(len(r.Devices)),
		owner:   base.owner + uint32(len(r.Owners)),
		subject: base.subject + uint32(len(r.Subjects)),
		method:  base.method + uint16(len(r.Methods)),
		measure: base.measure + uint16(len(r.Measures)),
	}
	return base
}

// Device implements [attribution.Facts], as the others do.
func (p *parts) Device(i uint32) *attribution.Device {
	if i >= p.end.device {
		return p.facts.Device(i - p.end.device)
	}
	x := p.part(func(n numbers) bool { return n.device <= i })
	return &x.roster.Devices[i-x.base.device]
}

func (p *parts) Owner(i uint32) *attribution.Owner {
	if i >= p.end.owner {
		return p.facts.Owner(i - p.end.owner)
	}
	x := p.part(func(n numbers) bool { return n.owner <= i })
	return &x.roster.Owners[i-x.base.owner]
}

func (p *parts) Method(i uint16) string {
	if i >= p.end.method {
		return p.facts.Method(i - p.end.method)
	}
	x := p.part(func(n numbers) bool { return n.method <= i })
	return x.roster.Methods[i-x.base.method]
}

func (p *parts) Measure(i uint16) attribution.Measure {
	if i >= p.end.measure {
		return p.facts.Measure(i - p.end.measure)
	}
	x := p.part(func(n numbers) bool { return n.measure <= i })
	return x.roster.Measures[i-x.base.measure]
}

func (p *parts) Subject(i uint32) *attribution.Subject {
	var s *attribution.Subject
	owner := p.end.owner
	if i >= p.end.subject {
		s = p.facts.Subject(i - p.end.subject)
	} else {
		x := p.part(func(n numbers) bool { return n.subject <= i })
		s, owner = &x.roster.Subjects[i-x.base.subject], x.base.owner
	}
	if owner == 0 {
		return s
	}
	moved, ok := p.subjects[i]
	if !ok {
		moved = &attribution.Subject{Owner: s.Owner + owner, Model: s.Model, Tenant: s.Tenant, Tier: s.Tier}
		if p.subjects == nil {
			p.subjects = map[uint32]*attribution.Subject{}
		}
		p.subjects[i] = moved
	}
	return moved
}

// part is the last one whose base is at or before a number. Empty parts share
// their base with the next, which is the one that holds the number.
func (p *parts) part(before func(numbers) bool) *part {
	for i := len(p.rosters) - 1; i > 0; i-- {
		if before(p.rosters[i].base) {
			return &p.rosters[i]
		}
	}
	return &p.rosters[0]
}
