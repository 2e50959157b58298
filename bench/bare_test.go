package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/internal/loadgen"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// bareReady tells the bench's own program to be a bare server, and to write its
// address into a file.
const bareReady = "GPULEDGER_BENCH_BARE"

// bareEvery is how many live seconds it asks agents to send together.
const bareEvery = "GPULEDGER_BENCH_BARE_EVERY"

// bare acknowledges chunks and throws everything away: what is left is what gRPC,
// protobuf and the kernel take for a fleet's messages, whatever is made of them.
type bare struct {
	pb.UnimplementedIngestServer
	pb.UnimplementedLedgerServer
}

func (bare) Stream(s pb.Ingest_StreamServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	every, err := strconv.ParseUint(os.Getenv(bareEvery), 10, 32)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.ToAgent{Message: &pb.ToAgent_Welcome{Welcome: &pb.Welcome{LiveEvery: uint32(every)}}}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var sequence int64
		switch x := m.GetMessage().(type) {
		case *pb.FromAgent_Closed:
			sequence = x.Closed.GetSequence()
		case *pb.FromAgent_Chunk:
			sequence = x.Chunk.GetSequence()
		default:
			continue
		}
		ack := &pb.Ack{Boot: first.GetHello().GetBoot(), Sequence: sequence}
		if err := s.Send(&pb.ToAgent{Message: &pb.ToAgent_Ack{Ack: ack}}); err != nil {
			return err
		}
	}
}

// GetRateCard has none.
func (bare) GetRateCard(context.Context, *pb.GetRateCardRequest) (*pb.RateCard, error) {
	return nil, status.Error(codes.NotFound, "no rate card")
}

// serveBare is the program that [bareReady] asks for, with the collector's limits of
// windows and buffers.
func serveBare(ready string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(256<<10), grpc.ReadBufferSize(2<<10), grpc.WriteBufferSize(16<<10), grpc.MaxRecvMsgSize(16<<20))
	pb.RegisterIngestServer(s, bare{})
	pb.RegisterLedgerServer(s, bare{})
	if err := os.WriteFile(ready+".new", []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(ready+".new", ready); err != nil {
		return err
	}
	debug.SetGCPercent(400)
	return s.Serve(l)
}

// bareBears has a server that throws everything away bear a fleet that is live.
func bareBears(b *testing.B, size string, span time.Duration) borne {
	f := fleetOf(b, size)
	dir := b.TempDir()
	ready := filepath.Join(dir, "ready")
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv(bareReady, ready)
	b.Setenv(bareEvery, strconv.Itoa(int(f.every/time.Second)))
	p := start(b, dir, self)
	var address []byte
	p.await(b, func() bool {
		var err error
		address, err = os.ReadFile(ready)
		return err == nil
	})
	load := &loadgen.Fleet{Seed: 1, Devices: number(b, f.devices), Owners: number(b, f.owners), Life: 3600, Cluster: fmt.Sprintf("bare-%08x", rand.Uint32())}
	l, err := loadgen.Open(b.Context(), loadgen.Options{
		Address: string(address), Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, Fleet: load, Agents: f.agents, For: span,
		Ramp: rampOf(f.agents), Spread: 200 * time.Millisecond, Settle: time.Minute, Streams: 1,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the load is over
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	before, sending, began := p.cpu(b), selfCPU(b), time.Now()
	if err := l.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	r := borne{
		what: fmt.Sprintf("a gRPC server that throws away what %v send, live", &f), wall: time.Since(began),
		receiver: p.cpu(b) - before, sender: selfCPU(b) - sending, slices: l.Stats().SlicesAcked, peak: p.memory(b, "VmHWM"),
	}
	if r.slices == 0 {
		b.Fatal("nothing was acknowledged")
	}
	return r
}
