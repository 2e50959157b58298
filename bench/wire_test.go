package bench

import (
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// BenchmarkWire measures the bytes that a slice takes on the wire, over a
// minute of one node, beside the same facts as others carry them, each
// compressed as its users do: remote write in snappy, OTLP in zstd, one request
// a second.
//
//	live    seconds as they are sealed, each told by the one before, and their
//	        chunks' digests: what a node sends in steady state
//	chunks  the chunks alone: what it sends when it catches up
//
// Both need the roster, once as long as its pods and processes stay. It is
// reported apart, as B/roster, and an hour's share of it is in B/slice: that of
// one roster in 360 chunks. The others repeat its facts in every request.
func BenchmarkWire(b *testing.B) {
	for _, shape := range []struct {
		name string
		held bool
	}{{"slices=4", false}, {"slices=8", true}} {
		f := defaultFleet()
		f.held = shape.held
		chunks := make([]*attribution.Chunk, 6)
		slices := 0
		for i := range chunks {
			chunks[i] = f.chunk(1, i)
			slices += slicesOf(chunks[i])
		}
		b.Run(shape.name+"/gpuledger-live", func(b *testing.B) { withRoster(b, chunks, slices, liveBytes) })
		b.Run(shape.name+"/gpuledger-chunks", func(b *testing.B) { withRoster(b, chunks, slices, chunkBytes) })
		b.Run(shape.name+"/remote-write", func(b *testing.B) {
			perSlice(b, slices, func() (n int) {
				t := totals{}
				eachSecond(chunks, func(c *attribution.Chunk, s attribution.Second) { n += len(remoteWrite(c, s, t)) })
				return n
			})
		})
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(shape.name+"/otlp", func(b *testing.B) {
			perSlice(b, slices, func() (n int) {
				t := totals{}
				eachSecond(chunks, func(c *attribution.Chunk, s attribution.Second) {
					_, z := otlp(c, s, t, enc)
					n += len(z)
				})
				return n
			})
		})
	}
}

// perSlice reports bytes and time per slice.
func perSlice(b *testing.B, slices int, encode func() int) {
	b.ReportAllocs()
	bytes := 0
	for b.Loop() {
		bytes = encode()
	}
	b.ReportMetric(float64(bytes)/float64(slices), "B/slice")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(slices), "ns/slice")
}

func eachSecond(chunks []*attribution.Chunk, f func(*attribution.Chunk, attribution.Second)) {
	for _, c := range chunks {
		for s := c.Key.Sequence; s < c.End(); s++ {
			f(c, s)
		}
	}
}

// withRoster adds an hour's share of the roster that all chunks have.
func withRoster(b *testing.B, chunks []*attribution.Chunk, slices int, encode func(*testing.B, []*attribution.Chunk, attribution.Fingerprint) int) {
	const chunksPerHour = 360
	roster, err := proto.Marshal(wire.EncodeRoster(chunks[0].Roster))
	if err != nil {
		b.Fatal(err)
	}
	once := sent(&pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.PackRoster(roster)}})
	id := chunks[0].Roster.Fingerprint()
	for _, c := range chunks {
		if c.Roster.Fingerprint() != id {
			b.Fatal("the chunks have several rosters")
		}
	}
	perSlice(b, slices, func() int { return encode(b, chunks, id) + once*len(chunks)/chunksPerHour })
	b.ReportMetric(float64(once), "B/roster")
}

// sent is the size of a message as gRPC frames it, with 5 bytes.
func sent(m *pb.FromAgent) int { return 5 + proto.Size(m) }

func liveBytes(b *testing.B, chunks []*attribution.Chunk, id attribution.Fingerprint) (n int) {
	var e wire.LiveEncoder
	for _, c := range chunks {
		for s := c.Key.Sequence; s < c.End(); s++ {
			m, err := e.Encode(secondOf(c, s), id)
			if err != nil {
				b.Fatal(err)
			}
			n += sent(&pb.FromAgent{Message: &pb.FromAgent_Live{Live: m}})
		}
		n += sent(&pb.FromAgent{Message: &pb.FromAgent_Closed{Closed: wire.CloseChunk(encodeChunk(b, c, id))}})
	}
	return n
}

func chunkBytes(b *testing.B, chunks []*attribution.Chunk, id attribution.Fingerprint) (n int) {
	for _, c := range chunks {
		n += sent(&pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: encodeChunk(b, c, id)}})
	}
	return n
}

func encodeChunk(b *testing.B, c *attribution.Chunk, id attribution.Fingerprint) *pb.Chunk {
	m, err := wire.EncodeChunk(c, id)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// secondOf is one second of a chunk, as it goes out live.
func secondOf(c *attribution.Chunk, s attribution.Second) *attribution.Chunk {
	one := &attribution.Chunk{Key: c.Key, Seconds: 1, Roster: c.Roster}
	one.Key.Sequence = s
	for i := range c.Windows {
		if c.Windows[i].Second == s {
			one.Windows = append(one.Windows, c.Windows[i])
		}
	}
	return one
}
