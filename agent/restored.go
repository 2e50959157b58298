package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/attribution"
)

// forgetAfter is how long a device that is only known from an earlier run is
// waited for.
const forgetAfter = 600 // seconds

// restoredDevices are the devices that a restart found in the kept state, and
// that the source has not shown yet.
type restoredDevices struct {
	mu    sync.Mutex
	ids   map[string]bool
	until attribution.Second
}

func (r *restoredDevices) begin(st meter.State, until attribution.Second) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids, r.until = make(map[string]bool, len(st.Devices)), until
	for i := range st.Devices {
		r.ids[st.Devices[i].Device.ID] = true
	}
}

func (r *restoredDevices) seen(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.ids, id)
}

// overdue takes the ids of those that have not come in time.
func (r *restoredDevices) overdue(now attribution.Second) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now < r.until {
		return nil
	}
	ids = slices.Sorted(maps.Keys(r.ids))
	r.ids = nil
	return ids
}

// forgetGone ends devices that were there before a restart and have not come
// back: taken out, or cut in other instances, while nobody looked. Until then
// they are unobserved, as a lost GPU is.
func (l *liveNode) forgetGone() error {
	ids := l.restored.overdue(l.meter.Next())
	if len(ids) == 0 {
		return nil
	}
	lane, err := l.meter.Lane()
	if err != nil {
		return err
	}
	defer lane.Close()
	for _, id := range ids {
		if h, ok := l.meter.Lookup(id); ok {
			l.log.Warn("a device of before the restart has not come back and is no longer billed", "device", id)
			lane.Record(meter.Removed(h, l.meter.Next().Nanos()))
		}
	}
	return nil
}
