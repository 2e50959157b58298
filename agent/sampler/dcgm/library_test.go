package dcgm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	gpuA = "GPU-6d0f1b8e-5f3c-4c0e-9a43-3f2a9f0c1d11"
	gpuB = "GPU-0b51b5a0-7c2d-4d0f-8d55-5f6e1a7b2c22"
)

// node is a machine whose first GPU is whole and whose second is cut: DCGM's
// numbers are in another order than NVML's.
const node = `
listen localhost:5555
listen-unix /run/dcgm.sock
gpu 0 ` + gpuA + `
gpu 3 ` + gpuB + `
gi 100 3 9
gi 101 3 1
ci 200 100 0
ci 210 101 0
ci 211 101 1
value gpu 0 1002 0.5
value gpu 0 1005 0.75
value gpu 3 1002 0.25
value gi 100 1002 0.125
value gi 101 1002 1
value ci 210 1002 0.9
value ci 211 1002 0.1
`

// session opens a session by hand, so that nothing waits for a ticker.
func session(t *testing.T, s *Source) *reader {
	t.Helper()
	if err := s.engine.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.engine.close(); err != nil {
			t.Error(err)
		}
	})
	r := &reader{source: s}
	if err := r.survey(); err != nil {
		t.Fatal(err)
	}
	return r
}

func wantShare(t *testing.T, s *Source, gpu string, instance int, want int64) {
	t.Helper()
	share, at, ok := s.SMShare(gpu, instance)
	if !ok || share != want {
		t.Errorf("%s/%d: %d, %v; want %d", gpu, instance, share, ok, want)
	}
	if age := time.Now().UnixNano() - at; ok && (age < 0 || age > int64(time.Minute)) {
		t.Errorf("%s/%d: %v old", gpu, instance, time.Duration(age))
	}
}

func wantUnknown(t *testing.T, s *Source, gpu string, instance int) {
	t.Helper()
	if share, _, ok := s.SMShare(gpu, instance); ok {
		t.Errorf("%s/%d: %d, want nothing", gpu, instance, share)
	}
}

func tick(t *testing.T, r *reader) {
	t.Helper()
	if err := r.tick(); err != nil {
		t.Fatal(err)
	}
}

func TestStubEmbedded(t *testing.T) {
	underStub(t, node, func(t *testing.T, path string) {
		calls := filepath.Join(t.TempDir(), "calls")
		rewrite(t, path, node+"calls "+calls+"\n")
		s, log := open(t, Options{Mode: Embedded, Extra: []Field{DRAMActive}})
		t.Run("session", func(t *testing.T) {
			tick(t, session(t, s))
			wantShare(t, s, gpuA, -1, 500_000)
			wantShare(t, s, gpuB, -1, 250_000)
			wantShare(t, s, gpuB, 9, 125_000)
			wantShare(t, s, gpuB, 1, 1_000_000)
			wantUnknown(t, s, gpuA, 1)
			wantUnknown(t, s, gpuB, 100)
			wantUnknown(t, s, "", -1)
			got := s.Readings(nil)
			for i := range got {
				got[i].At = 0
			}
			want := []Reading{
				{gpuB, -1, -1, SMActive, 250_000, 0},
				{gpuB, 1, -1, SMActive, 1_000_000, 0},
				{gpuB, 1, 0, SMActive, 900_000, 0},
				{gpuB, 1, 1, SMActive, 100_000, 0},
				{gpuB, 9, -1, SMActive, 125_000, 0}, // its one compute instance is the same
				{gpuA, -1, -1, SMActive, 500_000, 0},
				{gpuA, -1, -1, DRAMActive, 750_000, 0},
			}
			if len(got) != len(want) {
				t.Fatalf("%+v", got)
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%+v, want %+v", got[i], want[i])
				}
			}
			if st := s.Stats(); !st.Up || st.Known != 4 || st.Drops.Blank != 5 || st.Reads != 1 {
				t.Errorf("%+v", st)
			}
			if lines := log.all(); len(lines) != 1 || !strings.Contains(lines[0], "DCGM measures SM activity") {
				t.Errorf("%q", lines)
			}
		})
		made := callsOf(t, calls)
		for made1, undone := range map[string]string{
			"dcgmInit": "dcgmShutdown", "dcgmStartEmbedded": "dcgmStopEmbedded", "dcgmGroupCreate": "dcgmGroupDestroy",
			"dcgmFieldGroupCreate": "dcgmFieldGroupDestroy", "dcgmWatchFields": "dcgmUnwatchFields",
		} {
			if made[made1] == 0 || made[made1] != made[undone] {
				t.Errorf("%d of %s, %d of %s", made[made1], made1, made[undone], undone)
			}
		}
	})
}

func callsOf(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]int{}
	for name := range strings.FieldsSeq(string(text)) {
		made[name]++
	}
	return made
}

