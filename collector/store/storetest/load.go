package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
)

// RunLoader runs the tests of a [store.Loader]: what is written to a file and
// read into another store, or is copied between two, goes on as the original
// does.
func RunLoader(t *testing.T, d Driver) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Driver)
	}{
		{"TestLaw4ARestoredLedgerGoesOnAsTheOriginal", law4Restored},
		{"TestLaw4APartialLedgerIsRefused", law4Unfinished},
		{"TestLaw4OnlyAnEmptyLedgerIsLoaded", law4NotEmpty},
		{"TestLaw6WhatIsKeptCoarselyIsUndoneAfterARestore", law6Restored},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, d) })
	}
}

// restored carries a ledger into a new one, by way of a file or directly.
func (l *ledger) restored(t *testing.T, d Driver, byFile bool) *ledger {
	t.Helper()
	ctx := context.Background()
	place := d.New(t)
	n := open(t, d, place)
	to, ok := n.Store.(store.Loader)
	if !ok {
		l.t.Fatalf("%T is no Loader", n.Store)
	}
	if byFile {
		var file bytes.Buffer
		_, err := archive.Write(ctx, l, &file, "test", nil)
		l.must(err)
		_, err = archive.Restore(ctx, bytes.NewReader(file.Bytes()), to, nil)
		l.must(err)
	} else {
		_, err := archive.Migrate(ctx, l, to, nil)
		l.must(err)
	}
	n.t, n.chunks, n.journal = l.t, slices.Clone(l.chunks), l.journal
	return n
}

// sameAs fails unless two ledgers hold the same, but for how many commits it
// took.
func (l *ledger) sameAs(o *ledger, what string) {
	l.t.Helper()
	all := func(l *ledger) []string {
		out := l.dump()
		_, out[0], _ = strings.Cut(out[0], " extent ")
		return out
	}
	same(l.t, what, all(l), all(o), show)
	l.must(archive.Compare(context.Background(), l, o))
}

// law4Restored lets a ledger grow, roll, drop and be rated anew at random,
// carries it over at some moment, and lets both go on alike.
func law4Restored(t *testing.T, d Driver) {
	tries(t, 10) // each makes two ledgers
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		l := open(t, d, d.New(t))
		defer l.Close() //nolint:errcheck // the cleanup tells
		l.t = rt
		both := []*ledger{l}
		left := DrawWorld(rt)
		dropped := false
		for _, until := range []int{rapid.IntRange(0, len(left)).Draw(rt, "before"), 0} {
			for len(left) > until {
				n := rapid.IntRange(1, len(left)-until).Draw(rt, "chunks")
				through := Day + attribution.Second(rapid.IntRange(-3600, 400000).Draw(rt, "through"))
				roll, drop := rapid.Bool().Draw(rt, "roll"), rapid.IntRange(0, 5).Draw(rt, "drop") == 0
				for _, x := range both {
					x.commit(left[:n]...)
					if roll {
						x.must(x.Roll(ctx, through))
					}
					if drop {
						x.must(x.Retain(ctx, store.Retention{Second: time.Hour, Minute: 6 * time.Hour, Hour: 24 * time.Hour}, through))
					}
				}
				dropped = dropped || drop
				left = left[n:]
				if !dropped && len(both) == 1 && rapid.Bool().Draw(rt, "rerate") {
					l.rerateAny(rt)
				}
			}
			if len(both) == 1 {
				_, err := l.PutDocument(ctx, store.RuleSets, []byte("rules"), time.Unix(1_800_000_000, 7))
				l.must(err)
				n := l.restored(t, d, rapid.Bool().Draw(rt, "by file"))
				defer n.Close() //nolint:errcheck // the cleanup tells
				n.sameAs(l, "carried over")
				both = append(both, n)
			}
		}
		n := both[1]
		for id := l.journal.Next() - 1; id > 0 && !dropped; id-- {
			if l.journal.CanUndo(id) == nil {
				l.undo(id)
				n.undo(id)
			}
		}
		n.sameAs(l, "gone on")
		n.agree(drawQuery(rt))
		if left := n.chunks; len(left) > 0 {
			if err := n.Commit(ctx, Rated(n.journal, n.commits+1, left[0])); !errors.Is(err, store.ErrDuplicate) {
				rt.Fatalf("a chunk from before the restore: %v, want ErrDuplicate", err)
			}
		}
	})
}

