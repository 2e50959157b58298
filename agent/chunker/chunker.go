// Package chunker closes sealed seconds into chunks and hands them to the
// spool.
//
// A second comes in as the meter sealed it. The chunker prices its windows,
// keeps it with the seconds of the same wall-clock ten, and when the ten is
// full, or on Flush, closes the chunk: canonical roster, deterministic bytes.
// A chunk begins with whatever second comes first, never crosses the end of its
// ten, and ends before it where the next second would make it too large to
// travel for sure. A second that is too large by itself is a chunk of its own,
// without what does not fit; its device time always does.
//
// On a live node each second is also made a chunk of its own, for two ends: the
// spool keeps it until the real chunk is closed, so that a restart goes on
// where the crash was, with the same bytes in the end (law 4); and it is sent
// at once, for freshness.
//
// Where the spool was damaged, seconds may be at the collector already, in chunks
// that nobody remembers ([spool.Spool.InDoubt]). They are closed one by one, so
// that each is either a duplicate or new, and the chain begins anew behind each,
// since it is not known which one the collector has.
package chunker

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Pricer prices devices; rating.Rater is one. It must not change, and is asked
// by one goroutine at a time.
type Pricer interface {
	// Prices writes the prices of all devices of the node at second s.
	Prices(devices []attribution.Device, s attribution.Second, out []attribution.Price)
	// NextChange is the first second after s at which a price may change.
	NextChange(s attribution.Second) attribution.Second
}

// Options configure a chunker. Cluster, Node and Spool are required.
type Options struct {
	Cluster string
	Node    string
	Spool   *spool.Spool

	// Journal keeps each second in the spool until its chunk is closed. A
	// replay does without: it reads its recording again.
	Journal bool
	// Live is given each second once it is durable (and only then: it needs
	// Journal), as a chunk of one second, with its roster's fingerprint. It
	// must not block, nor keep more of it than the roster. Seal then syncs the
	// spool every second.
	Live func(second *attribution.Chunk, rosterID attribution.Fingerprint)
	// Sealed is given each second that Seal takes, priced, as a chunk of one
	// second, whether or not it is durable yet. It must not keep it.
	Sealed func(second *attribution.Chunk)
	// Unpriced is told of a device without a price, once per device and
	// Pricer. It must not keep the pointer.
	Unpriced func(d *attribution.Device, s attribution.Second)
	// Logger is told what can't be recovered. Default: nobody.
	Logger *slog.Logger
}

// Stats are counts since New.
type Stats struct {
	Seconds         uint64 // sealed
	Windows         uint64
	UnpricedWindows uint64
	Chunks          uint64 // handed to the spool
	Recovered       uint64 // seconds taken from the spool by New
	Refused         uint64 // seconds that Seal refused with ErrFull
	NotJournaled    uint64 // seconds that a crash before their chunk would have lost

	// What did not fit into seconds that were too large to travel. But for
	// LostWindows, device time and cost are what they were.
	DroppedTallies  uint64
	UnlabeledOwners uint64 // once per second
	UnownedWindows  uint64 // whose time became unattributed
	LostWindows     uint64 // of a node with more devices than the format takes
}

// Chunker collects the seconds of one node. One goroutine uses it; SetPricer
// and Stats are for any.
type Chunker struct {
	o       Options
	boot    attribution.Boot
	pricer  atomic.Pointer[Pricer]
	prices  priceCache
	rosters rosterCache

	first   attribution.Second // of the open chunk
	seconds int                // in the open chunk
	weight  int                // of the open chunk
	open    batch
	single  batch // scratch for one second
	parts   parts // what open's numbers mean

	link    []byte    // of the node's chain behind the newest closed chunk
	doubted int       // chunks of one second that were closed because they are in doubt
	waiting []*closed // closed, and refused by the spool so far

	told [losses]bool // what of it has been logged

	stats struct {
		seconds, windows, unpriced, chunks, recovered, refused, notJournaled atomic.Uint64

		droppedTallies, unlabeledOwners, unownedWindows, lostWindows atomic.Uint64
	}
	next attribution.Second
}

