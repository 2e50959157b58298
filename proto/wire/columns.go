package wire

import (
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Columns are encoded and read here, byte for byte as proto.Marshal and
// proto.Unmarshal do, which make every column anew each time: for a live second
// that costs as much as all else that is done with it. The tests hold the two
// against each other.

// appendColumns appends the encoding of m, fields in order of their numbers.
func appendColumns(b []byte, m *pb.Columns) []byte {
	b = appendNumber(b, 1, uint64(m.FirstSecond))
	b = appendNumber(b, 2, uint64(m.Seconds))
	b = appendUnsigned(b, 3, m.DeviceStep)
	b = appendUnsigned(b, 4, m.SecondStep)
	b = appendUnsigned(b, 5, m.SliceCount)
	b = appendSigned(b, 6, m.MethodDelta)
	b = appendSigned(b, 7, m.EnergyUjDelta)
	b = appendSigned(b, 8, m.PriceNanoPerHourDelta)
	b = appendSigned(b, 9, m.PriceRevisionDelta)
	b = appendUnsigned(b, 16, m.OwnerBasisStep)
	b = appendSigned(b, 17, m.TimeNsDelta)
	b = appendSigned(b, 18, m.IdleSmNs)
	b = appendSigned(b, 19, m.MemoryByteSecondsDelta)
	b = appendUnsigned(b, 32, m.TallyKeyStep)
	return appendUnsigned(b, 33, m.TallyValue)
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendUnsigned[T uint32 | uint64 | int64](b []byte, field protowire.Number, column []T) []byte {
	if len(column) == 0 {
		return b
	}
	size := 0
	for _, x := range column {
		size += sizeVarint(uint64(x))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
	for _, x := range column {
		b = appendVarint(b, uint64(x))
	}
	return b
}

func appendSigned(b []byte, field protowire.Number, column []int64) []byte {
	if len(column) == 0 {
		return b
	}
	size := 0
	for _, x := range column {
		size += sizeVarint(protowire.EncodeZigZag(x))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
	for _, x := range column {
		b = appendVarint(b, protowire.EncodeZigZag(x))
	}
	return b
}

func sizeVarint(v uint64) int { return (9*bits.Len64(v) + 64) / 64 }

func appendVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// readColumns fills m, whose columns are empty, and reuses their memory. What it
// does not know it skips. No column may have more than MaxSlices entries: one byte
// of text becomes eight of memory.
func readColumns(b []byte, m *pb.Columns) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(4, "columns", "can't be read: %v", protowire.ParseError(n))
		}
		if field > protowire.MaxValidNumber {
			return malformed(4, "columns", "can't be read: there is no field %d", field)
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(field, kind, b)
		if size < 0 {
			return malformed(4, "columns", "can't be read: %v", protowire.ParseError(size))
		}
		value := b[:size]
		b = b[size:]
		switch kind {
		case protowire.BytesType:
			value, _ = protowire.ConsumeBytes(value)
		case protowire.VarintType: // a number, or a column's entry by itself
		default:
			continue
		}
		if err := readColumn(field, kind, value, m); err != nil {
			return err
		}
	}
	return nil
}

func readColumn(field protowire.Number, kind protowire.Type, value []byte, m *pb.Columns) error {
	switch int32(field) {
	case 1:
		if v, n := protowire.ConsumeVarint(value); kind == protowire.VarintType && n > 0 {
			m.FirstSecond = int64(v)
		}
		return nil
	case 2:
		if v, n := protowire.ConsumeVarint(value); kind == protowire.VarintType && n > 0 {
			m.Seconds = uint32(v)
		}
		return nil
	case 3:
		return readUnsigned(field, value, &m.DeviceStep)
	case 4:
		return readUnsigned(field, value, &m.SecondStep)
	case 5:
		return readUnsigned(field, value, &m.SliceCount)
	case 6:
		return readSigned(field, value, &m.MethodDelta)
	case 7:
		return readSigned(field, value, &m.EnergyUjDelta)
	case 8:
		return readSigned(field, value, &m.PriceNanoPerHourDelta)
	case 9:
		return readSigned(field, value, &m.PriceRevisionDelta)
	case 16:
		return readUnsigned(field, value, &m.OwnerBasisStep)
	case 17:
		return readSigned(field, value, &m.TimeNsDelta)
	case 18:
		return readSigned(field, value, &m.IdleSmNs)
	case 19:
		return readSigned(field, value, &m.MemoryByteSecondsDelta)
	case 32:
		return readUnsigned(field, value, &m.TallyKeyStep)
	case 33:
		return readUnsigned(field, value, &m.TallyValue)
	}
	return nil
}

func readUnsigned[T uint32 | uint64 | int64](field protowire.Number, b []byte, column *[]T) error {
	out := *column
	for len(b) > 0 {
		v, n := uint64(b[0]), 1
		if v >= 0x80 {
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return malformed(4, "columns", "field %d can't be read: %v", field, protowire.ParseError(n))
			}
		}
		if len(out) == MaxSlices {
			return malformed(8, "columns", "field %d has more than %d entries", field, MaxSlices)
		}
		out, b = append(out, T(v)), b[n:]
	}
	*column = out
	return nil
}

func readSigned(field protowire.Number, b []byte, column *[]int64) error {
	out := *column
	for len(b) > 0 {
		v, n := uint64(b[0]), 1
		if v >= 0x80 {
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return malformed(4, "columns", "field %d can't be read: %v", field, protowire.ParseError(n))
			}
		}
		if len(out) == MaxSlices {
			return malformed(8, "columns", "field %d has more than %d entries", field, MaxSlices)
		}
		out, b = append(out, protowire.DecodeZigZag(v)), b[n:]
	}
	*column = out
	return nil
}

// emptyColumns resets a message and keeps the columns' memory.
func emptyColumns(m *pb.Columns) {
	m.FirstSecond, m.Seconds = 0, 0
	m.DeviceStep, m.SecondStep, m.SliceCount = m.DeviceStep[:0], m.SecondStep[:0], m.SliceCount[:0]
	m.MethodDelta, m.EnergyUjDelta = m.MethodDelta[:0], m.EnergyUjDelta[:0]
	m.PriceNanoPerHourDelta, m.PriceRevisionDelta = m.PriceNanoPerHourDelta[:0], m.PriceRevisionDelta[:0]
	m.OwnerBasisStep, m.TimeNsDelta, m.IdleSmNs = m.OwnerBasisStep[:0], m.TimeNsDelta[:0], m.IdleSmNs[:0]
	m.MemoryByteSecondsDelta = m.MemoryByteSecondsDelta[:0]
	m.TallyKeyStep, m.TallyValue = m.TallyKeyStep[:0], m.TallyValue[:0]
}
