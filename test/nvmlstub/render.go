package nvmlstub

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// renderer writes lines. The first error stays.
type renderer struct {
	out strings.Builder
	err error
}

// line begins a line.
func (r *renderer) line(span Span, words ...string) *renderer {
	if r.out.Len() > 0 {
		r.out.WriteByte('\n')
	}
	if span.At < 0 || span.For < 0 {
		r.fail("a span of %v at %v", span.For, span.At)
	}
	if span.At != 0 {
		r.out.WriteString("at " + duration(span.At) + " ")
	}
	if span.For != 0 {
		r.out.WriteString("for " + duration(span.For) + " ")
	}
	r.out.WriteString(words[0])
	for _, w := range words[1:] {
		r.word(w)
	}
	return r
}

func (r *renderer) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("render a scenario: "+format, args...)
	}
}

func (r *renderer) word(w string) {
	if w == "" || strings.ContainsFunc(w, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) || c == '"' || c == '#' }) {
		r.fail("%q is no word", w)
	}
	r.out.WriteString(" " + w)
}

func (r *renderer) text(key, s string) *renderer {
	if s == "" || strings.ContainsFunc(s, unicode.IsControl) {
		r.fail("%s %q: empty, or with control characters", key, s)
	}
	if key != "" {
		r.word(key)
	}
	r.out.WriteString(` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`)
	return r
}

func (r *renderer) field(key, value string) *renderer {
	r.word(key)
	r.word(value)
	return r
}

func (r *renderer) number(key string, n int) *renderer {
	if n < 0 || n > 1<<32-1 {
		r.fail("%s %d", key, n)
	}
	return r.field(key, strconv.Itoa(n))
}

func (r *renderer) flag(key string, on bool) *renderer {
	if on {
		r.word(key)
	}
	return r
}

// optional fields are those that are not 0.
func (r *renderer) optional(key string, n int) *renderer {
	if n != 0 {
		r.number(key, n)
	}
	return r
}

func (r *renderer) lasting(key string, d time.Duration) *renderer {
	if d < 0 {
		r.fail("%s %v", key, d)
	}
	if d != 0 {
		r.field(key, duration(d))
	}
	return r
}

func (r *renderer) size(key string, bytes int64) *renderer {
	if bytes == Unavailable {
		return r.field(key, "unavailable")
	}
	if bytes < 0 {
		r.fail("%s %d", key, bytes)
	}
	return r.field(key, scaled(bytes, []unit{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}))
}

type unit struct {
	name   string
	factor int64
}

// scaled writes a number in the largest unit that has it whole.
func scaled(n int64, units []unit) string {
	for _, u := range units {
		if u.factor == 1 || (n != 0 && n%u.factor == 0) {
			return strconv.FormatInt(n/u.factor, 10) + u.name
		}
	}
	panic("BUG: no unit of 1")
}

func duration(d time.Duration) string {
	return scaled(int64(d), []unit{{"h", 3600e9}, {"m", 60e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1}})
}

func (r *renderer) moment(word string, t time.Time) {
	if !t.IsZero() {
		r.line(Span{}, word, fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()))
	}
}

// Render is the scenario as the library reads it. What could not be read back
// is an error.
func (s *Scenario) Render() (string, error) {
	r := &renderer{}
	s.settings(r)
	for i := range s.Devices {
		s.Devices[i].render(r)
	}
	for _, m := range s.MIG {
		r.line(m.Span, "mig", m.Device)
	}
	for i := range s.Instances {
		s.Instances[i].render(r)
	}
	for i := range s.Processes {
		s.Processes[i].render(r)
	}
	for _, p := range s.Samples {
		r.line(p.Span, "sample", p.Device).number("pid", p.PID).number("sm", p.SM).lasting("ago", p.Ago).lasting("ahead", p.Ahead)
	}
	for _, c := range s.Counts {
		r.line(c.Span, "count", c.Device, strconv.Itoa(c.Count))
	}
	for _, f := range s.Faults {
		f.render(r)
	}
	for _, l := range s.Losses {
		r.line(l.Span, "lost", l.Device)
	}
	for _, u := range s.Unloaded {
		r.line(u, "unloaded")
	}
	for _, e := range s.Events {
		e.render(r)
	}
	r.out.WriteByte('\n')
	return r.out.String(), r.err
}

func (s *Scenario) settings(r *renderer) {
	r.moment("start", s.Start)
	r.moment("clock", s.Clock)
	if s.Version != "" {
		r.line(Span{}, "driver").text("", s.Version)
	}
	if s.Period != 0 {
		r.line(Span{}, "period", duration(s.Period))
	}
	if s.Sampling != "" {
		r.line(Span{}, "sampling", string(s.Sampling))
	}
	if s.Excess {
		r.line(Span{}, "excess")
	}
	if s.ProcFS != "" {
		r.line(Span{}, "procfs").text("", s.ProcFS)
	}
	if s.Scan != 0 {
		r.line(Span{}, "scan", duration(s.Scan))
	}
}

func (d *Device) render(r *renderer) {
	r.line(d.Span, "device", d.UUID).text("name", d.Name).number("minor", d.Minor)
	if d.Bus != "" {
		r.field("bus", d.Bus)
	}
	r.size("memory", d.Memory).optional("slices", d.Slices).flag("gpm", d.GPM).flag("energy", d.Energy)
	if d.Idle != 0 || d.Full != 0 {
		r.field("idle", strconv.Itoa(d.Idle)+"W").field("full", strconv.Itoa(d.Full)+"W")
	}
	r.flag("credit-server", d.CreditServer)
}

func (i *Instance) render(r *renderer) {
	r.line(i.Span, "instance", i.UUID).field("device", i.Device).number("gi", i.GI).number("ci", i.CI)
	r.field("profile", i.Profile).optional("profile-id", i.ProfileID)
	r.field("placement", fmt.Sprintf("%d:%d", i.Start, i.Size)).number("slices", i.Slices)
	r.optional("compute", i.Compute).size("memory", i.Memory)
}

func (p *Process) render(r *renderer) {
	r.line(p.Span, "process")
	if p.Match != "" {
		r.text("match", p.Match)
	} else {
		r.number("pid", p.PID)
	}
	r.field("device", p.Device).number("sm", p.SM).lasting("on", p.On).lasting("off", p.Off).size("memory", p.Memory)
	if p.Kind != "" {
		r.field("kind", string(p.Kind))
	}
}

func (f *Fault) render(r *renderer) {
	switch {
	case f.Error != "":
		r.line(f.Span, "error", f.Function, f.Target, f.Error)
	case f.Delay != 0:
		r.line(f.Span, "delay", f.Function, f.Target, duration(f.Delay))
	default:
		r.line(f.Span, "hang", f.Function, f.Target)
	}
}

func (e *Event) render(r *renderer) {
	span := Span{At: e.At}
	if e.XID != 0 {
		r.line(span, "xid", e.Device, strconv.Itoa(e.XID))
	} else {
		r.line(span, "event", e.Device, strconv.FormatUint(uint64(e.Type), 10))
	}
	if e.MIG {
		r.number("gi", e.GI).number("ci", e.CI)
	}
}
