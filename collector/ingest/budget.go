package ingest

import (
	"context"
	"sync"
)

// budget bounds what is accepted and not stored.
type budget struct {
	maxChunks, maxBytes int64

	mu            sync.Mutex
	chunks, bytes int64
	freed         chan struct{} // closed, and replaced, whenever something is given back
}

func newBudget(chunks, bytes int64) *budget {
	return &budget{maxChunks: chunks, maxBytes: bytes, freed: make(chan struct{})}
}

// take reserves one chunk of so many bytes. Where there is no room it calls
// short and waits. A chunk larger than the whole budget goes in alone.
func (b *budget) take(ctx context.Context, bytes int64, short func()) error {
	for {
		b.mu.Lock()
		if b.chunks == 0 || (b.chunks < b.maxChunks && b.bytes+bytes <= b.maxBytes) {
			b.chunks++
			b.bytes += bytes
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		short()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// give returns what was taken.
func (b *budget) give(chunks, bytes int64) {
	if chunks == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks -= chunks
	b.bytes -= bytes
	if b.chunks < 0 || b.bytes < 0 {
		panic("BUG: more was given back than was taken")
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

func (b *budget) used() (chunks, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chunks, b.bytes
}

// empty waits until nothing is taken, as long as ctx and the writer last.
func (b *budget) empty(ctx context.Context, dead <-chan struct{}) error {
	for {
		b.mu.Lock()
		n, freed := b.chunks, b.freed
		b.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-dead:
			return errStopped
		}
	}
}
