package inference

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node for a sampler: pods, servers behind addresses, and a ledger
// that seals a second one second after its end. A test's goroutine has it,
// inside a bubble; what servers do is theirs.
type world struct {
	t         *testing.T
	dir       string
	directory *pods.Directory
	mu        sync.Mutex
	held      []*attribution.Owner
	options   Options // changed before start

	network *network
	cancel  context.CancelFunc
	done    chan struct{}
	life    *life
	sampler *Sampler
	ledger  map[attribution.Second][]sampler.Event // of lives that have ended, what lasted
	lasting attribution.Second                     // the first second that did not
}

// life is one run of the agent.
type life struct {
	mu     sync.Mutex
	dead   bool // what is yielded from now on comes too late
	events []sampler.Event
}

func (l *life) Yield(e *sampler.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dead {
		l.events = append(l.events, *e)
	}
}

func (*life) Close() {}

// network is where servers listen, by address.
type network struct {
	mu     sync.Mutex
	at     map[string]*bufconn.Listener
	dialed map[string]int
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.at[addr]
	n.dialed[addr]++
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	return l.DialContext(ctx)
}

// inWorld runs a test in a bubble with a world.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, dir: dir, directory: pods.NewDirectory("c", "n"), ledger: map[attribution.Second][]sampler.Event{},
			network: &network{at: map[string]*bufconn.Listener{}, dialed: map[string]int{}},
		}
		f(w)
		w.stop()
		synctest.Wait()
	})
}

func now() int64 { return time.Now().UnixNano() }

// unsealed is the first second that is not sealed: sealed is what ended a
// second ago.
func unsealed() attribution.Second { return attribution.SecondOf(now() - int64(time.Second)) }

// start starts the agent, which goes on where the last one ended.
func (w *world) start() {
	w.t.Helper()
	o := w.options
	o.Node, o.Pods, o.Now, o.Unsealed, o.Dir = "n", w.directory.View, now, unsealed, w.dir
	o.Holders = func() []*attribution.Owner {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(w.held)
	}
	o.Durable, o.Lasting = w.lasting, unsealed
	o.Log = slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	transport := s.client.Transport.(*http.Transport)
	transport.DialContext = w.network.dial
	ctx, cancel := context.WithCancel(w.t.Context())
	w.sampler, w.cancel, w.life, w.done = s, cancel, &life{}, make(chan struct{})
	life, done := w.life, w.done
	go func() {
		defer close(done)
		if err := s.Run(ctx, func() sampler.Producer { return life }); err != nil {
			w.t.Error(err)
		}
	}()
}

// die is the moment of the agent's death: of what it has yielded, that lasts
// which is sealed. What it does afterwards is only written to its file: so a
// crash may find it between writing and yielding.
func (w *world) die() {
	w.life.mu.Lock()
	defer w.life.mu.Unlock()
	if w.life.dead {
		return
	}
	w.life.dead, w.lasting = true, unsealed()
	for _, e := range w.life.events {
		if s := attribution.SecondOf(e.Time - 1); s < w.lasting {
			w.ledger[s] = append(w.ledger[s], e)
		}
	}
	w.life.events = nil
}

// kill ends the agent.
func (w *world) kill() {
	w.die()
	w.cancel()
	<-w.done
}

func (w *world) stop() {
	if w.cancel != nil {
		w.cancel()
		<-w.done
	}
}

// counted adds up a measure of everything that lasts, and of what the living
// agent has yielded.
func (w *world) counted(m attribution.Measure) (sum int64) {
	w.life.mu.Lock()
	defer w.life.mu.Unlock()
	add := func(es []sampler.Event) {
		for _, e := range es {
			for _, v := range e.Tally.Values {
				if v.Measure == m {
					sum += v.Value
				}
			}
		}
	}
	for _, es := range w.ledger {
		add(es)
	}
	add(w.life.events)
	return sum
}

func (w *world) successes() int64 { return w.counted(attribution.Success) / int64(attribution.One) }

// pod adds a pod with one container that holds a device.
func (w *world) pod(p *pods.Pod, holders ...string) {
	w.directory.Put(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range holders {
		w.held = append(w.held, w.directory.View().ByUID(p.UID).Owner(c))
	}
}

// server is a server of models with vLLM's page, or any other handler.
type server struct {
	served, prompt, tokens atomic.Int64
	pages                  atomic.Int64
	started                int64 // Unix s
	handler                http.HandlerFunc
	http                   *http.Server
	done                   chan struct{}
}

func (s *server) ServeHTTP(out http.ResponseWriter, q *http.Request) {
	s.pages.Add(1)
	if s.handler != nil {
		s.handler(out, q)
		return
	}
	if q.URL.Path != "/metrics" {
		http.NotFound(out, q)
		return
	}
	_, _ = io.WriteString(out, page(s.served.Load(), s.prompt.Load(), s.tokens.Load(), s.started))
}

// page is vLLM's, with what matters.
func page(served, prompt, tokens, started int64) string {
	if started < 0 {
		started = 0 // as from a server that does not know
	}
	return fmt.Sprintf(`# TYPE process_start_time_seconds gauge
process_start_time_seconds %d
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="m"} %d.0
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} %d.0
# TYPE vllm:request_success counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} %d.0
`, started, prompt, tokens, served)
}

// serve has a server listen at an address.
func (w *world) serve(addr string, s *server) *server {
	l := bufconn.Listen(64 << 10)
	w.network.mu.Lock()
	w.network.at[addr] = l
	w.network.mu.Unlock()
	s.http, s.done = &http.Server{Handler: s}, make(chan struct{})
	if s.started == 0 {
		s.started = time.Now().Unix()
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l)
	}()
	w.t.Cleanup(func() { w.end(addr, s) })
	return s
}

// end ends a server.
func (w *world) end(addr string, s *server) {
	w.network.mu.Lock()
	delete(w.network.at, addr)
	w.network.mu.Unlock()
	_ = s.http.Close()
	<-s.done
}

func (w *world) dials(addr string) int {
	w.network.mu.Lock()
	defer w.network.mu.Unlock()
	return w.network.dialed[addr]
}

func container(name string, life int) pods.Container {
	return pods.Container{Name: name, ID: fmt.Sprintf("%064x", len(name)*1000+life), Started: time.Now().Unix()}
}

// llm is a pod of one container, with a port that vLLM has.
func llm(name, ip string, life int) *pods.Pod {
	return &pods.Pod{
		Namespace: "prod", Name: name, UID: "uid-" + name, IPs: []netip.Addr{netip.MustParseAddr(ip)},
		Containers: []pods.Container{container("llm", life+int(netip.MustParseAddr(ip).As4()[3])*100)}, Ports: []pods.Port{{Name: "http", Number: 8000}},
	}
}

func wait(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
	synctest.Wait()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func testFormats() *format.Set { return format.Builtin() }
