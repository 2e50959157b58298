package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/bounded"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// EncodeRoster translates a roster. All text must be valid UTF-8, as messages
// want it.
func EncodeRoster(r *attribution.Roster) *pb.Roster {
	m := &pb.Roster{
		Devices:  make([]*pb.Device, len(r.Devices)),
		Owners:   make([]*pb.Owner, len(r.Owners)),
		Methods:  r.Methods,
		Subjects: make([]*pb.Subject, len(r.Subjects)),
		Measures: make([]string, len(r.Measures)),
	}
	for i := range r.Devices {
		m.Devices[i] = encodeDevice(&r.Devices[i])
	}
	for i := range r.Owners {
		m.Owners[i] = encodeOwner(&r.Owners[i])
	}
	for i, s := range r.Subjects {
		m.Subjects[i] = &pb.Subject{Owner: s.Owner, Model: s.Model, Tenant: s.Tenant, Tier: s.Tier}
	}
	for i, x := range r.Measures {
		m.Measures[i] = string(x)
	}
	return m
}

func encodeDevice(d *attribution.Device) *pb.Device {
	m := &pb.Device{
		Id: d.ID, Cluster: d.Cluster, Node: d.Node, Model: d.Model, CapacityType: d.CapacityType,
		MemoryBytes: d.MemoryBytes, Labels: encodeLabels(d.Labels), Parent: d.Parent, Profile: d.Profile,
		Remainder:      d.Remainder,
		MeasuresEnergy: d.Sensors&attribution.SensorEnergy != 0,
		MeasuresMemory: d.Sensors&attribution.SensorMemory != 0,
	}
	if s := d.Share; s != (attribution.MIGShare{}) {
		m.Share = &pb.MIGShare{Compute: s.Compute, ComputeOf: s.ComputeOf, Memory: s.Memory, MemoryOf: s.MemoryOf}
	}
	return m
}

func encodeOwner(o *attribution.Owner) *pb.Owner {
	return &pb.Owner{
		Kind: pb.OwnerKind(o.Kind), Cluster: o.Cluster, Node: o.Node, Namespace: o.Namespace, Pod: o.Pod,
		PodUid: o.PodUID, Container: o.Container, ControllerKind: o.ControllerKind, Controller: o.Controller,
		Pid: o.PID, Command: o.Command, Labels: encodeLabels(o.Labels),
	}
}

func encodeLabels(ls attribution.Labels) []*pb.Label {
	if len(ls) == 0 {
		return nil
	}
	m := make([]*pb.Label, len(ls))
	for i, l := range ls {
		m[i] = &pb.Label{Key: l.Key, Value: l.Value}
	}
	return m
}

// PackRoster compresses the encoding of a roster's message for travelling.
func PackRoster(encoding []byte) *pb.Roster {
	w := borrow()
	defer w.giveBack()
	w.packed = compressor.EncodeAll(encoding, w.packed[:0])
	return &pb.Roster{Zstd: append([]byte(nil), w.packed...)}
}

// RosterEncoding is what PackRoster compressed.
func RosterEncoding(m *pb.Roster) ([]byte, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.decompress("roster.zstd", m.GetZstd()); err != nil {
		return nil, err
	}
	return append([]byte(nil), w.plain...), nil
}

