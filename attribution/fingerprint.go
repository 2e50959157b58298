package attribution

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// Fingerprint identifies facts by their content: the first 16 bytes of the
// SHA-256 of their fields. Labels are chosen by users, so nothing weaker will
// do: two pods made to collide would merge their bills.
type Fingerprint [16]byte

// String is the fingerprint in hex.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Fingerprint of an owner's facts.
func (o *Owner) Fingerprint() Fingerprint {
	h := newHasher("owner")
	h.owner(o)
	return h.sum()
}

// Fingerprint of a device's facts.
func (d *Device) Fingerprint() Fingerprint {
	h := newHasher("device")
	h.device(d)
	return h.sum()
}

// Fingerprint of everything on the roster, in its order.
func (r *Roster) Fingerprint() Fingerprint {
	h := newHasher("roster")
	h.int(int64(len(r.Devices)))
	for i := range r.Devices {
		h.device(&r.Devices[i])
	}
	h.int(int64(len(r.Owners)))
	for i := range r.Owners {
		h.owner(&r.Owners[i])
	}
	h.int(int64(len(r.Methods)))
	for _, m := range r.Methods {
		h.str(m)
	}
	h.int(int64(len(r.Subjects)))
	for i := range r.Subjects {
		s := &r.Subjects[i]
		h.int(int64(s.Owner))
		h.str(s.Model)
		h.str(s.Tenant)
		h.str(s.Tier)
	}
	h.int(int64(len(r.Measures)))
	for _, m := range r.Measures {
		h.str(string(m))
	}
	return h.sum()
}

// hasher writes fields so that different facts never write the same bytes:
// strings carry their length, integers are eight bytes.
type hasher struct {
	h   hash.Hash
	buf []byte
}

func newHasher(what string) *hasher {
	h := &hasher{h: sha256.New()}
	h.str(what)
	return h
}

func (h *hasher) int(v int64) {
	h.buf = binary.LittleEndian.AppendUint64(h.buf[:0], uint64(v))
	h.h.Write(h.buf)
}

func (h *hasher) str(s string) {
	h.buf = binary.LittleEndian.AppendUint64(h.buf[:0], uint64(len(s)))
	h.buf = append(h.buf, s...)
	h.h.Write(h.buf)
}

func (h *hasher) labels(ls Labels) {
	h.int(int64(len(ls)))
	for _, l := range ls {
		h.str(l.Key)
		h.str(l.Value)
	}
}

func (h *hasher) owner(o *Owner) {
	h.int(int64(o.Kind))
	for _, s := range []string{o.Cluster, o.Node, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller} {
		h.str(s)
	}
	h.int(int64(o.PID))
	h.str(o.Command)
	h.labels(o.Labels)
}

func (h *hasher) device(d *Device) {
	for _, s := range []string{d.ID, d.Cluster, d.Node, d.Model, d.CapacityType, d.Parent, d.Profile} {
		h.str(s)
	}
	h.int(d.MemoryBytes)
	h.int(int64(d.Share.Compute))
	h.int(int64(d.Share.ComputeOf))
	h.int(int64(d.Share.Memory))
	h.int(int64(d.Share.MemoryOf))
	remainder := int64(0)
	if d.Remainder {
		remainder = 1
	}
	h.int(remainder)
	h.int(int64(d.Sensors))
	h.labels(d.Labels)
}

func (h *hasher) sum() (f Fingerprint) {
	copy(f[:], h.h.Sum(nil))
	return f
}
