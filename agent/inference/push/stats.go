package push

import "sync/atomic"

// Stats are counts since the start.
type Stats struct {
	Records     uint64 // requests of gpuledger's own service that were counted
	Exports     uint64 // OpenTelemetry requests that were counted
	Duplicates  uint64 // requests, and points of deltas, that had been counted before
	Ignored     uint64 // OpenTelemetry points of metrics that are not about what is served
	Rejected    uint64 // points that are, and can't be counted
	Unfit       uint64 // requests that make no sense
	Strangers   uint64 // requests of whom nobody knows who he is
	Early       uint64 // requests of whom nobody knows who he is, before the node's pods are known
	TooMany     uint64 // requests beyond a rate, or the number that may wait
	Connections uint64 // connections beyond their number
	Clients     uint64 // requests of clients and series beyond the number that is remembered
	Series      uint64 // series beyond the number that is remembered
	Excess      uint64 // values larger than a second takes
	Unkept      uint64 // times that what was pushed could not be written
	Damaged     uint64 // times that it could not be read
}

type counts struct {
	records, exports, duplicates, ignored, rejected, unfit, strangers, tooMany atomic.Uint64
	early, connections, clients, series, excess, unkept, damaged               atomic.Uint64
}

// Stats reads the counts as they are now. Any goroutine may.
func (s *Server) Stats() Stats {
	c := &s.counts
	return Stats{
		Records: c.records.Load(), Exports: c.exports.Load(), Duplicates: c.duplicates.Load(), Ignored: c.ignored.Load(),
		Rejected: c.rejected.Load(), Unfit: c.unfit.Load(), Strangers: c.strangers.Load(), Early: c.early.Load(), TooMany: c.tooMany.Load(),
		Connections: c.connections.Load(), Clients: c.clients.Load(), Series: c.series.Load(), Excess: c.excess.Load(),
		Unkept: c.unkept.Load(), Damaged: c.damaged.Load(),
	}
}
