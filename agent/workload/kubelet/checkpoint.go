package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
)

// Bounds of the checkpoint.
const (
	MaxCheckpointBytes   = 16 << 20
	MaxCheckpointEntries = 32 << 10
)

// ErrCheckpoint is wrapped by errors about a file that is no checkpoint of a
// kubelet's device manager, or not of a form that is known.
var ErrCheckpoint = errors.New("bad checkpoint")

// Grant is what the kubelet's device manager remembers: a container, of any
// kind, was given devices. It remembers it for as long as the pod is there,
// whether the container runs or not.
type Grant struct {
	PodUID, Container, Resource string
	IDs                         []string // sorted
}

// Checkpoint reads the file in which the kubelet's device manager keeps what it
// has given to containers. It alone tells what ordinary init containers hold.
// One goroutine uses it.
type Checkpoint struct {
	path   string
	file   fileID
	grants []Grant
}

// NewCheckpoint reads from a path.
func NewCheckpoint(path string) *Checkpoint { return &Checkpoint{path: path} }

// Read is what the file says now; it is read only if it is another than last
// time. changed says that it is. After an error the file of before is what
// counts, and the same bad file is not read again: its error is returned once.
func (c *Checkpoint) Read() (grants []Grant, changed bool, err error) {
	file, err := statFile(c.path)
	if errors.Is(err, os.ErrNotExist) {
		changed = c.grants != nil
		c.file, c.grants = fileID{}, nil // a node that never gave out a device
		return nil, changed, nil
	}
	if err != nil {
		return c.grants, false, err
	}
	if file == c.file {
		return c.grants, false, nil
	}
	b, file, err := readFile(c.path)
	if err != nil {
		return c.grants, false, err
	}
	c.file = file
	grants, err = ParseCheckpoint(b)
	if err != nil {
		return c.grants, false, fmt.Errorf("%s: %w", c.path, err)
	}
	c.grants = grants
	return grants, true, nil
}

// readFile reads a file of bounded size, and tells which one it was.
func readFile(path string) (b []byte, file fileID, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fileID{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fileID{}, err
	}
	b, err = io.ReadAll(io.LimitReader(f, MaxCheckpointBytes+1))
	return b, identify(info), err
}

// checkpointFile is the file's JSON. DeviceIDs are a list (v1, before
// Kubernetes 1.20) or lists by NUMA node (v2).
type checkpointFile struct {
	Data struct {
		PodDeviceEntries []struct {
			PodUID, ContainerName, ResourceName string
			DeviceIDs                           deviceIDs
			AllocResp                           []byte
		}
		RegisteredDevices map[string][]string
	}
	Checksum uint64
}

type deviceIDs struct {
	v1   bool
	list []string
	numa map[int64][]string
}

// UnmarshalJSON implements [json.Unmarshaler].
func (d *deviceIDs) UnmarshalJSON(b []byte) error {
	if d.v1 = len(b) > 0 && b[0] == '['; d.v1 {
		return json.Unmarshal(b, &d.list)
	}
	return json.Unmarshal(b, &d.numa)
}

// ParseCheckpoint reads a checkpoint whose checksum is right.
func ParseCheckpoint(b []byte) ([]Grant, error) {
	if len(b) > MaxCheckpointBytes {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrCheckpoint, MaxCheckpointBytes)
	}
	var f checkpointFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	entries := f.Data.PodDeviceEntries
	if len(entries) > MaxCheckpointEntries {
		return nil, fmt.Errorf("%w: it has %d entries: want at most %d", ErrCheckpoint, len(entries), MaxCheckpointEntries)
	}
	if sum := f.checksum(); sum != f.Checksum {
		return nil, fmt.Errorf("%w: its checksum is %d: want %d; a newer kubelet may write another form", ErrCheckpoint, f.Checksum, sum)
	}
	grants, devices := make([]Grant, 0, len(entries)), 0
	for i := range entries {
		e := &entries[i]
		g := Grant{PodUID: e.PodUID, Container: e.ContainerName, Resource: e.ResourceName, IDs: slices.Clone(e.DeviceIDs.list)}
		for _, node := range slices.Sorted(maps.Keys(e.DeviceIDs.numa)) {
			g.IDs = append(g.IDs, e.DeviceIDs.numa[node]...)
		}
		slices.Sort(g.IDs) // a device of two NUMA nodes is under both
		g.IDs = slices.Compact(g.IDs)
		if devices += len(g.IDs); devices > MaxDevices {
			return nil, fmt.Errorf("%w: it has more than %d devices", ErrCheckpoint, MaxDevices)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// checksum is the kubelet's: FNV-1a over its own debug print of the data, which
// is written here as that prints it, names of its Go types and all.
func (f *checkpointFile) checksum() uint64 {
	h := fnv.New32a()
	p := printer{h}
	p.text("(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)")
	p.list(len(f.Data.PodDeviceEntries), f.Data.PodDeviceEntries == nil, func(i int) {
		e := &f.Data.PodDeviceEntries[i]
		p.text("{PodUID:(string)", e.PodUID, " ContainerName:(string)", e.ContainerName, " ResourceName:(string)", e.ResourceName)
		if e.DeviceIDs.v1 {
			p.text(" DeviceIDs:([]string)")
			p.strings(e.DeviceIDs.list)
		} else {
			p.text(" DeviceIDs:(checkpoint.DevicesPerNUMA)")
			p.numa(e.DeviceIDs.numa)
		}
		p.text(" AllocResp:([]uint8)")
		p.list(len(e.AllocResp), e.AllocResp == nil, func(i int) { p.text(strconv.Itoa(int(e.AllocResp[i]))) })
		p.text("}")
	})
	p.text(" RegisteredDevices:(map[string][]string)")
	p.registered(f.Data.RegisteredDevices)
	p.text("}")
	return uint64(h.Sum32())
}

// printer writes into a hash, which never fails.
type printer struct{ hash.Hash32 }

func (p printer) text(parts ...string) {
	for _, s := range parts {
		_, _ = io.WriteString(p, s)
	}
}

func (p printer) list(n int, isNil bool, each func(i int)) {
	if isNil {
		p.text("<nil>")
		return
	}
	p.text("[")
	for i := range n {
		if i > 0 {
			p.text(" ")
		}
		each(i)
	}
	p.text("]")
}

func (p printer) strings(s []string) { p.list(len(s), s == nil, func(i int) { p.text(s[i]) }) }

func (p printer) numa(m map[int64][]string) {
	keys := slices.Sorted(maps.Keys(m))
	if m != nil {
		p.text("map")
	}
	p.list(len(keys), m == nil, func(i int) {
		p.text(strconv.FormatInt(keys[i], 10), ":")
		p.strings(m[keys[i]])
	})
}

func (p printer) registered(m map[string][]string) {
	keys := slices.Sorted(maps.Keys(m))
	if m != nil {
		p.text("map")
	}
	p.list(len(keys), m == nil, func(i int) {
		p.text(keys[i], ":")
		p.strings(m[keys[i]])
	})
}
