package inference

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/gpuledger/gpuledger/internal/serving"
)

// State is how a site is doing.
type State string

// The states of a site.
const (
	Probing     State = "probing"     // no page has been found yet
	Counting    State = "counting"    // it is read
	Unreachable State = "unreachable" // it does not answer, or not with a page
	TimedOut    State = "timeout"     // it takes too long
	Unknown     State = "unknown"     // no format fits its page
	AGateway    State = "gateway"     // it counts for others, and is not counted here
)

// site is a container that may serve, and what has been found there. It is the
// sampler's goroutine's.
type site struct {
	wish
	next     int  // the place that is tried next, or the one that is read
	locked   bool // a page was found there
	answered bool // in this round, some place has answered with some page
	failures int
	due      time.Time
	phase    time.Duration
	// busy is from when it is to be read until what was read is counted.
	busy, countedBusy bool

	state  State
	format string
	told   string // the failure that was logged last

	slow bool      // the last reading was
	read time.Time // when the last reading that was counted began
	anew time.Time // the same of the last one that began from 0

	gauges   []serving.Value // as of the last reading
	gaugesAt int64
	triton   *triton
}

// name is what the tracker calls the server.
func (t *site) name() string { return t.id + ":" + strconv.Itoa(int(t.places[t.next].port)) }

// How often places are tried that are of no use.
const (
	silentAtMost  = time.Minute      // those that do not answer: a server may be starting
	unknownAtMost = 10 * time.Minute // those that answer with something else
	unlockAfter   = 8                // failures in a row of a place that was read
	lastWords     = time.Second      // how often a server is read that is about to go
	lookEvery     = time.Second
	tidyEvery     = time.Minute
	forgetAfter   = 15 * time.Minute
	// forgetCrowded is the same where more are remembered than half of what can
	// be: containers that end again and again must not keep others out.
	forgetCrowded = undoFor
)

// look finds out what is there to be read, once a second, or where the pods
// have changed.
func (s *Sampler) look(now time.Time) {
	v := s.o.Pods()
	if v == s.view && now.Sub(s.looked) < lookEvery {
		return
	}
	s.view, s.looked = v, now
	f := finder{rules: s.o.Rules, endpoints: s.o.Formats.Endpoints(), counts: &s.counts, holders: s.holders()}
	seen := make(map[siteKey]bool, len(s.sites))
	for _, w := range f.find(v) {
		if len(seen) == s.o.Targets {
			s.counts.refused.Add(1)
			continue
		}
		seen[w.key] = true
		t := s.sites[w.key]
		if t == nil || !t.same(&w) {
			if t != nil {
				s.ledger.follow(t, &w)
			}
			t = &site{state: Probing, due: now, phase: phase(w.key, s.o.Interval), triton: &triton{}}
			s.sites[w.key] = t
		}
		if w.pod.Terminating && t.pod != nil && !t.pod.Terminating {
			t.due = now
		}
		t.wish = w
	}
	for key := range s.sites {
		if !seen[key] {
			delete(s.sites, key)
		}
	}
	s.tidy(now)
	s.show()
}

// holders are the containers that hold a device.
func (s *Sampler) holders() map[siteKey]bool {
	held := map[siteKey]bool{}
	for _, o := range s.o.Holders() {
		if o.PodUID != "" {
			held[siteKey{o.PodUID, o.Container}] = true
		}
	}
	return held
}

// phase spreads the sites over an interval.
func phase(key siteKey, interval time.Duration) time.Duration {
	var h maphash.Hash
	_, _ = h.WriteString(key.uid)
	_, _ = h.WriteString(key.container)
	return time.Duration(h.Sum64() % uint64(interval))
}

// due lists the sites that are to be read now, longest due first.
func (s *Sampler) due(now time.Time) (ts []*site) {
	for _, t := range s.sites {
		if !t.busy && !t.due.After(now) {
			ts = append(ts, t)
		}
	}
	slices.SortFunc(ts, func(a, b *site) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.id, b.id)) })
	return ts
}

