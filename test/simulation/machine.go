package simulation

import (
	"fmt"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent"
)

// machine is a node's clocks. Its methods are for any goroutine.
type machine struct {
	mu     sync.Mutex
	name   string
	boots  int
	booted time.Time
	skew   time.Duration // of the wall clock
}

// boot begins another life.
func (m *machine) boot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boots++
	m.booted = time.Now()
}

// stepTo sets the wall clock to be off by so much.
func (m *machine) stepTo(skew time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skew = skew
}

func (m *machine) wall() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.skew).UnixNano()
}

func (m *machine) uptime() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(time.Since(m.booted)) + int64(time.Second)
}

func (m *machine) clocks() agent.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return agent.Machine{Wall: m.wall, Uptime: m.uptime, BootID: fmt.Sprintf("%s-%d", m.name, m.boots)}
}
