package podwatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxItems bounds the lists within one object: containers, their states,
// owners. Nothing real comes near.
const maxItems = 256

var (
	errTooMany = fmt.Errorf("more than %d items in a list", maxItems)
	errNoList  = errors.New("something else where a list was expected")
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
}

// annotations are those that matter here. Others can be large.
type annotations struct {
	ConfigHash   string `json:"kubernetes.io/config.hash"`
	ConfigMirror string `json:"kubernetes.io/config.mirror"`
	ConfigSource string `json:"kubernetes.io/config.source"`
	HAMi         string `json:"hami.io/vgpu-devices-allocated"`
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
}

type container struct {
	Name          string         `json:"name"`
	RestartPolicy string         `json:"restartPolicy"`
	RestartRules  list[struct{}] `json:"restartPolicyRules"` // how many
}

type podStatus struct {
	Phase      string                `json:"phase"`
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
	Running    *struct{}   `json:"running"`
	Terminated *terminated `json:"terminated"`
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
		x, err := l.room()
		if err != nil {
			return err
		}
		if err := d.Decode(x); err != nil {
			return err
		}
	}
	return nil
}
