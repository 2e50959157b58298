package serving

// Target names a server to a [Tracker].
type Target struct {
	// Name is the same as long as it is the same server: a container's id and
	// port, or a gateway's name and replica. At most 512 bytes of it count.
	Name string
	// Started is when, by other sources than its page, the server began: the
	// container's start, Unix ns; 0 where that is not known. It serves at the
	// first sight of a server, and another one is a restart.
	Started int64
}

// Limits bounds what a [Tracker] remembers.
type Limits struct {
	Targets int   // servers
	Series  int   // of a server
	History int64 // ns that readings can be undone, by [RestoreTracker]
	Undo    int   // changes of series that are kept for that, of a server
}

// DefaultLimits are enough for the servers on a node.
func DefaultLimits() Limits {
	return Limits{Targets: 256, Series: 8192, History: 120e9, Undo: 65536}
}

// Note says how a difference came about.
type Note struct {
	// First is the first reading of a server that had been counting before
	// anybody looked: it is the baseline, and nothing is counted.
	First bool
	// Restarted says that the server began anew, by its start or because
	// a count has fallen: all that it counted since is new.
	Restarted bool
	// Fallen is how many series fell although the server did not tell of
	// a restart.
	Fallen int
	// Still is how many readings in a row requests ran or waited, and no count
	// moved: long requests at first; after many, counters that are switched off.
	Still int
	// Refused is how many series were passed over because a limit was reached,
	// or all of them where it is the limit of servers.
	Refused int
}

// Stats counts what a [Tracker] has seen.
type Stats struct {
	Targets  int    // now
	Series   int    // now
	Restarts uint64 // of servers
	Fallen   uint64 // series that fell without a restart
	Refused  uint64 // series passed over for a limit
}

// Tracker turns readings into what was served since the last one. It belongs
// to one goroutine.
type Tracker struct {
	since  int64
	limits Limits
}

// NewTracker makes a tracker that has been looking since a Unix time, ns:
// a server that began after it is counted from its start, of an older one the
// first reading is the baseline.
func NewTracker(since int64, l Limits) *Tracker { return &Tracker{since: since, limits: l} }

// Observe takes a reading of a server at a Unix time, ns, and returns what was
// served since the last one, ordered by subject and measure. A pair that was
// read and has not moved is there with 0 (law 9), but for the buckets of
// histograms. The reading stays the caller's.
func (t *Tracker) Observe(target Target, at int64, r *Reading) ([]Value, Note) {
	return nil, Note{}
}

// Forget drops a server that is gone for good.
func (t *Tracker) Forget(name string) {}

// Targets are the names of the servers that are remembered, sorted, so that
// after a restart those that are gone can be forgotten.
func (t *Tracker) Targets() []string { return nil }

// Since is the time that the tracker has been looking since, Unix ns.
func (t *Tracker) Since() int64 { return t.since }

// Stats counts what the tracker has seen.
func (t *Tracker) Stats() Stats { return Stats{} }

// State is all that the tracker remembers, with the history that
// [RestoreTracker] needs. Write it before the differences of an Observe go
// anywhere that lasts: a state older than the ledger would count them twice.
func (t *Tracker) State() []byte { return nil }

// RestoreTracker makes the tracker of a state as it was at through, the Unix
// time (ns) until which the differences it gave have lasted: what was observed
// later is undone, and is counted again. It fails where the state is damaged;
// then a new tracker starts with baselines.
func RestoreTracker(state []byte, through int64, l Limits) (*Tracker, error) {
	return NewTracker(through, l), nil
}

// Integrate turns the gauges of a reading into gauges times seconds over the
// nanoseconds that they held, with [attribution.Observed] beside them, once,
// on the subject that all gauges share, else on none. Gauges hold from their
// reading to the next; the caller bounds how long at most.
func Integrate(gauges []Value, nanos int64) []Value { return nil }
