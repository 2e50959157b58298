package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// never is a watermark before all seconds.
const never attribution.Second = -1 << 62

// entry is a row of the log: what a session's writes have come to.
type entry struct {
	session uint64
	lane    string
	seq     uint32
	number  uint64 // of the lane's last commit

	hourRolled, dayRolled                     attribution.Second // of the lane
	secondKept, minuteKept, hourKept, dayKept attribution.Second // asked for
	compacted                                 attribution.Second // spans that were claimed before it are in covered
	covered                                   attribution.Second // the end of what is in covered
	first, last                               attribution.Second // of what the session stored; first > last: nothing
}

// state is what a set of writes has come to: those of each session up to one.
type state struct {
	sessions []entry // in order of session
	lanes    map[string]*entry

	entry           // of all lanes together, number and watermarks of rolls excepted
	losers []uint64 // sources of what is stored twice and does not count
}

// readState reads the newest state.
func (s *Store) readState(ctx context.Context) (*state, error) {
	st := &state{lanes: make(map[string]*entry)}
	st.secondKept, st.minuteKept, st.hourKept, st.dayKept, st.compacted, st.covered = never, never, never, never, never, never
	st.first, st.last = math.MaxInt64, math.MinInt64
	err := s.client.query(ctx, `SELECT session, any(lane), max(seq), max(number), max(hour_rolled), max(day_rolled), max(second_kept), max(minute_kept),
		max(hour_kept), max(day_kept), max(compacted), max(covered), min(first), max(last) FROM log GROUP BY session HAVING max(seq) > 0 ORDER BY session`, func(d *decoder) error {
		x := entry{session: d.u64(), lane: d.str(), seq: d.u32(), number: d.u64()}
		for _, t := range x.times() {
			*t = attribution.Second(d.i64())
		}
		st.add(x)
		return nil
	})
	if err != nil {
		return nil, err
	}
	st.losers, err = s.losers(ctx, st)
	return st, err
}

func (x *entry) times() []*attribution.Second {
	return []*attribution.Second{&x.hourRolled, &x.dayRolled, &x.secondKept, &x.minuteKept, &x.hourKept, &x.dayKept, &x.compacted, &x.covered, &x.first, &x.last}
}

func (st *state) add(x entry) {
	st.sessions = append(st.sessions, x)
	l := st.lanes[x.lane]
	if l == nil {
		l = &entry{lane: x.lane, hourRolled: never, dayRolled: never}
		st.lanes[x.lane] = l
	}
	l.number = max(l.number, x.number)
	l.hourRolled, l.dayRolled = max(l.hourRolled, x.hourRolled), max(l.dayRolled, x.dayRolled)
	st.hourRolled, st.dayRolled = max(st.hourRolled, x.hourRolled), max(st.dayRolled, x.dayRolled)
	st.secondKept, st.minuteKept = max(st.secondKept, x.secondKept), max(st.minuteKept, x.minuteKept)
	st.hourKept, st.dayKept = max(st.hourKept, x.hourKept), max(st.dayKept, x.dayKept)
	st.compacted, st.covered = max(st.compacted, x.compacted), max(st.covered, x.covered)
	st.first, st.last = min(st.first, x.first), max(st.last, x.last)
}

// lane is what a lane has come to.
func (st *state) lane(name string) entry {
	if l := st.lanes[name]; l != nil {
		return *l
	}
	return entry{lane: name, hourRolled: never, dayRolled: never}
}

// holds reports whether a write is in the state.
func (st *state) holds(session uint64, seq uint32) bool {
	i, ok := slices.BinarySearchFunc(st.sessions, session, func(e entry, s uint64) int {
		switch {
		case e.session < s:
			return -1
		case e.session > s:
			return 1
		}
		return 0
	})
	return ok && seq <= st.sessions[i].seq
}

