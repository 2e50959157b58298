package store

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestWildcardIsTheRegularExpression(t *testing.T) {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("ab*.\n%_\\")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		pattern, s := text.Draw(t, "pattern"), text.Draw(t, "s")
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		want := regexp.MustCompile(`(?s)\A` + strings.Join(parts, ".*") + `\z`).MatchString(s)
		if got := Wildcard(pattern, s); got != want {
			t.Fatalf("Wildcard(%q, %q) = %v", pattern, s, got)
		}
	})
}

func TestLaw9AFilterTellsMissingFromEmpty(t *testing.T) {
	missing, empty, some := Key{Missing: true}, Key{}, Key{Value: "a"}
	for _, c := range []struct {
		value                  string
		missing, empty, value2 bool
	}{
		{"", true, true, false},
		{"*", false, true, true},
		{"a", false, false, true},
		{"b", false, false, false},
	} {
		for _, negate := range []bool{false, true} {
			f := Filter{Dimension: Team, Values: []string{c.value}, Negate: negate}
			got := [3]bool{f.Match(missing), f.Match(empty), f.Match(some)}
			want := [3]bool{c.missing != negate, c.empty != negate, c.value2 != negate}
			if got != want {
				t.Errorf("%q negated %v keeps missing, empty, a: %v, want %v", c.value, negate, got, want)
			}
		}
	}
}

func TestQueryCheckNamesWhatIsWrong(t *testing.T) {
	good := Query{From: 0, To: 1, GroupBy: []Dimension{Team, "label:app"}, Filters: []Filter{{Dimension: Pod, Values: []string{"x"}}}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Query){
		"empty":                      func(q *Query) { q.To = q.From },
		"beyond":                     func(q *Query) { q.To = 1 << 62 },
		"step":                       func(q *Query) { q.Step = -1 },
		`unknown dimension "colour"`: func(q *Query) { q.GroupBy = []Dimension{"colour"} },
		`unknown dimension "label:"`: func(q *Query) { q.GroupBy = []Dimension{"label:"} },
		`no store has "family"`:      func(q *Query) { q.Filters = []Filter{{Dimension: Family, Values: []string{"x"}}} },
		"twice":                      func(q *Query) { q.GroupBy = []Dimension{Team, Team} },
		"no values":                  func(q *Query) { q.Filters = []Filter{{Dimension: Team}} },
	} {
		q := good
		change(&q)
		if err := q.Check(); !errors.Is(err, ErrBadQuery) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

func TestBucketsAreWholeStepsNotBeforeTheRange(t *testing.T) {
	q := Query{From: -7, To: 100, Step: 5}
	for s, want := range map[attribution.Second]attribution.Second{-7: -7, -6: -7, -5: -5, -1: -5, 0: 0, 4: 0, 5: 5, 99: 95} {
		if got := q.Bucket(s); got != want {
			t.Errorf("Bucket(%d) = %d, want %d", s, got, want)
		}
	}
	if q.Step = 0; q.Bucket(50) != -7 {
		t.Error("no step: one bucket")
	}
}
