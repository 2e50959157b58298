package economics

import (
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
)

// Terms are what figures depend on besides what was counted. They do not change.
type Terms struct {
	// How much a token of each type costs relative to the others.
	Input, Cached, Output *big.Rat
	target                int // bucket
	histogram             *attribution.Histogram
}

// DefaultTerms weigh a cached token a tenth and a generated one four times of
// an input token, and have no latency target.
func DefaultTerms() *Terms {
	return &Terms{
		Input: big.NewRat(1, 1), Cached: big.NewRat(1, 10), Output: big.NewRat(4, 1),
		target: noTarget, histogram: attribution.NewHistogram(),
	}
}

// maxTarget is the longest latency target, in ms: a day.
const maxTarget = 86_400_000

// ParseTerms reads a latency target in ms (0: none) and weights as decimal
// text ("": the default). Errors wrap query.ErrInvalid.
func ParseTerms(targetMS int64, input, cached, output string) (*Terms, error) {
	t := DefaultTerms()
	if targetMS < 0 || targetMS > maxTarget {
		return nil, query.Invalid("latency target %d ms: want 1 to %d, or 0 for none", targetMS, maxTarget)
	}
	if targetMS > 0 {
		t.target = t.histogram.Bucket(targetMS * 1_000_000)
	}
	for _, w := range []struct {
		name, text string
		to         **big.Rat
	}{{"input", input, &t.Input}, {"cached", cached, &t.Cached}, {"output", output, &t.Output}} {
		if w.text == "" {
			continue
		}
		x, err := parseDecimal(w.text)
		if err != nil {
			return nil, query.Invalid("the weight of %s tokens is %q: want a decimal number such as 0.1", w.name, w.text)
		}
		*w.to = x
	}
	if t.Input.Sign() == 0 && t.Cached.Sign() == 0 && t.Output.Sign() == 0 {
		return nil, query.Invalid("all weights of tokens are 0: at least one must cost something")
	}
	return t, nil
}

// LatencyTarget is the target in ms as it is applied: rounded up to a bound of
// the ledger's histogram. It is "" where there is none.
func (t *Terms) LatencyTarget() string {
	if t.target == noTarget {
		return ""
	}
	return t.milliseconds(t.target)
}

// DecimalOf is a weight or target that was given, as decimal text.
func DecimalOf(x *big.Rat) string {
	text := x.FloatString(maxDecimals)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// maxDecimals is how many digits a decimal of a question may have on either
// side of its point.
const maxDecimals = 12

// parseDecimal reads a plain decimal that is not negative.
func parseDecimal(s string) (*big.Rat, error) {
	whole, fraction, point := strings.Cut(s, ".")
	if whole == "" || (point && fraction == "") || len(whole) > maxDecimals || len(fraction) > maxDecimals || strings.Trim(whole+fraction, "0123456789") != "" {
		return nil, query.Invalid("%q is not a decimal number", s)
	}
	x, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, query.Invalid("%q is not a decimal number", s)
	}
	return x, nil
}
