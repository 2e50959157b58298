package servingtest

import (
	"strconv"
	"strings"
	"time"
)

// page is a metrics page that is being written.
type page struct{ strings.Builder }

// labels are keys and values in turn.
type labels []string

func (ls labels) with(more ...string) labels { return append(append(labels{}, ls...), more...) }

func (p *page) family(name, kind string) {
	p.WriteString("# HELP " + name + " What it is.\n# TYPE " + name + " " + kind + "\n")
}

func (p *page) sample(name string, ls labels, v float64) {
	p.WriteString(name)
	if len(ls) > 0 {
		p.WriteByte('{')
		for i := 0; i < len(ls); i += 2 {
			if i > 0 {
				p.WriteByte(',')
			}
			p.WriteString(ls[i] + "=" + strconv.Quote(ls[i+1]))
		}
		p.WriteByte('}')
	}
	text := strconv.FormatFloat(v, 'f', -1, 64)
	if v == float64(int64(v)) {
		text += ".0" // as Python writes it
	}
	p.WriteString(" " + text + "\n")
}

// one is a family of a single kind of series, one for each tally.
func (p *page) each(name, kind string, l *life, ls func(*tally) labels, v func(*tally) int64) {
	p.family(name, kind)
	for _, t := range l.sorted() {
		p.sample(name, ls(t), float64(v(t)))
	}
}

// histogram is a family of durations.
func (p *page) histogram(name string, l *life, bounds []float64, ls func(*tally) labels, of func(*tally) []time.Duration) {
	p.family(name, "histogram")
	for _, t := range l.sorted() {
		values := make([]float64, 0, len(of(t)))
		for _, d := range of(t) {
			values = append(values, float64(d)/float64(l.kind.unit))
		}
		p.buckets(name, ls(t), bounds, values)
	}
}

func (p *page) buckets(name string, ls labels, bounds, values []float64) {
	var sum float64
	for _, v := range values {
		sum += v
	}
	for _, b := range bounds {
		n := 0
		for _, v := range values {
			if v <= b {
				n++
			}
		}
		p.sample(name+"_bucket", ls.with("le", strconv.FormatFloat(b, 'g', -1, 64)), float64(n))
	}
	p.sample(name+"_bucket", ls.with("le", "+Inf"), float64(len(values)))
	p.sample(name+"_count", ls, float64(len(values)))
	p.sample(name+"_sum", ls, sum)
}

// process is what clients of Prometheus show of their process.
func (p *page) process(l *life) {
	p.family("python_info", "gauge")
	p.sample("python_info", labels{"implementation", "CPython", "version", "3.12.3"}, 1)
	p.family("process_start_time_seconds", "gauge")
	p.sample("process_start_time_seconds", nil, float64(l.began.UnixMilli())/1e3)
	p.family("process_cpu_seconds_total", "counter")
	p.sample("process_cpu_seconds_total", nil, 12.5)
}

func latencies(t *tally) []time.Duration { return t.latencies }
func firsts(t *tally) []time.Duration    { return t.firsts }
