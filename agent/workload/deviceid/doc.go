// Package deviceid turns what others call a device into its NVML UUID: the
// kubelet's device ids in all the forms that device plugins give them, DRA's
// devices, and job systems' indices. It is pure: what the driver has comes in
// as [sampler.Unit]s, what ResourceSlices say as [Attributes].
//
// # The forms
//
//	GPU-<uuid>                      a whole GPU
//	GPU-<uuid>::<n>                 a replica of it: time slicing, MPS
//	MIG-<uuid>                      a MIG instance, also ::<n>
//	MIG-GPU-<uuid>/<gi>/<ci>        the same, by drivers before R470
//	nvidia<minor>[/gi<gi>][/vgpu<n>]  GKE: by the number of the device file
//	GPU-<uuid>-<n>                  HAMi: the scheduler's choice, in an annotation,
//	                                decides instead ([ParseHAMi])
//	gpu-<minor>                     DRA, where no ResourceSlice has a uuid
//	gpu-<minor>-mig-<profile>-<gi profile>-<placement>
//
// # GPUs in MIG mode
//
// A GPU in MIG mode appears as its instances and, under the GPU's own UUID, as
// the rest that is not cut. A name for a whole GPU must not hold that rest: the
// name is of the time before the GPU was cut, or of a plugin that does not see
// its instances. Only where the rest is all there is of the GPU is it meant.
//
// Whatever a name can't be resolved to is an error that says what was tried.
// Names come from others: a name of any content and length is safe to ask for.
package deviceid
