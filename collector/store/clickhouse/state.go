package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// entry is a row of the log: what a session's writes have come to.
type entry struct {
	session uint64
	lane    string
	seq     uint32
	number  uint64 // of the lane's last commit

	// What is rolled is the lane's, what is kept is what was asked for, and the rest
	// is of what the session stored.
	plan.Watermarks
	compacted attribution.Second // spans that were claimed before it are in covered
	covered   attribution.Second // the end of what is in covered
}

// begun is the entry of a lane that has come to nothing yet.
func begun(lane string) entry {
	return entry{lane: lane, Watermarks: plan.Nothing(), compacted: plan.Never, covered: plan.Never}
}

// state is what a set of writes has come to: those of each session up to one.
type state struct {
	sessions []entry // in order of session
	lanes    map[string]*entry

	entry           // of all lanes together, but for the number; rolled is the furthest of any
	losers []uint64 // sources of what is stored twice and does not count
}

// readState reads the newest state.
func (s *Store) readState(ctx context.Context) (*state, error) {
	st := &state{lanes: make(map[string]*entry), entry: begun("")}
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
	contests, err := s.readContests(ctx, st.visible())
	st.losers = losers(contests, st.has)
	return st, err
}

func (x *entry) times() []*attribution.Second {
	return []*attribution.Second{&x.HourRolled, &x.DayRolled, &x.SecondKept, &x.MinuteKept, &x.HourKept, &x.DayKept, &x.compacted, &x.covered, &x.First, &x.Last}
}

func (st *state) add(x entry) {
	st.sessions = append(st.sessions, x)
	l := st.lanes[x.lane]
	if l == nil {
		fresh := begun(x.lane)
		l = &fresh
		st.lanes[x.lane] = l
	}
	l.number = max(l.number, x.number)
	l.HourRolled, l.DayRolled = max(l.HourRolled, x.HourRolled), max(l.DayRolled, x.DayRolled)
	st.HourRolled, st.DayRolled = max(st.HourRolled, x.HourRolled), max(st.DayRolled, x.DayRolled)
	st.SecondKept, st.MinuteKept = max(st.SecondKept, x.SecondKept), max(st.MinuteKept, x.MinuteKept)
	st.HourKept, st.DayKept = max(st.HourKept, x.HourKept), max(st.DayKept, x.DayKept)
	st.compacted, st.covered = max(st.compacted, x.compacted), max(st.covered, x.covered)
	st.Extend(x.First, x.Last)
}

// lane is what a lane has come to.
func (st *state) lane(name string) entry {
	if l := st.lanes[name]; l != nil {
		return *l
	}
	return begun(name)
}

// write names a write: the seq-th of a session.
type write struct {
	session uint64
	seq     uint32
}

func (st *state) has(w write) bool { return st.holds(w.session, w.seq) }

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

// source is rows of a resolution in one of the tables that hold them.
type source struct {
	table string
	where string
}

// sources are where the rows of a resolution in [from, to) are: what a lane has
// not folded yet is in its finer rows.
func (st *state) sources(r rollup.Resolution, from, to attribution.Second) []source {
	out := []source{{plan.Name(r), within(from, to)}}
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
		at := l.HourRolled
		if r == rollup.Day {
			at = l.DayRolled
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
