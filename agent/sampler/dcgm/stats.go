package dcgm

import (
	"sync/atomic"
	"time"
)

// Stats says how a source is doing. Counters start at 0 with the source.
type Stats struct {
	Mode Mode
	// Up: the last reading of the hostengine, or scrape, worked.
	Up bool
	// Known is how many GPUs and GPU instances SMShare would answer for.
	Known int
	// Interval is the time between an exporter's pages, as far as seen; a
	// second for a hostengine.
	Interval time.Duration
	// Reads counts readings of the hostengine, or scrapes, and Failures those
	// that failed. Sessions counts connections to a hostengine.
	Reads, Failures, Sessions uint64
	// Hung: a call into DCGM has not returned for 10 s. Hangs counts them.
	Hung  bool
	Hangs uint64
	Drops Drops
}

// Drops counts what was read and not believed, by reason.
type Drops struct {
	Blank         uint64 // DCGM has no value, or a status instead
	Value         uint64 // less than 0, or far more than 1
	Time          uint64 // older than a reading may be, or of the future
	Malformed     uint64 // a line that can't be read, or names no GPU
	Excess        uint64 // series, GPUs or instances beyond what is kept
	Contradicting uint64 // the same series once more, with another value
}

type counters struct {
	up                        atomic.Bool
	interval                  atomic.Int64
	reads, failures, sessions atomic.Uint64
	hung                      atomic.Bool
	hangs                     atomic.Uint64

	blank, value, time, malformed, excess, contradicting atomic.Uint64
}

// Stats is how the source is doing now.
func (s *Source) Stats() Stats {
	c := &s.stats
	st := Stats{
		Mode: s.opt.Mode, Up: c.up.Load(), Interval: time.Duration(c.interval.Load()),
		Reads: c.reads.Load(), Failures: c.failures.Load(), Sessions: c.sessions.Load(),
		Hung: c.hung.Load(), Hangs: c.hangs.Load(),
		Drops: Drops{
			Blank: c.blank.Load(), Value: c.value.Load(), Time: c.time.Load(),
			Malformed: c.malformed.Load(), Excess: c.excess.Load(), Contradicting: c.contradicting.Load(),
		},
	}
	newest, now := s.newest.Load(), s.opt.Now()
	for _, r := range newest.readings {
		if r.Field == SMActive && r.ComputeInstance < 0 && newest.isGood(r, now) {
			st.Known++
		}
	}
	return st
}
