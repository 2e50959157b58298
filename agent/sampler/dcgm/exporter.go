package dcgm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	scrapeTimeout = 5 * time.Second
	scrapeSoonest = time.Second
	scrapeLatest  = 10 * time.Second
	// usualInterval is dcgm-exporter's own default.
	usualInterval = 30 * time.Second
	longestGood   = 90 * time.Second
)

var (
	errRedirect = errors.New("it redirects; redirects are not followed")
	errEncoding = errors.New("the page is encoded, which was not asked for")
	errNotText  = errors.New("it is not a page of metrics")
)

// client scrapes an exporter's page.
type client struct {
	url    *url.URL
	http   *http.Client
	parser *parser
}

// newClient reads the address. Redirects are refused, proxies from the
// environment are not used, and by https the certificate is always verified.
func newClient(opt Options) (*client, error) {
	address := opt.Address
	if address == "" {
		address = defaultExporter
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("dcgm: exporter %q is not an http or https URL", redacted(u, address))
	}
	if u.Path == "" {
		u.Path = "/metrics"
	}
	for f, name := range opt.Metrics {
		if f.names() == nil || name == "" || strings.ContainsAny(name, "{ \t\r\n#") {
			return nil, fmt.Errorf("dcgm: field %d can't be read by the metric name %q", f, name)
		}
	}
	return &client{
		url: u,
		http: &http.Client{
			Timeout:       scrapeTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:            (&net.Dialer{Timeout: scrapeTimeout}).DialContext,
				TLSClientConfig:        opt.TLS.Clone(),
				DisableCompression:     true, // a page is small, its bound is in plain bytes
				MaxIdleConns:           1,
				IdleConnTimeout:        2 * scrapeLatest,
				MaxResponseHeaderBytes: 64 << 10,
			},
		},
		parser: newParser(append([]Field{SMActive}, opt.Extra...), opt.Metrics),
	}, nil
}

func redacted(u *url.URL, address string) string {
	if u == nil {
		return "(unreadable)" // it may hold a password
	}
	if u.User != nil {
		return u.Redacted()
	}
	return address
}

// scrape gets a page.
func (c *client) scrape(ctx context.Context) (*page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	request.Header.Set("Accept-Encoding", "identity")
	response, err := c.http.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // its text repeats the URL
			err = wrapped.Err
		}
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // nothing was written
	encoding := response.Header.Get("Content-Encoding")
	switch kind := response.Header.Get("Content-Type"); {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		return nil, errRedirect
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d", response.StatusCode)
	case encoding != "" && encoding != "identity":
		return nil, errEncoding
	case kind != "" && !strings.HasPrefix(kind, "text/plain") && !strings.HasPrefix(kind, "application/openmetrics-text"):
		return nil, errNotText
	}
	found, err := c.parser.parse(response.Body)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(found.readings, func(r Reading) bool { return r.Field == SMActive }) {
		return found, errNoSeries
	}
	return found, nil
}

// runExporter scrapes until ctx ends.
func (s *Source) runExporter(ctx context.Context) {
	defer s.page.http.CloseIdleConnections()
	if host := s.page.url.Hostname(); host != "localhost" && !net.ParseIP(host).IsLoopback() {
		s.opt.Log.Info("the dcgm-exporter is not on this machine's loopback: it has to be this node's",
			slog.String("url", s.page.url.Redacted()))
	}
	e := exporter{source: s, rhythm: rhythm{}}
	var pause backoff
	for {
		if e.step(ctx) {
			pause.reset()
			if !sleep(ctx, e.rhythm.next()) {
				return
			}
		} else if ctx.Err() != nil || !pause.wait(ctx) {
			return
		}
	}
}

// exporter is the state between scrapes.
type exporter struct {
	source *Source
	rhythm rhythm
	hash   uint64
	since  int64 // when the page was first seen to be as it is; 0 before the first
}

