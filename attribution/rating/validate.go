package rating

import (
	"fmt"
	"regexp"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Bounds of a card. They keep every sum of amounts within 64 bits.
const (
	MaxPrices    = 2048
	MaxOverheads = 256
	MaxLabels    = 32
	MaxText      = 256 // bytes of a model, name, label, …

	// MaxAmount is the largest amount per hour: ten million units.
	MaxAmount = 10_000_000 * money.Unit
	// MaxTime is the last second of validity, in the year 2255.
	MaxTime attribution.Second = 9_000_000_000

	// maxOverhead bounds all overheads together, so that no device costs more
	// than a chunk can say.
	maxOverhead = attribution.MaxPerHour - MaxAmount
)

// Invalid says which part of a card is wrong, and how.
type Invalid struct {
	Path   string // such as "prices[2].model"; "" for the card as a whole
	Also   string // the other part, where two contradict each other
	Reason string // with a hint
}

// Error names the part first.
func (e *Invalid) Error() string {
	where := e.Path
	switch {
	case e.Also != "":
		where += " and " + e.Also + ": "
	case where != "":
		where += ": "
	}
	return "rate card: " + where + e.Reason
}

var currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)

// Validate finds the first thing wrong with a card. It returns an *Invalid, or
// nil. Any revision will do, 0 included.
func Validate(c *Card) error {
	switch {
	case !currencyPattern.MatchString(c.Currency):
		return invalid("currency", "%q is not an ISO 4217 code: want three capital letters, such as USD", clip(c.Currency))
	case len(c.Prices) == 0:
		return invalid("prices", "there are none: give at least one, such as {model: \"*\", per_device_hour: 2.50}")
	case len(c.Prices) > MaxPrices:
		return invalid("prices", "there are %d: at most %d are allowed", len(c.Prices), MaxPrices)
	case len(c.Overheads) > MaxOverheads:
		return invalid("overheads", "there are %d: at most %d are allowed", len(c.Overheads), MaxOverheads)
	}
	if _, err := attribution.PolicyByName(c.Policy); err != nil || c.Policy == "" {
		return invalid("policy", "%q is none: want sm, dominant or memory", clip(c.Policy))
	}
	for i := range c.Prices {
		if err := validatePrice(&c.Prices[i], fmt.Sprintf("prices[%d]", i)); err != nil {
			return err
		}
	}
	var all money.Amount
	for i := range c.Overheads {
		o, path := &c.Overheads[i], fmt.Sprintf("overheads[%d]", i)
		if err := validateOverhead(o, path); err != nil {
			return err
		}
		if all += o.PerNodeHour + o.PerDeviceHour; all > maxOverhead {
			return invalid(path, "brings all overheads to %s an hour: at most %s are allowed", all, maxOverhead)
		}
	}
	return validateOverlaps(c)
}

func validatePrice(r *PriceRule, path string) error {
	if r.Model == "" {
		return invalid(path+".model", "is missing: name the devices' model, such as \"NVIDIA H100*\", or \"*\" for all")
	}
	if err := validateText(path+".model", r.Model); err != nil {
		return err
	}
	if err := validateText(path+".capacity_type", r.CapacityType); err != nil {
		return err
	}
	if err := validateSelector(path, r.NodeLabels, r.From, r.To); err != nil {
		return err
	}
	return validateAmount(path+".per_device_hour", r.PerDeviceHour)
}

func validateOverhead(o *Overhead, path string) error {
	if o.Name == "" {
		return invalid(path+".name", "is missing: say what it pays for, such as \"cpu and memory\"")
	}
	if err := validateText(path+".name", o.Name); err != nil {
		return err
	}
	if err := validateSelector(path, o.NodeLabels, o.From, o.To); err != nil {
		return err
	}
	if err := validateAmount(path+".per_node_hour", o.PerNodeHour); err != nil {
		return err
	}
	return validateAmount(path+".per_device_hour", o.PerDeviceHour)
}

func validateSelector(path string, labels attribution.Labels, from, to attribution.Second) error {
	if len(labels) > MaxLabels {
		return invalid(path+".node_labels", "there are %d: at most %d are allowed", len(labels), MaxLabels)
	}
	for i, l := range labels {
		if l.Key == "" || (i > 0 && labels[i-1].Key >= l.Key) {
			return invalid(path+".node_labels", "key %q is empty, repeated or out of order", clip(l.Key))
		}
		if err := validateText(path+".node_labels", l.Key); err != nil {
			return err
		}
		if err := validateText(path+".node_labels", l.Value); err != nil {
			return err
		}
	}
	switch {
	case from < 0 || from > MaxTime:
		return invalid(path+".from", "%d is out of range: want a time from 1970 to 2255", from)
	case to < 0 || to > MaxTime:
		return invalid(path+".to", "%d is out of range: want a time from 1970 to 2255", to)
	case to != 0 && from >= to:
		return invalid(path+".to", "it ends at %s, not after its start: want from < to", formatTime(to))
	}
	return nil
}

func validateAmount(path string, a money.Amount) error {
	if a < 0 || a > MaxAmount {
		return invalid(path, "%s is out of range: want 0 to %s", a, MaxAmount)
	}
	return nil
}

// validateText wants printable ASCII, as in NVML names and Kubernetes labels,
// so that a ? in a glob is one byte.
func validateText(path, s string) error {
	if len(s) > MaxText {
		return invalid(path, "%q has %d bytes: at most %d are allowed", clip(s), len(s), MaxText)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return invalid(path, "%q has a character that is not printable ASCII", clip(s))
		}
	}
	return nil
}

func validateOverlaps(c *Card) error {
	for i := range c.Prices {
		for j := range i {
			a, b := &c.Prices[j], &c.Prices[i]
			if compareSpecificity(a, b) == 0 && overlap(a, b) {
				return &Invalid{
					Path: fmt.Sprintf("prices[%d]", j), Also: fmt.Sprintf("prices[%d]", i),
					Reason: "both match some device equally well: make one more specific, or let one end where the other begins",
				}
			}
		}
	}
	for i := range c.Overheads {
		for j := range i {
			a, b := &c.Overheads[j], &c.Overheads[i]
			if a.Name == b.Name && timesMeet(a.From, a.To, b.From, b.To) && labelsMeet(a.NodeLabels, b.NodeLabels) {
				return &Invalid{
					Path: fmt.Sprintf("overheads[%d]", j), Also: fmt.Sprintf("overheads[%d]", i),
					Reason: fmt.Sprintf("%q would be added twice: let one end where the other begins, or name them apart", a.Name),
				}
			}
		}
	}
	return nil
}

func invalid(path, format string, args ...any) error {
	return &Invalid{Path: path, Reason: fmt.Sprintf(format, args...)}
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
