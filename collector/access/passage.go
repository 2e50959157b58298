package access

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// handedOver is the metadata by which a caller is found on the other side of a
// Passage. It means something to the server in memory alone.
const handedOver = "gpuledger-handed-over"

// Passage leads callers through a gRPC connection within the process. The side
// that calls leaves the caller of its context under a random key; the side that
// is called takes it from there, once. Whatever other metadata a call has is not
// handed on, so that nothing of a request from outside reaches the server.
type Passage struct {
	guard *Guard
	mu    sync.Mutex
	calls map[string]*Caller
}

// NewPassage makes a Passage for a guard's callers.
func (g *Guard) NewPassage() *Passage { return &Passage{guard: g, calls: map[string]*Caller{}} }

// ServerOptions are for the side that is called.
func (p *Passage) ServerOptions() []grpc.ServerOption { return p.guard.options(p.take, false) }

// DialOptions are for the side that calls.
func (p *Passage) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, done := p.leave(ctx)
			defer done()
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			ctx, done := p.leave(ctx)
			context.AfterFunc(ctx, done)
			s, err := stream(ctx, desc, cc, method, opts...)
			if err != nil {
				done()
			}
			return s, err
		}),
	}
}

// leave puts the context's caller where the other side finds it, until done.
func (p *Passage) leave(ctx context.Context) (context.Context, func()) {
	c := CallerOf(ctx)
	if c == nil { // the other side finds nobody, and says so
		return metadata.NewOutgoingContext(ctx, metadata.MD{}), func() {}
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // it does not fail
	key := hex.EncodeToString(b[:])
	p.mu.Lock()
	p.calls[key] = c
	p.mu.Unlock()
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(handedOver, key)), func() {
		p.mu.Lock()
		delete(p.calls, key)
		p.mu.Unlock()
	}
}

func (p *Passage) take(ctx context.Context) (*Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	keys := md.Get(handedOver)
	if len(keys) != 1 {
		return nil, ErrUnauthenticated
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[keys[0]]
	delete(p.calls, keys[0])
	if c == nil {
		return nil, ErrUnauthenticated
	}
	return c, nil
}
