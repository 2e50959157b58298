package agent

import (
	"testing"

	"pgregory.net/rapid"
)

// machine is a machine whose clocks a test turns.
type machine struct{ wall, uptime int64 }

func (m *machine) pass(ns int64) { m.wall += ns; m.uptime += ns }

func (m *machine) clock(floor int64) *Clock {
	return NewClock(func() int64 { return m.wall }, func() int64 { return m.uptime }, floor)
}

const sec = int64(1e9)

// A wall clock that is set at will: the timeline never stops, jumps or goes
// back, and comes back to the wall clock at the rate that is documented.
func TestLaw8TimelineUnderAnyStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{wall: 1_700_000_000 * sec, uptime: 5 * sec}
		c := m.clock(0)
		before := c.Now()
		for range rapid.IntRange(1, 50).Draw(t, "readings") {
			m.wall += rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-7200*sec, 7200*sec)).Draw(t, "step")
			passed := rapid.Int64Range(0, 30*sec).Draw(t, "passed")
			off := m.wall - before
			m.pass(passed)
			now := c.Now()
			if d := now - before; d < passed-passed/slewPart || d > passed+passed/slewPart {
				t.Fatalf("in %d ns the timeline went on by %d", passed, d)
			}
			if left := m.wall - now; abs(left) > max(abs(off)-passed/slewPart, 0) {
				t.Fatalf("off by %d before, by %d after %d ns", off, left, passed)
			}
			before = now
		}
	})
}

func abs(x int64) int64 { return max(x, -x) }

func TestLaw8HourStepsAreSlewedIn(t *testing.T) {
	for name, step := range map[string]int64{"forward": 3600 * sec, "back": -3600 * sec} {
		t.Run(name, func(t *testing.T) {
			m := &machine{wall: 1_700_000_000 * sec}
			c := m.clock(0)
			m.wall += step
			seen := map[int64]bool{}
			last := c.Now() / sec
			for range 21 * 3600 * 5 { // 21 hours, five looks a second
				m.pass(sec / 5)
				now := c.Now() / sec
				if now < last || now > last+1 {
					t.Fatalf("from second %d to %d", last, now)
				}
				seen[now], last = true, now
			}
			if off := c.Offset(); off != 0 {
				t.Fatalf("after 21 hours still %d ns off", off)
			}
		})
	}
}

func TestLaw3ClockResumes(t *testing.T) {
	m := &machine{wall: 1_700_000_000 * sec, uptime: 100 * sec}
	c := m.clock(0)
	m.wall -= 3600 * sec // set back, and not yet slewed in
	m.pass(10 * sec)
	now, at := c.Read()
	m.pass(7 * sec) // the agent is away
	resume := func(floor int64) *Clock {
		return ResumeClock(func() int64 { return m.wall }, func() int64 { return m.uptime }, now, at, floor)
	}
	// The floor, what was sealed after the timeline was noted, has passed by
	// now: it moves nothing.
	for _, floor := range []int64{0, now + 5*sec} {
		if got, want := resume(floor).Now(), c.Now(); got != want {
			t.Fatalf("resumed at %d from floor %d, want %d", got, floor, want)
		}
	}
	if floor := c.Now() + 50*sec; resume(floor).Now() != floor {
		t.Fatal("a timeline went on before its floor")
	}
	if floor := m.wall + 50*sec; m.clock(floor).Now() != floor {
		t.Fatal("a timeline began before its floor")
	}
}
