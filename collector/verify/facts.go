package verify

import (
	"fmt"
	"slices"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// facts numbers owners, devices, nodes and texts, so that sums are keyed by
// small integers. Equal facts have one number, wherever they come from.
type facts struct {
	mu      sync.Mutex // held while workers number a roster
	devices numbering[attribution.Device]
	owners  numbering[attribution.Owner]
	texts   map[string]uint32
	names   []string
	nodeIDs map[nodeName]uint32
	nodeOf  []nodeName
	homes   []uint32 // node of each device
}

type nodeName struct{ cluster, node string }

// numbering numbers facts by fingerprint. Rows come with pointers that mostly
// repeat: what a pointer held before is remembered, and compared, which is
// cheaper than a SHA-256.
type numbering[T any] struct {
	ids    map[rollup.Fingerprint]uint32
	facts  []T
	recent map[*T]uint32
}

// maxRecent bounds what is remembered of pointers.
const maxRecent = 1 << 16

func newFacts() *facts {
	return &facts{
		devices: newNumbering[attribution.Device](), owners: newNumbering[attribution.Owner](),
		texts: map[string]uint32{}, nodeIDs: map[nodeName]uint32{},
	}
}

func newNumbering[T any]() numbering[T] {
	return numbering[T]{ids: map[rollup.Fingerprint]uint32{}, recent: map[*T]uint32{}}
}

// of is the number of facts, which are copied by keep where they are new.
func (n *numbering[T]) of(x *T, equal func(a, b *T) bool, fingerprint func(*T) rollup.Fingerprint, keep func(T) T) uint32 {
	if id, ok := n.recent[x]; ok && equal(x, &n.facts[id]) {
		return id
	}
	f := fingerprint(x)
	id, ok := n.ids[f]
	if !ok {
		id = uint32(len(n.facts))
		n.ids[f] = id
		n.facts = append(n.facts, keep(*x))
	}
	if len(n.recent) >= maxRecent {
		clear(n.recent)
	}
	n.recent[x] = id
	return id
}

func (f *facts) device(d *attribution.Device) uint32 {
	id := f.devices.of(d,
		func(a, b *attribution.Device) bool { return attribution.CompareDevices(a, b) == 0 },
		(*attribution.Device).Fingerprint,
		func(d attribution.Device) attribution.Device {
			d.Labels = slices.Clone(d.Labels)
			return d
		})
	if int(id) == len(f.homes) {
		f.homes = append(f.homes, f.node(d.Cluster, d.Node))
	}
	return id
}

func (f *facts) owner(o *attribution.Owner) uint32 {
	return f.owners.of(o,
		func(a, b *attribution.Owner) bool { return attribution.CompareOwners(a, b) == 0 },
		(*attribution.Owner).Fingerprint,
		func(o attribution.Owner) attribution.Owner {
			o.Labels = slices.Clone(o.Labels)
			return o
		})
}

func (f *facts) text(s string) uint32 {
	id, ok := f.texts[s]
	if !ok {
		id = uint32(len(f.names))
		f.texts[s] = id
		f.names = append(f.names, s)
	}
	return id
}

func (f *facts) node(cluster, node string) uint32 {
	k := nodeName{cluster, node}
	id, ok := f.nodeIDs[k]
	if !ok {
		id = uint32(len(f.nodeOf))
		f.nodeIDs[k] = id
		f.nodeOf = append(f.nodeOf, k)
	}
	return id
}

func (f *facts) nodes() int { return len(f.nodeOf) }

func (f *facts) nodeName(id uint32) string { return fmt.Sprintf("node %q", f.nodeOf[id].node) }

// ownerName is an owner as people call it.
func ownerName(o *attribution.Owner) string {
	switch o.Kind {
	case attribution.Container:
		return o.Namespace + "/" + o.Pod + "/" + o.Container
	case attribution.HostProcess, attribution.UnknownProcess:
		return fmt.Sprintf("process %d (%s)", o.PID, o.Command)
	default:
		return "nobody"
	}
}

// rosterIDs is a roster by the numbers of its facts.
type rosterIDs struct {
	roster                  *attribution.Roster
	devices, owners         []uint32
	methods                 []uint32
	models, tenants, tiers  []uint32 // of subjects
	subjectOwners, measures []uint32
}

func (f *facts) roster(r *attribution.Roster) *rosterIDs {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := &rosterIDs{roster: r}
	for i := range r.Devices {
		ids.devices = append(ids.devices, f.device(&r.Devices[i]))
	}
	for i := range r.Owners {
		ids.owners = append(ids.owners, f.owner(&r.Owners[i]))
	}
	for _, m := range r.Methods {
		ids.methods = append(ids.methods, f.text(m))
	}
	for i := range r.Subjects {
		s := &r.Subjects[i]
		ids.subjectOwners = append(ids.subjectOwners, ids.owners[s.Owner])
		ids.models = append(ids.models, f.text(s.Model))
		ids.tenants = append(ids.tenants, f.text(s.Tenant))
		ids.tiers = append(ids.tiers, f.text(s.Tier))
	}
	for _, m := range r.Measures {
		ids.measures = append(ids.measures, f.text(string(m)))
	}
	return ids
}
