package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// schemaVersion is that of the tables below. A ledger of a newer version is
// refused, one of an older is brought up to it by migrations.
const schemaVersion = 1

// errNewer says that a newer program wrote the ledger: trying again is of no use.
var errNewer = errors.New("the ledger is newer than this program")

// errImpossible says the same of what is configured.
var errImpossible = errors.New("the ledger cannot be kept so")

// migrations make of each version, from 1, the next. Each statement may run
// again: several collectors may open the ledger at once.
var migrations = [schemaVersion - 1][]string{}

// tableOf is one table of the schema.
type tableOf struct {
	name, columns string
	replacing     string // by which of several rows of one key stays; "none": any
	plain         bool   // all rows are kept
	partition     string // "": one
	order         string
	shard         string // by what it is spread over shards
}

// oneShard has what is small.
const oneShard = "0"

const (
	series      = `device FixedString(16), owner FixedString(16), basis UInt8, method String, revision UInt32`
	tallySeries = `owner FixedString(16), model String, tenant String, tier String, measure String`
	stamp       = `session UInt64, seq UInt32`
	sums        = `time Int64, sm Int64, memory Int64, energy Int64, cost Int64`
)

// Names of columns, in the order of the tables.
const (
	seriesNames      = `device, owner, basis, method, revision`
	tallySeriesNames = `owner, model, tenant, tier, measure`
	factNames        = `lane, bucket, part, ` + seriesNames + `, source, session, seq, time, sm, memory, energy, cost`
	tallyNames       = `lane, bucket, part, ` + tallySeriesNames + `, source, session, seq, value`
	servedNames      = tallySeriesNames + `, session, seq`
	transferNames    = `entry, length, bucket, ` + seriesNames + `, to, source, session, seq, time, sm, memory, energy, cost_before, cost_after, count`
	spanNames        = `slot, cluster, node, boot, first, last, digest, previous, session, seq, began`
	coveredNames     = `cluster, node, boot, first, last, previous, link, session, seq`
	chunkNames       = `slot, cluster, node, boot, sequence, seconds, roster, digest, previous, body, source, session, seq`
	contestedNames   = `source, rival, rival_session, rival_seq, session, seq`
	documentNames    = `kind, revision, applied, body, session, seq, began`
	logNames         = `session, lane, seq, number, hour_rolled, day_rolled, second_kept, minute_kept, hour_kept, day_kept, compacted, covered, first, last, at`
	endedNames       = `session, seq`
	ownerNames       = `fingerprint, kind, cluster, node, namespace, pod, pod_uid, container, controller_kind, controller, pid, command, keys, vals`
	deviceNames      = `fingerprint, uuid, cluster, node, model, capacity_type, memory_bytes, parent, profile, compute, compute_of, memory, memory_of, remainder, sensors, keys, vals`
)

