package rating

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
)

// Format writes a valid card in the YAML form. [Parse] reads the same card
// back. Power is written as the per_device_hour that it came to.
func Format(c *Card) []byte {
	var b bytes.Buffer
	if c.Revision != 0 {
		fmt.Fprintf(&b, "revision: %d\n", c.Revision)
	}
	fmt.Fprintf(&b, "currency: %s\npolicy: %s\nprices:\n", c.Currency, c.Policy)
	for i := range c.Prices {
		r := &c.Prices[i]
		fmt.Fprintf(&b, "  - model: %s\n", quote(r.Model))
		if r.CapacityType != "" {
			fmt.Fprintf(&b, "    capacity_type: %s\n", quote(r.CapacityType))
		}
		formatSelector(&b, r.NodeLabels, r.From, r.To)
		fmt.Fprintf(&b, "    per_device_hour: %s\n", r.PerDeviceHour)
	}
	if len(c.Overheads) == 0 {
		return b.Bytes()
	}
	b.WriteString("overheads:\n")
	for i := range c.Overheads {
		o := &c.Overheads[i]
		fmt.Fprintf(&b, "  - name: %s\n", quote(o.Name))
		formatSelector(&b, o.NodeLabels, o.From, o.To)
		if o.PerNodeHour != 0 {
			fmt.Fprintf(&b, "    per_node_hour: %s\n", o.PerNodeHour)
		}
		if o.PerDeviceHour != 0 || o.PerNodeHour == 0 {
			fmt.Fprintf(&b, "    per_device_hour: %s\n", o.PerDeviceHour)
		}
	}
	return b.Bytes()
}

func formatSelector(b *bytes.Buffer, labels attribution.Labels, from, to attribution.Second) {
	if len(labels) > 0 {
		b.WriteString("    node_labels:\n")
		for _, l := range labels {
			fmt.Fprintf(b, "      %s: %s\n", quote(l.Key), quote(l.Value))
		}
	}
	if from != 0 {
		fmt.Fprintf(b, "    from: %s\n", formatTime(from))
	}
	if to != 0 {
		fmt.Fprintf(b, "    to: %s\n", formatTime(to))
	}
}

// quote writes text between double quotes. Valid text is printable ASCII, for
// which Go's escapes and YAML's are the same.
func quote(s string) string { return strconv.Quote(s) }
