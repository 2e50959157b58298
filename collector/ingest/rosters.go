package ingest

import (
	"slices"
	"sync/atomic"
	"weak"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// roster is what a stream has sent: its fingerprints, and the rest packed as it is
// stored. Decoded it is some ten times as large, and needed for a moment in ten
// seconds; of ten thousand streams that is the larger part of the memory in use.
type roster struct {
	id      attribution.Fingerprint
	facts   *rollup.Facts
	packed  *pb.Roster // its encoding, compressed to some tenth
	size    int        // of its encoding, in bytes
	outline outline

	decoded atomic.Pointer[weak.Pointer[attribution.Roster]]
}

// decodeRoster reads a roster; its id is what its content says.
func decodeRoster(m *pb.Roster) (*roster, error) {
	x, err := wire.DecodeRoster(m)
	if err != nil {
		return nil, err
	}
	// Encoded anew, so that nothing unknown to this version is stored under
	// the id of what it does know.
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(x))
	if err != nil {
		return nil, err
	}
	r := &roster{id: x.Fingerprint(), packed: wire.PackRoster(body), size: len(body)}
	r.facts, r.outline = rollup.FactsAgain(x, r.content), outlineOf(x)
	r.remember(x)
	return r, nil
}

// outline is what of a roster says whether a chunk keeps the laws and which series it
// is summed in. A chunk is mostly made, summed and forgotten, ten thousand times in
// ten seconds: names and labels would be unpacked for nothing.
type outline struct {
	devices  []string // IDs
	owners   []attribution.OwnerKind
	methods  []string
	subjects []attribution.Subject
	measures []attribution.Measure
}

func outlineOf(r *attribution.Roster) outline {
	o := outline{
		devices: make([]string, len(r.Devices)), owners: make([]attribution.OwnerKind, len(r.Owners)),
		methods: r.Methods, subjects: r.Subjects, measures: r.Measures,
	}
	for i := range r.Devices {
		o.devices[i] = r.Devices[i].ID
	}
	for i := range r.Owners {
		o.owners[i] = r.Owners[i].Kind
	}
	return o
}

// fill makes a roster of an outline, in the memory that it has.
func (o *outline) fill(r *attribution.Roster) {
	r.Devices, r.Owners = r.Devices[:0], r.Owners[:0]
	for _, id := range o.devices {
		r.Devices = append(r.Devices, attribution.Device{ID: id})
	}
	for _, kind := range o.owners {
		r.Owners = append(r.Owners, attribution.Owner{Kind: kind})
	}
	r.Methods, r.Subjects, r.Measures = o.methods, o.subjects, o.measures
}

// content is the roster decoded: the same as long as anything has it. Any goroutine
// may ask. It must not be changed.
func (r *roster) content() *attribution.Roster {
	if p := r.decoded.Load(); p != nil {
		if x := p.Value(); x != nil {
			return x
		}
	}
	x, err := wire.UnpackRoster(r.packed.GetZstd())
	if err != nil {
		panic("BUG: a roster that was packed is not unpacked again: " + err.Error())
	}
	r.remember(x)
	return x
}

func (r *roster) remember(x *attribution.Roster) {
	p := weak.Make(x)
	r.decoded.Store(&p)
}

// stored is the roster as it is stored.
func (r *roster) stored() store.Roster {
	body, err := wire.RosterEncoding(r.packed)
	if err != nil {
		panic("BUG: a roster that was packed is not unpacked again: " + err.Error())
	}
	return store.Roster{ID: r.id, Body: body}
}

// rosters are what a stream has sent, those used last at the end. There are
// few, so they are searched one by one.
type rosters struct {
	most      int
	mostBytes int64
	list      []*roster
	bytes     int64 // part of pool
	pool      *pool // of all streams' rosters

	// The one used last stays decoded where there is room.
	hot  *attribution.Roster
	took int64 // of room
	room *room
}

// hotRosters is how many bytes of decoded rosters stay, some 20 KiB each of a node of
// 8 devices.
const hotRosters = 32 << 20

