package faults

import (
	"os"
	"os/exec"
	"time"
)

func diskFaults() []fault {
	return []fault{
		{"collector's disk full, and grown", false, func(w *world) {
			w.play = play{minutes: 300}
			grow := w.smallDisk(w.file().disk(), "6m")
			w.begin()
			w.sees(w.collector, time.Minute, "the store fails; nothing is acknowledged until it works")
			w.pass(between(w.rng, 0, 3*time.Second))
			grow("500m")
		}},
		{"agent's disk full", false, func(w *world) {
			w.play = play{minutes: 120}
			w.smallDisk(w.state(), "400k")
			w.begin()
			w.note("a script waits for acknowledgements to make room")
		}},
		{"agent's disk full, collector away", false, func(w *world) {
			w.play = play{minutes: 120}
			w.smallDisk(w.state(), "400k")
			w.begin()
			w.away(between(w.rng, 0, 100*time.Millisecond))
			w.collector.Kill()
			w.away(3 * time.Second)
			if w.agent.Ended() {
				w.t.Fatalf("the agent ended without a collector: %v\n%s", w.agent.Err, w.agent.Tail())
			}
			w.startCollector()
			w.note("a script waits for acknowledgements to make room")
		}},
	}
}

// smallDisk mounts a small file system over a folder.
func (w *world) smallDisk(dir, size string) (grow func(size string)) {
	w.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		w.skip("a small file system can't be mounted without root: %v %s", err, out)
	}
	w.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			w.t.Errorf("umount: %v %s", err, out)
		}
	})
	return func(size string) {
		w.t.Helper()
		if out, err := exec.Command("mount", "-o", "remount,size="+size, dir).CombinedOutput(); err != nil {
			w.t.Fatalf("remount: %v %s", err, out)
		}
	}
}
