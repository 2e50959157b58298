package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"

	"github.com/gpuledger/gpuledger/attribution"
)

// listen listens at unix:///path, or host:port. A socket's file that nobody
// listens behind is replaced; anybody may connect, since who it is is seen.
func listen(ctx context.Context, at string, c *counts) (net.Listener, error) {
	network, address := "tcp", at
	if path, ok := strings.CutPrefix(at, "unix://"); ok {
		network, address = "unix", path
		if err := removeSocket(ctx, path); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o666); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return &listener{Listener: l, free: make(chan struct{}, maxConnections), counts: c}, nil
}

// removeSocket removes what an agent that was killed has left, and nothing
// else.
func removeSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and no socket", path)
	}
	if conn, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		return errors.Join(fmt.Errorf("somebody listens at %s already", path), conn.Close())
	}
	return os.Remove(path)
}

// listener closes connections beyond the limit, and tells who is at the other
// end of unix ones.
type listener struct {
	net.Listener
	free   chan struct{} // holds an item for each connection
	counts *counts
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.free <- struct{}{}:
			return &connection{Conn: c, from: from(c), free: l.free}, nil
		default:
			l.counts.connections.Add(1)
			_ = c.Close() // whoever has too many
		}
	}
}

// connection is one, with the other end's address as from says.
type connection struct {
	net.Conn
	from net.Addr
	free <-chan struct{}
	once sync.Once
}

func (c *connection) RemoteAddr() net.Addr { return c.from }

func (c *connection) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}

// process is the address of a process at the other end of a unix socket.
type process struct{ pid int32 }

func (process) Network() string  { return "unix" }
func (p process) String() string { return fmt.Sprintf("pid %d", p.pid) }

// from is the other end's address: a process of which the kernel says that it
// connected, or what the network says.
func from(c net.Conn) net.Addr {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return c.RemoteAddr()
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return process{}
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return process{}
	}
	return process{cred.Pid}
}

// ownerOf is who is at the other end of a request's connection, nil where that
// is not known.
func (s *Server) ownerOf(ctx context.Context, container string) *attribution.Owner {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	switch a := p.Addr.(type) {
	case process:
		if a.pid <= 0 {
			return nil
		}
		o := s.o.Owners.Process(uint32(a.pid))
		if o == nil || (o.Kind != attribution.Container && o.Kind != attribution.HostProcess) || (container != "" && o.Container != container) {
			return nil
		}
		return o
	case *net.TCPAddr:
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			return nil
		}
		return s.o.Owners.Address(ip.Unmap(), container)
	}
	return nil
}

// rates are how fast each pusher is.
type rates struct {
	mu sync.Mutex
	of map[string]*rate
}

type rate struct {
	left float64
	at   time.Time
}

// allow reports whether a pusher may do one more request.
func (r *rates) allow(who string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.of[who]
	if x == nil {
		if len(r.of) >= maxPushers {
			r.forget(now)
		}
		if len(r.of) >= maxPushers {
			return false
		}
		x = &rate{left: 2 * perSecond, at: now}
		r.of[who] = x
	}
	x.left = min(x.left+perSecond*now.Sub(x.at).Seconds(), 2*perSecond)
	x.at = now
	if x.left < 1 {
		return false
	}
	x.left--
	return true
}

// forget drops those who have all that they may have.
func (r *rates) forget(now time.Time) {
	for who, x := range r.of {
		if now.Sub(x.at) > 2*time.Second {
			delete(r.of, who)
		}
	}
}
