package exposition

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
)

var (
	// ErrTooLong says that a page has more bytes than the limits allow.
	ErrTooLong = errors.New("the page is longer than the limit")
	// ErrRedirect says that a server sent the reader elsewhere. Where it goes
	// is the server's choice, so nobody follows.
	ErrRedirect = errors.New("the server redirects, which is not followed: name the address of the page itself")
	// ErrNotText says that what was answered is no page in a text format.
	ErrNotText = errors.New("the answer is no metrics page in a text format")
)

// StatusError is an HTTP status other than 200.
type StatusError struct{ Status int }

// Error names the status, with a hint for those that have one.
func (e *StatusError) Error() string {
	hint := ""
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = ": the page wants credentials"
	case http.StatusNotFound:
		hint = ": no page at this path (are metrics switched on?)"
	}
	return fmt.Sprintf("HTTP status %d %s%s", e.Status, http.StatusText(e.Status), hint)
}

// NewTransport makes a transport for reading pages: no proxy, one idle
// connection for each server, and headers bounded, too.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    2 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         4 << 10,
	}
}

// Fetch reads the page at a URL. Redirects are not followed, the whole takes
// at most l.Timeout, and a body that ends before it should is an error.
// wanted is called with every line's family name, which it must not keep.
func Fetch(
	ctx context.Context, client *http.Client, url string, header http.Header, wanted func(name []byte) bool, l Limits,
) (*Page, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Accept", "text/plain;version=0.0.4,text/plain;q=0.9,application/openmetrics-text;q=0.5,*/*;q=0.1")
	req.Header.Set("Accept-Encoding", "identity") // within a cluster, packing costs more than it saves
	stay := *client
	stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := stay.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing is written, so nothing is lost
	if err := checkAnswer(resp); err != nil {
		return nil, err
	}
	body, err := unpacked(resp)
	if err != nil {
		return nil, err
	}
	// Without a length and without chunks, the connection's end is the page's,
	// and what its last line lacks cannot be told.
	framed := resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.ProtoMajor > 1 || resp.Uncompressed
	page, err := parse(body, framed, wanted, l)
	if err != nil {
		return nil, fmt.Errorf("reading the page: %w", err)
	}
	return page, nil
}

// checkAnswer refuses what is certainly no page.
func checkAnswer(resp *http.Response) error {
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return ErrRedirect
	case resp.StatusCode != http.StatusOK:
		return &StatusError{Status: resp.StatusCode}
	}
	// There are servers that do not say, or say it badly: the lines will tell.
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch media {
	case "", "text/plain", "application/openmetrics-text", "application/octet-stream":
		return nil
	default:
		return fmt.Errorf("%w: it is %.64q", ErrNotText, media)
	}
}

// unpacked is the answer's body; its length after that is for the caller to
// bound.
func unpacked(resp *http.Response) (io.Reader, error) {
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		return gzip.NewReader(resp.Body)
	default:
		return nil, fmt.Errorf("%w: it is packed as %.32q, unasked", ErrNotText, encoding)
	}
}
