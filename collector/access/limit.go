package access

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// failures is how many attempts a peer may fail at once, and one more every
	// perFailure.
	failures   = 10
	perFailure = 6 * time.Second
	// maxPeers bounds the table of those who failed.
	maxPeers = 4096
)

// failedPeers counts failed attempts by the peer's network. Its methods may be
// called by any number of goroutines.
type failedPeers struct {
	now   func() time.Time
	mu    sync.Mutex
	until map[string]time.Time // when all is forgiven
}

func newFailedPeers(now func() time.Time) *failedPeers {
	return &failedPeers{now: now, until: map[string]time.Time{}}
}

// network is what of an address one asker has: all of an IPv4 address, the
// first half of an IPv6 one.
func network(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "" // not of a network: all of these are one
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(64)
	if err != nil {
		panic("BUG: access: an IPv6 address without a prefix of 64 bits: " + err.Error())
	}
	return p.String()
}

// fail counts a failed attempt.
func (f *failedPeers) fail(peer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	at, known := f.until[peer]
	if !known && len(f.until) >= maxPeers {
		f.forget(now)
	}
	if at.Before(now) {
		at = now
	}
	f.until[peer] = minTime(at.Add(perFailure), now.Add(failures*perFailure))
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// forget makes room: of those who are forgiven, else of anyone.
func (f *failedPeers) forget(now time.Time) {
	for p, at := range f.until {
		if !at.After(now) {
			delete(f.until, p)
		}
	}
	for p := range f.until {
		if len(f.until) < maxPeers {
			return
		}
		delete(f.until, p)
	}
}

// tooMany reports whether a peer has failed too often of late.
func (f *failedPeers) tooMany(peer string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.until[peer].Sub(f.now()) > (failures-1)*perFailure
}

// seldom lets some things through a second, and counts the others.
type seldom struct {
	now  func() time.Time
	mu   sync.Mutex
	room float64
	last time.Time
	held int64
}

const (
	logBurst     = 10
	logPerSecond = 1
)

// ready reports whether one more may pass, and how many did not since the last.
func (s *seldom) ready() (held int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.last.IsZero() {
		s.room = logBurst
	} else if d := now.Sub(s.last); d > 0 {
		s.room = min(logBurst, s.room+d.Seconds()*logPerSecond)
	}
	s.last = now
	if s.room < 1 {
		s.held++
		return 0, false
	}
	s.room--
	held, s.held = s.held, 0
	return held, true
}
