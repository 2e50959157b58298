// Package certs keeps TLS going while its files are replaced.
//
//	files ─▶ Set ─▶ server: credentials, configuration, listener
//	               └▶ client: credentials
//
// A [Set] is a certificate with its key, the authorities that the other side
// is checked against, or both. Whoever renews them replaces the files: in
// place, by rename, or by the symbolic link that a mounted Secret is behind.
//
// # When the files are read
//
// A client reads them for each of its connections; a server at a handshake, but
// at most once in [Options.Every], since others decide how many there are; and
// [Set.Run] now and then, so that trouble is told before somebody connects. All
// of them are read and compared by what they hold: times and inodes do not tell
// of every way to replace a file, and they are small.
//
// # What happens to a broken file
//
// A certificate that does not fit its key is read once more, since both may
// just be about to change. If it still does not fit, is no certificate, or is
// outside of its time while the one in use is not, the one in use stays. That
// is logged, counted, and in [Status] until the files are right again. The
// authorities are a thing of their own: a good bundle is taken though the
// certificate beside it is broken.
//
// # How long a connection lasts
//
// A connection keeps the certificates that it began with. On the client's side
// nothing need be done: the server ends what has run out. A server accepts
// through [Set.Listen], which closes a connection a moment after the client's
// certificate expired; the client connects again, with a new one if it has
// one. Sessions are not resumed, so that every connection is checked against
// the authorities of the hour.
package certs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultEvery is how often the files are read at most.
	DefaultEvery = 10 * time.Second
	// maxFile bounds a file; a bundle of all public authorities has 250 kB.
	maxFile = 1 << 20
	// warnBefore is how long before its end a certificate is warned of: or a
	// sixth of its life, if that is less. Who renews does so at a third.
	warnBefore = 14 * 24 * time.Hour
	// watchEvery is how often Run looks.
	watchEvery = time.Minute
)

// Options say which files, and what for. A certificate and its key come
// together; without a CA, clients trust the system's authorities and servers
// ask for no certificate.
type Options struct {
	// Name is what they are for, in logs, errors and metrics: listen,
	// collector, otlp.
	Name          string
	Cert, Key, CA string // files, PEM

	// Every is the least time between two looks of a server at the files.
	// Default: DefaultEvery.
	Every time.Duration
	// MinVersion is the least version of TLS. Default: 1.3. What connects to
	// programs that are not ours may take 1.2.
	MinVersion uint16
	// Clock is the wall clock. Default: time.Now.
	Clock func() time.Time
	// Log is told of renewals and of trouble. Default: nobody.
	Log *slog.Logger
}

// Set is what the files hold. All methods may be called concurrently.
type Set struct {
	o   Options
	now atomic.Pointer[state]

	mu     sync.Mutex // held by who looks at the files
	looked time.Time
	warned string // what was warned of last

	fault             atomic.Pointer[string]
	reloads, failures atomic.Uint64
}

// state is one reading of the files. It does not change.
type state struct {
	pair    *tls.Certificate // nil: none
	pairSum [sha256.Size]byte
	pool    *x509.CertPool // nil: the system's, or none
	poolSum [sha256.Size]byte
}

