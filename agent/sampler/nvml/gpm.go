package nvml

import (
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// gpmReader reads the SM utilization of a GPU, or of a GPU instance of one,
// between two of its calls. GPM wants them at least 100 ms apart.
type gpmReader struct {
	lib  *library
	take func(nvml.GpmSample) nvml.Return
	last nvml.GpmSample // nil before the first
	next nvml.GpmSample
	q    nvml.GpmMetricsGetType // 13 KB, hence kept
}

var gpmSymbols = []string{"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"}

// gpm is a reader for a GPU, or nil where GPM is not supported.
func (l *library) gpm(device nvml.Device) *gpmReader {
	if !l.gpmSupported(device) {
		return nil
	}
	return &gpmReader{lib: l, take: device.GpmSampleGet}
}

// migGPM is a reader for an instance of a GPU, or nil.
func (l *library) migGPM(parent nvml.Device, instance int) *gpmReader {
	if !l.gpmSupported(parent) || !l.has["nvmlGpmMigSampleGet"] {
		return nil
	}
	return &gpmReader{lib: l, take: func(s nvml.GpmSample) nvml.Return { return parent.GpmMigSampleGet(instance, s) }}
}

func (l *library) gpmSupported(device nvml.Device) bool {
	if !l.all(gpmSymbols...) {
		return false
	}
	support, ret := device.GpmQueryDeviceSupport()
	return ret == nvml.SUCCESS && support.IsSupportedDevice != 0
}

// share is in millionths; errNoData at the first call.
func (g *gpmReader) share() (int64, error) {
	if g.next == nil {
		s, ret := g.lib.api.GpmSampleAlloc()
		if err := g.lib.check("nvmlGpmSampleAlloc", ret); err != nil {
			return 0, err
		}
		g.next = s
	}
	if err := g.lib.check("nvmlGpmSampleGet", g.take(g.next)); err != nil {
		return 0, err
	}
	if g.last == nil {
		g.last, g.next = g.next, nil
		return 0, errNoData
	}
	g.q.NumMetrics, g.q.Sample1, g.q.Sample2 = 1, g.last, g.next
	m := &g.q.Metrics[0]
	*m = nvml.GpmMetric{MetricId: uint32(nvml.GPM_METRIC_SM_UTIL)}
	if err := g.lib.check("nvmlGpmMetricsGet", g.lib.api.GpmMetricsGet(&g.q)); err != nil {
		return 0, err
	}
	if err := g.lib.check("nvmlGpmMetricsGet(SM_UTIL)", nvml.Return(m.NvmlReturn)); err != nil {
		return 0, err
	}
	g.last, g.next = g.next, g.last
	return millionths(m.Value), nil
}

// millionths turns a percentage as the driver says it into parts of a million.
func millionths(percent float64) int64 {
	if math.IsNaN(percent) {
		return 0
	}
	return int64(math.Round(min(max(percent, 0), 100) * 1e4))
}

func (g *gpmReader) close() {
	for _, s := range []nvml.GpmSample{g.last, g.next} {
		if s != nil {
			_ = g.lib.api.GpmSampleFree(s) // nothing can be done about it
		}
	}
	g.last, g.next = nil, nil
}
