package gateway

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// mostProcesses is how many processes of a gateway are remembered. Beyond
	// it the one that was not seen for longest is forgotten.
	mostProcesses = 512
	// warnFor is how long an address is warned of after it last gave reason.
	warnFor attribution.Second = 3600
	// fallsToWarn is how often counts may fall within warnFor.
	fallsToWarn = 3
)

// processes are those that answered under the addresses of a gateway. Each is
// followed for itself, so that counts of one are never taken for another's.
type processes struct {
	seen      map[string]attribution.Second // by name, when last
	addresses map[string]*address
}

// address is what is known of where pages are.
type address struct {
	current   string               // process that answered last
	alternate attribution.Second   // when one answered again that another had come after; 0: never
	falls     []attribution.Second // when counts fell without the page telling a start
}

func (a *address) alternates(now attribution.Second) bool {
	return a.alternate != 0 && now-a.alternate < warnFor
}

func newProcesses() *processes {
	return &processes{seen: make(map[string]attribution.Second), addresses: make(map[string]*address)}
}

// of names the process that answered at an address, by when it started (Unix
// ns; 0: the page does not tell): "" where it might be any of several. gone are
// the names of those that are forgotten for it.
func (ps *processes) of(at string, started int64, now attribution.Second) (name string, gone []string) {
	a := ps.addresses[at]
	if a == nil {
		a = new(address)
		ps.addresses[at] = a
	}
	if name = ps.name(at, started); started == 0 && name != at && a.alternates(now) {
		return "", nil
	}
	_, known := ps.seen[name]
	if known && a.current != "" && a.current != name {
		a.alternate = now
	}
	a.current = name
	ps.seen[name] = now
	for len(ps.seen) > mostProcesses {
		oldest := name
		for n, last := range ps.seen {
			if n != name && (oldest == name || cmp.Or(cmp.Compare(last, ps.seen[oldest]), cmp.Compare(n, oldest)) < 0) {
				oldest = n
			}
		}
		delete(ps.seen, oldest)
		gone = append(gone, oldest)
	}
	return name, gone
}

// name is that of a process which is known, where it is, else a new one. A
// process whose start was not told when it was first seen has the address's
// name, and so have those after it: what was counted must not be counted again
// under another name. A page that is not whole does not tell the start; it is
// then taken for the process that was seen last.
func (ps *processes) name(at string, started int64) string {
	if _, ok := ps.seen[at]; ok {
		return at
	}
	prefix, newest := at+"@", ""
	for n, last := range ps.seen {
		rest, ok := strings.CutPrefix(n, prefix)
		if !ok {
			continue
		}
		if known, err := strconv.ParseInt(rest, 10, 64); err == nil && started != 0 && sameStart(known, started) {
			return n
		}
		if newest == "" || last > ps.seen[newest] {
			newest = n
		}
	}
	switch {
	case started != 0:
		return prefix + strconv.FormatInt(started, 10)
	case newest != "":
		return newest
	}
	return at
}

// sameStart reports whether two starts, in Unix ns, are of one process. A
// program that reads its start from Linux adds the machine's boot time to it,
// in whole seconds, which may be told a second or two apart as the clock is
// adjusted. The hundredths then stay the same; those of replicas that were
// started together seldom are.
func sameStart(a, b int64) bool {
	const second, slack = int64(1e9), int64(1e6)
	d := max(a-b, b-a)
	return d <= 2*second+slack && (d%second <= slack || d%second >= second-slack)
}

// fell notes whether counts at an address fell, which is no news where the page
// tells the process's start.
func (ps *processes) fell(at string, fell bool, now attribution.Second) {
	a := ps.addresses[at]
	if !fell || strings.HasPrefix(a.current, at+"@") {
		return
	}
	a.falls = append(a.falls, now)
	if len(a.falls) > fallsToWarn {
		a.falls = a.falls[1:]
	}
}

// putBack forgets what was noted of times after latest, which the clock no
// longer tells.
func (ps *processes) putBack(latest attribution.Second) {
	for name, last := range ps.seen {
		ps.seen[name] = min(last, latest)
	}
	for _, a := range ps.addresses {
		a.alternate, a.falls = min(a.alternate, latest), nil
	}
}

// keep drops the addresses that no longer count.
func (ps *processes) keep(addresses []string) {
	for at := range ps.addresses {
		if !slices.Contains(addresses, at) {
			delete(ps.addresses, at)
		}
	}
}

// troubled are the addresses behind which several processes seem to answer in
// turn: those whose pages tell when a process began, for which counting is
// exact, and those whose pages do not, for which it is not.
func (ps *processes) troubled(now attribution.Second) (told, untold []string) {
	for at, a := range ps.addresses {
		switch {
		case a.alternates(now):
			told = append(told, at)
		case len(a.falls) == fallsToWarn && now-a.falls[0] < warnFor:
			untold = append(untold, at)
		}
	}
	slices.Sort(told)
	slices.Sort(untold)
	return told, untold
}
