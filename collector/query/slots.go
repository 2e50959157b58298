package query

import (
	"context"
	"slices"
	"sync"
)

// slots bounds how many questions are answered at once. One that comes free goes
// to whoever has the fewest, of those who wait, and among these to who came
// first: an asker may have all of them while nobody else asks, and gets none
// that others wait for until they have as many.
type slots struct {
	mu      sync.Mutex
	free    int
	held    map[string]int // by asker
	waiting []*waiter      // in the order in which they came; free is 0 then
}

type waiter struct {
	asker string
	ready chan struct{} // closed when it has a slot
}

func newSlots(n int) *slots { return &slots{free: n, held: make(map[string]int)} }

// take waits for a slot. Where there is no error it must be given back.
func (s *slots) take(ctx context.Context, asker string) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.held[asker]++
		s.mu.Unlock()
		return nil
	}
	w := &waiter{asker, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.waiting, w)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // it was given one meanwhile
		s.give(asker)
	}
	return ctx.Err()
}

// give gives a slot back.
func (s *slots) give(asker string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[asker]--; s.held[asker] == 0 {
		delete(s.held, asker)
	}
	if len(s.waiting) == 0 {
		s.free++
		return
	}
	next := 0
	for i, w := range s.waiting {
		if s.held[w.asker] < s.held[s.waiting[next].asker] {
			next = i
		}
	}
	w := s.waiting[next]
	s.waiting = slices.Delete(s.waiting, next, next+1)
	s.held[w.asker]++
	close(w.ready)
}
