package collector

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// beat is within which a change of another collector comes into force.
const beat = followMax + time.Second

// followed is a collector's documents, which follow those of others.
type followed struct {
	*follower
	store          *querytest.Shared
	cards, rerated int // times that it was told
}

func documentsOn(t *testing.T, st store.Store) *documents {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	d, err := openDocuments(byConfiguration(t), st, access.NewLog(st, time.Now, log), time.Now, log, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func byConfiguration(t *testing.T) context.Context {
	return access.WithCaller(t.Context(), access.Configuration())
}

// follow makes a collector that follows the others of a ledger; a test runs it or
// lets it look.
func follow(t *testing.T, ledger *querytest.Ledger) *followed {
	t.Helper()
	x := &followed{store: ledger.Open()}
	docs := documentsOn(t, x.store)
	docs.applied = func(*rating.Card) { x.cards++ }
	x.follower = &follower{
		store: x.store, docs: docs, log: slog.New(slog.DiscardHandler),
		do: func(ctx context.Context, f func(context.Context) error) error { return f(ctx) },
		rerated: func(j *rerating.Journal) {
			x.rerated++
			docs.journal.Store(j)
		},
	}
	return x
}

// running runs it in a bubble until the function that it returns is called.
func (x *followed) running(t *testing.T) (end func()) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.run(ctx) }()
	return func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// has reports what is in force: revisions of the rate card, 0 for none, and of
// the rules, and how many reratings.
func (x *followed) has() (card, rules, reratings uint32) {
	if c := x.docs.card.Load(); c != nil {
		card = c.Revision
	}
	return card, x.docs.rules.Load().Revision, x.docs.journal.Load().Next() - 1
}

func priced(perHour money.Amount) *rating.Card {
	return &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: perHour}}}
}

// changeAll has another collector change everything that can be.
func changeAll(t *testing.T, ledger *querytest.Ledger) {
	t.Helper()
	st := ledger.Open()
	d := documentsOn(t, st)
	_, err := d.ApplyRateCard(byConfiguration(t), priced(money.Unit))
	if err == nil {
		_, err = d.ApplyRules(byConfiguration(t), &mapping.Rules{Rules: []mapping.Rule{{Target: "team", Namespace: "shop", Value: "sales"}}})
	}
	if err == nil {
		err = rerateOn(t, st, d.journal.Load().Next())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func rerateOn(t *testing.T, st store.Store, id uint32) error {
	t.Helper()
	return st.Rerate(t.Context(), &store.Rerating{Entry: rerating.Entry{
		ID: id, From: base, To: base + 60, Applied: time.Now(), Card: priced(2 * money.Unit), Currency: "USD",
	}})
}

func TestWhatOthersChangeComesIntoForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := querytest.NewLedger()
		x := follow(t, ledger)
		defer x.running(t)()
		time.Sleep(beat)
		if card, rules, reratings := x.has(); card != 0 || rules != 0 || reratings != 0 {
			t.Errorf("before anybody changed anything: card %d, rules %d, %d reratings", card, rules, reratings)
		}
		changeAll(t, ledger)
		time.Sleep(beat)
		synctest.Wait()
		if card, rules, reratings := x.has(); card != 1 || rules != 1 || reratings != 1 {
			t.Errorf("card %d, rules %d, %d reratings are in force", card, rules, reratings)
		}
		if x.docs.names.Load() == nil || len(x.docs.rules.Load().Rules) != 1 {
			t.Error("the rules in force are not those of the other")
		}
		time.Sleep(10 * beat)
		synctest.Wait()
		if x.cards != 1 || x.rerated != 1 {
			t.Errorf("told of a card %d times and of reratings %d times", x.cards, x.rerated)
		}
		if w := x.warning(); w != nil {
			t.Error(w)
		}
	})
}

// What was changed between opening the documents and following them is taken in,
// though Refresh tells of no change.
func TestNothingIsMissedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := querytest.NewLedger()
		x := follow(t, ledger)
		changeAll(t, ledger)
		if _, err := x.store.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		end := x.running(t)
		synctest.Wait()
		end()
		if card, rules, reratings := x.has(); card != 1 || rules != 1 || reratings != 1 {
			t.Errorf("card %d, rules %d, %d reratings are in force", card, rules, reratings)
		}
	})
}

// Whatever fails and for however long, it is in the status until it works, and
// then everything is in force: a change that the store told of once is not
// forgotten.
func TestAFollowerCatchesUp(t *testing.T) {
	for _, method := range []string{"Refresh", "Document", "View"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := querytest.NewLedger()
				var fails atomic.Bool
				ledger.Fault = func(m string) error {
					if m == method && fails.Load() {
						return errors.Join(store.ErrUnavailable, errors.New("on strike"))
					}
					return nil
				}
				x := follow(t, ledger)
				changeAll(t, ledger)
				fails.Store(true)
				end := x.running(t)
				time.Sleep(10 * beat)
				synctest.Wait()
				if w := x.warning(); len(w) != 1 || !strings.Contains(w[0], "on strike") {
					t.Errorf("%s fails, and the status says %q", method, w)
				}
				fails.Store(false)
				time.Sleep(beat)
				synctest.Wait()
				end()
				if card, rules, reratings := x.has(); card != 1 || rules != 1 || reratings != 1 || x.warning() != nil {
					t.Errorf("card %d, rules %d, %d reratings are in force; %q", card, rules, reratings, x.warning())
				}
			})
		})
	}
}

// behind is a store whose reader, a replica that is behind, knows of no rerating.
type behind struct{ *querytest.Shared }

type without struct{ store.Reader }

func (without) Journal(context.Context) (*rerating.Journal, error) { return nil, nil }

func (b behind) View(ctx context.Context, f func(store.Reader) error) error {
	return b.Shared.View(ctx, func(r store.Reader) error { return f(without{r}) })
}

// What is in force is not taken back by one who does not know of it.
func TestAReplicaThatIsBehindTakesNothingBack(t *testing.T) {
	ledger := querytest.NewLedger()
	x := follow(t, ledger)
	changeAll(t, ledger)
	if x.look(t.Context(), false) {
		t.Error("it is not done")
	}
	x.follower.store = behind{x.store}
	if x.look(t.Context(), true) {
		t.Error("it is not done")
	}
	if card, rules, reratings := x.has(); card != 1 || rules != 1 || reratings != 1 || x.rerated != 1 {
		t.Errorf("card %d, rules %d, %d reratings are in force", card, rules, reratings)
	}
}

// A stop in the middle of a look is no failure to tell of, and what was due is.
func TestAStopIsNoFailure(t *testing.T) {
	ledger := querytest.NewLedger()
	x := follow(t, ledger)
	changeAll(t, ledger)
	x.do = func(ctx context.Context, _ func(context.Context) error) error { return ctx.Err() }
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if due := x.look(ctx, false); !due || x.warning() != nil {
		t.Errorf("due: %v, %q", due, x.warning())
	}
	if w := (*follower)(nil).warning(); w != nil {
		t.Errorf("a collector without others says %q", w)
	}
}
