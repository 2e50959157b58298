package nvmlstub_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func TestFaults(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Devices = append(m.Devices, nvmlstub.Device{UUID: gpuB, Name: "T4", Memory: nvmlstub.GiB})
		during := nvmlstub.Span{At: 10 * time.Second, For: 10 * time.Second}
		m.Faults = []nvmlstub.Fault{
			{Span: during, Function: "GetMinorNumber", Target: gpuA, Error: "UNKNOWN"},
			{Span: during, Function: "nvmlDeviceGetMemoryInfo_v2", Target: "*", Error: "RESET_REQUIRED"},
			{Span: nvmlstub.Span{At: time.Minute}, Function: "*", Target: "*", Error: "LIB_RM_VERSION_MISMATCH"},
		}
		m.Losses = []nvmlstub.Loss{{Span: nvmlstub.Span{At: 30 * time.Second}, Device: gpuA}}
		a := m.start(0)
		b := m.device(1)
		minor := func(d nvml.Device) nvml.Return { return second(d.GetMinorNumber()) }
		memory := func(d nvml.Device) nvml.Return { return second(d.GetMemoryInfo()) }
		m.ok(minor(a))
		m.at(10 * time.Second)
		m.is(minor(a), nvml.ERROR_UNKNOWN)
		m.ok(minor(b))
		m.is(memory(a), nvml.ERROR_RESET_REQUIRED)
		m.is(memory(b), nvml.ERROR_RESET_REQUIRED)
		m.at(20 * time.Second)
		m.ok(minor(a))
		m.at(30 * time.Second)
		m.is(minor(a), nvml.ERROR_GPU_IS_LOST)
		m.is(second(m.DeviceGetHandleByIndex(0)), nvml.ERROR_GPU_IS_LOST)
		m.ok(minor(b))
		m.at(time.Minute)
		m.is(second(m.DeviceGetCount()), nvml.ERROR_LIB_RM_VERSION_MISMATCH)
		m.ok(m.Shutdown())
		m.is(m.Init(), nvml.ERROR_LIB_RM_VERSION_MISMATCH)
	})
}

func TestNonsense(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Samples = []nvmlstub.Sample{
			{Device: gpuA, PID: 9, SM: 37100},
			{Device: gpuA, PID: 10, SM: 5, Ago: time.Minute},
			{Device: gpuA, PID: 11, SM: 6, Ahead: time.Hour},
		}
		d := m.start(0)
		now := m.Clock
		shares, ret := d.GetProcessUtilization(uint64(now.UnixMicro()))
		m.ok(ret)
		want := []nvml.ProcessUtilizationSample{
			{Pid: 9, SmUtil: 37100, TimeStamp: uint64(now.UnixMicro())},
			{Pid: 10, SmUtil: 5, TimeStamp: uint64(now.Add(-time.Minute).UnixMicro())},
			{Pid: 11, SmUtil: 6, TimeStamp: uint64(now.Add(time.Hour).UnixMicro())},
		}
		if len(shares) != len(want) || shares[0] != want[0] || shares[1] != want[1] || shares[2] != want[2] {
			m.Errorf("%v, want %v", shares, want)
		}
		m.Counts = []nvmlstub.Count{{Device: gpuA, Count: 100}}
		m.at(time.Second)
		shares, ret = d.GetProcessUtilization(0)
		m.ok(ret)
		equal(m, "samples", len(shares), 100)
		m.Counts[0].Count = 101 // more than the first answer said
		m.at(2 * time.Second)
		func() {
			defer func() {
				if recover() == nil {
					m.Error("the binding does not panic: this trap is no more")
				}
			}()
			_, _ = d.GetProcessUtilization(0)
		}()
	})
}

