package economics

import (
	"context"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Targets are what a service promises. Those that are not set are not judged.
type Targets struct {
	latency        int      // bucket that the p95 must not exceed, noTarget: none
	ErrorRate      *big.Rat // failures ÷ requests, at most; nil: none
	CostPerSuccess *big.Rat // allocation basis, units of the currency, at most; nil: none
	terms          *Terms
}

// ParseTargets reads targets: ms (0: none) and decimal text ("": none). At
// least one is needed. Errors wrap query.ErrInvalid.
func ParseTargets(p95MS int64, errorRate, costPerSuccess string) (*Targets, error) {
	terms, err := ParseTerms(p95MS, "", "", "")
	if err != nil {
		return nil, err
	}
	t := &Targets{latency: terms.target, terms: terms}
	if errorRate != "" {
		if t.ErrorRate, err = parseDecimal(errorRate); err != nil || t.ErrorRate.Cmp(big.NewRat(1, 1)) > 0 {
			return nil, query.Invalid("error rate %q: want a decimal number from 0 to 1, such as 0.01 for one in a hundred", errorRate)
		}
	}
	if costPerSuccess != "" {
		if t.CostPerSuccess, err = parseDecimal(costPerSuccess); err != nil {
			return nil, query.Invalid("cost per success %q: want a decimal number such as 0.002", costPerSuccess)
		}
	}
	if t.latency == noTarget && t.ErrorRate == nil && t.CostPerSuccess == nil {
		return nil, query.Invalid("there is no target: give a p95 latency, an error rate, a cost per success, or several")
	}
	return t, nil
}

// LatencyP95 is the target in ms as it is judged, rounded up to a bound of the
// ledger's histogram; "" where there is none.
func (t *Targets) LatencyP95() string { return t.terms.LatencyTarget() }

// Verdict is what becomes of a target.
type Verdict uint8

// The verdicts. NotJudged is that of a target that was not set.
const (
	NotJudged Verdict = iota
	Met
	Missed
	Unknown // a figure can't be given: neither met nor missed (law 9)
)

// String is the verdict's name, "" where nothing was judged.
func (v Verdict) String() string { return [...]string{"", "met", "missed", "unknown"}[v] }

// Judgement holds figures against targets. Figures are "" where they can't be
// given.
type Judgement struct {
	P95, ErrorRate, CostPerSuccess string
	Latency, Errors, Cost          Verdict
	Joint                          Verdict // missed if any is, else unknown if any is
	Reason                         string  // of what is unknown
}

// Interval is the judgement of one interval.
type Interval struct {
	Time attribution.Second
	Judgement
}

// SLORow is one group, judged over the whole range and interval by interval.
type SLORow struct {
	Keys []store.Key
	Judgement
	Intervals []Interval // in order of time; without a step the range is one
	// Of the intervals that could be judged, how many met all targets; and how
	// many could not.
	Judged, Met, Unknown int
}

// SLOAnswer holds groups in the order of [Answer].
type SLOAnswer struct {
	From, To attribution.Second
	Step     int64
	GroupBy  []store.Dimension
	Rows     []SLORow
}

// SLO judges groups against targets, over the range and over each interval of
// the request's step: one bad hour can hide in a good week. An interval without
// any device time of a group has no judgement; costs are split over models and
// customers by what was served in it. Errors are those of [UnitCosts].
func SLO(ctx context.Context, e *query.Engine, req *Request, t *Targets) (*SLOAnswer, error) {
	inSteps, err := plan(req)
	if err != nil {
		return nil, err
	}
	whole := *req
	whole.Step = 0
	asWhole, err := plan(&whole)
	if err != nil {
		return nil, err
	}
	out := &SLOAnswer{Step: req.Step}
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *query.Snapshot) error {
		all, err := asWhole.ask(ctx, e, s)
		if err != nil {
			return err
		}
		parts := all
		if req.Step > 0 {
			if parts, err = inSteps.ask(ctx, e, s); err != nil {
				return err
			}
		}
		out.From, out.To, out.GroupBy = all.From, all.To, all.GroupBy
		out.judge(all, parts, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (out *SLOAnswer) judge(all, parts *Answer, t *Targets) {
	at := make(map[string]int, len(all.Rows))
	for i := range all.Rows {
		r := &all.Rows[i].Row
		at[string(query.AppendKeys(nil, r.Keys))] = i
		out.Rows = append(out.Rows, SLORow{Keys: r.Keys, Judgement: t.judge(r)})
	}
	for i := range parts.Rows {
		p := &parts.Rows[i]
		n, there := at[string(query.AppendKeys(nil, p.Keys))]
		if !there {
			continue // what nobody saw in this interval, gateways made up for in another
		}
		r := &out.Rows[n]
		j := Interval{Time: p.Time, Judgement: t.judge(&p.Row)}
		switch j.Joint {
		case Met:
			r.Judged, r.Met = r.Judged+1, r.Met+1
		case Missed:
			r.Judged++
		case Unknown, NotJudged:
			r.Unknown++
		}
		if out.Step > 0 {
			r.Intervals = append(r.Intervals, j)
		}
	}
}

// judge holds a row against the targets.
func (t *Targets) judge(r *Row) Judgement {
	f := r.Figures(t.terms)
	j := Judgement{P95: f.P95, ErrorRate: f.ErrorRate, CostPerSuccess: f.PerSuccess.Allocation}
	var why []string
	verdict := func(set, known, met bool, topics ...string) Verdict {
		switch {
		case !set:
			return NotJudged
		case !known:
			for _, topic := range topics {
				if w := f.Reasons[topic]; w != "" && !strings.Contains(strings.Join(why, "; "), w) {
					why = append(why, w)
				}
			}
			return Unknown
		case met:
			return Met
		}
		return Missed
	}
	bucket, known := r.Served.histogram(attribution.LatencyPrefix).quantile(95)
	j.Latency = verdict(t.latency != noTarget, known, bucket <= t.latency, aboutLatency)
	j.Errors = verdict(t.ErrorRate != nil, f.ErrorRate != "", t.ErrorRate != nil && r.errorsWithin(t.ErrorRate), aboutFailures)
	j.Cost = verdict(t.CostPerSuccess != nil, j.CostPerSuccess != "", t.CostPerSuccess != nil && r.costWithin(t.CostPerSuccess), aboutInferences, aboutPrice)
	j.Joint = joint(j.Latency, j.Errors, j.Cost)
	j.Reason = strings.Join(why, "; ")
	return j
}

func joint(vs ...Verdict) Verdict {
	out := NotJudged
	for _, v := range vs {
		switch {
		case v == Missed:
			return Missed
		case v == Unknown, out == NotJudged:
			out = v
		}
	}
	return out
}

// errorsWithin and costWithin compare without rounding.
func (r *Row) errorsWithin(most *big.Rat) bool {
	bad, all := r.Served.Failures(), r.Served.Requests()
	return new(big.Rat).SetInt(&bad.Value).Cmp(new(big.Rat).Mul(most, new(big.Rat).SetInt(&all.Value))) <= 0
}

func (r *Row) costWithin(most *big.Rat) bool {
	successes := r.Served.Counter(attribution.Success)
	budget := new(big.Rat).Mul(most, big.NewRat(nanos, perInference))
	budget.Mul(budget, new(big.Rat).SetInt(&successes.Value))
	return new(big.Rat).SetInt(&r.Allocation().Cost).Cmp(budget) <= 0
}
