package dcgm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	readEvery      = time.Second      // also DCGM's own interval, by our watch
	hostengineGood = 3 * time.Second  // how old its readings may be
	surveyEvery    = 30 * time.Second // how often the hierarchy is read again
	rewatchEvery   = 5 * time.Minute  // how often GPUs that refused are asked again
	hungAfter      = 10 * time.Second // a call that takes longer is said to hang
	failedReads    = 3                // in a row, and the session is ended
	blankReads     = 10               // in a row, and it is said
	maxEntities    = 1024             // DCGM's own bound
)

// entity is a GPU or an instance, by DCGM's number and by what it is.
type entity struct {
	kind kind
	id   uint
	of   Reading // GPU, GPUInstance and ComputeInstance
}

type kind uint8

const (
	gpu kind = iota + 1
	gpuInstance
	computeInstance
)

// value is what a hostengine has measured of a field of an entity.
type value struct {
	kind   kind
	id     uint
	field  Field
	status status
	share  float64
	at     int64 // Unix ns
}

// engine is a hostengine, as far as it is needed. One goroutine uses it, and a
// call may hang for ever.
type engine interface {
	// open starts or connects to the hostengine. It returns errMissing if that
	// can never work.
	open() error
	// survey lists the GPUs, their GPU instances, and the compute instances of
	// those that have several, as readings are wanted of them.
	survey() ([]entity, error)
	// watch has the fields of the entities measured once a second, instead of
	// what was watched before. GPUs that refuse are left out; an error says
	// that all have, or of what they were.
	watch(entities []entity, fields []Field) (refused error, err error)
	// read appends the newest values of what is watched to dst.
	read(dst []value) ([]value, error)
	// close ends the session. The engine may be opened again.
	close() error
}

// errMissing is final for this process: no library, or too old a one.
var errMissing = errors.New("DCGM can't be used")

// pending is a call that has not returned.
type pending struct {
	name  string
	since time.Time
}

// calling notes a call into the engine for as long as it takes.
func (s *Source) calling(name string, call func() error) error {
	s.call.Store(&pending{name, time.Now()})
	defer s.call.Store(nil)
	return call()
}

// runHostengine watches over the goroutine that makes the calls.
func (s *Source) runHostengine(ctx context.Context) error {
	s.stats.interval.Store(int64(readEvery))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.sessions(ctx)
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			s.watchdog()
		}
	}
	timer := time.NewTimer(s.stopWait)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	name := "the last call"
	if p := s.call.Load(); p != nil {
		name = p.name
	}
	return fmt.Errorf("dcgm: %s has not returned %v after the end, and is left behind", name, s.stopWait)
}

// watchdog says once that a call hangs, and once that it has returned.
func (s *Source) watchdog() {
	p := s.call.Load()
	hangs := p != nil && time.Since(p.since) > hungAfter
	if hangs == s.stats.hung.Swap(hangs) {
		return
	}
	if hangs {
		s.stats.hangs.Add(1)
		s.opt.Log.Warn("a call into DCGM hangs: its activity is unknown until it returns",
			slog.String("mode", string(s.opt.Mode)), slog.String("call", p.name), slog.String("hint", "is nv-hostengine alive, and the driver?"))
		return
	}
	s.opt.Log.Info("the call into DCGM has returned", slog.String("mode", string(s.opt.Mode)))
}

