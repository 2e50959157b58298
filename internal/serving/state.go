package serving

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
)

// The state is: magic, since, targets; of each its name, facts, series and
// steps; and a CRC-32C of all before it. Series' keys take 8 bytes, everything
// else is a varint.
const stateMagic = "gls2"

// ErrState says that a tracker's state is damaged, or of another version.
var ErrState = errors.New("the state of the inference counters is damaged or of another version: counting starts at the next reading")

// State is all that the tracker remembers, with the history that
// [RestoreTracker] needs. Write it before the differences of an Observe go
// anywhere that lasts: a state older than the ledger would count them twice.
func (t *Tracker) State() []byte {
	b := []byte(stateMagic)
	b = binary.AppendVarint(b, t.since)
	b = binary.AppendUvarint(b, uint64(len(t.targets)))
	for _, name := range t.Targets() {
		tg := t.targets[name]
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
		b = tg.append(b)
		b = binary.AppendUvarint(b, uint64(len(tg.series)))
		for _, k := range slices.Sorted(maps.Keys(tg.series)) {
			b = binary.AppendVarint(binary.BigEndian.AppendUint64(b, k), tg.series[k])
		}
		b = binary.AppendUvarint(b, uint64(len(tg.steps)))
		for _, s := range tg.steps {
			b = s.append(b)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func (f facts) append(b []byte) []byte {
	b = binary.AppendVarint(b, f.at)
	b = binary.AppendVarint(b, f.page)
	b = binary.AppendVarint(b, f.outside)
	b = binary.BigEndian.AppendUint64(b, f.rules)
	return appendBool(appendBool(b, f.open), f.told)
}

func (s step) append(b []byte) []byte {
	b = s.before.append(b)
	b = binary.AppendVarint(b, s.at)
	b = appendBool(appendBool(b, s.first), s.past)
	b = binary.AppendUvarint(b, uint64(len(s.changes)))
	for _, c := range s.changes {
		b = binary.BigEndian.AppendUint64(b, c.series)
		b = binary.AppendVarint(appendBool(b, c.known), c.value)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// RestoreTracker makes the tracker of a state as it was at through, the Unix
// time (ns) until which the differences it gave have lasted: what was observed
// later is undone, and is counted again. It fails with [ErrState] where the
// state is damaged; then a new tracker starts with baselines.
func RestoreTracker(state []byte, through int64, l Limits) (*Tracker, error) {
	if len(state) < len(stateMagic)+4 || string(state[:len(stateMagic)]) != stateMagic {
		return nil, ErrState
	}
	body, sum := state[:len(state)-4], binary.BigEndian.Uint32(state[len(state)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, ErrState
	}
	d := decoder{rest: body[len(stateMagic):]}
	t := NewTracker(d.varint(), l)
	for range d.count(1) {
		name := string(d.bytes(d.count(1)))
		tg := d.target()
		if d.failed || len(name) > maxName {
			return nil, ErrState
		}
		if tg.rewind(through) && len(t.targets) < l.Targets {
			t.targets[name] = tg
		}
	}
	if d.failed || len(d.rest) > 0 {
		return nil, ErrState
	}
	return t, nil
}

// decoder reads what was appended. After a failure it reads zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) target() *target {
	tg := &target{facts: d.facts()}
	n := d.count(9)
	tg.series = make(map[uint64]int64, n)
	for range n {
		k := d.fixed()
		tg.series[k] = d.varint()
	}
	for range d.count(16) {
		s := step{before: d.facts(), at: d.varint(), first: d.bool(), past: d.bool()}
		for range d.count(10) {
			s.changes = append(s.changes, change{d.fixed(), d.bool(), d.varint()})
		}
		tg.steps = append(tg.steps, s)
		tg.undo += len(s.changes)
	}
	return tg
}

func (d *decoder) facts() facts {
	return facts{at: d.varint(), page: d.varint(), outside: d.varint(), rules: d.fixed(), open: d.bool(), told: d.bool()}
}

func (d *decoder) fail() {
	d.failed = true
	d.rest = nil
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count is a number of items that take so many bytes each, at least.
func (d *decoder) count(size uint64) int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest)-n)/size {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.rest) {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) fixed() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) bool() bool {
	b := d.bytes(1)
	return b != nil && b[0] != 0
}
