package plan

import (
	"context"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// work is a plan in the making.
type work struct {
	*Plan
	planner       *Planner
	reader        store.Reader
	before, after *rerating.Journal
	rater         *rating.Rater // of the entry
	runs          runs
}

// part is a part of the range with the finest resolution that is kept of it.
type part struct {
	res      rollup.Resolution
	from, to attribution.Second
}

// parts cuts the range by what is kept. Where that is buckets, the range must
// not cut one, unless nothing is stored beyond.
func (w *work) parts(ctx context.Context) ([]part, error) {
	first, last, err := w.reader.Extent(ctx)
	if err != nil {
		return nil, err
	}
	from, to := max(w.Entry.From, first), min(w.Entry.To, last)
	var out []part
	for i, res := range resolutions {
		kept := w.seen.kept[i]
		if kept >= to {
			continue
		}
		x := part{res, max(from, kept), to}
		if res != store.Seconds {
			if x.from == first {
				x.from = res.Start(first)
			}
			if x.to == last {
				x.to = res.Start(last-1) + attribution.Second(res)
			}
			for _, edge := range [...]attribution.Second{x.from, x.to} {
				if low := res.Start(edge); edge != low {
					return nil, fmt.Errorf("the range is cut at %s, and of that time only whole %ss are kept: cut it at %s or %s: %w",
						clock(edge), names[res], clock(low), clock(low+attribution.Second(res)), store.ErrTooFine)
				}
			}
		}
		if x.from < x.to {
			out = append(out, x)
		}
		if to = min(to, kept); to <= from {
			break
		}
	}
	return out, nil
}

func clock(s attribution.Second) string {
	return time.Unix(int64(s), 0).UTC().Format("2006-01-02T15:04:05Z")
}

// full refuses to go on where there are too many transfers.
func (w *work) full(n int) error {
	most := w.planner.MaxTransfers
	if most == 0 {
		most = MaxTransfers
	}
	if n > most {
		return fmt.Errorf("%w (more than %d sums change)", ErrTooLarge, most)
	}
	return nil
}

// facts gives owners and devices their fingerprints. Rows come with pointers
// that mostly repeat: what one held before is remembered, and compared, which is
// cheaper than a SHA-256.
type facts struct {
	plan    *Plan
	owners  map[*attribution.Owner]rollup.Fingerprint
	devices map[*attribution.Device]rollup.Fingerprint
}

// maxRecent bounds what is remembered of pointers.
const maxRecent = 1 << 16

func newFacts(p *Plan) *facts {
	return &facts{p, make(map[*attribution.Owner]rollup.Fingerprint), make(map[*attribution.Device]rollup.Fingerprint)}
}

func (f *facts) owner(o *attribution.Owner) *OwnerSum { return f.plan.Owners[f.ownerID(o)] }

func (f *facts) ownerID(o *attribution.Owner) rollup.Fingerprint {
	if id, ok := f.owners[o]; ok && attribution.CompareOwners(f.plan.Owners[id].Owner, o) == 0 {
		return id
	}
	id := o.Fingerprint()
	f.plan.noteOwner(id, o)
	if len(f.owners) >= maxRecent {
		clear(f.owners)
	}
	f.owners[o] = id
	return id
}

func (f *facts) deviceID(d *attribution.Device) rollup.Fingerprint {
	if id, ok := f.devices[d]; ok && attribution.CompareDevices(f.plan.devices[id], d) == 0 {
		return id
	}
	id := d.Fingerprint()
	f.plan.noteDevice(id, d)
	if len(f.devices) >= maxRecent {
		clear(f.devices)
	}
	f.devices[d] = id
	return id
}

// noteOwner keeps a copy of an owner.
func (p *Plan) noteOwner(id rollup.Fingerprint, o *attribution.Owner) *OwnerSum {
	s := p.Owners[id]
	if s == nil {
		c := *o
		c.Labels = append(attribution.Labels(nil), o.Labels...)
		s = &OwnerSum{Owner: &c}
		p.Owners[id] = s
	}
	return s
}

func (p *Plan) noteDevice(id rollup.Fingerprint, d *attribution.Device) {
	if p.devices[id] == nil {
		c := *d
		c.Labels = append(attribution.Labels(nil), d.Labels...)
		p.devices[id] = &c
	}
}
