package attribution

import (
	"crypto/sha256"
	"encoding/binary"
)

// LinkSize is the length of a link in bytes.
const LinkSize = sha256.Size

// Link is the link of a node's chain behind a chunk: the SHA-256 of what it is
// about, of the link before it, and of the chunk's sequence and digest. Whoever
// knows a link can tell whether anything that the node closed before it was
// changed since, left out or put in.
func Link(previous []byte, sequence Second, digest []byte) []byte {
	h := sha256.New()
	h.Write([]byte("gpuledger chain\x00"))
	for _, part := range [][]byte{previous, binary.BigEndian.AppendUint64(nil, uint64(sequence)), digest} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// FirstLink is the link before the first chunk of a boot, and before one that
// begins the chain anew because the node no longer knows what came before it.
func FirstLink(boot Boot) []byte { return Link(nil, 0, boot[:]) }
