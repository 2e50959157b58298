package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const containerdConfig = `version = 2
root = "%[1]s/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_selinux = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

// startContainerd starts the container runtime and gives it the pause image.
func (c *Cluster) startContainerd(ctx context.Context) error {
	file := c.Run("containerd.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, containerdConfig, c.Run(), pauseImage), 0o600); err != nil {
		return err
	}
	if err := c.StartDaemon("containerd", "containerd", "-c", file); err != nil {
		return err
	}
	err := c.Await(ctx, "containerd", time.Minute, func(ctx context.Context) error {
		_, err := c.Output(ctx, "ctr", "version")
		return err
	})
	if err != nil {
		return err
	}
	return c.Load(ctx, Image{Name: pauseImage, Entrypoint: []string{"/pause"}, Files: map[string]string{"/pause": c.path("bin", "pause")}})
}

// Load makes an image and gives it to the container runtime.
func (c *Cluster) Load(ctx context.Context, image Image) error {
	file := c.Run("image.tar")
	if err := image.Write(file); err != nil {
		return fmt.Errorf("image %s: %w", image.Name, err)
	}
	if _, err := c.Output(ctx, "ctr", "-n", "k8s.io", "images", "import", file); err != nil {
		return err
	}
	c.say("image %s", image.Name)
	return os.Remove(file)
}

// startControlPlane starts everything but the kubelet.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	var err error
	if c.pki, err = newPKI(c.Run("pki")); err != nil {
		return err
	}
	err = c.StartDaemon("etcd", "etcd", "--data-dir="+c.Run("etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync")
	if err == nil {
		err = c.Await(ctx, "etcd", 30*time.Second, c.get("http://127.0.0.1:2379/health"))
	}
	if err == nil {
		err = c.StartAPIServer(ctx)
	}
	if err == nil {
		err = c.StartDaemon("kube-controller-manager", "kube-controller-manager", "--kubeconfig="+c.pki.path("controller-manager.conf"),
			"--leader-elect=false", "--service-account-private-key-file="+c.pki.path("sa.key"),
			"--root-ca-file="+c.pki.path("ca.crt"), "--use-service-account-credentials=true")
	}
	if err == nil {
		err = c.StartDaemon("kube-scheduler", "kube-scheduler", "--kubeconfig="+c.pki.path("scheduler.conf"), "--leader-elect=false")
	}
	return err
}

// StartAPIServer starts the API server: again, where it was stopped with
// StopDaemon("kube-apiserver").
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p := c.pki.path
	err := c.StartDaemon("kube-apiserver", "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+nodeIP,
		"--tls-cert-file="+p("apiserver.crt"), "--tls-private-key-file="+p("apiserver.key"), "--client-ca-file="+p("ca.crt"),
		"--service-cluster-ip-range="+services, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file="+p("sa.key"), "--service-account-key-file="+p("sa.pub"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--endpoint-reconciler-type=master-count", "--kubelet-client-certificate="+p("apiserver-kubelet.crt"),
		"--kubelet-client-key="+p("apiserver-kubelet.key"), "--kubelet-certificate-authority="+p("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP")
	if err != nil {
		return err
	}
	return c.Await(ctx, "kube-apiserver", 2*time.Minute, c.get("https://"+nodeIP+":443/readyz"))
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
staticPodPath: %[1]s/manifests
fileCheckFrequency: 1s
address: 0.0.0.0
port: 10250
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[2]s/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: %[2]s/kubelet-server.crt
tlsPrivateKeyFile: %[2]s/kubelet-server.key
nodeStatusUpdateFrequency: 4s
makeIPTablesUtilChains: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: ""
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
featureGates: {PodsAPI: %[3]t}
`

// startKubelet starts the kubelet and waits until pods can run.
func (c *Cluster) startKubelet(ctx context.Context) error {
	if err := os.MkdirAll(c.Run("manifests"), 0o755); err != nil {
		return err
	}
	conf := fmt.Appendf(nil, kubeletConfig, c.Run(), c.pki.dir, c.opt.PodsAPI)
	if err := os.WriteFile(c.Run("kubelet.yaml"), conf, 0o600); err != nil {
		return err
	}
	if err := c.StartKubelet(ctx); err != nil {
		return err
	}
	err := c.Await(ctx, "node ready", 90*time.Second, func(ctx context.Context) error {
		const ready = `{.status.conditions[?(@.type=="Ready")].status} {.spec.taints}`
		out, err := c.Kubectl(ctx, "get", "node", NodeName, "-o", "jsonpath="+ready)
		if err == nil && strings.TrimSpace(string(out)) != "True" {
			err = fmt.Errorf("ready, taints: %s", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.Await(ctx, "default service account", time.Minute, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "-n", "default", "get", "serviceaccount", "default")
		return err
	})
}

// StartKubelet starts the kubelet: again, where it was stopped with
// StopDaemon("kubelet").
func (c *Cluster) StartKubelet(ctx context.Context) error {
	err := c.StartDaemon("kubelet", "kubelet", "--config="+c.Run("kubelet.yaml"), "--kubeconfig="+c.pki.path("kubelet.conf"),
		"--hostname-override="+NodeName, "--node-ip="+nodeIP, "--v=2")
	if err != nil {
		return err
	}
	return c.Await(ctx, "kubelet", 90*time.Second, c.get("http://127.0.0.1:10248/healthz"))
}

// HTTP is a client in the node's network, with the administrator's
// certificate and trust in the cluster's authority.
func (c *Cluster) HTTP() (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(c.pki.path("admin.crt"), c.pki.path("admin.key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(c.pki.ca)
	return &http.Client{Transport: &http.Transport{
		DialContext: c.Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}, nil
}

// get is a check that a URL answers with 200.
func (c *Cluster) get(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		client, err := c.HTTP()
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(body))
		}
		return err
	}
}

// Root is the path of a file of the node, as seen from outside of it.
func (c *Cluster) Root(name string) string { return fmt.Sprintf("/proc/%d/root%s", c.node.PID, name) }
