package agent

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler/dcgm"
)

// Where pids come from.
const (
	PIDsOfHost   = "host"
	PIDsOfNested = "nested"
	PIDsForeign  = "foreign"
)

// Whether the agent looks for a kubelet.
const (
	KubernetesAuto = "auto"
	KubernetesOn   = "on"
	KubernetesOff  = "off"
)

// NVMLConfig is for source nvml.
type NVMLConfig struct {
	// Library is the driver's library. Default "": libnvidia-ml.so.1, as the
	// system's loader finds it.
	Library string `yaml:"library"`

	// ProcFS is where the host's /proc is mounted. Default: /proc.
	ProcFS string `yaml:"proc_fs"`

	// PIDs says which pids the driver's answers can be read by. host: the agent
	// must be in the host's pid namespace. nested: in that of a node which is
	// itself a container, such as kind's; a pid of a process outside it may
	// then be taken for one inside. foreign: in some other; all processes are
	// then unattributed. Default: host.
	PIDs string `yaml:"pids"`
}

func (c *NVMLConfig) check(bad func(key, format string, args ...any)) {
	if !slices.Contains([]string{PIDsOfHost, PIDsOfNested, PIDsForeign}, c.PIDs) {
		bad("nvml.pids", "unknown %q: want host, nested or foreign", c.PIDs)
	}
	if !filepath.IsAbs(c.ProcFS) {
		bad("nvml.proc_fs", "%q: want an absolute path", c.ProcFS)
	}
}

// KubernetesConfig says how the agent knows who holds a device and whose a
// process is. It is for source nvml.
type KubernetesConfig struct {
	// Enabled is auto (where the agent runs in a pod, or the kubelet's socket is
	// there), on or off. Default: auto.
	Enabled string `yaml:"enabled"`

	// PodResourcesSocket is the kubelet's, in a directory that has to be mounted
	// as such: a restarted kubelet makes a new socket. Default:
	// /var/lib/kubelet/pod-resources/kubelet.sock.
	PodResourcesSocket string `yaml:"pod_resources_socket"`

	// Checkpoint is the device manager's, which alone knows the devices of init
	// containers. Without the file they are unknown. Default:
	// /var/lib/kubelet/device-plugins/kubelet_internal_checkpoint.
	Checkpoint string `yaml:"checkpoint"`

	// Pods is where pods' UIDs, labels and controllers come from: pods-api (the
	// kubelet's; before 1.37 behind its feature gate PodsAPI), apiserver, kubelet
	// (its /pods), or auto: the first of these that answers. Default: auto.
	Pods string `yaml:"pods"`

	// PodsAPISockets are where the kubelet's Pods API may be. Default:
	// [/var/lib/kubelet/pods-api/pods-api.sock, /var/lib/kubelet/pods/kubelet.sock].
	PodsAPISockets []string `yaml:"pods_api_sockets"`

	// Kubeconfig is how to reach the API server. Default "": as a pod does, by
	// its service account.
	Kubeconfig string `yaml:"kubeconfig"`

	// KubeletURL is the kubelet's own API, for its /pods. Default "":
	// https://NODE_IP:10250 where that environment variable is set, else the
	// kubelet's /pods is not used.
	KubeletURL string `yaml:"kubelet_url"`

	// KubeletCAFile holds the certificates that the kubelet's is checked
	// against, in PEM. Default "": those of the service account.
	KubeletCAFile string `yaml:"kubelet_ca_file"`

	// KubeletInsecure does not check the kubelet's certificate, which most
	// kubelets sign themselves. Default: false.
	KubeletInsecure bool `yaml:"kubelet_insecure"`

	// Resources are names of resources that are GPUs, beside nvidia.com/gpu,
	// nvidia.com/gpu.shared and nvidia.com/mig-*. Default: none.
	Resources []string `yaml:"resources"`

	// NodeLabels says which labels of the node rate cards may select on, beside
	// those under labels: keys, or prefixes that end in an asterisk. Default:
	// [topology.kubernetes.io/*, node.kubernetes.io/instance-type,
	// nvidia.com/gpu.*, karpenter.sh/*, eks.amazonaws.com/capacityType,
	// cloud.google.com/gke-*, kubernetes.azure.com/scalesetpriority].
	NodeLabels []string `yaml:"node_labels"`
}

