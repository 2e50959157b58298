package focus

import (
	"math/big"
	"strings"
)

// Decimal is unscaled · 10^-scale, exactly. The zero value is 0. It does not
// change once made.
type Decimal struct {
	unscaled *big.Int
	scale    int
}

// NewDecimal is unscaled · 10^-scale. It keeps unscaled, which must not change
// afterwards.
func NewDecimal(unscaled *big.Int, scale int) Decimal { return Decimal{unscaled, scale} }

func decimalOf(unscaled int64, scale int) Decimal { return Decimal{big.NewInt(unscaled), scale} }

// Times is d · x, exactly.
func (d Decimal) Times(x Decimal) Decimal {
	return Decimal{new(big.Int).Mul(d.int(), x.int()), d.scale + x.scale}
}

func (d Decimal) int() *big.Int {
	if d.unscaled == nil {
		return new(big.Int)
	}
	return d.unscaled
}

// String is the decimal text in full, without zeros at its end, an exponent or
// a plus: what FOCUS calls the numeric format.
func (d Decimal) String() string {
	x := d.int()
	digits := new(big.Int).Abs(x).String()
	if d.scale > 0 {
		if n := d.scale + 1 - len(digits); n > 0 {
			digits = strings.Repeat("0", n) + digits
		}
		cut := len(digits) - d.scale
		whole, part := digits[:cut], strings.TrimRight(digits[cut:], "0")
		if digits = whole; part != "" {
			digits += "." + part
		}
	}
	if x.Sign() < 0 {
		return "-" + digits
	}
	return digits
}

// fixed is d in 16 bytes, big-endian and two's complement, with another scale
// that is no smaller: Parquet's DECIMAL(38, scale). It reports whether it fits.
func (d Decimal) fixed(scale int, out *[16]byte) bool {
	x := d.int()
	if n := scale - d.scale; n > 0 {
		x = new(big.Int).Mul(x, pow10(n))
	}
	if scale < d.scale || new(big.Int).Abs(x).Cmp(maxFixed()) >= 0 {
		return false
	}
	if x.Sign() < 0 {
		x = new(big.Int).Add(x, new(big.Int).Lsh(big.NewInt(1), 128))
	}
	x.FillBytes(out[:])
	return true
}

// maxFixed is the first number with more than 38 digits.
func maxFixed() *big.Int { return pow10(decimalDigits) }

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }
