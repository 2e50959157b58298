package gpu

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// spec is a load to be.
type spec struct {
	name string
	duty float64 // 1: flat out
	size int     // of its matrices
	sm   int     // on the stub: percent of the GPU that it wants
}

// load is a process that uses the GPU for so many seconds from a Unix second on.
type load interface {
	begin(at, seconds int64) error
	// facts waits for its end, and is what it has measured.
	facts() (loadFacts, error)
	pid() int
}

// startLoad starts a process, and returns once it can begin.
func (r *rig) startLoad(s spec, seconds int64) load {
	r.Helper()
	if r.stub != nil {
		return r.startStubLoad(s)
	}
	l, err := startScript(r, s, seconds, nil)
	r.must(err)
	return l
}

// scripted is load.py.
type scripted struct {
	*program
	spec
	stdin   io.WriteCloser
	said    chan message // closed at its end
	ready   message
	stopped <-chan time.Time
}

// message is a line of load.py's. What is not in it is 0.
type message struct {
	Event    string `json:"event"`
	PID      int    `json:"pid"`
	Torch    string `json:"torch"`
	KernelNs int64  `json:"kernel_ns"`
	loadSecond
}

// maxMessages bounds what is taken of a load: an hour.
const maxMessages = 4000

// startScript starts load.py and waits until it has calibrated itself.
func startScript(r *rig, s spec, seconds int64, env []string) (*scripted, error) {
	r.Helper()
	python := cmp.Or(os.Getenv("GPULEDGER_GPU_PYTHON"), "python3")
	script := cmp.Or(os.Getenv("GPULEDGER_GPU_LOAD"), "load.py")
	l := &scripted{spec: s, said: make(chan message, maxMessages)}
	l.program = &program{log: filepath.Join(cmp.Or(r.out, r.dir), "load-"+s.name+".log"), done: make(chan struct{})}
	l.cmd = exec.Command(python, script, "--wait", "--name", s.name, "--device", strconv.Itoa(r.index), "--size", strconv.Itoa(s.size),
		"--duty", strconv.FormatFloat(s.duty, 'f', -1, 64), "--seconds", strconv.FormatInt(seconds, 10))
	log, err := os.Create(l.log)
	if err != nil {
		return nil, err
	}
	l.cmd.Stderr = log
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// NVML and nvidia-smi count GPUs by bus; CUDA does not unless told.
	l.program.begin(r, append(env, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "PYTHONDONTWRITEBYTECODE=1"))
	go func() {
		l.listen(out)
		_ = l.cmd.Wait() // seen in ProcessState
		log.Close()
		close(l.done)
	}()
	select {
	case m, ok := <-l.said:
		if ok && m.Event == "ready" && m.KernelNs > 0 && m.PID == l.pid() {
			l.ready = m
			return l, nil
		}
		<-l.done
		return nil, fmt.Errorf("load %s: %v: %s", s.name, l.cmd.ProcessState, l.tail())
	case <-time.After(3 * time.Minute):
		return nil, fmt.Errorf("load %s is not ready after three minutes: %s", s.name, l.tail())
	}
}

// listen takes what it says, until it says no more.
func (l *scripted) listen(out io.Reader) {
	defer close(l.said)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4096)
	for n := 0; lines.Scan(); n++ {
		var m message
		if n < maxMessages && json.Unmarshal(lines.Bytes(), &m) == nil {
			l.said <- m // which has room for all
		}
	}
	_, _ = io.Copy(io.Discard, out) // of a line that is too long: let it end
}

func (l *scripted) pid() int { return l.cmd.Process.Pid }

func (l *scripted) begin(at, seconds int64) error {
	l.stopped = time.After(time.Until(time.Unix(at+seconds, 0)) + time.Minute)
	_, err := fmt.Fprintln(l.stdin, at)
	return err
}

func (l *scripted) facts() (loadFacts, error) {
	f := loadFacts{Name: l.name, PID: l.pid(), Duty: l.duty, Size: l.size, KernelNs: l.ready.KernelNs}
	for {
		select {
		case m, ok := <-l.said:
			switch {
			case !ok:
				<-l.done
				return f, fmt.Errorf("load %s ended before its time: %v: %s", l.name, l.cmd.ProcessState, l.tail())
			case m.Event == "second" && m.BusyNs >= 0 && m.WorkNs >= 0:
				f.Seconds = append(f.Seconds, m.loadSecond)
			case m.Event == "done":
				<-l.done
				return f, nil
			}
		case <-l.stopped:
			return f, fmt.Errorf("load %s does not end", l.name)
		}
	}
}

