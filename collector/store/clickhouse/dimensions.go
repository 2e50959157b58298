package clickhouse

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// knownAtMost bounds what is remembered of dimensions. What is forgotten is
// written or read once more.
const knownAtMost = 500_000

// known is which dimensions this session has written.
type known struct {
	mu   sync.Mutex
	rows map[any]bool
}

// fresh is those of keys that were not written yet. They count as written when
// they are noted.
func (k *known) fresh(key any) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.rows[key]
}

func (k *known) note(keys []any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rows == nil || len(k.rows) > knownAtMost {
		k.rows = make(map[any]bool)
	}
	for _, x := range keys {
		k.rows[x] = true
	}
}

// tally reports whether a tally series is new, and notes it: a write that fails
// ends the session and all that is known with it.
func (k *known) tally(x rollup.TallySeries) bool {
	if !k.fresh(x) {
		return false
	}
	k.note([]any{x})
	return true
}

type (
	ownerKey  rollup.Fingerprint
	deviceKey rollup.Fingerprint
	rosterKey rollup.Fingerprint
)

// dimensions writes the facts that the servers may not have.
func (w *writing) dimensions(ctx context.Context, owners map[rollup.Fingerprint]*attribution.Owner, devices map[rollup.Fingerprint]*attribution.Device,
	rosters []store.Roster,
) error {
	k := &w.store.known
	var keys []any
	var eo, ed, er encoder
	for f, o := range owners {
		if !k.fresh(ownerKey(f)) {
			continue
		}
		if err := admit.Owner(o); err != nil {
			return err
		}
		keys = append(keys, ownerKey(f))
		eo.fixed(f)
		eo.u8(uint8(o.Kind))
		eo.str(o.Cluster, o.Node, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller)
		eo.u32(o.PID)
		eo.str(o.Command)
		eo.labels(o.Labels)
	}
	for f, x := range devices {
		if !k.fresh(deviceKey(f)) {
			continue
		}
		if err := admit.Device(x); err != nil {
			return err
		}
		keys = append(keys, deviceKey(f))
		ed.device(f, x)
	}
	for i := range rosters {
		if r := &rosters[i]; k.fresh(rosterKey(r.ID)) {
			keys = append(keys, rosterKey(r.ID))
			er.fixed(r.ID)
			er.bytes(r.Body)
		}
	}
	err := all([]func() error{
		func() error { return w.insert(ctx, "owner", ownerNames, eo) },
		func() error { return w.insert(ctx, "device", deviceNames, ed) },
		func() error { return w.insert(ctx, "roster", `fingerprint, body`, er) },
	})
	if err == nil {
		k.note(keys)
	}
	return err
}

func (e *encoder) device(f rollup.Fingerprint, x *attribution.Device) {
	e.fixed(f)
	e.str(x.ID, x.Cluster, x.Node, x.Model, x.CapacityType)
	e.i64(x.MemoryBytes)
	e.str(x.Parent, x.Profile)
	e.i64(int64(x.Share.Compute), int64(x.Share.ComputeOf), int64(x.Share.Memory), int64(x.Share.MemoryOf))
	remainder := uint8(0)
	if x.Remainder {
		remainder = 1
	}
	e.u8(remainder)
	e.u8(uint8(x.Sensors))
	e.labels(x.Labels)
}

func (e *encoder) labels(ls attribution.Labels) {
	*e = append(*e, uvarint(len(ls))...)
	for _, l := range ls {
		e.str(l.Key)
	}
	*e = append(*e, uvarint(len(ls))...)
	for _, l := range ls {
		e.str(l.Value)
	}
}

func (d *decoder) labels() (attribution.Labels, error) {
	keys, values := d.strs(), d.strs()
	if d.err != nil || len(keys) == 0 {
		return nil, d.err
	}
	if len(keys) != len(values) {
		return nil, fmt.Errorf("%w: labels have %d keys and %d values", store.ErrCorrupt, len(keys), len(values))
	}
	out := make(attribution.Labels, len(keys))
	for i := range keys {
		out[i] = attribution.Label{Key: keys[i], Value: values[i]}
	}
	return out, nil
}

// facts are owners and devices that were read lately.
type facts struct {
	owners  map[rollup.Fingerprint]*attribution.Owner
	devices map[rollup.Fingerprint]*attribution.Device
}

// factsAtOnce bounds how many owners or devices one statement asks for.
const factsAtOnce = 8192

// owners finds the facts of owners; those that nobody knows are not in the
// answer.
func (s *Store) owners(ctx context.Context, ids map[rollup.Fingerprint]*attribution.Owner) error {
	var ask []rollup.Fingerprint
	s.mu.Lock()
	if s.facts.owners == nil || len(s.facts.owners) > knownAtMost {
		s.facts.owners = make(map[rollup.Fingerprint]*attribution.Owner)
	}
	for f := range ids {
		if o := s.facts.owners[f]; o != nil {
			ids[f] = o
		} else {
			ask = append(ask, f)
		}
	}
	s.mu.Unlock()
	for part := range slices.Chunk(ask, factsAtOnce) {
		err := s.client.query(ctx, `SELECT `+ownerNames+` FROM owner WHERE fingerprint IN (`+list(part, hexed16)+`)`, func(d *decoder) error {
			f := rollup.Fingerprint(d.fixed())
			o := &attribution.Owner{Kind: attribution.OwnerKind(d.u8())}
			for _, t := range []*string{&o.Cluster, &o.Node, &o.Namespace, &o.Pod, &o.PodUID, &o.Container, &o.ControllerKind, &o.Controller} {
				*t = d.str()
			}
			o.PID, o.Command = d.u32(), d.str()
			var err error
			o.Labels, err = d.labels()
			ids[f] = o
			return err
		})
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range ask {
		if ids[f] != nil {
			s.facts.owners[f] = ids[f]
		} else {
			delete(ids, f)
		}
	}
	return nil
}

func hexed16(f rollup.Fingerprint) string { return hexed(f) }

// devices is owners for devices.
func (s *Store) devices(ctx context.Context, ids map[rollup.Fingerprint]*attribution.Device) error {
	var ask []rollup.Fingerprint
	s.mu.Lock()
	if s.facts.devices == nil || len(s.facts.devices) > knownAtMost {
		s.facts.devices = make(map[rollup.Fingerprint]*attribution.Device)
	}
	for f := range ids {
		if x := s.facts.devices[f]; x != nil {
			ids[f] = x
		} else {
			ask = append(ask, f)
		}
	}
	s.mu.Unlock()
	for part := range slices.Chunk(ask, factsAtOnce) {
		err := s.client.query(ctx, `SELECT `+deviceNames+` FROM device WHERE fingerprint IN (`+list(part, hexed16)+`)`, func(d *decoder) error {
			f := rollup.Fingerprint(d.fixed())
			x := &attribution.Device{ID: d.str(), Cluster: d.str(), Node: d.str(), Model: d.str(), CapacityType: d.str(), MemoryBytes: d.i64(), Parent: d.str(), Profile: d.str()}
			x.Share.Compute, x.Share.ComputeOf = share(d), share(d)
			x.Share.Memory, x.Share.MemoryOf = share(d), share(d)
			x.Remainder, x.Sensors = d.u8() != 0, attribution.Sensors(d.u8())
			var err error
			x.Labels, err = d.labels()
			ids[f] = x
			return err
		})
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range ask {
		if ids[f] != nil {
			s.facts.devices[f] = ids[f]
		} else {
			delete(ids, f)
		}
	}
	return nil
}

func share(d *decoder) int32 { return int32(d.i64()) }

func uvarint(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }
