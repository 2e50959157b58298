package podwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podsv1alpha1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// podsAPI watches the kubelet's Pods API. Each follow dials anew, since a
// kubelet that was restarted listens on another inode of the same name.
type podsAPI struct {
	node    string
	sockets []string // absolute; the first that is there is used
}

func (a *podsAPI) follow(ctx context.Context, to sink) error {
	socket, err := a.socket()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxObjectBytes)),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	err = a.watch(ctx, podsv1alpha1.NewPodsClient(conn), to)
	switch {
	case status.Code(err) == codes.Unimplemented:
		err = fmt.Errorf("%w: %w", errAbsent, err)
	case status.Code(err) == codes.PermissionDenied:
		err = fmt.Errorf("%w (the agent has to be root)", err)
	}
	return fmt.Errorf("%s: %w", socket, err)
}

func (a *podsAPI) socket() (string, error) {
	var errs []error
	for _, s := range a.sockets {
		_, err := os.Stat(s)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("%w: %w", errAbsent, errors.Join(errs...))
}

func (a *podsAPI) watch(ctx context.Context, c podsv1alpha1.PodsClient, to sink) error {
	stream, err := c.WatchPods(ctx, &podsv1alpha1.WatchPodsRequest{})
	if err != nil {
		return err
	}
	all := lister{node: a.node, to: to}
	for synced := false; ; {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		if e.GetType() == podsv1alpha1.EventType_INITIAL_SYNC_COMPLETE {
			if synced {
				continue
			}
			synced = true
			err = to.replace(all.pods)
			all.pods = nil
		} else {
			err = a.take(e, &all, synced, to)
		}
		if err != nil {
			return err
		}
	}
}

// take takes an event. Of a pod that was deleted only the names and the UID
// are told.
func (a *podsAPI) take(e *podsv1alpha1.WatchPodsEvent, all *lister, synced bool, to sink) error {
	o := &object{}
	if err := o.unmarshal(e.GetPod()); err != nil {
		to.drop(1)
		return nil //nolint:nilerr // counted; others are not worse for it
	}
	switch e.GetType() {
	case podsv1alpha1.EventType_DELETED:
		uid := o.uid(a.node)
		if !synced {
			all.pods = slices.DeleteFunc(all.pods, func(p *pods.Pod) bool { return p.UID == uid })
			return nil
		}
		return to.remove(uid)
	case podsv1alpha1.EventType_ADDED, podsv1alpha1.EventType_MODIFIED:
		if !synced {
			return all.take(o)
		}
		return take(o, a.node, to)
	default:
		to.drop(1)
		return nil
	}
}
