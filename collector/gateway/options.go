package gateway

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// Bounds of a configuration.
const (
	MaxGateways = 64
	MaxURLs     = 64
	MaxLabels   = 32
	MaxBackends = 256 // rules
	maxURL      = 256 // bytes

	// MostTenants is the largest number of tenants that can be told apart.
	MostTenants = 20_000
)

// Defaults of [Options].
const (
	DefaultCluster    = "default"
	DefaultInterval   = 15 * time.Second
	DefaultTimeout    = 10 * time.Second
	DefaultMaxTenants = 1000
)

// Options say how one gateway is read. The zero value of a field means its
// default, except where said.
type Options struct {
	Name    string // required: letters, digits, ".", "_" and "-", at most 63
	Cluster string // that it is said to be in
	URLs    []string
	// ResolveAll asks each address that a URL's host has, for itself.
	ResolveAll bool
	Format     string // "": recognised
	Rules      []format.Rule
	Interval   time.Duration
	Timeout    time.Duration // of one page
	// BearerTokenFile and CAFile are read for each round.
	BearerTokenFile string
	CAFile          string
	Labels          map[string]string // of its owners
	Subject         format.Labels     // what tells tenants, tiers, models and backends
	// ModelPrefixes are taken off models' names, the first that fits. nil: those
	// of [KnownPrefixes] where the format is LiteLLM's.
	ModelPrefixes []string
	MaxTenants    int
	Backends      []join.Rule
}

// KnownPrefixes are names of providers that LiteLLM puts before the name of a
// model which is served by somebody's own servers.
var KnownPrefixes = [...]string{
	"hosted_vllm/", "vllm/", "openai/", "text-completion-openai/", "custom_openai/", "openai_like/", "litellm_proxy/",
	"huggingface/", "nvidia_nim/", "triton/", "ollama/", "ollama_chat/", "llamafile/", "lm_studio/", "xinference/", "infinity/",
}

// LiteLLM is the name of LiteLLM's format.
const LiteLLM = "litellm"

func (o *Options) withDefaults() Options {
	c := *o
	if c.Cluster == "" {
		c.Cluster = DefaultCluster
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(DefaultTimeout, c.Interval)
	}
	if c.MaxTenants == 0 {
		c.MaxTenants = DefaultMaxTenants
	}
	return c
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate finds what is wrong with options, by the keys of the configuration.
func (o *Options) Validate(bad func(key, format string, args ...any)) {
	if !nameForm.MatchString(o.Name) {
		bad("name", "%q: want at most 63 letters, digits, dots, underscores or hyphens", o.Name)
	}
	if o.Cluster != "" && !isName(o.Cluster) {
		bad("cluster", "%q: want at most %d printable characters", o.Cluster, maxName)
	}
	o.validateURLs(bad)
	if o.Interval != 0 && (o.Interval < time.Second || o.Interval > time.Hour) {
		bad("interval", "%v: want 1s to 1h", o.Interval)
	}
	if o.Timeout < 0 || o.Timeout > time.Minute {
		bad("timeout", "%v: want at most 1m", o.Timeout)
	}
	if o.MaxTenants < 0 || o.MaxTenants > MostTenants {
		bad("max_tenants", "%d: want at most %d", o.MaxTenants, MostTenants)
	}
	if len(o.Labels) > MaxLabels {
		bad("labels", "%d labels: want at most %d", len(o.Labels), MaxLabels)
	}
	for k, v := range o.Labels {
		if k == "" || !isName(k) || (v != "" && !isName(v)) {
			bad("labels", "%q: %q: want at most %d printable characters each", k, v, maxName)
		}
	}
	if len(o.Backends) > MaxBackends {
		bad("backends", "%d rules: want at most %d", len(o.Backends), MaxBackends)
	}
	for i, r := range o.Backends {
		key := fmt.Sprintf("backends[%d]", i)
		says := r.Cluster != "" || r.Namespace != "" || r.Controller != "" || len(r.Labels) > 0
		switch {
		case r.Backend == "":
			bad(key+".backend", `is missing: "*" matches every backend, also one that is not told`)
		case r.Elsewhere == says:
			bad(key, "want what the owners are (cluster, namespace, controller, labels), or elsewhere: true")
		}
	}
	if _, err := o.formats(); err != nil {
		bad("format", "%v", err)
	}
}

func (o *Options) validateURLs(bad func(key, format string, args ...any)) {
	if len(o.URLs) == 0 || len(o.URLs) > MaxURLs {
		bad("urls", "%d addresses: want 1 to %d", len(o.URLs), MaxURLs)
	}
	for i, s := range o.URLs {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			bad(fmt.Sprintf("urls[%d]", i), "%v", err)
		case len(s) > maxURL:
			bad(fmt.Sprintf("urls[%d]", i), "has %d bytes: want at most %d", len(s), maxURL)
		case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
			bad(fmt.Sprintf("urls[%d]", i), "%q: want http://host:port/path or https://…", u.Redacted())
		case u.User != nil:
			bad(fmt.Sprintf("urls[%d]", i), "holds a password: put a token into a file and name it in bearer_token_file")
		case slices.Index(o.URLs, s) != i:
			bad(fmt.Sprintf("urls[%d]", i), "%q is there twice", s)
		}
	}
}

// formats are those that the gateway's page may be in.
func (o *Options) formats() (*format.Set, error) {
	set, err := format.Builtin().With(o.Rules)
	if err != nil {
		return nil, err
	}
	if o.Format == "" {
		return set, nil
	}
	var gateways []string
	for _, e := range set.Endpoints() {
		if e.Gateway {
			gateways = append(gateways, e.Format)
		}
	}
	if !slices.Contains(gateways, o.Format) {
		slices.Sort(gateways)
		return nil, fmt.Errorf("%q is no gateway's format: want one of %s, or one of a rule file", o.Format, strings.Join(slices.Compact(gateways), ", "))
	}
	return set, nil
}

// credentials reads what a round needs to be let in; nil pool: the system's.
func (o *Options) credentials() (token string, pool *x509.CertPool, err error) {
	if o.BearerTokenFile != "" {
		b, err := readSmall(o.BearerTokenFile)
		if err != nil {
			return "", nil, fmt.Errorf("bearer_token_file: %w", err)
		}
		if token = strings.TrimSpace(string(b)); token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", nil, fmt.Errorf("bearer_token_file: %s holds no token of printable characters", o.BearerTokenFile)
		}
	}
	if o.CAFile != "" {
		b, err := readSmall(o.CAFile)
		if err != nil {
			return "", nil, fmt.Errorf("ca_file: %w", err)
		}
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return "", nil, fmt.Errorf("ca_file: %s holds no certificate in PEM", o.CAFile)
		}
	}
	return token, pool, nil
}

var errNotSmall = errors.New("is no plain file of at most 1 MiB")

// readSmall reads a file whole. A pipe or device might never end, and hold up
// a stop.
func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > 1<<20 {
		return nil, fmt.Errorf("%s %w", name, errNotSmall)
	}
	return os.ReadFile(name)
}