// law6Restored carries over what was rated anew and is kept as hours and days.
func law6Restored(t *testing.T, d Driver) {
	ctx := t.Context()
	build := func(rerate bool) *ledger {
		l := open(t, d, d.New(t))
		for i := range attribution.Second(4) {
			l.commit(append(Minute(0, Day+i*3600), Minute(1, Day+i*7200)...)...)
		}
		l.commit(Minute(0, Day+2*86400)...)
		if rerate {
			l.rerate(Day+7, Day+3*3600+25, flat(7*money.Unit))
			l.rerate(Day+3600, Day+2*86400+30, flat(11))
		}
		l.must(l.Roll(ctx, Day+2*86400))
		l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 40 * time.Hour, Hour: 47 * time.Hour}, Day+2*86400+60))
		l.commit(Minute(3, Day+600)...) // its transfers are finer than what is kept, until the next Retain
		return l
	}
	l := build(true)
	n := l.restored(t, d, true)
	n.sameAs(l, "restored")
	for _, x := range []*ledger{l, n} {
		x.must(x.Retain(ctx, store.Retention{Second: time.Hour, Minute: 40 * time.Hour, Hour: 47 * time.Hour}, Day+2*86400+60))
		x.undo(2)
		x.undo(1)
	}
	n.sameAs(l, "undone")
	plain := build(false)
	plain.must(plain.Retain(ctx, store.Retention{Second: time.Hour, Minute: 40 * time.Hour, Hour: 47 * time.Hour}, Day+2*86400+60))
	same(t, "rows", n.dumpRows(), plain.dumpRows(), show)
}

// law4Unfinished has a loading end in the middle.
func law4Unfinished(t *testing.T, d Driver) {
	ctx := t.Context()
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	place := d.New(t)
	s, err := d.Open(ctx, place)
	l.must(err)
	var file bytes.Buffer
	_, err = archive.Write(ctx, l, &file, "test", nil)
	l.must(err)
	full := errors.New("the disk is full")
	parts := 0
	_, err = archive.Restore(ctx, bytes.NewReader(file.Bytes()), s.(store.Loader), func(p archive.Progress) error {
		if parts++; p.What == "restoring" && p.Parts >= 2 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Fatalf("got %v after %d parts, want the error of the report", err, parts)
	}
	l.must(s.Close())
	s, err = d.Open(ctx, place)
	if !errors.Is(err, store.ErrUnfinished) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("half a ledger is opened with %v, want ErrUnfinished and a hint", err)
		if err == nil {
			l.must(s.Close())
		}
	}
}

func law4NotEmpty(t *testing.T, d Driver) {
	ctx := t.Context()
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	n := open(t, d, d.New(t))
	n.commit(Minute(1, Day)...)
	before := n.dump()
	if _, err := archive.Migrate(ctx, l, n.Store.(store.Loader), nil); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
	same(t, "refused", n.dump(), before, show)
	n.commit(Minute(1, Day+60)...)
	// Nothing is something to carry over, too.
	empty := open(t, d, d.New(t))
	empty.restored(t, d, true).sameAs(empty, "nothing")
	document := open(t, d, d.New(t))
	_, err := document.PutDocument(ctx, store.RateCards, []byte("a card"), time.Unix(1, 0))
	l.must(err)
	if _, err := archive.Migrate(ctx, l, document.Store.(store.Loader), nil); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("into a ledger with a rate card: got %v, want ErrNotEmpty", err)
	}
}
