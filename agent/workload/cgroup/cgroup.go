package cgroup

import "bytes"

// Bounds of what is looked at. The kernel has at most a dozen hierarchies, and
// shows paths of up to a page.
const (
	MaxBytes = 16 << 10 // of a file; what lies behind is not looked at
	maxLines = 64
)

// Ref is what the cgroups of a process tell about it. "" is: not told.
type Ref struct {
	Pod
	// Outer is the outermost pod of a path that names several. It is the zero
	// Pod where there is only one.
	Outer Pod
	// Job is the id of the Slurm job that the process belongs to.
	Job string
}

// Pod is a container of a pod.
type Pod struct {
	// UID is the pod's: dashed lower-case of an API pod, 32 hex digits of a
	// static one; "" where the path tells the container alone.
	UID string
	// Container is the runtime's id of the container (or of the pod's sandbox,
	// where the pod has one that runs everything), 64 hex digits; "" for what
	// is the pod's and of no container.
	Container string
	Runtime   Runtime
}

// Runtime is what runs a container, as far as the path tells.
type Runtime uint8

// The runtimes.
const (
	Unknown Runtime = iota
	Containerd
	CRIO
	Docker
	Kata
)

var runtimeNames = [...]string{"", "containerd", "cri-o", "docker", "kata"}

// String is the runtime's name, "" where unknown.
func (r Runtime) String() string { return runtimeNames[r] }

// found is a Pod as a part of the text.
type found struct {
	uid, container []byte
	runtime        Runtime
}

// told ranks how much is told: the container's pod, the pod, the container.
func (f *found) told() int {
	switch {
	case len(f.uid) > 0 && len(f.container) > 0:
		return 3
	case len(f.uid) > 0:
		return 2
	case len(f.container) > 0:
		return 1
	}
	return 0
}

func (f *found) pod() Pod {
	return Pod{UID: canonical(f.uid), Container: string(f.container), Runtime: f.runtime}
}

// place is what one path tells.
type place struct {
	deepest, outer found
	job            []byte
}

// Parse reads a /proc/PID/cgroup. It is false where the process is in no pod
// and no job, as far as is told. Of several lines the one that tells most
// counts, of equals the first. It does not keep the text.
func Parse(text []byte) (Ref, bool) {
	var best place
	var job []byte
	text = text[:min(len(text), MaxBytes)]
	for n := 0; n < maxLines && len(text) > 0; n++ {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		_, rest, ok := bytes.Cut(line, []byte{':'})
		if !ok {
			continue
		}
		_, path, ok := bytes.Cut(rest, []byte{':'}) // a path may contain colons
		if !ok || len(path) < 2 || path[0] != '/' {
			continue
		}
		p := parsePath(path)
		if p.deepest.told() > best.deepest.told() {
			best = p
		}
		if job == nil {
			job = p.job
		}
	}
	if best.deepest.told() == 0 && job == nil {
		return Ref{}, false
	}
	r := Ref{Pod: best.deepest.pod(), Job: string(job)}
	if best.outer.told() > 0 {
		r.Outer = best.outer.pod()
	}
	return r, true
}
