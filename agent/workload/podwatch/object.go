package podwatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxItems bounds the lists within one object: containers, their states,
// owners. Nothing real comes near.
const maxItems = 256

var (
	errTooMany = fmt.Errorf("more than %d items in a list", maxItems)
	errNoList  = errors.New("something else where a list was expected")
	errNoMap   = errors.New("something else where an object was expected")
)

// object is a pod as its sources describe it, as far as it matters here. Its
// JSON and its protobuf form give the same.
type object struct {
	Metadata metadata  `json:"metadata"`
	Spec     podSpec   `json:"spec"`
	Status   podStatus `json:"status"`
}

type metadata struct {
	Name            string               `json:"name"`
	Namespace       string               `json:"namespace"`
	UID             string               `json:"uid"`
	ResourceVersion string               `json:"resourceVersion"`
	Labels          map[string]string    `json:"labels"`
	Annotations     annotations          `json:"annotations"`
	OwnerReferences list[ownerReference] `json:"ownerReferences"`
	Deleted         presence             `json:"deletionTimestamp"`
}

// annotations are those that matter here. Others can be large.
type annotations struct {
	ConfigHash   string
	ConfigMirror string
	ConfigSource string
	HAMi         string
	// Serving are those that say where a server tells what it has served.
	Serving map[string]string
}

// servingPrefix is of the annotations that are ours.
const servingPrefix = "gpuledger.io/"

// serving reports whether an annotation says where a server tells what it has
// served.
func serving(name []byte) bool {
	switch string(name) {
	case "prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path", "prometheus.io/scheme",
		"prometheus.kserve.io/port", "prometheus.kserve.io/path":
		return true
	}
	return bytes.HasPrefix(name, []byte(servingPrefix))
}

// keep keeps an annotation that matters. One beyond the bounds of serving ones
// is kept as far as that it is counted.
func (a *annotations) keep(name, text []byte) {
	if to := a.named(name); to != nil {
		*to = string(text)
		return
	}
	if !serving(name) || len(a.Serving) > maxServing {
		return
	}
	if a.Serving == nil {
		a.Serving = make(map[string]string)
	}
	if len(name) > maxLabelKey || len(text) > maxServingBytes {
		a.Serving[servingPrefix] = strings.Repeat("x", maxServingBytes+1) // unfit, and counted as such
		return
	}
	a.Serving[string(name)] = string(text)
}

// UnmarshalJSON reads an object of texts or null, and keeps what matters.
func (a *annotations) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('{'):
		return errNoMap
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name := []byte(key.(string)) // an object's key is a text, or Token fails
		if a.named(name) == nil && !serving(name) {
			var skipped presence
			if err := d.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		var text string
		if err := d.Decode(&text); err != nil {
			return err
		}
		a.keep(name, []byte(text))
	}
	return nil
}

// presence is whether something is there, and not null, whatever it is.
type presence bool

// UnmarshalJSON reads anything.
func (p *presence) UnmarshalJSON(b []byte) error {
	*p = string(b) != "null"
	return nil
}

// named is where an annotation is kept, nil for one that does not matter.
func (a *annotations) named(name []byte) *string {
	switch string(name) {
	case "kubernetes.io/config.hash":
		return &a.ConfigHash
	case "kubernetes.io/config.mirror":
		return &a.ConfigMirror
	case "kubernetes.io/config.source":
		return &a.ConfigSource
	case "hami.io/vgpu-devices-allocated":
		return &a.HAMi
	}
	return nil
}

type ownerReference struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Controller bool   `json:"controller"`
}

type podSpec struct {
	RestartPolicy       string          `json:"restartPolicy"`
	InitContainers      list[container] `json:"initContainers"`
	Containers          list[container] `json:"containers"`
	EphemeralContainers list[container] `json:"ephemeralContainers"`
	HostNetwork         bool            `json:"hostNetwork"`
}

type container struct {
	Name          string         `json:"name"`
	RestartPolicy string         `json:"restartPolicy"`
	RestartRules  list[struct{}] `json:"restartPolicyRules"` // how many
	Ports         ports          `json:"ports"`
}

type port struct {
	Name     string `json:"name"`
	Number   int32  `json:"containerPort"`
	Protocol string `json:"protocol"`
}

// ports are a container's. Some containers declare thousands: those beyond
// maxItems are left out, and the pod is no worse for it.
type ports []port

// room makes place for one more: a place that nobody reads where there are too
// many.
func (l *ports) room() *port {
	if len(*l) >= maxItems {
		return &port{}
	}
	*l = append(*l, port{})
	return &(*l)[len(*l)-1]
}

// UnmarshalJSON reads an array or null.
func (l *ports) UnmarshalJSON(b []byte) error {
	*l = nil
	return elements(b, func(d *json.Decoder) error { return d.Decode(l.room()) })
}

type podIP struct {
	IP string `json:"ip"`
}

type podStatus struct {
	Phase      string                `json:"phase"`
	IP         string                `json:"podIP"`
	HostIP     string                `json:"hostIP"`
	HostIPs    list[podIP]           `json:"hostIPs"`
	IPs        list[podIP]           `json:"podIPs"`
	Init       list[containerStatus] `json:"initContainerStatuses"`
	Containers list[containerStatus] `json:"containerStatuses"`
	Ephemeral  list[containerStatus] `json:"ephemeralContainerStatuses"`
}

type containerStatus struct {
	Name        string         `json:"name"`
	ContainerID string         `json:"containerID"`
	State       containerState `json:"state"`
	LastState   containerState `json:"lastState"`
}

// containerState is running, terminated, or (neither) waiting.
type containerState struct {
	Running    *running    `json:"running"`
	Terminated *terminated `json:"terminated"`
}

type running struct {
	Started unixSeconds `json:"startedAt"`
}

// unixSeconds is a time, 0 for none and for any before 1970.
type unixSeconds int64

// UnmarshalJSON reads a time as Kubernetes writes it. What is none is 0: a pod
// is no worse for it.
func (s *unixSeconds) UnmarshalJSON(b []byte) error {
	var t time.Time
	*s = 0
	if t.UnmarshalJSON(b) == nil {
		*s = unixSeconds(max(t.Unix(), 0))
	}
	return nil
}

type terminated struct {
	ExitCode    int32  `json:"exitCode"`
	ContainerID string `json:"containerID"`
}

// list is a list that is bounded while it is read: a few bytes of JSON or
// protobuf would else become many in memory.
type list[T any] []T

// room makes place for one more, which the caller fills in.
func (l *list[T]) room() (*T, error) {
	if len(*l) >= maxItems {
		return nil, errTooMany
	}
	*l = append(*l, *new(T))
	return &(*l)[len(*l)-1], nil
}

// UnmarshalJSON reads an array or null.
func (l *list[T]) UnmarshalJSON(b []byte) error {
	*l = nil
	return elements(b, func(d *json.Decoder) error {
		x, err := l.room()
		if err != nil {
			return err
		}
		return d.Decode(x)
	})
}

// elements calls f for each element of an array; null has none.
func elements(b []byte, f func(*json.Decoder) error) error {
	d := json.NewDecoder(bytes.NewReader(b))
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('['):
		return errNoList
	}
	for d.More() {
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}
