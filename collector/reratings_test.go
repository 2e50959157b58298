package collector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func flatCard(perHour money.Amount) *pb.RateCard {
	return wire.EncodeRateCard(&rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: perHour}}})
}

func (r *running) ledger() pb.LedgerClient { return pb.NewLedgerClient(r.conn) }

func (r *running) rerate(req *pb.RerateRequest) *pb.RerateResponse {
	r.t.Helper()
	res, err := r.ledger().Rerate(context.Background(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

// costs is what a range costs, by rate-card revision.
func (r *running) costs(from, to attribution.Second) string {
	r.t.Helper()
	rep, err := r.ledger().Report(context.Background(), &pb.ReportRequest{From: int64(from), To: int64(to), GroupBy: []string{"revision"}})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, row := range rep.GetRows() {
		out = append(out, fmt.Sprint(row.GetKeys()[0], ": ", row.GetSum().GetCost()))
	}
	return strings.Join(out, ", ")
}

// sound fails unless the laws hold over everything stored.
func (r *running) sound() {
	r.t.Helper()
	v, err := r.ledger().Verify(context.Background(), &pb.VerifyRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		p, err := v.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if p.GetLaw() != 0 {
			r.t.Fatalf("law %d: %s", p.GetLaw(), p.GetBroken())
		}
	}
}

// Reratings change what is stored and what comes late; they outlive the
// collector; undone, all is as it was.
func TestLaw6RerateOverTheAPI(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.RateCard = filepath.Join(dir, "card.yaml")
	if err := os.WriteFile(cfg.RateCard, []byte(card), 0o600); err != nil {
		t.Fatal(err)
	}
	all := chunks(base, 15)
	r := serve(t, cfg)
	r.deliver(all[:9], true)
	r.deliver(all[:12], false)
	end := base + 150
	const before = "1: 0.12"
	if got := r.costs(0, 0); got != before {
		t.Fatal(got)
	}

	// 7.20 an hour is 0.002 a second.
	req := &pb.RerateRequest{From: int64(base) + 5, To: int64(end), Card: flatCard(72 * money.Unit / 10), Reason: "the invoice", Preview: true}
	p := r.rerate(req)
	if p.GetRerating().GetId() != 0 || p.GetTotal().GetCostBefore() != "0.115" || p.GetTotal().GetCostAfter() != "0.23" || p.GetNote() != "" ||
		len(p.GetByTeam()) != 1 || !p.GetByTeam()[0].GetMissing() || p.GetByTeam()[0].GetDifference() != "0.115" || p.GetRows() != 4 || p.GetDeviceTimeNs() != "115000000000" {
		t.Errorf("preview %v", p)
	}
	if got := r.costs(0, 0); got != before {
		t.Errorf("a preview changed something: %s", got)
	}
	req.Preview = false
	if p := r.rerate(req); p.GetRerating().GetId() != 1 || p.GetRerating().GetCostAfter() != "0.23" {
		t.Errorf("rerated %v", p)
	}
	// Five seconds at the old price, and 115 at the new.
	const first = "2147483649: 0.23, 1: 0.005"
	if got := r.costs(0, 0); got != first {
		t.Error(got)
	}
	// Late chunks of the range; and another layer over part of it.
	r.deliver(all[12:], true)
	r.rerate(&pb.RerateRequest{From: int64(base) + 100, To: int64(base) + 110, Card: flatCard(0)})
	const both = "2147483649: 0.27, 1: 0.005, 2147483650: 0.00"
	if got := r.costs(0, 0); got != both {
		t.Error(got)
	}
	if got := r.costs(base+99, base+111); got != "2147483649: 0.004, 2147483650: 0.00" {
		t.Error("edges in seconds: ", got)
	}
	r.sound()
	r.end()

	r = serve(t, cfg)
	if got := r.costs(0, 0); got != both {
		t.Error("after a restart: ", got)
	}
	if _, err := r.ledger().Rerate(context.Background(), &pb.RerateRequest{Undo: 1}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "2 lies over 1 and has to be undone first") {
		t.Errorf("undo below another: %v", err)
	}
	if u := r.rerate(&pb.RerateRequest{Undo: 2, Preview: true}); u.GetTotal().GetCostBefore() != "0.00" || u.GetTotal().GetCostAfter() != "0.02" {
		t.Errorf("preview of an undo: %v", u)
	}
	r.rerate(&pb.RerateRequest{Undo: 2})
	r.sound()
	r.rerate(&pb.RerateRequest{Undo: 1, Reason: "it was the wrong invoice"})
	if got := r.costs(0, 0); got != "1: 0.15" {
		t.Error("undone: ", got)
	}
	r.sound()
	list, err := r.ledger().Reratings(context.Background(), &pb.ReratingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range list.GetReratings() {
		told = append(told, fmt.Sprint(e.GetId(), " ", e.GetUndoes(), " ", e.GetUndoneBy(), " ", e.GetReason(), " ", e.GetCostBefore(), " ", e.GetCostAfter(), " ", e.GetCurrency()))
	}
	want := []string{
		"1 0 4 the invoice 0.115 0.23 USD", "2 0 3  0.02 0.00 USD",
		"3 2 0  0.00 0.02 USD", "4 1 0 it was the wrong invoice 0.29 0.145 USD",
	}
	if fmt.Sprintf("%q", told) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q\nwant %q", told, want)
	}
	r.end()
}

func TestRerateRefusesWhatItCannotMean(t *testing.T) {
	r := serve(t, testConfig(t.TempDir()))
	defer r.end()
	unpriced := chunks(base, 6)
	for _, c := range unpriced {
		for i := range c.Windows {
			c.Windows[i].Price = attribution.Price{}
			attribution.Rate(&c.Windows[i])
		}
	}
	r.deliver(unpriced, true)
	soon := time.Now().Add(time.Hour).Unix()
	euro := flatCard(money.Unit)
	euro.Currency = "EUR"
	// Unpriced time gets a price, and with it a currency.
	if p := r.rerate(&pb.RerateRequest{From: int64(base), To: int64(base) + 60, Card: flatCard(36 * money.Unit / 10)}); p.GetTotal().GetCostBefore() != "" ||
		p.GetTotal().GetUnpricedTimeNsBefore() != "60000000000" || p.GetTotal().GetCostAfter() != "0.06" || p.GetTotal().GetUnpricedTimeNsAfter() != "0" {
		t.Errorf("unpriced time: %v", p)
	}
	r.sound()
	for want, c := range map[string]struct {
		req  *pb.RerateRequest
		code codes.Code
	}{
		"want one of a rate card, a revision": {&pb.RerateRequest{From: 1, To: 2}, codes.InvalidArgument},
		"and a rerating to undo":              {&pb.RerateRequest{Undo: 1, Revision: 1}, codes.InvalidArgument},
		"leave the range out":                 {&pb.RerateRequest{Undo: 1, From: 1, To: 2}, codes.InvalidArgument},
		"which time?":                         {&pb.RerateRequest{Card: flatCard(1)}, codes.InvalidArgument},
		"the range ends in the future":        {&pb.RerateRequest{From: int64(base), To: soon, Card: flatCard(1)}, codes.InvalidArgument},
		"a ledger has one currency":           {&pb.RerateRequest{From: int64(base), To: int64(base) + 1, Card: euro}, codes.InvalidArgument},
		"nothing is stored in this range":     {&pb.RerateRequest{From: 1000, To: 2000, Card: flatCard(1)}, codes.InvalidArgument},
		"there is no revision 7":              {&pb.RerateRequest{From: 1, To: 2, Revision: 7}, codes.NotFound},
		"there is no rerating 5":              {&pb.RerateRequest{Undo: 5}, codes.FailedPrecondition},
		"tell it shorter":                     {&pb.RerateRequest{Undo: 1, Reason: strings.Repeat("x", 1001)}, codes.InvalidArgument},
		"currency: \"\" is not an ISO 4217":   {&pb.RerateRequest{From: 1, To: 2, Card: &pb.RateCard{}}, codes.InvalidArgument},
		"from must be before to":              {&pb.RerateRequest{From: 9, To: 2, Card: flatCard(1)}, codes.InvalidArgument},
	} {
		if _, err := r.ledger().Rerate(context.Background(), c.req); status.Code(err) != c.code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", c.req, err, want)
		}
	}
	r.rerate(&pb.RerateRequest{Undo: 1})
	if _, err := r.ledger().Rerate(context.Background(), &pb.RerateRequest{Undo: 1}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "was undone by 2 already") {
		t.Errorf("twice: %v", err)
	}
	if got := r.costs(0, 0); got != "0: " {
		t.Errorf("unpriced again: %q", got)
	}
}

// Chunks that are stored between the plan and its execution are in it.
func TestLaw5ChunksMayComeWhileAReratingIsPlanned(t *testing.T) {
	for _, late := range []int{0, 1, attempts, 50} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			st, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: storetest.Decode})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = st.Close() }()
			commits := uint64(0)
			commit := func(node int) {
				commits++
				if err := st.Commit(t.Context(), storetest.Batch(commits, storetest.Minute(node, storetest.Day)...)); err != nil {
					t.Fatal(err)
				}
			}
			commit(0)
			coming, calls := late, 0
			var journal *rerating.Journal
			r := &reratings{
				store: st, planner: plan.Planner{Decode: storetest.Decode}, now: time.Now, log: slog.New(slog.DiscardHandler),
				planning: make(chan struct{}, 1),
				do: func(ctx context.Context, f func(context.Context) error) error {
					// Before every job, which carries a plan out, a node comes.
					if calls++; coming > 0 {
						coming--
						commit(calls)
					}
					return f(ctx)
				},
				applied: func(j *rerating.Journal) { journal = j },
			}
			p, err := r.Apply(t.Context(), rerating.Entry{
				From: storetest.Day, To: storetest.Day + 60, Currency: "USD",
				Card: &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: money.Unit}}},
			})
			if err != nil || journal.Next() != 2 || p.Entry.Applied.IsZero() {
				t.Fatalf("%v, %+v", err, p)
			}
			err = st.View(t.Context(), func(v store.Reader) error {
				rows, err := v.Query(t.Context(), &store.Query{From: storetest.Day, To: storetest.Day + 60, GroupBy: []store.Dimension{store.Revision}})
				for _, x := range rows {
					if x.Keys[0].Value != fmt.Sprint(rerating.Revision(1)) {
						t.Errorf("%s ns are of revision %s", &x.DeviceTime, x.Keys[0].Value)
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What comes between plan and execution for a time whose seconds are gone is
// rated, and nowhere left as it was.
func TestLaw5LateChunksOfSumsWhileARatingIsPlanned(t *testing.T) {
	ctx := t.Context()
	st, err := duckdb.Open(ctx, duckdb.Options{Dir: t.TempDir(), Decode: storetest.Decode})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	const now = storetest.Day + 86400
	keep := store.Retention{Second: time.Hour, Minute: 2 * time.Hour}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(st.Commit(ctx, storetest.Batch(1, append(storetest.Minute(0, storetest.Day), storetest.Minute(0, now-5400)...)...)))
	must(st.Commit(ctx, storetest.Batch(2, storetest.Minute(0, now-60)...)))
	must(st.Roll(ctx, now))
	must(st.Retain(ctx, keep, now))
	late := false
	r := &reratings{
		store: st, planner: plan.Planner{Decode: storetest.Decode}, now: time.Now, log: slog.New(slog.DiscardHandler),
		planning: make(chan struct{}, 1), applied: func(*rerating.Journal) {},
		do: func(ctx context.Context, f func(context.Context) error) error {
			if !late {
				late = true
				must(st.Commit(ctx, storetest.Batch(3, append(storetest.Minute(1, storetest.Day), storetest.Minute(1, now-5400)...)...)))
			}
			return f(ctx)
		},
	}
	_, err = r.Apply(ctx, rerating.Entry{From: storetest.Day, To: now, Currency: "USD", Card: &rating.Card{
		Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: 7_000_000_001}},
	}})
	must(err)
	must(st.View(ctx, func(v store.Reader) error {
		return v.Chunks(ctx, storetest.Day, v.Kept(store.Seconds), func(c *store.Chunk, _ *store.Roster) error {
			return fmt.Errorf("chunk %d is still there: rows and it do not agree to the last unit", c.Key.Sequence)
		})
	}))
	must(st.View(ctx, func(v store.Reader) error {
		return v.Rows(ctx, rollup.Minute, storetest.Day, now-3600, func(x *store.FactRow) error {
			if x.Revision != rerating.Revision(1) {
				t.Errorf("%d ns of minute %d are of revision %d", x.Sums.Time, x.Bucket, x.Revision)
			}
			return nil
		})
	}))
	must(st.View(ctx, func(v store.Reader) error {
		rows, err := v.Query(ctx, &store.Query{From: storetest.Day, To: now, GroupBy: []store.Dimension{store.Revision}})
		for _, x := range rows {
			if x.Keys[0].Value != fmt.Sprint(rerating.Revision(1)) {
				t.Errorf("%s ns are of revision %s", &x.DeviceTime, x.Keys[0].Value)
			}
		}
		return err
	}))
}
