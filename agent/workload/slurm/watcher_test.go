package slurm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a watcher, its directory, and what the ledger would hold.
type world struct {
	*Watcher
	tb      rapid.TB
	dir     string
	units   []sampler.Unit
	now     int64
	events  []string
	held    map[string]int64
	initial map[string]bool // nothing was said of it yet
	ended   bool
	log     bytes.Buffer
}

func newWorld(tb rapid.TB, dir string, units []sampler.Unit, initial ...sampler.Holding) *world {
	w := &world{tb: tb, dir: dir, units: units, now: 1000, held: make(map[string]int64), initial: make(map[string]bool)}
	for _, h := range initial {
		key := h.DeviceID + " " + h.Owner.Controller
		w.held[key], w.initial[key] = h.Replicas, true
	}
	w.Watcher = New(Options{
		Dir: w.dir, Cluster: "c", Node: "n", Units: func() []sampler.Unit { return w.units },
		Now: func() int64 { return w.now }, Initial: initial, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	return w
}

// Yield implements sampler.Producer as the ledger does.
func (w *world) Yield(e *sampler.Event) {
	if !sampler.IsJob(e.Owner) || e.Owner.Cluster != "c" || e.Owner.Node != "n" || e.Node != "n" || e.Time != w.now {
		w.tb.Errorf("%+v of %+v", e, e.Owner)
	}
	key := e.DeviceID + " " + e.Owner.Controller
	switch e.Kind {
	case sampler.Held:
		w.events = append(w.events, "+"+key)
		if (w.held[key] != 0 && !w.initial[key]) || e.Replicas != 1 {
			w.tb.Errorf("%s is held twice, or with %d replicas", key, e.Replicas)
		}
		w.held[key] = e.Replicas
		delete(w.initial, key)
	case sampler.Released:
		w.events = append(w.events, "-"+key)
		if w.held[key] == 0 && !w.initial[key] {
			w.tb.Errorf("%s is released, and was not held", key)
		}
		delete(w.held, key)
	default:
		w.tb.Errorf("%+v", e)
	}
}

func (w *world) Close() { w.ended = true }

// gone removes a device, and its holdings with it.
func (w *world) gone(id string) {
	w.units = slices.DeleteFunc(w.units, func(u sampler.Unit) bool { return u.ID == id })
	for key := range w.held {
		if strings.HasPrefix(key, id+" ") {
			delete(w.held, key)
		}
	}
}

func (w *world) write(name, text string) {
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) remove(name string) {
	if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
		w.tb.Fatal(err)
	}
}

// second reads once, and is what was yielded.
func (w *world) second() string {
	w.now += int64(time.Second)
	w.events = nil
	w.read(w)
	return strings.Join(w.events, ", ")
}

// want reads once and compares.
func (w *world) want(what, events string) {
	if got := w.second(); got != events {
		w.tb.Errorf("%s: yielded %q, want %q", what, got, events)
	}
	for _, u := range w.units {
		var jobs []string
		for _, o := range w.Holders(u.ID) {
			jobs = append(jobs, u.ID+" "+o.Controller)
		}
		var held []string
		for key := range w.held {
			if strings.HasPrefix(key, u.ID+" ") {
				held = append(held, key)
			}
		}
		slices.Sort(held)
		if !slices.Equal(jobs, held) {
			w.tb.Errorf("%s: the holders of %s are %v, held is %v", what, u.ID, jobs, held)
		}
	}
}

func gpu(n int) sampler.Unit {
	return sampler.Unit{ID: fmt.Sprintf("GPU-%d", n), Index: n, Minor: n, GPUInstance: -1, ComputeInstance: -1, Placement: -1, Added: 1}
}

// cut is GPU 1 with two MIG instances and its rest, beside the whole GPU 0.
func cut() []sampler.Unit {
	rest := gpu(1)
	rest.Remainder = true
	a, b := gpu(1), gpu(1)
	a.ID, a.Parent, a.GPUInstance, a.ComputeInstance = "MIG-a", "GPU-1", 3, 0
	b.ID, b.Parent, b.GPUInstance, b.ComputeInstance = "MIG-b", "GPU-1", 5, 0
	return []sampler.Unit{gpu(0), rest, a, b}
}

func TestNames(t *testing.T) {
	swapped := []sampler.Unit{gpu(0), gpu(1)}
	swapped[0].Minor, swapped[1].Minor = 1, 0
	unnumbered := []sampler.Unit{gpu(0), gpu(1)}
	unnumbered[0].Index, unnumbered[1].Index = -1, -1
	for name, c := range map[string]struct {
		units []sampler.Unit
		want  []string
	}{
		"0":         {swapped, []string{"GPU-0"}},
		"nvidia0":   {swapped, []string{"GPU-1"}},
		"1":         {unnumbered, []string{"GPU-1"}},
		"GPU-1":     {swapped, []string{"GPU-1"}},
		"7":         {swapped, nil},
		"1.5":       {cut(), []string{"MIG-b"}},
		"1.4":       {cut(), nil},
		"0.0":       {cut(), nil},
		"MIG-a":     {cut(), []string{"MIG-a"}},
		"01":        {cut(), []string{"GPU-1", "MIG-a", "MIG-b"}},
		"nvidia1":   {cut(), []string{"GPU-1", "MIG-a", "MIG-b"}},
		"GPU-1 ":    {cut(), nil},
		"job":       {swapped, nil},
		".gitkeep":  {swapped, nil},
		"1e5":       {swapped, nil},
		"-1":        {swapped, nil},
		"+1":        {swapped, nil},
		".5":        {cut(), nil},
		"1.":        {cut(), nil},
		"1.5.0":     {cut(), nil},
		"nvidiactl": {swapped, nil},
		"99999":     {swapped, nil},
	} {
		w := newWorld(t, t.TempDir(), c.units)
		w.write(name, "42\n")
		var want []string
		for _, id := range c.want {
			want = append(want, "+"+id+" 42")
		}
		w.want(name, strings.Join(want, ", "))
	}
}

func TestJobsComeAndGo(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0), gpu(1)})
	w.want("an empty directory", "")
	w.write("0", "100\n101\n100\n")
	w.write("1", "100 1000\n") // with the user's id
	w.write("GPU-1", "100\t1000")
	w.want("jobs", "+GPU-0 100, +GPU-0 101, +GPU-1 100")
	if w.Holders("GPU-0")[0] != w.Holders("GPU-1")[0] {
		t.Error("one job is two owners")
	}
	if s := w.Stats(); s.Jobs != 2 || s.Holdings != 3 || s.Unresolved != 0 {
		t.Errorf("%+v", s)
	}
	w.want("nothing new", "")
	w.write("0", "101\n102\n")
	w.want("one ends, one begins", "-GPU-0 100, +GPU-0 102")
	w.remove("1")
	w.want("the other name of the GPU still has it", "")
	w.remove("GPU-1")
	w.remove("0")
	w.want("all end", "-GPU-0 101, -GPU-0 102, -GPU-1 100")
	if s := w.Stats(); s.Jobs != 0 || s.Holdings != 0 || w.Holders("GPU-0") != nil {
		t.Errorf("%+v", s)
	}
}

