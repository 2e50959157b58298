package agent

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// slewPart bounds how fast the timeline follows the wall clock: by 1/20 of the
// time that passes. A clock that was stepped by an hour is caught up with in
// twenty hours, in which a window lasts from 0.95 to 1.05 s. Drift as NTP
// corrects it (at most 0.05 %) is followed at once.
const slewPart = 20

// Clock is the agent's timeline, in Unix ns. It advances with the machine's
// time since boot and is anchored to the wall clock: where the two come apart,
// because somebody set the clock, the difference is slewed in. The timeline
// therefore never stops, jumps or goes back, and every second of it is billed
// once (law 8). It is safe for concurrent use.
type Clock struct {
	wall, uptime func() int64 // ns: Unix time; time since the machine's boot, sleep included

	mu   sync.Mutex
	now  int64 // as of last
	last int64 // uptime
}

// NewClock starts a timeline at the wall clock, but not before floor (Unix ns).
func NewClock(wall, uptime func() int64, floor int64) *Clock {
	return &Clock{wall: wall, uptime: uptime, now: max(wall(), floor), last: uptime()}
}

// ResumeClock goes on with a timeline that stood at now when the machine's
// uptime was at, in the same life of the machine; but not before floor (Unix
// ns). The floor is of today, not of then: seconds sealed after the timeline
// was noted lie within the time that has passed since, and don't add to it.
func ResumeClock(wall, uptime func() int64, now, at, floor int64) *Clock {
	c := &Clock{wall: wall, uptime: uptime, now: now, last: at}
	c.now = max(c.Now(), floor)
	return c
}

// Now is the time on the timeline.
func (c *Clock) Now() int64 {
	now, _ := c.Read()
	return now
}

// Read is the time on the timeline and the uptime that belongs to it.
func (c *Clock) Read() (now, uptime int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	uptime = c.uptime()
	passed := max(uptime-c.last, 0)
	off := c.wall() - (c.now + passed)
	most := passed / slewPart
	c.now += passed + min(max(off, -most), most)
	c.last = max(c.last, uptime)
	return c.now, uptime
}

// Offset is how far the wall clock is ahead of the timeline, in ns.
func (c *Clock) Offset() int64 { return c.wall() - c.Now() }

// Machine is what the agent needs to know of the machine's time.
type Machine struct {
	Wall   func() int64 // Unix ns
	Uptime func() int64 // ns since the machine's boot, sleep included
	BootID string       // differs in each life of the machine
}

// ThisMachine reads Linux's clocks and boot id.
func ThisMachine() (Machine, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Machine{}, fmt.Errorf("read the machine's boot id: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return Machine{}, fmt.Errorf("read the time since boot: %w", err)
	}
	return Machine{
		Wall: func() int64 { return time.Now().UnixNano() },
		Uptime: func() int64 {
			var ts unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
				panic("BUG: the time since boot can no longer be read: " + err.Error())
			}
			return ts.Nano()
		},
		BootID: strings.TrimSpace(string(b)),
	}, nil
}
