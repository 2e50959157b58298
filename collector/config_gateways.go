package collector

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuledger/gpuledger/collector/gateway"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// GatewayConfig is a gateway that knows the customers: LiteLLM, Envoy AI
// Gateway, llm-d's endpoint picker, or any other with a format file.
type GatewayConfig struct {
	// Name is what it is called in the ledger, as node gateway/NAME: letters,
	// digits, dots, underscores and hyphens. Another name is another gateway.
	Name string `yaml:"name"`

	// URLs are where its metrics pages are, one for each replica, such as
	// http://litellm.ai.svc:4000/metrics.
	URLs []string `yaml:"urls"`

	// Resolve is all where the host of a URL has an address for each replica,
	// as a headless service has: each is asked for itself. Empty: one.
	Resolve string `yaml:"resolve"`

	// Format is the page's: litellm, envoy-ai-gateway, llm-d, or one of
	// FormatFile. Empty: recognised.
	Format string `yaml:"format"`

	// FormatFile tells how to read other gateways' pages (YAML). Empty:
	// none.
	FormatFile string `yaml:"format_file"`

	// Interval is how often it is asked, 1s to 1h. 0 means 15s.
	Interval Duration `yaml:"interval"`

	// Timeout bounds one page, from the request to the last byte. 0 means
	// 10s, or the interval where that is shorter.
	Timeout Duration `yaml:"timeout"`

	// BearerTokenFile holds a token that the gateway asks for. It is read for
	// each round. Empty: none is sent.
	BearerTokenFile string `yaml:"bearer_token_file"`

	// CAFile holds the certificates that the gateway's is checked against, in
	// PEM. It is read for each round. Empty: the system's.
	CAFile string `yaml:"ca_file"`

	// Cluster is the cluster whose servers it stands before. Empty: default.
	Cluster string `yaml:"cluster"`

	// Labels are put on all that it tells, such as the team that runs it.
	Labels map[string]string `yaml:"labels"`

	// TenantLabels are the metric labels that name the customer; of several,
	// the first that a series has counts. Empty: the format's.
	TenantLabels []string `yaml:"tenant_labels"`

	// TierLabels are the same for the customer's tier. Empty: the
	// format's.
	TierLabels []string `yaml:"tier_labels"`

	// ModelLabels are the same for the model. Empty: the format's.
	ModelLabels []string `yaml:"model_labels"`

	// BackendLabels are the same for the address of the server that answered.
	// Empty: the format's.
	BackendLabels []string `yaml:"backend_labels"`

	// ModelPrefixes are taken off the model's name, the first that fits.
	// Empty: those of providers of one's own servers that LiteLLM puts
	// before names (hosted_vllm/, openai/ and so on), for LiteLLM alone.
	ModelPrefixes []string `yaml:"model_prefixes"`

	// KeepModelNames leaves LiteLLM's prefixes where they are.
	KeepModelNames bool `yaml:"keep_model_names"`

	// MaxTenants is how many customers are told apart, at most 20000. Further
	// ones are counted together, as (other), until one was not heard of for a
	// day. 0 means 1000.
	MaxTenants int `yaml:"max_tenants"`

	// Backends say which servers are behind which addresses, where addresses do
	// not say it themselves.
	Backends []BackendConfig `yaml:"backends"`
}

// BackendConfig says which servers are behind some of a gateway's backends. *
// stands for any text.
type BackendConfig struct {
	// Backend is a pattern of addresses, as the gateway tells them. Just an
	// asterisk matches also what is told without an address.
	Backend string `yaml:"backend"`

	// Cluster is a pattern. Empty: the gateway's cluster.
	Cluster string `yaml:"cluster"`

	// Namespace is a pattern. Empty: any.
	Namespace string `yaml:"namespace"`

	// Controller is a pattern of Kind/name. Empty: any.
	Controller string `yaml:"controller"`

	// Labels are patterns of the pod's labels, which must be there.
	Labels map[string]string `yaml:"labels"`

	// Elsewhere says that the backend is no server of this ledger, such as
	// a model that is bought.
	Elsewhere bool `yaml:"elsewhere"`
}

const (
	resolveOne = "one"
	resolveAll = "all"
)