func TestStubStandalone(t *testing.T) {
	underStub(t, node, func(t *testing.T, path string) {
		for _, address := range []string{"", "localhost:5555", "unix:///run/dcgm.sock", "/run/dcgm.sock"} {
			t.Run("at "+address, func(t *testing.T) {
				s, _ := open(t, Options{Mode: Standalone, Address: address})
				tick(t, session(t, s))
				wantShare(t, s, gpuA, -1, 500_000)
			})
		}
		t.Run("elsewhere", func(t *testing.T) {
			s, _ := open(t, Options{Mode: Standalone, Address: "localhost:1"})
			if err := s.engine.open(); !errors.Is(err, statusDisconnected) || hint(err) == "see the hostengine's log" {
				t.Errorf("%v (%s)", err, hint(err))
			}
		})
		t.Run("restarted", func(t *testing.T) {
			s, _ := open(t, Options{Mode: Standalone})
			if err := s.engine.open(); err != nil {
				t.Fatal(err)
			}
			r := &reader{source: s}
			if err := r.survey(); err != nil {
				t.Fatal(err)
			}
			tick(t, r)
			rewrite(t, path, node+"generation 2\n")
			if err := r.tick(); !errors.Is(err, statusDisconnected) {
				t.Errorf("%v, want %v", err, statusDisconnected)
			}
			if err := s.engine.close(); err == nil {
				t.Error("closing what is gone succeeded")
			}
			tick(t, session(t, s))
			wantShare(t, s, gpuB, 9, 125_000)
		})
	})
}

func TestStubCutAnew(t *testing.T) {
	underStub(t, node, func(t *testing.T, path string) {
		s, _ := open(t, Options{Mode: Embedded})
		r := session(t, s)
		tick(t, r)
		wantShare(t, s, gpuB, 1, 1_000_000)
		// The same number of NVML's, by another entity; one is gone, a GPU too.
		rewrite(t, path, "gpu 3 "+gpuB+"\ngi 300 3 1\nvalue gi 300 1002 0.3\nvalue gpu 3 1002 0.2\n")
		r.surveyed = r.surveyed.Add(-surveyEvery)
		tick(t, r)
		wantShare(t, s, gpuB, 1, 300_000)
		wantShare(t, s, gpuB, -1, 200_000)
		wantUnknown(t, s, gpuB, 9)
		wantUnknown(t, s, gpuA, -1)
	})
}

func TestStubValues(t *testing.T) {
	underStub(t, "", func(t *testing.T, path string) {
		for name, test := range map[string]struct {
			value string
			drops Drops
		}{
			"blank":       {"blank", Drops{Blank: 1}},
			"unsupported": {"unsupported", Drops{Blank: 1}},
			"denied":      {"denied", Drops{Blank: 1}},
			"status":      {"status -18", Drops{Blank: 1}},
			"an integer":  {"integer", Drops{Blank: 1}},
			"nan":         {"nan", Drops{Value: 1}},
			"infinite":    {"inf", Drops{Value: 1}},
			"negative":    {"-0.1", Drops{Value: 1}},
			"over 1":      {"1.300001", Drops{Value: 1}},
			"old":         {"0.5 age 4000", Drops{Time: 1}},
			"future":      {"0.5 age -60000", Drops{Time: 1}},
		} {
			t.Run(name, func(t *testing.T) {
				rewrite(t, path, "gpu 0 "+gpuA+"\ngpu 1 "+gpuB+"\nvalue gpu 1 1002 0.5\nvalue gpu 0 1002 "+test.value+"\n")
				s, _ := open(t, Options{Mode: Embedded})
				tick(t, session(t, s))
				wantUnknown(t, s, gpuA, -1)
				wantShare(t, s, gpuB, -1, 500_000)
				if got := s.Stats().Drops; got != test.drops {
					t.Errorf("%+v, want %+v", got, test.drops)
				}
			})
		}
	})
}

