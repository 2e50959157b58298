package ingest

import (
	"cmp"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
)

// receipts are the chunks that a stream has sent and that are not acknowledged,
// by sequence. An ack says that everything up to it is durable, so it stops
// before the first that is not.
type receipts struct {
	list []receipt
}

type receipt struct {
	from, to attribution.Second
	state    receiptState
}

type receiptState uint8

const (
	awaiting receiptState = iota // durable when its seconds are
	asked                        // to be sent in full
	settled                      // rejected, and said so
)

// put notes a chunk; one of the same sequence takes its place, except that a
// rejected one does not stand for an accepted one: what was accepted is
// acknowledged when it is durable (law 4), whatever else came under its number.
func (r *receipts) put(x receipt, most int) error {
	i, found := slices.BinarySearchFunc(r.list, x.from, func(r receipt, s attribution.Second) int { return cmp.Compare(r.from, s) })
	switch {
	case found && x.state == settled && r.list[i].state == awaiting:
	case found:
		r.list[i] = x
	case len(r.list) >= most:
		return status.Errorf(codes.ResourceExhausted, "%d chunks of this stream are not acknowledged", len(r.list))
	default:
		r.list = slices.Insert(r.list, i, x)
	}
	return nil
}

// asked reports whether a chunk was asked for in full, and has not come since.
func (r *receipts) asked(from attribution.Second) bool {
	i, found := slices.BinarySearchFunc(r.list, from, func(r receipt, s attribution.Second) int { return cmp.Compare(r.from, s) })
	return found && r.list[i].state == asked
}

// settle drops the chunks before the first that is not durable, and returns the
// last of them.
func (r *receipts) settle(durable func(from, to attribution.Second) bool) (sequence attribution.Second, ok bool) {
	k := 0
	for ; k < len(r.list); k++ {
		x := &r.list[k]
		if x.state == asked || (x.state == awaiting && !durable(x.from, x.to)) {
			break
		}
		sequence = x.from
	}
	r.list = slices.Delete(r.list, 0, k)
	return sequence, k > 0
}

// acknowledge sends the ack that is due, if any. The node's mutex must be held.
func (st *stream) acknowledge() {
	if sequence, ok := st.receipts.settle(st.node.durable); ok {
		st.outbox.acknowledge(st.boot, sequence)
	}
}

// settled reports whether everything that the stream has sent is acknowledged,
// or will not be sent any more.
func (st *stream) settled() bool {
	st.node.mu.Lock()
	defer st.node.mu.Unlock()
	return !slices.ContainsFunc(st.receipts.list, func(r receipt) bool { return r.state == awaiting })
}
