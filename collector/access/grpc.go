package access

import (
	"context"
	"crypto/x509"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"
)

// ServerOptions put the guard before all methods of a gRPC server that others
// reach.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	return append(g.options(g.outside, true), grpc.InTapHandle(g.arrive))
}

type arrivedKey struct{}

// arrive looks at a call of which nothing but the header has been read. Strangers
// hold up strangers alone, and whoever was known a moment ago himself.
func (g *Guard) arrive(ctx context.Context, info *tap.Info) (context.Context, error) {
	if rule, known := g.methods[info.FullMethodName]; known && rule.For == Agents {
		return ctx, nil
	}
	a, of := g.strangers, ""
	if token, ok := g.remembers(info.Header.Get("authorization")); ok {
		a, of = g.friends, string(token[:])
	} else if p, ok := peer.FromContext(ctx); ok {
		of = network(p.Addr.String())
	}
	ctx, arrived, err := a.begin(ctx, of)
	if err != nil {
		g.counts.Arriving.Add(1)
		return ctx, err
	}
	return context.WithValue(ctx, arrivedKey{}, arrived), nil
}

// arrivedOf is what says that a call's question has arrived.
func arrivedOf(ctx context.Context) func() {
	if arrived, ok := ctx.Value(arrivedKey{}).(func()); ok {
		return arrived
	}
	return func() {}
}

// outside is who calls from outside.
func (g *Guard) outside(ctx context.Context) (*Caller, error) {
	var s Shown
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		s.Authorization = md.Get("authorization")
	}
	if p, ok := peer.FromContext(ctx); ok {
		s.Peer = p.Addr.String()
		if t, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.Certificate = verifiedLeaf(t.State.VerifiedChains)
		}
	}
	return g.Caller(ctx, s)
}

// verifiedLeaf is the client's certificate, if anybody vouches for it.
func verifiedLeaf(chains [][]*x509.Certificate) *x509.Certificate {
	if len(chains) == 0 || len(chains[0]) == 0 {
		return nil
	}
	return chains[0][0]
}

// checkAgain is how long a stream goes on before it is asked again who reads it.
const checkAgain = time.Minute

// options ask who calls; where the answer may change, streams ask again.
func (g *Guard) options(who func(context.Context) (*Caller, error), again bool) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			arrivedOf(ctx)() // before its interceptors, gRPC has read the question
			ctx, rule, err := g.admit(ctx, info.FullMethod, who)
			if err != nil {
				return nil, err
			}
			res, err := handle(ctx, req)
			return g.answer(ctx, rule, res, err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			ctx, rule, err := g.admit(stream.Context(), info.FullMethod, who)
			if err != nil {
				return err
			}
			a := &admitted{ServerStream: stream, ctx: ctx, arrived: arrivedOf(ctx), now: g.cfg.Now, checked: g.cfg.Now()}
			if again {
				a.again = func() error {
					_, _, err := g.admit(stream.Context(), info.FullMethod, who)
					return err
				}
			}
			_, err = g.answer(ctx, rule, nil, handle(srv, a))
			return err
		}),
	}
}

// admit decides on a call, and puts the caller into its context.
func (g *Guard) admit(ctx context.Context, method string, who func(context.Context) (*Caller, error)) (context.Context, Rule, error) {
	rule, known := g.methods[method]
	if known && rule.For == Agents {
		return ctx, rule, nil
	}
	c, err := who(ctx)
	if err != nil {
		return nil, rule, err
	}
	if !known || rule.For != Callers {
		return nil, rule, g.forbid(c, method, errUnknown)
	}
	if err := c.May(rule); err != nil {
		return nil, rule, g.forbid(c, method, err)
	}
	return WithCaller(ctx, c), rule, nil
}

func (g *Guard) forbid(c *Caller, what string, err error) error {
	g.counts.Forbidden.Add(1)
	g.tell("a caller may not do this", "caller", c.Name, "method", c.Method, "asked", what)
	return err
}

// answer is what of an answer the caller may have. What went wrong within the
// collector may name files, nodes and owners: it is for those who see all.
func (g *Guard) answer(ctx context.Context, rule Rule, res any, err error) (any, error) {
	c := CallerOf(ctx)
	if rule.For == Agents || c == nil || c.sees() {
		return res, err
	}
	switch status.Code(err) {
	case codes.OK:
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unavailable:
		return nil, status.Error(status.Code(err), "the collector could not answer this; its log says why")
	default:
		return nil, err
	}
	if rule.Reach == Narrowed {
		m, ok := res.(proto.Message)
		if !ok {
			panic("BUG: access: an answer that cannot be narrowed")
		}
		rule.Narrow(m)
	}
	return res, nil
}

// admitted is a stream whose caller is known. One that lasts ends where he is not
// any more: a backup may take hours.
type admitted struct {
	grpc.ServerStream
	ctx     context.Context //nolint:containedctx // a stream's context is asked of it
	arrived func()          // to be called when the question has been read
	again   func() error    // nil: nobody is asked again
	now     func() time.Time
	checked time.Time
}

// Context holds the caller.
func (a *admitted) Context() context.Context { return a.ctx }

// RecvMsg reads the question.
func (a *admitted) RecvMsg(m any) error {
	defer a.arrived()
	return a.ServerStream.RecvMsg(m)
}

// SendMsg sends, to a caller who still may be answered.
func (a *admitted) SendMsg(m any) error {
	if now := a.now(); a.again != nil && now.Sub(a.checked) >= checkAgain {
		a.checked = now
		if err := a.again(); err != nil {
			return err
		}
	}
	return a.ServerStream.SendMsg(m)
}
