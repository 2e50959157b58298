package podwatch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// errAbsent is a source that this node does not have.
var errAbsent = errors.New("not here")

// source is a way to learn of the node's pods.
type source interface {
	// follow tells the sink all pods, then what changes, until the context ends
	// or the source fails. It always returns an error.
	follow(ctx context.Context, to sink) error
}

// sink is where a source tells what it learns. All calls block until the source
// may speak, and fail when it no longer may.
type sink interface {
	// replace says that these are all pods.
	replace([]*pods.Pod) error
	put(*pods.Pod) error
	remove(uid string) error
	// current reports whether the directory holds what this source said last,
	// so that it can go on where it was.
	current() bool
	// resume says that the source goes on where it was.
	resume() error
	// drop counts facts that were dropped.
	drop(n int)
}

// apiServer watches the pods of the node at the API server.
type apiServer struct {
	node       string
	kubeconfig string
	pods       collection[object]
	version    string // to go on with
}

func newAPIServer(node, kubeconfig string) *apiServer {
	return &apiServer{node: node, kubeconfig: kubeconfig, pods: collection[object]{
		path: "/api/v1/pods", kind: "PodList",
		query: url.Values{"fieldSelector": {"spec.nodeName=" + node}},
	}}
}

func (a *apiServer) follow(ctx context.Context, to sink) error {
	where, err := server(a.kubeconfig)
	if err != nil {
		return err
	}
	c, err := where.connect()
	if err != nil {
		return err
	}
	defer c.close()
	err = a.listAndWatch(ctx, c, to)
	if expired(err) {
		a.version = ""
	}
	if refused(err, http.StatusForbidden) {
		err = fmt.Errorf("%w (the agent's service account needs list and watch of pods)", err)
	}
	return err
}

func (a *apiServer) listAndWatch(ctx context.Context, c *client, to sink) error {
	connected := to.resume
	if a.version == "" || !to.current() {
		if err := a.list(ctx, c, to); err != nil {
			return err
		}
	}
	for {
		var err error
		a.version, err = a.pods.watch(ctx, c, a.version, connected, func(event string, o *object) error {
			return a.take(event, o, to)
		})
		if err != nil {
			return err
		}
	}
}

func (a *apiServer) list(ctx context.Context, c *client, to sink) error {
	l := lister{node: a.node, to: to}
	version, err := a.pods.list(ctx, c, l.take)
	if err != nil {
		return err
	}
	a.version = version
	return to.replace(l.pods)
}

func (a *apiServer) take(event string, o *object, to sink) error {
	switch {
	case o == nil:
		to.drop(1)
	case event == "DELETED":
		return to.remove(o.uid(a.node))
	case event == "ADDED" || event == "MODIFIED":
		return take(o, a.node, to)
	}
	return nil
}

// take tells the sink of a pod. One that cannot be used is counted; the others
// are not worse for it.
func take(o *object, node string, to sink) error {
	p, dropped := o.pod(node)
	to.drop(dropped)
	if p == nil {
		return nil
	}
	return to.put(p)
}

// lister collects the pods of a list.
type lister struct {
	node string
	to   sink
	pods []*pods.Pod
}

// take is called with each object, nil for one that is unfit. The directory
// refuses and counts pods above its bound; a few more are kept so that it does.
func (l *lister) take(o *object) error {
	if o == nil {
		l.to.drop(1)
		return nil
	}
	p, dropped := o.pod(l.node)
	l.to.drop(dropped)
	switch {
	case p == nil:
	case len(l.pods) >= 2*pods.MaxPods:
		l.to.drop(1)
	default:
		l.pods = append(l.pods, p)
	}
	return nil
}

// kubeletPods polls the kubelet's /pods.
type kubeletPods struct {
	node  string
	at    *access
	every time.Duration
	poke  <-chan struct{}
}

// pollGap is the least time between two polls.
const pollGap = time.Second

func (k *kubeletPods) follow(ctx context.Context, to sink) error {
	c, err := k.at.connect()
	if err != nil {
		return err
	}
	defer c.close()
	for {
		if err := k.poll(ctx, c, to); err != nil {
			return err
		}
		if err := wait(ctx, pollGap, nil); err != nil {
			return err
		}
		if err := wait(ctx, k.every-pollGap, k.poke); err != nil {
			return err
		}
	}
}

func (k *kubeletPods) poll(ctx context.Context, c *client, to sink) error {
	ctx, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	body, err := c.get(ctx, "/pods", nil)
	if err != nil {
		return k.hinted(err)
	}
	defer func() { _ = body.Close() }()
	l := lister{node: k.node, to: to}
	if _, err := readList(body, "PodList", l.take); err != nil {
		return err
	}
	return to.replace(l.pods)
}

// wait waits until d has passed or somebody pokes.
func wait(ctx context.Context, d time.Duration, poke <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
	case <-poke:
	}
	return nil
}

// hinted says what to do about a refusal.
func (*kubeletPods) hinted(err error) error {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w (kubelets often sign their own certificates: name the CA's file, have them signed with serverTLSBootstrap, or turn verification off)", err)
	case refused(err, http.StatusForbidden):
		return fmt.Errorf("%w (the agent's service account needs get of nodes/pods, or of nodes/proxy before Kubernetes 1.33)", err)
	}
	return err
}
