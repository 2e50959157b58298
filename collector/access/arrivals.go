package access

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gRPC reads a question, of up to some megabytes, before anybody is asked who they
// are. So many may be on their way at a time, and for so long.
const (
	maxArriving  = 64
	arriveWithin = 10 * time.Second
	// arriveSoon is how long a question that is on its way is nobody's fault: a
	// collector without a CPU to spare takes a moment to look at it.
	arriveSoon = time.Second
)

var errArriving = status.Error(codes.ResourceExhausted, "too many questions are arriving: try again")

// arrivals bounds the questions of which the header alone is there. Anybody may
// have all places while nobody else wants one. Then whoever has most gives up their
// oldest, and among those who have as many the oldest of all gives way once it is
// late: who sends headers and no questions cannot keep others out. Its methods may
// be called by any number of goroutines.
type arrivals struct {
	soon, within time.Duration

	mu  sync.Mutex
	all []*arrival // in order
	of  map[string]int
}

// arrival is a question that is on its way.
type arrival struct {
	who   string
	since time.Time
	end   context.CancelFunc
}

func newArrivals() *arrivals {
	return &arrivals{soon: arriveSoon, within: arriveWithin, of: map[string]int{}}
}

// begin counts a question of somebody until it has arrived or ends. One that takes
// too long, or must give way, is ended.
func (a *arrivals) begin(ctx context.Context, who string) (_ context.Context, arrived func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if len(a.all) >= maxArriving && !a.giveWay(who, now) {
		return ctx, nil, errArriving
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &arrival{who, now, cancel}
	a.all = append(a.all, x)
	a.of[who]++
	late := time.AfterFunc(a.within, cancel)
	arrived = sync.OnceFunc(func() {
		late.Stop()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.remove(x)
	})
	context.AfterFunc(ctx, arrived)
	return ctx, arrived, nil
}

// giveWay makes room for a question of somebody, if another must give way to it.
func (a *arrivals) giveWay(who string, now time.Time) bool {
	x := a.all[0]
	for _, other := range a.all[1:] {
		if a.of[other.who] > a.of[x.who] {
			x = other
		}
	}
	if a.of[x.who] <= a.of[who]+1 && now.Sub(x.since) < a.soon {
		return false
	}
	a.remove(x)
	x.end()
	return true
}

// remove stops counting a question, unless that has been done.
func (a *arrivals) remove(x *arrival) {
	i := slices.Index(a.all, x)
	if i < 0 {
		return
	}
	a.all = slices.Delete(a.all, i, i+1)
	if a.of[x.who]--; a.of[x.who] == 0 {
		delete(a.of, x.who)
	}
}
