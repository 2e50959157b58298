package network

import (
	"container/heap"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// mtu is a TUN device's, and mostQueued how many packets are underway at most:
// more are lost, as on any link.
const (
	mtu        = 1500
	mostQueued = 4096
)

// way is one direction of a link.
type way struct {
	from, to *os.File // the device that packets come from, and go to
	wake     chan struct{}

	mu         sync.Mutex
	conditions Conditions
	rng        *rand.Rand
	busy       time.Time // until when the link's rate is taken
	queue      packets
	lost       int64
	stopped    bool
}

// packet is one that is underway.
type packet struct {
	due  time.Time
	data []byte
}

// packets is a heap, the first due on top.
type packets []packet

func (p packets) Len() int           { return len(p) }
func (p packets) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p packets) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(x any)        { *p = append(*p, x.(packet)) }
func (p *packets) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

// read takes packets in until the device is closed.
func (w *way) read() {
	buffer := make([]byte, mtu)
	for {
		n, err := w.from.Read(buffer)
		if err != nil {
			return
		}
		w.take(buffer[:n], time.Now())
		w.signal()
	}
}

// take decides what becomes of a packet.
func (w *way) take(data []byte, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.conditions
	if c.Cut || w.rng.IntN(100) < c.LossPercent || len(w.queue) >= mostQueued {
		w.lost++
		return
	}
	due := now
	if c.Rate > 0 {
		due = later(due, w.busy).Add(time.Duration(len(data)) * time.Second / time.Duration(c.Rate))
		if due.Sub(now) > time.Second/5 {
			w.lost++
			return
		}
		w.busy = due
	}
	times := 1
	if w.rng.IntN(100) < c.TwicePct {
		times = 2
	}
	for range times {
		at := due.Add(c.Delay)
		if c.Jitter > 0 {
			at = at.Add(time.Duration(w.rng.Int64N(int64(c.Jitter))))
		}
		heap.Push(&w.queue, packet{at, append([]byte(nil), data...)})
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (w *way) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// write delivers what is due until the way is stopped.
func (w *way) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p, wait, ok := w.next(time.Now())
		if !ok {
			return
		}
		if p == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-w.wake:
			}
			continue
		}
		if _, err := w.to.Write(p); err != nil {
			w.mu.Lock()
			w.lost++
			w.mu.Unlock()
		}
	}
}

// next is the packet that is due, or how long none is.
func (w *way) next(now time.Time) (data []byte, wait time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
		return nil, 0, false
	case len(w.queue) == 0:
		return nil, time.Hour, true
	case w.queue[0].due.After(now):
		return nil, w.queue[0].due.Sub(now), true
	}
	return heap.Pop(&w.queue).(packet).data, 0, true
}

func (w *way) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	_ = w.from.Close() // ends read
	w.signal()
}
