package nvmlstub_test

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// machine is the library under test, in a process of its own: once loaded, a
// library can't be replaced. Its clock stands still until it is set.
type machine struct {
	*testing.T
	nvmlstub.Scenario
	nvml.Interface
	path string
}

// onMachine runs a test again in a process of its own, with the library.
func onMachine(t *testing.T, v nvmlstub.Variant, body func(m *machine)) {
	t.Helper()
	const child = "NVMLSTUB_TEST_LIBRARY"
	if lib := os.Getenv(child); lib != "" {
		m := &machine{T: t, path: os.Getenv(nvmlstub.EnvScenario), Interface: nvml.New(nvml.WithLibraryPath(lib))}
		m.Start = time.Unix(1_700_000_000, 0)
		m.Devices = []nvmlstub.Device{{UUID: gpuA, Name: "NVIDIA H100 80GB HBM3", Memory: 80 * nvmlstub.GiB, GPM: true, Energy: true, Idle: 100, Full: 700}}
		body(m)
		return
	}
	lib, err := nvmlstub.Build(t.Context(), "", v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20s")
	cmd.Env = append(os.Environ(), child+"="+lib, nvmlstub.EnvScenario+"="+filepath.Join(t.TempDir(), "scenario"))
	cmd.WaitDelay = time.Second // what it has started may hold its output
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in its own process: %v\n%s", err, indent(string(out)))
	}
}

const (
	gpuA = "GPU-aaaaaaaa-0000-0000-0000-000000000000"
	gpuB = "GPU-bbbbbbbb-0000-0000-0000-000000000000"
	migA = "MIG-aaaaaaaa-0000-0000-0000-000000000001"
	migB = "MIG-aaaaaaaa-0000-0000-0000-000000000002"
)

// at sets the clock, so long after the scenario's start.
func (m *machine) at(d time.Duration) *machine {
	m.Helper()
	m.Clock = m.Start.Add(d)
	if err := m.Write(m.path); err != nil {
		m.Fatal(err)
	}
	return m
}

func (m *machine) ok(ret nvml.Return) {
	m.Helper()
	m.is(ret, nvml.SUCCESS)
}

func (m *machine) is(got, want nvml.Return) {
	m.Helper()
	if got != want {
		m.Fatalf("it returned %d, want %d", got, want)
	}
}

func (m *machine) device(i int) nvml.Device {
	m.Helper()
	d, ret := m.DeviceGetHandleByIndex(i)
	m.ok(ret)
	return d
}

func (m *machine) start(d time.Duration) nvml.Device {
	m.Helper()
	m.at(d)
	m.ok(m.Init())
	return m.device(0)
}

func equal[T comparable](m *machine, what string, got, want T) {
	m.Helper()
	if got != want {
		m.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func TestDeviceFacts(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Version = "535.1"
		m.Devices[0].Minor, m.Devices[0].Bus = 3, "0000:3b:00"
		m.Devices = append(m.Devices, nvmlstub.Device{UUID: gpuB, Name: "T4", Memory: nvmlstub.GiB, Span: nvmlstub.Span{At: time.Minute}})
		m.Processes = []nvmlstub.Process{{PID: 7, Device: gpuA, Memory: nvmlstub.GiB}, {PID: 8, Device: gpuA, Memory: nvmlstub.Unavailable}}
		d := m.start(0)
		n, ret := m.DeviceGetCount()
		m.ok(ret)
		equal(m, "devices", n, 1)
		uuid, ret := d.GetUUID()
		m.ok(ret)
		equal(m, "UUID", uuid, gpuA)
		name, ret := d.GetName()
		m.ok(ret)
		equal(m, "name", name, "NVIDIA H100 80GB HBM3")
		minor, ret := d.GetMinorNumber()
		m.ok(ret)
		equal(m, "minor", minor, 3)
		pci, ret := d.GetPciInfo()
		m.ok(ret)
		equal(m, "bus", pci.Bus, 0x3b)
		version, ret := m.SystemGetDriverVersion()
		m.ok(ret)
		equal(m, "driver", version, "535.1")
		memory, ret := d.GetMemoryInfo()
		m.ok(ret)
		equal(m, "memory", memory, nvml.Memory{Total: 80 << 30, Free: 79 << 30, Used: 1 << 30})
		memory2, ret := d.GetMemoryInfo_v2()
		m.ok(ret)
		equal(m, "memory", memory2.Used, 1<<30)
		if _, _, ret := d.GetMigMode(); ret != nvml.ERROR_NOT_SUPPORTED {
			m.Errorf("MIG mode: %d", ret)
		}
		m.at(time.Minute)
		n, ret = m.DeviceGetCount()
		m.ok(ret)
		equal(m, "devices later", n, 2)
		b, ret := m.DeviceGetHandleByUUID(gpuB)
		m.ok(ret)
		index, ret := b.GetIndex()
		m.ok(ret)
		equal(m, "index", index, 1)
		_, ret = m.DeviceGetHandleByUUID("GPU-none")
		m.is(ret, nvml.ERROR_NOT_FOUND)
		m.ok(m.Shutdown())
	})
}