// stubLoad is gpuload, which the scenario gives its part of the GPU.
type stubLoad struct {
	*program
	spec
	r           *rig
	line        int // of the scenario's processes
	at, seconds int64
}

func (r *rig) startStubLoad(s spec) load {
	r.Helper()
	return &stubLoad{spec: s, r: r, program: r.launch("load-"+s.name, r.stub.load, nil, "--name", s.name)}
}

func (l *stubLoad) pid() int { return l.cmd.Process.Pid }

func (l *stubLoad) begin(at, seconds int64) error {
	s := &l.r.stub.scenario
	l.line, l.at, l.seconds = len(s.Processes), at, seconds
	span := nvmlstub.Span{At: time.Unix(at, 0).Sub(s.Start), For: time.Duration(seconds) * time.Second}
	s.Processes = append(s.Processes, nvmlstub.Process{Span: span, PID: l.pid(), Device: stubUUID, SM: l.sm, Memory: 2 * nvmlstub.GiB})
	return s.Write(l.r.stub.file)
}

func (l *stubLoad) facts() (loadFacts, error) {
	f := loadFacts{Name: l.name, PID: l.pid(), Duty: l.duty, Size: l.size}
	l.r.until(time.Unix(l.at+l.seconds, 0))
	for s := l.at; s < l.at+l.seconds; s++ {
		ns := l.r.stub.scenario.TrueSM(l.line, time.Unix(s, 0), time.Unix(s+1, 0)).Nanoseconds()
		f.Seconds = append(f.Seconds, loadSecond{Unix: s, BusyNs: ns, WorkNs: ns})
	}
	return f, l.stop()
}

// needPython skips where there is no Python. No PyTorch is needed.
func needPython(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(cmp.Or(os.Getenv("GPULEDGER_GPU_PYTHON"), "python3")); err != nil {
		t.Skip(err)
	}
}

// The script measures what it is told to do, and lasts as long as it is told.
func TestLoadScript(t *testing.T) {
	needPython(t)
	torch, err := filepath.Abs("testdata/faketorch")
	if err != nil {
		t.Fatal(err)
	}
	fake := []string{"PYTHONPATH=" + torch}
	for _, s := range []spec{{name: "part", duty: 0.3, size: 64}, {name: "all", duty: 1, size: 64}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l, err := startScript(&rig{T: t, dir: t.TempDir()}, s, 3, fake)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Now().Unix() + 1
			if err := l.begin(at, 3); err != nil {
				t.Fatal(err)
			}
			f, err := l.facts()
			if err != nil || len(f.Seconds) != 3 || !l.cmd.ProcessState.Success() {
				t.Fatalf("%+v, %v", f, err)
			}
			var busy, kernels int64
			for i, x := range f.Seconds {
				if x.Unix != at+int64(i) || x.BusyNs > 1e9 || abs(x.WorkNs-x.Kernels*f.KernelNs) > x.Kernels {
					t.Errorf("second %d: %+v, a product takes %d ns", i, x, f.KernelNs)
				}
				busy, kernels = busy+x.BusyNs, kernels+x.Kernels
			}
			// Not more than it may, whatever else this machine does; and not nothing.
			if most := int64(s.duty*3e9) + 60e6; busy > most || busy == 0 || kernels == 0 {
				t.Errorf("busy for %d ns with %d products, at most %d", busy, kernels, most)
			}
		})
	}
}

func abs(n int64) int64 { return max(n, -n) }

// Where there is no PyTorch, or no GPU for it, the script says so.
func TestLoadScriptSaysWhatIsMissing(t *testing.T) {
	needPython(t)
	broken := filepath.Join(t.TempDir(), "torch")
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"raise ImportError('gone')\n": "no PyTorch for",
		"__version__ = '1'\nclass cuda:\n    is_available = staticmethod(lambda: False)\n": "sees no GPU",
	} {
		if err := os.WriteFile(filepath.Join(broken, "__init__.py"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := startScript(&rig{T: t, dir: t.TempDir()}, spec{name: "x", duty: 1, size: 64}, 1, []string{"PYTHONPATH=" + filepath.Dir(broken)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