// closed is a chunk, and as it is for the spool.
type closed struct {
	facts  *attribution.Chunk // in the memory of the batch that it was made from
	chunk  spool.Chunk
	digest []byte
	roster *roster
}

// New makes a chunker that goes on where the spool's last one stopped: Next
// says where.
func New(o Options) (*Chunker, error) {
	switch {
	case o.Spool == nil || o.Node == "":
		return nil, errors.New("chunker: a node and a spool are required")
	case o.Live != nil && !o.Journal:
		return nil, errors.New("chunker: live windows need the journal")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Chunker{o: o, boot: o.Spool.Boot(), link: o.Spool.Link()}
	if len(c.link) == 0 { // a new spool, or one whose newest chunk is not chained
		c.link = attribution.FirstLink(c.boot)
	}
	seconds, err := o.Spool.OpenSeconds()
	c.next = o.Spool.Next()
	if err != nil {
		o.Logger.Error("chunker: sealed seconds can't be read back; from the first such on they will be unobserved",
			"node", o.Node, "second", int64(c.next), "err", err)
	}
	for i := range seconds {
		if err := c.recoverSecond(&seconds[i]); err != nil {
			o.Logger.Error("chunker: a sealed second can't be read back; from it on they will be unobserved",
				"node", o.Node, "second", int64(seconds[i].Sequence), "err", err)
			c.next = seconds[i].Sequence
			break
		}
	}
	if err := c.retry(); err != nil && !errors.Is(err, spool.ErrFull) {
		return nil, err
	}
	return c, nil
}

// Next is the first second that Seal has not taken, 0 in a new spool.
func (c *Chunker) Next() attribution.Second { return c.next }

// SetPricer sets the prices of the seconds that are sealed from now on; nil
// (as at first) leaves them unpriced. Any goroutine may call it.
func (c *Chunker) SetPricer(p Pricer) {
	if p == nil {
		c.pricer.Store(nil)
		return
	}
	c.pricer.Store(&p)
}

// Stats is a snapshot of the counters. Any goroutine may call it.
func (c *Chunker) Stats() Stats {
	s := &c.stats
	return Stats{
		Seconds: s.seconds.Load(), Windows: s.windows.Load(), UnpricedWindows: s.unpriced.Load(), Chunks: s.chunks.Load(),
		Recovered: s.recovered.Load(), Refused: s.refused.Load(), NotJournaled: s.notJournaled.Load(),
		DroppedTallies: s.droppedTallies.Load(), UnlabeledOwners: s.unlabeledOwners.Load(),
		UnownedWindows: s.unownedWindows.Load(), LostWindows: s.lostWindows.Load(),
	}
}

// Seal takes one second of the node: a window of every device, unpriced, and
// its tallies, each (owner, basis) of a window and each (subject, measure)
// once. It copies what it keeps. A number must mean the same to facts for as
// long as the chunk is open.
//
// Seconds come in order; one that does not follow the last closes the open
// chunk first. An error that wraps spool.ErrFull means that the second was not
// taken, and Next has not moved: wait and seal it again, or drop it and later
// seal the time from Next on as unobserved. After nil it is taken; it is
// durable once the spool is synced and either journals or has its chunk.
func (c *Chunker) Seal(s attribution.Second, windows []attribution.DeviceWindow, tallies []attribution.Tally, facts attribution.Facts) error {
	if s < c.next {
		return fmt.Errorf("chunker: second %d is sealed already: the next is %d", s, c.next)
	}
	weight := weigh(windows, tallies)
	if s > c.next || c.weight+weight > maxWeight {
		c.close()
	}
	if err := c.retry(); err != nil {
		if errors.Is(err, spool.ErrFull) {
			c.stats.refused.Add(1)
		}
		return err
	}
	base := c.parts.meter(facts)
	mark := c.open.mark()
	c.open.add(windows, tallies, base)
	c.price(s, c.open.windows[mark.windows:], windows, facts)
	c.opened(s, weight)
	c.stats.seconds.Add(1)
	c.stats.windows.Add(uint64(len(windows)))
	tooLarge := weight > maxWeight || !rosterWithin(windows, tallies, facts)
	if c.o.Journal || c.o.Sealed != nil || tooLarge {
		c.sealed(s, mark, tooLarge)
	}
	return c.closeIfFull()
}

// opened counts a second that open has got.
func (c *Chunker) opened(s attribution.Second, weight int) {
	if c.seconds == 0 {
		c.first = s
	}
	c.seconds++
	c.weight += weight
	c.next = s + 1
}

// Flush closes the open chunk, if there is one, and hands it to the spool.
func (c *Chunker) Flush() error {
	c.close()
	return c.retry()
}

// mostDoubted bounds the chunks of one second that damage may make: after a long
// absence what follows is in chunks of ten, as always.
const mostDoubted = 600

func (c *Chunker) closeIfFull() error {
	switch {
	case c.seconds == 0:
	case c.next.ChunkStart() != c.first.ChunkStart():
		c.close()
	case c.doubted < mostDoubted && c.o.Spool.InDoubt(c.first):
		c.doubted++
		c.close()
	}
	if err := c.retry(); err != nil && !errors.Is(err, spool.ErrFull) {
		return err
	}
	return nil
}

// close makes the open seconds a chunk, or chunks. There are none waiting then:
// Seal takes nothing while there are.
func (c *Chunker) close() {
	if c.seconds > 0 {
		c.await(c.fit(c.build(c.first, c.seconds, &c.open)))
	}
	c.seconds, c.weight = 0, 0
	c.open.reset()
	c.parts.reset()
}

// await has chunks wait for the spool, each chained to the one before, unless
// that is in doubt.
func (c *Chunker) await(chunks []*closed) {
	for _, x := range chunks {
		if c.o.Spool.InDoubt(x.chunk.Sequence - 1) {
			c.link = attribution.FirstLink(c.boot)
		}
		x.facts = nil
		x.chunk.Body = wire.AppendPrevious(x.chunk.Body, c.link)
		c.link = attribution.Link(c.link, x.chunk.Sequence, x.digest)
		x.chunk.Link = c.link
		c.waiting = append(c.waiting, x)
	}
}

// retry hands the closed chunks to the spool.
func (c *Chunker) retry() error {
	for len(c.waiting) > 0 {
		x := c.waiting[0]
		if err := c.o.Spool.AppendChunk(x.chunk, x.roster.encoding); err != nil {
			return fmt.Errorf("chunker: %w", err)
		}
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
		c.stats.chunks.Add(1)
	}
	c.waiting = nil
	return nil
}

// build closes a batch into a chunk, in the batch's memory.
func (c *Chunker) build(first attribution.Second, seconds int, b *batch) *attribution.Chunk {
	key := attribution.ChunkKey{Cluster: c.o.Cluster, Node: c.o.Node, Boot: c.boot, Sequence: first}
	return attribution.BuildChunk(key, seconds, &c.parts, b.windows, b.tallies)
}

// pack encodes a chunk for the spool. It fails where the collector would not
// take the chunk or its roster.
func (c *Chunker) pack(chunk *attribution.Chunk) (*closed, error) {
	r, err := c.rosters.get(chunk.Roster)
	if err != nil {
		return nil, err
	}
	m, err := wire.EncodeChunk(chunk, r.id)
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("chunk %d: %w", chunk.Key.Sequence, err)
	}
	return &closed{
		facts: chunk, digest: m.GetDigest(), roster: r,
		chunk: spool.Chunk{Sequence: chunk.Key.Sequence, Seconds: chunk.Seconds, RosterID: r.id, Body: body},
	}, nil
}
