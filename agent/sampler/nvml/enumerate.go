package nvml

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/gpuledger/gpuledger/attribution"
)

// units lists whole GPUs; GPUs in MIG mode are listed as what is left of them,
// followed by their instances.
func (l *library) units() ([]unit, error) {
	n, ret := l.api.DeviceGetCount()
	if err := l.check("nvmlDeviceGetCount", ret); err != nil {
		return nil, err
	}
	var out []unit
	var failed error
	for i := range n {
		device, ret := l.api.DeviceGetHandleByIndex(i)
		err := l.check(fmt.Sprintf("nvmlDeviceGetHandleByIndex(%d)", i), ret)
		if err == nil {
			var us []unit
			us, err = l.gpu(device)
			out = append(out, us...)
		}
		if err != nil {
			failed = err // a lost GPU must not hide the others
		}
	}
	return out, failed
}

// gpu is a GPU as one unit, or in MIG mode as several.
func (l *library) gpu(device nvml.Device) ([]unit, error) {
	f, err := l.facts(device)
	if err != nil {
		return nil, err
	}
	if l.has["nvmlDeviceGetTotalEnergyConsumption"] {
		_, ret := device.GetTotalEnergyConsumption()
		err := l.check("nvmlDeviceGetTotalEnergyConsumption", ret)
		f.energy = !errors.Is(err, errNotSupported) // any other error may pass
	}
	mig, err := l.migMode(device)
	if err != nil {
		return nil, err
	}
	if !mig {
		g := l.gpm(device)
		f.gpm = g != nil
		return []unit{{f, &nvmlHandle{lib: l, device: device, gpm: g}}}, nil
	}
	rest := f
	// The energy counter is the whole GPU's. It is nobody's alone.
	rest.remainder, rest.energy = true, false
	out := []unit{{rest, &nvmlHandle{lib: l, device: device, mig: true}}}
	if !l.all("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex") {
		return out, nil
	}
	slots, ret := device.GetMaxMigDeviceCount()
	if err := l.check("nvmlDeviceGetMaxMigDeviceCount", ret); err != nil {
		return out, err
	}
	for i := range slots {
		instance, ret := device.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue // an empty slot
		}
		u, err := l.instance(device, &f, instance)
		if err != nil {
			return out, err
		}
		out = append(out, u)
		out[0].memoryBytes = max(out[0].memoryBytes-u.memoryBytes, 0)
	}
	return out, nil
}

func (l *library) facts(device nvml.Device) (facts, error) {
	uuid, ret := device.GetUUID()
	if err := l.check("nvmlDeviceGetUUID", ret); err != nil {
		return facts{}, err
	}
	if uuid == "" {
		return facts{}, fmt.Errorf("nvmlDeviceGetUUID: empty") // nothing to bill under
	}
	model, ret := device.GetName()
	if err := l.check("nvmlDeviceGetName", ret); err != nil {
		return facts{}, err
	}
	f := facts{uuid: uuid, model: model}
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
	if errors.Is(err, errNotSupported) {
		return false, nil
	}
	return mode == nvml.DEVICE_MIG_ENABLE, err
}

// instance is a MIG device of a parent. It is priced as a share of the parent,
// so its model is the parent's.
func (l *library) instance(parent nvml.Device, whole *facts, device nvml.Device) (unit, error) {
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
	f.share, err = migShare(a.GpuInstanceSliceCount, a.ComputeInstanceSliceCount, a.MemorySizeMB, l.computeSlices(parent), whole.memoryBytes)
	if err != nil {
		return unit{}, fmt.Errorf("MIG device %s: %w", f.uuid, err)
	}
	h := &nvmlHandle{lib: l, device: device, mig: true}
	if l.has["nvmlDeviceGetGpuInstanceId"] {
		if id, ret := device.GetGpuInstanceId(); ret == nvml.SUCCESS {
			h.gpm = l.migGPM(parent, id)
			f.gpm = h.gpm != nil
		}
	}
	return unit{f, h}, nil
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
