// Package inference counts what the servers of models on this node have served.
//
// # The model
//
// A [Sampler] looks for servers in pods that hold a device, or that ask for it,
// reads their metrics pages, and yields tallies of what was served since the
// last reading, under the very owners that device time is shared out to.
//
//	pods, holders ─▶ discover ─▶ sites ─▶ fetch (a few at once) ─▶ ledger ─▶ tallies
//	                                                                 └─▶ servers (file)
//
// A site is one container that may serve, and the places where its page may be.
// They are tried in turn until one has a page that a format recognises; that
// one is then read every interval. A place that does not answer is tried less
// and less often, until the pod changes.
//
// # Exactness
//
// Counts are cumulative, so nothing is lost between two readings. What the
// tracker remembers is written before the tallies of a second are yielded, with
// enough history that a restarted agent takes back the readings of seconds that
// the crash has undone, and counts them again: the sum of what is counted is
// what was served. What cannot be known is what a server served after its last
// reading before its own end; a pod that is being deleted is therefore read
// every second.
//
// # What a pod can do
//
// The agent is root and asks only the pod's own address: no redirect and no
// proxy is followed. On the host's network, where the address is not the pod's
// alone, only ports that the pod declares are asked. A page is bounded in
// bytes, series, labels and time, and a pod in pages; what is beyond is counted
// in [Stats].
package inference

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// Defaults of [Options].
const (
	DefaultInterval    = 5 * time.Second
	DefaultTargets     = 64
	DefaultConcurrency = 8
)

// Options say whose servers are read, and how. Pods, Holders, Now, Unsealed and
// Dir are required.
type Options struct {
	Node string // the node's name, for events
	// Pods are the node's pods as they are now.
	Pods func() *pods.View
	// Holders are the owners that hold a device now. It is asked once a second.
	Holders func() []*attribution.Owner

	// Now is the timeline that events are on, Unix ns.
	Now func() int64
	// Unsealed is the first second that is not sealed yet: tallies of earlier
	// ones come late.
	Unsealed func() attribution.Second
	// Durable is the first second that did not outlast the last run; 0 where
	// none did.
	Durable attribution.Second
	// Lasting is the first second that a crash now would undo; nil where that is
	// not known.
	Lasting func() attribution.Second
	// Dir is where what the tracker remembers is kept. It is made if need be.
	Dir string

	Interval    time.Duration // of readings; 0 is DefaultInterval
	Targets     int           // sites at most; 0 is DefaultTargets
	Concurrency int           // readings at once; 0 is DefaultConcurrency
	Rules       []Rule        // where servers are; the first that fits a pod counts
	Formats     *format.Set   // nil is those that come with the program
	// InsecureHTTPS asks servers by https without checking who they are. A
	// pod's address is in no certificate, so without it https hardly works.
	InsecureHTTPS bool
	Log           *slog.Logger // nil is none
}

// Bounds of one server. Real ones have a tenth of it.
const (
	maxSeries   = 2048
	maxRetained = 1 << 20
	maxUndo     = 16384
	undoFor     = 2 * time.Minute
	// trackedTargets are remembered for each site, those that are gone included.
	trackedTargets = 4
)

// Sampler is a [sampler.Live] of tallies. One Run uses it; Stats is for any
// goroutine.
type Sampler struct {
	o        Options
	log      *slog.Logger
	client   *http.Client
	limits   exposition.Limits
	gateways map[string]bool // formats that count for others
	ledger   *ledger

	view   *pods.View
	looked time.Time
	sites  map[siteKey]*site
	gone   map[string]time.Time // names at the tracker whose container is no more, since when
	busy   int                  // readings under way of sites that fail

	counts counts
	shown  atomic.Pointer[[]Target]
}

// New makes a sampler that goes on where the last one was.
func New(o Options) (*Sampler, error) {
	if o.Pods == nil || o.Holders == nil || o.Now == nil || o.Unsealed == nil || o.Dir == "" {
		return nil, errors.New("inference: pods, holders, a timeline and a directory are needed")
	}
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Targets == 0 {
		o.Targets = DefaultTargets
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.Formats == nil {
		o.Formats = format.Builtin()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sampler{
		o: o, log: o.Log, client: newClient(&o), limits: exposition.DefaultLimits(),
		gateways: map[string]bool{}, sites: map[siteKey]*site{}, gone: map[string]time.Time{},
	}
	s.limits.Timeout = min(s.limits.Timeout, o.Interval*4/5)
	s.limits.Series, s.limits.Retained = maxSeries, maxRetained
	for _, e := range o.Formats.Endpoints() {
		if e.Gateway {
			s.gateways[e.Format] = true
		}
	}
	var err error
	s.ledger, err = openLedger(&o, filepath.Join(o.Dir, "servers"), serving.Limits{
		Targets: trackedTargets * o.Targets, Series: maxSeries, History: int64(undoFor), Undo: maxUndo,
	}, &s.counts)
	if err != nil {
		return nil, err
	}
	s.shown.Store(&[]Target{})
	return s, nil
}

// newClient reaches pods, and nothing else.
func newClient(o *Options) *http.Client {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: o.InsecureHTTPS, MinVersion: tls.VersionTLS12}, //nolint:gosec // the operator's choice
			TLSHandshakeTimeout:    2 * time.Second,
			MaxIdleConnsPerHost:    1,
			MaxConnsPerHost:        2,
			MaxIdleConns:           o.Targets,
			IdleConnTimeout:        4 * o.Interval,
			MaxResponseHeaderBytes: 64 << 10,
			ReadBufferSize:         4 << 10,
			WriteBufferSize:        1 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// beat is how often the sampler looks what is to be done.
const beat = 250 * time.Millisecond

// Run implements [sampler.Live]. What servers do is no reason for it to end.
func (s *Sampler) Run(ctx context.Context, producer func() sampler.Producer) error {
	lanes := OpenLanes(producer)
	defer lanes.Close()
	ctx, cancel := context.WithCancel(ctx)
	jobs := make(chan *job, s.o.Targets)
	results := make(chan result, s.o.Targets)
	var wg sync.WaitGroup
	for range s.o.Concurrency {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-jobs:
					select {
					case results <- s.read(ctx, j):
					case <-ctx.Done():
						return
					}
				}
			}
		})
	}
	defer s.client.CloseIdleConnections()
	defer wg.Wait()
	defer cancel()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-results:
			s.take(&r)
		case now := <-tick.C:
			s.look(now)
			s.dispatch(now, jobs)
			s.ledger.commit(now, lanes)
		}
	}
}

// dispatch has the sites read that are due, longest due first where there is
// not room for all. Those that have failed, or were slow, get half of the
// readings at once, so that servers that hang cost others nothing.
func (s *Sampler) dispatch(now time.Time, jobs chan<- *job) {
	for _, t := range s.due(now) {
		failing := t.failures > 0 || t.slow || (!t.locked && t.next > 0)
		if failing && s.busy >= max(s.o.Concurrency/2, 1) {
			continue
		}
		select {
		case jobs <- new(t.job()):
		default: // sites that have changed are still being read as they were
			return
		}
		t.busy, t.countedBusy = true, failing
		if failing {
			s.busy++
		}
	}
}
