package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

func law4Duplicates(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	before := l.dump()
	other := Steady(0, Day+20)
	other.Key.Boot[7] = 9
	part := Steady(0, Day+60)
	part.Key.Sequence, part.Seconds = Day+55, 5
	tail := Steady(0, Day)
	tail.Key.Sequence, tail.Seconds = Day-5, 6
	for name, chunks := range map[string][]*attribution.Chunk{
		"the same chunk":            {Steady(0, Day+10)},
		"a new one and a known one": {Steady(0, Day+60), Steady(0, Day+50)},
		"another boot":              {other},
		"an overlap at the end":     {part},
		"an overlap at the start":   {tail},
		"twice in one batch":        {Steady(0, Day+120), Steady(0, Day+120)},
	} {
		if err := l.Commit(t.Context(), Batch(2, chunks...)); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("%s: got %v, want ErrDuplicate", name, err)
		}
		same(t, name, l.dump(), before, show)
	}
	// Dropping the seconds does not make room for them.
	l.must(l.Retain(t.Context(), store.Retention{Second: time.Minute}, Day+86400))
	if err := l.Commit(t.Context(), Batch(2, Steady(0, Day+10))); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("after their seconds were dropped: got %v, want ErrDuplicate", err)
	}
	l.commit(Steady(0, Day+60), Steady(1, Day))
}

func law4Atomic(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	before := l.dump()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		spoil func(*store.Batch)
		want  error
	}{
		"a number that does not follow": {t.Context(), func(b *store.Batch) { b.Number = 3 }, store.ErrBadBatch},
		"the last number":               {t.Context(), func(b *store.Batch) { b.Number = 1 }, store.ErrBadBatch},
		"an owner without facts":        {t.Context(), func(b *store.Batch) { delete(b.Owners, b.Rows[0].Series.Owner) }, store.ErrBadBatch},
		"a device without facts":        {t.Context(), func(b *store.Batch) { delete(b.Devices, b.Rows[0].Series.Device) }, store.ErrBadBatch},
		"a chunk without roster":        {t.Context(), func(b *store.Batch) { b.Rosters = nil }, store.ErrBadBatch},
		"a sum that is too large":       {t.Context(), func(b *store.Batch) { b.Rows[1].Cost = math.MaxInt64 }, store.ErrBadBatch},
		"a negative tally":              {t.Context(), func(b *store.Batch) { b.Tallies[0].Value = -1 }, store.ErrBadBatch},
		"a bucket that is no minute":    {t.Context(), func(b *store.Batch) { b.Rows[1].Bucket++ }, store.ErrBadBatch},
		"text that is not UTF-8":        {t.Context(), func(b *store.Batch) { b.Rows[1].Series.Method = "\xff" }, store.ErrBadBatch},
		"a caller who has gone":         {cancelled, func(*store.Batch) {}, context.Canceled},
	} {
		b := Batch(2, Minute(7, Day)...)
		c.spoil(b)
		if err := l.Commit(c.ctx, b); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		same(t, name, l.dump(), before, show)
	}
	l.commit(Minute(7, Day)...)
	l.agree(&store.Query{From: Day, To: Day + 3600, GroupBy: []store.Dimension{store.Node, store.Pod}})
}

