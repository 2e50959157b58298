package cgroup

import "bytes"

const (
	idLength     = 64 // of a container's id
	uuidLength   = 36
	staticLength = 32 // of a static pod's UID
	maxJobLength = 20
)

// walk is where in a path the reading is: the names before the one at hand.
type walk struct {
	place
	relative bool   // the path began with /..
	depth    int    // names so far, without leading dots
	before   []byte // the last
	beyond   []byte // and the one before it
	user     bool   // in a user's session
	inPod    bool   // the last was a pod's: this is a container's
}

// parsePath reads a path from the outside in.
func parsePath(path []byte) place {
	path = bytes.TrimSuffix(path, []byte(" (deleted)")) // of a process that outlives its cgroup
	var w walk
	for len(path) > 0 {
		var name []byte
		name, path, _ = bytes.Cut(path[1:], []byte{'/'})
		if len(path) > 0 || name == nil {
			path = prefixed(path)
		}
		w.step(name)
	}
	return w.place
}
