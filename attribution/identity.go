package attribution

import (
	"cmp"
	"slices"
)

// The canonical orders below decide ties when integers are split and fix the
// order inside rosters. They depend on facts alone, never on who was seen
// first, so two runs over the same facts agree to the last nano unit.

// CompareLabels orders label sets by their sorted pairs.
func CompareLabels(a, b Labels) int {
	return slices.CompareFunc(a, b, func(x, y Label) int {
		return cmp.Or(cmp.Compare(x.Key, y.Key), cmp.Compare(x.Value, y.Value))
	})
}

// CompareOwners is the canonical order of owners; nobody comes first.
// It returns 0 only for equal owners.
func CompareOwners(a, b *Owner) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Cluster, b.Cluster),
		cmp.Compare(a.Node, b.Node),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Pod, b.Pod),
		cmp.Compare(a.PodUID, b.PodUID),
		cmp.Compare(a.Container, b.Container),
		cmp.Compare(a.ControllerKind, b.ControllerKind),
		cmp.Compare(a.Controller, b.Controller),
		cmp.Compare(a.PID, b.PID),
		cmp.Compare(a.Command, b.Command),
		CompareLabels(a.Labels, b.Labels),
	)
}

// CompareDevices is the canonical order of devices. It returns 0 only for
// equal devices.
func CompareDevices(a, b *Device) int {
	return cmp.Or(
		cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Cluster, b.Cluster),
		cmp.Compare(a.Node, b.Node),
		cmp.Compare(a.Model, b.Model),
		cmp.Compare(a.CapacityType, b.CapacityType),
		cmp.Compare(a.MemoryBytes, b.MemoryBytes),
		cmp.Compare(a.Parent, b.Parent),
		cmp.Compare(a.Profile, b.Profile),
		cmp.Compare(a.Share.Compute, b.Share.Compute),
		cmp.Compare(a.Share.ComputeOf, b.Share.ComputeOf),
		cmp.Compare(a.Share.Memory, b.Share.Memory),
		cmp.Compare(a.Share.MemoryOf, b.Share.MemoryOf),
		compareBools(a.Remainder, b.Remainder),
		cmp.Compare(a.Sensors, b.Sensors),
		CompareLabels(a.Labels, b.Labels),
	)
}

// CompareSubjects is the canonical order of subjects of one roster.
func CompareSubjects(a, b *Subject) int {
	return cmp.Or(
		cmp.Compare(a.Owner, b.Owner),
		cmp.Compare(a.Model, b.Model),
		cmp.Compare(a.Tenant, b.Tenant),
		cmp.Compare(a.Tier, b.Tier),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
