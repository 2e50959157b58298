package gpu

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"
)

// latency is how long one NVML call takes, the binding included.
type latency struct {
	Call  string `json:"call"`
	N     int    `json:"n"`
	P50Ns int64  `json:"p50_ns"`
	P99Ns int64  `json:"p99_ns"`
	MaxNs int64  `json:"max_ns"`
	// CPUNs is the mean of the processor's time that it took: what is left is
	// waiting.
	CPUNs int64  `json:"cpu_ns"`
	Error string `json:"error,omitempty"` // it was not measured
}

// driver is NVML, on one GPU.
type driver struct {
	nvml.Interface
	device nvml.Device
}

// openDriver loads the driver's library into this process, for good.
func openDriver(r *rig) *driver {
	r.Helper()
	var options []nvml.LibraryOption
	if r.library != "" {
		options = append(options, nvml.WithLibraryPath(r.library))
	}
	d := &driver{Interface: nvml.New(options...)}
	if ret := d.Init(); ret != nvml.SUCCESS {
		r.Fatalf("nvmlInit: error %d: is there a driver? GPULEDGER_GPU_LIBRARY names its library where the loader does not find it", ret)
	}
	r.Cleanup(func() { _ = d.Shutdown() })
	var ret nvml.Return
	if d.device, ret = d.DeviceGetHandleByIndex(r.index); ret != nvml.SUCCESS {
		r.Fatalf("nvmlDeviceGetHandleByIndex(%d): error %d", r.index, ret)
	}
	return d
}

func (d *driver) has(symbol string) bool { return d.Extensions().LookupSymbol(symbol) == nil }

// machine says what the driver knows of the GPU.
func (d *driver) machine(r *rig) machine {
	r.Helper()
	m := machine{Stub: r.stub != nil, CPUs: runtime.NumCPU(), Kernel: fileText("/proc/sys/kernel/osrelease"), PIDNamespace: "unknown"}
	var buf [64]byte
	if n, err := unix.Readlink("/proc/self/ns/pid", buf[:]); err == nil {
		m.PIDNamespace = string(buf[:n])
	}
	var ret nvml.Return
	if m.Driver, ret = d.SystemGetDriverVersion(); ret != nvml.SUCCESS {
		r.Fatalf("nvmlSystemGetDriverVersion: error %d", ret)
	}
	m.GPU, _ = d.device.GetName()
	if m.UUID, ret = d.device.GetUUID(); ret != nvml.SUCCESS {
		r.Fatalf("nvmlDeviceGetUUID: error %d", ret)
	}
	if memory, ret := d.device.GetMemoryInfo(); ret == nvml.SUCCESS {
		m.MemoryBytes = memory.Total
	}
	if d.has("nvmlDeviceGetMigMode") {
		mode, _, ret := d.device.GetMigMode()
		m.MIG = ret == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE
	}
	m.PeriodNs = d.period()
	return m
}

// period is the time between two of the driver's samples: the median; 0 where
// it does not tell.
func (d *driver) period() int64 {
	_, samples, ret := d.device.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, 0)
	if ret != nvml.SUCCESS {
		return 0
	}
	var times, gaps []uint64
	for i := range samples {
		if samples[i].TimeStamp != 0 {
			times = append(times, samples[i].TimeStamp)
		}
	}
	slices.Sort(times)
	for i := 1; i < len(times); i++ {
		if times[i] > times[i-1] {
			gaps = append(gaps, times[i]-times[i-1])
		}
	}
	if len(gaps) == 0 {
		return 0
	}
	slices.Sort(gaps)
	return int64(gaps[len(gaps)/2]) * 1000
}

// call is one that the agent makes.
type call struct {
	name, symbol string // symbol: "" is there in every driver
	reading      bool   // the agent makes it once a second
	do           func() nvml.Return
	took         []int64
	cpu          int64
	err          string
}

