package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/agent/workload/kubelet/kubelettest"
	"github.com/gpuledger/gpuledger/internal/loopback"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// node is a machine with GPUs, a kubelet and an agent. Its test's goroutine
// alone uses it.
type node struct {
	t    *testing.T
	name string
	dir  string
	gpus nvmlstub.Scenario // what the stub was told; by change
	// truth is when the processes of the scenario's lines lived.
	truth []*load
	loads int

	kubelet *kubelettest.Server
	podsAPI *kubelettest.PodsServer
	pods    []*pod

	settings map[string]any // of the agent
	variant  nvmlstub.Variant
	env      []string
	http     string
	agent    *program
	starts   int
	// gone says that devices end, or begin late; else each has to be in every
	// second.
	gone map[string]bool
}

// The GPUs of most tests.
const (
	gpuA = "GPU-aaaaaaaa-0000-4000-8000-000000000001"
	gpuB = "GPU-bbbbbbbb-0000-4000-8000-000000000002"
)

func gpu(n int) string { return fmt.Sprintf("GPU-%08d-0000-4000-8000-%012d", n, n) }

// h100 is a GPU that knows everything, t4 one that knows little.
func h100(uuid string, minor int) nvmlstub.Device {
	return nvmlstub.Device{
		UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Minor: minor, Memory: 80 * nvmlstub.GiB,
		GPM: true, Energy: true, Idle: 70, Full: 700,
	}
}

func t4(uuid string, minor int) nvmlstub.Device {
	return nvmlstub.Device{UUID: uuid, Name: "Tesla T4", Minor: minor, Memory: 16 * nvmlstub.GiB}
}

// newNode makes a node with GPUs and a kubelet that lists nothing yet.
func newNode(t *testing.T, devices ...nvmlstub.Device) *node {
	t.Helper()
	t.Parallel()
	if shared.lacks != nil {
		t.Skip(shared.lacks)
	}
	n := &node{
		t: t, name: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), dir: t.TempDir(), gone: map[string]bool{},
		kubelet: kubelettest.New(t), podsAPI: kubelettest.NewPods(t), http: freePort(t),
	}
	n.makeProc()
	n.gpus = nvmlstub.Scenario{
		Start: time.Now().Round(0), ProcFS: n.proc(), Scan: 50 * time.Millisecond, Sampling: nvmlstub.Exact, Devices: devices,
	}
	n.settings = map[string]any{
		"cluster": "test", "node": n.name, "state_dir": filepath.Join(n.dir, "state"), "source": "nvml",
		"nvml": map[string]any{"proc_fs": n.proc()},
		"kubernetes": map[string]any{
			"enabled": "on", "pods": "pods-api", "node_labels": []string{},
			"pod_resources_socket": n.kubelet.Path(), "pods_api_sockets": []string{n.podsAPI.Path()},
			"checkpoint": filepath.Join(n.dir, "checkpoint"),
		},
		"collector": map[string]any{"address": shared.addr}, "http_listen": n.http,
	}
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// now is the time since the scenario began, for its lines.
func (n *node) now() time.Duration { return time.Since(n.gpus.Start) }

// change changes the scenario. What was before stays as it was.
func (n *node) change(f func(*nvmlstub.Scenario)) {
	n.t.Helper()
	if f != nil {
		f(&n.gpus)
	}
	n.must(n.gpus.Write(filepath.Join(n.dir, "scenario")))
}

// start starts the agent and waits until it says that it is ready.
func (n *node) start() {
	n.t.Helper()
	library, err := nvmlstub.Build(n.t.Context(), filepath.Join(shared.dir, "lib"), n.variant)
	n.must(err)
	n.settings["nvml"].(map[string]any)["library"] = library
	n.change(nil)
	text, err := yaml.Marshal(n.settings)
	n.must(err)
	config := filepath.Join(n.dir, "agent.yaml")
	n.must(os.WriteFile(config, text, 0o600))
	env := append([]string{
		nvmlstub.EnvScenario + "=" + filepath.Join(n.dir, "scenario"), "KUBERNETES_SERVICE_HOST=", "NODE_IP=", "NODE_NAME=",
	}, n.env...)
	n.agent, err = launch(filepath.Join(n.dir, "agent.log"), env, filepath.Join(shared.bin, "gpuledger-agent"), "--config", config)
	n.must(err)
	if n.starts++; n.starts == 1 {
		n.t.Cleanup(n.finish)
	}
	n.await("the agent is not ready", func() bool {
		answer, err := http.Get("http://" + n.http + "/readyz")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
}

// crash is kill -9.
func (n *node) crash() { n.agent.kill() }

// finish stops the agent and checks what is true of every test: it did not
// crash, and its whole ledger is without hole and conserves.
func (n *node) finish() {
	if n.t.Failed() {
		n.t.Logf("the agent's log\n%s", n.agent.tail())
	}
	if !n.agent.stop() {
		n.t.Errorf("the agent: %v\n%s", n.agent.cmd.ProcessState, n.agent.tail())
	}
	log, err := os.ReadFile(n.agent.log)
	for _, bad := range []string{"BUG:", "panic", "goroutine "} {
		if err != nil || strings.Contains(string(log), bad) {
			n.t.Errorf("the agent's log: %q, %v\n%s", bad, err, n.agent.tail())
		}
	}
	if through := n.visible(); through > 0 {
		n.read(0, through).conserved()
	} else {
		n.t.Error("the agent has not sealed a second")
	}
}

// await waits for something, at most a minute.
func (n *node) await(not string, is func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("after a minute, %s\n%s", not, n.agent.tail())
		}
		if n.agent.ended() {
			n.t.Fatalf("the agent has ended: %v\n%s", n.agent.cmd.ProcessState, n.agent.tail())
		}
	}
}

