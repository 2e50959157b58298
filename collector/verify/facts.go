package verify

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// facts numbers owners, devices, nodes and texts, so that sums are keyed by
// small integers. Equal facts have one number, wherever they come from. Of what is
// numbered only the name is kept: a large fleet has half a million owners.
type facts struct {
	mu      sync.Mutex // held while workers number a roster
	devices numbering[attribution.Device]
	owners  numbering[attribution.Owner]
	texts   map[string]uint32
	names   []string
	nodeIDs map[nodeName]uint32
	nodeOf  []nodeName
}

type nodeName struct{ cluster, node string }

// numbering numbers facts by fingerprint. Rows come with pointers that mostly
// repeat: what a pointer held before is remembered, and compared, which is
// cheaper than a SHA-256.
type numbering[T any] struct {
	ids    map[rollup.Fingerprint]uint32
	names  []string // as people call it
	homes  []uint32 // the node of each
	recent map[*T]numbered[T]
}

type numbered[T any] struct {
	id   uint32
	fact T
}

// maxRecent bounds what is remembered of pointers: some nodes' facts, since rows
// and chunks come node by node.
const maxRecent = 1 << 12

func newFacts() *facts {
	return &facts{
		devices: newNumbering[attribution.Device](), owners: newNumbering[attribution.Owner](),
		texts: map[string]uint32{}, nodeIDs: map[nodeName]uint32{},
	}
}

func newNumbering[T any]() numbering[T] {
	return numbering[T]{ids: map[rollup.Fingerprint]uint32{}, recent: map[*T]numbered[T]{}}
}

// of is the number of facts. keep copies what they share with their pointer, and
// name is called for new ones.
func (n *numbering[T]) of(x *T, equal func(a, b *T) bool, fingerprint func(*T) rollup.Fingerprint, keep func(T) T, name func(*T) (string, uint32)) uint32 {
	if last, ok := n.recent[x]; ok && equal(x, &last.fact) {
		return last.id
	}
	f := fingerprint(x)
	id, ok := n.ids[f]
	if !ok {
		id = uint32(len(n.names))
		n.ids[f] = id
		text, home := name(x)
		n.names, n.homes = append(n.names, text), append(n.homes, home)
	}
	if len(n.recent) >= maxRecent {
		clear(n.recent)
	}
	n.recent[x] = numbered[T]{id, keep(*x)}
	return id
}

func (f *facts) device(d *attribution.Device) uint32 {
	return f.devices.of(d,
		func(a, b *attribution.Device) bool { return attribution.CompareDevices(a, b) == 0 },
		(*attribution.Device).Fingerprint,
		func(d attribution.Device) attribution.Device {
			d.Labels = slices.Clone(d.Labels)
			return d
		},
		func(d *attribution.Device) (string, uint32) {
			return strings.Clone(d.ID), f.node(d.Cluster, d.Node)
		})
}

func (f *facts) owner(o *attribution.Owner) uint32 {
	return f.owners.of(o,
		func(a, b *attribution.Owner) bool { return attribution.CompareOwners(a, b) == 0 },
		(*attribution.Owner).Fingerprint,
		func(o attribution.Owner) attribution.Owner {
			o.Labels = slices.Clone(o.Labels)
			return o
		},
		func(o *attribution.Owner) (string, uint32) { return ownerName(o), f.node(o.Cluster, o.Node) })
}

func (f *facts) text(s string) uint32 {
	id, ok := f.texts[s]
	if !ok {
		s = strings.Clone(s)
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
		k = nodeName{strings.Clone(cluster), strings.Clone(node)} // not all of what they are parts of
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
