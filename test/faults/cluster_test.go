package faults

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/internal/loopback"
	"github.com/gpuledger/gpuledger/test/programs"
)

const (
	memberCount = 3
	// simulated nodes choose among the collectors; loaded ones, of loadgen,
	// stream to the first.
	simulatedNodes, simulatedDevices = 9, 2
	loadedNodes, loadedDevices       = 30, 2
	// clusterMinutes is how long both play, in real time.
	clusterMinutes = 5
	// soon bounds what takes seconds, on a busy machine.
	soon = 90 * time.Second
)

// member is one of several collectors, and the place where it finds the ledger.
type member struct {
	c          *cluster
	name, addr string
	servers    []string
	proc       *programs.Proc
	stale      string // why an answer was not fresh
}

func (m *member) settings() map[string]any {
	return map[string]any{
		"store": "clickhouse", "data_dir": filepath.Join(m.c.w.dir, m.name),
		"clickhouse": map[string]any{"addresses": m.servers, "cluster": m.c.servers.Name, "name": m.name},
		"peers":      map[string]any{"name": m.name, "addresses": m.c.w.among},
	}
}

func (m *member) launch() { m.proc = m.c.w.launch(m, m.name, m.addr) }

// ready waits until it serves. One that ends for its store is not available is
// started again, as whatever runs it does.
func (m *member) ready() {
	m.c.w.t.Helper()
	for range 5 {
		if !m.proc.Within(5*time.Second) || !strings.Contains(m.proc.Tail(), "store unavailable") {
			break
		}
		m.c.w.t.Logf("%s is started again:\n%s", m.name, m.proc.Tail())
		m.launch()
	}
	m.proc.AwaitReady(m.c.w.t, filepath.Join(m.c.w.dir, m.name+".ready"))
}

func (m *member) ask(args ...string) string {
	m.c.w.t.Helper()
	return m.c.w.answer(m.addr, args...)
}

// cluster is collectors that share a ledger on servers.
type cluster struct {
	w       *world
	servers *clickhousetest.Cluster
	members [memberCount]*member
}

// newCluster starts two shards of two replicas and, all at once, collectors with
// the same rate card. Each asks another server first.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{servers: clickhousetest.Start(t, 2, 2), w: newWorld(t, placeKind{open: inFolder})}
	for range memberCount {
		addr, err := loopback.Address()
		if err != nil {
			t.Fatal(err)
		}
		c.w.among = append(c.w.among, addr)
	}
	at := c.servers.Addresses()
	for i, addr := range c.w.among {
		c.members[i] = &member{c: c, name: fmt.Sprint("collector-", i), addr: addr, servers: append(at[i:len(at):len(at)], at[:i]...)}
		c.members[i].launch()
	}
	for _, m := range c.members {
		m.ready()
	}
	return c
}

// until waits until something is so.
func (c *cluster) until(what string, within time.Duration, so func() bool) {
	c.w.t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > within {
			logs := ""
			for _, m := range c.members {
				logs += fmt.Sprintf("\n%s: %s\n%s", m.name, m.stale, m.proc.Tail())
			}
			c.w.t.Fatalf("not within %s: %s%s", within, what, logs)
		}
		c.w.away(300 * time.Millisecond)
	}
	c.w.t.Logf("after %s: %s", time.Since(began).Round(100*time.Millisecond), what)
}

// fresh reports whether a collector's answer has all of a few recent seconds of
// every node, which have all passed after this call.
func (m *member) fresh() func() bool {
	since := time.Now().Unix()
	return func() bool { return m.freshAfter(since) }
}

