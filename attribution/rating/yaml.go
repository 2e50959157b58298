package rating

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/internal/plainyaml"
)

// MaxBytes is the largest text that [Parse] reads.
const MaxBytes = 1 << 20

// The YAML form. Amounts and other numbers are read as the digits written,
// quoted or not, and never pass through a float.
//
//	currency: USD                     # ISO 4217
//	policy: sm                        # sm (default), dominant or memory
//	prices:
//	  - model: NVIDIA H100*           # glob over the NVML name: * and ?
//	    capacity_type: on-demand      # optional
//	    node_labels: {zone: eu-1a}    # optional; all must match
//	    from: 2026-01-01T00:00:00Z    # optional; inclusive, RFC 3339, whole seconds
//	    to: 2027-01-01T00:00:00Z      # optional; exclusive
//	    per_device_hour: 2.50
//	overheads:                        # optional
//	  - name: cpu and memory
//	    node_labels: {zone: eu-1a}    # optional, as are from and to
//	    per_node_hour: 0.40           # divided over the node's GPUs
//	    per_device_hour: 0.01         # for each GPU
//	  - name: power
//	    power: {watts: 700, per_kwh: 0.12, pue: 1.3}
//
// power is another way to write per_device_hour:
// ⌊watts/1000 · per_kwh · pue⌋, rounded down to a nano unit once; pue is 1
// where it is not given. A card that was applied also has its revision; when a
// card is applied it is ignored.
type cardFile struct {
	Revision  number         `yaml:"revision,omitempty"`
	Currency  text           `yaml:"currency"`
	Policy    text           `yaml:"policy,omitempty"`
	Prices    []priceFile    `yaml:"prices"`
	Overheads []overheadFile `yaml:"overheads,omitempty"`
}

type priceFile struct {
	Model         text          `yaml:"model"`
	CapacityType  text          `yaml:"capacity_type,omitempty"`
	NodeLabels    map[text]text `yaml:"node_labels,omitempty"`
	From          text          `yaml:"from,omitempty"`
	To            text          `yaml:"to,omitempty"`
	PerDeviceHour number        `yaml:"per_device_hour"`
}

type overheadFile struct {
	Name          text          `yaml:"name"`
	NodeLabels    map[text]text `yaml:"node_labels,omitempty"`
	From          text          `yaml:"from,omitempty"`
	To            text          `yaml:"to,omitempty"`
	PerNodeHour   number        `yaml:"per_node_hour,omitempty"`
	PerDeviceHour number        `yaml:"per_device_hour,omitempty"`
	Power         *powerFile    `yaml:"power,omitempty"`
}

type powerFile struct {
	Watts  number `yaml:"watts"`
	PerKWh number `yaml:"per_kwh"`
	PUE    number `yaml:"pue,omitempty"`
}

// text is a YAML string; number is the digits of a YAML number, or a string of
// them. Both refuse what YAML would convert.
type (
	text   string
	number string
)

// UnmarshalYAML takes strings only.
func (t *text) UnmarshalYAML(n ast.Node) error {
	switch n := n.(type) {
	case *ast.StringNode:
		*t = text(n.Value)
	case *ast.LiteralNode:
		*t = text(n.Value.Value)
	default:
		return wrongType(n, "text")
	}
	return nil
}

// UnmarshalYAML keeps the digits as they are written.
func (x *number) UnmarshalYAML(n ast.Node) error {
	switch n := n.(type) {
	case *ast.StringNode:
		*x = number(n.Value)
	case *ast.IntegerNode, *ast.FloatNode:
		*x = number(n.GetToken().Value)
	default:
		return wrongType(n, "a number")
	}
	return nil
}

// lineError is an error at a line of the text.
type lineError struct {
	line   int
	reason string
}

func (e *lineError) Error() string { return fmt.Sprintf("rate card: line %d: %s", e.line, e.reason) }

