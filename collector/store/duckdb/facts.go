package duckdb

import (
	"context"
	"database/sql"

	"github.com/gpuledger/gpuledger/attribution"
)

// readOwners adds the owners that a condition selects to a map by id. The
// condition names the owner's id as "id".
func readOwners(ctx context.Context, c *sql.Conn, where string, args []any, into map[int32]*attribution.Owner) error {
	err := each(ctx, c, `SELECT id, kind, cluster, node, namespace, pod, pod_uid, container, controller_kind, controller, pid, command
		FROM owner WHERE `+where, args, func(rows *sql.Rows) error {
		var id int32
		o := new(attribution.Owner)
		if err := rows.Scan(&id, &o.Kind, &o.Cluster, &o.Node, &o.Namespace, &o.Pod, &o.PodUID, &o.Container,
			&o.ControllerKind, &o.Controller, &o.PID, &o.Command); err != nil {
			return err
		}
		into[id] = o
		return nil
	})
	if err != nil {
		return err
	}
	return readLabels(ctx, c, `SELECT owner AS id, key, value FROM owner_label WHERE `+where+` ORDER BY id, key`, args, func(id int32, l attribution.Label) {
		if x := into[id]; x != nil { // of a ledger that was tampered with
			x.Labels = append(x.Labels, l)
		}
	})
}

// readDevices is readOwners for devices.
func readDevices(ctx context.Context, c *sql.Conn, where string, args []any, into map[int32]*attribution.Device) error {
	err := each(ctx, c, `SELECT id, uuid, cluster, node, model, capacity_type, memory_bytes, parent, profile,
		compute, compute_of, memory, memory_of, remainder, sensors FROM device WHERE `+where, args, func(rows *sql.Rows) error {
		var id int32
		d := new(attribution.Device)
		if err := rows.Scan(&id, &d.ID, &d.Cluster, &d.Node, &d.Model, &d.CapacityType, &d.MemoryBytes, &d.Parent, &d.Profile,
			&d.Share.Compute, &d.Share.ComputeOf, &d.Share.Memory, &d.Share.MemoryOf, &d.Remainder, &d.Sensors); err != nil {
			return err
		}
		into[id] = d
		return nil
	})
	if err != nil {
		return err
	}
	return readLabels(ctx, c, `SELECT device AS id, key, value FROM device_label WHERE `+where+` ORDER BY id, key`, args, func(id int32, l attribution.Label) {
		if x := into[id]; x != nil { // of a ledger that was tampered with
			x.Labels = append(x.Labels, l)
		}
	})
}

func readLabels(ctx context.Context, c *sql.Conn, query string, args []any, add func(int32, attribution.Label)) error {
	return each(ctx, c, query, args, func(rows *sql.Rows) error {
		var id int32
		var l attribution.Label
		if err := rows.Scan(&id, &l.Key, &l.Value); err != nil {
			return err
		}
		add(id, l)
		return nil
	})
}
