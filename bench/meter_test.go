package bench

import (
	"context"
	"fmt"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/attribution"
)

const (
	producers = 2
	owners    = 64
	burst     = 512  // records of a producer between two drains: some seconds'
	ring      = 1024 // records that a lane holds, as a live agent's does
)

// BenchmarkMeterRecord measures what it costs a sampler to hand over one
// owner's share of one sample, with two samplers at work: time as the sampler
// sees it, so wall time per record and producer. The others do as much of the
// same as they can: they add the share to a running total under the owner's
// key. They lose when it was, and the memory beside it; the meter's record
// carries both.
//
// Producers record bursts; between bursts, off the clock, the sealer drains.
func BenchmarkMeterRecord(b *testing.B) {
	b.Run("gpuledger", func(b *testing.B) { benchMeter(b, recordSample) })
	b.Run("gpuledger-one-by-one", func(b *testing.B) { benchMeter(b, recordOneByOne) })
	b.Run("mutexmap", benchMutexMap)
	b.Run("syncmap", benchSyncMap)
	b.Run("client_golang", benchClientGolang)
	b.Run("otel", benchOTel)
}

// bursts runs b.N records on each producer and reports what they took, what
// happens between bursts excepted: the mean time of a record as ns/op, and that
// of the median burst, which neighbours on the machine disturb less.
func bursts(b *testing.B, record func(producer, n int), between func()) {
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	var objects, bytes uint64
	var spent time.Duration
	perRecord := make([]float64, 0, b.N/burst+1)
	for done := 0; done < b.N; done += burst {
		n := min(burst, b.N-done)
		metrics.Read(allocated)
		objects, bytes = objects-allocated[0].Value.Uint64(), bytes-allocated[1].Value.Uint64()
		took := together(func(p int) { record(p, n) })
		metrics.Read(allocated)
		objects, bytes = objects+allocated[0].Value.Uint64(), bytes+allocated[1].Value.Uint64()
		spent += took
		perRecord = append(perRecord, float64(took.Nanoseconds())/float64(n))
		between()
	}
	slices.Sort(perRecord)
	all := float64(producers) * float64(b.N)
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(perRecord[len(perRecord)/2], "median-ns")
	b.ReportMetric(float64(bytes)/all, "B/op")
	b.ReportMetric(float64(objects)/all, "allocs/op")
}

// together runs f on all producers at the same time and returns the mean of
// what it took each.
func together(f func(producer int)) time.Duration {
	var spent, ready atomic.Int64
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for ready.Add(1); ready.Load() < producers; {
				runtime.Gosched()
			}
			began := time.Now()
			f(p)
			spent.Add(int64(time.Since(began)))
		})
	}
	wg.Wait()
	return time.Duration(spent.Load() / producers)
}

// shares is what a producer records: every owner has a share in every second.
type shares struct {
	lane    *meter.Lane
	device  meter.DeviceHandle
	handles [owners]meter.OwnerHandle
	batch   []meter.Record
}

// recordSample hands over a sample's shares together, as the agent's feeds do.
func recordSample(s *shares, n int, from int64) bool {
	ok, lane, d := true, s.lane, s.device
	for ; n > 0; n -= owners {
		batch := s.batch[:min(n, owners)]
		for o := range batch {
			batch[o] = meter.Use(d, s.handles[o], from, from+attribution.WindowNanos, 7_000_000, 8<<30)
		}
		ok = lane.RecordAll(batch) && ok
		from += attribution.WindowNanos
	}
	return ok
}

// recordOneByOne publishes each share by itself.
func recordOneByOne(s *shares, n int, from int64) bool {
	ok, lane, d := true, s.lane, s.device
	for i := range n {
		o := i % owners
		ok = lane.Record(meter.Use(d, s.handles[o], from, from+attribution.WindowNanos, 7_000_000, 8<<30)) && ok
		if o == owners-1 {
			from += attribution.WindowNanos
		}
	}
	return ok
}

