package api

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/verify"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxHeads is as many nodes as a collector knows of at most.
const maxHeads = 100_000

func decodeHeads(ms []*pb.ChainHead) ([]verify.Head, error) {
	if len(ms) > maxHeads {
		return nil, query.Invalid("%d heads: at most %d are taken", len(ms), maxHeads)
	}
	var out []verify.Head
	for _, m := range ms {
		boot, err := wire.Boot(m.GetBoot())
		if err != nil {
			return nil, err
		}
		if len(m.GetLink()) != attribution.LinkSize {
			return nil, query.Invalid("the link noted of node %q has %d bytes: want %d", m.GetNode(), len(m.GetLink()), attribution.LinkSize)
		}
		out = append(out, verify.Head{Cluster: m.GetCluster(), Node: m.GetNode(), Boot: boot, At: attribution.Second(m.GetSecond()), Link: m.GetLink()})
	}
	return out, nil
}

func encodeHeads(hs []verify.Head) []*pb.ChainHead {
	var out []*pb.ChainHead
	for i := range hs {
		h := &hs[i]
		out = append(out, &pb.ChainHead{Cluster: h.Cluster, Node: h.Node, Boot: h.Boot[:], Second: int64(h.At), Link: h.Link})
	}
	return out
}
