package plan_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
	"github.com/gpuledger/gpuledger/collector/store/scan"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// ledger is a store of chunks alone.
type ledger struct {
	chunks  []*attribution.Chunk
	served  scan.Served
	err     error // of Chunks
	journal *rerating.Journal
	missing error // instead of it

	asked int // for what owners served
}

func (l *ledger) Chunks(_ context.Context, from, to attribution.Second, f func(*store.Chunk, *store.Roster) error) error {
	for _, c := range l.chunks {
		if c.End() <= from || c.Key.Sequence >= to {
			continue
		}
		ch, ro := storetest.Encode(c)
		if err := f(&ch, &ro); err != nil {
			return err
		}
	}
	return l.err
}

func (l *ledger) Journal(context.Context) (*rerating.Journal, error) { return l.journal, l.missing }

func (l *ledger) Served(_ context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error) {
	l.asked++
	out := make(map[rollup.Fingerprint]store.Served)
	for _, f := range owners {
		if s, ok := l.served[f]; ok {
			out[f] = s
		}
	}
	return out, nil
}

func (l *ledger) edges() *plan.Edges { return &plan.Edges{Reader: l, Decode: storetest.Decode} }

// rowsOf sums the pieces of rows as a store does, but from chunks.
func (l *ledger) rowsOf(p *plan.Plan) *scan.Scan {
	s := scan.New(p.Query, scan.Env{Served: l.served.Of})
	for _, x := range p.Rows {
		for _, c := range l.chunks {
			// Nothing is stored of a bucket that goes beyond the range.
			s.Part(c, max(x.From, p.Query.From), min(x.To, p.Query.To))
		}
	}
	return s
}

func (l *ledger) rows(_ context.Context, p *plan.Plan) ([]store.Row, error) {
	return l.rowsOf(p).Rows(), nil
}

func (l *ledger) tallies(_ context.Context, p *plan.Plan) ([]store.TallyRow, error) {
	return l.rowsOf(p).Tallies(), nil
}

// TestLaw2PiecesAddUpToTheWhole answers queries in pieces of rows and seconds,
// wherever rolls have come to, and from all chunks at once.
func TestLaw2PiecesAddUpToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{chunks: storetest.DrawWorld(t), served: make(scan.Served)}
		w := plan.Nothing()
		for _, c := range l.chunks {
			l.served.Chunk(c)
			w.Extend(c.Key.Sequence, c.End())
		}
		w.HourRolled = rollup.Hour.Start(day + attribution.Second(rapid.IntRange(0, 300_000).Draw(t, "rolled")))
		w.DayRolled = rollup.Day.Start(w.HourRolled)
		q := drawQuery(t)
		if rapid.Bool().Draw(t, "within chunks") {
			c := rapid.SampledFrom(l.chunks).Draw(t, "chunk")
			q.From = c.Key.Sequence + attribution.Second(rapid.IntRange(-70, 3).Draw(t, "from of it"))
			q.To = q.From + attribution.Second(rapid.IntRange(1, 80).Draw(t, "length"))
		}
		by := []store.Dimension{store.Pod, store.Model, store.Mixed, store.Tenant, store.DeviceModel, store.Basis}
		q.GroupBy = []store.Dimension{rapid.SampledFrom(by).Draw(t, "by")}
		if rapid.Bool().Draw(t, "filtered") {
			q.Filters = []store.Filter{{Dimension: store.Counted, Values: []string{"true"}}}
		}
		p, err := plan.Of(q, &w)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := p.Slices(context.Background(), l.edges(), l.rows)
		if err != nil {
			t.Fatal(err)
		}
		tallies, err := p.Tallies(context.Background(), l.edges(), l.tallies)
		if err != nil {
			t.Fatal(err)
		}
		whole := scan.New(q, scan.Env{Served: l.served.Of})
		for _, c := range l.chunks {
			whole.Chunk(c)
		}
		if got, want := fmt.Sprint(show(rows), tallies), fmt.Sprint(show(whole.Rows()), whole.Tallies()); got != want {
			t.Fatalf("got %s\nwant %s\nby %+v", got, want, p)
		}
	})
}

func show(rows []store.Row) (out []string) {
	for i := range rows {
		r := &rows[i]
		out = append(out, fmt.Sprintf("%d %+v %s %s %s %s %s %s %s %v %v", r.Time, r.Keys, r.Basis, &r.DeviceTime, &r.SMActive, &r.Memory, &r.Energy,
			&r.Cost, &r.Unpriced, r.HasMemory, r.HasEnergy))
	}
	return out
}

