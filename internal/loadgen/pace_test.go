package loadgen

import (
	"fmt"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// paceNow is the pace at this time, and when the next one comes; zero: never.
func (l *ledger) paceNow() (p pb.Pace, next time.Time) {
	if len(l.paces) == 0 {
		return pb.Pace_PACE_EVERYTHING, time.Time{}
	}
	i := int(time.Since(l.began) / l.each)
	if i >= len(l.paces)-1 {
		return l.paces[len(l.paces)-1], time.Time{}
	}
	return l.paces[i], l.began.Add(time.Duration(i+1) * l.each)
}

// welcome begins a stream at the pace of the time.
func (s *peer) welcome() error {
	s.mu.Lock()
	s.pace, _ = s.paceNow()
	s.since = time.Now()
	m := &pb.Welcome{Pace: s.pace, LiveEvery: s.every}
	s.mu.Unlock()
	return s.Send(&pb.ToAgent{Message: &pb.ToAgent_Welcome{Welcome: m}})
}

// setThePace tells an agent of each pace that comes.
func (s *peer) setThePace(ended <-chan struct{}) {
	for {
		_, next := s.paceNow()
		if next.IsZero() {
			return
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Until(next)):
		}
		s.mu.Lock()
		s.pace, _ = s.paceNow()
		s.since = time.Now()
		m := &pb.ToAgent{Message: &pb.ToAgent_Pace{Pace: s.pace}}
		s.mu.Unlock()
		if s.Send(m) != nil {
			return // the stream has ended
		}
	}
}

// allowed checks that an agent keeps to the pace: what was on its way when it
// changed comes in the same moment.
func (s *peer) allowed(m *pb.FromAgent) error {
	if time.Since(s.since) == 0 || s.pace == pb.Pace_PACE_EVERYTHING {
		return nil
	}
	ok := s.pace == pb.Pace_PACE_CHUNKS
	switch m := m.GetMessage().(type) {
	case *pb.FromAgent_Roster:
		ok = true
	case *pb.FromAgent_Live, *pb.FromAgent_Lives:
		ok = false
	case *pb.FromAgent_Chunk:
		ok = ok || s.asked[attribution.ChunkKey{
			Cluster: s.hello.Cluster, Node: s.hello.Node, Boot: attribution.Boot(s.hello.Boot), Sequence: attribution.Second(m.Chunk.Sequence),
		}]
	}
	if !ok {
		return fmt.Errorf("%s sends %T at %v", s.hello.Node, m.GetMessage(), s.pace)
	}
	return nil
}

const (
	everything = pb.Pace_PACE_EVERYTHING
	chunks     = pb.Pace_PACE_CHUNKS
	nothing    = pb.Pace_PACE_NOTHING
)

func TestAgentsThatAreHeldWait(t *testing.T) {
	l := &ledger{paces: []pb.Pace{nothing, everything}, each: 45 * time.Second}
	play(t, Options{Backlog: 50 * time.Second, For: 60 * time.Second}, l, func(load *Load, v *Verdict) {
		wantAll(t, 5*110)(load, v)
		if s := load.Stats(); l.held != 5 || s.Held != 0 || s.Resends+s.Ends != 0 || s.Live == 0 {
			t.Errorf("%d were held; %+v", l.held, s)
		}
	})
}

// Without live seconds, a chunk comes in full as soon as it is sealed.
func TestAgentsDoWithoutLiveSeconds(t *testing.T) {
	l := &ledger{paces: []pb.Pace{chunks}, each: time.Hour}
	play(t, Options{For: 95 * time.Second, Spread: 200 * time.Millisecond}, l, func(load *Load, v *Verdict) {
		wantAll(t, 5*95)(load, v)
		if s := load.Stats(); s.Live != 0 || s.Resends+s.Ends != 0 || l.held != 0 || l.latest > sealedAfter+200*time.Millisecond {
			t.Errorf("the latest chunk came %v after its end; %+v", l.latest, s)
		}
	})
}

// Agents keep to every pace, on streams that break and while they are asked for
// chunks again, and lose nothing.
func TestLaw4AgentsKeepToThePace(t *testing.T) {
	for _, each := range []time.Duration{1500 * time.Millisecond, 4 * time.Second, 7 * time.Second, 13 * time.Second} {
		t.Run(each.String(), func(t *testing.T) {
			l := &ledger{
				each: each, breakOff: 7, ask: 6, every: uint32(each / (4 * time.Second)),
				paces: []pb.Pace{chunks, nothing, everything, chunks, everything, nothing, chunks, nothing, everything, nothing, everything},
			}
			play(t, Options{Backlog: 50 * time.Second, For: 90 * time.Second}, l, func(load *Load, v *Verdict) {
				wantAll(t, 5*140)(load, v)
				if s := load.Stats(); s.Ends != 7 || l.held == 0 || s.Held != 0 || s.Live == 0 {
					t.Errorf("%d were held; %+v", l.held, s)
				}
			})
		})
	}
}

// While nothing is taken, only what was asked for on this stream is sent.
func TestWhatIsAskedForIsSentAtAnyPace(t *testing.T) {
	s := &sender{agent: &agent{
		count: &counters{}, resend: []attribution.Second{10, 0},
		unacked: []sentChunk{{from: 0, seconds: 10, onStream: true}, {from: 10, seconds: 10}},
	}}
	for _, want := range []struct {
		pace pb.Pace
		from attribution.Second
		ok   bool
	}{{nothing, 0, true}, {nothing, 0, false}, {chunks, 10, true}, {everything, 0, false}} {
		if c, ok := s.again(want.pace); ok != want.ok || c.from != want.from {
			t.Errorf("at %v: the chunk of %d, %v", want.pace, c.from, ok)
		}
	}
}
