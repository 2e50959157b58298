package duckdb

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
)

// dimensions are the ids that the writer remembers.
type dimensions struct {
	owners, devices, rosters ids[rollup.Fingerprint]
	methods                  ids[string]
	series                   ids[seriesKey]
	tallies                  ids[tallyKey]
	lives                    map[lifeKey]int32 // all of them
}

type seriesKey struct {
	device, owner, method int32
	revision              uint32
	basis                 attribution.Basis
}

type tallyKey struct {
	owner               int32
	model, tenant, tier string
	measure             attribution.Measure
}

type lifeKey struct {
	node node
	boot attribution.Boot
}

// probes are the writer's own tables in which it asks for ids: the keys that
// it does not remember, numbered.
var probes = [...]string{
	`CREATE TEMP TABLE probe_owner (n INTEGER, fingerprint UUID)`,
	`CREATE TEMP TABLE probe_device (n INTEGER, fingerprint UUID)`,
	`CREATE TEMP TABLE probe_roster (n INTEGER, fingerprint UUID)`,
	`CREATE TEMP TABLE probe_method (n INTEGER, name VARCHAR)`,
	`CREATE TEMP TABLE probe_series (n INTEGER, device INTEGER, owner INTEGER, basis UTINYINT, method INTEGER, revision UINTEGER)`,
	`CREATE TEMP TABLE probe_tally_series (n INTEGER, owner INTEGER, model VARCHAR, tenant VARCHAR, tier VARCHAR, measure VARCHAR)`,
	`CREATE TEMP TABLE touched (owner INTEGER)`,
}

// dimension is how a dimension's rows are named in its table.
type dimension[K comparable] struct {
	ids     *ids[K]
	table   string
	columns string // of the key
	key     func([]driver.Value, K) []driver.Value
}