func TestEmptyTwiceEnds(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
	w.write("0", "100\n")
	w.want("a job", "+GPU-0 100")
	w.write("0", "")
	w.want("cut short to be written anew", "")
	w.write("0", "101\n")
	w.want("written", "-GPU-0 100, +GPU-0 101")
	w.write("0", "\n \n")
	w.want("empty", "")
	w.want("still empty", "-GPU-0 101")
}

func TestUnknownIsNotReleased(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0), gpu(1)})
	w.write("0", "100\n")
	w.write("1", "101\n")
	w.want("jobs", "+GPU-0 100, +GPU-1 101")
	for what, make := range map[string]func(name string) error{
		"a folder": func(name string) error { return os.Mkdir(name, 0o755) },
		"a pipe":   func(name string) error { return syscall.Mkfifo(name, 0o644) },
		"a link":   func(name string) error { return os.Symlink("1", name) },
		"too large": func(name string) error {
			return os.WriteFile(name, bytes.Repeat([]byte("1\n"), MaxFileBytes/2+1), 0o644)
		},
		"too many jobs": func(name string) error {
			var text strings.Builder
			for i := range MaxJobs + 1 {
				fmt.Fprintln(&text, i)
			}
			return os.WriteFile(name, []byte(text.String()), 0o644)
		},
	} {
		before := w.Stats().Unreadable
		w.remove("0")
		if err := make(filepath.Join(w.dir, "0")); err != nil {
			t.Fatal(err)
		}
		w.want(what, "")
		if after := w.Stats().Unreadable; after != before+1 {
			t.Errorf("%s: %d were unreadable, before %d", what, after, before)
		}
	}
	w.remove("1")
	w.want("the other's end is known", "-GPU-1 101")
	for i := range MaxFiles + 1 {
		w.write(fmt.Sprintf("x%d", i), "")
	}
	w.remove("0")
	w.want("too many files", "")
	if !strings.Contains(w.log.String(), "is it the directory of job files?") {
		t.Error(w.log.String())
	}
	w.remove("")
	w.want("no directory: no jobs", "-GPU-0 100")
}

