package nvml

import "time"

// Of one thing that goes on happening, so many lines are logged in so long.
// All of it is counted in [Stats].
const (
	paceLines = 3
	paceEvery = int64(5 * time.Minute)
)

// pace is how many lines were logged of one thing lately.
type pace struct {
	since int64
	lines int
}

// may reports whether there may be a line at a time (ns), and counts it.
func (p *pace) may(now int64) bool {
	if p.lines == 0 || now-p.since >= paceEvery || now < p.since {
		p.since, p.lines = now, 0
	}
	if p.lines >= paceLines {
		return false
	}
	p.lines++
	return true
}
