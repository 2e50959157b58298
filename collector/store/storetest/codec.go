package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"maps"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// body is what a stored chunk holds besides its key and roster.
type body struct {
	Windows []attribution.DeviceWindow
	Tallies []attribution.Tally
}

// Encode makes a chunk and its roster as stores keep them, in an encoding of
// the tests' own.
func Encode(c *attribution.Chunk) (store.Chunk, store.Roster) {
	r := store.Roster{ID: c.Roster.Fingerprint(), Body: encode(c.Roster)}
	b := encode(body{c.Windows, c.Tallies})
	digest := sha256.Sum256(b)
	return store.Chunk{Key: c.Key, Seconds: c.Seconds, RosterID: r.ID, Body: b, Digest: digest[:]}, r
}

// Decode is the inverse of Encode.
func Decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	out := &attribution.Chunk{Key: c.Key, Seconds: c.Seconds, Roster: new(attribution.Roster)}
	if c.RosterID != r.ID {
		return nil, fmt.Errorf("chunk %d comes with another roster than its own", c.Key.Sequence)
	}
	if err := gob.NewDecoder(bytes.NewReader(r.Body)).Decode(out.Roster); err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	var b body
	if err := gob.NewDecoder(bytes.NewReader(c.Body)).Decode(&b); err != nil {
		return nil, fmt.Errorf("chunk: %w", err)
	}
	out.Windows, out.Tallies = b.Windows, b.Tallies
	return out, nil
}

func encode(v any) []byte {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		panic("BUG: " + err.Error())
	}
	return b.Bytes()
}

// Batch makes a batch of chunks. It folds their rows in the plainest way.
func Batch(number uint64, chunks ...*attribution.Chunk) *store.Batch {
	return Rated(nil, number, chunks...)
}

// Rated makes a batch of chunks that are rated by a journal.
func Rated(j *rerating.Journal, number uint64, chunks ...*attribution.Chunk) *store.Batch {
	b := &store.Batch{
		Number:  number,
		Journal: j.Next() - 1,
		Owners:  make(map[rollup.Fingerprint]*attribution.Owner),
		Devices: make(map[rollup.Fingerprint]*attribution.Device),
	}
	for _, c := range chunks {
		ch, r := Encode(c)
		b.Chunks = append(b.Chunks, ch)
		if !slices.ContainsFunc(b.Rosters, func(x store.Roster) bool { return x.ID == r.ID }) {
			b.Rosters = append(b.Rosters, r)
		}
		for i := range c.Roster.Owners {
			b.Owners[c.Roster.Owners[i].Fingerprint()] = &c.Roster.Owners[i]
		}
		for i := range c.Roster.Devices {
			b.Devices[c.Roster.Devices[i].Fingerprint()] = &c.Roster.Devices[i]
		}
	}
	for at, sums := range fold(rollup.Minute, rateAll(j, chunks)) {
		b.Rows = append(b.Rows, rollup.Row{Bucket: at.bucket, Series: at.series, Sums: sums})
	}
	for at, value := range foldTallies(rollup.Minute, chunks) {
		b.Tallies = append(b.Tallies, rollup.TallyRow{Bucket: at.bucket, Series: at.series, Value: value})
	}
	var ts rerating.Transfers
	for _, c := range chunks {
		f := rollup.FactsOf(c.Roster)
		j.Steps(c, func(id uint32, before, after *attribution.Chunk) { ts.Add(id, before, after, f) })
	}
	b.Transfers = ts.List()
	return b
}

// LeaveOut takes out of a batch what a store says it has.
func LeaveOut(b *store.Batch, k store.Knower) {
	maps.DeleteFunc(b.Owners, func(f rollup.Fingerprint, _ *attribution.Owner) bool { return k.KnowsOwner(f) })
	maps.DeleteFunc(b.Devices, func(f rollup.Fingerprint, _ *attribution.Device) bool { return k.KnowsDevice(f) })
	b.Rosters = slices.DeleteFunc(b.Rosters, func(r store.Roster) bool { return k.KnowsRoster(r.ID) })
}

func rateAll(j *rerating.Journal, chunks []*attribution.Chunk) []*attribution.Chunk {
	out := make([]*attribution.Chunk, len(chunks))
	for i, c := range chunks {
		out[i] = j.Rate(c)
	}
	return out
}

type rowKey struct {
	bucket attribution.Second
	series rollup.Series
}

type tallyKey struct {
	bucket attribution.Second
	series rollup.TallySeries
}

func fold(r rollup.Resolution, chunks []*attribution.Chunk) map[rowKey]rollup.Sums {
	out := make(map[rowKey]rollup.Sums)
	defer func() { maps.DeleteFunc(out, func(_ rowKey, s rollup.Sums) bool { return s == (rollup.Sums{}) }) }()
	for _, c := range chunks {
		for _, w := range c.Windows {
			for _, s := range w.Slices {
				k := rowKey{r.Start(w.Second), rollup.Series{
					Device: c.Roster.Devices[w.Device].Fingerprint(), Owner: c.Roster.Owners[s.Owner].Fingerprint(),
					Basis: s.Basis, Method: c.Roster.Methods[w.Method], Revision: w.Price.Revision,
				}}
				sums := out[k]
				sums.Time += s.Time
				sums.SMActive += s.SMActive
				sums.Memory += s.Memory
				sums.Energy += s.Energy
				sums.Cost += int64(s.Cost)
				out[k] = sums
			}
		}
	}
	return out
}

func foldTallies(r rollup.Resolution, chunks []*attribution.Chunk) map[tallyKey]int64 {
	out := make(map[tallyKey]int64)
	for _, c := range chunks {
		for _, t := range c.Tallies {
			s := c.Roster.Subjects[t.Subject]
			out[tallyKey{r.Start(t.Second), rollup.TallySeries{
				Owner: c.Roster.Owners[s.Owner].Fingerprint(),
				Model: s.Model, Tenant: s.Tenant, Tier: s.Tier, Measure: c.Roster.Measures[t.Measure],
			}}] += t.Value
		}
	}
	return out
}
