// Package clickhousetest runs real ClickHouse servers for tests: one, or a
// cluster of shards and replicas with the ZooKeeper that it needs, on loopback,
// in a directory of the test's. Servers can be stopped, killed and started
// again.
//
// The programs are looked for under $GPULEDGER_CLICKHOUSE (a directory that
// Debian's packages were unpacked into), in .tools/clickhouse of the repository,
// where make clickhouse puts them, and in their usual places. Where there are
// none, tests are skipped.
package clickhousetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/internal/loopback"
)

// Env names the directory that ClickHouse was unpacked into.
const Env = "GPULEDGER_CLICKHOUSE"

// startTime bounds how long a server may take to answer.
const startTime = 60 * time.Second

// stopTime is how long a server may take to end when it is asked to.
const stopTime = 5 * time.Second

// Find is where ClickHouse was unpacked; "/" where it is installed. ok is false
// where it is neither.
func Find() (root string, ok bool) {
	roots := []string{os.Getenv(Env)}
	if dir, err := os.Getwd(); err == nil {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			roots = append(roots, filepath.Join(dir, ".tools", "clickhouse"))
		}
	}
	for _, root := range append(roots, "/") {
		if root != "" && server(root) != "" {
			return root, true
		}
	}
	return "", false
}

// server is the server's program under a root, "" where it is not there.
func server(root string) string {
	for _, name := range []string{"usr/sbin/clickhouse-server", "usr/bin/clickhouse-server"} {
		path := filepath.Join(root, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Need skips a test where there is no ClickHouse.
func Need(t testing.TB) {
	t.Helper()
	if _, ok := Find(); !ok {
		t.Skip("no ClickHouse server here: make clickhouse gets Debian's, or set " + Env)
	}
}

// Cluster is running servers. Its methods are for one goroutine.
type Cluster struct {
	// Nodes are in order of shard and replica.
	Nodes []*Node
	// Name is the cluster's in its servers' configuration; "" for one server.
	Name string

	root, dir string
	zookeeper *exec.Cmd
	keeper    string // ZooKeeper's address
}

// Node is one server.
type Node struct {
	Shard, Replica int // from 1
	// Address is the HTTP interface's, host:port.
	Address string

	cluster          *Cluster
	dir              string
	tcp, interserver string
	cmd              *exec.Cmd
}

// Start starts a cluster that ends with the test. A single server runs without
// ZooKeeper.
func Start(t testing.TB, shards, replicas int) *Cluster {
	t.Helper()
	Need(t)
	c, err := Launch(t.Context(), t.TempDir(), shards, replicas)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Launch is Start for what outlives one test: the caller closes it. It keeps
// everything under dir.
func Launch(ctx context.Context, dir string, shards, replicas int) (*Cluster, error) {
	root, ok := Find()
	if !ok {
		return nil, errors.New("no ClickHouse server: make clickhouse gets Debian's")
	}
	c := &Cluster{root: root, dir: dir}
	if err := c.launch(ctx, shards, replicas); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) launch(ctx context.Context, shards, replicas int) (err error) {
	if shards*replicas > 1 {
		c.Name = "ledger"
		if err := c.startZooKeeper(ctx); err != nil {
			return err
		}
	}
	for s := range shards {
		for r := range replicas {
			n := &Node{Shard: s + 1, Replica: r + 1, cluster: c, dir: filepath.Join(c.dir, fmt.Sprintf("s%dr%d", s+1, r+1))}
			for _, a := range []*string{&n.Address, &n.tcp, &n.interserver} {
				if *a, err = loopback.Address(); err != nil {
					return err
				}
			}
			c.Nodes = append(c.Nodes, n)
		}
	}
	for _, n := range c.Nodes {
		if err := n.configure(); err != nil {
			return err
		}
		if err := n.begin(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Addresses are the HTTP addresses of all servers.
func (c *Cluster) Addresses() []string {
	out := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		out[i] = n.Address
	}
	return out
}

// Close kills all servers.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Kill()
	}
	end(c.zookeeper, syscall.SIGKILL)
	c.zookeeper = nil
}

// Kill ends the server as kill -9 does.
func (n *Node) Kill() {
	end(n.cmd, syscall.SIGKILL)
	n.cmd = nil
}

// Stop asks the server to end, and waits until it has. One that waits for its
// clients is killed after a while.
func (n *Node) Stop() {
	if n.cmd == nil {
		return
	}
	cmd := n.cmd
	kill := time.AfterFunc(stopTime, func() { _ = cmd.Process.Kill() }) // it may have ended
	end(cmd, syscall.SIGTERM)
	kill.Stop()
	n.cmd = nil
}

// Start starts a server that was killed or stopped, and waits until it answers.
func (n *Node) Start(ctx context.Context) error {
	if n.cmd == nil {
		if err := n.begin(); err != nil {
			return err
		}
	}
	return n.wait(ctx)
}

func end(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig) // it may have ended already
	_ = cmd.Wait()              // how it ended is of no interest
}

// program is a command that finds the unpacked libraries, and dies with us.
func (c *Cluster) program(log, name string, args ...string) (*exec.Cmd, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()                  //nolint:errcheck // the command has its own
	cmd := exec.Command(name, args...) //nolint:noctx // it is ended by Kill and Stop
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

func (n *Node) begin() error {
	cmd, err := n.cluster.program(filepath.Join(n.dir, "out"), server(n.cluster.root), "--config-file="+filepath.Join(n.dir, "config.xml"))
	if err != nil {
		return err
	}
	if root := n.cluster.root; root != "/" {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(root, "usr/lib/x86_64-linux-gnu")+":"+filepath.Join(root, "lib/x86_64-linux-gnu"))
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd = cmd
	return nil
}

// wait waits until the server answers. One of this age gives up where ZooKeeper is
// slow to answer it, and is then started again.
func (n *Node) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := n.Exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		if n.cmd != nil && n.ended() {
			if err := n.begin(); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			text, _ := os.ReadFile(filepath.Join(n.dir, "e.log"))
			return fmt.Errorf("the server in %s does not answer: %w\n%.2000s", n.dir, err, text)
		}
	}
}

// ended reports whether the server's process has ended by itself.
func (n *Node) ended() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(n.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	return err != nil || pid == n.cmd.Process.Pid
}

// Exec runs a statement on this server and returns its answer as text.
func (n *Node) Exec(ctx context.Context, statement string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.Address+"/", strings.NewReader(statement))
	if err != nil {
		return "", err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close() //nolint:errcheck // it is read to its end
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.500s", res.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}
