package podwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// The names of the sources, and of the choice among them.
const (
	Auto      = "auto"
	PodsAPI   = "pods-api"
	APIServer = "apiserver"
	Kubelet   = "kubelet"
)

// DefaultPoll is how often the kubelet's /pods is read.
const DefaultPoll = 10 * time.Second

// DefaultSockets are where kubelets serve the Pods API.
func DefaultSockets() []string {
	return []string{"/var/lib/kubelet/pods-api/pods-api.sock", "/var/lib/kubelet/pods/kubelet.sock"}
}

// Options say which node's pods are watched, and how.
type Options struct {
	// Directory is written to. Nobody else should.
	Directory *pods.Directory
	// Node is the node's name at the API server. It is required.
	Node string
	// Source is one of the names above; "" is Auto.
	Source string
	// Sockets are the absolute paths where the Pods API may be; nil is
	// DefaultSockets.
	Sockets []string
	// Kubeconfig says how to reach the API server; "" is as every pod does.
	Kubeconfig string
	// KubeletURL is the kubelet's, such as https://10.0.0.7:10250; "" is none,
	// and Auto then does without this source.
	KubeletURL string
	// TokenFile is shown to the kubelet; "" is the service account's.
	TokenFile string
	// CAFile verifies the kubelet's certificate; "" is the service account's,
	// which is right where kubelets have theirs signed (serverTLSBootstrap).
	CAFile string
	// InsecureSkipVerify trusts any certificate of the kubelet's: whoever can
	// pose as it gets the agent's token.
	InsecureSkipVerify bool
	// Poll is how often the kubelet's /pods is read, at least every second;
	// 0 is DefaultPoll.
	Poll time.Duration
	Log  *slog.Logger // nil is none
}

// Watcher keeps a directory of pods up to date. Any goroutine may use it.
type Watcher struct {
	directory *pods.Directory
	log       *slog.Logger
	names     []string
	sources   []source // best first
	poke      chan struct{}

	using        atomic.Int64 // rank of the source in use, plus one
	last         atomic.Int64 // rank of the source that spoke last
	heard        atomic.Int64 // when it did, Unix ns
	failingSince atomic.Int64 // Unix ns; 0 while a source is in sync
	counts       counts
}

// counts are what a watcher counts.
type counts struct {
	sessions, failures, syncs, events, dropped, switches atomic.Uint64
}

// New makes a watcher. Nothing is opened until it runs.
func New(o Options) (*Watcher, error) {
	if o.Directory == nil || o.Node == "" {
		return nil, errors.New("podwatch: a directory and the node's name are needed")
	}
	w := &Watcher{directory: o.Directory, log: o.Log, poke: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.last.Store(-1)
	for _, s := range []struct {
		name string
		make func(*Options, *Watcher) (source, error)
	}{{PodsAPI, makePodsAPI}, {APIServer, makeAPIServer}, {Kubelet, makeKubelet}} {
		chosen := o.Source == s.name
		if !chosen && o.Source != Auto && o.Source != "" {
			continue
		}
		src, err := s.make(&o, w)
		switch {
		case errors.Is(err, errAbsent) && !chosen:
			continue
		case err != nil:
			return nil, fmt.Errorf("podwatch: %w", err)
		}
		w.names, w.sources = append(w.names, s.name), append(w.sources, src)
	}
	if len(w.sources) == 0 {
		return nil, fmt.Errorf("podwatch: source %q: one of auto, pods-api, apiserver, kubelet is known", o.Source)
	}
	return w, nil
}

func makePodsAPI(o *Options, _ *Watcher) (source, error) {
	sockets := o.Sockets
	if sockets == nil {
		sockets = DefaultSockets()
	}
	for _, s := range sockets {
		if !filepath.IsAbs(s) {
			return nil, fmt.Errorf("socket %q: an absolute path is needed", s)
		}
	}
	return &podsAPI{node: o.Node, sockets: sockets}, nil
}

func makeAPIServer(o *Options, _ *Watcher) (source, error) {
	return newAPIServer(o.Node, o.Kubeconfig), nil
}

func makeKubelet(o *Options, w *Watcher) (source, error) {
	if o.KubeletURL == "" {
		return nil, fmt.Errorf("%w: the kubelet's URL is needed", errAbsent)
	}
	u, err := url.Parse(o.KubeletURL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("kubelet URL %q: one such as https://10.0.0.7:10250 is needed", o.KubeletURL)
	}
	a := &access{base: u, caFile: o.CAFile, insecure: o.InsecureSkipVerify, tokenFile: o.TokenFile}
	if a.caFile == "" {
		a.caFile = serviceAccountCA
	}
	if a.tokenFile == "" {
		a.tokenFile = serviceAccountToken
	}
	every := o.Poll
	if every == 0 {
		every = DefaultPoll
	}
	return &kubeletPods{node: o.Node, at: a, every: max(every, pollGap), poke: w.poke}, nil
}

// Run watches until the context ends; it then returns nil. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	w.choose(ctx)
	return nil
}

// Poke says that somebody met a pod that the directory does not know. Where
// the kubelet's /pods is the source it is read at once, but not twice within a
// second; the other sources tell by themselves.
func (w *Watcher) Poke() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// Ready reports whether the directory has been filled. It stays so: pods that
// are known are known also while no source is reached.
func (w *Watcher) Ready() bool { return w.counts.syncs.Load() > 0 }

// Stats are figures about a watcher; counts are since its start.
type Stats struct {
	Source string // the one in use, "" before the first was in sync
	// FailingSince is since when none has been in sync: zero while one is, and
	// before the start.
	FailingSince time.Time
	// Heard is when a source last told something, zero for never. Nothing is
	// told of a node on which nothing changes, but by the kubelet's /pods.
	Heard time.Time

	Sessions uint64 // attempts at a source
	Failures uint64 // of them, those that ended by themselves
	Syncs    uint64 // times that all pods were told
	Events   uint64 // what was told: all pods at once, or one
	Switches uint64 // times that another source was used than before
	// Dropped counts pods that could not be used, and facts of pods (labels,
	// containers, annotations) that are no Kubernetes names or beyond a bound,
	// each time that they are told.
	Dropped uint64
}

// Stats reads the figures as they are now.
func (w *Watcher) Stats() Stats {
	s := Stats{
		FailingSince: unixTime(w.failingSince.Load()), Heard: unixTime(w.heard.Load()),
		Sessions: w.counts.sessions.Load(), Failures: w.counts.failures.Load(), Syncs: w.counts.syncs.Load(),
		Events: w.counts.events.Load(), Switches: w.counts.switches.Load(), Dropped: w.counts.dropped.Load(),
	}
	if rank := w.using.Load(); rank > 0 {
		s.Source = w.names[rank-1]
	}
	return s
}

func unixTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
