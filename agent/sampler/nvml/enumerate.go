package nvml

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	// maxGPUs and maxInstances bound what a driver is believed to have.
	maxGPUs      = 256
	maxInstances = 64 // slots of a GPU
	// answerWithin is how long a look waits for the GPUs. To wake all of a node
	// that nobody uses takes a driver seconds.
	answerWithin = 15 * time.Second
)

// answer is what one GPU says that it is.
type answer struct {
	index int
	gpu   gpu
	err   error
}

// list lists whole GPUs; GPUs in MIG mode as what is left of them, followed by
// their instances. What fails, or hangs, hides nothing else.
func (l *library) list() (found listing) {
	n, ret := l.api.DeviceGetCount()
	if err := l.check("nvmlDeviceGetCount", ret); err != nil {
		return listing{err: err}
	}
	if n > maxGPUs {
		found.err, n = fmt.Errorf("nvmlDeviceGetCount: %d GPUs: the first %d are listed", n, maxGPUs), maxGPUs
	}
	seen := make(map[string]bool)
	for i, a := range l.ask(n) {
		g, err := a.gpu, a.err
		for _, u := range g.units {
			if seen[u.uuid] {
				g, err = gpu{}, fmt.Errorf("the id %s is there twice", u.uuid)
				break
			}
			seen[u.uuid] = true
		}
		if err != nil {
			found.err = worse(found.err, fmt.Errorf("GPU %d: %w", i, err))
		}
		if len(g.units) > 0 {
			found.gpus = append(found.gpus, g)
		}
	}
	return found
}

// ask asks all GPUs at once what they are. One that does not answer in time is
// an error, and is asked again once it has answered.
func (l *library) ask(n int) []answer {
	all, answers, waiting := make([]answer, n), make(chan answer, n), 0
	for i := range all {
		all[i].err = errors.New("it does not answer")
		if done := l.asked[i]; done != nil {
			select {
			case <-done:
			default:
				continue
			}
		}
		done := make(chan struct{})
		l.asked[i] = done
		waiting++
		l.asking.Go(func() {
			defer close(done)
			g, err := l.at(i)
			answers <- answer{i, g, err}
		})
	}
	timeout := time.NewTimer(answerWithin)
	defer timeout.Stop()
	for ; waiting > 0; waiting-- {
		select {
		case a := <-answers:
			all[a.index] = a
		case <-timeout.C:
			return all
		}
	}
	return all
}

// at is the GPU of an index.
func (l *library) at(index int) (gpu, error) {
	device, ret := l.api.DeviceGetHandleByIndex(index)
	if err := l.check("nvmlDeviceGetHandleByIndex", ret); err != nil {
		return gpu{}, err
	}
	return l.gpu(index, device)
}

// worse keeps of two errors the one that says more about the driver as a whole.
func worse(a, b error) error {
	if a == nil || errors.Is(b, ErrDriverReplaced) || (errors.Is(b, errGone) && !errors.Is(a, ErrDriverReplaced)) {
		return b
	}
	return a
}

// gpu is a GPU and, in MIG mode, its instances. With an error, those are there
// that could be read.
func (l *library) gpu(index int, device nvml.Device) (gpu, error) {
	f, err := l.facts(device)
	if err != nil {
		return gpu{}, err
	}
	if l.has["nvmlDeviceGetTotalEnergyConsumption"] {
		_, ret := device.GetTotalEnergyConsumption()
		err := l.check("nvmlDeviceGetTotalEnergyConsumption", ret)
		f.energy = !errors.Is(err, errNotSupported) // any other error may pass
	}
	at := place{index: index, minor: -1, gpuInstance: -1, computeInstance: -1, placement: -1}
	if l.has["nvmlDeviceGetMinorNumber"] {
		if minor, ret := device.GetMinorNumber(); ret == nvml.SUCCESS {
			at.minor = minor
		}
	}
	mig, err := l.migMode(device)
	if err != nil {
		return gpu{}, err
	}
	h := &nvmlHandle{lib: l, device: device, mig: mig, gpuInstance: -1, computeInstance: -1}
	if !mig {
		h.gpm = l.gpm(device)
		return gpu{units: []unit{{facts: f, place: at, gpm: h.gpm != nil, handle: h}}, complete: true}, nil
	}
	// The energy counter is the whole GPU's: nobody's alone.
	rest := f
	rest.remainder, rest.energy = true, false
	g := gpu{units: []unit{{facts: rest, place: at, handle: h}}}
	err = l.instances(&g, device, &f)
	g.complete = err == nil
	return g, err
}

