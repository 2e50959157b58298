package peers

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/ingest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// partBytes is about how large a message is, maxPart how large at most.
	partBytes, maxPart = 512 << 10, 16 << 20
	// maxBytes and maxChunks bound an answer.
	maxBytes, maxChunks = 256 << 20, 1_000_000
	// atOnce is how many are answered at a time.
	atOnce = 8
)

// Instance is one life of a collector.
type Instance [16]byte

// ServerOptions say what a Server tells.
type ServerOptions struct {
	Instance Instance
	Name     string
	Version  string
	// Open calls f with everything that is accepted and may not be stored yet.
	Open func(f func(*ingest.Open) error) error
	// Nodes are those that stream to this collector now.
	Nodes func() []*pb.NodeStatus
}

// Server answers other collectors.
type Server struct {
	pb.UnimplementedPeerServer
	o     ServerOptions
	slots chan struct{}
}

// NewServer makes a Server.
func NewServer(o ServerOptions) *Server { return &Server{o: o, slots: make(chan struct{}, atOnce)} }

// Nodes tells which nodes stream here.
func (s *Server) Nodes(context.Context, *pb.NodesRequest) (*pb.NodesResponse, error) {
	return &pb.NodesResponse{Instance: s.o.Instance[:], Name: s.o.Name, Version: s.o.Version, Nodes: s.o.Nodes()}, nil
}

var errCut = errors.New("more than one answer may hold")

// Open tells what is open.
func (s *Server) Open(req *pb.OpenRequest, stream grpc.ServerStreamingServer[pb.OpenPart]) error {
	p := &pb.OpenPart{Instance: s.o.Instance[:]}
	if string(req.GetInstance()) == string(s.o.Instance[:]) {
		p.Last = true
		return stream.Send(p)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d others are being answered", atOnce)
	}
	a := answer{stream: stream, part: p, sent: make(map[attribution.Fingerprint]bool)}
	err := s.o.Open(a.add)
	if err != nil && !errors.Is(err, errCut) {
		return err
	}
	a.part.Last, a.part.Cut = true, err != nil
	return stream.Send(a.part)
}

// answer cuts what is open into parts.
type answer struct {
	stream grpc.ServerStreamingServer[pb.OpenPart]
	part   *pb.OpenPart
	bytes  int
	sent   map[attribution.Fingerprint]bool // rosters

	all    int64
	chunks int
}

func (a *answer) add(o *ingest.Open) error {
	if !a.sent[o.RosterID] {
		a.sent[o.RosterID] = true
		a.part.Rosters = append(a.part.Rosters, &pb.OpenRoster{Id: o.RosterID[:], Roster: o.Roster})
		a.bytes += proto.Size(o.Roster)
	}
	a.part.Chunks = append(a.part.Chunks, &pb.OpenChunk{Cluster: o.Cluster, Node: o.Node, Chunk: o.Chunk})
	a.bytes += len(o.Chunk.GetBody()) + len(o.Cluster) + len(o.Node) + 128
	a.chunks++
	if a.bytes < partBytes {
		return nil
	}
	a.all += int64(a.bytes)
	err := a.stream.Send(a.part)
	a.part, a.bytes = &pb.OpenPart{}, 0
	if err == nil && (a.all > maxBytes || a.chunks > maxChunks) {
		err = errCut
	}
	return err
}
