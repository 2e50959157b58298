package economics

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// Digits is how many decimals a Figures value has at most.
const Digits = 12

// PerBasis is a figure on the allocation basis and on the usage basis, as
// decimal text in units of the currency, "" where it can't be given.
type PerBasis struct{ Allocation, Usage string }

// Figures are a row's unit costs and rates as decimal text, "" where one can't
// be given. Reasons say why, Reason the same in one line for what is given of
// every row: inferences, tokens and price.
type Figures struct {
	Per1k      PerBasis // 1,000 successful inferences
	PerSuccess PerBasis // one of them; all cost counts, failures and retries included
	Per1MTokens,
	Per1MInput, Per1MCached, Per1MOutput PerBasis // 1,000,000 tokens: input + output, and by type
	Coverage string // 0 to 1

	Good    string // successes within the latency target
	PerGood PerBasis

	ErrorRate                           string // failures ÷ (successes + failures)
	P50, P95, P99, FirstTokenP95        string // ms: upper bounds
	FailedCost, AbortedCost             *big.Int
	ByReason                            []Failure
	QueueMean, RunningMean, KVCacheMean string

	Reason  string
	Reasons map[string]string // by topic
}

// Failure is what requests that failed for one reason cost, of all failed ones.
type Failure struct {
	Reason string
	Count  Counter
	Cost   *big.Int // nil: unpriced
}

// The topics of reasons.
const (
	aboutInferences = "inferences"
	aboutTokens     = "tokens"
	aboutPrice      = "price"
	aboutTypes      = "token types"
	aboutFailures   = "failures"
	aboutAborted    = "aborted tokens"
	aboutLatency    = "latency"
	aboutFirstToken = "first token"
	aboutLoad       = "load"
)

const notMeasured = "not measured"

// builder works figures out, one part after another.
type builder struct {
	Figures
	row    *Row
	alloc  *Costs
	terms  *Terms
	priced bool
}

// Figures works out a row's figures. nil stands for the default terms.
func (r *Row) Figures(t *Terms) Figures {
	if t == nil {
		t = DefaultTerms()
	}
	b := &builder{row: r, alloc: r.Allocation(), terms: t}
	b.Reasons = map[string]string{}
	b.priced = b.alloc.Priced()
	b.price()
	b.units()
	b.tokenTypes()
	b.latencies()
	b.failures()
	b.aborted()
	b.load()
	b.Reason = b.oneLine()
	return b.Figures
}

func (b *builder) lack(topic, why string) { b.Reasons[topic] = why }

// oneLine joins what concerns every row.
func (b *builder) oneLine() string {
	var parts []string
	inferences, tokens := b.Reasons[aboutInferences], b.Reasons[aboutTokens]
	s := b.row.Served
	if !s.Counter(attribution.Success).Measured && !s.Counter(attribution.TokensInput).Measured && !s.Counter(attribution.TokensOutput).Measured {
		inferences, tokens = notMeasured, ""
	}
	for _, p := range []string{inferences, tokens, b.Reasons[aboutPrice]} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "; ")
}

func (b *builder) price() {
	a := b.alloc
	switch {
	case a.Time.Sign() == 0 && a.Cost.Sign() == 0:
		b.lack(aboutPrice, "no device time")
	case !b.priced:
		b.lack(aboutPrice, "unpriced")
	case a.Unpriced.Sign() > 0:
		b.lack(aboutPrice, fmt.Sprintf("partly unpriced: %s %% of the device time has no price and is not in the cost",
			Decimal(ratio(&a.Unpriced, &a.Time, 100), 2)))
	}
	if b.priced && a.Cost.Sign() > 0 {
		b.Coverage = Decimal(ratio(&b.row.Covered.Cost, &a.Cost, 1), Digits)
	}
}

// What costs are divided for. Nano units to units is 10⁻⁹, in nanos; inferences
// are counted in millionths.
const (
	nanos                  = 1_000_000_000
	perInference           = int64(attribution.One)
	perThousand            = 1000 * perInference
	perMillionTokens int64 = 1_000_000
)

// units are the figures by success and by token of any type.
func (b *builder) units() {
	successes, tokens := b.row.Served.Counter(attribution.Success), b.row.Served.Tokens()
	b.missing(aboutInferences, "inferences", &successes)
	b.missing(aboutTokens, "tokens", &tokens)
	b.Per1k = b.per(&successes, perThousand)
	b.PerSuccess = b.per(&successes, perInference)
	b.Per1MTokens = b.per(&tokens, perMillionTokens)
}

func (b *builder) missing(topic, what string, c *Counter) {
	switch {
	case !c.Measured:
		b.lack(topic, what+" "+notMeasured)
	case c.Value.Sign() == 0:
		b.lack(topic, "no "+what)
	}
}

// per is what so many of a count cost.
func (b *builder) per(c *Counter, many int64) (p PerBasis) {
	if !c.Measured || c.Value.Sign() == 0 {
		return p
	}
	return b.times(ratio(big.NewInt(many), &c.Value, 1))
}

// times multiplies both costs, in units of the currency.
func (b *builder) times(x *big.Rat) (p PerBasis) {
	if !b.priced {
		return p
	}
	text := func(cost *big.Int) string {
		return Decimal(new(big.Rat).Mul(ratio(cost, big.NewInt(nanos), 1), x), Digits)
	}
	p.Allocation = text(&b.alloc.Cost)
	if used := &b.row.Used; used.Priced() || used.Time.Sign() == 0 {
		p.Usage = text(&used.Cost)
	}
	return p
}

