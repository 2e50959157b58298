package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// testing.T and rapid.T both.
type tester interface {
	Helper()
	Fatalf(string, ...any)
}

// fakeLedger keeps chunks as the ledger does: what is accepted is durable once
// it is committed, and gone with a crash before that.
type fakeLedger struct {
	t       tester
	open    []*attribution.Chunk
	durable []*attribution.Chunk
	down    bool
	now     func() time.Time
}

var (
	errDown  = errors.New("the store is down")
	errAhead = errors.New("it lies more than an hour ahead")
)

func (l *fakeLedger) Accept(_ context.Context, c *attribution.Chunk) error {
	if l.down {
		return errDown
	}
	if c.End() > attribution.SecondOf(l.now().Add(ingest.MaxAhead).UnixNano()) {
		return errAhead
	}
	if err := c.Check(); err != nil {
		l.t.Fatalf("a chunk breaks a law: %v", err)
	}
	for _, x := range slices.Concat(l.durable, l.open) {
		if x.Key.Node != c.Key.Node || x.Key.Cluster != c.Key.Cluster || c.Key.Sequence >= x.End() || x.Key.Sequence >= c.End() {
			continue
		}
		if x.Key == c.Key && x.Seconds == c.Seconds {
			return nil // a duplicate
		}
		return fmt.Errorf("%w: %d is there", ingest.ErrRejected, x.Key.Sequence)
	}
	l.open = append(l.open, c)
	return nil
}

func (l *fakeLedger) StoredThrough(cluster, node string) (through attribution.Second) {
	for _, c := range l.durable {
		if c.Key.Cluster == cluster && c.Key.Node == node {
			through = max(through, c.End())
		}
	}
	return through
}

func (l *fakeLedger) Stored(c *attribution.Chunk) bool {
	return slices.ContainsFunc(l.durable, func(x *attribution.Chunk) bool { return x.Key == c.Key && x.Seconds == c.Seconds })
}

func (l *fakeLedger) Has(cluster, node string, s attribution.Second) bool {
	return slices.ContainsFunc(slices.Concat(l.durable, l.open), func(x *attribution.Chunk) bool {
		return x.Key.Cluster == cluster && x.Key.Node == node && x.Key.Sequence <= s && s < x.End()
	})
}

// commit makes the first n open chunks durable.
func (l *fakeLedger) commit(n int) {
	n = min(n, len(l.open))
	l.durable = append(l.durable, l.open[:n]...)
	l.open = l.open[n:]
}

// sums are the durable tallies by sum.
func (l *fakeLedger) sums() map[sum]int64 {
	all := make(map[sum]int64)
	for _, c := range l.durable {
		for _, x := range c.Tallies {
			s := &c.Roster.Subjects[x.Subject]
			o := &c.Roster.Owners[s.Owner]
			if o.Kind != attribution.Gateway || (o.Controller == "") != (o.ControllerKind == "") {
				l.t.Fatalf("owner %+v", *o)
			}
			all[sum{o.Controller, s.Model, s.Tenant, s.Tier, c.Roster.Measures[x.Measure]}] += x.Value
		}
	}
	return all
}

// process is a gateway's process: what it has served since it began.
type process struct {
	started int64
	counts  map[sum]int64
}

func (p *process) reading() *serving.Reading {
	r := &serving.Reading{Format: "test", Started: p.started, Rules: 1}
	for s, v := range p.counts {
		id := uint64(14695981039346656037)
		for _, b := range []byte(fmt.Sprint(s)) {
			id = (id ^ uint64(b)) * 1099511628211
		}
		subject := serving.Subject{Model: s.model, Tenant: s.tenant, Tier: s.tier, Backend: s.backend}
		r.Counts = append(r.Counts, serving.Count{Subject: subject, Measure: s.measure, Series: id, Value: v})
	}
	slices.SortFunc(r.Counts, func(a, b serving.Count) int {
		return serving.Value{Subject: a.Subject, Measure: a.Measure}.ComparePair(serving.Value{Subject: b.Subject, Measure: b.Measure})
	})
	return r
}

// rig is a gateway with processes behind one address, a ledger, and a clock.
type rig struct {
	t      tester
	dir    string
	now    time.Time
	ledger *fakeLedger
	g      *gateway
	behind []*process
	pick   int // which of them answers
	away   bool
	o      Options
	random *rand.ChaCha8
	starts []int64 // of all processes
}

func newRig(t tester, dir string) *rig {
	r := &rig{
		t: t, dir: dir, now: time.Unix(1_700_000_003, 250e6), ledger: &fakeLedger{t: t}, random: rand.NewChaCha8([32]byte{1}),
		o: Options{Name: "g", URLs: []string{"http://g"}, Labels: map[string]string{"team": "ml"}},
	}
	r.ledger.now = func() time.Time { return r.now }
	r.behind = []*process{r.begin()}
	r.open()
	return r
}

func (r *rig) begin() *process {
	started := r.now.UnixNano() / 1e7 * 1e7
	for slices.ContainsFunc(r.starts, func(s int64) bool { return sameStart(s, started) }) {
		started += 1e7
	}
	r.starts = append(r.starts, started)
	return &process{started: started, counts: make(map[sum]int64)}
}

func (r *rig) deps() Deps {
	return Deps{
		Ledger: r.ledger, Dir: r.dir, Clock: func() time.Time { return r.now }, Random: r.random,
		Log: slog.New(slog.DiscardHandler),
	}
}

func (r *rig) open() {
	r.t.Helper()
	g, err := open(r.o.withDefaults(), r.deps())
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.g = g
	g.write = func(name string, content []byte) error { return os.WriteFile(name, content, 0o600) }
	g.scrape = func(context.Context) ([]answer, error) {
		a := answer{place: place{name: "http://g"}}
		if r.away {
			a.err = io.ErrUnexpectedEOF
		} else {
			a.reading = r.behind[r.pick].reading()
		}
		return []answer{a}, nil
	}
}

// crash loses what is not durable, and begins again after some time.
func (r *rig) crash(away time.Duration) {
	r.ledger.open = nil
	r.now = r.now.Add(away)
	r.open()
}

func (r *rig) round() {
	r.now = r.now.Add(15 * time.Second)
	r.g.round(context.Background())
}

func served(tenant string, m attribution.Measure) sum {
	return sum{backend: "http://llama.prod", model: "llama", tenant: tenant, measure: m}
}

func (r *rig) want(s sum, v int64) {
	r.t.Helper()
	if got := r.ledger.sums()[s]; got != v {
		r.t.Fatalf("%+v: the ledger has %d, want %d", s, got, v)
	}
}
