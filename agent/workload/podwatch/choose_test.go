package podwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// script is a source that does as it is told.
type script struct {
	name string

	mu       sync.Mutex
	works    bool
	silent   bool // it connects, and tells nothing
	slow     bool // it is admitted seconds before it has told all pods
	sessions int
	began    []time.Time
	broken   chan struct{} // closed to end what runs
	most     int           // sessions at once
	now      int
}

func newScript(name string, works bool) *script {
	return &script{name: name, works: works}
}

func (s *script) set(works bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.works && !works {
		close(s.broken)
		s.broken = make(chan struct{})
	}
	s.works = works
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

func (s *script) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.began)
}

func (s *script) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now == 0
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (s *script) follow(ctx context.Context, to sink) error {
	s.mu.Lock()
	s.sessions++
	s.now++
	s.most = max(s.most, s.now)
	s.began = append(s.began, time.Now())
	works, silent, broken := s.works, s.silent, s.broken
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now--
	}()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	if !works {
		return errors.New("out of order")
	}
	if s.slow {
		if err := to.resume(); err != nil {
			return err
		}
		t := time.NewTimer(3 * time.Second)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	if err := to.replace([]*pods.Pod{{Namespace: "ns", Name: s.name, UID: s.name}}); err != nil {
		return err
	}
	for i := 0; ; i++ {
		t := time.NewTimer(7 * time.Second)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errors.New("broken")
		case <-t.C:
			if err := to.put(&pods.Pod{Namespace: "ns", Name: fmt.Sprint(s.name, i), UID: s.name}); err != nil {
				return err
			}
		}
	}
}

// watching runs a watcher over scripts in virtual time.
func watching(t *testing.T, f func(t *testing.T, w *Watcher, log *journal), sources ...*script) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var log journal
		w := &Watcher{
			directory: pods.NewDirectory("c", node), poke: make(chan struct{}, 1),
			log: slog.New(slog.NewTextHandler(&log, nil)),
		}
		w.last.Store(-1)
		for _, s := range sources {
			s.broken = make(chan struct{})
			w.names, w.sources = append(w.names, s.name), append(w.sources, s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		f(t, w, &log)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, s := range sources {
			if s.now != 0 || s.most > 1 {
				t.Errorf("%s: %d sessions left, %d at once", s.name, s.now, s.most)
			}
		}
	})
}

func after(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
	synctest.Wait()
}

func using(t *testing.T, w *Watcher, want string) {
	t.Helper()
	if got := w.Stats().Source; got != want {
		t.Errorf("source %q, want %q", got, want)
	}
}

func there(w *Watcher) (uids string) {
	w.directory.View().All(func(p *pods.Pod) {
		if !p.Gone() {
			uids += p.UID
		}
	})
	return uids
}

func TestTheBestThatWorksIsUsedAtOnce(t *testing.T) {
	a, b, c := newScript("a", false), newScript("b", true), newScript("c", true)
	watching(t, func(t *testing.T, w *Watcher, _ *journal) {
		synctest.Wait()
		using(t, w, "b")
		if !w.Ready() || there(w) != "b" || c.count() != 0 || !w.Stats().FailingSince.IsZero() {
			t.Errorf("ready %v, pods %s, stats %+v", w.Ready(), there(w), w.Stats())
		}
		after(3 * time.Minute)
		if a.count() < 3 || a.count() > 5 {
			t.Errorf("a better source was tried %d times in three minutes", a.count())
		}
		a.set(true)
		after(2 * tryBetter)
		using(t, w, "a")
		after(time.Minute)
		if there(w) != "a" || !b.idle() {
			t.Errorf("pods %s: two sources write", there(w))
		}
	}, a, b, c)
}

// A source that is in use has not filled the directory yet: nobody may be told
// that pods are known that are not there.
func TestReadyIsTheDirectory(t *testing.T) {
	a := newScript("a", true)
	a.slow = true
	watching(t, func(t *testing.T, w *Watcher, _ *journal) {
		synctest.Wait()
		using(t, w, "a")
		if w.Ready() || there(w) != "" {
			t.Errorf("ready %v with pods %q", w.Ready(), there(w))
		}
		after(4 * time.Second)
		if !w.Ready() || there(w) != "a" {
			t.Errorf("ready %v with pods %q", w.Ready(), there(w))
		}
	}, a)
}

func TestAWorkingSourceIsGivenTime(t *testing.T) {
	a, b := newScript("a", true), newScript("b", true)
	watching(t, func(t *testing.T, w *Watcher, _ *journal) {
		synctest.Wait()
		using(t, w, "a")
		a.set(false)
		after(5 * time.Second)
		using(t, w, "a")
		if w.Stats().FailingSince.IsZero() || !w.Ready() || there(w) != "a" {
			t.Errorf("stats %+v, pods %q", w.Stats(), there(w))
		}
		a.set(true) // as a kubelet that was restarted
		after(10 * time.Second)
		if b.count() != 0 || !w.Stats().FailingSince.IsZero() {
			t.Errorf("%d sessions with b, stats %+v", b.count(), w.Stats())
		}
		a.set(false)
		after(patience - time.Second)
		using(t, w, "a")
		after(2 * time.Second)
		using(t, w, "b")
		if got := w.Stats().Switches; got != 2 {
			t.Errorf("%d switches", got)
		}
	}, a, b)
}

