package archive

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// What a part holds at most. Few rows would make many small transactions, many
// would take much memory: a row may bring an owner of some KiB with it.
const (
	partRows    = 1 << 16
	partDevices = 4096 // what a roster may have
	partOwners  = 1 << 16
	partNames   = 250     // methods; of measures there may be more
	partBytes   = 4 << 20 // of bodies, or of facts
)

// All of time.
const (
	begin = -1 << 40
	end   = 1 << 40
)

// walker reads a whole ledger, in the order in which a [store.Loader] wants it.
type walker struct {
	// emit gets the parts, which it must not keep; nil: only the summary is wanted.
	emit    func(*store.Part) error
	summary *Summary
	marks   store.Marks

	devices facts[attribution.Device]
	owners  facts[attribution.Owner]
	part    store.Part
	bytes   int // of the part
	names   map[string]bool
}

func newWalker(emit func(*store.Part) error) *walker {
	w := &walker{
		emit: emit, summary: newSummary(),
		devices: facts[attribution.Device]{fingerprint: (*attribution.Device).Fingerprint, compare: attribution.CompareDevices, keep: keepDevice},
		owners:  facts[attribution.Owner]{fingerprint: (*attribution.Owner).Fingerprint, compare: attribution.CompareOwners, keep: keepOwner},
	}
	w.clear()
	return w
}

