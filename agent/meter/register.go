package meter

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// ErrFull is wrapped by errors about a limit of [Options] that was reached.
var ErrFull = errors.New("the meter's limit is reached")

type (
	deviceEntry  = entry[attribution.Device]
	ownerEntry   = entry[attribution.Owner]
	subjectEntry = entry[subject]
)

// subject is a subject by its owner's entry; facts.Owner is that entry's
// number, and the sealer's own.
type subject struct {
	owner *ownerEntry // nil is nobody
	facts attribution.Subject
}

// DeviceHandle is a registered description of a device. Handles of any kind
// stay good for as long as they are held, and equal facts have equal handles
// as long as both are in use.
type DeviceHandle struct{ e *deviceEntry }

// OwnerHandle is a registered owner; the zero value is nobody.
type OwnerHandle struct{ e *ownerEntry }

// SubjectHandle is a registered subject of tallies.
type SubjectHandle struct{ e *subjectEntry }

// MeasureHandle is a registered measure; the zero value is none.
type MeasureHandle uint16

// Is reports whether the handle stands for an owner with these very facts.
func (h OwnerHandle) Is(o *attribution.Owner) bool {
	if h.e == nil || o == nil {
		return h.e == nil && (o == nil || o.Kind == attribution.Nobody)
	}
	return equalOwners(&h.e.value, o)
}

// ID is the device's id, "" for the zero handle.
func (h DeviceHandle) ID() string {
	if h.e == nil {
		return ""
	}
	return h.e.value.ID
}

// Device registers a device's description. Descriptions with the same ID are
// of the same device. d is copied. Any goroutine may call it.
func (m *Meter) Device(d *attribution.Device) (DeviceHandle, error) {
	if d == nil || d.ID == "" {
		return DeviceHandle{}, errors.New("a device needs an id: its NVML UUID")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	hash := m.hashDevice(d)
	if e := m.devices.find(hash, d); e != nil {
		m.byID[d.ID] = e
		return DeviceHandle{e}, nil
	}
	e := &deviceEntry{value: *d, hash: hash}
	e.value.Labels = slices.Clone(d.Labels)
	if !m.devices.insert(e, m.Next()) {
		return DeviceHandle{}, fmt.Errorf("device %s: %w: %d devices", d.ID, ErrFull, m.devices.limit)
	}
	m.byID[d.ID] = e
	return DeviceHandle{e}, nil
}

// Lookup finds the description of a device that was registered last.
func (m *Meter) Lookup(id string) (DeviceHandle, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byID[id]
	return DeviceHandle{e}, ok
}

// Owner registers an owner. An owner whom the limit refuses becomes nobody:
// uses by nobody are unattributed, and what nobody holds is unallocated. o is
// copied; nil is nobody. Any goroutine may call it.
func (m *Meter) Owner(o *attribution.Owner) OwnerHandle {
	if o == nil || o.Kind == attribution.Nobody {
		return OwnerHandle{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	hash := m.hashOwner(o)
	if e := m.owners.find(hash, o); e != nil {
		return OwnerHandle{e}
	}
	e := &ownerEntry{value: *o, hash: hash}
	e.value.Labels = slices.Clone(o.Labels)
	if !m.owners.insert(e, m.Next()) {
		return OwnerHandle{}
	}
	return OwnerHandle{e}
}

// Subject registers what tallies are about. It is an error if the limit
// refuses it. Any goroutine may call it.
func (m *Meter) Subject(o OwnerHandle, model, tenant, tier string) (SubjectHandle, error) {
	s := subject{owner: o.e, facts: attribution.Subject{Model: model, Tenant: tenant, Tier: tier}}
	m.mu.Lock()
	defer m.mu.Unlock()
	hash := m.hashSubject(&s)
	if e := m.subjects.find(hash, &s); e != nil {
		return SubjectHandle{e}, nil
	}
	e := &subjectEntry{value: s, hash: hash}
	if !m.subjects.insert(e, m.Next()) {
		return SubjectHandle{}, fmt.Errorf("subject of model %q: %w: %d subjects", model, ErrFull, m.subjects.limit)
	}
	return SubjectHandle{e}, nil
}

// Measure registers a measure. Measures are few and are never forgotten. A
// failure's reason beyond the limit is counted as failure/other; any other
// measure is an error. Any goroutine may call it.
func (m *Meter) Measure(name attribution.Measure) (MeasureHandle, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.measures[name]; ok {
		return h, nil
	}
	names := *m.measureNames.Load()
	if len(names) > m.opt.Measures {
		m.refusedMeasures++
		if len(name) > len(attribution.FailurePrefix) && name[:len(attribution.FailurePrefix)] == attribution.FailurePrefix {
			return m.measures[failureOther], nil
		}
		return 0, fmt.Errorf("measure %q: %w: %d measures", name, ErrFull, m.opt.Measures)
	}
	h := MeasureHandle(len(names))
	// A new slice: the sealer reads the old one meanwhile.
	names = append(slices.Clone(names), name)
	m.measureNames.Store(&names)
	m.measures[name] = h
	return h, nil
}

const failureOther = attribution.FailurePrefix + "other"

func equalDevices(a, b *attribution.Device) bool { return attribution.CompareDevices(a, b) == 0 }

func equalOwners(a, b *attribution.Owner) bool {
	return a.Kind == b.Kind && a.PID == b.PID && a.Cluster == b.Cluster && a.Node == b.Node &&
		a.Namespace == b.Namespace && a.Pod == b.Pod && a.PodUID == b.PodUID && a.Container == b.Container &&
		a.ControllerKind == b.ControllerKind && a.Controller == b.Controller && a.Command == b.Command &&
		slices.Equal(a.Labels, b.Labels)
}

func equalSubjects(a, b *subject) bool {
	if a.facts.Model != b.facts.Model || a.facts.Tenant != b.facts.Tenant || a.facts.Tier != b.facts.Tier {
		return false
	}
	if a.owner == nil || b.owner == nil {
		return a.owner == b.owner
	}
	return a.owner == b.owner || equalOwners(&a.owner.value, &b.owner.value)
}

// The hashes only find candidates, which are then compared: facts made to
// collide cost time, never a wrong owner.

func (m *Meter) hashStrings(h *maphash.Hash, ss ...string) {
	h.SetSeed(m.seed)
	for _, s := range ss {
		h.WriteString(s)
		h.WriteByte(0)
	}
}

func (m *Meter) hashDevice(d *attribution.Device) uint64 {
	var h maphash.Hash
	m.hashStrings(&h, d.ID, d.Node, d.Model, d.Profile)
	return h.Sum64()
}

func (m *Meter) hashOwner(o *attribution.Owner) uint64 {
	var h maphash.Hash
	m.hashStrings(&h, o.Namespace, o.Pod, o.PodUID, o.Container, o.Command)
	h.WriteByte(byte(o.Kind))
	for shift := 0; shift < 32; shift += 8 {
		h.WriteByte(byte(o.PID >> shift))
	}
	return h.Sum64()
}

func (m *Meter) hashSubject(s *subject) uint64 {
	var h maphash.Hash
	m.hashStrings(&h, s.facts.Model, s.facts.Tenant, s.facts.Tier)
	if s.owner != nil {
		for shift := 0; shift < 64; shift += 8 {
			h.WriteByte(byte(s.owner.hash >> shift))
		}
	}
	return h.Sum64()
}
