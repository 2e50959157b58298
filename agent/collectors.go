package agent

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/gpuledger/gpuledger/agent/placement"
	"github.com/gpuledger/gpuledger/internal/certs"
)

// maxCollectors bounds collector.addresses.
const maxCollectors = 256

// targets are the collectors that are configured.
func (c *CollectorConfig) targets() []string {
	if len(c.Addresses) > 0 {
		return c.Addresses
	}
	return []string{c.Address}
}

func (c *CollectorConfig) checkAddresses(bad func(key, format string, args ...any)) {
	if len(c.Addresses) > maxCollectors {
		bad("collector.addresses", "%d: want at most %d", len(c.Addresses), maxCollectors)
		return
	}
	for i, a := range c.Addresses {
		switch {
		case a == "":
			bad("collector.addresses", "entry %d is empty", i+1)
		case slices.Contains(c.Addresses[:i], a):
			bad("collector.addresses", "%s is there twice", a)
		}
	}
}

// Collectors are those that a valid configuration asks for. Nothing is looked up
// or sent yet. The set is that of the certificates, nil for plain text.
func Collectors(c *CollectorConfig, rand func() float64, log *slog.Logger) (*placement.Fleet, *certs.Set, error) {
	d, err := c.dialer(log)
	if err != nil {
		return nil, nil, err
	}
	f, err := placement.New(placement.Options{Addresses: c.targets(), Dial: d.dial, Rand: rand, Logger: log})
	if err != nil {
		return nil, nil, fmt.Errorf("collector: %w", err)
	}
	return f, d.certs, nil
}
