package wire_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func BenchmarkEncodeChunk(b *testing.B) { benchmarkEncode(b, wire.EncodeChunk) }

func BenchmarkEncodeKept(b *testing.B) { benchmarkEncode(b, wire.EncodeKept) }

func benchmarkEncode(b *testing.B, encode func(*attribution.Chunk, attribution.Fingerprint) (*pb.Chunk, error)) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := s.chunk()
			id := c.Roster.Fingerprint()
			n, bytes := slicesOf(c), 0
			b.ReportAllocs()
			for b.Loop() {
				m, err := encode(c, id)
				if err != nil {
					b.Fatal(err)
				}
				bytes = len(m.GetBody()) + len(m.GetBoot()) + len(m.GetRosterId()) + len(m.GetDigest()) + 16
			}
			b.ReportMetric(float64(bytes)/float64(n), "B/slice")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/slice")
		})
	}
}

func BenchmarkDecodeChunk(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := s.chunk()
			m, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
			if err != nil {
				b.Fatal(err)
			}
			n := slicesOf(c)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.DecodeChunk(m, c.Key.Cluster, c.Key.Node, c.Roster); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(m.GetBody()))/float64(n), "B/slice")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/slice")
		})
	}
}

// BenchmarkDecodeRoster reads rosters as they come and as they are kept.
func BenchmarkDecodeRoster(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			r := s.chunk().Roster
			body, err := proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(r))
			if err != nil {
				b.Fatal(err)
			}
			packed := wire.PackRoster(body)
			for name, read := range map[string]func() error{
				"decode": func() error { _, err := wire.DecodeRoster(packed); return err },
				"unpack": func() error { _, err := wire.UnpackRoster(packed.GetZstd()); return err },
			} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if err := read(); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(r.Owners)), "ns/owner")
				})
			}
		})
	}
}

// seconds of a chunk, each a chunk of its own under the chunk's roster.
func secondsOf(c *attribution.Chunk) []*attribution.Chunk {
	out := make([]*attribution.Chunk, c.Seconds)
	for i := range out {
		one := &attribution.Chunk{Key: c.Key, Seconds: 1, Roster: c.Roster}
		one.Key.Sequence += attribution.Second(i)
		for _, w := range c.Windows {
			if w.Second == one.Key.Sequence {
				one.Windows = append(one.Windows, w)
			}
		}
		for _, t := range c.Tallies {
			if t.Second == one.Key.Sequence {
				one.Tallies = append(one.Tallies, t)
			}
		}
		out[i] = one
	}
	return out
}

// BenchmarkLive is a stream of the seconds of one chunk over and over, each
// told by the one before; the first of ten stands alone.
func BenchmarkLive(b *testing.B) {
	for _, s := range shapes {
		c := s.chunk()
		id, seconds := c.Roster.Fingerprint(), secondsOf(c)
		messages := make([]*pb.Live, len(seconds))
		var e wire.LiveEncoder
		bytes, n := 0, slicesOf(c)
		for i, x := range seconds {
			messages[i] = must(e.Encode(x, id))
			bytes += proto.Size(messages[i])
		}
		b.Run(s.name+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, x := range seconds {
					if _, err := e.Encode(x, id); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(bytes)/float64(n), "B/slice")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/slice")
		})
		b.Run(s.name+"/decode", func(b *testing.B) {
			var d wire.LiveDecoder
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range messages {
					if _, err := d.Decode(m, c.Key.Cluster, c.Key.Node, c.Key.Boot, c.Roster); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(bytes)/float64(n), "B/slice")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/slice")
		})
	}
}
