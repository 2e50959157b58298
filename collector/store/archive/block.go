package archive

import (
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// encodeBlock makes a message of a part.
func encodeBlock(p *store.Part) *pb.BackupBlock {
	m := &pb.BackupBlock{}
	for i := range p.Ranges {
		x := &p.Ranges[i]
		m.Ranges = append(m.Ranges, &pb.BackupRange{
			Cluster: x.Cluster, Node: x.Node, Boot: x.Boot[:], From: int64(x.From), To: int64(x.To), Previous: x.Previous, Link: x.Link,
		})
	}
	for i := range p.Rosters {
		m.Rosters = append(m.Rosters, &pb.BackupRoster{Id: p.Rosters[i].ID[:], Body: p.Rosters[i].Body})
	}
	for i := range p.Chunks {
		c := &p.Chunks[i]
		m.Chunks = append(m.Chunks, &pb.BackupChunk{Cluster: c.Key.Cluster, Node: c.Key.Node, Chunk: &pb.Chunk{
			Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds), RosterId: c.RosterID[:],
			Body: c.Body, Digest: c.Digest, Previous: c.Previous,
		}})
	}
	if len(p.Rows) > 0 {
		m.Rows = encodeRows(p, len(p.Rows), func(i int) *rollup.Row { return &p.Rows[i] })
		m.Rows.Resolution = int64(p.Resolution)
	}
	if len(p.Tallies) > 0 {
		m.Tallies = encodeTallies(p)
	}
	if len(p.Transfers) > 0 {
		m.Transfers = encodeTransfers(p)
	}
	for i := range p.Documents {
		d := &p.Documents[i]
		m.Documents = append(m.Documents, &pb.BackupDocument{
			Kind: string(d.Kind), Revision: d.Revision, AppliedNs: d.Applied.UnixNano(), Body: d.Body,
		})
	}
	return m
}

// numbers gives numbers to what comes, in its order.
type numbers[K comparable] struct {
	at   map[K]uint32
	list []K
}

func (n *numbers[K]) of(k K) uint32 {
	if i, ok := n.at[k]; ok {
		return i
	}
	if n.at == nil {
		n.at = make(map[K]uint32)
	}
	i := uint32(len(n.list))
	n.at[k], n.list = i, append(n.list, k)
	return i
}

func listed[T any](n *numbers[rollup.Fingerprint], of map[rollup.Fingerprint]*T) []T {
	out := make([]T, len(n.list))
	for i, f := range n.list {
		out[i] = *of[f]
	}
	return out
}

func encodeRows(p *store.Part, n int, at func(int) *rollup.Row) *pb.BackupRows {
	m := &pb.BackupRows{}
	var devices, owners numbers[rollup.Fingerprint]
	var methods numbers[string]
	last := attribution.Second(0)
	for i := range n {
		r := at(i)
		m.BucketDelta = append(m.BucketDelta, int64(r.Bucket-last))
		last = r.Bucket
		m.Device = append(m.Device, devices.of(r.Series.Device))
		m.Owner = append(m.Owner, owners.of(r.Series.Owner))
		m.Basis = append(m.Basis, uint32(r.Series.Basis))
		m.Method = append(m.Method, methods.of(r.Series.Method))
		m.Revision = append(m.Revision, r.Series.Revision)
		m.Time = append(m.Time, r.Time)
		m.SmActive = append(m.SmActive, r.SMActive)
		m.Memory = append(m.Memory, r.Memory)
		m.Energy = append(m.Energy, r.Energy)
		m.Cost = append(m.Cost, r.Cost)
	}
	m.Facts = wire.EncodeRoster(&attribution.Roster{
		Devices: listed(&devices, p.Devices), Owners: listed(&owners, p.Owners), Methods: methods.list,
	})
	return m
}

func encodeTransfers(p *store.Part) *pb.BackupTransfers {
	ts := p.Transfers
	m := &pb.BackupTransfers{Rows: encodeRows(p, len(ts), func(i int) *rollup.Row {
		return &rollup.Row{Bucket: ts[i].Bucket, Series: ts[i].Series, Sums: ts[i].Sums}
	})}
	for i := range ts {
		t := &ts[i]
		m.Entry = append(m.Entry, t.Entry)
		m.Resolution = append(m.Resolution, uint32(t.Resolution))
		m.To = append(m.To, t.To)
		m.CostAfter = append(m.CostAfter, t.CostAfter)
		m.Count = append(m.Count, t.Count)
	}
	return m
}