func TestStubRefusals(t *testing.T) {
	underStub(t, "", func(t *testing.T, path string) {
		for name, test := range map[string]struct {
			scenario string
			want     error
			hint     string
		}{
			"all in use":       {node + "fail dcgmWatchFields -34\n", statusInUse, "owns the profiling counters"},
			"not root":         {node + "fail dcgmWatchFields -29\n", statusRequiresRoot, "root"},
			"no module":        {node + "fail dcgmWatchFields -33\n", statusNotLoaded, "profiling module"},
			"no permission":    {node + "fail dcgmUpdateAllFields -17\n", statusNoPermission, "root"},
			"no hierarchy":     {node + "fail dcgmGetGpuInstanceHierarchy -12\n", statusVersion, "version"},
			"no UUIDs":         {"gpu 0 " + gpuA + "\nfail dcgmEntitiesGetLatestValues(live) -18\n", statusLost, "tried again"},
			"no GPUs":          {"", statusGPUUnsupported, "mode to off"},
			"no field group":   {node + "fail dcgmFieldGroupCreate -24\n", nil, "log"},
			"an unknown code":  {node + "fail dcgmGetAllSupportedDevices -99\n", status(-99), "log"},
			"a code, named no": {node + "fail dcgmGroupCreate -3\n", nil, "log"},
			"a wild hierarchy": {node + "hierarchy-count 4000000000\n", nil, "log"},
		} {
			t.Run(name, func(t *testing.T) {
				rewrite(t, path, test.scenario)
				s, _ := open(t, Options{Mode: Embedded})
				if err := s.engine.open(); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := s.engine.close(); err != nil {
						t.Error(err)
					}
				}()
				err := (&reader{source: s}).survey()
				if err == nil || test.want != nil && !errors.Is(err, test.want) {
					t.Fatalf("%v, want %v", err, test.want)
				}
				if !strings.Contains(hint(err), test.hint) {
					t.Errorf("hint %q, want …%s…", hint(err), test.hint)
				}
			})
		}
		t.Run("UUIDs of cut GPUs only", func(t *testing.T) {
			rewrite(t, path, node+"fail dcgmEntitiesGetLatestValues(live) -6\n")
			s, _ := open(t, Options{Mode: Embedded})
			tick(t, session(t, s))
			wantUnknown(t, s, gpuA, -1)
			wantShare(t, s, gpuB, 9, 125_000)
			wantShare(t, s, gpuB, -1, 250_000)
		})
		t.Run("one GPU of two", func(t *testing.T) {
			rewrite(t, path, node+"unwatchable gi 100 -36\n")
			s, log := open(t, Options{Mode: Embedded})
			tick(t, session(t, s))
			wantShare(t, s, gpuA, -1, 500_000)
			wantUnknown(t, s, gpuB, 1)
			if lines := log.all(); len(lines) != 1 || !strings.Contains(lines[0], "some GPUs only") || !strings.Contains(lines[0], gpuB) {
				t.Errorf("%q", lines)
			}
		})
	})
}

// runs Run until its log has a line, and returns all of it.
func runUntilSaid(t *testing.T, s *Source, log *journal) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for len(log.all()) == 0 {
		select {
		case err := <-done:
			t.Fatalf("Run returned early: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	return log.all()
}

func TestNoLibrary(t *testing.T) {
	for _, mode := range []Mode{Embedded, Standalone} {
		s, log := open(t, Options{Mode: mode})
		lines := runUntilSaid(t, s, log)
		if len(lines) != 1 || !strings.Contains(lines[0], "NVML alone") || !strings.Contains(lines[0], libraryName) || !strings.Contains(lines[0], "hint=") {
			t.Errorf("%q", lines)
		}
		if st := s.Stats(); st.Up || st.Sessions != 0 {
			t.Errorf("%+v", st)
		}
		wantUnknown(t, s, gpuA, -1)
	}
}

func TestStubOldLibrary(t *testing.T) {
	underStub(t, node, func(t *testing.T, _ string) {
		s, log := open(t, Options{Mode: Standalone})
		if lines := runUntilSaid(t, s, log); len(lines) != 1 || !strings.Contains(lines[0], "has no dcgmUnwatchFields") {
			t.Errorf("%q", lines)
		}
	}, "dcgmUnwatchFields")
}

func TestStubRun(t *testing.T) {
	underStub(t, node, func(t *testing.T, _ string) {
		s, log := open(t, Options{Mode: Standalone})
		if lines := runUntilSaid(t, s, log); !strings.Contains(lines[0], "entities=4") {
			t.Errorf("%q", lines)
		}
		wantShare(t, s, gpuB, 9, 125_000)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wantUnknown(t, s, gpuB, 9)
	})
}

// A call that hangs in C stalls neither the readers nor the end.
func TestStubHangs(t *testing.T) {
	underStub(t, node+"delay dcgmGetGpuInstanceHierarchy 1500\n", func(t *testing.T, _ string) {
		s, _ := open(t, Options{Mode: Embedded})
		s.stopWait = time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for p := s.call.Load(); p == nil || p.name != "listing GPUs and instances"; p = s.call.Load() {
			time.Sleep(time.Millisecond)
		}
		wantUnknown(t, s, gpuA, -1)
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "left behind") {
			t.Errorf("Run: %v", err)
		}
		for s.call.Load() != nil { // for goleak: it does return in the end
			time.Sleep(time.Millisecond)
		}
	})
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]endpoint{
		"":                   {address: "localhost:5555"},
		"10.0.0.1":           {address: "10.0.0.1"},
		"[::1]:5555":         {address: "[::1]:5555"},
		"/run/x":             {address: "/run/x", unix: true},
		"unix:///run/x.sock": {address: "/run/x.sock", unix: true},
	} {
		if got, err := hostengineAt(address); err != nil || got != want {
			t.Errorf("%q: %+v, %v", address, got, err)
		}
	}
	for _, address := range []string{"http://x", "unix://x/y", "unix://", "a b", "a\x00", strings.Repeat("x", 256), "tcp://[::1"} {
		if got, err := hostengineAt(address); err == nil {
			t.Errorf("%q: %+v", address, got)
		}
	}
}
