package opencost

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
)

const (
	minute = 60
	hour   = 3600
	day    = 86400
)

// window is [from, to). One that was asked for as a duration has length set
// instead, and no edges yet: they follow the clock, and what is still kept.
type window struct {
	from, to       attribution.Second
	length, offset int64 // seconds
}

const windowHint = `write today, yesterday, week, month, lastweek or lastmonth, a duration like 30m, 12h or 7d ("7d offset 1d" ends a day ago), a pair of RFC 3339 times, or a pair of Unix seconds; all in UTC`

// parseWindow reads a window as OpenCost writes it. All times are UTC; weeks
// begin on Sunday.
func parseWindow(text string, now time.Time) (window, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return window{}, query.Invalid("window is missing: %s", windowHint)
	}
	if w, ok := wordWindow(text, now.UTC()); ok {
		return w, nil
	}
	if a, b, ok := strings.Cut(text, ","); ok {
		return pairWindow(a, b)
	}
	length, offset, relative := strings.Cut(text, " offset ")
	w := window{}
	var ok bool
	if w.length, ok = parseSpan(length); !ok {
		return w, query.Invalid("window %.80q: %s", text, windowHint)
	}
	if relative {
		if w.offset, ok = parseSpan(offset); !ok {
			return w, query.Invalid("window %.80q: %s", text, windowHint)
		}
	}
	return w, nil
}

func wordWindow(word string, now time.Time) (window, bool) {
	y, m, d := now.Date()
	date := func(y int, m time.Month, d int) attribution.Second {
		return attribution.Second(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix())
	}
	today, tomorrow, sunday := date(y, m, d), date(y, m, d+1), date(y, m, d-int(now.Weekday()))
	switch word {
	case "today":
		return window{from: today, to: tomorrow}, true
	case "yesterday":
		return window{from: today - day, to: today}, true
	case "week":
		return window{from: sunday, to: tomorrow}, true
	case "lastweek":
		return window{from: sunday - 7*day, to: sunday}, true
	case "month":
		return window{from: date(y, m, 1), to: tomorrow}, true
	case "lastmonth":
		return window{from: date(y, m-1, 1), to: date(y, m, 1)}, true
	}
	return window{}, false
}

func pairWindow(a, b string) (w window, err error) {
	if w.from, err = parseTime(a); err != nil {
		return w, err
	}
	if w.to, err = parseTime(b); err != nil {
		return w, err
	}
	if w.from >= w.to {
		return w, query.Invalid("window %.40q to %.40q is empty: its start must be before its end", a, b)
	}
	return w, query.CheckRange(w.from, w.to)
}

// parseTime reads Unix seconds, an RFC 3339 time, or a date.
func parseTime(text string) (attribution.Second, error) {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return attribution.Second(n), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if t.Nanosecond() != 0 {
			return 0, query.Invalid("window: %.40q: times are whole seconds", text)
		}
		return attribution.Second(t.Unix()), nil
	}
	return 0, query.Invalid("window: %.40q is no time: want RFC 3339, such as 2026-01-02T15:04:05Z, or Unix seconds", text)
}

// parseSpan reads a duration such as 90m or 7d, in seconds.
func parseSpan(text string) (int64, bool) {
	text = strings.TrimSpace(text)
	if len(text) < 2 || len(text) > 10 {
		return 0, false
	}
	units := map[byte]int64{'s': 1, 'm': minute, 'h': hour, 'd': day, 'w': 7 * day}
	unit, ok := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	return int64(n) * unit, ok && err == nil && n > 0
}

// ending gives a duration its edges: whole units of time, the last of which
// the clock is in. Others are as they were.
func (w window) ending(now time.Time, unit int64) (window, error) {
	if w.length == 0 {
		return w, nil
	}
	end := now.Unix() - w.offset
	w.to = attribution.Second(end - end%unit + unit)
	length := (w.length + unit - 1) / unit * unit
	w.from = w.to - attribution.Second(length)
	if w.from < 0 {
		return w, query.Invalid("window: it would begin before 1970")
	}
	w.length, w.offset = 0, 0
	return w, nil
}

// maxSets bounds how many sets a window is cut into.
const maxSets = 1000

// sets cuts a window into sets of step seconds (0: one set) or, with a period,
// of that period of the UTC calendar. They adjoin, and make the window.
func (w window) sets(step int64, period string) ([]window, error) {
	var out []window
	for at := w.from; at < w.to; {
		if len(out) == maxSets {
			return nil, query.Invalid("the window has more than %d sets: take a longer step, or a shorter window", maxSets)
		}
		next := w.to
		switch {
		case period != "":
			next = min(next, periodEnd(at, period))
		case step > 0:
			next = min(next, at+attribution.Second(step))
		}
		out = append(out, window{from: at, to: next})
		at = next
	}
	return out, nil
}

// periodEnd is the end of the calendar's period that a second is in.
func periodEnd(s attribution.Second, period string) attribution.Second {
	t := time.Unix(int64(s), 0).UTC()
	y, m, d := t.Date()
	switch period {
	case "hour":
		return s - s%hour + hour
	case "day":
		return s - s%day + day
	case "week":
		d += 7 - int(t.Weekday())
	case "month":
		m, d = m+1, 1
	case "quarter":
		m, d = m-(m-1)%3+3, 1
	default:
		panic(fmt.Sprintf("BUG: opencost: %q is no period", period))
	}
	return attribution.Second(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix())
}

func rfc3339(s attribution.Second) string { return time.Unix(int64(s), 0).UTC().Format(time.RFC3339) }
