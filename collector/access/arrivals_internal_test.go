package access

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Somebody who sends headers and no questions holds up himself, and not for long.
func TestQuestionsThatDoNotArriveEnd(t *testing.T) {
	g := NewGuard(Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	g.strangers.within = 300 * time.Millisecond
	server := grpc.NewServer(g.ServerOptions()...)
	pb.RegisterLedgerServer(server, pb.UnimplementedLedgerServer{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) //nolint:errcheck // ends with Stop
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func() codes.Code {
		_, err := pb.NewLedgerClient(conn).Status(t.Context(), &pb.StatusRequest{})
		return status.Code(err)
	}
	if got := ask(); got != codes.Unauthenticated {
		t.Fatalf("a stranger's question: %v", got)
	}
	var half []grpc.ClientStream
	for range ofOneNetwork {
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, pb.Ledger_Status_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		half = append(half, s)
	}
	if got := ask(); got != codes.ResourceExhausted {
		t.Errorf("beside %d questions that do not arrive: %v", len(half), got)
	}
	if n := g.Refused().Arriving.Load(); n != 1 {
		t.Errorf("%d counted", n)
	}
	for _, s := range half {
		if err := s.RecvMsg(&pb.StatusResponse{}); status.Code(err) != codes.Canceled {
			t.Errorf("a question that does not arrive ends with %v", err)
		}
	}
	if got := ask(); got != codes.Unauthenticated {
		t.Errorf("after they have ended: %v", got)
	}
	if g.strangers.all != 0 || len(g.strangers.of) != 0 {
		t.Errorf("%d are still counted, of %v", g.strangers.all, g.strangers.of)
	}
}

// All together are bounded, too, and one that has arrived may take its time.
func TestArrivals(t *testing.T) {
	a := newArrivals(ofOneNetwork)
	a.within = 200 * time.Millisecond
	ctx, arrived, err := a.begin(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	arrived()
	arrived()
	time.Sleep(300 * time.Millisecond)
	if ctx.Err() != nil {
		t.Error("a question that has arrived is ended")
	}
	a.within = time.Hour
	all, cancel := context.WithCancel(t.Context())
	for i := range maxArriving {
		if _, _, err := a.begin(all, string(rune('a'+i/ofOneNetwork))); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, _, err := a.begin(all, "another"); err == nil {
		t.Errorf("%d questions arrive", maxArriving+1)
	}
	cancel()
	for range 1000 {
		if a.mu.Lock(); a.all == 0 {
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	t.Error("questions that ended are still counted")
}
