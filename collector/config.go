package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/internal/plainyaml"
)

// Config is what a collector is told. Every field has a default, that of
// [DefaultConfig]; durations are written like 10s or 168h.
type Config struct {
	// DataDir is the directory of the ledger. It is made if it is not there.
	// Default: /var/lib/gpuledger-collector.
	DataDir string `yaml:"data_dir"`

	// Store is where the ledger is kept: duckdb, in data_dir, or clickhouse, on
	// servers that several collectors may share. Default: duckdb.
	Store string `yaml:"store"`

	// GRPCListen is the address for agents and for programs that ask over
	// gRPC. Port 0 is any free one. Default: 127.0.0.1:9440.
	GRPCListen string `yaml:"grpc_listen"`

	// HTTPListen is the address for the page, the JSON API, /healthz, /readyz
	// and /metrics. Port 0 is any free one. Default: 127.0.0.1:9441.
	HTTPListen string `yaml:"http_listen"`

	// OpenCostListen is one more address for OpenCost's allocation API alone.
	// On loopback it is always in plain text: 127.0.0.1:9003 is where
	// kubectl-cost looks through a port-forward. The API is at http_listen as
	// well. Default "": none.
	OpenCostListen string `yaml:"opencost_listen"`

	// InsecureListen allows addresses that other machines reach without TLS.
	// Whoever reaches them may write to the ledger and read all of it: set it
	// only where the network itself keeps others out. Default: false.
	InsecureListen bool `yaml:"insecure_listen"`

	TLS TLSConfig `yaml:"tls"`

	IngestAccess IngestAccessConfig `yaml:"ingest_access"`

	Access AccessConfig `yaml:"access"`

	// RateCard is a file with the rate card (YAML). It becomes the next
	// revision when its content is new: a start with the same file as before
	// does not undo what was applied by other means since, and warns if that
	// differs. Default "": the card in force stays; where there is none yet,
	// everything is unpriced.
	RateCard string `yaml:"rate_card"`

	// Rules is a file with the mapping rules (YAML), applied like RateCard.
	// Default "": those in force stay; where there are none yet, well-known
	// labels count.
	Rules string `yaml:"rules"`

	Peers  PeersConfig  `yaml:"peers"`
	Export ExportConfig `yaml:"export"`
	// Gateways are read for what they know of customers. Empty: none.
	Gateways []GatewayConfig `yaml:"gateways"`

	Retention RetentionConfig `yaml:"retention"`
	Limits    LimitsConfig    `yaml:"limits"`
	DuckDB    DuckDBConfig    `yaml:"duckdb"`
	// ClickHouse counts where store is clickhouse.
	ClickHouse ClickHouseConfig `yaml:"clickhouse"`

	// LiveEvery is how often agents send what they have sealed, for freshness: 1s to
	// 10s, whole seconds. What is asked about the newest seconds is so much older, and
	// a collector of thousands of nodes has less to do: most of the work of a second
	// of a node is its message. Default: 1s.
	LiveEvery Duration `yaml:"live_every"`

	// AllowFuture takes chunks of any time. Otherwise those that lie more than
	// an hour after the collector's clock are rejected. Only scripts that are
	// ahead of the clock need it. Default: false.
	AllowFuture bool `yaml:"allow_future"`

	// StopTimeout bounds a graceful stop: committing what is pending and
	// answering the questions that have been asked. What is not committed by
	// then stays with the agents. Default: 30s.
	StopTimeout Duration `yaml:"stop_timeout"`

	// Pprof serves Go's profiles under /debug/pprof of http_listen. Where other
	// machines reach it, it needs tls.client_ca_file. Default: false.
	Pprof bool `yaml:"pprof"`

	Log LogConfig `yaml:"log"`
}

// TLSConfig encrypts all addresses. Its files are read again when they are
// replaced; where the new ones are broken, those in use stay.
type TLSConfig struct {
	// CertFile and KeyFile are the collector's certificate, in PEM. Default
	// "": no TLS.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// ClientCAFile holds the certificates that those who connect must have
	// theirs from, in PEM. Default "": anyone may connect.
	ClientCAFile string `yaml:"client_ca_file"`
}

// RetentionConfig says how long what is kept, counted back from the newest data
// or the clock, whichever is earlier. 0 is for ever.
type RetentionConfig struct {
	// Seconds keeps every slice of every second. Default: 2h.
	Seconds Duration `yaml:"seconds"`

	// Minutes keeps sums per minute. Default: 336h (14 days).
	Minutes Duration `yaml:"minutes"`

	// Hours keeps sums per hour. Default: 9600h (400 days).
	Hours Duration `yaml:"hours"`

	// Days keeps sums per day. Default: 0s, for ever.
	Days Duration `yaml:"days"`
}

