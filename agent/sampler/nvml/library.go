package nvml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// library is the driver as go-nvml knows it.
type library struct {
	api nvml.Interface
	has map[string]bool // symbols that not every supported driver has
}

// optional are the symbols to look up before use: calling one that the loaded
// library lacks kills the process.
var optional = [...]string{
	"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetSamples",
	"nvmlDeviceGetMPSComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3",
	"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetAttributes", "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetGpuInstanceProfileInfo",
	"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet",
}

func openLibrary(path string) (*library, error) {
	api := nvml.New()
	if path != "" {
		api = nvml.New(nvml.WithLibraryPath(path))
	}
	switch ret := api.Init(); ret { //nolint:exhaustive // every other code is an error alike
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return nil, fmt.Errorf("%w: libnvidia-ml.so.1 is not on this machine (in a container: run it with the NVIDIA runtime, NVIDIA_VISIBLE_DEVICES=all)", ErrNoDriver)
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w: the library is there, the kernel module is not loaded", ErrNoDriver)
	default:
		return nil, fmt.Errorf("%w: nvmlInit: %s", ErrNoDriver, name(ret))
	}
	l := &library{api: api, has: make(map[string]bool, len(optional))}
	for _, symbol := range optional {
		l.has[symbol] = api.Extensions().LookupSymbol(symbol) == nil
	}
	return l, nil
}

func (l *library) close() error { return l.check("nvmlShutdown", l.api.Shutdown()) }

func (l *library) any(symbols ...string) bool {
	for _, s := range symbols {
		if l.has[s] {
			return true
		}
	}
	return false
}

func (l *library) all(symbols ...string) bool {
	for _, s := range symbols {
		if !l.has[s] {
			return false
		}
	}
	return true
}

// check turns a return code into an error, those that mean something to the
// sampler into its own.
func (l *library) check(call string, ret nvml.Return) error {
	switch ret { //nolint:exhaustive // every other code is an error alike
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND:
		return fmt.Errorf("%s: %w", call, errNotSupported)
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_NO_DATA, nvml.ERROR_NOT_READY:
		return fmt.Errorf("%s: %w", call, errNoData)
	}
	return fmt.Errorf("%s: %s", call, name(ret))
}

// name describes a return code without asking the library, which may be what
// is broken.
func name(ret nvml.Return) string {
	switch ret { //nolint:exhaustive // the number names the others
	case nvml.ERROR_UNINITIALIZED:
		return "not initialised"
	case nvml.ERROR_NO_PERMISSION:
		return "no permission"
	case nvml.ERROR_TIMEOUT:
		return "timeout in the driver"
	case nvml.ERROR_GPU_IS_LOST:
		return "the GPU is lost"
	case nvml.ERROR_RESET_REQUIRED:
		return "the GPU must be reset"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "library and kernel module are of different versions"
	}
	return fmt.Sprintf("NVML error %d", int32(ret))
}

// nvmlHandle reads one device.
type nvmlHandle struct {
	lib    *library
	device nvml.Device
	gpm    *gpmReader // nil: none
	mig    bool
}

func (h *nvmlHandle) energy() (uint64, error) {
	if !h.lib.has["nvmlDeviceGetTotalEnergyConsumption"] {
		return 0, errNotSupported
	}
	mJ, ret := h.device.GetTotalEnergyConsumption()
	return mJ, h.lib.check("nvmlDeviceGetTotalEnergyConsumption", ret)
}

func (h *nvmlHandle) smShare() (int64, error) {
	if h.gpm == nil {
		return 0, errNotSupported
	}
	return h.gpm.share()
}

func (h *nvmlHandle) busySamples(after uint64) ([]busySample, error) {
	if h.mig || !h.lib.has["nvmlDeviceGetSamples"] {
		return nil, errNotSupported
	}
	kind, samples, ret := h.device.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, after)
	if err := h.lib.check("nvmlDeviceGetSamples", ret); err != nil {
		return nil, err
	}
	if kind != nvml.VALUE_TYPE_UNSIGNED_INT {
		return nil, errNotSupported
	}
	out := make([]busySample, 0, len(samples))
	for _, s := range samples {
		if s.TimeStamp != 0 { // the binding does not cut off what was not filled
			out = append(out, busySample{s.TimeStamp, binary.NativeEndian.Uint32(s.SampleValue[:])})
		}
	}
	return out, nil
}

func (h *nvmlHandle) busyShare() (uint32, error) {
	if h.mig {
		return 0, errNotSupported
	}
	u, ret := h.device.GetUtilizationRates()
	return u.Gpu, h.lib.check("nvmlDeviceGetUtilizationRates", ret)
}

func (h *nvmlHandle) processShares(after uint64) (out []processShare, err error) {
	if h.mig || !h.lib.has["nvmlDeviceGetProcessUtilization"] {
		return nil, errNotSupported
	}
	// The binding cuts its slice to the second call's count, which may be
	// larger than the first's.
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("nvmlDeviceGetProcessUtilization: the driver's counts disagree: %v", r)
		}
	}()
	samples, ret := h.device.GetProcessUtilization(after)
	err = h.lib.check("nvmlDeviceGetProcessUtilization", ret)
	switch {
	case errors.Is(err, errNoData): // nothing ran since
		return nil, nil
	case ret == nvml.ERROR_INSUFFICIENT_SIZE && len(samples) == 0: // the binding's way to say none
		return nil, nil
	case err != nil:
		return nil, err
	}
	out = make([]processShare, len(samples))
	for i, s := range samples {
		out[i] = processShare{s.Pid, s.TimeStamp, s.SmUtil}
	}
	return out, nil
}

func (h *nvmlHandle) processes(dst []running) ([]running, error) {
	add := func(call string, infos []nvml.ProcessInfo, ret nvml.Return, client bool) error {
		err := h.lib.check(call, ret)
		if errors.Is(err, errNotSupported) || errors.Is(err, errNoData) {
			return nil
		}
		for _, p := range infos {
			r := running{pid: p.Pid, memory: -1, client: client}
			if p.UsedGpuMemory <= math.MaxInt64 {
				r.memory = int64(p.UsedGpuMemory)
			}
			dst = append(dst, r)
		}
		return err
	}
	infos, ret := h.device.GetComputeRunningProcesses()
	if err := add("nvmlDeviceGetComputeRunningProcesses", infos, ret, false); err != nil {
		return dst, err
	}
	infos, ret = h.device.GetGraphicsRunningProcesses()
	if err := add("nvmlDeviceGetGraphicsRunningProcesses", infos, ret, false); err != nil {
		return dst, err
	}
	if h.lib.any("nvmlDeviceGetMPSComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3") {
		infos, ret = h.device.GetMPSComputeRunningProcesses()
		if err := add("nvmlDeviceGetMPSComputeRunningProcesses", infos, ret, true); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func (h *nvmlHandle) close() {
	if h.gpm != nil {
		h.gpm.close()
	}
}