func encodeTallies(p *store.Part) *pb.BackupTallies {
	m := &pb.BackupTallies{Resolution: int64(p.Resolution)}
	var owners numbers[rollup.Fingerprint]
	var subjects numbers[attribution.Subject]
	var measures numbers[attribution.Measure]
	last := attribution.Second(0)
	for i := range p.Tallies {
		r := &p.Tallies[i]
		s := attribution.Subject{Owner: owners.of(r.Series.Owner), Model: r.Series.Model, Tenant: r.Series.Tenant, Tier: r.Series.Tier}
		m.BucketDelta = append(m.BucketDelta, int64(r.Bucket-last))
		last = r.Bucket
		m.Subject = append(m.Subject, subjects.of(s))
		m.Measure = append(m.Measure, measures.of(r.Series.Measure))
		m.Value = append(m.Value, r.Value)
	}
	m.Facts = wire.EncodeRoster(&attribution.Roster{
		Owners: listed(&owners, p.Owners), Subjects: subjects.list, Measures: measures.list,
	})
	return m
}

// errColumns says that a block's columns do not fit each other.
var errColumns = errors.New("its columns do not fit each other")

// decodeBlock is the inverse of encodeBlock.
func decodeBlock(m *pb.BackupBlock) (*store.Part, error) {
	p := &store.Part{}
	var err error
	for _, x := range m.GetRanges() {
		r := store.Range{
			Cluster: x.GetCluster(), Node: x.GetNode(), From: attribution.Second(x.GetFrom()), To: attribution.Second(x.GetTo()),
			Previous: x.GetPrevious(), Link: x.GetLink(),
		}
		if r.Boot, err = wire.Boot(x.GetBoot()); err != nil {
			return nil, err
		}
		p.Ranges = append(p.Ranges, r)
	}
	for _, x := range m.GetRosters() {
		id, err := wire.RosterID(x.GetId())
		if err != nil {
			return nil, err
		}
		p.Rosters = append(p.Rosters, store.Roster{ID: id, Body: x.GetBody()})
	}
	for _, x := range m.GetChunks() {
		c := store.Chunk{
			Seconds: int(x.GetChunk().GetSeconds()), Body: x.GetChunk().GetBody(), Digest: x.GetChunk().GetDigest(), Previous: x.GetChunk().GetPrevious(),
		}
		if c.Key, err = wire.ChunkKey(x.GetChunk(), x.GetCluster(), x.GetNode()); err != nil {
			return nil, err
		}
		if c.RosterID, err = wire.RosterID(x.GetChunk().GetRosterId()); err != nil {
			return nil, err
		}
		p.Chunks = append(p.Chunks, c)
	}
	if err := errors.Join(decodeRows(m.GetRows(), p), decodeTallies(m.GetTallies(), p), decodeTransfers(m.GetTransfers(), p)); err != nil {
		return nil, err
	}
	for _, x := range m.GetDocuments() {
		p.Documents = append(p.Documents, store.Document{
			Kind: store.DocumentKind(x.GetKind()), Revision: x.GetRevision(), Applied: time.Unix(0, x.GetAppliedNs()).UTC(), Body: x.GetBody(),
		})
	}
	return p, nil
}

func resolution(seconds int64) (rollup.Resolution, error) {
	for _, r := range rowsOf {
		if int64(r) == seconds {
			return r, nil
		}
	}
	return 0, fmt.Errorf("there are no rows of %d seconds", seconds)
}

func decodeRows(m *pb.BackupRows, p *store.Part) error {
	if m == nil {
		return nil
	}
	var err error
	if p.Resolution, err = resolution(m.GetResolution()); err != nil {
		return err
	}
	p.Rows, err = rowsOfColumns(m, p)
	return err
}

