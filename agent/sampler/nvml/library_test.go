package nvml

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestOpenWithoutDriver(t *testing.T) {
	if _, err := Open(Options{LibraryPath: filepath.Join(t.TempDir(), "libnvidia-ml.so.1")}); !errors.Is(err, ErrNoDriver) {
		t.Fatalf("Open: %v, want ErrNoDriver", err)
	}
}

func TestOpenWithoutPermission(t *testing.T) {
	_, err := openLibrary(&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_NO_PERMISSION }})
	if !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "permission") || strings.Contains(err.Error(), "supported") {
		t.Fatal(err)
	}
}

func fakeLibrary(symbols ...string) *library {
	l := &library{has: map[string]bool{}, asked: map[int]chan struct{}{}}
	for _, s := range symbols {
		l.has[s] = true
	}
	return l
}

func TestProcessUtilizationAnswers(t *testing.T) {
	l := fakeLibrary("nvmlDeviceGetProcessUtilization")
	for name, test := range map[string]struct {
		answer  func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return)
		samples int
		fails   bool
	}{
		"nothing newer": {func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, nvml.ERROR_NOT_FOUND }, 0, false},
		"none":          {func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, nvml.ERROR_INSUFFICIENT_SIZE }, 0, false},
		"one": {func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) {
			return make([]nvml.ProcessUtilizationSample, 1), nvml.SUCCESS
		}, 1, false},
		"lost": {func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }, 0, true},
		"counts disagree": {func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) {
			n := 101
			return make([]nvml.ProcessUtilizationSample, 100)[:n], nvml.SUCCESS
		}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &nvmlHandle{lib: l, gpuInstance: -1, computeInstance: -1, device: &mock.Device{GetProcessUtilizationFunc: test.answer}}
			got, err := h.processShares(nil, 1)
			if len(got) != test.samples || (err != nil) != test.fails {
				t.Fatalf("%d samples, error %v", len(got), err)
			}
		})
	}
}

func TestProcessListsAreTakenTogether(t *testing.T) {
	l := fakeLibrary("nvmlDeviceGetMPSComputeRunningProcesses_v3")
	list := func(ret nvml.Return, ps ...nvml.ProcessInfo) func() ([]nvml.ProcessInfo, nvml.Return) {
		return func() ([]nvml.ProcessInfo, nvml.Return) { return ps, ret }
	}
	h := &nvmlHandle{lib: l, gpuInstance: -1, computeInstance: -1, device: &mock.Device{
		GetComputeRunningProcessesFunc:    list(nvml.SUCCESS, nvml.ProcessInfo{Pid: 1, UsedGpuMemory: 5}),
		GetGraphicsRunningProcessesFunc:   list(nvml.ERROR_NOT_SUPPORTED),
		GetMPSComputeRunningProcessesFunc: list(nvml.SUCCESS, nvml.ProcessInfo{Pid: 2, UsedGpuMemory: math.MaxUint64}),
	}}
	got, err := h.computing(nil)
	if err == nil {
		got, err = h.others(got)
	}
	if err != nil || len(got) != 2 || got[0] != (running{1, 5, false}) || got[1] != (running{2, -1, true}) {
		t.Fatalf("%v, %v", got, err)
	}
}

// What this process may not ask is not measured, but neither is a GPU taken to
// be whole, nor to be empty.
func TestWhatIsNotPermittedIsNotGuessed(t *testing.T) {
	l := fakeLibrary("nvmlDeviceGetProcessUtilization", "nvmlDeviceGetMigMode")
	device := &mock.Device{
		GetProcessUtilizationFunc:      func(uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION },
		GetComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION },
		GetMigModeFunc:                 func() (int, int, nvml.Return) { return 0, 0, nvml.ERROR_NO_PERMISSION },
	}
	h := &nvmlHandle{lib: l, gpuInstance: -1, computeInstance: -1, device: device}
	if _, err := h.processShares(nil, 0); !errors.Is(err, errNotSupported) {
		t.Errorf("process utilization: %v", err)
	}
	if _, err := h.computing(nil); err == nil {
		t.Error("a list that is not permitted is empty")
	}
	if _, err := l.migMode(device); err == nil {
		t.Error("a GPU whose MIG mode is not permitted is whole")
	}
}

func TestSymbolsThatAreMissingAreNotCalled(t *testing.T) {
	// The mock panics on every call that it was not given.
	h := &nvmlHandle{lib: fakeLibrary(), device: &mock.Device{}}
	if _, err := h.energy(); !errors.Is(err, errNotSupported) {
		t.Errorf("energy: %v", err)
	}
	if _, err := h.processShares(nil, 0); !errors.Is(err, errNotSupported) {
		t.Errorf("processShares: %v", err)
	}
	if _, err := h.busySamples(nil, 0); !errors.Is(err, errNotSupported) {
		t.Errorf("busySamples: %v", err)
	}
	if h.lib.gpm(h.device) != nil {
		t.Error("GPM without its symbols")
	}
}

func TestMIGShares(t *testing.T) {
	for name, test := range map[string]struct {
		gi, ci   uint32
		memoryMB uint64
		of       uint32
		wholeMB  int64
		want     attribution.MIGShare
	}{
		"A100 1g.5gb":     {1, 1, 4864, 7, 40536, attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8}},
		"A100 2g.10gb":    {2, 2, 9984, 7, 40536, attribution.MIGShare{Compute: 2, ComputeOf: 7, Memory: 2, MemoryOf: 8}},
		"A100 3g.20gb":    {3, 3, 20096, 7, 40536, attribution.MIGShare{Compute: 3, ComputeOf: 7, Memory: 4, MemoryOf: 8}},
		"A100 7g.40gb":    {7, 7, 40192, 7, 40536, attribution.MIGShare{Compute: 7, ComputeOf: 7, Memory: 8, MemoryOf: 8}},
		"H100 1g.20gb":    {1, 1, 20096, 7, 81559, attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 2, MemoryOf: 8}},
		"A30 2g.12gb":     {2, 2, 12032, 4, 24576, attribution.MIGShare{Compute: 2, ComputeOf: 4, Memory: 2, MemoryOf: 4}},
		"A100 1c.3g.20gb": {3, 1, 20096, 7, 40536, attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 4, MemoryOf: 24}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := migShare(test.gi, test.ci, test.memoryMB, test.of, test.wholeMB<<20)
			if err != nil || got != test.want {
				t.Fatalf("%+v, %v; want %+v", got, err, test.want)
			}
		})
	}
	for name, f := range map[string]func() (attribution.MIGShare, error){
		"no slices":          func() (attribution.MIGShare, error) { return migShare(0, 0, 1, 7, 1<<30) },
		"more than there is": func() (attribution.MIGShare, error) { return migShare(8, 8, 1, 7, 1<<30) },
		"too much memory":    func() (attribution.MIGShare, error) { return migShare(1, 1, 1<<40, 7, 1<<30) },
		"no memory":          func() (attribution.MIGShare, error) { return migShare(1, 1, 0, 7, 0) },
	} {
		if s, err := f(); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestMillionths(t *testing.T) {
	for in, want := range map[float64]int64{0: 0, 12.34567: 123457, 100: 1e6, 37100: 1e6, -3: 0, math.Inf(1): 1e6} {
		if got := millionths(in); got != want {
			t.Errorf("millionths(%v) = %d, want %d", in, got, want)
		}
	}
	if got := millionths(math.NaN()); got != 0 {
		t.Errorf("millionths(NaN) = %d", got)
	}
}
