package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/agent/inference/push"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

// openServing opens what counts what is served. Without pods there is nothing
// to look for servers in.
func (n *gpuNode) openServing(cfg *Config, name string, from Beginning) error {
	c := &cfg.Inference
	dir := filepath.Join(spoolDir(cfg.StateDir, cfg.Cluster, name), "inference")
	if err := n.openPush(c, name, dir, from); err != nil {
		return err
	}
	if n.pods == nil || !c.Enabled {
		return nil
	}
	formats, err := c.formats()
	if err != nil {
		return err
	}
	o := inference.Options{
		Node: name, Pods: n.pods.View, Holders: n.allHolders, Now: from.Now, Unsealed: from.Unsealed, Durable: from.From, Lasting: from.Durable,
		Dir: dir, Interval: c.Interval.Duration,
		Targets: c.MaxTargets, Concurrency: c.Concurrency, Formats: formats, InsecureHTTPS: c.InsecureHTTPS, Log: n.log,
	}
	for i := range c.Rules {
		o.Rules = append(o.Rules, c.Rules[i].rule())
	}
	n.serving, err = inference.New(o)
	return err
}

// allHolders are those of any device, some of them more than once.
func (n *gpuNode) allHolders() (all []*attribution.Owner) {
	for _, u := range n.driver.Units() {
		all = append(all, n.holders(u.ID)...)
	}
	return all
}

// openPush opens what takes counts from those that nobody can read.
func (n *gpuNode) openPush(c *InferenceConfig, name, dir string, from Beginning) (err error) {
	if c.PushListen == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	n.pushed, err = push.New(push.Options{
		Node: name, Listen: c.PushListen, Owners: pushers{n}, Now: from.Now, Unsealed: from.Unsealed, Durable: from.Durable, From: from.From,
		File: filepath.Join(dir, "pushed"), Tenant: c.PushTenant, Tier: c.PushTier, Log: n.log,
	})
	return err
}

// pushers implements push.Owners.
type pushers struct{ n *gpuNode }

func (p pushers) Process(pid uint32) (owner *attribution.Owner, start uint64) {
	id, ok := p.n.processes.Identify(pid)
	if !ok {
		return nil, 0
	}
	return p.n.processes.Owner("", pid, id), id.Start
}

func (p pushers) Known() bool { return p.n.watcher == nil || p.n.watcher.Ready() }

// Address finds the one pod that has an address for itself. Of a pod that is
// over, or on the host's network, the address is others' too.
func (p pushers) Address(ip netip.Addr, container string) *attribution.Owner {
	if p.n.pods == nil {
		return nil
	}
	var pod *pods.Pod
	many := false
	p.n.pods.View().All(func(x *pods.Pod) {
		if x.Gone() || x.Terminal {
			return
		}
		for _, own := range x.IPs {
			if own == ip {
				many = many || pod != nil || x.HostNetwork
				pod = x
			}
		}
	})
	if pod == nil || many {
		return nil
	}
	if container != "" {
		return pod.Owner(container)
	}
	holds := map[string]bool{}
	for _, o := range p.n.allHolders() {
		if o.PodUID == pod.UID {
			holds[o.Container] = true
		}
	}
	first := ""
	for i := range pod.Containers {
		switch c := &pod.Containers[i]; {
		case holds[c.Name]:
			return pod.Owner(c.Name)
		case first == "" && !c.Init:
			first = c.Name
		}
	}
	return pod.Owner(first)
}
