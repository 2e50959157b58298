package meter

import (
	"math"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// kind says what a record tells. The order of the first four is the order in
// which they count at one instant.
type kind uint8

const (
	removed kind = iota + 1
	added
	released
	held
	activity
	use
	tallied
)

// control reports whether the record changes existence or holdings.
func (k kind) control() bool { return k <= held }

func (k kind) holding() bool { return k == held || k == released }

// Record is one thing that a producer saw, made by one of the functions below.
// Times are Unix nanoseconds; an interval [from, to) must not be empty.
//
// It is eight words, so that with the lane it is passed in registers.
type Record struct {
	tag      tag
	device   DeviceHandle
	owner    OwnerHandle
	subject  SubjectHandle
	from, to int64
	a, b     int64 // SM-active ns and µJ, or byte-seconds; or replicas; or a value
}

// tag packs, from the lowest bit: the kind (8), what is known of SM activity
// per process (8), the measure (16), and the sequence within the lane (32).
type tag uint64

func (t tag) kind() kind             { return kind(t) }
func (t tag) processSM() bool        { return t&tagProcessSM != 0 }
func (t tag) sharedServer() bool     { return t&tagSharedServer != 0 }
func (t tag) measure() MeasureHandle { return MeasureHandle(t >> 16) }
func (t tag) seq() uint32            { return uint32(t >> 32) }
func (t tag) withSeq(n uint32) tag   { return t&math.MaxUint32 | tag(n)<<32 }

const (
	tagProcessSM    tag = 1 << 8
	tagSharedServer tag = 1 << 9
)

// Activity says that a device was observed over [from, to), was SM-active for
// smActive ns of it, and took energy µJ. processSM says that the uses within it
// carry SM activity of their own.
func Activity(d DeviceHandle, from, to, smActive, energy int64, processSM bool) Record {
	t := tag(activity)
	if processSM {
		t |= tagProcessSM
	}
	return Record{tag: t, device: d, from: from, to: to, a: smActive, b: energy}
}

// SharedServer says of an [Activity] that the uses within it carry an MPS
// server's activity, split over its clients.
func SharedServer(r Record) Record {
	r.tag |= tagSharedServer
	return r
}

// Use says that an owner's processes were SM-active on a device for smActive
// ns of [from, to), and occupied memory byte-seconds. It does not by itself
// make the time observed.
func Use(d DeviceHandle, o OwnerHandle, from, to, smActive, memory int64) Record {
	return Record{tag: tag(use), device: d, owner: o, from: from, to: to, a: smActive, b: memory}
}

// Hold says that an owner holds so many replicas of a device from a time on.
func Hold(d DeviceHandle, o OwnerHandle, replicas, at int64) Record {
	return Record{tag: tag(held), device: d, owner: o, from: at, to: at, a: replicas}
}

// Release says that an owner holds a device no longer.
func Release(d DeviceHandle, o OwnerHandle, at int64) Record {
	return Record{tag: tag(released), device: d, owner: o, from: at, to: at}
}

// Added says that a device exists from a time on. If it does already, it is
// described anew from the next window on; and if it was known from [State]
// alone, the holdings restored with it end: its source states them afresh.
func Added(d DeviceHandle, at int64) Record {
	return Record{tag: tag(added), device: d, from: at, to: at}
}

// Removed says that a device exists no longer. Its holdings end with it.
func Removed(d DeviceHandle, at int64) Record {
	return Record{tag: tag(removed), device: d, from: at, to: at}
}

// Tallied says that value of a measure was served over [from, to). It is
// spread evenly; each window touched gets its part, 0 included.
func Tallied(s SubjectHandle, m MeasureHandle, from, to, value int64) Record {
	return Record{tag: tag(tallied) | tag(m)<<16, subject: s, from: from, to: to, a: value}
}

// sameKey reports whether two records tell about the same thing, so that a
// full lane may make one of them.
func (r *Record) sameKey(x *Record) bool {
	if r.device != x.device || r.owner != x.owner || r.subject != x.subject {
		return false
	}
	rk, xk := r.tag.kind(), x.tag.kind()
	return r.tag.withSeq(0) == x.tag.withSeq(0) || (rk.holding() && xk.holding())
}

// touches reports whether two intervals meet, so that joining them covers no
// time that neither of them covers.
func (r *Record) touches(x *Record) bool { return x.from <= r.to && r.from <= x.to }

// join takes a newer record of the same key in. Of two statements about the
// same holding or existence the newer counts; amounts add up.
func (r *Record) join(x *Record) {
	if x.tag.kind().control() {
		*r = *x
		return
	}
	r.from, r.to, r.tag = min(r.from, x.from), max(r.to, x.to), r.tag.withSeq(x.tag.seq())
	r.a, r.b = apportion.SaturatingAdd(r.a, x.a), apportion.SaturatingAdd(r.b, x.b)
}
