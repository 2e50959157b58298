// Package uplink brings a node's chunks from its spool to the collector, over
// one stream, and brings back acknowledgements and rate cards.
//
// # The conversation
//
//	agent      Hello
//	collector  Welcome, RateCard
//	agent      Roster…, Chunk… from the first unacknowledged one on, and once it
//	           has caught up Roster…, Live every second, ChunkClosed every ten
//	collector  Ack…, now and then Resend, Reject, RateCard, Pace
//
// What is sent is read from the spool, hence durable; what is not acknowledged
// when a stream ends is sent again on the next. A chunk whose seconds all went
// out live on this very stream is only announced: the collector has its
// windows. Live seconds are for freshness alone: they are dropped, and counted,
// whenever they would have to wait. Each is told by the last one sent; the first
// of a stream, and the first after a Resend, stands alone. Where the collector asks
// for it in its Welcome, several travel together, up to the end of their chunk.
//
// A collector that has too much to do says so by its Pace, in Welcome and
// whenever it changes: first the live seconds stop, then everything but what it
// asks for again. Chunks wait in the spool meanwhile, and the stream stays.
//
// The collector is not trusted: what it says about chunks that were never sent
// on the stream is ignored and counted.
//
// # Several collectors
//
// [Collectors] says which collector each stream goes to, and is told how it
// ended. Where it says during a stream that it would be better to be elsewhere,
// the uplink sends no more, has the collector make durable what it was sent,
// takes its acknowledgements, and begins a stream there. Whichever collector a
// chunk reaches, once or several times, it is in the ledger once.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Collectors says where streams go. An uplink calls Next and Done in turn; Better
// between them, on another goroutine.
type Collectors interface {
	// Next is where the next stream goes.
	Next(ctx context.Context) (Collector, error)
	// Better waits until a stream to what Next would say then is better than
	// the one that runs. It returns false when ctx ends.
	Better(ctx context.Context) bool
}

// Collector is one that a stream may go to.
type Collector struct {
	Name   string // as Status has it
	Client pb.IngestClient
	// Done is called when the stream has ended: how long after its Welcome, 0
	// where there was none, and with what; nil where it was left for a better
	// one, or the uplink stops. nil: nobody wants to know.
	Done func(lasted time.Duration, why error)
}

// only is the one collector that there is.
type only struct{ client pb.IngestClient }

func (o only) Next(context.Context) (Collector, error) { return Collector{Client: o.client}, nil }

func (only) Better(ctx context.Context) bool {
	<-ctx.Done()
	return false
}

// errMoved ends a stream that is left for a better collector.
var errMoved = errors.New("another collector is better")

// Options configure an uplink. Client or Collectors, Node and Spool are
// required; zero values of the rest mean the defaults.
type Options struct {
	// Client reaches the only collector. Its connection should have keepalive
	// (DialOptions), else a silently lost peer is only noticed by TCP.
	Client pb.IngestClient
	// Collectors are where streams go where there are several.
	Collectors Collectors

	Cluster string
	Node    string
	Version string // of the agent
	Spool   *spool.Spool

	// OnRateCard is given every rate card that comes, undecoded and untrusted,
	// on the goroutine that receives.
	OnRateCard func(*pb.RateCard)
	Logger     *slog.Logger
	// Rand yields numbers in [0, 1) for jitter. Default math/rand/v2.
	Rand func() float64

	// InFlightChunks and InFlightBytes bound what is sent and not yet
	// acknowledged. Defaults 2048 and 16 MiB. A chunk goes out whatever its
	// size if nothing else is in flight.
	InFlightChunks int
	InFlightBytes  int64
	// LiveSeconds and LiveBytes bound the live seconds that wait to be sent, beside
	// those that wait for others to travel with. Defaults 4 and 4 MiB.
	LiveSeconds int
	LiveBytes   int
	// BackoffMin and BackoffMax bound the pause before a new stream, which
	// doubles from try to try and is jittered by half. Defaults 200 ms and
	// 30 s.
	BackoffMin, BackoffMax time.Duration
	// Steady is how long a stream must have lasted for the next pause to be
	// the shortest again. Default 1 minute.
	Steady time.Duration
	// WelcomeTimeout bounds the wait for Welcome. Default 10 s.
	WelcomeTimeout time.Duration
	// LeaveTimeout bounds the wait for the last acknowledgements of a collector
	// that is left for a better one. Default 15 s.
	LeaveTimeout time.Duration
}

