package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gpuledger/gpuledger/internal/certs"
	"github.com/gpuledger/gpuledger/internal/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shake makes one connection; it returns the names that each side showed.
func shake(t *testing.T, server, client *certs.Set) (serverName, clientName string, err error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, server.ServerConfig("test"))
	conf := client.ClientConfig()
	conf.ServerName = "localhost"
	c := tls.Client(b, conf)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil { // a client hears of a refusal only when it reads
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	err = c.Handshake()
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err != nil {
		b.Close()
	}
	err = errors.Join(err, <-done)
	if err != nil {
		return "", "", err
	}
	if cs := s.ConnectionState().PeerCertificates; len(cs) > 0 {
		clientName = cs[0].Subject.CommonName
	}
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName, clientName, nil
}

func open(t *testing.T, o certs.Options) *certs.Set {
	t.Helper()
	s, err := certs.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// log keeps what is logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

func newLog() (*log, *slog.Logger) {
	l := &log{}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

// TestRenewal plays a certificate's life: renewed by a swapped link, renewed
// badly, and well again, under another authority.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said, logger := newLog()
		ca := certstest.New(t)
		mine, theirs := ca.Mount(certstest.Leaf{CommonName: "s1"}), ca.Mount(certstest.Leaf{CommonName: "c1"})
		server := open(t, certs.Options{Name: "listen", Cert: mine.Cert, Key: mine.Key, CA: mine.CA, Log: logger})
		client := open(t, certs.Options{Name: "collector", Cert: theirs.Cert, Key: theirs.Key, CA: theirs.CA})
		both := func(wantServer, wantClient string) {
			t.Helper()
			s, c, err := shake(t, server, client)
			if err != nil || s != wantServer || c != wantClient {
				t.Fatalf("%q, %q, %v: want %q, %q", s, c, err, wantServer, wantClient)
			}
		}
		both("s1", "c1")

		cert, key := ca.Issue(certstest.Leaf{CommonName: "s2"})
		mine.Swap(t, cert, key, ca.PEM)
		both("s1", "c1") // it was looked at a moment ago
		time.Sleep(certs.DefaultEvery)
		both("s2", "c1")
		if s := server.Status(); s.Reloads != 1 || s.Failures != 0 || s.Fault != "" {
			t.Fatalf("%+v", s)
		}

		_, other := ca.Issue(certstest.Leaf{})
		mine.Swap(t, cert, other, ca.PEM)
		for range 3 {
			time.Sleep(certs.DefaultEvery)
			both("s2", "c1")
		}
		s := server.Status()
		if s.Reloads != 1 || s.Failures != 1 || !strings.Contains(s.Fault, "private key does not match") || s.Warning == "" {
			t.Fatalf("%+v", s)
		}
		if text := said.take(); strings.Count(text, "level=ERROR") != 1 {
			t.Fatalf("told other than once:\n%s", text)
		}
		if strings.Contains(s.Fault, "PRIVATE") {
			t.Fatal("a fault shows a key")
		}

		next := certstest.New(t)
		cert, key = ca.Issue(certstest.Leaf{CommonName: "s3"})
		mine.Swap(t, cert, key, next.PEM) // clients of the old authority are no longer wanted
		time.Sleep(certs.DefaultEvery)
		if _, _, err := shake(t, server, client); err == nil {
			t.Fatal("a client of the old authority was taken")
		}
		cert, key = next.Issue(certstest.Leaf{CommonName: "c2"})
		theirs.Swap(t, cert, key, ca.PEM)
		time.Sleep(certs.DefaultEvery)
		both("s3", "c2")
		if s := server.Status(); s.Reloads != 2 || s.Failures != 1 || s.Fault != "" || s.Warning != "" {
			t.Fatalf("%+v", s)
		}
		if text := said.take(); !strings.Contains(text, "right again") {
			t.Fatalf("not told:\n%s", text)
		}
	})
}

// TestBroken has every file broken in turn: what is in use stays.
func TestBroken(t *testing.T) {
	type files struct{ cert, key, ca []byte }
	for name, c := range map[string]struct {
		damage func(ca *certstest.Authority, good files) files
		say    string
		second bool // the new certificate is taken all the same
	}{
		"empty":        {func(_ *certstest.Authority, f files) files { return files{ca: f.ca} }, "cert_file", false},
		"not PEM":      {func(_ *certstest.Authority, f files) files { return files{[]byte("x"), []byte("y"), f.ca} }, "cert_file", false},
		"half written": {func(_ *certstest.Authority, f files) files { return files{f.cert[:len(f.cert)/2], f.key, f.ca} }, "cert_file", false},
		"another's key": {func(ca *certstest.Authority, f files) files {
			_, key := ca.Issue(certstest.Leaf{})
			return files{f.cert, key, f.ca}
		}, "does not match", false},
		"expired": {func(ca *certstest.Authority, f files) files {
			cert, key := ca.Issue(certstest.Leaf{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
			return files{cert, key, f.ca}
		}, "valid from", false},
		"too early": {func(ca *certstest.Authority, f files) files {
			cert, key := ca.Issue(certstest.Leaf{NotBefore: time.Now().Add(30 * time.Minute)})
			return files{cert, key, f.ca}
		}, "valid from", false},
		"no authority": {func(_ *certstest.Authority, f files) files { return files{f.cert, f.key, []byte("x")} }, "ca_file", true},
		"endless": {func(_ *certstest.Authority, f files) files {
			return files{f.cert, f.key, bytes.Repeat([]byte{' '}, 1<<20+1)}
		}, "more than", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := certstest.New(t)
				at := ca.Mount(certstest.Leaf{CommonName: "first"})
				s := open(t, certs.Options{Cert: at.Cert, Key: at.Key, CA: at.CA})
				cert, key := ca.Issue(certstest.Leaf{CommonName: "second"})
				f := c.damage(ca, files{cert, key, ca.PEM})
				at.Swap(t, f.cert, f.key, f.ca)
				time.Sleep(certs.DefaultEvery)
				if st := s.Status(); !strings.Contains(st.Fault, c.say) || st.Failures != 1 {
					t.Fatalf("%+v, want %q", st, c.say)
				}
				name, _, err := shake(t, s, s)
				if err != nil || (name == "second") != c.second {
					t.Fatalf("%q, %v", name, err)
				}
			})
		})
	}
	if _, err := certs.Open(certs.Options{Cert: "x"}); err == nil {
		t.Error("half a pair")
	}
	if _, err := certs.Open(certs.Options{Name: "n", Cert: "/nowhere", Key: "/nowhere"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v: a start without its files is none", err)
	}
}

