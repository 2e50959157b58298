package loadgen

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	// askEvery is how exactly freshness is measured: what a status tells that one
	// askEvery before did not became visible between the two.
	askEvery = 200 * time.Millisecond
	// Where that would be much of the collector's time, and count as the load's,
	// askShare times as long as an answer took is waited before the next pair,
	// askRest at most. Chance makes it half or half more: pairs keep no step with the
	// seconds, each of which is as likely as any other to become visible within one.
	askShare = 1000
	askRest  = 2 * time.Second
)

// watch asks the collector how far each node is visible, and counts how long
// after their ends live seconds were: all of a small fleet's, a sample of a large
// one's.
func (l *Load) watch(ctx context.Context) {
	seen := make(map[string]attribution.Second, len(l.agents))
	for paired := true; ; {
		began := time.Now()
		answer, err := l.ledger.Status(ctx, &pb.StatusRequest{})
		now := time.Now()
		if err == nil {
			l.note(answer, now, seen, paired)
		}
		pause := askEvery
		if rest := min(askShare*now.Sub(began), askRest); paired && rest > askEvery {
			pause, paired = rest/2+rand.N(rest), false
		} else {
			paired = true
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// note takes in how far each node is visible, and counts what became so since the
// answer before.
func (l *Load) note(answer *pb.StatusResponse, now time.Time, seen map[string]attribution.Second, count bool) {
	for _, n := range answer.GetNodes() {
		if n.GetCluster() != l.o.Fleet.Cluster {
			continue
		}
		through := min(attribution.Second(n.GetVisibleThrough()), l.end)
		for s := max(seen[n.GetNode()], l.live); count && s < through; s++ {
			l.count.fresh.add(now.Sub(time.Unix(int64(s)+1, 0)))
		}
		if through > seen[n.GetNode()] {
			seen[n.GetNode()] = through
		}
	}
}
