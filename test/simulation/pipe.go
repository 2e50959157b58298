package simulation

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

// pipe is one direction of a stream: messages arrive in order, each after a
// delay, and none while it is frozen.
type pipe struct {
	delay func() time.Duration

	mu      sync.Mutex
	queue   []packet
	bytes   int
	last    time.Time
	frozen  bool
	ended   error // io.EOF or worse, once the queue is empty
	broken  error // at once
	changed chan struct{}
}

type packet struct {
	body []byte
	at   time.Time
}

func newPipe(delay func() time.Duration) *pipe {
	return &pipe{delay: delay, changed: make(chan struct{})}
}

// wake is called with mu held.
func (p *pipe) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.wake()
}

// send waits for room.
func (p *pipe) send(ctx context.Context, body []byte) error {
	for {
		p.mu.Lock()
		if p.broken != nil || p.ended != nil {
			p.mu.Unlock()
			return io.EOF
		}
		if len(p.queue) < windowMessages && (len(p.queue) == 0 || p.bytes+len(body) <= windowBytes) {
			p.last = later(p.last, time.Now().Add(p.delay()))
			p.queue, p.bytes = append(p.queue, packet{body, p.last}), p.bytes+len(body)
			p.wake()
			p.mu.Unlock()
			return nil
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return io.EOF
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// recv waits for the next message.
func (p *pipe) recv(ctx context.Context) ([]byte, error) {
	var timer *time.Timer
	for {
		p.mu.Lock()
		var due <-chan time.Time
		switch {
		case p.broken != nil:
			p.mu.Unlock()
			return nil, p.broken
		case p.frozen:
		case len(p.queue) > 0:
			x := p.queue[0]
			wait := time.Until(x.at)
			if wait <= 0 {
				p.queue[0] = packet{}
				p.queue, p.bytes = p.queue[1:], p.bytes-len(x.body)
				p.wake()
				p.mu.Unlock()
				return x.body, nil
			}
			if timer == nil {
				timer = time.NewTimer(wait)
				defer timer.Stop()
			} else {
				timer.Reset(wait)
			}
			due = timer.C
		case p.ended != nil:
			p.mu.Unlock()
			return nil, p.ended
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			return nil, status.FromContextError(context.Cause(ctx)).Err()
		}
	}
}

// conn is one stream between a node and a collector.
type conn struct {
	up, down *pipe
	server   context.Context
	hangUp   context.CancelFunc // of the server's side
	to       *collector

	mu    sync.Mutex
	sent  [][]byte // up, from the first on
	stall []*time.Timer
}

// fail ends both directions for one side or both.
func (c *conn) fail(client, server bool, why error) {
	if client {
		c.down.set(func() { c.down.broken = why })
		c.up.set(func() { c.up.ended = errReset }) // nothing more goes out
	}
	if server {
		c.up.set(func() { c.up.broken = why })
		c.hangUp()
	}
}

// freeze has nothing arrive any more, until keepalive notices or it thaws.
func (c *conn) freeze(on bool) {
	c.mu.Lock()
	for _, t := range c.stall {
		t.Stop()
	}
	c.stall = nil
	if on {
		c.stall = []*time.Timer{
			time.AfterFunc(clientKeepalive, func() { c.fail(true, false, errTimeout) }),
			time.AfterFunc(serverKeepalive, func() { c.fail(false, true, errTimeout) }),
		}
	}
	c.mu.Unlock()
	for _, p := range []*pipe{c.up, c.down} {
		p.set(func() { p.frozen = on })
	}
}