func wrongType(n ast.Node, want string) error {
	return &lineError{n.GetToken().Position.Line, fmt.Sprintf("want %s, not %s %s (write text that looks like something else in quotes)",
		want, strings.ToLower(n.Type().String()), clip(n.GetToken().Value))}
}

// Parse reads and validates a card in the YAML form above. Errors name the
// line.
func Parse(source []byte) (*Card, error) {
	if len(source) > MaxBytes {
		return nil, fmt.Errorf("rate card: %d bytes: at most %d are read", len(source), MaxBytes)
	}
	file, err := plainyaml.Parse(source)
	if err != nil {
		return nil, syntaxError(err)
	}
	if file.Docs[0].Body == nil {
		return nil, errors.New("rate card: want one YAML document with currency and prices")
	}
	var f cardFile
	if err := yaml.NodeToValue(file.Docs[0].Body, &f, yaml.Strict()); err != nil {
		return nil, syntaxError(err)
	}
	c, err := f.card()
	if err == nil {
		err = Validate(c)
	}
	if err != nil {
		return nil, withLines(err, file)
	}
	return c, nil
}

func syntaxError(err error) error {
	if at, ok := errors.AsType[*lineError](err); ok {
		return at
	}
	if odd, ok := errors.AsType[*plainyaml.Refused](err); ok {
		return &lineError{odd.Line, odd.Reason}
	}
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		return fmt.Errorf("rate card: %w", err)
	}
	hint := ""
	if strings.Contains(y.GetMessage(), "unknown field") {
		hint = " (known are currency, policy, prices, overheads; model, name, capacity_type, node_labels, from, to, " +
			"per_device_hour, per_node_hour, power; watts, per_kwh, pue)"
	}
	return &lineError{y.GetToken().Position.Line, y.GetMessage() + hint}
}

// withLines adds the lines of the parts that an *Invalid names.
func withLines(err error, file *ast.File) error {
	var e *Invalid
	if !errors.As(err, &e) || e.Path == "" {
		return err
	}
	line := func(path string) string {
		for at := path; at != ""; at = at[:max(strings.LastIndexAny(at, ".["), 0)] { // a missing part: the one it is missing from
			p, err := yaml.PathString("$." + at)
			if err != nil {
				break
			}
			if n, err := p.FilterFile(file); err == nil && n != nil {
				return fmt.Sprintf("line %d: %s", firstLine(n), path)
			}
		}
		return path
	}
	out := *e
	out.Path = line(e.Path)
	if e.Also != "" {
		out.Also = line(e.Also)
	}
	return &out
}

func firstLine(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken().Position.Line
	}
	return n.GetToken().Position.Line
}

func (f *cardFile) card() (*Card, error) {
	c := &Card{Currency: string(f.Currency), Policy: string(f.Policy)}
	if c.Policy == "" {
		c.Policy = attribution.PolicySM.Name
	}
	if f.Revision != "" {
		n, err := strconv.ParseUint(string(f.Revision), 10, 32)
		if err != nil {
			return nil, invalid("revision", "%q is not a whole number", clip(string(f.Revision)))
		}
		c.Revision = uint32(n)
	}
	for i := range f.Prices {
		p, err := f.Prices[i].rule(fmt.Sprintf("prices[%d]", i))
		if err != nil {
			return nil, err
		}
		c.Prices = append(c.Prices, p)
	}
	for i := range f.Overheads {
		o, err := f.Overheads[i].overhead(fmt.Sprintf("overheads[%d]", i))
		if err != nil {
			return nil, err
		}
		c.Overheads = append(c.Overheads, o)
	}
	return c, nil
}

func (f *priceFile) rule(path string) (r PriceRule, err error) {
	r = PriceRule{Model: string(f.Model), CapacityType: string(f.CapacityType), NodeLabels: labelsOf(f.NodeLabels)}
	if f.PerDeviceHour == "" {
		return r, invalid(path+".per_device_hour", "is missing: write 0 if it is free")
	}
	if r.From, r.To, err = validity(path, f.From, f.To); err != nil {
		return r, err
	}
	r.PerDeviceHour, err = amount(path+".per_device_hour", f.PerDeviceHour)
	return r, err
}