func (o *Options) setDefaults() error {
	if o.Client != nil && o.Collectors == nil {
		o.Collectors = only{o.Client}
	}
	if o.Collectors == nil || o.Spool == nil || o.Node == "" {
		return errors.New("uplink: a collector, a node and a spool are required")
	}
	if o.OnRateCard == nil {
		o.OnRateCard = func(*pb.RateCard) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	setDefault(&o.InFlightChunks, 2048)
	setDefault(&o.InFlightBytes, 16<<20)
	setDefault(&o.LiveSeconds, 4)
	setDefault(&o.LiveBytes, 4<<20)
	setDefault(&o.BackoffMin, 200*time.Millisecond)
	setDefault(&o.BackoffMax, 30*time.Second)
	setDefault(&o.Steady, time.Minute)
	setDefault(&o.WelcomeTimeout, 10*time.Second)
	setDefault(&o.LeaveTimeout, 15*time.Second)
	return nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Status is a snapshot for logs and metrics. Counters count since New.
type Status struct {
	Connected     bool
	Collector     string // that welcomed the last stream, where Collectors names it
	ServerVersion string
	StoredThrough attribution.Second // as last welcomed; 0: nothing is stored, or never welcomed
	LastError     string             // why the last stream ended, "" while connected
	Unacked       int                // chunks in the spool
	UnackedBytes  int64
	InFlight      int     // of those, sent on this stream
	Pace          pb.Pace // what the collector lets this stream send; everything where there is none
	LastAck       attribution.Second
	LastAckAt     time.Time

	Streams      uint64 // begun
	Moves        uint64 // times that another collector welcomed a stream than the one before
	ChunksSent   uint64 // with their body
	ChunksClosed uint64 // announced only
	BytesSent    uint64 // bodies
	LiveSent     uint64
	LiveDropped  uint64
	Resends      uint64
	Rejected     uint64
	Ignored      uint64 // messages that made no sense
}

// Uplink sends one node's chunks. Live, Drain, Flush, Welcomed and Status are
// for any goroutine.
type Uplink struct {
	o Options

	mu       sync.Mutex
	status   Status
	session  *session // nil while there is none
	live     liveQueue
	flush    uint64        // Flush has been asked for so many times
	welcomed chan struct{} // closed at the first Welcome
	wake     chan struct{} // holds an item when the sender has something to look at
}

// New makes an uplink; Run runs it.
func New(o Options) (*Uplink, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	return &Uplink{o: o, welcomed: make(chan struct{}), wake: make(chan struct{}, 1)}, nil
}

// Run keeps a stream up until ctx ends, and returns nil then. It is called
// once.
func (u *Uplink) Run(ctx context.Context) error {
	pause := u.o.BackoffMin
	for ctx.Err() == nil {
		pause = u.runOnce(ctx, pause)
	}
	return nil
}

// runOnce has one stream and the pause after it, and returns the next pause.
func (u *Uplink) runOnce(ctx context.Context, pause time.Duration) time.Duration {
	began := time.Now()
	err := u.stream(ctx)
	if ctx.Err() != nil {
		return pause
	}
	if errors.Is(err, errMoved) {
		u.o.Logger.Info("uplink: moving to another collector", "node", u.o.Node, "from", u.Status().Collector)
		return u.o.BackoffMin
	}
	if time.Since(began) >= u.o.Steady {
		pause = u.o.BackoffMin
	}
	wait := time.Duration(float64(pause) * (0.5 + u.o.Rand()/2))
	u.ended(err, wait)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(2*pause, u.o.BackoffMax)
}

// stream has one stream to the collector that is next.
func (u *Uplink) stream(ctx context.Context) error {
	c, err := u.o.Collectors.Next(ctx)
	if err != nil {
		return err
	}
	welcomed, err := u.runSession(ctx, &c)
	if c.Done == nil {
		return err
	}
	lasted, why := time.Duration(0), err
	if !welcomed.IsZero() {
		lasted = max(time.Since(welcomed), 1)
	}
	if ctx.Err() != nil || errors.Is(err, errMoved) {
		why = nil
	}
	c.Done(lasted, why)
	return err
}

// ended notes and tells why a stream ended.
func (u *Uplink) ended(err error, wait time.Duration) {
	u.mu.Lock()
	u.status.LastError = err.Error()
	u.mu.Unlock()
	level := slog.LevelWarn
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented, codes.FailedPrecondition:
		level = slog.LevelError // waiting alone will not cure it
	case codes.Canceled:
		level = slog.LevelInfo // the certificate or token that it began with has expired: there is a newer one
	default:
	}
	u.o.Logger.Log(context.Background(), level, "uplink: the stream ended; what is not acknowledged is kept and sent again",
		"node", u.o.Node, "err", err, "retry_in", wait)
}

// Live offers a durable second, a chunk of one second, for sending now. It
// never blocks: where the stream is down, behind or slow, or the collector
// wants no live seconds, it is dropped, and its chunk travels in full. rosterID
// is its roster's fingerprint. The roster must not change; the rest is copied.
func (u *Uplink) Live(second *attribution.Chunk, rosterID attribution.Fingerprint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session == nil || u.session.pace != pb.Pace_PACE_EVERYTHING || !u.live.push(second, rosterID, &u.o, u.session.together) {
		u.status.LiveDropped++
		return
	}
	u.signal()
}

// Flush asks the collector, once everything in the spool has been sent, to
// make it durable now; while the collector takes nothing, the request waits, too.
// On a new stream it is asked again as long as anything
// is unacknowledged.
func (u *Uplink) Flush() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.flush++
	u.signal()
}

// Drain syncs the spool, flushes, and waits until everything that was appended
// is acknowledged or set aside. Run must be running.
func (u *Uplink) Drain(ctx context.Context) error {
	for {
		changed := u.o.Spool.Changed()
		if err := u.o.Spool.Sync(); err != nil {
			return err
		}
		n := u.o.Spool.Stats().UnackedChunks
		if n == 0 {
			return nil
		}
		u.Flush()
		select {
		case <-ctx.Done():
			return fmt.Errorf("uplink: %d chunks are not acknowledged yet; they stay in the spool: %w", n, ctx.Err())
		case <-changed:
		}
	}
}

// Welcomed waits for the first Welcome and returns what the collector then
// had of the node: the first second after the newest stored one, 0 for
// nothing. A new spool must not repeat the seconds before it.
func (u *Uplink) Welcomed(ctx context.Context) (storedThrough attribution.Second, err error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-u.welcomed:
		return u.Status().StoredThrough, nil
	}
}

// Status is a snapshot.
func (u *Uplink) Status() Status {
	sp := u.o.Spool.Stats()
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.status
	s.Unacked, s.UnackedBytes = sp.UnackedChunks, sp.UnackedBytes
	if u.session != nil {
		s.InFlight, s.Pace = len(u.session.inFlight), u.session.pace
	}
	return s
}

// signal wakes the sender.
func (u *Uplink) signal() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}
