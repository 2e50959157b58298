package economics

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// Digits is how many decimals a Figures value has at most.
const Digits = 12

// Figures are a row's unit costs as decimal text in units of the currency, ""
// where one can't be given. Reason says why.
type Figures struct {
	Per1kAllocation, Per1kUsage             string // per 1,000 successful inferences
	Per1MTokensAllocation, Per1MTokensUsage string // per 1,000,000 input + output tokens
	Coverage                                string // 0 to 1
	Reason                                  string
}

// Figures works out a row's unit costs.
func (r *Row) Figures() Figures {
	var f Figures
	var reasons []string
	alloc := r.Allocation()
	s := &r.Served
	var tokens Counter
	tokens.Measured = s.Input.Measured && s.Output.Measured
	tokens.Value.Add(&s.Input.Value, &s.Output.Value)

	switch {
	case !s.Successes.Measured && !s.Input.Measured && !s.Output.Measured:
		reasons = append(reasons, "not measured")
	default:
		reasons = append(reasons, lack("inferences", &s.Successes)...)
		reasons = append(reasons, lack("tokens", &tokens)...)
	}
	switch {
	case alloc.Time.Sign() == 0 && alloc.Cost.Sign() == 0:
		reasons = append(reasons, "no device time")
	case !alloc.Priced():
		reasons = append(reasons, "unpriced")
	case alloc.Unpriced.Sign() > 0:
		reasons = append(reasons, fmt.Sprintf("partly unpriced: %s %% of the device time has no price and is not in the cost",
			Decimal(ratio(&alloc.Unpriced, &alloc.Time, 100), 2)))
	}
	f.Reason = strings.Join(reasons, "; ")
	if !alloc.Priced() {
		return f
	}
	// Nano units to units is 10⁻⁹; successes are in millionths.
	per1k := big.NewRat(1000*int64(attribution.One), 1_000_000_000)
	per1M := big.NewRat(1_000_000, 1_000_000_000)
	f.Per1kAllocation = per(&alloc.Cost, &s.Successes, per1k)
	f.Per1MTokensAllocation = per(&alloc.Cost, &tokens, per1M)
	if r.Used.Priced() || r.Used.Time.Sign() == 0 {
		f.Per1kUsage = per(&r.Used.Cost, &s.Successes, per1k)
		f.Per1MTokensUsage = per(&r.Used.Cost, &tokens, per1M)
	}
	if alloc.Cost.Sign() > 0 {
		f.Coverage = Decimal(ratio(&r.Covered.Cost, &alloc.Cost, 1), Digits)
	}
	return f
}

func lack(what string, c *Counter) []string {
	switch {
	case !c.Measured:
		return []string{what + " not measured"}
	case c.Value.Sign() == 0:
		return []string{"no " + what}
	}
	return nil
}

func per(cost *big.Int, c *Counter, scale *big.Rat) string {
	if !c.Measured || c.Value.Sign() == 0 {
		return ""
	}
	x := new(big.Rat).SetFrac(cost, &c.Value)
	return Decimal(x.Mul(x, scale), Digits)
}

func ratio(a, b *big.Int, scale int64) *big.Rat {
	x := new(big.Rat).SetFrac(a, b)
	return x.Mul(x, big.NewRat(scale, 1))
}

// Decimal is decimal text of an exact number, rounded half to even at so many
// decimals, without trailing zeros beyond the second.
func Decimal(x *big.Rat, digits int) string {
	scaled := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	num := new(big.Int).Mul(new(big.Int).Abs(x.Num()), scaled)
	q, r := num.QuoRem(num, x.Denom(), new(big.Int))
	switch half := r.Lsh(r, 1).Cmp(x.Denom()); {
	case half > 0, half == 0 && q.Bit(0) == 1:
		q.Add(q, big.NewInt(1))
	}
	text := q.String()
	if len(text) <= digits {
		text = strings.Repeat("0", digits+1-len(text)) + text
	}
	whole, frac := text[:len(text)-digits], text[len(text)-digits:]
	keep := min(2, digits)
	frac = frac[:keep] + strings.TrimRight(frac[keep:], "0")
	sign := ""
	if x.Sign() < 0 && q.Sign() != 0 {
		sign = "-"
	}
	return sign + whole + "." + frac
}

// Inferences is a counter of inferences as decimal text, "" where it was not
// measured: millionths are exact.
func (c *Counter) Inferences() string {
	if !c.Measured {
		return ""
	}
	whole, rest := new(big.Int).QuoRem(&c.Value, big.NewInt(int64(attribution.One)), new(big.Int))
	if rest.Sign() == 0 {
		return whole.String()
	}
	return whole.String() + "." + strings.TrimRight(fmt.Sprintf("%06d", rest.Int64()), "0")
}

// Tokens is a counter of tokens as text, "" where it was not measured.
func (c *Counter) Tokens() string {
	if !c.Measured {
		return ""
	}
	return c.Value.String()
}
