package query

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// One asker does not keep others from being answered, and nothing is lost where
// those who wait give up.
func TestLaw8SlotsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4)
		got := make(chan string, 100)
		ask := func(ctx context.Context, who string) {
			go func() {
				if s.take(ctx, who) == nil {
					got <- who
				}
			}()
			synctest.Wait()
		}
		for range 4 {
			ask(t.Context(), "greedy") // all, since nobody else asks
		}
		for range 10 {
			ask(t.Context(), "greedy")
		}
		for range 3 {
			ask(t.Context(), "modest")
		}
		ask(t.Context(), "third")
		gone, cancel := context.WithCancel(t.Context())
		ask(gone, "gone")
		if len(got) != 4 {
			t.Fatalf("%d are answered at once", len(got))
		}
		cancel()
		synctest.Wait()
		for range 4 {
			<-got
		}
		// Whoever is done is replaced by who has the fewest.
		order := ""
		for _, done := range []string{"greedy", "greedy", "greedy", "modest", "third", "modest"} {
			s.give(done)
			order += (<-got)[:1]
		}
		if order != "mtgmmg" {
			t.Errorf("%s", order)
		}
		for len(s.held) > 0 {
			for who := range s.held {
				s.give(who)
				break
			}
			synctest.Wait()
		}
		if s.free != 4 || len(s.waiting) != 0 {
			t.Errorf("%d free, %d wait", s.free, len(s.waiting))
		}
		if err := s.take(gone, "x"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