// calls are those that the agent makes again and again; waiting for events is
// none of them, as it is meant to wait.
func (d *driver) calls() []*call {
	dev := d.device
	second := func() uint64 { return uint64(time.Now().Add(-time.Second).UnixMicro()) }
	none := func(ret nvml.Return) nvml.Return { // what it says if there is nothing
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INSUFFICIENT_SIZE {
			return nvml.SUCCESS
		}
		return ret
	}
	return []*call{
		{name: "GetProcessUtilization", symbol: "nvmlDeviceGetProcessUtilization", reading: true, do: func() nvml.Return { _, ret := dev.GetProcessUtilization(second()); return none(ret) }},
		{name: "GetComputeRunningProcesses", reading: true, do: func() nvml.Return { _, ret := dev.GetComputeRunningProcesses(); return ret }},
		{name: "GetTotalEnergyConsumption", symbol: "nvmlDeviceGetTotalEnergyConsumption", reading: true, do: func() nvml.Return { _, ret := dev.GetTotalEnergyConsumption(); return ret }},
		{name: "GetGraphicsRunningProcesses", do: func() nvml.Return { _, ret := dev.GetGraphicsRunningProcesses(); return ret }},
		{name: "GetMPSComputeRunningProcesses", symbol: "nvmlDeviceGetMPSComputeRunningProcesses_v3", do: func() nvml.Return { _, ret := dev.GetMPSComputeRunningProcesses(); return ret }},
		{name: "GetSamples", symbol: "nvmlDeviceGetSamples", do: func() nvml.Return {
			_, _, ret := dev.GetSamples(nvml.GPU_UTILIZATION_SAMPLES, second())
			return none(ret)
		}},
		{name: "GetUtilizationRates", do: func() nvml.Return { _, ret := dev.GetUtilizationRates(); return ret }},
		{name: "GetMemoryInfo", do: func() nvml.Return { _, ret := dev.GetMemoryInfo(); return ret }},
		{name: "DeviceGetCount", do: func() nvml.Return { _, ret := d.DeviceGetCount(); return ret }},
		{name: "DeviceGetHandleByIndex", do: func() nvml.Return { _, ret := d.DeviceGetHandleByIndex(0); return ret }},
		{name: "GetUUID", do: func() nvml.Return { _, ret := dev.GetUUID(); return ret }},
		{name: "GetMigMode", symbol: "nvmlDeviceGetMigMode", do: func() nvml.Return { _, _, ret := dev.GetMigMode(); return ret }},
	}
}

// gpm is the two calls of GPM, which wants 100 ms between samples.
type gpm struct {
	take, metrics *call
	last, next    nvml.GpmSample
}

func (d *driver) gpm() *gpm {
	g := &gpm{take: &call{name: "GpmSampleGet", reading: true}, metrics: &call{name: "GpmMetricsGet", reading: true}}
	for _, s := range []string{"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"} {
		if !d.has(s) {
			g.take.err = "the driver has no " + s
			return g
		}
	}
	if support, ret := d.device.GpmQueryDeviceSupport(); ret != nvml.SUCCESS || support.IsSupportedDevice == 0 {
		g.take.err = fmt.Sprintf("the GPU has no GPM (%d)", ret)
		return g
	}
	var one, two nvml.Return
	g.last, one = d.GpmSampleAlloc()
	g.next, two = d.GpmSampleAlloc()
	if one != nvml.SUCCESS || two != nvml.SUCCESS {
		g.take.err = fmt.Sprintf("nvmlGpmSampleAlloc: error %d, %d", one, two)
		return g
	}
	if ret := d.device.GpmSampleGet(g.last); ret != nvml.SUCCESS {
		g.take.err = fmt.Sprintf("nvmlGpmSampleGet: error %d", ret)
	}
	q := &nvml.GpmMetricsGetType{}
	g.take.do = func() nvml.Return { return d.device.GpmSampleGet(g.next) }
	g.metrics.do = func() nvml.Return {
		q.NumMetrics, q.Sample1, q.Sample2 = 1, g.last, g.next
		q.Metrics[0] = nvml.GpmMetric{MetricId: uint32(nvml.GPM_METRIC_SM_UTIL)}
		g.last, g.next = g.next, g.last
		if ret := d.GpmMetricsGet(q); ret != nvml.SUCCESS {
			return ret
		}
		return nvml.Return(q.Metrics[0].NvmlReturn)
	}
	return g
}

