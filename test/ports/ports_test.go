// Package ports_test scans what the programs listen on and holds it against
// docs/security.md.
package ports_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuledger/gpuledger/internal/certs/certstest"
	"github.com/gpuledger/gpuledger/test/programs"
)

var bin programs.Dir

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // it will skip, and needs no programs
	}
	os.Exit(programs.Main(m, "../..", func(d programs.Dir) { bin = d }))
}

// documented are the addresses of a table of docs/security.md.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n### "+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^\| gpuledger-\w+ \| (\S*:\d+) \|`).FindAllStringSubmatch(section, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

// outside is an address of the namespace that is not loopback's.
const outside = "10.111.0.1"

// isolated runs f in a network namespace of its own. f's children are in it,
// too; goroutines that it starts are not.
func isolated(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	done := make(chan struct{})
	go func() { // a thread that ends with this goroutine: it is not unlocked
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), up()); err != nil {
			t.Errorf("a network namespace: %v", err)
			return
		}
		f(t)
	}()
	<-done
}

// up switches loopback on, with an address that is not 127.0.0.1.
func up() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	second, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo),
		second.SetInet4Addr(net.ParseIP(outside).To4()), unix.IoctlIfreq(s, unix.SIOCSIFADDR, second))
}

// scan tries every TCP port: those open on loopback alone are told with its
// address, those open on all addresses without.
func scan() ([]string, error) {
	open := func(ip string, port int) (bool, error) {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return false, err
		}
		defer unix.Close(s)
		at := &unix.SockaddrInet4{Port: port, Addr: [4]byte(net.ParseIP(ip).To4())}
		switch err := unix.Connect(s, at); {
		case err == nil:
			// A port that the kernel has given to this very socket answers itself.
			own, err := unix.Getsockname(s)
			if err != nil {
				return false, err
			}
			from, ok := own.(*unix.SockaddrInet4)
			return !ok || from.Port != port, nil
		case errors.Is(err, unix.ECONNREFUSED):
			return false, nil
		default:
			return false, err
		}
	}
	var all []string
	for port := 1; port <= 65_535; port++ {
		in, err := open("127.0.0.1", port)
		if err != nil {
			return nil, err
		}
		out, err := open(outside, port)
		if err != nil {
			return nil, err
		}
		switch {
		case out && in:
			all = append(all, fmt.Sprintf(":%d", port))
		case out:
			all = append(all, fmt.Sprintf("%s:%d", outside, port))
		case in:
			all = append(all, fmt.Sprintf("127.0.0.1:%d", port))
		}
	}
	slices.Sort(all)
	return all, nil
}

// udp are the sockets of the namespace that take datagrams.
func udp() (all []string, err error) {
	for _, name := range []string{"udp", "udp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/thread-self/net/%s", name))
		if err != nil {
			return nil, err
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		all = append(all, lines[1:]...)
	}
	return all, nil
}

// start starts a program, and waits until ready says so.
func start(t *testing.T, ready func() bool, env []string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), args[0], args[1:]...)
	c.Stdout, c.Stderr, c.Env = log, log, append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 30 * time.Second
	if err := c.Start(); err != nil {
		t.Error(err)
		return
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // how it ends is not what this is about
		close(ended)
	}()
	t.Cleanup(func() { <-ended; log.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Errorf("%s ended:\n%s", args, text)
			return
		case <-ctx.Done():
			text, _ := os.ReadFile(log.Name())
			t.Errorf("%s is not ready:\n%s", args, text)
			return
		}
	}
}

func exists(name string) func() bool {
	return func() bool {
		found, err := filepath.Glob(name)
		return err == nil && len(found) > 0
	}
}

// compare scans and compares with a table.
func compare(t *testing.T, heading string) {
	t.Helper()
	got, err := scan()
	if err != nil {
		t.Error(err)
		return
	}
	if want := documented(t, heading); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("open: %q, documented: %q", got, want)
	}
	if datagrams, err := udp(); err != nil || len(datagrams) > 0 {
		t.Errorf("sockets for UDP: %q, %v", datagrams, err)
	}
}

// TestDefaultInstall: the programs as they are without settings.
func TestDefaultInstall(t *testing.T) {
	isolated(t, func(t *testing.T) {
		dir := t.TempDir()
		ready := filepath.Join(dir, "ready")
		start(t, exists(ready), nil, bin.Path(programs.Collector), "--data-dir", filepath.Join(dir, "ledger"), "--ready-file", ready)
		start(t, exists(filepath.Join(dir, "agent", "*", "*", "*")), nil,
			bin.Path(programs.Agent), "--source", "simulated", "--state-dir", filepath.Join(dir, "agent"))
		if !t.Failed() {
			compare(t, "By default")
		}
	})
}

// TestKubernetesInstall: the programs with the settings of deploy/, but for
// where files are.
func TestKubernetesInstall(t *testing.T) {
	isolated(t, func(t *testing.T) {
		dir := t.TempDir()
		files := certstest.New(t).Mount(certstest.Leaf{})
		token := filepath.Join(dir, "token")
		place := strings.NewReplacer(
			"/etc/gpuledger/tls", files.Dir, "/etc/gpuledger/config/ratecard.yaml", absolute(t, "../../deploy/collector/ratecard.yaml"),
			"/var/run/secrets/gpuledger/token", token, "gpuledger-collector.gpuledger.svc", "localhost",
			"    service_accounts:", fmt.Sprintf("    api_server: https://127.0.0.1:6443\n    ca_file: %s\n    token_file: %s\n    service_accounts:", files.CA, token),
		)
		write(t, token, "a.b.c")
		for to, from := range map[string]string{"collector.yaml": "../../deploy/collector/settings.yaml", "agent.yaml": "../../deploy/agent/agent.yaml"} {
			text, err := os.ReadFile(from)
			if err != nil {
				t.Error(err)
				return
			}
			write(t, filepath.Join(dir, to), place.Replace(string(text)))
		}
		ready := filepath.Join(dir, "ready")
		start(t, exists(ready), nil, bin.Path(programs.Collector), "--config", filepath.Join(dir, "collector.yaml"),
			"--data-dir", filepath.Join(dir, "ledger"), "--ready-file", ready)
		start(t, exists(filepath.Join(dir, "agent", "*", "*", "*")), nil, bin.Path(programs.Agent), "--config", filepath.Join(dir, "agent.yaml"),
			"--source", "simulated", "--state-dir", filepath.Join(dir, "agent"))
		if !t.Failed() {
			compare(t, "On Kubernetes")
		}
	})
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Error(err)
	}
	return path
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Error(err)
	}
}
