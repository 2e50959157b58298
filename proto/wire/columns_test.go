package wire

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Columns are encoded as protobuf encodes them, to the byte, since chunks are
// identified by it; and what protobuf reads is read alike.
func TestLaw4ColumnsAreEncodedAsProtobufDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawColumns(t)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := appendColumns(nil, m)
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %x\nwant %x of %v", got, want, m)
		}
		var read pb.Columns
		if err := readColumns(got, &read); err != nil || !proto.Equal(&read, m) {
			t.Fatalf("got %v, %v\nwant %v", &read, err, m)
		}
	})
}

// Every column is known here: a new one must be added to both directions.
func TestEveryColumnIsEncoded(t *testing.T) {
	m := &pb.Columns{}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		one := m.ProtoReflect().New()
		set := func(v protoreflect.Value) {
			if f.IsList() {
				one.Mutable(f).List().Append(v)
			} else {
				one.Set(f, v)
			}
		}
		switch f.Kind() {
		case protoreflect.Uint32Kind:
			set(protoreflect.ValueOfUint32(math.MaxUint32))
		case protoreflect.Uint64Kind:
			set(protoreflect.ValueOfUint64(math.MaxUint64))
		default:
			set(protoreflect.ValueOfInt64(math.MinInt64))
		}
		x := one.Interface().(*pb.Columns)
		want, err := proto.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		var read pb.Columns
		if got := appendColumns(nil, x); !bytes.Equal(got, want) || readColumns(got, &read) != nil || !proto.Equal(&read, x) {
			t.Errorf("%s: %x became %x, and %v", f.Name(), want, got, &read)
		}
	}
}

func drawColumns(t *rapid.T) *pb.Columns {
	u32 := func(name string) []uint32 { return rapid.SliceOfN(rapid.Uint32(), 0, 5).Draw(t, name) }
	i64 := func(name string) []int64 { return rapid.SliceOfN(rapid.Int64(), 0, 5).Draw(t, name) }
	return &pb.Columns{
		FirstSecond: rapid.Int64().Draw(t, "first"), Seconds: rapid.Uint32().Draw(t, "seconds"),
		DeviceStep: u32("device"), SecondStep: u32("second"), SliceCount: u32("count"),
		MethodDelta: i64("method"), EnergyUjDelta: i64("energy"),
		PriceNanoPerHourDelta: i64("price"), PriceRevisionDelta: i64("revision"),
		OwnerBasisStep: u32("owner"), TimeNsDelta: i64("time"), IdleSmNs: i64("idle"), MemoryByteSecondsDelta: i64("memory"),
		TallyKeyStep: rapid.SliceOfN(rapid.Uint64(), 0, 5).Draw(t, "key"), TallyValue: i64("value"),
	}
}

// FuzzReadColumns reads what may not be columns as protobuf does, or refuses it.
func FuzzReadColumns(f *testing.F) {
	f.Add(appendColumns(nil, &pb.Columns{FirstSecond: 1, Seconds: 1, DeviceStep: []uint32{1, 300}, TimeNsDelta: []int64{-1, 1 << 40}}))
	f.Add([]byte{0x18, 0x05, 0x18, 0xac, 0x02, 0x0a, 0x01, 0x05, 0x15, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, want pb.Columns
		err := readColumns(b, &got)
		refused := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &want)
		if (err == nil) != (refused == nil) {
			t.Fatalf("%v, but %v", err, refused)
		}
		if err == nil && !proto.Equal(&got, &want) {
			t.Fatalf("got  %v\nwant %v", &got, &want)
		}
	})
}
