package nvml

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// library is the driver as go-nvml knows it.
type library struct {
	api nvml.Interface
	has map[string]bool // symbols that not every supported driver has

	asked  map[int]chan struct{} // GPUs that were asked what they are; closed when one has answered
	asking sync.WaitGroup
}

// optional are the symbols to look up before use: calling one that the loaded
// library lacks kills the process.
var optional = [...]string{
	"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetSamples", "nvmlDeviceGetMinorNumber",
	"nvmlDeviceGetMPSComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3",
	"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetGpuInstanceById", "nvmlGpuInstanceGetInfo",
	"nvmlDeviceGetAttributes", "nvmlDeviceGetAttributes_v2", "nvmlDeviceGetGpuInstanceProfileInfo",
	"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet",
	"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlEventSetWait", "nvmlEventSetWait_v2", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes",
}

// opener returns what opens the driver, and opens it again after it was
// closed. The library of the first time stays the one in use: what was bound
// to it once can't be bound to another.
func opener(path string) func() (driver, error) {
	var options []nvml.LibraryOption
	if path != "" {
		options = append(options, nvml.WithLibraryPath(path))
	}
	api := nvml.New(options...)
	return func() (driver, error) { return openLibrary(api) }
}

func openLibrary(api nvml.Interface) (driver, error) {
	l := &library{api: api, asked: make(map[int]chan struct{})}
	ret := api.Init()
	err := l.check("nvmlInit", ret)
	switch {
	case err == nil:
	case ret == nvml.ERROR_LIBRARY_NOT_FOUND:
		return nil, fmt.Errorf("%w: libnvidia-ml.so.1 is not on this machine (in a container: run it with the NVIDIA runtime, NVIDIA_VISIBLE_DEVICES=all)", ErrNoDriver)
	case ret == nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w: the library is there, the kernel module is not loaded", ErrNoDriver)
	case errors.Is(err, ErrDriverReplaced):
		return nil, err
	case errors.Is(err, errDenied):
		return nil, fmt.Errorf("%w: %w to open the GPUs' device files (in a container: run it with the NVIDIA runtime, NVIDIA_VISIBLE_DEVICES=all)", ErrNoDriver, err)
	default:
		return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	l.has = make(map[string]bool, len(optional))
	for _, symbol := range optional {
		l.has[symbol] = api.Extensions().LookupSymbol(symbol) == nil
	}
	return l, nil
}

// close waits for calls that hang: shutting down under them would take the
// process along.
func (l *library) close() error {
	l.asking.Wait()
	return l.check("nvmlShutdown", l.api.Shutdown())
}

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
	var meaning error
	switch ret { //nolint:exhaustive // every other code is an error alike
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND:
		meaning = errNotSupported
	case nvml.ERROR_NO_PERMISSION:
		meaning = errDenied
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_NO_DATA, nvml.ERROR_NOT_READY:
		meaning = errNoData
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED:
		meaning = errGone
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		meaning = errLost
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		meaning = fmt.Errorf("%w (library and kernel module are of different versions): start this process again with the new library", ErrDriverReplaced)
	default:
		meaning = errors.New(name(ret))
	}
	return fmt.Errorf("%s: %w", call, meaning)
}

// name describes a return code without asking the library, which may be what
// is broken.
func name(ret nvml.Return) string {
	if ret == nvml.ERROR_TIMEOUT {
		return "timeout in the driver"
	}
	return fmt.Sprintf("NVML error %d", int32(ret))
}

// text is a name that the driver gave, fit to travel: what is not UTF-8 would
// take its node's chunk with it.
func text(s string) string { return strings.ToValidUTF8(s, string(utf8.RuneError)) }

// guard turns a panic in the binding into an error: it cuts its slices to
// counts that the driver returns, whether they make sense or not.
func guard(call string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: the driver's counts disagree: %v", call, r)
	}
}
