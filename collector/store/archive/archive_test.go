package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func open(t testing.TB) *duckdb.Store {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: storetest.Decode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small is a ledger with something of everything.
func small(t testing.TB) *duckdb.Store {
	t.Helper()
	s, ctx := open(t), t.Context()
	var rerate *store.Rerating
	must(t, s.Commit(ctx, storetest.Batch(1, append(storetest.Minute(0, storetest.Day), storetest.Steady(1, storetest.Day+3600))...)))
	_, err := s.PutDocument(ctx, store.RateCards, []byte("a card"), time.Unix(5, 6))
	must(t, err)
	must(t, s.View(ctx, func(r store.Reader) error {
		p, err := (&plan.Planner{Decode: storetest.Decode}).Rerate(ctx, r, rerating.Entry{
			From: storetest.Day, To: storetest.Day + 86400, Currency: "USD", Applied: time.Unix(7, 8),
			Card: &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: money.Unit}}},
		})
		if err == nil {
			rerate = p.Rerating()
		}
		return err
	}))
	must(t, s.Rerate(ctx, rerate))
	must(t, s.Roll(ctx, storetest.Day+3600))
	return s
}

func write(t testing.TB, s store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := archive.Write(t.Context(), s, &b, "v1.2.3", nil)
	must(t, err)
	return b.Bytes()
}

func TestAFileTellsWhatItHolds(t *testing.T) {
	s := small(t)
	file := write(t, s)
	info, err := archive.Check(t.Context(), bytes.NewReader(file), nil)
	must(t, err)
	if got, want := info.Holds.String(), "7 chunks, 12 rows, 3 tallies, 2 ranges, 2 documents"; got != want {
		t.Errorf("it holds %s, want %s", got, want)
	}
	if info.Program != "v1.2.3" || info.Bytes != int64(len(file)) || info.Blocks == 0 || len(info.SHA256) != 32 || time.Since(info.Made) > time.Hour {
		t.Errorf("%+v", info)
	}
	if !bytes.HasPrefix(file, []byte("gpuledger backup 1\n")) {
		t.Errorf("it begins with %q", file[:20])
	}
	// The same ledger is the same file, but for when it was read.
	want, err := archive.Summarize(t.Context(), s)
	must(t, err)
	must(t, info.Holds.Equal(want, "the file", "the ledger"))
}

// A file that was cut off anywhere, or in which a bit was turned, is refused
// before anything is written, and the error says where.
func TestLaw4ADamagedFileIsRefused(t *testing.T) {
	file := write(t, small(t))
	refused := func(name string, b []byte) {
		t.Helper()
		_, err := archive.Check(t.Context(), bytes.NewReader(b), nil)
		if !errors.Is(err, archive.ErrDamaged) && !errors.Is(err, archive.ErrNoBackup) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		} else if errors.Is(err, archive.ErrDamaged) && !strings.Contains(err.Error(), "byte") {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
	}
	for n := 0; n < len(file); n += 7 {
		refused(fmt.Sprintf("cut off after %d bytes", n), file[:n])
	}
	for n := 0; n < len(file); n += 5 {
		b := bytes.Clone(file)
		b[n] ^= 1 << (n % 8)
		refused(fmt.Sprintf("byte %d altered", n), b)
	}
	refused("something follows", append(bytes.Clone(file), 0))
	frames := split(file)
	join := func(order ...int) []byte {
		b := []byte("gpuledger backup 1\n")
		for _, i := range order {
			b = append(b, frames[i]...)
		}
		return b
	}
	var all []int
	for i := range frames {
		all = append(all, i)
	}
	last := len(frames) - 1
	if !bytes.Equal(join(all...), file) || last < 5 {
		t.Fatalf("the test does not understand the file: %d frames", len(frames))
	}
	refused("a frame is missing", join(append([]int{0, 1}, all[3:]...)...))
	refused("frames in another order", join(append([]int{0, 2, 1}, all[3:]...)...))
	refused("a frame twice", join(append([]int{0, 1, 1}, all[2:]...)...))
	refused("no header", join(all[1:]...))
	refused("nothing but header and trailer", join(0, last))

	// Nothing is written for it.
	to := open(t)
	if _, err := archive.Restore(t.Context(), bytes.NewReader(file[:len(file)-1]), to, nil); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("got %v", err)
	}
	_, err := archive.Restore(t.Context(), bytes.NewReader(file), to, nil)
	must(t, err)
}

