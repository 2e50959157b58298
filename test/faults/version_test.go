package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/programs"
)

func versionFaults() []fault {
	return []fault{
		{"collector replaced by a newer one", false, func(w *world) {
			w.file()
			w.collectors = w.earlier()
			w.begin()
			w.aWhile()
			w.stopSomehow()
			w.collectors = now
			w.startCollector()
			w.note("the ledger is brought up")
		}},
		{"killed while the ledger is brought up", false, killedInMigration},
		{"collector replaced by an older one", false, func(w *world) {
			w.file()
			old := w.earlier()
			w.begin()
			w.aWhile()
			w.stopSomehow()
			w.collectors = old
			p := w.launch(w.place, "older", w.addr)
			if !p.Within(time.Minute) || p.Err == nil {
				w.t.Fatalf("an older program took the ledger: %v", p.Err)
			}
			w.sees(p, time.Second, "run the program that wrote it, or a newer one")
			w.collectors = now
			w.startCollector()
		}},
		{"older agent, this collector", false, func(w *world) {
			w.agents = w.earlier()
			w.begin()
			w.aWhile()
			w.collector.Kill()
			w.startCollector()
		}},
		{"agent replaced by a newer one", false, func(w *world) {
			old := w.earlier()
			undisturbedBoth(w, old)
			w.agents = old
			w.begin()
			w.aWhile()
			w.agent.Kill()
			w.agents = now
			w.startAgent()
			w.note("the spool of the older one is read")
		}},
		{"this agent, older collector", false, func(w *world) {
			w.file()
			w.collectors = w.earlier()
			w.begin()
			w.aWhile()
			w.collector.Kill()
			w.startCollector()
			if !w.ended(5 * time.Minute) {
				w.t.Fatalf("not done in 5 minutes\n%s\n%s", w.agent.Tail(), w.collector.Tail())
			}
			w.collector.Stop(w.t)
			w.collectors = now // to be read
			w.startCollector()
		}},
	}
}

func (w *world) stopSomehow() {
	w.t.Helper()
	if w.rng.IntN(2) == 0 {
		w.collector.Kill()
		return
	}
	w.collector.Stop(w.t)
}

// killedInMigration kills the newer collector again and again while it brings
// the ledger up.
func killedInMigration(w *world) {
	w.file()
	w.collectors = w.earlier()
	w.begin()
	w.stored()
	w.aWhile()
	w.stopSomehow()
	w.collectors = now
	kills := 0
	for range 6 {
		p := w.launch(w.place, "collector", w.addr)
		w.away(between(w.rng, 5*time.Millisecond, 250*time.Millisecond))
		if _, err := os.Stat(filepath.Join(w.dir, "collector.ready")); err != nil {
			kills++
		}
		p.Kill()
		if err := os.Remove(filepath.Join(w.dir, "collector.ready")); err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Fatal(err)
		}
	}
	if kills == 0 {
		w.t.Log("each time it was ready before it was killed")
	}
	w.startCollector()
	w.note("all of it or nothing is done")
}

// undisturbedBoth skips where two versions play differently: then there is
// nothing to compare a play of both with.
func undisturbedBoth(w *world, other programs.Dir) {
	w.t.Helper()
	d := undisturbed(w.t, w.play, other, time.Minute).against(undisturbed(w.t, w.play, now, time.Minute))
	if d.broken() {
		w.skip("the versions' simulations differ")
	}
}

// earlier is the programs of an earlier version.
func (w *world) earlier() programs.Dir {
	w.t.Helper()
	old.Do(func() { old.err = buildEarlier() })
	switch _, none := errors.AsType[noHistory](old.err); {
	case none:
		w.skip("%v", old.err)
	case old.err != nil:
		w.t.Fatal(old.err)
	}
	return programs.Dir(filepath.Join(old.root, "bin"))
}

// old is the earlier version, once it was asked for.
var old struct {
	sync.Once
	root string // a folder, removed after the tests
	err  error
}

// noHistory says why there is no earlier version here.
type noHistory struct{ error }

// buildEarlier builds the commit that GPULEDGER_EARLIER names, else the one
// that last touched the ledger's tables under the version before this one.
func buildEarlier() (err error) {
	commit := os.Getenv("GPULEDGER_EARLIER")
	if commit == "" {
		if commit, err = earlierCommit(); err != nil {
			return noHistory{err}
		}
	}
	if old.root, err = os.MkdirTemp("", "gpuledger-earlier-"); err != nil {
		return err
	}
	source, tar := filepath.Join(old.root, "source"), filepath.Join(old.root, "source.tar")
	if _, err := git("archive", "-o", tar, commit); err != nil {
		return noHistory{err}
	}
	if err := os.Mkdir(source, 0o700); err != nil {
		return err
	}
	if out, err := exec.Command("tar", "-xf", tar, "-C", source).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w %s", err, out)
	}
	return programs.Dir(filepath.Join(old.root, "bin")).Build(context.Background(), source, programs.Agent, programs.Collector)
}

const schemaFile = "collector/store/duckdb/schema.go"

func earlierCommit() (string, error) {
	text, err := os.ReadFile(filepath.Join(checkout, schemaFile))
	if err != nil {
		return "", err
	}
	current := schemaVersion(string(text))
	commits, err := git("log", "--format=%H", "--", schemaFile)
	if err != nil {
		return "", err
	}
	for commit := range strings.FieldsSeq(commits) {
		text, err := git("show", commit+":"+schemaFile)
		if err != nil {
			return "", err
		}
		if v := schemaVersion(text); v > 0 && v < current {
			return commit, nil
		}
	}
	return "", errors.New("the history has no earlier version of the ledger")
}

// schemaVersion is the version of the ledger's tables in their source, 0 where
// it is not told.
func schemaVersion(source string) int {
	_, rest, _ := strings.Cut(source, "const schemaVersion = ")
	digits, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

func git(args ...string) (string, error) {
	c := exec.Command("git", append([]string{"-C", checkout}, args...)...)
	out, err := c.Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w %s", err, e.Stderr)
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return string(out), nil
}

func TestTheVersionOfTheTablesIsFound(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(checkout, schemaFile))
	if err != nil {
		t.Fatal(err)
	}
	if v := schemaVersion(string(text)); v < 5 {
		t.Errorf("version %d", v)
	}
}
