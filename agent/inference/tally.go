package inference

import (
	"fmt"
	"io"
	"os"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// MaxValues bounds the values that are yielded to [Lanes] for one second. The
// meter takes 1,024 records of a producer between two seconds that it seals.
const MaxValues = 1000

// Lanes are two producers that take turns, a second each: the meter has taken
// what one got before it gets more. They are one goroutine's.
type Lanes [2]sampler.Producer

// OpenLanes opens them.
func OpenLanes(producer func() sampler.Producer) *Lanes { return &Lanes{producer(), producer()} }

// Yield yields what was served in a second.
func (l *Lanes) Yield(s attribution.Second, events []sampler.Event) {
	for i := range events {
		l[s&1].Yield(&events[i])
	}
}

// Close gives them back.
func (l *Lanes) Close() {
	for _, p := range l {
		p.Close()
	}
}

// Tallies are what an owner has served, as events of a second: one for each
// subject. over is how many values were more than a second takes.
func Tallies(node string, owner *attribution.Owner, values []serving.Value, s attribution.Second) (events []sampler.Event, over int) {
	at := map[serving.Subject]int{}
	for i := range values {
		v := &values[i]
		if v.Value < 0 || v.Value > workload.MaxTallyValue {
			over++
			continue
		}
		subject := v.Subject
		subject.Backend = ""
		n, ok := at[subject]
		if !ok {
			n = len(events)
			at[subject] = n
			events = append(events, sampler.Event{Kind: sampler.Tallied, Time: (s + 1).Nanos(), Node: node, Tally: &sampler.Tally{
				Owner: owner, Model: subject.Model, Tenant: subject.Tenant, Tier: subject.Tier, Seconds: 1,
			}})
		}
		events[n].Tally.Values = append(events[n].Tally.Values, sampler.Value{Measure: v.Measure, Value: v.Value})
	}
	return events, over
}

// maxState bounds a file of what is remembered, in bytes.
const maxState = 64 << 20

// ReadState reads a file that ReplaceState wrote.
func ReadState(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("it has more than %d bytes", maxState)
	}
	return b, err
}

// ReplaceState replaces a file whole. It is not synced: what a power cut takes
// away ends the servers too.
func ReplaceState(name string, b []byte) error {
	tmp := name + ".new"
	err := os.WriteFile(tmp, b, 0o600)
	if err == nil {
		err = os.Rename(tmp, name)
	}
	return err
}