// process is one of a GPU that is not MIG.
func process(pid uint32, memory uint64) nvml.ProcessInfo {
	return nvml.ProcessInfo{Pid: pid, UsedGpuMemory: memory, GpuInstanceId: math.MaxUint32, ComputeInstanceId: math.MaxUint32}
}

func TestProcessLists(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Processes = []nvmlstub.Process{
			{PID: 1, Device: gpuA, Memory: 5},
			{PID: 1, Device: gpuA, Memory: 6}, // one process, two lines
			{PID: 2, Device: gpuA, Memory: nvmlstub.Unavailable},
			{PID: 3, Device: gpuA, Memory: 7, Kind: nvmlstub.Graphics},
			{PID: 4, Device: gpuA, Memory: 8, Kind: nvmlstub.MPSClient},
			{PID: 5, Device: gpuA, Memory: 9, Kind: nvmlstub.MPSServer},
			{PID: 6, Device: gpuA, Kind: nvmlstub.Hidden},
			{PID: 7, Device: gpuA, Span: nvmlstub.Span{At: time.Second, For: time.Second}},
		}
		d := m.start(0)
		list, ret := d.GetComputeRunningProcesses()
		m.ok(ret)
		if want := []nvml.ProcessInfo{process(1, 11), process(2, math.MaxUint64), process(5, 9)}; !slices.Equal(list, want) {
			m.Errorf("compute: %v, want %v", list, want)
		}
		list, ret = d.GetGraphicsRunningProcesses()
		m.ok(ret)
		if len(list) != 1 || list[0].Pid != 3 {
			m.Errorf("graphics: %v", list)
		}
		list, ret = d.GetMPSComputeRunningProcesses()
		m.ok(ret)
		if len(list) != 1 || list[0].Pid != 4 {
			m.Errorf("MPS: %v", list)
		}
		for at, n := range map[time.Duration]int{time.Second: 4, 2 * time.Second: 3} {
			list, ret = m.at(at).device(0).GetComputeRunningProcesses()
			m.ok(ret)
			equal(m, "processes", len(list), n)
		}
	})
}

