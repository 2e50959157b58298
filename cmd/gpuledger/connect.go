package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/internal/certs"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// target is where the ledger is: a running collector, or a folder.
type target struct {
	collector, data string
	tls             tlsFiles
	token           tokenSource
}

// maxReply bounds what one answer may take in memory.
const maxReply = 256 << 20

// with calls f with a client of the ledger. A folder is opened by a collector
// of its own, which is stopped again before with returns.
func (t *target) with(ctx context.Context, stderr io.Writer, f func(pb.LedgerClient) error) error {
	addr, creds := t.collector, insecure.NewCredentials()
	var err error
	if t.data == "" {
		if creds, err = t.tls.credentials(); err != nil {
			return err
		}
	}
	if t.data != "" {
		if _, err := os.Stat(filepath.Join(t.data, ledgerFile)); err != nil {
			return fmt.Errorf("no ledger in %s: %w\nhint: --data names the folder that a collector or `gpuledger replay` wrote to", t.data, err)
		}
		c, err := startCollector(ctx, collectorOptions{data: t.data, stderr: stderr})
		if err != nil {
			return err
		}
		defer c.stop()
		addr = c.ready.GRPC
	}
	var more []grpc.DialOption
	if t.data == "" {
		shown, err := t.token.credentials(addr, !t.tls.asked())
		if err != nil {
			return err
		}
		if shown != nil {
			more = append(more, grpc.WithPerRPCCredentials(shown))
		}
	}
	conn, err := dial(addr, creds, more...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return unreachable(addr, f(pb.NewLedgerClient(conn)))
}

// unreachable says what to do where nobody answers; other errors stay.
func unreachable(addr string, err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	text := status.Convert(err).Message()
	if _, why, ok := strings.Cut(text, "handshake failed: "); ok {
		return fmt.Errorf("%s answers, but not as told: %s\nhint: the collector and --ca-file, --system-ca, --cert-file must agree on TLS", addr, strings.TrimSuffix(why, `"`))
	}
	if strings.Contains(text, "server preface") {
		return fmt.Errorf("%s answers, but not in plain gRPC\nhint: if the collector uses TLS, give --ca-file or --system-ca; its gRPC address is not its HTTP address", addr)
	}
	return fmt.Errorf("no collector answers at %s\nhint: start gpuledger-collector, name another with --collector, or open a ledger folder with --data", addr)
}

// tlsFiles say how to check the collector, and who is asking.
type tlsFiles struct {
	ca, cert, key string
	system        bool
}

// asked reports whether the connection is to be TLS.
func (f *tlsFiles) asked() bool { return f.ca != "" || f.cert != "" || f.key != "" || f.system }

func (f *tlsFiles) credentials() (credentials.TransportCredentials, error) {
	if !f.asked() {
		return insecure.NewCredentials(), nil
	}
	if (f.cert == "") != (f.key == "") {
		return nil, usagef("--cert-file and --key-file come together")
	}
	// A command that lasts, such as top, takes files that were renewed.
	set, err := certs.Open(certs.Options{Name: "collector", Cert: f.cert, Key: f.key, CA: f.ca})
	if err != nil {
		return nil, fmt.Errorf("--ca-file, --cert-file, --key-file: %w", err)
	}
	return set.ClientCredentials(), nil
}

func dial(addr string, creds credentials.TransportCredentials, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(addr, append(more,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))...)
	if err != nil {
		return nil, fmt.Errorf("collector address %q: %w", addr, err)
	}
	return conn, nil
}

// ledgerFile is the store's file in a ledger folder.
const ledgerFile = "ledger.duckdb"

// stopGrace is how long a child may take to make everything durable.
const stopGrace = 60 * time.Second

// child is a program of ours, started for the time of one command.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has exited
	err  error         // of its exit, valid after done
}

// beside finds a program of this project: next to this one, else on the PATH.
func beside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), name); isFile(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside gpuledger nor on the PATH\nhint: make build puts all three programs into bin/", name)
	}
	return p, nil
}

func isFile(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}

// start runs a program until stop, or until this process dies.
func start(name string, stderr io.Writer, args ...string) (*child, error) {
	path, err := beside(name)
	if err != nil {
		return nil, err
	}
	c := &child{name: name, done: make(chan struct{})}
	c.cmd = exec.Command(path, args...) //nolint:noctx // stopped by stop: gracefully first
	c.cmd.Stdout, c.cmd.Stderr = stderr, stderr
	// A group of its own, so that Ctrl-C reaches it only through us, in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// stop asks the child to end and kills it after stopGrace.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(stopGrace)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// ready is what the collector writes once it serves.
type ready struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
}

type collectorChild struct {
	*child
	ready ready
}

type collectorOptions struct {
	data, rateCard string
	grpc, http     string // addresses; "" for any free port on loopback
	stderr         io.Writer
}

// startCollector opens a ledger folder. Nothing in it expires while it is open
// this way: a recording may be years old.
func startCollector(ctx context.Context, o collectorOptions) (*collectorChild, error) {
	dir, err := os.MkdirTemp("", "gpuledger-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	conf := filepath.Join(dir, "collector.yaml")
	const keepAll = "retention: {seconds: \"0\", minutes: \"0\", hours: \"0\", days: \"0\"}\nlog: {level: warn}\n"
	if err := os.WriteFile(conf, []byte(keepAll), 0o600); err != nil {
		return nil, err
	}
	readyFile := filepath.Join(dir, "ready.json")
	args := []string{
		"--config", conf, "--data-dir", o.data, "--ready-file", readyFile,
		"--grpc-listen", orLoopback(o.grpc), "--http-listen", orLoopback(o.http),
	}
	if o.rateCard != "" {
		args = append(args, "--rate-card", o.rateCard)
	}
	c, err := start("gpuledger-collector", o.stderr, args...)
	if err != nil {
		return nil, err
	}
	cc := &collectorChild{child: c}
	if err := cc.waitReady(ctx, readyFile); err != nil {
		cc.stop()
		return nil, err
	}
	return cc, nil
}

func orLoopback(addr string) string {
	if addr == "" {
		return "127.0.0.1:0"
	}
	return addr
}

func (c *collectorChild) waitReady(ctx context.Context, file string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &c.ready) == nil && c.ready.GRPC != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return errors.New("the collector could not start; its message is above")
		case <-tick.C:
		}
	}
}

// agentConfig is what this command tells an agent that it starts; the rest is
// the agent's defaults.
type agentConfig struct {
	Source      string `yaml:"source"`
	StateDir    string `yaml:"state_dir"`
	SummaryFile string `yaml:"summary_file,omitempty"`
	Collector   struct {
		Address string `yaml:"address"`
	} `yaml:"collector"`
	Replay struct {
		File  string  `yaml:"file"`
		Speed float64 `yaml:"speed"`
	} `yaml:"replay,omitempty"`
	Simulated *simulatedConfig `yaml:"simulated,omitempty"`
	Log       struct {
		Level string `yaml:"level"`
	} `yaml:"log"`
}

type simulatedConfig struct {
	Speed    float64 `yaml:"speed"`
	Backfill string  `yaml:"backfill"`
}

// startAgent starts an agent that talks to a collector.
func startAgent(conf agentConfig, collector string, stderr io.Writer) (*child, error) {
	if err := os.MkdirAll(conf.StateDir, 0o700); err != nil {
		return nil, err
	}
	conf.Collector.Address, conf.Log.Level = collector, "warn"
	b, err := yaml.Marshal(conf)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(conf.StateDir, "agent.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	return start("gpuledger-agent", stderr, "--config", file)
}
