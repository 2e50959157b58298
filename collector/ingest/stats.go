package ingest

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// Stats counts since the start. Every chunk that a stream sends is accepted, a
// duplicate, a conflict, rejected or asked for again.
type Stats struct {
	Streams        int64 // connected now
	Held           int64 // of those, told to wait for their turn to bring a backlog
	Waiting        int64 // chunks that wait for memory now
	Accepted       int64 // chunks
	Duplicate      int64 // chunks whose seconds were there from the same boot
	Conflict       int64 // chunks rejected because other seconds are in their place
	Rejected       int64 // chunks rejected because they break a law or limit
	Resend         int64 // chunks asked for in full
	Live           int64 // seconds taken live
	LiveDropped    int64 // seconds not kept live: of no use, too far ahead, or over the limit
	LiveShed       int64 // of those dropped, seconds that went because all nodes held too many
	LivePaused     int64 // times that a stream was told to send no live seconds for a while
	Unread         int64 // streams ended because their agent did not read its answers
	LetGo          int64 // accepted chunks let go of when their stream ended: another collector may store them
	Invalid        int64 // streams ended because of what they sent
	Superseded     int64 // streams ended by a newer one of their node
	Unpriced       int64 // device seconds without a price
	Commits        int64
	CommitFailures int64 // store errors, each followed by another attempt
	Rows           int64 // minute rows committed
	Slices         int64 // slices accepted
}

type counters struct {
	streams, accepted, duplicate, conflict, rejected, resend, live, liveDropped, liveShed, livePaused, unread, letGo atomic.Int64
	invalid, superseded, unpriced, commits, commitFailures, rows, slices                                             atomic.Int64
}

// Stats is the counts so far.
func (s *Server) Stats() Stats {
	c := &s.count
	return Stats{
		Streams: c.streams.Load(), Held: s.turns.held(), Waiting: s.budget.wait(), Accepted: c.accepted.Load(), Duplicate: c.duplicate.Load(), Conflict: c.conflict.Load(),
		Rejected: c.rejected.Load(), Resend: c.resend.Load(), Live: c.live.Load(), LiveDropped: c.liveDropped.Load(),
		LiveShed: c.liveShed.Load(), LivePaused: c.livePaused.Load(), Unread: c.unread.Load(), LetGo: c.letGo.Load(), Invalid: c.invalid.Load(), Superseded: c.superseded.Load(), Unpriced: c.unpriced.Load(),
		Commits: c.commits.Load(), CommitFailures: c.commitFailures.Load(), Rows: c.rows.Load(), Slices: c.slices.Load(),
	}
}

// Warnings is what an operator should do something about now, in words.
func (s *Server) Warnings() []string {
	ws := s.unpriced.warnings(s.o.Clock())
	if err := s.trouble.Load(); err != nil {
		ws = append(ws, fmt.Sprintf("the store fails, nothing is acknowledged: %v", *err))
	}
	return ws
}

// unpriced remembers the devices whose windows came without a price, to warn
// of them: once per device and minute in the log, and as long as it goes on in
// the status.
type unpriced struct {
	log *slog.Logger

	mu      sync.Mutex
	devices map[string]*unpricedDevice // by id
	over    bool                       // there were more than are kept
}

type unpricedDevice struct {
	device       attribution.Device
	last, logged time.Time
}

const (
	maxUnpriced    = 10_000
	unpricedMinute = time.Minute
	// unpricedFor is how long after its last unpriced window a device is warned
	// of in the status.
	unpricedFor = 10 * time.Minute
)

// note takes in a chunk and returns how many of its windows have no price. It asks for
// the chunk's roster where there are any.
func (u *unpriced) note(c *attribution.Chunk, roster func() *attribution.Roster, now time.Time) (windows int64) {
	last := -1
	for i := range c.Windows {
		w := &c.Windows[i]
		if w.Price.Known() {
			continue
		}
		windows++
		if int(w.Device) != last {
			last = int(w.Device)
			u.shout(&roster().Devices[last], now)
		}
	}
	return windows
}

func (u *unpriced) shout(d *attribution.Device, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	x := u.devices[d.ID]
	if x == nil {
		if len(u.devices) >= maxUnpriced {
			u.over = true
			return
		}
		x = &unpricedDevice{device: *d}
		u.devices[d.ID] = x
	}
	x.last = now
	if x.logged.IsZero() || now.Sub(x.logged) >= unpricedMinute {
		x.logged = now
		u.log.Warn("device has no price: its time is recorded, its cost is unknown",
			"device", d.ID, "model", d.Model, "capacity_type", d.CapacityType, "cluster", d.Cluster, "node", d.Node,
			"hint", "apply a rate card with a price for this model")
	}
}

func (u *unpriced) warnings(now time.Time) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	models := make(map[string]int)
	for id, x := range u.devices {
		if now.Sub(x.last) > unpricedFor {
			delete(u.devices, id)
			continue
		}
		models[x.device.Model]++
	}
	if len(u.devices) < maxUnpriced {
		u.over = false
	}
	var ws []string
	for _, m := range sortedKeys(models) {
		more := ""
		if u.over {
			more = " or more"
		}
		ws = append(ws, fmt.Sprintf("%d%s devices of model %q have no price: their cost is unknown; apply a rate card that prices them", models[m], more, m))
	}
	return ws
}