// until waits for a moment of the scenario, during which the agent has to live.
func (n *node) until(at time.Duration) {
	n.t.Helper()
	wait := time.NewTimer(at - n.now())
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-n.agent.done:
		n.t.Fatalf("the agent has ended: %v\n%s", n.agent.cmd.ProcessState, n.agent.tail())
	}
}

// visible is the first second that is not in the ledger yet.
func (n *node) visible() int64 {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	status, err := shared.ledger.Status(ctx, &pb.StatusRequest{})
	n.must(err)
	for _, s := range status.GetNodes() {
		if s.GetNode() == n.name {
			return s.GetVisibleThrough()
		}
	}
	return 0
}

// observe is the ledger of the next so many seconds in which nothing has
// changed for three: by then everything was read twice.
func (n *node) observe(seconds int64) *ledger {
	n.t.Helper()
	from := time.Now().Unix() + 3
	return n.ledger(from, from+seconds)
}

// observeSeen is observe, tried again where time of a device is unobserved: a
// machine that is busy with other tests may not let the agent look for a second
// or two, which the ledger says, and which is not what is tested.
func (n *node) observeSeen(seconds int64, devices ...string) *ledger {
	n.t.Helper()
	for try := 1; ; try++ {
		l := n.observe(seconds)
		var missed time.Duration
		for _, d := range devices {
			missed += l.sum(d, "*", "unobserved")
		}
		if missed == 0 || try == 3 {
			return l
		}
		n.t.Logf("%v are unobserved: looking again", missed)
	}
}

// ledger is that of [from, to), once it is there.
func (n *node) ledger(from, to int64) *ledger {
	n.t.Helper()
	n.await(fmt.Sprintf("second %d is not in the ledger", to-1), func() bool { return n.visible() >= to })
	return n.read(from, to)
}

// latest is the ledger of its newest second.
func (n *node) latest() *ledger {
	n.t.Helper()
	n.await("nothing is in the ledger", func() bool { return n.visible() > 0 })
	through := n.visible()
	return n.read(through-1, through)
}

// pod is one of the node's. The kubelet lists it until it is forgotten.
type pod struct {
	n               *node
	namespace, name string
	uid             string
	containers      []*container
	unlisted        bool
	static          bool

	ip          string
	port        int32 // that it serves at, on the host's network; 0: at none
	annotations map[string]string
	started     time.Time // of its containers, zero: it does not say
}

// container is one of a pod's.
type container struct {
	pod    *pod
	name   string
	id     string
	cgroup string
	grants []grant
}

// owner is what the container is called in expectations.
func (c *container) owner() string { return c.pod.namespace + "/" + c.pod.name + "/" + c.name }

// grant is something that a container was given.
type grant struct {
	resource, id        string // of a device plugin
	claim, pool, device string // of DRA
}

// spec is a container to be.
type spec struct {
	name   string
	grants []grant
}

// has is a container that a device plugin has given these to.
func has(name string, ids ...string) spec {
	s := spec{name: name}
	for _, id := range ids {
		s.grants = append(s.grants, grant{resource: "nvidia.com/gpu", id: id})
	}
	return s
}

// claims is a container with a device of a DRA claim.
func claims(name, claim, pool, device string) spec {
	return spec{name: name, grants: []grant{{claim: claim, pool: pool, device: device}}}
}

// serves says where the pod's first container serves: on the host's network,
// since the address is the machine's.
func (p *pod) serves(url string) {
	p.n.t.Helper()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimSuffix(url, "/metrics"), "http://"))
	p.n.must(err)
	number, err := strconv.ParseInt(port, 10, 32)
	p.n.must(err)
	p.port = int32(number)
	p.ip, p.annotations, p.started = host, map[string]string{"gpuledger.io/port": port}, time.Now()
	p.n.podsAPI.Put(p.uid, p.object())
}

// pod adds a pod "namespace/name" to the kubelet, running.
func (n *node) pod(name string, specs ...spec) *pod {
	n.t.Helper()
	namespace, name, _ := strings.Cut(name, "/")
	sum := sha256.Sum256([]byte(fmt.Sprint(n.name, namespace, name, len(n.pods))))
	h := hex.EncodeToString(sum[:])
	p := &pod{n: n, namespace: namespace, name: name, uid: h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:32]}
	for _, s := range specs {
		id := sha256.Sum256([]byte(p.uid + s.name))
		c := &container{pod: p, name: s.name, id: hex.EncodeToString(id[:]), grants: s.grants}
		c.cgroup = podCgroup(p.uid, c.id)
		p.containers = append(p.containers, c)
	}
	n.pods = append(n.pods, p)
	n.podsAPI.Put(p.uid, p.object())
	n.list()
	return p
}

// c is a container of a pod.
func (p *pod) c(name string) *container {
	for _, c := range p.containers {
		if c.name == name {
			return c
		}
	}
	panic("no container " + name)
}

// delete lets the kubelet forget a pod at once, whatever its processes do: so
// does one that was deleted by force.
func (p *pod) delete() {
	p.unlisted = true
	p.n.podsAPI.Delete(p.uid, p.object())
	p.n.list()
}

// freePort is an address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// set changes settings of the agent below a key.
func (n *node) set(key string, values map[string]any) {
	below, ok := n.settings[key].(map[string]any)
	if !ok {
		below = map[string]any{}
		n.settings[key] = below
	}
	maps.Copy(below, values)
}
