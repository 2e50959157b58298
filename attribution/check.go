package attribution

import (
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution/money"
)

// ErrBroken is wrapped by every [Broken].
var ErrBroken = errors.New("the facts break a law")

// Bounds of what one window can hold. They are far beyond what any machine
// does, and keep the sums of a day within 64 bits.
const (
	// MaxPerSecond bounds a slice's memory (byte-seconds), a window's energy
	// (µJ) and a tally's value: 64 TiB·s, 70 MJ, 70 million events.
	MaxPerSecond int64 = 1 << 46
	// MaxPerHour bounds the price of a device-hour: a hundred million units.
	MaxPerHour = 100_000_000 * money.Unit
	// MaxSecond bounds the time of a window either side of 1970, so that its
	// nanoseconds fit 64 bits: the year 2255.
	MaxSecond Second = 9_000_000_000
)

// Broken says which law a chunk breaks, where, and how.
type Broken struct {
	Law    int
	Where  string
	Reason string
}

// Error names the law first.
func (b *Broken) Error() string { return fmt.Sprintf("law %d: %s: %s", b.Law, b.Where, b.Reason) }

// Unwrap makes errors.Is(err, ErrBroken) true.
func (b *Broken) Unwrap() error { return ErrBroken }

// Check recomputes everything about a chunk that the laws determine: that each
// window's device times sum to a second and its costs to the price of that
// second (1), that each (owner, basis) has one slice and each device one window
// a second (2), that order and roster are canonical, so that equal facts are
// equal chunks (4), and that cost and energy follow from the rest (6). It
// returns a *Broken, or nil.
func (c *Chunk) Check() error { return c.check(false, c.checkRated) }

// Derive checks a chunk as Check does, save that it fills in the costs and
// energies of the slices instead of judging them. After it, Check passes.
func (c *Chunk) Derive() error { return c.check(false, rateWindow) }

// DeriveOnCheckedRoster is Derive for a chunk whose roster has passed with
// another chunk of the same cluster and node: it is not judged again.
func (c *Chunk) DeriveOnCheckedRoster() error { return c.check(true, rateWindow) }

func rateWindow(w *DeviceWindow) error {
	Rate(w)
	return nil
}

func (c *Chunk) check(rosterChecked bool, rated func(*DeviceWindow) error) error {
	k := c.Key
	if k.Sequence < -MaxSecond || k.Sequence > MaxSecond || c.Roster == nil {
		return c.broken(4, "", "has no roster, or is from an impossible time")
	}
	if c.Seconds < 1 || c.Seconds > ChunkSeconds || (k.Sequence+Second(c.Seconds)-1).ChunkStart() != k.Sequence.ChunkStart() {
		return c.broken(4, "", "covers %d seconds from %d: want 1 to 10 within one wall-clock ten", c.Seconds, k.Sequence)
	}
	if !rosterChecked {
		if err := c.checkRoster(); err != nil {
			return err
		}
	}
	var seen uint16 // seconds of the device ID so far; facts of one ID may change between windows
	for i := range c.Windows {
		w := &c.Windows[i]
		if i > 0 {
			p := &c.Windows[i-1]
			if w.Device < p.Device || (w.Device == p.Device && w.Second <= p.Second) {
				return c.broken(2, w.where(), "the device's second is there twice, or out of order")
			}
		}
		if err := c.checkWindow(w); err != nil {
			return err
		}
		if err := rated(w); err != nil {
			return err
		}
		if i > 0 && c.Roster.Devices[w.Device].ID != c.Roster.Devices[c.Windows[i-1].Device].ID {
			seen = 0
		}
		bit := uint16(1) << (w.Second - k.Sequence)
		if seen&bit != 0 {
			return c.broken(2, w.where(), "the device's second is there twice, under other facts")
		}
		seen |= bit
	}
	return c.checkTallies()
}

func (w *DeviceWindow) where() string { return fmt.Sprintf(" device %d second %d", w.Device, w.Second) }

func (c *Chunk) broken(law int, where, format string, args ...any) error {
	return &Broken{law, fmt.Sprintf("node %q chunk %d%s", c.Key.Node, c.Key.Sequence, where), fmt.Sprintf(format, args...)}
}

func (c *Chunk) checkWindow(w *DeviceWindow) error {
	switch {
	case int(w.Device) >= len(c.Roster.Devices) || int(w.Method) >= len(c.Roster.Methods):
		return c.broken(4, w.where(), "its device or method is not on the roster")
	case w.Second < c.Key.Sequence || w.Second >= c.End():
		return c.broken(4, w.where(), "lies outside the chunk")
	case w.Energy < 0 || w.Energy > MaxPerSecond || w.Price.PerHour < 0 || w.Price.PerHour > MaxPerHour || (!w.Price.Known() && w.Price.PerHour != 0):
		return c.broken(1, w.where(), "energy %d µJ or price %v is impossible", w.Energy, w.Price)
	case len(w.Slices) == 0:
		return c.broken(1, w.where(), "has no slices")
	}
	var time int64
	for i := range w.Slices {
		s := &w.Slices[i]
		switch {
		case int(s.Owner) >= len(c.Roster.Owners):
			return c.broken(4, w.where(), "owner %d is not on the roster", s.Owner)
		case !s.Basis.Valid():
			return c.broken(2, w.where(), "slice %d has no basis", i)
		case i > 0 && !lessSlice(&w.Slices[i-1], s):
			return c.broken(2, w.where(), "an owner has a basis twice, or slices are out of order")
		case !suits(s.Basis, c.Roster.Owners[s.Owner].Kind):
			return c.broken(2, w.where(), "slice %d: %s time of %s", i, s.Basis, c.Roster.Owners[s.Owner].Kind)
		case s.Time < 0 || s.Time > WindowNanos || s.SMActive < 0 || s.SMActive > WindowNanos || s.Memory < 0 || s.Memory > MaxPerSecond:
			return c.broken(1, w.where(), "slice %d: time %d ns, SM-active %d ns, memory %d", i, s.Time, s.SMActive, s.Memory)
		}
		time += s.Time
	}
	if time != WindowNanos {
		return c.broken(1, w.where(), "device times sum to %d ns", time)
	}
	return nil
}

