package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// InferenceConfig says how the agent counts what the servers of models on this
// node have served. It is for source nvml; servers are looked for in pods.
type InferenceConfig struct {
	// Enabled reads the metrics pages of servers in pods that hold a GPU, or
	// whose annotation gpuledger.io/scrape is "true". Default: true.
	Enabled bool `yaml:"enabled"`

	// Interval is how often a server is read, 1s to 60s. Default: 5s.
	Interval Duration `yaml:"interval"`

	// MaxTargets bounds the servers that are read; those of containers that
	// hold a GPU come first. Default: 64.
	MaxTargets int `yaml:"max_targets"`

	// Concurrency is how many servers are read at once. Default: 8.
	Concurrency int `yaml:"concurrency"`

	// InsecureHTTPS reads servers whose scheme is https without checking who
	// they are. No certificate names a pod's address, so without it they can
	// hardly be read. Default: false.
	InsecureHTTPS bool `yaml:"insecure_https"`

	// FormatFiles are rule files that tell how to read servers that the program
	// does not know. Default: none.
	FormatFiles []string `yaml:"format_files"`

	// Rules say where the servers of some pods are, where that can't be guessed;
	// the first that fits a pod counts. Default: none.
	Rules []InferenceRule `yaml:"rules"`

	// PushListen is where servers that nobody can read, and training processes,
	// tell by gRPC (gpuledger.v1.Push, or OpenTelemetry metrics) what they have
	// served: unix:///path/of.sock, or host:port. Default "": nowhere.
	PushListen string `yaml:"push_listen"`

	// PushTenant is the attribute of OpenTelemetry metrics that names the
	// customer. Default "": none does.
	PushTenant string `yaml:"push_tenant"`

	// PushTier is the attribute that names the customer's tier. Default "": none
	// does.
	PushTier string `yaml:"push_tier"`
}

// InferenceRule says where the servers of some pods are. A pod that it fits is
// read whether or not it holds a GPU.
type InferenceRule struct {
	// Namespace is the pods', or a prefix that ends in an asterisk. Empty: any.
	Namespace string `yaml:"namespace"`

	// Labels are those that a pod must have, all of them.
	Labels map[string]string `yaml:"labels"`

	// Port is the server's, by number.
	Port int `yaml:"port"`

	// PortName is the server's port as a container declares it, instead of port.
	PortName string `yaml:"port_name"`

	// Path is the page's. Empty: that of the format, else /metrics.
	Path string `yaml:"path"`

	// Scheme is http or https. Empty: http.
	Scheme string `yaml:"scheme"`

	// Format is the name of a format, such as vllm. Empty: whatever fits.
	Format string `yaml:"format"`

	// Ignore has the pods not read at all, whatever they ask for.
	Ignore bool `yaml:"ignore"`
}

func defaultInference() InferenceConfig {
	return InferenceConfig{
		Enabled: true, Interval: Duration{inference.DefaultInterval},
		MaxTargets: inference.DefaultTargets, Concurrency: inference.DefaultConcurrency,
	}
}

// Bounds of the configuration.
const (
	maxInferenceRules  = 256
	maxFormatFiles     = 16
	maxFormatFileBytes = 1 << 20
)

func (c *InferenceConfig) check(bad func(key, format string, args ...any)) {
	if c.Interval.Duration < time.Second || c.Interval.Duration > time.Minute {
		bad("inference.interval", "%v: want 1s to 60s", c.Interval)
	}
	if c.MaxTargets < 1 || c.MaxTargets > 1024 {
		bad("inference.max_targets", "%d: want 1 to 1024", c.MaxTargets)
	}
	if c.Concurrency < 1 || c.Concurrency > 64 {
		bad("inference.concurrency", "%d: want 1 to 64", c.Concurrency)
	}
	if len(c.Rules) > maxInferenceRules || len(c.FormatFiles) > maxFormatFiles {
		bad("inference", "at most %d rules and %d format_files are allowed", maxInferenceRules, maxFormatFiles)
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		if r.Port < 0 || r.Port > 65535 {
			bad("inference.rules", "rule %d: port %d: want 1 to 65535", i+1, r.Port)
			continue
		}
		rule := r.rule()
		if err := rule.Check(); err != nil {
			bad("inference.rules", "rule %d: %v", i+1, err)
		}
	}
	c.checkPush(bad)
}

func (c *InferenceConfig) checkPush(bad func(key, format string, args ...any)) {
	if path, isSocket := strings.CutPrefix(c.PushListen, "unix://"); isSocket {
		if !filepath.IsAbs(path) || len(path) > 100 {
			bad("inference.push_listen", "%q: want an absolute path of at most 100 bytes after unix://", c.PushListen)
		}
	} else if c.PushListen != "" {
		if _, _, err := net.SplitHostPort(c.PushListen); err != nil {
			bad("inference.push_listen", "want unix:///path or host:port: %v", err)
		}
	}
	if !isName(c.PushTenant) || !isName(c.PushTier) {
		bad("inference", "push_tenant and push_tier: want names of at most 253 printable characters")
	}
}

func (r *InferenceRule) rule() inference.Rule {
	return inference.Rule{
		Namespace: r.Namespace, Labels: r.Labels, Port: uint16(r.Port), PortName: r.PortName,
		Path: r.Path, Scheme: r.Scheme, Format: r.Format, Ignore: r.Ignore,
	}
}

// formats are those that come with the program, and those of the rule files.
func (c *InferenceConfig) formats() (*format.Set, error) {
	set := format.Builtin()
	for _, name := range c.FormatFiles {
		b, err := os.ReadFile(name)
		if err == nil && len(b) > maxFormatFileBytes {
			err = fmt.Errorf("it has more than %d bytes", maxFormatFileBytes)
		}
		var rules []format.Rule
		if err == nil {
			rules, err = format.ParseRules(b)
		}
		if err == nil {
			set, err = set.With(rules)
		}
		if err != nil {
			return nil, fmt.Errorf("inference.format_files: %s: %w", name, err)
		}
	}
	return set, nil
}
