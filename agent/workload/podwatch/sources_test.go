package podwatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	podsv1alpha1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// The fuzzer's own goroutine outlives what it tests; klog, which Kubernetes'
// types bring into the tests alone, starts none before it is used.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("internal/fuzz.CoordinateFuzzing"))
}

// ledger is a sink that writes down what it is told.
type ledger struct {
	told    chan string
	isLast  bool
	dropped int
	refuse  error
}

func newLedger() *ledger { return &ledger{told: make(chan string, 1000)} }

func (l *ledger) say(format string, a ...any) error {
	l.told <- fmt.Sprintf(format, a...)
	return l.refuse
}

func (l *ledger) replace(ps []*pods.Pod) error {
	l.isLast = true
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = p.Name
	}
	return l.say("all: %s", strings.Join(names, " "))
}

func (l *ledger) put(p *pods.Pod) error   { return l.say("put %s", p.Name) }
func (l *ledger) remove(uid string) error { return l.say("remove %s", uid) }
func (l *ledger) resume() error           { return l.refuse }
func (l *ledger) current() bool           { return l.isLast }
func (l *ledger) drop(n int)              { l.dropped += n }

// hear waits for the next words.
func (l *ledger) hear(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-l.told:
			if got != w {
				t.Fatalf("told %q, want %q", got, w)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing is told, want %q", w)
		}
	}
}

// following runs a source until the test says so, and returns its error.
func following(t *testing.T, s source, to sink) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.follow(ctx, to) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-done
	}
}

func podJSON(name, version string) string {
	return fmt.Sprintf(`{"metadata":{"namespace":"ns","name":%q,"uid":"uid-%s","resourceVersion":%q}}`, name, name, version)
}

func TestAPIServer(t *testing.T) {
	a := newAPI(t, "/api/v1/pods", "PodList", podJSON("a", "3"), podJSON("b", "4"))
	l := newLedger()
	s := newAPIServer(node, a.kubeconfig())
	stop := following(t, s, l)
	l.hear(t, "all: a b")
	a.change("ADDED", podJSON("c", "VERSION"))
	a.change("MODIFIED", podJSON("a", "VERSION"))
	a.change("DELETED", podJSON("b", "VERSION"))
	a.change("ADDED", `{"metadata":{"name":7}}`)
	a.change("MODIFIED", podJSON("c", "VERSION"))
	l.hear(t, "put c", "put a", "remove uid-b", "put c")
	a.change("", "") // the server ends the watch: it goes on where it was
	a.change("ADDED", podJSON("d", "VERSION"))
	l.hear(t, "put d")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("the end: %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lists != 1 || l.dropped != 1 || a.requests[0] != "/api/v1/pods?spec.nodeName=lab-node-1" {
		t.Errorf("%d lists, %d dropped, %v", a.lists, l.dropped, a.requests)
	}
}

func TestAPIServerInPages(t *testing.T) {
	a := newAPI(t, "/api/v1/pods", "PodList", podJSON("a", "3"), podJSON("b", "4"), podJSON("c", "5"))
	a.page = 2
	l := newLedger()
	stop := following(t, newAPIServer(node, a.kubeconfig()), l)
	l.hear(t, "all: a b c")
	_ = stop()
}

// After a failure it goes on where it was, if nobody else has written.
func TestAPIServerGoesOn(t *testing.T) {
	a := newAPI(t, "/api/v1/pods", "PodList", podJSON("a", "3"))
	l := newLedger()
	s := newAPIServer(node, a.kubeconfig())
	stop := following(t, s, l)
	l.hear(t, "all: a")
	a.change("ADDED", podJSON("b", "VERSION"))
	l.hear(t, "put b")
	_ = stop()
	a.change("ADDED", podJSON("c", "VERSION"))
	stop = following(t, s, l)
	l.hear(t, "put c")
	_ = stop()
	l.isLast = false // another source wrote
	stop = following(t, s, l)
	l.hear(t, "all: a")
	_ = stop()
	a.set(func() { a.oldest = 1000 }) // 410: the next session lists
	if err := s.follow(t.Context(), l); !expired(err) {
		t.Errorf("an expired version: %v", err)
	}
	a.set(func() { a.oldest = 0 })
	stop = following(t, s, l)
	l.hear(t, "all: a")
	_ = stop()
}

