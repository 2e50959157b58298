package loadgen

import (
	"context"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// askEvery is how often freshness is looked at. After an answer that took
	// long askShare times as long is waited, within askLeast: a status of 10,000
	// nodes is no small one, and what it costs the collector would count as the
	// load's.
	askEvery = 200 * time.Millisecond
	askShare = 50
	askLeast = time.Second
)

// watch asks the collector how far each node is visible, and counts how long
// after their ends live seconds were.
func (l *Load) watch(ctx context.Context) {
	seen := make(map[string]attribution.Second, len(l.agents))
	for {
		began := time.Now()
		answer, err := l.ledger.Status(ctx, &pb.StatusRequest{})
		now := time.Now()
		if err == nil {
			l.note(answer, now, seen)
		}
		if !sleep(ctx, min(max(askEvery, askShare*now.Sub(began)), askLeast)) {
			return
		}
	}
}

func (l *Load) note(answer *pb.StatusResponse, now time.Time, seen map[string]attribution.Second) {
	for _, n := range answer.GetNodes() {
		if n.GetCluster() != l.o.Fleet.Cluster {
			continue
		}
		through := min(attribution.Second(n.GetVisibleThrough()), l.end)
		for s := max(seen[n.GetNode()], l.live); s < through; s++ {
			l.count.fresh.add(now.Sub(time.Unix(int64(s)+1, 0)))
		}
		if through > seen[n.GetNode()] {
			seen[n.GetNode()] = through
		}
	}
}