func (c *KubernetesConfig) check(bad func(key, format string, args ...any)) {
	if !slices.Contains([]string{KubernetesAuto, KubernetesOn, KubernetesOff}, c.Enabled) {
		bad("kubernetes.enabled", "unknown %q: want auto, on or off", c.Enabled)
	}
	if !slices.Contains([]string{"auto", "pods-api", "apiserver", "kubelet"}, c.Pods) {
		bad("kubernetes.pods", "unknown %q: want auto, pods-api, apiserver or kubelet", c.Pods)
	}
	for key, path := range map[string]string{"pod_resources_socket": c.PodResourcesSocket, "checkpoint": c.Checkpoint} {
		if !filepath.IsAbs(path) {
			bad("kubernetes."+key, "%q: want an absolute path", path)
		}
	}
	for _, path := range c.PodsAPISockets {
		if !filepath.IsAbs(path) {
			bad("kubernetes.pods_api_sockets", "%q: want absolute paths", path)
		}
	}
	if c.KubeletURL != "" {
		checkURL(bad, "kubernetes.kubelet_url", c.KubeletURL, "https")
	}
	if len(c.Resources) > 64 || len(c.NodeLabels) > 64 {
		bad("kubernetes", "at most 64 resources and 64 node_labels are allowed")
	}
	for _, name := range slices.Concat(c.Resources, c.NodeLabels) {
		if name == "" || !isName(name) {
			bad("kubernetes", "%.40q: want names of at most 253 printable characters", name)
		}
	}
}

// SlurmConfig is for nodes whose GPUs a Slurm cluster hands out. It is for
// source nvml.
type SlurmConfig struct {
	// JobDir is a directory with a file per GPU, named by its index, that holds
	// the ids of the jobs it is given to, a line each: what a prolog writes for
	// dcgm-exporter too. Default "": none.
	JobDir string `yaml:"job_dir"`
}

// DCGMConfig says where SM activity comes from that NVML does not know: of MIG
// instances before Hopper, and finer than utilization. It is for source nvml.
type DCGMConfig struct {
	// Mode is off, embedded (a host engine in this process), standalone (one
	// that runs already), or exporter (a dcgm-exporter that runs already: only
	// one client can own profiling). Default: off.
	Mode string `yaml:"mode"`

	// Address is where a standalone host engine listens (host:port, or
	// unix:///path), or an exporter's page (a URL). Default "": localhost:5555,
	// or http://localhost:9400/metrics.
	Address string `yaml:"address"`

	// Fields are read beside SM activity, to be seen on /metrics:
	// gr_engine_active, sm_occupancy, pipe_tensor_active, dram_active. The
	// hardware may have to take turns to count more, which makes each coarser.
	// Default: none.
	Fields []string `yaml:"fields"`
}

func (c *SlurmConfig) check(bad func(key, format string, args ...any)) {
	if c.JobDir != "" && !filepath.IsAbs(c.JobDir) {
		bad("slurm.job_dir", "%q: want an absolute path", c.JobDir)
	}
}

func (c *DCGMConfig) check(bad func(key, format string, args ...any)) {
	for _, name := range c.Fields {
		if _, err := dcgm.ParseField(name); err != nil {
			bad("dcgm.fields", "%v", err)
		}
	}
	switch c.Mode {
	case "off", "embedded", "standalone":
	case "exporter":
		if c.Address != "" {
			checkURL(bad, "dcgm.address", c.Address, "http", "https")
		}
	default:
		bad("dcgm.mode", "unknown %q: want off, embedded, standalone or exporter", c.Mode)
	}
}

func checkURL(bad func(key, format string, args ...any), key, text string, schemes ...string) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		bad(key, "want a URL such as %s://host:port/path", schemes[0]) // what is there may hold a password
	}
}

// labelPattern is a key of a Kubernetes label.
var labelPattern = regexp.MustCompile(`^([a-zA-Z0-9][-a-zA-Z0-9.]{0,251}[a-zA-Z0-9]/)?[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?$`)