// get is the roster of an id, nil where it is not there (any more).
func (r *rosters) get(id attribution.Fingerprint) *roster {
	for i, x := range slices.Backward(r.list) {
		if x.id != id {
			continue
		}
		if last := len(r.list) - 1; i < last {
			copy(r.list[i:], r.list[i+1:])
			r.list[last] = x
			r.warm(x)
		}
		return x
	}
	return nil
}

// warm has a roster stay decoded, and no other.
func (r *rosters) warm(x *roster) {
	r.cool()
	if bytes := decodedRoster * int64(x.size); r.room.take(bytes) {
		r.hot, r.took = x.content(), bytes
	}
}

func (r *rosters) cool() {
	r.room.give(r.took)
	r.hot, r.took = nil, 0
}

// decodedRoster is about how many bytes of memory a byte of a roster's encoding
// becomes, once decoded.
const decodedRoster = 3

// put adds a roster and drops those that there is no room for. Where all
// streams together hold too many, and this one alone is more than its share, it
// is dropped too, which is an error.
func (r *rosters) put(x *roster) error {
	if r.get(x.id) != nil {
		return nil
	}
	r.list = append(r.list, x)
	r.pool.change(&r.bytes, int64(x.size))
	for len(r.list) > 1 && (len(r.list) > r.most || r.bytes > r.mostBytes) || r.pool.over(r.bytes) {
		r.pool.change(&r.bytes, -int64(r.list[0].size))
		r.list = slices.Delete(r.list, 0, 1)
	}
	if len(r.list) == 0 {
		r.cool()
		return status.Errorf(codes.ResourceExhausted, "a roster of %d bytes is more than this stream's share of what all may hold: raise limits.roster_total_bytes", x.size)
	}
	r.warm(x)
	return nil
}

// release drops all of them.
func (r *rosters) release() {
	r.pool.change(&r.bytes, -r.bytes)
	r.list = nil
	r.cool()
}

// joined numbers the facts of several rosters one after the other.
type joined struct {
	rosters                                      []*attribution.Roster
	devices, owners, methods, subjects, measures []uint32 // where each roster's begin
	renamed                                      []attribution.Subject
}

func newJoined() *joined { return &joined{} }

// add is the place of a roster, which is added unless it is there.
func (j *joined) add(r *attribution.Roster) int {
	if i := slices.Index(j.rosters, r); i >= 0 {
		return i
	}
	var d, o, m, x int
	for _, p := range j.rosters {
		d, o, m, x = d+len(p.Devices), o+len(p.Owners), m+len(p.Methods), x+len(p.Measures)
	}
	j.rosters = append(j.rosters, r)
	j.devices, j.owners = append(j.devices, uint32(d)), append(j.owners, uint32(o))
	j.methods, j.measures = append(j.methods, uint32(m)), append(j.measures, uint32(x))
	j.subjects = append(j.subjects, uint32(len(j.renamed)))
	for _, s := range r.Subjects {
		s.Owner += uint32(o)
		j.renamed = append(j.renamed, s)
	}
	return len(j.rosters) - 1
}

// at is the roster that index i lies in, by where the rosters begin, and its
// index there.
func at(begins []uint32, i uint32) (k int, rest uint32) {
	k = len(begins) - 1
	for begins[k] > i {
		k--
	}
	return k, i - begins[k]
}

func (j *joined) Device(i uint32) *attribution.Device {
	k, i := at(j.devices, i)
	return &j.rosters[k].Devices[i]
}

func (j *joined) Owner(i uint32) *attribution.Owner {
	k, i := at(j.owners, i)
	return &j.rosters[k].Owners[i]
}

func (j *joined) Method(i uint16) string {
	k, n := at(j.methods, uint32(i))
	return j.rosters[k].Methods[n]
}

func (j *joined) Subject(i uint32) *attribution.Subject { return &j.renamed[i] }

func (j *joined) Measure(i uint16) attribution.Measure {
	k, n := at(j.measures, uint32(i))
	return j.rosters[k].Measures[n]
}
