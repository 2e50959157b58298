package collector

import (
	"net"
	"sync/atomic"
	"testing"
)

// One connection too many is closed at once; when one of the others ends there
// is room again.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	var open, refused atomic.Int64
	l := &connections{Listener: inner, most: 2, open: &open, refused: &refused}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 2 {
		defer dial().Close()
	}
	first := <-accepted
	second := <-accepted
	third := dial()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is served")
	}
	_ = third.Close()
	_ = first.Close()
	_ = first.Close() // counts once
	defer dial().Close()
	fourth := <-accepted
	if open.Load() != 2 || refused.Load() != 1 {
		t.Errorf("%d are open, %d were refused: want 2 and 1", open.Load(), refused.Load())
	}
	_ = second.Close()
	_ = fourth.Close()
	if open.Load() != 0 {
		t.Errorf("%d are open", open.Load())
	}
	_ = inner.Close()
	for range accepted {
		t.Error("accepted after the end")
	}
}
