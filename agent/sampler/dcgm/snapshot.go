package dcgm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Field is one of DCGM's profiling fields, by its number.
type Field uint16

// The fields that can be read. All are shares of the time up to a reading.
const (
	GREngineActive   Field = 1001 // the graphics and compute engine had work
	SMActive         Field = 1002 // an SM had a warp, mean over the SMs
	SMOccupancy      Field = 1003 // warps resident, of those possible
	PipeTensorActive Field = 1004 // the tensor pipe was in use
	DRAMActive       Field = 1005 // device memory was read or written
)

// String is the field's name in settings and metrics.
func (f Field) String() string {
	switch f {
	case GREngineActive:
		return "gr_engine_active"
	case SMActive:
		return "sm_active"
	case SMOccupancy:
		return "sm_occupancy"
	case PipeTensorActive:
		return "pipe_tensor_active"
	case DRAMActive:
		return "dram_active"
	}
	return strconv.Itoa(int(f))
}

// ParseField is the inverse of [Field.String].
func ParseField(name string) (Field, error) {
	for f := GREngineActive; f <= DRAMActive; f++ {
		if f.String() == name {
			return f, nil
		}
	}
	return 0, fmt.Errorf("unknown field %q: want gr_engine_active, sm_active, sm_occupancy, pipe_tensor_active or dram_active", name)
}

// names of a field on an exporter's page: DCGM's before and since 4.6.
func (f Field) names() []string {
	switch f {
	case GREngineActive:
		return []string{"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO"}
	case SMActive:
		return []string{"DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_PROF_SM_UTIL_RATIO"}
	case SMOccupancy:
		return []string{"DCGM_FI_PROF_SM_OCCUPANCY", "DCGM_FI_PROF_SM_OCCUPANCY_RATIO"}
	case PipeTensorActive:
		return []string{"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_TENSOR_UTIL_RATIO"}
	case DRAMActive:
		return []string{"DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_DRAM_UTIL_RATIO"}
	}
	return nil
}

// Reading is one field of one GPU or instance.
type Reading struct {
	GPU             string // UUID
	GPUInstance     int    // NVML's number; −1 for the whole GPU
	ComputeInstance int    // NVML's number within the GPU instance; −1 for all of it
	Field           Field
	Share           int64 // millionths
	At              int64 // Unix ns on the machine's wall clock
}

// compare orders readings by what they are of.
func (r Reading) compare(o Reading) int {
	return cmp.Or(cmp.Compare(r.GPU, o.GPU), cmp.Compare(r.GPUInstance, o.GPUInstance),
		cmp.Compare(r.ComputeInstance, o.ComputeInstance), cmp.Compare(r.Field, o.Field))
}

// snapshot is what is known at a time. It never changes.
type snapshot struct {
	readings []Reading // by compare, none twice
	good     int64     // how old a reading may be, in ns
}

// newSnapshot takes the readings over. Of several of the same the first counts;
// those that contradict it are counted.
func newSnapshot(readings []Reading, good int64) (s *snapshot, contradicting int) {
	slices.SortStableFunc(readings, Reading.compare)
	kept := readings[:0]
	for _, r := range readings {
		if n := len(kept); n > 0 && kept[n-1].compare(r) == 0 {
			if kept[n-1].Share != r.Share {
				contradicting++
			}
			continue
		}
		kept = append(kept, r)
	}
	return &snapshot{readings: kept, good: good}, contradicting
}

// find looks for a reading that is good at now.
func (s *snapshot) find(gpu string, gpuInstance int, f Field, now int64) (Reading, bool) {
	want := Reading{GPU: gpu, GPUInstance: gpuInstance, ComputeInstance: -1, Field: f}
	i, found := slices.BinarySearchFunc(s.readings, want, Reading.compare)
	if !found || !s.isGood(s.readings[i], now) {
		return Reading{}, false
	}
	return s.readings[i], true
}

// isGood also refuses what is of the future: the wall clock was set back, and
// how old the reading is can't be told.
func (s *snapshot) isGood(r Reading, now int64) bool {
	return now-r.At <= s.good && r.At-now <= future
}

// mostShare is how large a share may be and still mean "all of it": DCGM is
// known to give busy MIG instances a little more than 1.
const mostShare = 1.25

// millionths is a share as an integer; false if it is none.
func millionths(share float64) (int64, bool) {
	if !(share >= 0 && share <= mostShare) { // nor NaN
		return 0, false
	}
	return int64(math.Round(min(share, 1) * 1e6)), true
}
