package process

import (
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/cgroup"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// reason is why nobody answers.
type reason uint8

const (
	none reason = iota
	unreadable
	unknownPod
	unknownContainer
	untrusted
	reasons
)

// epoch numbers the views of the directory, so that an answer need not keep
// the view that it was found in.
type epoch struct {
	view   *pods.View
	number uint64
}

// answer is who answers for a process on a device.
type answer struct {
	device string
	found
	epoch uint64
}

// found is who answers, and why nobody does.
type found struct {
	owner *attribution.Owner
	why   reason
	// held says that it depends on who holds the device.
	held bool
}

// Owner implements [sampler.Owners].
func (t *Table) Owner(device string, pid uint32, id sampler.Identity) *attribution.Owner {
	p := t.find(pid, id)
	if p == nil {
		t.refused.Add(1)
		return t.process(attribution.UnknownProcess, pid, id.Command)
	}
	e := t.view()
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.answer(device)
	if a.owner == nil || a.held || a.epoch != e.number {
		before := a.owner
		a.found, a.epoch = t.resolve(p, device, e.view), e.number
		if before != nil && attribution.CompareOwners(before, a.owner) == 0 {
			a.owner = before
		}
	}
	if a.why != none {
		t.unknown[a.why].Add(1)
	}
	return a.owner
}

// view is the directory as it is now.
func (t *Table) view() *epoch {
	var v *pods.View
	if t.opts.Pods != nil {
		v = t.opts.Pods()
	}
	for {
		e := t.epoch.Load()
		if e.view == v {
			return e
		}
		next := &epoch{v, e.number + 1}
		if t.epoch.CompareAndSwap(e, next) {
			return next
		}
	}
}

// find is the process that was identified as id, nil if there is no room for
// it. One that is known no longer, or never could be read, is known from now
// on by what is said here.
func (t *Table) find(pid uint32, id sampler.Identity) *process {
	k, now := key{pid, id.Start}, t.now()
	lookup := func() *process {
		t.mu.RLock()
		defer t.mu.RUnlock()
		return t.known[k]
	}
	p := lookup()
	if p == nil && id.Start != 0 {
		t.meet(pid, now)
		p = lookup()
	}
	if p == nil {
		return t.enter(pid, id, now)
	}
	p.asked.Store(now)
	return p
}

// answer is the place to remember an answer. p is locked.
func (p *process) answer(device string) *answer {
	for i := range p.answers {
		if p.answers[i].device == device {
			return &p.answers[i]
		}
	}
	if len(p.answers) >= maxAnswers {
		p.answers = p.answers[:0]
	}
	p.answers = append(p.answers, answer{device: device})
	return &p.answers[len(p.answers)-1]
}

// resolve finds who answers; see the package's doc. p is locked.
func (t *Table) resolve(p *process, device string, view *pods.View) found {
	switch {
	case t.opts.Untrusted:
		return t.nobody(p, untrusted)
	case !p.read:
		return t.nobody(p, unreadable)
	}
	held := t.opts.Holders != nil
	var holders []*attribution.Owner
	if held {
		holders = t.opts.Holders(device)
	}
	ref := &p.ref
	if ref.Job != "" {
		if o := jobOf(holders, ref.Job); o != nil {
			return found{owner: o, held: true}
		}
	}
	if view != nil {
		for _, in := range []cgroup.Pod{ref.Outer, ref.Pod} {
			if f, ok := t.inPod(p, in, view, holders); ok {
				f.held = held && (f.held || ref.Job != "")
				return f
			}
		}
	}
	f := t.outside(p, view, holders)
	f.held = held
	return f
}

// inPod is the owner in a pod; false if the directory does not know the pod.
func (t *Table) inPod(p *process, in cgroup.Pod, view *pods.View, holders []*attribution.Owner) (found, bool) {
	if in.Container != "" {
		if pod, c := view.ByContainer(in.Container); pod != nil {
			return found{owner: pod.Owner(c.Name)}, true
		}
	}
	pod := view.ByUID(in.UID)
	if in.UID == "" || pod == nil {
		return found{}, false
	}
	if o := holderIn(holders, pod); o != nil {
		return found{owner: o, held: true}, true
	}
	if c := only(pod.Containers); c != nil {
		return found{owner: pod.Owner(c.Name), held: true}, true
	}
	f := t.nobody(p, unknownContainer)
	f.held = true
	return f, true
}

// outside is the owner of a process in no pod that is known.
func (t *Table) outside(p *process, view *pods.View, holders []*attribution.Owner) found {
	ref := &p.ref
	switch {
	case ref.Job != "":
		if p.job == nil {
			p.job = sampler.JobOwner(t.opts.Cluster, t.opts.Node, ref.Job)
		}
		return found{owner: p.job}
	case ref.UID != "" || (ref.Container != "" && t.opts.Pods != nil):
		stranger := func(o *attribution.Owner) bool { return isStranger(o, view) }
		if o := single(holders, stranger); o != nil {
			return found{owner: o}
		}
		return t.nobody(p, unknownPod)
	}
	if o := single(holders, sampler.IsJob); o != nil {
		return found{owner: o}
	}
	if p.self == nil {
		p.self = t.process(attribution.HostProcess, p.pid, p.id.Command)
	}
	return found{owner: p.self}
}

// nobody is the process as an unknown one. p is locked.
func (t *Table) nobody(p *process, why reason) found {
	if p.nobody == nil {
		command := p.id.Command
		if t.opts.Untrusted {
			command = "" // it may be a stranger's
		}
		p.nobody = t.process(attribution.UnknownProcess, p.pid, command)
	}
	return found{owner: p.nobody, why: why}
}

func (t *Table) process(kind attribution.OwnerKind, pid uint32, command string) *attribution.Owner {
	return &attribution.Owner{Kind: kind, Cluster: t.opts.Cluster, Node: t.opts.Node, PID: pid, Command: command}
}

// jobOf is a job's owner among the holders, or nil.
func jobOf(holders []*attribution.Owner, job string) *attribution.Owner {
	return single(holders, func(o *attribution.Owner) bool { return sampler.IsJob(o) && o.Controller == job })
}

// holderIn is the owner of a pod's container that holds a device, if exactly
// one does. A holding from before the pod was known names it without UID.
func holderIn(holders []*attribution.Owner, pod *pods.Pod) *attribution.Owner {
	o := single(holders, func(o *attribution.Owner) bool {
		return o.Kind == attribution.Container && (o.PodUID == pod.UID ||
			(o.PodUID == "" && o.Namespace == pod.Namespace && o.Pod == pod.Name))
	})
	if o == nil {
		return nil
	}
	if known := pod.Owner(o.Container); known != nil {
		return known
	}
	return o
}

// isStranger reports whether an owner is in a pod that the directory does not
// know.
func isStranger(o *attribution.Owner, view *pods.View) bool {
	if o.Kind != attribution.Container || o.PodUID != "" {
		return false
	}
	if view == nil {
		return true
	}
	known := view.ByName(o.Namespace, o.Pod)
	return known == nil || known.Gone()
}

// single is the one owner of a kind, or nil.
func single(holders []*attribution.Owner, is func(*attribution.Owner) bool) (one *attribution.Owner) {
	for _, o := range holders {
		if !is(o) {
			continue
		}
		if one != nil {
			return nil
		}
		one = o
	}
	return one
}

// only is the container that a pod's process must be in, or nil.
func only(cs []pods.Container) *pods.Container {
	if len(cs) == 1 {
		return &cs[0]
	}
	var running *pods.Container
	for i := range cs {
		if cs[i].Ended {
			continue
		}
		if running != nil {
			return nil
		}
		running = &cs[i]
	}
	return running
}