func law8(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	ctx := t.Context()
	for i := range attribution.Second(4) {
		l.commit(Minute(0, Day+i*3600+60)...)
	}
	now := Day + 4*3600
	l.must(l.Roll(ctx, now))
	l.must(l.Retain(ctx, store.Retention{Second: 2 * time.Hour, Minute: 3 * time.Hour}, now))
	for _, c := range []struct {
		q       store.Query
		tooFine bool
	}{
		{store.Query{From: Day + 61, To: Day + 86400}, true},
		{store.Query{From: Day + 120, To: Day + 86400}, true},
		{store.Query{From: Day, To: Day + 86400, Step: 60}, true},
		{store.Query{From: Day, To: Day + 86400}, false},
		{store.Query{From: Day, To: Day + 86400, Step: 3600}, false},
		{store.Query{From: Day + 3600, To: Day + 86400, Step: 60}, false},
		{store.Query{From: Day + 3600, To: Day + 86400, Step: 1}, true},
		{store.Query{From: Day + 7261, To: Day + 86400, Step: 7}, false},
	} {
		if got := l.agree(&c.q); got != c.tooFine {
			t.Errorf("%+v is too fine: %v, want %v", c.q, got, c.tooFine)
		}
	}
	// An answer larger than the query may have is refused, from seconds and
	// from rows alike.
	for _, q := range []store.Query{
		{From: Day + 3600, To: Day + 86400, Step: 60, GroupBy: []store.Dimension{store.Pod}, MaxRows: 1},
		{From: Day + 3*3600 + 61, To: Day + 3*3600 + 119, Step: 7, GroupBy: []store.Dimension{store.Pod}, MaxRows: 1},
	} {
		l.view(func(r store.Reader) error {
			if _, err := r.Query(ctx, &q); !errors.Is(err, store.ErrTooMany) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%+v: got %v, want %v", q, err, store.ErrTooMany)
			}
			if _, err := r.QueryTallies(ctx, &q); !errors.Is(err, store.ErrTooMany) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("tallies of %+v: got %v, want %v", q, err, store.ErrTooMany)
			}
			return nil
		})
	}
	var ranges []string
	kept := 0
	l.view(func(r store.Reader) error {
		return errors.Join(
			r.Ranges(ctx, func(x store.Range) error {
				ranges = append(ranges, fmt.Sprint(x.Node, " ", x.From-Day, " ", x.To-Day))
				return nil
			}),
			r.Chunks(ctx, 0, Day*2, func(*store.Chunk, *store.Roster) error { kept++; return nil }))
	})
	same(t, "ranges", ranges, []string{"node-0 60 120", "node-0 3660 3720", "node-0 7260 7320", "node-0 10860 10920"}, show)
	if kept != 12 {
		t.Errorf("%d chunks are kept, want the 12 of two hours", kept)
	}
	// A chunk beside dropped ones joins their range.
	l.commit(Steady(0, Day+120), Steady(0, Day+50))
	ranges = nil
	l.view(func(r store.Reader) error {
		return r.Ranges(ctx, func(x store.Range) error {
			ranges = append(ranges, fmt.Sprint(x.Node, " ", x.From-Day, " ", x.To-Day))
			return nil
		})
	})
	same(t, "ranges", ranges[:1], []string{"node-0 50 130"}, show)
}

func law9(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	c := Steady(0, Day)
	c.Roster.Owners[0].Labels = attribution.Labels{{Key: "team", Value: ""}}
	c.Roster.Owners[1].Labels = nil
	for i := range c.Roster.Devices {
		c.Roster.Devices[i].Sensors = attribution.Sensors(i) * attribution.SensorEnergy
	}
	for i := range c.Windows {
		if c.Windows[i].Device == 1 {
			c.Windows[i].Price = attribution.Price{}
			attribution.Rate(&c.Windows[i])
		}
	}
	c.Tallies[0].Value = 0
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	l.commit(c)
	for _, to := range []attribution.Second{Day + 60, Day + 7} {
		for _, f := range [][]store.Filter{
			nil,
			{{Dimension: "label:team", Values: []string{""}}},
			{{Dimension: "label:team", Values: []string{"*"}}},
			{{Dimension: "label:team", Values: []string{"*"}, Negate: true}},
			{{Dimension: store.Counted, Values: []string{"false"}}},
		} {
			q := &store.Query{From: Day, To: to, GroupBy: []store.Dimension{"label:team", store.Team, store.DeviceID}, Filters: f}
			l.agree(q)
		}
	}
	l.view(func(r store.Reader) error {
		rows, err := r.Query(t.Context(), &store.Query{From: Day, To: Day + 60, GroupBy: []store.Dimension{store.DeviceID}})
		for i := range rows {
			x := &rows[i]
			unpriced := x.Unpriced.Sign() > 0
			if known := x.Keys[0].Value == "GPU-0-0"; known == unpriced || known != (x.Cost.Sign() > 0) || x.HasEnergy == known || x.HasMemory {
				t.Errorf("unpriced, unmeasured: %s", showRow(*x))
			}
		}
		tallies, terr := r.QueryTallies(t.Context(), &store.Query{From: Day, To: Day + 1})
		if len(tallies) != 1 || tallies[0].Value.Sign() != 0 {
			t.Errorf("a tally of 0 is one row of 0, got %v", tallies)
		}
		none, nerr := r.QueryTallies(t.Context(), &store.Query{From: Day + 60, To: Day + 120})
		if len(none) != 0 {
			t.Errorf("no tallies are no rows, got %v", none)
		}
		return errors.Join(err, terr, nerr)
	})
}

