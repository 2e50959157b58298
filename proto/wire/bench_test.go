package wire_test

import (
	"testing"

	"github.com/gpuledger/gpuledger/proto/wire"
)

func BenchmarkEncodeChunk(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := s.chunk()
			id := c.Roster.Fingerprint()
			n, bytes := slicesOf(c), 0
			b.ReportAllocs()
			for b.Loop() {
				m, err := wire.EncodeChunk(c, id)
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