func (m *member) freshAfter(since int64) bool {
	m.c.w.t.Helper()
	const seconds = 5
	to := time.Now().Unix() - 10
	if to-seconds <= since {
		return false
	}
	out, errOut, code := m.c.w.ask(m.addr, "report", "--from", strconv.FormatInt(to-seconds, 10), "--to", strconv.FormatInt(to, 10), "--by", "cluster,node", "-o", "csv")
	if code != 0 {
		m.stale = errOut
		return false
	}
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		m.c.w.t.Fatal(err)
	}
	at := slices.Index(lines[0], "device_seconds")
	if at < 0 {
		m.c.w.t.Fatalf("a report is not as it was expected: %v", lines[0])
	}
	nanos, perNode := map[string]int64{}, int64(seconds*simulatedDevices*1e9) // both kinds of node have as many devices
	for _, line := range lines[1:] {
		nanos[line[1]+"/"+line[2]] += billionths(m.c.w.t, line[at]).Int64() // of each basis
	}
	nodes := 0
	for node, got := range nanos {
		if got > perNode {
			m.c.w.t.Errorf("law 4: %s says that %s has %d ns in %d s", m.name, node, got, seconds)
		}
		if got == perNode {
			nodes++
		}
	}
	m.stale = fmt.Sprintf("%d nodes are whole\n%s", nodes, errOut)
	return nodes == simulatedNodes+loadedNodes
}

// said is what matters of a status.
type said struct {
	RateCardRevision, RulesRevision uint32
	Collectors                      map[string]int32 // nodes of those that answer
	Warnings                        []string
}

func (m *member) status() said {
	m.c.w.t.Helper()
	var s struct {
		RateCardRevision uint32   `json:"rate_card_revision"`
		RulesRevision    uint32   `json:"rules_revision"`
		Warnings         []string `json:"warnings"`
		Collectors       []struct {
			Name      string `json:"name"`
			Answering bool   `json:"answering"`
			Nodes     int32  `json:"nodes"`
		} `json:"collectors"`
	}
	if err := json.Unmarshal([]byte(m.ask("status", "-o", "json")), &s); err != nil {
		m.c.w.t.Fatal(err)
	}
	out := said{s.RateCardRevision, s.RulesRevision, map[string]int32{}, s.Warnings}
	for _, x := range s.Collectors {
		if x.Answering {
			out.Collectors[x.Name] = x.Nodes
		}
	}
	return out
}

// spread fails unless every collector knows all, and nodes are spread over them.
func (c *cluster) spread() {
	c.w.t.Helper()
	for _, m := range c.members {
		s := m.status()
		sum := int32(0)
		for name, n := range s.Collectors {
			if n == 0 {
				c.w.t.Logf("%s: no node streams to %s", m.name, name)
			}
			sum += n
		}
		if len(s.Collectors) != memberCount || sum != simulatedNodes+loadedNodes {
			c.w.t.Errorf("%s says that nodes stream to %v", m.name, s.Collectors)
		}
	}
}

// change applies a rate card at one collector and rules at another, and waits
// until they are in force at all. What the play costs, and whose it is, they leave
// as it was.
func (c *cluster) change() {
	c.w.t.Helper()
	card := c.w.write("card.yaml", map[string]any{"currency": "USD", "prices": []map[string]any{
		{"model": "*", "per_device_hour": "2.50"}, {"model": "none is called so", "per_device_hour": "9"},
	}})
	var inForce map[string]any
	if err := yaml.Unmarshal([]byte(c.members[0].ask("rules", "show")), &inForce); err != nil {
		c.w.t.Fatal(err)
	}
	more, _ := inForce["rules"].([]any)
	inForce["rules"] = append(more, map[string]any{"target": "team", "namespace": "nobody's", "value": "nobody"})
	rules := c.w.write("rules.yaml", inForce)
	before := c.members[0].status()
	c.members[1].ask("ratecard", "apply", card)
	c.members[2].ask("rules", "apply", rules)
	for _, m := range c.members {
		c.until("the rate card and the rules of others are in force at "+m.name, soon, func() bool {
			s := m.status()
			return s.RateCardRevision == before.RateCardRevision+1 && s.RulesRevision == before.RulesRevision+1
		})
	}
}