// sessions opens the hostengine, again and again with a back-off.
func (s *Source) sessions(ctx context.Context) {
	var pause backoff
	for ctx.Err() == nil {
		began := time.Now()
		err := s.session(ctx)
		s.stats.up.Store(false)
		if ctx.Err() != nil {
			return
		}
		s.stats.failures.Add(1)
		if errors.Is(err, errMissing) {
			s.say(slog.LevelWarn, "missing", "no DCGM: SM activity comes from NVML alone",
				slog.Any("error", err), slog.String("hint", "install DCGM 4 (datacenter-gpu-manager-4-core), mount its libraries, or set the mode to exporter or off"))
			return
		}
		s.say(slog.LevelWarn, "down: "+state(err), "DCGM can't be read: SM activity comes from NVML alone until it can",
			slog.Any("error", err), slog.String("hint", hint(err)))
		if time.Since(began) > time.Minute {
			pause.reset()
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// session reads until ctx ends or the hostengine fails.
func (s *Source) session(ctx context.Context) (err error) {
	if err := s.calling("opening", s.engine.open); err != nil {
		return err
	}
	s.stats.sessions.Add(1)
	defer func() {
		if closing := s.calling("closing", s.engine.close); closing != nil && err == nil {
			err = closing
		}
	}()
	r := reader{source: s}
	if err := r.survey(); err != nil {
		return err
	}
	ticker := time.NewTicker(readEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := r.tick(); err != nil {
			return err
		}
	}
}

// reader is one session.
type reader struct {
	source   *Source
	entities []entity
	surveyed time.Time
	watched  time.Time
	refused  error // what GPUs that are not watched said
	values   []value
	failed   int // reads in a row
	blank    int // reads in a row without an SM share
}

// survey reads the hierarchy, and watches what has changed of it.
func (r *reader) survey() error {
	s := r.source
	r.surveyed = time.Now()
	var found []entity
	err := s.calling("listing GPUs and instances", func() (err error) {
		found, err = s.engine.survey()
		return err
	})
	if err != nil {
		return err
	}
	if len(found) > maxEntities {
		s.stats.excess.Add(uint64(len(found) - maxEntities))
		found = found[:maxEntities]
	}
	again := r.refused != nil && time.Since(r.watched) >= rewatchEvery
	if r.entities != nil && slices.Equal(found, r.entities) && !again {
		return nil
	}
	r.watched = time.Now()
	err = s.calling("watching fields", func() (err error) {
		r.refused, err = s.engine.watch(found, s.fields)
		return err
	})
	if err != nil {
		return err
	}
	r.entities = append([]entity{}, found...)
	return nil
}

// tick is one reading. What fails may be that the GPUs have been cut anew, so
// the hierarchy is read again first.
func (r *reader) tick() error {
	s := r.source
	if r.failed > 0 || time.Since(r.surveyed) >= surveyEvery {
		if err := r.survey(); err != nil {
			return err
		}
	}
	s.stats.reads.Add(1)
	err := s.calling("reading values", func() (err error) {
		r.values, err = s.engine.read(r.values[:0])
		return err
	})
	if err != nil {
		s.stats.up.Store(false)
		r.failed++
		if r.failed >= failedReads || errors.Is(err, statusDisconnected) {
			return err
		}
		s.stats.failures.Add(1)
		return nil
	}
	r.failed = 0
	s.stats.up.Store(true)
	r.publish()
	return nil
}

// publish makes readings of values.
func (r *reader) publish() {
	s := r.source
	now := s.opt.Now()
	type key struct {
		kind kind
		id   uint
	}
	of := make(map[key]Reading, len(r.entities))
	for _, e := range r.entities {
		of[key{e.kind, e.id}] = e.of
	}
	readings := make([]Reading, 0, len(r.values))
	why := statusNoData
	for _, v := range r.values {
		reading, asked := of[key{v.kind, v.id}]
		share, valid := millionths(v.share)
		switch {
		case !asked || v.status != statusOK:
			s.stats.blank.Add(1)
			if asked && v.status != statusNotWatched {
				why = v.status
			}
		case !valid:
			s.stats.value.Add(1)
		case now-v.at > int64(hostengineGood) || v.at-now > future:
			s.stats.time.Add(1)
			why = statusStale
		default:
			reading.Field, reading.Share, reading.At = v.field, share, v.at
			readings = append(readings, reading)
		}
	}
	r.report(s.publish(readings, hostengineGood), why)
}

// report says how much is known, when that changes.
func (r *reader) report(known int, why status) {
	s := r.source
	if known > 0 {
		r.blank = 0
		if r.refused != nil {
			s.say(slog.LevelWarn, "partly", "DCGM measures SM activity of some GPUs only", slog.Any("error", r.refused), slog.String("hint", hint(r.refused)))
			return
		}
		s.say(slog.LevelInfo, "up", "DCGM measures SM activity", slog.Int("entities", known))
		return
	}
	if r.blank++; r.blank == blankReads {
		s.say(slog.LevelWarn, "blank", "DCGM runs and gives no SM activity: it comes from NVML alone",
			slog.Any("error", why), slog.String("hint", hint(why)))
	}
}