// A call that hangs on one device is nobody else's business.
func TestHang(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Devices = append(m.Devices, nvmlstub.Device{UUID: gpuB, Name: "T4", Memory: nvmlstub.GiB})
		a := m.start(0)
		b := m.device(1)
		m.Faults = []nvmlstub.Fault{{Function: "*", Target: gpuA}}
		m.at(time.Second)
		hung := make(chan nvml.Return)
		for range 4 {
			go func() { hung <- second(a.GetName()) }()
		}
		for range 1000 {
			m.ok(second(b.GetName()))
		}
		select {
		case ret := <-hung:
			m.Fatalf("it came back: %d", ret)
		default:
		}
		m.Faults = nil
		m.at(2 * time.Second)
		for range 4 {
			m.ok(<-hung)
		}
		m.Faults = []nvmlstub.Fault{{Function: "GetName", Target: gpuA, Delay: 20 * time.Millisecond}}
		m.at(3 * time.Second)
		before := time.Now()
		m.ok(second(a.GetName()))
		if took := time.Since(before); took < 20*time.Millisecond {
			m.Errorf("a delay of 20 ms took %v", took)
		}
	})
}

func TestDriverIsReloaded(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Unloaded = []nvmlstub.Span{{At: 10 * time.Second, For: 5 * time.Second}}
		d := m.start(0)
		m.at(9 * time.Second)
		mJ, ret := d.GetTotalEnergyConsumption()
		m.ok(ret)
		equal(m, "energy", mJ, 900_000)
		m.at(12 * time.Second)
		m.is(second(d.GetUUID()), nvml.ERROR_DRIVER_NOT_LOADED)
		m.at(16 * time.Second)
		m.is(second(d.GetUUID()), nvml.ERROR_UNINITIALIZED)
		m.ok(m.Shutdown())
		m.ok(m.Init())
		mJ, ret = m.device(0).GetTotalEnergyConsumption()
		m.ok(ret)
		equal(m, "energy since it was loaded", mJ, 100_000)
	})
}

func TestEvents(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Events = []nvmlstub.Event{
			{At: time.Second, Device: gpuA, XID: 31},
			{At: 10 * time.Second, Device: gpuA, XID: 79},
			{At: 10 * time.Second, Device: gpuA, Type: 0x100},
			{At: 11 * time.Second, Device: gpuA, XID: 94, MIG: true, GI: 7, CI: 1},
		}
		d := m.start(0)
		supported, ret := d.GetSupportedEventTypes()
		m.ok(ret)
		set, ret := m.EventSetCreate()
		m.ok(ret)
		m.ok(d.RegisterEvents(supported&(nvml.EventTypeXidCriticalError|nvml.EventMigConfigChange), set))
		wait := func(want nvml.Return) (uint64, nvml.EventData) {
			e, ret := set.Wait(1)
			m.is(ret, want)
			return e.EventData, e
		}
		wait(nvml.ERROR_TIMEOUT)
		m.at(10 * time.Second)
		xid, _ := wait(nvml.SUCCESS)
		equal(m, "XID", xid, 31)
		xid, e := wait(nvml.SUCCESS)
		equal(m, "XID", xid, 79)
		equal(m, "instance", e.GpuInstanceId, 0xffffffff)
		uuid, ret := e.Device.GetUUID()
		m.ok(ret)
		equal(m, "device", uuid, gpuA)
		_, e = wait(nvml.SUCCESS)
		equal(m, "type", e.EventType, 0x100)
		wait(nvml.ERROR_TIMEOUT)
		m.at(12 * time.Second) // the file is new, the events are not
		xid, e = wait(nvml.SUCCESS)
		equal(m, "XID", xid, 94)
		equal(m, "instance", [2]uint32{e.GpuInstanceId, e.ComputeInstanceId}, [2]uint32{7, 1})
		wait(nvml.ERROR_TIMEOUT)
		m.ok(set.Free())
	})
}

