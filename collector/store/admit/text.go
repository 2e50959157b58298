package admit

import (
	"fmt"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Text refuses text that is not UTF-8; what says of what it is.
func Text(what string, ss ...string) error {
	for _, s := range ss {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: a %s has text that is not UTF-8: %q", store.ErrBadBatch, what, s)
		}
	}
	return nil
}

// Owner is Text for all of an owner's.
func Owner(o *attribution.Owner) error {
	if err := Text("owner", o.Cluster, o.Node, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller, o.Command); err != nil {
		return err
	}
	return labels(o.Labels)
}

// Device is Text for all of a device's.
func Device(d *attribution.Device) error {
	if err := Text("device", d.ID, d.Cluster, d.Node, d.Model, d.CapacityType, d.Parent, d.Profile); err != nil {
		return err
	}
	return labels(d.Labels)
}

func labels(ls attribution.Labels) error {
	for i := range ls {
		if err := Text("label", ls[i].Key, ls[i].Value); err != nil {
			return err
		}
	}
	return nil
}