// split cuts a file into its frames.
func split(file []byte) (frames [][]byte) {
	for b := file[len("gpuledger backup 1\n"):]; len(b) > 0; {
		n := 9 + int(binary.BigEndian.Uint32(b))
		frames, b = append(frames, b[:n]), b[n:]
	}
	return frames
}

func TestOtherFilesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a newer version":  "gpuledger backup 2\nsomething else altogether",
		"a later version":  "gpuledger backup 1234567\nsomething",
		"something else":   strings.Repeat("DUCK", 100),
		"one line of text": "gpuledger is a fine program, but this is no backup of its\n",
	} {
		if _, err := archive.Check(t.Context(), strings.NewReader(text), nil); !errors.Is(err, archive.ErrNoBackup) {
			t.Errorf("%s: got %v, want ErrNoBackup", name, err)
		}
	}
}

// Comparing names the first difference, by kind and day.
func TestCompareNamesTheDifference(t *testing.T) {
	ctx := t.Context()
	a := open(t)
	must(t, a.Commit(ctx, storetest.Batch(1, storetest.Minute(0, storetest.Day)...)))
	for name, c := range map[string]struct {
		build func(s *duckdb.Store) error
		want  []string
	}{
		"nothing": {func(*duckdb.Store) error { return nil }, []string{"chunks of 2026-01-01", "the first has 6, and the second has none"}},
		"less": {
			func(s *duckdb.Store) error {
				return s.Commit(ctx, storetest.Batch(1, storetest.Minute(0, storetest.Day)[:5]...))
			},
			[]string{"chunks of 2026-01-01", "the first has 6, and the second has 5"},
		},
		"another cost": {
			func(s *duckdb.Store) error {
				b := storetest.Batch(1, storetest.Minute(0, storetest.Day)...)
				b.Rows[0].Cost++
				return s.Commit(ctx, b)
			},
			[]string{"rows per minute of 2026-01-01", "cost of 0.12", "0.120000001"},
		},
		"costs exchanged": {
			func(s *duckdb.Store) error {
				b := storetest.Batch(1, storetest.Minute(0, storetest.Day)...)
				b.Rows[0].Cost--
				b.Rows[1].Cost++
				return s.Commit(ctx, b)
			},
			[]string{"rows per minute of 2026-01-01", "same sums (digest"},
		},
		"another document": {
			func(s *duckdb.Store) error {
				_, err := s.PutDocument(ctx, store.RateCards, nil, time.Unix(1, 0))
				return errors.Join(err, s.Commit(ctx, storetest.Batch(1, storetest.Minute(0, storetest.Day)...)))
			},
			[]string{"documents (rate-card)", "the first has none, and the second has 1"},
		},
		"another watermark": {
			func(s *duckdb.Store) error {
				err := s.Commit(ctx, storetest.Batch(1, storetest.Minute(0, storetest.Day)...))
				return errors.Join(err, s.Retain(ctx, store.Retention{Second: 24 * time.Hour}, storetest.Day))
			},
			[]string{"watermarks"},
		},
	} {
		b := open(t)
		must(t, c.build(b))
		err := archive.Compare(ctx, a, b)
		if _, ok := errors.AsType[*archive.Difference](err); !ok {
			t.Errorf("%s: got %v, want a Difference", name, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
	}
	must(t, archive.Compare(ctx, a, a))
}

// A store that loads something else than it is given is found out.
func TestARestoreIsVerified(t *testing.T) {
	file := write(t, small(t))
	for name, spoil := range map[string]func(*store.Part){
		"a row's cost":      func(p *store.Part) { each(p.Rows, func(i int) { p.Rows[i].Cost++ }) },
		"a tally":           func(p *store.Part) { each(p.Tallies, func(i int) { p.Tallies[i].Value++ }) },
		"a transfer":        func(p *store.Part) { each(p.Transfers, func(i int) { p.Transfers[i].CostAfter++ }) },
		"a chunk's digest":  func(p *store.Part) { each(p.Chunks, func(i int) { p.Chunks[i].Digest = []byte("x") }) },
		"a range's end":     func(p *store.Part) { each(p.Ranges, func(i int) { p.Ranges[i].To++ }) },
		"a document's time": func(p *store.Part) { each(p.Documents, func(i int) { p.Documents[i].Applied = time.Unix(1, 1) }) },
	} {
		_, err := archive.Restore(t.Context(), bytes.NewReader(file), &forger{open(t), spoil}, nil)
		if !errors.Is(err, archive.ErrUnequal) {
			t.Errorf("%s: got %v, want ErrUnequal", name, err)
		}
	}
}

func each[T any](list []T, f func(int)) {
	if len(list) > 0 {
		f(len(list) - 1)
	}
}

// forger changes what it is given.
type forger struct {
	*duckdb.Store
	spoil func(*store.Part)
}

func (f *forger) Load(ctx context.Context, p *store.Part) error {
	f.spoil(p)
	return f.Store.Load(ctx, p)
}

// Whoever stops a backup or a restore gets his error back.
func TestStopping(t *testing.T) {
	s := small(t)
	stop := errors.New("enough")
	report := func(archive.Progress) error { return stop }
	if _, err := archive.Write(t.Context(), s, &bytes.Buffer{}, "", report); !errors.Is(err, stop) {
		t.Errorf("writing: %v", err)
	}
	if _, err := archive.Write(t.Context(), s, failing{}, "", nil); !errors.Is(err, errFull) {
		t.Errorf("writing to a full disk: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Write(cancelled, s, &bytes.Buffer{}, "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("writing for nobody: %v", err)
	}
	if _, err := archive.Check(cancelled, bytes.NewReader(write(t, s)), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("checking for nobody: %v", err)
	}
}

var errFull = errors.New("the disk is full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

// A ledger of many series is written in parts, each with the facts that it needs.
func TestManyParts(t *testing.T) {
	s, ctx := open(t), t.Context()
	var chunks []*attribution.Chunk
	const nodes = 3000 // of two devices each
	for i := range nodes {
		c := storetest.Steady(i%256, storetest.Day)
		c.Key.Node = fmt.Sprint("node-", i)
		for d := range c.Roster.Devices {
			c.Roster.Devices[d].Node, c.Roster.Devices[d].ID = c.Key.Node, fmt.Sprintf("GPU-%d-%d", i, d)
		}
		chunks = append(chunks, c)
	}
	must(t, s.Commit(ctx, storetest.Batch(1, chunks...)))
	to := open(t)
	info, err := archive.Restore(ctx, bytes.NewReader(write(t, s)), to, nil)
	must(t, err)
	must(t, archive.Compare(ctx, s, to))
	if info.Blocks < 6 {
		t.Errorf("%d blocks: want rows and chunks in several", info.Blocks)
	}
}

func FuzzRead(f *testing.F) {
	file := write(f, small(f))
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("gpuledger backup 1\n"))
	for _, frame := range split(file) {
		f.Add(append([]byte("gpuledger backup 1\n"), frame...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := archive.Check(t.Context(), bytes.NewReader(b), nil)
		if err != nil && !errors.Is(err, archive.ErrDamaged) && !errors.Is(err, archive.ErrNoBackup) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
