package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/ingest"
)

// nodeName is the pseudo node of a gateway.
func nodeName(gateway string) string { return join.NodePrefix + gateway }

// Ledger takes chunks, as [ingest.Server] does.
type Ledger interface {
	Accept(ctx context.Context, c *attribution.Chunk) error
	Stored(c *attribution.Chunk) bool
	Has(cluster, node string, second attribution.Second) bool
	StoredThrough(cluster, node string) attribution.Second
}

// Deps is what gateways are read with. All of it is required.
type Deps struct {
	Ledger Ledger
	// Dir is where the state files are. It is made if it is not there.
	Dir   string
	Clock func() time.Time
	// Random is where boot ids come from.
	Random io.Reader
	// Resolve are the addresses of a host.
	Resolve func(ctx context.Context, host string) ([]string, error)
	Log     *slog.Logger
}

// Gateways are all that are configured. Make it with [Open], read them with
// [Gateways.Run]. Status may be asked by any number of goroutines.
type Gateways struct{ list []*gateway }

// Open reads the state files. The options must be valid, their names distinct.
// Nobody else may use the directory.
func Open(options []Options, d Deps) (*Gateways, error) {
	if len(options) == 0 {
		return &Gateways{}, nil
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, err
	}
	gs := &Gateways{}
	for i := range options {
		g, err := open(options[i].withDefaults(), d)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", options[i].Name, err)
		}
		gs.list = append(gs.list, g)
	}
	return gs, nil
}

// Run reads every gateway at its interval until ctx ends.
func (gs *Gateways) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, g := range gs.list {
		wg.Go(func() { g.run(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// Status is how every gateway does, in the order of the configuration.
func (gs *Gateways) Status() []Status {
	all := make([]Status, len(gs.list))
	for i, g := range gs.list {
		g.mu.Lock()
		all[i] = g.status
		g.mu.Unlock()
		all[i].Warnings = slices.Clone(all[i].Warnings)
	}
	return all
}

// Status is how a gateway does.
type Status struct {
	Cluster, Name string
	Format        string             // as it was read, "" where nothing was yet
	LastScrape    attribution.Second // when a page was last read; 0: never
	Addresses     int                // asked in the last round
	Answering     int                // of them, those whose page could be read
	Error         string             // why the others could not; "": they could
	StoredThrough attribution.Second // first second that is not durable; 0: none is
	Tenants       int                // told apart now
	Warnings      []string           // what is to be done, in words
	Unstored      int                // chunks that wait to be durable
	Scrapes       uint64             // pages asked for
	Failures      uint64             // of them, those that could not be read
	Restarts      uint64             // of processes, as their pages tell
	Fallen        uint64             // series that fell, though no page told of a restart
	Dropped       uint64             // series that could not be counted, for what they hold or a limit
	Folded        uint64             // names counted under "(other)"
	Unsure        uint64             // pages passed over, as any of several processes may have made them
	Rejected      uint64             // chunks that the ledger would not take; what they held came again
}

// gateway is one of them. Its goroutine owns all of it but the status.
type gateway struct {
	o    Options
	d    Deps
	log  *slog.Logger
	file string
	// scrape asks every address once. An error is of all of them.
	scrape func(context.Context) ([]answer, error)
	write  func(name string, content []byte) error // durably, whole or not at all
	book   *book

	mu     sync.Mutex
	status Status
	warned map[string]bool // what the log has of the warnings in the status
}

// open reads a gateway's state file, or begins a new life.
func open(o Options, d Deps) (*gateway, error) {
	g := &gateway{
		o: o, d: d, log: d.Log.With("gateway", o.Name), file: filepath.Join(d.Dir, o.Name+".json"),
		write: writeFile, status: Status{Cluster: o.Cluster, Name: o.Name}, warned: make(map[string]bool),
	}
	formats, err := o.formats()
	if err != nil {
		return nil, err
	}
	g.scrape = (&scraper{o: &g.o, formats: formats, resolve: d.Resolve}).scrape
	stored := d.Ledger.StoredThrough(o.Cluster, nodeName(o.Name))
	text, err := readState(g.file)
	if err != nil {
		return nil, err
	}
	if text != nil {
		if g.book, err = decodeBook(&g.o, text, stored); err == nil {
			return g, nil
		}
		g.log.Error("the state file can't be used: what the gateway served since it was last read is not counted", "file", g.file, "error", err)
		if err := os.Rename(g.file, g.file+".corrupt"); err != nil {
			return nil, err
		}
	}
	boot, err := g.newBoot()
	if err != nil {
		return nil, err
	}
	g.book = newBook(&g.o, boot, d.Clock(), stored)
	return g, nil
}

func (g *gateway) newBoot() (b attribution.Boot, err error) {
	_, err = io.ReadFull(g.d.Random, b[:])
	return b, err
}

func (g *gateway) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(g.o.Interval)
		g.round(ctx)
	}
}

var errHeld = errors.New("the ledger makes nothing durable, so the gateway is not read; it goes on counting")

// round reads the gateway once and gives the ledger what is new.
func (g *gateway) round(ctx context.Context) {
	b := g.book
	b.settle(g.d.Ledger.Stored)
	trouble := errors.Join(g.followClock(), g.give(ctx))
	switch {
	case ctx.Err() != nil:
		return
	case len(b.unstored) >= mostUnstored:
		trouble = errors.Join(errHeld, trouble)
	default:
		answers, err := g.scrape(ctx)
		if ctx.Err() != nil {
			return
		}
		pages := g.note(answers, err)
		if len(pages) > 0 {
			b.enter(g.d.Clock(), pages, g.taken)
			trouble = errors.Join(trouble, g.give(ctx))
		}
	}
	g.tell(trouble)
}

// followClock begins another run of seconds where the one there is has come
// further ahead of the clock than the ledger takes anything: the clock was
// ahead, and was put back.
func (g *gateway) followClock() error {
	b := g.book
	latest := attribution.SecondOf(g.d.Clock().Add(ingest.MaxAhead - time.Minute).UnixNano())
	if !b.ahead(latest) {
		return nil
	}
	boot, err := g.newBoot()
	if err != nil {
		return err
	}
	g.log.Warn("the clock was put back; what the gateway serves is counted in the seconds that it tells now, where they are free", "record_through", time.Unix(int64(b.through), 0).UTC())
	b.restart(boot, latest)
	return nil
}

// taken reports whether a second is in the record already.
func (g *gateway) taken(s attribution.Second) bool {
	return g.d.Ledger.Has(g.o.Cluster, nodeName(g.o.Name), s)
}

// note puts what came of a scrape into the status, and returns the pages.
func (g *gateway) note(answers []answer, err error) (pages []page) {
	now := attribution.SecondOf(g.d.Clock().UnixNano())
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.status
	s.Addresses, s.Answering, s.Error = len(answers), 0, ""
	if err != nil {
		s.Error = explain(err)
	}
	var addresses []string
	for _, a := range answers {
		addresses = append(addresses, a.place.name)
		s.Scrapes++
		if a.err != nil {
			s.Failures++
			if s.Error == "" {
				s.Error = explain(a.err)
			}
			continue
		}
		s.Answering++
		s.Format, s.LastScrape = a.reading.Format, now
		pages = append(pages, page{a.place.name, a.reading})
	}
	g.book.processes.keep(addresses)
	return pages
}

// give saves what is counted and then gives the ledger the chunks that it has
// not been given. It stops at the first that it would not take now.
func (g *gateway) give(ctx context.Context) error {
	b := g.book
	if b.unsaved {
		if err := g.save(); err != nil {
			return fmt.Errorf("save what was counted: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	for _, e := range slices.Clone(b.unstored) {
		if e.given {
			continue
		}
		err := g.d.Ledger.Accept(ctx, e.chunk)
		if errors.Is(err, ingest.ErrRejected) {
			g.log.Error("the ledger rejects a chunk; what it holds comes again, in another", "sequence", e.chunk.Key.Sequence, "error", err)
			boot, bootErr := g.newBoot()
			if bootErr != nil {
				return errors.Join(err, bootErr)
			}
			b.takeBack(e, boot)
			return errors.Join(err, g.save())
		}
		if err != nil {
			return err
		}
		e.given = true
	}
	return nil
}

// save writes the state file.
func (g *gateway) save() error {
	text, err := g.book.encode()
	if err != nil {
		return err
	}
	if err := g.write(g.file, text); err != nil {
		return err
	}
	g.book.unsaved = false
	return nil
}

// tell renews the rest of the status, and logs what is new in it.
func (g *gateway) tell(trouble error) {
	b := g.book
	now := attribution.SecondOf(g.d.Clock().UnixNano())
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.status
	s.StoredThrough = g.d.Ledger.StoredThrough(g.o.Cluster, nodeName(g.o.Name))
	s.Tenants, s.Unstored = len(b.tenants.seen), len(b.unstored)
	s.Restarts, s.Fallen, s.Dropped = b.count.restarts, b.count.fallen, b.count.refused
	s.Rejected, s.Unsure = b.count.rejected, b.count.unsure
	s.Folded = b.count.excess
	for _, n := range b.kinds() {
		s.Folded += n.folded
	}
	s.Warnings = s.Warnings[:0:0]
	warn := func(format string, args ...any) {
		s.Warnings = append(s.Warnings, fmt.Sprintf("gateway %s: ", g.o.Name)+fmt.Sprintf(format, args...))
	}
	if s.Error != "" {
		warn("%d of %d addresses can't be read: %s", s.Addresses-s.Answering, s.Addresses, s.Error)
	}
	if trouble != nil {
		warn("%s", explain(trouble))
	}
	told, untold := b.processes.troubled(now)
	if len(told) > 0 {
		warn("several processes answer in turn at %s: each is counted, but late, and not to its end; list the replicas in urls, or set resolve: all with a headless service", strings.Join(told, ", "))
	}
	if len(untold) > 0 {
		warn("counts at %s keep falling, as if several processes answered in turn; their pages don't tell them apart, so counts may be too high: list the replicas in urls, or set resolve: all with a headless service", strings.Join(untold, ", "))
	}
	if len(b.tenants.seen) >= g.o.MaxTenants {
		warn("it names more than %d tenants: further ones are counted as tenant %q; raise max_tenants", g.o.MaxTenants, Other)
	}
	warned := make(map[string]bool, len(s.Warnings))
	for _, w := range s.Warnings {
		if warned[w] = true; !g.warned[w] {
			g.log.Warn("a gateway needs attention", "warning", w)
		}
	}
	g.warned = warned
}