// suits reports whether an owner of a kind can have time on a basis: somebody
// uses and reserves, nobody is unallocated, and what is unattributed maps to
// no owner. A gateway owns no time at all.
func suits(b Basis, k OwnerKind) bool {
	if k == Gateway {
		return false
	}
	switch b {
	case Used, Reserved:
		return k != Nobody
	case Unallocated:
		return k == Nobody
	case Unattributed:
		return k == Nobody || k == UnknownProcess
	default:
		return true
	}
}

// checkRated compares costs and energies to those that follow from the rest.
func (c *Chunk) checkRated(w *DeviceWindow) error {
	var scratch [16]Slice
	was := append(scratch[:0], w.Slices...)
	judged := *w
	judged.Slices = was
	Rate(&judged)
	var cost, wantCost money.Amount
	var energy int64
	wrong := -1
	for i := range was {
		got, want := &w.Slices[i], &was[i]
		cost, energy, wantCost = cost+got.Cost, energy+got.Energy, wantCost+want.Cost
		if wrong < 0 && (got.Cost != want.Cost || got.Energy != want.Energy) {
			wrong = i
		}
	}
	switch {
	case wrong < 0:
		return nil
	case cost != wantCost || energy != w.Energy:
		return c.broken(1, w.where(), "costs sum to %d of %d nano, energies to %d of %d µJ", cost, wantCost, energy, w.Energy)
	}
	got, want := &w.Slices[wrong], &was[wrong]
	return c.broken(6, w.where(), "slice %d costs %d nano and %d µJ; its time makes it %d and %d",
		wrong, got.Cost, got.Energy, want.Cost, want.Energy)
}

func (c *Chunk) checkTallies() error {
	for i, t := range c.Tallies {
		var reason string
		switch {
		case int(t.Subject) >= len(c.Roster.Subjects) || int(t.Measure) >= len(c.Roster.Measures):
			reason = "its subject or measure is not on the roster"
		case t.Second < c.Key.Sequence || t.Second >= c.End():
			reason = "lies outside the chunk"
		case t.Value < 0 || t.Value > MaxPerSecond:
			reason = fmt.Sprintf("counts %d", t.Value)
		case i > 0 && CompareTallies(c.Tallies[i-1], t) >= 0:
			reason = "is there twice, or out of order"
		default:
			continue
		}
		return c.broken(4, fmt.Sprintf(" tally %d", i), "%s", reason)
	}
	return nil
}

// checkRoster finds a roster that is not canonical. Completeness (that nothing
// superfluous is on it) is BuildChunk's promise and costs only space if broken.
func (c *Chunk) checkRoster() error {
	r := c.Roster
	bad := func(what string, i int) error {
		return c.broken(4, "", "roster: %s %d is malformed, foreign, repeated or out of order", what, i)
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		if d.ID == "" || d.Node != c.Key.Node || d.Cluster != c.Key.Cluster || d.MemoryBytes < 0 || !sorted(d.Labels) ||
			(i > 0 && CompareDevices(&r.Devices[i-1], d) >= 0) {
			return bad("device", i)
		}
	}
	for i := range r.Owners {
		o := &r.Owners[i]
		if !o.Kind.Valid() || !sorted(o.Labels) || (o.Kind != Nobody && (o.Node != c.Key.Node || o.Cluster != c.Key.Cluster)) ||
			(i > 0 && CompareOwners(&r.Owners[i-1], o) >= 0) {
			return bad("owner", i)
		}
	}
	for i := range r.Methods {
		if r.Methods[i] == "" || (i > 0 && r.Methods[i-1] >= r.Methods[i]) {
			return bad("method", i)
		}
	}
	for i := range r.Subjects {
		s := &r.Subjects[i]
		if int(s.Owner) >= len(r.Owners) || (i > 0 && CompareSubjects(&r.Subjects[i-1], s) >= 0) {
			return bad("subject", i)
		}
	}
	for i := range r.Measures {
		if r.Measures[i] == "" || (i > 0 && r.Measures[i-1] >= r.Measures[i]) {
			return bad("measure", i)
		}
	}
	return nil
}

func sorted(ls Labels) bool {
	for i := range ls {
		if ls[i].Key == "" || (i > 0 && ls[i-1].Key >= ls[i].Key) {
			return false
		}
	}
	return true
}
