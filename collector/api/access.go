package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/query"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Options are laid around the calls that a Gateway makes in memory: on the side
// that is called, and on the one that calls.
type Options struct {
	Server []grpc.ServerOption
	Dial   []grpc.DialOption
}

// maxAudit is how many entries of the audit log are listed at most.
const maxAudit = 1000

// WhoAmI tells whom the collector takes the caller for.
func (s *Server) WhoAmI(ctx context.Context, _ *pb.WhoAmIRequest) (*pb.WhoAmIResponse, error) {
	if s.cfg.WhoAmI == nil {
		return nil, status.Error(codes.Unimplemented, "this collector asks nobody who they are")
	}
	out, err := s.cfg.WhoAmI(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	return out, nil
}

// Audit lists who changed what of the ledger, newest first.
func (s *Server) Audit(ctx context.Context, req *pb.AuditRequest) (*pb.AuditResponse, error) {
	if s.cfg.Audit == nil {
		return nil, status.Error(codes.Unimplemented, "this collector has no audit log")
	}
	if n := req.GetLimit(); n < 0 || n > maxAudit {
		return nil, s.fail(query.Invalid("limit %d: want 1 to %d, or 0", n, maxAudit))
	}
	out, err := s.cfg.Audit(ctx, req)
	if err != nil {
		return nil, s.fail(err)
	}
	return out, nil
}
