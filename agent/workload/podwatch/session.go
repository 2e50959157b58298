package podwatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// syncWithin is how long a source may take to tell all pods.
const syncWithin = 15 * time.Second

var errSlow = fmt.Errorf("not all pods were told within %v", syncWithin)

// session is one attempt at a source: from the connection to its end. It is
// the source's sink. What it says waits until it is admitted, so that of
// several sessions one at a time writes.
type session struct {
	w      *Watcher
	rank   int // of the source
	ctx    context.Context
	cancel context.CancelCauseFunc

	synced chan struct{} // closed once it has all pods
	admit  chan struct{} // closed once it may write
	ended  chan struct{} // closed once the source has returned
	err    error         // why; to be read after the end
	slow   *time.Timer

	in      bool // it has been admitted; the source's goroutine's
	noticed bool // that it is synced; the chooser's
}

// start begins a session with a source.
func (w *Watcher) start(ctx context.Context, rank int) *session {
	s := &session{
		w: w, rank: rank,
		synced: make(chan struct{}), admit: make(chan struct{}), ended: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.slow = time.AfterFunc(syncWithin, func() { s.cancel(errSlow) })
	w.counts.sessions.Add(1)
	go func() {
		defer close(s.ended)
		s.err = w.sources[rank].follow(s.ctx, s)
		if cause := context.Cause(s.ctx); errors.Is(cause, errSlow) {
			s.err = fmt.Errorf("%w: %w", cause, s.err)
		}
		s.slow.Stop()
		s.cancel(nil)
	}()
	return s
}

// stop ends a session and waits for its end.
func (s *session) stop() {
	s.cancel(context.Canceled)
	<-s.ended
}

// enter waits until the session may write.
func (s *session) enter() error {
	if s.in {
		return s.ctx.Err()
	}
	if !s.slow.Stop() {
		return errSlow
	}
	close(s.synced)
	select {
	case <-s.admit:
		s.in = true
		return s.ctx.Err()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *session) replace(ps []*pods.Pod) error {
	if err := s.enter(); err != nil {
		return err
	}
	s.w.directory.Replace(ps)
	s.spoke()
	s.w.counts.syncs.Add(1)
	return nil
}

func (s *session) put(p *pods.Pod) error {
	if err := s.enter(); err != nil {
		return err
	}
	s.w.directory.Put(p)
	s.spoke()
	return nil
}

func (s *session) remove(uid string) error {
	if err := s.enter(); err != nil {
		return err
	}
	s.w.directory.Delete(uid)
	s.spoke()
	return nil
}

func (s *session) current() bool { return s.w.last.Load() == int64(s.rank) }

func (s *session) resume() error { return s.enter() }

func (s *session) drop(n int) {
	if n > 0 {
		s.w.counts.dropped.Add(uint64(n))
	}
}

func (s *session) spoke() {
	s.w.counts.events.Add(1)
	s.w.last.Store(int64(s.rank))
	s.w.heard.Store(time.Now().UnixNano())
}
