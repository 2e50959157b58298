package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
	"github.com/gpuledger/gpuledger/test/simulation/memory"
)

// share is who has how much of a second.
type share struct {
	owner string
	basis attribution.Basis
	time  int64
}

// name is an owner as the checks compare it.
func name(o *attribution.Owner) string {
	return fmt.Sprintf("%s/%s/%s/%s/%d/%s", o.Kind, o.Namespace, o.Pod, o.Container, o.PID, o.Command)
}

func nobody() string { return name(&attribution.Owner{}) }

// observed is what the script says of a second of a device.
func (s *script) observed(device int, second attribution.Second) (out []share) {
	rest := attribution.WindowNanos
	for _, w := range s.workers(device, second) {
		basis := attribution.Used
		if w.owner.Kind == attribution.UnknownProcess {
			basis = attribution.Unattributed
		}
		if w.active > 0 {
			out = append(out, share{name(w.owner), basis, w.active})
		}
		rest -= w.active
	}
	return sorted(append(out, divided(rest, s.holders(device, second), attribution.Reserved, attribution.Unallocated)...))
}

// unobserved is what a second is in which nobody looked.
func (s *script) unobserved(device int, heldAt attribution.Second) []share {
	return sorted(divided(attribution.WindowNanos, s.holders(device, heldAt), attribution.Unobserved, attribution.Unobserved))
}

// divided divides time over holders by replicas, else gives it to nobody. What
// does not divide goes to the largest remainder, of equal ones to the first.
func divided(time int64, hs []holder, held, none attribution.Basis) (out []share) {
	if time == 0 {
		return nil
	}
	if len(hs) == 0 {
		return []share{{nobody(), none, time}}
	}
	hs = slices.Clone(hs)
	slices.SortFunc(hs, func(a, b holder) int { return attribution.CompareOwners(a.owner, b.owner) })
	all, left := int64(0), time
	for _, h := range hs {
		all += h.replicas
	}
	remainders := make([]int64, len(hs))
	for i, h := range hs {
		part := time * h.replicas / all
		remainders[i] = time * h.replicas % all
		out = append(out, share{name(h.owner), held, part})
		left -= part
	}
	for ; left > 0; left-- {
		most := 0
		for i := range remainders {
			if remainders[i] > remainders[most] {
				most = i
			}
		}
		out[most].time++
		remainders[most] = -1
	}
	return out
}

func sorted(xs []share) []share {
	slices.SortFunc(xs, func(a, b share) int {
		if a.owner != b.owner {
			if a.owner < b.owner {
				return -1
			}
			return 1
		}
		return int(a.basis) - int(b.basis)
	})
	return xs
}

// stored is a window as the ledger has it.
type stored struct {
	shares []share
	price  attribution.Price
}

// holding is everything that the ledger holds.
type holding struct {
	seconds map[string]map[attribution.Second]map[int]stored // by node, second, device
	time    map[string]*big.Int                              // by pod
	windows int64
	cost    big.Int // as the journal says
}

// checkAll compares the ledger with the model.
func (w *world) checkAll() {
	h := &holding{seconds: map[string]map[attribution.Second]map[int]stored{}, time: map[string]*big.Int{}}
	st, err := w.ledger.open(nil)
	if err != nil {
		w.broken("the ledger can't be opened: %v", err)
		return
	}
	defer st.Kill()
	j, err := journal(st)
	if err == nil {
		err = everything(st, w.ledger.decode, func(c *attribution.Chunk) { w.take(h, c, j) })
	}
	if err != nil {
		w.broken("the ledger can't be read: %v", err)
		return
	}
	for _, n := range w.nodes {
		w.checkNode(n, h.seconds[n.name])
	}
	w.checkSums(st, h)
	w.checkLaws(st)
	w.stats.windows = h.windows
}

// journal is the journal of reratings.
func journal(st store.Store) (j *rerating.Journal, err error) {
	err = st.View(context.Background(), func(r store.Reader) error {
		j, err = r.Journal(context.Background())
		return err
	})
	return j, err
}

