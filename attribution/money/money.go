// Package money counts money in integers: nano units of the ledger's currency.
// Nothing here rounds silently; what does not fit is an error.
package money

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// Amount is money in nano units: 1_000_000_000 is one dollar, if the ledger's
// currency is USD. The range is ±9.2 billion units.
type Amount int64

// Unit is one whole unit of the currency.
const Unit Amount = 1_000_000_000

const scaleDigits = 9

// ErrOverflow says that a sum or product does not fit an Amount.
var ErrOverflow = errors.New("money: overflow: amounts are limited to ±9,223,372,036 units")

// Add is a + b, or ErrOverflow.
func Add(a, b Amount) (Amount, error) {
	s := a + b
	if (a > 0 && b > 0 && s <= 0) || (a < 0 && b < 0 && s >= 0) {
		return 0, ErrOverflow
	}
	return s, nil
}

// Sum adds any number of amounts, or returns ErrOverflow.
func Sum(as ...Amount) (Amount, error) {
	var s Amount
	var err error
	for _, a := range as {
		if s, err = Add(s, a); err != nil {
			return 0, err
		}
	}
	return s, nil
}

// MulDivFloor is ⌊a·num/den⌋ for a, num ≥ 0 and den > 0, computed in 128 bits.
func MulDivFloor(a Amount, num, den int64) (Amount, error) {
	if a < 0 || num < 0 || den <= 0 {
		return 0, fmt.Errorf("money: MulDivFloor(%d, %d, %d): want non-negative factors and a positive divisor", a, num, den)
	}
	hi, lo := bits.Mul64(uint64(a), uint64(num))
	if hi >= uint64(den) {
		return 0, ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, uint64(den))
	if q > math.MaxInt64 {
		return 0, ErrOverflow
	}
	return Amount(q), nil
}

// SecondPrice is what Unix second t costs at an hourly price p:
// ⌊(t+1)·p/3600⌋ − ⌊t·p/3600⌋ (law 1). It depends on nothing else, so anyone
// computes the same, and any 3,600 consecutive seconds cost exactly p.
// p must not be negative.
func SecondPrice(p Amount, t int64) Amount {
	// With p = 3600·q + r: ⌊(t+1)p/3600⌋ − ⌊tp/3600⌋ = q + ⌊(t+1)r/3600⌋ − ⌊tr/3600⌋,
	// and only t mod 3600 matters to the second part. No product can overflow.
	const hour = 3600
	q, r := int64(p)/hour, int64(p)%hour
	m := ((t % hour) + hour) % hour
	return Amount(q + (m+1)*r/hour - m*r/hour)
}

// SpanPrice is the exact price of the seconds [from, to) at an hourly price p:
// the sum of their SecondPrices.
func SpanPrice(p Amount, from, to int64) (Amount, error) {
	at := func(t int64) *big.Int {
		x := new(big.Int).Mul(big.NewInt(int64(p)), big.NewInt(t))
		return x.Div(x, big.NewInt(3600)) // Euclidean: floors for a positive divisor
	}
	d := at(to)
	d.Sub(d, at(from))
	if !d.IsInt64() {
		return 0, ErrOverflow
	}
	return Amount(d.Int64()), nil
}

// Parse reads decimal text such as "2.50" or "-0.000000001": digits, at most
// one point, at most nine decimals. Exponents, signs other than one leading
// minus, separators and currency signs are refused.
func Parse(s string) (Amount, error) {
	bad := func(why string) (Amount, error) {
		return 0, fmt.Errorf("money: %q is not an amount: %s (write it like 2.50)", clip(s), why)
	}
	body, neg := strings.CutPrefix(s, "-")
	whole, frac, point := strings.Cut(body, ".")
	switch {
	case whole == "":
		return bad("no digits before the point")
	case point && frac == "":
		return bad("no digits after the point")
	case len(frac) > scaleDigits:
		return bad("more than nine decimals")
	}
	digits := whole + frac + "000000000"[:scaleDigits-len(frac)]
	var v, limit uint64 = 0, math.MaxInt64
	if neg {
		limit++ // two's complement reaches one further
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return bad("only digits and one point are allowed")
		}
		if v > (limit-uint64(c-'0'))/10 {
			return 0, fmt.Errorf("money: %q: %w", clip(s), ErrOverflow)
		}
		v = v*10 + uint64(c-'0')
	}
	if neg {
		return -Amount(v), nil
	}
	return Amount(v), nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// String is the exact decimal text, with at least two decimals and no
// trailing zeros beyond them: "2.50", "0.000000001". Parse reads it back.
func (a Amount) String() string { return Text(big.NewInt(int64(a))) }

// Text is [Amount.String] for sums that may exceed an Amount.
func Text(nanos *big.Int) string {
	digits := new(big.Int).Abs(nanos).String()
	if len(digits) <= scaleDigits {
		digits = strings.Repeat("0", scaleDigits+1-len(digits)) + digits
	}
	whole, frac := digits[:len(digits)-scaleDigits], digits[len(digits)-scaleDigits:]
	frac = frac[:2] + strings.TrimRight(frac[2:], "0")
	sign := ""
	if nanos.Sign() < 0 {
		sign = "-"
	}
	return sign + whole + "." + frac
}

// MarshalText writes the exact decimal text.
func (a Amount) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Amount) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*a = v
	return nil
}
