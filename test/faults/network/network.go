// Package network joins two network namespaces by a link that a test can spoil:
// cut in either direction, or be slow, lossy, doubling and out of order.
//
// Each namespace has one TUN device, and the [Link] carries packets from one to
// the other in this process, as a bad network would. So it needs root and
// /dev/net/tun, and neither netem nor any other module of the kernel.
package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Side is an end of a link.
type Side int

// The sides.
const (
	Left Side = iota
	Right
)

// Address is a side's own, the same in every link.
func (s Side) Address() string { return [...]string{"10.99.0.1", "10.99.0.2"}[s] }

// Conditions are what a direction of a link does to packets; zero is a link of
// no delay on which nothing goes wrong. Percentages are of packets.
type Conditions struct {
	Cut         bool // nothing passes
	LossPercent int
	TwicePct    int           // arrive a second time, later
	Delay       time.Duration // of each packet, and at most
	Jitter      time.Duration // more: packets overtake each other
	Rate        int           // bytes a second; 0: no limit. A fifth of a second is queued, more is lost.
}

// Link is two namespaces, joined. It is used by one test.
type Link struct {
	names [2]string
	ways  [2]*way
	wait  sync.WaitGroup
}

// New makes a link that lasts as long as the test, or skips it where that
// can't be. What goes wrong on it is decided by the seed.
func New(t testing.TB, seed uint64) *Link {
	t.Helper()
	l := &Link{}
	id := fmt.Sprintf("gl%x%x", os.Getpid(), rand.Uint32()) //nolint:gosec // a name
	t.Cleanup(func() { l.close(t) })
	var tuns [2]*os.File
	for _, s := range []Side{Left, Right} {
		name := id + [...]string{"l", "r"}[s]
		if err := ip("netns", "add", name); err != nil {
			t.Skipf("no network namespace can be made here: %v", err)
		}
		l.names[s] = name
		tun, err := openTUN(name)
		if err != nil {
			t.Skipf("no TUN device can be made here: %v", err)
		}
		tuns[s] = tun
		l.ways[s] = &way{from: tun, rng: rand.New(rand.NewPCG(seed, uint64(s))), wake: make(chan struct{}, 1)} //nolint:gosec // a simulation
		for _, args := range [][]string{
			{"-n", name, "addr", "add", s.Address(), "peer", (1 - s).Address(), "dev", device},
			{"-n", name, "link", "set", device, "up"},
			{"-n", name, "link", "set", "lo", "up"},
		} {
			if err := ip(args...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for s, w := range l.ways {
		w.to = tuns[1-s]
		l.wait.Go(w.read)
		l.wait.Go(w.write)
	}
	return l
}

// In is a command that runs another on a side.
func (l *Link) In(s Side, command ...string) []string {
	return append([]string{"ip", "netns", "exec", l.names[s]}, command...)
}

// Set changes what happens to packets that a side sends. Those underway arrive
// as they would have.
func (l *Link) Set(from Side, c Conditions) {
	w := l.ways[from]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conditions = c
}

// Lost is how many packets of a side have not arrived.
func (l *Link) Lost(from Side) int64 {
	w := l.ways[from]
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

func (l *Link) close(t testing.TB) {
	for _, w := range l.ways {
		if w != nil {
			w.stop()
		}
	}
	l.wait.Wait()
	for _, name := range l.names {
		if name == "" {
			continue
		}
		if err := ip("netns", "del", name); err != nil {
			t.Error(err)
		}
	}
}

func ip(args ...string) error {
	if out, err := exec.CommandContext(context.Background(), "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w %s", args, err, out)
	}
	return nil
}

const device = "link0"

// openTUN makes a TUN device in a namespace.
func openTUN(namespace string) (f *os.File, err error) {
	err = within(namespace, func() (err error) {
		f, err = newTUN()
		return err
	})
	return f, err
}

// within calls f on a thread that is in a namespace: sockets and devices that f
// opens belong to that. A thread that can't come back is given up.
func within(namespace string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		back, err := visit(namespace, f)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func visit(namespace string, f func() error) (back bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, err
	}
	defer home.Close() //nolint:errcheck // only read
	there, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return true, err
	}
	defer there.Close() //nolint:errcheck // only read
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, err
	}
	err = f()
	return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil, err
}

func newTUN() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}