// LimitsConfig bounds memory.
type LimitsConfig struct {
	// Nodes is how many nodes may be known; further ones are refused. Default:
	// 50000. 0 means the default.
	Nodes int `yaml:"nodes"`

	// PendingChunks is how many chunks may wait to be committed; then agents
	// wait. Default: 131072. 0 means the default.
	PendingChunks int64 `yaml:"pending_chunks"`

	// PendingBytes is the same in bytes of memory. Default: 1073741824
	// (1 GiB). 0 means the default. Where the cgroup limits memory, it is at
	// most a quarter of what Go may take of that.
	PendingBytes int64 `yaml:"pending_bytes"`

	// DecodedBytes is how much memory chunks that wait to be committed may take
	// decoded, as questions read them; further ones are decoded for each
	// question. Default: 134217728 (128 MiB). 0 means the default.
	DecodedBytes int64 `yaml:"decoded_bytes"`

	// BatchRows is how many minute rows a commit waits for at most. Default:
	// 100000. 0 means the default.
	BatchRows int `yaml:"batch_rows"`

	// LiveSeconds is how many seconds of a node are kept before their chunk
	// comes. Default: 30. 0 means the default.
	LiveSeconds int `yaml:"live_seconds"`

	// LiveTotalBytes bounds those of all nodes, in bytes of memory; at the limit
	// nodes that have more than an equal share lose their oldest, which then
	// come in full with their chunk. Default: 536870912 (512 MiB). 0 means the
	// default.
	LiveTotalBytes int64 `yaml:"live_total_bytes"`

	// RosterTotalBytes bounds the dictionaries that agents have sent, over all
	// of them, in bytes as they were sent. Default: 268435456 (256 MiB). 0
	// means the default.
	RosterTotalBytes int64 `yaml:"roster_total_bytes"`

	// CatchingUp is how many agents may bring what they kept during an outage at
	// once; others wait for their turn. Default: 512. 0 means the default.
	CatchingUp int `yaml:"catching_up"`

	// Connections is how many connections there may be at grpc_listen; further
	// ones are closed at once. Default: 20000. 0 means the default.
	Connections int `yaml:"connections"`

	// Ranges is how many separate runs of seconds a node or gateway may have on
	// record; at the limit, what would begin another is refused. Default:
	// 100000. 0 means the default.
	Ranges int `yaml:"ranges"`

	// Queries is how many questions are answered at once; others wait.
	// Default: 4. 0 means the default.
	Queries int `yaml:"queries"`

	// QueryTimeout bounds the answer to one question, waiting included.
	// Default: 30s. 0 means the default.
	QueryTimeout Duration `yaml:"query_timeout"`
}

// DuckDBConfig is for the embedded store.
type DuckDBConfig struct {
	// MemoryBytes bounds DuckDB's own memory; what does not fit is spilled to
	// data_dir/tmp. Default: 536870912 (512 MiB), or an eighth of what the
	// cgroup's memory limit has above 1 GiB where that is less, and 134217728
	// (128 MiB) at least. 0 means the default.
	MemoryBytes int64 `yaml:"memory_bytes"`

	// Threads are those that one question is spread over. Default 0: one per
	// core.
	Threads int `yaml:"threads"`

	// OnCorrupt is what happens at the start where the ledger is damaged:
	// refuse, or set-aside: rename it, say so in the log, the status and the
	// metrics for as long as it lies there, and begin a new one with what the
	// agents still hold. Default: refuse.
	OnCorrupt string `yaml:"on_corrupt"`

	// UpgradeCopy keeps a copy of a ledger of an older version before it is
	// brought up to this program's, as ledger.duckdb.vN, where the disk has room:
	// the way back. Nobody removes it for you. Default: true.
	UpgradeCopy bool `yaml:"upgrade_copy"`
}

// LogConfig is how the collector logs, on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level"`

	// Format is text or json. Default: text.
	Format string `yaml:"format"`
}

// Duration is a time.Duration that is written like 1h30m; 0 needs no unit.
type Duration struct{ time.Duration }

// UnmarshalYAML reads a duration; its errors name the line.
func (d *Duration) UnmarshalYAML(n ast.Node) error {
	text := n.String()
	if s, ok := n.(*ast.StringNode); ok {
		text = s.Value // without its quotes
	}
	var err error
	if d.Duration, err = time.ParseDuration(text); err != nil {
		at := n.GetToken().Position
		return fmt.Errorf("[%d:%d] %s is not a duration: want one like 10s or 168h", at.Line, at.Column, n)
	}
	return nil
}

// MarshalYAML writes it with its units.
func (d Duration) MarshalYAML() ([]byte, error) { return []byte(d.String()), nil }

// ErrConfig is wrapped by errors that only another configuration, or another
// content of a file that it names, can cure.
var ErrConfig = errors.New("the configuration is wrong")

