package rollupexport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"

	"github.com/gpuledger/gpuledger/internal/secret"
)

// The versions of Prometheus remote write.
const (
	RemoteWrite1 = "1.0"
	RemoteWrite2 = "2.0"
)

// RemoteWriteOptions say where the counters are pushed to by Prometheus remote
// write.
type RemoteWriteOptions struct {
	URL             string // of the receiver, path included
	Protocol        string // RemoteWrite1, the default, or RemoteWrite2
	Insecure        bool   // plain HTTP to other machines, too
	BearerTokenFile string // sent in the header Authorization; read for each request
	CAFile          string // authorities to trust instead of the system's, PEM
	CertFile        string // of the client, PEM, read again for each connection
	KeyFile         string
	Headers         map[string]secret.Text
	Labels          map[string]string // of every series; those of the ledger go before
	Interval        time.Duration     // default 60 s, at least 1 s
	Timeout         time.Duration     // of a push, retries included, default 30 s
	Version         string            // of this program
}

func (o *RemoteWriteOptions) setDefaults() {
	if o.Protocol == "" {
		o.Protocol = RemoteWrite1
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// Validate checks all that can be checked without a look at files.
func (o RemoteWriteOptions) Validate() error {
	o.setDefaults()
	u, err := url.Parse(o.URL)
	switch {
	case err != nil:
		return errors.New("url: this is none, such as https://metrics.example/api/v1/write") // it may hold a password
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return errors.New("url: want http or https and a host, such as https://metrics.example/api/v1/write")
	case u.User != nil:
		return errors.New("url: holds a user or password: put a token into bearer_token_file, or a header")
	case u.Scheme == "http" && !o.Insecure && !loopbackHost(u.Hostname()):
		return errors.New("url: plain HTTP to another machine: want https, or insecure: true where the network keeps others out")
	case u.Scheme == "http" && (o.CAFile != "" || o.CertFile != ""):
		return errors.New("url: plain HTTP has no certificates")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("cert_file and key_file come together")
	case o.Interval < time.Second || o.Timeout <= 0:
		return fmt.Errorf("interval %v, timeout %v: want an interval of at least 1s, and a timeout", o.Interval, o.Timeout)
	case o.Protocol != RemoteWrite1 && o.Protocol != RemoteWrite2:
		return fmt.Errorf("protocol %q: want %q or %q", o.Protocol, RemoteWrite1, RemoteWrite2)
	}
	for k, v := range o.Headers {
		if k == "" || strings.ContainsFunc(strings.ToLower(k), notOfHeader) {
			return fmt.Errorf("header %.80q: want letters, digits, dots, - and _", k)
		}
		if strings.ContainsFunc(v.Reveal(), func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("the value of header %s: want printable ASCII; is there a line break at its end?", k)
		}
		if strings.EqualFold(k, "Authorization") && o.BearerTokenFile != "" {
			return errors.New("headers: Authorization and bearer_token_file exclude each other")
		}
	}
	for k := range o.Labels {
		if !labelName.MatchString(k) || strings.HasPrefix(k, "__") {
			return fmt.Errorf("label %.80q: want letters, digits and _, no digit first, and not __", k)
		}
	}
	return nil
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// RemoteWriter pushes the counters by Prometheus remote write. Every push has
// everything: what one could not bring within its time, the next does, so that
// there is no queue. A series that ended is told so once.
type RemoteWriter struct {
	o       RemoteWriteOptions
	r       *Rollups
	client  *http.Client
	api     *remote.API
	failing bool
	last    map[string]bool // series that are there, as labels

	pushes, failures, retries atomic.Uint64
}

// RemoteWriteStats are a writer's counts.
type RemoteWriteStats struct {
	Pushes, Failures uint64
	Retries          uint64 // of requests
}

// NewRemoteWriter makes a RemoteWriter. Nothing is sent before Run.
func NewRemoteWriter(r *Rollups, o RemoteWriteOptions) (*RemoteWriter, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("remote write: %w", err)
	}
	o.setDefaults()
	w := &RemoteWriter{o: o, r: r, last: make(map[string]bool)}
	transport, err := newSender(&w.o)
	if err != nil {
		return nil, fmt.Errorf("remote write: %w", err)
	}
	w.client = &http.Client{
		Transport: transport,
		// A token goes to whom it is for, and to nobody whom he names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	w.api, err = remote.NewAPI(o.URL, remote.WithAPIHTTPClient(w.client), remote.WithAPIPath(""),
		// The time of a push ends retries, whichever comes first.
		remote.WithAPIBackoff(remote.BackoffConfig{Min: 500 * time.Millisecond, Max: 10 * time.Second, MaxRetries: 8}))
	if err != nil {
		return nil, fmt.Errorf("remote write: %w", err)
	}
	return w, nil
}

// Run pushes at every interval until ctx ends.
func (w *RemoteWriter) Run(ctx context.Context) error {
	defer w.client.CloseIdleConnections()
	ticker := time.NewTicker(w.o.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.push(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *RemoteWriter) push(running context.Context) {
	ctx, cancel := context.WithTimeout(running, w.o.Timeout)
	defer cancel()
	s, err := w.r.Snapshot(ctx)
	if err == nil {
		err = w.send(ctx, s)
	}
	if running.Err() != nil {
		return // told to stop
	}
	if err != nil {
		w.failures.Add(1)
		if !w.failing {
			w.r.o.Log.Warn("rollups can't be written; the next push has everything", "url", w.o.URL, "error", err)
		}
	} else {
		w.pushes.Add(1)
		if w.failing {
			w.r.o.Log.Info("rollups are written again", "url", w.o.URL)
		}
	}
	w.failing = err != nil
}

// send writes a snapshot, and the end of what was in the last one and is not in
// this one.
func (w *RemoteWriter) send(ctx context.Context, s *Snapshot) error {
	all, err := samplesOf(w.r, s, w.o.Labels)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(all))
	for i := range all {
		there[all[i].key()] = true
	}
	for k := range w.last {
		if !there[k] {
			all = append(all, ended(k))
		}
	}
	for len(all) > 0 {
		n := min(len(all), maxPoints)
		kind, message := request(w.o.Protocol, all[:n], s.At)
		_, err := w.api.Write(ctx, kind, message, remote.WithWriteRetryCallback(func(error) { w.retries.Add(1) }))
		if err != nil {
			return err
		}
		all = all[n:]
	}
	w.last = there
	return nil
}

// Stats is a snapshot of the counts. Any goroutine may call it.
func (w *RemoteWriter) Stats() RemoteWriteStats {
	return RemoteWriteStats{Pushes: w.pushes.Load(), Failures: w.failures.Load(), Retries: w.retries.Load()}
}
