package traces

import (
	"errors"
	"math/big"
	"strings"
)

// digits is how many digits behind the point a decimal of a trace may have.
const digits = 30

var (
	unit = new(big.Int).Exp(big.NewInt(10), big.NewInt(digits), nil) // 1 as a scaled number; never changed

	errDecimal  = errors.New("want a decimal number")
	errNegative = errors.New("the number is negative")
	errFine     = errors.New("the number is too long")
)

// parseScaled reads a non-negative decimal, as Python prints floats, exactly:
// the result is its 10^digits-fold.
func parseScaled(s string) (*big.Int, error) {
	if strings.HasPrefix(s, "-") {
		return nil, errNegative
	}
	if len(s) > 40 {
		return nil, errFine
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	whole, fraction, point := strings.Cut(mantissa, ".")
	shift := 0
	if exponent != "" {
		e, ok := new(big.Int).SetString(exponent, 10)
		if !ok || !e.IsInt64() || e.Int64() < -digits || e.Int64() > digits {
			return nil, errDecimal
		}
		shift = int(e.Int64())
	}
	if !allDigits(whole) || !allDigits(fraction) || whole == "" || (point && fraction == "") || strings.HasSuffix(strings.ToLower(s), "e") {
		return nil, errDecimal
	}
	zeros := digits - len(fraction) + shift
	all := strings.TrimLeft(whole+fraction, "0")
	for zeros < 0 && strings.HasSuffix(all, "0") {
		all, zeros = all[:len(all)-1], zeros+1
	}
	if all == "" {
		return new(big.Int), nil
	}
	if zeros < 0 {
		return nil, errFine
	}
	v, _ := new(big.Int).SetString(all+strings.Repeat("0", zeros), 10) // nothing but digits
	return v, nil
}

func allDigits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

// parseInteger reads a decimal that is a whole multiple of 1/per, up to limit
// of them, as that many: seconds in nanoseconds with per 10⁹.
func parseInteger(s string, per, limit int64) (int64, error) {
	v, err := parseScaled(s)
	if err != nil {
		return 0, err
	}
	v.Mul(v, big.NewInt(per))
	q, r := new(big.Int).QuoRem(v, unit, new(big.Int))
	switch {
	case r.Sign() != 0:
		return 0, errFine
	case !q.IsInt64() || q.Int64() > limit:
		return 0, errors.New("the number is too large")
	}
	return q.Int64(), nil
}

// carried adds scaled numbers up and hands out whole ones: the sum of what it
// hands out is always the floor of the sum of what it was given.
type carried struct{ rest big.Int }

// take adds v·times/per and returns the whole part that is due.
func (c *carried) take(v *big.Int, times, per int64) int64 {
	var x big.Int
	x.Mul(v, big.NewInt(times))
	// Kept in units of 1/(per·10^digits); per must be the same each time.
	c.rest.Add(&c.rest, &x)
	var q big.Int
	q.QuoRem(&c.rest, x.Mul(unit, big.NewInt(per)), &c.rest)
	return q.Int64()
}
