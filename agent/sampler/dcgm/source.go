package dcgm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// Mode says where DCGM's readings come from.
type Mode string

// The modes.
const (
	Off        Mode = "off"
	Embedded   Mode = "embedded"
	Standalone Mode = "standalone"
	Exporter   Mode = "exporter"
)

const (
	defaultHostengine = "localhost:5555"
	defaultExporter   = "http://localhost:9400/metrics"
	// future is how far a reading's time may be ahead of the wall clock.
	future = int64(5 * time.Second)
)

// Options are a source's settings. Only Mode and Log are required.
type Options struct {
	// Mode is Off if empty.
	Mode Mode
	// Address is where a standalone hostengine listens (host, host:port, or
	// unix:///path), or an exporter's page (an http or https URL, which may
	// have a user and password). Empty is localhost at DCGM's port, 5555 or
	// 9400. It is to be on this node: another's readings are of no use here.
	Address string
	// Extra are fields to be read beside SMActive, for [Source.Readings]. The
	// hardware may have to take turns to count more, which makes each coarser.
	Extra []Field
	// Metrics names the fields on an exporter's page where they are not called
	// as DCGM calls them.
	Metrics map[Field]string
	// TLS verifies an exporter by https. Nil: by the system's certificates.
	TLS *tls.Config
	// Log gets one line for each change: found, lost, refused.
	Log *slog.Logger
	// Now is the machine's wall clock in Unix ns; nil is the system's.
	Now func() int64
}

// Source answers from DCGM's newest readings. Run keeps them new; all other
// methods may be called at any time, by anyone, and never block.
type Source struct {
	opt    Options
	engine engine  // of a hostengine, else nil
	page   *client // of an exporter, else nil
	newest atomic.Pointer[snapshot]
	stats  counters
	call   atomic.Pointer[pending]
	close  sync.Once
	// How long Run waits for a call at its end.
	stopWait time.Duration

	// Only Run's goroutines use what follows, one after the other.
	fields []Field
	said   string
}

var _ sampler.Activity = (*Source)(nil)

// Open checks the options. It opens nothing: Run does, and bears with what is
// not there. It fails only if the options make no sense.
func Open(opt Options) (*Source, error) {
	if opt.Log == nil {
		return nil, errors.New("dcgm: a log is required")
	}
	if opt.Now == nil {
		opt.Now = func() int64 { return time.Now().UnixNano() }
	}
	s := &Source{opt: opt, fields: []Field{SMActive}, stopWait: 5 * time.Second}
	for _, f := range opt.Extra {
		if f.names() == nil {
			return nil, fmt.Errorf("dcgm: unknown field %d: 1001 to 1005 can be read", f)
		}
		if !slices.Contains(s.fields, f) {
			s.fields = append(s.fields, f)
		}
	}
	s.newest.Store(&snapshot{})
	switch opt.Mode {
	case Off, "":
		s.opt.Mode = Off
	case Embedded:
		s.engine = newLibrary(endpoint{embedded: true})
	case Standalone:
		at, err := hostengineAt(opt.Address)
		if err != nil {
			return nil, err
		}
		s.engine = newLibrary(at)
	case Exporter:
		page, err := newClient(opt)
		if err != nil {
			return nil, err
		}
		s.page = page
	default:
		return nil, fmt.Errorf("dcgm: unknown mode %q: off, embedded, standalone or exporter", opt.Mode)
	}
	return s, nil
}

// Run reads until ctx ends, and is called once. That DCGM is missing, refuses,
// or fails is no error. The only error it returns is that a call into DCGM
// still hung when ctx had ended: its goroutine is left behind, and the process
// is better ended than given another Source.
func (s *Source) Run(ctx context.Context) error {
	switch {
	case s.engine != nil:
		return s.runHostengine(ctx)
	case s.page != nil:
		s.runExporter(ctx)
	default:
		<-ctx.Done()
	}
	return nil
}

// SMShare implements [sampler.Activity].
func (s *Source) SMShare(gpu string, gpuInstance int) (share, at int64, ok bool) {
	r, ok := s.newest.Load().find(gpu, gpuInstance, SMActive, s.opt.Now())
	return r.Share, r.At, ok
}

// Readings appends all readings that are good now to dst, by GPU, instance and
// field. They are the caller's.
func (s *Source) Readings(dst []Reading) []Reading {
	newest, now := s.newest.Load(), s.opt.Now()
	for _, r := range newest.readings {
		if newest.isGood(r, now) {
			dst = append(dst, r)
		}
	}
	return dst
}

// Close forgets the readings. It is called after Run, or instead of it; a
// second call does nothing.
func (s *Source) Close() error {
	s.close.Do(func() {
		s.newest.Store(&snapshot{})
		if s.page != nil {
			s.page.http.CloseIdleConnections()
		}
	})
	return nil
}

// publish makes readings the newest, all of them: what is missing from them is
// no longer known. It returns of how many GPUs and GPU instances the SM
// activity is.
func (s *Source) publish(readings []Reading, good time.Duration) (known int) {
	next, contradicting := newSnapshot(readings, int64(good))
	s.stats.contradicting.Add(uint64(contradicting))
	s.newest.Store(next)
	for _, r := range next.readings {
		if r.Field == SMActive && r.ComputeInstance < 0 {
			known++
		}
	}
	return known
}

// say logs what has changed. The same state is said once, whatever became of
// the details.
func (s *Source) say(level slog.Level, state, message string, args ...any) {
	if s.said == state {
		return
	}
	s.said = state
	s.opt.Log.Log(context.Background(), level, message, append([]any{slog.String("mode", string(s.opt.Mode))}, args...)...) //nolint:sloglint // the messages are the callers' constants
}

// backoff doubles from 1 s to a minute.
type backoff struct{ next time.Duration }

func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, time.Second), time.Minute)
	return sleep(ctx, b.next)
}

func (b *backoff) reset() { b.next = 0 }

// sleep says whether ctx is still on after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
