package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/programs"
)

// kills is how often each program is killed: a few times by default, as often
// as GPULEDGER_KILLS says.
func kills(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("GPULEDGER_KILLS"))
	if err != nil {
		return 4
	}
	return n
}

// TestLaw3And4KilledAtRandomPoints kills agent and collector with kill -9 at
// random points of a play, again and again; the ledger is the same, row by
// row, as if nothing had happened.
func TestLaw3And4KilledAtRandomPoints(t *testing.T) {
	n := kills(t)
	p, step, longest := play{minutes: 60 + 40*n}, "1m", 300
	if n > 10 {
		// All kills have to fall into the play, and a program that is started
		// again first has to go over what was: a day of a production fleet,
		// slowed down, is long and quick to go over.
		p = play{recording: filepath.Join(t.TempDir(), "gentd26.jsonl"), speed: 400}
		step, longest = "1h", 1500 // an answer has 100,000 rows at most
		ledger(t, "import", "gentd26", programs.Traces(t, "gentd26"), "-o", p.recording)
	}
	want := undisturbed(t, p, step)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d kills each", seed, n)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, t.TempDir(), p)
	w.startCollector()
	w.startAgent()
	done := 0
	for ; done < 2*n; done++ {
		if w.wait(time.Duration(20+rng.IntN(longest)) * time.Millisecond) {
			break
		}
		if done%2 == 0 {
			w.agent.Kill()
			w.startAgent()
		} else {
			w.collector.Kill()
			w.startCollector()
		}
	}
	if done < 2*n {
		t.Errorf("the play was over after %d of %d kills: make it longer", done, 2*n)
	}
	w.finish()
	w.same(want, step)
}

// smallDisk mounts a small filesystem over a folder, or skips.
func smallDisk(t *testing.T, dir, size string) (grow func(size string)) {
	t.Helper()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small filesystem can't be mounted here: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return func(size string) {
		if out, err := exec.Command("mount", "-o", "remount,size="+size, dir).CombinedOutput(); err != nil {
			t.Fatalf("remount: %v %s", err, out)
		}
	}
}

// TestLaw8StoreDiskFull fills the store's disk in the middle of a play: nothing
// is acknowledged that is not stored, the agent keeps what is not acknowledged,
// and with space everything goes on to the same ledger.
func TestLaw8StoreDiskFull(t *testing.T) {
	const step = "1m"
	p := play{minutes: 300}
	want := undisturbed(t, p, step)
	w := newWorld(t, t.TempDir(), p)
	grow := smallDisk(t, w.ledger(), "6m")
	w.startCollector()
	w.startAgent()
	if w.wait(5 * time.Second) {
		t.Fatal("the play fitted on the small disk: make it longer, or the disk smaller")
	}
	grow("500m")
	w.finish()
	w.same(want, step)
}

// TestLaw8SpoolDiskFull plays with a spool's disk that holds far less than the
// play: the play waits for acknowledgements to make room, and loses nothing.
func TestLaw8SpoolDiskFull(t *testing.T) {
	const step = "1m"
	p := play{minutes: 120}
	want := undisturbed(t, p, step)
	w := newWorld(t, t.TempDir(), p)
	smallDisk(t, filepath.Join(w.dir, "agent"), "400k")
	w.startCollector()
	w.startAgent()
	w.finish()
	w.same(want, step)
}

// TestLaw4CollectorAway plays two hours of windows with no collector there,
// then starts it: nothing is lost, and it catches up.
func TestLaw4CollectorAway(t *testing.T) {
	const step = "1m"
	p := play{minutes: 120}
	want := undisturbed(t, p, step)
	w := newWorld(t, t.TempDir(), p)
	w.startCollector()
	w.startAgent()
	w.wait(200 * time.Millisecond) // it has its rate card, and a little is stored
	w.collector.Kill()
	select {
	case <-w.agent.Done:
		t.Fatalf("the agent ended without a collector: %v\n%s", w.agent.Err, w.agent.Tail())
	case <-time.After(4 * time.Second):
	}
	w.startCollector()
	w.finish()
	w.same(want, step)
}