// options are those of a gateway, but for its format file.
func (c *GatewayConfig) options() gateway.Options {
	o := gateway.Options{
		Name: c.Name, Cluster: c.Cluster, URLs: c.URLs, ResolveAll: c.Resolve == resolveAll, Format: c.Format,
		Interval: c.Interval.Duration, Timeout: c.Timeout.Duration, BearerTokenFile: c.BearerTokenFile, CAFile: c.CAFile,
		Labels:        c.Labels,
		Subject:       format.Labels{Model: c.ModelLabels, Tenant: c.TenantLabels, Tier: c.TierLabels, Backend: c.BackendLabels},
		ModelPrefixes: c.ModelPrefixes, MaxTenants: c.MaxTenants, Backends: c.backends(),
	}
	if len(o.ModelPrefixes) == 0 {
		o.ModelPrefixes = nil // the known ones
	}
	if c.KeepModelNames {
		o.ModelPrefixes = []string{}
	}
	return o
}

func (c *GatewayConfig) backends() (rules []join.Rule) {
	for _, b := range c.Backends {
		rules = append(rules, join.Rule{
			Backend: b.Backend, Cluster: b.Cluster, Namespace: b.Namespace, Controller: b.Controller, Labels: b.Labels,
			Elsewhere: b.Elsewhere,
		})
	}
	return rules
}

// checkGateways finds what is wrong with the gateways, without a look at files.
func (c *Config) checkGateways(bad func(key, format string, args ...any)) {
	if len(c.Gateways) > gateway.MaxGateways {
		bad("gateways", "%d gateways: want at most %d", len(c.Gateways), gateway.MaxGateways)
	}
	names := make(map[string]bool)
	for i := range c.Gateways {
		g := &c.Gateways[i]
		at := fmt.Sprintf("gateways[%d].", i)
		here := func(key, format string, args ...any) { bad(at+key, format, args...) }
		o := g.options()
		if g.FormatFile != "" {
			o.Format = "" // it may be one of the file's
		}
		o.Validate(here)
		if g.Resolve != "" && g.Resolve != resolveOne && g.Resolve != resolveAll {
			here("resolve", "unknown %q: want one or all", g.Resolve)
		}
		if g.KeepModelNames && len(g.ModelPrefixes) > 0 {
			here("keep_model_names", "contradicts model_prefixes")
		}
		if names[g.Name] {
			here("name", "%q is there twice", g.Name)
		}
		names[g.Name] = true
	}
}

// gatewayOptions are those of all gateways, with what their files say.
func (c *Config) gatewayOptions() ([]gateway.Options, error) {
	var all []gateway.Options
	for i := range c.Gateways {
		g := &c.Gateways[i]
		o := g.options()
		if g.FormatFile != "" {
			source, err := os.ReadFile(g.FormatFile)
			if err == nil {
				o.Rules, err = format.ParseRules(source)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: gateways[%d].format_file: %w", ErrConfig, i, err)
			}
		}
		var wrong error
		o.Validate(func(key, format string, args ...any) {
			wrong = fmt.Errorf("%w: gateways[%d].%s: %s", ErrConfig, i, key, fmt.Sprintf(format, args...))
		})
		if wrong != nil {
			return nil, wrong
		}
		all = append(all, o)
	}
	return all, nil
}

// openGateways prepares reading them.
func (c *Collector) openGateways() (*gateway.Gateways, error) {
	options, err := c.cfg.gatewayOptions()
	if err != nil {
		return nil, err
	}
	gs, err := gateway.Open(options, gateway.Deps{
		Ledger: c.ingest, Dir: filepath.Join(c.cfg.DataDir, "gateways"), Clock: time.Now, Random: rand.Reader,
		Resolve: net.DefaultResolver.LookupHost, Log: c.deps.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("gateways: %w", err)
	}
	return gs, nil
}

// joins are the rules by which the gateways' backends are found.
func (c *Config) joins() *join.Set {
	var all []join.Gateway
	for i := range c.Gateways {
		g := &c.Gateways[i]
		cluster := g.Cluster
		if cluster == "" {
			cluster = gateway.DefaultCluster
		}
		all = append(all, join.Gateway{Cluster: cluster, Name: g.Name, Backends: g.backends()})
	}
	return join.NewSet(all)
}
