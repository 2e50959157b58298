package deviceid

// Driver is the DRA driver of NVIDIA GPUs.
const Driver = "gpu.nvidia.com"

// Attributes are what a ResourceSlice says of a device of the DRA driver
// gpu.nvidia.com. Numbers are −1 and texts "" where it does not say.
type Attributes struct {
	UUID       string
	ParentUUID string // of a MIG device
	Type       string // gpu, mig
	Minor      int
	Profile    string // of a MIG device, such as "1g.10gb"
	Placement  int    // its first memory slice
}
