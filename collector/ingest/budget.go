package ingest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// budget bounds what is accepted and not stored, and shares it out: where it is
// short, what becomes free goes to whoever of those that wait holds least
// (max-min fairness). One node that floods thus waits for the others, never
// they for it: with n nodes that want more than there is, each gets an n-th.
type budget struct {
	maxChunks, maxBytes int64
	short               func() // asks that what is taken be given back soon; must not block

	mu            sync.Mutex
	chunks, bytes int64
	waiting       []*waiter     // in order of arrival, or of what they held at the last give
	freed         chan struct{} // closed, and replaced, whenever something is given back
}

// holder is who takes from a budget, which guards it.
type holder struct{ chunks, bytes int64 }

// waiter is a chunk that waits to be taken in.
type waiter struct {
	by      *holder
	bytes   int64
	granted chan struct{}
}

// charge is what a holder has taken.
type charge struct {
	by            *holder
	chunks, bytes int64
}

func newBudget(chunks, bytes int64, short func()) *budget {
	return &budget{maxChunks: chunks, maxBytes: bytes, short: short, freed: make(chan struct{})}
}

// budgetPatience is how long a chunk waits before its sender is told.
const budgetPatience = time.Second

// take reserves one chunk of so many bytes. Where there is no room, or others
// wait for it already, it calls short and waits, and once late where that takes
// long. A chunk larger than the whole budget goes in alone.
func (b *budget) take(ctx context.Context, by *holder, bytes int64, late func()) error {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.fits(bytes) {
		b.grant(by, bytes)
		b.mu.Unlock()
		return nil
	}
	w := &waiter{by, bytes, make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	b.short()
	patience := time.NewTimer(budgetPatience)
	defer patience.Stop()
	for done := ctx.Done(); done != nil; {
		select {
		case <-w.granted:
			return nil
		case <-patience.C:
			late()
		case <-done:
			done = nil
		}
	}
	b.mu.Lock()
	if i := slices.Index(b.waiting, w); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
		b.mu.Unlock()
	} else { // it was granted at this very moment
		b.mu.Unlock()
		b.give(charge{by, 1, bytes})
	}
	return context.Cause(ctx)
}

// more reserves so many bytes more, or fewer, for a chunk that is taken already. It
// waits for nothing, and no one who waits: it reports whether there was room.
func (b *budget) more(by *holder, bytes int64) bool {
	if bytes <= 0 {
		b.give(charge{by, 0, -bytes})
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chunks > 1 && b.bytes+bytes > b.maxBytes {
		return false
	}
	b.bytes += bytes
	by.bytes += bytes
	return true
}

func (b *budget) fits(bytes int64) bool {
	return b.chunks == 0 || (b.chunks < b.maxChunks && b.bytes+bytes <= b.maxBytes)
}

func (b *budget) grant(by *holder, bytes int64) {
	b.chunks++
	b.bytes += bytes
	by.chunks++
	by.bytes += bytes
}

// give returns what was taken, and grants what those who wait want, as far as
// there is room now. Where some go on waiting though chunks were given back it
// calls short again.
func (b *budget) give(back ...charge) {
	b.mu.Lock()
	chunks, bytes := int64(0), int64(0)
	for _, c := range back {
		b.chunks -= c.chunks
		b.bytes -= c.bytes
		c.by.chunks -= c.chunks
		c.by.bytes -= c.bytes
		if b.chunks < 0 || b.bytes < 0 || c.by.chunks < 0 || c.by.bytes < 0 {
			panic("BUG: more was given back than was taken")
		}
		chunks, bytes = chunks+c.chunks, bytes+c.bytes
	}
	if chunks == 0 && bytes == 0 {
		b.mu.Unlock()
		return
	}
	close(b.freed)
	b.freed = make(chan struct{})
	b.grantWaiting()
	still := chunks > 0 && len(b.waiting) > 0
	b.mu.Unlock()
	if still {
		b.short()
	}
}

// grantWaiting grants in order of what is held, and stops at the first that
// does not fit: otherwise large chunks would wait for ever behind small ones.
func (b *budget) grantWaiting() {
	if len(b.waiting) == 0 || !b.fits(slices.MinFunc(b.waiting, leastHeld).bytes) {
		return // as is mostly so, of thousands that wait
	}
	slices.SortStableFunc(b.waiting, leastHeld)
	k := 0
	for ; k < len(b.waiting) && b.fits(b.waiting[k].bytes); k++ {
		b.grant(b.waiting[k].by, b.waiting[k].bytes)
		close(b.waiting[k].granted)
	}
	b.waiting = slices.Delete(b.waiting, 0, k)
}

func leastHeld(x, y *waiter) int { return cmp.Compare(x.by.bytes, y.by.bytes) }

func (b *budget) used() (chunks, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chunks, b.bytes
}

// wait is how many wait.
func (b *budget) wait() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.waiting))
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
