package collector

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/internal/loadgen"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Agents catch up while more people than are answered at once ask the most that
// can be asked, again and again, and hostile agents do what they can. Everything
// is durable in the end, and keeps the laws.
func TestWorstQueriesAndEnemiesDoNotStopIngest(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Limits.Queries, cfg.Limits.PendingBytes = 2, 16<<20
	r := serve(t, cfg)
	l, err := loadgen.Open(t.Context(), loadgen.Options{
		Address: r.at.GRPC, Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Fleet:  &loadgen.Fleet{Cluster: "load", Devices: 4, Owners: 3, Life: 300, Seed: 7},
		Agents: 12, Backlog: 5 * time.Minute, Settle: 4 * time.Minute, Streams: 1, Hostile: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	asking, enough := context.WithCancel(t.Context())
	var answers atomic.Int64
	var askers sync.WaitGroup
	for range 6 {
		askers.Go(func() {
			for asking.Err() == nil {
				if _, err := pb.NewLedgerClient(r.conn).Report(asking, &pb.ReportRequest{
					Step: 60, GroupBy: []string{"node", "device", "pod", "container", "basis", "team", "model"},
				}); err == nil {
					answers.Add(1)
				} // else it is busy, or it was enough
			}
		})
	}
	if err := l.Run(t.Context()); err != nil {
		t.Error(err)
	}
	enough()
	askers.Wait()
	v, err := l.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.AckedSeconds != 12*300 || v.UnackedSeconds != 0 || len(v.Lost)+len(v.Doubled) != 0 {
		t.Errorf("%+v: want %d seconds acknowledged and kept, %+v", v, 12*300, l.Stats())
	}
	if s := l.Stats(); s.Rejects != 0 || s.Hostile < 7 {
		t.Errorf("counted %+v", s)
	}
	if answers.Load() == 0 {
		t.Error("no question was answered meanwhile")
	}
	wantVerified(t, r)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	r.end()
}

func wantVerified(t *testing.T, r *running) {
	t.Helper()
	check, err := pb.NewLedgerClient(r.conn).Verify(t.Context(), &pb.VerifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := check.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.GetLaw() != 0 {
			t.Fatalf("law %d: %s", p.GetLaw(), p.GetBroken())
		}
	}
}