// All that is said about one second of one device agrees with the truth.
func TestAnswersAgree(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Processes = []nvmlstub.Process{
			{PID: 1, Device: gpuA, SM: 30},
			{PID: 2, Device: gpuA, SM: 90, On: 100 * time.Millisecond, Off: 300 * time.Millisecond},
			{PID: 3, Device: gpuA, SM: 50, Span: nvmlstub.Span{At: 10500 * time.Millisecond}},
		}
		m.Period = 100 * time.Millisecond
		d := m.start(10 * time.Second)
		first, ret := m.GpmSampleAlloc()
		m.ok(ret)
		second, ret := m.GpmSampleAlloc()
		m.ok(ret)
		m.ok(d.GpmSampleGet(first))
		before, ret := d.GetTotalEnergyConsumption()
		m.ok(ret)
		from := m.Clock
		m.at(11 * time.Second)
		to := m.Clock
		m.ok(d.GpmSampleGet(second))
		after, ret := d.GetTotalEnergyConsumption()
		m.ok(ret)
		truth := m.TrueDeviceSM(gpuA, from, to)

		q := nvml.GpmMetricsGetType{NumMetrics: 2, Sample1: first, Sample2: second}
		q.Metrics[0].MetricId, q.Metrics[1].MetricId = uint32(nvml.GPM_METRIC_SM_UTIL), uint32(nvml.GPM_METRIC_ANY_TENSOR_UTIL)
		m.ok(m.GpmMetricsGet(&q))
		if got := q.Metrics[0].Value; math.Abs(got-truth.Seconds()*100) > 1e-6 {
			m.Errorf("GPM says %v %%, want %v", got, truth)
		}
		m.is(nvml.Return(q.Metrics[1].NvmlReturn), nvml.ERROR_NOT_SUPPORTED)
		if got, want := after-before, uint64(100e3+600e3*truth.Seconds()); got < want-1 || got > want+1 {
			m.Errorf("energy %d mJ, want %d", got, want)
		}

		kind, samples, ret := d.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, uint64(from.UnixMicro()))
		m.ok(ret)
		equal(m, "kind of value", kind, nvml.VALUE_TYPE_UNSIGNED_INT)
		equal(m, "samples in a second", len(samples), 10)
		for _, s := range samples {
			end := time.UnixMicro(int64(s.TimeStamp))
			want := m.TrueDeviceSM(gpuA, end.Add(-m.Period), end)
			if got := binary.NativeEndian.Uint32(s.SampleValue[:]); math.Abs(float64(got)-want.Seconds()*1000) > 0.51 {
				m.Errorf("sample of %v: %d %%, want %v of 100ms", end, got, want)
			}
		}
		shares, ret := d.GetProcessUtilization(uint64(from.UnixMicro()))
		m.ok(ret)
		equal(m, "processes", len(shares), 3)
		for i, s := range shares {
			equal(m, "time", s.TimeStamp, uint64(to.UnixMicro()))
			if want := m.TrueSM(int(s.Pid)-1, from, to); s.Pid != uint32(i+1) || math.Abs(float64(s.SmUtil)-want.Seconds()*100) > 0.51 {
				m.Errorf("process %d: %d %%, want %v of 1s", s.Pid, s.SmUtil, want)
			}
		}
		if _, ret = d.GetProcessUtilization(uint64(to.UnixMicro())); ret != nvml.ERROR_NOT_FOUND {
			m.Errorf("nothing newer: %d", ret)
		}
		if _, _, ret = d.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, uint64(to.UnixMicro())); ret != nvml.ERROR_NOT_FOUND {
			m.Errorf("no newer samples: %d", ret)
		}
		rates, ret := d.GetUtilizationRates()
		m.ok(ret)
		if want := m.TrueDeviceSM(gpuA, to.Add(-m.Period), to); math.Abs(float64(rates.Gpu)-want.Seconds()*1000) > 0.51 {
			m.Errorf("rate %d %%, want %v of 100ms", rates.Gpu, want)
		}
		power, ret := d.GetPowerUsage()
		m.ok(ret)
		if want := 100e3 + 6e6*m.TrueDeviceSM(gpuA, to.Add(-m.Period), to).Seconds(); math.Abs(float64(power)-want) > 2 {
			m.Errorf("power %d mW, want %v", power, want)
		}
		_, samples, ret = d.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, 0)
		m.ok(ret)
		equal(m, "samples in the ring", len(samples), 72)
		m.ok(first.Free())
		m.ok(second.Free())
	})
}

// The driver's ring credits one process a sample: right on average only.
func TestDriverSampling(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Processes = []nvmlstub.Process{{PID: 1, Device: gpuA, SM: 20}, {PID: 2, Device: gpuA, SM: 60}}
		m.Sampling = nvmlstub.Driver
		d := m.start(100 * time.Second)
		sums := map[uint32]float64{}
		const rounds = 60
		cursor := uint64(m.Clock.UnixMicro())
		for i := range rounds {
			m.at(time.Duration(101+i) * time.Second)
			shares, ret := d.GetProcessUtilization(cursor)
			m.ok(ret)
			var total uint32
			for _, s := range shares {
				sums[s.Pid] += float64(s.SmUtil) / rounds
				total += s.SmUtil
				cursor = max(cursor, s.TimeStamp)
			}
			if total > 81 { // rounded up twice
				m.Fatalf("shares add up to %d %% of a device at 80 %%", total)
			}
		}
		// 360 samples: a standard deviation of 1.8 % of the device.
		if math.Abs(sums[1]-20) > 8 || math.Abs(sums[2]-60) > 8 || math.Abs(sums[1]+sums[2]-80) > 1 {
			m.Errorf("mean shares %v, want 20 and 60", sums)
		}
		m.Excess = true
		m.at(200 * time.Second)
		shares, ret := d.GetProcessUtilization(0)
		m.ok(ret)
		if len(shares) != 2 || shares[0].SmUtil != 80 || shares[1].SmUtil != 80 {
			m.Errorf("in excess: %v, want 80 %% each", shares)
		}
		m.Sampling = nvmlstub.Raw
		m.at(201 * time.Second)
		shares, ret = d.GetProcessUtilization(0)
		m.ok(ret)
		equal(m, "raw samples", len(shares), 72)
	})
}

