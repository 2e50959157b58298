package push

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"

	"github.com/gpuledger/gpuledger/attribution"
)

// pusher is who is at the other end of a request's connection.
type pusher struct {
	owner *attribution.Owner
	// name tells him from all others. Its first two segments are the group
	// whose members share what is bounded: a container, or a user of the
	// machine, who makes as many processes as he likes.
	name string
}

// process is the address of a process at the other end of a unix socket.
type process struct {
	pid   int32
	uid   uint32
	start uint64 // when it began; 0 where nobody knows such a process
}

func (process) Network() string  { return "unix" }
func (p process) String() string { return fmt.Sprintf("pid %d", p.pid) }

// credentials are the other end's of a unix socket, as the kernel has them; all
// zero where it tells none.
func credentials(c *net.UnixConn) (p process) {
	raw, err := c.SyscallConn()
	if err != nil {
		return p
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return p
	}
	return process{pid: cred.Pid, uid: cred.Uid}
}

// from is the other end's address, and the group that its connections count
// for. A process is looked up when it connects: should it end and leave the
// connection to another, and its pid to a third, that one is not taken for it.
func from(c net.Conn, owners Owners) (addr net.Addr, group string) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			return a, a.IP.String()
		}
		return c.RemoteAddr(), ""
	}
	p := credentials(u)
	var owner *attribution.Owner
	if p.pid > 0 {
		owner, p.start = owners.Process(uint32(p.pid))
	}
	if owner != nil && owner.Kind == attribution.Container {
		return p, owner.PodUID
	}
	return p, userName(p.uid)
}

func userName(uid uint32) string { return fmt.Sprintf("user/%d", uid) }

// pusherOf is who is at the other end of a request's connection; without an
// owner where that is not known.
func (s *Server) pusherOf(ctx context.Context, container string) pusher {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return pusher{}
	}
	switch a := p.Addr.(type) {
	case process:
		if a.pid <= 0 {
			return pusher{}
		}
		o, start := s.o.Owners.Process(uint32(a.pid))
		switch {
		case o == nil || start == 0 || start != a.start || (container != "" && o.Container != container):
		case o.Kind == attribution.Container:
			return ofContainer(o)
		case o.Kind == attribution.HostProcess:
			return pusher{o, fmt.Sprintf("%s/%d %s", userName(a.uid), o.PID, o.Command)}
		}
	case *net.TCPAddr:
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			if o := s.o.Owners.Address(ip.Unmap(), container); o != nil {
				return ofContainer(o)
			}
		}
	}
	return pusher{}
}

func ofContainer(o *attribution.Owner) pusher { return pusher{o, o.PodUID + "/" + o.Container} }

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
