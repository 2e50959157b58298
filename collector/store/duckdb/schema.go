package duckdb

// schemaVersion is that of the tables below. A ledger of a newer version is
// refused, one of an older is brought up to it by migrations.
const schemaVersion = 6

// migrations make of each version, from 1, the next. They run in the
// transaction that opens the ledger.
var migrations = [schemaVersion - 1][]string{
	// More that rules say of owners. All of it is derived, and made anew by the
	// next SetMapping.
	{`CREATE OR REPLACE TABLE owner_map ` + ownerMap, `UPDATE state SET mapping = 0`},
	// What reratings moved.
	{transferTable},
	// More that is known of what owners served.
	{`CREATE OR REPLACE TABLE served ` + servedColumns, `INSERT INTO served ` + servedOf(``)},
	// The chain of a node's chunks.
	{
		`ALTER TABLE chunk RENAME TO chunk4`, chunkTable, `INSERT INTO chunk SELECT *, '', '' FROM chunk4`, `DROP TABLE chunk4`,
		`ALTER TABLE covered RENAME TO covered4`, coveredTable, `INSERT INTO covered SELECT *, '', '' FROM covered4`, `DROP TABLE covered4`,
	},
	// Compressed rosters.
	{`ALTER TABLE roster RENAME TO roster5`, rosterTable, `INSERT INTO roster SELECT *, false FROM roster5`, `DROP TABLE roster5`},
}

// Bodies and hashes are as good as random, and analysing them costs more than
// all else of a commit. previous and link are empty where nothing is chained.
const chunkTable = `CREATE TABLE chunk (
		life INTEGER NOT NULL, sequence BIGINT NOT NULL, seconds UTINYINT NOT NULL, roster INTEGER NOT NULL,
		body BLOB NOT NULL USING COMPRESSION uncompressed, digest BLOB NOT NULL USING COMPRESSION uncompressed,
		previous BLOB NOT NULL USING COMPRESSION uncompressed, link BLOB NOT NULL USING COMPRESSION uncompressed)`

// packed tells rosters that are compressed from those of before version 6.
const rosterTable = `CREATE TABLE roster (
		id INTEGER NOT NULL, fingerprint UUID NOT NULL, body BLOB NOT NULL USING COMPRESSION uncompressed, packed BOOLEAN NOT NULL)`

// coveredTable holds seconds whose chunks may be gone, and the chain at both
// ends of them. What is stored is this and the chunks.
const coveredTable = `CREATE TABLE covered (
		life INTEGER NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, previous BLOB NOT NULL, link BLOB NOT NULL)`

// ownerMap is the columns of owner_map: [store.Mapped] of each owner, empty
// before rules are set.
const ownerMap = `(
		owner INTEGER NOT NULL, team VARCHAR NOT NULL, budget_owner VARCHAR NOT NULL, environment VARCHAR NOT NULL,
		model VARCHAR NOT NULL, class VARCHAR NOT NULL, tier VARCHAR NOT NULL, run VARCHAR NOT NULL)`

// servedColumns are the columns of served: [store.Served] of each owner that
// has tallies, and servedOf works them out for some.
const servedColumns = `(
		owner INTEGER NOT NULL, model VARCHAR NOT NULL, several BOOLEAN NOT NULL, mixed BOOLEAN NOT NULL, counted BOOLEAN NOT NULL)`

func servedOf(where string) string {
	return `SELECT owner, CASE WHEN models = 1 THEN model ELSE '' END, models > 1, models > 1 OR customers, counted
		FROM (SELECT owner, max(model) AS model, count(DISTINCT model) FILTER (WHERE model <> '') AS models,
			bool_or(tenant <> '' OR tier <> '') AS customers,
			bool_or(measure IN ('success', 'tokens/input', 'tokens/output') OR starts_with(measure, 'failure/')) AS counted
			FROM tally_series ` + where + ` GROUP BY owner)`
}

