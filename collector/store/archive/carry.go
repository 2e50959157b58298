package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gpuledger/gpuledger/collector/store"
)

// Restore makes an empty ledger one as the file holds it, and verifies it. The
// file is read twice: whether it is whole is known before anything is written.
// Info is what the file says. report may be nil.
func Restore(ctx context.Context, in io.ReadSeeker, to store.Loader, report func(Progress) error) (*Info, error) {
	if _, err := Check(ctx, in, report); err != nil {
		return nil, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the backup again: %w", err)
	}
	info, err := read(ctx, in, "restoring", report, func(p *store.Part) error { return to.Load(ctx, p) })
	if err != nil {
		return nil, err
	}
	if err := to.Loaded(ctx, &info.marks); err != nil {
		return nil, err
	}
	return info, verify(ctx, info.Holds, to, "the backup", report)
}

// Migrate makes an empty ledger the same as another, and verifies it. Nobody
// may write to either meanwhile. report may be nil.
func Migrate(ctx context.Context, from store.Store, to store.Loader, report func(Progress) error) (*Summary, error) {
	w := newWalker(nil)
	parts := int64(0)
	w.emit = func(p *store.Part) error {
		if err := to.Load(ctx, p); err != nil {
			return err
		}
		parts++
		if report == nil {
			return nil
		}
		return report(Progress{What: "copying", Parts: parts})
	}
	if err := w.walk(ctx, from); err != nil {
		return nil, err
	}
	if err := to.Loaded(ctx, &w.marks); err != nil {
		return nil, err
	}
	return w.summary, verify(ctx, w.summary, to, "the old ledger", report)
}

// verify holds a loaded ledger against what it should hold.
func verify(ctx context.Context, want *Summary, s store.Store, source string, report func(Progress) error) error {
	if report != nil {
		if err := report(Progress{What: "verifying"}); err != nil {
			return err
		}
	}
	got, err := Summarize(ctx, s)
	if err != nil {
		return fmt.Errorf("verify what was loaded: %w", err)
	}
	if err := want.Equal(got, source, "the new one"); err != nil {
		return errors.Join(ErrUnequal, err)
	}
	return nil
}

// ErrUnequal says that a ledger was loaded and does not hold what it should: do
// not use it.
var ErrUnequal = errors.New("the new ledger is not what it was made from: do not use it")
