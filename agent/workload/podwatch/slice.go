package podwatch

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/agent/workload/deviceid"
)

// nvidiaDriver is the DRA driver whose devices count even without a UUID: it
// makes MIG devices when they are claimed.
const nvidiaDriver = "gpu.nvidia.com"

// slice is a ResourceSlice of any version, as far as it matters here.
type slice struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Driver   string `json:"driver"`
		NodeName string `json:"nodeName"`
		Pool     struct {
			Name       string `json:"name"`
			Generation int64  `json:"generation"`
		} `json:"pool"`
		Devices list[device] `json:"devices"`
	} `json:"spec"`
}

// device is one of a slice's. Before v1beta2 most of it was one level down.
type device struct {
	Name  string  `json:"name"`
	Basic *device `json:"basic"`

	Attributes map[string]attribute       `json:"attributes"`
	Capacity   map[string]json.RawMessage `json:"capacity"`
	Consumes   list[struct {
		Counters map[string]json.RawMessage `json:"counters"`
	}] `json:"consumesCounters"`
}

// published is what is kept of a slice.
type published struct {
	name       string
	generation int64
	devices    map[deviceName]deviceid.Attributes
}

func (x *slice) published() *published {
	p := &published{name: x.Metadata.Name, generation: x.Spec.Pool.Generation, devices: make(map[deviceName]deviceid.Attributes)}
	for i := range x.Spec.Devices {
		d := &x.Spec.Devices[i]
		n := deviceName{x.Spec.Driver, x.Spec.Pool.Name, d.Name}
		if a, ok := d.attributes(x.Spec.Driver); ok && text(n.driver, 1, maxName) && text(n.pool, 1, maxName) && text(n.device, 1, maxName) {
			p.devices[n] = a
		}
	}
	return p
}

type attribute struct {
	String *string `json:"string"`
	Int    *int64  `json:"int"`
}

// attributes are what the driver says of a device; false where that says
// nothing about what NVML calls it.
func (d *device) attributes(driver string) (deviceid.Attributes, bool) {
	if d.Basic != nil {
		d = d.Basic
	}
	a := deviceid.Attributes{
		UUID: d.text(driver, "uuid"), ParentUUID: d.text(driver, "parentUUID"),
		Type: d.text(driver, "type"), Profile: d.text(driver, "profile"),
		Minor: d.number(driver, "minor"), Placement: -1,
	}
	if a.Minor < 0 {
		a.Minor = d.number(driver, "parentMinor")
	}
	if a.Type == "mig" {
		a.Placement = d.placement()
	}
	return a, driver == nvidiaDriver || a.UUID != ""
}

// named finds an attribute; names without a domain are in the driver's.
func (d *device) named(driver, name string) attribute {
	if a, ok := d.Attributes[name]; ok {
		return a
	}
	return d.Attributes[driver+"/"+name]
}

func (d *device) text(driver, name string) string {
	if s := d.named(driver, name).String; s != nil && text(*s, 0, maxName) {
		return *s
	}
	return ""
}

// number is an attribute's, −1 where there is none that can be meant.
func (d *device) number(driver, name string) int {
	const most = 1 << 20
	if i := d.named(driver, name).Int; i != nil && *i >= 0 && *i <= most {
		return int(*i)
	}
	return -1
}

// placement is the first memory slice of a MIG device. The driver tells which
// it takes by capacities memorySlice<n>, and of one that is yet to be made by
// counters memory-slice-<n>. −1: it does not tell.
func (d *device) placement() int {
	first := -1
	note := func(names map[string]json.RawMessage, prefix string) {
		for name := range names {
			digits, ok := strings.CutPrefix(name[strings.LastIndexByte(name, '/')+1:], prefix)
			n, err := strconv.ParseUint(digits, 10, 8)
			if ok && err == nil && (first < 0 || int(n) < first) {
				first = int(n)
			}
		}
	}
	note(d.Capacity, "memorySlice")
	for i := range d.Consumes {
		note(d.Consumes[i].Counters, "memory-slice-")
	}
	return first
}
