package network

import (
	"io"
	"net"
	"testing"
)

// Reach lets programs on a side connect to a loopback address of the test's own
// namespace, as if it was theirs, over no link.
func (l *Link) Reach(t testing.TB, s Side, address string) {
	t.Helper()
	var listener net.Listener
	err := within(l.names[s], func() (err error) {
		listener, err = net.Listen("tcp", address) //nolint:noctx // on the namespace's thread
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l.wait.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed
			}
			l.wait.Go(func() { join(c, address) })
		}
	})
}

// join passes bytes between a connection and an address until either ends.
func join(c net.Conn, address string) {
	defer c.Close()                     //nolint:errcheck // nobody to tell
	to, err := net.Dial("tcp", address) //nolint:noctx // on loopback
	if err != nil {
		return
	}
	defer to.Close() //nolint:errcheck // nobody to tell
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(to, c)
		_ = to.Close()
	}()
	_, _ = io.Copy(c, to)
	_ = c.Close()
	<-done
}
