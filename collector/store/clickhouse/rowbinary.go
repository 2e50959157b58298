package clickhouse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// encoder appends rows in RowBinary.
type encoder []byte

func (e *encoder) u8(v uint8)       { *e = append(*e, v) }
func (e *encoder) u32(v uint32)     { *e = binary.LittleEndian.AppendUint32(*e, v) }
func (e *encoder) u64(v uint64)     { *e = binary.LittleEndian.AppendUint64(*e, v) }
func (e *encoder) fixed(v [16]byte) { *e = append(*e, v[:]...) }

func (e *encoder) i64(vs ...int64) {
	for _, v := range vs {
		e.u64(uint64(v))
	}
}

func (e *encoder) str(vs ...string) {
	for _, v := range vs {
		*e = append(binary.AppendUvarint(*e, uint64(len(v))), v...)
	}
}

func (e *encoder) bytes(v []byte) {
	*e = append(binary.AppendUvarint(*e, uint64(len(v))), v...)
}

// decoder reads rows in RowBinary. The first error stays.
type decoder struct {
	r   *bufio.Reader
	err error
	b   [16]byte

	text []byte // that name has read,
	last string // and what it returned
}

func (d *decoder) read(n int) []byte {
	b := d.b[:n]
	if _, err := io.ReadFull(d.r, b); err != nil && d.err == nil {
		d.err = errors.Join(io.ErrUnexpectedEOF, err)
		clear(b)
	}
	return b
}

func (d *decoder) u8() uint8           { return d.read(1)[0] }
func (d *decoder) u32() uint32         { return binary.LittleEndian.Uint32(d.read(4)) }
func (d *decoder) u64() uint64         { return binary.LittleEndian.Uint64(d.read(8)) }
func (d *decoder) i64() int64          { return int64(d.u64()) }
func (d *decoder) fixed() (v [16]byte) { copy(v[:], d.read(16)); return v }

// maxText bounds one text, so that a broken answer does not exhaust memory.
const maxText = 256 << 20

func (d *decoder) bytes() []byte { return d.into(nil) }

// into reads a text into memory that may be taken for it.
func (d *decoder) into(b []byte) []byte {
	n, err := binary.ReadUvarint(d.r)
	if err == nil && n > maxText {
		err = errors.New("a text of the answer is too long")
	}
	if err == nil && d.err == nil {
		b = slices.Grow(b, int(n))[:n]
		if _, err = io.ReadFull(d.r, b); err == nil {
			return b
		}
	}
	if d.err == nil {
		d.err = errors.Join(io.ErrUnexpectedEOF, err)
	}
	return nil
}

func (d *decoder) str() string { return string(d.bytes()) }

// name is str where the one before is mostly meant again.
func (d *decoder) name() string {
	d.text = d.into(d.text[:0])
	if string(d.text) != d.last {
		d.last = string(d.text)
	}
	return d.last
}

func (d *decoder) strs() []string {
	n, err := binary.ReadUvarint(d.r)
	if err != nil && d.err == nil {
		d.err = errors.Join(io.ErrUnexpectedEOF, err)
	}
	var out []string
	for i := uint64(0); i < n && d.err == nil; i++ {
		out = append(out, d.str())
	}
	return out
}

// wide reads a Decimal(38, 0).
func (d *decoder) wide(z *big.Int) {
	b := d.read(16)
	low, high := binary.LittleEndian.Uint64(b[:8]), int64(binary.LittleEndian.Uint64(b[8:]))
	if high == int64(low)>>63 { // nearly all fit into 64 bits
		z.SetInt64(int64(low))
		return
	}
	z.SetInt64(high)
	z.Lsh(z, 64)
	z.Add(z, new(big.Int).SetUint64(low))
}

// quote is a text as SQL.
func quote(s string) string { return "'" + quoter.Replace(s) + "'" }

var quoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\x00", `\0`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\b", `\b`, "\f", `\f`)

// list joins values as SQL does.
func list[T any](vs []T, text func(T) string) string {
	var s strings.Builder
	for i, v := range vs {
		if i > 0 {
			s.WriteByte(',')
		}
		s.WriteString(text(v))
	}
	return s.String()
}

func hexed(f [16]byte) string {
	const digits = "0123456789ABCDEF"
	b := []byte("unhex('")
	for _, x := range f {
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(append(b, "')"...))
}

func number[N ~int64 | ~int32 | ~uint32 | ~uint64](n N) string {
	if n < 0 {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatUint(uint64(n), 10)
}
