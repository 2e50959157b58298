package kube_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// The truth of an episode is recorded without gpuledger, by three witnesses:
// the device plugin, which writes down when it allocated what; the API server,
// whose pods are watched; and the machine's processes, which are looked at
// fifty times a second.

// life is a process that stands for a CUDA program.
type life struct {
	pod   string
	ids   []string  // of the devices that the container was given
	start time.Time // to a clock tick
	end   time.Time // to 20 ms
}

func (l life) lasted() time.Duration { return l.end.Sub(l.start) }

// witness records.
type witness struct {
	mu    sync.Mutex
	lives map[int]*life // by pid
	done  []life
	pods  map[string]*podTruth // by name
	boot  time.Time
}

// podTruth is what the API server said of a pod, and when.
type podTruth struct {
	running, gone time.Time
}

func newWitness() (*witness, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, err
	}
	return &witness{lives: map[int]*life{}, pods: map[string]*podTruth{}, boot: time.Now().Add(-time.Duration(up.Nano()))}, nil
}

// watchProcesses looks until ctx ends.
func (w *witness) watchProcesses(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.look(time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (w *witness) look(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	here := map[int]bool{}
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(name))
		if w.lives[pid] != nil {
			here[pid] = alive(pid)
			continue
		}
		if l := w.meet(pid); l != nil {
			w.lives[pid], here[pid] = l, true
		}
	}
	for pid, l := range w.lives {
		if !here[pid] {
			l.end = now
			w.done = append(w.done, *l)
			delete(w.lives, pid)
		}
	}
}

// alive tells a running process from one that waits to be reaped.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// meet is a process that is seen for the first time, if it is one of ours.
func (w *witness) meet(pid int) *life {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.HasPrefix(command, []byte("/usr/local/bin/gpuload\x00--name\x00")) {
		return nil
	}
	l := &life{pod: strings.Split(string(command), "\x00")[2]}
	environment, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	stat, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if err1 != nil || err2 != nil || !ok || len(fields) < 20 {
		return nil // it has ended meanwhile
	}
	for v := range strings.SplitSeq(string(environment), "\x00") {
		if ids, ok := strings.CutPrefix(v, "GPULEDGER_DEVICE_IDS="); ok {
			l.ids = strings.Split(ids, ",")
		}
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return nil
	}
	l.start = w.boot.Add(time.Duration(ticks) * 10 * time.Millisecond)
	return l
}

// watchPods writes down what happens to pods until ctx ends. While the API
// server is away it asks again and again.
func (w *witness) watchPods(ctx context.Context, p *project) {
	for ctx.Err() == nil {
		cmd := p.Command(ctx, "kubectl", "-n", "default", "get", "pods", "--watch", "--output-watch-events", "-o", "json")
		out, err := cmd.StdoutPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		decoder := json.NewDecoder(bufio.NewReader(out))
		for {
			var event struct {
				Type   string
				Object corev1.Pod
			}
			if decoder.Decode(&event) != nil {
				break
			}
			w.note(time.Now(), event.Type, &event.Object)
		}
		_ = cmd.Wait()
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (w *witness) note(now time.Time, event string, pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.pods[pod.Name]
	if t == nil {
		t = &podTruth{}
		w.pods[pod.Name] = t
	}
	if event == "DELETED" {
		t.gone = now
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil && t.running.IsZero() {
			t.running = c.State.Running.StartedAt.Time
		}
	}
}

// running is when the kubelet says that a pod's container began to run.
func (w *witness) running(pod string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[pod].running
}

// gone is when the API server said that a pod is no more.
func (w *witness) gone(pod string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[pod].gone
}

// all are the processes that were seen. Those that live still end now.
func (w *witness) all(now time.Time) []life {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Clone(w.done)
	for _, l := range w.lives {
		still := *l
		still.end = now
		all = append(all, still)
	}
	slices.SortFunc(all, func(a, b life) int { return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.pod, b.pod)) })
	return all
}

// living are the pods with a process whose name begins like this.
func (w *witness) living(prefix string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var pods []string
	for _, l := range w.lives {
		if strings.HasPrefix(l.pod, prefix) {
			pods = append(pods, l.pod)
		}
	}
	slices.Sort(pods)
	return pods
}

// allocation is a line of the device plugin's record.
type allocation struct {
	UnixNano int64    `json:"unix_nano"`
	IDs      []string `json:"ids"`
}

func readAllocations(file string) ([]allocation, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []allocation
	for line := range bytes.Lines(b) {
		var a allocation
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// allocated is when a container was given what it has: the last allocation of
// these devices before its process began.
func allocated(all []allocation, l life) (time.Time, error) {
	for _, a := range slices.Backward(all) {
		at := time.Unix(0, a.UnixNano)
		if slices.Equal(a.IDs, l.ids) && !at.After(l.start) {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s: the device plugin never allocated %v", l.pod, l.ids)
}
