package api

import (
	"cmp"
	"context"
	"errors"
	"math/big"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Reratings prices the past anew. Its methods may be called by any number of
// goroutines. Errors wrap rerating.ErrInvalid, rerating.ErrUndo, plan.ErrNothing,
// plan.ErrTooLarge or the store's.
type Reratings interface {
	// Preview is what an entry would do now. Its number, and the range of one
	// that undoes, are filled in.
	Preview(ctx context.Context, e rerating.Entry) (*plan.Plan, error)
	// Apply does it: durably and in force, or not at all.
	Apply(ctx context.Context, e rerating.Entry) (*plan.Plan, error)
	// Journal is all reratings ever made.
	Journal(ctx context.Context) (*rerating.Journal, error)
}

// maxReason bounds what is kept with a rerating, in bytes.
const maxReason = 1000

// Rerate prices a stretch of the past anew, previews that, or undoes it.
func (s *Server) Rerate(ctx context.Context, req *pb.RerateRequest) (*pb.RerateResponse, error) {
	if s.cfg.Reratings == nil {
		return nil, status.Error(codes.Unimplemented, "this collector does not rerate")
	}
	e, err := s.entry(ctx, req)
	if err != nil {
		return nil, s.failRerate(err)
	}
	do := s.cfg.Reratings.Apply
	if req.GetPreview() {
		do = s.cfg.Reratings.Preview
	}
	p, err := do(ctx, *e)
	if err != nil {
		return nil, s.failRerate(err)
	}
	out, err := s.encodePlan(ctx, p)
	if err != nil {
		return nil, s.failRerate(err)
	}
	if req.GetPreview() {
		out.Rerating.Id, out.Rerating.Applied = 0, 0
	}
	return out, nil
}

// entry is the entry that a request asks for.
func (s *Server) entry(ctx context.Context, req *pb.RerateRequest) (*rerating.Entry, error) {
	e := &rerating.Entry{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Reason: req.GetReason(), Undoes: req.GetUndo(),
		Applied: s.cfg.Now(),
	}
	if len(e.Reason) > maxReason {
		return nil, query.Invalid("the reason has %d bytes: %d are kept, so tell it shorter", len(e.Reason), maxReason)
	}
	ways := 0
	for _, given := range []bool{req.GetCard() != nil, req.GetRevision() != 0, req.GetUndo() != 0} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, query.Invalid("want one of a rate card, a revision of it, and a rerating to undo")
	}
	if e.Undoes != 0 {
		if e.From != 0 || e.To != 0 {
			return nil, query.Invalid("a rerating is undone as a whole: leave the range out")
		}
		return e, nil
	}
	switch now := attribution.SecondOf(s.cfg.Now().UnixNano()); {
	case e.From == 0 && e.To == 0:
		return nil, query.Invalid("which time? A rerating wants a range, from and to")
	case e.To > now:
		return nil, query.Invalid("the range ends in the future, at %d, and it is %d: a rerating is of the past, and a rate card that is applied counts from now on", e.To, now)
	}
	if err := query.CheckRange(e.From, e.To); err != nil {
		return nil, err
	}
	card, err := s.rerateCard(ctx, req)
	if err != nil {
		return nil, err
	}
	e.Card, e.Currency = card, card.Currency
	return e, s.sameCurrency(ctx, card)
}

func (s *Server) rerateCard(ctx context.Context, req *pb.RerateRequest) (*rating.Card, error) {
	if n := req.GetRevision(); n != 0 {
		card, err := s.cfg.Documents.RateCard(ctx, n)
		return card, notThere("rate card", "", n, err)
	}
	card, err := wire.DecodeRateCard(req.GetCard())
	if err == nil {
		card.Revision = 0
	}
	return card, err
}

// failRerate is fail for what goes wrong with reratings alone.
func (s *Server) failRerate(err error) error {
	switch {
	case errors.Is(err, rerating.ErrUndo):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, rerating.ErrInvalid), errors.Is(err, plan.ErrNothing), errors.Is(err, plan.ErrTooLarge):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return s.fail(err)
}

// Reratings lists all reratings ever made.
func (s *Server) Reratings(ctx context.Context, _ *pb.ReratingsRequest) (*pb.ReratingsResponse, error) {
	if s.cfg.Reratings == nil {
		return nil, status.Error(codes.Unimplemented, "this collector does not rerate")
	}
	j, err := s.cfg.Reratings.Journal(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &pb.ReratingsResponse{}
	for _, e := range j.Entries() {
		m := encodeEntry(&e)
		m.UndoneBy = j.UndoneBy(e.ID)
		out.Reratings = append(out.Reratings, m)
	}
	return out, nil
}

func encodeEntry(e *rerating.Entry) *pb.Rerating {
	m := &pb.Rerating{
		Id: e.ID, From: int64(e.From), To: int64(e.To), Applied: e.Applied.Unix(), Reason: e.Reason, Undoes: e.Undoes,
		Currency: e.Currency, CostBefore: e.CostBefore, CostAfter: e.CostAfter,
	}
	if e.Card != nil {
		m.Card = wire.EncodeRateCard(e.Card)
	}
	return m
}

// encodePlan tells a plan by team, as the rules in force have it.
func (s *Server) encodePlan(ctx context.Context, p *plan.Plan) (*pb.RerateResponse, error) {
	rules, err := s.cfg.Documents.Rules(ctx, 0)
	if err != nil {
		return nil, err
	}
	mapped := rules.Compile()
	teams := make(map[string]*plan.Sum)
	for _, o := range p.Owners {
		if o.Time.Sign() == 0 {
			continue
		}
		team := mapped(o.Owner).Team
		if teams[team] == nil {
			teams[team] = new(plan.Sum)
		}
		teams[team].Add(&o.Sum)
	}
	out := &pb.RerateResponse{
		Rerating: encodeEntry(&p.Entry), Rows: p.Moved, DeviceTimeNs: p.MovedTime.String(),
		Total: encodeRerateRow(store.Key{}, &p.Total), Note: p.Note(),
	}
	names := make([]string, 0, len(teams))
	for t := range teams {
		names = append(names, t)
	}
	differences := make(map[string]*big.Int, len(teams))
	for t, sum := range teams {
		differences[t] = new(big.Int).Sub(&sum.After, &sum.Before)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(differences[b].CmpAbs(differences[a]), teams[b].Time.Cmp(&teams[a].Time), cmp.Compare(a, b))
	})
	for _, t := range names {
		out.ByTeam = append(out.ByTeam, encodeRerateRow(store.Key{Value: t, Missing: t == ""}, teams[t]))
	}
	return out, nil
}

func encodeRerateRow(team store.Key, s *plan.Sum) *pb.RerateRow {
	m := &pb.RerateRow{
		Team: team.Value, Missing: team.Missing,
		CostBefore: cost(&s.Before, s.PricedBefore()), CostAfter: cost(&s.After, s.PricedAfter()),
		UnpricedTimeNsBefore: s.UnpricedBefore.String(), UnpricedTimeNsAfter: s.UnpricedAfter.String(),
	}
	if s.PricedBefore() || s.PricedAfter() {
		m.Difference = money.Text(new(big.Int).Sub(&s.After, &s.Before))
	}
	return m
}

// reratedCurrency is what reratings count in, "" where there are none.
func (s *Server) reratedCurrency(ctx context.Context) (string, error) {
	if s.cfg.Reratings == nil {
		return "", nil
	}
	j, err := s.cfg.Reratings.Journal(ctx)
	if err != nil || len(j.Entries()) == 0 {
		return "", err
	}
	return j.Entries()[0].Currency, nil
}
