package verify_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
)

// rerate prices [start+60, start+200) at 7 an hour, without a plan: the store in
// memory works out the rows by itself.
func rerate(t *testing.T, s *querytest.Store, e rerating.Entry) {
	t.Helper()
	e.From, e.To, e.Currency = start+60, start+200, "USD"
	if e.Undoes == 0 {
		e.Card = &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: 7 * money.Unit}}}
	}
	if err := s.Rerate(t.Context(), &store.Rerating{Entry: e}); err != nil {
		t.Fatal(err)
	}
}

func TestLaw6ReratingsAndUndoingThemKeepTheLaws(t *testing.T) {
	s := ledger()
	rerate(t, s, rerating.Entry{ID: 1})
	if p := run(t, s); p.Broken != nil {
		t.Errorf("rerated: %v", p.Broken)
	}
	rerate(t, s, rerating.Entry{ID: 2})
	if p := run(t, s); p.Broken != nil {
		t.Errorf("rerated twice: %v", p.Broken)
	}
	rerate(t, s, rerating.Entry{ID: 3, Undoes: 2})
	rerate(t, s, rerating.Entry{ID: 4, Undoes: 1})
	if p := run(t, s); p.Broken != nil {
		t.Errorf("undone: %v", p.Broken)
	}
}

// Where the chunks are gone, the transfers on record tell what a rerated row
// must hold, even if minutes, hours and days agree with each other.
func TestATamperedTransferIsFound(t *testing.T) {
	isRerated := func(r *store.FactRow) bool { _, ok := rerating.ID(r.Revision); return ok }
	for name, tamper := range map[string]func(rows []store.FactRow){
		"a cost": func(rows []store.FactRow) {
			for i := range rows {
				if isRerated(&rows[i]) {
					rows[i].Sums.Cost += 5
					return
				}
			}
		},
		"a revision": func(rows []store.FactRow) {
			for i := range rows {
				if isRerated(&rows[i]) {
					rows[i].Revision++
					return
				}
			}
		},
		"a row put back": func(rows []store.FactRow) {
			for i := range rows {
				if isRerated(&rows[i]) {
					rows[i].Revision = 1
					return
				}
			}
		},
	} {
		for _, chunks := range []bool{true, false} {
			s := querytest.NewStore(querytest.NewWorld().Chunks(0, 300)...)
			rerate(t, s, rerating.Entry{ID: 1})
			now := start + 300
			if !chunks {
				s.Encoded, now = nil, start+86400
			}
			v := verify.New(verify.Config{
				Store: s, Now: func() attribution.Second { return now },
				Retention: func() store.Retention { return store.Retention{Second: time.Hour} },
			})
			check := func() *verify.Progress {
				t.Helper()
				p, err := v.Run(t.Context(), 0, 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			if p := check(); p.Broken != nil {
				t.Fatalf("%s: not yet tampered with: %v", name, p.Broken)
			}
			// The same owner's first rerated row, in all of them alike.
			for _, res := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
				tamper(s.Facts[res])
			}
			switch p := check(); {
			case p.Broken == nil:
				t.Errorf("%s, with chunks %v: not found", name, chunks)
			case !chunks && !strings.Contains(p.Broken.Reason, "by rerating"):
				if !strings.Contains(p.Broken.Reason, "rerating 1 moved") {
					t.Errorf("%s: %v", name, p.Broken)
				}
			}
		}
	}
}
