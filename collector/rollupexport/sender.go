package rollupexport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// What is read of a receiver's answers and of a token's file, in bytes.
const (
	maxAnswer = 64 << 10
	maxToken  = 16 << 10
)

// sender sends requests with what the options say, and bounds the answers.
type sender struct {
	*http.Transport
	o *RemoteWriteOptions
}

func newSender(o *RemoteWriteOptions) (*sender, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it (want PEM)", o.CAFile)
		}
	}
	if o.CertFile != "" {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			return &cert, err
		}
		if _, err := load(nil); err != nil {
			return nil, fmt.Errorf("the client's certificate: %w", err)
		}
		conf.GetClientCertificate = load
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig, t.MaxConnsPerHost, t.MaxResponseHeaderBytes = conf, 1, maxAnswer
	s := &sender{t, o}
	if o.BearerTokenFile != "" {
		if _, err := s.token(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// token is read each time: it is replaced while it runs.
func (s *sender) token() (string, error) {
	f, err := os.Open(s.o.BearerTokenFile)
	if err != nil {
		return "", fmt.Errorf("the bearer token: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("the bearer token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || len(b) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("the bearer token: %s holds none", s.o.BearerTokenFile)
	}
	return token, nil
}

// RoundTrip sends a request.
func (s *sender) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", "gpuledger-collector/"+s.o.Version)
	for k, v := range s.o.Headers {
		r.Header.Set(k, v.Reveal())
	}
	if s.o.BearerTokenFile != "" {
		token, err := s.token()
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := s.Transport.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxAnswer), res.Body}
	}
	return res, err
}
