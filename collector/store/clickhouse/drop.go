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
	if !s.droppable() {
		return nil
	}
	if _, err := s.dropPartitions(ctx, "chunk", `intDiv(slot, 8640)`, fmt.Sprintf(`slot < %d`, slotOf(max(st.SecondKept-dropAfter, -maxSecond))), func(string) attribution.Second {
		return slotOf(st.SecondKept - dropAfter)
	}, 8640, ""); err != nil {
		return err
	}
	// Claims are in covered by then, or were never logged.
	claims, err := s.dropPartitions(ctx, "span", `intDiv(began, 86400)`, fmt.Sprintf(`began < %d`, st.compacted-dropAfter), func(string) attribution.Second {
		return st.compacted - dropAfter
	}, 86400, "")
	if err == nil && claims > 0 && s.options.Cluster == "" { // which is once a day
		err = s.forget(ctx)
	}
	if err != nil {
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
			_, err := s.dropPartitions(ctx, prefix+x.table, fmt.Sprintf(`intDiv(bucket, %d)`, x.length), fmt.Sprintf(`bucket < %d`, x.kept-dropAfter), func(lane string) attribution.Second {
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
// lane's where partitions are of lanes, and returns how many they were.
func (s *Store) dropPartitions(ctx context.Context, name, partition, where string, limit func(lane string) attribution.Second, length attribution.Second, lane string) (dropped int, err error) {
	type part struct {
		lane string
		n    int64
	}
	var old []part
	by := lane
	if by == "" {
		by = `''`
	}
	err = s.client.query(ctx, fmt.Sprintf(`SELECT DISTINCT %s, toInt64(%s) FROM %s WHERE %s`, by, partition, name, where), func(d *decoder) error {
		p := part{d.str(), d.i64()}
		// What lies before 1970 is left alone: division rounds the other way.
		if end := attribution.Second(p.n+1) * length; p.n >= 0 && end <= limit(p.lane) {
			old = append(old, p)
		}
		return d.err
	})
	if err != nil {
		return 0, err
	}
	for i, p := range old {
		id := number(p.n)
		if lane != "" {
			id = `(` + quote(p.lane) + `, ` + id + `)`
		}
		if err := s.alter(ctx, name, `DROP PARTITION `+id); err != nil {
			return i, err
		}
	}
	return len(old), nil
}

// droppable reports whether servers that drop a partition forget that it was
// written to a quorum. Replicas of versions before 20.10 may not: they look for its
// last part whenever they are asked for all that was acknowledged, and refuse every
// question about the table for ever. There, what retention hides stays on the disks.
func (s *Store) droppable() bool { return s.options.Cluster == "" || s.client.version >= 2010 }

// alter changes a table where its rows are.
func (s *Store) alter(ctx context.Context, name, how string) error {
	if s.options.Cluster != "" {
		name += "_local"
	}
	return s.client.exec(ctx, `ALTER TABLE `+s.client.database+`.`+name+s.options.onCluster()+` `+how)
}
