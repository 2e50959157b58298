package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gpuledger/gpuledger/test/nodestub"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// nodeLoad is a node of 8 GPUs that pods share by time-slicing.
type nodeLoad struct {
	pods      int // that share a device, a replica each
	processes int // of each pod on its device
}

const nodeDevices = 8

func (l nodeLoad) total() int { return nodeDevices * l.pods * l.processes }

// machine is such a node: the stub driver's library, and a kubelet and a proc
// file system of real processes. The kubelet is this process, whose processor
// time is not measured.
type machine struct {
	*nodestub.Node
	library string
	pids    []int
}

// startMachine starts it. All its processes end with the benchmark.
func startMachine(b *testing.B, dir string, load nodeLoad) *machine {
	b.Helper()
	library, err := nvmlstub.Build(context.Background(), "", nvmlstub.Variant{})
	if errors.Is(err, nvmlstub.ErrNoCompiler) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	m := &machine{Node: nodestub.New(b, dir), library: library}
	var scenario nvmlstub.Scenario
	for d := range nodeDevices {
		uuid := fmt.Sprintf("GPU-%08d-0000-4000-8000-000000000000", d)
		scenario.Devices = append(scenario.Devices, nvmlstub.Device{
			UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Minor: d, Memory: 80 * nvmlstub.GiB,
			GPM: true, Energy: true, Idle: 100, Full: 700,
		})
		for p := range load.pods {
			pod := nodestub.Pod{
				Namespace: "serving", Name: fmt.Sprintf("model-%d-%d", d, p), Kind: "ReplicaSet", Controller: "model",
				Labels: map[string]string{"app": "model", "team": fmt.Sprintf("team-%d", p)},
			}
			c := nodestub.Container{Name: "server", Resource: "nvidia.com/gpu", Devices: []string{fmt.Sprintf("%s::%d", uuid, p)}}
			for range load.processes {
				pid := sleeper(b)
				c.PIDs = append(c.PIDs, pid)
				// All together they want 64 % of a device, in even parts.
				scenario.Processes = append(scenario.Processes, nvmlstub.Process{
					PID: pid, Device: uuid, SM: 64 / (load.pods * load.processes), Memory: nvmlstub.GiB,
				})
			}
			pod.Containers = []nodestub.Container{c}
			m.pids = append(m.pids, c.PIDs...)
			if err := m.Add(&pod); err != nil {
				b.Fatal(err)
			}
		}
	}
	file := filepath.Join(dir, "gpus")
	if err := scenario.Write(file); err != nil {
		b.Fatal(err)
	}
	b.Setenv(nvmlstub.EnvScenario, file)
	write(b, filepath.Join(dir, "pids"), strings.Trim(strings.Join(strings.Fields(fmt.Sprint(m.pids)), "\n"), "[]"))
	return m
}

// sleeper starts a process that does nothing, and costs little to have
// hundreds of.
func sleeper(b *testing.B) int {
	b.Helper()
	c := exec.Command("sleep", "86400")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed, which is what was wanted
	})
	return c.Process.Pid
}
