package wire

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuledger/gpuledger/attribution"
)

// UnpackRoster reads what [PackRoster] made of the encoding of what [EncodeRoster]
// returned, and of nothing else: it has been checked, so that only what could make it
// unreadable is. Who keeps rosters packed reads them often; this takes less than half
// of [DecodeRoster]'s time, and a tenth of its allocations: an owner's texts are part
// of one text that all owners share.
func UnpackRoster(packed []byte) (*attribution.Roster, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.decompress("roster.zstd", packed); err != nil {
		return nil, err
	}
	p := unpacking{fields: fields{text: string(w.plain)}, once: make(texts)}
	if err := p.count(); err != nil {
		return nil, err
	}
	r := &attribution.Roster{
		Devices: make([]attribution.Device, 0, p.devices), Owners: make([]attribution.Owner, 0, p.owners),
		Methods: make([]string, 0, p.methods), Subjects: make([]attribution.Subject, 0, p.subjects),
		Measures: make([]attribution.Measure, 0, p.measures),
	}
	p.labels = make(attribution.Labels, 0, p.labelled)
	err := p.each(0, len(p.text), func(f field) error {
		switch f.number {
		case 1:
			r.Devices = append(r.Devices, attribution.Device{})
			return p.device(f, &r.Devices[len(r.Devices)-1])
		case 2:
			r.Owners = append(r.Owners, attribution.Owner{})
			return p.owner(f, &r.Owners[len(r.Owners)-1])
		case 3:
			r.Methods = append(r.Methods, p.own(f))
		case 4:
			r.Subjects = append(r.Subjects, attribution.Subject{})
			return p.subject(f, &r.Subjects[len(r.Subjects)-1])
		case 5:
			r.Measures = append(r.Measures, attribution.Measure(p.own(f)))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(r.Methods) == 0 {
		r.Methods = nil // as DecodeRoster has it
	}
	return r, nil
}

// unpacking is the reading of one roster.
type unpacking struct {
	fields
	devices, owners, methods, subjects, measures, labelled int

	labels attribution.Labels // of all, each has a part
	once   texts
}

// count counts what there is, so that memory is taken once.
func (p *unpacking) count() error {
	return p.each(0, len(p.text), func(f field) error {
		labels := 0
		switch f.number {
		case 1:
			p.devices++
			labels = 7
		case 2:
			p.owners++
			labels = 12
		case 3:
			p.methods++
		case 4:
			p.subjects++
		case 5:
			p.measures++
		}
		if labels == 0 {
			return nil
		}
		return p.each(f.from, f.to, func(f field) error {
			if f.number == labels {
				p.labelled++
			}
			return nil
		})
	})
}

// own is a text of its own: what has it may outlive the others by far.
func (p *unpacking) own(f field) string {
	s := p.text[f.from:f.to]
	if x, ok := p.once[s]; ok || s == "" {
		return x
	}
	s = strings.Clone(s)
	p.once[s] = s
	return s
}

func (p *unpacking) device(of field, d *attribution.Device) error {
	at := len(p.labels)
	err := p.each(of.from, of.to, func(f field) error {
		switch f.number {
		case 1:
			d.ID = p.own(f)
		case 2:
			d.Cluster = p.own(f)
		case 3:
			d.Node = p.own(f)
		case 4:
			d.Model = p.own(f)
		case 5:
			d.CapacityType = p.own(f)
		case 6:
			d.MemoryBytes = int64(f.value)
		case 7:
			return p.label(f, p.own)
		case 8:
			d.Parent = p.own(f)
		case 9:
			d.Profile = p.own(f)
		case 10:
			return p.share(f, &d.Share)
		case 11:
			d.Remainder = f.value != 0
		case 12:
			d.Sensors |= sensor(f, attribution.SensorEnergy)
		case 13:
			d.Sensors |= sensor(f, attribution.SensorMemory)
		}
		return nil
	})
	d.Labels = p.labelsFrom(at)
	return err
}

func sensor(f field, s attribution.Sensors) attribution.Sensors {
	if f.value == 0 {
		return 0
	}
	return s
}

func (p *unpacking) share(of field, s *attribution.MIGShare) error {
	return p.each(of.from, of.to, func(f field) error {
		switch v := int32(f.value); f.number {
		case 1:
			s.Compute = v
		case 2:
			s.ComputeOf = v
		case 3:
			s.Memory = v
		case 4:
			s.MemoryOf = v
		}
		return nil
	})
}

func (p *unpacking) owner(of field, o *attribution.Owner) error {
	at := len(p.labels)
	err := p.each(of.from, of.to, func(f field) error {
		switch f.number {
		case 1:
			o.Kind = attribution.OwnerKind(f.value)
		case 2:
			o.Cluster = p.part(f)
		case 3:
			o.Node = p.part(f)
		case 4:
			o.Namespace = p.part(f)
		case 5:
			o.Pod = p.part(f)
		case 6:
			o.PodUID = p.part(f)
		case 7:
			o.Container = p.part(f)
		case 8:
			o.ControllerKind = p.part(f)
		case 9:
			o.Controller = p.part(f)
		case 10:
			o.PID = uint32(f.value)
		case 11:
			o.Command = p.part(f)
		case 12:
			return p.label(f, p.part)
		}
		return nil
	})
	o.Labels = p.labelsFrom(at)
	return err
}

func (p *unpacking) label(of field, text func(field) string) error {
	var l attribution.Label
	err := p.each(of.from, of.to, func(f field) error {
		switch f.number {
		case 1:
			l.Key = text(f)
		case 2:
			l.Value = text(f)
		}
		return nil
	})
	p.labels = append(p.labels, l)
	return err
}

func (p *unpacking) labelsFrom(at int) attribution.Labels {
	if at == len(p.labels) {
		return nil
	}
	return p.labels[at:len(p.labels):len(p.labels)]
}

func (p *unpacking) subject(of field, s *attribution.Subject) error {
	return p.each(of.from, of.to, func(f field) error {
		switch f.number {
		case 1:
			s.Owner = uint32(f.value)
		case 2:
			s.Model = p.own(f)
		case 3:
			s.Tenant = p.own(f)
		case 4:
			s.Tier = p.own(f)
		}
		return nil
	})
}

// field is one of a message: a number, or what lies in [from, to) of the text.
type field struct {
	number   int
	value    uint64
	from, to int
}

// fields reads an encoding of numbers and texts.
type fields struct{ text string }

// part is a field's text, which keeps the whole in memory.
func (t *fields) part(f field) string { return t.text[f.from:f.to] }

// each calls f with the fields of the message in [at, end).
func (t *fields) each(at, end int, f func(field) error) error {
	for at < end {
		tag, n := t.varint(at, end)
		x := field{number: int(tag >> 3)}
		at = n
		switch value, n := t.varint(at, end); {
		case n < 0 || at < 0:
			return malformed(4, "roster", "can't be read")
		case protowire.Type(tag&7) == protowire.VarintType:
			x.value, at = value, n
		case protowire.Type(tag&7) == protowire.BytesType && value <= uint64(end-n):
			x.from, x.to = n, n+int(value)
			at = x.to
		default:
			return malformed(4, "roster", "can't be read")
		}
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// varint is the number at a place, and the place after it; −1 where there is none.
func (t *fields) varint(at, end int) (v uint64, next int) {
	if at < 0 {
		return 0, -1
	}
	for shift := 0; at < end && shift < 64; shift += 7 {
		b := t.text[at]
		at++
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, at
		}
	}
	return 0, -1
}
