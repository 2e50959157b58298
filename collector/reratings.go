package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
)

// reratings prices the past anew. A rerating is planned beside the store's
// writer, which goes on, on a state of its own; the writer does it, if by then
// nothing has come that the plan does not know.
type reratings struct {
	store   store.Store
	planner plan.Planner
	now     func() time.Time
	log     *slog.Logger
	audit   *access.Log // told of every change before it is made
	// do runs a function where the store may be written.
	do func(context.Context, func(context.Context) error) error
	// applied is told of a new journal, within do.
	applied func(*rerating.Journal)
	// planning is held while a plan is in memory: one is some 100 MB at most.
	planning chan struct{} // of capacity 1
}

var _ api.Reratings = (*reratings)(nil)

// Journal is all reratings ever made.
func (r *reratings) Journal(ctx context.Context) (j *rerating.Journal, err error) {
	err = r.store.View(ctx, func(v store.Reader) error {
		j, err = v.Journal(ctx)
		return err
	})
	return j, err
}

// Preview is what an entry would do now.
func (r *reratings) Preview(ctx context.Context, e rerating.Entry) (*plan.Plan, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.end()
	p, err := r.plan(ctx, e)
	if err != nil {
		return nil, err
	}
	p.Transfers = nil // they are told as sums
	return p, nil
}

// begin waits for other plans to be done with.
func (r *reratings) begin(ctx context.Context) error {
	select {
	case r.planning <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *reratings) end() { <-r.planning }

func (r *reratings) plan(ctx context.Context, e rerating.Entry) (p *plan.Plan, err error) {
	err = r.store.View(ctx, func(v store.Reader) error {
		if e.Undoes != 0 {
			p, err = r.planner.Undo(ctx, v, e)
		} else {
			p, err = r.planner.Rerate(ctx, v, e)
		}
		return err
	})
	return p, err
}

// attempts is how often a rerating is planned beside the writer, before the
// writer has to wait for the plan.
const attempts = 3

var errChanged = errors.New("what is stored of this time changes all the time")

// Apply does what an entry says, and tells what that was.
func (r *reratings) Apply(ctx context.Context, e rerating.Entry) (*plan.Plan, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.end()
	began := r.now()
	for range attempts {
		p, err := r.plan(ctx, e)
		if err != nil {
			return nil, err
		}
		r.log.Info("rerating: planned", "from", p.Entry.From, "to", p.Entry.To, "sums", p.Moved, "took", r.now().Sub(began))
		err = r.do(ctx, func(ctx context.Context) error { return r.carryOut(ctx, p) })
		if !errors.Is(err, errChanged) {
			return r.told(p, began, err)
		}
		r.log.Info("rerating: late chunks have come meanwhile; it is planned again", "from", p.Entry.From, "to", p.Entry.To)
	}
	var p *plan.Plan
	err := r.do(ctx, func(ctx context.Context) (err error) {
		if p, err = r.plan(ctx, e); err != nil {
			return err
		}
		return r.carryOut(ctx, p)
	})
	return r.told(p, began, err)
}

// carryOut makes a plan durable and has it count, if it is still of what is
// stored; errChanged where not.
func (r *reratings) carryOut(ctx context.Context, p *plan.Plan) error {
	// What has come late for a time that is no longer kept so finely goes
	// first: it is in coarser sums, which are planned, and would be left as it
	// was in the finer.
	if err := r.store.Retain(ctx, store.Retention{}, 0); err != nil {
		return err
	}
	var next *rerating.Journal
	err := r.store.View(ctx, func(v store.Reader) error {
		fresh, err := p.Fresh(ctx, v)
		if err != nil {
			return err
		}
		if !fresh {
			return errChanged
		}
		journal, err := v.Journal(ctx)
		if err != nil {
			return err
		}
		p.Entry.Applied = r.now().UTC()
		next, err = journal.With(p.Entry)
		return err
	})
	if err != nil {
		return err
	}
	done, err := r.audit.Begin(ctx, audited(&p.Entry))
	if err != nil {
		return err
	}
	err = r.store.Rerate(ctx, p.Rerating())
	done(err)
	if errors.Is(err, store.ErrOutdated) {
		return errChanged // another collector has stored late chunks
	}
	if err != nil {
		return fmt.Errorf("rerate: %w", err)
	}
	r.applied(next)
	return nil
}

// audited is what the audit log has of a rerating: the hash is of its card.
func audited(e *rerating.Entry) access.Change {
	c := access.Change{Action: auditRerate, Old: e.ID - 1, New: e.ID, Detail: fmt.Sprintf("seconds %d to %d", e.From, e.To)}
	if e.Undoes != 0 {
		c.Action = auditUndo
		c.Detail = fmt.Sprintf("rerating %d, %s", e.Undoes, c.Detail)
	}
	if e.Card != nil {
		c.SHA256 = access.DocumentHash(cardText(e.Card))
	}
	if e.Reason != "" {
		c.Detail += ": " + e.Reason
	}
	return c
}

func (r *reratings) told(p *plan.Plan, began time.Time, err error) (*plan.Plan, error) {
	if err != nil {
		return nil, err
	}
	r.log.Info("rerated", "rerating", p.Entry.ID, "undoes", p.Entry.Undoes, "from", p.Entry.From, "to", p.Entry.To,
		"sums", p.Moved, "cost_before", p.Entry.CostBefore, "cost_after", p.Entry.CostAfter, "reason", p.Entry.Reason, "took", r.now().Sub(began))
	return p, nil
}
