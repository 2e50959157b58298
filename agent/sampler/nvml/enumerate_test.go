package nvml

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// migLibrary is a library of one GPU in MIG mode with slots for instances,
// which answer as they are given.
func migLibrary(slots ...func() (nvml.Device, nvml.Return)) (*library, *mock.Device) {
	gpu := mockGPU("GPU-1")
	gpu.GetMigModeFunc = func() (int, int, nvml.Return) { return nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE, nvml.SUCCESS }
	gpu.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return len(slots), nvml.SUCCESS }
	gpu.GetMigDeviceHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) { return slots[i]() }
	gpu.GetGpuInstanceByIdFunc = func(id int) (nvml.GpuInstance, nvml.Return) {
		return &mock.GpuInstance{GetInfoFunc: func() (nvml.GpuInstanceInfo, nvml.Return) {
			return nvml.GpuInstanceInfo{Id: uint32(id), Placement: nvml.GpuInstancePlacement{Start: uint32(2 * id), Size: 1}}, nvml.SUCCESS
		}}, nvml.SUCCESS
	}
	l := fakeLibrary("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetMigMode",
		"nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetAttributes_v2",
		"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetGpuInstanceById", "nvmlGpuInstanceGetInfo")
	l.api = &mock.Interface{
		DeviceGetCountFunc:         func() (int, nvml.Return) { return 1, nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(int) (nvml.Device, nvml.Return) { return gpu, nvml.SUCCESS },
	}
	return l, gpu
}

func mockGPU(uuid string) *mock.Device {
	return &mock.Device{
		GetUUIDFunc:                   func() (string, nvml.Return) { return uuid, nvml.SUCCESS },
		GetNameFunc:                   func() (string, nvml.Return) { return "NVIDIA A100-SXM4-40GB", nvml.SUCCESS },
		GetMemoryInfoFunc:             func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 40536 << 20}, nvml.SUCCESS },
		GetMinorNumberFunc:            func() (int, nvml.Return) { return 3, nvml.SUCCESS },
		GetTotalEnergyConsumptionFunc: func() (uint64, nvml.Return) { return 1, nvml.SUCCESS },
	}
}

func mockInstance(uuid string, gi int) func() (nvml.Device, nvml.Return) {
	d := mockGPU(uuid)
	d.GetNameFunc = func() (string, nvml.Return) { return "NVIDIA A100-SXM4-40GB MIG 1g.5gb", nvml.SUCCESS }
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 4864 << 20}, nvml.SUCCESS }
	d.GetAttributesFunc = func() (nvml.DeviceAttributes, nvml.Return) {
		return nvml.DeviceAttributes{GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1, MemorySizeMB: 4864}, nvml.SUCCESS
	}
	d.GetGpuInstanceIdFunc = func() (int, nvml.Return) { return gi, nvml.SUCCESS }
	d.GetComputeInstanceIdFunc = func() (int, nvml.Return) { return 0, nvml.SUCCESS }
	return func() (nvml.Device, nvml.Return) { return d, nvml.SUCCESS }
}

func emptySlot() (nvml.Device, nvml.Return) { return nil, nvml.ERROR_NOT_FOUND }

func TestInstancesAreListedWithTheirPlace(t *testing.T) {
	l, _ := migLibrary(emptySlot, mockInstance("MIG-1", 7), emptySlot)
	found := l.list()
	if found.err != nil || len(found.gpus) != 1 || !found.gpus[0].complete || len(found.gpus[0].units) != 2 {
		t.Fatalf("%+v", found)
	}
	gpu, mig := found.gpus[0].units[0], found.gpus[0].units[1]
	if !gpu.remainder || gpu.energy || gpu.memoryBytes != (40536-4864)<<20 || gpu.place != (place{0, 3, -1, -1, -1}) {
		t.Fatalf("the rest: %+v", gpu)
	}
	if mig.parent != "GPU-1" || mig.profile != "1g.5gb" || mig.model != gpu.model || mig.place != (place{0, 3, 7, 0, 14}) || mig.share.Compute != 1 {
		t.Fatalf("the instance: %+v", mig)
	}
}

// An old driver, or an agent without privileges, does not tell where an
// instance lies.
func TestPlacementMayBeUnknown(t *testing.T) {
	l, gpu := migLibrary(mockInstance("MIG-1", 7))
	gpu.GetGpuInstanceByIdFunc = func(int) (nvml.GpuInstance, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION }
	if u := l.list().gpus[0].units[1]; u.gpuInstance != 7 || u.placement != -1 {
		t.Fatalf("without permission: %+v", u.place)
	}
	gpu.GetGpuInstanceByIdFunc = nil // the mock panics when it is called
	l.has["nvmlGpuInstanceGetInfo"] = false
	if u := l.list().gpus[0].units[1]; u.gpuInstance != 7 || u.placement != -1 {
		t.Fatalf("without the symbol: %+v", u.place)
	}
}

