package wire

import (
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// EncodeLive puts one sealed second, a chunk of one second, into its message.
func EncodeLive(c *attribution.Chunk, rosterID attribution.Fingerprint) *pb.Live {
	if c.Seconds != 1 {
		panic("BUG: wire: a live window is one second")
	}
	return &pb.Live{RosterId: rosterID[:], Columns: EncodeColumns(c)}
}

// DecodeLive reads a live second of a node as a chunk of one second, checked
// like any. The roster must be the one that RosterID names.
func DecodeLive(m *pb.Live, cluster, node string, boot attribution.Boot, roster *attribution.Roster) (*attribution.Chunk, error) {
	if _, err := RosterID(m.GetRosterId()); err != nil {
		return nil, err
	}
	if s := m.GetColumns().GetSeconds(); s != 1 {
		return nil, malformed(4, "live.columns.seconds", "%d: want 1", s)
	}
	key := attribution.ChunkKey{Cluster: cluster, Node: node, Boot: boot, Sequence: attribution.Second(m.GetColumns().GetFirstSecond())}
	return DecodeColumns(m.GetColumns(), key, roster)
}