func chunks(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	l.commit(append(Minute(1, Day+60), Minute(0, Day)...)...)
	l.commit(append(Minute(1, Day), Minute(0, Day+60)...)...)
	read := func(from, to attribution.Second) (got []string) {
		l.view(func(r store.Reader) error {
			return r.Chunks(t.Context(), from, to, func(c *store.Chunk, ro *store.Roster) error {
				x, err := Decode(c, ro)
				if err != nil {
					return err
				}
				if err := x.Check(); err != nil {
					return err
				}
				want, _ := Encode(Steady(int(c.Key.Boot[0]), c.Key.Sequence))
				if !bytes.Equal(c.Body, want.Body) || !bytes.Equal(c.Digest, want.Digest) || c.Key != want.Key || c.Seconds != want.Seconds {
					t.Errorf("chunk %+v is not what was stored", c.Key)
				}
				got = append(got, fmt.Sprint(c.Key.Node, " ", c.Key.Sequence-Day))
				return nil
			})
		})
		return got
	}
	same(t, "overlapping", read(Day+49, Day+61), []string{"node-0 40", "node-0 50", "node-0 60", "node-1 40", "node-1 50", "node-1 60"}, show)
	same(t, "none", read(Day+120, Day+180), nil, show)
	if n := len(read(0, Day*2)); n != 24 {
		t.Errorf("%d chunks, want 24", n)
	}
	stop := errors.New("enough")
	err := l.View(t.Context(), func(r store.Reader) error {
		return r.Chunks(t.Context(), 0, Day*2, func(*store.Chunk, *store.Roster) error { return stop })
	})
	if !errors.Is(err, stop) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a callback's error comes back as it is, got %v", err)
	}
	var ranges []store.Range
	l.view(func(r store.Reader) error {
		return r.Ranges(t.Context(), func(x store.Range) error { ranges = append(ranges, x); return nil })
	})
	want := []store.Range{
		{Cluster: "steady", Node: "node-0", From: Day, To: Day + 120},
		{Cluster: "steady", Node: "node-1", Boot: attribution.Boot{1}, From: Day, To: Day + 120},
	}
	same(t, "ranges", ranges, want, func(x store.Range) string { return fmt.Sprintf("%+v", x) })
}