func TestDirectoryThatIsNone(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, dir, []sampler.Unit{gpu(0)})
	w.write("0", "100\n")
	w.want("a job", "+GPU-0 100")
	w.opts.Dir = filepath.Join(dir, "0")
	w.want("a file", "")
	w.want("a file", "")
	if n := strings.Count(w.log.String(), "\n"); n != 1 || w.Stats().Unreadable != 2 {
		t.Errorf("%d lines logged, want 1:\n%s\n%+v", n, w.log.String(), w.Stats())
	}
}

func TestBadLines(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
	w.write("0", "job1-0\n"+strings.Repeat("9", MaxJobBytes+1)+"\n\x01\n\xff\xfe\n  77  x\n")
	w.want("bad lines", "+GPU-0 77, +GPU-0 job1-0")
	if s := w.Stats(); s.BadLines != 3 {
		t.Errorf("%+v", s)
	}
}

// A device that comes back as another has lost its holdings.
func TestDeviceComesBack(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
	w.write("0", "100\n")
	w.write("1", "101\n")
	w.want("one is there", "+GPU-0 100")
	if s := w.Stats(); s.Unresolved != 1 {
		t.Errorf("%+v", s)
	}
	w.units = append(w.units, gpu(1))
	w.want("the other comes", "+GPU-1 101")
	w.gone("GPU-0")
	w.want("one is away", "")
	again := gpu(0)
	again.Added = 2
	w.units = append(w.units, again)
	w.want("it is back", "+GPU-0 100")

	w.gone("GPU-0")
	w.remove("0")
	w.want("its job ends while it is away", "")
	again.Added = 3
	w.units = append(w.units, again)
	w.want("it is back without", "")

	// Back at once, while its file can't be read.
	w.remove("1")
	if err := os.Mkdir(filepath.Join(w.dir, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.gone("GPU-1")
	back := gpu(1)
	back.Added = 9
	w.units = append(w.units, back)
	w.want("what is unknown goes on", "+GPU-1 101")
}

// A device that is missing from one list, and is the same in the next, has not
// lost its holdings.
func TestDeviceMissing(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
	w.write("0", "100\n")
	w.want("a job", "+GPU-0 100")
	w.units = nil
	w.want("missing", "")
	w.remove("0")
	w.want("its job ends", "")
	w.units = []sampler.Unit{gpu(0)}
	w.want("there again", "-GPU-0 100")
}

// What an earlier run stated is stated once more with its device, which may
// have been away for so long that the ledger has forgotten it, and ends when it
// ends.
func TestInitial(t *testing.T) {
	held := func(device, job string) sampler.Holding {
		return sampler.Holding{DeviceID: device, Owner: sampler.JobOwner("c", "n", job), Replicas: 1}
	}
	pod := sampler.Holding{DeviceID: "GPU-0", Owner: &attribution.Owner{Kind: attribution.Container, Pod: "web"}, Replicas: 1}
	w := newWorld(t, t.TempDir(), nil, held("GPU-0", "100"), held("GPU-0", "101"), held("GPU-1", "100"))
	if n := len(New(Options{Initial: []sampler.Holding{pod, {DeviceID: "GPU-0"}}}).stated); n != 0 {
		t.Errorf("%d holdings of others", n)
	}
	if len(w.Holders("GPU-0")) != 2 {
		t.Errorf("%v", w.Holders("GPU-0"))
	}
	w.write("0", "100\n102\n")
	w.want("no device yet", "")
	w.units = []sampler.Unit{gpu(0)}
	w.units[0].Added = 7
	w.want("a device", "+GPU-0 100, -GPU-0 101, +GPU-0 102")
	w.want("nothing new", "")
	w.units = append(w.units, gpu(1))
	w.want("the other", "-GPU-1 100")
}

// A job that was held under another name of the cluster or the node is another
// owner: it is not the one whose holding would be ended here.
func TestInitialOfAnotherNode(t *testing.T) {
	w := New(Options{Cluster: "c", Node: "n", Initial: []sampler.Holding{
		{DeviceID: "GPU-0", Owner: sampler.JobOwner("old", "n", "100"), Replicas: 1},
	}})
	if len(w.stated) != 0 {
		t.Error("it was taken over")
	}
}

// What is said of a device is said after what is known of it: a device that is
// cut anew while the files are read ends what was held before.
func TestHoldingsAreNotBeforeTheirDevice(t *testing.T) {
	w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
	w.write("0", "100\n")
	w.opts.Units = func() []sampler.Unit {
		w.now += int64(time.Millisecond) // the device is added
		return w.units
	}
	w.want("a job", "+GPU-0 100")
}

func TestBounded(t *testing.T) {
	var units []sampler.Unit
	for i := range 20 {
		units = append(units, gpu(i))
	}
	w := newWorld(t, t.TempDir(), units)
	var text strings.Builder
	for i := range MaxJobs {
		fmt.Fprintln(&text, i)
	}
	for i := range units {
		w.write(fmt.Sprint(i), text.String())
	}
	w.second()
	want := len(units)*MaxJobs - MaxHoldings
	if s := w.Stats(); s.Holdings != MaxHoldings || s.Refused != uint64(want) || len(w.held) != MaxHoldings {
		t.Errorf("%+v, %d held", s, len(w.held))
	}
}

// Run reads at once and then each second, and closes its producer.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir(), []sampler.Unit{gpu(0)})
		w.opts.Log = slog.New(slog.DiscardHandler)
		w.write("0", "100\n")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx, func() sampler.Producer { return w }) }()
		synctest.Wait()
		if len(w.events) != 1 {
			t.Errorf("at once: %v", w.events)
		}
		w.write("0", "101\n")
		time.Sleep(period)
		synctest.Wait()
		if strings.Join(w.events, ", ") != "+GPU-0 100, -GPU-0 100, +GPU-0 101" {
			t.Errorf("a second later: %v", w.events)
		}
		cancel()
		if err := <-done; err != nil || !w.ended {
			t.Errorf("%v, closed: %v", err, w.ended)
		}
	})
}

