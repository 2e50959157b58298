package faults

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/internal/loopback"
	"github.com/gpuledger/gpuledger/test/faults/network"
	"github.com/gpuledger/gpuledger/test/programs"
)

// play is what an agent plays: minutes of nodes of a few GPUs, at a speed.
type play struct {
	minutes int
	speed   float64 // 0: as fast as possible
	// Where they are 0: two nodes of four GPUs, from the beginning of 2026 on.
	nodes, devices int
	start          int64 // Unix s
}

// usual takes some ten seconds.
var usual = play{minutes: 40, speed: 240}

// world is one agent and one collector, and what happens to them.
type world struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	dir   string
	play  play
	place place
	link  *network.Link // between them; nil: loopback
	addr  string
	among []string // the collectors that the agent is told of instead; nil: there is one

	// The versions of the programs that are started next.
	agents, collectors programs.Dir
	// settings are more of the collector's.
	settings map[string]any

	agent, collector *programs.Proc
	// before is what a ledger held, by second, that was set aside; nil: none was.
	before *contents

	seen []string // in logs and answers
	why  string   // it was skipped
}

func newWorld(t *testing.T, kind placeKind) *world {
	t.Helper()
	seed := rand.Uint64()
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), play: usual,
		agents: now, collectors: now, settings: map[string]any{},
	}
	w.place = kind.open(t, w.dir)
	if err := os.MkdirAll(w.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	w.addr = addr
	return w
}

// skip ends a fault that can't be had here.
func (w *world) skip(format string, args ...any) {
	w.t.Helper()
	w.why = fmt.Sprintf(format, args...)
	w.t.Skip(w.why)
}

// file is the ledger's place where it is a file of one collector's, or skips.
func (w *world) file() filed {
	w.t.Helper()
	f, ok := w.place.(filed)
	if !ok {
		w.skip("the ledger is no file of one collector's")
	}
	return f
}

func (w *world) state() string { return filepath.Join(w.dir, "agent") }

// begin starts both.
func (w *world) begin() {
	w.t.Helper()
	w.startCollector()
	w.startAgent()
}

func (w *world) write(name string, settings map[string]any) string {
	w.t.Helper()
	b, err := yaml.Marshal(settings)
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

func (w *world) startAgent() {
	w.t.Helper()
	at := w.addr
	if w.link != nil {
		at = network.Right.Address() + ":9440"
	}
	collector := map[string]any{"address": at, "insecure": true}
	if w.among != nil {
		collector = map[string]any{"addresses": w.among, "insecure": true}
	}
	conf := w.write("agent.yaml", map[string]any{
		"source": "simulated", "state_dir": w.state(), "collector": collector,
		"simulated": map[string]any{
			"speed": w.play.speed, "nodes": cmp.Or(w.play.nodes, 2), "devices": cmp.Or(w.play.devices, 4),
			"start": cmp.Or(w.play.start, 1767225600), "duration": fmt.Sprintf("%dm", w.play.minutes),
		},
		// A fault may come before the rate card has.
		"limits": map[string]any{"rate_card_wait": "10m"},
		"log":    map[string]any{"level": "warn"},
	})
	command := []string{w.agents.Path(programs.Agent), "--config", conf}
	if w.link != nil {
		command = w.link.In(network.Left, command...)
	}
	w.agent = programs.Start(w.t, filepath.Join(w.dir, "agent.log"), command...)
}

func (w *world) startCollector() {
	w.t.Helper()
	w.collector = w.launch(w.place, "collector", w.addr)
	w.collector.AwaitReady(w.t, filepath.Join(w.dir, "collector.ready"))
}

// launch starts a collector at a place, and does not wait for it.
func (w *world) launch(p place, name, addr string) *programs.Proc {
	w.t.Helper()
	card, err := filepath.Abs(checkout + "/deploy/examples/flat.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	settings := p.settings()
	settings["grpc_listen"], settings["http_listen"], settings["rate_card"] = addr, "127.0.0.1:0", card
	settings["retention"] = map[string]any{"seconds": "0s", "minutes": "0s", "hours": "0s", "days": "0s"}
	if w.link != nil {
		settings["grpc_listen"], settings["insecure_listen"] = "0.0.0.0:9440", true
	}
	maps.Copy(settings, w.settings)
	conf := w.write(name+".yaml", settings)
	command := []string{w.collectors.Path(programs.Collector), "--config", conf, "--ready-file", filepath.Join(w.dir, name+".ready")}
	if w.link != nil {
		command = w.link.In(network.Right, command...)
	}
	return programs.Start(w.t, filepath.Join(w.dir, name+".log"), command...)
}

// pass lets time pass in which the play must not end, and nothing else may.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	if w.ended(d) {
		w.t.Fatal("the play is over before the fault was: make it longer")
	}
}

// a is a random moment of the play, some of which are soon over.
func (w *world) aWhile() { w.t.Helper(); w.pass(between(w.rng, 300*time.Millisecond, 2*time.Second)) }

// away lets time pass in which either may be gone.
func (w *world) away(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// ended reports whether the play has ended within a time. Anything else that
// ends is a failure.
func (w *world) ended(within time.Duration) bool {
	w.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-w.agent.Done:
		if w.agent.Err != nil {
			w.t.Fatalf("the agent failed: %v\n%s", w.agent.Err, w.agent.Tail())
		}
		return true
	case <-w.collector.Done:
		w.t.Fatalf("the collector ended: %v\n%s", w.collector.Err, w.collector.Tail())
	case <-timer.C:
	}
	return false
}