func (f *overheadFile) overhead(path string) (o Overhead, err error) {
	o = Overhead{Name: string(f.Name), NodeLabels: labelsOf(f.NodeLabels)}
	if f.PerNodeHour == "" && f.PerDeviceHour == "" && f.Power == nil {
		return o, invalid(path, "adds nothing: give per_node_hour, per_device_hour or power")
	}
	if f.PerDeviceHour != "" && f.Power != nil {
		return o, invalid(path, "power is another way to write per_device_hour: give one of them, or two overheads")
	}
	if o.From, o.To, err = validity(path, f.From, f.To); err != nil {
		return o, err
	}
	if o.PerNodeHour, err = amount(path+".per_node_hour", f.PerNodeHour); err != nil {
		return o, err
	}
	if f.Power != nil {
		o.PerDeviceHour, err = f.Power.perDeviceHour(path + ".power")
		return o, err
	}
	o.PerDeviceHour, err = amount(path+".per_device_hour", f.PerDeviceHour)
	return o, err
}

// perDeviceHour is ⌊watts/1000 · per_kwh · pue⌋ in nano units. Each factor is
// exact to nine decimals, and so is their product before it is rounded.
func (f *powerFile) perDeviceHour(path string) (money.Amount, error) {
	if f.Watts == "" || f.PerKWh == "" {
		return 0, invalid(path, "want watts and per_kwh, such as {watts: 700, per_kwh: 0.12, pue: 1.3}")
	}
	pue := f.PUE
	if pue == "" {
		pue = "1"
	}
	product := big.NewInt(1)
	for _, factor := range []struct {
		name string
		text number
	}{{"watts", f.Watts}, {"per_kwh", f.PerKWh}, {"pue", pue}} {
		a, err := amount(path+"."+factor.name, factor.text)
		if err != nil {
			return 0, err
		}
		if a < 0 || (factor.name == "pue" && a < money.Unit) {
			return 0, invalid(path+"."+factor.name, "%s is impossible: want at least 0, and a pue of at least 1", factor.text)
		}
		product.Mul(product, big.NewInt(int64(a)))
	}
	// Three factors of 10^9 and one of 1000 W/kW, less the 10^9 of the result.
	product.Div(product, new(big.Int).Exp(big.NewInt(10), big.NewInt(9+9+3), nil))
	if !product.IsInt64() || money.Amount(product.Int64()) > MaxAmount {
		return 0, invalid(path, "comes to %s per device-hour: at most %s is allowed", money.Text(product), MaxAmount)
	}
	return money.Amount(product.Int64()), nil
}

func labelsOf(m map[text]text) attribution.Labels {
	plain := make(map[string]string, len(m))
	for k, v := range m {
		plain[string(k)] = string(v)
	}
	return attribution.MakeLabels(plain)
}

func amount(path string, x number) (money.Amount, error) {
	if x == "" {
		return 0, nil
	}
	a, err := money.Parse(string(x))
	if err != nil {
		return 0, invalid(path, "%v", err)
	}
	return a, nil
}

func validity(path string, from, to text) (f, t attribution.Second, err error) {
	if f, err = parseTime(path+".from", from); err != nil {
		return 0, 0, err
	}
	t, err = parseTime(path+".to", to)
	return f, t, err
}

func parseTime(path string, s text) (attribution.Second, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339, string(s))
	if err != nil || t.Nanosecond() != 0 {
		return 0, invalid(path, "%q is not a time: write it like 2026-01-01T00:00:00Z, in whole seconds", clip(string(s)))
	}
	if t.Unix() == 0 {
		return 0, invalid(path, "1970-01-01T00:00:00Z is not a bound: leave it away for unbounded")
	}
	return attribution.Second(t.Unix()), nil
}

func formatTime(s attribution.Second) string {
	return time.Unix(int64(s), 0).UTC().Format(time.RFC3339)
}
