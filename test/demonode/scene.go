package main

import (
	"fmt"
	"io"
	"time"

	"github.com/gpuledger/gpuledger/test/nodestub"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// The GPUs of the scene, and what they are to a reader.
const (
	gpuShared    = "GPU-d3100000-0000-4000-8000-000000000000"
	gpuExclusive = "GPU-d3110000-0000-4000-8000-000000000001"
	gpuCut       = "GPU-d3120000-0000-4000-8000-000000000002"
	gpuMixed     = "GPU-d3130000-0000-4000-8000-000000000003"
	migLarge     = "MIG-d3120000-0000-4000-8000-000000000003"
	migSmall     = "MIG-d3120000-0000-4000-8000-000000000001"
)

// places are the devices as they are shown, in order.
var places = []struct{ device, text string }{
	{gpuShared, "GPU 0  time-sliced, two replicas"},
	{gpuExclusive, "GPU 1  exclusive"},
	{migLarge, "GPU 2  MIG 3g.40gb"},
	{migSmall, "GPU 2  MIG 1g.10gb"},
	{gpuCut, "GPU 2  the uncut rest"},
	{gpuMixed, "GPU 3  jobs of 3 s; and others"},
}

// scenario is what the stub driver plays. Processes are matched by their
// command lines, and do what is said here while they live.
func scenario() *nvmlstub.Scenario {
	s := &nvmlstub.Scenario{}
	for i, uuid := range []string{gpuShared, gpuExclusive, gpuCut, gpuMixed} {
		s.Devices = append(s.Devices, nvmlstub.Device{
			UUID: uuid, Name: "NVIDIA H100 80GB HBM3", Minor: i, Bus: fmt.Sprintf("0000:%02x:00", 0x18+i),
			Memory: 80 * nvmlstub.GiB, GPM: true, Energy: true, Idle: 90, Full: 700,
		})
	}
	s.MIG = []nvmlstub.MIG{{Device: gpuCut}}
	s.Instances = []nvmlstub.Instance{
		{UUID: migLarge, Device: gpuCut, GI: 2, Profile: "3g.40gb", Start: 4, Size: 4, Slices: 3, Memory: 40 * nvmlstub.GiB},
		{UUID: migSmall, Device: gpuCut, GI: 9, Profile: "1g.10gb", Start: 0, Size: 1, Slices: 1, Memory: 10 * nvmlstub.GiB},
	}
	uses := func(name, device string, sm int, on, off time.Duration, memory int64) {
		s.Processes = append(s.Processes, nvmlstub.Process{
			Match: "--name demo-" + name + " ", Device: device, SM: sm, On: on, Off: off, Memory: memory,
		})
	}
	uses("ranker", gpuShared, 55, 0, 0, 20*nvmlstub.GiB)
	uses("assistant", gpuShared, 60, 2*time.Second, time.Second, 30*nvmlstub.GiB)
	uses("train", gpuExclusive, 46, 0, 0, 35*nvmlstub.GiB) // two processes
	uses("detector", migLarge, 70, 0, 0, 12*nvmlstub.GiB)
	uses("notebook", migSmall, 30, time.Second, 5*time.Second, 2*nvmlstub.GiB)
	uses("etl", gpuMixed, 60, 0, 0, 8*nvmlstub.GiB)
	uses("ssh", gpuMixed, 15, 0, 0, nvmlstub.GiB)
	uses("stray", gpuMixed, 10, 0, 0, nvmlstub.GiB)
	return s
}

// Jobs come every jobEvery seconds and last jobLasts.
const (
	jobEvery = 8
	jobLasts = 3
)

// stage is what happens on the node.
type stage struct {
	*demo
	seconds int
	job     *nodestub.Pod
	program *child
}

// begin starts what is there from the start to the end.
func (s *stage) begin() error {
	for _, p := range []struct {
		namespace, kind, controller, pod, resource, device, name string
		processes                                                int
	}{
		{"serving", "ReplicaSet", "ranker", "ranker-0", "nvidia.com/gpu", gpuShared + "::0", "ranker", 1},
		{"serving", "ReplicaSet", "assistant", "assistant-0", "nvidia.com/gpu", gpuShared + "::1", "assistant", 1},
		{"research", "Job", "train", "train-0", "nvidia.com/gpu", gpuExclusive, "train", 2},
		{"vision", "StatefulSet", "detector", "detector-0", "nvidia.com/mig-3g.40gb", migLarge, "detector", 1},
		{"research", "StatefulSet", "notebook", "notebook-0", "nvidia.com/mig-1g.10gb", migSmall, "notebook", 1},
	} {
		c := nodestub.Container{Name: "main", Resource: p.resource, Devices: []string{p.device}}
		for range p.processes {
			load, err := s.load(p.name)
			if err != nil {
				return err
			}
			c.PIDs = append(c.PIDs, load.cmd.Process.Pid)
		}
		if err := s.node.Add(&nodestub.Pod{
			Namespace: p.namespace, Name: p.pod, Kind: p.kind, Controller: p.controller, Containers: []nodestub.Container{c},
		}); err != nil {
			return err
		}
	}
	// Somebody's shell, and a container of a pod that no kubelet tells of.
	for name, cgroup := range map[string]string{
		"ssh":   "/user.slice/user-1000.slice/session-3.scope",
		"stray": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod00000000_dead_4bad_8bad_000000000000.slice/cri-containerd-0000000000000000000000000000000000000000000000000000000000000bad.scope",
	} {
		load, err := s.load(name)
		if err != nil {
			return err
		}
		if err := s.node.AddProcess(load.cmd.Process.Pid, cgroup); err != nil {
			return err
		}
	}
	return nil
}

// load starts a process that does nothing, by a name of the scenario.
func (s *stage) load(name string) (*child, error) {
	return s.start(s.options.load, nil, io.Discard, "--name", "demo-"+name)
}

// step is what happens in a second: jobs come and go.
func (s *stage) step() error {
	at := s.seconds % jobEvery
	number := s.seconds / jobEvery
	s.seconds++
	switch at {
	case 0:
		load, err := s.load("etl")
		if err != nil {
			return err
		}
		s.program = load
		s.job = &nodestub.Pod{
			Namespace: "batch", Name: fmt.Sprintf("etl-%d", number), Kind: "Job", Controller: "etl",
			Containers: []nodestub.Container{{Name: "main", Resource: "nvidia.com/gpu", Devices: []string{gpuMixed}, PIDs: []int{load.cmd.Process.Pid}}},
		}
		return s.node.Add(s.job)
	case jobLasts:
		if err := s.program.stop(); err != nil {
			return err
		}
		return s.node.Remove(s.job)
	}
	return nil
}
