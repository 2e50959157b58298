package gateway

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

const (
	// mostModels and so on bound the names of a gateway that no option bounds.
	mostModels   = 512
	mostTiers    = 64
	mostBackends = 256
	mostMeasures = 64

	// mostUnstored is how many chunks may wait to become durable. While there
	// are more nothing is read: the gateway itself goes on counting.
	mostUnstored = 1024
	// mostOwed is how many sums may wait for room in a chunk.
	mostOwed = 200_000

	// chunkTallies and chunkText bound what goes into one second, to less than
	// a chunk may hold. The rest goes into the next.
	chunkTallies = 20_000
	chunkText    = 2 << 20

	// runOn is how long ago the last chunk may have ended for the next one to
	// begin where it did. After a longer time there is a gap in the record.
	runOn attribution.Second = 120
)

// book is what is known of one gateway: its baselines, and what was counted and
// is not durable yet. It does no I/O and belongs to one goroutine.
type book struct {
	o       *Options
	owner   attribution.Owner // of all backends, but for the backend
	boot    attribution.Boot
	through attribution.Second // first after the last chunk; 0: none yet
	newest  attribution.Second // first after every chunk that there ever was

	tracker   *serving.Tracker
	at        int64 // when the tracker last observed, Unix ns
	processes *processes

	tenants, models, tiers, backends, measures *names

	// owed are sums that no chunk holds yet, in millionths or tokens.
	owed map[sum]int64
	// unstored are the chunks that are not known to be durable, in order.
	unstored []*entry
	unsaved  bool // something was counted that the state file does not have
	count    counts
}

// sum is what tallies of a gateway are added up by.
type sum struct {
	backend, model, tenant, tier string
	measure                      attribution.Measure
}

func (s sum) compare(o sum) int {
	return cmp.Or(cmp.Compare(s.backend, o.backend), cmp.Compare(s.model, o.model), cmp.Compare(s.tenant, o.tenant),
		cmp.Compare(s.tier, o.tier), cmp.Compare(s.measure, o.measure))
}

// entry is a chunk on its way into the ledger.
type entry struct {
	chunk *attribution.Chunk
	wire  *chunkState // once it was encoded
	given bool        // accepted by this process's ledger
}

// counts of a gateway since the start.
type counts struct {
	restarts, fallen, refused, excess, rejected, unsure uint64
}

func trackerLimits() serving.Limits {
	// Chunks wait in the state file, so that nothing is ever undone.
	return serving.Limits{Targets: mostProcesses + 1, Series: mostSeries}
}

// newBook begins a life: everything that the gateway counted until now is the
// past.
func newBook(o *Options, boot attribution.Boot, now time.Time, through attribution.Second) *book {
	return &book{
		o: o, boot: boot, through: through, newest: through, owner: ownerOf(o),
		tracker: serving.NewTracker(now.UnixNano(), trackerLimits()), at: now.UnixNano(), processes: newProcesses(),
		tenants: newNames(o.MaxTenants), models: newNames(mostModels), tiers: newNames(mostTiers),
		backends: newNames(mostBackends), measures: newNames(mostMeasures), owed: make(map[sum]int64),
	}
}

func ownerOf(o *Options) attribution.Owner {
	return attribution.Owner{
		Kind: attribution.Gateway, Cluster: o.Cluster, Node: nodeName(o.Name), Labels: attribution.MakeLabels(o.Labels),
	}
}

// page is what one address said.
type page struct {
	address string
	reading *serving.Reading
}

// enter takes in the pages of a round and makes chunks of what is new. There
// must be a page. taken are seconds of the ledger's record.
func (b *book) enter(now time.Time, pages []page, taken func(attribution.Second) bool) {
	b.at = max(b.at, now.UnixNano())
	last := max(attribution.SecondOf(now.UnixNano()), b.through) // a clock that was put back does not make a second twice
	b.unsaved = true
	for i := range pages {
		b.observe(&pages[i], last)
	}
	if b.through == 0 && (taken(last) || b.waits(last)) {
		return // after the clock was put back: owed until it tells a second that is free
	}
	b.close(last)
}