// visible is the condition that a row is of a write in the state.
func (st *state) visible() string {
	if len(st.sessions) == 0 {
		return `0`
	}
	return fmt.Sprintf(`seq <= transform(session, [%s], [%s], toUInt32(0))`,
		list(st.sessions, func(e entry) string { return `toUInt64(` + number(e.session) + `)` }),
		list(st.sessions, func(e entry) string { return `toUInt32(` + number(e.seq) + `)` }))
}

// counted is visible for rows that have a source.
func (st *state) counted() string {
	text := st.visible()
	if len(st.losers) > 0 {
		text += ` AND source NOT IN (` + list(st.losers, number[uint64]) + `)`
	}
	return text
}

// with is the state with one more write of a session.
func (st *state) with(x entry) *state {
	next := *st
	next.sessions = slices.Clone(st.sessions)
	next.sessions = slices.DeleteFunc(next.sessions, func(e entry) bool { return e.session == x.session })
	next.sessions = append(next.sessions, x)
	slices.SortFunc(next.sessions, func(a, b entry) int {
		if a.session < b.session {
			return -1
		}
		return 1
	})
	return &next
}

// extent is what is stored and was not dropped with its days; 0, 0 if nothing.
func (st *state) extent() (first, last attribution.Second) {
	if first = max(st.first, st.dayKept); first >= st.last {
		return 0, 0
	}
	return first, st.last
}

func (st *state) rolled(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Hour:
		return max(st.hourRolled, 0)
	case rollup.Day:
		return max(st.dayRolled, 0)
	default:
		_, last := st.extent()
		return last
	}
}

func (st *state) kept(r rollup.Resolution) attribution.Second {
	switch r {
	case rollup.Day:
		return st.dayKept
	case rollup.Hour:
		return st.hourKept
	case rollup.Minute:
		return st.minuteKept
	default:
		return st.secondKept
	}
}

// source is rows of a resolution in one of the tables that hold them.
type source struct {
	table string
	where string
}

// sources are where the rows of a resolution in [from, to) are: what a lane has
// not folded yet is in its finer rows.
func (st *state) sources(r rollup.Resolution, from, to attribution.Second) []source {
	out := []source{{table(r), within(from, to)}}
	if r == rollup.Day {
		if text, ok := st.unrolled(rollup.Day, from, to); ok {
			out = append(out, source{"hour", text})
		}
	}
	if r == rollup.Day || r == rollup.Hour {
		if text, ok := st.unrolled(rollup.Hour, from, to); ok {
			out = append(out, source{"minute", text})
		}
	}
	return out
}

func within(from, to attribution.Second) string {
	return fmt.Sprintf(`bucket >= %d AND bucket < %d`, from, to)
}

// unrolled is the condition on rows of the next finer resolution that a lane has
// not folded into r.
func (st *state) unrolled(r rollup.Resolution, from, to attribution.Second) (string, bool) {
	low := attribution.Second(math.MaxInt64)
	var parts []string
	for name, l := range st.lanes {
		at := l.hourRolled
		if r == rollup.Day {
			at = l.dayRolled
		}
		low = min(low, at)
		if at < to {
			parts = append(parts, fmt.Sprintf(`lane = %s AND bucket >= %d`, quote(name), max(at, from)))
		}
	}
	if len(parts) == 0 {
		return "", false
	}
	slices.Sort(parts)
	return within(max(from, low), to) + ` AND (` + strings.Join(parts, ` OR `) + `)`, true
}

func table(r rollup.Resolution) string {
	switch r {
	case rollup.Day:
		return "day"
	case rollup.Hour:
		return "hour"
	case rollup.Minute:
		return "minute"
	default:
		return "second"
	}
}

// coarser is the length of a bucket's part.
func coarser(r rollup.Resolution) rollup.Resolution {
	switch r {
	case rollup.Minute:
		return rollup.Hour
	case rollup.Hour:
		return rollup.Day
	default:
		return 30 * rollup.Day
	}
}
