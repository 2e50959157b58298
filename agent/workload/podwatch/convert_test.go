package podwatch

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
)

var update = flag.Bool("update", false, "write the golden file anew")

const node = "lab-node-1"

func recording(t testing.TB, file string) []*object {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []*object
	_, err = readList(f, "PodList", func(o *object) error {
		all = append(all, o)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var recordings = []string{
	"static-and-api.json", "mirror.json", "done-and-crashing.json", "init-and-sidecar.json",
	"rejected.json", "dra.json", "uid-in-manifest.json",
}

// The recordings become what a person can check against them.
func TestRecordings(t *testing.T) {
	var got strings.Builder
	for _, file := range recordings {
		fmt.Fprintf(&got, "%s\n", file)
		on := node
		if file == "uid-in-manifest.json" {
			on = "lab-uml"
		}
		for _, o := range recording(t, file) {
			p, dropped := o.pod(on)
			if dropped != 0 {
				t.Errorf("%s: %s: %d facts dropped", file, o.Metadata.Name, dropped)
			}
			describe(&got, p)
		}
	}
	golden := filepath.Join("testdata", "pods.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func describe(b *strings.Builder, p *pods.Pod) {
	fmt.Fprintf(b, "  %s/%s %s", p.Namespace, p.Name, p.UID)
	if p.ControllerKind != "" {
		fmt.Fprintf(b, " of %s %s", p.ControllerKind, p.Controller)
	}
	if p.Terminal {
		b.WriteString(" terminal")
	}
	for _, l := range p.Labels {
		fmt.Fprintf(b, " %s=%s", l.Key, l.Value)
	}
	b.WriteByte('\n')
	for _, c := range p.Containers {
		fmt.Fprintf(b, "    %s %.12s", c.Name, c.ID+"-")
		if c.Init {
			b.WriteString(" init")
		}
		if c.Ended {
			b.WriteString(" ended")
		}
		b.WriteByte('\n')
	}
}

// A static pod is the same pod whoever tells of it.
func TestStaticPodIsItsMirror(t *testing.T) {
	mirror, _ := recording(t, "mirror.json")[0].pod(node)
	for _, o := range recording(t, "static-and-api.json") {
		static, _ := o.pod(node)
		if static.UID != mirror.UID {
			continue
		}
		var a, b strings.Builder
		describe(&a, static)
		describe(&b, mirror)
		if a.String() != b.String() {
			t.Errorf("by the kubelet\n%sby the API server\n%s", a.String(), b.String())
		}
		return
	}
	t.Error("the static pod has another UID than its mirror")
}

// parse is a pod from JSON.
func parse(t testing.TB, text string) *object {
	t.Helper()
	o := &object{}
	if err := json.Unmarshal([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// Annotations that anybody can write give nobody another pod's UID.
func TestUIDOfAPod(t *testing.T) {
	const (
		hash = `"kubernetes.io/config.hash":"aaaa"`
		both = hash + `,"kubernetes.io/config.mirror":"aaaa"`
		by   = `"ownerReferences":[{"kind":"Node","name":"lab-node-1","controller":true}]`
	)
	for name, c := range map[string]struct{ metadata, uid string }{
		"ordinary":               {`"uid":"u"`, "u"},
		"mirror":                 {`"uid":"u","annotations":{` + both + `},` + by, "aaaa"},
		"hash only":              {`"uid":"u","annotations":{` + hash + `},` + by, "u"},
		"no node controls it":    {`"uid":"u","annotations":{` + both + `}`, "u"},
		"another node does":      {`"uid":"u","annotations":{` + both + `},"ownerReferences":[{"kind":"Node","name":"x","controller":true}]`, "u"},
		"a node is no owner":     {`"uid":"u","annotations":{` + both + `},"ownerReferences":[{"kind":"Node","name":"lab-node-1"}]`, "u"},
		"hash and mirror differ": {`"uid":"u","annotations":{` + hash + `,"kubernetes.io/config.mirror":"bbbb"},` + by, "u"},
		"no UID at all":          {`"uid":"u","annotations":{"kubernetes.io/config.hash":"/..","kubernetes.io/config.mirror":"/.."},` + by, "u"},
	} {
		p, _ := parse(t, `{"metadata":{"namespace":"ns","name":"p",`+c.metadata+`}}`).pod(node)
		if p == nil || p.UID != c.uid {
			t.Errorf("%s: %+v, want UID %s", name, p, c.uid)
		}
	}
}

func TestController(t *testing.T) {
	for name, c := range map[string]struct{ metadata, kind, controller string }{
		"none":            {``, "", ""},
		"not controlling": {`,"ownerReferences":[{"kind":"Job","name":"j"}]`, "", ""},
		"job":             {`,"ownerReferences":[{"kind":"X","name":"x"},{"kind":"Job","name":"j-123","controller":true}]`, "Job", "j-123"},
		"deployment":      {`,"labels":{"pod-template-hash":"6b8"},"ownerReferences":[{"kind":"ReplicaSet","name":"a-b-6b8","controller":true}]`, "Deployment", "a-b"},
		"replica set":     {`,"ownerReferences":[{"kind":"ReplicaSet","name":"a-6b8","controller":true}]`, "ReplicaSet", "a-6b8"},
		"other hash":      {`,"labels":{"pod-template-hash":"x"},"ownerReferences":[{"kind":"ReplicaSet","name":"a-6b8","controller":true}]`, "ReplicaSet", "a-6b8"},
		"hash alone":      {`,"labels":{"pod-template-hash":"6b8"},"ownerReferences":[{"kind":"ReplicaSet","name":"-6b8","controller":true}]`, "ReplicaSet", "-6b8"},
		"static":          {`,"annotations":{"kubernetes.io/config.hash":"u","kubernetes.io/config.source":"http"}`, "Node", node},
		"from the API":    {`,"annotations":{"kubernetes.io/config.hash":"u","kubernetes.io/config.source":"api"}`, "", ""},
		"no name":         {`,"ownerReferences":[{"kind":"Job","name":"","controller":true}]`, "", ""},
	} {
		p, _ := parse(t, `{"metadata":{"namespace":"ns","name":"p","uid":"u"`+c.metadata+`}}`).pod(node)
		if p.ControllerKind != c.kind || p.Controller != c.controller {
			t.Errorf("%s: %s %s, want %s %s", name, p.ControllerKind, p.Controller, c.kind, c.controller)
		}
	}
}

func TestContainerEnds(t *testing.T) {
	const done, failed = `{"terminated":{"exitCode":0}}`, `{"terminated":{"exitCode":3}}`
	for name, c := range map[string]struct {
		phase, pod, container, kind, state string
		ended                              bool
	}{
		"running":                         {"Running", "Always", ``, "", `{"running":{}}`, false},
		"waiting":                         {"Running", "Never", ``, "", `{"waiting":{}}`, false},
		"done, restarted always":          {"Running", "Always", ``, "", done, false},
		"done, restarted on failure":      {"Running", "OnFailure", ``, "", done, true},
		"failed, restarted on failure":    {"Running", "OnFailure", ``, "", failed, false},
		"failed, never restarted":         {"Running", "Never", ``, "", failed, true},
		"its own policy":                  {"Running", "Always", `,"restartPolicy":"Never"`, "", failed, true},
		"its own rules":                   {"Running", "Never", `,"restartPolicy":"Never","restartPolicyRules":[{"action":"Restart"}]`, "", failed, false},
		"init done":                       {"Pending", "Always", ``, "init", done, true},
		"init failed":                     {"Pending", "Always", ``, "init", failed, false},
		"init failed, never restarted":    {"Pending", "Never", ``, "init", failed, true},
		"sidecar done":                    {"Running", "Never", `,"restartPolicy":"Always"`, "init", done, false},
		"ephemeral done":                  {"Running", "Always", ``, "ephemeral", failed, true},
		"the pod has failed":              {"Failed", "Always", ``, "", failed, true},
		"the pod has failed, still runs":  {"Failed", "Always", ``, "", `{"running":{}}`, false},
		"the pod has failed, never began": {"Failed", "Always", ``, "", `{"waiting":{}}`, true},
		"sidecar of a pod that is over":   {"Succeeded", "Never", `,"restartPolicy":"Always"`, "init", done, true},
	} {
		list, states := "containers", "containerStatuses"
		if c.kind != "" {
			list, states = c.kind+"Containers", c.kind+"ContainerStatuses"
		}
		p, _ := parse(t, fmt.Sprintf(`{"metadata":{"namespace":"ns","name":"p","uid":"u"},
			"spec":{"restartPolicy":%q,%q:[{"name":"c"%s}]},
			"status":{"phase":%q,%q:[{"name":"c","state":%s}]}}`, c.pod, list, c.container, c.phase, states, c.state)).pod(node)
		if len(p.Containers) != 1 || p.Containers[0].Ended != c.ended {
			t.Errorf("%s: %+v, want ended %v", name, p.Containers, c.ended)
		}
		if init := c.kind == "init" && !strings.Contains(c.container, "Always"); p.Containers[0].Init != init {
			t.Errorf("%s: init %v, want %v", name, p.Containers[0].Init, init)
		}
	}
}

func TestContainerID(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	for name, x := range map[string]struct{ status, id string }{
		"containerd":       {`"containerID":"containerd://` + a + `"`, a},
		"cri-o":            {`"containerID":"cri-o://` + a + `"`, a},
		"docker":           {`"containerID":"docker://` + a + `"`, a},
		"its state's":      {`"state":{"terminated":{"containerID":"containerd://` + b + `"}}`, b},
		"the last state's": {`"containerID":"","lastState":{"terminated":{"containerID":"containerd://` + c + `"}}`, c},
		"no runtime":       {`"containerID":"` + a + `"`, ""},
		"short":            {`"containerID":"containerd://` + a[1:] + `"`, ""},
		"no hex":           {`"containerID":"containerd://` + a[1:] + `/"`, ""},
		"none":             {`"state":{"waiting":{}}`, ""},
	} {
		p, _ := parse(t, `{"metadata":{"namespace":"ns","name":"p","uid":"u"},"spec":{"containers":[{"name":"c"}]},
			"status":{"containerStatuses":[{"name":"other"},{"name":"c",`+x.status+`}]}}`).pod(node)
		if p.Containers[0].ID != x.id {
			t.Errorf("%s: %q, want %q", name, p.Containers[0].ID, x.id)
		}
	}
}

// Whatever a source says, what is kept is bounded and of use.
func TestConversionIsBounded(t *testing.T) {
	anyText := rapid.OneOf(
		rapid.SampledFrom([]string{"", "a", "x/y", "\xff", strings.Repeat("l", 64), strings.Repeat("x", 254), strings.Repeat("y", 5000)}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		o := &object{}
		o.Metadata.Name, o.Metadata.Namespace = anyText.Draw(t, "name"), anyText.Draw(t, "namespace")
		o.Metadata.UID = anyText.Draw(t, "uid")
		o.Metadata.Annotations.HAMi = anyText.Draw(t, "hami")
		o.Metadata.Labels = rapid.MapOfN(anyText, anyText, 0, 200).Draw(t, "labels")
		o.Metadata.Annotations.Serving = rapid.MapOfN(anyText, anyText, 0, 40).Draw(t, "annotations")
		for _, ip := range rapid.SliceOfN(anyText, 0, 4).Draw(t, "ips") {
			o.Status.IPs = append(o.Status.IPs, podIP{ip})
		}
		if rapid.Bool().Draw(t, "owned") {
			o.Metadata.OwnerReferences = list[ownerReference]{{Kind: anyText.Draw(t, "kind"), Name: anyText.Draw(t, "owner"), Controller: true}}
		}
		for _, n := range rapid.SliceOfN(anyText, 0, 5).Draw(t, "containers") {
			o.Spec.Containers = append(o.Spec.Containers, container{Name: n, Ports: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) port {
				return port{anyText.Draw(t, "port"), rapid.Int32Range(-1, 70_000).Draw(t, "number"), rapid.SampledFrom([]string{"", "TCP", "UDP"}).Draw(t, "protocol")}
			}), 0, 80).Draw(t, "ports")})
			o.Spec.InitContainers = append(o.Spec.InitContainers, container{Name: n})
		}
		p, dropped := o.pod(node)
		if p == nil {
			if name(o.Metadata.Name) && name(o.Metadata.Namespace) && uid(o.Metadata.UID) {
				t.Fatal("a pod with all its names was refused")
			}
			return
		}
		if len(p.Labels)+len(p.Containers)+dropped < len(o.Metadata.Labels)+2*len(o.Spec.Containers) {
			t.Fatalf("%d dropped", dropped)
		}
		check(t, p)
	})
}

func check(t *rapid.T, p *pods.Pod) {
	if len(p.Labels) > maxLabels || len(p.HAMi) > maxHAMi || (p.Controller == "") != (p.ControllerKind == "") {
		t.Fatalf("%+v", p)
	}
	if len(p.Ports) > maxPorts || len(p.Annotations) > maxServing || len(p.IPs) > maxIPs {
		t.Fatalf("%d ports, %d annotations, %d addresses", len(p.Ports), len(p.Annotations), len(p.IPs))
	}
	for _, x := range p.Ports {
		if x.Number == 0 || x.Container < 0 || x.Container >= len(p.Containers) || !text(x.Name, 0, maxPortName) {
			t.Fatalf("port %+v", x)
		}
	}
	for i, l := range p.Labels {
		if !text(l.Key, 1, maxLabelKey) || !text(l.Value, 0, maxLabelValue) || (i > 0 && p.Labels[i-1].Key >= l.Key) {
			t.Fatalf("label %q=%q", l.Key, l.Value)
		}
	}
	seen := map[string]bool{}
	for _, c := range p.Containers {
		if !name(c.Name) || seen[c.Name] {
			t.Fatalf("container %q", c.Name)
		}
		seen[c.Name] = true
	}
}

// What a pod says of where it serves, and by which addresses it is reached.
func TestServing(t *testing.T) {
	o := parse(t, `{"metadata":{"namespace":"ns","name":"p","uid":"u","deletionTimestamp":"2026-01-01T00:00:00Z","annotations":{
			"prometheus.io/port":"8000","prometheus.io/other":"x","gpuledger.io/path":"/m","kubectl.kubernetes.io/last-applied-configuration":"{}"}},
		"spec":{"hostNetwork":true,"initContainers":[{"name":"side","restartPolicy":"Always","ports":[{"containerPort":9000}]}],
			"containers":[{"name":""},{"name":"c","ports":[{"name":"http","containerPort":8000,"protocol":"TCP"},{"containerPort":53,"protocol":"UDP"},{"containerPort":70000}]}]},
		"status":{"podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"},{"ip":"fd00::3"},{"ip":"nonsense"}],
			"containerStatuses":[{"name":"c","state":{"running":{"startedAt":"2026-01-02T00:00:00Z"}}}]}}`)
	p, dropped := o.pod(node)
	if dropped != 3 { // a container, a port, an address
		t.Errorf("%d facts dropped", dropped)
	}
	got := fmt.Sprint(p.Terminating, p.HostNetwork, p.IPs, p.Ports, p.Annotations, p.Containers[1].Started)
	const want = "true true [10.1.2.3 fd00::3] [{0  9000} {1 http 8000}] [{gpuledger.io/path /m} {prometheus.io/port 8000}] 1767312000"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A pod that is not on the host's network does not have the node's address.
func TestNodesAddressIsNoPods(t *testing.T) {
	for network, want := range map[string]string{"true": "[10.0.0.9 fd00::9]", "false": "[10.1.2.3]"} {
		ips := `"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"},{"ip":"fd00::9"}]`
		if network == "false" {
			ips = `"podIP":"10.0.0.9","podIPs":[{"ip":"::ffff:10.0.0.9"},{"ip":"fd00::9"},{"ip":"10.1.2.3"}]`
		}
		o := parse(t, `{"metadata":{"namespace":"ns","name":"p","uid":"u"},"spec":{"hostNetwork":`+network+`,"containers":[{"name":"c"}]},
			"status":{"hostIP":"10.0.0.9","hostIPs":[{"ip":"10.0.0.9"},{"ip":"fd00::9"}],`+ips+`}}`)
		if p, _ := o.pod(node); fmt.Sprint(p.IPs) != want {
			t.Errorf("host network %s: %s, want %s", network, p.IPs, want)
		}
	}
}

// However much a pod says of where it serves, it is bounded, and still a pod.
func TestServingIsBounded(t *testing.T) {
	var annotations, declared []string
	for i := range 300 {
		annotations = append(annotations, fmt.Sprintf(`"gpuledger.io/%03d":"x"`, i))
		declared = append(declared, fmt.Sprintf(`{"containerPort":%d}`, i+1))
	}
	annotations = append([]string{`"gpuledger.io/long":"` + strings.Repeat("x", maxServingBytes+1) + `"`}, annotations...)
	o := parse(t, `{"metadata":{"namespace":"ns","name":"p","uid":"u","annotations":{`+strings.Join(annotations, ",")+`}},
		"spec":{"containers":[{"name":"c","ports":[`+strings.Join(declared, ",")+`]}]}}`)
	p, dropped := o.pod(node)
	if len(p.Annotations) != maxServing || len(p.Ports) != maxPorts || dropped != 1+maxItems-maxPorts {
		t.Errorf("%d annotations, %d ports, %d dropped", len(p.Annotations), len(p.Ports), dropped)
	}
	if got, _ := p.Annotations.Get("gpuledger.io/001"); got != "x" {
		t.Errorf("%v", p.Annotations)
	}
}