// step scrapes once, and says whether that worked.
func (e *exporter) step(ctx context.Context) bool {
	s := e.source
	now, began := s.opt.Now(), time.Now()
	found, err := s.page.scrape(ctx)
	if ctx.Err() != nil {
		return false
	}
	s.stats.reads.Add(1)
	if found != nil {
		s.stats.malformed.Add(found.drops.Malformed)
		s.stats.excess.Add(found.drops.Excess)
		s.stats.value.Add(found.drops.Value)
	}
	s.stats.up.Store(err == nil)
	if err != nil {
		s.stats.failures.Add(1)
		e.rhythm.last = time.Time{} // a gap over a failure says nothing
		if errors.Is(err, errNoSeries) {
			s.publish(nil, 0)
		}
		s.say(slog.LevelWarn, "down: "+scrapeState(err), "the dcgm-exporter can't be read: SM activity comes from NVML alone until it can",
			slog.String("url", s.page.url.Redacted()), slog.Any("error", err), slog.String("hint", scrapeHint(err)))
		return false
	}
	if e.since == 0 || found.hash != e.hash {
		e.rhythm.changed(began)
		e.hash, e.since = found.hash, now
	}
	s.stats.interval.Store(int64(e.rhythm.interval()))
	e.publish(found.readings, now)
	return true
}

// publish gives readings without a time that of their page.
func (e *exporter) publish(readings []Reading, now int64) {
	s, good := e.source, e.rhythm.good()
	kept := readings[:0]
	for _, r := range readings {
		if r.At == 0 {
			r.At = e.since
		}
		if now-r.At > int64(good) || r.At-now > future {
			s.stats.time.Add(1)
			continue
		}
		kept = append(kept, r)
	}
	if known := s.publish(kept, good); known > 0 {
		s.say(slog.LevelInfo, "up", "the dcgm-exporter tells of SM activity", slog.String("url", s.page.url.Redacted()), slog.Int("entities", known))
		return
	}
	s.say(slog.LevelWarn, "stale", "the dcgm-exporter's page doesn't change: SM activity comes from NVML alone until it does",
		slog.String("url", s.page.url.Redacted()), slog.String("hint", "does the exporter hang? Have it export power or energy as well, which always change"))
}

// rhythm is how often the exporter's page changes.
type rhythm struct {
	last time.Time
	gaps []time.Duration // between changes, the last four
}

func (r *rhythm) changed(at time.Time) {
	if !r.last.IsZero() {
		if len(r.gaps) == 4 {
			r.gaps = append(r.gaps[:0], r.gaps[1:]...)
		}
		r.gaps = append(r.gaps, at.Sub(r.last))
	}
	r.last = at
}

// interval is the exporter's, as far as seen: the longest of the last gaps,
// since a gap is late by up to the time between two scrapes.
func (r *rhythm) interval() time.Duration {
	if len(r.gaps) == 0 {
		return usualInterval
	}
	return slices.Max(r.gaps)
}

// good is how old readings may be.
func (r *rhythm) good() time.Duration {
	return max(min(r.interval()*5/2, longestGood), hostengineGood)
}

// next is the time to the next scrape: a quarter of the shortest gap, so that
// a change is seen soon after.
func (r *rhythm) next() time.Duration {
	shortest := usualInterval / 4
	if len(r.gaps) > 0 {
		shortest = slices.Min(r.gaps) / 4
	}
	return max(scrapeSoonest, min(shortest, scrapeLatest))
}

// scrapeState is what is the same about two failures that need saying once.
func scrapeState(err error) string {
	for _, known := range []error{errRedirect, errEncoding, errNotText, errTooLong, errNoSeries, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if network, ok := errors.AsType[*net.OpError](err); ok {
		return network.Op
	}
	return err.Error()
}

// scrapeHint says what an operator may do about it.
func scrapeHint(err error) string {
	switch {
	case errors.Is(err, errNoSeries):
		return "enable DCGM_FI_PROF_SM_ACTIVE in the exporter's counters file; by default it is commented out"
	case errors.Is(err, errRedirect), errors.Is(err, errEncoding), errors.Is(err, errNotText), errors.Is(err, errTooLong):
		return "is this the URL of a dcgm-exporter's /metrics?"
	}
	return "is the dcgm-exporter running on this node, and listening on this address?"
}