// instances appends the instances of a GPU in MIG mode.
func (l *library) instances(g *gpu, device nvml.Device, whole *facts) error {
	if !l.all("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex") {
		return nil
	}
	slots, ret := device.GetMaxMigDeviceCount()
	if err := l.check("nvmlDeviceGetMaxMigDeviceCount", ret); err != nil {
		return err
	}
	var failed error
	of := uint32(0)
	for i := range min(slots, maxInstances) {
		instance, ret := device.GetMigDeviceHandleByIndex(i)
		err := l.check("nvmlDeviceGetMigDeviceHandleByIndex", ret)
		if errors.Is(err, errNoData) || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue // an empty slot
		}
		if err == nil {
			if of == 0 {
				of = l.computeSlices(device)
			}
			var u unit
			if u, err = l.instance(device, g.units[0].place, whole, of, instance); err == nil {
				g.units = append(g.units, u)
				g.units[0].memoryBytes = max(g.units[0].memoryBytes-u.memoryBytes, 0)
			}
		}
		if err != nil {
			failed = worse(failed, fmt.Errorf("MIG device %d: %w", i, err))
		}
	}
	return failed
}

func (l *library) facts(device nvml.Device) (facts, error) {
	uuid, ret := device.GetUUID()
	if err := l.check("nvmlDeviceGetUUID", ret); err != nil {
		return facts{}, err
	}
	if uuid == "" {
		return facts{}, errors.New("nvmlDeviceGetUUID: empty") // nothing to bill under
	}
	model, ret := device.GetName()
	if err := l.check("nvmlDeviceGetName", ret); err != nil {
		return facts{}, err
	}
	f := facts{uuid: text(uuid), model: text(model)}
	m, ret := device.GetMemoryInfo()
	err := l.check("nvmlDeviceGetMemoryInfo", ret)
	switch {
	case err == nil && m.Total <= math.MaxInt64:
		f.memoryBytes = int64(m.Total)
	case err != nil && !errors.Is(err, errNotSupported):
		return facts{}, err
	} // else it can't be told (some integrated GPUs) and stays 0: unknown
	return f, nil
}

func (l *library) migMode(device nvml.Device) (bool, error) {
	if !l.has["nvmlDeviceGetMigMode"] {
		return false, nil
	}
	mode, _, ret := device.GetMigMode()
	err := l.check("nvmlDeviceGetMigMode", ret)
	if errors.Is(err, errNotSupported) && !errors.Is(err, errDenied) {
		return false, nil
	}
	return mode == nvml.DEVICE_MIG_ENABLE, err
}