// waits reports whether a second is in a chunk that is not durable yet.
func (b *book) waits(s attribution.Second) bool {
	return slices.ContainsFunc(b.unstored, func(e *entry) bool { return e.chunk.Key.Sequence <= s && s < e.chunk.End() })
}

// observe adds what a page has that the one before it had not.
func (b *book) observe(p *page, now attribution.Second) {
	r := p.reading
	name, gone := b.processes.of(p.address, r.Started, now)
	for _, g := range gone {
		b.tracker.Forget(g)
	}
	if name == "" {
		b.count.unsure++ // the next whole page has it all
		return
	}
	values, note := b.tracker.Observe(serving.Target{Name: name}, b.at, r)
	if note.Restarted {
		b.count.restarts++
	}
	b.processes.fell(p.address, note.Restarted || note.Fallen > 0, now)
	b.count.fallen += uint64(note.Fallen)
	b.count.refused += uint64(note.Refused) + uint64(r.Dropped)
	prefixes := b.o.ModelPrefixes
	if prefixes == nil && r.Format == LiteLLM {
		prefixes = KnownPrefixes[:]
	}
	for i := range values {
		v := &values[i]
		if v.Value > 0 && isServed(v.Measure) {
			b.owe(b.name(v, prefixes, now), v.Value)
		}
	}
}

// isServed reports whether a measure is one that gateways are asked for. What
// else they tell, such as latencies as their customers see them, the servers
// tell of themselves.
func isServed(m attribution.Measure) bool {
	return m == attribution.Success || m == attribution.TokensInput || m == attribution.TokensCached ||
		m == attribution.TokensOutput || m == attribution.TokensAborted ||
		strings.HasPrefix(string(m), string(attribution.FailurePrefix))
}

// name finds the names that a value counts under.
func (b *book) name(v *serving.Value, prefixes []string, now attribution.Second) sum {
	s := sum{
		backend: b.backends.fold(cleanBackend(v.Subject.Backend), now),
		model:   b.models.fold(cleanModel(v.Subject.Model, prefixes), now),
		tenant:  b.tenants.fold(v.Subject.Tenant, now),
		tier:    b.tiers.fold(v.Subject.Tier, now),
		measure: v.Measure,
	}
	if reason, ok := strings.CutPrefix(string(v.Measure), string(attribution.FailurePrefix)); ok {
		s.measure = attribution.FailurePrefix + attribution.Measure(b.measures.fold(reason, now))
	}
	return s
}

// owe adds to what the next chunk is to hold. Without room for another sum, it
// counts under no names but the measure's.
func (b *book) owe(s sum, v int64) {
	if _, ok := b.owed[s]; !ok && len(b.owed) >= mostOwed {
		b.count.excess++
		s = sum{backend: Other, model: Other, tenant: Other, tier: Other, measure: s.measure}
	}
	if b.owed[s] > math.MaxInt64-v {
		v = math.MaxInt64 - b.owed[s] // nothing real counts that far
	}
	b.owed[s] += v
}

// close makes chunks of the seconds from the last chunk's end to last, whose
// tallies are what is owed.
func (b *book) close(last attribution.Second) {
	from := b.through
	if from == 0 || last-from > runOn {
		from = last
	}
	for from <= last {
		end := min(from.ChunkStart()+attribution.ChunkSeconds, last+1)
		var sums []sum
		if end > last {
			sums = b.payable()
		}
		b.unstored = append(b.unstored, &entry{chunk: b.chunk(from, end, sums)})
		from = end
	}
	b.through = last + 1
	b.newest = max(b.newest, b.through)
}

// payable are the sums that go into one second, in order.
func (b *book) payable() []sum {
	sums := make([]sum, 0, len(b.owed))
	for s := range b.owed {
		sums = append(sums, s)
	}
	slices.SortFunc(sums, sum.compare)
	text := 0
	for i, s := range sums {
		if i == 0 || s.backend != sums[i-1].backend {
			text += len(s.backend) + b.ownerText()
		}
		text += len(s.model) + len(s.tenant) + len(s.tier) + 32
		if i > 0 && (i >= chunkTallies || text > chunkText) {
			return sums[:i]
		}
	}
	return sums
}