func benchMeter(b *testing.B, record func(s *shares, n int, from int64) bool) {
	start := attribution.Second(1_767_225_600)
	m := meter.New(meter.Options{From: start, LaneRecords: ring})
	var by [producers]shares
	f := defaultFleet()
	for p := range producers {
		var err error
		if by[p].lane, err = m.Lane(); err != nil {
			b.Fatal(err)
		}
		d := f.device(0, p)
		if by[p].device, err = m.Device(&d); err != nil {
			b.Fatal(err)
		}
		by[p].lane.Record(meter.Added(by[p].device, start.Nanos()))
		by[p].batch = make([]meter.Record, 0, owners)
		for o := range owners {
			owner := f.owner(0, p, o, 0)
			by[p].handles[o] = m.Owner(&owner)
		}
	}
	now := start.Nanos()
	var lost atomic.Bool
	bursts(b, func(p, n int) {
		if !record(&by[p], n, now) {
			lost.Store(true)
		}
	}, func() {
		now += burst / owners * attribution.WindowNanos
		if err := m.Seal(attribution.SecondOf(now)-1, func(*meter.Sealed) error { return nil }); err != nil {
			b.Fatal(err)
		}
	})
	if st := m.Stats(); lost.Load() || st.MergedRecords > 0 {
		b.Fatalf("records were lost or merged: %+v", st)
	}
}

type shareKey struct{ device, owner uint32 }

func benchMutexMap(b *testing.B) {
	var mu sync.Mutex
	totals := map[shareKey]int64{}
	bursts(b, func(p, n int) {
		for i := range n {
			mu.Lock()
			totals[shareKey{uint32(p), uint32(i % owners)}] += 7_000_000
			mu.Unlock()
		}
	}, func() {})
}

func benchSyncMap(b *testing.B) {
	var totals sync.Map
	for p := range producers {
		for o := range owners {
			totals.Store(shareKey{uint32(p), uint32(o)}, new(atomic.Int64))
		}
	}
	bursts(b, func(p, n int) {
		for i := range n {
			v, _ := totals.Load(shareKey{uint32(p), uint32(i % owners)})
			v.(*atomic.Int64).Add(7_000_000)
		}
	}, func() {})
}

// ownerLabels are the label values of an owner's series.
func ownerLabels(p int) [owners][5]string {
	f := defaultFleet()
	var out [owners][5]string
	d := f.device(0, p)
	for o := range owners {
		w := f.owner(0, p, o, 0)
		out[o] = [5]string{d.ID, w.Namespace, w.Pod, w.Container, attribution.Used.String()}
	}
	return out
}

func benchClientGolang(b *testing.B) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gpuledger_gpu_seconds_total", Help: "x"},
		[]string{"gpu_uuid", "namespace", "pod", "container", "basis"})
	labels := [producers][owners][5]string{ownerLabels(0), ownerLabels(1)}
	bursts(b, func(p, n int) {
		for i := range n {
			l := &labels[p][i%owners]
			vec.WithLabelValues(l[0], l[1], l[2], l[3], l[4]).Add(0.007)
		}
	}, func() {})
}

func benchOTel(b *testing.B) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	counter, err := provider.Meter("bench").Int64Counter("gpuledger.gpu.time")
	if err != nil {
		b.Fatal(err)
	}
	var sets [producers][owners]metric.MeasurementOption
	for p := range producers {
		for o, l := range ownerLabels(p) {
			sets[p][o] = metric.WithAttributeSet(attribute.NewSet(
				attribute.String("hw.id", l[0]), attribute.String("k8s.namespace.name", l[1]), attribute.String("k8s.pod.name", l[2]),
				attribute.String("k8s.container.name", l[3]), attribute.String("gpuledger.basis", l[4])))
		}
	}
	ctx := context.Background()
	bursts(b, func(p, n int) {
		for i := range n {
			counter.Add(ctx, 7_000_000, sets[p][i%owners])
		}
	}, func() {})
}

// The facts that are measured on keep the laws.
func Example() {
	f := defaultFleet()
	c := f.chunk(0, 0)
	fmt.Println(len(c.Windows), "device windows,", slicesOf(c), "slices,", c.Check())
	// Output: 80 device windows, 320 slices, <nil>
}
