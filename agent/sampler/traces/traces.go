// Package traces turns published production traces into recordings, which
// package replay plays. There is one file per trace; each says exactly what it
// takes from the trace and what it assumes where the trace is silent, and writes
// the assumptions into the recording's notes.
//
// An importer is a pure function of its input files and options: the same in,
// the same bytes out. No float takes part in a counter: decimals of the trace
// are read exactly, and fractions are carried from row to row.
package traces

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// Importer turns one trace into a recording.
type Importer struct {
	Name    string // as the user types it
	Summary string // one line
	Options []Option
	run     func(*job) error
}

// Option is something that an import can be told.
type Option struct {
	Name, Default, Help string
}

// Progress tells how far an import is.
type Progress struct {
	Stage string // such as "read qps.csv.gz" or "write"
	Done  int    // rows or events
	Total int    // 0 where not known before
}

// All lists the importers.
func All() []Importer {
	return []Importer{gentd26(), gentd26Lora(), azureLLM(), openb()}
}

// ByName finds an importer.
func ByName(name string) (Importer, error) {
	var known []string
	for _, i := range All() {
		if i.Name == name {
			return i, nil
		}
		known = append(known, i.Name)
	}
	return Importer{}, fmt.Errorf("unknown trace %q: want one of %s", name, strings.Join(known, ", "))
}

// Import reads the trace in the folder dir and writes it to w, which the caller
// closes if no error is returned. Options left out have their defaults; an
// unknown one is an error. progress may be nil; it is called now and then, on
// this goroutine.
func (i Importer) Import(ctx context.Context, dir string, options map[string]string, w *replay.Writer, progress func(Progress)) error {
	j := &job{ctx: ctx, dir: dir, w: w, progress: progress, options: make(map[string]string), inputs: make(map[string]string)}
	if progress == nil {
		j.progress = func(Progress) {}
	}
	for _, o := range i.Options {
		j.options[o.Name] = o.Default
	}
	for _, k := range slices.Sorted(maps.Keys(options)) {
		if _, known := j.options[k]; !known {
			return fmt.Errorf("import %s: unknown option %q: want one of %s", i.Name, k, strings.Join(slices.Sorted(maps.Keys(j.options)), ", "))
		}
		j.options[k] = options[k]
	}
	if err := i.run(j); err != nil {
		return fmt.Errorf("import %s: %w", i.Name, err)
	}
	return nil
}

// job is one import under way.
type job struct {
	ctx      context.Context //nolint:containedctx // a job is one call
	dir      string
	w        *replay.Writer
	progress func(Progress)
	options  map[string]string
	inputs   map[string]string // digests of the files read
	events   []sampler.Event
}

// number is an option that is an integer from low to high.
func (j *job) number(name string, low, high int64) (int64, error) {
	v, err := strconv.ParseInt(j.options[name], 10, 64)
	if err != nil || v < low || v > high {
		return 0, fmt.Errorf("option %s is %q: want a whole number from %d to %d", name, j.options[name], low, high)
	}
	return v, nil
}

// duration is an option such as 1h30m, in whole seconds.
func (j *job) duration(name string, low, high time.Duration) (int64, error) {
	v, err := time.ParseDuration(j.options[name])
	if err != nil || v < low || v > high || v%time.Second != 0 {
		return 0, fmt.Errorf("option %s is %q: want whole seconds from %s to %s, such as 1h30m", name, j.options[name], low, high)
	}
	return int64(v / time.Second), nil
}

// text is an option that must not be empty.
func (j *job) text(name string) (string, error) {
	if v := j.options[name]; v != "" {
		return v, nil
	}
	return "", fmt.Errorf("option %s is empty", name)
}

// add appends an event. Events of one device must be added in order of time;
// write merges the devices, and at one instant keeps the order of adding.
func (j *job) add(e sampler.Event) { j.events = append(j.events, e) }

// write writes the recording. The header's inputs and options are filled in.
func (j *job) write(h replay.Header, nodes []sampler.Node) error {
	h.Inputs, h.Options = j.inputs, j.options
	slices.SortStableFunc(j.events, func(a, b sampler.Event) int {
		switch {
		case a.Time < b.Time:
			return -1
		case a.Time > b.Time:
			return 1
		}
		return 0
	})
	if err := j.w.Begin(h, nodes); err != nil {
		return err
	}
	for i := range j.events {
		if i%10_000 == 0 {
			j.progress(Progress{"write", i, len(j.events)})
			if err := j.ctx.Err(); err != nil {
				return err
			}
		}
		if err := j.w.Write(&j.events[i]); err != nil {
			return err
		}
	}
	j.progress(Progress{"write", len(j.events), len(j.events)})
	return nil
}

const second = attribution.WindowNanos
