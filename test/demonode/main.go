// Command demonode shows what gpuledger does on a GPU node, on a machine that
// need not have a GPU: make demo-node.
//
// The collector and the agent are the real ones, as they are built. The driver
// is a stub (test/nvmlstub) that plays a scene, the kubelet is a stub too
// (test/nodestub), and the processes are real but do nothing: what they are
// said to do is the scene's. It ends after its time, or at Ctrl-C, and leaves
// nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nodestub"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func main() {
	runtime.LockOSThread() // what is started dies with the thread that started it
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demonode:", err)
		os.Exit(1)
	}
}

const card = `currency: USD
prices:
  - model: "NVIDIA H100*"
    per_device_hour: "2.90"
`

type options struct {
	bin, load string
	lasts     time.Duration
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("demonode", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.bin, "bin", "bin", "folder with the agent and the collector")
	f.StringVar(&o.load, "load", "gpuload", "the program that does nothing")
	f.DurationVar(&o.lasts, "for", time.Minute, "end after this time; 0: at Ctrl-C")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.lasts < 0 {
		return o, errors.New("no arguments, and a time of at least 0")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.lasts > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.lasts)
		defer cancel()
	}
	dir, err := os.MkdirTemp("", "gpuledger-demo-node-")
	if err != nil {
		return err
	}
	l := &life{}
	defer func() {
		if r := recover(); r != nil {
			failed, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = failed
		}
		err = errors.Join(err, l.end(), os.RemoveAll(dir))
	}()
	library, err := nvmlstub.Build(ctx, "", nvmlstub.Variant{})
	if err != nil {
		return err
	}
	d := &demo{options: o, dir: dir, life: l, stderr: stderr, node: nodestub.New(l, dir)}
	s := &stage{demo: d}
	if err := s.begin(); err != nil {
		return err
	}
	if err := d.startLedger(ctx, library); err != nil {
		return stopped(ctx, err)
	}
	return s.play(ctx, stdout)
}

// stopped is err, unless it came of being told to end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end, and did
	}
	return err
}

// life is what a nodestub wants of a test: that it can fail, and ends.
type life struct {
	testing.TB
	ends []func() error
}

type failure struct{ error }

// Helper implements testing.TB.
func (*life) Helper() {}

// Fatal implements testing.TB.
func (*life) Fatal(what ...any) { panic(failure{errors.New(fmt.Sprint(what...))}) }

// Cleanup implements testing.TB.
func (l *life) Cleanup(f func()) { l.atEnd(func() error { f(); return nil }) }

func (l *life) atEnd(f func() error) { l.ends = append(l.ends, f) }

// end ends everything, the last first.
func (l *life) end() (err error) {
	for len(l.ends) > 0 {
		n := len(l.ends) - 1
		f := l.ends[n]
		l.ends = l.ends[:n]
		err = errors.Join(err, f())
	}
	return err
}

// demo is one run.
type demo struct {
	options
	*life
	dir     string
	node    *nodestub.Node
	stderr  io.Writer
	ledger  pb.LedgerClient
	agent   *child
	coll    *child
	metrics string // address of the agent's
}

// startLedger starts the collector and an agent on the stub driver.
func (d *demo) startLedger(ctx context.Context, library string) error {
	grpcAt, httpAt, metrics := freePort(), freePort(), freePort()
	d.metrics = metrics
	files := map[string]string{
		"card.yaml": card,
		"agent.yaml": fmt.Sprintf("cluster: demo\nnode: this-machine\nsource: nvml\nstate_dir: %q\ncollector: {address: %q}\nhttp_listen: %q\nlog: {level: warn}\n%s",
			filepath.Join(d.dir, "agent"), grpcAt, metrics, d.node.Settings(fmt.Sprintf("library: %q", library))),
		"collector.yaml": "log: {level: warn}\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	scene := filepath.Join(d.dir, "gpus")
	if err := scenario().Write(scene); err != nil {
		return err
	}
	var err error
	d.coll, err = d.start(filepath.Join(d.bin, "gpuledger-collector"), nil, d.stderr,
		"--config", filepath.Join(d.dir, "collector.yaml"), "--data-dir", filepath.Join(d.dir, "ledger"),
		"--rate-card", filepath.Join(d.dir, "card.yaml"), "--grpc-listen", grpcAt, "--http-listen", httpAt)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(grpcAt, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	d.atEnd(conn.Close)
	d.ledger = pb.NewLedgerClient(conn)
	if err := d.await(ctx); err != nil {
		return err
	}
	d.agent, err = d.start(filepath.Join(d.bin, "gpuledger-agent"), []string{nvmlstub.EnvScenario + "=" + scene}, d.stderr,
		"--config", filepath.Join(d.dir, "agent.yaml"))
	return err
}

// await waits for the collector.
func (d *demo) await(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := d.ledger.Status(ctx, &pb.StatusRequest{}); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.coll.done:
			return errors.New("the collector could not start; its message is above")
		case <-tick.C:
		}
	}
}

// freePort is an address on loopback that is free now.
func freePort() string {
	addr, err := loopback.Address()
	if err != nil {
		panic(failure{err})
	}
	return addr
}

// play plays the scene, and shows it, until ctx ends.
func (s *stage) play(ctx context.Context, stdout io.Writer) error {
	every := time.Second
	terminal := isTerminal(stdout)
	if !terminal {
		every = 10 * time.Second
	}
	second, show := time.NewTicker(time.Second), time.NewTicker(every)
	defer second.Stop()
	defer show.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.curtain(stdout, terminal)
		case <-s.coll.done:
			return errors.New("the collector ended early; its message is above")
		case <-s.agent.done:
			return errors.New("the agent ended early; its message is above")
		case <-second.C:
			if err := s.step(); err != nil {
				return err
			}
			continue
		case <-show.C:
		}
		var b strings.Builder
		if err := s.frame(ctx, &b, terminal); err != nil {
			if ctx.Err() != nil {
				continue
			}
			return err
		}
		if _, err := io.WriteString(stdout, b.String()); err != nil {
			return err
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
