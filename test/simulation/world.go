package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/test/simulation/memory"
)

// Options say how much a seed does.
type Options struct {
	Hours float64 // of virtual time, about; default 100
	// Tell is called with what happens, as it happens; nil: nobody wants to know.
	Tell func(string)
	// Calm has no faults happen.
	Calm bool
	// Dir is a folder of the seed's own, in which it keeps its ledger in DuckDB.
	// "": in memory.
	Dir string
}

// Result is what came of a seed.
type Result struct {
	Seed    uint64
	Broken  []string      // laws, at most maxBroken of them
	Trace   string        // hash of what was done and stored
	Elapsed time.Duration // virtual
	Stats   Stats
}

// Stats are a run's figures.
type Stats struct {
	Seconds    int64 // of nodes, stored
	Observed   int64 // windows as the script says
	Unobserved int64
	Faults     map[string]int
	Asked      int64 // questions answered meanwhile
}

const maxBroken = 20

// world is one run.
type world struct {
	o      Options
	seed   uint64
	r      *rand.Rand
	began  time.Time
	ledger ledger
	model  model
	nodes  []*node
	byName map[string]*node
	at     []*collector
	limits ingest.Limits // of the collectors
	// liveEvery is how many live seconds they ask for together.
	liveEvery int

	asleep bool // the director's: nothing is to start

	mu     sync.Mutex
	trace  hash.Hash
	bad    []string
	agenda []appointment
	wake   chan struct{}

	stats struct {
		windows, seconds, observed, unobserved, asked int64
		faults                                        map[string]int
	}
}

// appointment is something to be done by the director.
type appointment struct {
	at time.Time
	f  func()
}

func newWorld(seed uint64, o Options) *world {
	if o.Hours <= 0 {
		o.Hours = 100
	}
	w := &world{
		o: o, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), byName: map[string]*node{},
		trace: sha256.New(), wake: make(chan struct{}, 1),
	}
	w.stats.faults = map[string]int{}
	several := 1
	if o.Dir == "" && seed%4 == 3 {
		several = 2 + int(seed/4%2)
	}
	w.ledger = &inMemory{Ledger: memory.NewLedger(), shared: several > 1}
	if o.Dir != "" {
		w.ledger = &onDisk{dir: o.Dir}
	}
	if w.r.IntN(6) == 0 { // short of memory: not all seconds of a chunk are kept live
		w.limits.LiveSeconds = 1 + w.r.IntN(12)
	}
	if seed%3 == 1 { // agents wait for one another
		w.limits.CatchingUp = 1
	}
	if seed%5 == 2 { // chunks wait for memory
		w.limits.PendingChunks = 3
	}
	if seed%7 >= 4 { // live seconds travel together
		w.liveEvery = int(seed%7) - 2
	}
	for i := range several {
		w.at = append(w.at, &collector{w: w, name: string(rune('a' + i)), r: rand.New(rand.NewPCG(seed, uint64(2+i)))})
	}
	for i := range 1 + w.r.IntN(2)*w.r.IntN(2)*(1+w.r.IntN(3)) {
		w.addNode(i)
	}
	return w
}

func (w *world) addNode(i int) {
	r := rand.New(rand.NewPCG(w.seed, uint64(100+i)))
	name := fmt.Sprintf("n%d", i)
	gaps := []time.Duration{10 * time.Minute, time.Hour, 6 * time.Hour, 168 * time.Hour}
	n := &node{
		w: w, name: name, r: r, fs: memfs.New(), phase: r.Int64N(900_000_000), spool: 1 << 20,
		machine: &machine{name: name}, maxGap: gaps[r.IntN(len(gaps))],
		script: newScript(w.seed*1000+uint64(i), name, 1+r.IntN(3)/2, 20+r.Int64N(200)),
	}
	n.link = newLink(w, n, rand.New(rand.NewPCG(w.seed, uint64(200+i))))
	w.nodes, w.byName[name] = append(w.nodes, n), n
}

func (w *world) now() time.Time { return time.Now() }

// event notes what is done, and when.
func (w *world) event(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = fmt.Fprintf(w.trace, "%d %s\n", time.Since(w.began), text)
	if w.o.Tell != nil {
		w.o.Tell(fmt.Sprintf("%14.3f  %s", time.Since(w.began).Seconds(), text))
	}
}

// broken notes a broken law.
func (w *world) broken(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.bad) < maxBroken {
		w.bad = append(w.bad, fmt.Sprintf("at %.3f s: %s", time.Since(w.began).Seconds(), text))
	}
}

func (w *world) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bad) > 0
}

// later has the director do something after a while.
func (w *world) later(d time.Duration, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agenda = append(w.agenda, appointment{time.Now().Add(d), f})
	slices.SortStableFunc(w.agenda, func(a, b appointment) int { return a.at.Compare(b.at) })
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// wait lets time pass, and does what was to be done meanwhile.
func (w *world) wait(d time.Duration) {
	until := time.Now().Add(d)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.mu.Lock()
		next, due := until, func() {}
		if len(w.agenda) > 0 && !w.agenda[0].at.After(until) {
			next, due = w.agenda[0].at, w.agenda[0].f
		}
		left := time.Until(next)
		if left <= 0 && next.Equal(until) && (len(w.agenda) == 0 || w.agenda[0].at.After(until)) {
			w.mu.Unlock()
			return
		}
		if left <= 0 {
			w.agenda = w.agenda[1:]
			w.mu.Unlock()
			due()
			continue
		}
		w.mu.Unlock()
		timer.Reset(left)
		select {
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// cutAll ends all streams to a collector.
func (w *world) cutAll(c *collector) {
	for _, n := range w.nodes {
		n.link.cutFrom(c)
	}
}

// Run runs a seed. It is called in a bubble of package synctest.
func Run(seed uint64, o Options) Result {
	w := newWorld(seed, o)
	w.live()
	w.finish()
	w.checkAll()
	return Result{
		Seed: seed, Broken: w.bad, Trace: hex.EncodeToString(w.trace.Sum(nil)), Elapsed: time.Since(w.began),
		Stats: Stats{
			Seconds: w.stats.seconds, Observed: w.stats.observed, Unobserved: w.stats.unobserved, Asked: w.stats.asked, Faults: w.stats.faults,
		},
	}
}

// logs takes what processes log: the model has to know what they had to give
// up, and they must say so.
type logs struct {
	w   *world
	who string
}

// Enabled implements [slog.Handler].
func (l *logs) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || l.w.o.Tell != nil && level >= slog.LevelInfo
}

// Handle implements [slog.Handler].
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	node := l.w.byName[strings.TrimPrefix(l.who, "agent ")]
	switch {
	case node == nil:
	case strings.HasPrefix(r.Message, "THE SPOOL IS FULL"):
		go node.log.fails()
	case r.Message == "the spool has space again":
		go node.log.heal()
	}
	if l.w.o.Tell != nil {
		var text strings.Builder
		r.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(&text, " %s", a)
			return true
		})
		l.w.o.Tell(fmt.Sprintf("%14.3f      [%s] %s%s", time.Since(l.w.began).Seconds(), l.who, r.Message, text.String()))
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (l *logs) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l *logs) WithGroup(string) slog.Handler { return l }
