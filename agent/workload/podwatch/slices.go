package podwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
)

// slicesRest is how long the watch of ResourceSlices waits where the cluster
// does not serve them, or not to the agent.
const slicesRest = 10 * time.Minute

// Bounds of ResourceSlices. Kubernetes allows 128 devices in one.
const (
	maxSlices  = 512
	maxDevices = 4096
)

// SlicesOptions say whose ResourceSlices are watched.
type SlicesOptions struct {
	Node       string       // its name at the API server; required
	Kubeconfig string       // as [Options.Kubeconfig]
	Log        *slog.Logger // nil is none
}

// Slices knows the devices that DRA drivers publish for the node: what a
// device's name in a claim means is told nowhere else. Nothing is asked of the
// API server before somebody looks a device up, so that clusters without DRA
// need grant nothing. Any goroutine may use it.
type Slices struct {
	node       string
	kubeconfig string
	log        *slog.Logger
	devices    atomic.Pointer[map[deviceName]deviceid.Attributes]
	changed    chan struct{}

	once   sync.Once
	wanted chan struct{} // closed by the first look-up

	// The goroutine's that runs.
	slices  map[string]*published // by name
	version string
	serves  int // index into apiVersions
	told    string

	failures, dropped atomic.Uint64
}

type deviceName struct{ driver, pool, device string }

// NewSlices makes the watch.
func NewSlices(o SlicesOptions) (*Slices, error) {
	if o.Node == "" {
		return nil, errors.New("podwatch: the node's name is needed")
	}
	s := &Slices{
		node: o.Node, kubeconfig: o.Kubeconfig, log: o.Log,
		changed: make(chan struct{}, 1), wanted: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.devices.Store(&map[deviceName]deviceid.Attributes{})
	return s, nil
}

// Lookup finds a device by the names that a claim's allocation has; false where
// it is not known, or not yet: the first call begins the watch.
func (s *Slices) Lookup(driver, pool, device string) (deviceid.Attributes, bool) {
	s.once.Do(func() { close(s.wanted) })
	a, ok := (*s.devices.Load())[deviceName{driver, pool, device}]
	return a, ok
}

// Changed receives a value after what Lookup says has changed; changes that
// come before it is received are one. It has one reader.
func (s *Slices) Changed() <-chan struct{} { return s.changed }

// SlicesStats are figures about the watch; counts are since its start.
type SlicesStats struct {
	Devices  int    // known now
	Failures uint64 // of the watch: each is followed by another attempt
	Dropped  uint64 // slices and devices that could not be used or were beyond a bound
}

// Stats reads the figures as they are now.
func (s *Slices) Stats() SlicesStats {
	return SlicesStats{Devices: len(*s.devices.Load()), Failures: s.failures.Load(), Dropped: s.dropped.Load()}
}

// Run watches until the context ends; it then returns nil. It is called once.
func (s *Slices) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.wanted:
	}
	attempts := 0
	for ctx.Err() == nil {
		err := s.follow(ctx, func() { attempts, s.told = 0, "" })
		attempts++
		s.rest(ctx, attempts, err)
	}
	return nil
}

// rest notes a failure, unless it is the end, and waits.
func (s *Slices) rest(ctx context.Context, attempts int, err error) {
	if ctx.Err() != nil {
		return
	}
	s.failures.Add(1)
	rest := backoff(attempts)
	if errors.Is(err, errAbsent) || refused(err, http.StatusForbidden) {
		rest = around(slicesRest)
	}
	if text := err.Error(); s.told != text {
		s.told = text
		s.log.Warn("devices of DRA claims cannot be looked up", "error", err)
	}
	_ = wait(ctx, rest, nil) // the caller looks at the context
}

// follow lists and watches until something fails.
func (s *Slices) follow(ctx context.Context, works func()) error {
	where, err := server(s.kubeconfig)
	if err != nil {
		return err
	}
	c, err := where.connect()
	if err != nil {
		return err
	}
	defer c.close()
	err = s.listAndWatch(ctx, c, works)
	if expired(err) {
		s.version = ""
	}
	if refused(err, http.StatusForbidden) {
		err = fmt.Errorf("%w (the agent's service account needs list and watch of resourceslices.resource.k8s.io)", err)
	}
	return err
}

func (s *Slices) listAndWatch(ctx context.Context, c *client, works func()) error {
	if s.version == "" {
		if err := s.list(ctx, c); err != nil {
			return err
		}
	}
	col := s.collection()
	for {
		var err error
		s.version, err = col.watch(ctx, c, s.version, func() error { works(); return nil }, s.take)
		if err != nil {
			return err
		}
	}
}

// apiVersions are those in which slices are served, the newest first.
func apiVersions() []string { return []string{"v1", "v1beta2", "v1beta1"} }

func (s *Slices) collection() collection[slice] {
	return collection[slice]{
		path:  "/apis/resource.k8s.io/" + apiVersions()[s.serves] + "/resourceslices",
		kind:  "ResourceSliceList",
		query: url.Values{"fieldSelector": {"spec.nodeName=" + s.node}},
	}
}

// list reads all slices, in the newest version that the server has.
func (s *Slices) list(ctx context.Context, c *client) error {
	for s.serves = range apiVersions() {
		s.slices = make(map[string]*published)
		col := s.collection()
		version, err := col.list(ctx, c, func(x *slice) error {
			s.put(x)
			return nil
		})
		if refused(err, http.StatusNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		s.version = version
		s.publish()
		return nil
	}
	return fmt.Errorf("%w: the cluster does not serve resourceslices.resource.k8s.io", errAbsent)
}

func (s *Slices) take(event string, x *slice) error {
	switch {
	case x != nil && event == "DELETED":
		delete(s.slices, x.Metadata.Name)
	case event == "ADDED" || event == "MODIFIED":
		s.put(x)
	}
	s.publish()
	return nil
}

// put keeps a slice, nil for one that is unfit.
func (s *Slices) put(x *slice) {
	if x == nil || x.Spec.NodeName != s.node || (s.slices[x.Metadata.Name] == nil && len(s.slices) >= maxSlices) {
		s.dropped.Add(1)
		return
	}
	s.slices[x.Metadata.Name] = x.published()
}

// publish makes the slices what Lookup sees. Of a pool that is being published
// anew the newer generation counts; what only the older has is known for as
// long as that is there, since claims may still mean it.
func (s *Slices) publish() {
	sorted := slices.SortedFunc(maps.Values(s.slices), func(a, b *published) int {
		return cmp.Or(cmp.Compare(b.generation, a.generation), cmp.Compare(a.name, b.name))
	})
	devices := make(map[deviceName]deviceid.Attributes)
	for _, p := range sorted {
		for n, a := range p.devices {
			if _, newer := devices[n]; newer {
				continue
			}
			if len(devices) >= maxDevices {
				s.dropped.Add(1)
				continue
			}
			devices[n] = a
		}
	}
	if maps.Equal(devices, *s.devices.Load()) {
		return
	}
	s.devices.Store(&devices)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
