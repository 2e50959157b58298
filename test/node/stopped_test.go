package node

import (
	"syscall"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// The agent hangs as a whole (SIGSTOP) and goes on: every second of that time is
// there once, what nobody saw of it is unobserved and the holders'.
func TestAgentStopped(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	x := n.pod("team-x/job", has("main", gpuA+"::0"))
	y := n.pod("team-y/job", has("main", gpuA+"::1", gpuA+"::2"))
	a := n.run(x.c("main"), nvmlstub.Process{Device: gpuA, SM: 34})
	b := n.run(y.c("main"), nvmlstub.Process{Device: gpuA, SM: 27})
	n.start()
	claims := []claim{by(x.c("main")).used(a).holding(1), by(y.c("main")).used(b).holding(2)}
	before := n.observe(3)
	before.expect(gpuA, claims...)
	stopped := time.Now()
	if err := n.agent.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wait := time.NewTimer(20 * time.Second)
	<-wait.C
	again := time.Now()
	if err := n.agent.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	after := n.observe(3)
	after.expect(gpuA, claims...)
	// Of what it caught up with, the live seconds may have been too many to be
	// sent: their chunk brings them when its ten is over.
	n.await("a second of those it caught up with is not in the ledger", func() bool {
		return n.ledger(before.from, after.to).seconds(gpuA) == int(after.to-before.from)
	})
	whole := n.ledger(before.from, after.to)
	// The reading after it may know the last two seconds.
	whole.between(stopped.Unix()+1, again.Unix()-2).unobserved(gpuA, by(x.c("main")).holding(1), by(y.c("main")).holding(2))
	whole.conserved()
}
