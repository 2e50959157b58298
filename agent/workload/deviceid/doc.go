// Package deviceid turns what others call a device into its NVML UUID: the
// kubelet's device ids in all the forms that device plugins give them, DRA's
// devices, and job systems' indices. It is pure: what the driver has comes in
// as [sampler.Unit]s, what ResourceSlices say as [Attributes].
package deviceid
