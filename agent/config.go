package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/gpuledger/gpuledger/internal/plainyaml"
)

// The sources that a configuration may name.
const (
	SourceAuto      = "auto"
	SourceNVML      = "nvml"
	SourceReplay    = "replay"
	SourceSimulated = "simulated"
)

// The profiles of a simulation.
const (
	ProfileFleet = "fleet"
	ProfileBusy  = "busy"
)

// Config is what an agent is told. Every field has a default, that of
// [DefaultConfig]; durations are written like 10s or 168h.
type Config struct {
	// Cluster is the name of the cluster, the first part of every key in the
	// ledger. Replayed and simulated nodes bring their own where they have one.
	// Default: default.
	Cluster string `yaml:"cluster"`

	// Node is the name of this node. Default "": the environment variable
	// NODE_NAME, else the host's name. Replayed and simulated nodes have names
	// of their own.
	Node string `yaml:"node"`

	// Labels are the node's, which rate cards may select on. Default: none.
	Labels map[string]string `yaml:"labels"`

	// CapacityType is how the node is paid for: on-demand, spot, reserved or
	// on-prem. Default "": unknown.
	CapacityType string `yaml:"capacity_type"`

	Collector CollectorConfig `yaml:"collector"`

	// StateDir is the directory under which each node keeps its spool, in
	// <cluster>/<node>. It must outlast restarts. Default:
	// /var/lib/gpuledger-agent.
	StateDir string `yaml:"state_dir"`

	// Source is what the agent looks at: nvml (this machine's GPUs), replay (a
	// recording), simulated (a seeded fleet), or auto: nvml where there is a
	// driver, else an error. Nothing is ever simulated unasked. Default: auto.
	Source string `yaml:"source"`

	NVML       NVMLConfig       `yaml:"nvml"`
	Kubernetes KubernetesConfig `yaml:"kubernetes"`
	Slurm      SlurmConfig      `yaml:"slurm"`
	DCGM       DCGMConfig       `yaml:"dcgm"`
	Inference  InferenceConfig  `yaml:"inference"`
	Replay     ReplayConfig     `yaml:"replay"`
	Simulated  SimulatedConfig  `yaml:"simulated"`
	Spool      SpoolConfig      `yaml:"spool"`
	Limits     LimitsConfig     `yaml:"limits"`
	Export     ExportConfig     `yaml:"export"`

	// SummaryFile is where a finished script's figures are written, as JSON.
	// Default "": nowhere.
	SummaryFile string `yaml:"summary_file"`

	// HTTPListen is the address for /healthz, /readyz and /metrics. Default "":
	// none.
	HTTPListen string `yaml:"http_listen"`

	TLS TLSConfig `yaml:"tls"`

	// InsecureListen allows addresses that other machines reach without TLS.
	// Whoever reaches http_listen may read what the node's owners use and cost:
	// set it only where the network itself keeps others out. Default: false.
	InsecureListen bool `yaml:"insecure_listen"`

	// PProf serves profiles of the program under /debug/pprof/ of http_listen.
	// Where other machines reach it, it needs tls.client_ca_file. Default:
	// false.
	PProf bool `yaml:"pprof"`

	Log LogConfig `yaml:"log"`
}

// CollectorConfig says where sealed time goes.
type CollectorConfig struct {
	// Address is host:port, or any gRPC target. A host name with several
	// addresses (a headless Service) stands for several collectors of one
	// ledger: each node streams to one of them, and to another when that fails.
	// Default: 127.0.0.1:9440.
	Address string `yaml:"address"`

	// Addresses are several collectors of one ledger, each like Address, in its
	// place. Names that stay (of the pods of a StatefulSet) move fewer nodes
	// than addresses that change with each restart. Default: none.
	Addresses []string `yaml:"addresses"`

	// Insecure allows a connection without TLS to another machine. Without it,
	// plain text goes to loopback addresses only. Default: false.
	Insecure bool `yaml:"insecure"`

	// CAFile holds the certificates that the collector's is checked against,
	// in PEM. Setting it, CertFile or SystemCA makes the connection TLS.
	// Default "": none.
	CAFile string `yaml:"ca_file"`

	// SystemCA checks the collector against the system's certificates.
	// Default: false.
	SystemCA bool `yaml:"system_ca"`

	// CertFile and KeyFile are this agent's own certificate, in PEM. They are
	// read again when they are replaced, as is ca_file; where the new ones are
	// broken, those in use stay. Default "": none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// TokenFile holds a token that is sent with each stream and says on which
	// node the agent is: of a service account, projected for the collector's
	// audience. It is read for each stream. It is never sent in plain text to
	// another machine. Default "": none.
	TokenFile string `yaml:"token_file"`
}