func TestAPIServerRefuses(t *testing.T) {
	a := newAPI(t, "/api/v1/pods", "PodList")
	config := a.kubeconfig()
	for code, hint := range map[int]string{
		http.StatusForbidden: "needs list and watch of pods", http.StatusInternalServerError: "refused by the test",
		http.StatusFound: "302", http.StatusTooManyRequests: "429",
	} {
		a.set(func() { a.refuse = code })
		err := newAPIServer(node, config).follow(t.Context(), newLedger())
		if !refused(err, code) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%d: %v", code, err)
		}
	}
	a.set(func() { a.refuse = 0 })
	broken := errors.New("no longer wanted")
	l := newLedger()
	l.refuse = broken
	if err := newAPIServer(node, config).follow(t.Context(), l); !errors.Is(err, broken) {
		t.Errorf("a sink that refuses: %v", err)
	}
	a.Close()
	if err := newAPIServer(node, config).follow(t.Context(), l); err == nil || strings.Contains(err.Error(), "?") {
		t.Errorf("a server that is not there: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if err := newAPIServer(node, "").follow(t.Context(), l); !errors.Is(err, errAbsent) {
		t.Errorf("outside a pod: %v", err)
	}
}

// kubeletOf is a source that reads a server's /pods.
func kubeletOf(t *testing.T, a *api, change func(*Options)) (*kubeletPods, *Watcher) {
	t.Helper()
	dir := filepath.Dir(a.kubeconfig())
	o := Options{
		Directory: pods.NewDirectory("c", node), Node: node, Source: Kubelet, KubeletURL: a.URL, Poll: time.Hour,
		TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt"),
	}
	change(&o)
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return w.sources[0].(*kubeletPods), w
}

func TestKubelet(t *testing.T) {
	a := newAPI(t, "/pods", "PodList", podJSON("a", ""), `{"metadata":{}}`)
	k, w := kubeletOf(t, a, func(*Options) {})
	l := newLedger()
	stop := following(t, k, l)
	l.hear(t, "all: a")
	a.set(func() { a.items = append(a.items, podJSON("b", "")) })
	w.Poke()
	w.Poke()
	l.hear(t, "all: a b")
	if err := stop(); !errors.Is(err, context.Canceled) || l.dropped != 2 {
		t.Errorf("%v, %d dropped", err, l.dropped)
	}
}

// A token that was replaced is read; one that is refused is said.
func TestKubeletsToken(t *testing.T) {
	a := newAPI(t, "/pods", "PodList")
	k, w := kubeletOf(t, a, func(*Options) {})
	l := newLedger()
	stop := following(t, k, l)
	l.hear(t, "all: ")
	a.set(func() { a.token = "another" })
	write(t, k.at.tokenFile, "another")
	w.Poke()
	l.hear(t, "all: ")
	_ = stop()
	write(t, k.at.tokenFile, "wrong")
	if err := k.follow(t.Context(), l); !refused(err, http.StatusUnauthorized) {
		t.Errorf("a wrong token: %v", err)
	}
	a.set(func() { a.token, a.refuse = "wrong", http.StatusForbidden })
	if err := k.follow(t.Context(), l); err == nil || !strings.Contains(err.Error(), "nodes/pods") {
		t.Errorf("no permission: %v", err)
	}
}

func TestKubeletsCertificate(t *testing.T) {
	a := newAPI(t, "/pods", "PodList")
	other := filepath.Join(t.TempDir(), "ca.crt")
	write(t, other, otherCA)
	k, _ := kubeletOf(t, a, func(o *Options) { o.CAFile = other })
	if err := k.follow(t.Context(), newLedger()); err == nil || !strings.Contains(err.Error(), "serverTLSBootstrap") {
		t.Errorf("a certificate that is not trusted: %v", err)
	}
	k, _ = kubeletOf(t, a, func(o *Options) { o.CAFile, o.InsecureSkipVerify = other, true })
	l := newLedger()
	stop := following(t, k, l)
	l.hear(t, "all: ")
	_ = stop()
	write(t, other, "no certificate")
	k, _ = kubeletOf(t, a, func(o *Options) { o.CAFile = other })
	if err := k.follow(t.Context(), newLedger()); err == nil || !strings.Contains(err.Error(), "PEM") {
		t.Errorf("a file without certificates: %v", err)
	}
}

// podsServer is a kubelet's Pods API.
type podsServer struct {
	podsv1alpha1.UnimplementedPodsServer
	events chan *podsv1alpha1.WatchPodsEvent
	ended  chan struct{} // gets a value when a stream has
}

func eventOf(t *testing.T, kind podsv1alpha1.EventType, name string) *podsv1alpha1.WatchPodsEvent {
	t.Helper()
	var p corev1.Pod
	if err := json.Unmarshal([]byte(podJSON(name, "")), &p); err != nil {
		t.Fatal(err)
	}
	b, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &podsv1alpha1.WatchPodsEvent{Type: kind, Pod: b}
}

