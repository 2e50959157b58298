package deviceid

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// A node of every sort of GPU: two whole ones whose device files are not in the
// driver's order, one that is cut in two with a rest, one in MIG mode of which
// nothing is cut, and one that is cut whole and known by its instances alone.
const (
	whole0 = "GPU-00000000-aaaa-4bbb-8ccc-000000000000"
	whole1 = "GPU-11111111-aaaa-4bbb-8ccc-000000000001"
	cut    = "GPU-22222222-aaaa-4bbb-8ccc-000000000002"
	uncut  = "GPU-33333333-aaaa-4bbb-8ccc-000000000003"
	gone   = "GPU-44444444-aaaa-4bbb-8ccc-000000000004"
	mig1   = "MIG-aaaaaaaa-aaaa-5bbb-8ccc-000000000001"
	mig2   = "MIG-bbbbbbbb-aaaa-5bbb-8ccc-000000000002"
	mig7   = "MIG-cccccccc-aaaa-5bbb-8ccc-000000000007"
)

func units() []sampler.Unit {
	gpu := func(id string, index, minor int) sampler.Unit {
		return sampler.Unit{ID: id, Index: index, Minor: minor, GPUInstance: -1, ComputeInstance: -1, Placement: -1}
	}
	us := []sampler.Unit{gpu(whole0, 0, 1), gpu(whole1, 1, 0), gpu(cut, 2, 2), gpu(uncut, 3, 3)}
	us[2].Remainder, us[3].Remainder = true, true
	return append(us,
		sampler.Unit{ID: mig1, Parent: cut, Index: 2, Minor: 2, GPUInstance: 7, ComputeInstance: 0, Placement: 0, Profile: "1g.10gb"},
		sampler.Unit{ID: mig2, Parent: cut, Index: 2, Minor: -1, GPUInstance: 3, ComputeInstance: 0, Placement: 4, Profile: "2g.20gb+me"},
		sampler.Unit{ID: mig7, Parent: gone, Index: 4, Minor: 4, GPUInstance: 0, ComputeInstance: 0, Placement: 0, Profile: "7g.80gb"},
	)
}

func TestDevices(t *testing.T) {
	r := New(Options{Units: units()})
	for id, want := range map[string]string{
		// whole GPUs
		whole0: whole0,
		uncut:  uncut, // the rest is all there is
		cut:    "!cut into 2 instances",
		gone:   "!nothing of it is uncut",
		"GPU-99999999-aaaa-4bbb-8ccc-000000000009": "!no device of UUID",
		// time slicing and MPS
		whole1 + "::0":  whole1,
		whole1 + "::15": whole1,
		cut + "::1":     "!cut into 2",
		whole1 + "::":   "!no replica",
		whole1 + "::x":  "!no replica",
		// MIG
		mig1:                                   mig1,
		mig2 + "::3":                           mig2,
		"MIG-" + cut + "/7/0":                  mig1,
		"MIG-" + cut + "/3/0":                  mig2,
		"MIG-" + cut + "/3/0::2":               mig2,
		"MIG-" + cut + "/5/0":                  "!no GPU instance 5",
		"MIG-" + cut + "/3":                    "!want MIG-GPU-<uuid>",
		"MIG-" + cut + "/3/x":                  "!no numbers",
		"MIG-dddddddd-0000-5bbb-8ccc-00000000": "!no device of UUID",
		// GKE: minors, not indices
		"nvidia0":           whole1,
		"nvidia1":           whole0,
		"nvidia1/vgpu0":     whole0,
		"nvidia2/gi7":       mig1,
		"nvidia2/gi3":       mig2, // its minor is its parent's
		"nvidia2/gi3/vgpu1": mig2,
		"nvidia4/gi0":       mig7,
		"nvidia2":           "!cut into 2",
		"nvidia3":           uncut,
		"nvidia4":           "!nothing of it is uncut",
		"nvidia7":           "!no GPU has device file /dev/nvidia7",
		"nvidia2/gi5":       "!no GPU instance 5",
		"nvidia":            "!want nvidia<minor>",
		"nvidiactl":         "!want nvidia<minor>",
		"nvidia0/gi":        "!want nvidia<minor>",
		"nvidia0/vgpu":      "!want nvidia<minor>",
		"nvidia0/vgpu0/gi1": "!want nvidia<minor>",
		"nvidia0/x":         "!want nvidia<minor>",
		// HAMi
		whole0 + "-0":  whole0,
		whole1 + "-19": whole1,
		cut + "-1":     "!cut into 2",
		whole0 + "-x":  "!no device of UUID",

		"":                       "!no device of UUID",
		"0":                      "!no device of UUID",
		strings.Repeat("x", 600): "!has 600 bytes",
	} {
		got, err := r.Device(id)
		check(t, id, got, err, want)
	}
}

