package kubelettest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podsapi "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

// PodsServer serves the kubelet's Pods API. Pods are the bytes of a v1.Pod,
// which it does not look into. Any goroutine may use it.
type PodsServer struct {
	podsapi.UnimplementedPodsServer
	t    testing.TB
	path string

	mu      sync.Mutex
	server  *grpc.Server
	served  chan struct{}
	order   []string // UIDs, as they came
	pods    map[string][]byte
	watches map[chan *podsapi.WatchPodsEvent]bool
}

// watchEvents is how many events a watch may fall behind before it is ended.
const watchEvents = 1024

// NewPods starts a server that has no pods. It ends with the test.
func NewPods(t testing.TB) *PodsServer {
	t.Helper()
	s := &PodsServer{t: t, path: Socket(t), pods: map[string][]byte{}, watches: map[chan *podsapi.WatchPodsEvent]bool{}}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// Path is the socket's path.
func (s *PodsServer) Path() string { return s.path }

// Put adds a pod or changes it.
func (s *PodsServer) Put(uid string, pod []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := podsapi.EventType_MODIFIED
	if _, ok := s.pods[uid]; !ok {
		kind = podsapi.EventType_ADDED
		s.order = append(s.order, uid)
	}
	s.pods[uid] = pod
	s.tell(&podsapi.WatchPodsEvent{Type: kind, Pod: pod})
}

// Delete deletes a pod. pod is what watches are told of it.
func (s *PodsServer) Delete(uid string, pod []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
	s.order = slices.DeleteFunc(s.order, func(x string) bool { return x == uid })
	s.tell(&podsapi.WatchPodsEvent{Type: podsapi.EventType_DELETED, Pod: pod})
}

// Watches is how many watches there are now.
func (s *PodsServer) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watches)
}

// tell tells all watches; one that is behind is ended, as by a slow reader.
func (s *PodsServer) tell(e *podsapi.WatchPodsEvent) {
	for w := range s.watches {
		select {
		case w <- e:
		default:
			close(w)
			delete(s.watches, w)
		}
	}
}

// Stop lets the kubelet go away: the socket's file stays.
func (s *PodsServer) Stop() {
	s.mu.Lock()
	server, served := s.server, s.served
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Restart lets the kubelet start (again), on a new socket file.
func (s *PodsServer) Restart() {
	s.t.Helper()
	s.Stop()
	server := grpc.NewServer()
	podsapi.RegisterPodsServer(server, s)
	served := Serve(s.t, s.path, server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.served = server, served
}

// WatchPods implements the API.
func (s *PodsServer) WatchPods(_ *podsapi.WatchPodsRequest, stream grpc.ServerStreamingServer[podsapi.WatchPodsEvent]) error {
	s.mu.Lock()
	w := make(chan *podsapi.WatchPodsEvent, len(s.order)+1+watchEvents)
	for _, uid := range s.order {
		w <- &podsapi.WatchPodsEvent{Type: podsapi.EventType_ADDED, Pod: s.pods[uid]}
	}
	w <- &podsapi.WatchPodsEvent{Type: podsapi.EventType_INITIAL_SYNC_COMPLETE}
	s.watches[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}()
	for {
		select {
		case e, ok := <-w:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the watch is too far behind")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// ListPods implements the API.
func (s *PodsServer) ListPods(context.Context, *podsapi.ListPodsRequest) (*podsapi.ListPodsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &podsapi.ListPodsResponse{}
	for _, uid := range s.order {
		r.Pods = append(r.Pods, s.pods[uid])
	}
	return r, nil
}

// GetPod implements the API.
func (s *PodsServer) GetPod(_ context.Context, q *podsapi.GetPodRequest) (*podsapi.GetPodResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod, ok := s.pods[q.GetPodUID()]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "pod %q not found", q.GetPodUID())
	}
	return &podsapi.GetPodResponse{Pod: pod}, nil
}
