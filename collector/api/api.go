// Package api serves the ledger to people and programs: the gRPC service
// Ledger, and the same over HTTP/JSON by the same code.
//
// It checks and translates; what is asked is answered by packages query,
// economics and verify. Nothing here is a float: amounts, nanoseconds and
// unit costs travel as decimal text.
//
// Errors have a gRPC code and say what to do: InvalidArgument where asking
// differently helps, OutOfRange where a retention has dropped what the question
// needs, ResourceExhausted where too much is asked at once, Unavailable and
// DeadlineExceeded where trying again may help, NotFound for revisions that do
// not exist. Over HTTP they are {"code", "message"} with the status that
// belongs to the code.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Documents are the revisions of the rate card and of the mapping rules. What
// is applied is durable and in force when the call returns. Its methods may be
// called by any number of goroutines, and must not keep or change what they
// are given.
type Documents interface {
	// RateCard returns a revision, 0 for the one in force, or an error that
	// wraps store.ErrNotFound.
	RateCard(ctx context.Context, revision uint32) (*rating.Card, error)
	// ApplyRateCard makes a valid card the next revision and returns it.
	ApplyRateCard(ctx context.Context, card *rating.Card) (*rating.Card, error)
	// Rules returns a revision, 0 for the one in force (mapping.Default where
	// none was applied), or an error that wraps store.ErrNotFound.
	Rules(ctx context.Context, revision uint32) (*mapping.Rules, error)
	// ApplyRules makes valid rules the next revision and returns it.
	ApplyRules(ctx context.Context, rules *mapping.Rules) (*mapping.Rules, error)
}

// Config is what a Server needs. All of it is required but Gateways, Backups and Log.
type Config struct {
	Query     *query.Engine
	Verify    *verify.Verifier
	Documents Documents
	// Status tells how the collector and its agents do.
	Status func(context.Context) (*pb.StatusResponse, error)
	Now    func() time.Time // for current prices
	// WhoAmI tells the caller behind a context whom he is taken for, and Audit
	// lists changes; nil: nobody does.
	WhoAmI func(context.Context) (*pb.WhoAmIResponse, error)
	Audit  func(context.Context, *pb.AuditRequest) (*pb.AuditResponse, error)
	// Reratings prices the past anew; nil: this collector does not.
	Reratings Reratings
	// Gateways joins what gateways saw to owners, by the rules of the
	// configured ones; nil: there are no rules.
	Gateways *join.Set
	// Backups are of this; nil: this collector makes none.
	Backups *Backups
	Log     *slog.Logger // gets internal errors; nil: nowhere
}

// Server is the service Ledger. Its methods may be called by any number of
// goroutines.
type Server struct {
	pb.UnimplementedLedgerServer
	cfg       Config
	verifying chan struct{}
	exporting chan struct{}
	backing   chan struct{}
}

var _ pb.LedgerServer = (*Server)(nil)

// maxVerifying is how many verifications run at once; each uses all CPUs.
const maxVerifying = 1

// New makes a Server.
func New(cfg Config) *Server {
	if cfg.Query == nil || cfg.Verify == nil || cfg.Documents == nil || cfg.Status == nil || cfg.Now == nil {
		panic("BUG: api: the configuration is not complete")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, verifying: make(chan struct{}, maxVerifying), exporting: make(chan struct{}, maxExporting), backing: make(chan struct{}, 1)}
}

// currency is that of the rate card in force, else of what was rerated, "" where
// there is neither yet.
func (s *Server) currency(ctx context.Context) (string, error) {
	card, err := s.cfg.Documents.RateCard(ctx, 0)
	if errors.Is(err, store.ErrNotFound) {
		return s.reratedCurrency(ctx)
	}
	if err != nil {
		return "", err
	}
	return card.Currency, nil
}

// fail makes a status of an error, by what the asker can do about it.
func (s *Server) fail(err error) error {
	var (
		badCard  *rating.Invalid
		badRules *mapping.Invalid
	)
	switch {
	case errors.Is(err, query.ErrInvalid), errors.Is(err, store.ErrBadQuery), errors.Is(err, query.ErrTooMany), errors.Is(err, store.ErrTooMany),
		errors.As(err, &badCard), errors.As(err, &badRules), errors.Is(err, wire.ErrMalformed):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, store.ErrTooFine):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, query.ErrBusy):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, store.ErrUnavailable):
		return status.Error(codes.Unavailable, err.Error()+" (try again)")
	case errors.Is(err, store.ErrCorrupt):
		s.cfg.Log.Error("the ledger is damaged", "error", err)
		return status.Error(codes.DataLoss, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	s.cfg.Log.Error("a request failed", "error", err)
	return status.Error(codes.Internal, err.Error())
}

// Status answers how the collector does.
func (s *Server) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	out, err := s.cfg.Status(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	return out, nil
}

// GetRateCard returns a revision of the rate card.
func (s *Server) GetRateCard(ctx context.Context, req *pb.GetRateCardRequest) (*pb.RateCard, error) {
	card, err := s.cfg.Documents.RateCard(ctx, req.GetRevision())
	if err != nil {
		return nil, s.fail(notThere("rate card", "gpuledger ratecard apply FILE", req.GetRevision(), err))
	}
	return wire.EncodeRateCard(card), nil
}

