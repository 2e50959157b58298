package inference

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// The annotations that a pod can have for us. Others' are port, path, scheme
// and scrape under prometheus.io, and port and path under prometheus.kserve.io.
const (
	annotationScrape = "gpuledger.io/scrape" // "true": also without a device; "false": never
	annotationPort   = "gpuledger.io/port"   // a number, or a declared port's name
	annotationPath   = "gpuledger.io/path"
	annotationScheme = "gpuledger.io/scheme" // http or https
	annotationFormat = "gpuledger.io/format"
	annotationModels = "gpuledger.io/models" // only these are counted: a,b
	annotationTriton = "gpuledger.io/triton-port"
)

// Bounds of one pod.
const (
	maxPlaces = 8 // of a site
	maxSites  = 4 // of a pod
	maxModels = 64
)

// siteKey is a container that may serve.
type siteKey struct{ uid, container string }

// place is where a page may be.
type place struct {
	scheme string
	port   uint16
	path   string
	format string // "" is whatever fits
}

// wish is a site as discovery wants it.
type wish struct {
	key        siteKey
	pod        *pods.Pod
	owner      *attribution.Owner
	holds      bool // a device: such come first
	wanted     bool // somebody says that there is a server
	ip         netip.Addr
	id         string // of the container that is asked, at its runtime
	started    int64  // Unix s; 0 unknown
	places     []place
	models     []string // nil is all
	tritonPort uint16
}

// same reports whether what is known about where to ask is the same.
func (w *wish) same(x *wish) bool {
	return w.key == x.key && w.ip == x.ip && w.id == x.id && w.started == x.started && w.tritonPort == x.tritonPort &&
		slices.Equal(w.places, x.places) && slices.Equal(w.models, x.models)
}

// finder finds servers in pods.
type finder struct {
	rules     []Rule
	endpoints []format.Endpoint
	counts    *counts
	holders   map[siteKey]bool
	at        map[netip.Addr]int // how many pods have an address
}

// find lists the sites of all pods: those that hold a device first.
func (f *finder) find(v *pods.View) []wish {
	var all []wish
	f.at = map[netip.Addr]int{}
	v.All(func(p *pods.Pod) {
		if !p.Gone() && !p.Terminal && len(p.IPs) > 0 {
			f.at[p.IPs[0]]++
		}
	})
	v.All(func(p *pods.Pod) { all = append(all, f.pod(p)...) })
	slices.SortFunc(all, func(a, b wish) int {
		if a.holds != b.holds {
			if a.holds {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.key.uid, b.key.uid), cmp.Compare(a.key.container, b.key.container))
	})
	return all
}

// asked is what a pod's annotations, or a rule, ask for.
type asked struct {
	port, path, scheme, format string
}

// pod lists the sites of one pod.
func (f *finder) pod(p *pods.Pod) (ws []wish) {
	if p.Gone() || p.Terminal || len(p.IPs) == 0 {
		return nil
	}
	scrape, _ := p.Annotations.Get(annotationScrape)
	rule := f.rule(p)
	if scrape == "false" || (rule != nil && rule.Ignore) {
		return nil
	}
	holds := slices.ContainsFunc(p.Containers, func(c pods.Container) bool { return f.holders[siteKey{p.UID, c.Name}] })
	if !holds && scrape != "true" && rule == nil {
		return nil
	}
	if !f.goodIP(p) {
		f.counts.unfit.Add(1)
		return nil
	}
	own := annotated(p, "gpuledger.io/")
	var found map[int][]place
	switch {
	case own.port != "":
		found = f.only(p, own)
	case rule != nil:
		found = f.only(p, own.over(asked{rule.portText(), rule.Path, rule.Scheme, rule.Format}))
	default:
		found = f.guess(p, own)
	}
	ws = f.wishes(p, found)
	for i := range ws {
		ws[i].wanted = own.port != "" || rule != nil || scrape == "true"
	}
	return ws
}

func (f *finder) rule(p *pods.Pod) *Rule {
	for i := range f.rules {
		if f.rules[i].fits(p) {
			return &f.rules[i]
		}
	}
	return nil
}

func (r *Rule) portText() string {
	if r.Port != 0 {
		return strconv.Itoa(int(r.Port))
	}
	return r.PortName
}

func annotated(p *pods.Pod, prefix string) (a asked) {
	get := func(key string) string {
		v, _ := p.Annotations.Get(prefix + key)
		return strings.TrimSpace(v)
	}
	a = asked{port: get("port"), path: get("path"), scheme: get("scheme")}
	if prefix == "gpuledger.io/" {
		a.format = get("format")
	}
	return a
}

// over is a with what it does not say taken from b.
func (a asked) over(b asked) asked {
	return asked{cmp.Or(a.port, b.port), cmp.Or(a.path, b.path), cmp.Or(a.scheme, b.scheme), cmp.Or(a.format, b.format)}
}

// only is the one port that is asked for, by container.
func (f *finder) only(p *pods.Pod, a asked) map[int][]place {
	ps, container := f.placesOf(p, a)
	if len(ps) == 0 {
		return nil
	}
	return map[int][]place{container: ps}
}