// Open reads the files. Here a broken one is an error; an expired certificate
// is not, since the clock may be what is wrong.
func Open(o Options) (*Set, error) {
	if (o.Cert == "") != (o.Key == "") {
		return nil, errors.New("a certificate and its key come together")
	}
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	if o.MinVersion == 0 {
		o.MinVersion = tls.VersionTLS13
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Set{o: o, looked: o.Clock()}
	next, err := s.read(&state{})
	if err != nil {
		return nil, err
	}
	s.now.Store(next)
	s.warn(s.looked)
	return s, nil
}

// current is what the files hold, or held when they were last right, as of a
// look no longer ago than age.
func (s *Set) current(age time.Duration) *state {
	if !s.mu.TryLock() { // somebody looks: whoever comes meanwhile does not wait for a slow disk
		return s.now.Load()
	}
	defer s.mu.Unlock()
	now := s.o.Clock()
	if since := now.Sub(s.looked); since >= 0 && since < age {
		return s.now.Load()
	}
	s.looked = now
	s.look(now)
	return s.now.Load()
}

// look reads the files. Called with mu.
func (s *Set) look(now time.Time) {
	old := s.now.Load()
	next, err := s.read(old)
	if err != nil {
		text := err.Error()
		if was := s.fault.Swap(&text); was == nil || *was != text {
			s.failures.Add(1)
			s.o.Log.Error("certificates can't be renewed; those in use stay", "for", s.o.Name, "error", err)
		}
	} else if s.fault.Swap(nil) != nil {
		s.o.Log.Info("the files of certificates are right again", "for", s.o.Name)
	}
	if next.pairSum != old.pairSum || next.poolSum != old.poolSum {
		s.reloads.Add(1)
		s.now.Store(next)
		attrs := []any{"for", s.o.Name}
		if next.pair != nil {
			attrs = append(attrs, "subject", next.pair.Leaf.Subject.String(), "expires", next.pair.Leaf.NotAfter)
		}
		s.o.Log.Info("certificates renewed", attrs...)
	}
	s.warn(now)
}

// read reads the files. Where there is an error, what is broken is as in old.
func (s *Set) read(old *state) (*state, error) {
	next := *old
	var errs [2]error
	if s.o.Cert != "" {
		var err error
		for range 2 { // both may just have been replaced, one after the other
			if err = s.readPair(&next, old); err == nil {
				break
			}
		}
		errs[0] = err
	}
	if s.o.CA != "" {
		errs[1] = s.readPool(&next)
	}
	return &next, errors.Join(errs[:]...)
}

func (s *Set) readPair(next, old *state) error {
	cert, err := readFile(s.o.Cert)
	if err != nil {
		return fmt.Errorf("cert_file: %w", err)
	}
	key, err := readFile(s.o.Key)
	if err != nil {
		return fmt.Errorf("key_file: %w", err)
	}
	sum := sha256.Sum256(bytes.Join([][]byte{cert, key}, []byte{0}))
	if sum == old.pairSum {
		return nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("cert_file %s, key_file: %w", s.o.Cert, err)
	}
	now := s.o.Clock()
	if old.pair != nil && valid(old.pair.Leaf, now) && !valid(pair.Leaf, now) {
		return fmt.Errorf("cert_file %s: it is valid from %v to %v only", s.o.Cert,
			pair.Leaf.NotBefore.UTC().Format(time.RFC3339), pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	next.pair, next.pairSum = &pair, sum
	return nil
}

func valid(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

func (s *Set) readPool(next *state) error {
	text, err := readFile(s.o.CA)
	if err != nil {
		return fmt.Errorf("ca_file: %w", err)
	}
	sum := sha256.Sum256(text)
	if sum == next.poolSum {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return fmt.Errorf("ca_file: %s holds no certificate in PEM", s.o.CA)
	}
	next.pool, next.poolSum = pool, sum
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return b, err
}

// Run looks at the files now and then until ctx ends, so that trouble is told
// though nobody connects.
func (s *Set) Run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.current(s.o.Every)
		}
	}
}

// Status is how the files are doing.
type Status struct {
	Name string
	// NotAfter is when the certificate in use expires; zero where there is
	// none.
	NotAfter time.Time
	// Reloads counts what was taken from replaced files, Failures the times
	// that they were found broken.
	Reloads, Failures uint64
	// Fault is what is wrong with the files now, "" if nothing is.
	Fault string
	// Warning is what somebody should do something about, in words; "" is
	// nothing.
	Warning string
}

// Status tells how the files are doing, and looks at them if it is time to.
func (s *Set) Status() Status {
	now := s.current(s.o.Every)
	t := Status{Name: s.o.Name, Reloads: s.reloads.Load(), Failures: s.failures.Load()}
	if f := s.fault.Load(); f != nil {
		t.Fault = *f
		t.Warning = fmt.Sprintf("certificates (%s) can't be renewed, those in use stay: %s", s.o.Name, *f)
	}
	if now.pair != nil {
		t.NotAfter = now.pair.Leaf.NotAfter
		if w := expiry(now.pair.Leaf, s.o.Clock()); w != "" {
			t.Warning = fmt.Sprintf("the certificate (%s, %s) %s", s.o.Name, s.o.Cert, w)
		}
	}
	return t
}

// expiry is what there is to say of a certificate's time, "" for nothing.
func expiry(c *x509.Certificate, now time.Time) string {
	end := c.NotAfter.UTC().Format(time.RFC3339)
	switch left := c.NotAfter.Sub(now); {
	case now.Before(c.NotBefore):
		return "is not valid before " + c.NotBefore.UTC().Format(time.RFC3339) + ": is the clock right?"
	case left < 0:
		return "has expired at " + end
	case left < min(warnBefore, c.NotAfter.Sub(c.NotBefore)/6):
		return "expires at " + end + " and has not been renewed"
	}
	return ""
}

// warn logs of a certificate's end: once when it is near, once when it has
// come. Called with mu.
func (s *Set) warn(now time.Time) {
	text := ""
	if p := s.now.Load().pair; p != nil {
		text = expiry(p.Leaf, now)
	}
	if text != "" && text != s.warned {
		s.o.Log.Warn("the certificate "+text, "for", s.o.Name, "file", s.o.Cert) //nolint:sloglint // one of three fixed texts with a time
	}
	s.warned = text
}
