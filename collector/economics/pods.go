package economics

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// podsOfRun are the pods that did a run's work.
type podsOfRun struct {
	run  string
	pods map[string]*pod
}

// pod is one of them, from its first to its last second with device time.
type pod struct {
	stint
	team        string
	owner       *attribution.Owner
	first, last attribution.Second // starts of buckets
}

// add adds an owner's part to its pod: a container of it, or the same with
// other labels. Without a pod's UID its name and node must do; a process is on
// its own.
func (p *podsOfRun) add(k runOwner, o *attribution.Owner, st *stint) {
	id := o.PodUID
	switch {
	case o.Kind != attribution.Container:
		id = "owner " + k.id
	case id == "":
		id = string(query.AppendKeys([]byte("pod "), []store.Key{{Value: o.Node}, {Value: o.Pod}}))
	}
	x := p.pods[id]
	if x == nil {
		x = &pod{stint: *newStint(), team: k.team, owner: o}
		p.pods[id] = x
	}
	for at, r := range st.byTime {
		x.add(at, r)
	}
	for at, v := range st.checkpoints {
		x.checkpoint(at, v)
	}
}

// settle works out what the run cost and what of it was lost.
func (p *podsOfRun) settle(out *RunsAnswer) *Run {
	r := &Run{Run: p.run}
	pods := p.inOrder()
	end := func(x *pod) attribution.Second { return min(x.last+attribution.Second(out.Step), out.To) }
	var checkpoints []attribution.Second // of the whole run, in order
	r.describe(pods[0])
	for _, x := range pods {
		for _, c := range x.byTime {
			r.add(c)
		}
		for at, v := range x.checkpoints {
			r.Checkpoints.Measured = true
			r.Checkpoints.Value.Add(&r.Checkpoints.Value, v)
			if v.Sign() > 0 {
				checkpoints = append(checkpoints, at)
			}
		}
		if len(x.byTime) == 0 {
			continue // only its counts are on record
		}
		if r.Pods++; r.Pods == 1 {
			r.First, r.Last = x.first, end(x)-1
			r.describe(x)
		}
		r.Last = max(r.Last, end(x)-1)
	}
	slices.Sort(checkpoints)
	r.Restarts = restarts(pods, end)
	if r.Checkpoints.Measured {
		r.Lost = &Costs{}
		began := lastStart(pods)
		for _, x := range pods {
			if len(x.byTime) > 0 && began >= end(x) {
				r.Lost.add(x.after(checkpoints, end(x)))
			}
		}
	}
	r.Reason = strings.Join(r.reasons(out.Step), "; ")
	return r
}

// inOrder is the pods by their beginning; each gets to know its own.
func (p *podsOfRun) inOrder() []*pod {
	var out []*pod
	for _, id := range slices.Sorted(maps.Keys(p.pods)) {
		x := p.pods[id]
		if len(x.byTime) > 0 {
			times := slices.Sorted(maps.Keys(x.byTime))
			x.first, x.last = times[0], times[len(times)-1]
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b *pod) int { return cmp.Compare(a.first, b.first) })
	return out
}

func (r *Run) describe(x *pod) {
	o := x.owner
	r.Namespace, r.Team = o.Namespace, x.team
	if o.Controller != "" {
		r.Name = o.ControllerKind + "/" + o.Controller
	}
}

func lastStart(pods []*pod) (at attribution.Second) {
	for _, x := range pods {
		if len(x.byTime) > 0 {
			at = max(at, x.first)
		}
	}
	return at
}

// restarts counts the pods that replaced others: each that began takes the
// place of one that had ended and was not replaced yet.
func restarts(pods []*pod, end func(*pod) attribution.Second) (n int) {
	var starts, ends []attribution.Second
	for _, x := range pods {
		if len(x.byTime) > 0 {
			starts, ends = append(starts, x.first), append(ends, end(x))
		}
	}
	slices.Sort(starts)
	slices.Sort(ends)
	for _, at := range starts {
		if ends[n] <= at {
			n++
		}
	}
	return n
}

// after is the pod's time and cost behind its last checkpoint: its own, else
// the run's last before its end, else none.
func (x *pod) after(ofRun []attribution.Second, end attribution.Second) *Costs {
	var own []attribution.Second
	for at, v := range x.checkpoints {
		if v.Sign() > 0 {
			own = append(own, at)
		}
	}
	slices.Sort(own)
	if len(own) == 0 {
		i, _ := slices.BinarySearch(ofRun, end)
		own = ofRun[:i]
	}
	var lost Costs
	for at, c := range x.byTime {
		if len(own) == 0 || at > own[len(own)-1] {
			lost.add(c.Allocation())
		}
	}
	return &lost
}
