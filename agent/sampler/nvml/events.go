package nvml

import (
	"fmt"
	"math"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// wanted are the events that are asked for, where a GPU has them.
const wanted = nvml.EventTypeXidCriticalError | nvml.EventMigConfigChange | nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

var eventSymbols = []string{"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"}

// eventSet is the events of an NVML event set.
type eventSet struct {
	lib  *library
	set  nvml.EventSet
	gpus map[nvml.Device]string // UUIDs of those that were registered
}

// events registers every GPU that has events.
func (l *library) events() (events, error) {
	if !l.all(eventSymbols...) || !l.any("nvmlEventSetWait", "nvmlEventSetWait_v2") {
		return nil, fmt.Errorf("nvmlEventSetCreate: %w", errNotSupported)
	}
	n, ret := l.api.DeviceGetCount()
	if err := l.check("nvmlDeviceGetCount", ret); err != nil {
		return nil, err
	}
	set, ret := l.api.EventSetCreate()
	if err := l.check("nvmlEventSetCreate", ret); err != nil {
		return nil, err
	}
	e := &eventSet{lib: l, set: set, gpus: make(map[nvml.Device]string, n)}
	failed := fmt.Errorf("no GPU has events: %w", errNotSupported)
	for i := range n {
		if err := e.register(i); err != nil {
			failed = fmt.Errorf("GPU %d: %w", i, err)
		}
	}
	if len(e.gpus) == 0 {
		e.close()
		return nil, failed
	}
	return e, nil
}

func (e *eventSet) register(index int) error {
	device, ret := e.lib.api.DeviceGetHandleByIndex(index)
	if err := e.lib.check("nvmlDeviceGetHandleByIndex", ret); err != nil {
		return err
	}
	uuid, ret := device.GetUUID()
	if err := e.lib.check("nvmlDeviceGetUUID", ret); err != nil {
		return err
	}
	types, ret := device.GetSupportedEventTypes()
	if err := e.lib.check("nvmlDeviceGetSupportedEventTypes", ret); err != nil {
		return err
	}
	if types&wanted == 0 {
		return fmt.Errorf("nvmlDeviceGetSupportedEventTypes: %w", errNotSupported)
	}
	if err := e.lib.check("nvmlDeviceRegisterEvents", device.RegisterEvents(types&wanted, e.set)); err != nil {
		return err
	}
	e.gpus[device] = text(uuid)
	return nil
}

func (e *eventSet) wait(d time.Duration) (event, error) {
	data, ret := e.set.Wait(uint32(d.Milliseconds()))
	if ret == nvml.ERROR_TIMEOUT {
		return event{}, errNoData
	}
	if err := e.lib.check("nvmlEventSetWait", ret); err != nil {
		return event{}, err
	}
	happened := event{kind: eventHealth, gpu: e.gpus[data.Device], gpuInstance: instanceID(data.GpuInstanceId), computeInstance: instanceID(data.ComputeInstanceId)}
	switch data.EventType {
	case nvml.EventTypeXidCriticalError:
		happened.kind, happened.xid = eventXID, data.EventData
	case nvml.EventMigConfigChange:
		happened.kind = eventMIG
	}
	return happened, nil
}

// instanceID is an id as the driver says it; −1 for none.
func instanceID(id uint32) int {
	if id == math.MaxUint32 {
		return -1
	}
	return int(id)
}

func (e *eventSet) close() { _ = e.set.Free() } // nothing can be done about it