// check compares a result with an id, or with "!" and a part of the error.
func check(t *testing.T, id, got string, err error, want string) {
	t.Helper()
	hint, fails := strings.CutPrefix(want, "!")
	switch {
	case !fails && (err != nil || got != want):
		t.Errorf("%.60q: got %q, %v; want %q", id, got, err, want)
	case fails && (got != "" || !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), hint)):
		t.Errorf("%.60q: got %q, %v; want an error with %q", id, got, err, hint)
	}
}

func TestComputeInstancesOfOneGPUInstanceAreNotGuessed(t *testing.T) {
	us := append(units(), sampler.Unit{ID: "MIG-x", Parent: cut, Minor: 2, GPUInstance: 7, ComputeInstance: 1, Placement: 0, Profile: "1c.1g.10gb"})
	r := New(Options{Units: us})
	got, err := r.Device("nvidia2/gi7")
	check(t, "nvidia2/gi7", got, err, "!it may be "+mig1+" or MIG-x")
	got, err = r.Device("MIG-" + cut + "/7/1")
	check(t, "old", got, err, "MIG-x")
}

func TestIndices(t *testing.T) {
	r := New(Options{Units: units()})
	for id, want := range map[string]string{
		"0": whole0, "1": whole1, "2": "!cut into 2", "3": uncut, "4": "!nothing of it", "5": "!no GPU has index 5",
		whole1: whole1, mig1: mig1, "nvidia0": whole1,
	} {
		got, err := r.Index(id)
		check(t, id, got, err, want)
	}
}