// instance is a MIG device of a parent of so many compute slices. It is priced
// as a share of the parent, so its model is the parent's.
func (l *library) instance(parent nvml.Device, at place, whole *facts, of uint32, device nvml.Device) (unit, error) {
	f, err := l.facts(device)
	if err != nil {
		return unit{}, err
	}
	if _, profile, ok := strings.Cut(f.model, " MIG "); ok {
		f.profile = profile // such as "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
	}
	f.model, f.parent = whole.model, whole.uuid
	if !l.any("nvmlDeviceGetAttributes", "nvmlDeviceGetAttributes_v2") {
		return unit{}, fmt.Errorf("nvmlDeviceGetAttributes: %w", errNotSupported)
	}
	a, ret := device.GetAttributes()
	if err := l.check("nvmlDeviceGetAttributes", ret); err != nil {
		return unit{}, err
	}
	f.share, err = migShare(a.GpuInstanceSliceCount, a.ComputeInstanceSliceCount, a.MemorySizeMB, of, whole.memoryBytes)
	if err != nil {
		return unit{}, err
	}
	if l.has["nvmlDeviceGetGpuInstanceId"] {
		if id, ret := device.GetGpuInstanceId(); ret == nvml.SUCCESS {
			at.gpuInstance, at.placement = id, l.placement(parent, id)
		}
	}
	if l.has["nvmlDeviceGetComputeInstanceId"] {
		if id, ret := device.GetComputeInstanceId(); ret == nvml.SUCCESS {
			at.computeInstance = id
		}
	}
	h := &nvmlHandle{lib: l, device: device, mig: true, gpuInstance: at.gpuInstance, computeInstance: at.computeInstance}
	if at.gpuInstance >= 0 {
		h.gpm = l.migGPM(parent, at.gpuInstance)
	}
	return unit{facts: f, place: at, gpm: h.gpm != nil, handle: h}, nil
}

// placement is the first memory slice of a GPU instance; −1 where that can't
// be told (the driver wants privileges for it).
func (l *library) placement(parent nvml.Device, gpuInstance int) int {
	if !l.all("nvmlDeviceGetGpuInstanceById", "nvmlGpuInstanceGetInfo") {
		return -1
	}
	gi, ret := parent.GetGpuInstanceById(gpuInstance)
	if ret != nvml.SUCCESS {
		return -1
	}
	info, ret := gi.GetInfo()
	if ret != nvml.SUCCESS {
		return -1
	}
	return int(info.Placement.Start)
}

// computeSlices is the number of compute slices of a GPU: those of its largest
// profile; 7 where that can't be told.
func (l *library) computeSlices(parent nvml.Device) uint32 {
	var most uint32
	if l.has["nvmlDeviceGetGpuInstanceProfileInfo"] {
		for profile := range nvml.GPU_INSTANCE_PROFILE_COUNT {
			if info, ret := parent.GetGpuInstanceProfileInfo(profile); ret == nvml.SUCCESS {
				most = max(most, info.SliceCount)
			}
		}
	}
	if most == 0 {
		return 7
	}
	return most
}

// migShare says which part of its GPU a MIG device is. GPUs of 7 compute
// slices have 8 memory slices, those of 4 have 4; the driver says how large
// the memory is, a little less than its slices. A compute instance that is
// only a part of its GPU instance has that part of its memory. What makes no
// sense is an error: without a share it would be priced as a whole GPU.
func migShare(gpuSlices, computeSlices uint32, memoryMB uint64, of uint32, wholeBytes int64) (attribution.MIGShare, error) {
	wholeMB := wholeBytes >> 20
	if computeSlices == 0 || computeSlices > gpuSlices || gpuSlices > of || of > 64 || memoryMB == 0 || memoryMB > uint64(max(wholeMB, 0)) {
		return attribution.MIGShare{}, fmt.Errorf("%d of %d of %d compute slices and %d of %d MiB are no share of a GPU",
			computeSlices, gpuSlices, of, memoryMB, wholeMB)
	}
	memoryOf := int64(of)
	if of == 7 {
		memoryOf = 8
	}
	memory := min(max((int64(memoryMB)*memoryOf+wholeMB/2)/wholeMB, 1), memoryOf)
	s := attribution.MIGShare{Compute: int32(computeSlices), ComputeOf: int32(of), Memory: int32(memory), MemoryOf: int32(memoryOf)}
	if computeSlices < gpuSlices {
		s.Memory *= int32(computeSlices)
		s.MemoryOf *= int32(gpuSlices)
	}
	return s, nil
}
