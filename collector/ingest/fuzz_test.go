package ingest

import (
	"bytes"
	"context"
	"io"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// FuzzStream sends whatever messages the bytes say, after a good hello and
// roster. Nothing may panic, and what the store then holds must be exactly what
// was accepted, within the laws that decoding checks.
func FuzzStream(f *testing.F) {
	id, boot := nodeID{"c", "n"}, attribution.Boot{1}
	c := makeChunk(id, boot, base, 10)
	full, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
	if err != nil {
		f.Fatal(err)
	}
	roster := func(r *attribution.Roster) *pb.FromAgent {
		return &pb.FromAgent{Message: &pb.FromAgent_Roster{Roster: wire.EncodeRoster(r)}}
	}
	chunk := &pb.FromAgent{Message: &pb.FromAgent_Chunk{Chunk: full}}
	flush := &pb.FromAgent{Message: &pb.FromAgent_Flush{Flush: &pb.Flush{}}}
	var lives []*pb.FromAgent
	var e wire.LiveEncoder
	for _, l := range secondsOf(c) {
		m, err := e.Encode(l, l.Roster.Fingerprint())
		if err != nil {
			f.Fatal(err)
		}
		r, _ := e.Roster()
		lives = append(lives, roster(r), &pb.FromAgent{Message: &pb.FromAgent_Live{Live: m}})
	}
	end := &pb.FromAgent{Message: &pb.FromAgent_Closed{Closed: wire.CloseChunk(full)}}
	f.Add(pack(f, chunk, chunk, flush, end))
	f.Add(pack(f, append(lives, end, flush, chunk)...))
	f.Add(pack(f, append(lives[:7], end, chunk)...))
	f.Add(pack(f, roster(c.Roster), flush, helloOf("c", "n", boot[:])))

	f.Fuzz(func(t *testing.T, data []byte) {
		st := newMemStore()
		r := start(t, st, quick())
		a := r.connect(id, boot)
		a.roster(c.Roster)
		in := bytes.NewReader(data)
		for range 64 {
			m := &pb.FromAgent{}
			if err := (protodelim.UnmarshalOptions{MaxSize: 1 << 20}).UnmarshalFrom(in, m); err != nil {
				break
			}
			if !a.send(m) {
				break
			}
			_ = since(r.s, 0, 0, maxSecond, func(c *attribution.Chunk) {
				if err := c.Check(); err != nil {
					t.Errorf("a query sees what breaks a law: %v", err)
				}
			})
		}
		a.flush()
		r.drain()
		s := r.s.Stats()
		if int64(len(st.chunks)) != s.Accepted {
			t.Errorf("the store has %d chunks, %+v", len(st.chunks), s)
		}
		if n, b := r.s.Pending(); n != 0 || b != 0 {
			t.Errorf("%d chunks and %d bytes are still counted", n, b)
		}
		if err := r.s.Do(context.Background(), func(context.Context) error { return nil }); err == nil {
			t.Error("the writer still runs")
		}
	})
}

func pack(f *testing.F, ms ...*pb.FromAgent) []byte {
	var b bytes.Buffer
	for _, m := range ms {
		if _, err := protodelim.MarshalTo(io.Writer(&b), m); err != nil {
			f.Fatal(err)
		}
	}
	return b.Bytes()
}
