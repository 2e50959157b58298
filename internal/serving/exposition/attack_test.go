package exposition

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A page whose length is a lie, or whose packing ends early, is no page: what
// is missing of it would seem not to be counted.
func TestPagesThatEndEarly(t *testing.T) {
	packed := func(cut int) string {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, strings.Repeat("a 1\n", 100)) // a strings.Builder never fails
		_ = z.Close()
		return b.String()[:b.Len()-cut]
	}
	for name, handle := range map[string]http.HandlerFunc{
		"longer than it is": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "a 1\n")
		},
		"chunks without an end": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a 1\n")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"gzip without its sum": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, packed(8))
		},
	} {
		if p, err := answer(t, handle); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v %v", name, p, err)
		}
	}
	_, err := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		text := []byte(packed(0))
		text[len(text)-8] ^= 1
		_, _ = w.Write(text)
	})
	if !errors.Is(err, gzip.ErrChecksum) {
		t.Errorf("another sum: %v", err)
	}
}

// A server that answers nothing but a status, or with the formats that nobody
// asked for, is refused by what it says.
func TestFormatsThatNobodyAskedFor(t *testing.T) {
	for _, media := range []string{
		"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", "text/event-stream",
	} {
		_, err := answer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			_, _ = io.WriteString(w, "a 1\n")
		})
		if !errors.Is(err, ErrNotText) {
			t.Errorf("%s: %v", media, err)
		}
	}
	for _, encoding := range []string{"gzip, gzip", "deflate", "zstd"} {
		_, err := answer(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Encoding", encoding) })
		if !errors.Is(err, ErrNotText) {
			t.Errorf("%s: %v", encoding, err)
		}
	}
	_, err := answer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if e, ok := errors.AsType[*StatusError](err); !ok || e.Status != http.StatusNoContent {
		t.Errorf("204: %v", err)
	}
}

// A page with carriage returns, and one of OpenMetrics, read as what they are.
func TestOtherWaysToWriteAPage(t *testing.T) {
	p := read(t, "# TYPE a counter\r\na_total{b=\"c\"} 1.0 # {trace_id=\"d\",n=\"}{\"} 0.67 1.7e9\r\na_created{b=\"c\"} 1.7e9\r\n# EOF\r\n")
	if len(p.Samples) != 2 || p.Drops != (Drops{}) || show(p.Samples[0]) != `a_total b="c" 1` {
		t.Errorf("%v %+v", p.Samples, p.Drops)
	}
	// Two spellings of one set of labels are one series, two of a bound are not.
	p = read(t, "a{le=\"1\",b=\"\\\\\"} 1\na{ b=\"\\\\\" , le=\"1\", } 2\na{le=\"1.0\",b=\"\\\\\"} 3\n")
	if len(p.Samples) != 2 || p.Drops.Duplicate != 1 || p.Samples[0].ID == p.Samples[1].ID {
		t.Errorf("%v %+v", p.Samples, p.Drops)
	}
}
