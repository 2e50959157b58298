package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of a node. All of them exist in its own network alone.
const (
	NodeName = "kube-node-1"
	nodeIP   = "10.99.0.1"
	apiIP    = "10.96.0.1" // the service kubernetes.default
	podCIDR  = "10.244.0.0/24"
	services = "10.96.0.0/16"
)

// program is this program's name when it is keeper, node or enter.
const program = "gpuledger-kube"

// node is what those who enter must know; in RUN/node.json.
type node struct {
	Run     string      `json:"run"` // the folder of everything made at run time
	PID     int         `json:"pid"` // who holds the namespaces
	Cgroups []hierarchy `json:"cgroups"`
}

func (n *node) file() string { return filepath.Join(n.Run, "node.json") }

func (n *node) write() error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return os.WriteFile(n.file(), b, 0o600)
}

func readNode(run string) (*node, error) {
	b, err := os.ReadFile(filepath.Join(run, "node.json"))
	if err != nil {
		return nil, err
	}
	n := &node{}
	return n, json.Unmarshal(b, n)
}

// Main must be the first thing that a program which calls [Start] does: where
// it was started as a part of a node it plays that part and does not return.
func Main() {
	if filepath.Base(os.Args[0]) != program {
		return
	}
	runtime.LockOSThread() // namespaces are a thread's until it becomes another program
	err := errors.New("want keeper, node or enter")
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "keeper":
			err = keep(os.Args[2])
		case "node":
			err = becomeNode(os.Args[2])
		case "hold":
			err = hold(os.Args[2])
		case "enter":
			err = enter(os.Args[2], os.Args[3:])
		}
	}
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s %s: %v\n", program, strings.Join(os.Args[1:], " "), err)
		os.Exit(1)
	}
	os.Exit(0)
}

// part is a command that plays a part of the node in the folder run.
func part(ctx context.Context, role, run string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe")
	c.Args = append([]string{program, role, run}, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the test alone
	return c
}

// keep is the keeper: it says "ready" on standard output once the node is, and
// ends it when standard input is closed, at a signal, or when the node dies.
func keep(run string) error {
	if old, err := readNode(run); err == nil { // of a keeper that was killed
		if err := killCgroups(old.Cgroups); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(run), os.MkdirAll(run, 0o755)); err != nil {
		return err
	}
	mounts, err1 := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	all, err := hierarchies(string(mounts), string(own))
	if err != nil {
		return err
	}
	n := &node{Run: run, Cgroups: all}
	if err := errors.Join(n.write(), makeCgroups(all)); err != nil {
		return errors.Join(err, removeCgroups(all))
	}
	err = n.keepUp()
	return errors.Join(err, killCgroups(all), os.RemoveAll(run))
}

// keepUp starts the node and waits until it is no longer wanted.
func (n *node) keepUp() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c := part(ctx, "node", n.Run)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	n.PID = c.Process.Pid
	if err := n.write(); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	go func() {
		_, err := io.Copy(os.Stdout, out)
		if err == nil {
			err = errors.New("the node has ended")
		}
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	_ = c.Process.Kill() // its cgroup is killed next
	_ = c.Wait()
	return err
}

// becomeNode makes the namespaces and begins anew inside them.
func becomeNode(run string) error {
	n, err := readNode(run)
	if err != nil {
		return err
	}
	if err := joinCgroups(n.Cgroups, false); err != nil {
		return err
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("make the namespaces (root is needed): %w", err)
	}
	if err := joinCgroups(n.Cgroups, true); err != nil {
		return err
	}
	if pureV2(n.Cgroups) {
		if err := delegate(n.Cgroups[0].Dir); err != nil {
			return err
		}
	}
	return syscall.Exec("/proc/self/exe", []string{program, "hold", run}, os.Environ())
}

// hold sets the node up and then holds its namespaces until it is killed.
func hold(run string) error {
	n, err := readNode(run)
	if err != nil {
		return err
	}
	if err := n.setUp(); err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, "ready\n"); err != nil {
		return err
	}
	select {}
}

// enter becomes a command in the node.
func enter(run string, argv []string) error {
	n, err := readNode(run)
	if err != nil {
		return err
	}
	if len(argv) == 0 {
		return errors.New("no command")
	}
	if err := joinCgroups(n.Cgroups, true); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // else the mount namespace can't be joined
		return err
	}
	for _, ns := range []string{"cgroup", "ipc", "uts", "net", "mnt"} {
		if err := n.join(ns); err != nil {
			return err
		}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	name, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(name, argv, os.Environ())
}

// join moves the calling thread into one of the node's namespaces.
func (n *node) join(ns string) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", n.PID, ns))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), 0); err != nil {
		return fmt.Errorf("join the node's %s namespace: %w", ns, err)
	}
	return nil
}

// dial connects to an address (no name) of the node's network.
func (n *node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := n.join("net"); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
