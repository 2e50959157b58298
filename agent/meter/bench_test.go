package meter

import (
	"fmt"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

// BenchmarkMeterRecord records one owner's share of a sample, on as many
// lanes at once as there are producers, while the sealer drains them.
func BenchmarkMeterRecord(b *testing.B) {
	for _, producers := range []int{1, 2} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			m := New(Options{From: 100})
			d, err := m.Device(&attribution.Device{ID: "GPU-0"})
			if err != nil {
				b.Fatal(err)
			}
			lanes := make([]*Lane, producers)
			for i := range lanes {
				if lanes[i], err = m.Lane(); err != nil {
					b.Fatal(err)
				}
			}
			o := m.Owner(&attribution.Owner{Kind: attribution.Container, Pod: "p"})
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, l := range lanes {
				wg.Go(func() {
					for i := range b.N / producers {
						t := int64(i) * 1000
						if !l.Record(Use(d, o, t, t+1000, 500, 1<<20)) {
							panic("BUG: lost")
						}
						// The sealer's part: the ring is emptied, as it is
						// every second.
						if i&1023 == 1023 {
							l.consumed.Store(l.published.Load())
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkSeal seals seconds of devices that are each held by one owner and
// covered by readings 57 seconds apart. One operation is one device window.
func BenchmarkSeal(b *testing.B) {
	for _, devices := range []int{8, 96} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			const start, step = 1_700_000_000, 57
			m := New(Options{From: start})
			l, err := m.Lane()
			if err != nil {
				b.Fatal(err)
			}
			hs := make([]DeviceHandle, devices)
			os := make([]OwnerHandle, devices)
			for i := range hs {
				if hs[i], err = m.Device(&attribution.Device{ID: fmt.Sprintf("GPU-%03d", i)}); err != nil {
					b.Fatal(err)
				}
				os[i] = m.Owner(&attribution.Owner{Kind: attribution.Container, Pod: fmt.Sprintf("p%d", i)})
				l.Record(Added(hs[i], start*attribution.WindowNanos))
				l.Record(Hold(hs[i], os[i], 1, start*attribution.WindowNanos))
			}
			emit := func(s *Sealed) error {
				if len(s.Windows) != devices {
					return fmt.Errorf("%d windows", len(s.Windows))
				}
				return nil
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n, second := 0, attribution.Second(start); n < b.N; n += devices {
				if (second-start)%step == 0 {
					from, to := second.Nanos(), (second + step).Nanos()
					for i := range hs {
						l.Record(Activity(hs[i], from, to, 4_000_000_007, 12_345_678, true))
						l.Record(Use(hs[i], os[i], from, to, 4_000_000_007, 1<<36))
					}
				}
				if err := m.Seal(second, emit); err != nil {
					b.Fatal(err)
				}
				second++
			}
		})
	}
}