// ApplyRateCard makes a card the next revision.
func (s *Server) ApplyRateCard(ctx context.Context, req *pb.ApplyRateCardRequest) (*pb.RateCard, error) {
	if req.GetCard() == nil {
		return nil, s.fail(query.Invalid("the request has no card"))
	}
	card, err := wire.DecodeRateCard(req.GetCard())
	if err != nil {
		return nil, s.fail(err)
	}
	if err := s.sameCurrency(ctx, card); err != nil {
		return nil, s.fail(err)
	}
	card.Revision = 0
	if card, err = s.cfg.Documents.ApplyRateCard(ctx, card); err != nil {
		return nil, s.fail(err)
	}
	return wire.EncodeRateCard(card), nil
}

// sameCurrency refuses another currency: sums over both would mean nothing.
func (s *Server) sameCurrency(ctx context.Context, card *rating.Card) error {
	have, err := s.currency(ctx)
	if err != nil || have == "" || have == card.Currency {
		return err
	}
	return query.Invalid("the ledger counts in %s and the card in %s: a ledger has one currency, so convert the card or start a new ledger", have, card.Currency)
}

// GetRules returns a revision of the mapping rules.
func (s *Server) GetRules(ctx context.Context, req *pb.GetRulesRequest) (*pb.Rules, error) {
	rules, err := s.cfg.Documents.Rules(ctx, req.GetRevision())
	if err != nil {
		return nil, s.fail(notThere("set of rules", "", req.GetRevision(), err))
	}
	return EncodeRules(rules), nil
}

// ApplyRules makes rules the next revision.
func (s *Server) ApplyRules(ctx context.Context, req *pb.ApplyRulesRequest) (*pb.Rules, error) {
	if req.GetRules() == nil {
		return nil, s.fail(query.Invalid("the request has no rules"))
	}
	rules := DecodeRules(req.GetRules())
	rules.Revision = 0
	if err := rules.Validate(); err != nil {
		return nil, s.fail(err)
	}
	rules, err := s.cfg.Documents.ApplyRules(ctx, rules)
	if err != nil {
		return nil, s.fail(err)
	}
	return EncodeRules(rules), nil
}

func notThere(what, apply string, revision uint32, err error) error {
	switch {
	case !errors.Is(err, store.ErrNotFound):
		return err
	case revision != 0:
		return fmt.Errorf("there is no revision %d of the %s: %w", revision, what, err)
	case apply == "":
		return err
	}
	return fmt.Errorf("there is no %s yet, so everything is unpriced; apply one with %s: %w", what, apply, err)
}

// DecodeRules translates rules; they are not validated.
func DecodeRules(m *pb.Rules) *mapping.Rules {
	out := &mapping.Rules{Revision: m.GetRevision(), Rules: make([]mapping.Rule, 0, len(m.GetRules()))}
	for _, r := range m.GetRules() {
		out.Rules = append(out.Rules, mapping.Rule{
			Target: r.GetTarget(), Namespace: r.GetNamespace(), Controller: r.GetController(), Labels: r.GetLabels(),
			Value: r.GetValue(), FromLabel: r.GetFromLabel(), FromNamespace: r.GetFromNamespace(),
			FromController: r.GetFromController(), FromName: r.GetFromName(), Extract: r.GetExtract(),
			Served: r.GetServed(), Tenant: r.GetTenant(),
		})
	}
	return out
}

// EncodeRules translates rules.
func EncodeRules(rs *mapping.Rules) *pb.Rules {
	out := &pb.Rules{Revision: rs.Revision}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		out.Rules = append(out.Rules, &pb.Rule{
			Target: r.Target, Namespace: r.Namespace, Controller: r.Controller, Labels: r.Labels,
			Value: r.Value, FromLabel: r.FromLabel, FromNamespace: r.FromNamespace,
			FromController: r.FromController, FromName: r.FromName, Extract: r.Extract, Served: r.Served, Tenant: r.Tenant,
		})
	}
	return out
}

// Verify recomputes the laws over a stored range.
func (s *Server) Verify(req *pb.VerifyRequest, stream pb.Ledger_VerifyServer) error {
	from, to := attribution.Second(req.GetFrom()), attribution.Second(req.GetTo())
	if err := query.CheckRange(from, to); err != nil {
		return s.fail(err)
	}
	select {
	case s.verifying <- struct{}{}:
		defer func() { <-s.verifying }()
	default:
		return status.Error(codes.ResourceExhausted, "a verification is running already: wait until it has ended")
	}
	send := func(p *verify.Progress) error { return stream.Send(encodeProgress(p)) }
	noted, err := decodeHeads(req.GetNoted())
	if err != nil {
		return s.fail(err)
	}
	p, err := s.cfg.Verify.Check(stream.Context(), &verify.Request{From: from, To: to, Noted: noted}, send)
	if err != nil {
		return s.fail(err)
	}
	return send(p)
}

func encodeProgress(p *verify.Progress) *pb.VerifyProgress {
	m := &pb.VerifyProgress{
		Chunks: p.Chunks, ChunksTotal: p.ChunksTotal, Windows: p.Windows, Slices: p.Slices, Rows: p.Rows,
		Done: p.Done, Unchecked: p.Unchecked, Heads: encodeHeads(p.Heads),
	}
	if p.Broken != nil {
		m.Law, m.Broken = int32(p.Broken.Law), p.Broken.Where+": "+p.Broken.Reason
	}
	return m
}
