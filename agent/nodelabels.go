package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/workload/podwatch"
)

// nodeLabelsWait bounds the wait for the API server when the agent starts.
const nodeLabelsWait = 5 * time.Second

// nodeLabels are the node's labels that rate cards may select on: those of the
// API server that are wanted, under those of the configuration. Where the API
// server can't be asked, those of the last start count, since a device's
// description, and with it its price, should not depend on who is reachable.
func nodeLabels(cfg *Config, node string, logger *slog.Logger) map[string]string {
	labels := maps.Clone(cfg.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	if len(cfg.Kubernetes.NodeLabels) == 0 {
		return labels
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeLabelsWait)
	defer cancel()
	kept := filepath.Join(cfg.StateDir, "node-labels.json")
	found, err := podwatch.NodeLabels(ctx, cfg.Kubernetes.Kubeconfig, node)
	if err == nil {
		maps.DeleteFunc(found, func(k, _ string) bool { return !wanted(cfg.Kubernetes.NodeLabels, k) })
		err = keepLabels(kept, found)
		if err != nil {
			logger.Warn("the node's labels can't be kept for the next start", "error", err)
		}
	} else {
		found = labelsOf(kept)
		logger.Warn("the node's labels can't be asked for: those of the last start count; prices that select on node labels need them",
			"labels", len(found), "error", err)
	}
	for _, k := range slices.Sorted(maps.Keys(found)) { // the same ones at every start
		if _, set := labels[k]; !set && len(labels) < maxLabels {
			labels[k] = found[k]
		}
	}
	return labels
}

// wanted reports whether a key is among the patterns: keys, or prefixes that
// end in an asterisk.
func wanted(patterns []string, key string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, any := strings.CutSuffix(p, "*")
		return key == p || (any && strings.HasPrefix(key, prefix))
	})
}

func keepLabels(name string, labels map[string]string) error {
	b, err := json.Marshal(labels)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o750)
	}
	if err != nil {
		return err
	}
	return writeFile(name, append(b, '\n'))
}

// labelsOf reads what keepLabels kept; nothing where that can't be read.
func labelsOf(name string) map[string]string {
	var labels map[string]string
	b, err := os.ReadFile(name)
	if err != nil || json.Unmarshal(b, &labels) != nil {
		return nil
	}
	return labels
}

// capacityType is how a node is paid for, as the labels that clouds and
// autoscalers give their nodes tell; "" where none does.
func capacityType(labels map[string]string) string {
	is := func(key string, values ...string) bool { return slices.Contains(values, strings.ToLower(labels[key])) }
	switch {
	case is("karpenter.sh/capacity-type", "spot"), is("eks.amazonaws.com/capacityType", "spot"),
		is("cloud.google.com/gke-spot", "true"), is("cloud.google.com/gke-preemptible", "true"),
		is("kubernetes.azure.com/scalesetpriority", "spot"):
		return "spot"
	case is("karpenter.sh/capacity-type", "reserved"), is("eks.amazonaws.com/capacityType", "capacity_block"):
		return "reserved"
	case is("karpenter.sh/capacity-type", "on-demand"), is("eks.amazonaws.com/capacityType", "on_demand"),
		is("cloud.google.com/gke-provisioning", "standard"), is("kubernetes.azure.com/scalesetpriority", "regular"):
		return "on-demand"
	}
	return ""
}
