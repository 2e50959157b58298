package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// SetJournal has everything that is committed from now on rated by a journal of
// reratings. It is called within [Server.Do], once the store has the journal.
func (s *Server) SetJournal(j *rerating.Journal) { s.journal.Store(j) }

// readJournal reads the journal that the store has. It is another one than the
// server's where the store made a rerating durable and failed to say so.
func (s *Server) readJournal(ctx context.Context) error {
	if err := s.refreshed(ctx); err != nil {
		return err
	}
	return s.store.View(ctx, func(r store.Reader) error {
		j, err := r.Journal(ctx)
		if err != nil {
			return fmt.Errorf("read the journal of reratings: %w", err)
		}
		if j.Next() == s.journal.Load().Next() {
			return s.refuted(errors.New("the store refuses the journal that it has"))
		}
		s.o.Log.Warn("the ledger holds reratings that were not known of: what is stored from here on is rated by them", "entries", j.Next()-1)
		s.SetJournal(j)
		return nil
	})
}

// add adds the sums of a chunk and its content, as the group's journal rates it,
// and what each of its reratings made of it. An error leaves everything as it was.
func (g *group) add(c *chunk, content *attribution.Chunk) error {
	if err := g.fold.Add(g.journal.Rate(content), c.roster.facts); err != nil {
		return err
	}
	g.journal.Steps(content, func(id uint32, before, after *attribution.Chunk) {
		g.transfers.Add(id, before, after, c.roster.facts)
	})
	return nil
}

// sumAnew sums chunks under a journal in place of the group's own.
func (g *group) sumAnew(chunks []*chunk, j *rerating.Journal) {
	g.chunks, g.journal, g.fold, g.transfers = nil, j, rollup.NewFold(), rerating.Transfers{}
	var mem wire.Arena
	for _, c := range chunks {
		mem.Reset()
		if err := g.add(c, (&visible{c.decoded, c}).Chunk(&mem)); err != nil {
			// Prices are bounded so that costs always fit.
			panic("BUG: no more chunks overflow where they did not: " + err.Error())
		}
		g.hold(c)
	}
}

// rated has a group summed under the journal in force, which the one that its
// chunks came under may no longer be. Only the writer calls it, and the node's
// mutex is held.
func (s *Server) rated(g *group) {
	if j := s.journal.Load(); j != g.journal {
		g.sumAnew(g.chunks, j)
	}
}
