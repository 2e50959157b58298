package access

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gRPC reads a question, of up to some megabytes, before anybody is asked who they
// are. So many may be on their way at a time, and for so long.
const (
	maxArriving  = 64
	ofOneNetwork = 16
	ofOneToken   = 32
	arriveWithin = 10 * time.Second
)

var errArriving = status.Error(codes.ResourceExhausted, "too many questions are arriving: try again")

// arrivals bounds the questions of which the header alone is there. Its methods
// may be called by any number of goroutines.
type arrivals struct {
	ofOne  int
	within time.Duration

	mu  sync.Mutex
	all int
	of  map[string]int
}

func newArrivals(ofOne int) *arrivals {
	return &arrivals{ofOne: ofOne, within: arriveWithin, of: map[string]int{}}
}

// begin counts a question of somebody until it has arrived or ends. One that takes
// too long is ended.
func (a *arrivals) begin(ctx context.Context, who string) (_ context.Context, arrived func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= maxArriving || a.of[who] >= a.ofOne {
		return ctx, nil, errArriving
	}
	a.all++
	a.of[who]++
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(a.within, cancel)
	arrived = sync.OnceFunc(func() {
		late.Stop()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.all--
		if a.of[who]--; a.of[who] == 0 {
			delete(a.of, who)
		}
	})
	context.AfterFunc(ctx, arrived)
	return ctx, arrived, nil
}
