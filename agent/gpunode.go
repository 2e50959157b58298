package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/agent/inference/push"
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/dcgm"
	"github.com/gpuledger/gpuledger/agent/sampler/nvml"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/agent/workload/podwatch"
	"github.com/gpuledger/gpuledger/agent/workload/process"
	"github.com/gpuledger/gpuledger/agent/workload/slurm"
	"github.com/gpuledger/gpuledger/attribution"
)

// gpuNode is everything that is seen of a real node: the driver's devices, who
// holds them, and whose the processes on them are. What is not there is nil.
//
//	podwatch ─▶ pods ─┬─▶ kubelet, slurm ──▶ holdings ─▶ feed
//	                  ├─▶ process ─▶ nvml ──▶ devices, samples ─▶ feed
//	                  │        dcgm ─┘
//	                  └─▶ inference ────────▶ tallies ─▶ feed
type gpuNode struct {
	driver    *nvml.Sampler
	processes *process.Table
	dcgm      *dcgm.Source
	pods      *pods.Directory
	watcher   *podwatch.Watcher
	slices    *podwatch.Slices
	kubelet   *kubelet.Watcher
	slurm     *slurm.Watcher
	serving   *inference.Sampler
	pushed    *push.Server
	log       *slog.Logger
	now       func() int64      // Unix ns, the timeline of events
	orphans   []sampler.Holding // restored, and known to nothing here
}

// noDriverHint says what to do on a machine without a GPU.
const noDriverHint = `install the driver, or choose another source:
  --source simulated                 a simulated fleet
  --source replay --recording FILE   a recording`

// openGPUNode opens the driver, to know that it is there before anything else
// begins, and checks that pids can be trusted.
func openGPUNode(cfg *Config, logger *slog.Logger) (Source, error) {
	name, err := cfg.NodeName(os.Getenv)
	if err != nil {
		return Source{}, err
	}
	if err := checkPIDs(&cfg.NVML, logger); err != nil {
		return Source{}, err
	}
	n := &gpuNode{log: logger}
	inKubernetes := usesKubernetes(&cfg.Kubernetes, logger)
	labels, capacity := cfg.Labels, cfg.CapacityType
	if inKubernetes {
		labels = nodeLabels(cfg, name, logger)
		capacity = cmp.Or(capacity, capacityType(labels))
	}
	n.processes = process.New(process.Options{
		Cluster: cfg.Cluster, Node: name, ProcFS: cfg.NVML.ProcFS, Untrusted: cfg.NVML.PIDs == PIDsForeign,
		Pods: n.view(inKubernetes), Holders: n.holders, Log: logger,
	})
	if err := n.openDCGM(cfg); err != nil {
		return Source{}, err
	}
	options := nvml.Options{
		Cluster: cfg.Cluster, Node: name, Labels: attribution.MakeLabels(labels), CapacityType: capacity,
		Owners: n.processes, Log: logger, LibraryPath: cfg.NVML.Library,
	}
	if n.dcgm != nil {
		options.Activity = n.dcgm
	}
	n.driver, err = nvml.Open(options)
	if errors.Is(err, nvml.ErrNoDriver) {
		err = fmt.Errorf("%w; %s", err, noDriverHint)
	}
	if err != nil {
		n.processes.Close()
		return Source{}, err
	}
	return Source{Holds: inKubernetes || cfg.Slurm.JobDir != "", Live: func(from Beginning) (sampler.Live, error) {
		n.driver.SetClock(from.Now)
		if err := n.openHolders(cfg, name, inKubernetes, from); err != nil {
			return nil, err
		}
		return n, n.openServing(cfg, name, from)
	}}, nil
}

// checkPIDs fails where the driver's pids can't be told apart, unless the
// configuration says that they need not.
func checkPIDs(cfg *NVMLConfig, logger *slog.Logger) error {
	if cfg.PIDs == PIDsForeign {
		logger.Warn("nvml.pids is foreign: pids are not trusted, and all GPU processes are unattributed")
		return nil
	}
	if err := process.CheckPIDNamespace(cfg.ProcFS, cfg.PIDs == PIDsOfNested); err != nil {
		return fmt.Errorf("%w; or set nvml.pids: nested, or foreign, which leaves all processes unattributed", err)
	}
	return nil
}

func usesKubernetes(cfg *KubernetesConfig, logger *slog.Logger) bool {
	switch cfg.Enabled {
	case KubernetesOn:
		return true
	case KubernetesOff:
		return false
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return true
	}
	_, err := os.Stat(cfg.PodResourcesSocket)
	if err != nil {
		logger.Info("no kubelet here: GPUs are held by nobody, processes answer for themselves", "error", err)
	}
	return err == nil
}

// view makes the directory of pods, and is how it is read.
func (n *gpuNode) view(inKubernetes bool) func() *pods.View {
	if !inKubernetes {
		return nil
	}
	return func() *pods.View { return n.pods.View() }
}

func (n *gpuNode) openDCGM(cfg *Config) (err error) {
	if cfg.DCGM.Mode == string(dcgm.Off) {
		return nil
	}
	o := dcgm.Options{Mode: dcgm.Mode(cfg.DCGM.Mode), Address: cfg.DCGM.Address, Log: n.log}
	for _, name := range cfg.DCGM.Fields {
		f, err := dcgm.ParseField(name)
		if err != nil {
			return err
		}
		o.Extra = append(o.Extra, f)
	}
	n.dcgm, err = dcgm.Open(o)
	return err
}