// take notes a chunk. Each window is a second, and costs the second's price
// (law 1); none is there twice (4).
func (w *world) take(h *holding, c *attribution.Chunk, j *rerating.Journal) {
	_, _ = fmt.Fprintf(w.trace, "%s %x %d %d %d\n", c.Key.Node, c.Key.Boot, c.Key.Sequence, c.Seconds, len(c.Windows))
	if w.o.Tell != nil {
		w.o.Tell(fmt.Sprintf("chunk of %s: %d to %d, %d windows", c.Key.Node, c.Key.Sequence, c.End(), len(c.Windows)))
	}
	node := w.byName[c.Key.Node]
	seconds := h.seconds[c.Key.Node]
	if seconds == nil {
		seconds = map[attribution.Second]map[int]stored{}
		h.seconds[c.Key.Node] = seconds
	}
	for s := c.Key.Sequence; s < c.End(); s++ {
		if seconds[s] != nil {
			w.broken("law 4: second %d of %s is stored twice", s, c.Key.Node)
		}
		seconds[s] = map[int]stored{}
	}
	for i := range c.Windows {
		x := &c.Windows[i]
		device := slices.IndexFunc(node.script.devices, func(d *attribution.Device) bool { return d.ID == c.Roster.Devices[x.Device].ID })
		var got stored
		got.price = x.Price
		var time int64
		var cost money.Amount
		for _, s := range x.Slices {
			time += s.Time
			cost += s.Cost
			o := &c.Roster.Owners[s.Owner]
			if s.Time != 0 {
				got.shares = append(got.shares, share{name(o), s.Basis, s.Time})
			}
			if h.time[o.Pod] == nil {
				h.time[o.Pod] = new(big.Int)
			}
			h.time[o.Pod].Add(h.time[o.Pod], big.NewInt(s.Time))
		}
		if time != attribution.WindowNanos {
			w.broken("law 1: second %d of %s: %d ns", x.Second, c.Key.Node, time)
		}
		if want := second(x.Price.PerHour, x.Second); x.Price.Known() && cost != want {
			w.broken("law 1: second %d of %s costs %d, not %d", x.Second, c.Key.Node, cost, want)
		}
		got.shares = sorted(got.shares)
		seconds[x.Second][device] = got
		h.windows++
		h.cost.Add(&h.cost, big.NewInt(int64(w.rerated(j, x, node.script.devices[device].Model))))
	}
}

// second is the price of one second: what the hours up to its end cost, less
// what those up to its beginning did.
func second(perHour money.Amount, t attribution.Second) money.Amount {
	whole := func(t attribution.Second) money.Amount {
		x := new(big.Int).Mul(big.NewInt(int64(t)), big.NewInt(int64(perHour)))
		return money.Amount(x.Div(x, big.NewInt(3600)).Int64())
	}
	return whole(t+1) - whole(t)
}

// rerated is what a second costs by the journal: by the newest entry in force
// that covers it, else as it was.
func (w *world) rerated(j *rerating.Journal, x *attribution.DeviceWindow, model string) money.Amount {
	for _, e := range slices.Backward(j.Entries()) {
		if e.Card != nil && j.UndoneBy(e.ID) == 0 && x.Second >= e.From && x.Second < e.To {
			return second(perHour(e.Card, model), x.Second)
		}
	}
	if !x.Price.Known() {
		return 0
	}
	return second(x.Price.PerHour, x.Second)
}

// checkNode compares a node's seconds with what they may be (laws 2, 3, 5, 6).
func (w *world) checkNode(n *node, seconds map[attribution.Second]map[int]stored) {
	out, last := n.outcomes(), map[*machineLife]attribution.Second{}
	w.stats.seconds += int64(len(seconds))
	for s, devices := range seconds {
		switch o := out[s]; {
		case o != nil && o.life != nil:
			last[o.life] = max(last[o.life], s)
		case o == nil && len(devices) > 0:
			w.broken("law 3: second %d of %s is stored, but the node was not up", s, n.name)
		}
	}
	for s, o := range out {
		devices, there := seconds[s]
		switch {
		case !there && o.must:
			w.broken("law 3: second %d of %s is missing", s, n.name)
			continue
		case !there && o.firm && s < last[o.life]:
			w.broken("law 3: second %d of %s is missing, and a later one, %d, is not", s, n.name, last[o.life])
			continue
		case !there:
			continue
		case o.windows && len(devices) != len(n.script.devices):
			w.broken("law 2: second %d of %s has %d devices", s, n.name, len(devices))
		}
		for d, got := range devices {
			w.checkWindow(n, d, s, o, &got)
		}
	}
}

func (w *world) checkWindow(n *node, device int, s attribution.Second, o *outcome, got *stored) {
	if why := w.priced(n, device, o, got.price); why != "" {
		w.broken("law 6: second %d of %s: %s", s, n.name, why)
	}
	if o.observed && slices.Equal(got.shares, n.script.observed(device, s)) {
		w.stats.observed++
		return
	}
	if o.unobserved && w.heldRight(n, device, o, got) {
		w.stats.unobserved++
		return
	}
	w.broken("law 2: second %d of device %d of %s is %+v, and may be observed %v: %+v, or unobserved %v as held in %v",
		s, device, n.name, got.shares, o.observed, n.script.observed(device, s), o.unobserved, o.held)
}

