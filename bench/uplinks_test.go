package bench

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// uplink is all that one node's agent sends, encoded.
type uplink struct {
	messages [][]byte
	last     attribution.Second // sequence of the last chunk
}

// uplinks encodes so many chunks of so many nodes, in full, or as the seconds
// that went live and the chunks' digests.
func (f fleet) uplinks(b *testing.B, nodes, chunks int, goLive bool) (us []uplink, slices int) {
	b.Helper()
	us = make([]uplink, nodes)
	for node := range us {
		u := &us[node]
		add := func(m *pb.FromAgent) {
			bytes, err := proto.Marshal(m)
			if err != nil {
				b.Fatal(err)
			}
			u.messages = append(u.messages, bytes)
		}
		var known attribution.Fingerprint
		var live wire.LiveEncoder
		for n := range chunks {
			c := f.chunk(node, n)
			slices += slicesOf(c)
			u.last = c.Key.Sequence
			if n == 0 {
				add(&pb.FromAgent{Message: &pb.FromAgent_Hello{Hello: &pb.Hello{
					Cluster: c.Key.Cluster, Node: c.Key.Node, Boot: c.Key.Boot[:], Version: "bench",
				}}})
			}
			id := c.Roster.Fingerprint()
			if id != known {
				known = id
				roster, err := proto.Marshal(wire.EncodeRoster(c.Roster))
				if err != nil {
					b.Fatal(err)
				}
				add(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.PackRoster(roster)}})
			}
			m := encodeChunk(b, c, id)
			if !goLive {
				add(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: m}})
				continue
			}
			for s := c.Key.Sequence; s < c.End(); s++ {
				second, err := live.Encode(secondOf(c, s), id)
				if err != nil {
					b.Fatal(err)
				}
				add(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: second}})
			}
			add(&pb.FromAgent{Message: &pb.FromAgent_Closed{Closed: wire.CloseChunk(m)}})
		}
	}
	return us, slices
}

// encoded sends bytes as they are, so that the sender's work is not measured
// with the collector's.
type encoded struct{}

var _ encoding.CodecV2 = encoded{}

func (encoded) Name() string { return "proto" }

func (encoded) Marshal(v any) (mem.BufferSlice, error) {
	bytes, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(bytes)}, nil
}

func (encoded) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

// connect opens a connection for each uplink, as agents have one each. They are
// set up, and everyone has been welcomed, when it returns.
func connect(ctx context.Context, b *testing.B, addr string, us []uplink) []grpc.ClientStream {
	b.Helper()
	streams := make([]grpc.ClientStream, len(us))
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range us {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		g.Go(func() error {
			desc := &grpc.StreamDesc{StreamName: "Stream", ClientStreams: true, ServerStreams: true}
			s, err := conn.NewStream(ctx, desc, pb.Ingest_Stream_FullMethodName, grpc.ForceCodecV2(encoded{}))
			if err != nil {
				return err
			}
			streams[i] = s
			if err := s.SendMsg(us[i].messages[0]); err != nil {
				return err
			}
			var m pb.ToAgent
			if err := s.RecvMsg(&m); err != nil {
				return err
			}
			if m.GetWelcome() == nil {
				return fmt.Errorf("the collector answers hello with %v", &m)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return streams
}

// send sends everything after the hello and waits until all of it is
// acknowledged, hence durable.
func (u *uplink) send(s grpc.ClientStream) error {
	sent := make(chan error, 1)
	go func() {
		for _, m := range u.messages[1:] {
			if err := s.SendMsg(m); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	return errors.Join(u.acked(s), <-sent)
}

func (u *uplink) acked(s grpc.ClientStream) error {
	for {
		var m pb.ToAgent
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		switch m := m.Message.(type) {
		case *pb.ToAgent_Ack:
			if attribution.Second(m.Ack.Sequence) >= u.last {
				return nil
			}
		case *pb.ToAgent_RateCard:
		default:
			return fmt.Errorf("the collector answers %v", m)
		}
	}
}

// catchUp sends all uplinks at once and returns how long it took until the last
// was acknowledged.
func catchUp(b *testing.B, us []uplink, streams []grpc.ClientStream) time.Duration {
	b.Helper()
	began := time.Now()
	var g errgroup.Group
	for i := range us {
		g.Go(func() error { return us[i].send(streams[i]) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}
