package join

import (
	"net/netip"
	"strings"
)

// service is what the host of an address within a cluster names.
type service struct {
	pod       string // "": not told
	name      string
	namespace string // "": not told
}

// serviceOf reads a service out of an address: name, name.namespace, or either
// with a pod before it and svc and the cluster's domain behind. ok is false
// where the host is none: an IP address, this machine, or a name of the world
// outside.
func serviceOf(backend string) (s service, ok bool) {
	host := hostOf(backend)
	if host == "" || host == "localhost" {
		return service{}, false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return service{}, false
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if !isLabel(l) {
			return service{}, false
		}
	}
	switch n := len(labels); {
	case n == 1:
		return service{name: labels[0]}, true
	case n == 2:
		return service{name: labels[0], namespace: labels[1]}, true
	case labels[2] == "svc":
		return service{name: labels[0], namespace: labels[1]}, true
	case n >= 4 && labels[3] == "svc":
		return service{pod: labels[0], name: labels[1], namespace: labels[2]}, true
	}
	return service{}, false
}

// NamesPod reports whether a backend's address names a single pod of a service,
// so that owners can't be matched without their pod.
func NamesPod(backend string) bool {
	s, ok := serviceOf(backend)
	return ok && s.pod != ""
}

// hostOf is the host of an address with or without a scheme, port and path, in
// lower case.
func hostOf(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	if i := strings.IndexAny(address, "/?#"); i >= 0 {
		address = address[:i]
	}
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		address = address[i+1:]
	}
	if inner, ok := strings.CutPrefix(address, "["); ok {
		host, _, _ := strings.Cut(inner, "]")
		return strings.ToLower(host)
	}
	if strings.Count(address, ":") == 1 { // else it is an IPv6 address
		address, _, _ = strings.Cut(address, ":")
	}
	return strings.ToLower(strings.TrimSuffix(address, "."))
}

// isLabel reports whether s can be a label of a DNS name.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}