// walk reads the ledger. The marks are known before the first part.
func (w *walker) walk(ctx context.Context, s store.Store) error {
	var reratings uint32
	err := s.View(ctx, func(r store.Reader) error {
		journal, err := r.Journal(ctx)
		if err != nil {
			return err
		}
		reratings = journal.Next() - 1
		w.mark(r)
		for _, step := range []func(context.Context, store.Reader) error{w.ranges, w.chunks, w.rows, w.tallies, w.transfers} {
			if err := errors.Join(step(ctx, r), w.flush()); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		// Within the view it might wait for a writer that waits for the view.
		err = errors.Join(w.documents(ctx, s, reratings), w.flush())
	}
	w.summary.close()
	return err
}

func (w *walker) mark(r store.Reader) {
	w.marks = store.Marks{
		Rolled: make(map[rollup.Resolution]attribution.Second), Kept: make(map[rollup.Resolution]attribution.Second), At: time.Now().UTC(),
	}
	for _, res := range rolledMarks {
		w.marks.Rolled[res] = r.Rolled(res)
	}
	for _, res := range keptMarks {
		w.marks.Kept[res] = r.Kept(res)
	}
	w.summary.marks(&w.marks)
}

func (w *walker) ranges(ctx context.Context, r store.Reader) error {
	return r.Ranges(ctx, func(x store.Range) error {
		w.summary.rangeOf(&x)
		if w.emit == nil {
			return nil
		}
		x.Previous, x.Link = bytes.Clone(x.Previous), bytes.Clone(x.Link)
		w.part.Ranges = append(w.part.Ranges, x)
		return w.full(len(w.part.Ranges), 100+len(x.Cluster)+len(x.Node))
	})
}

// chunks emits rosters before the chunks that refer to them. A roster is of one
// node mostly, and chunks come by node.
func (w *walker) chunks(ctx context.Context, r store.Reader) error {
	told := make(map[rollup.Fingerprint]bool)
	var node attribution.ChunkKey
	var chunks []store.Chunk
	flush := func() error {
		if err := w.flush(); err != nil { // the rosters
			return err
		}
		w.part.Chunks, chunks = chunks, nil
		return w.flush()
	}
	err := r.Chunks(ctx, begin, end, func(c *store.Chunk, ro *store.Roster) error {
		w.summary.chunk(c, ro)
		if w.emit == nil {
			return nil
		}
		if c.Key.Cluster != node.Cluster || c.Key.Node != node.Node {
			node = c.Key
			clear(told)
		}
		if !told[ro.ID] {
			told[ro.ID] = true
			w.part.Rosters = append(w.part.Rosters, store.Roster{ID: ro.ID, Body: bytes.Clone(ro.Body)})
			w.bytes += len(ro.Body)
		}
		x := *c
		x.Body, x.Digest, x.Previous = bytes.Clone(c.Body), bytes.Clone(c.Digest), bytes.Clone(c.Previous)
		chunks = append(chunks, x)
		if w.bytes += 200 + len(x.Body); w.bytes >= partBytes {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return err
}

func (w *walker) rows(ctx context.Context, r store.Reader) error {
	for _, res := range rowsOf {
		err := r.Rows(ctx, res, begin, end, func(x *store.FactRow) error {
			row := rollup.Row{Bucket: x.Bucket, Sums: x.Sums, Series: rollup.Series{Basis: x.Basis, Method: x.Method, Revision: x.Revision}}
			device, owner := w.devices.of(x.Device), w.owners.of(x.Owner)
			row.Series.Device, row.Series.Owner = device.id, owner.id
			w.summary.row(res, &row)
			if w.emit == nil {
				return nil
			}
			w.part.Resolution = res
			w.part.Rows = append(w.part.Rows, row)
			return w.series(len(w.part.Rows), device, owner, x.Method)
		})
		if err := errors.Join(err, w.flush()); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) tallies(ctx context.Context, r store.Reader) error {
	for _, res := range rowsOf {
		err := r.TallyRows(ctx, res, begin, end, func(x *store.TallyFactRow) error {
			owner := w.owners.of(x.Owner)
			row := rollup.TallyRow{Bucket: x.Bucket, Value: x.Value, Series: rollup.TallySeries{
				Owner: owner.id, Model: x.Model, Tenant: x.Tenant, Tier: x.Tier, Measure: x.Measure,
			}}
			w.summary.tally(res, &row)
			if w.emit == nil {
				return nil
			}
			w.part.Resolution = res
			w.part.Tallies = append(w.part.Tallies, row)
			w.bytes += len(x.Model) + len(x.Tenant) + len(x.Tier)
			return w.series(len(w.part.Tallies), nil, owner, string(x.Measure))
		})
		if err := errors.Join(err, w.flush()); err != nil {
			return err
		}
	}
	return nil
}

// series notes the facts of the row that was added last, and emits the part
// where it is full.
func (w *walker) series(rows int, device *fact[attribution.Device], owner *fact[attribution.Owner], name string) error {
	size := 0
	if device != nil && w.part.Devices[device.id] == nil {
		w.part.Devices[device.id] = &device.facts
		size += device.size
	}
	if w.part.Owners[owner.id] == nil {
		w.part.Owners[owner.id] = &owner.facts
		size += owner.size
	}
	w.names[name] = true
	if len(w.part.Devices) >= partDevices || len(w.part.Owners) >= partOwners || len(w.names) >= partNames {
		size = partBytes
	}
	return w.full(rows, size)
}

// full emits the part where it has many things or bytes.
func (w *walker) full(things, size int) error {
	if w.bytes += size; things < partRows && w.bytes < partBytes {
		return nil
	}
	return w.flush()
}

// flush emits what there is.
func (w *walker) flush() error {
	p := &w.part
	if len(p.Ranges)+len(p.Rosters)+len(p.Chunks)+len(p.Rows)+len(p.Tallies)+len(p.Transfers)+len(p.Documents) == 0 {
		return nil
	}
	defer w.clear()
	return w.emit(p)
}

func (w *walker) clear() {
	w.part = store.Part{
		Owners: make(map[rollup.Fingerprint]*attribution.Owner), Devices: make(map[rollup.Fingerprint]*attribution.Device),
	}
	w.bytes, w.names = 0, make(map[string]bool)
}

// documents come outside of the view that they belong to, and there may be more
// by now. More of the journal would be more than the rows know of.
func (w *walker) documents(ctx context.Context, s store.Store, reratings uint32) error {
	for _, kind := range store.DocumentKinds {
		newest, err := s.Document(ctx, kind, 0)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		last := newest.Revision
		if kind == store.Reratings {
			last = reratings
		}
		for n := uint32(1); n <= last; n++ {
			d, err := s.Document(ctx, kind, n)
			if err != nil {
				return err
			}
			d.Body = slices.Clone(d.Body)
			w.summary.document(&d)
			if w.emit == nil {
				continue
			}
			w.part.Documents = append(w.part.Documents, d)
			if err := w.full(len(w.part.Documents), len(d.Body)); err != nil {
				return err
			}
		}
	}
	return nil
}

// facts are the devices or owners of lately. Stores mostly hand out the same
// pointer for the same facts, and comparing is cheaper than a fingerprint; but a
// pointer may come to hold others.
type facts[T any] struct {
	recent      map[*T]*fact[T]
	fingerprint func(*T) rollup.Fingerprint
	compare     func(a, b *T) int
	keep        func(*T) (T, int)
}

type fact[T any] struct {
	id    rollup.Fingerprint
	facts T
	size  int // bytes, about
}

// maxFacts bounds what is remembered of pointers.
const maxFacts = 1 << 16

func (f *facts[T]) of(x *T) *fact[T] {
	if got, ok := f.recent[x]; ok && f.compare(x, &got.facts) == 0 {
		return got
	}
	out := &fact[T]{id: f.fingerprint(x)}
	out.facts, out.size = f.keep(x)
	if f.recent == nil || len(f.recent) >= maxFacts {
		f.recent = make(map[*T]*fact[T])
	}
	f.recent[x] = out
	return out
}

func keepDevice(d *attribution.Device) (attribution.Device, int) {
	out := *d
	out.Labels = slices.Clone(d.Labels)
	return out, 100 + len(d.ID) + len(d.Cluster) + len(d.Node) + len(d.Model) + len(d.CapacityType) + len(d.Parent) + len(d.Profile) + sizeOf(d.Labels)
}

func keepOwner(o *attribution.Owner) (attribution.Owner, int) {
	out := *o
	out.Labels = slices.Clone(o.Labels)
	return out, 100 + len(o.Cluster) + len(o.Node) + len(o.Namespace) + len(o.Pod) + len(o.PodUID) + len(o.Container) +
		len(o.ControllerKind) + len(o.Controller) + len(o.Command) + sizeOf(o.Labels)
}

func sizeOf(ls attribution.Labels) int {
	n := 0
	for _, l := range ls {
		n += 10 + len(l.Key) + len(l.Value)
	}
	return n
}
