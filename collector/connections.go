package collector

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/gpuledger/gpuledger/internal/bounded"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// grpcLimits bound what one connection takes, which counts 10,000 times.
//
// The flow-control windows are fixed: gRPC would otherwise grow them to 16 MiB
// where the network is fast, for each agent that sends faster than the store
// takes it. With them, what an agent has sent and the collector has not read is
// at most 64 KiB, a few minutes of its node; it has the rest on its disk.
func grpcLimits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.ForceServerCodecV2(bounded.Codec(wire.MaxParts)), grpc.MaxHeaderListSize(64 << 10), grpc.MaxConcurrentStreams(1024), grpc.ConnectionTimeout(20 * time.Second),
		grpc.StaticStreamWindowSize(64 << 10), grpc.StaticConnWindowSize(256 << 10),
		// A live second of a node is some 200 bytes; acks are less.
		grpc.ReadBufferSize(2 << 10), grpc.WriteBufferSize(16 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second, MaxConnectionIdle: 10 * time.Minute}),
		// Agents ping every 20 s, also while their stream is quiet.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// connections are a listener's, bounded in number: one too many is closed at
// once, before anything is read of it, and counted. Whoever is connected stays.
type connections struct {
	net.Listener
	most    int64
	open    *atomic.Int64
	refused *atomic.Int64
}

// defaultConnections is the bound where the configuration says 0.
const defaultConnections = 20_000

func (c *Collector) bounded(l net.Listener) net.Listener {
	most := c.cfg.Limits.Connections
	if most == 0 {
		most = defaultConnections
	}
	return &connections{l, int64(most), &c.open, &c.refused}
}

// Accept waits for the next connection that there is room for.
func (l *connections) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			return &connection{Conn: c, ended: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		l.refused.Add(1)
		_ = c.Close() // nothing was sent
	}
}

type connection struct {
	net.Conn
	ended func()
}

func (c *connection) Close() error {
	defer c.ended()
	return c.Conn.Close()
}
