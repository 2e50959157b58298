package kube_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ledger is what the collector says: who answers for each second of each
// device, by pod. The pod "" is nobody.
type ledger struct {
	from, to int64
	entries  map[entry]bases
}

type entry struct {
	second int64
	device string
	pod    string
}

// bases are device times in ns by basis.
type bases map[string]int64

func (b bases) sum() int64 {
	var sum int64
	for _, ns := range b {
		sum += ns
	}
	return sum
}

// readLedger asks for [from, to) by second.
func readLedger(ctx context.Context, p *project, from, to int64) (*ledger, error) {
	var answer struct {
		Rows []struct {
			Time    string // 64 bits travel as text
			Keys    []string
			Missing []bool
			ByBasis []struct {
				Basis        string
				DeviceTimeNs string `json:"device_time_ns"`
			} `json:"by_basis"`
		}
	}
	query := url.Values{
		"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}, "step": {"1"}, "group_by": {"device", "pod"},
	}
	if err := p.ask(ctx, "/v1/report", query, &answer); err != nil {
		return nil, err
	}
	l := &ledger{from: from, to: to, entries: map[entry]bases{}}
	for _, row := range answer.Rows {
		second, err := strconv.ParseInt(row.Time, 10, 64)
		if err != nil || len(row.Keys) != 2 {
			return nil, fmt.Errorf("a row that makes no sense: %+v", row)
		}
		b := bases{}
		for _, sum := range row.ByBasis {
			if b[sum.Basis], err = strconv.ParseInt(sum.DeviceTimeNs, 10, 64); err != nil {
				return nil, err
			}
		}
		l.entries[entry{second, row.Keys[0], row.Keys[1]}] = b
	}
	return l, nil
}

// usedBy is the device time used in [from, to), by a fact on owners.
func usedBy(ctx context.Context, p *project, key string, from, to int64) (map[string]time.Duration, error) {
	var answer struct {
		Rows []struct {
			Keys    []string
			ByBasis []struct {
				Basis        string
				DeviceTimeNs string `json:"device_time_ns"`
			} `json:"by_basis"`
		}
	}
	query := url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}, "group_by": {key}}
	if err := p.ask(ctx, "/v1/report", query, &answer); err != nil {
		return nil, err
	}
	used := map[string]time.Duration{}
	for _, row := range answer.Rows {
		for _, sum := range row.ByBasis {
			ns, err := strconv.ParseInt(sum.DeviceTimeNs, 10, 64)
			if err != nil || len(row.Keys) != 1 {
				return nil, fmt.Errorf("a row that makes no sense: %+v", row)
			}
			if sum.Basis == "used" {
				used[row.Keys[0]] += time.Duration(ns)
			}
		}
	}
	return used, nil
}

// of is what a pod answers for in a second, on all devices.
func (l *ledger) of(second int64, pod string) bases {
	all := bases{}
	for _, device := range []string{gpuA, gpuB} {
		for basis, ns := range l.entries[entry{second, device, pod}] {
			all[basis] += ns
		}
	}
	return all
}

// billed are the seconds in which a pod answers for something.
func (l *ledger) billed(pod string) []int64 {
	seen := map[int64]bool{}
	for e, b := range l.entries {
		if e.pod == pod && b.sum() > 0 {
			seen[e.second] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// sum is a pod's device time of one basis.
func (l *ledger) sum(pod, basis string) time.Duration {
	var ns int64
	for e, b := range l.entries {
		if e.pod == pod {
			ns += b[basis]
		}
	}
	return time.Duration(ns)
}

// used is the device time that pods have used.
func (l *ledger) used() time.Duration {
	var sum time.Duration
	for _, pod := range l.pods() {
		sum += l.sum(pod, "used")
	}
	return sum
}

// conserved fails where a second of a device is not shared out exactly.
func (l *ledger) conserved() error {
	type place struct {
		second int64
		device string
	}
	shared := map[place]int64{}
	for e, b := range l.entries {
		shared[place{e.second, e.device}] += b.sum()
	}
	for _, device := range []string{gpuA, gpuB} {
		for second := l.from; second < l.to; second++ {
			if ns := shared[place{second, device}]; ns != int64(time.Second) {
				return fmt.Errorf("second %d of %s: %d ns are shared out", second, device, ns)
			}
		}
	}
	return nil
}

// pods are those that answer for anything, by when they first did.
func (l *ledger) pods() []string {
	first := map[string]int64{}
	for e, b := range l.entries {
		if at, seen := first[e.pod]; b.sum() > 0 && e.pod != "" && (!seen || e.second < at) {
			first[e.pod] = e.second
		}
	}
	return slices.SortedFunc(maps.Keys(first), func(a, b string) int {
		return cmp.Or(cmp.Compare(first[a], first[b]), cmp.Compare(a, b))
	})
}

// table shows the ledger as a person reads it: a row for each second, a column
// for each pod, and hundredths of a device in it, used+reserved, with ? for
// what nobody looked at. notes are what happened when.
func (l *ledger) table(notes map[int64]string) string {
	var b strings.Builder
	pods := l.pods()
	b.WriteString("hundredths of a GPU: used+reserved, ?unobserved, !unattributed; · nothing\n")
	for i, pod := range pods {
		fmt.Fprintf(&b, "  [%c] %s\n", 'a'+rune(i), pod)
	}
	b.WriteString("second")
	for i := range pods {
		fmt.Fprintf(&b, "  %6s", "["+string('a'+rune(i))+"]")
	}
	b.WriteString("  nobody\n")
	for second := l.from; second < l.to; second++ {
		fmt.Fprintf(&b, "%6d", second-l.from)
		for _, pod := range append(slices.Clone(pods), "") {
			fmt.Fprintf(&b, "  %6s", cell(l.of(second, pod)))
		}
		fmt.Fprintf(&b, "  %s\n", notes[second])
	}
	return b.String()
}

// cell is one field of the table.
func cell(b bases) string {
	if b.sum() == 0 {
		return "·"
	}
	hundredths := func(ns int64) string {
		if ns == 0 {
			return ""
		}
		return strconv.FormatInt((ns+5e6)/1e7, 10)
	}
	idle := b["reserved"] + b["unallocated"]
	text := hundredths(b["used"])
	if idle > 0 {
		text += "+" + hundredths(idle)
	}
	if ns := b["unobserved"]; ns > 0 {
		text += "?" + hundredths(ns)
	}
	if ns := b["unattributed"]; ns > 5e6 {
		text += "!" + hundredths(ns)
	}
	return text
}
