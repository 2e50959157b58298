package ingest

import "time"

// pause has an agent do without live seconds while they come late, as they do when
// the collector is short of processor time: what is not read waits in memory, and a
// chunk in full takes less work than ten seconds and their announcement. Questions
// then see the node ten seconds later.
//
// Late is what takes longer than it did, so that it makes no difference by how much
// the node's clock is wrong.
type pause struct {
	least time.Duration // that a second took to come since the last pause
	timed bool          // least is known
	until time.Time     // of the one that is on; zero: none is
}

const (
	// livePatience is by how much later than the quickest a live second may come.
	livePatience = 5 * time.Second
	// livePause is the shortest pause; the longest is twice that.
	livePause = 30 * time.Second
)

// tooLate notes how long a live second took to come, and reports whether a pause is
// to begin.
func (p *pause) tooLate(took time.Duration, now time.Time, rand func() float64) bool {
	if !p.until.IsZero() && now.Before(p.until) {
		return false // it was on its way
	}
	p.until = time.Time{}
	if !p.timed || took < p.least {
		p.least, p.timed = took, true
	}
	if took-p.least <= livePatience {
		return false
	}
	*p = pause{until: now.Add(livePause + time.Duration(rand()*float64(livePause)))}
	return true
}

// on reports whether a pause is on, over whether it ends now.
func (p *pause) on() bool { return !p.until.IsZero() }

func (p *pause) over(now time.Time) bool {
	if p.until.IsZero() || now.Before(p.until) {
		return false
	}
	p.until = time.Time{}
	return true
}
