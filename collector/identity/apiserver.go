package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/gpuledger/gpuledger/internal/certs"
)

// Where Kubernetes puts a pod's credentials.
const (
	InClusterToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
	InClusterCA    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

const maxAnswer = 1 << 20

// APIServer is a [Reviewer] that asks a Kubernetes API server, as whoever's
// token it has: the service account needs "create" on tokenreviews.
type APIServer struct {
	url, tokenFile string
	certs          *certs.Set
	http           *http.Client
}

// APIServerOptions say where it is.
type APIServerOptions struct {
	URL       string // https://host:port; "": as the pod's environment says
	CAFile    string // "": the pod's
	TokenFile string // "": the pod's. Read for each question, since it is replaced
	Getenv    func(string) string
}

// NewAPIServer makes a client. Nothing is asked yet. Close it.
func NewAPIServer(o APIServerOptions) (*APIServer, error) {
	if o.URL == "" {
		host, port := o.Getenv("KUBERNETES_SERVICE_HOST"), o.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("this is no pod of Kubernetes: name api_server, ca_file and token_file")
		}
		o.URL = "https://" + net.JoinHostPort(host, port)
	}
	if u, err := url.Parse(o.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("api_server: want https://host:port")
	}
	if o.CAFile == "" {
		o.CAFile = InClusterCA
	}
	if o.TokenFile == "" {
		o.TokenFile = InClusterToken
	}
	set, err := certs.Open(certs.Options{Name: "api_server", CA: o.CAFile, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	a := &APIServer{url: o.URL + "/apis/authentication.k8s.io/v1/tokenreviews", tokenFile: o.TokenFile, certs: set}
	a.http = &http.Client{
		Transport: &http.Transport{
			DialTLSContext: a.dial, MaxConnsPerHost: 8, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
		// Tokens go to nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a, nil
}

// dial begins a connection with the authorities that the file holds now.
func (a *APIServer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conf := a.certs.ClientConfig()
	conf.ServerName, _, _ = net.SplitHostPort(addr)
	return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: conf}).DialContext(ctx, network, addr)
}

// Close ends its connections.
func (a *APIServer) Close() { a.http.CloseIdleConnections() }

// tokenReview is the little that is used of authentication.k8s.io/v1: the
// library's types would weigh more than the rest of this package.
type tokenReview struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Token     string   `json:"token,omitempty"`
		Audiences []string `json:"audiences,omitempty"`
	} `json:"spec"`
	Status struct {
		Authenticated bool `json:"authenticated,omitempty"`
		User          struct {
			Username string              `json:"username,omitempty"`
			Extra    map[string][]string `json:"extra,omitempty"`
		} `json:"user"`
		Audiences []string `json:"audiences,omitempty"`
		Error     string   `json:"error,omitempty"`
	} `json:"status"`
}

// Review implements [Reviewer]. Its errors do not show the token.
func (a *APIServer) Review(ctx context.Context, token, audience string) (Review, error) {
	q := tokenReview{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}
	q.Spec.Token, q.Spec.Audiences = token, []string{audience}
	body, err := json.Marshal(q)
	if err != nil {
		return Review{}, err
	}
	own, err := os.ReadFile(a.tokenFile)
	if err != nil {
		return Review{}, fmt.Errorf("the collector's own token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return Review{}, err
	}
	r.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(own)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "gpuledger-collector")
	resp, err := a.http.Do(r)
	if err != nil {
		return Review{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Review{}, err
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return Review{}, fmt.Errorf("the API server answers %s (the collector's service account needs create on tokenreviews.authentication.k8s.io)", resp.Status)
	case resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK:
		return Review{}, fmt.Errorf("the API server answers %s", resp.Status)
	case len(text) > maxAnswer:
		return Review{}, errors.New("the API server's answer is too long")
	}
	var answer tokenReview
	if err := json.Unmarshal(text, &answer); err != nil || answer.Kind != "TokenReview" {
		return Review{}, errors.New("the API server's answer is no TokenReview")
	}
	s := answer.Status
	return Review{Authenticated: s.Authenticated, Username: s.User.Username, Extra: s.User.Extra, Audiences: s.Audiences, Error: s.Error}, nil
}
