package nvml

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	// eventWait is how long one wait for an event lasts: how late listening
	// ends, and how often it wakes up for nothing.
	eventWait = 500 * time.Millisecond
	// eventPace is the least time between two events: a driver that says the
	// same for ever does not keep a core busy.
	eventPace = 10 * time.Millisecond
	// eventRetry is the time until a failed wait is tried again.
	eventRetry = 5 * time.Second
)

// listening is the goroutine that listens to the GPUs.
type listening struct {
	gpus string // that it listens to; "" once it is to end
	stop context.CancelFunc
	done chan struct{}
}

func (l *listening) halt() {
	if l != nil {
		l.gpus = ""
		l.stop()
	}
}

func (l *listening) halted() bool {
	if l == nil {
		return true
	}
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// listen has somebody listen to the GPUs that there are. Where they change, it
// begins anew.
func (f *fleet) listen(ctx context.Context) {
	var ids []string
	for _, g := range f.found.gpus {
		ids = append(ids, g.units[0].uuid)
	}
	slices.Sort(ids)
	gpus := strings.Join(ids, " ")
	switch {
	case gpus == "" || (f.listening != nil && f.listening.gpus == gpus):
		return
	case !f.listening.halted():
		f.listening.halt()
		return
	}
	ctx, stop := context.WithCancel(ctx)
	l := &listening{gpus: gpus, stop: stop, done: make(chan struct{})}
	f.listening = l
	d := f.driver
	f.wg.Go(func() {
		defer f.nudge()
		defer close(l.done)
		f.hear(ctx, d)
	})
}

// hear listens until ctx ends or the driver has nothing to say.
func (s *Sampler) hear(ctx context.Context, d driver) {
	said := ""
	for ctx.Err() == nil {
		since := s.now()
		err := s.hearSet(ctx, d)
		if s.now()-since > 2*int64(eventRetry) {
			said = "" // it was well for a while
		}
		switch {
		case err == nil:
			return
		case errors.Is(err, errNotSupported):
			s.opts.Log.Info("the driver does not tell of errors as they happen: GPUs are looked at every 30 s", "error", err)
			return
		case err.Error() != said:
			said = err.Error()
			s.opts.Log.Warn("the driver's events can't be heard for now", "error", err)
			s.rescanSoon()
		}
		pause(ctx, eventRetry)
	}
}

// hearSet listens to one set of events, until ctx ends or a wait fails.
func (s *Sampler) hearSet(ctx context.Context, d driver) error {
	set, err := d.events()
	if err != nil {
		return err
	}
	defer set.close()
	for ctx.Err() == nil {
		e, err := set.wait(eventWait)
		if errors.Is(err, errNoData) {
			continue
		}
		if err != nil {
			return err
		}
		s.heard(e)
		pause(ctx, eventPace)
	}
	return nil
}

// heard counts and logs an event, and has the devices looked at where it may
// have changed what they are or how they do.
func (s *Sampler) heard(e event) {
	switch e.kind {
	case eventXID:
		application := ofApplication(e.xid)
		if s.counts.xid(e.gpu, e.xid, s.now()) {
			level := slog.LevelError
			if application {
				level = slog.LevelWarn
			}
			s.opts.Log.Log(context.Background(), level, "a GPU reports an error", "device", e.gpu, "xid", e.xid,
				"application", application, "gpu_instance", e.gpuInstance, "compute_instance", e.computeInstance)
		}
		if application {
			return
		}
	case eventMIG:
		s.opts.Log.Info("the MIG instances of a GPU change", "device", e.gpu)
	case eventHealth:
		s.opts.Log.Error("a GPU became unavailable, or has to be recovered", "device", e.gpu)
	}
	s.rescanSoon()
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
