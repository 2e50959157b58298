package access

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
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
	g.strangers.soon, g.strangers.within = time.Hour, 3*time.Second
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
	for range maxArriving {
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
	g.strangers.mu.Lock()
	g.strangers.soon = 0
	g.strangers.mu.Unlock()
	if got := ask(); got != codes.Unauthenticated {
		t.Errorf("beside %d questions that are late: %v", len(half), got)
	}
	for _, s := range half {
		if err := s.RecvMsg(&pb.StatusResponse{}); status.Code(err) != codes.Canceled {
			t.Errorf("a question that does not arrive ends with %v", err)
		}
	}
	if got := ask(); got != codes.Unauthenticated {
		t.Errorf("after they have ended: %v", got)
	}
	if held, of := g.strangers.held(); held != 0 || of != 0 {
		t.Errorf("%d are still counted, of %d", held, of)
	}
}

func (a *arrivals) held() (all, of int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all), len(a.of)
}

// One that has arrived may take its time, one that has not may not.
func TestArrivalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArrivals()
		there, arrived, err := a.begin(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		arrived()
		arrived()
		half, _, err := a.begin(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(arriveWithin - time.Nanosecond)
		if half.Err() != nil {
			t.Error("ended before its time")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if there.Err() != nil || half.Err() == nil {
			t.Errorf("one that has arrived: %v, one that has not: %v", there.Err(), half.Err())
		}
		if held, of := a.held(); held != 0 || of != 0 {
			t.Errorf("%d are still counted, of %d", held, of)
		}
	})
}

// Whoever has most gives way, down to as many as each other has, and who has as
// many once the oldest is late. No more than may be are there at any time.
func TestArrivalsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArrivals()
		all, cancel := context.WithCancel(t.Context())
		begin := func(who string) (context.Context, bool) {
			ctx, _, err := a.begin(all, who)
			if held, _ := a.held(); held > maxArriving {
				t.Fatalf("%d questions arrive", held)
			}
			return ctx, err == nil
		}
		var greedy []context.Context
		for range maxArriving {
			ctx, ok := begin("greedy")
			if !ok {
				t.Fatal("refused while nobody else wants a place")
			}
			greedy = append(greedy, ctx)
			time.Sleep(time.Millisecond)
		}
		if _, ok := begin("greedy"); ok {
			t.Error("more than may be")
		}
		for n := range maxArriving / 2 {
			if _, ok := begin("other"); !ok {
				t.Fatalf("the other is refused his place %d", n)
			}
			if greedy[n].Err() == nil || greedy[n+1].Err() != nil {
				t.Fatalf("after %d it is not the oldest of who has most that ends", n)
			}
		}
		if _, ok := begin("other"); ok {
			t.Error("who has as many takes more")
		}
		if _, ok := begin("third"); !ok {
			t.Error("a third is refused")
		}
		time.Sleep(arriveSoon)
		if _, ok := begin("other"); !ok {
			t.Error("a late one does not give way")
		}
		cancel()
		synctest.Wait()
		if held, of := a.held(); held != 0 || of != 0 {
			t.Errorf("%d are still counted, of %d", held, of)
		}
	})
}
