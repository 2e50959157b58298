package kubelettest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podsapi "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
)

func TestPodsServer(t *testing.T) {
	s := kubelettest.NewPods(t)
	s.Put("a", []byte("a1"))
	conn, err := grpc.NewClient("unix://"+s.Path(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := podsapi.NewPodsClient(conn)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := c.WatchPods(ctx, &podsapi.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	next := func() {
		t.Helper()
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.GetType(), " ", string(e.GetPod())))
	}
	next()
	next()
	s.Put("b", []byte("b1"))
	s.Put("a", []byte("a2"))
	s.Delete("b", []byte("b"))
	next()
	next()
	next()
	if want := []string{"ADDED a1", "INITIAL_SYNC_COMPLETE ", "ADDED b1", "MODIFIED a2", "DELETED b"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	l, err := c.ListPods(ctx, &podsapi.ListPodsRequest{})
	if err != nil || len(l.GetPods()) != 1 || string(l.GetPods()[0]) != "a2" {
		t.Errorf("%v, %v", l, err)
	}
	if p, err := c.GetPod(ctx, &podsapi.GetPodRequest{PodUID: "a"}); err != nil || string(p.GetPod()) != "a2" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := c.GetPod(ctx, &podsapi.GetPodRequest{PodUID: "b"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	s.Stop()
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if n := s.Watches(); n != 0 {
		t.Errorf("%d watches after the end", n)
	}
}
