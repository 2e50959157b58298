package kubelet

import "time"

const (
	// tick is how often it is looked whether something has changed that is not
	// told.
	tick = 250 * time.Millisecond
	// hurried is the shortest time between two lists.
	hurried = 250 * time.Millisecond
	// spread is the shortest time that three lists take: two a second. The
	// kubelet allows a hundred, to all who ask.
	spread = time.Second
	// maxBackoff is the longest time between two lists that failed.
	maxBackoff = 10 * time.Second
)

// pace says when to list next.
type pace struct {
	interval     time.Duration
	last, before time.Time // when the last two began
	next         time.Time
	failures     int
	hurry        bool
}

// due reports whether it is time to list.
func (p *pace) due(now time.Time) bool {
	soonest := now.Sub(p.last) >= hurried && now.Sub(p.before) >= spread
	return soonest && (!now.Before(p.next) || p.hurry && p.failures == 0)
}

func (p *pace) begin(now time.Time) {
	p.before, p.last, p.hurry = p.last, now, false
	p.next = now.Add(p.interval)
}

func (p *pace) succeeded() { p.failures = 0 }

// failed waits twice as long after each failure.
func (p *pace) failed(now time.Time) {
	p.next = now.Add(min(p.interval<<min(p.failures, 8), max(maxBackoff, p.interval)))
	p.failures++
}

// moved says that there is another kubelet to ask.
func (p *pace) moved() { p.failures, p.hurry = 0, true }
