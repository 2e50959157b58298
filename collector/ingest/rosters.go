package ingest

import (
	"slices"
	"weak"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// rosters are what a stream has sent, those used last at the end. There are
// few, so they are searched one by one.
type rosters struct {
	most      int
	mostBytes int64
	list      []kept
	bytes     int64 // part of pool
	pool      *pool // of all streams' rosters
}

// kept is a roster that the agent may refer to. Of a stream the one used last stays
// decoded, ten times as large as packed; another while anything else has it, and it
// is decoded again where it is referred to later, as few are.
type kept struct {
	id      attribution.Fingerprint
	packed  *pb.Roster
	size    int
	decoded *roster // nil but in the one used last
	again   weak.Pointer[roster]
}

// roster is the roster decoded.
func (k *kept) roster() *roster {
	if k.decoded != nil {
		return k.decoded
	}
	if r := k.again.Value(); r != nil {
		return r
	}
	r, err := wire.DecodeRoster(k.packed)
	if err != nil {
		panic("BUG: a roster that was packed is not unpacked again: " + err.Error())
	}
	return &roster{id: k.id, facts: rollup.FactsOf(r), packed: k.packed, size: k.size}
}

// get is the roster of an id, nil where it is not there (any more).
func (r *rosters) get(id attribution.Fingerprint) *roster {
	for i := range slices.Backward(r.list) {
		if r.list[i].id == id {
			return r.use(i)
		}
	}
	return nil
}

// use makes the i-th the one used last.
func (r *rosters) use(i int) *roster {
	last := len(r.list) - 1
	x := r.list[i].roster()
	k := r.list[i]
	r.list[last].decoded = nil
	copy(r.list[i:], r.list[i+1:])
	k.decoded, k.again = x, weak.Make(x)
	r.list[last] = k
	return x
}

// put adds a roster and drops those that there is no room for. Where all
// streams together hold too many, and this one alone is more than its share, it
// is dropped too, which is an error.
func (r *rosters) put(x *roster) error {
	if r.get(x.id) != nil {
		return nil
	}
	if n := len(r.list); n > 0 {
		r.list[n-1].decoded = nil
	}
	r.list = append(r.list, kept{x.id, x.packed, x.size, x, weak.Make(x)})
	r.pool.change(&r.bytes, int64(x.size))
	for len(r.list) > 1 && (len(r.list) > r.most || r.bytes > r.mostBytes) || r.pool.over(r.bytes) {
		r.pool.change(&r.bytes, -int64(r.list[0].size))
		r.list = slices.Delete(r.list, 0, 1)
	}
	if len(r.list) == 0 {
		return status.Errorf(codes.ResourceExhausted, "a roster of %d bytes is more than this stream's share of what all may hold: raise limits.roster_total_bytes", x.size)
	}
	return nil
}

// release drops all of them.
func (r *rosters) release() {
	r.pool.change(&r.bytes, -r.bytes)
	r.list = nil
}

// decodeRoster reads a roster; its id is what its content says.
func decodeRoster(m *pb.Roster) (*roster, error) {
	r, err := wire.DecodeRoster(m)
	if err != nil {
		return nil, err
	}
	// Encoded anew, so that nothing unknown to this version is stored under
	// the id of what it does know.
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(r))
	if err != nil {
		return nil, err
	}
	return &roster{id: r.Fingerprint(), facts: rollup.FactsOf(r), packed: wire.PackRoster(body), size: len(body)}, nil
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
