package meter

import (
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
)

// State is what has to outlive the agent so that the time until it looks again
// is billed to the right owners: who held what at the first unsealed instant.
type State struct {
	Next    attribution.Second
	Devices []DeviceState
}

// DeviceState is one device and its holders, in canonical order.
type DeviceState struct {
	Device   attribution.Device
	Holdings []HoldingState
}

// HoldingState is one holder of a device.
type HoldingState struct {
	Owner    attribution.Owner
	Replicas int64
}

// State is a snapshot as of the end of the last sealed second, for use within
// emit or between calls of Seal. What producers said of the time after it is
// not part of it.
func (m *Meter) State() State {
	st := State{Next: m.Next()}
	for _, s := range m.order {
		if !s.exists {
			continue
		}
		d := DeviceState{Device: s.device.value}
		for _, h := range s.holdings {
			d.Holdings = append(d.Holdings, HoldingState{h.owner.value, h.replicas})
		}
		st.Devices = append(st.Devices, d)
	}
	return st
}

// Restore takes a state over into a meter that has not sealed yet, and seals
// from the given second on. Until there are fresh readings the restored
// devices' time is unobserved and billed to their restored holders; [Added] for
// such a device ends the restored holdings (but see [Options]), [Removed] the
// device. After an error the meter is of no use.
func (m *Meter) Restore(st State, from attribution.Second) error {
	if len(m.order) > 0 {
		return errors.New("restore a state before anything is recorded or sealed")
	}
	m.next.Store(int64(from))
	for i := range st.Devices {
		d := &st.Devices[i]
		h, err := m.Device(&d.Device)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		s := m.slotOf(h)
		if s == nil || s.exists {
			return fmt.Errorf("restore: device %s is there twice, or is one too many", d.Device.ID)
		}
		s.exists, s.restored, s.device = true, !m.opt.KeepRestored, m.admitDevice(h.e)
		for j := range d.Holdings {
			o := m.admitOwner(m.Owner(&d.Holdings[j].Owner).e)
			if o == nil || d.Holdings[j].Replicas < 1 {
				return fmt.Errorf("restore: device %s: holding %d is by nobody, or by one owner too many, or of no replicas", d.Device.ID, j)
			}
			s.hold(o, min(d.Holdings[j].Replicas, maxReplicas))
		}
	}
	return nil
}