// ReplayConfig is for source replay.
type ReplayConfig struct {
	// File is the recording. "-" is standard input, which can't be resumed.
	File string `yaml:"file"`

	// Speed is how many recorded seconds pass in one real second; the recording
	// keeps its own times. 0 is as fast as possible. Default: 0.
	Speed float64 `yaml:"speed"`
}

// SimulatedConfig is for source simulated.
type SimulatedConfig struct {
	// Seed decides everything that happens. Default: 1.
	Seed uint64 `yaml:"seed"`

	// Profile is fleet (a mixed production fleet) or busy (devices shared by
	// four servers each, 64 processes on 8 GPUs, to measure with). Default:
	// fleet.
	Profile string `yaml:"profile"`

	// Nodes is the number of nodes. Default 0: 4 of a fleet, 1 busy one.
	Nodes int `yaml:"nodes"`

	// Devices is the number of GPUs of a node. Default: 8.
	Devices int `yaml:"devices"`

	// Start is the simulation's first Unix second. Default 0: now less backfill
	// at a speed, kept in state_dir for the next start;
	// 1767225600 (2026-01-01T00:00:00Z) as fast as possible, so that the same
	// simulation is the same ledger.
	Start int64 `yaml:"start"`

	// Backfill is how much of the past is played first, as fast as possible,
	// where the simulation starts now. Default: 0s.
	Backfill Duration `yaml:"backfill"`

	// Duration is the simulated time, backfill included. 0 is endless, which
	// needs a speed. Default: 0s.
	Duration Duration `yaml:"duration"`

	// Speed is how many simulated seconds pass in one real second. 0 is as fast
	// as possible. Default: 1.
	Speed float64 `yaml:"speed"`
}

// SpoolConfig bounds what is kept on disk, per node.
type SpoolConfig struct {
	// MaxBytes bounds a node's spool, in bytes; when it is full the newest
	// windows can't be kept and will be unobserved. Default: 268435456
	// (256 MiB), a week and more of an 8-GPU node. 0 means the default.
	MaxBytes int64 `yaml:"max_bytes"`
}

// LimitsConfig bounds waiting and memory.
type LimitsConfig struct {
	// MaxGap bounds the time that is sealed as unobserved after the agent was
	// away. What lies further back is not billed. Default: 168h.
	MaxGap Duration `yaml:"max_gap"`

	// RateCardWait is how long a live agent that has never had a rate card
	// waits for one before it goes on unpriced. Scripts as fast as possible
	// wait for ever. 0 does not wait. Default: 10s.
	RateCardWait Duration `yaml:"rate_card_wait"`

	// DrainTimeout bounds the wait for acknowledgements when a live agent is
	// told to stop; what is not acknowledged stays in the spool. Default: 5s.
	DrainTimeout Duration `yaml:"drain_timeout"`
}

// LogConfig is how the agent logs, on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level"`

	// Format is text or json. Default: text.
	Format string `yaml:"format"`
}

// Duration is a time.Duration that is written like 1h30m.
type Duration struct{ time.Duration }

// UnmarshalYAML reads a duration; its errors name the line.
func (d *Duration) UnmarshalYAML(n ast.Node) error {
	var err error
	if d.Duration, err = time.ParseDuration(n.String()); err != nil {
		at := n.GetToken().Position
		return fmt.Errorf("[%d:%d] %s is not a duration: want one like 10s or 168h", at.Line, at.Column, n)
	}
	return nil
}

// MarshalYAML writes it with its units.
func (d Duration) MarshalYAML() ([]byte, error) { return []byte(d.String()), nil }

