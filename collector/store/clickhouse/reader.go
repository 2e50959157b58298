package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// reader is one state of the ledger.
type reader struct {
	store   *Store
	client  *client
	state   *state
	rules   *ruled
	commits uint64

	journal *rerating.Journal
	asked   bool // for the journal
}

var _ store.Reader = (*reader)(nil)

// Commits implements [store.Reader].
func (r *reader) Commits() uint64 { return r.commits }

// Rolled implements [store.Reader].
func (r *reader) Rolled(res rollup.Resolution) attribution.Second { return r.state.Rolled(res) }

// Kept implements [store.Reader].
func (r *reader) Kept(res rollup.Resolution) attribution.Second { return r.state.Kept(res) }

// Extent implements [store.Reader].
func (r *reader) Extent(context.Context) (from, to attribution.Second, err error) {
	from, to = r.state.Extent()
	return from, to, nil
}

// Journal implements [store.Reader].
func (r *reader) Journal(ctx context.Context) (*rerating.Journal, error) {
	if r.asked {
		return r.journal, nil
	}
	var err error
	r.journal, err = r.store.journalAt(ctx, r.state)
	r.asked = err == nil
	return r.journal, err
}

// Served implements [store.Reader].
func (r *reader) Served(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error) {
	out := make(map[rollup.Fingerprint]store.Served)
	for part := range slices.Chunk(owners, factsAtOnce) {
		err := r.client.query(ctx, `SELECT DISTINCT `+tallySeriesNames+` FROM served WHERE owner IN (`+list(part, hexed16)+`) AND `+r.state.visible(), func(d *decoder) error {
			f := rollup.Fingerprint(d.fixed())
			sub := attribution.Subject{Model: d.str(), Tenant: d.str(), Tier: d.str()}
			out[f] = out[f].With(&sub, attribution.Measure(d.str()))
			return d.err
		})
		if err != nil {
			return nil, unavailable("read what owners served", err)
		}
	}
	return out, nil
}

// Owners implements [store.Reader].
func (r *reader) Owners(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]*attribution.Owner, error) {
	out := make(map[rollup.Fingerprint]*attribution.Owner, len(owners))
	for _, f := range owners {
		out[f] = nil
	}
	if err := r.store.owners(ctx, out); err != nil {
		return nil, unavailable("read the owners", err)
	}
	return out, nil
}

// Devices implements [store.Reader].
func (r *reader) Devices(ctx context.Context, from, to attribution.Second, fs []store.Filter) ([]store.DeviceRow, error) {
	from, to, err := plan.Devices(&r.state.Watermarks, from, to, fs)
	if err != nil || from >= to {
		return nil, err
	}
	first, _ := r.state.Extent()
	devices := make(map[rollup.Fingerprint]*attribution.Device)
	at := make(map[rollup.Fingerprint][2]attribution.Second)
	// Each resolution answers for what is not kept more finely.
	minutes, hours := max(r.state.MinuteKept, first), max(r.state.HourKept, first)
	for _, p := range []plan.Piece{
		{From: first, To: min(hours, to), Resolution: rollup.Day},
		{From: hours, To: min(minutes, to), Resolution: rollup.Hour},
		{From: max(minutes, hours), To: to, Resolution: rollup.Minute},
	} {
		low, high := p.Resolution.Start(max(p.From, from)), min(p.To, to)
		if low >= high {
			continue
		}
		for _, src := range r.state.sources(p.Resolution, low, high) {
			n := resolutionOf(src.table)
			err := r.client.query(ctx, fmt.Sprintf(`SELECT device, min(bucket), max(bucket) + %d FROM %s WHERE %s AND %s GROUP BY device`,
				n, src.table, src.where, r.state.counted()), func(d *decoder) error {
				f := rollup.Fingerprint(d.fixed())
				a, b := max(attribution.Second(d.i64()), from), min(attribution.Second(d.i64()), to)
				if x, ok := at[f]; ok {
					a, b = min(a, x[0]), max(b, x[1])
				}
				at[f], devices[f] = [2]attribution.Second{a, b}, nil
				return d.err
			})
			if err != nil {
				return nil, unavailable("read the devices", err)
			}
		}
	}
	if err := r.store.devices(ctx, devices); err != nil {
		return nil, unavailable("read the devices", err)
	}
	var out []store.DeviceRow
	for f, x := range at {
		d := devices[f]
		if d == nil {
			return nil, fmt.Errorf("%w: device %s has no facts", store.ErrCorrupt, f)
		}
		if !slices.ContainsFunc(fs, func(f store.Filter) bool { return !f.Match(scan.DeviceKey(f.Dimension, d)) }) {
			out = append(out, store.DeviceRow{Device: *d, First: x[0], Last: x[1]})
		}
	}
	slices.SortFunc(out, func(a, b store.DeviceRow) int { return attribution.CompareDevices(&a.Device, &b.Device) })
	return out, nil
}

func resolutionOf(table string) rollup.Resolution {
	switch table {
	case "day":
		return rollup.Day
	case "hour":
		return rollup.Hour
	default:
		return rollup.Minute
	}
}

// mine tells a callback's own error from the store's.
func mine(call error, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case call != nil && errors.Is(err, call):
		return call
	}
	return unavailable(what, err)
}