func documents(t *testing.T, d Driver) {
	place := d.New(t)
	s, err := d.Open(t.Context(), place)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := s.Document(ctx, store.RateCards, 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	for i, body := range []string{"one", "two", ""} {
		n, err := s.PutDocument(ctx, store.RateCards, []byte(body), at.Add(time.Duration(i)))
		if err != nil || n != uint32(i+1) {
			t.Fatalf("revision %d, %v", n, err)
		}
	}
	if n, err := s.PutDocument(ctx, store.RuleSets, []byte("rules"), at); err != nil || n != 1 {
		t.Fatalf("revision %d, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l := open(t, d, place)
	for revision, want := range map[uint32]string{0: "3 ", 1: "1 one", 2: "2 two", 3: "3 "} {
		doc, err := l.Document(ctx, store.RateCards, revision)
		if got := fmt.Sprint(doc.Revision, " ", string(doc.Body)); err != nil || got != want || !doc.Applied.Equal(at.Add(time.Duration(doc.Revision-1))) || doc.Kind != store.RateCards {
			t.Errorf("revision %d: got %q at %s, %v", revision, got, doc.Applied, err)
		}
	}
	if _, err := l.Document(ctx, store.RateCards, 4); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func devices(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	ctx := t.Context()
	for i := range attribution.Second(3) {
		l.commit(append(Minute(0, Day+i*3600), Minute(1, Day+i*7200)...)...)
	}
	list := func(from, to attribution.Second, fs ...store.Filter) (got []string) {
		l.view(func(r store.Reader) error {
			rows, err := r.Devices(ctx, from, to, fs)
			for _, x := range rows {
				want := Steady(int(x.Device.Node[5]-'0'), Day).Roster.Devices
				if attribution.CompareDevices(&x.Device, &want[x.Device.ID[6]-'0']) != 0 {
					t.Errorf("device %+v is not as it was", x.Device)
				}
				got = append(got, fmt.Sprint(x.Device.ID, " ", x.First-Day, " ", x.Last-Day))
			}
			return err
		})
		return got
	}
	all := []string{"GPU-0-0 0 7260", "GPU-0-1 0 7260", "GPU-1-0 0 14460", "GPU-1-1 0 14460"}
	same(t, "all", list(0, Day*2), all, show)
	same(t, "late", list(Day+7200, Day+86400), []string{"GPU-0-0 7200 7260", "GPU-0-1 7200 7260", "GPU-1-0 7200 14460", "GPU-1-1 7200 14460"}, show)
	same(t, "filtered", list(0, Day*2, store.Filter{Dimension: store.Node, Values: []string{"*-1"}}), all[2:], show)
	same(t, "none", list(Day+86400, Day+86401), nil, show)
	l.must(l.Roll(ctx, Day+86400))
	l.must(l.Retain(ctx, store.Retention{Minute: time.Hour}, Day+86400))
	if got := list(0, Day*2); len(got) != 4 {
		t.Errorf("after a roll: %v", got)
	}
	err := l.View(ctx, func(r store.Reader) error {
		_, err := r.Devices(ctx, 0, Day*2, []store.Filter{{Dimension: store.Team, Values: []string{"a"}}})
		return err
	})
	if !errors.Is(err, store.ErrBadQuery) {
		t.Errorf("devices have no team: got %v", err)
	}
}

// chained is a run of one node's chunks with the links between them, from a
// link on.
func chained(first []byte, cs ...*attribution.Chunk) (links [][]byte) {
	for _, c := range cs {
		e, _ := Encode(c)
		links = append(links, first)
		first = attribution.Link(first, e.Key.Sequence, e.Digest)
	}
	return append(links, first)
}

// law4Chain: ranges are of one chain each, whatever order their chunks come in,
// and keep the links at their ends when the chunks are gone.
func law4Chain(t *testing.T, d Driver) {
	ctx, place := t.Context(), d.New(t)
	s, err := d.Open(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{t: t, Store: s}
	var cs []*attribution.Chunk
	for i := range attribution.Second(12) {
		cs = append(cs, Steady(0, Day+10*i))
	}
	boot := cs[0].Key.Boot
	links := chained(attribution.FirstLink(boot), cs[:9]...)
	broken := chained(attribution.FirstLink(boot), cs[9:]...)
	put := func(which []int, previous [][]byte, first int) {
		t.Helper()
		var some []*attribution.Chunk
		for _, i := range which {
			some = append(some, cs[i])
		}
		l.commits++
		b := Batch(l.commits, some...)
		for i, at := range which {
			if previous != nil {
				b.Chunks[i].Previous = previous[at-first]
			}
		}
		l.must(l.Commit(ctx, b))
	}
	put([]int{1, 0, 2}, links, 0)
	put([]int{6, 7, 8}, links, 0)
	put([]int{9, 10}, broken, 9)
	put([]int{5, 3, 4}, links, 0)
	put([]int{11}, nil, 0)
	want := []store.Range{
		{From: Day, To: Day + 90, Previous: links[0], Link: links[9]},
		{From: Day + 90, To: Day + 110, Previous: broken[0], Link: broken[2]},
		{From: Day + 110, To: Day + 120},
	}
	agree := func(when string) {
		t.Helper()
		var got []string
		l.view(func(r store.Reader) error {
			return errors.Join(r.Ranges(ctx, func(x store.Range) error {
				got = append(got, fmt.Sprintf("%d %d %x %x", x.From, x.To, x.Previous, x.Link))
				return nil
			}), r.Chunks(ctx, Day, Day+90, func(c *store.Chunk, _ *store.Roster) error {
				if i := (c.Key.Sequence - Day) / 10; !bytes.Equal(c.Previous, links[i]) {
					t.Errorf("%s: chunk %d comes back with the link %x before it, want %x", when, i, c.Previous, links[i])
				}
				return nil
			}))
		})
		var texts []string
		for _, x := range want {
			texts = append(texts, fmt.Sprintf("%d %d %x %x", x.From, x.To, x.Previous, x.Link))
		}
		same(t, when, got, texts, show)
	}
	agree("committed")
	l.must(l.Roll(ctx, Day+4*3600))
	l.must(l.Retain(ctx, store.Retention{Second: time.Second}, Day+60))
	agree("some chunks dropped")
	l.must(l.Retain(ctx, store.Retention{Second: time.Second}, Day+4*3600))
	agree("all chunks dropped")
	l.must(l.Close())
	l.Store, err = d.Open(ctx, place)
	l.must(err)
	agree("opened again")
	l.must(l.Close())
}
