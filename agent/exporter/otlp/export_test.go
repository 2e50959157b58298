package otlp

import "context"

// Push pushes now.
func (p *Pusher) Push(ctx context.Context) { p.push(ctx) }

// Close closes the connection of a pusher that was not run.
func (p *Pusher) Close() error { return p.conn.Close() }
