package collector

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
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

// A message of more entries than may be ends its stream before they are made, be it
// the first or not; it is counted, and who sends good ones is served.
func TestTooManyEntriesEndTheStream(t *testing.T) {
	r, c := serveLogged(t, testConfig(t.TempDir()), slog.New(slog.DiscardHandler))
	defer r.end()
	hello := &pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{Cluster: "c", Node: "n", Boot: make([]byte, 16)}}}
	bomb := &pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: &pb.Roster{Owners: make([]*pb.Owner, wire.MaxParts+1)}}}
	say := func(messages ...*pb.FromAgent) (err error) {
		s, err := pb.NewIngestClient(r.conn).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err := s.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.CloseSend()
		for err == nil {
			_, err = s.Recv()
		}
		return err
	}
	for i, messages := range [][]*pb.FromAgent{{bomb}, {hello, bomb}} {
		if err := say(messages...); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "parts") {
			t.Errorf("a stream of %d messages: %v", len(messages), err)
		}
		eventually(t, func() bool { return c.ingest.Stats().Invalid == int64(i+1) }) // ended for what they sent
	}
	if err := say(hello); !errors.Is(err, io.EOF) {
		t.Errorf("a good stream: %v", err)
	}
}