// sees waits for words in what a program has written, and notes them.
func (w *world) sees(p *programs.Proc, within time.Duration, words string) {
	w.t.Helper()
	for range within / (20 * time.Millisecond) {
		if strings.Contains(p.Logged(), words) {
			w.note("`" + words + "`")
			return
		}
		p.Within(20 * time.Millisecond)
	}
	w.t.Fatalf("nothing says %q:\n%s", words, p.Tail())
}

// mayHaveSeen notes words that some of the faults of a kind lead to.
func (w *world) mayHaveSeen(words ...string) {
	for _, p := range []*programs.Proc{w.agent, w.collector} {
		for _, x := range words {
			if strings.Contains(p.Logged(), x) {
				w.note("`" + x + "`")
			}
		}
	}
}

func (w *world) note(what string) { w.seen = append(w.seen, what) }

// ask runs one of the user's commands at a collector.
func (w *world) ask(addr string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	command := append([]string{now.Path(programs.User)}, args...)
	if w.link != nil {
		addr = "127.0.0.1:9440"
		command = w.link.In(network.Right, command...)
	}
	return programs.Run(w.t, append(command, "--collector", addr)...)
}

func (w *world) answer(addr string, args ...string) string {
	w.t.Helper()
	out, errOut, code := w.ask(addr, args...)
	if code != 0 {
		w.t.Fatalf("gpuledger %v: exit %d\n%s%s", args, code, out, errOut)
	}
	return out
}

var storedThrough = regexp.MustCompile(`"stored_through": "[1-9]`)

// stored waits until something of the play is in the ledger.
func (w *world) stored() {
	w.t.Helper()
	for !storedThrough.MatchString(w.answer(w.addr, "status", "-o", "json")) {
		w.pass(50 * time.Millisecond)
	}
}

// read is all that a collector's ledger holds, or what filters leave of it.
func (w *world) read(addr string, step time.Duration, filters ...string) *contents {
	w.t.Helper()
	report := []string{"report", "--step", step.String(), "--by", strings.Join(grouped, ","), "-o", "csv"}
	inferences := []string{"inferences", "--by", "pod,model,tier", "-o", "csv"}
	return parse(w.t, w.answer(addr, append(report, filters...)...), w.answer(addr, append(inferences, filters...)...), step)
}

// settle lets the play come to its end, has the laws verified, and compares the
// ledger with what it should be.
func (w *world) settle() difference {
	w.t.Helper()
	if !w.ended(5 * time.Minute) {
		w.t.Fatalf("not done in 5 minutes\n%s\n%s", w.agent.Tail(), w.collector.Tail())
	}
	w.mayHaveSeen("the stream ended; what is not acknowledged is kept and sent again", "damaged segment", "the log ends at its damage", "THE SPOOL IS FULL")
	step := time.Minute
	if w.before != nil {
		step = time.Second
	}
	got := w.read(w.addr, step)
	if out := w.answer(w.addr, "verify"); !strings.Contains(out, "The laws hold") {
		w.t.Errorf("verify says\n%s", out)
	}
	w.collector.Signal(syscall.SIGTERM)
	if !w.collector.Within(time.Minute) || w.collector.Err != nil {
		w.t.Errorf("the collector did not stop: %v\n%s", w.collector.Err, w.collector.Tail())
	}
	if w.before != nil {
		var both int
		got, both = got.with(w.t, w.before)
		w.t.Logf("%d seconds of devices are in both ledgers: stored and not acknowledged", both)
	}
	return got.against(undisturbed(w.t, w.play, w.agents, step))
}

// kept are the ledgers of plays in which nothing happened.
var kept struct {
	sync.Mutex
	plays map[keptKey]*keptPlay
}

type keptKey struct {
	play   play
	agents programs.Dir
}

type keptPlay struct {
	sync.Once
	minutes, seconds *contents
}

// undisturbed is the ledger of a play in which nothing happens, as fast as it
// goes.
func undisturbed(t *testing.T, p play, agents programs.Dir, step time.Duration) *contents {
	t.Helper()
	p.speed = 0
	key := keptKey{p, agents}
	kept.Lock()
	if kept.plays == nil {
		kept.plays = make(map[keptKey]*keptPlay)
	}
	x := kept.plays[key]
	if x == nil {
		x = &keptPlay{}
		kept.plays[key] = x
	}
	kept.Unlock()
	x.Do(func() {
		w := newWorld(t, placeKind{open: inFolder})
		w.play, w.agents = p, agents
		w.begin()
		if !w.ended(5 * time.Minute) {
			t.Fatal("an undisturbed play is not done in 5 minutes")
		}
		x.minutes = w.read(w.addr, time.Minute)
		if p.minutes <= usual.minutes {
			x.seconds = w.read(w.addr, time.Second)
		}
		w.collector.Stop(t)
	})
	kept := x.minutes
	if step == time.Second {
		kept = x.seconds
	}
	if kept == nil {
		t.Fatal("there is nothing to compare with")
	}
	return kept
}
