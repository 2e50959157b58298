package push

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// One pod, or one user of the machine, takes no more than its share of the
// connections.
func TestConnectionsOfOneGroupAreBounded(t *testing.T) {
	a := newAgent(t, socket(t))
	a.ticking()
	if _, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1}); err != nil { // its connection stays
		t.Fatal(err)
	}
	var open []net.Conn
	dial := func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", a.listen[len("unix://"):])
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1)) // its settings, or an end
		return err == nil
	}
	for i := range perGroup + 2 {
		if dial() != (i+1 < perGroup) {
			t.Fatalf("connection %d", i+1)
		}
	}
	if n := a.server.Stats().Connections; n != 3 {
		t.Errorf("%d connections refused, want 3", n)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

// A request of many empty messages is refused before they are made, and the next is
// taken.
func TestPartsOfARequestAreBounded(t *testing.T) {
	a := newAgent(t, socket(t))
	a.ticking()
	if _, err := a.export(make([]*metricspb.Metric, maxParts)...); err == nil || !strings.Contains(err.Error(), "over 32768 parts") {
		t.Errorf("a request of %d metrics: %v", maxParts, err)
	}
	if _, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1}); err != nil {
		t.Error(err)
	}
}

// A process that has the pid of who connected is not taken for it.
func TestPidThatIsUsedAgainIsAStranger(t *testing.T) {
	a := newAgent(t, socket(t))
	a.ticking()
	a.dial()
	if _, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	a.owners.later.Store(1)
	if _, err := a.record(&pb.RecordRequest{Client: "c", Sequence: 2}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v: want to be denied", err)
	}
}

// testBook is a book whose seconds never last.
func testBook(t *testing.T) *book {
	return openBook(&Options{
		Node: "n", Now: func() int64 { return 5e9 }, Unsealed: func() attribution.Second { return 4 },
		Durable: func() attribution.Second { return 4 }, File: filepath.Join(t.TempDir(), "pushed"),
	}, &counts{})
}

// However long nothing is durable, what waits is bounded, also where the
// clients have left.
func TestWaitingIsBounded(t *testing.T) {
	b := testBook(t)
	entries := make(chan *entry)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.run(ctx, func() sampler.Producer { return discard{} }, entries)
	}()
	var all []*entry
	for i := range maxWaiting + 100 {
		e := &entry{owner: trainer, group: "u-1/main", client: "u-1/main/c", sequence: uint64(i + 1), done: make(chan error, 1)}
		entries <- e
		all = append(all, e)
	}
	cancel()
	<-ended
	refused := 0
	for _, e := range all {
		if status.Code(<-e.done) == codes.ResourceExhausted {
			refused++
		}
	}
	if n := len(b.pending) + len(b.waiting); n > maxWaiting || refused != 100 {
		t.Errorf("%d wait, %d are refused", n, refused)
	}
}

type discard struct{}

func (discard) Yield(*sampler.Event) {}
func (discard) Close()               {}

// A pusher that names ever new customers is refused; others are not.
func TestSubjectsAreBounded(t *testing.T) {
	b := testBook(t)
	take := func(group string, i int, second attribution.Second) error {
		_, err := b.take(&entry{
			owner: trainer, group: group, client: group + "/c", sequence: uint64(i + 1),
			values: []serving.Value{{Subject: serving.Subject{Tenant: fmt.Sprint(i)}, Measure: attribution.Success, Value: 1}},
		}, second.Nanos(), second)
		return err
	}
	for i := range maxSubjects + 10 {
		if err := take("u-1/main", i, 100); (err == nil) != (i < maxSubjects) {
			t.Fatalf("subject %d: %v", i, err)
		}
	}
	if err := take("u-2/main", 0, 100); err != nil {
		t.Error(err)
	}
	if err := take("u-1/main", 9999, 102+forgetSubjects); err != nil {
		t.Error(err)
	}
}

// A request of more values than a second takes is refused, and counts nothing.
func TestValuesOfOneRequestAreBounded(t *testing.T) {
	s := &Server{hist: attribution.NewHistogram()}
	q := &pb.RecordRequest{Client: "c", Sequence: 1}
	for i := range maxServed {
		x := &pb.Served{Model: fmt.Sprint(i), Failures: map[string]uint64{}}
		for j := range 20 {
			x.Failures[fmt.Sprint(j)] = 1
		}
		q.Served = append(q.Served, x)
	}
	if _, err := s.entryOf(q); err == nil {
		t.Error("1,280 values are taken")
	}
}