// guess lists where a pod's pages may be: where it says so to others, and at
// the ports that formats are known to have. A container that holds a device is
// asked rather than its neighbours, who may only pass on what it says.
func (f *finder) guess(p *pods.Pod, own asked) map[int][]place {
	found := map[int][]place{}
	add := func(a asked) {
		if a.port == "" {
			return
		}
		ps, container := f.placesOf(p, own.over(a))
		for _, x := range ps {
			if !slices.Contains(found[container], x) {
				found[container] = append(found[container], x)
			}
		}
	}
	add(annotated(p, "prometheus.kserve.io/"))
	if v, ok := p.Annotations.Get("prometheus.io/scrape"); !ok || v == "true" {
		add(annotated(p, "prometheus.io/"))
	}
	for _, d := range p.Ports {
		if f.known(d) {
			add(asked{port: strconv.Itoa(int(d.Number))})
		}
	}
	held := false
	for c := range found {
		held = held || f.holders[siteKey{p.UID, p.Containers[c].Name}]
	}
	for c := range found {
		if held && !f.holders[siteKey{p.UID, p.Containers[c].Name}] {
			delete(found, c)
		}
	}
	return found
}

// known reports whether a declared port may be where a page is.
func (f *finder) known(d pods.Port) bool {
	switch d.Name {
	case "metrics", "http-metrics", "prometheus", "prom":
		return true
	}
	return slices.ContainsFunc(f.endpoints, func(e format.Endpoint) bool { return !e.Gateway && e.Port == int(d.Number) })
}

// placesOf lists the places of what is asked for, and the container that they are of.
func (f *finder) placesOf(p *pods.Pod, a asked) (ps []place, container int) {
	port, container, ok := portOf(p, a.port)
	if !ok || (a.path != "" && !goodPath(a.path)) || (a.scheme != "" && !goodScheme(a.scheme)) {
		f.counts.unfit.Add(1)
		return nil, 0
	}
	if container < 0 {
		if p.HostNetwork { // the port may be anybody's
			f.counts.unfit.Add(1)
			return nil, 0
		}
		container = f.server(p)
	}
	if container < 0 {
		return nil, 0
	}
	add := func(path string) {
		x := place{cmp.Or(a.scheme, "http"), port, path, a.format}
		if len(ps) < maxPlaces && !slices.Contains(ps, x) {
			ps = append(ps, x)
		}
	}
	if a.path != "" {
		add(a.path)
		return ps, container
	}
	for _, e := range f.endpoints {
		if (a.format != "" && e.Format == a.format) || (a.format == "" && !e.Gateway && e.Port == int(port)) {
			add(e.Path)
		}
	}
	if a.format == "" || len(ps) == 0 {
		add("/metrics")
	}
	return ps, container
}

// portOf is the port that a text names: by number, or as a container declares
// it; container is −1 where none does.
func portOf(p *pods.Pod, text string) (port uint16, container int, ok bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	for _, d := range p.Ports {
		if (err == nil && uint64(d.Number) == n) || (err != nil && text != "" && d.Name == text) {
			return d.Number, d.Container, true
		}
	}
	return uint16(n), -1, err == nil && n > 0
}

// server is the container that serves, where no port tells: the first that
// holds a device, else the first that is no init container; −1 for none.
func (f *finder) server(p *pods.Pod) int {
	if i := f.holder(p); i >= 0 {
		return i
	}
	return slices.IndexFunc(p.Containers, func(c pods.Container) bool { return !c.Init })
}

// holder is the first container of a pod that holds a device, −1 for none.
func (f *finder) holder(p *pods.Pod) int {
	return slices.IndexFunc(p.Containers, func(c pods.Container) bool { return f.holders[siteKey{p.UID, c.Name}] })
}

// wishes are the sites of a pod's containers, in their order.
func (f *finder) wishes(p *pods.Pod, found map[int][]place) (ws []wish) {
	for i := range p.Containers {
		c := &p.Containers[i]
		if len(found[i]) == 0 || c.ID == "" || c.Ended {
			continue // not there, or not running yet
		}
		if len(ws) == maxSites {
			f.counts.refused.Add(1)
			continue
		}
		w := wish{
			key: siteKey{p.UID, c.Name}, pod: p, ip: p.IPs[0], id: c.ID, started: c.Started, places: found[i][:min(len(found[i]), maxPlaces)],
			models: models(p), tritonPort: tritonPort(p),
		}
		owner := i
		if w.holds = f.holders[w.key]; !w.holds {
			if h := f.holder(p); h >= 0 {
				owner, w.holds = h, true
			}
		}
		w.owner = p.Owner(p.Containers[owner].Name)
		ws = append(ws, w)
	}
	return ws
}

func models(p *pods.Pod) (names []string) {
	text, ok := p.Annotations.Get(annotationModels)
	if !ok {
		return nil
	}
	names = []string{}
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" && len(names) < maxModels {
			names = append(names, name)
		}
	}
	return names
}

// tritonPort is where a Triton server tells of its models.
func tritonPort(p *pods.Pod) uint16 {
	if text, ok := p.Annotations.Get(annotationTriton); ok {
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			return uint16(n)
		}
	}
	return 8000
}

// goodIP reports whether a pod's address can be its own: where another has it
// too, what is answered there may be the other's.
func (f *finder) goodIP(p *pods.Pod) bool {
	ip := p.IPs[0]
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		return false
	}
	return p.HostNetwork || (!ip.IsLoopback() && f.at[ip] <= 1)
}
