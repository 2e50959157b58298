package bench

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// rows makes the rows of sums that a fleet's seconds fold into, without the
// seconds: each minute's device times are drawn second by second as the fleet's
// are, and cost and energy follow from them. Pods are renamed every day, and
// what memory they hold changes by the hour.
type rows struct {
	fleet
	nodes int
	rand  *rand.Rand

	day, hour attribution.Second // those that the places are of
	places    []place
	owners    map[rollup.Fingerprint]*attribution.Owner
	devices   map[rollup.Fingerprint]*attribution.Device
}

// place is a device and who is on it.
type place struct {
	device rollup.Fingerprint
	owners []rollup.Fingerprint
	memory []int64 // bytes
	power  int64   // W
}

func newRows(f fleet, nodes int) *rows {
	r := &rows{fleet: f, nodes: nodes, rand: rand.New(rand.NewPCG(1, 2)), day: -1, hour: -1, devices: map[rollup.Fingerprint]*attribution.Device{}}
	for n := range nodes {
		for d := range f.devices {
			device := f.device(n, d)
			p := place{device: device.Fingerprint(), owners: make([]rollup.Fingerprint, f.owners), memory: make([]int64, f.owners)}
			r.devices[p.device] = &device
			r.places = append(r.places, p)
		}
	}
	return r
}

// at moves the places to a time.
func (r *rows) at(t attribution.Second) {
	if hour := t / 3600; hour != r.hour {
		r.hour = hour
		for i := range r.places {
			r.places[i].power = 200 + r.rand.Int64N(400)
			for o := range r.places[i].memory {
				r.places[i].memory[o] = (1 + r.rand.Int64N(10_000)) << 21
			}
		}
	}
	day := t / 86400
	if day == r.day {
		return
	}
	r.day = day
	r.owners = map[rollup.Fingerprint]*attribution.Owner{}
	for i := range r.places {
		for o := range r.places[i].owners {
			owner := r.owner(i/r.fleet.devices, i%r.fleet.devices, o, int(day))
			id := owner.Fingerprint()
			r.places[i].owners[o] = id
			r.owners[id] = &owner
		}
	}
}

// add appends the rows of so many minutes from t on, all in the bucket of t.
func (r *rows) add(to []rollup.Row, t attribution.Second, minutes int64) []rollup.Row {
	r.at(t)
	for i := range r.places {
		to = r.addPlace(to, &r.places[i], t, minutes)
	}
	return to
}

func (r *rows) addPlace(to []rollup.Row, p *place, t attribution.Second, minutes int64) []rollup.Row {
	total := minutes * 60 * attribution.WindowNanos
	price := int64(r.price) * minutes / 60
	energy := minutes*60*p.power*1_000_000 + r.rand.Int64N(minutes*1_200_000)/1000*1000 // counters count mJ
	left, unspent, unused := total, price, energy
	row := func(o int, basis attribution.Basis, time, memory int64) {
		s := rollup.Sums{Time: time, Memory: memory}
		if basis == attribution.Used {
			s.SMActive = time
		}
		// What remainders add over the seconds is lost in the noise, save
		// that the parts must make the whole.
		if left -= time; left == 0 {
			s.Cost, s.Energy = unspent, unused
		} else {
			s.Cost, s.Energy = part(price, time, total), part(energy, time, total)
		}
		unspent, unused = unspent-s.Cost, unused-s.Energy
		to = append(to, rollup.Row{
			Bucket: t, Sums: s,
			Series: rollup.Series{Device: p.device, Owner: p.owners[o], Basis: basis, Method: "sm/process", Revision: 1},
		})
	}
	for o := range p.owners {
		time := r.busy(minutes)
		if !r.held && o == len(p.owners)-1 {
			time = left
		}
		row(o, attribution.Used, time, p.memory[o]*60*minutes)
	}
	if r.held {
		idle := left
		for o := range p.owners {
			time := idle / int64(len(p.owners))
			if o == len(p.owners)-1 {
				time = left
			}
			row(o, attribution.Reserved, time, 0)
		}
	}
	return to
}

// part is ⌊whole·time/total⌋.
func part(whole, time, total int64) int64 {
	hi, lo := bits.Mul64(uint64(whole), uint64(time))
	q, _ := bits.Div64(hi, lo, uint64(total))
	return int64(q)
}

// busy is an owner's device time in so many minutes.
func (r *rows) busy(minutes int64) (time int64) {
	// An hour and more is drawn by the minute: its sums are as odd.
	step := int64(1)
	if minutes >= 60 {
		step = 60
	}
	limit := int64(90 / r.fleet.owners)
	for range minutes * 60 / step {
		cut := r.rand.Int64N(40_000_000)
		time += step * ((r.rand.Int64N(limit)*(attribution.WindowNanos-cut) + r.rand.Int64N(limit)*cut) / 100)
	}
	return time
}

// batch is a commit of rows. What the store knows of time comes from chunks, so
// it has one.
func (r *rows) batch(b *testing.B, number uint64, t attribution.Second, rs []rollup.Row) *store.Batch {
	b.Helper()
	c := r.chunk(0, int((t-r.start)/attribution.ChunkSeconds))
	id := c.Roster.Fingerprint()
	m := encodeChunk(b, c, id)
	roster, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(c.Roster))
	if err != nil {
		b.Fatal(err)
	}
	return &store.Batch{
		Number: number, Rows: rs, Owners: r.owners, Devices: r.devices,
		Rosters: []store.Roster{{ID: id, Body: roster}},
		Chunks:  []store.Chunk{{Key: c.Key, Seconds: c.Seconds, RosterID: id, Body: m.GetBody(), Digest: m.GetDigest()}},
	}
}