// tables are the schema. Seconds are Unix seconds; part is the start of the
// bucket of the next coarser resolution.
var tables = func() []tableOf {
	out := []tableOf{
		{name: "meta", columns: `version UInt32, what String`, plain: true, order: "version", shard: oneShard},
		{
			name: "log", columns: `session UInt64, lane String, seq UInt32, number UInt64, hour_rolled Int64, day_rolled Int64,
			second_kept Int64, minute_kept Int64, hour_kept Int64, day_kept Int64, compacted Int64, covered Int64, first Int64, last Int64, at Int64`,
			replacing: "seq", order: "session", shard: oneShard,
		},
		{
			name: "owner", columns: `fingerprint FixedString(16), kind UInt8, cluster String, node String, namespace String, pod String, pod_uid String,
			container String, controller_kind String, controller String, pid UInt32, command String, keys Array(String), vals Array(String)`,
			replacing: "none", order: "fingerprint", shard: oneShard,
		},
		{
			name: "device", columns: `fingerprint FixedString(16), uuid String, cluster String, node String, model String, capacity_type String,
			memory_bytes Int64, parent String, profile String, compute Int64, compute_of Int64, memory Int64, memory_of Int64,
			remainder UInt8, sensors UInt8, keys Array(String), vals Array(String)`,
			replacing: "none", order: "fingerprint", shard: oneShard,
		},
		{name: "served", columns: tallySeries + `, ` + stamp, plain: true, order: "owner", shard: oneShard},
		{
			name: "transfer", columns: `entry UInt32, length Int64, bucket Int64, ` + series + `, to UInt32, source UInt64, ` + stamp + `,
			time Int64, sm Int64, memory Int64, energy Int64, cost_before Int64, cost_after Int64, count Int64`,
			plain: true, order: "bucket, entry", shard: "cityHash64(device)",
		},
		{
			name: "span", columns: `slot Int64, cluster String, node String, boot FixedString(16), first Int64, last Int64, digest String, previous String, ` + stamp + `, began Int64`,
			// By when they were claimed: nobody adds to an old partition.
			plain: true, partition: "intDiv(began, 86400)", order: "slot, cluster, node, first", shard: "cityHash64(cluster, node)",
		},
		{
			name: "covered", columns: `cluster String, node String, boot FixedString(16), first Int64, last Int64, previous String, link String, ` + stamp,
			plain: true, order: "cluster, node, first", shard: "cityHash64(cluster, node)",
		},
		{
			name: "chunk", columns: `slot Int64, cluster String, node String, boot FixedString(16), sequence Int64, seconds UInt8, roster FixedString(16),
			digest String, previous String, body String, source UInt64, ` + stamp,
			plain: true, partition: "intDiv(slot, 8640)", order: "intDiv(slot, 60), cluster, node, sequence", shard: "cityHash64(cluster, node)",
		},
		{name: "roster", columns: `fingerprint FixedString(16), body String`, replacing: "none", order: "fingerprint", shard: oneShard},
		{name: "contested", columns: `source UInt64, rival UInt64, rival_session UInt64, rival_seq UInt32, ` + stamp, plain: true, order: "source", shard: oneShard},
		{name: "document", columns: `kind String, revision UInt32, applied Int64, body String, ` + stamp + `, began Int64`, plain: true, order: "kind, revision", shard: oneShard},
		{name: "ended", columns: stamp, plain: true, order: "session", shard: oneShard},
	}
	for _, t := range []struct{ name, days string }{{"minute", "86400"}, {"hour", "2592000"}, {"day", "31104000"}} {
		out = append(out, tableOf{
			name: t.name, columns: `lane String, bucket Int64, part Int64, ` + series + `, source UInt64, ` + stamp + `, ` + sums,
			plain: true, partition: "(lane, intDiv(bucket, " + t.days + "))", order: "part, " + seriesNames + ", bucket", shard: "cityHash64(device)",
		}, tableOf{
			name: "tally_" + t.name, columns: `lane String, bucket Int64, part Int64, ` + tallySeries + `, source UInt64, ` + stamp + `, value Int64`,
			plain: true, partition: "(lane, intDiv(bucket, " + t.days + "))", order: "part, " + tallySeriesNames + ", bucket", shard: "cityHash64(owner)",
		})
	}
	return out
}()

// create is the statements that make a table.
func (t *tableOf) create(o *Options, version int) []string {
	engine, args := "MergeTree", []string{}
	name := t.name
	if o.Cluster != "" {
		name += "_local"
		engine = "Replicated" + engine
		args = append(args, fmt.Sprintf("'/gpuledger/%s/%s/{shard}/%s', '{replica}'", o.Cluster, o.Database, t.name))
	}
	if !t.plain {
		engine = strings.Replace(engine, "MergeTree", "ReplacingMergeTree", 1)
		if t.replacing != "none" {
			args = append(args, t.replacing)
		}
	}
	text := fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s.%s%s (%s) ENGINE = %s(%s)`, o.Database, name, o.onCluster(), t.columns, engine, strings.Join(args, ", "))
	if t.partition != "" {
		text += ` PARTITION BY ` + t.partition
	}
	text += ` ORDER BY (` + t.order + `)`
	if version >= 2010 {
		// What is acknowledged is on disk; older servers have no such promise.
		text += ` SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`
	}
	if o.Cluster == "" {
		return []string{text}
	}
	return []string{text, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %[1]s.%[2]s%[3]s AS %[1]s.%[4]s ENGINE = Distributed(%[5]s, %[1]s, %[4]s, %[6]s)`,
		o.Database, t.name, o.onCluster(), name, o.Cluster, t.shard)}
}

