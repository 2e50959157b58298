// Command podmapper does what today's exporters do to find the pods of a node's
// GPUs and processes, and nothing else, for the benchmark of the agent beside
// it. It is written after the source of dcgm-exporter (as of 2025, its
// internal/pkg/transformation), whose each collection
//
//   - dials the kubelet's PodResources socket anew, lists, and hangs up;
//   - makes maps of devices to pods of the list;
//   - where time-slicing is on, reads /proc/PID/cgroup of the processes that
//     the driver names, with a regular expression for the pod's UID. (It
//     remembers a pid's pod. Here it does for one collection: what it keeps for
//     longer could not be read, and a pid is used again.)
//
// With --walk it reads the cgroups of every process that is there instead, as
// tools do that are not told the pids.
//
// What a dcgm-exporter does besides is left out: DCGM and NVML, copies of each
// metric per pod, the page. So this is less than it takes.
//
// On SIGTERM it says what it did, as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// podInfo is a pod's container as it is put on metrics.
type podInfo struct{ name, namespace, container, replica string }

// did is what a run has done.
type did struct {
	Collections int    `json:"collections"`
	Devices     int    `json:"devices"`   // that have pods, in the last collection
	Processes   int    `json:"processes"` // whose pod was found in it
	Failed      int    `json:"failed"`
	Mallocs     uint64 `json:"mallocs"`
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "podmapper:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	f := flag.NewFlagSet("podmapper", flag.ContinueOnError)
	socket := f.String("socket", "/var/lib/kubelet/pod-resources/kubelet.sock", "the kubelet's PodResources")
	procFS := f.String("proc", "/proc", "the proc file system")
	every := f.Duration("every", 30*time.Second, "between two collections (dcgm-exporter's default)")
	walk := f.Bool("walk", false, "read the cgroups of all processes, not of the given ones")
	pids := f.String("pids", "", "file with the pids that the driver would name, a line each")
	if err := f.Parse(args); err != nil {
		return err
	}
	var known []string
	if *pids != "" {
		text, err := os.ReadFile(*pids)
		if err != nil {
			return fmt.Errorf("read the pids: %w", err)
		}
		known = strings.Fields(string(text))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tick := time.NewTicker(*every)
	defer tick.Stop()
	var sum did
	for {
		err := collect(ctx, &sum, *socket, *procFS, *walk, known)
		if ctx.Err() == nil {
			sum.Collections++
			if err != nil {
				sum.Failed++
				fmt.Fprintln(os.Stderr, "podmapper:", err)
			}
		}
		select {
		case <-ctx.Done():
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			sum.Mallocs = m.Mallocs
			return json.NewEncoder(out).Encode(sum)
		case <-tick.C:
		}
	}
}

// collect maps once.
func collect(ctx context.Context, sum *did, socket, procFS string, walk bool, known []string) error {
	list, err := listPods(ctx, socket)
	if err != nil {
		return err
	}
	devices := devicesToPods(list)
	if walk {
		if known, err = processes(procFS); err != nil {
			return err
		}
	}
	pods := make(map[string]string, len(known)) // by pid
	for _, pid := range known {
		if uid, err := podOf(procFS, pid); err == nil && uid != "" {
			pods[pid] = uid
		}
	}
	sum.Devices, sum.Processes = len(devices), len(pods)
	return nil
}

func listPods(ctx context.Context, socket string) (*podresources.ListPodResourcesResponse, error) {
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", addr)
		}))
	if err != nil {
		return nil, fmt.Errorf("dial the kubelet: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pod resources: %w", err)
	}
	return list, nil
}

// devicesToPods maps devices, and the GPUs of replicas, to the containers that
// have them.
func devicesToPods(list *podresources.ListPodResourcesResponse) map[string][]podInfo {
	out := make(map[string][]podInfo)
	for _, pod := range list.GetPodResources() {
		for _, c := range pod.GetContainers() {
			for _, d := range c.GetDevices() {
				if r := d.GetResourceName(); r != "nvidia.com/gpu" && !strings.HasPrefix(r, "nvidia.com/mig-") {
					continue
				}
				info := podInfo{name: pod.GetName(), namespace: pod.GetNamespace(), container: c.GetName()}
				for _, id := range d.GetDeviceIds() {
					if gpu, replica, shared := strings.Cut(id, "::"); shared {
						info.replica = replica
						out[gpu] = append(out[gpu], info)
					}
					out[id] = append(out[id], info)
				}
			}
		}
	}
	return out
}

// processes are the pids of a proc file system.
func processes(procFS string) ([]string, error) {
	d, err := os.Open(procFS)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	pids := names[:0]
	for _, n := range names {
		if _, err := strconv.Atoi(n); err == nil {
			pids = append(pids, n)
		}
	}
	return pids, nil
}

var podUID = regexp.MustCompile(`pod([a-f0-9_-]+)`)

// podOf is the UID of the pod that a process is in, "" for none.
func podOf(procFS, pid string) (string, error) {
	text, err := os.ReadFile(filepath.Join(procFS, pid, "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) < 3 {
			continue
		}
		if m := podUID.FindStringSubmatch(parts[2]); m != nil {
			if uid := strings.ReplaceAll(m[1], "_", "-"); len(uid) >= 32 {
				return uid, nil
			}
		}
	}
	return "", nil
}
