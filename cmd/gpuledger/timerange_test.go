package main

import (
	"strings"
	"testing"
	"time"
)

func TestTimeRange(t *testing.T) {
	// 23:30 in New York is the next day in UTC, in which the ledger counts.
	now := time.Date(2026, 3, 9, 23, 30, 0, 0, time.FixedZone("EDT", -4*3600))
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.Unix()
	}
	for _, c := range []struct {
		name     string
		r        timeRange
		from, to int64
		bad      string
	}{
		{name: "everything"},
		{name: "last", r: timeRange{last: "90s"}, from: now.Unix() - 90, to: now.Unix()},
		{name: "last days", r: timeRange{last: "7d"}, from: now.Unix() - 7*86400, to: now.Unix()},
		{name: "last weeks", r: timeRange{last: "4w"}, from: now.Unix() - 28*86400, to: now.Unix()},
		{name: "from", r: timeRange{from: "2026-03-01"}, from: at("2026-03-01T00:00:00Z"), to: now.Unix()},
		{name: "from, to", r: timeRange{from: "2026-03-01T10:00:00+02:00", to: "2026-03-01 09:30:00"}, from: at("2026-03-01T08:00:00Z"), to: at("2026-03-01T09:30:00Z")},
		{name: "minutes", r: timeRange{from: "2026-03-01T10:00", to: "2026-03-01T10:01:30"}, from: at("2026-03-01T10:00:00Z"), to: at("2026-03-01T10:01:30Z")},
		{name: "Unix", r: timeRange{from: "1700000000", to: "1700000060"}, from: 1700000000, to: 1700000060},
		{name: "today", r: timeRange{from: "today"}, from: at("2026-03-10T00:00:00Z"), to: now.Unix()},
		{name: "yesterday", r: timeRange{from: "yesterday", to: "today"}, from: at("2026-03-09T00:00:00Z"), to: at("2026-03-10T00:00:00Z")},
		{name: "now", r: timeRange{from: "today", to: "now"}, from: at("2026-03-10T00:00:00Z"), to: now.Unix()},
		{name: "the future", r: timeRange{from: "2999-01-01"}, bad: "the range is empty"},
		{name: "empty", r: timeRange{from: "5", to: "5"}, bad: "the range is empty"},
		{name: "no start", r: timeRange{to: "today"}, bad: "--to needs --from"},
		{name: "both", r: timeRange{to: "today", last: "5m"}, bad: "exclude each other"},
		{name: "no time", r: timeRange{from: "tomorrow"}, bad: `"tomorrow" is not a time`},
		{name: "no end", r: timeRange{from: "today", to: "2026-13-01"}, bad: `"2026-13-01" is not a time`},
		{name: "no span", r: timeRange{last: "d"}, bad: "not a span"},
		{name: "negative span", r: timeRange{last: "-7d"}, bad: "not a span"},
		{name: "tiny span", r: timeRange{last: "10ms"}, bad: "not a span"},
		{name: "odd span", r: timeRange{last: "1.5s"}, bad: "not in whole seconds"},
	} {
		from, to, err := c.r.unix(now)
		switch {
		case c.bad != "":
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want %q", c.name, err, c.bad)
			}
			if _, usage := err.(usageError); !usage { //nolint:errorlint // the very type decides on the exit code
				t.Errorf("%s: %v is no usage error", c.name, err)
			}
		case err != nil || from != c.from || to != c.to:
			t.Errorf("%s: %d, %d, %v, want %d, %d", c.name, from, to, err, c.from, c.to)
		}
	}
}

func TestSpanText(t *testing.T) {
	if got := spanText(0, 0); got != "nothing recorded yet" {
		t.Error(got)
	}
	if got := spanText(1700000000, 1700086460); got != "2023-11-14 22:13:20 to 2023-11-15 22:14:20 UTC (24h1m0s)" {
		t.Error(got)
	}
}