func (o *Options) onCluster() string {
	if o.Cluster == "" {
		return ""
	}
	return " ON CLUSTER " + o.Cluster
}

// prepare learns the server's version and brings the schema up to date.
func (s *Store) prepare(ctx context.Context) error {
	c, o := s.client, &s.options
	database := c.database
	c.database = "default"
	var year, month int
	err := c.query(ctx, `SELECT version()`, func(d *decoder) error {
		_, err := fmt.Sscanf(d.str(), "%d.%d", &year, &month)
		return err
	})
	if err != nil {
		return err
	}
	c.version = year*100 + month
	if err := c.exec(ctx, `CREATE DATABASE IF NOT EXISTS `+database+o.onCluster()); err != nil {
		return err
	}
	c.database = database
	if err := s.settings(ctx); err != nil {
		return err
	}
	newest, err := s.newestVersion(ctx)
	if err != nil {
		return err
	}
	if newest > schemaVersion {
		return fmt.Errorf("%w: the one in database %s has version %d and this program knows %d: run the program that wrote it, or a newer one",
			errNewer, database, newest, schemaVersion)
	}
	if newest == schemaVersion {
		return nil
	}
	if newest == 0 {
		for i := range tables {
			for _, q := range tables[i].create(o, c.version) {
				if err := c.exec(ctx, q); err != nil {
					return err
				}
			}
		}
	} else {
		for _, statements := range migrations[newest-1:] {
			for _, q := range statements {
				if err := c.exec(ctx, q); err != nil {
					return err
				}
			}
		}
	}
	var e encoder
	e.u32(schemaVersion)
	e.str("schema")
	return c.insert(ctx, "meta", "version, what", e)
}

// newestVersion is the version of the ledger's schema, 0 where there is none.
func (s *Store) newestVersion(ctx context.Context) (newest uint32, err error) {
	var there bool
	if err := s.client.query(ctx, `SELECT count() FROM system.tables WHERE database = '`+s.client.database+`' AND name = 'meta'`, func(d *decoder) error {
		there = d.u64() > 0
		return nil
	}); err != nil || !there {
		return 0, err
	}
	err = s.client.query(ctx, `SELECT max(version) FROM meta`, func(d *decoder) error {
		newest = d.u32()
		return nil
	})
	return newest, err
}

// settings are what statements ask for beside their text. A server refuses what
// its version does not know.
func (s *Store) settings(ctx context.Context) error {
	c, o := s.client, &s.options
	c.reads.Set("database", c.database)
	c.reads.Set("wait_end_of_query", "1")
	c.reads.Set("max_query_size", "67108864")
	c.reads.Set("max_ast_elements", "10000000")
	c.reads.Set("max_expanded_ast_elements", "10000000")
	c.inserts.Set("database", c.database)
	if c.version >= 2003 {
		c.inserts.Set("max_partitions_per_insert_block", "0")
	}
	if c.version >= 2111 {
		c.inserts.Set("async_insert", "0")
	}
	if o.Cluster == "" {
		return nil
	}
	var replicas uint64
	if err := c.query(ctx, `SELECT toUInt64(max(n)) FROM (SELECT shard_num, count() AS n FROM system.clusters WHERE cluster = `+quote(o.Cluster)+` GROUP BY shard_num)`, func(d *decoder) error {
		replicas = d.u64()
		return nil
	}); err != nil {
		return err
	}
	if replicas == 0 {
		return fmt.Errorf("the servers' configuration has no cluster %q", o.Cluster)
	}
	if replicas > 1 && o.Quorum == 1 {
		return fmt.Errorf("%w: a quorum of 1 with %d replicas: collectors would not find what they have stored (hint: take 2 or more)", errImpossible, replicas)
	}
	c.inserts.Set("insert_distributed_sync", "1")
	quorum := o.Quorum
	if quorum == 0 {
		quorum = int(min(replicas, 2))
	}
	if quorum > 1 {
		c.inserts.Set("insert_quorum", fmt.Sprint(quorum))
		c.inserts.Set("insert_quorum_timeout", "10000")
		c.reads.Set("select_sequential_consistency", "1")
		if c.version >= 2010 {
			// Reads see all that was acknowledged only where writes are in order.
			c.inserts.Set("insert_quorum_parallel", "0")
		}
	}
	return nil
}
