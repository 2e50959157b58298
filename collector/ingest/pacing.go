package ingest

import (
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// pacing is what an agent may send, by all that have a say in it, and what it was
// told. What may not be sent waits in the agent's spool and not in the collector's
// memory.
type pacing struct {
	outbox *outbox

	mu     sync.Mutex
	queued bool // it waits for its turn: see turns
	full   bool // its chunk waits for memory: see budget
	paused bool // its live seconds are paused: see pause
	told   pb.Pace
}

// set changes one of the reasons, and tells the agent where that makes a
// difference. One that does not read what it is told is soon ended for that. It
// waits for nothing.
func (p *pacing) set(reason *bool, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *reason = on; p.now() != p.told {
		p.told = p.now()
		_ = p.outbox.answer(&pb.ToAgent{Message: &pb.ToAgent_Pace{Pace: p.told}})
	}
}

// begin is what the agent's welcome tells it.
func (p *pacing) begin(queued bool, tell func(pb.Pace)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued = queued
	p.told = p.now()
	tell(p.told)
}

func (p *pacing) now() pb.Pace {
	switch {
	case p.queued || p.full:
		return pb.Pace_PACE_NOTHING
	case p.paused:
		return pb.Pace_PACE_CHUNKS
	}
	return pb.Pace_PACE_EVERYTHING
}

// paceLive has the agent pause where its live seconds come late.
func (st *stream) paceLive(end attribution.Second) {
	now := st.s.o.Clock()
	if st.pause.tooLate(now.Sub(time.Unix(int64(end), 0)), now, st.s.o.Rand) {
		st.s.count.livePaused.Add(1)
		st.pacing.set(&st.pacing.paused, true)
	}
}

// paceChunk has the agent go on after a pause, or take turns where it brings a
// backlog, as a chunk in full says that nobody asked for.
func (st *stream) paceChunk(from attribution.Second) {
	switch {
	case st.pause.over(st.s.o.Clock()):
		st.pacing.set(&st.pacing.paused, false)
	case st.pause.on() || st.askedFor(from):
	default:
		st.turn.took()
	}
}

func (st *stream) askedFor(from attribution.Second) bool {
	st.node.mu.Lock()
	defer st.node.mu.Unlock()
	return st.receipts.asked(from)
}
