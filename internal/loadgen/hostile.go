package loadgen

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// Hostile agents have nodes of their own, in the fleet's cluster with -hostile
// behind it, and take turns in these kinds:
//
//	deaf     sends good chunks as fast as it may, and never reads an answer
//	garbage  sends messages of random bytes
//	silent   opens a TCP connection and says nothing
//	storm    begins streams and breaks them off, as fast as it can
//	liar     sends chunks with other content than their digest says, seconds
//	         that it never sent, and rosters of all sizes
//	flood    sends good chunks as fast as it may, and reads
//	bomb     sends rosters of millions of empty owners, a gigabyte each if they
//	         were read
//
// None of them stops while it is let; each attack counts in Stats.Hostile.
var hostiles = []func(*enemy, context.Context) error{
	(*enemy).deaf, (*enemy).garbage, (*enemy).silent, (*enemy).storm, (*enemy).liar, (*enemy).flood, (*enemy).bomb,
}

// enemy is one hostile agent.
type enemy struct {
	l    *Load
	node *node
	conn *grpc.ClientConn
	at   attribution.Second // of the next good chunk
}

// harass plays one hostile agent until ctx ends.
func (l *Load) harass(ctx context.Context, i int) {
	f := *l.shadow()
	e := &enemy{l: l, node: f.node(i), at: l.live.ChunkStart() - 86400*3}
	conn, err := grpc.NewClient("passthrough:///"+l.o.Address, l.o.Dial...)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }() // nothing is expected of it
	e.conn = conn
	for ctx.Err() == nil {
		l.count.hostile.Add(1)
		_ = hostiles[i%len(hostiles)](e, ctx) // whatever the collector answers, once more
		if !sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
}

// shadow is the fleet that hostile agents are of.
func (l *Load) shadow() *Fleet {
	f := l.o.Fleet
	return &Fleet{
		Cluster: f.Cluster + "-hostile", Devices: f.Devices, Owners: f.Owners, Seed: f.Seed, Life: f.Life, Rater: f.Rater, priced: f.priced,
	}
}

func (e *enemy) begin(ctx context.Context) (grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent], error) {
	s, err := pb.NewIngestClient(e.conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	boot := e.node.boot
	hello := &pb.Hello{Cluster: e.node.fleet.Cluster, Node: e.node.name, Boot: boot[:], Version: "hostile"}
	return s, s.Send(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: hello}})
}

// next is the next good chunk, and the message of its roster.
func (e *enemy) next() (roster, chunk *pb.FromAgent, err error) {
	c, _ := e.node.chunk(e.at, attribution.ChunkSeconds, nil, &scratch{})
	e.at = c.End()
	m, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
	if err != nil {
		return nil, nil, err
	}
	return &pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.EncodeRoster(c.Roster)}}, &pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}}, nil
}

// pour sends good chunks without end.
func (e *enemy) pour(s grpc.BidiStreamingClient[pb.FromAgent, pb.ToAgent]) error {
	for {
		roster, chunk, err := e.next()
		if err != nil {
			return err
		}
		for _, m := range []*pb.FromAgent{roster, chunk, {Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}}} {
			if err := s.Send(m); err != nil {
				return err
			}
		}
		if e.at > e.l.live {
			e.at -= 86400 * 3 // the same again: duplicates
		}
	}
}

func (e *enemy) deaf(ctx context.Context) error {
	s, err := e.begin(ctx)
	if err != nil {
		return err
	}
	return e.pour(s)
}

func (e *enemy) flood(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.begin(ctx)
	if err != nil {
		return err
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := s.Recv(); err != nil {
				return
			}
		}
	}()
	err = e.pour(s)
	cancel()
	<-read
	return err
}

// raw sends bytes in place of messages.
type raw struct{}

var _ encoding.CodecV2 = raw{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

func (e *enemy) beginRaw(ctx context.Context) (grpc.ClientStream, error) {
	desc := &grpc.StreamDesc{StreamName: "Stream", ClientStreams: true, ServerStreams: true}
	return e.conn.NewStream(ctx, desc, pb.Ingest_Stream_FullMethodName, grpc.ForceCodecV2(raw{}))
}

func (e *enemy) bomb(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.beginRaw(ctx)
	if err != nil {
		return err
	}
	const roster, owner = 2, 2 // fields of FromAgent and Roster
	empty := protowire.AppendBytes(protowire.AppendTag(nil, owner, protowire.BytesType), nil)
	b := protowire.AppendBytes(protowire.AppendTag(nil, roster, protowire.BytesType), bytes.Repeat(empty, 4<<20-16))
	if err := s.SendMsg(b); err != nil {
		return err
	}
	return s.RecvMsg(nil)
}

func (e *enemy) garbage(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.beginRaw(ctx)
	if err != nil {
		return err
	}
	for range 100 {
		b := make([]byte, 1+rand.IntN(64<<10))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if err := s.SendMsg(b); err != nil {
			return err
		}
	}
	return s.RecvMsg(nil)
}

func (e *enemy) silent(ctx context.Context) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", e.l.o.Address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // which ends the read
	defer stop()
	defer func() { _ = c.Close() }()
	for b := make([]byte, 1024); ; {
		if _, err := c.Read(b); err != nil {
			return err
		}
	}
}

func (e *enemy) storm(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := e.begin(ctx)
	return err
}

func (e *enemy) liar(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := e.begin(ctx)
	if err != nil {
		return err
	}
	for range 100 {
		roster, chunk, err := e.next()
		if err != nil {
			return err
		}
		m := chunk.GetChunk()
		closed := &pb.ChunkClosed{Sequence: m.GetSequence(), Seconds: m.GetSeconds(), Digest: m.GetDigest()}
		m.Digest = make([]byte, len(m.GetDigest()))
		large := &pb.Roster{Owners: make([]*pb.Owner, 1+rand.IntN(2000))}
		for i := range large.Owners {
			large.Owners[i] = &pb.Owner{Kind: pb.OwnerKind_OWNER_KIND_CONTAINER, Cluster: e.node.fleet.Cluster, Node: e.node.name, Pod: fmt.Sprintf("%06d-%d", i, rand.Uint64())}
		}
		for _, m := range []*pb.FromAgent{
			{Message: &pb.FromAgent_Closed{Closed: closed}}, roster, chunk, {Message: &pb.FromAgent_Roster{Roster: large}},
		} {
			if err := s.Send(m); err != nil {
				return err
			}
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
	return nil
}