// rowsOfColumns reads rows, and puts their facts into the part.
func rowsOfColumns(m *pb.BackupRows, p *store.Part) ([]rollup.Row, error) {
	facts, err := wire.DecodeRoster(m.GetFacts())
	if err != nil {
		return nil, err
	}
	n := len(m.GetBucketDelta())
	for _, column := range [...]int{
		len(m.GetDevice()), len(m.GetOwner()), len(m.GetBasis()), len(m.GetMethod()), len(m.GetRevision()),
		len(m.GetTime()), len(m.GetSmActive()), len(m.GetMemory()), len(m.GetEnergy()), len(m.GetCost()),
	} {
		if column != n {
			return nil, errColumns
		}
	}
	devices, owners := fingerprints(facts.Devices, &p.Devices), fingerprints(facts.Owners, &p.Owners)
	rows := make([]rollup.Row, n)
	at := attribution.Second(0)
	for i := range rows {
		device, owner, method, basis := m.GetDevice()[i], m.GetOwner()[i], m.GetMethod()[i], attribution.Basis(m.GetBasis()[i])
		if int(device) >= len(devices) || int(owner) >= len(owners) || int(method) >= len(facts.Methods) || uint32(basis) != m.GetBasis()[i] || !basis.Valid() {
			return nil, errColumns
		}
		at += attribution.Second(m.GetBucketDelta()[i])
		rows[i] = rollup.Row{
			Bucket: at,
			Series: rollup.Series{
				Device: devices[device], Owner: owners[owner], Basis: basis, Method: facts.Methods[method], Revision: m.GetRevision()[i],
			},
			Sums: rollup.Sums{
				Time: m.GetTime()[i], SMActive: m.GetSmActive()[i], Memory: m.GetMemory()[i], Energy: m.GetEnergy()[i], Cost: m.GetCost()[i],
			},
		}
	}
	return rows, nil
}

// fingerprints are those of facts, which go into a map by them.
func fingerprints[T any, F interface {
	*T
	Fingerprint() rollup.Fingerprint
}](list []T, into *map[rollup.Fingerprint]*T) []rollup.Fingerprint {
	if *into == nil {
		*into = make(map[rollup.Fingerprint]*T)
	}
	out := make([]rollup.Fingerprint, len(list))
	for i := range list {
		out[i] = F(&list[i]).Fingerprint()
		(*into)[out[i]] = &list[i]
	}
	return out
}

func decodeTallies(m *pb.BackupTallies, p *store.Part) error {
	if m == nil {
		return nil
	}
	var err error
	if p.Resolution, err = resolution(m.GetResolution()); err != nil {
		return err
	}
	facts, err := wire.DecodeRoster(m.GetFacts())
	if err != nil {
		return err
	}
	n := len(m.GetBucketDelta())
	if len(m.GetSubject()) != n || len(m.GetMeasure()) != n || len(m.GetValue()) != n {
		return errColumns
	}
	owners := fingerprints(facts.Owners, &p.Owners)
	p.Tallies = make([]rollup.TallyRow, n)
	at := attribution.Second(0)
	for i := range p.Tallies {
		subject, measure := m.GetSubject()[i], m.GetMeasure()[i]
		if int(subject) >= len(facts.Subjects) || int(measure) >= len(facts.Measures) {
			return errColumns
		}
		at += attribution.Second(m.GetBucketDelta()[i])
		s := &facts.Subjects[subject]
		p.Tallies[i] = rollup.TallyRow{Bucket: at, Value: m.GetValue()[i], Series: rollup.TallySeries{
			Owner: owners[s.Owner], Model: s.Model, Tenant: s.Tenant, Tier: s.Tier, Measure: facts.Measures[measure],
		}}
	}
	return nil
}

func decodeTransfers(m *pb.BackupTransfers, p *store.Part) error {
	if m == nil {
		return nil
	}
	rows, err := rowsOfColumns(m.GetRows(), p)
	if err != nil {
		return err
	}
	n := len(rows)
	if len(m.GetEntry()) != n || len(m.GetResolution()) != n || len(m.GetTo()) != n || len(m.GetCostAfter()) != n || len(m.GetCount()) != n {
		return errColumns
	}
	p.Transfers = make([]store.Moved, n)
	for i := range rows {
		res, err := resolution(int64(m.GetResolution()[i]))
		if err != nil {
			return err
		}
		p.Transfers[i] = store.Moved{Count: m.GetCount()[i], Transfer: rerating.Transfer{
			Entry: m.GetEntry()[i], Resolution: res, Bucket: rows[i].Bucket, Series: rows[i].Series, To: m.GetTo()[i],
			Sums: rows[i].Sums, CostAfter: m.GetCostAfter()[i],
		}}
	}
	return nil
}