func (s *podsServer) WatchPods(_ *podsv1alpha1.WatchPodsRequest, stream grpc.ServerStreamingServer[podsv1alpha1.WatchPodsEvent]) error {
	defer func() { s.ended <- struct{}{} }()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case e := <-s.events:
			if e == nil {
				return status.Error(codes.ResourceExhausted, "watch client channel closed")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// servePods serves the API on a socket until stop is called.
func servePods(t *testing.T, socket string, register bool) (s *podsServer, stop func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s = &podsServer{events: make(chan *podsv1alpha1.WatchPodsEvent, 100), ended: make(chan struct{}, 100)}
	g := grpc.NewServer()
	if register {
		podsv1alpha1.RegisterPodsServer(g, s)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	stop = func() {
		g.Stop()
		<-done
	}
	t.Cleanup(stop)
	return s, stop
}

func TestPodsAPI(t *testing.T) {
	const added, modified, deleted, synced = podsv1alpha1.EventType_ADDED, podsv1alpha1.EventType_MODIFIED, podsv1alpha1.EventType_DELETED, podsv1alpha1.EventType_INITIAL_SYNC_COMPLETE
	socket := filepath.Join(t.TempDir(), "pods.sock")
	server, stopServer := servePods(t, socket, true)
	for _, e := range []*podsv1alpha1.WatchPodsEvent{
		eventOf(t, added, "a"), eventOf(t, added, "b"), eventOf(t, deleted, "a"),
		{Type: synced},
		eventOf(t, added, "c"), eventOf(t, modified, "b"),
		{Type: synced},
		eventOf(t, deleted, "b"),
		{Type: added, Pod: []byte{1<<3 | 2, 200}},
		{Type: added},
		{Type: 77},
		eventOf(t, modified, "c"),
	} {
		server.events <- e
	}
	l := newLedger()
	s := &podsAPI{node: node, sockets: []string{socket + ".none", socket}}
	stop := following(t, s, l)
	l.hear(t, "all: b", "put c", "put b", "remove uid-b", "put c")
	if err := stop(); err == nil || l.dropped != 3 {
		t.Errorf("%v, %d dropped", err, l.dropped)
	}

	<-server.ended
	server.events <- nil // the kubelet drops a watcher that is too slow
	if err := s.follow(t.Context(), l); status.Code(errors.Unwrap(err)) != codes.ResourceExhausted {
		t.Errorf("dropped: %v", err)
	}
	stopServer() // restarted: another inode
	if err := s.follow(t.Context(), l); !errors.Is(err, errAbsent) {
		t.Errorf("without a socket: %v", err)
	}
	server, stopServer = servePods(t, socket, true)
	server.events <- eventOf(t, added, "d")
	server.events <- &podsv1alpha1.WatchPodsEvent{Type: synced}
	stop = following(t, s, l)
	l.hear(t, "all: d")
	stopServer()
	if err := stop(); err == nil {
		t.Error("the kubelet stopped, and nothing is wrong")
	}
	_, _ = servePods(t, socket, false)
	if err := s.follow(t.Context(), l); !errors.Is(err, errAbsent) {
		t.Errorf("a kubelet without the API: %v", err)
	}
}

// A whole watcher: the kubelet's Pods API where there is one, else the API
// server; the directory has the pods.
func TestWatcher(t *testing.T) {
	a := newAPI(t, "/api/v1/pods", "PodList", podJSON("a", "3"))
	d := pods.NewDirectory("c", node)
	w, err := New(Options{Directory: d, Node: node, Sockets: []string{filepath.Join(t.TempDir(), "none.sock")}, Kubeconfig: a.kubeconfig()})
	if err != nil {
		t.Fatal(err)
	}
	if w.Ready() || w.Stats() != (Stats{}) {
		t.Errorf("before the start: %+v", w.Stats())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	<-d.Changed()
	if d.View().ByUID("uid-a") == nil {
		t.Error("the pod is not known")
	}
	a.change("DELETED", podJSON("a", "VERSION"))
	<-d.Changed()
	if p := d.View().ByUID("uid-a"); p == nil || !p.Gone() {
		t.Error("the pod has not gone")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := w.Stats(); s.Source != APIServer || s.Syncs != 1 || s.Events != 2 || s.Sessions != 2 || s.Failures != 1 || s.Heard.IsZero() {
		t.Errorf("%+v", s)
	}
}