func TestOneBadInstanceHidesNoOther(t *testing.T) {
	lost := func() (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }
	l, _ := migLibrary(mockInstance("MIG-1", 1), lost, mockInstance("MIG-3", 3))
	found := l.list()
	if !errors.Is(found.err, errLost) || len(found.gpus) != 1 || found.gpus[0].complete || len(found.gpus[0].units) != 3 {
		t.Fatalf("%+v", found)
	}
	// Two devices of one id can't be billed: neither is.
	l, _ = migLibrary(mockInstance("MIG-1", 1), mockInstance("MIG-1", 2))
	if found = l.list(); found.err == nil || len(found.gpus) != 0 {
		t.Fatalf("an id that is there twice: %+v", found)
	}
}

// A GPU that hangs when it is asked what it is hides no other, is asked again
// only once it has answered, and is answered before the driver is shut down.
func TestOneHangingGPUHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var asked, shut atomic.Int32
		hung := mockGPU("GPU-1")
		hung.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
			asked.Add(1)
			<-hang
			return nvml.Memory{Total: 1 << 30}, nvml.SUCCESS
		}
		gpus := []*mock.Device{mockGPU("GPU-0"), hung, mockGPU("GPU-2")}
		l := fakeLibrary()
		l.api = &mock.Interface{
			DeviceGetCountFunc:         func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS },
			DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) { return gpus[i], nvml.SUCCESS },
			ShutdownFunc:               func() nvml.Return { shut.Add(1); return nvml.SUCCESS },
		}
		for look := range 3 {
			began := time.Now()
			found := l.list()
			if len(found.gpus) != 2 || found.gpus[1].units[0].uuid != "GPU-2" || found.err == nil || !strings.Contains(found.err.Error(), "GPU 1") {
				t.Fatalf("%+v", found)
			}
			if took := time.Since(began); asked.Load() != 1 || took != map[bool]time.Duration{true: answerWithin}[look == 0] {
				t.Fatalf("look %d: asked %d times, in %v", look, asked.Load(), took)
			}
		}
		hang <- struct{}{}
		synctest.Wait()
		go func() { hang <- struct{}{} }()
		if found := l.list(); len(found.gpus) != 3 || found.err != nil || asked.Load() != 2 {
			t.Fatalf("it has answered: %+v", found)
		}
		l.list()
		closed := make(chan error)
		go func() { closed <- l.close() }()
		synctest.Wait()
		if shut.Load() != 0 {
			t.Error("shut down under a call")
		}
		hang <- struct{}{}
		if err := <-closed; err != nil || shut.Load() != 1 {
			t.Error(err)
		}
	})
}

// A count that no machine has is not believed.
func TestLaw8CountsOfGPUsAreBounded(t *testing.T) {
	l := fakeLibrary()
	var asked atomic.Int32
	l.api = &mock.Interface{
		DeviceGetCountFunc: func() (int, nvml.Return) { return math.MaxUint32, nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			asked.Add(1)
			return mockGPU(fmt.Sprint("GPU-", i)), nvml.SUCCESS
		},
	}
	if found := l.list(); found.err == nil || len(found.gpus) != maxGPUs || asked.Load() != maxGPUs {
		t.Errorf("%d GPUs, asked %d times, %v", len(found.gpus), asked.Load(), found.err)
	}
}

func TestAnErrorOfTheDriverIsTheWorst(t *testing.T) {
	replaced := fakeLibrary().check("x", nvml.ERROR_LIB_RM_VERSION_MISMATCH)
	gone := fakeLibrary().check("x", nvml.ERROR_UNINITIALIZED)
	if !errors.Is(gone, errGone) || !errors.Is(fakeLibrary().check("x", nvml.ERROR_DRIVER_NOT_LOADED), errGone) ||
		!errors.Is(fakeLibrary().check("x", nvml.ERROR_RESET_REQUIRED), errLost) {
		t.Fatal("return codes are taken for others")
	}
	for _, errs := range [][2]error{{errOdd, gone}, {gone, errOdd}, {nil, gone}} {
		if !errors.Is(worse(errs[0], errs[1]), errGone) {
			t.Errorf("of %v and %v: %v", errs[0], errs[1], worse(errs[0], errs[1]))
		}
	}
	if !errors.Is(worse(gone, replaced), ErrDriverReplaced) || !errors.Is(worse(replaced, gone), ErrDriverReplaced) {
		t.Error("a replaced driver is not the worst")
	}
}