// DefaultConfig is what a collector does that is told nothing.
func DefaultConfig() Config {
	r, l := store.DefaultRetention, ingest.DefaultLimits()
	return Config{
		DataDir: "/var/lib/gpuledger-collector", Store: storeDuckDB, GRPCListen: "127.0.0.1:9440", HTTPListen: "127.0.0.1:9441",
		IngestAccess: defaultIngestAccess(),
		Access:       defaultAccess(),
		Export:       defaultExport(),
		Gateways:     []GatewayConfig{},
		Peers:        PeersConfig{Addresses: []string{}, Timeout: Duration{time.Second}},
		Retention:    RetentionConfig{Duration{r.Second}, Duration{r.Minute}, Duration{r.Hour}, Duration{r.Day}},
		Limits: LimitsConfig{
			Nodes: l.Nodes, PendingChunks: l.PendingChunks, PendingBytes: l.PendingBytes, DecodedBytes: l.DecodedBytes, BatchRows: l.BatchRows,
			LiveSeconds: l.LiveSeconds, LiveTotalBytes: l.LiveTotalBytes, RosterTotalBytes: l.RosterTotalBytes, CatchingUp: l.CatchingUp, Connections: defaultConnections,
			Ranges: l.Ranges, Queries: 4, QueryTimeout: Duration{30 * time.Second},
		},
		ClickHouse: ClickHouseConfig{Addresses: []string{}, Database: "gpuledger"},
		DuckDB:     DuckDBConfig{UpgradeCopy: true, MemoryBytes: 512 << 20, OnCorrupt: onCorruptRefuse},
		LiveEvery:  Duration{time.Second}, StopTimeout: Duration{30 * time.Second},
		Log: LogConfig{Level: "info", Format: "text"},
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
	if c.DataDir == "" {
		bad("data_dir", "must not be empty")
	}
	c.checkListeners(bad)
	c.checkAccess(bad)
	c.checkIngestAccess(bad)
	c.Export.check(bad)
	c.checkStore(bad)
	c.checkPeers(bad)
	c.checkGateways(bad)
	c.checkNumbers(bad)
	if _, err := c.Log.level(); err != nil {
		bad("log.level", "%v", err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format", "unknown %q: want text or json", c.Log.Format)
	}
	return errors.Join(errs...)
}

func (c *Config) checkNumbers(bad func(key, format string, args ...any)) {
	for _, x := range []struct {
		key   string
		value int64
	}{
		{"retention.seconds", int64(c.Retention.Seconds.Duration)},
		{"retention.minutes", int64(c.Retention.Minutes.Duration)},
		{"retention.hours", int64(c.Retention.Hours.Duration)},
		{"retention.days", int64(c.Retention.Days.Duration)},
		{"limits.nodes", int64(c.Limits.Nodes)},
		{"limits.pending_chunks", c.Limits.PendingChunks},
		{"limits.pending_bytes", c.Limits.PendingBytes},
		{"limits.decoded_bytes", c.Limits.DecodedBytes},
		{"limits.batch_rows", int64(c.Limits.BatchRows)},
		{"limits.live_seconds", int64(c.Limits.LiveSeconds)},
		{"limits.live_total_bytes", c.Limits.LiveTotalBytes},
		{"limits.roster_total_bytes", c.Limits.RosterTotalBytes},
		{"limits.catching_up", int64(c.Limits.CatchingUp)},
		{"limits.connections", int64(c.Limits.Connections)},
		{"limits.ranges", int64(c.Limits.Ranges)},
		{"limits.queries", int64(c.Limits.Queries)},
		{"limits.query_timeout", int64(c.Limits.QueryTimeout.Duration)},
		{"duckdb.threads", int64(c.DuckDB.Threads)},
		{"stop_timeout", int64(c.StopTimeout.Duration)},
	} {
		if x.value < 0 {
			bad(x.key, "is negative")
		}
	}
	if d := c.LiveEvery.Duration; d < time.Second || d > attribution.ChunkSeconds*time.Second || d%time.Second != 0 {
		bad("live_every", "%v: want whole seconds from 1s to %ds", d, attribution.ChunkSeconds)
	}
	if n := c.Limits.PendingBytes; n > 0 && n < 16<<20 {
		bad("limits.pending_bytes", "%d is less than 16 MiB, the memory of a few large chunks", n)
	}
	if n := c.DuckDB.MemoryBytes; n != 0 && n < 64<<20 {
		bad("duckdb.memory_bytes", "%d is less than 64 MiB", n)
	}
}

// isLoopback reports whether a host to listen on is this machine alone.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
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

func (c *Config) retention() store.Retention {
	r := &c.Retention
	return store.Retention{Second: r.Seconds.Duration, Minute: r.Minutes.Duration, Hour: r.Hours.Duration, Day: r.Days.Duration}
}

func (c *Config) ingestLimits() ingest.Limits {
	l := &c.Limits
	return ingest.Limits{
		Nodes: l.Nodes, PendingChunks: l.PendingChunks, PendingBytes: l.PendingBytes, DecodedBytes: l.DecodedBytes,
		BatchRows: l.BatchRows, LiveSeconds: l.LiveSeconds, LiveTotalBytes: l.LiveTotalBytes, RosterTotalBytes: l.RosterTotalBytes,
		CatchingUp: l.CatchingUp, Ranges: l.Ranges,
	}
}
