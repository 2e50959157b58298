package economics

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

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
