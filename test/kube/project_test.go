package kube_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	corev1 "k8s.io/api/core/v1"

	"github.com/gpuledger/gpuledger/test/kube"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func TestMain(m *testing.M) {
	kube.Main() // this program is also the node's keeper
	os.Exit(m.Run())
}

// The node's two GPUs.
const (
	gpuA = "GPU-aaaaaaaa-1111-4222-8333-444444444444"
	gpuB = "GPU-bbbbbbbb-1111-4222-8333-444444444444"
)

// project is gpuledger on a real cluster, as deploy/ brings it there, with a
// driver whose GPUs do what the processes of the same name do.
type project struct {
	*kube.Cluster
	t      *testing.T
	client *http.Client // trusted by the collector
}

// startProject starts a cluster and deploys to it. It skips the test unless
// GPULEDGER_KUBE is set: it takes root and, the first time, a quarter of an
// hour.
func startProject(ctx context.Context, t *testing.T, podsAPI bool, load []nvmlstub.Process) *project {
	t.Helper()
	if os.Getenv("GPULEDGER_KUBE") == "" {
		t.Skip("starts a real Kubernetes: set GPULEDGER_KUBE=1, as make test-kube does, and be root")
	}
	c, err := kube.Start(ctx, kube.Options{PodsAPI: podsAPI, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := &project{Cluster: c, t: t}
	p.loadImages(ctx)
	p.writeScenario(load)
	p.startPlugin("--ids="+gpuA, "--replicas=4")
	p.deploy(ctx)
	return p
}

// must ends the test at an error.
func (p *project) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// loadImages builds the programs and makes images of them. The agent's has the
// stub of the driver's library where NVIDIA's runtime would put the real one.
func (p *project) loadImages(ctx context.Context) {
	p.t.Helper()
	const version = "-s -w -X main.version=kube-test"
	p.must(p.GoBuild(ctx, "gpuledger", "./cmd/gpuledger", version, false))
	p.must(p.GoBuild(ctx, "gpuledger-agent", "./cmd/gpuledger-agent", version+" -extldflags=-Wl,-z,lazy", true))
	p.must(p.GoBuild(ctx, "gpuledger-collector", "./cmd/gpuledger-collector", version, true))
	p.must(p.GoBuild(ctx, "gpuload", "./test/nvmlstub/cmd/gpuload", "-s -w", false))
	stub, err := nvmlstub.Build(ctx, filepath.Dir(p.Bin("nvmlstub/x")), nvmlstub.Variant{})
	p.must(err)
	const bin = "/usr/local/bin/"
	for _, i := range []kube.Image{
		{Name: "kube.test/gpuload:1", Entrypoint: []string{bin + "gpuload"}, Files: map[string]string{bin + "gpuload": p.Bin("gpuload")}},
		{Name: "kube.test/gpuledger-agent:1", Entrypoint: []string{bin + "gpuledger-agent"}, Files: map[string]string{
			bin + "gpuledger-agent": p.Bin("gpuledger-agent"), "/usr/lib/x86_64-linux-gnu/" + nvmlstub.Soname: stub,
		}},
		{Name: "kube.test/gpuledger-collector:1", Entrypoint: []string{bin + "gpuledger-collector"}, Files: map[string]string{
			bin + "gpuledger-collector": p.Bin("gpuledger-collector"), bin + "gpuledger": p.Bin("gpuledger"),
		}},
	} {
		p.must(p.Load(ctx, i))
	}
}

// writeScenario gives the driver its GPUs and what the processes do with them.
func (p *project) writeScenario(load []nvmlstub.Process) {
	p.t.Helper()
	dir := p.Root("/run/gpuledger-scenario")
	p.must(os.MkdirAll(dir, 0o755))
	device := func(uuid string, minor int) nvmlstub.Device {
		return nvmlstub.Device{
			UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Minor: minor, Memory: 80 * nvmlstub.GiB,
			GPM: true, Energy: true, Idle: 70, Full: 700,
		}
	}
	s := &nvmlstub.Scenario{Sampling: nvmlstub.Exact, Devices: []nvmlstub.Device{device(gpuA, 0), device(gpuB, 1)}, Processes: load}
	p.must(s.Write(filepath.Join(dir, "gpus")))
}

// startPlugin starts the device plugin, and waits until the node offers what
// it has.
func (p *project) startPlugin(flags ...string) {
	p.t.Helper()
	argv := append([]string{"deviceplugin", "--record", p.allocations()}, flags...)
	p.must(p.StartDaemon("deviceplugin", argv...))
}

// allocations is the device plugin's record.
func (p *project) allocations() string { return p.Run("allocations.jsonl") }

// offered waits until the node offers so many devices.
func (p *project) offered(ctx context.Context, n string) {
	p.t.Helper()
	p.must(p.Await(ctx, n+" devices offered", 30*time.Second, func(ctx context.Context) error {
		out, err := p.Kubectl(ctx, "get", "node", kube.NodeName, "-o", `jsonpath={.status.allocatable.nvidia\.com/gpu}`)
		if err == nil && string(out) != n {
			err = fmt.Errorf("%q devices", out)
		}
		return err
	}))
}

// deploy applies deploy/, with the certificates that its script makes.
func (p *project) deploy(ctx context.Context) {
	p.t.Helper()
	root, err := filepath.Abs("../..")
	p.must(err)
	p.offered(ctx, "4")
	_, err = p.Kubectl(ctx, "label", "node", kube.NodeName, "nvidia.com/gpu.present=true")
	p.must(err)
	_, err = p.Kubectl(ctx, "create", "namespace", "gpuledger")
	p.must(err)
	secrets, err := exec.CommandContext(ctx, filepath.Join(root, "deploy", "certs.sh")).Output()
	p.must(err)
	p.must(p.Apply(ctx, string(secrets)))
	p.client = p.trusted(string(secrets))
	manifests, err := p.Kubectl(ctx, "kustomize", filepath.Join(root, "test", "kube", "testdata", "overlay"))
	p.must(err)
	p.must(p.Apply(ctx, string(manifests)))
	for _, what := range []string{"statefulset/gpuledger-collector", "daemonset/gpuledger-agent"} {
		out, err := p.Kubectl(ctx, "-n", "gpuledger", "rollout", "status", what, "--timeout=60s")
		if err != nil {
			p.t.Fatalf("%v\n%s\n%s", err, out, p.diagnosis(ctx))
		}
	}
}

// diagnosis is what helps where something does not come up.
func (p *project) diagnosis(ctx context.Context) string {
	var b strings.Builder
	for _, args := range []string{
		"get pods -A -o wide", "-n gpuledger get events", "-n gpuledger logs daemonset/gpuledger-agent --tail=50",
		"-n gpuledger logs statefulset/gpuledger-collector --tail=50",
	} {
		out, err := p.Kubectl(ctx, strings.Fields(args)...)
		fmt.Fprintf(&b, "$ kubectl %s\n%s", args, out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// trusted is a client with the certificate of those who ask.
func (p *project) trusted(secrets string) *http.Client {
	p.t.Helper()
	_, client, _ := strings.Cut(secrets, "name: gpuledger-client-tls")
	_, data, ok := strings.Cut(client, "data:\n")
	var files map[string]string
	if err := yaml.Unmarshal([]byte(data), &files); err != nil || !ok {
		p.t.Fatalf("certs.sh: %v\n%s", err, secrets)
	}
	file := func(name string) []byte {
		b, err := base64.StdEncoding.DecodeString(files[name])
		p.must(err)
		return b
	}
	pair, err := tls.X509KeyPair(file("tls.crt"), file("tls.key"))
	p.must(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(file("ca.crt")) {
		p.t.Fatal("certs.sh: no authority")
	}
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return p.Dial(ctx, network, "10.99.0.1:9441")
		},
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
	}}
}

// ask asks the collector's JSON API.
func (p *project) ask(ctx context.Context, path string, query url.Values, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, answer)
}

// agentIP is the address of the agent's pod.
func (p *project) agentPod(ctx context.Context) corev1.Pod {
	p.t.Helper()
	out, err := p.Kubectl(ctx, "-n", "gpuledger", "get", "pods", "-l", "app.kubernetes.io/name=gpuledger-agent", "-o", "json")
	p.must(err)
	var list corev1.PodList
	p.must(json.Unmarshal(out, &list))
	if len(list.Items) != 1 {
		p.t.Fatalf("%d agents", len(list.Items))
	}
	return list.Items[0]
}

// get reads a page of the agent's.
func (p *project) get(ctx context.Context, path string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: p.Dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.agentPod(ctx).Status.PodIP+":9442"+path, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}
