package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
)

// perMinute is the device time of a steady node's minute.
const perMinute = 2 * 60 * attribution.WindowNanos

// total fails unless a state holds as much time as it has commits, of one
// node's minute each, by rows and by chunks.
func total(r store.Reader) error {
	ctx := context.Background()
	var sum big.Int
	rows, err := r.Query(ctx, &store.Query{From: 0, To: 2 * Day, GroupBy: []store.Dimension{store.Team}})
	if err != nil {
		return err
	}
	for i := range rows {
		sum.Add(&sum, &rows[i].DeviceTime)
	}
	if want := int64(r.Commits()) * perMinute; !sum.IsInt64() || sum.Int64() != want {
		return fmt.Errorf("%d commits, and %s ns, want %d", r.Commits(), &sum, want)
	}
	var chunks uint64
	if err := r.Chunks(ctx, 0, 2*Day, func(*store.Chunk, *store.Roster) error { chunks++; return nil }); err != nil {
		return err
	}
	if chunks != 6*r.Commits() {
		return fmt.Errorf("%d commits, and %d chunks", r.Commits(), chunks)
	}
	return nil
}

func snapshot(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	l.view(func(r store.Reader) error {
		if err := total(r); err != nil {
			return err
		}
		// What happens meanwhile does not exist for this view.
		l.commit(Minute(1, Day+3600)...)
		l.commit(Minute(1, Day+7200)...)
		l.must(l.Roll(t.Context(), Day+7200))
		l.must(l.SetMapping(t.Context(), rules("x")))
		if r.Commits() != 1 {
			t.Errorf("a view moved on to commit %d", r.Commits())
		}
		if _, to, err := r.Extent(t.Context()); err != nil || to != Day+60 {
			t.Errorf("a view reaches to %d, %v", to, err)
		}
		before := &ledger{t: t, chunks: l.chunks[:6]}
		before.agreeIn(r, &store.Query{From: Day, To: Day + 86400, GroupBy: []store.Dimension{store.Team, store.Pod}})
		before.agreeIn(r, &store.Query{From: Day, To: Day + 7, GroupBy: []store.Dimension{store.Team, store.Pod}})
		return total(r)
	})
	l.view(total)
}

func readers(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	const commits, views = 30, 3
	done := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, views)
	for range views {
		wg.Go(func() {
			for {
				if err := l.View(context.Background(), total); err != nil {
					errs <- err
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range attribution.Second(commits) {
		l.commit(Minute(0, Day+i*600)...)
		if i%7 == 3 {
			l.must(l.Roll(t.Context(), Day+i*600))
			l.must(l.SetMapping(t.Context(), rules(fmt.Sprint(i))))
		}
	}
	close(done)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	l.view(total)
}

func reopened(t *testing.T, d Driver) {
	place := d.New(t)
	l := &ledger{t: t}
	for i := range attribution.Second(4) {
		s, err := d.Open(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		l.Store, l.mapping = s, nil
		l.agree(&store.Query{From: 0, To: 2 * Day, GroupBy: []store.Dimension{store.Team, store.Model}})
		l.mapping = rules("x")
		l.must(l.SetMapping(t.Context(), l.mapping))
		l.commit(Minute(0, Day+i*3600)...)
		l.agree(&store.Query{From: 0, To: 2 * Day, GroupBy: []store.Dimension{store.Team, store.Model}})
		l.must(l.Roll(t.Context(), Day+i*3600))
		before := l.dump()
		l.must(l.Close())
		if l.Store, err = d.Open(t.Context(), place); err != nil {
			t.Fatal(err)
		}
		same(t, "reopened", l.dump(), before, show)
		if err := l.Commit(t.Context(), Batch(l.commits+1, Steady(0, Day))); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("got %v, want ErrDuplicate", err)
		}
		l.must(l.Close())
	}
}

// crashPlace names the ledger that a child process commits to until it is
// killed.
const crashPlace = "GPULEDGER_STORETEST_CRASH"

// Main runs a package's tests, or, in the child process of one, what it is
// there for. It returns the exit code.
func Main(m *testing.M, d Driver) int {
	place := os.Getenv(crashPlace)
	if place == "" {
		return m.Run()
	}
	fmt.Fprintln(os.Stderr, commitForEver(d, place))
	return 1
}

// commitForEver commits minute after minute and writes down each commit that
// was acknowledged, until it is killed or fails. Now and then it rolls, and
// rates everything anew.
func commitForEver(d Driver, place string) error {
	ctx := context.Background()
	s, err := d.Open(ctx, place)
	if err != nil {
		return err
	}
	var n uint64
	var journal *rerating.Journal
	if err := s.View(ctx, func(r store.Reader) error {
		n = r.Commits()
		journal, err = r.Journal(ctx)
		return err
	}); err != nil {
		return err
	}
	for {
		n++
		at := Day + attribution.Second(n)*600
		if err := s.Commit(ctx, Rated(journal, n, Minute(0, at)...)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(os.Stdout, n); err != nil {
			return err
		}
		if n%5 == 0 {
			if err := s.Roll(ctx, at); err != nil {
				return err
			}
		}
		if n%3 == 0 {
			if journal, err = rerateAll(ctx, s, at+10, money.Amount(n)*money.Unit); err != nil {
				return err
			}
		}
	}
}

// rerateAll gives everything up to a second another price.
func rerateAll(ctx context.Context, s store.Store, to attribution.Second, price money.Amount) (*rerating.Journal, error) {
	var p *plan.Plan
	var journal *rerating.Journal
	err := s.View(ctx, func(r store.Reader) (err error) {
		if journal, err = r.Journal(ctx); err != nil {
			return err
		}
		p, err = planner.Rerate(ctx, r, rerating.Entry{From: Day, To: to, Card: flat(price)})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.Rerate(ctx, p.Rerating()); err != nil {
		return nil, err
	}
	return journal.With(p.Entry)
}

// costed fails unless rows cost what the journal makes of the chunks.
func costed(r store.Reader) error {
	ctx := context.Background()
	journal, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	var want, got int64
	err = r.Chunks(ctx, 0, 2*Day, func(c *store.Chunk, ro *store.Roster) error {
		x, err := Decode(c, ro)
		if err != nil {
			return err
		}
		for _, w := range journal.Rate(x).Windows {
			for _, s := range w.Slices {
				want += int64(s.Cost)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	rows, err := r.Query(ctx, &store.Query{From: 0, To: 2 * Day, GroupBy: []store.Dimension{store.Revision}})
	for i := range rows {
		got += rows[i].Cost.Int64()
	}
	if err == nil && got != want {
		err = fmt.Errorf("%d reratings, and rows cost %d, want %d", journal.Next()-1, got, want)
	}
	return err
}

// law4Crash kills a committing process, again and again.
func law4Crash(t *testing.T, d Driver) {
	place := d.New(t)
	var acknowledged uint64
	for round := range 6 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), crashPlace+"="+place)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; i < 1+3*round && lines.Scan(); i++ {
			if acknowledged, err = strconv.ParseUint(strings.TrimSpace(lines.Text()), 10, 64); err != nil {
				t.Errorf("the child says %q", lines.Text())
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				acknowledged = n
			}
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		s, err := d.Open(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		err = s.View(t.Context(), func(r store.Reader) error {
			if n := r.Commits(); n < acknowledged || n > acknowledged+1 {
				return fmt.Errorf("commit %d was acknowledged, and the ledger has %d", acknowledged, n)
			}
			return errors.Join(total(r), costed(r))
		})
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatalf("after kill %d: %v", round, err)
		}
	}
}