func TestResources(t *testing.T) {
	r := New(Options{Resources: []string{"example.com/vgpu", "gpu.example.com/*"}})
	for name, want := range map[string]bool{
		"nvidia.com/gpu": true, "nvidia.com/gpu.shared": true, "nvidia.com/mig-1g.5gb": true, "nvidia.com/mig-2g.10gb.shared": true,
		"example.com/vgpu": true, "gpu.example.com/a100": true,
		"nvidia.com/gpumem": false, "nvidia.com/hostdev": false, "amd.com/gpu": false, "example.com/vgpus": false, "": false,
	} {
		if got := r.GPUs(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestDynamic(t *testing.T) {
	const gone = "GPU-99999999-aaaa-4bbb-8ccc-000000000009"
	slices := map[string]Attributes{
		"pool/gpu-0":                   {UUID: whole1, Type: "gpu", Minor: -1, Placement: -1},
		"pool/gpu-2":                   {UUID: cut, Type: "gpu", Minor: 2, Placement: -1},
		"pool/static":                  {UUID: mig1, ParentUUID: cut, Type: "mig", Minor: -1, Placement: -1},
		"pool/dynamic":                 {ParentUUID: cut, Type: "mig", Minor: -1, Profile: "1g.10gb", Placement: 0},
		"pool/by-minor":                {Type: "mig", Minor: 2, Profile: "2g.20gb+me", Placement: 4},
		"pool/no-place":                {Type: "mig", Minor: 2, Profile: "2g.20gb+me", Placement: -1},
		"pool/other-profile":           {Type: "mig", Minor: 2, Profile: "3g.40gb", Placement: 4},
		"pool/gpu-2-mig-1g10gb-19-0":   {Type: "mig", Minor: -1, Placement: -1},
		"pool/gpu-3":                   {UUID: gone, Type: "gpu", Minor: -1, Placement: -1},
		"pool/gpu-2-mig-1g10gb-20-0":   {ParentUUID: gone, Type: "mig", Minor: -1, Placement: -1},
		"pool/gpu-9-mig-2g20gb-me-5-4": {Type: "mig", Minor: 2, Profile: "2g.20gb+me", Placement: -1},
	}
	r := New(Options{Units: units(), Slices: func(driver, pool, device string) (Attributes, bool) {
		a, ok := slices[pool+"/"+device]
		return a, ok && driver == Driver
	}})
	const claim = "k8s.gpu.nvidia.com/claim=8a1357c3-9bc7-4056-9580-df1d3b7c0b6c-"
	for _, test := range []struct {
		device string
		cdi    []string
		want   string
	}{
		{device: "gpu-0", want: whole1},
		{device: "gpu-2", want: "!cut into 2"},
		{device: "static", want: mig1},
		{device: "dynamic", want: mig1},
		{device: "by-minor", want: mig2},
		{device: "no-place", want: "!its place on the GPU"},
		{device: "other-profile", want: `!no MIG instance of profile "3g40gb" at memory slice 4`},
		{device: "gpu-2-mig-1g10gb-19-0", want: mig1},
		{device: "gpu-9-mig-2g20gb-me-5-4", want: mig2},
		// A GPU that fell off the bus is not the one that has its minor now.
		{device: "gpu-3", cdi: []string{claim + "gpu-3", "nvidia.com/gpu=0"}, want: "!the driver has no device of UUID"},
		{device: "gpu-2-mig-1g10gb-20-0", want: "!no MIG instance"},
		// no slice has these
		{device: "gpu-1", want: whole0},
		{device: "gpu-2-mig-2g20gb-me-5-4", want: mig2},
		{device: "gpu-2-mig-19-0-1", want: mig1}, // the older form
		{device: "gpu-2-mig-19-0", want: "!its name is not gpu-<minor>"},
		{device: "gpu-2-mig-x-y-0", want: "!its name is not gpu-<minor>"},
		{device: "gpu-2-mig-x-0-y", want: "!its name is not gpu-<minor>"},
		{device: "gpu-x", want: "!no ResourceSlice of pool"},
		{device: "gpu-8", want: "!/dev/nvidia8"},
		{device: whole0, want: whole0},
		{device: strings.Repeat("g", 600), want: "!has 600 bytes"},
		// CDI names at last
		{device: "x", cdi: []string{claim + "gpu-1"}, want: whole0},
		{device: "x", cdi: []string{claim + "gpu-2-mig-1g10gb-19-0"}, want: mig1},
		{device: "x", cdi: []string{"nvidia.com/gpu=all", "nvidia.com/gpu=" + whole1}, want: whole1},
		{device: "x", cdi: []string{"nvidia.com/gpu=0"}, want: whole0},
		{device: "x", cdi: []string{"nvidia.com/mig=" + mig2}, want: mig2},
		{device: "x", cdi: []string{"nonsense", claim, "k8s.gpu.nvidia.com/claim=" + claim + "gpu-1"}, want: "!it is no CDI name"},
	} {
		got, err := r.Dynamic("pool", test.device, test.cdi)
		check(t, test.device, got, err, test.want)
	}
	for device, want := range map[string]string{"gpu-0": whole1, "gpu-3": uncut} {
		got, err := New(Options{Units: units()}).Dynamic("pool", device, nil)
		check(t, device, got, err, want)
	}
}

func TestHAMi(t *testing.T) {
	for name, test := range map[string]struct {
		annotation string
		containers int
		want       [][]string // of each container; nil: an error
	}{
		"one":                         {whole0 + ",NVIDIA,1024,20:;", 1, [][]string{{whole0}}},
		"no semicolon":                {whole0 + ",NVIDIA,1024,20:", 1, [][]string{{whole0}}},
		"two GPUs":                    {whole0 + ",NVIDIA,1024,20:" + whole1 + ",NVIDIA,1024,20:;", 1, [][]string{{whole0, whole1}}},
		"one GPU twice":               {whole0 + ",NVIDIA,1,2:" + whole0 + ",NVIDIA,1,2:;", 1, [][]string{{whole0, whole0}}},
		"the second of three":         {";" + whole0 + ",NVIDIA,1024,20:;;", 3, [][]string{nil, {whole0}, nil}},
		"init containers":             {whole1 + ",NVIDIA,1,2:;" + whole0 + ",NVIDIA,1,2:;", 2, [][]string{{whole1}, {whole0}}},
		"without init ones":           {whole0 + ",NVIDIA,1,2:;", 3, [][]string{nil, nil, {whole0}}},
		"a later version's":           {whole0 + ",NVIDIA,1,2,more:;", 1, [][]string{{whole0}}},
		"an ephemeral one at the end": {";" + whole0 + ",NVIDIA,1,2:;", 3, [][]string{nil, {whole0}}},
		"empty":                       {"", 1, nil},
		"nothing":                     {";", 1, nil},
		"no fields":                   {whole0 + ":;", 1, nil},
		"too few":                     {whole0 + ",NVIDIA,1:;", 1, nil},
		"no uuid":                     {",NVIDIA,1,2:;", 1, nil},
		"too long":                    {strings.Repeat("x", MaxHAMiBytes+1), 1, nil},
		"too many containers":         {strings.Repeat(";", MaxHAMiContainers+2), 1, nil},
		"too many devices":            {strings.Repeat("a,b,1,2:", MaxHAMiDevices+1), 1, nil},
		"more than the pod has":       {whole0 + ",NVIDIA,1,2:;" + whole1 + ",NVIDIA,1,2:;", 1, [][]string{{whole1}}},
		"nonsense between colons":     {"a:b:;", 1, nil},
	} {
		h, err := ParseHAMi(test.annotation)
		if test.want == nil {
			if !errors.Is(err, ErrHAMi) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for i, want := range test.want {
			if got := h.Container(i, test.containers, len(want)); !slices.Equal(got, want) {
				t.Errorf("%s: container %d got %v, want %v", name, i, got, want)
			}
		}
	}
	for id, want := range map[string]bool{
		whole0 + "-0": true, whole0 + "-12": true, whole0: false, whole0 + "-": false, whole0 + "::0": false, "MIG-x-0": false, whole0 + "--1": false,
		"GPU-0000000000000000000000000000000000000000-1": false,
	} {
		if IsHAMi(id) != want {
			t.Errorf("IsHAMi(%s) is %t", id, !want)
		}
	}
}

// Whatever the name: the answer is a unit that is there and holds a whole name's
// promise, or an error.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{whole0, whole1 + "::1", mig1, "MIG-" + cut + "/7/0", "nvidia2/gi3/vgpu1", whole0 + "-3", "gpu-2-mig-1g10gb-19-0", "k8s.gpu.nvidia.com/claim=8a1357c3-9bc7-4056-9580-df1d3b7c0b6c-gpu-0", "0"} {
		f.Add(s)
	}
	r := New(Options{Units: units()})
	f.Fuzz(func(t *testing.T, s string) {
		for _, resolve := range []func() (string, error){
			func() (string, error) { return r.Device(s) },
			func() (string, error) { return r.Index(s) },
			func() (string, error) { return r.Dynamic(s, s, []string{s}) },
		} {
			got, err := resolve()
			if (err == nil) != (r.Unit(got) != nil) || got == cut || (err != nil && (!errors.Is(err, ErrUnknown) || len(err.Error()) > 4096)) {
				t.Fatalf("%q: %q, %v", s, got, err)
			}
		}
	})
}

func FuzzHAMi(f *testing.F) {
	f.Add(";"+whole0+",NVIDIA,1024,20:;;", 1, 3)
	f.Fuzz(func(t *testing.T, s string, i, n int) {
		h, err := ParseHAMi(s)
		if err != nil {
			if !errors.Is(err, ErrHAMi) || len(err.Error()) > 512 {
				t.Fatal(err)
			}
			return
		}
		for _, uuid := range h.Container(i&0xff, n&0xff, 1) {
			if uuid == "" || !strings.Contains(s, uuid+",") {
				t.Fatalf("%q", uuid)
			}
		}
	})
}