// Asked of an instance, some drivers list the whole GPU's processes.
func TestProcessesOfOtherInstancesAreLeftOut(t *testing.T) {
	h := &nvmlHandle{lib: fakeLibrary(), mig: true, gpuInstance: 7, computeInstance: 0, device: &mock.Device{
		GetComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) {
			return []nvml.ProcessInfo{
				{Pid: 1, GpuInstanceId: 7, ComputeInstanceId: 0},
				{Pid: 2, GpuInstanceId: 8, ComputeInstanceId: 0},
				{Pid: 3, GpuInstanceId: 7, ComputeInstanceId: 1},
				{Pid: 4, GpuInstanceId: math.MaxUint32, ComputeInstanceId: math.MaxUint32},
			}, nvml.SUCCESS
		},
	}}
	got, err := h.computing(nil)
	if err != nil || len(got) != 2 || got[0].pid != 1 || got[1].pid != 4 {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestListsThatMakeTheBindingPanicAreAnError(t *testing.T) {
	n := 3
	h := &nvmlHandle{lib: fakeLibrary(), gpuInstance: -1, computeInstance: -1, device: &mock.Device{
		GetComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) {
			return make([]nvml.ProcessInfo, 1)[:n], nvml.SUCCESS
		},
	}}
	if _, err := h.computing(nil); err == nil {
		t.Fatal("no error")
	}
}

func TestEventsOfTheLibrary(t *testing.T) {
	gpu := mockGPU("GPU-1")
	var registered uint64
	gpu.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) {
		return nvml.EventTypeXidCriticalError | nvml.EventTypeClock, nvml.SUCCESS
	}
	gpu.RegisterEventsFunc = func(types uint64, _ nvml.EventSet) nvml.Return { registered = types; return nvml.SUCCESS }
	deaf := mockGPU("GPU-2")
	deaf.GetSupportedEventTypesFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	answers := []struct {
		data nvml.EventData
		ret  nvml.Return
	}{
		{ret: nvml.ERROR_TIMEOUT},
		{data: nvml.EventData{Device: gpu, EventType: nvml.EventTypeXidCriticalError, EventData: 79, GpuInstanceId: math.MaxUint32, ComputeInstanceId: 2}},
		{data: nvml.EventData{Device: &mock.Device{}, EventType: nvml.EventMigConfigChange}},
		{ret: nvml.ERROR_GPU_IS_LOST},
	}
	freed := 0
	set := &mock.EventSet{
		WaitFunc: func(ms uint32) (nvml.EventData, nvml.Return) {
			if ms != 500 {
				t.Errorf("a wait of %d ms", ms)
			}
			a := answers[0]
			answers = answers[1:]
			return a.data, a.ret
		},
		FreeFunc: func() nvml.Return { freed++; return nvml.SUCCESS },
	}
	l := fakeLibrary(append([]string{"nvmlEventSetWait_v2"}, eventSymbols...)...)
	gpus := []nvml.Device{gpu, deaf}
	l.api = &mock.Interface{
		DeviceGetCountFunc:         func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) { return gpus[i], nvml.SUCCESS },
		EventSetCreateFunc:         func() (nvml.EventSet, nvml.Return) { return set, nvml.SUCCESS },
	}
	es, err := l.events()
	if err != nil || registered != nvml.EventTypeXidCriticalError {
		t.Fatalf("registered %#x: %v", registered, err)
	}
	if _, err := es.wait(500 * time.Millisecond); !errors.Is(err, errNoData) {
		t.Errorf("timeout: %v", err)
	}
	if e, err := es.wait(500 * time.Millisecond); err != nil || e != (event{kind: eventXID, gpu: "GPU-1", xid: 79, gpuInstance: -1, computeInstance: 2}) {
		t.Errorf("XID: %+v, %v", e, err)
	}
	if e, err := es.wait(500 * time.Millisecond); err != nil || e.kind != eventMIG || e.gpu != "" {
		t.Errorf("MIG: %+v, %v", e, err)
	}
	if _, err := es.wait(500 * time.Millisecond); !errors.Is(err, errLost) {
		t.Errorf("lost: %v", err)
	}
	es.close()
	gpus = []nvml.Device{deaf}
	if _, err := l.events(); !errors.Is(err, errNotSupported) || freed != 2 {
		t.Errorf("GPUs without events: %v, %d sets freed", err, freed)
	}
	l.has["nvmlDeviceRegisterEvents"] = false
	l.api = nil
	if _, err := l.events(); !errors.Is(err, errNotSupported) {
		t.Errorf("without the symbols: %v", err)
	}
}
