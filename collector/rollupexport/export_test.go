package rollupexport

import "context"

// Push pushes now.
func (p *Pusher) Push(ctx context.Context) { p.push(ctx) }

// Push pushes now, and tells what came of it.
func Push(ctx context.Context, w *RemoteWriter) error {
	s, err := w.r.Snapshot(ctx)
	if err != nil {
		return err
	}
	return w.send(ctx, s)
}

// CloseIdle closes the connection of a writer that was not run.
func CloseIdle(w *RemoteWriter) { w.client.CloseIdleConnections() }
