package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Backups is what a backup is made of.
type Backups struct {
	Store   store.Store
	Version string // of this program
	// Begin writes down that the caller behind a context takes one, and what it
	// returns is told what came of it; nil: nobody does. Where it can't, there
	// is no backup.
	Begin func(context.Context) (func(error), error)
	// Patience is how long a receiver may take for a piece: the ledger is kept
	// open for it meanwhile. 0: a minute.
	Patience time.Duration
}

const (
	// backupPiece is how much of the file one message carries.
	backupPiece = 256 << 10
	// backupPieces is how many of them wait for the receiver.
	backupPieces = 8
)

// errStalled ends a backup whose receiver takes nothing any more.
var errStalled = errors.New("the receiver took nothing for too long")

// Backup sends the whole ledger as a file. There is one at a time.
func (s *Server) Backup(_ *pb.BackupRequest, stream grpc.ServerStreamingServer[pb.BackupPiece]) error {
	b := s.cfg.Backups
	if b == nil {
		return status.Error(codes.Unimplemented, "this collector makes no backups")
	}
	select {
	case s.backing <- struct{}{}:
		defer func() { <-s.backing }()
	default:
		return status.Error(codes.ResourceExhausted, "a backup is being made already: try again when it is done")
	}
	if b.Begin == nil {
		return s.backup(b, stream)
	}
	done, err := b.Begin(stream.Context())
	if err != nil {
		return s.fail(err)
	}
	err = s.backup(b, stream)
	done(err)
	return err
}

// backup makes and sends one.
func (s *Server) backup(b *Backups, stream grpc.ServerStreamingServer[pb.BackupPiece]) error {
	// The store is read by a goroutine of its own, so that a receiver who stalls
	// does not hold its view open: what is written to him waits here.
	ctx, cancel := context.WithCancel(stream.Context())
	pieces := &pieces{ctx: ctx, out: make(chan []byte, backupPieces), patience: b.Patience}
	if pieces.patience == 0 {
		pieces.patience = time.Minute
	}
	done := make(chan error, 1)
	go func() {
		_, err := archive.Write(ctx, b.Store, pieces, b.Version, nil)
		if err == nil {
			err = pieces.flush()
		}
		close(pieces.out)
		done <- err
	}()
	var err error
	for data := range pieces.out {
		if err == nil {
			if err = stream.Send(&pb.BackupPiece{Data: data}); err != nil {
				cancel()
			}
		}
	}
	werr := <-done
	cancel()
	switch {
	case errors.Is(werr, errStalled):
		return status.Errorf(codes.Aborted, "the backup was given up: %v", errStalled)
	case err != nil:
		return err
	case werr != nil:
		return s.fail(fmt.Errorf("backup: %w", werr))
	}
	return nil
}

// pieces hands what is written to it on, in pieces that are not used again.
type pieces struct {
	ctx      context.Context //nolint:containedctx // of the one call that it is for
	out      chan []byte
	patience time.Duration
	piece    []byte
}

var _ io.Writer = (*pieces)(nil)

func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.piece == nil {
			p.piece = make([]byte, 0, backupPiece)
		}
		fits := min(len(b), cap(p.piece)-len(p.piece))
		p.piece = append(p.piece, b[:fits]...)
		if b = b[fits:]; len(p.piece) == cap(p.piece) {
			if err := p.flush(); err != nil {
				return n - len(b), err
			}
		}
	}
	return n, nil
}

func (p *pieces) flush() error {
	if len(p.piece) == 0 {
		return nil
	}
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	select {
	case p.out <- p.piece:
		p.piece = nil
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	case <-timer.C:
		return errStalled
	}
}