// openHolders opens what knows who holds the devices. What they held in the
// last run is taken over by the one that knows such owners.
func (n *gpuNode) openHolders(cfg *Config, name string, inKubernetes bool, from Beginning) (err error) {
	jobs := slurm.Options{
		Dir: cfg.Slurm.JobDir, Cluster: cfg.Cluster, Node: name, Units: n.driver.Units, Now: from.Now, Initial: from.Held, Log: n.log,
	}
	if jobs.Dir != "" {
		n.slurm = slurm.New(jobs)
	}
	n.orphans = slices.DeleteFunc(slices.Clone(from.Held), func(h sampler.Holding) bool {
		return (inKubernetes && h.Owner.Kind == attribution.Container) || (n.slurm != nil && jobs.Owns(h.Owner))
	})
	n.now = from.Now
	if !inKubernetes {
		return nil
	}
	k := &cfg.Kubernetes
	n.pods = pods.NewDirectory(cfg.Cluster, name)
	url := k.KubeletURL
	if ip := os.Getenv("NODE_IP"); url == "" && ip != "" {
		url = "https://" + net.JoinHostPort(ip, "10250")
	}
	n.watcher, err = podwatch.New(podwatch.Options{
		Directory: n.pods, Node: name, Source: k.Pods, Sockets: k.PodsAPISockets, Kubeconfig: k.Kubeconfig,
		KubeletURL: url, CAFile: k.KubeletCAFile, InsecureSkipVerify: k.KubeletInsecure, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.slices, err = podwatch.NewSlices(podwatch.SlicesOptions{Node: name, Kubeconfig: k.Kubeconfig, Log: n.log})
	if err != nil {
		return err
	}
	n.kubelet, err = kubelet.New(kubelet.Options{
		Cluster: cfg.Cluster, Node: name, Socket: k.PodResourcesSocket, Checkpoint: k.Checkpoint,
		Pods: n.pods, Units: n.driver.Units, UnitsChanged: n.driver.UnitsChanged(), Slices: n.slices.Lookup, SlicesChanged: n.slices.Changed(), Resources: k.Resources,
		Living:  func() (map[string]bool, error) { return process.Living(cfg.NVML.ProcFS) },
		Initial: from.Held, Now: from.Now, Log: n.log,
	})
	return err
}

// holders are those of a device, whoever knows them.
func (n *gpuNode) holders(device string) []*attribution.Owner {
	switch {
	case n.kubelet == nil && n.slurm == nil:
		return nil
	case n.slurm == nil:
		return n.kubelet.Holders(device)
	case n.kubelet == nil:
		return n.slurm.Holders(device)
	}
	return slices.Concat(n.kubelet.Holders(device), n.slurm.Holders(device))
}

// Run implements sampler.Live. The driver's end is the node's; nothing else is
// a reason to stop looking.
func (n *gpuNode) Run(ctx context.Context, producer func() sampler.Producer) error {
	n.releaseOrphans(producer)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	aside := func(what string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("a part of the agent ended; the rest goes on", "part", what, "error", err)
			}
		})
	}
	if n.kubelet != nil {
		aside("pods", n.watcher.Run)
		aside("resource slices", n.slices.Run)
		aside("kubelet", func(ctx context.Context) error { return n.kubelet.Run(ctx, producer) })
		aside("unknown pods", n.poke)
	}
	if n.pushed != nil {
		aside("push", func(ctx context.Context) error { return n.pushed.Run(ctx, producer) })
	}
	if n.serving != nil {
		aside("inference", func(ctx context.Context) error { return n.serving.Run(ctx, producer) })
	}
	if n.slurm != nil {
		aside("slurm", func(ctx context.Context) error { return n.slurm.Run(ctx, producer) })
	}
	if n.dcgm != nil {
		aside("dcgm", n.dcgm.Run)
	}
	err := n.driver.Run(ctx, producer)
	cancel()
	wg.Wait()
	if n.dcgm != nil {
		err = errors.Join(err, n.dcgm.Close())
	}
	n.processes.Close()
	return err
}

// releaseOrphans ends the restored holdings of owners whom nothing here knows
// any more: the configuration has changed.
func (n *gpuNode) releaseOrphans(producer func() sampler.Producer) {
	if len(n.orphans) == 0 {
		return
	}
	p := producer()
	defer p.Close()
	for _, h := range n.orphans {
		p.Yield(&sampler.Event{Kind: sampler.Released, Time: n.now(), Node: h.Owner.Node, DeviceID: h.DeviceID, Owner: h.Owner})
	}
}

// poke has pods read again while somebody is waiting for one that is unknown.
func (n *gpuNode) poke(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var asked asking
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			unknown := asked.again(n.processes.Stats().UnknownPod)
			if unknown || n.kubelet.Stats().Waiting > 0 {
				n.watcher.Poke()
			}
		}
	}
}

// asking is for how long somebody has asked for a pod that is unknown.
type asking struct {
	answers uint64
	seconds int
}

// again reports, once a second, whether the pods are to be read again, given
// how often the answer was that a pod is unknown: in the first second in which
// it was, the second, the fourth and the eighth. A pod that stays unknown, such
// as another cluster's on the same machine, is no reason to read all pods every
// second for ever.
func (a *asking) again(answers uint64) bool {
	more := answers != a.answers
	a.answers = answers
	if !more {
		a.seconds = 0
		return false
	}
	a.seconds++
	return a.seconds <= 8 && a.seconds&(a.seconds-1) == 0
}

// ready fails while holdings can't be told.
func (n *gpuNode) ready() error {
	if n.kubelet == nil {
		return nil
	}
	if err := n.kubelet.Ready(); err != nil {
		return err
	}
	if !n.watcher.Ready() {
		return errors.New("the node's pods are not known yet: neither the kubelet's Pods API, nor the API server, nor the kubelet's /pods has answered")
	}
	return nil
}
