package exporter

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/attribution"
)

// MaxText is how many bytes of a name are exported.
const MaxText = 256

const (
	// Overflow is the pod of the owner, and the id of the device, that take
	// what comes beyond MaxSeries. No pod can have that name.
	Overflow = "__overflow__"
	// Other is the process of owners beyond MaxProcesses.
	Other = "__other__"
	// OverflowKind is the kind of the overflow owner. The others are those of
	// attribution.OwnerKind.
	OverflowKind = "overflow"
)

// Owner is what is exported of who answers for device time. It never changes.
// Owners of one snapshot differ: in a name, or in a label's value.
type Owner struct {
	Kind           string // container, host-process, unknown-process, nobody, overflow
	Namespace      string
	Pod            string
	PodUID         string
	Container      string
	ControllerKind string
	Controller     string
	Process        string // command of a process owner, Other beyond the limit

	// Labels are the values of the allowed pod labels, in the order of
	// Snapshot.Labels; "" where the pod does not have the label, or has it
	// without a value: Prometheus knows no difference. Read-only.
	Labels []string
}

// ownerKey is an owner's identity, comparable.
type ownerKey struct {
	kind, namespace, pod, podUID, container, controllerKind, controller, process string
	labels                                                                       string
}

// owner is an owner that is known.
type owner struct {
	Owner
	key  ownerKey
	refs int                // series and tallies of it
	seen attribution.Second // last in a roster
}

func (o *Owner) key() ownerKey {
	k := ownerKey{o.Kind, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller, o.Process, ""}
	var b []byte
	for _, value := range o.Labels {
		b = binary.AppendUvarint(b, uint64(len(value)))
		b = append(b, value...)
	}
	k.labels = string(b)
	return k
}

// describe is what is exported of an owner of the ledger.
func (e *Exporter) describe(o *attribution.Owner) Owner {
	x := Owner{
		Kind: o.Kind.String(), Namespace: text(o.Namespace), Pod: text(o.Pod), PodUID: text(o.PodUID), Container: text(o.Container),
		ControllerKind: text(o.ControllerKind), Controller: text(o.Controller),
	}
	if o.Kind == attribution.HostProcess || o.Kind == attribution.UnknownProcess {
		x.Process = text(o.Command)
	}
	if len(e.o.Labels) > 0 {
		x.Labels = make([]string, len(e.o.Labels))
		for i, key := range e.o.Labels {
			value, _ := o.Labels.Get(key)
			x.Labels[i] = text(value)
		}
	}
	return x
}

// text makes any text one that may be exported: valid UTF-8 without NUL, of
// bounded length.
func text(s string) string {
	if len(s) <= MaxText && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	// Cut first: s may be huge. A rune cut in two becomes one invalid byte run.
	s = s[:min(len(s), MaxText)]
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	return strings.Clone(s)
}

// maxLabels is how many pod labels may be exported.
const maxLabels = 32

// checkLabels judges the keys of pod labels to export.
func checkLabels(keys []string) error {
	if len(keys) > maxLabels {
		return fmt.Errorf("%d pod labels to export: want at most %d", len(keys), maxLabels)
	}
	seen := map[string]bool{}
	for _, k := range keys {
		switch {
		case k == "" || len(k) > MaxText+64 || text(k[:min(len(k), MaxText)]) != k[:min(len(k), MaxText)]:
			return fmt.Errorf("pod label %q can't be the key of a Kubernetes label", clip(k))
		case seen[k]:
			return fmt.Errorf("pod label %q is listed twice", k)
		}
		seen[k] = true
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