// resolve finds the ids of n keys, in their order. Those that the table does
// not have are made; insert writes their rows.
func resolve[K comparable](ctx context.Context, c *commit, d dimension[K], n int, at func(int) K, insert func(fresh []K, first int32) error) ([]int32, error) {
	out := make([]int32, n)
	var missed []int
	found := make(map[K]int32) // −1: not yet
	var ask []K
	for i := range n {
		k := at(i)
		if id, ok := d.ids.get(k); ok {
			out[i] = id
			continue
		}
		missed = append(missed, i)
		if _, ok := found[k]; !ok {
			found[k] = -1
			ask = append(ask, k)
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	if d.ids.next > 0 {
		if err := lookup(ctx, c, d, ask, found); err != nil {
			return nil, err
		}
	}
	var fresh []K
	first := d.ids.next
	for _, k := range ask {
		if found[k] >= 0 {
			d.ids.put(k, found[k])
			continue
		}
		fresh = append(fresh, k)
		found[k] = d.ids.fresh(k)
	}
	if len(fresh) > 0 {
		if err := insert(fresh, first); err != nil {
			return nil, err
		}
	}
	for _, i := range missed {
		out[i] = found[at(i)]
	}
	return out, nil
}

// lookup asks the table for ids.
func lookup[K comparable](ctx context.Context, c *commit, d dimension[K], ask []K, found map[K]int32) error {
	probe := "probe_" + d.table
	if err := c.append("temp", probe, func(row appendRow) error {
		var values []driver.Value
		for i, k := range ask {
			values = d.key(append(values[:0], int32(i)), k)
			if err := row(values...); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	rows, err := c.db.writer.QueryContext(ctx, `SELECT p.n, t.id FROM temp.`+probe+` p JOIN main.`+d.table+` t USING (`+d.columns+`)`)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		var n, id int32
		if err := rows.Scan(&n, &id); err != nil {
			return err
		}
		found[ask[n]] = id
	}
	if err := rows.Err(); err != nil {
		return err
	}
	_, err = c.db.writer.ExecContext(ctx, `DELETE FROM temp.`+probe)
	return err
}

func byFingerprint(d *ids[rollup.Fingerprint], table string) dimension[rollup.Fingerprint] {
	return dimension[rollup.Fingerprint]{d, table, "fingerprint", func(v []driver.Value, f rollup.Fingerprint) []driver.Value {
		return append(v, uuid(f))
	}}
}

func (c *commit) owners(ctx context.Context, n int, at func(int) rollup.Fingerprint) ([]int32, error) {
	return resolve(ctx, c, byFingerprint(&c.dims.owners, "owner"), n, at, func(fresh []rollup.Fingerprint, first int32) error {
		for _, f := range fresh {
			o := c.batch.Owners[f]
			if o == nil {
				return fmt.Errorf("%w: it has no facts of owner %s", store.ErrBadBatch, f)
			}
			if err := admit.Owner(o); err != nil {
				return err
			}
		}
		err := c.append("", "owner", func(row appendRow) error {
			for i, f := range fresh {
				o := c.batch.Owners[f]
				if err := row(first+int32(i), uuid(f), uint8(o.Kind), o.Cluster, o.Node, o.Namespace, o.Pod,
					o.PodUID, o.Container, o.ControllerKind, o.Controller, o.PID, o.Command); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := c.labels("owner_label", first, len(fresh), func(i int) attribution.Labels { return c.batch.Owners[fresh[i]].Labels }); err != nil {
			return err
		}
		if c.mapping == nil {
			return nil
		}
		return c.append("", "owner_map", func(row appendRow) error {
			for i, f := range fresh {
				if err := row(mapRow(first+int32(i), c.mapping(c.batch.Owners[f]))...); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (c *commit) devices(ctx context.Context, n int, at func(int) rollup.Fingerprint) ([]int32, error) {
	return resolve(ctx, c, byFingerprint(&c.dims.devices, "device"), n, at, func(fresh []rollup.Fingerprint, first int32) error {
		for _, f := range fresh {
			d := c.batch.Devices[f]
			if d == nil {
				return fmt.Errorf("%w: it has no facts of device %s", store.ErrBadBatch, f)
			}
			if err := admit.Device(d); err != nil {
				return err
			}
		}
		err := c.append("", "device", func(row appendRow) error {
			for i, f := range fresh {
				d := c.batch.Devices[f]
				if err := row(first+int32(i), uuid(f), d.ID, d.Cluster, d.Node, d.Model, d.CapacityType, d.MemoryBytes,
					d.Parent, d.Profile, d.Share.Compute, d.Share.ComputeOf, d.Share.Memory, d.Share.MemoryOf,
					d.Remainder, uint8(d.Sensors)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return c.labels("device_label", first, len(fresh), func(i int) attribution.Labels { return c.batch.Devices[fresh[i]].Labels })
	})
}

func (c *commit) labels(table string, first int32, n int, of func(int) attribution.Labels) error {
	return c.append("", table, func(row appendRow) error {
		for i := range n {
			for _, l := range of(i) {
				if err := row(first+int32(i), l.Key, l.Value); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c *commit) methods(ctx context.Context, n int, at func(int) string) ([]int32, error) {
	d := dimension[string]{&c.dims.methods, "method", "name", func(v []driver.Value, m string) []driver.Value { return append(v, m) }}
	return resolve(ctx, c, d, n, at, func(fresh []string, first int32) error {
		return c.append("", "method", func(row appendRow) error {
			for i, m := range fresh {
				if err := admit.Text("method", m); err != nil {
					return err
				}
				if err := row(first+int32(i), m); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (c *commit) series(ctx context.Context, n int, at func(int) seriesKey) ([]int32, error) {
	d := dimension[seriesKey]{
		&c.dims.series, "series", "device, owner, basis, method, revision",
		func(v []driver.Value, k seriesKey) []driver.Value {
			return append(v, k.device, k.owner, uint8(k.basis), k.method, k.revision)
		},
	}
	return resolve(ctx, c, d, n, at, func(fresh []seriesKey, first int32) error {
		return c.append("", "series", func(row appendRow) error {
			for i, k := range fresh {
				if err := row(first+int32(i), k.device, k.owner, uint8(k.basis), k.method, k.revision); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// tallySeries also keeps count of who served what.
func (c *commit) tallySeries(ctx context.Context, n int, at func(int) tallyKey) ([]int32, error) {
	d := dimension[tallyKey]{
		&c.dims.tallies, "tally_series", "owner, model, tenant, tier, measure",
		func(v []driver.Value, k tallyKey) []driver.Value {
			return append(v, k.owner, k.model, k.tenant, k.tier, string(k.measure))
		},
	}
	return resolve(ctx, c, d, n, at, func(fresh []tallyKey, first int32) error {
		err := c.append("", "tally_series", func(row appendRow) error {
			for i, k := range fresh {
				if err := admit.Text("tally", k.model, k.tenant, k.tier, string(k.measure)); err != nil {
					return err
				}
				if err := row(first+int32(i), k.owner, k.model, k.tenant, k.tier, string(k.measure)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = c.append("temp", "touched", func(row appendRow) error {
			seen := make(map[int32]bool)
			for _, k := range fresh {
				if seen[k.owner] {
					continue
				}
				seen[k.owner] = true
				if err := row(k.owner); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return c.exec(ctx,
			`DELETE FROM served WHERE owner IN (SELECT owner FROM temp.touched)`,
			`INSERT INTO served `+servedOf(`WHERE owner IN (SELECT owner FROM temp.touched)`),
			`DELETE FROM temp.touched`)
	})
}
