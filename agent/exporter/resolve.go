package exporter

import "github.com/gpuledger/gpuledger/attribution"

// device is a device that is known.
type device struct {
	Device
	refs int // series of it
}

// resolved is the last roster, and what its numbers mean here. Rosters are in
// canonical order and hardly change from second to second, so the next one is
// resolved by walking both at once; only who is new costs a look-up.
type resolved struct {
	facts   []attribution.Owner
	owners  []*owner
	devices []*device

	spareFacts  []attribution.Owner
	spareOwners []*owner
}

func (e *Exporter) resolve(r *attribution.Roster) {
	old := &e.roster
	facts, owners := old.spareFacts[:0], old.spareOwners[:0]
	facts = append(facts, r.Owners...)
	j := 0
	for i := range r.Owners {
		for j < len(old.facts) && attribution.CompareOwners(&old.facts[j], &r.Owners[i]) < 0 {
			j++
		}
		var o *owner
		if j < len(old.facts) && attribution.CompareOwners(&old.facts[j], &r.Owners[i]) == 0 {
			o = old.owners[j]
		} else {
			o = e.owner(e.describe(&r.Owners[i]))
		}
		o.seen = e.second
		owners = append(owners, o)
	}
	clear(old.facts) // no text is kept for longer than it is used
	old.facts, old.spareFacts = facts, old.facts
	old.owners, old.spareOwners = owners, old.owners
	old.devices = old.devices[:0]
	for i := range r.Devices {
		old.devices = append(old.devices, e.device(&r.Devices[i]))
	}
}

// owner finds an owner, or makes it known.
func (e *Exporter) owner(d Owner) *owner {
	key := d.key()
	if o := e.owners[key]; o != nil {
		return o
	}
	if d.Process != "" && d.Process != Other {
		if e.processes >= e.o.MaxProcesses {
			e.stats.OverflowedCommands++
			return e.owner(Owner{Kind: d.Kind, Process: Other, Labels: make([]string, len(e.o.Labels))})
		}
		e.processes++
	}
	o := &owner{Owner: d, key: key}
	e.owners[key] = o
	return o
}

func (e *Exporter) forget(o *owner) {
	if o.Process != "" && o.Process != Other {
		e.processes--
	}
	delete(e.owners, o.key)
}

// overflow is the owner of what comes beyond the limit.
func (e *Exporter) overflow() *owner {
	o := e.owner(Owner{Kind: OverflowKind, Pod: Overflow, Labels: make([]string, len(e.o.Labels))})
	o.seen = e.second
	return o
}

// device finds a device and notes what it is now.
func (e *Exporter) device(a *attribution.Device) *device {
	id := text(a.ID)
	d := e.devices[id]
	if d == nil {
		if e.full() {
			return e.overflowDevice()
		}
		d = &device{Device: Device{ID: id}}
		e.devices[id] = d
	}
	d.Facts = DeviceFacts{
		Model: text(a.Model), Profile: text(a.Profile), Parent: text(a.Parent), CapacityType: text(a.CapacityType),
		MemoryBytes: a.MemoryBytes, Memory: a.Sensors&attribution.SensorMemory != 0, Energy: a.Sensors&attribution.SensorEnergy != 0,
	}
	return d
}

func (e *Exporter) overflowDevice() *device {
	d := e.devices[Overflow]
	if d == nil {
		// It stands for devices of any sort: whatever they measure is summed.
		d = &device{Device: Device{ID: Overflow, Facts: DeviceFacts{Memory: true, Energy: true}}}
		e.devices[Overflow] = d
	}
	return d
}

// full reports whether the limit is reached. Only the overflow owner and device
// go beyond it: by five bases a device, and a few tallies.
func (e *Exporter) full() bool { return len(e.series)+len(e.tallies)+len(e.devices) >= e.o.MaxSeries }