// heldRight reports whether an unobserved second is billed to those who held
// the device.
func (w *world) heldRight(n *node, device int, o *outcome, got *stored) bool {
	if o.anyone {
		return !slices.ContainsFunc(got.shares, func(x share) bool { return x.basis != attribution.Unobserved })
	}
	epoch := attribution.Second(n.script.epoch)
	for _, x := range o.held {
		for at := x.from; at <= x.to; at += max(1, min(epoch, x.to-at)) {
			if slices.Equal(got.shares, n.script.unobserved(device, at)) {
				return true
			}
		}
	}
	return false
}

// priced says what is wrong with a window's price.
func (w *world) priced(n *node, device int, o *outcome, p attribution.Price) string {
	if p.Revision < o.lo || p.Revision > o.hi {
		return fmt.Sprintf("it is priced by card %d, not %d to %d", p.Revision, o.lo, o.hi)
	}
	if p.Revision == 0 {
		return ""
	}
	card := w.model.cards[p.Revision]
	if card == nil {
		return fmt.Sprintf("it is priced by card %d, which does not exist", p.Revision)
	}
	if want := perHour(card, n.script.devices[device].Model); p.PerHour != want {
		return fmt.Sprintf("an hour costs %d, and %d by card %d", p.PerHour, want, p.Revision)
	}
	return ""
}

// checkSums asks the ledger for sums, and adds them up the dumb way.
func (w *world) checkSums(st store.Store, h *holding) {
	engine := query.New(query.Config{Store: st})
	err := engine.Snapshot(context.Background(), 0, 0, func(ctx context.Context, s *query.Snapshot) error {
		rows, err := s.Query(ctx, &store.Query{From: s.From, To: s.To, GroupBy: []store.Dimension{store.Pod}})
		if err != nil {
			return err
		}
		got, cost := map[string]*big.Int{}, new(big.Int)
		for i := range rows {
			pod := rows[i].Keys[0].Value
			if got[pod] == nil {
				got[pod] = new(big.Int)
			}
			got[pod].Add(got[pod], &rows[i].DeviceTime)
			cost.Add(cost, &rows[i].Cost)
		}
		for pod, want := range h.time {
			if got[pod] == nil {
				got[pod] = new(big.Int)
			}
			if got[pod].Cmp(want) != 0 {
				w.broken("law 1: pod %q has %s ns in answers and %s in chunks", pod, got[pod], want)
			}
		}
		if cost.Cmp(&h.cost) != 0 {
			w.broken("law 6: answers cost %s, and the seconds %s", cost, &h.cost)
		}
		return nil
	})
	if err != nil && len(h.time) > 0 {
		w.broken("the ledger can't be asked: %v", err)
	}
}

// checkLaws has the ledger verify itself.
func (w *world) checkLaws(st store.Store) {
	p, err := verify.New(verify.Config{Store: st, Workers: 1}).Run(context.Background(), 0, 0, nil)
	switch {
	case err != nil:
		w.broken("verify: %v", err)
	case p.Broken != nil:
		w.broken("verify: %v", p.Broken)
	}
}

// ask asks a running collector for the last minutes, second by second: each
// device has a whole second, or none yet (law 1), whatever moves meanwhile.
func (w *world) ask(c *collector) {
	life := c.alive()
	if life == nil {
		return
	}
	now := attribution.Second(w.now().Unix())
	err := life.engine.Snapshot(context.Background(), now-150, now+2, func(ctx context.Context, s *query.Snapshot) error {
		rows, err := s.Query(ctx, &store.Query{From: now - 150, To: now + 2, Step: 1, GroupBy: []store.Dimension{store.DeviceID}})
		if err != nil {
			return err
		}
		type cell struct {
			at     attribution.Second
			device string
		}
		sums := map[cell]*big.Int{}
		for i := range rows {
			k := cell{rows[i].Time, rows[i].Keys[0].Value}
			if sums[k] == nil {
				sums[k] = new(big.Int)
			}
			sums[k].Add(sums[k], &rows[i].DeviceTime)
		}
		for k, x := range sums {
			if x.Cmp(big.NewInt(attribution.WindowNanos)) != 0 {
				w.broken("law 1: an answer has %s ns in second %d of %s", x, k.at, k.device)
			}
		}
		w.stats.asked++
		return nil
	})
	if err != nil && !errors.Is(err, memory.ErrDead) {
		w.broken("a question has no answer: %v", err)
	}
}