// Whatever happens to files and devices, what is held is what the files that
// can be read say of the devices that are there.
func TestHoldingsAreTheFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "jobs")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		w := newWorld(t, dir, []sampler.Unit{gpu(0), gpu(1), gpu(2)})
		files := map[string]string{}
		added := uint64(1)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			n := rapid.IntRange(0, 2).Draw(t, "gpu")
			name := fmt.Sprint(n)
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				jobs := rapid.SliceOfN(rapid.SampledFrom([]string{"7", "8", "9"}), 1, 3).Draw(t, "jobs")
				files[name] = strings.Join(jobs, "\n")
				w.write(name, files[name])
			case 2:
				delete(files, name)
				w.remove(name)
			case 3:
				id := gpu(n).ID
				if slices.ContainsFunc(w.units, func(u sampler.Unit) bool { return u.ID == id }) {
					w.gone(id)
				} else {
					added++
					u := gpu(n)
					u.Added = added
					w.units = append(w.units, u)
				}
			}
			w.second()
			want := map[string]bool{}
			for name, text := range files {
				for _, u := range w.units {
					if u.ID == "GPU-"+name {
						for job := range strings.SplitSeq(text, "\n") {
							want[u.ID+" "+job] = true
						}
					}
				}
			}
			for key := range want {
				if w.held[key] != 1 {
					t.Fatalf("%s is not held", key)
				}
			}
			if len(w.held) != len(want) {
				t.Fatalf("held %v, want %v", w.held, want)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("1\n2 1000\n\n\t3\r\n"))
	f.Add([]byte("\xff\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var file jobFile
		if err := file.parse(text); err != nil && file.jobs != nil {
			t.Fatalf("%v, and %v", err, file.jobs)
		}
		if len(file.jobs) > MaxJobs || !slices.IsSorted(file.jobs) {
			t.Fatalf("%q", file.jobs)
		}
		for _, j := range file.jobs {
			if !isJob([]byte(j)) || j == "" {
				t.Fatalf("job %q", j)
			}
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, name := range []string{"0", "2.1", "nvidia3", "GPU-x", "MIG-y", ".", "", "1.2.3"} {
		f.Add(name)
	}
	units := cut()
	f.Fuzz(func(t *testing.T, name string) {
		n, ok := parseName(name)
		if !ok {
			return
		}
		if n.uuid == "" && (n.number < 0 || n.instance < -1) {
			t.Fatalf("%q is %+v", name, n)
		}
		for i := range units {
			n.of(&units[i], i%2 == 0)
		}
	})
}

// BenchmarkRead is one second of a node with eight GPUs, nothing changing.
func BenchmarkRead(b *testing.B) {
	var units []sampler.Unit
	for i := range 8 {
		units = append(units, gpu(i))
	}
	w := newWorld(b, b.TempDir(), units)
	for i := range units {
		w.write(fmt.Sprint(i), "4711\n")
	}
	w.second()
	b.ReportAllocs()
	for b.Loop() {
		w.read(w)
	}
}
