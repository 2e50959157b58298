package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// timeRange is --from, --to and --last of a command.
type timeRange struct{ from, to, last string }

func (r *timeRange) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.from, "from", "", "start, inclusive: RFC 3339 time, date, Unix second, today or yesterday (default: everything)")
	f.StringVar(&r.to, "to", "", "end, exclusive: as --from, or now")
	f.StringVar(&r.last, "last", "", "the time up to now instead, such as 90s, 30m, 24h, 7d, 4w")
}

// unix resolves the flags to Unix seconds at the time now; 0, 0 is everything.
func (r *timeRange) unix(now time.Time) (from, to int64, err error) {
	if r.last != "" {
		if r.from != "" || r.to != "" {
			return 0, 0, usagef("--last and --from/--to exclude each other")
		}
		d, err := parseSpan(r.last)
		if err != nil {
			return 0, 0, err
		}
		return now.Add(-d).Unix(), now.Unix(), nil
	}
	if r.from == "" && r.to == "" {
		return 0, 0, nil
	}
	if r.from == "" {
		return 0, 0, usagef("--to needs --from")
	}
	if from, err = parseTime(r.from, now); err != nil {
		return 0, 0, err
	}
	to = now.Unix()
	if r.to != "" {
		if to, err = parseTime(r.to, now); err != nil {
			return 0, 0, err
		}
	}
	if from >= to {
		return 0, 0, usagef("the range is empty: --from %s is not before its end (%s)", r.from, time.Unix(to, 0).UTC().Format(time.RFC3339))
	}
	return from, to, nil
}

func parseTime(s string, now time.Time) (int64, error) {
	now = now.UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	switch s {
	case "now":
		return now.Unix(), nil
	case "today":
		return day.Unix(), nil
	case "yesterday":
		return day.AddDate(0, 0, -1).Unix(), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.Unix(), nil
		}
	}
	return 0, usagef("%q is not a time: write it like 2026-01-31T12:00:00Z, 2026-01-31, 1769860800, today or yesterday (UTC)", s)
}

// parseSpan is time.ParseDuration with days and weeks.
func parseSpan(s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			v, err := strconv.ParseUint(n, 10, 16)
			if err != nil || v == 0 {
				return 0, usagef("%q is not a span of time: write it like 30m, 24h, 7d or 4w", s)
			}
			return time.Duration(v) * unit, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, usagef("%q is not a span of time: write it like 30m, 24h, 7d or 4w", s)
	}
	if d%time.Second != 0 {
		return 0, usagef("%q is not in whole seconds, which is the finest that the ledger has", s)
	}
	return d, nil
}

// spanText names an answered range for people.
func spanText(from, to int64) string {
	if from == 0 && to == 0 {
		return "nothing recorded yet"
	}
	f, t := time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC()
	return fmt.Sprintf("%s to %s UTC (%s)", f.Format("2006-01-02 15:04:05"), t.Format("2006-01-02 15:04:05"), t.Sub(f))
}
