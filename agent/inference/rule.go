package inference

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

// Rule says where the servers of some pods are. It beats what is guessed, and
// what pods say for others than us; a pod's own gpuledger.io annotations beat
// it.
type Rule struct {
	// Namespace is a pod's, with an asterisk at its end a prefix; "" is any.
	Namespace string
	// Labels are those that a pod must have, all of them.
	Labels map[string]string
	// Port is the server's, by number; or PortName, as a container declares it.
	Port     uint16
	PortName string
	Path     string // "" is the format's own, else /metrics
	Scheme   string // http or https; "" is http
	Format   string // "" is whatever fits
	// Ignore has the pods not read at all.
	Ignore bool
}

// Check says what is wrong with a rule.
func (r *Rule) Check() error {
	if r.Ignore {
		return nil
	}
	switch {
	case r.Port == 0 && r.PortName == "":
		return errors.New("a port or port_name is needed")
	case r.Port != 0 && r.PortName != "":
		return errors.New("port and port_name exclude each other")
	case r.Scheme != "" && !goodScheme(r.Scheme):
		return fmt.Errorf("unknown scheme %q: want http or https", r.Scheme)
	case r.Path != "" && !goodPath(r.Path):
		return fmt.Errorf("path %.60q: want one such as /metrics", r.Path)
	}
	return nil
}

func (r *Rule) fits(p *pods.Pod) bool {
	if prefix, any := strings.CutSuffix(r.Namespace, "*"); r.Namespace != "" {
		if any && !strings.HasPrefix(p.Namespace, prefix) || !any && p.Namespace != r.Namespace {
			return false
		}
	}
	for k, v := range r.Labels {
		if has, ok := p.Labels.Get(k); !ok || has != v {
			return false
		}
	}
	return true
}

func goodScheme(s string) bool { return s == "http" || s == "https" }

// maxPath bounds a path, in bytes.
const maxPath = 512

// goodPath reports whether a text is a path on whatever host it is asked of.
func goodPath(s string) bool {
	if len(s) > maxPath || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' || r == '#' }) {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}