// schema makes an empty ledger.
var schema = [...]string{
	// One row. Seconds are Unix seconds; first and last bound what is stored.
	`CREATE TABLE state (
		version INTEGER NOT NULL, commits BIGINT NOT NULL,
		hour_rolled BIGINT NOT NULL, day_rolled BIGINT NOT NULL,
		second_kept BIGINT NOT NULL, minute_kept BIGINT NOT NULL, hour_kept BIGINT NOT NULL, day_kept BIGINT NOT NULL,
		mapping BIGINT NOT NULL, first BIGINT, last BIGINT)`,

	`CREATE TABLE owner (
		id INTEGER NOT NULL, fingerprint UUID NOT NULL, kind UTINYINT NOT NULL,
		cluster VARCHAR NOT NULL, node VARCHAR NOT NULL, namespace VARCHAR NOT NULL, pod VARCHAR NOT NULL,
		pod_uid VARCHAR NOT NULL, container VARCHAR NOT NULL, controller_kind VARCHAR NOT NULL,
		controller VARCHAR NOT NULL, pid UINTEGER NOT NULL, command VARCHAR NOT NULL)`,
	`CREATE TABLE owner_label (owner INTEGER NOT NULL, key VARCHAR NOT NULL, value VARCHAR NOT NULL)`,
	`CREATE TABLE owner_map ` + ownerMap,
	`CREATE TABLE served ` + servedColumns,

	`CREATE TABLE device (
		id INTEGER NOT NULL, fingerprint UUID NOT NULL, uuid VARCHAR NOT NULL,
		cluster VARCHAR NOT NULL, node VARCHAR NOT NULL, model VARCHAR NOT NULL, capacity_type VARCHAR NOT NULL,
		memory_bytes BIGINT NOT NULL, parent VARCHAR NOT NULL, profile VARCHAR NOT NULL,
		compute INTEGER NOT NULL, compute_of INTEGER NOT NULL, memory INTEGER NOT NULL, memory_of INTEGER NOT NULL,
		remainder BOOLEAN NOT NULL, sensors UTINYINT NOT NULL)`,
	`CREATE TABLE device_label (device INTEGER NOT NULL, key VARCHAR NOT NULL, value VARCHAR NOT NULL)`,

	`CREATE TABLE method (id INTEGER NOT NULL, name VARCHAR NOT NULL)`,
	`CREATE TABLE series (
		id INTEGER NOT NULL, device INTEGER NOT NULL, owner INTEGER NOT NULL,
		basis UTINYINT NOT NULL, method INTEGER NOT NULL, revision UINTEGER NOT NULL)`,
	`CREATE TABLE tally_series (
		id INTEGER NOT NULL, owner INTEGER NOT NULL,
		model VARCHAR NOT NULL, tenant VARCHAR NOT NULL, tier VARCHAR NOT NULL, measure VARCHAR NOT NULL)`,

	// bucket counts from 1970 in units of the resolution. Several rows of one
	// (bucket, series) add up.
	factTable("minute"), factTable("hour"), factTable("day"),
	tallyTable("minute"), tallyTable("hour"), tallyTable("day"),
	// Buckets of rolled hours and days to which something came late.
	`CREATE TABLE late (day BOOLEAN NOT NULL, bucket INTEGER NOT NULL)`,

	`CREATE TABLE life (id INTEGER NOT NULL, cluster VARCHAR NOT NULL, node VARCHAR NOT NULL, boot UUID NOT NULL)`,
	rosterTable, chunkTable, coveredTable,

	transferTable,

	`CREATE TABLE document (kind VARCHAR NOT NULL, revision INTEGER NOT NULL, applied BIGINT NOT NULL, body BLOB NOT NULL)`,
}

func factTable(name string) string {
	return `CREATE TABLE ` + name + ` (bucket INTEGER NOT NULL, series INTEGER NOT NULL,
		time BIGINT NOT NULL, gap BIGINT NOT NULL, memory BIGINT NOT NULL, energy BIGINT NOT NULL, cost BIGINT NOT NULL)`
}

func tallyTable(name string) string {
	return `CREATE TABLE tally_` + name + ` (bucket INTEGER NOT NULL, series INTEGER NOT NULL, value BIGINT NOT NULL)`
}
