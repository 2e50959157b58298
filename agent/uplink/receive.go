package uplink

import (
	"cmp"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// receive takes in messages until the stream ends, and returns why it did.
func (u *Uplink) receive(s *session) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch x := m.GetMessage().(type) {
		case *pb.ToAgent_Ack:
			u.acked(s, x.Ack)
		case *pb.ToAgent_Resend:
			u.resend(s, x.Resend)
		case *pb.ToAgent_Reject:
			u.rejected(s, x.Reject)
		case *pb.ToAgent_RateCard:
			u.o.OnRateCard(x.RateCard)
		case *pb.ToAgent_Pace:
			u.setPace(s, x.Pace)
		default: // a second Welcome, or a message of a newer collector
			u.ignore("unexpected message", 0)
		}
	}
}

// ours reports whether a boot is this spool's.
func (u *Uplink) ours(boot []byte) bool {
	b := u.o.Spool.Boot()
	return string(boot) == string(b[:])
}

func (u *Uplink) ignore(what string, sequence int64) {
	u.mu.Lock()
	u.status.Ignored++
	first := u.status.Ignored == 1
	u.mu.Unlock()
	if first { // the rest is only counted: a broken collector must not flood the log
		u.o.Logger.Warn("uplink: ignoring what the collector says", "node", u.o.Node, "what", what, "sequence", sequence)
	}
}

// acked forgets everything up to a sequence, here and in the spool.
func (u *Uplink) acked(s *session, a *pb.Ack) {
	sequence := attribution.Second(a.GetSequence())
	u.mu.Lock()
	// Chunks are sent in order, so the newest one bounds what can be there.
	known := u.ours(a.GetBoot()) && sequence <= s.newest
	if known {
		n := 0
		for n < len(s.inFlight) && s.inFlight[n].sequence <= sequence {
			s.bytes -= s.inFlight[n].bytes
			delete(s.resend, s.inFlight[n].sequence)
			n++
		}
		s.inFlight = s.inFlight[n:]
		u.status.LastAck, u.status.LastAckAt = max(u.status.LastAck, sequence), time.Now()
	}
	u.mu.Unlock()
	if !known {
		u.ignore("acknowledgement of a chunk that was never sent", a.GetSequence())
		return
	}
	u.o.Spool.Ack(sequence)
}

// resend has a chunk in flight sent again, in full.
func (u *Uplink) resend(s *session, r *pb.Resend) {
	sequence := attribution.Second(r.GetSequence())
	u.mu.Lock()
	known := u.ours(r.GetBoot()) && s.find(sequence) >= 0
	if known {
		s.resend[sequence], s.anew = struct{}{}, true
		u.status.Resends++
		u.signal()
	}
	u.mu.Unlock()
	if !known {
		u.ignore("resend of a chunk that is not in flight", r.GetSequence())
	}
}

// setPace has the sender keep to what the collector takes. One that it does not
// know changes nothing.
func (u *Uplink) setPace(s *session, p pb.Pace) {
	if _, known := pb.Pace_name[int32(p)]; !known {
		u.ignore("unknown pace", 0)
		return
	}
	u.mu.Lock()
	before := s.pace
	s.pace = p
	if p != pb.Pace_PACE_EVERYTHING {
		u.status.LiveDropped += uint64(len(u.live.seconds))
		u.live = liveQueue{}
	}
	u.signal()
	u.mu.Unlock()
	if p != before { // with thousands that take turns, this is no news
		u.o.Logger.Debug("uplink: the collector changes what may be sent", "node", u.o.Node, "pace", p.String())
	}
}

// rejected sets a chunk aside that can never be stored.
func (u *Uplink) rejected(s *session, r *pb.Reject) {
	sequence := attribution.Second(r.GetSequence())
	u.mu.Lock()
	known := u.ours(r.GetBoot()) && s.land(sequence)
	if known {
		u.status.Rejected++
	}
	u.mu.Unlock()
	if !known {
		u.ignore("rejection of a chunk that is not in flight", r.GetSequence())
		return
	}
	u.o.Logger.Error("uplink: the collector refuses a chunk for good; it is kept in the spool's folder rejected",
		"node", u.o.Node, "sequence", r.GetSequence(), "reason", clip(r.GetReason()))
	if err := u.o.Spool.SetAside(sequence, r.GetReason()); err != nil {
		u.o.Logger.Error("uplink: the refused chunk could not be kept", "node", u.o.Node, "sequence", r.GetSequence(), "err", err)
	}
}

// find is the place of a chunk in flight, −1 where it is not.
func (s *session) find(sequence attribution.Second) int {
	i, ok := slices.BinarySearchFunc(s.inFlight, sequence, func(f flight, q attribution.Second) int { return cmp.Compare(f.sequence, q) })
	if !ok {
		return -1
	}
	return i
}

// land takes a chunk out of what is in flight, if it is there.
func (s *session) land(sequence attribution.Second) bool {
	i := s.find(sequence)
	if i < 0 {
		return false
	}
	s.bytes -= s.inFlight[i].bytes
	s.inFlight = slices.Delete(s.inFlight, i, i+1)
	delete(s.resend, sequence)
	return true
}

func clip(s string) string {
	if len(s) > 500 {
		return s[:500] + "…"
	}
	return s
}
