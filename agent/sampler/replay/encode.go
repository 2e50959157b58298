package replay

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// encoder builds one line at a time. Equal facts make equal bytes.
type encoder struct {
	b   []byte
	bad *fault
}

func (e *encoder) begin(kind string) {
	e.b, e.bad = e.b[:0], nil
	e.b = append(append(append(e.b, `{"kind":"`...), kind...), '"')
}

func (e *encoder) end() { e.b = append(e.b, "}\n"...) }

func (e *encoder) key(k string) { e.b = append(append(append(e.b, `,"`...), k...), `":`...) }

func (e *encoder) text(k, v string) {
	e.key(k)
	e.quote(v)
}

// optional leaves out an empty text.
func (e *encoder) optional(k, v string) {
	if v != "" {
		e.text(k, v)
	}
}

func (e *encoder) quote(v string) {
	if f := checkText(v); f != nil && e.bad == nil {
		e.bad = f
	}
	e.b = append(e.b, '"')
	for i := range len(v) {
		if v[i] == '"' || v[i] == '\\' {
			e.b = append(e.b, '\\')
		}
		e.b = append(e.b, v[i])
	}
	e.b = append(e.b, '"')
}

func (e *encoder) number(k string, v uint64, scale int) {
	e.key(k)
	e.b = appendDecimal(e.b, v, scale)
}

func (e *encoder) time(k string, ns int64)   { e.number(k, uint64(ns), 9) }
func (e *encoder) integer(k string, v int64) { e.number(k, uint64(v), 0) }
func (e *encoder) flag(k string)             { e.b = append(e.b, `,"`+k+`":true`...) }
func (e *encoder) labels(k string, ls attribution.Labels) {
	if len(ls) == 0 {
		return
	}
	e.key(k)
	sep := byte('{')
	for _, l := range ls {
		e.b = append(e.b, sep)
		e.quote(l.Key)
		e.b = append(e.b, ':')
		e.quote(l.Value)
		sep = ','
	}
	e.b = append(e.b, '}')
}

// appendDecimal writes v·10^−scale without trailing zeros.
func appendDecimal(b []byte, v uint64, scale int) []byte {
	unit := uint64(1)
	for range scale {
		unit *= 10
	}
	b = strconv.AppendUint(b, v/unit, 10)
	if v %= unit; v == 0 {
		return b
	}
	b = append(b, '.')
	for v > 0 {
		unit /= 10
		b = append(b, byte('0'+v/unit))
		v %= unit
	}
	return b
}

func (e *encoder) header(h *Header) {
	e.begin("recording")
	e.integer("version", Version)
	e.text("source", h.Source)
	e.time("start", h.Start)
	e.time("end", h.End)
	e.time("max_interval_s", h.MaxInterval)
	e.optional("notes", h.Notes)
	if h.Boot != (attribution.Boot{}) {
		e.text("boot", hex.EncodeToString(h.Boot[:]))
	}
	e.texts("inputs", h.Inputs)
	e.texts("options", h.Options)
	e.end()
}

func (e *encoder) texts(k string, m map[string]string) {
	ls := make(attribution.Labels, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ls = append(ls, attribution.Label{Key: k, Value: m[k]})
	}
	if f := checkLabels(ls); f != nil && e.bad == nil {
		e.bad = f
	}
	e.labels(k, ls)
}

func (e *encoder) node(n sampler.Node) {
	e.begin("node")
	e.text("node", n.Name)
	e.optional("cluster", n.Cluster)
	e.end()
}

func (e *encoder) owner(ref string, o *attribution.Owner) {
	e.begin("owner")
	e.text("ref", ref)
	e.text("node", o.Node)
	if o.Kind != attribution.Container {
		e.text("type", o.Kind.String())
	}
	e.optional("namespace", o.Namespace)
	e.optional("pod", o.Pod)
	e.optional("uid", o.PodUID)
	e.optional("container", o.Container)
	e.optional("controller_kind", o.ControllerKind)
	e.optional("controller", o.Controller)
	if o.PID != 0 {
		e.integer("pid", int64(o.PID))
	}
	e.optional("command", o.Command)
	e.labels("labels", o.Labels)
	e.end()
}

