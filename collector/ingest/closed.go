package ingest

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// takeClosed makes a chunk from the seconds that went live.
func (st *stream) takeClosed(ctx context.Context, m *pb.ChunkClosed, room *charge) error {
	n := st.node
	key, err := wire.ClosedKey(m, n.id.cluster, n.id.node, st.boot)
	if err == nil {
		err = wire.Previous(m.GetPrevious())
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	s := st.s
	w := s.benches.take()
	n.mu.Lock()
	c, err := st.close(key, m, w)
	switch {
	case c == nil || err != nil:
		n.ownLive(w)
		n.mu.Unlock()
		s.benches.give(w)
		return err
	case s.tooEarlyOrLate(c.from(), c.end()) == "" && st.fits(c, room):
		return st.place(c, w)
	default:
		n.ownLive(w)
		n.mu.Unlock()
		return st.admit(ctx, c, w, room)
	}
}

// close makes the chunk that was announced. It returns nil where the answer is
// given already: the chunk is there, or its seconds are not here or make another.
// The node's mutex must be held.
func (st *stream) close(key attribution.ChunkKey, m *pb.ChunkClosed, w *work) (*chunk, error) {
	n, end := st.node, key.Sequence+attribution.Second(m.GetSeconds())
	if n.stream != st {
		return nil, errSuperseded
	}
	if n.has.judge(span{key.Sequence, end, key.Boot}) == duplicate {
		return nil, st.noteDuplicate(key.Sequence, end)
	}
	n.decodeLive(w)
	if n.tail.err != nil {
		return nil, n.tail.err
	}
	first, _ := n.liveAt(key.Sequence)
	last, _ := n.liveAt(end)
	c, r := st.rebuild(key, int(m.GetSeconds()), n.live[first:last], w)
	if c == nil {
		return nil, st.resendLocked(key)
	}
	full, err := wire.EncodeKept(c, r.id)
	if err != nil || string(full.Digest) != string(m.GetDigest()) {
		return nil, st.resendLocked(key)
	}
	full.Previous = m.GetPrevious()
	x := st.newChunk(c, full, r)
	x.lent = true
	return x, nil
}

// rebuild makes the chunk of a key from its live seconds, in order, as the agent
// did, in a work's memory. The seconds stay as they are, and the chunk may share their
// slices. It returns nil where they make no chunk.
func (st *stream) rebuild(key attribution.ChunkKey, n int, seconds []*live, w *work) (*attribution.Chunk, *roster) {
	ns, nt := 0, 0
	for _, l := range seconds {
		ns, nt = ns+int(sliceCount(l.chunk)), nt+len(l.chunk.Tallies)
	}
	if ns > wire.MaxSlices || nt > wire.MaxTallies || (key.Sequence+attribution.Second(n)-1).ChunkStart() != key.Sequence.ChunkStart() {
		return nil, nil
	}
	var used []bool
	if len(seconds) > 0 && !rostersDiffer(seconds) {
		of := seconds[0].roster
		used = usedOf(seconds[0].chunk.Roster, seconds)
		if r := st.excerpt.find(of, used); r != nil {
			return joinExcerpt(key, n, seconds, r, used, w), r
		}
	}
	for _, l := range w.lent { // the others may be with a question by now
		l.chunk.Roster = l.roster.content()
	}
	c, ok := joinAny(key, n, seconds)
	if !ok || c.Check() != nil {
		return nil, nil
	}
	r := st.rosters.get(c.Roster.Fingerprint())
	if r == nil {
		var err error
		if r, err = decodeRoster(wire.EncodeRoster(c.Roster)); err != nil {
			return nil, nil
		}
		_ = st.rosters.put(r) // one that there is no room for serves this chunk all the same
	}
	if used != nil {
		st.excerpt = excerpt{seconds[0].roster, used, r}
	}
	return c, r
}

// rostersDiffer reports whether seconds refer to several rosters.
func rostersDiffer(seconds []*live) bool {
	return slices.ContainsFunc(seconds, func(l *live) bool { return l.roster != seconds[0].roster })
}

// excerpt is the roster of a stream's last chunk: that of its live seconds
// without what does not occur. The next chunk's is mostly the same, which saves
// building it and its fingerprint.
type excerpt struct {
	of     *roster
	used   []bool // of all entries, see usedOf
	roster *roster
}

// find is the excerpt of a roster with these entries, nil where it is not known.
func (e *excerpt) find(of *roster, used []bool) *roster {
	switch {
	case !slices.Contains(used, false):
		return of
	case e.of == of && slices.Equal(e.used, used):
		return e.roster
	}
	return nil
}

// places are where the devices, owners, methods, subjects and measures of a
// roster begin among all of its entries, and how many entries there are.
func places(r *attribution.Roster) (owners, methods, subjects, measures, all int) {
	owners = len(r.Devices)
	methods = owners + len(r.Owners)
	subjects = methods + len(r.Methods)
	measures = subjects + len(r.Subjects)
	return owners, methods, subjects, measures, measures + len(r.Measures)
}

// usedOf tells which entries of a roster occur in seconds that all refer to it.
func usedOf(r *attribution.Roster, seconds []*live) []bool {
	owners, methods, subjects, measures, all := places(r)
	used := make([]bool, all)
	for _, l := range seconds {
		for i := range l.chunk.Windows {
			w := &l.chunk.Windows[i]
			used[w.Device], used[methods+int(w.Method)] = true, true
			for j := range w.Slices {
				used[owners+int(w.Slices[j].Owner)] = true
			}
		}
		for _, t := range l.chunk.Tallies {
			used[subjects+int(t.Subject)], used[measures+int(t.Measure)] = true, true
			used[owners+int(r.Subjects[t.Subject].Owner)] = true
		}
	}
	return used
}

// joinExcerpt makes a chunk of seconds that all refer to one roster, in terms of
// the excerpt of it that has the used entries. An excerpt has its entries in the
// same order, so everything stays in the canonical order that each second is in;
// and each was checked, so that the whole keeps the laws, as attribution.Join of
// them does.
func joinExcerpt(key attribution.ChunkKey, n int, seconds []*live, r *roster, used []bool, w *work) *attribution.Chunk {
	of := seconds[0].chunk.Roster
	c := &attribution.Chunk{Key: key, Seconds: n, Roster: of}
	if r != seconds[0].roster {
		c.Roster = w.outlineOf(r)
	}
	begin := make([]int, len(of.Devices)+1) // where each device's windows begin
	windows, tallies := 0, 0
	for _, l := range seconds {
		windows, tallies = windows+len(l.chunk.Windows), tallies+len(l.chunk.Tallies)
		for i := range l.chunk.Windows {
			begin[l.chunk.Windows[i].Device+1]++
		}
	}
	for d := range of.Devices {
		begin[d+1] += begin[d]
	}
	c.Windows = w.mem.Windows(windows)
	for _, l := range seconds {
		for i := range l.chunk.Windows {
			d := l.chunk.Windows[i].Device
			c.Windows[begin[d]] = l.chunk.Windows[i]
			begin[d]++
		}
	}
	c.Tallies = w.mem.Tallies(tallies)[:0]
	for _, l := range seconds {
		c.Tallies = append(c.Tallies, l.chunk.Tallies...)
	}
	if r != seconds[0].roster {
		renumber(c, of, used, &w.mem)
	}
	return c
}

// renumber puts a chunk's entries of a roster in terms of the excerpt with the
// used ones. The slices are copied.
func renumber(c *attribution.Chunk, of *attribution.Roster, used []bool, mem *wire.Arena) {
	owners, methods, subjects, measures, all := places(of)
	to := make([]uint32, all)
	for _, part := range [][2]int{{0, owners}, {owners, methods}, {methods, subjects}, {subjects, measures}, {measures, all}} {
		next := uint32(0)
		for i := part[0]; i < part[1]; i++ {
			if used[i] {
				to[i] = next
				next++
			}
		}
	}
	for i := range c.Windows {
		w := &c.Windows[i]
		w.Device, w.Method = to[w.Device], uint16(to[methods+int(w.Method)])
		own := mem.Slices(len(w.Slices))
		for j, s := range w.Slices {
			s.Owner = to[owners+int(s.Owner)]
			own[j] = s
		}
		w.Slices = own
	}
	for i := range c.Tallies {
		t := &c.Tallies[i]
		t.Subject, t.Measure = to[subjects+int(t.Subject)], uint16(to[measures+int(t.Measure)])
	}
}

// joinAny makes the chunk of seconds of whatever rosters, anew. ok is false where
// their rosters are too large to be numbered together.
func joinAny(key attribution.ChunkKey, n int, seconds []*live) (c *attribution.Chunk, ok bool) {
	j := newJoined()
	var windows []attribution.DeviceWindow
	var tallies []attribution.Tally
	for _, l := range seconds {
		k := j.add(l.chunk.Roster)
		if int(j.methods[k])+len(l.chunk.Roster.Methods) > 1<<16 || int(j.measures[k])+len(l.chunk.Roster.Measures) > 1<<16 {
			return nil, false
		}
		for _, w := range l.chunk.Windows {
			w.Device += j.devices[k]
			w.Method += uint16(j.methods[k])
			w.Slices = slices.Clone(w.Slices)
			for i := range w.Slices {
				w.Slices[i].Owner += j.owners[k]
			}
			windows = append(windows, w)
		}
		for _, t := range l.chunk.Tallies {
			t.Subject += j.subjects[k]
			t.Measure += uint16(j.measures[k])
			tallies = append(tallies, t)
		}
	}
	return attribution.BuildChunk(key, n, j, windows, tallies), true
}
