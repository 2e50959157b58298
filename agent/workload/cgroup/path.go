package cgroup

import "bytes"

const (
	idLength     = 64 // of a container's id
	uuidLength   = 36
	staticLength = 32 // of a static pod's UID
	maxJobLength = 20
)

// walk reads a path from the outside in, name by name.
type walk struct {
	place
	relative       bool   // the path began with /..
	depth          int    // names so far, without the leading dots
	before, beyond []byte // the last of them, and the one before that
	inPod          bool   // the last was a pod's: what follows is a container's
}

func parsePath(path []byte) place {
	path = bytes.TrimSuffix(path, []byte(" (deleted)")) // of a process that outlives its cgroup
	var w walk
	for more := true; more; {
		var name []byte
		name, path, more = bytes.Cut(path, []byte{'/'})
		switch {
		case len(name) == 0:
		case w.depth == 0 && string(name) == "..":
			w.relative = true
		case string(name) == "user.slice":
			return w.place // a user's own subtree
		default:
			w.step(name)
			w.beyond, w.before = w.before, name
			w.depth++
		}
	}
	return w.place
}

// step takes in the next name.
func (w *walk) step(name []byte) {
	if f, ok := podSlice(name); ok {
		w.enter(f)
		return
	}
	if uid, ok := bytes.CutPrefix(name, []byte("pod")); ok && isUID(uid) && w.inKubepods() {
		w.enter(found{uid: uid})
		return
	}
	switch {
	case w.inPod:
		w.inPod = false
		c, _ := container(name)
		w.deepest.container, w.deepest.runtime = c.container, c.runtime
	case w.deepest.told() == 0:
		w.deepest = w.alone(name)
	}
	if w.job == nil {
		w.job = w.jobOf(name)
	}
}

// enter takes a pod, inside of which others may come.
func (w *walk) enter(f found) {
	if w.deepest.told() > 0 && w.outer.told() == 0 {
		w.outer = w.deepest
	}
	w.deepest = f
	w.inPod = len(f.container) == 0
}

// inKubepods reports whether a cgroup here is among the kubelet's: in one named
// kubepods, or at the root of what is seen, a QoS class in between or not.
func (w *walk) inKubepods() bool {
	parent, depth := w.before, w.depth
	if depth > 0 && isQOS(parent) {
		parent, depth = w.beyond, depth-1
	}
	return depth == 0 || string(parent) == "kubepods"
}

// alone is a container whose pod the path does not tell: a sibling in a
// private namespace, or one that was made without a pod's cgroup, by a runtime
// that runs nothing but pods.
func (w *walk) alone(name []byte) found {
	if slice, rest, ok := bytes.Cut(name, []byte(".slice:")); ok && len(slice) > 0 {
		return driverMismatch(rest)
	}
	c, ok := container(name)
	if !ok || len(c.container) == 0 {
		return found{}
	}
	switch {
	case w.relative && w.depth == 0,
		c.runtime == Containerd, c.runtime == CRIO,
		w.depth > 0 && string(w.before) == "k8s.io":
		return c
	case w.depth > 0 && string(w.before) == "kata_overhead":
		c.runtime = Kata
		return c
	}
	return found{}
}

// jobOf is the id of the Slurm job that a name is the cgroup of: job_N in
// [NODE_]slurmstepd.scope (v2), or in slurm[_NODE]/uid_N (v1).
func (w *walk) jobOf(name []byte) []byte {
	id, ok := bytes.CutPrefix(name, []byte("job_"))
	if !ok || len(id) > maxJobLength || !isNumber(id) {
		return nil
	}
	if scope, ok := bytes.CutSuffix(w.before, []byte("slurmstepd.scope")); ok && (len(scope) == 0 || scope[len(scope)-1] == '_') {
		return id
	}
	user, ok := bytes.CutPrefix(w.before, []byte("uid_"))
	root, isSlurm := bytes.CutPrefix(w.beyond, []byte("slurm"))
	if ok && isNumber(user) && isSlurm && (len(root) == 0 || root[0] == '_') {
		return id
	}
	return nil
}

// podSlice reads `[…-]kubepods[-QOS]-pod<uid>.slice`, and what may follow it in
// the same name where kubelet and runtime have different cgroup drivers.
func podSlice(name []byte) (found, bool) {
	slice, rest, ok := bytes.Cut(name, []byte(".slice"))
	i := bytes.LastIndex(slice, []byte("-pod"))
	if !ok || i < 0 || !isUID(slice[i+len("-pod"):]) {
		return found{}, false
	}
	parent := slice[:i]
	if j := bytes.LastIndexByte(parent, '-'); j >= 0 && isQOS(parent[j+1:]) {
		parent = parent[:j]
	}
	if string(parent) != "kubepods" && !bytes.HasSuffix(parent, []byte("-kubepods")) {
		return found{}, false
	}
	var f found
	if len(rest) > 0 {
		if rest[0] != ':' {
			return found{}, false
		}
		f = driverMismatch(rest[1:])
	}
	f.uid = slice[i+len("-pod"):]
	return f, true
}

// driverMismatch reads `<runtime>:<id>`, as a runtime with the cgroupfs driver
// takes a systemd path.
func driverMismatch(name []byte) found {
	prefix, id, ok := bytes.Cut(name, []byte{':'})
	r := runtimeOf(prefix)
	if !ok || r == Unknown || !isID(id) {
		return found{}
	}
	return found{container: id, runtime: r}
}

// container reads the name of a container's cgroup, or of a pod's that a
// runtime runs whole.
func container(name []byte) (found, bool) {
	if isID(name) {
		return found{container: name}, true
	}
	if id, ok := bytes.CutPrefix(name, []byte("kata_")); ok && isID(id) {
		return found{runtime: Kata}, true
	}
	name, scope := bytes.CutSuffix(name, []byte(".scope"))
	i := len(name) - idLength - 1
	if i < 0 || name[i] != '-' || !isID(name[i+1:]) {
		return found{}, false
	}
	r := runtimeOf(name[:i])
	if r == Unknown || (!scope && r != CRIO) {
		return found{}, false
	}
	return found{container: name[i+1:], runtime: r}, true
}

func runtimeOf(prefix []byte) Runtime {
	switch string(prefix) {
	case "cri-containerd":
		return Containerd
	case "crio":
		return CRIO
	case "docker":
		return Docker
	}
	return Unknown
}

func isQOS(name []byte) bool { return string(name) == "burstable" || string(name) == "besteffort" }

func isNumber(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// isID reports whether b is a container's id.
func isID(b []byte) bool {
	if len(b) != idLength {
		return false
	}
	for _, c := range b {
		if !isHex(c) {
			return false
		}
	}
	return true
}

// isUID reports whether b is a pod's UID: 8-4-4-4-12 hex digits, in a slice's
// name with _ for -, or a static pod's 32.
func isUID(b []byte) bool {
	if len(b) != uuidLength && len(b) != staticLength {
		return false
	}
	for i, c := range b {
		if len(b) == uuidLength && (i == 8 || i == 13 || i == 18 || i == 23) {
			if (c != '-' && c != '_') || c != b[8] {
				return false
			}
		} else if !isHex(c) && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

func isHex(c byte) bool { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') }

// canonical is a UID as Kubernetes writes it.
func canonical(uid []byte) string {
	var b [uuidLength]byte
	n := copy(b[:], uid)
	for i, c := range b[:n] {
		switch {
		case c == '_':
			b[i] = '-'
		case c >= 'A' && c <= 'F':
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b[:n])
}
