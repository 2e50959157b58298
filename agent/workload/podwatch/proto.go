package podwatch

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// unmarshal reads a pod's protobuf form (k8s.io.api.core.v1.Pod), only what
// matters here: the whole message takes some hundred times its length in
// memory where somebody means ill, and the package that has it some megabytes.
func (o *object) unmarshal(b []byte) error {
	err := fields(b, func(n int, v value) error {
		switch n {
		case 1:
			return v.message(o.Metadata.field)
		case 2:
			return v.message(o.Spec.field)
		case 3:
			return v.message(o.Status.field)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("a pod's protobuf form: %w", err)
	}
	return nil
}

func (m *metadata) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&m.Name)
	case 3:
		return v.text(&m.Namespace)
	case 5:
		return v.text(&m.UID)
	case 6:
		return v.text(&m.ResourceVersion)
	case 9:
		m.Deleted = true
		return v.message(func(int, value) error { return nil })
	case 11:
		return m.label(v)
	case 12:
		key, text, err := v.entry()
		m.Annotations.keep(key, text)
		return err
	case 13:
		return element(&m.OwnerReferences, v, (*ownerReference).field)
	}
	return nil
}

func (m *metadata) label(v value) error {
	key, text, err := v.entry()
	switch {
	case err != nil:
		return err
	case len(m.Labels) >= 4*maxLabels:
		return errors.New("too many labels")
	case m.Labels == nil:
		m.Labels = make(map[string]string)
	}
	m.Labels[string(key)] = string(text)
	return nil
}

func (o *ownerReference) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&o.Kind)
	case 3:
		return v.text(&o.Name)
	case 6:
		return v.is(&o.Controller)
	}
	return nil
}

func (s *podSpec) field(n int, v value) error {
	switch n {
	case 2:
		return element(&s.Containers, v, (*container).field)
	case 3:
		return v.text(&s.RestartPolicy)
	case 11:
		return v.is(&s.HostNetwork)
	case 20:
		return element(&s.InitContainers, v, (*container).field)
	case 34:
		return element(&s.EphemeralContainers, v, (*container).ephemeral)
	}
	return nil
}

func (c *container) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&c.Name)
	case 6:
		return v.message(c.Ports.room().field)
	case 24:
		return v.text(&c.RestartPolicy)
	case 25:
		return element(&c.RestartRules, v, func(*struct{}, int, value) error { return nil })
	}
	return nil
}

func (p *port) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&p.Name)
	case 3:
		var number uint64
		err := v.number(&number)
		p.Number = int32(number)
		return err
	case 4:
		return v.text(&p.Protocol)
	}
	return nil
}

// ephemeral is a field of an EphemeralContainer, whose first is what it has in
// common with others.
func (c *container) ephemeral(n int, v value) error {
	if n == 1 {
		return v.message(c.field)
	}
	return nil
}

func (s *podStatus) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&s.Phase)
	case 5:
		return v.text(&s.HostIP)
	case 6:
		return v.text(&s.IP)
	case 8:
		return element(&s.Containers, v, (*containerStatus).field)
	case 10:
		return element(&s.Init, v, (*containerStatus).field)
	case 12:
		return element(&s.IPs, v, (*podIP).field)
	case 13:
		return element(&s.Ephemeral, v, (*containerStatus).field)
	case 16:
		return element(&s.HostIPs, v, (*podIP).field)
	}
	return nil
}

func (i *podIP) field(n int, v value) error {
	if n == 1 {
		return v.text(&i.IP)
	}
	return nil
}

func (s *containerStatus) field(n int, v value) error {
	switch n {
	case 1:
		return v.text(&s.Name)
	case 2:
		return v.message(s.State.field)
	case 3:
		return v.message(s.LastState.field)
	case 8:
		return v.text(&s.ContainerID)
	}
	return nil
}

func (s *containerState) field(n int, v value) error {
	switch n {
	case 2:
		if s.Running == nil {
			s.Running = &running{}
		}
		return v.message(s.Running.field)
	case 3:
		if s.Terminated == nil {
			s.Terminated = &terminated{}
		}
		return v.message(s.Terminated.field)
	}
	return nil
}

func (r *running) field(n int, v value) error {
	if n != 1 {
		return nil
	}
	var seconds uint64
	err := v.message(func(n int, v value) error {
		if n == 1 {
			return v.number(&seconds)
		}
		return nil
	})
	r.Started = unixSeconds(max(int64(seconds), 0))
	return err
}

func (t *terminated) field(n int, v value) error {
	switch n {
	case 1:
		var code uint64
		err := v.number(&code)
		t.ExitCode = int32(code)
		return err
	case 7:
		return v.text(&t.ContainerID)
	}
	return nil
}

// element reads one element of a repeated message.
func element[T any](l *list[T], v value, field func(*T, int, value) error) error {
	x, err := l.room()
	if err != nil {
		return err
	}
	return v.message(func(n int, v value) error { return field(x, n, v) })
}

// value is a field's: bytes, or a number.
type value struct {
	wire  protowire.Type
	bytes []byte
	n     uint64
}

var errWire = errors.New("a field of another type than expected")

func (v value) text(to *string) error {
	if v.wire != protowire.BytesType {
		return errWire
	}
	*to = string(v.bytes)
	return nil
}

func (v value) number(to *uint64) error {
	if v.wire != protowire.VarintType {
		return errWire
	}
	*to = v.n
	return nil
}

func (v value) is(to *bool) error {
	var is uint64
	err := v.number(&is)
	*to = is != 0
	return err
}

func (v value) message(field func(int, value) error) error {
	if v.wire != protowire.BytesType {
		return errWire
	}
	return fields(v.bytes, field)
}

// entry is a map's.
func (v value) entry() (key, text []byte, err error) {
	err = v.message(func(n int, v value) error {
		switch {
		case n != 1 && n != 2:
		case v.wire != protowire.BytesType:
			return errWire
		case n == 1:
			key = v.bytes
		default:
			text = v.bytes
		}
		return nil
	})
	return key, text, err
}

// fields calls f for the fields of a message, in order.
func fields(b []byte, f func(int, value) error) error {
	for len(b) > 0 {
		n, wire, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		v := value{wire: wire}
		switch wire {
		case protowire.BytesType:
			v.bytes, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v.n, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, wire, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := f(int(n), v); err != nil {
			return err
		}
	}
	return nil
}
