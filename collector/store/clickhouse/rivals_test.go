package clickhouse_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

const (
	logEntry = "INSERT INTO log"
	readBack = "SELECT cluster, node, boot, first" // of claims
)

// planned is a rerating of everything, as a collector sees it.
func planned(t *testing.T, s store.Store, price money.Amount) (*store.Rerating, error) {
	t.Helper()
	pl := plan.Planner{Decode: storetest.Decode}
	var p *plan.Plan
	err := s.View(t.Context(), func(r store.Reader) (err error) {
		card := &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: price}}}
		p, err = pl.Rerate(t.Context(), r, rerating.Entry{From: day, To: day + 86400, Card: card, Currency: "USD", Applied: t0, Reason: "the invoice"})
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.Rerating(), nil
}

// rated commits as a collector does, by whatever the journal is.
func rated(ctx context.Context, s store.Store, number uint64, chunks ...*attribution.Chunk) error {
	for {
		var j *rerating.Journal
		if err := s.View(ctx, func(r store.Reader) (err error) {
			j, err = r.Journal(ctx)
			return err
		}); err != nil {
			return err
		}
		if err := persist(ctx, s, storetest.Rated(j, number, chunks...)); !errors.Is(err, store.ErrOutdated) {
			return err
		}
	}
}

// costs fails unless rows of every step cost what the journal makes of the chunks.
func costs(t *testing.T, s store.Store) {
	t.Helper()
	ctx := t.Context()
	if err := s.View(ctx, func(r store.Reader) error {
		j, err := r.Journal(ctx)
		if err != nil {
			return err
		}
		var want int64
		if err := r.Chunks(ctx, 0, 2*day, func(c *store.Chunk, ro *store.Roster) error {
			x, err := storetest.Decode(c, ro)
			if err != nil {
				return err
			}
			for _, w := range j.Rate(x).Windows {
				for _, sl := range w.Slices {
					want += int64(sl.Cost)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for _, step := range []int64{0, 60} {
			rows, err := r.Query(ctx, &store.Query{From: 0, To: 2 * day, Step: step, GroupBy: []store.Dimension{store.Revision}})
			if err != nil {
				return err
			}
			var got int64
			for i := range rows {
				got += rows[i].Cost.Int64()
			}
			if got != want {
				t.Errorf("in steps of %d after %d reratings: rows cost %d, want %d", step, j.Next()-1, got, want)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLaw6ALateChunkOfAnotherCollectorMakesAPlanOutdated(t *testing.T) {
	t.Parallel()
	place := single.place(t)
	ctx := t.Context()
	a := lane(t, place, "a")
	b, p := through(t, place, "b")
	if err := rated(ctx, a, 1, storetest.Minute(0, day)...); err != nil {
		t.Fatal(err)
	}
	r, err := planned(t, a, 3*money.Unit)
	if err != nil {
		t.Fatal(err)
	}
	if err := rated(ctx, b, 1, storetest.Minute(1, day)...); err != nil {
		t.Fatal(err)
	}
	if err := a.Rerate(ctx, r); !errors.Is(err, store.ErrOutdated) {
		t.Errorf("a plan from before a late chunk: %v", err)
	}
	// One that is on its way when the rerating begins is waited for.
	if r, err = planned(t, a, 3*money.Unit); err != nil {
		t.Fatal(err)
	}
	came, release := p.held(logEntry)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := rated(ctx, b, 2, storetest.Minute(2, day)...); err != nil {
			t.Error(err)
		}
	})
	<-came
	wg.Go(func() {
		if err := a.Rerate(ctx, r); !errors.Is(err, store.ErrOutdated) {
			t.Errorf("a plan from before a chunk that was on its way: %v", err)
		}
	})
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	wg.Wait()
	p.set(nil)
	// Nor does one begin while a rerating is made.
	a2, pa := through(t, place, "a2")
	if r, err = planned(t, a2, 3*money.Unit); err != nil {
		t.Fatal(err)
	}
	came, release = pa.held(logEntry)
	wg.Go(func() {
		if err := a2.Rerate(ctx, r); err != nil {
			t.Error(err)
		}
	})
	<-came
	if err := b.Commit(ctx, storetest.Batch(3, storetest.Minute(3, day)...)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while a rerating is made: %v", err)
	}
	close(release)
	wg.Wait()
	if err := b.Commit(ctx, storetest.Batch(3, storetest.Minute(3, day)...)); !errors.Is(err, store.ErrOutdated) {
		t.Errorf("after a rerating: %v", err)
	}
	if err := rated(ctx, b, 3, storetest.Minute(3, day)...); err != nil {
		t.Fatal(err)
	}
	holds(t, a, 4)
	costs(t, b)
}

// TestLaw6CollectorsRerateAndCommitAtOnce has two collectors rerate the same time
// while they and a third store late chunks of it.
func TestLaw6CollectorsRerateAndCommitAtOnce(t *testing.T) {
	ratedAtOnce(t, single.place(t), times(2, 12))
}

func ratedAtOnce(t *testing.T, place string, rounds int) {
	t.Helper()
	ctx := t.Context()
	lanes := []*clickhouse.Store{lane(t, place, "a"), lane(t, place, "b"), lane(t, place, "c")}
	if err := rated(ctx, lanes[2], 1, storetest.Minute(0, day)...); err != nil {
		t.Fatal(err)
	}
	numbers := []uint64{0, 0, 1}
	var made atomic.Int64
	for round := range rounds {
		var wg sync.WaitGroup
		for i, s := range lanes {
			wg.Go(func() {
				if i < 2 {
					r, err := planned(t, s, money.Amount(2*round+i+1)*money.Unit)
					if err == nil {
						err = s.Rerate(ctx, r)
					}
					switch {
					case err == nil:
						made.Add(1)
					case !errors.Is(err, store.ErrOutdated) && !errors.Is(err, store.ErrBadBatch):
						t.Errorf("rerate: %v", err)
					}
				}
				if i > 0 {
					numbers[i]++
					if err := rated(ctx, s, numbers[i], storetest.Minute(i, day+attribution.Second(round+1)*600)...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		costs(t, lanes[round%3])
	}
	holds(t, lanes[0], int64(1+2*rounds))
	if err := lanes[0].View(ctx, func(r store.Reader) error {
		j, err := r.Journal(ctx)
		if err == nil && int64(j.Next()-1) != made.Load() {
			t.Errorf("the journal has %d entries, and %d were made", j.Next()-1, made.Load())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d reratings were made", made.Load(), 2*rounds)
}

// TestLaw4AnAnswerThatIsLost has a commit's entry of the log come to the server
// when the collector no longer waits for it: at once, or too late.
func TestLaw4AnAnswerThatIsLost(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]time.Duration{"it counts": 0, "it is too late": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := single.place(t)
			ctx := t.Context()
			s, p := through(t, place, "a")
			s.SetLimits(1, 150, 1, 0)
			came, release := p.held(logEntry)
			b := storetest.Batch(1, storetest.Minute(0, day)...)
			impatient, leave := context.WithCancel(ctx)
			go func() { <-came; leave() }()
			if err := s.Commit(impatient, b); !errors.Is(err, context.Canceled) {
				t.Fatalf("the server does not answer: %v", err)
			}
			time.AfterFunc(late, func() { close(release) })
			if late > 0 {
				<-release
			}
			p.set(nil)
			if err := s.Commit(ctx, b); err == nil {
				t.Log("it was not there, and was stored again")
			} else if err = persist(ctx, s, b); err != nil && !errors.Is(err, store.ErrBadBatch) {
				t.Fatal(err)
			}
			if err := s.Roll(ctx, day+2*86400); err != nil {
				t.Fatal(err)
			}
			holds(t, s, 1)
			holds(t, lane(t, place, "b"), 1)
		})
	}
}

// TestLaw4ACollectorDiesAfterItsClaim has one claim chunks and never come to the
// log, and others store them.
func TestLaw4ACollectorDiesAfterItsClaim(t *testing.T) {
	t.Parallel()
	place := single.place(t)
	ctx := t.Context()
	a, p := through(t, place, "a")
	a.SetLimits(1, 150, 1, 0)
	b, c := lane(t, place, "b"), lane(t, place, "c")
	batch := storetest.Batch(1, storetest.Minute(0, day)...)
	var dead atomic.Bool
	p.set(func(s string) bool {
		if strings.HasPrefix(s, logEntry) {
			dead.Store(true)
		}
		return dead.Load()
	})
	if err := a.Commit(ctx, batch); !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(err)
	}
	holds(t, b, 0)
	if err := b.Commit(ctx, batch); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(ctx, batch); err != nil {
		t.Fatal(err)
	}
	holds(t, c, 1)
	// Whoever rerates waits until the dead one's time is over, and no longer.
	b.SetLimits(1, 5, 1, 0)
	r, err := planned(t, b, money.Unit)
	if err != nil {
		t.Fatal(err)
	}
	waited := false
	for err = b.Rerate(ctx, r); errors.Is(err, store.ErrUnavailable); err = b.Rerate(ctx, r) {
		waited = true
	}
	if err != nil || !waited {
		t.Fatal(waited, err)
	}
	costs(t, c)
	dead.Store(false)
	p.set(nil)
	if err := rated(ctx, a, 1, storetest.Minute(0, day)...); err != nil {
		t.Fatal(err)
	}
	holds(t, a, 1)
	costs(t, a)
}

// TestLaw4TwoClaimTheSame has two collectors claim the same chunks, in each order
// of claims, looks and entries.
func TestLaw4TwoClaimTheSame(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]string{"one is slow to look": readBack, "one is slow to write": "INSERT INTO minute", "one is slow to finish": logEntry} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := single.place(t)
			ctx := t.Context()
			a, p := through(t, place, "a")
			b, c := lane(t, place, "b"), lane(t, place, "c")
			skip := 0
			if hold == readBack {
				skip = 1 // the look before the claim
			}
			came, release := make(chan struct{}), make(chan struct{})
			var n atomic.Int64
			p.set(func(s string) bool {
				if strings.HasPrefix(s, hold) && n.Add(1) == int64(skip+1) {
					close(came)
					<-release
				}
				return false
			})
			both := storetest.Minute(0, day)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := persist(ctx, a, storetest.Batch(1, append(both, storetest.Minute(1, day)...)...)); err != nil {
					t.Error(err)
				}
			})
			<-came
			if err := b.Commit(ctx, storetest.Batch(1, append(both, storetest.Minute(2, day)...)...)); err != nil {
				t.Error(err)
			}
			holds(t, c, 2)
			close(release)
			wg.Wait()
			holds(t, c, 3)
			for _, s := range []*clickhouse.Store{a, b} {
				if err := s.Roll(ctx, day+2*86400); err != nil {
					t.Error(err)
				}
			}
			holds(t, c, 3)
		})
	}
}

func TestDocumentsOfCollectorsAtOnce(t *testing.T) {
	place := single.place(t)
	ctx := t.Context()
	const each = 4
	revisions := make(map[uint32]string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		s := lane(t, place, name)
		wg.Go(func() {
			for range each {
				n, err := s.PutDocument(ctx, store.RuleSets, []byte(name), t0)
				mu.Lock()
				if err != nil || revisions[n] != "" {
					t.Errorf("revision %d of %s: %v, it is %q's", n, name, err, revisions[n])
				}
				revisions[n] = name
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s := lane(t, place, "d")
	for n := uint32(1); n <= 3*each; n++ {
		if d, err := s.Document(ctx, store.RuleSets, n); err != nil || string(d.Body) != revisions[n] {
			t.Errorf("revision %d is %q's, want %q's: %v", n, d.Body, revisions[n], err)
		}
	}
}