// DefaultConfig is what an agent does that is told nothing.
func DefaultConfig() Config {
	return Config{
		Cluster:   "default",
		Collector: CollectorConfig{Address: "127.0.0.1:9440"},
		StateDir:  "/var/lib/gpuledger-agent",
		Source:    SourceAuto,
		NVML:      NVMLConfig{ProcFS: "/proc", PIDs: PIDsOfHost},
		Kubernetes: KubernetesConfig{
			Enabled: KubernetesAuto, PodResourcesSocket: "/var/lib/kubelet/pod-resources/kubelet.sock",
			Checkpoint: "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint", Pods: "auto",
			PodsAPISockets: []string{"/var/lib/kubelet/pods-api/pods-api.sock", "/var/lib/kubelet/pods/kubelet.sock"},
			NodeLabels: []string{
				"topology.kubernetes.io/*", "node.kubernetes.io/instance-type", "nvidia.com/gpu.*", "karpenter.sh/*",
				"eks.amazonaws.com/capacityType", "cloud.google.com/gke-*", "kubernetes.azure.com/scalesetpriority",
			},
		},
		DCGM:      DCGMConfig{Mode: "off"},
		Inference: defaultInference(),
		Export:    ExportConfig{MaxSeries: 5000, Linger: Duration{10 * time.Minute}, OTLP: OTLPConfig{Interval: Duration{15 * time.Second}, Timeout: Duration{10 * time.Second}}},
		Simulated: SimulatedConfig{Seed: 1, Profile: ProfileFleet, Devices: 8, Speed: 1},
		Spool:     SpoolConfig{MaxBytes: 256 << 20},
		Limits:    LimitsConfig{MaxGap: Duration{7 * 24 * time.Hour}, RateCardWait: Duration{10 * time.Second}, DrainTimeout: Duration{5 * time.Second}},
		Log:       LogConfig{Level: "info", Format: "text"},
	}
}

// ParseConfig reads YAML over the defaults. An unknown or repeated key, or a
// value of the wrong type, is an error that shows the line. name is the
// file's, for errors.
func ParseConfig(name string, source []byte) (Config, error) {
	c := DefaultConfig()
	if _, err := plainyaml.Decode(source, &c); err != nil {
		// What stands around the line may be a secret, in a file that has any.
		show := !bytes.Contains(source, []byte("headers"))
		return Config{}, fmt.Errorf("%s: %s", name, yaml.FormatError(err, false, show))
	}
	return c, nil
}

// YAML is the configuration as a file.
func (c *Config) YAML() ([]byte, error) { return yaml.Marshal(c) }

// Validate checks everything that can be checked without a look at the
// machine. It names the keys of all that is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	for key, name := range map[string]string{"cluster": c.Cluster, "node": c.Node, "capacity_type": c.CapacityType} {
		if !isName(name) {
			bad(key, "want a name of at most 253 printable characters")
		}
	}
	if len(c.Labels) > maxLabels {
		bad("labels", "there are %d: at most %d are allowed", len(c.Labels), maxLabels)
	}
	for key, value := range c.Labels {
		if key == "" || !isName(key) || !isName(value) {
			bad("labels", "%.40q: %.40q: want at most 253 printable characters each", key, value)
		}
	}
	if c.Cluster == "" {
		bad("cluster", "must not be empty")
	}
	if c.StateDir == "" {
		bad("state_dir", "must not be empty")
	}
	if c.Spool.MaxBytes != 0 && c.Spool.MaxBytes < 1<<20 {
		bad("spool.max_bytes", "%d is less than 1 MiB", c.Spool.MaxBytes)
	}
	for key, d := range map[string]Duration{
		"limits.max_gap": c.Limits.MaxGap, "limits.rate_card_wait": c.Limits.RateCardWait,
		"limits.drain_timeout": c.Limits.DrainTimeout, "simulated.duration": c.Simulated.Duration, "simulated.backfill": c.Simulated.Backfill,
	} {
		if d.Duration < 0 {
			bad(key, "%v is negative", d)
		}
	}
	if err := c.Log.check(); err != nil {
		bad("log", "%v", err)
	}
	c.checkListeners(bad)
	c.checkSource(bad)
	c.NVML.check(bad)
	c.Kubernetes.check(bad)
	c.Slurm.check(bad)
	c.DCGM.check(bad)
	c.Inference.check(bad)
	c.Export.check(bad)
	c.Collector.check(bad)
	return errors.Join(errs...)
}

// maxLabels is how many labels a node may have. It and the length of names are
// within what the wire format takes.
const maxLabels = 256

