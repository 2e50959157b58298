package agent

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/internal/secret"
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
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	again, err := back.YAML()
	if err != nil || string(again) != string(text) {
		t.Fatalf("%v\n%s\nis not\n%s", err, again, text)
	}
	if !strings.Contains(string(text), "max_gap: 168h") {
		t.Fatalf("durations are not readable:\n%s", text)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("c.yaml", []byte("cluster: prod\nlimits: {max_gap: 36h}\nsimulated:\n  speed: 2.5\nlabels: {zone: a}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Cluster, want.Limits.MaxGap, want.Simulated.Speed, want.Labels = "prod", Duration{36 * time.Hour}, 2.5, map[string]string{"zone": "a"}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("%+v, want %+v", c, want)
	}
	for _, text := range []string{"", "\n", "# nothing\n", "---\n"} {
		if c, err := ParseConfig("empty", []byte(text)); err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
			t.Fatalf("%q: %+v, %v", text, c, err)
		}
	}
}

func TestParseConfigErrorsShowTheLine(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":        {"cluster: a\nclutser: b\n", "2"},
		"unknown nested key": {"spool:\n  max: 5\n", "2"},
		"wrong type":         {"cluster: a\nspool:\n  max_bytes: lots\n", "3"},
		"repeated key":       {"cluster: a\ncluster: b\n", "2"},
		"not YAML":           {"cluster: [a\n", "1"},
		"bad duration":       {"limits:\n  max_gap: soon\n", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig("agent.yaml", []byte(test.text))
			if err == nil || !strings.Contains(err.Error(), "agent.yaml") || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want the file and line %s", err, test.want)
			}
		})
	}
}

