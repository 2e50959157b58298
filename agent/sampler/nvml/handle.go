package nvml

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// nvmlHandle reads one device.
type nvmlHandle struct {
	lib    *library
	device nvml.Device
	gpm    *gpmReader // nil: none
	mig    bool       // the GPU is in MIG mode
	// Of a MIG instance; −1: not one, or unknown.
	gpuInstance, computeInstance int
}

func (h *nvmlHandle) energy() (uint64, error) {
	if !h.lib.has["nvmlDeviceGetTotalEnergyConsumption"] {
		return 0, errNotSupported
	}
	mJ, ret := h.device.GetTotalEnergyConsumption()
	return mJ, h.lib.check("nvmlDeviceGetTotalEnergyConsumption", ret)
}

// present asks what the driver has to ask the GPU for.
func (h *nvmlHandle) present() error {
	_, ret := h.device.GetMemoryInfo()
	return h.lib.check("nvmlDeviceGetMemoryInfo", ret)
}

func (h *nvmlHandle) smShare() (int64, error) {
	if h.gpm == nil {
		return 0, errNotSupported
	}
	return h.gpm.share()
}

func (h *nvmlHandle) busySamples(dst []busySample, after uint64) ([]busySample, error) {
	if h.mig || !h.lib.has["nvmlDeviceGetSamples"] {
		return dst, errNotSupported
	}
	kind, samples, ret := h.device.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, after)
	if err := h.lib.check("nvmlDeviceGetSamples", ret); err != nil {
		return dst, err
	}
	if kind != nvml.VALUE_TYPE_UNSIGNED_INT {
		return dst, errNotSupported
	}
	for i := range samples {
		s := &samples[i]
		if s.TimeStamp != 0 { // the binding does not cut off what was not filled
			dst = append(dst, busySample{s.TimeStamp, binary.NativeEndian.Uint32(s.SampleValue[:])})
		}
	}
	return dst, nil
}

func (h *nvmlHandle) busyShare() (uint32, error) {
	if h.mig {
		return 0, errNotSupported
	}
	u, ret := h.device.GetUtilizationRates()
	return u.Gpu, h.lib.check("nvmlDeviceGetUtilizationRates", ret)
}

func (h *nvmlHandle) processShares(dst []processShare, after uint64) (out []processShare, err error) {
	const call = "nvmlDeviceGetProcessUtilization"
	if h.mig || !h.lib.has[call] {
		return dst, errNotSupported
	}
	defer guard(call, &err)
	samples, ret := h.device.GetProcessUtilization(after)
	err = h.lib.check(call, ret)
	switch {
	case errors.Is(err, errNoData): // nothing ran since
		return dst, nil
	case ret == nvml.ERROR_INSUFFICIENT_SIZE && len(samples) == 0: // the binding's way to say none
		return dst, nil
	case err != nil:
		return dst, err
	}
	for i := range samples {
		s := &samples[i]
		dst = append(dst, processShare{s.Pid, s.TimeStamp, s.SmUtil})
	}
	return dst, nil
}

func (h *nvmlHandle) computing(dst []running) ([]running, error) {
	return h.append(dst, "nvmlDeviceGetComputeRunningProcesses", h.device.GetComputeRunningProcesses, false)
}

func (h *nvmlHandle) others(dst []running) ([]running, error) {
	dst, err := h.append(dst, "nvmlDeviceGetGraphicsRunningProcesses", h.device.GetGraphicsRunningProcesses, false)
	if err != nil || !h.lib.any("nvmlDeviceGetMPSComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3") {
		return dst, err
	}
	return h.append(dst, "nvmlDeviceGetMPSComputeRunningProcesses", h.device.GetMPSComputeRunningProcesses, true)
}

// append appends one of the driver's lists to dst. That a device has no such
// list, or nothing on it, is no error.
func (h *nvmlHandle) append(dst []running, call string, list func() ([]nvml.ProcessInfo, nvml.Return), client bool) (out []running, err error) {
	defer guard(call, &err)
	infos, ret := list()
	err = h.lib.check(call, ret)
	if (errors.Is(err, errNotSupported) && !errors.Is(err, errDenied)) || errors.Is(err, errNoData) {
		return dst, nil
	}
	if err != nil {
		return dst, err
	}
	for i := range infos {
		p := &infos[i]
		if another(p.GpuInstanceId, h.gpuInstance) || another(p.ComputeInstanceId, h.computeInstance) {
			continue
		}
		r := running{pid: p.Pid, memory: -1, client: client}
		if p.UsedGpuMemory <= math.MaxInt64 {
			r.memory = int64(p.UsedGpuMemory)
		}
		dst = append(dst, r)
	}
	return dst, nil
}

// another reports whether a process is of another instance than the one whose
// list it came with: some drivers list the whole GPU's. All ones is their way
// to say that they don't tell.
func another(of uint32, instance int) bool {
	return instance >= 0 && of != math.MaxUint32 && of != uint32(instance)
}

func (h *nvmlHandle) close() {
	if h.gpm != nil {
		h.gpm.close()
	}
}