// isName reports whether a text may name something on the wire.
func isName(s string) bool {
	return len(s) <= 253 && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func (c *Config) checkSource(bad func(key, format string, args ...any)) {
	speed := func(key string, s float64) {
		if !(s == 0 || (s >= 0.01 && s <= 1e6)) {
			bad(key, "%v: want 0 (as fast as possible), or 0.01 to 1000000", s)
		}
	}
	switch c.Source {
	case SourceAuto, SourceNVML:
	case SourceReplay:
		if c.Replay.File == "" {
			bad("replay.file", "source replay needs a recording")
		}
		speed("replay.speed", c.Replay.Speed)
	case SourceSimulated:
		s := &c.Simulated
		speed("simulated.speed", s.Speed)
		if s.Profile != ProfileFleet && s.Profile != ProfileBusy {
			bad("simulated.profile", "unknown %q: want fleet or busy", s.Profile)
		}
		if s.Nodes < 0 || s.Nodes > 10_000 {
			bad("simulated.nodes", "%d: want 0 (the profile's) to 10000", s.Nodes)
		}
		if s.Devices < 1 || s.Devices > 64 {
			bad("simulated.devices", "%d: want 1 to 64", s.Devices)
		}
		if s.Start < 0 {
			bad("simulated.start", "%d is negative", s.Start)
		}
		if s.Duration.Duration == 0 && s.Speed == 0 {
			bad("simulated.duration", "an endless simulation needs a speed")
		}
	default:
		bad("source", "unknown %q: want auto, nvml, replay or simulated", c.Source)
	}
}

func (c *CollectorConfig) check(bad func(key, format string, args ...any)) {
	if c.Address == "" {
		bad("collector.address", "must not be empty")
		return
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		bad("collector.cert_file", "cert_file and key_file come together")
	}
	c.checkAddresses(bad)
	for _, a := range c.targets() {
		if !c.TLS() && !c.Insecure && !isLoopback(a) {
			bad("collector.address", "%s is another machine: set ca_file or system_ca for TLS, or insecure: true to send in plain text", a)
		}
		if c.TokenFile != "" && !c.TLS() && !isLoopback(a) {
			bad("collector.token_file", "a token in plain text is anybody's: set ca_file or system_ca to reach %s", a)
		}
	}
}

// TLS reports whether the connection is encrypted.
func (c *CollectorConfig) TLS() bool { return c.CAFile != "" || c.SystemCA || c.CertFile != "" }

// isLoopback reports whether a gRPC target can only be this machine.
func isLoopback(target string) bool {
	if strings.HasPrefix(target, "unix:") {
		return true
	}
	target = strings.TrimPrefix(target, "passthrough:///")
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func (l *LogConfig) check() error {
	if _, err := l.level(); err != nil {
		return err
	}
	if l.Format != "text" && l.Format != "json" {
		return fmt.Errorf("unknown format %q: want text or json", l.Format)
	}
	return nil
}

func (l *LogConfig) level() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, fmt.Errorf("unknown level %q: want debug, info, warn or error", l.Level)
	}
	return level, nil
}

// Logger builds the logger that a valid configuration asks for.
func (l *LogConfig) Logger(w io.Writer) *slog.Logger {
	level, err := l.level()
	if err != nil {
		panic("BUG: a logger from an invalid configuration: " + err.Error())
	}
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// NodeName is the configured node, else NODE_NAME, else the host's name.
func (c *Config) NodeName(getenv func(string) string) (string, error) {
	if c.Node != "" {
		return c.Node, nil
	}
	if n := getenv("NODE_NAME"); n != "" {
		return n, nil
	}
	n, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("node: the host has no name (set node): %w", err)
	}
	return n, nil
}

// spoolDir is a node's directory. Names are chosen by others and may hold
// anything: what is not plain is escaped, so that different names are
// different directories and none leaves the state directory.
func spoolDir(stateDir, cluster, node string) string {
	return filepath.Join(stateDir, pathSafe(cluster), pathSafe(node))
}

func pathSafe(name string) string {
	const longest = 200 // of the 255 bytes that filesystems allow
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		case c >= 'A' && c <= 'Z': // some filesystems fold case
			b.WriteByte('=')
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	switch {
	case b.Len() == 0:
		return "%"
	case b.Len() > longest:
		sum := sha256.Sum256([]byte(name))
		return fmt.Sprintf("%s~%x", b.String()[:longest-65], sum)
	}
	return b.String()
}
