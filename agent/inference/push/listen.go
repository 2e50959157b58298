package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
)

// listen listens at unix:///path, or host:port. A socket's file that nobody
// listens behind is replaced; anybody may connect, since who it is is seen.
func listen(ctx context.Context, at string, owners Owners, c *counts) (net.Listener, error) {
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
	return &listener{Listener: l, owners: owners, counts: c, of: map[string]int{}}, nil
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

// listener closes connections beyond the limits, and tells who is at the other
// end.
type listener struct {
	net.Listener
	owners Owners
	counts *counts

	mu  sync.Mutex
	all int
	of  map[string]int // connections by group
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr, group := from(c, l.owners)
		if l.take(group) {
			return &connection{Conn: c, from: addr, group: group, of: l}, nil
		}
		l.counts.connections.Add(1)
		_ = c.Close() // whoever has too many
	}
}

func (l *listener) take(group string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == maxConnections || l.of[group] == perGroup {
		return false
	}
	l.all++
	l.of[group]++
	return true
}

func (l *listener) give(group string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.of[group]--; l.of[group] == 0 {
		delete(l.of, group)
	}
}

// connection is one, with the other end's address as from says.
type connection struct {
	net.Conn
	from  net.Addr
	group string
	of    *listener
	once  sync.Once
}

func (c *connection) RemoteAddr() net.Addr { return c.from }

func (c *connection) Close() error {
	c.once.Do(func() { c.of.give(c.group) })
	return c.Conn.Close()
}
