package otlp

import (
	"fmt"
	"hash/fnv"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/gpuledger/gpuledger/agent/exporter"
)

// attributes are key-values, each key once.
type attributes []*commonpb.KeyValue

// text adds an attribute, unless it is empty: that would say that it is known
// to be.
func (as attributes) text(key, value string) attributes {
	if value == "" {
		return as
	}
	return append(as, &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}})
}

// nodeResource has everything of the node's resource but service.instance.id.
func nodeResource(o *Options, s *exporter.Snapshot) attributes {
	return attributes{}.
		text("service.name", "gpuledger-agent").
		text("service.version", o.Version).
		text("k8s.cluster.name", s.Cluster).
		text("k8s.node.name", s.Node).
		text("host.name", o.HostName)
}

// controllerKeys name the controllers that have an attribute of their own.
var controllerKeys = map[string]string{
	"Deployment":            "k8s.deployment.name",
	"StatefulSet":           "k8s.statefulset.name",
	"DaemonSet":             "k8s.daemonset.name",
	"ReplicaSet":            "k8s.replicaset.name",
	"ReplicationController": "k8s.replicationcontroller.name",
	"Job":                   "k8s.job.name",
	"CronJob":               "k8s.cronjob.name",
}

// ownerResource is the resource of an owner on the node.
func (b *builder) ownerResource(o *exporter.Owner, labels []string) attributes {
	as := append(attributes{}, b.node...).
		text("k8s.namespace.name", o.Namespace).
		text("k8s.pod.name", o.Pod).
		text("k8s.pod.uid", o.PodUID).
		text("k8s.container.name", o.Container).
		text("process.executable.name", o.Process).
		text("gpuledger.owner.kind", o.Kind)
	if key := controllerKeys[o.ControllerKind]; key != "" {
		as = as.text(key, o.Controller)
	} else {
		as = as.text("gpuledger.controller.kind", o.ControllerKind).text("gpuledger.controller.name", o.Controller)
	}
	for i, value := range o.Labels {
		as = as.text("k8s.pod.label."+labels[i], value)
	}
	return as.text("service.instance.id", b.o.InstanceID+"/"+hash(as))
}

// hash tells resources of a node apart.
func hash(as attributes) string {
	h := fnv.New64a()
	for _, a := range as {
		_, _ = fmt.Fprintf(h, "%q=%q,", a.GetKey(), a.GetValue().GetStringValue()) // a hash never fails
	}
	return fmt.Sprintf("%016x", h.Sum64())
}
