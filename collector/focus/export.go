package focus

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// The charge periods.
const (
	Hourly = 3600
	Daily  = 86400
)

// DefaultName stands for whatever a Request does not name.
const DefaultName = "gpuledger"

// Unsplit stands alone in Request.AllocateBy and leaves the origin charges whole.
const Unsplit = "none"

// maxPeriods bounds one file: a year by the hour.
const maxPeriods = 366 * 24

// Request asks for a file.
type Request struct {
	From, To attribution.Second // [From, To); 0 and 0: everything
	Step     int64              // Hourly or Daily; 0: Daily
	// AllocateBy are the dimensions of owners that rows are told apart by, none:
	// team. Unsplit alone asks for the origin charges.
	AllocateBy []string
	// Names that are "" are DefaultName; BillingAccountName is then
	// BillingAccountID, InvoiceIssuer is Provider and Host is InvoiceIssuer.
	Names Names
}

// Cards tells prices. It is asked by one goroutine.
type Cards interface {
	// RateCard returns the card behind the revision of a price, or an error
	// that wraps store.ErrNotFound.
	RateCard(ctx context.Context, revision uint32) (*rating.Card, error)
}

// Writer takes the rows of a file. Close ends the file, but not what it is
// written to. Rows must not be kept.
type Writer interface {
	Write(rows []Row) error
	Close() error
}

// Summary tells what a file holds. Cost and times are in nano units and ns.
type Summary struct {
	From, To attribution.Second // as answered
	Rows     int64
	Origins  int64
	Averaged int64   // origins whose unit price is an average
	Cost     big.Int // effective cost: the report's of the same range
	Priced   big.Int // device time of the rows
	Unpriced big.Int // device time that has no price, and no row
}

// Export writes the range's charges in order of time and device. It does not
// close w. Errors are those of package query, of cards and of w; what was
// written until then is not a whole file.
func Export(ctx context.Context, e *query.Engine, cards Cards, req *Request, w Writer) (*Summary, error) {
	x, err := newExport(e, cards, req)
	if err != nil {
		return nil, err
	}
	if err := x.extent(ctx, req); err != nil || x.sum.From == x.sum.To {
		return &x.sum, err
	}
	for from := x.sum.From; from < x.sum.To; {
		to := min(x.sum.To, start(from, x.step)+attribution.Second(x.step))
		rows, err := x.period(ctx, from, to)
		if err != nil {
			return nil, err
		}
		if err := w.Write(rows); err != nil {
			return nil, err
		}
		from = to
	}
	return &x.sum, nil
}

// export is one file in the making.
type export struct {
	engine *query.Engine
	prices *prices
	names  Names
	step   int64
	by     []store.Dimension // of owners; nil: not split
	sum    Summary
}

func newExport(e *query.Engine, cards Cards, req *Request) (*export, error) {
	x := &export{engine: e, prices: newPrices(cards), step: req.Step, names: req.Names}
	switch x.step {
	case 0:
		x.step = Daily
	case Hourly, Daily:
	default:
		return nil, query.Invalid("a step of %d s: charge periods are hours (%d) or days (%d)", x.step, Hourly, Daily)
	}
	n := &x.names
	for _, f := range []struct {
		name  string
		field *string
		or    func() string
	}{
		{"billing account id", &n.BillingAccountID, func() string { return DefaultName }},
		{"billing account name", &n.BillingAccountName, func() string { return n.BillingAccountID }},
		{"provider", &n.Provider, func() string { return DefaultName }},
		{"invoice issuer", &n.InvoiceIssuer, func() string { return n.Provider }},
		{"host", &n.Host, func() string { return n.InvoiceIssuer }},
	} {
		if len(*f.field) > 256 {
			return nil, query.Invalid("the %s has %d bytes: at most 256 are allowed", f.name, len(*f.field))
		}
		if strings.TrimSpace(*f.field) == "" {
			*f.field = f.or()
		}
	}
	var err error
	x.by, err = splitBy(req.AllocateBy)
	return x, err
}

// splitBy reads what rows are told apart by.
func splitBy(names []string) ([]store.Dimension, error) {
	if len(names) == 0 {
		return []store.Dimension{store.Team}, nil
	}
	if len(names) == 1 && names[0] == Unsplit {
		return nil, nil
	}
	ds, err := query.ParseDimensions(names)
	if err != nil {
		return nil, err
	}
	for _, d := range ds {
		if d.OfDevice() || slices.Contains([]store.Dimension{
			store.Basis, store.Method, store.Revision, store.Counted, store.Tenant, store.Kind, store.Family,
		}, d) {
			return nil, query.Invalid("a charge can't be split by %s: owners have none; take team, namespace, controller, model, class, label:KEY, …", d)
		}
	}
	return ds, nil
}

// extent finds the range and checks its length.
func (x *export) extent(ctx context.Context, req *Request) error {
	err := x.engine.Snapshot(ctx, req.From, req.To, func(_ context.Context, s *query.Snapshot) error {
		x.sum.From, x.sum.To = s.From, s.To
		return nil
	})
	if err != nil {
		return err
	}
	if n := int64(x.sum.To-x.sum.From) / x.step; n > maxPeriods {
		return query.Invalid("the range has %d charge periods: at most %d are written to one file, so ask for days, or for less", n, maxPeriods)
	}
	return nil
}

// period is one charge period's rows.
func (x *export) period(ctx context.Context, from, to attribution.Second) ([]Row, error) {
	// The facts on devices are asked for on their own: a device that comes
	// between the two questions is told by its keys alone.
	devices, err := x.engine.Devices(ctx, &query.DevicesRequest{From: from, To: to})
	if err != nil {
		return nil, err
	}
	var found, total []store.Row
	q := &store.Query{From: from, To: to, GroupBy: append([]store.Dimension{
		store.Cluster, store.Node, store.DeviceID, store.DeviceModel, store.Revision, store.Method, store.Kind,
	}, x.by...)}
	err = x.engine.Snapshot(ctx, from, to, func(ctx context.Context, s *query.Snapshot) error {
		if found, err = s.Query(ctx, q); err != nil {
			return x.engine.Explain(ctx, err, s, 0)
		}
		total, err = s.Query(ctx, &store.Query{From: from, To: to})
		return err
	})
	if err != nil {
		return nil, err
	}
	b := newPeriod(x, from, to, devices)
	for i := range found {
		if err := b.add(&found[i]); err != nil {
			return nil, err
		}
	}
	rows, err := b.rows(ctx)
	if err != nil {
		return nil, err
	}
	return rows, x.check(rows, b, total)
}

// check holds the rows against the ledger's own total of the same state, and
// adds them to the summary.
func (x *export) check(rows []Row, b *period, total []store.Row) error {
	var cost, time, unpriced, want, wantTime, wantUnpriced big.Int
	for i := range rows {
		cost.Add(&cost, rows[i].cost.int())
		time.Add(&time, rows[i].seconds.int())
	}
	unpriced.Set(&b.unpriced)
	for i := range total {
		want.Add(&want, &total[i].Cost)
		wantTime.Add(&wantTime, &total[i].DeviceTime)
		wantUnpriced.Add(&wantUnpriced, &total[i].Unpriced)
	}
	wantTime.Sub(&wantTime, &wantUnpriced)
	if cost.Cmp(&want) != 0 || time.Cmp(&wantTime) != 0 || unpriced.Cmp(&wantUnpriced) != 0 {
		return fmt.Errorf("charges of %d to %d: %v nano units for %v ns (%v ns without a price), but the ledger has %v for %v (%v): %w",
			b.from, b.to, &cost, &time, &unpriced, &want, &wantTime, &wantUnpriced, store.ErrCorrupt)
	}
	x.sum.Rows += int64(len(rows))
	x.sum.Origins += b.origins
	x.sum.Averaged += b.averaged
	x.sum.Cost.Add(&x.sum.Cost, &cost)
	x.sum.Priced.Add(&x.sum.Priced, &time)
	x.sum.Unpriced.Add(&x.sum.Unpriced, &unpriced)
	return nil
}

// start is the beginning of the charge period that s lies in.
func start(s attribution.Second, step int64) attribution.Second {
	return s - attribution.Second(((int64(s)%step)+step)%step)
}

var errNegative = errors.New("a sum of device time is negative")
