// Package wire translates between the words of package attribution and the
// messages of proto/gpuledger/v1. Nothing else does.
//
// What comes in is hostile until shown otherwise. Every count is bounded
// before anything is allocated for it, nothing panics, and a chunk that is
// returned has passed [attribution.Chunk.Check]: it keeps the laws. Errors are
// a [*Malformed], which names the field and the law, or an
// [*attribution.Broken] from that check.
//
// A chunk's body is the deterministic encoding of its Columns, compressed. The
// message's comment in ledger.proto says what the columns hold; cost and
// energy of slices are not among them, since [attribution.Rate] derives them.
// Compression is not deterministic over versions of the compressor, so the
// digest that identifies a body is of what is inside.
//
// A live second is the same columns over one second, told by the second before
// it on the same stream, which [LiveEncoder] and [LiveDecoder] keep.
package wire

import (
	"errors"
	"fmt"
)

// Limits on what is decoded. A chunk of a node with 16 GPUs cut in seven, 64
// owners on each, has 72,000 slices.
const (
	MaxDevices  = 4096
	MaxOwners   = 65536
	MaxMethods  = 256
	MaxSubjects = 65536
	MaxMeasures = 4096
	MaxLabels   = 512  // of one device or owner
	MaxText     = 4096 // bytes of any text

	MaxWindows = MaxDevices * 10 // per chunk
	MaxSlices  = 1_000_000       // per chunk
	MaxTallies = 1_000_000       // per chunk

	MaxBody    = 1 << 20  // bytes of a chunk's body as it travels
	MaxColumns = 16 << 20 // bytes of the columns in it
	MaxRoster  = 4 << 20  // bytes of a roster's encoding
	MaxParts   = 1 << 18  // of a message, see package bounded: entries of a roster and their labels
)

// ErrMalformed is wrapped by every [Malformed].
var ErrMalformed = errors.New("the message is malformed")

// Malformed says which field of a message can't be what it is, and the law
// that this would break.
type Malformed struct {
	Law    int
	Field  string
	Reason string
}

// Error names the law first.
func (m *Malformed) Error() string { return fmt.Sprintf("law %d: %s: %s", m.Law, m.Field, m.Reason) }

// Unwrap makes errors.Is(err, ErrMalformed) true.
func (m *Malformed) Unwrap() error { return ErrMalformed }

func malformed(law int, field, format string, args ...any) error {
	return &Malformed{law, field, fmt.Sprintf(format, args...)}
}

func checkCount(field string, n, limit int) error {
	if n > limit {
		return malformed(8, field, "%d entries: at most %d are taken", n, limit)
	}
	return nil
}
