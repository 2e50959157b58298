package exporter_test

import (
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/attribution"
)

// life plays a node on which a pod uses a GPU for two seconds, and nobody after
// that, and returns for how many seconds the pod's series stayed without time.
// each is called after every second.
func life(e *exporter.Exporter, each func(i int)) int {
	for i := range 100 {
		o := attribution.Owner{}
		if i < 2 {
			o = exportertest.Pod("a")
		}
		e.Add(one(start+attribution.Second(i), "GPU-a", o, exportertest.Price(1)))
		if !has(e, "a") {
			return i - 1
		}
		each(i)
	}
	return -1
}

func has(e *exporter.Exporter, pod string) bool {
	for _, x := range e.Snapshot().Series {
		if x.Owner.Pod == pod {
			return true
		}
	}
	return false
}

func TestTheDeadLeaveOnceEveryViewHasTheirLastValue(t *testing.T) {
	options := exporter.Options{Linger: 10 * time.Second, LingerLimit: 40 * time.Second}
	for _, tc := range []struct {
		name      string
		pushEvery int // 0: a push that never succeeds; -1: none
		scrapeTo  int // scraped each second up to this
		want      int
		lost      uint64
	}{
		{"no views", -1, 0, 10, 0},
		{"a scrape", -1, 100, 10, 0},
		{"a scrape that ended after the last value", -1, 5, 10, 0},
		{"a scrape that ended before it", -1, 1, 40, 1},
		{"pushes", 3, 0, 10, 0},
		{"rare pushes", 25, 0, 25, 0},
		{"pushes that fail", 0, 0, 40, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newExporter(t, options)
			scrape := e.NewView(false)
			var push *exporter.View
			if tc.pushEvery >= 0 {
				push = e.NewView(true)
			}
			got := life(e, func(i int) {
				if i < tc.scrapeTo {
					scrape.Exported(scrape.Snapshot())
				}
				if tc.pushEvery > 0 && i > 0 && i%tc.pushEvery == 0 {
					push.Exported(push.Snapshot())
				}
			})
			if s := e.Snapshot().Stats; got != tc.want || s.LeftUnexported != tc.lost {
				t.Errorf("left after %d idle seconds, %d unexported; want %d, %d", got, s.LeftUnexported, tc.want, tc.lost)
			}
		})
	}
}

func TestWhoComesBackBeginsAgain(t *testing.T) {
	e := newExporter(t, exporter.Options{Linger: 10 * time.Second})
	at := func(i int) {
		e.Add(one(start+attribution.Second(i), "GPU-a", exportertest.Pod("a"), exportertest.Price(1)))
	}
	at(0)
	at(9)
	if x := e.Snapshot().Series[0]; x.Since != start || x.Time != 2e9 {
		t.Errorf("back while it lingers: %+v", x)
	}
	e.Add(one(start+20, "GPU-b", attribution.Owner{}, attribution.Price{}))
	if has(e, "a") || len(e.Snapshot().Devices) != 1 {
		t.Errorf("still there: %+v", e.Snapshot())
	}
	at(30)
	x := e.Snapshot().Series[0]
	for _, y := range e.Snapshot().Series {
		if y.Owner.Pod == "a" {
			x = y
		}
	}
	if x.Since != start+30 || x.Time != 1e9 {
		t.Errorf("back after it left: %+v", x)
	}
}

func TestReadersSeeWholeSnapshots(t *testing.T) {
	e := newExporter(t, exporter.Options{Linger: 5 * time.Second})
	v := e.NewView(false)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				s := v.Snapshot()
				total := int64(0)
				for _, x := range s.Series {
					total += x.Time
				}
				if want := int64(len(s.Devices)) * 1e9; s.Second > 0 && total%1e9 != 0 || total < want {
					t.Errorf("second %d: series sum to %d", s.Second, total)
					return
				}
				v.Exported(s)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 500 {
		e.Add(exportertest.Episode(i))
	}
	close(stop)
	readers.Wait()
}
