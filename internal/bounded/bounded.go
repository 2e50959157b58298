// Package bounded reads protobuf messages that may come from an enemy.
//
// A limit of a message's bytes is no limit of what it becomes: of empty messages
// there is one in two bytes, and each is some hundred bytes in memory, so that 8 MiB
// become a gigabyte. What an encoding holds is counted here before anything is made
// of it.
package bounded

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDepth is how deep messages may lie in each other.
const maxDepth = 64

// ErrBeyond is what an encoding is refused for that could be read.
var ErrBeyond = errors.New("more is in it than may be")

// Check counts the parts of a message's encoding: the messages in it at any depth,
// a map's entries among them, and the texts and bytes that are repeated. Where they
// are more than so many, or lie too deep, it fails with ErrBeyond.
func Check(of protoreflect.MessageDescriptor, encoding []byte, most int) error {
	c := counting{left: most, most: most}
	return c.message(of, encoding, 0)
}

type counting struct{ left, most int }

func (c *counting) message(of protoreflect.MessageDescriptor, b []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: %w: messages more than %d deep", of.FullName(), ErrBeyond, maxDepth)
	}
	fields := of.Fields()
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeField(b)
		if n < 0 {
			return fmt.Errorf("%s: %w", of.FullName(), protowire.ParseError(n))
		}
		if kind == protowire.BytesType {
			if err := c.field(fields.ByNumber(number), b[:n], depth); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// field counts a field of bytes; of what the message does not know, nothing is made.
func (c *counting) field(f protoreflect.FieldDescriptor, b []byte, depth int) error {
	switch {
	case f == nil:
		return nil
	case f.Kind() == protoreflect.MessageKind:
	case f.IsList() && (f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind):
	default:
		return nil
	}
	if c.left--; c.left < 0 {
		return fmt.Errorf("%s: %w: over %d parts", f.FullName(), ErrBeyond, c.most)
	}
	if f.Kind() != protoreflect.MessageKind {
		return nil
	}
	_, _, tag := protowire.ConsumeTag(b)
	content, _ := protowire.ConsumeBytes(b[tag:])
	return c.message(f.Message(), content, depth+1)
}

// Codec is gRPC's for protobuf, but that a message which comes may have so many
// parts.
type Codec int

var _ encoding.CodecV2 = Codec(0)

// Name implements [encoding.CodecV2].
func (Codec) Name() string { return "proto" }

// Marshal implements [encoding.CodecV2].
func (Codec) Marshal(v any) (mem.BufferSlice, error) { return encoding.GetCodecV2("proto").Marshal(v) }

// Unmarshal implements [encoding.CodecV2].
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	var m proto.Message
	switch x := v.(type) {
	case proto.Message:
		m = x
	case protoadapt.MessageV1:
		m = protoadapt.MessageV2Of(x)
	default:
		return fmt.Errorf("a %T is no message", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	if err := Check(m.ProtoReflect().Descriptor(), b.ReadOnlyData(), int(c)); err != nil {
		return err
	}
	return proto.Unmarshal(b.ReadOnlyData(), m)
}
