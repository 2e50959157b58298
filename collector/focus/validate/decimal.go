package validate

import (
	"math/big"
	"strings"
)

// maxDigits bounds a number's text. FOCUS's widest precision is 38 digits.
const maxDigits = 80

// decimal is unscaled · 10^-scale.
type decimal struct {
	unscaled big.Int
	scale    int
}

// parseDecimal reads FOCUS's numeric format: a minus, digits, a point and
// digits, and nothing else. It says what is wrong otherwise.
func parseDecimal(s string, d *decimal) (problem string) {
	body, _ := strings.CutPrefix(s, "-")
	whole, part, point := strings.Cut(body, ".")
	switch {
	case len(s) > maxDigits:
		return "has more than 80 characters"
	case whole == "" || point && part == "":
		return "lacks digits before or after its point"
	case strings.Trim(whole+part, "0123456789") != "":
		return "is not a plain decimal number"
	}
	if _, ok := d.unscaled.SetString(strings.TrimSuffix(strings.Replace(s, ".", "", 1), "."), 10); !ok {
		return "is not a plain decimal number"
	}
	d.scale = len(part)
	return ""
}

func (d *decimal) zero() bool { return d.unscaled.Sign() == 0 }

// at is d's integer in another scale that is no smaller.
func (d *decimal) at(scale int) *big.Int {
	if scale == d.scale {
		return &d.unscaled
	}
	f := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale-d.scale)), nil)
	return f.Mul(f, &d.unscaled)
}

func (d *decimal) cmp(x *decimal) int {
	s := max(d.scale, x.scale)
	return d.at(s).Cmp(x.at(s))
}

func (d *decimal) times(x *decimal) *decimal {
	out := &decimal{scale: d.scale + x.scale}
	out.unscaled.Mul(&d.unscaled, &x.unscaled)
	return out
}

// add adds x to d. Scales are bounded by parseDecimal.
func (d *decimal) add(x *decimal) {
	s := max(d.scale, x.scale)
	sum := new(big.Int).Add(d.at(s), x.at(s))
	d.unscaled.Set(sum)
	d.scale = s
}

func (d *decimal) minus(x *decimal) *decimal {
	s := max(d.scale, x.scale)
	out := &decimal{scale: s}
	out.unscaled.Sub(d.at(s), x.at(s))
	return out
}

// within reports whether |d| ≤ x · 10^-digits.
func (d *decimal) within(x *decimal, digits int) bool {
	limit := &decimal{unscaled: *new(big.Int).Abs(&x.unscaled), scale: x.scale + digits}
	abs := &decimal{unscaled: *new(big.Int).Abs(&d.unscaled), scale: d.scale}
	return abs.cmp(limit) <= 0
}

func (d *decimal) String() string {
	digits := new(big.Int).Abs(&d.unscaled).String()
	if d.scale > 0 {
		if n := d.scale + 1 - len(digits); n > 0 {
			digits = strings.Repeat("0", n) + digits
		}
		cut := len(digits) - d.scale
		digits = strings.TrimSuffix(digits[:cut]+"."+strings.TrimRight(digits[cut:], "0"), ".")
	}
	if d.unscaled.Sign() < 0 {
		return "-" + digits
	}
	return digits
}
