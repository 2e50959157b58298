package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/agent/meter"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/attribution"
)

// emitOrLetGo hands a second to the chunker. While the spool is full, seconds
// are let go; when there is space again, they are made up for as unobserved.
func (l *liveNode) emitOrLetGo(s *meter.Sealed) error {
	if l.letGo {
		if !l.space() {
			l.dropped.Add(1)
			return nil
		}
		if err := l.makeUp(s.Second); err != nil {
			return l.full(err)
		}
		l.letGo, l.holders = false, meter.State{}
		l.log.Info("the spool has space again")
	}
	return l.full(l.emit(s))
}

// full takes a full spool as the beginning of letting go.
func (l *liveNode) full(err error) error {
	if !errors.Is(err, spool.ErrFull) {
		return err
	}
	if !l.letGo {
		l.letGo, l.holders = true, l.meter.State()
		l.log.Error("THE SPOOL IS FULL: new seconds are let go, and will be unobserved", "error", err)
	}
	l.dropped.Add(1)
	return nil
}

// space reports whether the spool takes chunks again.
func (l *liveNode) space() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return l.spool.AwaitSpace(ctx, nil) == nil && l.chunks.Flush() == nil
}

// makeUp seals what was let go before a second as unobserved, billed to those
// who held the devices when it began.
func (l *liveNode) makeUp(before attribution.Second) error {
	from := max(l.chunks.Next(), before-attribution.Second(l.limits.MaxGap.Duration/time.Second))
	m := meter.New(meter.Options{From: from})
	if err := m.Restore(l.holders, from); err != nil {
		return fmt.Errorf("make up for %d seconds: %w", before-from, err)
	}
	if l.rater != nil {
		m.SetPolicy(l.rater.Policy())
	}
	if err := m.Seal(before-1, l.emit); err != nil {
		return err
	}
	return l.chunks.Flush() // its numbers are another meter's
}
