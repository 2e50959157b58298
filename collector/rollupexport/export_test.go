package rollupexport

import "context"

// Push pushes now.
func (p *Pusher) Push(ctx context.Context) { p.push(ctx) }