func TestMPSServerIsCredited(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Processes = []nvmlstub.Process{
			{PID: 1, Device: gpuA, Kind: nvmlstub.MPSServer},
			{PID: 2, Device: gpuA, SM: 20, Kind: nvmlstub.MPSClient},
			{PID: 3, Device: gpuA, SM: 30, Kind: nvmlstub.MPSClient},
		}
		for credit, want := range map[bool]map[uint32]uint32{false: {2: 20, 3: 30}, true: {1: 50}} {
			m.Devices[0].CreditServer = credit
			shares, ret := m.start(10 * time.Second).GetProcessUtilization(0)
			m.ok(ret)
			equal(m, "samples", len(shares), len(want))
			for _, s := range shares {
				equal(m, "share", s.SmUtil, want[s.Pid])
			}
		}
	})
}

func TestMIG(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		always := nvmlstub.Span{}
		m.MIG = []nvmlstub.MIG{{Device: gpuA}}
		m.Instances = []nvmlstub.Instance{
			{always, migA, gpuA, 7, 0, "1g.10gb", 0, 4, 1, 1, 0, 9856 * nvmlstub.MiB},
			{always, migB, gpuA, 1, 0, "3g.40gb", 0, 0, 4, 3, 0, 40000 * nvmlstub.MiB},
		}
		m.Processes = []nvmlstub.Process{{PID: 1, Device: migA, SM: 50, Memory: 5}, {PID: 2, Device: migB, SM: 20, Memory: 6}}
		d := m.start(10 * time.Second)
		mode, _, ret := d.GetMigMode()
		m.ok(ret)
		equal(m, "mode", mode, nvml.DEVICE_MIG_ENABLE)
		slots, ret := d.GetMaxMigDeviceCount()
		m.ok(ret)
		equal(m, "slots", slots, 7)
		a, ret := d.GetMigDeviceHandleByIndex(0)
		m.ok(ret)
		_, ret = d.GetMigDeviceHandleByIndex(2)
		m.is(ret, nvml.ERROR_NOT_FOUND)
		name, ret := a.GetName()
		m.ok(ret)
		equal(m, "name", name, "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
		gi, ret := a.GetGpuInstanceId()
		m.ok(ret)
		equal(m, "GPU instance", gi, 7)
		attributes, ret := a.GetAttributes()
		m.ok(ret)
		equal(m, "attributes", [3]uint64{uint64(attributes.GpuInstanceSliceCount), uint64(attributes.ComputeInstanceSliceCount), attributes.MemorySizeMB}, [3]uint64{1, 1, 9856})
		parent, ret := a.GetDeviceHandleFromMigDeviceHandle()
		m.ok(ret)
		uuid, ret := parent.GetUUID()
		m.ok(ret)
		equal(m, "parent", uuid, gpuA)
		is, ret := a.IsMigDeviceHandle()
		m.ok(ret)
		equal(m, "is MIG", is, true)
		instance, ret := d.GetGpuInstanceById(7)
		m.ok(ret)
		info, ret := instance.GetInfo()
		m.ok(ret)
		equal(m, "placement", info.Placement, nvml.GpuInstancePlacement{Start: 4, Size: 1})
		equal(m, "profile", info.ProfileId, 19)
		profile, ret := d.GetGpuInstanceProfileInfo(nvml.GPU_INSTANCE_PROFILE_7_SLICE)
		m.ok(ret)
		equal(m, "slices", profile.SliceCount, 7)
		profile2, ret := d.GetGpuInstanceProfileInfoV(nvml.GPU_INSTANCE_PROFILE_1_SLICE).V2()
		m.ok(ret)
		equal(m, "profile", [3]uint32{profile2.Id, profile2.SliceCount, uint32(profile2.MemorySizeMB)}, [3]uint32{19, 1, 10240})
		list, ret := a.GetComputeRunningProcesses()
		m.ok(ret)
		if len(list) != 1 || list[0] != (nvml.ProcessInfo{Pid: 1, UsedGpuMemory: 5, GpuInstanceId: 7}) {
			m.Errorf("processes: %v", list)
		}
		for _, ret := range []nvml.Return{second(d.GetUtilizationRates()), second(a.GetUtilizationRates()), second(d.GetProcessUtilization(0)), second(a.GetTotalEnergyConsumption()), second(a.GetMinorNumber())} {
			m.is(ret, nvml.ERROR_NOT_SUPPORTED)
		}
		m.gpm(func(s nvml.GpmSample) nvml.Return { return d.GpmMigSampleGet(7, s) }, migA, 50)
		m.gpm(func(s nvml.GpmSample) nvml.Return { return d.GpmMigSampleGet(1, s) }, migB, 20)
		m.gpm(d.GpmSampleGet, gpuA, (50.+3*20)/7)
		// Cut anew.
		m.Instances[0].For = time.Hour
		m.at(time.Hour)
		_, ret = a.GetUUID()
		m.is(ret, nvml.ERROR_INVALID_ARGUMENT)
	})
}

