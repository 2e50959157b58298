package podwatch

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Where Kubernetes puts a pod's credentials.
const (
	serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
	serviceAccountCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// access is how to reach a server, and as whom.
type access struct {
	base *url.URL

	ca         []byte // PEM; caFile if nil; the system's roots if neither is given
	caFile     string
	serverName string
	insecure   bool

	token      string // or
	tokenFile  string // read at each request, since it is replaced while it is valid; or
	cert, key  []byte // PEM, or
	certFile   string // read at each connection, for the same reason
	keyFile    string
	throughEnv bool // by the proxy that the environment names
}

// client makes requests. Its files are read anew when it is made anew, which a
// source does after each failure.
type client struct {
	*access
	http      http.Client
	transport *http.Transport
}

// connect makes a client; close ends its connections.
func (a *access) connect() (*client, error) {
	conf, err := a.tls()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig:     conf,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     time.Minute,
		// A connection that is dead is found out about within 45 s; a watch
		// is silent for minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if a.throughEnv {
		t.Proxy = http.ProxyFromEnvironment
	}
	c := &client{access: a, transport: t}
	// A token goes to nobody else.
	c.http = http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

func (a *access) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: a.serverName, InsecureSkipVerify: a.insecure} //nolint:gosec // as its user asks for
	pem := a.ca
	if pem == nil && a.caFile != "" && !a.insecure {
		b, err := readFile(a.caFile)
		if err != nil {
			return nil, fmt.Errorf("the certificates of the CA: %w", err)
		}
		pem = b
	}
	if pem != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the certificates of the CA (%s): no certificate in PEM form", a.caFile)
		}
	}
	if a.certFile != "" || a.cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return a.certificate()
		}
	}
	return conf, nil
}

func (a *access) certificate() (*tls.Certificate, error) {
	cert, key := a.cert, a.key
	var errs [2]error
	if cert == nil {
		cert, errs[0] = readFile(a.certFile)
	}
	if key == nil {
		key, errs[1] = readFile(a.keyFile)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("the client's certificate: %w", err)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the client's certificate: %w", err)
	}
	return &c, nil
}

// get asks for a path below the base and returns the body of a 200, which the
// caller closes. Other answers are a *statusError.
func (c *client) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "gpuledger-agent")
	token := c.token
	if c.tokenFile != "" {
		b, err := readFile(c.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("the service account's token: %w", err)
		}
		token = string(bytes.TrimSpace(b))
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if u := (*url.Error)(nil); errors.As(err, &u) { // its URL differs each time, and would be logged each time
		return nil, fmt.Errorf("%s: %w", c.base.Host, u.Err)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		body = nil
	}
	e := statusOf(bytes.TrimSpace(body))
	e.Code = resp.StatusCode
	e.Message = strings.ToValidUTF8(e.Message, "?")
	return nil, e
}

// readFile reads a small file: a token, a certificate, a configuration.
func readFile(name string) ([]byte, error) {
	const most = 1 << 20
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s: more than %d bytes", name, most)
	}
	return b, err
}
