package money_test

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution/money"
)

// price draws prices that divide by an hour's seconds well and badly.
func price(t *rapid.T) money.Amount {
	return money.Amount(rapid.OneOf(
		rapid.Int64Range(0, 10_000),
		rapid.Int64Range(0, 100*int64(money.Unit)),
		rapid.Int64Range(0, math.MaxInt64),
		rapid.Just(int64(math.MaxInt64)),
	).Draw(t, "price"))
}

func second(t *rapid.T) int64 {
	return rapid.OneOf(rapid.Int64Range(-9e9, 9e9), rapid.Just(int64(math.MaxInt64-4000)), rapid.Just(int64(math.MinInt64))).Draw(t, "second")
}

func TestLaw1AnyHourCostsTheHourlyPrice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, from := price(t), second(t)
		var sum money.Amount
		for s := from; s < from+3600; s++ {
			x := money.SecondPrice(p, s)
			if lo := p / 3600; x < lo || x > lo+1 {
				t.Fatalf("second %d costs %d nano of %d an hour", s, x, p)
			}
			sum += x
		}
		if sum != p {
			t.Fatalf("the hour from %d costs %d, not %d", from, sum, p)
		}
	})
}

// The definition, in as many bits as it takes.
func TestLaw1SecondPriceIsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s := price(t), second(t)
		floor := func(t *big.Int) *big.Int {
			x := new(big.Int).Mul(t, big.NewInt(int64(p)))
			return x.Div(x, big.NewInt(3600))
		}
		at := big.NewInt(s)
		want := floor(new(big.Int).Add(at, big.NewInt(1)))
		want.Sub(want, floor(at))
		if got := money.SecondPrice(p, s); want.Cmp(big.NewInt(int64(got))) != 0 {
			t.Fatalf("SecondPrice(%d, %d) = %d, want %s", p, s, got, want)
		}
	})
}

func TestLaw1ASpanCostsTheSumOfItsSeconds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, from := price(t), rapid.Int64Range(-9e9, 9e9).Draw(t, "from")
		to := from + rapid.Int64Range(0, 5000).Draw(t, "seconds")
		var want money.Amount
		var err error
		for s := from; s < to && err == nil; s++ {
			want, err = money.Add(want, money.SecondPrice(p, s))
		}
		got, gotErr := money.SpanPrice(p, from, to)
		if (err == nil) != (gotErr == nil) || (err == nil && got != want) {
			t.Fatalf("got %v, %v, want %v, %v", got, gotErr, want, err)
		}
		if gotErr != nil && !errors.Is(gotErr, money.ErrOverflow) {
			t.Fatal(gotErr)
		}
	})
}

func TestSecondPriceByHand(t *testing.T) {
	for _, tc := range []struct {
		p    money.Amount
		t    int64
		want money.Amount
	}{
		{2_500_000_000, 0, 694_444},
		{2_500_000_000, 1, 694_444},
		{2_500_000_000, 8, 694_445},
		{2_500_000_000, -1, 694_445},
		{3600, 5, 1},
		{1, 0, 0},
		{1, 3599, 1},
		{1, -1, 1},
		{1, -3600, 0},
		{0, 7, 0},
	} {
		if got := money.SecondPrice(tc.p, tc.t); got != tc.want {
			t.Errorf("SecondPrice(%d, %d) = %d, want %d", tc.p, tc.t, got, tc.want)
		}
	}
}

func TestParseAndString(t *testing.T) {
	for text, want := range map[string]struct {
		amount money.Amount
		text   string
	}{
		"0": {0, "0.00"}, "-0": {0, "0.00"}, "2.5": {2_500_000_000, "2.50"}, "2.50": {2_500_000_000, "2.50"}, "007": {7 * money.Unit, "7.00"},
		"0.000000001": {1, "0.000000001"}, "-0.000000001": {-1, "-0.000000001"}, "0.0003": {300_000, "0.0003"}, "-12.340": {-12_340_000_000, "-12.34"},
		"9223372036.854775807":  {math.MaxInt64, "9223372036.854775807"},
		"-9223372036.854775808": {math.MinInt64, "-9223372036.854775808"},
	} {
		got, err := money.Parse(text)
		if err != nil || got != want.amount || got.String() != want.text {
			t.Errorf("Parse(%q) = %d (%s), %v, want %d (%s)", text, got, got, err, want.amount, want.text)
		}
	}
	for _, text := range []string{
		"", "-", ".", ".5", "5.", "+1", "--1", "1e3", "1_000", "1,5", "1.5.2", "$2", " 2", "2 ", "0x10", "1.0000000001", "NaN", "٣", "2.-5",
	} {
		if got, err := money.Parse(text); err == nil || errors.Is(err, money.ErrOverflow) {
			t.Errorf("Parse(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"9223372036.854775808", "-9223372036.854775809", "9223372037", "99999999999999999999999999999999999999999999999"} {
		if got, err := money.Parse(text); !errors.Is(err, money.ErrOverflow) {
			t.Errorf("Parse(%q) = %v, %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "2.50", "-0.000000001", "9223372036.854775807", "-9223372036.854775808", "1e9", "00.1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := money.Parse(s)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(s) // accepts more than Parse, and is exact
		if !ok || want.Cmp(big.NewRat(int64(a), int64(money.Unit))) != 0 {
			t.Errorf("Parse(%q) = %d nano", s, a)
		}
		if b, err := money.Parse(a.String()); err != nil || b != a {
			t.Errorf("%q: %v back is %v, %v", s, a, b, err)
		}
	})
}

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := money.Amount(rapid.Int64().Draw(t, "amount"))
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var b money.Amount
		if err := b.UnmarshalText(text); err != nil || a != b {
			t.Fatalf("%d is %s is %d, %v", a, text, b, err)
		}
	})
	var a money.Amount
	if err := a.UnmarshalText([]byte("x")); err == nil {
		t.Error("x is an amount")
	}
	if got := money.Text(new(big.Int).Mul(big.NewInt(math.MaxInt64), big.NewInt(1000))); got != "9223372036854.775807" {
		t.Errorf("beyond 64 bits: %s", got)
	}
}

func TestArithmeticOverflows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		want := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
		got, err := money.Add(money.Amount(a), money.Amount(b))
		if want.IsInt64() != (err == nil) || (err == nil && want.Int64() != int64(got)) {
			t.Fatalf("%d + %d = %d, %v", a, b, got, err)
		}
		a, b = a&math.MaxInt64, b&math.MaxInt64
		den := rapid.Int64Range(1, math.MaxInt64).Draw(t, "den")
		want.Mul(big.NewInt(a), big.NewInt(b)).Div(want, big.NewInt(den))
		got, err = money.MulDivFloor(money.Amount(a), b, den)
		if want.IsInt64() != (err == nil) || (err == nil && want.Int64() != int64(got)) {
			t.Fatalf("%d · %d / %d = %d, %v", a, b, den, got, err)
		}
	})
	if _, err := money.Sum(math.MaxInt64, 1, -1); !errors.Is(err, money.ErrOverflow) {
		t.Errorf("got %v", err)
	}
	if got, err := money.Sum(1, 2, -4); got != -1 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, x := range [][3]int64{{-1, 1, 1}, {1, -1, 1}, {1, 1, 0}, {1, 1, -1}} {
		if _, err := money.MulDivFloor(money.Amount(x[0]), x[1], x[2]); err == nil {
			t.Errorf("MulDivFloor(%v) is fine", x)
		}
	}
}
