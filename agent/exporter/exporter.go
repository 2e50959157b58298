package exporter

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// Options configure an exporter. Node is required.
type Options struct {
	Cluster string
	Node    string

	// Labels are the keys of the pod labels to export, such as app or
	// app.kubernetes.io/name; at most 32. Default: none, since every value is
	// a series of its own.
	Labels []string
	// MaxSeries bounds series, tallies and devices together. Default 5000, of
	// which a scrape makes 25000 metrics, in 14 MB and an eighth of a second. (8
	// GPUs with 64 busy owners have a thousand, and who left ten minutes ago
	// still counts.)
	MaxSeries int
	// MaxProcesses bounds the commands of processes outside pods. Default 100.
	MaxProcesses int
	// Linger is how long a series stays without getting time: whole seconds,
	// default 10 min.
	Linger time.Duration
	// LingerLimit is how long it stays where a view has not exported its last
	// value. Default 1 h, at least Linger.
	LingerLimit time.Duration
}

func (o *Options) check() error {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&o.MaxSeries, 5000)
	set(&o.MaxProcesses, 100)
	if o.Linger == 0 {
		o.Linger = 10 * time.Minute
	}
	if o.LingerLimit == 0 {
		o.LingerLimit = max(time.Hour, o.Linger)
	}
	switch {
	case o.Node == "":
		return errors.New("exporter: a node is required")
	case o.MaxSeries < 0 || o.MaxProcesses < 0:
		return fmt.Errorf("exporter: limits of %d series and %d processes: want positive ones", o.MaxSeries, o.MaxProcesses)
	case o.Linger < time.Second || o.LingerLimit < o.Linger:
		return fmt.Errorf("exporter: series linger for %v, at most %v: want at least 1s, and the limit no less", o.Linger, o.LingerLimit)
	}
	if err := checkLabels(o.Labels); err != nil {
		return fmt.Errorf("exporter: %w", err)
	}
	return nil
}

// Exporter adds up the sealed seconds of one node. One goroutine at a time
// calls Add; the rest is for any.
type Exporter struct {
	o        Options
	linger   attribution.Second
	limit    attribution.Second
	snapshot atomic.Pointer[Snapshot]
	mu       sync.Mutex // serialises writers of cards and views
	cards    atomic.Pointer[[]card]
	views    atomic.Pointer[[]*View]

	// The rest is Add's.
	cluster, node string
	second        attribution.Second // the last one added
	currency      string
	devices       map[string]*device
	owners        map[ownerKey]*owner
	processes     int // distinct commands among owners
	roster        resolved

	series   []Series
	seriesOf []seriesKey // beside series
	seriesAt map[seriesKey]int
	tallies  []Tally
	tallyOf  []tallyKey
	tallyAt  map[tallyKey]int

	stats Stats
}

// New makes an exporter that has seen nothing.
func New(o Options) (*Exporter, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Labels = slices.Clone(o.Labels)
	e := &Exporter{
		o: o, linger: attribution.Second(o.Linger / time.Second), limit: attribution.Second(o.LingerLimit / time.Second),
		cluster: text(o.Cluster), node: text(o.Node),
		devices: map[string]*device{}, owners: map[ownerKey]*owner{},
		seriesAt: map[seriesKey]int{}, tallyAt: map[tallyKey]int{},
	}
	e.publish()
	return e, nil
}

// Add adds a chunk of the node, usually of one second. It keeps no more of it
// than the texts and label sets of its roster, which never change.
func (e *Exporter) Add(c *attribution.Chunk) {
	if c.Key.Node != e.o.Node || c.Key.Cluster != e.o.Cluster {
		panic(fmt.Sprintf("BUG: exporter: of node %q, given a chunk of %q", e.o.Node, c.Key.Node))
	}
	e.second = max(e.second, c.End()-1)
	e.resolve(c.Roster)
	for i := range c.Windows {
		e.window(&c.Windows[i])
	}
	for i := range c.Tallies {
		e.tally(&c.Tallies[i], c.Roster)
	}
	e.sweep()
	e.publish()
}

// Snapshot is the latest one, never nil. It is immutable.
func (e *Exporter) Snapshot() *Snapshot { return e.snapshot.Load() }

// card is what is kept of a rate card.
type card struct {
	revision uint32
	currency string
}

// maxCards is how many revisions are remembered: the sealer is seconds behind
// the newest, not revisions.
const maxCards = 16

// SetRateCard tells in which currency the prices of a revision are: three
// capital letters, as in ISO 4217. Call it before the revision prices the first
// second; what is priced by a revision that was never told counts as unpriced.
func (e *Exporter) SetRateCard(revision uint32, currency string) error {
	if !isCurrency(currency) {
		return fmt.Errorf("exporter: currency %q: want three capital letters, such as USD", clip(currency))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	cards := []card{{revision, currency}}
	if old := e.cards.Load(); old != nil {
		for _, c := range *old {
			if c.revision != revision && len(cards) < maxCards {
				cards = append(cards, c)
			}
		}
	}
	e.cards.Store(&cards)
	return nil
}

func isCurrency(s string) bool {
	if len(s) != 3 {
		return false
	}
	for _, c := range []byte(s) {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return true
}

// currencyOf is the currency of a price, "" where it is unknown.
func (e *Exporter) currencyOf(p attribution.Price) string {
	cards := e.cards.Load()
	if !p.Known() || cards == nil {
		return ""
	}
	for _, c := range *cards {
		if c.revision == p.Revision {
			return c.currency
		}
	}
	return ""
}