func (e *encoder) device(t int64, x *attribution.Device) {
	e.begin("device")
	e.time("t", t)
	e.text("device", x.ID)
	e.text("node", x.Node)
	e.text("model", x.Model)
	e.optional("capacity_type", x.CapacityType)
	if x.MemoryBytes != 0 {
		e.integer("memory_bytes", x.MemoryBytes)
	}
	e.labels("labels", x.Labels)
	e.optional("parent", x.Parent)
	e.optional("profile", x.Profile)
	if s := x.Share; s != (attribution.MIGShare{}) {
		e.key("share")
		sep := byte('[')
		for _, v := range [...]int32{s.Compute, s.ComputeOf, s.Memory, s.MemoryOf} {
			e.b = strconv.AppendInt(append(e.b, sep), int64(v), 10)
			sep = ','
		}
		e.b = append(e.b, ']')
	}
	if x.Remainder {
		e.flag("remainder")
	}
	if x.Sensors != 0 {
		e.key("sensors")
		sep := byte('[')
		for i, name := range sensorNames {
			if x.Sensors>>i&1 != 0 {
				e.b = append(e.b, sep)
				e.quote(name)
				sep = ','
			}
		}
		e.b = append(e.b, ']')
	}
	e.end()
}

// sample writes the readings that the device has sensors for.
func (e *encoder) sample(t int64, x *attribution.Device, s *sampler.Sample, ref func(*attribution.Owner) string) {
	e.begin("sample")
	e.time("t", t)
	e.text("device", x.ID)
	e.integer("sm_active_ns", s.SMActive)
	if x.Sensors&attribution.SensorEnergy != 0 {
		e.integer("energy_uj", s.Energy)
	}
	if s.Gap {
		e.flag("gap")
	}
	if s.ProcessSM {
		e.flag("process_sm")
	}
	if len(s.Processes) > 0 {
		e.key("processes")
		sep := byte('[')
		for i := range s.Processes {
			p := &s.Processes[i]
			e.b = append(e.b, sep)
			sep = ','
			e.b = strconv.AppendUint(append(e.b, `{"pid":`...), uint64(p.PID), 10)
			e.number("start", p.Start, 0)
			e.text("owner", ref(p.Owner))
			if s.ProcessSM {
				e.integer("sm_active_ns", p.SMActive)
			}
			if x.Sensors&attribution.SensorMemory != 0 {
				e.integer("memory_bytes", p.MemoryBytes)
			}
			e.b = append(e.b, '}')
		}
		e.b = append(e.b, ']')
	}
	e.end()
}

func (e *encoder) tally(t int64, y *sampler.Tally, owner string) {
	e.begin("tally")
	e.time("t", t)
	e.text("owner", owner)
	e.integer("seconds", y.Seconds)
	e.optional("model", y.Model)
	e.optional("tenant", y.Tenant)
	e.optional("tier", y.Tier)
	within := nowhere // the object that is open
	for _, v := range y.Values {
		where, _ := measureOf(v.Measure)
		if within != where && isObject(within) {
			e.b = append(e.b, '}')
		}
		switch {
		case !isObject(where):
			e.number(placeKeys[where], uint64(v.Value), 6)
		case within != where:
			e.key(placeKeys[where])
			e.b = append(e.b, '{')
			e.entry(where, v)
		default:
			e.b = append(e.b, ',')
			e.entry(where, v)
		}
		within = where
	}
	if isObject(within) {
		e.b = append(e.b, '}')
	}
	e.end()
}

// entry writes one of several values under a key.
func (e *encoder) entry(where place, v sampler.Value) {
	scale := 6
	if where == tokens {
		scale = 0
	}
	e.quote(string(v.Measure[len(placePrefixes[where]):]))
	e.b = appendDecimal(append(e.b, ':'), uint64(v.Value), scale)
}
