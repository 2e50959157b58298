package bounded_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	otlp "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/internal/bounded"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// empties is a roster of so many empty owners, in a message of an agent.
func empties(n int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), bytes.Repeat([]byte{2<<3 | 2, 0}, n))
}

func unmarshal(c bounded.Codec, b []byte, m proto.Message) error {
	return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
}

func TestTooManyParts(t *testing.T) {
	for name, x := range map[string]struct {
		message  proto.Message
		encoding []byte
		why      string // "" where it is taken
	}{
		"as many as may be":       {&pb.FromAgent{}, empties(99), ""}, // with the roster
		"one more":                {&pb.FromAgent{}, empties(100), "over 100 parts"},
		"texts":                   {&pb.Roster{}, bytes.Repeat([]byte{3<<3 | 2, 0}, 101), "over 100 parts"},
		"unknown fields are none": {&pb.Roster{}, bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), nil), 200), ""},
		"numbers are none":        {&pb.Subject{}, bytes.Repeat([]byte{1 << 3, 1}, 200), ""},
		"a torn field":            {&pb.FromAgent{}, empties(9)[:12], "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err := unmarshal(100, x.encoding, x.message)
			if (err == nil) != (x.why == "") || err != nil && !strings.Contains(err.Error(), x.why) {
				t.Errorf("%v: want %q", err, x.why)
			}
		})
	}
}

func TestTooDeep(t *testing.T) {
	v := &otlp.AnyValue{}
	for range 100 {
		v = &otlp.AnyValue{Value: &otlp.AnyValue_ArrayValue{ArrayValue: &otlp.ArrayValue{Values: []*otlp.AnyValue{v}}}}
	}
	b, err := proto.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(1000, b, &otlp.AnyValue{}); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("200 messages in each other: %v", err)
	}
}

// TestWhatIsTakenIsTheSame: what has few enough parts is read as ever.
func TestWhatIsTakenIsTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		sent := &pb.Roster{Methods: []string{"sm/process"}}
		for range r.IntN(20) {
			o := &pb.Owner{Pod: strings.Repeat("p", r.IntN(40)), Pid: r.Uint32()}
			for range r.IntN(4) {
				o.Labels = append(o.Labels, &pb.Label{Key: "k", Value: "v"})
			}
			sent.Owners = append(sent.Owners, o)
		}
		b, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		var got pb.Roster
		if err := unmarshal(1000, b, &got); err != nil || !proto.Equal(sent, &got) {
			t.Fatalf("%v: %v, want %v", err, &got, sent)
		}
	}
}

// TestARefusedMessageTakesLittle: 4 million empty owners would be a gigabyte.
func TestARefusedMessageTakesLittle(t *testing.T) {
	b := empties(4 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := unmarshal(1<<18, b, &pb.FromAgent{})
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("it is taken")
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("refusing it took %d KiB", took>>10)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(empties(3))
	f.Add(empties(300))
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 100
		var m pb.FromAgent
		if unmarshal(most, b, &m) != nil {
			return
		}
		r := m.GetRoster()
		if n := len(r.GetOwners()) + len(r.GetDevices()) + len(r.GetSubjects()) + len(r.GetMethods()) + len(r.GetMeasures()); n > most {
			t.Errorf("%d parts are taken", n)
		}
	})
}
