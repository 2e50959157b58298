package chunker

import "github.com/gpuledger/gpuledger/attribution"

// priceCache keeps the prices of the last second: they hold as long as the
// devices, the pricer and the validity of its rules do.
type priceCache struct {
	pricer      *Pricer
	from, until attribution.Second
	numbers     []uint32 // of the devices, as the meter has them
	prices      []attribution.Price
	devices     []attribution.Device
	told        map[string]bool // devices without a price, by id
}

// price sets the prices of one second's windows. windows are the ones to set,
// sealed the same with the meter's own numbers.
func (c *Chunker) price(s attribution.Second, windows, sealed []attribution.DeviceWindow, facts attribution.Facts) {
	p := &c.prices
	pricer := c.pricer.Load()
	if pricer != p.pricer || p.told == nil {
		p.pricer, p.numbers, p.until, p.told = pricer, p.numbers[:0], s, map[string]bool{}
	}
	if s < p.from || s >= p.until || !p.sameDevices(sealed) {
		p.ask(s, sealed, facts)
	}
	for i := range windows {
		windows[i].Price = p.prices[i]
		if p.prices[i].Known() {
			continue
		}
		c.stats.unpriced.Add(1)
		d := &p.devices[i]
		if c.o.Unpriced != nil && !p.told[d.ID] && len(p.told) < maxTold {
			p.told[d.ID] = true
			c.o.Unpriced(d, s)
		}
	}
}

// maxTold bounds how many unpriced devices are told of; MIG instances come and
// go for ever. All are counted.
const maxTold = 4096

func (p *priceCache) sameDevices(windows []attribution.DeviceWindow) bool {
	if len(windows) != len(p.numbers) {
		return false
	}
	for i := range windows {
		if windows[i].Device != p.numbers[i] {
			return false
		}
	}
	return true
}

func (p *priceCache) ask(s attribution.Second, windows []attribution.DeviceWindow, facts attribution.Facts) {
	p.numbers, p.devices, p.prices = p.numbers[:0], p.devices[:0], p.prices[:0]
	for i := range windows {
		p.numbers = append(p.numbers, windows[i].Device)
		p.devices = append(p.devices, *facts.Device(windows[i].Device))
		p.prices = append(p.prices, attribution.Price{})
	}
	// Without a pricer the answer holds until there is one.
	p.from, p.until = s, attribution.Second(1<<62)
	if p.pricer != nil {
		(*p.pricer).Prices(p.devices, s, p.prices)
		p.until = (*p.pricer).NextChange(s)
	}
}
