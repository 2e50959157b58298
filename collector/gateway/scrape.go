package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

const (
	// mostSeries and so on bound a gateway's page: tens of thousands of tenants
	// with a dozen series each.
	mostSeries   = 200_000
	pageBytes    = 128 << 20
	pageRetained = 96 << 20
	// roundRetained is how much the pages of a round may keep in memory
	// together; leastRetained is each one's, whatever their number.
	roundRetained = 384 << 20
	leastRetained = 4 << 20
	// mostAddresses is how many addresses one gateway may have.
	mostAddresses = 256
	// atOnce is how many of them are asked at once.
	atOnce = 4
)

// place is one address at which a page is.
type place struct {
	url  string
	ip   string // "": whatever the host's name leads to
	name string // to the book, and to people
}

// scraper asks a gateway's addresses. It is used by one goroutine at a time.
type scraper struct {
	o       *Options
	formats *format.Set
	resolve func(ctx context.Context, host string) ([]string, error)
}

// answer is what came of asking one address.
type answer struct {
	place   place
	reading *serving.Reading
	err     error
}

// scrape asks every address once. An error is of all of them.
func (s *scraper) scrape(ctx context.Context) ([]answer, error) {
	token, pool, err := s.o.credentials()
	if err != nil {
		return nil, err
	}
	places, failed := s.places(ctx)
	answers := make([]answer, len(places), len(places)+len(failed))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, p := range places {
		answers[i].place = p
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answers[i].reading, answers[i].err = s.read(ctx, p, token, pool, retained(len(places)))
		})
	}
	wg.Wait()
	return append(answers, failed...), nil
}

// places are the addresses to be asked; failed are the URLs whose host is not
// known.
func (s *scraper) places(ctx context.Context) (places []place, failed []answer) {
	for _, text := range s.o.URLs {
		p := place{url: text, name: text}
		u, err := url.Parse(text)
		if err == nil && s.o.ResolveAll {
			var ips []string
			ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
			ips, err = s.resolve(ctx, u.Hostname())
			cancel()
			slices.Sort(ips)
			for _, ip := range slices.Compact(ips) {
				if len(places) < mostAddresses {
					places = append(places, place{url: text, ip: ip, name: text + " at " + ip})
				} else {
					err = fmt.Errorf("the host has too many addresses: %d in all are asked", mostAddresses)
				}
			}
		} else if err == nil {
			places = append(places, p)
		}
		if err != nil {
			failed = append(failed, answer{place: p, err: err})
		}
	}
	return places, failed
}

// retained is how many bytes of a page may be kept where a round has so many.
func retained(pages int) int64 {
	return max(min(pageRetained, int64(roundRetained/pages)), leastRetained)
}

// read asks for one page and reads it.
func (s *scraper) read(ctx context.Context, p place, token string, pool *x509.CertPool, keep int64) (*serving.Reading, error) {
	header := make(http.Header)
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	limits := exposition.DefaultLimits()
	limits.Bytes, limits.Retained, limits.Series, limits.Timeout = pageBytes, keep, mostSeries, s.o.Timeout
	page, err := exposition.Fetch(ctx, clientOf(p, pool), p.url, header, s.formats.Wanted, limits)
	if err != nil {
		return nil, err
	}
	r, err := s.formats.Read(page, format.Options{Format: s.o.Format, Labels: s.o.Subject})
	if err != nil {
		return nil, err
	}
	if !isGateway(s.formats, r.Format) {
		return nil, fmt.Errorf("the page is that of a server (%s), not of a gateway: agents read servers by themselves", r.Format)
	}
	return r, nil
}

func isGateway(set *format.Set, name string) bool {
	return slices.ContainsFunc(set.Endpoints(), func(e format.Endpoint) bool { return e.Format == name && e.Gateway })
}

// clientOf is a client that opens one connection, to the place's own address. A
// connection that stayed open would always lead to the same of several
// processes behind a service.
func clientOf(p place, pool *x509.CertPool) *http.Client {
	t := exposition.NewTransport()
	t.DisableKeepAlives = true
	if dial := t.DialContext; p.ip != "" {
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return dial(ctx, network, net.JoinHostPort(p.ip, port))
		}
	}
	if pool != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t}
}

// explain is an error as it is told in the status: short, and with what helps.
func explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return text + " (is urls right, and can the collector resolve it?)"
	case errors.Is(err, context.DeadlineExceeded):
		return text + " (it is slow: raise timeout, or ask it less often)"
	}
	return text
}
