package clickhouse

import (
	"context"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// dropAfter is for how long rows stay that retention has hidden, so that a view
// from before still finds them.
const dropAfter = attribution.Second(rollup.Day)

// drop drops the partitions that nobody sees any more: of rows, those that their
// lane has folded. Whoever does it does the same.
func (s *Store) drop(ctx context.Context, st *state) error {
	if err := s.dropPartitions(ctx, "chunk", `intDiv(slot, 8640)`, fmt.Sprintf(`slot < %d`, slotOf(max(st.SecondKept-dropAfter, -maxSecond))), func(string) attribution.Second {
		return slotOf(st.SecondKept - dropAfter)
	}, 8640, ""); err != nil {
		return err
	}
	// Claims are in covered by then, or were never logged.
	if err := s.dropPartitions(ctx, "span", `intDiv(began, 86400)`, fmt.Sprintf(`began < %d`, st.compacted-dropAfter), func(string) attribution.Second {
		return st.compacted - dropAfter
	}, 86400, ""); err != nil {
		return err
	}
	for _, x := range []struct {
		table  string
		length attribution.Second // of a partition
		kept   attribution.Second
		rolled func(*entry) attribution.Second
	}{
		{"minute", 86400, st.MinuteKept, func(l *entry) attribution.Second { return l.HourRolled }},
		{"hour", 2592000, st.HourKept, func(l *entry) attribution.Second { return l.DayRolled }},
		{"day", 31104000, st.DayKept, func(*entry) attribution.Second { return maxSecond }},
	} {
		for _, prefix := range []string{"", "tally_"} {
			err := s.dropPartitions(ctx, prefix+x.table, fmt.Sprintf(`intDiv(bucket, %d)`, x.length), fmt.Sprintf(`bucket < %d`, x.kept-dropAfter), func(lane string) attribution.Second {
				l := st.lane(lane)
				return min(x.kept, x.rolled(&l)) - dropAfter
			}, x.length, "lane")
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// dropPartitions drops those of a table that end before a limit, which is a
// lane's where partitions are of lanes.
func (s *Store) dropPartitions(ctx context.Context, name, partition, where string, limit func(lane string) attribution.Second, length attribution.Second, lane string) error {
	type part struct {
		lane string
		n    int64
	}
	var old []part
	by := lane
	if by == "" {
		by = `''`
	}
	err := s.client.query(ctx, fmt.Sprintf(`SELECT DISTINCT %s, toInt64(%s) FROM %s WHERE %s`, by, partition, name, where), func(d *decoder) error {
		p := part{d.str(), d.i64()}
		// What lies before 1970 is left alone: division rounds the other way.
		if end := attribution.Second(p.n+1) * length; p.n >= 0 && end <= limit(p.lane) {
			old = append(old, p)
		}
		return d.err
	})
	if err != nil {
		return err
	}
	if s.options.Cluster != "" {
		name += "_local"
	}
	for _, p := range old {
		id := number(p.n)
		if lane != "" {
			id = `(` + quote(p.lane) + `, ` + id + `)`
		}
		if err := s.client.exec(ctx, `ALTER TABLE `+s.client.database+`.`+name+s.options.onCluster()+` DROP PARTITION `+id); err != nil {
			return err
		}
	}
	return nil
}