func TestValidateNamesTheKey(t *testing.T) {
	for key, change := range map[string]func(*Config){
		"cluster":                         func(c *Config) { c.Cluster = "" },
		"node":                            func(c *Config) { c.Node = "a\nb" },
		"capacity_type":                   func(c *Config) { c.CapacityType = "\xff" },
		"labels":                          func(c *Config) { c.Labels = map[string]string{"zone": strings.Repeat("x", 5000)} },
		"state_dir":                       func(c *Config) { c.StateDir = "" },
		"source":                          func(c *Config) { c.Source = "magic" },
		"replay.file":                     func(c *Config) { c.Source = SourceReplay },
		"replay.speed":                    func(c *Config) { c.Source, c.Replay = SourceReplay, ReplayConfig{"x", -1} },
		"simulated.duration":              func(c *Config) { c.Source, c.Simulated.Duration, c.Simulated.Speed = SourceSimulated, Duration{}, 0 },
		"simulated.nodes":                 func(c *Config) { c.Source, c.Simulated.Nodes = SourceSimulated, -1 },
		"simulated.profile":               func(c *Config) { c.Source, c.Simulated.Profile = SourceSimulated, "x" },
		"simulated.devices":               func(c *Config) { c.Source, c.Simulated.Devices = SourceSimulated, 65 },
		"collector.address":               func(c *Config) { c.Collector.Address = "10.0.0.1:9440" },
		"collector.addresses: entry 2":    func(c *Config) { c.Collector.Addresses = []string{"127.0.0.1:1", ""} },
		"127.0.0.1:1 is there twice":      func(c *Config) { c.Collector.Addresses = []string{"127.0.0.1:1", "127.0.0.1:1"} },
		"10.0.0.9:1 is another machine":   func(c *Config) { c.Collector.Addresses = []string{"127.0.0.1:1", "10.0.0.9:1"} },
		"collector.cert_file":             func(c *Config) { c.Collector.CertFile = "x" },
		"spool.max_bytes":                 func(c *Config) { c.Spool.MaxBytes = 1 },
		"limits.max_gap":                  func(c *Config) { c.Limits.MaxGap = Duration{-1} },
		"http_listen":                     func(c *Config) { c.HTTPListen = "9440" },
		"kubernetes.enabled":              func(c *Config) { c.Kubernetes.Enabled = "maybe" },
		"kubernetes.pods: ":               func(c *Config) { c.Kubernetes.Pods = "etcd" },
		"kubernetes.pod_resources_socket": func(c *Config) { c.Kubernetes.PodResourcesSocket = "kubelet.sock" },
		"kubernetes.kubelet_url":          func(c *Config) { c.Kubernetes.KubeletURL = "http://me:hush@x:10250" },
		"dcgm.mode":                       func(c *Config) { c.DCGM.Mode = "on" },
		"dcgm.fields":                     func(c *Config) { c.DCGM.Fields = []string{"sm"} },
		"dcgm.address":                    func(c *Config) { c.DCGM = DCGMConfig{Mode: "exporter", Address: "me:hush@x:9400"} },
		"slurm.job_dir":                   func(c *Config) { c.Slurm.JobDir = "jobs" },
		"nvml.pids":                       func(c *Config) { c.NVML.PIDs = "any" },
		"export.max_series":               func(c *Config) { c.Export.MaxSeries = 1 },
		"export.linger":                   func(c *Config) { c.Export.Linger = Duration{} },
		"export.pod_labels":               func(c *Config) { c.Export.PodLabels = []string{"a b"} },
		"export.otlp: endpoint":           func(c *Config) { c.Export.OTLP.Endpoint = "https://me:hush@x:4317" },
		"export.otlp: header": func(c *Config) {
			c.Export.OTLP.Endpoint, c.Export.OTLP.Headers = "x:4317", map[string]secret.Text{"header x": "hush"}
		},
		"the value of header x": func(c *Config) {
			c.Export.OTLP.Endpoint, c.Export.OTLP.Headers = "x:4317", map[string]secret.Text{"x": "hush\n"}
		},
		"log: unknown level":  func(c *Config) { c.Log.Level = "loud" },
		"log: unknown format": func(c *Config) { c.Log.Format = "xml" },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPlainTextGoesToLoopbackOnly(t *testing.T) {
	for address, fine := range map[string]bool{
		"127.0.0.1:9440": true, "[::1]:9440": true, "localhost:1": true, "unix:/run/x": true,
		"10.1.2.3:9440": false, "collector:9440": false, "dns:///collector:9440": false, "localhost.evil.example:1": false,
	} {
		c := DefaultConfig()
		c.Collector.Address = address
		if err := c.Validate(); (err == nil) != fine {
			t.Errorf("%s: %v", address, err)
		}
		c.Collector.Insecure = true
		if err := c.Validate(); err != nil {
			t.Errorf("%s, insecure: %v", address, err)
		}
		c.Collector.Insecure, c.Collector.SystemCA = false, true
		if err := c.Validate(); err != nil {
			t.Errorf("%s, TLS: %v", address, err)
		}
	}
}

func TestListenersAreForThisMachine(t *testing.T) {
	tls := func(c *Config) { c.TLS.CertFile, c.TLS.KeyFile = "c", "k" }
	for name, x := range map[string]struct {
		change func(*Config)
		key    string // that is wrong; "" is none
	}{
		"loopback":           {func(c *Config) { c.HTTPListen, c.PProf = "127.0.0.1:9442", true }, ""},
		"all":                {func(c *Config) { c.HTTPListen = ":9442" }, "http_listen"},
		"all, TLS":           {func(c *Config) { c.HTTPListen = ":9442"; tls(c) }, ""},
		"all, told so":       {func(c *Config) { c.HTTPListen, c.InsecureListen = ":9442", true }, ""},
		"profiles, TLS":      {func(c *Config) { c.HTTPListen, c.PProf = ":9442", true; tls(c) }, "pprof"},
		"profiles, mutual":   {func(c *Config) { c.HTTPListen, c.PProf = ":9442", true; tls(c); c.TLS.ClientCAFile = "a" }, ""},
		"push, socket":       {func(c *Config) { c.Inference.PushListen = "unix:///run/x.sock" }, ""},
		"push, loopback":     {func(c *Config) { c.Inference.PushListen = "127.0.0.1:4317" }, ""},
		"push, all":          {func(c *Config) { c.Inference.PushListen = ":4317" }, "inference.push_listen"},
		"push, all, told so": {func(c *Config) { c.Inference.PushListen, c.InsecureListen = ":4317", true }, ""},
		"half a pair":        {func(c *Config) { c.TLS.CertFile = "c" }, "tls.cert_file"},
		"a CA alone":         {func(c *Config) { c.TLS.ClientCAFile = "c" }, "tls.client_ca_file"},
		"token, plain":       {func(c *Config) { c.Collector.Address, c.Collector.Insecure, c.Collector.TokenFile = "x:1", true, "t" }, "collector.token_file"},
		"token, TLS":         {func(c *Config) { c.Collector.Address, c.Collector.CAFile, c.Collector.TokenFile = "x:1", "ca", "t" }, ""},
		"token, loopback":    {func(c *Config) { c.Collector.TokenFile = "t" }, ""},
	} {
		c := DefaultConfig()
		x.change(&c)
		err := c.Validate()
		if (err == nil) != (x.key == "") || (err != nil && !strings.Contains(err.Error(), x.key+":")) {
			t.Errorf("%s: %v, want an error of %q", name, err, x.key)
		}
	}
}

func TestSpoolDirsStayApartAndInside(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringN(0, 253, 253), rapid.SampledFrom([]string{"", ".", "..", "../..", "a/b", "A", "a", "=A", "%", "~"}))
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		pa, pb := pathSafe(a), pathSafe(b)
		if (a == b) != strings.EqualFold(pa, pb) {
			t.Fatalf("%q and %q are %q and %q", a, b, pa, pb)
		}
		if len(pa) > 255 || pa != filepath.Base(pa) || pa == "." || pa == ".." {
			t.Fatalf("%q is %q", a, pa)
		}
	})
}
