package deviceid

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a HAMi annotation.
const (
	MaxHAMiBytes      = 64 << 10
	MaxHAMiContainers = 256
	MaxHAMiDevices    = 1024 // of all containers
)

// ErrHAMi is wrapped by errors about an annotation that is not HAMi's.
var ErrHAMi = errors.New("bad annotation hami.io/vgpu-devices-allocated")

const (
	uuidBytes     = 36
	wholeGPUBytes = len("GPU-") + uuidBytes
)

// IsHAMi reports whether an id has HAMi's form, GPU-<uuid>-<n>.
func IsHAMi(id string) bool {
	if len(id) < wholeGPUBytes+2 || !strings.HasPrefix(id, "GPU-") || !isUUID(id[len("GPU-"):wholeGPUBytes]) || id[wholeGPUBytes] != '-' {
		return false
	}
	_, err := number(id[wholeGPUBytes+1:])
	return err == nil
}

// ParseHAMi reads a pod's annotation: the GPUs' UUIDs that HAMi's scheduler gave
// each container, in the order of the pod's containers. Each container's devices
// end in a semicolon, each device in a colon:
//
//	<uuid>,<type>,<MiB>,<percent of cores>:<uuid>,…:;<next container's>:;
//
// HAMi counts all containers, the init containers first; older versions leave
// the init containers out. See [HAMi.Container].
func ParseHAMi(annotation string) (HAMi, error) {
	if len(annotation) > MaxHAMiBytes {
		return HAMi{}, fmt.Errorf("%w: it has %d bytes: want at most %d", ErrHAMi, len(annotation), MaxHAMiBytes)
	}
	var h HAMi
	devices := 0
	for container := range strings.SplitSeq(strings.TrimSuffix(annotation, ";"), ";") {
		if len(h.containers) == MaxHAMiContainers {
			return HAMi{}, fmt.Errorf("%w: it has more than %d containers", ErrHAMi, MaxHAMiContainers)
		}
		var uuids []string
		for device := range strings.SplitSeq(container, ":") {
			if device == "" {
				continue
			}
			fields := strings.SplitN(device, ",", 5)
			if len(fields) < 4 || fields[0] == "" || fields[1] == "" {
				return HAMi{}, fmt.Errorf("%w: %.64q is not <uuid>,<type>,<memory>,<cores>", ErrHAMi, device)
			}
			if devices++; devices > MaxHAMiDevices {
				return HAMi{}, fmt.Errorf("%w: it has more than %d devices", ErrHAMi, MaxHAMiDevices)
			}
			uuids = append(uuids, fields[0])
		}
		h.containers = append(h.containers, uuids)
	}
	if devices == 0 {
		return HAMi{}, fmt.Errorf("%w: it names no device", ErrHAMi)
	}
	return h, nil
}

// HAMi is what HAMi's scheduler gave to a pod's containers.
type HAMi struct{ containers [][]string }

// Container is the UUIDs given to the i-th of n containers of the pod, of which
// the kubelet lists so many devices; a UUID comes once for each virtual GPU on
// it. Containers are in the order of the spec, init containers first and
// ephemeral ones last. The annotation may lack either end: where it has fewer
// containers than the pod they are taken for the last ones, unless the number
// of devices says otherwise.
func (h HAMi) Container(i, n, devices int) []string {
	last := h.at(i - (n - len(h.containers)))
	for before := n - len(h.containers); before >= 0; before-- {
		if uuids := h.at(i - before); len(uuids) == devices {
			return uuids
		}
	}
	return last
}

func (h HAMi) at(i int) []string {
	if i < 0 || i >= len(h.containers) {
		return nil
	}
	return h.containers[i]
}

// isUUID reports whether s is 36 bytes of hex digits with dashes in their places.
func isUUID(s string) bool {
	if len(s) != uuidBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
