package exposition

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answer fetches what a handler answers.
func answer(t *testing.T, h http.HandlerFunc, change ...func(*Limits)) (*Page, error) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	transport := NewTransport()
	defer transport.CloseIdleConnections()
	l := DefaultLimits()
	l.Timeout = time.Minute // a busy machine is no slow server
	for _, c := range change {
		c(&l)
	}
	return Fetch(t.Context(), &http.Client{Transport: transport}, server.URL, http.Header{"X-Key": {"k"}}, all, l)
}

func TestFetch(t *testing.T) {
	p, err := answer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "k" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("headers %v", r.Header)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, "a 1\nb 2")
	})
	if err != nil || len(p.Samples) != 2 {
		t.Errorf("%v %v", p, err)
	}
}

func TestAnswersThatAreNoPage(t *testing.T) {
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
		want   error
	}{
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		}, ErrRedirect},
		{"html", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}, ErrNotText},
		{"json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}, ErrNotText},
		{"packed as nobody asked", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
		}, ErrNotText},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "a 1\nb 12")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, io.ErrUnexpectedEOF},
		{"gzip that is none", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "a 1 and that is no gzip")
		}, gzip.ErrHeader},
	} {
		if _, err := answer(t, c.handle); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	_, err := answer(t, http.NotFound)
	if e, ok := errors.AsType[*StatusError](err); !ok || e.Status != 404 || !strings.Contains(err.Error(), "metrics switched on") {
		t.Errorf("404: %v", err)
	}
}

// A bomb of 1 GiB costs what the limit allows, and no more.
func TestGzipBomb(t *testing.T) {
	_, err := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		line := []byte(strings.Repeat(" ", 1<<20))
		for range 1 << 10 {
			if _, err := z.Write(line); err != nil {
				return // the reader has gone
			}
		}
		_ = z.Close()
	}, func(l *Limits) { l.Bytes = 4 << 20 })
	if !errors.Is(err, ErrTooLong) {
		t.Errorf("%v", err)
	}
}

func TestGzipUnasked(t *testing.T) {
	p, err := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "text/plain")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "a 1\n")
		_ = z.Close()
	})
	if err != nil || len(p.Samples) != 1 {
		t.Errorf("%v %v", p, err)
	}
}

// HTTP/1.0 ends a page by closing: what its last line lacks cannot be told.
func TestUnframed(t *testing.T) {
	p, err := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = fmt.Fprintf(rw, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\na 1\nb 12")
		_ = rw.Flush()
		_ = conn.Close()
	})
	if err != nil || len(p.Samples) != 1 || p.Drops.Malformed != 1 {
		t.Errorf("%+v %v", p, err)
	}
}

// A server that sends a byte now and then is given up at the deadline.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = server.Close() }()
			if _, err := http.ReadRequest(bufio.NewReader(server)); err != nil {
				return
			}
			_, err := io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.WriteString(server, "a")
			}
		}()
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
		begin := time.Now()
		_, err := Fetch(t.Context(), &http.Client{Transport: transport}, "http://slow/", nil, all, DefaultLimits())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(begin); took != DefaultLimits().Timeout {
			t.Errorf("took %v", took)
		}
		transport.CloseIdleConnections()
		<-done
	})
}
