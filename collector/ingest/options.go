package ingest

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
)

// Options say how a [Server] behaves. The zero value of a field means its
// default, except where said.
type Options struct {
	// Version of the collector, told to agents.
	Version string
	// Clock is the wall clock. Default: time.Now.
	Clock func() time.Time
	// Rand yields numbers in [0, 1) for jitter. Default: math/rand/v2.
	Rand func() float64
	// Log gets what operators should know. Default: nowhere.
	Log *slog.Logger
	// AllowFuture takes chunks whatever their time. Otherwise chunks that lie
	// more than MaxAhead after the clock are rejected, so that one node with a
	// broken clock cannot move the ledger's end.
	AllowFuture bool
	// Retention is how long the store keeps what. The zero value keeps
	// everything for ever.
	Retention store.Retention
	// LiveEvery is how many live seconds agents are asked to send together, at most
	// attribution.ChunkSeconds. Default 1.
	LiveEvery int
	Limits    Limits
	Timing    Timing
}

// MaxAhead is how far after the collector's clock a chunk may lie.
const MaxAhead = time.Hour

// Limits bound what is in memory.
type Limits struct {
	// Nodes is the number of nodes that may be known. Default 50,000. At the
	// limit new nodes are refused with ResourceExhausted.
	Nodes int
	// PendingChunks is the number of chunks that may wait for their commit,
	// over all nodes. Default 131,072. At the limit streams are not read.
	PendingChunks int64
	// PendingBytes is the same in bytes of memory. Default 1 GiB. What was just
	// committed is kept a moment for queries and takes up to an eighth as
	// much again, or what one commit holds.
	PendingBytes int64
	// DecodedBytes is how much memory pending chunks may take decoded. Default
	// 128 MiB. Those beyond it are kept as they are stored, in a tenth of the
	// memory, and decoded again for each question that reads them.
	DecodedBytes int64
	// BatchRows is the number of minute rows at which a commit no longer waits
	// for more. Default 100,000.
	BatchRows int
	// LiveSeconds is the number of live windows kept per node. Default 30. At
	// the limit the oldest is dropped; its chunk brings it again.
	LiveSeconds int
	// LiveBytes is the same in bytes of memory. Default 8 MiB.
	LiveBytes int64
	// LiveTotalBytes is the same over all nodes. Default 512 MiB. At the limit
	// nodes that hold more than an equal share drop their oldest; their chunks
	// bring them again, in full.
	LiveTotalBytes int64
	// Rosters is the number of rosters kept per stream. Default 64. At the
	// limit the one not used for longest is dropped; a reference to it later
	// ends the stream, and the agent connects again and sends it again.
	Rosters int
	// RosterBytes is the same in bytes of wire encoding. Default 8 MiB.
	RosterBytes int64
	// RosterTotalBytes is the same over all streams. Default 256 MiB. At the
	// limit streams that hold more than an equal share drop those not used for
	// longest; one whose newest roster alone is more than that is ended.
	RosterTotalBytes int64
	// CatchingUp is the number of streams that may bring a backlog at once.
	// Default 512. Others wait for their turn.
	CatchingUp int
	// Ranges is the number of separate runs of seconds that a node may have.
	// Default 100,000. At the limit chunks that would open another are
	// rejected.
	Ranges int
}

// Timing says when things happen.
type Timing struct {
	// Linger is how long the writer waits for more ready groups after the
	// first. Default 250 ms.
	Linger time.Duration
	// MaxAge is how long a group waits for its minute to be complete. Default
	// 90 s.
	MaxAge time.Duration
	// Hello is how long a stream may take to introduce itself. Default 10 s.
	Hello time.Duration
	// Unread is how long a stream's answers may wait for an agent that does not
	// read them; then the stream is ended. Default 1 min.
	Unread time.Duration
	// Backoff is the first wait after a store error; it doubles up to
	// MaxBackoff. Defaults 100 ms and 10 s.
	Backoff, MaxBackoff time.Duration
	// Housekeeping is how often rows are rolled and old ones dropped. Default
	// 1 min. Rolling also happens for every six hours of data.
	Housekeeping time.Duration
}

// DefaultLimits are the limits that count where none are given.
func DefaultLimits() Limits {
	return Limits{
		Nodes: 50_000, PendingChunks: 131_072, PendingBytes: 1 << 30, DecodedBytes: 128 << 20, BatchRows: 100_000, LiveSeconds: 30,
		LiveBytes: 8 << 20, LiveTotalBytes: 512 << 20, Rosters: 64, RosterBytes: 8 << 20, RosterTotalBytes: 256 << 20, CatchingUp: 512, Ranges: 100_000,
	}
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	orElse(&o.LiveEvery, 1)
	l, t := &o.Limits, &o.Timing
	d := DefaultLimits()
	orElse(&l.Nodes, d.Nodes)
	orElse(&l.PendingChunks, d.PendingChunks)
	orElse(&l.PendingBytes, d.PendingBytes)
	orElse(&l.DecodedBytes, d.DecodedBytes)
	orElse(&l.BatchRows, d.BatchRows)
	orElse(&l.LiveSeconds, d.LiveSeconds)
	orElse(&l.LiveBytes, d.LiveBytes)
	orElse(&l.LiveTotalBytes, d.LiveTotalBytes)
	orElse(&l.Rosters, d.Rosters)
	orElse(&l.RosterBytes, d.RosterBytes)
	orElse(&l.RosterTotalBytes, d.RosterTotalBytes)
	orElse(&l.CatchingUp, d.CatchingUp)
	orElse(&l.Ranges, d.Ranges)
	orElse(&t.Linger, 250*time.Millisecond)
	orElse(&t.MaxAge, 90*time.Second)
	orElse(&t.Hello, 10*time.Second)
	orElse(&t.Unread, time.Minute)
	orElse(&t.Backoff, 100*time.Millisecond)
	orElse(&t.MaxBackoff, 10*time.Second)
	orElse(&t.Housekeeping, time.Minute)
	return o
}

func orElse[T int | int64 | time.Duration](v *T, fallback T) {
	if *v == 0 {
		*v = fallback
	}
}

// Validate finds limits that make no sense.
func (l *Limits) Validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"nodes", int64(l.Nodes)},
		{"pending_chunks", l.PendingChunks},
		{"pending_bytes", l.PendingBytes},
		{"decoded_bytes", l.DecodedBytes},
		{"batch_rows", int64(l.BatchRows)},
		{"live_seconds", int64(l.LiveSeconds)},
		{"live_bytes", l.LiveBytes},
		{"live_total_bytes", l.LiveTotalBytes},
		{"rosters", int64(l.Rosters)},
		{"roster_bytes", l.RosterBytes},
		{"roster_total_bytes", l.RosterTotalBytes},
		{"catching_up", int64(l.CatchingUp)},
		{"ranges", int64(l.Ranges)},
	} {
		if f.value < 0 {
			return fmt.Errorf("limit %s is %d: want a positive number, or 0 for the default", f.name, f.value)
		}
	}
	return nil
}