func TestNothingWorks(t *testing.T) {
	a, b := newScript("a", false), newScript("b", false)
	watching(t, func(t *testing.T, w *Watcher, log *journal) {
		after(time.Hour)
		if w.Ready() || w.Stats().Source != "" || w.Stats().FailingSince.IsZero() {
			t.Errorf("stats %+v", w.Stats())
		}
		if n := a.count() + b.count(); n < 90 || n > 240 {
			t.Errorf("%d attempts in an hour", n)
		}
		began := a.times()
		for i, at := range began[1:] {
			if gap := at.Sub(began[i]); gap > 2*lastRetry*5/4 {
				t.Errorf("%v without an attempt", gap)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines are logged\n%s", n, log)
		}
		b.set(true)
		after(2*lastRetry*5/4 + time.Second) // the longest pause, with its jitter
		using(t, w, "b")
	}, a, b)
}

func TestASilentSourceIsLeft(t *testing.T) {
	a, b := newScript("a", true), newScript("b", true)
	a.silent = true
	watching(t, func(t *testing.T, w *Watcher, log *journal) {
		after(syncWithin + time.Second)
		using(t, w, "b")
		after(time.Hour)
		using(t, w, "b")
		if !strings.Contains(log.String(), errSlow.Error()) {
			t.Errorf("the log does not say why\n%s", log)
		}
	}, a, b)
}

func TestOneSourceIsKept(t *testing.T) {
	a := newScript("a", true)
	watching(t, func(t *testing.T, w *Watcher, _ *journal) {
		synctest.Wait()
		a.set(false)
		after(6 * time.Hour)
		if there(w) != "a" || !w.Ready() {
			t.Error("the directory forgot")
		}
		a.set(true)
		after(2 * lastRetry)
		using(t, w, "a")
		if !w.Stats().FailingSince.IsZero() {
			t.Errorf("stats %+v", w.Stats())
		}
	}, a)
}

// Sources that break and mend at will: no two write at once, and whenever one
// has worked for long enough it is in use.
func TestSourcesComeAndGo(t *testing.T) {
	all := []*script{newScript("a", false), newScript("b", false), newScript("c", false)}
	watching(t, func(t *testing.T, w *Watcher, _ *journal) {
		state := uint32(1)
		for range 300 {
			state = state*1664525 + 1013904223
			all[state>>8%3].set(state>>20%2 == 0)
			after(time.Duration(state>>12%90) * time.Second)
			best := -1
			for i, s := range all {
				if s.works && best < 0 {
					best = i
				}
			}
			if best >= 0 && state>>16%4 == 0 {
				after(patience + 2*tryBetter + 2*lastRetry)
				using(t, w, all[best].name)
				if there(w) != all[best].name {
					t.Fatalf("pods %s", there(w))
				}
			}
		}
	}, all...)
}

func TestOptions(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	for name, c := range map[string]struct {
		o       Options
		sources string
	}{
		"auto":              {Options{Directory: d, Node: "n"}, "pods-api apiserver"},
		"auto, kubelet":     {Options{Directory: d, Node: "n", Source: Auto, KubeletURL: "https://10.0.0.1:10250"}, "pods-api apiserver kubelet"},
		"kubelet":           {Options{Directory: d, Node: "n", Source: Kubelet, KubeletURL: "https://10.0.0.1:10250"}, "kubelet"},
		"pods-api":          {Options{Directory: d, Node: "n", Source: PodsAPI}, "pods-api"},
		"no directory":      {Options{Node: "n"}, ""},
		"no node":           {Options{Directory: d}, ""},
		"unknown":           {Options{Directory: d, Node: "n", Source: "crystal ball"}, ""},
		"kubelet, no URL":   {Options{Directory: d, Node: "n", Source: Kubelet}, ""},
		"kubelet, http":     {Options{Directory: d, Node: "n", Source: Kubelet, KubeletURL: "http://10.0.0.1:10255"}, ""},
		"auto, bad URL":     {Options{Directory: d, Node: "n", KubeletURL: "10.0.0.1"}, ""},
		"a relative socket": {Options{Directory: d, Node: "n", Sockets: []string{"kubelet.sock"}}, ""},
	} {
		w, err := New(c.o)
		switch {
		case (err == nil) != (c.sources != ""):
			t.Errorf("%s: %v", name, err)
		case err == nil && strings.Join(w.names, " ") != c.sources:
			t.Errorf("%s: %v", name, w.names)
		}
	}
}