// take takes the result of a reading.
func (s *Sampler) take(r *result) {
	t := r.site
	if t.countedBusy {
		s.busy--
		t.countedBusy = false
	}
	s.counts.add(r)
	if now := s.sites[t.key]; now != nil && now != t { // it has changed, and the reading may be older than others
		return
	}
	t.busy, t.slow = false, r.slow
	now := time.Now()
	if r.state == Counting {
		if !t.locked {
			s.log.Info("a server of models is counted", "namespace", t.pod.Namespace, "pod", t.pod.Name, "container", t.key.container,
				"format", r.reading.Format, "url", r.url)
		}
		t.locked, t.state, t.format, t.told = true, Counting, r.reading.Format, ""
		t.failures /= 2 // who fails now and then is still one who fails
		t.due = s.following(t, now)
		t.busy = true // until it is counted
		s.ledger.pending = append(s.ledger.pending, observation{t, r.at, r.began, r.reading})
		return
	}
	s.failed(t, r, now)
}

// failed decides when a site is tried again, and where.
func (s *Sampler) failed(t *site, r *result, now time.Time) {
	s.tell(t, r)
	t.state = r.state
	t.answered = t.answered || r.state == Unknown || r.state == AGateway
	t.gauges = nil // nobody looked
	if t.locked {
		t.failures++
		t.due = now.Add(s.backoff(t.failures, silentAtMost))
		if t.failures >= unlockAfter || r.state == Unknown || r.state == AGateway {
			t.locked, t.next, t.answered = false, 0, false
		}
		return
	}
	if t.next++; t.next < len(t.places) {
		t.due = now
		return
	}
	most := silentAtMost
	if t.answered {
		most = unknownAtMost
	}
	t.failures++
	t.next, t.answered = 0, false
	t.due = now.Add(s.backoff(t.failures, most))
}

func (s *Sampler) backoff(failures int, most time.Duration) time.Duration {
	return max(min(s.o.Interval<<min(max(failures-1, 0), 10), most), s.o.Interval)
}

// following is when a site is read next: at its place in the interval.
func (s *Sampler) following(t *site, now time.Time) time.Time {
	if t.pod.Terminating {
		return now.Add(min(lastWords, s.o.Interval))
	}
	next := now.Truncate(s.o.Interval).Add(t.phase)
	for !next.After(now.Add(s.o.Interval / 2)) {
		next = next.Add(s.o.Interval)
	}
	return next
}

// tell logs a failure of a site, once for as long as it stays the same. Places
// that were only guessed are no reason to.
func (s *Sampler) tell(t *site, r *result) {
	text := string(r.state)
	if t.told == text {
		return
	}
	t.told = text
	level := s.log.Debug
	if t.locked || t.wanted {
		level = s.log.Warn
	}
	level("a server can't be counted", "namespace", t.pod.Namespace, "pod", t.pod.Name, "container", t.key.container,
		"url", r.url, "state", text, "error", r.err)
}

// tidy forgets servers whose containers are gone for good.
func (s *Sampler) tidy(now time.Time) {
	if now.Sub(s.ledger.tidied) < tidyEvery || s.view.Len() == 0 {
		return
	}
	s.ledger.tidied = now
	there := map[string]bool{}
	for _, name := range s.ledger.tracker.Targets() {
		id, _, _ := cutLast(name)
		if p, _ := s.view.ByContainer(id); p != nil && !p.Gone() {
			there[name] = true
			delete(s.gone, name)
		} else if _, ok := s.gone[name]; !ok {
			s.gone[name] = now
		}
	}
	after := forgetAfter
	if len(s.gone) > s.o.Targets*trackedTargets/2 {
		after = forgetCrowded
	}
	for name, since := range s.gone {
		if now.Sub(since) >= after {
			s.ledger.tracker.Forget(name)
			delete(s.gone, name)
		}
	}
}

// show publishes how the sites are doing.
func (s *Sampler) show() {
	shown := make([]Target, 0, len(s.sites))
	for _, t := range s.sites {
		shown = append(shown, Target{Namespace: t.pod.Namespace, Pod: t.pod.Name, Container: t.key.container, Format: t.format, State: t.state})
	}
	slices.SortFunc(shown, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
	})
	s.shown.Store(&shown)
}