func (g *gpm) free(d *driver) {
	for _, s := range []nvml.GpmSample{g.last, g.next} {
		if s != nil {
			_ = d.GpmSampleFree(s)
		}
	}
}

// run times one call; 0 where it can't be made.
func (c *call) run() (took int64) {
	if c.err != "" {
		return 0
	}
	defer func() {
		if r := recover(); r != nil { // the binding trusts the driver's counts
			c.err = fmt.Sprint(r)
		}
	}()
	cpu := threadTime()
	begin := time.Now()
	ret := c.do()
	took = time.Since(begin).Nanoseconds()
	cpu = threadTime() - cpu
	if ret != nvml.SUCCESS {
		c.err = fmt.Sprintf("error %d", ret)
		return 0
	}
	c.took, c.cpu = append(c.took, took), c.cpu+cpu
	return took
}

func (c *call) latency() latency {
	l := latency{Call: c.name, Error: c.err, N: len(c.took)}
	if l.N == 0 || l.Error != "" {
		return latency{Call: c.name, Error: c.err}
	}
	slices.Sort(c.took)
	at := func(percent int) int64 { return c.took[(l.N*percent+99)/100-1] }
	l.P50Ns, l.P99Ns, l.MaxNs, l.CPUNs = at(50), at(99), at(100), c.cpu/int64(l.N)
	return l
}

func threadTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // 0 where there is none
	return t.Nano()
}

// latencies times every call in rounds of 20 ms, for so long. The last figure
// is a whole reading's, as the agent takes one of each GPU and second.
func (d *driver) latencies(lasts time.Duration) (out []latency) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	calls, g := d.calls(), d.gpm()
	defer g.free(d)
	for _, c := range calls {
		if c.symbol != "" && !d.has(c.symbol) {
			c.err = "the driver has no " + c.symbol
		}
	}
	reading := &call{name: "a reading"}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for round, end := 0, time.Now().Add(lasts); time.Now().Before(end); round++ {
		<-tick.C
		sum := int64(0)
		for _, c := range calls {
			took := c.run()
			if c.reading {
				sum += took
			}
		}
		if round%6 != 5 {
			continue
		}
		sum += g.take.run()
		if g.take.err == "" {
			sum += g.metrics.run()
		}
		reading.took = append(reading.took, sum)
	}
	if g.take.err != "" {
		g.metrics.err = g.take.err
	}
	for _, c := range append(calls, g.take, g.metrics) {
		reading.cpu += each(c) * int64(len(reading.took))
		out = append(out, c.latency())
	}
	return append(out, reading.latency())
}

// each is the mean processor time of a call that is part of a reading.
func each(c *call) int64 {
	if !c.reading || len(c.took) == 0 {
		return 0
	}
	return c.cpu / int64(len(c.took))
}

func latencyTable(calls []latency) string {
	var b strings.Builder
	micro := func(ns int64) float64 { return float64(ns) / 1e3 }
	fmt.Fprintf(&b, "%-30s %6s %11s %11s %11s %11s\n", "call", "n", "p50 µs", "p99 µs", "max µs", "CPU µs")
	for _, c := range calls {
		if c.Error != "" {
			fmt.Fprintf(&b, "%-30s %s\n", c.Call, c.Error)
			continue
		}
		fmt.Fprintf(&b, "%-30s %6d %11.1f %11.1f %11.1f %11.1f\n", c.Call, c.N, micro(c.P50Ns), micro(c.P99Ns), micro(c.MaxNs), micro(c.CPUNs))
	}
	return b.String()
}

// TestLatencies times the driver's calls alone, for who wants nothing else.
func TestLatencies(t *testing.T) {
	r := open(t)
	calls := r.nvml.latencies(3 * time.Second)
	t.Logf("NVML calls, nothing else of ours on the GPU\n%s", latencyTable(calls))
	text, err := json.MarshalIndent(calls, "", " ")
	r.must(err)
	r.keep("latencies.json", append(text, '\n'))
	for _, c := range calls {
		if c.Call == "a reading" && (c.N == 0 || c.P50Ns == 0) {
			t.Errorf("nothing that a reading needs can be called: %+v", c)
		}
	}
}
