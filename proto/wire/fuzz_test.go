package wire_test

import (
	"errors"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// FuzzDecodeChunk feeds columns past the digest, which no fuzzer would guess,
// and bodies in front of it. What is decoded keeps the laws and travels on as
// it is.
func FuzzDecodeChunk(f *testing.F) {
	model := shape{devices: 2, owners: 3, seconds: 10, reserved: true, tallies: true, changing: true}.chunk()
	for _, s := range []shape{
		{devices: 2, owners: 3, seconds: 3, reserved: true, tallies: true, changing: true},
		{devices: 1, owners: 1, seconds: 1},
	} {
		f.Add(must(proto.Marshal(wire.EncodeColumns(s.chunk()))))
	}
	f.Add(must(wire.EncodeChunk(model, model.Roster.Fingerprint())).GetBody())
	f.Fuzz(func(t *testing.T, b []byte) {
		id := model.Roster.Fingerprint()
		if _, err := wire.DecodeChunk(&pb.Chunk{
			Boot: model.Key.Boot[:], Sequence: int64(model.Key.Sequence), Seconds: 10, RosterId: id[:], Body: b, Digest: make([]byte, 32),
		}, "c", "n", model.Roster); err == nil {
			t.Fatal("a digest of zeros")
		}
		var m pb.Columns
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		key := model.Key
		key.Sequence = attribution.Second(m.GetFirstSecond())
		c, err := wire.DecodeColumns(&m, key, model.Roster)
		if err != nil {
			return
		}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		again, err := wire.DecodeColumns(wire.EncodeColumns(c), key, model.Roster)
		if err != nil {
			t.Fatal(err)
		}
		same(t, again, c)
	})
}

func FuzzDecodeRoster(f *testing.F) {
	f.Add(must(proto.Marshal(wire.EncodeRoster(shape{devices: 2, owners: 2, seconds: 1, tallies: true}.chunk().Roster))))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.Roster
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		r, err := wire.DecodeRoster(&m)
		if err != nil {
			return
		}
		again, err := wire.DecodeRoster(wire.EncodeRoster(r))
		if err != nil || again.Fingerprint() != r.Fingerprint() {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
		packed := wire.PackRoster(must(proto.MarshalOptions{Deterministic: true}.Marshal(wire.EncodeRoster(r))))
		want, err := wire.DecodeRoster(packed)
		got, err2 := wire.UnpackRoster(packed.GetZstd())
		if err != nil || err2 != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v (%v) is unpacked as %+v (%v)", want, err, got, err2)
		}
	})
}

// What was packed by others is an error, or a roster.
func FuzzUnpackRoster(f *testing.F) {
	f.Add(must(proto.Marshal(wire.EncodeRoster(shape{devices: 2, owners: 2, seconds: 1, tallies: true}.chunk().Roster))))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := wire.UnpackRoster(wire.PackRoster(b).GetZstd())
		if err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Fatal(err)
		}
	})
}
