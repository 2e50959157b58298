package duckdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// reader is a transaction: one state of the ledger.
type reader struct {
	conn    *sql.Conn
	state   state
	mapping store.Mapping
	decode  func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)

	journals *plan.Journals
	journal  *rerating.Journal
	asked    bool // for the journal
}

var _ store.Reader = (*reader)(nil)

// Commits implements [store.Reader].
func (r *reader) Commits() uint64 { return r.state.commits }

// Kept implements [store.Reader].
func (r *reader) Kept(res rollup.Resolution) attribution.Second { return r.state.Kept(res) }

// Rolled implements [store.Reader].
func (r *reader) Rolled(res rollup.Resolution) attribution.Second { return r.state.Rolled(res) }

// Extent implements [store.Reader].
func (r *reader) Extent(context.Context) (from, to attribution.Second, err error) {
	from, to = r.state.Extent()
	return from, to, nil
}

// ownersAtOnce bounds how many owners one statement asks for.
const ownersAtOnce = 4096

// listed is fingerprints as SQL.
func listed(owners []rollup.Fingerprint) string {
	var list strings.Builder
	for i, f := range owners {
		if i > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, "'%x'::UUID", f[:])
	}
	return list.String()
}

// Served implements [store.Reader].
func (r *reader) Served(ctx context.Context, owners []rollup.Fingerprint) (map[rollup.Fingerprint]store.Served, error) {
	out := make(map[rollup.Fingerprint]store.Served)
	for part := range slices.Chunk(owners, ownersAtOnce) {
		err := each(ctx, r.conn, `SELECT o.fingerprint, v.model, v.several, v.mixed, v.counted FROM served v JOIN owner o ON o.id = v.owner
			WHERE o.fingerprint IN (`+listed(part)+`)`, nil, func(rows *sql.Rows) error {
			var id []byte
			var s store.Served
			if err := rows.Scan(&id, &s.Model, &s.Several, &s.Mixed, &s.Counted); err != nil {
				return err
			}
			out[rollup.Fingerprint(id)] = s
			return nil
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
	for part := range slices.Chunk(owners, ownersAtOnce) {
		found := make(map[int32]*attribution.Owner, len(part))
		if err := readOwners(ctx, r.conn, `id IN (SELECT id FROM owner WHERE fingerprint IN (`+listed(part)+`))`, nil, found); err != nil {
			return nil, unavailable("read the owners", err)
		}
		for _, o := range found {
			out[o.Fingerprint()] = o
		}
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
	var s statement
	s.add(`SELECT s.device AS id, min(f.first), max(f.last) FROM (`)
	// Each table answers for what is not in a coarser one.
	hours := max(r.state.HourRolled, r.state.MinuteKept)
	days := r.state.HourKept
	for i, p := range []plan.Piece{
		{From: days, To: hours, Resolution: rollup.Hour},
		{From: hours, To: to, Resolution: rollup.Minute},
		{From: first, To: days, Resolution: rollup.Day},
	} {
		if i > 0 {
			s.add(` UNION ALL `)
		}
		n := int64(p.Resolution)
		s.add(fmt.Sprintf(`SELECT series, min(bucket)::BIGINT * %d AS first, max(bucket)::BIGINT * %d + %d AS last FROM %s
			WHERE bucket >= %d AND bucket < %d GROUP BY series`, n, n, n, plan.Name(p.Resolution),
			int64(p.Resolution.Start(max(p.From, from)))/n, (int64(p.Resolution.Start(min(p.To, to)-1))+n)/n))
	}
	s.add(`) f JOIN series s ON s.id = f.series JOIN device d ON d.id = s.device`)
	for i := range fs {
		text, args := condition(&fs[i], new(joins).sliceKey(fs[i].Dimension))
		s.add(map[bool]string{true: ` WHERE `, false: ` AND `}[i == 0]+text, args...)
	}
	s.add(` GROUP BY s.device`)
	found := make(map[int32][2]attribution.Second)
	err = each(ctx, r.conn, s.text.String(), s.args, func(rows *sql.Rows) error {
		var id int32
		var at [2]attribution.Second
		if err := rows.Scan(&id, &at[0], &at[1]); err != nil {
			return err
		}
		found[id] = [2]attribution.Second{max(at[0], from), min(at[1], to)}
		return nil
	})
	devices := make(map[int32]*attribution.Device)
	if err == nil {
		err = readDevices(ctx, r.conn, `true`, nil, devices)
	}
	if err != nil {
		return nil, unavailable("read the devices", err)
	}
	out := make([]store.DeviceRow, 0, len(found))
	for id, at := range found {
		out = append(out, store.DeviceRow{Device: *devices[id], First: at[0], Last: at[1]})
	}
	slices.SortFunc(out, func(a, b store.DeviceRow) int { return attribution.CompareDevices(&a.Device, &b.Device) })
	return out, nil
}

// Ranges implements [store.Reader].
func (r *reader) Ranges(ctx context.Context, f func(store.Range) error) error {
	var call error
	err := each(ctx, r.conn, `SELECT l.cluster, l.node, l.boot, r.first, r.last, r.previous, r.link FROM (`+runs+`) r JOIN life l ON l.id = r.life
		ORDER BY 1, 2, 4`, nil, func(rows *sql.Rows) error {
		var x store.Range
		var boot []byte
		if err := rows.Scan(&x.Cluster, &x.Node, &boot, &x.From, &x.To, &x.Previous, &x.Link); err != nil {
			return err
		}
		x.Boot = attribution.Boot(boot)
		call = f(x)
		return call
	})
	return mine(call, "read what is stored", err)
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
