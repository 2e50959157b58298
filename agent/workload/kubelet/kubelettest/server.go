// Package kubelettest is a kubelet for tests: the PodResources API and the
// kubelet's Pods API, on real unix sockets, with answers that the test sets.
// It goes away and comes back as a kubelet does: while it is away the socket
// file stays and refuses connections, and coming back makes the file anew.
package kubelettest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Server serves PodResources v1. Any goroutine may use it.
type Server struct {
	podresources.UnimplementedPodResourcesListerServer
	t    testing.TB
	path string

	mu          sync.Mutex
	server      *grpc.Server
	served      chan struct{} // closed when server has ended
	pods        []*podresources.PodResources
	allocatable []*podresources.ContainerDevices
	fail        error
	allow       int // calls until the rate limit; −1: none
	hold        chan struct{}
	calls       int
}

// New starts a server that lists no pods. It ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, path: Socket(t), allow: -1}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// Socket is a path for a socket, short enough for one, in a folder of its own
// that ends with the test.
func Socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "kubelet.sock")
}

// Path is the socket's path.
func (s *Server) Path() string { return s.path }

// SetPods sets what is listed.
func (s *Server) SetPods(pods ...*podresources.PodResources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods = slices.Clone(pods)
}

// SetAllocatable sets the allocatable devices.
func (s *Server) SetAllocatable(devices ...*podresources.ContainerDevices) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allocatable = slices.Clone(devices)
}

// Fail lets all calls fail; nil lets them succeed again.
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Limit lets so many more calls through, and refuses the rest as the kubelet's
// rate limit does; negative: no limit.
func (s *Server) Limit(calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allow = calls
}

// Hang lets calls wait until the returned function is called, or they are given
// up.
func (s *Server) Hang() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hold := make(chan struct{})
	s.hold = hold
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hold == hold {
			s.hold = nil
		}
		close(hold)
	}
}

// Calls is how many calls have come.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Stop lets the kubelet go away: the socket's file stays.
func (s *Server) Stop() {
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
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, s)
	served := Serve(s.t, s.path, server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.served = server, served
}

// Serve lets a server listen on a new socket file; the channel is closed when
// the server has ended. The file stays.
func Serve(t testing.TB, path string, server *grpc.Server) (served chan struct{}) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	served = make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	return served
}

// admit counts a call, and fails it if it is to fail.
func (s *Server) admit(ctx context.Context) error {
	s.mu.Lock()
	hold := s.hold
	s.calls++
	fail := s.fail
	if s.allow == 0 && fail == nil {
		fail = status.Error(codes.ResourceExhausted, "rejected by rate limit")
	} else if s.allow > 0 {
		s.allow--
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fail
}

// List implements the API.
func (s *Server) List(ctx context.Context, _ *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &podresources.ListPodResourcesResponse{PodResources: s.pods}, nil
}

// Get implements the API.
func (s *Server) Get(ctx context.Context, r *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pods {
		if p.GetName() == r.GetPodName() && p.GetNamespace() == r.GetPodNamespace() {
			return &podresources.GetPodResourcesResponse{PodResources: p}, nil
		}
	}
	return nil, status.Errorf(codes.Unknown, "pod %s in namespace %s not found", r.GetPodName(), r.GetPodNamespace())
}

// GetAllocatableResources implements the API.
func (s *Server) GetAllocatableResources(ctx context.Context, _ *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &podresources.AllocatableResourcesResponse{Devices: s.allocatable}, nil
}

// Pod makes a pod of containers.
func Pod(namespace, name string, containers ...*podresources.ContainerResources) *podresources.PodResources {
	return &podresources.PodResources{Namespace: namespace, Name: name, Containers: containers}
}

// Container makes a container that has devices of one resource: an entry for
// each, as the kubelet does.
func Container(name, resource string, ids ...string) *podresources.ContainerResources {
	c := &podresources.ContainerResources{Name: name}
	for _, id := range ids {
		c.Devices = append(c.Devices, &podresources.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
	}
	return c
}

// Claimed makes a container that has a device of a DRA claim.
func Claimed(name, claimNamespace, claim, driver, pool, device string) *podresources.ContainerResources {
	return &podresources.ContainerResources{Name: name, DynamicResources: []*podresources.DynamicResource{{
		ClaimName: claim, ClaimNamespace: claimNamespace,
		ClaimResources: []*podresources.ClaimResource{{DriverName: driver, PoolName: pool, DeviceName: device}},
	}}}
}