// tokenTypes splits the cost over the types of tokens by tokens × weight: a
// token of weight w costs w × cost ÷ Σ(tokens × weight). Cached tokens are part
// of the input; where they were not measured, all input counts as not cached.
func (b *builder) tokenTypes() {
	s := b.row.Served
	all, in, cached, out := s.Tokens(), s.Counter(attribution.TokensInput), s.Counter(attribution.TokensCached), s.Counter(attribution.TokensOutput)
	if !all.Measured || all.Value.Sign() == 0 {
		b.lack(aboutTypes, b.Reasons[aboutTokens])
		return
	}
	fresh := Counter{Measured: true}
	fresh.Value.Sub(&in.Value, &cached.Value)
	var why []string
	if fresh.Value.Sign() < 0 {
		fresh.Value.SetInt64(0)
		why = append(why, "more cached tokens than input tokens were counted")
	}
	types := []struct {
		name   string
		tokens *Counter
		weight *big.Rat
		to     *PerBasis
	}{
		{"input tokens that were not cached", &fresh, b.terms.Input, &b.Per1MInput},
		{"cached tokens", &cached, b.terms.Cached, &b.Per1MCached},
		{"output tokens", &out, b.terms.Output, &b.Per1MOutput},
	}
	weight := new(big.Rat)
	for _, t := range types {
		weight.Add(weight, new(big.Rat).Mul(new(big.Rat).SetInt(&t.tokens.Value), t.weight))
	}
	if weight.Sign() == 0 {
		b.lack(aboutTypes, "only tokens of weight 0")
		return
	}
	for _, t := range types {
		switch {
		case !t.tokens.Measured:
			why = append(why, t.name+" "+notMeasured)
		case t.tokens.Value.Sign() == 0:
			why = append(why, "no "+t.name)
		default:
			unit := new(big.Rat).Mul(t.weight, big.NewRat(perMillionTokens, 1))
			*t.to = b.times(unit.Quo(unit, weight))
		}
	}
	if len(why) > 0 {
		b.lack(aboutTypes, strings.Join(why, "; "))
	}
}

// failures are the error rate, and what of the cost was for failed requests.
func (b *builder) failures() {
	s := b.row.Served
	good, bad, all := s.Counter(attribution.Success), s.Failures(), s.Requests()
	switch {
	case !bad.Measured:
		b.lack(aboutFailures, "failures "+notMeasured)
		return
	case !good.Measured:
		b.lack(aboutFailures, "inferences "+notMeasured)
		return
	case all.Value.Sign() == 0:
		b.lack(aboutFailures, "no requests")
		return
	}
	b.ErrorRate = Decimal(ratio(&bad.Value, &all.Value, 1), Digits)
	var reasons []attribution.Measure
	for _, m := range slices.Sorted(maps.Keys(s)) {
		if isFailure(m) {
			reasons = append(reasons, m)
			b.ByReason = append(b.ByReason, Failure{Reason: string(m[len(attribution.FailurePrefix):]), Count: s.Counter(m)})
		}
	}
	if !b.priced {
		return
	}
	b.FailedCost = apportion.Big(&b.alloc.Cost, []*big.Int{&good.Value, &bad.Value})[1]
	ws := make([]*big.Int, len(reasons))
	for i, m := range reasons {
		ws[i] = s[m]
	}
	for i, cost := range spread(b.FailedCost, ws) {
		b.ByReason[i].Cost = cost
	}
}

// aborted is what of the cost was for tokens of requests that were given up.
func (b *builder) aborted() {
	aborted, all := b.row.Served.Counter(attribution.TokensAborted), b.row.Served.Tokens()
	switch {
	case !aborted.Measured:
		b.lack(aboutAborted, "aborted tokens "+notMeasured)
	case !all.Measured || all.Value.Sign() == 0:
		b.lack(aboutAborted, b.Reasons[aboutTokens])
	case b.priced:
		part := &aborted.Value
		if part.Cmp(&all.Value) > 0 {
			part = &all.Value
		}
		b.AbortedCost = apportion.Big(&b.alloc.Cost, []*big.Int{part, beyond(&all.Value, part)})[0]
	}
}

// load is the mean of what was read now and then.
func (b *builder) load() {
	s := b.row.Served
	observed := s.Counter(attribution.Observed)
	var why []string
	for _, g := range []struct {
		measure attribution.Measure
		to      *string
	}{{attribution.Queue, &b.QueueMean}, {attribution.Running, &b.RunningMean}, {attribution.KVCache, &b.KVCacheMean}} {
		v := s.Counter(g.measure)
		if v.Measured && observed.Value.Sign() > 0 {
			*g.to = Decimal(ratio(&v.Value, &observed.Value, 1), 6)
		} else {
			why = append(why, string(g.measure))
		}
	}
	if len(why) > 0 {
		b.lack(aboutLoad, strings.Join(why, ", ")+" "+notMeasured)
	}
}

func ratio(a, b *big.Int, scale int64) *big.Rat {
	x := new(big.Rat).SetFrac(a, b)
	return x.Mul(x, big.NewRat(scale, 1))
}
