package format

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// compiled is a rule that can be applied.
type compiled struct {
	rule   Rule
	print  uint64            // of the rule's content
	detect [][]string        // any of: all of
	alias  map[string]string // the names that Ray gives families, to their own
	// families is every name that is of interest on a page.
	families   map[string]struct{}
	counts     []compiledCount
	histograms []compiledHistogram
	gauges     []compiledGauge
}

type compiledCount struct {
	*Count
	of []compiledAlternative
}

type compiledAlternative struct {
	series   selector
	minus    []selector
	requests []selector // empty where everything is settled
	each     *selector  // nil: one
	times    float64
}

type compiledHistogram struct {
	prefix attribution.Measure
	unit   float64 // ns
	of     []selector
}

type compiledGauge struct {
	measure attribution.Measure
	of      []selector
}

// compile checks a rule and reads its selectors. Errors name the format.
func compile(r *Rule) (*compiled, error) {
	c := &compiled{rule: *r, alias: make(map[string]string), families: make(map[string]struct{})}
	err := r.check()
	for _, entry := range r.Detect {
		all := strings.Fields(entry)
		if err == nil && (len(all) == 0 || slices.ContainsFunc(all, func(f string) bool { return !familyName.MatchString(f) })) {
			err = fmt.Errorf("detect %q: %w", entry, errSelector)
		}
		c.detect = append(c.detect, all)
		c.want(all...)
	}
	c.want(r.Started...)
	for _, part := range []func() error{c.compileCounts, c.compileHistograms, c.compileGauges} {
		if err == nil {
			err = part()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("format %.64q: %w", r.Name, err)
	}
	content, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", r.Name, err)
	}
	h := fnv.New64a()
	_, _ = h.Write(content) // never fails
	c.print = h.Sum64()
	return c, nil
}

// want makes families be kept of a page, also under Ray's names.
func (c *compiled) want(families ...string) {
	for _, f := range families {
		c.families[f] = struct{}{}
		if c.rule.Ray {
			alias := "ray_" + strings.ReplaceAll(f, ":", "_")
			c.families[alias] = struct{}{}
			c.alias[alias] = f
		}
	}
}

func (c *compiled) selector(text, suffix string) (selector, error) {
	s, err := parseSelector(text)
	if err != nil {
		return s, fmt.Errorf("%.128q: %w", text, err)
	}
	if suffix != "" {
		c.want(s.family) // as TYPE lines have it
	}
	s.family += suffix
	c.want(s.family)
	return s, nil
}

func (c *compiled) selectors(texts []string, suffix string) ([]selector, error) {
	if len(texts) > maxSeries {
		return nil, fmt.Errorf("there are more than %d series", maxSeries)
	}
	out := make([]selector, 0, len(texts))
	for _, text := range texts {
		s, err := c.selector(text, suffix)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (c *compiled) compileCounts() error {
	for i := range c.rule.Counts {
		count := compiledCount{Count: &c.rule.Counts[i]}
		if err := count.check(); err != nil {
			return fmt.Errorf("count %q: %w", count.Measure, err)
		}
		for j := range count.Of {
			alternative, err := c.alternative(&count.Of[j])
			if err != nil {
				return fmt.Errorf("count %s: %w", count.Measure, err)
			}
			count.of = append(count.of, alternative)
		}
		c.counts = append(c.counts, count)
	}
	return nil
}

func (c *compiled) alternative(a *Alternative) (out compiledAlternative, err error) {
	if out.series, err = c.selector(a.Series, ""); err != nil {
		return out, err
	}
	if out.minus, err = c.selectors(a.Minus, ""); err != nil || a.Unsettled == nil {
		return out, err
	}
	if len(a.Unsettled.Requests) == 0 || len(a.Minus) == 0 {
		return out, fmt.Errorf("unsettled: requests are wanted, and minus")
	}
	if a.Unsettled.Times < 0 || a.Unsettled.Times > 1e6 {
		return out, fmt.Errorf("unsettled: times is not negative, and at most a million")
	}
	out.times = cmp.Or(a.Unsettled.Times, 1)
	if out.requests, err = c.selectors(a.Unsettled.Requests, ""); err != nil || a.Unsettled.Each == "" {
		return out, err
	}
	each, err := c.selector(a.Unsettled.Each, "_bucket")
	out.each = &each
	return out, err
}

func (c *compiled) compileHistograms() error {
	prefixes := map[string]attribution.Measure{
		"latency": attribution.LatencyPrefix, "first-token": attribution.FirstTokenPrefix,
	}
	units := map[string]float64{"s": 1e9, "ms": 1e6, "us": 1e3}
	for _, h := range c.rule.Histograms {
		out := compiledHistogram{prefix: prefixes[h.Measure], unit: units[h.Unit]}
		switch {
		case out.prefix == "":
			return fmt.Errorf("histogram %q: no such one: want latency or first-token", h.Measure)
		case out.unit == 0:
			return fmt.Errorf("histogram %s: unit %q: want s, ms or us", h.Measure, h.Unit)
		}
		err := checkNumber(len(h.Of))
		if err == nil {
			out.of, err = c.selectors(h.Of, "_bucket")
		}
		if err != nil {
			return fmt.Errorf("histogram %s: %w", h.Measure, err)
		}
		c.histograms = append(c.histograms, out)
	}
	return nil
}

func (c *compiled) compileGauges() error {
	for _, g := range c.rule.Gauges {
		out := compiledGauge{measure: attribution.Measure(g.Measure)}
		if out.measure != attribution.Queue && out.measure != attribution.Running && out.measure != attribution.KVCache {
			return fmt.Errorf("gauge %q: no such one: want queue, running or kv-cache", g.Measure)
		}
		err := checkNumber(len(g.Of))
		if err == nil {
			out.of, err = c.selectors(g.Of, "")
		}
		if err != nil {
			return fmt.Errorf("gauge %s: %w", g.Measure, err)
		}
		c.gauges = append(c.gauges, out)
	}
	return nil
}

// own is a family's own name, whoever passed it on.
func (c *compiled) own(family string) string {
	if own, ok := c.alias[family]; ok {
		return own
	}
	return family
}

// detects says whether a page with these families is of the format.
func (c *compiled) detects(there map[string]bool) bool {
	has := func(family string) bool {
		return there[family] || c.rule.Ray && there["ray_"+strings.ReplaceAll(family, ":", "_")]
	}
	return slices.ContainsFunc(c.detect, func(all []string) bool {
		return !slices.ContainsFunc(all, func(f string) bool { return !has(f) })
	})
}
