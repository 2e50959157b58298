package collector

import (
	"context"
	"path"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Strangers who begin questions and do not end them take little, and who is known
// is answered all the same.
func TestLaw8StrangersTakeLittle(t *testing.T) {
	g := serveGuarded(t)
	l := g.ledger()
	if _, err := l.Report(g.named("viewer"), &pb.ReportRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.halfAsk(ctx, pb.Ledger_ApplyRules_FullMethodName)
	if _, err := l.Report(g.named("viewer"), &pb.ReportRequest{}); err != nil {
		t.Errorf("who is known: %v", err)
	}
	cancel()
	for { // as soon as the collector knows that they are gone
		_, err := l.WhoAmI(t.Context(), &pb.WhoAmIRequest{})
		if status.Code(err) == codes.Unauthenticated {
			break
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
}

// Who is known takes no more, and no more of questions that are answered by a
// stream, which gRPC reads after the caller has been let in.
func TestLaw8CallersTakeLittle(t *testing.T) {
	for _, method := range []string{pb.Ledger_Report_FullMethodName, pb.Ledger_Export_FullMethodName} {
		t.Run(path.Base(method), func(t *testing.T) {
			g := serveGuarded(t)
			l := g.ledger()
			if _, err := l.Report(g.named("viewer"), &pb.ReportRequest{}); err != nil {
				t.Fatal(err)
			}
			g.halfAsk(g.named("viewer"), method)
			if _, err := l.Report(g.named("admin"), &pb.ReportRequest{}); err != nil {
				t.Errorf("another who is known: %v", err)
			}
		})
	}
}

// halfAsk sends the headers of 200 questions and no more. All but 64 end, and some
// are refused for it.
func (g *guarded) halfAsk(ctx context.Context, method string) {
	g.t.Helper()
	const begun, most = 200, 64
	ended := make(chan error, begun)
	for range begun {
		s, err := g.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			g.t.Fatal(err)
		}
		go func() { ended <- s.RecvMsg(&pb.Rules{}) }()
	}
	for range begun - most {
		if err := <-ended; status.Code(err) != codes.ResourceExhausted && status.Code(err) != codes.Canceled {
			g.t.Fatal(err)
		}
	}
	if g.c.callers.Refused().Arriving.Load() == 0 {
		g.t.Error("nobody is refused: more may be half sent, or they ended for their time")
	}
}
