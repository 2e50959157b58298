package dcgm

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a hostengine with one GPU, half busy.
type fake struct {
	mu                      sync.Mutex
	opening                 error
	watching                error
	reading                 error
	blank                   bool
	hang                    chan struct{} // a read waits until it is closed
	opened, closed, watched int
}

// set changes the hostengine.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	return f.opening
}

func (f *fake) survey() ([]entity, error) {
	return []entity{{gpu, 7, Reading{GPU: gpuA, GPUInstance: -1, ComputeInstance: -1}}}, nil
}

func (f *fake) watch([]entity, []Field) (refused, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched++
	return nil, f.watching
}

func (f *fake) read(dst []value) ([]value, error) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v := value{kind: gpu, id: 7, field: SMActive, share: 0.5, at: time.Now().UnixNano()}
	if f.blank {
		v.status = statusNoData
	}
	return append(dst, v), f.reading
}

func (f *fake) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// run runs body in virtual time beside Run.
func run(t *testing.T, f *fake, body func(s *Source, log *journal)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, log := open(t, Options{Mode: Embedded})
		s.engine = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		body(s, log)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if f.opening == nil && f.opened != f.closed {
			t.Errorf("opened %d times, closed %d times", f.opened, f.closed)
		}
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestReadingsGrowOld(t *testing.T) {
	f := &fake{}
	run(t, f, func(s *Source, _ *journal) {
		after(1500 * time.Millisecond)
		wantShare(t, s, gpuA, -1, 500_000)
		f.set(func() { f.reading = errors.New("no answer") })
		after(2500 * time.Millisecond) // 3 s after the reading
		wantShare(t, s, gpuA, -1, 500_000)
		after(time.Second)
		wantUnknown(t, s, gpuA, -1)
		if got := s.Readings(nil); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		if st := s.Stats(); st.Known != 0 || st.Up {
			t.Errorf("%+v", st)
		}
	})
}

func TestSessionsAreOpenedAgain(t *testing.T) {
	f := &fake{opening: failure("connecting", statusDisconnected)}
	run(t, f, func(s *Source, log *journal) {
		after(10 * time.Minute)
		// 1, 2, 4 … 60 s, then every minute.
		if f.opened < 12 || f.opened > 16 {
			t.Errorf("opened %d times in 10 minutes", f.opened)
		}
		if lines := log.all(); len(lines) != 1 || !strings.Contains(lines[0], "nv-hostengine") {
			t.Errorf("%q", lines)
		}
		f.set(func() { f.opening, f.closed = nil, f.opened }) // those that failed are not closed
		after(70 * time.Second)
		wantShare(t, s, gpuA, -1, 500_000)
		f.set(func() { f.reading = statusDisconnected })
		after(2 * time.Second)
		f.set(func() { f.reading = nil })
		after(70 * time.Second)
		wantShare(t, s, gpuA, -1, 500_000)
		if lines := log.all(); len(lines) != 4 || !strings.Contains(lines[3], "DCGM measures") {
			t.Errorf("%q", lines)
		}
		if st := s.Stats(); st.Sessions != 2 || !st.Up || st.Known != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestRefusalIsTriedAgain(t *testing.T) {
	f := &fake{watching: failure("dcgmWatchFields", statusInUse)}
	run(t, f, func(s *Source, log *journal) {
		after(5 * time.Minute)
		if lines := log.all(); len(lines) != 1 || !strings.Contains(lines[0], "owns the profiling counters") {
			t.Errorf("%q", lines)
		}
		f.set(func() { f.watching = nil })
		after(time.Minute + 2*time.Second)
		wantShare(t, s, gpuA, -1, 500_000)
	})
}

func TestSomeFailedReadsAreBorneWith(t *testing.T) {
	f := &fake{}
	run(t, f, func(s *Source, log *journal) {
		after(1500 * time.Millisecond)
		f.set(func() { f.reading = errors.New("no answer") })
		after(2 * time.Second)
		f.set(func() { f.reading = nil })
		after(time.Second)
		if f.opened != 1 || f.watched != 1 {
			t.Errorf("opened %d times, watched %d times", f.opened, f.watched)
		}
		wantShare(t, s, gpuA, -1, 500_000)
		if lines := log.all(); len(lines) != 1 {
			t.Errorf("%q", lines)
		}
	})
}

func TestBlankIsSaid(t *testing.T) {
	f := &fake{blank: true}
	run(t, f, func(s *Source, log *journal) {
		after(time.Minute)
		if lines := log.all(); len(lines) != 1 || !strings.Contains(lines[0], "gives no SM activity") {
			t.Errorf("%q", lines)
		}
		f.set(func() { f.blank = false })
		after(2 * time.Second)
		wantShare(t, s, gpuA, -1, 500_000)
	})
}

func TestHangIsSaidOnce(t *testing.T) {
	f := &fake{}
	run(t, f, func(s *Source, log *journal) {
		after(1500 * time.Millisecond)
		hang := make(chan struct{})
		f.set(func() { f.hang = hang })
		after(30 * time.Second)
		wantUnknown(t, s, gpuA, -1)
		if st := s.Stats(); !st.Hung || st.Hangs != 1 {
			t.Errorf("%+v", st)
		}
		f.set(func() { f.hang = nil })
		close(hang)
		after(2 * time.Second)
		wantShare(t, s, gpuA, -1, 500_000)
		if st := s.Stats(); st.Hung || st.Hangs != 1 {
			t.Errorf("%+v", st)
		}
		if lines := log.all(); len(lines) != 3 || !strings.Contains(lines[1], "hangs") || !strings.Contains(lines[2], "returned") {
			t.Errorf("%q", lines)
		}
	})
}

func TestRunDoesNotWaitForAHangingCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{hang: make(chan struct{})}
		s, _ := open(t, Options{Mode: Embedded})
		s.engine = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		after(2 * time.Second)
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "reading values") {
			t.Errorf("Run: %v", err)
		}
		close(f.hang)
	})
}

func TestOff(t *testing.T) {
	for _, mode := range []Mode{Off, ""} {
		s, log := open(t, Options{Mode: mode})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		wantUnknown(t, s, gpuA, -1)
		if st := s.Stats(); st != (Stats{Mode: Off}) || len(log.all()) != 0 {
			t.Errorf("%+v, %q", st, log.all())
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}