// TestExpiry: it is warned of in time, once, though nobody connects.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said, logger := newLog()
		ca := certstest.New(t)
		files := ca.Mount(certstest.Leaf{NotBefore: time.Now(), NotAfter: time.Now().Add(60 * time.Hour)})
		s := open(t, certs.Options{Name: "listen", Cert: files.Cert, Key: files.Key, Log: logger})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx)
		}()
		time.Sleep(50*time.Hour - 2*time.Minute)
		if st := s.Status(); st.Warning != "" || said.take() != "" {
			t.Fatalf("%+v", st)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if text := said.take(); strings.Count(text, "has not been renewed") != 1 {
			t.Fatalf("%q", text)
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if text := said.take(); strings.Count(text, "has expired") != 1 || !strings.Contains(s.Status().Warning, "has expired") {
			t.Fatalf("%q", text)
		}
		if got := s.Status().NotAfter; got.After(time.Now()) || got.Before(time.Now().Add(-2*time.Hour)) {
			t.Fatalf("%v", got)
		}
		cert, key := ca.Issue(certstest.Leaf{NotBefore: time.Now(), NotAfter: time.Now().Add(60 * time.Hour)})
		files.Swap(t, cert, key, ca.PEM)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := s.Status(); st.Warning != "" || st.Reloads != 1 {
			t.Fatalf("%+v", st)
		}
		stop()
		<-done
	})
}

// TestConnectionEndsWithItsCertificate: not before, and not much later.
func TestConnectionEndsWithItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.New(t)
		mine := ca.Mount(certstest.Leaf{NotAfter: time.Now().Add(24 * time.Hour)})
		theirs := ca.Mount(certstest.Leaf{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
		server := open(t, certs.Options{Cert: mine.Cert, Key: mine.Key, CA: mine.CA})
		client := open(t, certs.Options{Cert: theirs.Cert, Key: theirs.Key, CA: theirs.CA})
		pipe := bufconn.Listen(1 << 12)
		l := tls.NewListener(server.Listen(pipe), server.ServerConfig("test"))
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); c.Close() }()
			}
		}()
		dial := func() *tls.Conn {
			raw, err := pipe.DialContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conf := client.ClientConfig()
			conf.ServerName = "localhost"
			return tls.Client(raw, conf)
		}
		echo := func(c *tls.Conn) error {
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, 1))
			return err
		}
		c := dial()
		defer c.Close()
		if err := echo(c); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if err := echo(c); err != nil {
			t.Fatalf("ended before its time: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if echo(c) == nil {
			t.Fatal("outlasts its certificate")
		}
		again := dial()
		defer again.Close()
		if echo(again) == nil {
			t.Fatal("an expired certificate was taken")
		}
		cert, key := ca.Issue(certstest.Leaf{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
		theirs.Swap(t, cert, key, ca.PEM)
		time.Sleep(certs.DefaultEvery)
		again = dial()
		defer again.Close()
		if err := echo(again); err != nil {
			t.Fatal(err)
		}
	})
}

// TestConnectionOfACertificateWithoutAnEnd: RFC 5280 writes "never" as the end
// of the year 9999, which is further than a duration reaches.
func TestConnectionOfACertificateWithoutAnEnd(t *testing.T) {
	ca := certstest.New(t)
	mine := ca.Mount(certstest.Leaf{})
	theirs := ca.Mount(certstest.Leaf{NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	server := open(t, certs.Options{Cert: mine.Cert, Key: mine.Key, CA: mine.CA})
	client := open(t, certs.Options{Cert: theirs.Cert, Key: theirs.Key, CA: theirs.CA})
	pipe := bufconn.Listen(1 << 12)
	l := tls.NewListener(server.Listen(pipe), server.ServerConfig("test"))
	defer l.Close()
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	raw, err := pipe.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conf := client.ClientConfig()
	conf.ServerName = "localhost"
	c := tls.Client(raw, conf)
	defer c.Close()
	for range 20 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("ended before its time: %v", err)
		}
	}
}
