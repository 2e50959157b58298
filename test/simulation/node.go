package simulation

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/spool"
	"github.com/gpuledger/gpuledger/agent/spool/memfs"
	"github.com/gpuledger/gpuledger/attribution"
)

// node is a machine with GPUs: its clocks, its disk, its network, and the agent
// that runs there now and then.
type node struct {
	w       *world
	name    string
	r       *rand.Rand // the director's
	script  *script
	machine *machine
	fs      *memfs.FS
	link    *link
	phase   int64
	spool   int64 // limit in bytes
	maxGap  time.Duration

	on  bool // the machine
	log nodeLog

	mu    sync.Mutex
	agent *agentLife // nil: none runs
	hung  bool
}

// agentLife is one process.
type agentLife struct {
	disk   *disk
	stop   context.CancelFunc
	abort  context.CancelFunc
	done   chan struct{}
	killed bool
	source *source // nil until it is opened
	begun  *begin  // what the model knows of it
}

const stateDir = "/state"

func (n *node) spoolDir() string { return filepath.Join(stateDir, cluster, n.name) }

// powerOn boots the machine; nothing runs on it yet.
func (n *node) powerOn() {
	if n.on || n.w.asleep {
		return
	}
	n.on = true
	n.machine.boot()
	n.log.booted()
}

// config is the agent's.
func (n *node) config() agent.Config {
	cfg := agent.DefaultConfig()
	cfg.Cluster, cfg.Node, cfg.StateDir = cluster, n.name, stateDir
	cfg.Spool.MaxBytes = n.spool
	cfg.Limits.MaxGap.Duration = n.maxGap
	return cfg
}

// start runs the agent, unless it runs or the machine is off.
func (n *node) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.on || n.agent != nil || n.w.asleep {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	abortable, abort := context.WithCancel(context.Background())
	life := &agentLife{disk: &disk{FS: n.fs}, stop: stop, abort: abort, done: make(chan struct{}), begun: n.log.starts()}
	jitter := rand.New(rand.NewPCG(n.r.Uint64(), 1))
	var jitterMu sync.Mutex
	a, err := agent.New(n.config(), agent.Source{Live: func(b agent.Beginning) (sampler.Live, error) {
		return n.opened(life, b), nil
	}}, agent.Deps{
		Client: n.link, FS: life.disk, Machine: n.machine.clocks(), Log: n.w.logger("agent " + n.name), Version: "sim", Abort: abortable,
		Rand: func() float64 {
			jitterMu.Lock()
			defer jitterMu.Unlock()
			return jitter.Float64()
		},
	})
	if err != nil {
		n.w.broken("agent %s: %v", n.name, err)
		return
	}
	n.agent = life
	go func() {
		defer close(life.done)
		if err := a.Run(ctx); err != nil {
			n.ended(life, err)
		}
	}()
}

// opened makes the source of an agent's life.
func (n *node) opened(life *agentLife, b agent.Beginning) sampler.Live {
	var last, lastUptime int64
	s := newSource(n.script, b, n.phase, func(now int64) {
		uptime := n.machine.uptime()
		n.paced(now-last, uptime-lastUptime, last == 0)
		last, lastUptime = now, uptime
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	s.hang(n.hung)
	life.source = s
	life.begun.opened(s, b.Now(), n.machine.uptime())
	n.w.event("agent %s goes on from %d at %d", n.name, b.From, attribution.SecondOf(b.Now()))
	return s
}

// paced checks that the timeline goes on as the machine's own time does, to
// within a twentieth (law 8).
func (n *node) paced(passed, uptime int64, first bool) {
	const slack = int64(20 * time.Millisecond)
	if !first && (passed < uptime-uptime/20-slack || passed > uptime+uptime/20+slack) {
		n.w.broken("law 8: the timeline of %s went on by %d ns in %d ns", n.name, passed, uptime)
	}
}

// ended is told that an agent gave up. Whoever runs agents starts it again.
func (n *node) ended(life *agentLife, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent != life || life.killed {
		return
	}
	n.w.event("agent %s gave up: %v", n.name, err)
	n.agent = nil
	n.log.ends(life, killed)
	life.disk.kill()
	life.stop()
	life.abort()
	n.w.later(10*time.Second, n.start)
}

// take takes the running agent.
func (n *node) take(how ending) *agentLife {
	n.mu.Lock()
	defer n.mu.Unlock()
	life := n.agent
	n.agent = nil
	if life != nil {
		life.killed = true
		n.log.ends(life, how)
	}
	return life
}

// kill ends the agent's process at once. What it wrote the machine keeps.
func (n *node) kill() {
	life := n.take(killed)
	if life == nil {
		return
	}
	life.disk.kill()
	n.gone(life)
}

// gone waits for the goroutines of a dead process.
func (n *node) gone(life *agentLife) {
	n.link.cut()
	life.abort()
	life.stop()
	<-life.done
	n.link.wg.Wait()
}

// powerOff ends the machine at once: what was not synced may be lost.
func (n *node) powerOff() {
	if !n.on {
		return
	}
	life := n.take(poweredOff)
	n.on = false
	n.log.off()
	if life != nil {
		life.disk.kill()
	}
	heal(n.fs)
	if life == nil {
		n.fs = n.fs.Crash(n.r)
		return
	}
	n.fs = life.disk.left(n.fs, n.r)
	n.gone(life)
}

// leave stops the agent gracefully.
func (n *node) leave() {
	life := n.alive()
	if life == nil {
		return
	}
	n.log.ends(life, stopped) // nothing is sealed from here on
	life.stop()
	<-life.done
	n.take(stopped)
	life.disk.kill() // lets go of its lock, if it has not
	life.abort()
}

func (n *node) alive() *agentLife {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

// hang has the source see nothing.
func (n *node) hang(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hung = on
	if n.agent != nil && n.agent.source != nil {
		n.agent.source.hang(on)
	}
}

// damage rots the spool in some way.
func (n *node) damage(how func(*memfs.FS, string, *rand.Rand) (damage, error)) {
	d, err := how(n.fs, n.spoolDir(), n.r)
	if err != nil {
		n.w.broken("%v", err)
	}
	n.log.damaged(d, n.alive() != nil)
}

var _ spool.FS = (*disk)(nil)
