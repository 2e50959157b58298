package format

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/plainyaml"
)

const (
	maxSource   = 256 << 10
	maxFormats  = 128
	maxMeasures = 64  // of a format
	maxSeries   = 16  // of an alternative; and alternatives of a measure
	maxSelector = 512 // bytes
)

// Rule is how the pages of one program are read: a format.
type Rule struct {
	// Name is the format's, such as vllm: small letters, digits and dashes.
	Name string `yaml:"name"`
	// Gateway says that the program passes requests on: it knows customers
	// and backends, and has no devices.
	Gateway bool `yaml:"gateway"`
	// Port and Path are where its page is by default; 0 and "" where there is
	// no customary place.
	Port int    `yaml:"port"`
	Path string `yaml:"path"`
	// Detect names families; with any of them on a page, the page is of this
	// format. An entry may name several, with blanks between: then all of them
	// must be there.
	Detect []string `yaml:"detect"`
	// Ray says that the families may also have the names that Ray gives them
	// when it passes them on: a prefix ray_, and _ for each colon.
	Ray bool `yaml:"ray"`
	// Labels tell a series' subject.
	Labels Labels `yaml:"labels"`
	// Join finds a label that only some series have, by another that all have.
	Join *Join `yaml:"join"`
	// Started names gauges of when the counts began, in Unix seconds; of the
	// first that is there the least value counts.
	Started []string `yaml:"started"`
	// Counts, Histograms and Gauges are what is read.
	Counts     []Count     `yaml:"counts"`
	Histograms []Histogram `yaml:"histograms"`
	Gauges     []Gauge     `yaml:"gauges"`
}

// Labels names the labels that tell a series' subject; of several the first
// counts that a series has, and that is neither "" nor "None". A series that
// names no model is of the page's only model, if there is only one.
type Labels struct {
	Model   []string `yaml:"model"`
	Tenant  []string `yaml:"tenant"`
	Tier    []string `yaml:"tier"`
	Backend []string `yaml:"backend"`
}

// Join says: a series without Label has the one of the page's series that have
// the same value of By, if these agree.
type Join struct {
	Label string `yaml:"label"`
	By    string `yaml:"by"`
}

// Count is a measure that only grows: success, failure/<reason>, or tokens/….
type Count struct {
	// Measure is the measure's name. failure alone takes the reason from the
	// label that Reason names.
	Measure string `yaml:"measure"`
	// Reason names the label of the reason; only its letters, digits, dots and
	// dashes are kept, small, and a page's 16 first reasons.
	Reason string `yaml:"reason"`
	// Rename gives reasons other names.
	Rename map[string]string `yaml:"rename"`
	// Of are the alternatives: the first whose series are on the page counts.
	Of []Alternative `yaml:"of"`
}

// Alternative is one way to count.
type Alternative struct {
	// Series selects what counts; Minus what is taken away from it.
	Series string   `yaml:"series"`
	Minus  []string `yaml:"minus"`
	// Unsettled says what of the difference belongs to requests in flight,
	// which may still end either way.
	Unsettled *Unsettled `yaml:"unsettled"`
}

// Unsettled bounds what requests in flight may have added.
type Unsettled struct {
	// Requests selects gauges of requests in flight, which add up.
	Requests []string `yaml:"requests"`
	// Each names a histogram of what a request adds: at most Times (1 if not
	// said) its highest finite bound. Where there is none, nothing is settled
	// before no request is in flight; and the measure is read only of subjects
	// that Series, Minus and Requests all have. Without Each, a request adds
	// one, and a subject without Requests has none in flight.
	Each  string  `yaml:"each"`
	Times float64 `yaml:"times"`
}

// Histogram is a measure of durations: latency or first-token.
type Histogram struct {
	Measure string `yaml:"measure"`
	// Unit is of the family's bounds: s, ms or us.
	Unit string `yaml:"unit"`
	// Of selects a family by its name without _bucket; the first that is on
	// the page counts.
	Of []string `yaml:"of"`
}

// Gauge is a measure of now: queue, running or kv-cache. Series add up; of
// kv-cache, a share, the mean is taken.
type Gauge struct {
	Measure string   `yaml:"measure"`
	Of      []string `yaml:"of"`
}

// ParseRules reads a rule file: YAML with a list formats. It checks what
// [Set.With] will want, so that an error names the format and the measure.
func ParseRules(source []byte) ([]Rule, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("the rule file has more than %d bytes", maxSource)
	}
	var file struct {
		Formats []Rule `yaml:"formats"`
	}
	if _, err := plainyaml.Decode(source, &file); err != nil {
		return nil, fmt.Errorf("rule file: %w", err)
	}
	for i := range file.Formats {
		if _, err := compile(&file.Formats[i]); err != nil {
			return nil, err
		}
	}
	return file.Formats, nil
}

var formatName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

// check refuses what makes no sense in a rule before its selectors are read.
func (r *Rule) check() error {
	switch {
	case !formatName.MatchString(r.Name):
		return errors.New("a name of small letters, digits and dashes is wanted, at most 64")
	case len(r.Detect) == 0:
		return errors.New("detect: at least one family is wanted, or no page is ever of this format")
	case r.Port < 0 || r.Port > 65535:
		return errors.New("port: 0 to 65535 is wanted")
	case r.Path != "" && !strings.HasPrefix(r.Path, "/"):
		return errors.New("path: it begins with /")
	case len(r.Counts)+len(r.Histograms)+len(r.Gauges) == 0:
		return errors.New("counts, histograms and gauges: at least one measure is wanted")
	case max(len(r.Counts), len(r.Histograms), len(r.Gauges), len(r.Detect), len(r.Started)) > maxMeasures:
		return fmt.Errorf("there are more than %d measures of a kind, or families", maxMeasures)
	case r.Join != nil && (r.Join.Label == "" || r.Join.By == ""):
		return errors.New("join: label and by are both wanted")
	}
	return nil
}

// check refuses what is no count.
func (c *Count) check() error {
	switch m := attribution.Measure(c.Measure); {
	case c.Measure == "failure":
		if c.Reason == "" {
			return errors.New("reason: the label that tells it is wanted, or failure/ with the reason itself")
		}
	case c.Reason != "":
		return errors.New("reason: only the measure failure has one")
	case strings.HasPrefix(c.Measure, string(attribution.FailurePrefix)):
		if reason := c.Measure[len(attribution.FailurePrefix):]; cleanReason(reason) != reason {
			return errors.New("the reason is made of small letters, digits, dots and dashes, at most 32")
		}
	case !slices.Contains(countMeasures, m):
		return fmt.Errorf("no such count: want success, failure, failure/<reason>, %s", tokenNames)
	}
	for from, to := range c.Rename {
		if cleanReason(to) != to {
			return fmt.Errorf("rename %s: a reason is made of small letters, digits, dots and dashes, at most 32", from)
		}
	}
	return checkNumber(len(c.Of))
}

func checkNumber(n int) error {
	if n == 0 || n > maxSeries {
		return fmt.Errorf("of: 1 to %d are wanted", maxSeries)
	}
	return nil
}

var countMeasures = []attribution.Measure{
	attribution.Success, attribution.TokensInput, attribution.TokensCached, attribution.TokensOutput,
	attribution.TokensAborted,
}

const tokenNames = "tokens/input, tokens/cached, tokens/output or tokens/aborted"

// cleanReason makes any text a reason: small letters, digits, dots and dashes.
func cleanReason(s string) string {
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < 32; i++ {
		c := s[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-':
		default:
			c = '-'
		}
		b.WriteByte(c)
	}
	return strings.Trim(b.String(), "-.")
}