func second[T any](_ T, ret nvml.Return) nvml.Return { return ret }

// gpm reads a second's SM utilization.
func (m *machine) gpm(take func(nvml.GpmSample) nvml.Return, uuid string, percent float64) {
	m.Helper()
	now := m.Clock.Sub(m.Start)
	from, ret := m.GpmSampleAlloc()
	m.ok(ret)
	to, ret := m.GpmSampleAlloc()
	m.ok(ret)
	m.ok(take(from))
	m.at(now + time.Second)
	m.ok(take(to))
	q := nvml.GpmMetricsGetType{NumMetrics: 1, Sample1: from, Sample2: to}
	q.Metrics[0].MetricId = uint32(nvml.GPM_METRIC_SM_UTIL)
	m.ok(m.GpmMetricsGet(&q))
	truth := m.TrueDeviceSM(uuid, m.Clock.Add(-time.Second), m.Clock).Seconds() * 100
	if got := q.Metrics[0].Value; math.Abs(got-percent) > 1e-6 || math.Abs(got-truth) > 1e-6 {
		m.Errorf("GPM of %s: %v %%, want %v, the truth is %v", uuid, got, percent, truth)
	}
}

func TestOldDriver(t *testing.T) {
	onMachine(t, nvmlstub.OldDriver(), func(m *machine) {
		m.Processes = []nvmlstub.Process{{PID: 1, Device: gpuA, Memory: 5}, {PID: 2, Device: gpuA, Memory: 6}}
		d := m.start(0)
		for _, s := range nvmlstub.OldDriver().Without {
			if m.Extensions().LookupSymbol(s) == nil {
				m.Errorf("it has %s", s)
			}
		}
		list, ret := d.GetComputeRunningProcesses() // by its first version
		m.ok(ret)
		if want := []nvml.ProcessInfo{process(1, 5), process(2, 6)}; !slices.Equal(list, want) {
			m.Errorf("%v, want %v", list, want)
		}
	})
}

func TestEveryProcessesUtilization(t *testing.T) {
	// The binding's own call of it can't work: it has no array to fill.
	if got := unsafe.Sizeof(nvml.ProcessesUtilizationInfo_v1{}); got != 24 {
		t.Errorf("nvmlProcessesUtilizationInfo_v1_t has %d bytes", got)
	}
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		info, ret := m.start(0).GetProcessesUtilizationInfo()
		if ret == nvml.SUCCESS {
			m.Errorf("%v without an array", info)
		}
	})
}

func TestWithoutScenario(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.is(m.Init(), nvml.ERROR_DRIVER_NOT_LOADED)
		_, ret := m.DeviceGetCount()
		m.is(ret, nvml.ERROR_UNINITIALIZED)
		if err := os.WriteFile(m.path, []byte("devise"), 0o644); err != nil {
			m.Fatal(err)
		}
		m.is(m.Init(), nvml.ERROR_DRIVER_NOT_LOADED)
		m.start(0)
		if err := os.WriteFile(m.path, []byte("devise"), 0o644); err != nil && !errors.Is(err, os.ErrExist) {
			m.Fatal(err)
		}
		m.device(0) // as it was
	})
}
