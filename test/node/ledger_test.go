package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution/money"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// ledger is what the collector says of a node in [from, to), by second.
type ledger struct {
	t        *testing.T
	n        *node
	from, to int64
	rows     []row
	quiet    bool // what is as expected is not worth a line
}

// row is one owner's part of one second of one device.
type row struct {
	second        int64
	device        string
	owner         string // namespace/pod/container, SlurmJob/id, or "": a process, or nobody
	basis, method string
	time, sm      time.Duration
	cost          money.Amount
}

// read asks for [from, to); from 0 is everything.
func (n *node) read(from, to int64) *ledger {
	n.t.Helper()
	if from == 0 {
		from = n.gpus.Start.Unix() - 1
	}
	l := &ledger{t: n.t, n: n, from: from, to: to}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := shared.ledger.Report(ctx, &pb.ReportRequest{
		From: from, To: to, Step: 1, Filter: []string{"node=" + n.name},
		GroupBy: []string{"device", "namespace", "pod", "container", "controller", "basis", "method"},
	})
	n.must(err)
	for _, r := range answer.GetRows() {
		k := r.GetKeys()
		x := row{second: r.GetTime(), device: k[0], basis: k[5], method: k[6]}
		switch {
		case k[2] != "":
			x.owner = k[1] + "/" + k[2] + "/" + k[3]
		case k[4] != "":
			x.owner = k[4]
		}
		x.time, x.sm = l.nanos(r.GetSum().GetDeviceTimeNs()), l.nanos(r.GetSum().GetSmActiveNs())
		if x.time > 0 { // else it is but memory, which costs nothing
			x.cost, err = money.Parse(r.GetSum().GetCost())
			n.must(err)
		}
		l.rows = append(l.rows, x)
	}
	return l
}

func (l *ledger) nanos(s string) time.Duration {
	l.t.Helper()
	ns, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		l.t.Fatal(err)
	}
	return time.Duration(ns)
}

// between is the part of [from, to).
func (l *ledger) between(from, to int64) *ledger {
	l.t.Helper()
	if from < l.from || to > l.to || from >= to {
		l.t.Fatalf("[%d, %d) is not in [%d, %d)", from, to, l.from, l.to)
	}
	part := *l
	part.from, part.to = from, to
	part.rows = nil
	for _, r := range l.rows {
		if r.second >= from && r.second < to {
			part.rows = append(part.rows, r)
		}
	}
	return &part
}

// sum adds up what an owner has of a device on a basis; "*" is any.
func (l *ledger) sum(device, owner, basis string) (sum time.Duration) {
	for _, r := range l.rows {
		if (device == "*" || r.device == device) && (owner == "*" || r.owner == owner) && (basis == "*" || r.basis == basis) {
			sum += r.time
		}
	}
	return sum
}

// true is what processes did in the ledger's time.
func (l *ledger) true(loads ...*load) time.Duration {
	return sm(time.Unix(l.from, 0), time.Unix(l.to, 0), loads...)
}

// cost adds up what an owner pays for a device.
func (l *ledger) cost(device, owner string) (sum money.Amount) {
	for _, r := range l.rows {
		if (device == "*" || r.device == device) && r.owner == owner {
			sum += r.cost
		}
	}
	return sum
}

// methods are those by which a device was shared out.
func (l *ledger) methods(device string) []string {
	seen := map[string]bool{}
	for _, r := range l.rows {
		if r.device == device {
			seen[r.method] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// seconds is how many seconds it has of a device.
func (l *ledger) seconds(device string) int {
	seen := map[int64]bool{}
	for _, r := range l.rows {
		if r.device == device {
			seen[r.second] = true
		}
	}
	return len(seen)
}

// conserved checks law 1 and law 3: from a device's first second to its last
// none is missing or there twice, each is shared out whole, and costs its
// price; and unless the test has said otherwise, each device is in all
// seconds.
func (l *ledger) conserved() {
	l.t.Helper()
	type window struct {
		time time.Duration
		cost money.Amount
	}
	byDevice := map[string]map[int64]*window{}
	for _, r := range l.rows {
		if byDevice[r.device] == nil {
			byDevice[r.device] = map[int64]*window{}
		}
		w := byDevice[r.device][r.second]
		if w == nil {
			w = &window{}
			byDevice[r.device][r.second] = w
		}
		w.time += r.time
		w.cost += r.cost
	}
	if len(byDevice) == 0 {
		l.t.Error("the ledger has nothing of this node")
		return
	}
	first, last := l.rows[0].second, l.rows[len(l.rows)-1].second
	cut := map[string]bool{}
	for _, i := range l.n.gpus.Instances {
		cut[i.Device], cut[i.UUID] = true, true
	}
	for device, windows := range byDevice {
		from, to := slices.Min(slices.Collect(maps.Keys(windows))), slices.Max(slices.Collect(maps.Keys(windows)))
		if !l.n.gone[device] && (from != first || to != last) {
			l.t.Errorf("%s is in seconds %d to %d, of %d to %d", device, from, to, first, last)
		}
		for s := from; s <= to; s++ {
			w := windows[s]
			switch {
			case w == nil:
				l.t.Errorf("%s: second %d (%d after the first) is missing", device, s, s-first)
			case w.time != time.Second:
				l.t.Errorf("%s: second %d has %d ns", device, s, w.time)
			case !cut[device] && w.cost != money.SecondPrice(perHour, s):
				l.t.Errorf("%s: second %d costs %v, and not %v", device, s, w.cost, money.SecondPrice(perHour, s))
			}
		}
	}
	l.whole(first, last)
}

// whole checks that the instances of a GPU and its rest cost together what the
// GPU does: each rounds its own second down, so up to a nano-dollar each less,
// or more.
func (l *ledger) whole(first, last int64) {
	l.t.Helper()
	parent := map[string]string{}
	for _, i := range l.n.gpus.Instances {
		parent[i.Device], parent[i.UUID] = i.Device, i.Device
	}
	type key struct {
		gpu    string
		second int64
	}
	cost, parts := map[key]money.Amount{}, map[key]map[string]bool{}
	for _, r := range l.rows {
		k := key{parent[r.device], r.second}
		if k.gpu == "" {
			continue
		}
		if parts[k] == nil {
			parts[k] = map[string]bool{}
		}
		cost[k] += r.cost
		parts[k][r.device] = true
	}
	for k, c := range cost {
		off := c - money.SecondPrice(perHour, k.second)
		if n := money.Amount(len(parts[k])); off < -n || off > n {
			l.t.Errorf("%s in second %d (%d to %d): its %d parts cost %v, off by %v", k.gpu, k.second, first, last, n, c, off)
		}
	}
}

// String shows the ledger, a line for each second and device: hundredths of
// the second for each owner and basis.
func (l *ledger) String() string {
	rows := slices.Clone(l.rows)
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.second, b.second), cmp.Compare(a.basis, b.basis), cmp.Compare(a.owner, b.owner))
	})
	var b strings.Builder
	for i, r := range rows {
		if i == 0 || rows[i-1].device != r.device {
			fmt.Fprintf(&b, "\n%s", r.device)
		}
		if i == 0 || rows[i-1].device != r.device || rows[i-1].second != r.second {
			fmt.Fprintf(&b, "\n%4d %s", r.second-l.n.gpus.Start.Unix(), r.method)
		}
		fmt.Fprintf(&b, "  %s %s %.1f", cmp.Or(r.owner, "-"), r.basis, float64(r.time)/1e7)
	}
	return b.String()
}
