package opencost

import (
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/collector/query"
)

// request is a question with all its parameters.
type request struct {
	window     window
	aggregate  []field
	step       int64  // seconds; 0: one set
	period     string // of the calendar, instead of a step
	accumulate bool   // one set, whatever the step
	filter     predicate

	idle       bool // show __idle__
	idleByNode bool // tell it, and share it, by node; else by cluster
	shareIdle  bool
	evenIdle   bool

	shared     predicate // what is shared over the rest
	share      bool
	evenShared bool

	limit, offset int // items of a set
}

// harmless parameters are OpenCost's own that change no number of ours, or say
// what is the case anyway. They may have any value.
var harmless = []string{
	"resolution", "external", "reconcile", "includeSharedCostBreakdown", "includeAggregatedMetadata",
	"includeProportionalAssetResourceCosts", "disableAdjustments", "disableAggregatedStores", "shareTenancyCosts", "format",
}

// maxQuery bounds the query of a URL.
const maxQuery = 32 << 10

func parseRequest(raw string, now time.Time) (*request, error) {
	if len(raw) > maxQuery {
		return nil, query.Invalid("the parameters have %d bytes: at most %d are allowed", len(raw), maxQuery)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, query.Invalid("the parameters can't be read: %v", err)
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	r := &request{}
	if r.window, err = parseWindow(values.Get("window"), now); err != nil {
		return nil, err
	}
	if r.aggregate, err = parseAggregate(values.Get("aggregate")); err != nil {
		return nil, err
	}
	for _, name := range names {
		if len(values[name]) > 1 {
			return nil, query.Invalid("%s is given %d times: give it once", name, len(values[name]))
		}
		if err := r.set(name, values.Get(name)); err != nil {
			return nil, err
		}
	}
	if r.accumulate {
		r.step, r.period = 0, ""
	}
	return r, nil
}

// set takes one parameter. An empty value is as none.
func (r *request) set(name, v string) (err error) {
	if v == "" || name == "window" || name == "aggregate" || slices.Contains(harmless, name) {
		return nil
	}
	switch name {
	case "step":
		return r.setStep(v)
	case "accumulate":
		return r.setAccumulate(v)
	case "includeIdle", "idle":
		var on bool
		on, err = parseBool(name, v)
		r.idle = r.idle || on
	case "idleByNode":
		r.idleByNode, err = parseBool(name, v)
	case "shareIdle":
		switch strings.ToLower(v) {
		case "even", "weighted":
			r.shareIdle, r.evenIdle = true, strings.EqualFold(v, "even")
		default:
			r.shareIdle, err = parseBool(name, v)
		}
	case "shareSplit":
		if v != "even" && v != "weighted" {
			return query.Invalid("shareSplit %.40q: want weighted or even", v)
		}
		r.evenShared = v == "even"
	case "shareNamespaces", "shareLabels":
		return r.setShared(name, v)
	case "filter":
		return r.addFilter(parseFilter(v))
	case "limit":
		r.limit, err = parseCount(name, v)
	case "offset":
		r.offset, err = parseCount(name, v)
	case "shareCost":
		if strings.Trim(v, "0.") != "" {
			return query.Invalid("shareCost: a cost that is not in the ledger can't be shared: make it an overhead of the rate card")
		}
	case "costUnit":
		if v != "cumulative" {
			return query.Invalid("costUnit %.40q: only cumulative costs are given", v)
		}
	default:
		if oldFilters[name] != "" {
			return r.addFilter(parseOldFilter(name, v))
		}
		return unknownParameter(name)
	}
	return err
}

func (r *request) addFilter(p predicate, err error) error {
	if p.comparison != nil || p.any != nil {
		p = predicate{all: []predicate{p}}
	}
	r.filter.all = append(r.filter.all, p.all...)
	return err
}

func (r *request) setStep(v string) error {
	step, ok := parseSpan(v)
	if !ok || step < minute {
		return query.Invalid("step %.40q: want a duration of a minute or more, such as 1h or 1d", v)
	}
	r.step = step
	return nil
}

func (r *request) setAccumulate(v string) error {
	switch v = strings.ToLower(v); v {
	case "hour", "day", "week", "month", "quarter":
		r.period = v
	case "all":
		r.accumulate = true
	case "none":
	default:
		on, err := parseBool("accumulate", v)
		if err != nil {
			return query.Invalid("accumulate %.40q: want true, false, hour, day, week, month or quarter", v)
		}
		r.accumulate = on
	}
	return nil
}

func (r *request) setShared(name, v string) error {
	old := map[string]string{"shareNamespaces": "filterNamespaces", "shareLabels": "filterLabels"}[name]
	p, err := parseOldFilter(old, v)
	if err != nil {
		return query.Invalid("%s: %v", name, err)
	}
	r.share = true
	r.shared.any = append(r.shared.any, p)
	return nil
}

func parseBool(name, v string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		return false, query.Invalid("%s %.40q: want true or false", name, v)
	}
	return b, nil
}

func parseCount(name, v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, query.Invalid("%s %.40q: want a whole number", name, v)
	}
	return int(n), nil
}

func unknownParameter(name string) error {
	if why := map[string]string{"filterAnnotations": "annotation", "filterServices": "service", "filterDepartments": "department", "filterProducts": "product"}[name]; why != "" {
		return query.Invalid("%s: %s", name, absent[why])
	}
	known := []string{
		"window", "aggregate", "step", "accumulate", "includeIdle", "shareIdle", "idleByNode", "shareNamespaces",
		"shareLabels", "shareSplit", "filter", "limit", "offset",
	}
	var old []string
	for f := range oldFilters {
		old = append(old, f)
	}
	sort.Strings(old)
	return query.Invalid("unknown parameter %.80q: want one of %s", name, strings.Join(append(known, old...), ", "))
}
