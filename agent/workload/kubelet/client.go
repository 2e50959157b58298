package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/gpuledger/gpuledger/internal/bounded"
)

// callTimeout bounds one call. A kubelet answers within milliseconds; one that
// takes this long is as good as away.
const callTimeout = 5 * time.Second

// ErrRestarted says that the kubelet was replaced while it was asked, so that
// it can't be told which of the two answered.
var ErrRestarted = errors.New("the kubelet was restarted meanwhile")

// Client asks the kubelet which containers hold which devices. It keeps one
// connection. Any goroutine may use it.
//
// The kubelet makes its socket anew when it starts. Each socket file seen
// (device, inode, time of its making, since inodes are used again at once)
// begins an epoch. What is missing from an answer says something only within
// an epoch, because a kubelet that has just started knows of nothing yet.
type Client struct {
	socket string

	mu     sync.Mutex
	conn   *grpc.ClientConn
	file   fileID // of the newest socket
	epoch  uint64
	closed bool
}

// NewClient makes a client of the PodResources socket, an absolute path. The
// socket need not exist yet.
func NewClient(socket string) (*Client, error) {
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("kubelet: the socket %q is no absolute path", socket)
	}
	return &Client{socket: socket}, nil
}

// fileID tells a file from the one that takes its place.
type fileID struct {
	device, inode uint64
	modified      int64 // Unix ns
	size          int64
}

func statFile(path string) (fileID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	return identify(info), nil
}

func identify(info os.FileInfo) fileID {
	id := fileID{modified: info.ModTime().UnixNano(), size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode = st.Dev, st.Ino
	}
	return id
}

// Epoch numbers the lives of the kubelet that the client has seen, from 1; 0
// before the first.
func (c *Client) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Moved reports whether there is a socket that the client has not dialled yet.
func (c *Client) Moved() bool {
	file, err := statFile(c.socket)
	c.mu.Lock()
	defer c.mu.Unlock()
	return err == nil && file != c.file
}

// Close closes the connection; calls under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.hangUp()
}

func (c *Client) hangUp() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// connection is the connection to the socket as it is now.
func (c *Client) connection() (*grpc.ClientConn, fileID, uint64, error) {
	file, err := statFile(c.socket)
	if err != nil {
		return nil, fileID{}, 0, fmt.Errorf("kubelet: %w; is its pod-resources folder mounted?", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fileID{}, 0, errors.New("kubelet: the client is closed")
	}
	if file != c.file {
		if err := c.hangUp(); err != nil {
			return nil, fileID{}, 0, fmt.Errorf("kubelet: %w", err)
		}
		c.file = file
		c.epoch++
	}
	if c.conn == nil {
		c.conn, err = grpc.NewClient("passthrough:///kubelet",
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", c.socket)
			}),
			grpc.WithAuthority("localhost"),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDisableServiceConfig(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.ForceCodecV2(bounded.Codec(maxParts))))
		if err != nil {
			return nil, fileID{}, 0, fmt.Errorf("kubelet: %w", err)
		}
	}
	return c.conn, file, c.epoch, nil
}

// call makes one call, and tells in which epoch it was answered. A connection
// that failed is not used again, so that there is no waiting to dial anew.
func (c *Client) call(ctx context.Context, f func(context.Context, podresources.PodResourcesListerClient) error) (uint64, error) {
	conn, file, epoch, err := c.connection()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = f(ctx, podresources.NewPodResourcesListerClient(conn))
	if err == nil {
		// A connection is dialled anew behind our back when it breaks. If the
		// socket is the same before and after, so is who answered.
		if now, serr := statFile(c.socket); serr != nil || now != file {
			err = ErrRestarted
		}
	}
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		c.mu.Lock()
		if c.conn == conn {
			err = errors.Join(err, c.hangUp())
		}
		c.mu.Unlock()
	}
	if err != nil {
		return 0, fmt.Errorf("kubelet: %w", err)
	}
	return epoch, nil
}

// List asks for everything that is held.
func (c *Client) List(ctx context.Context) (*Snapshot, error) {
	var r *podresources.ListPodResourcesResponse
	epoch, err := c.call(ctx, func(ctx context.Context, k podresources.PodResourcesListerClient) (err error) {
		r, err = k.List(ctx, &podresources.ListPodResourcesRequest{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return snapshot(epoch, r.GetPodResources()), nil
}

// Get asks for one pod. The kubelet's error for a pod that it does not know has
// the code Unknown.
func (c *Client) Get(ctx context.Context, namespace, pod string) (Pod, error) {
	var r *podresources.GetPodResourcesResponse
	_, err := c.call(ctx, func(ctx context.Context, k podresources.PodResourcesListerClient) (err error) {
		r, err = k.Get(ctx, &podresources.GetPodResourcesRequest{PodNamespace: namespace, PodName: pod})
		return err
	})
	if err != nil {
		return Pod{}, err
	}
	return new(converter).pod(r.GetPodResources()), nil
}

// Allocatable asks for all devices that could be given to containers. It is
// empty while a device plugin is away, whatever is held.
func (c *Client) Allocatable(ctx context.Context) ([]Device, error) {
	var r *podresources.AllocatableResourcesResponse
	_, err := c.call(ctx, func(ctx context.Context, k podresources.PodResourcesListerClient) (err error) {
		r, err = k.GetAllocatableResources(ctx, &podresources.AllocatableResourcesRequest{})
		return err
	})
	if err != nil {
		return nil, err
	}
	var ds []Device
	conv := new(converter)
	for _, d := range r.GetDevices() {
		ds = conv.device(ds, d)
	}
	sortDevices(ds)
	return ds, nil
}

// errorKind sorts errors for statistics.
type errorKind int

const (
	errorOther errorKind = iota
	errorUnavailable
	errorRateLimited
	errorTimeout
	errorRestarted
	errorKinds
)

// errorNames name the kinds in [Stats].
var errorNames = [errorKinds]string{"other", "unavailable", "rate-limited", "timeout", "restarted"}

func kindOf(err error) errorKind {
	var code interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, ErrRestarted):
		return errorRestarted
	case errors.Is(err, os.ErrNotExist), errors.Is(err, context.Canceled):
		return errorUnavailable
	case !errors.As(err, &code):
		return errorOther
	}
	switch code.GRPCStatus().Code() {
	case codes.Unavailable:
		return errorUnavailable
	case codes.ResourceExhausted:
		return errorRateLimited
	case codes.DeadlineExceeded:
		return errorTimeout
	default:
		return errorOther
	}
}
