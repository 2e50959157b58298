package kube

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to start.
type Options struct {
	// Cache is the folder of binaries, logs, and everything made at run time.
	// Default "": [CacheDir].
	Cache string

	// PodsAPI turns the kubelet's Pods API on: the alpha feature PodsAPI.
	PodsAPI bool

	// Logf is told what is going on. Default: nothing is.
	Logf func(format string, args ...any)
}

// Cluster is a running one-node cluster. Its methods may be called by any
// goroutine, but those that start and stop one daemon by one at a time.
type Cluster struct {
	opt    Options
	cache  string
	node   *node
	pki    *pki
	began  time.Time
	lock   *os.File
	keeper *exec.Cmd
	hangUp io.Closer // the keeper's standard input

	mu      sync.Mutex
	daemons map[string]*daemon
}

// CacheDir is GPULEDGER_KUBE_CACHE, else gpuledger-kube in the user's cache
// folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("GPULEDGER_KUBE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "gpuledger-kube"), err
}

// Start starts a node and the cluster on it, and returns once the node is
// ready for pods. What it needs is built first, which takes a quarter of an
// hour the first time. [Main] must have been called.
func Start(ctx context.Context, opt Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a node needs root: it makes namespaces, mounts and cgroups")
	}
	if opt.Logf == nil {
		opt.Logf = func(string, ...any) {}
	}
	if opt.Cache == "" {
		var err error
		if opt.Cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	c := &Cluster{opt: opt, cache: opt.Cache, began: time.Now(), daemons: map[string]*daemon{}}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(c.path("bin"), 0o755), os.RemoveAll(c.path("logs")), os.MkdirAll(c.path("logs"), 0o755)); err != nil {
		return err
	}
	if err := c.takeLock(); err != nil {
		return err
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	c.began = time.Now()
	if err := c.startNode(); err != nil {
		return err
	}
	c.say("node up")
	for _, step := range []func(context.Context) error{c.startContainerd, c.startControlPlane, c.startKubelet} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// path is that of a file in the cache folder.
func (c *Cluster) path(names ...string) string {
	return filepath.Join(append([]string{c.cache}, names...)...)
}

// Run is that of a file in the folder of what is made at run time.
func (c *Cluster) Run(names ...string) string {
	return filepath.Join(append([]string{c.cache, "run"}, names...)...)
}

func (c *Cluster) say(format string, args ...any) {
	c.opt.Logf("%6.2fs %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// takeLock makes sure that the cache folder has one node. The keeper has the
// lock, too, so that it is free only when everything is cleaned up.
func (c *Cluster) takeLock() error {
	f, err := os.OpenFile(c.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	c.lock = f
	for range 100 { // what was killed just now is still being cleaned up
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return fmt.Errorf("another node runs in %s: %w", c.cache, err)
}

// startNode starts the keeper, and it the node.
func (c *Cluster) startNode() error {
	keeper := part(context.Background(), "keeper", c.Run())
	keeper.ExtraFiles = []*os.File{c.lock}
	keeper.Stderr = os.Stderr
	in, err1 := keeper.StdinPipe()
	out, err2 := keeper.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := keeper.Start(); err != nil {
		return err
	}
	c.keeper, c.hangUp = keeper, in
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		return errors.New("the node does not come up: its reason is on standard error")
	}
	c.node, err = readNode(c.Run())
	return err
}

// Stop ends the node with everything in it, and removes what was made at run
// time. Logs stay, in the cache folder. It may be called again.
func (c *Cluster) Stop() error {
	var errs []error
	if c.keeper != nil {
		errs = append(errs, c.hangUp.Close(), c.keeper.Wait())
		c.keeper = nil
	}
	c.mu.Lock()
	for _, d := range c.daemons {
		<-d.ended
	}
	c.daemons = map[string]*daemon{}
	c.mu.Unlock()
	if c.lock != nil {
		errs = append(errs, c.lock.Close())
		c.lock = nil
	}
	return errors.Join(errs...)
}

// Dial connects to an address of the node's network. It takes no names.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.node.dial(ctx, network, address)
}

// Command is a command that runs in the node.
func (c *Cluster) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return command(ctx, c.cache, name, args...)
}

// CommandIn is a command in the node that another program has started, in the
// cache folder [CacheDir].
func CommandIn(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	cache, err := CacheDir()
	if err == nil {
		_, err = readNode(filepath.Join(cache, "run"))
	}
	if err != nil {
		return nil, fmt.Errorf("no node runs: %w", err)
	}
	return command(ctx, cache, name, args...), nil
}

func command(ctx context.Context, cache, name string, args ...string) *exec.Cmd {
	run := filepath.Join(cache, "run")
	cmd := part(ctx, "enter", run, append([]string{name}, args...)...)
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Join(cache, "bin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		"KUBECONFIG="+filepath.Join(run, "pki", "admin.conf"),
		"CONTAINERD_ADDRESS=/run/containerd/containerd.sock",
	)
	return cmd
}

// Output runs a command in the node: what it says on standard output.
func (c *Cluster) Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return output(c.Command(ctx, name, args...))
}

// Kubectl runs kubectl as the cluster's administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.Output(ctx, "kubectl", args...)
}

// Apply applies a manifest. Unknown and doubled fields are errors.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	cmd := c.Command(ctx, "kubectl", "apply", "--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := output(cmd)
	return err
}

func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(cmd.Args[3:], " "), err)
	}
	return out, err
}

// daemon is a program that runs in the node until it is stopped.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // once ended
}

// StartDaemon starts a program in the node, or fails where it runs already.
// What it says is appended to logs/NAME.log.
func (c *Cluster) StartDaemon(name string, argv ...string) error {
	said, err := os.OpenFile(c.Log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = said.Close() }()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.daemons[name]; d != nil && !d.gone() {
		return fmt.Errorf("%s runs already", name)
	}
	cmd := c.Command(context.Background(), argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return err
	}
	d := &daemon{cmd: cmd, ended: make(chan struct{})}
	c.daemons[name] = d
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	return nil
}

// Log is the file with what a daemon said.
func (c *Cluster) Log(name string) string { return c.path("logs", name+".log") }

// StopDaemon asks a program to end with SIGTERM, and kills it after 10 s.
func (c *Cluster) StopDaemon(name string) error {
	c.mu.Lock()
	d := c.daemons[name]
	c.mu.Unlock()
	if d == nil {
		return fmt.Errorf("%s was not started", name)
	}
	if d.gone() {
		return fmt.Errorf("%s has ended by itself: %w; see %s", name, d.err, c.Log(name))
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.ended:
	case <-time.After(10 * time.Second):
		err := d.cmd.Process.Kill()
		<-d.ended
		return err
	}
	return nil
}

func (d *daemon) gone() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// Await polls five times a second until ready says nil, for at most the given
// time, or until a daemon of that name, if there is one, has ended.
func (c *Cluster) Await(ctx context.Context, what string, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error // what was wrong before time was up
	for {
		err := ready(ctx)
		if ctx.Err() == nil {
			last = err
		}
		if err == nil {
			c.say("%s", what)
			return nil
		}
		c.mu.Lock()
		d := c.daemons[what]
		c.mu.Unlock()
		if d != nil && d.gone() {
			return fmt.Errorf("%s has ended: %w; see %s", what, d.err, c.Log(what))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w", what, limit, cmp.Or(last, err))
		}
	}
}