// The past stays what it was when a new scenario begins.
func TestNewScenarioKeepsThePast(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		m.Processes = []nvmlstub.Process{{PID: 1, Device: gpuA, SM: 40}}
		d := m.start(10 * time.Second)
		from, ret := m.GpmSampleAlloc()
		m.ok(ret)
		to, ret := m.GpmSampleAlloc()
		m.ok(ret)
		m.ok(d.GpmSampleGet(from))
		m.at(11 * time.Second)
		m.ok(second(d.GetUUID()))
		m.Processes[0] = nvmlstub.Process{PID: 2, Device: gpuA, SM: 80}
		m.at(11 * time.Second)
		m.ok(second(d.GetUUID()))
		m.at(12 * time.Second)
		m.ok(d.GpmSampleGet(to))
		q := nvml.GpmMetricsGetType{NumMetrics: 1, Sample1: from, Sample2: to}
		q.Metrics[0].MetricId = uint32(nvml.GPM_METRIC_SM_UTIL)
		m.ok(m.GpmMetricsGet(&q))
		equal(m, "SM utilization", q.Metrics[0].Value, 60)
	})
}

// Processes that nobody knew beforehand, in real time.
func TestMatchingProcesses(t *testing.T) {
	onMachine(t, nvmlstub.Variant{}, func(m *machine) {
		runtime.LockOSThread() // what it starts dies with this thread
		load := buildProgram(m.T, "github.com/gpuledger/gpuledger/test/nvmlstub/cmd/gpuload")
		m.Start = time.Now()
		name := strings.ReplaceAll(t.TempDir(), "/", "-")
		m.Processes = []nvmlstub.Process{{Match: "gpuload --name " + name + " ", Device: gpuA, SM: 30, Memory: nvmlstub.GiB}}
		m.Scan = 20 * time.Millisecond
		if err := m.Write(m.path); err != nil {
			m.Fatal(err)
		}
		m.ok(m.Init())
		d := m.device(0)
		// eventually waits for the list to be so long; the test's own limit ends it.
		eventually := func(n int) []nvml.ProcessInfo {
			for {
				list, ret := d.GetComputeRunningProcesses()
				m.ok(ret)
				if len(list) == n {
					return list
				}
				<-time.After(5 * time.Millisecond)
			}
		}
		eventually(0)
		start := func(args ...string) *exec.Cmd {
			cmd := exec.Command(load, append([]string{"--name", name}, args...)...)
			cmd.Args[0] = "gpuload"
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				m.Fatal(err)
			}
			return cmd
		}
		one := start()
		if list := eventually(1); list[0].Pid != uint32(one.Process.Pid) || list[0].UsedGpuMemory != uint64(nvmlstub.GiB) {
			m.Errorf("%v, want process %d", list, one.Process.Pid)
		}
		three := start("--processes", "3", "--ignore-term")
		eventually(4)
		// A new scenario is about what runs already.
		m.Processes = append(m.Processes, nvmlstub.Process{Match: "--process 2 ", Device: gpuA, Kind: nvmlstub.Graphics})
		if err := m.Write(m.path); err != nil {
			m.Fatal(err)
		}
		for list := []nvml.ProcessInfo(nil); len(list) == 0; {
			var ret nvml.Return
			list, ret = d.GetGraphicsRunningProcesses()
			m.ok(ret)
			<-time.After(5 * time.Millisecond)
		}
		if err := one.Process.Signal(syscall.SIGTERM); err != nil {
			m.Fatal(err)
		}
		if err := one.Wait(); err != nil {
			m.Errorf("gpuload: %v", err)
		}
		eventually(3)
		_ = three.Process.Signal(syscall.SIGTERM) // which it ignores
		eventually(3)
		if err := three.Process.Kill(); err != nil {
			m.Fatal(err)
		}
		_ = three.Wait()
		eventually(0) // its children go with it
		// It used 30 % for as long as it lived, which is over.
		shares, ret := d.GetProcessUtilization(0)
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_FOUND {
			m.Errorf("process utilization: %v %d", shares, ret)
		}
		for range 3 { // whoever shuts down and comes back finds all the same
			m.ok(m.Shutdown())
			m.ok(m.Init())
		}
		two := start("--for", "1h")
		eventually(1)
		_ = two.Process.Kill()
		_ = two.Wait()
		eventually(0)
		m.ok(m.Shutdown())
	})
}