// ownerText is about how much an owner takes in a roster.
func (b *book) ownerText() int {
	n := 128 + len(b.owner.Cluster) + len(b.owner.Node)
	for _, l := range b.owner.Labels {
		n += len(l.Key) + len(l.Value) + 16
	}
	return n
}

// chunk makes the chunk of [from, end) with sums, which are in order, in its
// last second, and takes them off what is owed.
func (b *book) chunk(from, end attribution.Second, sums []sum) *attribution.Chunk {
	var r attribution.Roster
	var tallies []attribution.Tally
	measures := make(map[attribution.Measure]uint16)
	for i, s := range sums {
		newOwner := i == 0 || s.backend != sums[i-1].backend
		if newOwner {
			o := b.owner
			if s.backend != "" {
				o.ControllerKind, o.Controller = backendKind, s.backend
			}
			r.Owners = append(r.Owners, o)
		}
		subject := attribution.Subject{Owner: uint32(len(r.Owners) - 1), Model: s.model, Tenant: s.tenant, Tier: s.tier}
		if n := len(r.Subjects); n == 0 || r.Subjects[n-1] != subject {
			r.Subjects = append(r.Subjects, subject)
		}
		m, ok := measures[s.measure]
		if !ok {
			m = uint16(len(r.Measures))
			measures[s.measure] = m
			r.Measures = append(r.Measures, s.measure)
		}
		v := min(b.owed[s], attribution.MaxPerSecond)
		tallies = append(tallies, attribution.Tally{Second: end - 1, Subject: uint32(len(r.Subjects) - 1), Measure: m, Value: v})
		if b.owed[s] -= v; b.owed[s] == 0 {
			delete(b.owed, s)
		}
	}
	key := attribution.ChunkKey{Cluster: b.o.Cluster, Node: nodeName(b.o.Name), Boot: b.boot, Sequence: from}
	return attribution.BuildChunk(key, int(end-from), r.Facts(), nil, tallies)
}

// backendKind is the ControllerKind of a backend, see [attribution.Gateway].
const backendKind = "Backend"

// settle drops the chunks that are durable.
func (b *book) settle(stored func(*attribution.Chunk) bool) {
	b.unstored = slices.DeleteFunc(b.unstored, func(e *entry) bool { return stored(e.chunk) })
}

// ahead reports whether the run of seconds has come further than latest, or
// chunks that the ledger was not given have.
func (b *book) ahead(latest attribution.Second) bool {
	return b.through > latest || slices.ContainsFunc(b.unstored, func(e *entry) bool { return e.ahead(latest) })
}

// ahead reports whether the ledger was not given a chunk, and would not take it
// now.
func (e *entry) ahead(latest attribution.Second) bool { return !e.given && e.chunk.End() > latest }

// restart begins another run of seconds, of another boot, at the clock. What is
// in chunks that the ledger would not take now is owed again.
func (b *book) restart(boot attribution.Boot, latest attribution.Second) {
	for _, e := range slices.Clone(b.unstored) {
		if e.ahead(latest) {
			b.takeBack(e, boot)
		}
	}
	b.boot, b.through, b.unsaved = boot, 0, true
	for _, n := range b.kinds() {
		n.putBack(latest)
	}
	b.processes.putBack(latest)
}

// takeBack undoes a chunk that the ledger will never take: what it holds is
// owed again, and comes in later seconds, of another life.
func (b *book) takeBack(e *entry, boot attribution.Boot) {
	b.count.rejected++
	b.unsaved = true
	c := e.chunk
	for _, t := range c.Tallies {
		s := &c.Roster.Subjects[t.Subject]
		b.owe(sum{c.Roster.Owners[s.Owner].Controller, s.Model, s.Tenant, s.Tier, c.Roster.Measures[t.Measure]}, t.Value)
	}
	b.unstored = slices.DeleteFunc(b.unstored, func(x *entry) bool { return x == e })
	b.boot = boot
}
