package collector

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefaultConfigIsValidAndSurvivesYAML(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseConfig("c.yaml", text)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Fatalf("%v\n%s\nis read as %+v", err, text, back)
	}
	if empty, err := ParseConfig("empty", []byte("# nothing\n")); err != nil || !reflect.DeepEqual(empty, c) {
		t.Fatalf("an empty file: %+v, %v", empty, err)
	}
}

// What is sent with a push may be a password: it is read, and not shown again.
func TestSecretsAreNotPrinted(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte("export: {otlp: {headers: {authorization: hush}}, remote_write: {headers: {authorization: hush}}}"))
	if err != nil || c.Export.OTLP.Headers["authorization"].Reveal() != "hush" || c.Export.RemoteWrite.Headers["authorization"].Reveal() != "hush" {
		t.Fatal(err)
	}
	text, err := c.YAML()
	if err != nil || strings.Contains(string(text), "hush") || strings.Count(string(text), "authorization: (secret)") != 2 {
		t.Errorf("%s %v", text, err)
	}
	_, err = ParseConfig("c.yaml", []byte("export:\n  otlp:\n    headers: {authorization: hush}\n    endpont: x\n"))
	if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "endpont") {
		t.Error(err)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte("retention: {seconds: \"0\", minutes: 0, hours: 48h, days: 0s}\nlimits:\n  pending_bytes: 33554432\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := c.retention()
	if r.Second != 0 || r.Minute != 0 || r.Hour != 48*time.Hour || r.Day != 0 || c.ingestLimits().PendingBytes != 32<<20 {
		t.Errorf("%+v, %+v", r, c.Limits)
	}
	for text, want := range map[string]string{
		"data_dir: a\ndatadir: b\n":     "datadir",
		"retention:\n  seconds: soon\n": "[2:",
		"limits: {nodes: many}\n":       "[1:",
		"data_dir: a\ndata_dir: b\n":    "[2:",
		"tls: [\n":                      "[1:",
	} {
		if _, err := ParseConfig("c.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "c.yaml: ") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestValidateNamesEveryKey(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"data_dir":             func(c *Config) { c.DataDir = "" },
		"insecure_listen":      func(c *Config) { c.GRPCListen = ":9440" },
		"http_listen":          func(c *Config) { c.HTTPListen = "0.0.0.0:80" },
		"host:port":            func(c *Config) { c.HTTPListen = "80" },
		"tls.cert_file":        func(c *Config) { c.TLS.KeyFile = "k" },
		"tls.client_ca_file":   func(c *Config) { c.TLS.ClientCAFile = "ca" },
		"retention.hours":      func(c *Config) { c.Retention.Hours.Duration = -1 },
		"limits.pending_bytes": func(c *Config) { c.Limits.PendingBytes = 1 << 20 },
		"opencost_listen":      func(c *Config) { c.OpenCostListen = ":9003" },
		"export: unknown":      func(c *Config) { c.Export.Dimensions = []string{"teem"} },
		"export: latency":      func(c *Config) { c.Export.LatencyTargets = []Duration{{-1}} },
		"export.otlp":          func(c *Config) { c.Export.OTLP.Endpoint = "http://x:4317" },
		"limits.nodes":         func(c *Config) { c.Limits.Nodes = -1 },
		"duckdb.memory_bytes":  func(c *Config) { c.DuckDB.MemoryBytes = 1 },
		"live_every: 1.5s":     func(c *Config) { c.LiveEvery.Duration = 1500 * time.Millisecond },
		"live_every: 11s":      func(c *Config) { c.LiveEvery.Duration = 11 * time.Second },
		"log.level":            func(c *Config) { c.Log.Level = "loud" },
		"log.format":           func(c *Config) { c.Log.Format = "xml" },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := DefaultConfig()
	c.GRPCListen, c.HTTPListen, c.InsecureListen = "0.0.0.0:9440", "[::1]:0", true
	if err := c.Validate(); err != nil {
		t.Errorf("insecure_listen: %v", err)
	}
}

func TestGatewaysOfAConfiguration(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte(`
gateways:
  - name: litellm
    urls: [http://litellm.ai.svc:4000/metrics]
    resolve: all
    tenant_labels: [end_user]
    backends:
      - {backend: "http://10.*", namespace: prod, labels: {app: "llama*"}}
      - {backend: "https://api.bought.com*", elsewhere: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	all, err := c.gatewayOptions()
	if err != nil || len(all) != 1 || !all[0].ResolveAll || all[0].Subject.Tenant[0] != "end_user" || all[0].ModelPrefixes != nil {
		t.Errorf("%+v, %v", all, err)
	}
	if b := c.joins().Matcher("default", "gateway/litellm").Basis("https://api.bought.com/v1"); b.String() != "rule" {
		t.Errorf("joined by %v", b)
	}
	for want, change := range map[string]func(*GatewayConfig){
		"gateways[0].name":             func(g *GatewayConfig) { g.Name = "" },
		"gateways[0].resolve":          func(g *GatewayConfig) { g.Resolve = "some" },
		"gateways[0].format":           func(g *GatewayConfig) { g.Format = "vllm" },
		"gateways[0].keep_model_names": func(g *GatewayConfig) { g.KeepModelNames, g.ModelPrefixes = true, []string{"x/"} },
		"gateways[0].backends[0]":      func(g *GatewayConfig) { g.Backends = []BackendConfig{{Backend: "*"}} },
		"gateways[1].name":             func(g *GatewayConfig) { g.Name = "twice" },
	} {
		c := c
		c.Gateways = []GatewayConfig{c.Gateways[0]}
		change(&c.Gateways[0])
		if want == "gateways[1].name" {
			c.Gateways = append(c.Gateways, c.Gateways[0])
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want+":") && !strings.Contains(err.Error(), want+".") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c.Gateways[0].FormatFile = "/nowhere/formats.yaml"
	if _, err := c.gatewayOptions(); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}
