package format

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// selector is a family and conditions on labels, as in PromQL.
type selector struct {
	family   string
	matchers []matcher
}

// matcher is a condition on one label; a label that is not there is "".
type matcher struct {
	label   string
	value   string
	pattern *regexp.Regexp // of the whole value; nil for equality
	not     bool
}

var (
	errSelector = errors.New(`a family's name is wanted, and perhaps {label="value", …} with =, !=, =~ or !~`)
	familyName  = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

func parseSelector(s string) (selector, error) {
	if len(s) > maxSelector {
		return selector{}, fmt.Errorf("it has more than %d bytes", maxSelector)
	}
	family, rest, conditions := strings.Cut(strings.TrimSpace(s), "{")
	out := selector{family: strings.TrimSpace(family)}
	if !familyName.MatchString(out.family) {
		return selector{}, errSelector
	}
	for conditions {
		rest = strings.TrimSpace(rest)
		if rest == "}" {
			return out, nil
		}
		m, after, err := parseMatcher(rest)
		if err != nil {
			return selector{}, err
		}
		out.matchers = append(out.matchers, m)
		rest = strings.TrimSpace(after)
		if !strings.HasPrefix(rest, ",") && rest != "}" {
			return selector{}, errSelector
		}
		rest = strings.TrimPrefix(rest, ",")
	}
	return out, nil
}

func parseMatcher(s string) (m matcher, after string, err error) {
	at := strings.IndexAny(s, "=!")
	if at < 0 {
		return m, "", errSelector
	}
	m.label = strings.TrimSpace(s[:at])
	s = s[at:]
	pattern := false
	switch {
	case strings.HasPrefix(s, "=~"), strings.HasPrefix(s, "!~"), strings.HasPrefix(s, "!="):
		m.not, pattern = s[0] == '!', s[1] == '~'
		s = s[2:]
	case s[0] == '=':
		s = s[1:]
	default:
		return m, "", errSelector
	}
	s = strings.TrimSpace(s)
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil || quoted[0] != '"' || !labelName.MatchString(m.label) {
		return m, "", errSelector
	}
	if m.value, err = strconv.Unquote(quoted); err != nil {
		return m, "", errSelector
	}
	if pattern {
		if m.pattern, err = regexp.Compile("^(?s:" + m.value + ")$"); err != nil {
			return m, "", fmt.Errorf("label %s: %w", m.label, err)
		}
	}
	return m, s[len(quoted):], nil
}

// selects says whether a series of the family is meant.
func (s *selector) selects(ls attribution.Labels) bool {
	for i := range s.matchers {
		m := &s.matchers[i]
		v, _ := ls.Get(m.label)
		hit := v == m.value
		if m.pattern != nil {
			hit = m.pattern.MatchString(v)
		}
		if hit == m.not {
			return false
		}
	}
	return true
}