// TestManyChunks scans more than are decoded at once.
func TestManyChunks(t *testing.T) {
	l := &ledger{served: make(scan.Served)}
	w := plan.Nothing()
	want := int64(0)
	for i := range 300 {
		c := storetest.Steady(i%7, day+attribution.Second(i/7)*attribution.ChunkSeconds)
		l.chunks = append(l.chunks, c)
		w.Extend(c.Key.Sequence, c.End())
		want += int64(len(c.Windows)) * attribution.WindowNanos
	}
	rand.Shuffle(len(l.chunks), func(i, j int) { l.chunks[i], l.chunks[j] = l.chunks[j], l.chunks[i] })
	q := &store.Query{From: day, To: day + 3600, Step: 7200 + 1} // seconds alone
	p, err := plan.Of(q, &w)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := p.Slices(t.Context(), l.edges(), l.rows)
	if err != nil {
		t.Fatal(err)
	}
	got := int64(0)
	for i := range rows {
		got += rows[i].DeviceTime.Int64()
	}
	if got != want {
		t.Errorf("%d ns, want %d", got, want)
	}
	if l.asked != 0 {
		t.Errorf("asked %d times for what owners served, and no key depends on it", l.asked)
	}
	q.GroupBy = []store.Dimension{store.Model}
	if _, err := p.Slices(t.Context(), l.edges(), l.rows); err != nil || l.asked == 0 {
		t.Errorf("asked %d times for what owners served: %v", l.asked, err)
	}
	q.GroupBy, q.MaxRows = []store.Dimension{store.Node}, 1
	if _, err := p.Slices(t.Context(), l.edges(), l.rows); !errors.Is(err, store.ErrTooMany) {
		t.Error(err)
	}
}

// TestLaw6SecondsCostWhatTheJournalSays asks for seconds that were priced anew.
func TestLaw6SecondsCostWhatTheJournalSays(t *testing.T) {
	card := &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: 3600e9}}}
	var none *rerating.Journal
	journal, err := none.With(rerating.Entry{ID: 1, From: day, To: day + 60, Card: card})
	if err != nil {
		t.Fatal(err)
	}
	c := storetest.Steady(0, day)
	l := &ledger{chunks: []*attribution.Chunk{c}, journal: journal}
	w := plan.Nothing()
	w.Extend(c.Key.Sequence, c.End())
	p, err := plan.Of(&store.Query{From: day, To: day + 60, Step: 7, GroupBy: []store.Dimension{store.Revision}}, &w)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := p.Slices(t.Context(), l.edges(), l.rows)
	if err != nil || len(rows) == 0 {
		t.Fatal(rows, err)
	}
	for i := range rows {
		if want := fmt.Sprint(rerating.Revision(1)); rows[i].Keys[0].Value != want {
			t.Errorf("a price of revision %s, want %s", rows[i].Keys[0].Value, want)
		}
	}
}

func TestErrorsOfEdges(t *testing.T) {
	boom := errors.New("boom")
	c := storetest.Steady(0, day)
	w := plan.Nothing()
	w.Extend(c.Key.Sequence, c.End())
	p, err := plan.Of(&store.Query{From: day, To: day + 60, Step: 7}, &w)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		ledger ledger
		decode error
		want   error
	}{
		"chunks":  {ledger: ledger{chunks: []*attribution.Chunk{c}, err: boom}, want: boom},
		"journal": {ledger: ledger{chunks: []*attribution.Chunk{c}, missing: boom}, want: boom},
		"decode":  {ledger: ledger{chunks: []*attribution.Chunk{c}}, decode: boom, want: store.ErrCorrupt},
	} {
		e := x.ledger.edges()
		if x.decode != nil {
			e.Decode = func(*store.Chunk, *store.Roster) (*attribution.Chunk, error) { return nil, x.decode }
		}
		if rows, err := p.Slices(t.Context(), e, x.ledger.rows); !errors.Is(err, x.want) || rows != nil {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
		if rows, err := p.Tallies(t.Context(), e, x.ledger.tallies); !errors.Is(err, x.want) || rows != nil {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
}

func TestErrorsOfRows(t *testing.T) {
	boom := errors.New("boom")
	w := plan.Nothing()
	w.Extend(day, day+60)
	p, err := plan.Of(&store.Query{From: day, To: day + 60}, &w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Slices(t.Context(), new(ledger).edges(), func(context.Context, *plan.Plan) ([]store.Row, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	// Where nothing is stored, nobody is asked.
	if p, err = plan.Of(&store.Query{From: day + 60, To: day + 120}, &w); err != nil {
		t.Fatal(err)
	}
	if rows, err := p.Slices(t.Context(), nil, nil); err != nil || rows != nil {
		t.Error(rows, err)
	}
}