// unpackRoster is the message that PackRoster compressed.
func unpackRoster(packed []byte) (*pb.Roster, error) {
	w := borrow()
	defer w.giveBack()
	if err := w.unpack("roster.zstd", packed); err != nil {
		return nil, err
	}
	if len(w.plain) > MaxRoster {
		return nil, malformed(8, "roster.zstd", "%d bytes are in it: at most %d are taken", len(w.plain), MaxRoster)
	}
	m := &pb.Roster{}
	if err := bounded.Check(m.ProtoReflect().Descriptor(), w.plain, MaxParts); errors.Is(err, bounded.ErrBeyond) {
		return nil, malformed(8, "roster.zstd", "%v", err)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(w.plain, m); err != nil {
		return nil, malformed(4, "roster.zstd", "can't be read: %v", err)
	}
	if len(m.GetZstd()) > 0 {
		return nil, malformed(4, "roster.zstd", "is in itself")
	}
	return m, nil
}

// DecodeRoster translates a roster, packed or not, and checks its bounds and
// kinds. That it is canonical, and of the right node,
// [attribution.Chunk.Check] sees. Text that occurs more than once, as the node's
// name does with every owner, is there once.
func DecodeRoster(m *pb.Roster) (*attribution.Roster, error) {
	if z := m.GetZstd(); len(z) > 0 {
		var err error
		if m, err = unpackRoster(z); err != nil {
			return nil, err
		}
	}
	for _, c := range []struct {
		field    string
		n, limit int
	}{
		{"roster.devices", len(m.GetDevices()), MaxDevices},
		{"roster.owners", len(m.GetOwners()), MaxOwners},
		{"roster.methods", len(m.GetMethods()), MaxMethods},
		{"roster.subjects", len(m.GetSubjects()), MaxSubjects},
		{"roster.measures", len(m.GetMeasures()), MaxMeasures},
	} {
		if err := checkCount(c.field, c.n, c.limit); err != nil {
			return nil, err
		}
	}
	r := &attribution.Roster{
		Devices:  make([]attribution.Device, len(m.GetDevices())),
		Owners:   make([]attribution.Owner, len(m.GetOwners())),
		Methods:  m.GetMethods(),
		Subjects: make([]attribution.Subject, len(m.GetSubjects())),
		Measures: make([]attribution.Measure, len(m.GetMeasures())),
	}
	once := make(texts)
	for i, d := range m.GetDevices() {
		if err := decodeDevice(d, &r.Devices[i], once); err != nil {
			return nil, in("roster.devices", i, err)
		}
	}
	for i, o := range m.GetOwners() {
		if err := decodeOwner(o, &r.Owners[i], once); err != nil {
			return nil, in("roster.owners", i, err)
		}
	}
	for i, s := range m.GetSubjects() {
		if err := checkTexts(s.GetModel(), s.GetTenant(), s.GetTier()); err != nil {
			return nil, in("roster.subjects", i, err)
		}
		if int(s.GetOwner()) >= len(r.Owners) {
			return nil, in("roster.subjects", i, malformed(4, "owner", "%d is not on the roster", s.GetOwner()))
		}
		r.Subjects[i] = attribution.Subject{Owner: s.GetOwner(), Model: once.of(s.GetModel()), Tenant: once.of(s.GetTenant()), Tier: once.of(s.GetTier())}
	}
	if err := checkTexts(r.Methods...); err != nil {
		return nil, in("roster.methods", 0, err)
	}
	if err := checkTexts(m.GetMeasures()...); err != nil {
		return nil, in("roster.measures", 0, err)
	}
	for i, x := range m.GetMeasures() {
		r.Measures[i] = attribution.Measure(x)
	}
	return r, nil
}

// in puts an entry's place before the field of its error.
func in(list string, i int, err error) error {
	if m, ok := err.(*Malformed); ok { //nolint:errorlint // made here, never wrapped
		m.Field = fmt.Sprintf("%s[%d].%s", list, i, m.Field)
	}
	return err
}

// texts has each text once: what a message holds are copies.
type texts map[string]string

func (t texts) of(s string) string {
	if s == "" {
		return ""
	}
	if x, ok := t[s]; ok {
		return x
	}
	t[s] = s
	return s
}

func decodeDevice(m *pb.Device, d *attribution.Device, once texts) error {
	if err := checkTexts(m.GetId(), m.GetCluster(), m.GetNode(), m.GetModel(), m.GetCapacityType(), m.GetParent(), m.GetProfile()); err != nil {
		return err
	}
	labels, err := decodeLabels(m.GetLabels(), once)
	if err != nil {
		return err
	}
	s := m.GetShare()
	*d = attribution.Device{
		ID: m.GetId(), Cluster: once.of(m.GetCluster()), Node: once.of(m.GetNode()), Model: once.of(m.GetModel()),
		CapacityType: once.of(m.GetCapacityType()), MemoryBytes: m.GetMemoryBytes(), Labels: labels,
		Parent: once.of(m.GetParent()), Profile: once.of(m.GetProfile()),
		Share: attribution.MIGShare{
			Compute: s.GetCompute(), ComputeOf: s.GetComputeOf(), Memory: s.GetMemory(), MemoryOf: s.GetMemoryOf(),
		},
		Remainder: m.GetRemainder(),
	}
	if m.GetMeasuresEnergy() {
		d.Sensors |= attribution.SensorEnergy
	}
	if m.GetMeasuresMemory() {
		d.Sensors |= attribution.SensorMemory
	}
	return nil
}

func decodeOwner(m *pb.Owner, o *attribution.Owner, once texts) error {
	if err := checkTexts(m.GetCluster(), m.GetNode(), m.GetNamespace(), m.GetPod(), m.GetPodUid(), m.GetContainer(),
		m.GetControllerKind(), m.GetController(), m.GetCommand()); err != nil {
		return err
	}
	kind := attribution.OwnerKind(m.GetKind())
	if int32(kind) != int32(m.GetKind()) || !kind.Valid() {
		return malformed(2, "kind", "%d is none", m.GetKind())
	}
	labels, err := decodeLabels(m.GetLabels(), once)
	*o = attribution.Owner{
		Kind: kind, Cluster: once.of(m.GetCluster()), Node: once.of(m.GetNode()), Namespace: once.of(m.GetNamespace()),
		Pod: once.of(m.GetPod()), PodUID: once.of(m.GetPodUid()), Container: once.of(m.GetContainer()),
		ControllerKind: once.of(m.GetControllerKind()), Controller: once.of(m.GetController()),
		PID: m.GetPid(), Command: once.of(m.GetCommand()), Labels: labels,
	}
	return err
}

func decodeLabels(ms []*pb.Label, once texts) (attribution.Labels, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	if err := checkCount("labels", len(ms), MaxLabels); err != nil {
		return nil, err
	}
	ls := make(attribution.Labels, len(ms))
	for i, m := range ms {
		if err := checkTexts(m.GetKey(), m.GetValue()); err != nil {
			return nil, err
		}
		ls[i] = attribution.Label{Key: once.of(m.GetKey()), Value: once.of(m.GetValue())}
	}
	return ls, nil
}

func checkTexts(ss ...string) error {
	for _, s := range ss {
		if len(s) > MaxText {
			return malformed(8, "text", "%d bytes: at most %d are taken", len(s), MaxText)
		}
	}
	return nil
}