// restart kills a server and starts it again.
func (c *cluster) restart(n *clickhousetest.Node) {
	c.w.t.Helper()
	n.Kill()
	c.w.away(10 * time.Second)
	if err := n.Start(c.w.t.Context()); err != nil {
		c.w.t.Fatal(err)
	}
	c.w.t.Logf("replica %d of shard %d was killed and is back", n.Replica, n.Shard)
}

// TestLaw4CollectorsOfOneLedger has three collectors keep one ledger on two
// shards of two replicas, kills a server of each shard and a collector, twice,
// hangs another, and compares the ledger that each then tells of with that of
// one collector to which nothing happened.
func TestLaw4CollectorsOfOneLedger(t *testing.T) {
	if os.Getenv("GPULEDGER_CLICKHOUSE_CLUSTER") == "" {
		t.Skip("GPULEDGER_CLICKHOUSE_CLUSTER is not set: four servers and three collectors take some eight minutes (make cluster-test)")
	}
	c := newCluster(t)
	w := c.w
	w.play = play{minutes: clusterMinutes, speed: 1, nodes: simulatedNodes, devices: simulatedDevices, start: time.Now().Unix()}
	w.startAgent()
	load := programs.Start(t, filepath.Join(w.dir, "load.log"), now.Path(programs.User), "loadgen", "--collector", c.members[0].addr,
		"--agents", strconv.Itoa(loadedNodes), "--devices", strconv.Itoa(loadedDevices), "--owners", "2",
		"--for", fmt.Sprintf("%dm", clusterMinutes), "--settle", "5m", "--seed", "1")

	for _, m := range c.members {
		c.until(m.name+" sees what all nodes do", soon, m.fresh())
	}
	c.spread()
	c.change()
	c.restart(c.servers.Nodes[1])
	c.members[1].proc.Kill()
	c.until("all nodes are with the collectors that are left", soon, c.members[0].fresh())
	c.members[1].launch()
	c.members[1].ready()
	c.members[2].proc.Signal(syscall.SIGSTOP)
	c.until("all nodes are with the collectors that answer", soon, c.members[0].fresh())
	c.members[2].proc.Signal(syscall.SIGCONT)
	c.restart(c.servers.Nodes[2])
	c.members[1].proc.Kill()
	if w.agent.Ended() {
		t.Error("the play was over before the last fault was: make it longer")
	}

	if !w.agent.Within(5*time.Minute) || w.agent.Err != nil {
		t.Fatalf("the agent: %v\n%s", w.agent.Err, w.agent.Tail())
	}
	if !load.Within(5*time.Minute) || load.Err != nil {
		t.Errorf("the load: %v\n%s", load.Err, load.Tail())
	}
	t.Logf("the load:\n%s", load.Logged())
	c.members[1].launch()
	c.members[1].ready()
	want := undisturbed(t, w.play, now, time.Minute)
	for _, m := range c.members {
		out, errOut, code := w.ask(m.addr, "verify")
		if code != 0 || !strings.Contains(out, "The laws hold") || !strings.Contains(out, fmt.Sprintf("Chained: %d nodes", simulatedNodes+loadedNodes)) {
			t.Errorf("%s: verify: exit %d\n%s%s", m.name, code, out, errOut)
		}
		d := w.read(m.addr, time.Minute, "--filter", "cluster!=loadgen-*").against(want)
		t.Logf("%s: %s", m.name, d)
		if d.broken() {
			t.Errorf("law 4: %s: %s\n%s", m.name, d, strings.Join(d.minutes[:min(len(d.minutes), 50)], "\n"))
		}
	}
	for _, m := range c.members {
		m.proc.Stop(t)
		if m.proc.Err != nil {
			t.Errorf("%s did not stop well: %v\n%s", m.name, m.proc.Err, m.proc.Tail())
		}
	}
}
