package inference

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// job is a reading that is to be done, with all that it needs: sites are the
// sampler's goroutine's.
type job struct {
	site       *site
	ip         netip.Addr
	place      place
	models     []string
	tritonPort uint16 // 0: it is not to be asked
	triton     *triton
}

// job is the next reading of a site.
func (t *site) job() job {
	j := job{site: t, ip: t.ip, place: t.places[t.next], models: t.models, tritonPort: t.tritonPort, triton: t.triton}
	if t.pod.HostNetwork {
		if _, container, _ := portOf(t.pod, portText(t.tritonPort)); container < 0 {
			j.tritonPort = 0 // it may be anybody's
		}
	}
	return j
}

// url is that of a place, or of another path and port of the same pod.
func (j *job) url(port uint16, path string) string {
	return j.place.scheme + "://" + netip.AddrPortFrom(j.ip, port).String() + path
}

// result is what a reading came to.
type result struct {
	site    *site
	url     string
	at      int64 // on the timeline
	began   time.Time
	slow    bool // it took a good part of what it may take
	state   State
	err     error
	reading *serving.Reading // where state is Counting
	drops   exposition.Drops
	// unsure says that a Triton server did not tell which of its models are
	// ensembles, so that all are counted.
	unsure bool
}

// read does one reading. Any number of goroutines may. All that it asks for,
// it gets within the limit, or not at all.
func (s *Sampler) read(ctx context.Context, j *job) (r result) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Timeout)
	defer cancel()
	r = result{site: j.site, url: j.url(j.place.port, j.place.path), began: time.Now()}
	defer func() { r.slow = time.Since(r.began) > s.limits.Timeout/4 }()
	page, err := exposition.Fetch(ctx, s.client, r.url, nil, s.o.Formats.Wanted, s.limits)
	r.at = s.o.Now()
	if err != nil {
		r.state, r.err = Unreachable, err
		var timeout net.Error
		if errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout()) {
			r.state = TimedOut
		}
		return r
	}
	r.drops = page.Drops
	o := format.Options{Format: j.place.format}
	if o.Format == "" {
		o.Format = s.o.Formats.Recognise(page)
	}
	if s.gateways[o.Format] {
		r.state, r.err = AGateway, errors.New("it is a gateway's: list it under the collector's gateways")
		return r
	}
	if o.Format == formatTriton {
		o.LeaveOut, r.unsure = j.triton.composing(ctx, s, j, page)
	}
	r.reading, r.err = s.o.Formats.Read(page, o)
	if r.err != nil {
		r.state = Unknown
		return r
	}
	if s.gateways[r.reading.Format] {
		r.state, r.reading = AGateway, nil
		return r
	}
	if j.models != nil {
		only(r.reading, j.models)
	}
	r.state = Counting
	return r
}

// only leaves of a reading what is of these models.
func only(r *serving.Reading, models []string) {
	other := func(s serving.Subject) bool { return !slices.Contains(models, s.Model) }
	r.Counts = slices.DeleteFunc(r.Counts, func(c serving.Count) bool { return other(c.Subject) })
	r.Unsettled = slices.DeleteFunc(r.Unsettled, func(v serving.Value) bool { return other(v.Subject) })
	r.Gauges = slices.DeleteFunc(r.Gauges, func(v serving.Value) bool { return other(v.Subject) })
}
