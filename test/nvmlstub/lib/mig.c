/* NVML calls: MIG mode and instances. */
#include "world.h"

#include <stdio.h>
#include <string.h>

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, uint32_t *current, uint32_t *pending);
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, uint32_t *count);
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, uint32_t index, nvmlDevice_t *mig);
API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device);
API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, uint32_t *is);
API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, uint32_t *id);
API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, uint32_t *id);
API nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes);
API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes);
API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, uint32_t profile, nvmlGpuInstanceProfileInfo_t *info);
API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, uint32_t profile, nvmlGpuInstanceProfileInfo_v2_t *info);
API nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, uint32_t id, nvmlGpuInstance_t *instance);
API nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info);

#define SMS_PER_SLICE 14

/* The profiles that GPUs of 7 and of 4 compute slices have: NVML's index, the
 * driver's id, and the slices that they take. A GPU of 7 has 8 memory slices. */
static const struct profile {
	uint32_t of, index, id, slices, memory;
} profiles[] = {
	{7, 0, 19, 1, 1}, {7, 1, 14, 2, 2}, {7, 2, 9, 3, 4}, {7, 3, 5, 4, 4}, {7, 4, 0, 7, 8}, {7, 9, 15, 1, 2},
	{4, 0, 14, 1, 1}, {4, 1, 5, 2, 2}, {4, 3, 0, 4, 4},
};

static uint32_t memory_slices(uint32_t compute_slices) { return compute_slices == 7 ? 8 : compute_slices; }

/* mig_call is enter for what only GPUs with MIG have. */
static nvmlReturn_t mig_call(const char *call, nvmlDevice_t device, const void *out, int64_t *now)
{
	nvmlReturn_t ret = enter(call, device, now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (out == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind == GPU && !mentions(MIG, device->id))
		return leave(NVML_ERROR_NOT_SUPPORTED);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, uint32_t *current, uint32_t *pending)
{
	int64_t now;
	nvmlReturn_t ret = mig_call("DeviceGetMigMode", device, current, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (pending == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*current = *pending = mig_mode(device->gpu, now);
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, uint32_t *count)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetMaxMigDeviceCount", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (count == NULL || device->kind != GPU)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*count = mentions(MIG, device->id) ? in_force(DEVICE, device->id, now, 0)->slices : 0;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, uint32_t index, nvmlDevice_t *mig)
{
	int64_t now;
	nvmlReturn_t ret = mig_call("DeviceGetMigDeviceHandleByIndex", device, mig, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (device->kind != GPU || index >= in_force(DEVICE, device->id, now, 0)->slices)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	const struct line *l = instance_of(device, now, index);
	if (l == NULL || !mig_mode(device, now))
		return leave(NVML_ERROR_NOT_FOUND);
	*mig = instance_object(l);
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetDeviceHandleFromMigDeviceHandle", mig, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (device == NULL || mig->kind != MIG_DEVICE)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*device = mig->gpu;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, uint32_t *is)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceIsMigDeviceHandle", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (is == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*is = device->kind == MIG_DEVICE;
	return leave(NVML_SUCCESS);
}

static nvmlReturn_t instance_number(const char *call, nvmlDevice_t device, uint32_t *id, bool compute)
{
	int64_t now;
	nvmlReturn_t ret = enter(call, device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (id == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != MIG_DEVICE)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	*id = compute ? device->ci : device->gi;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, uint32_t *id)
{
	return instance_number("DeviceGetGpuInstanceId", device, id, false);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, uint32_t *id)
{
	return instance_number("DeviceGetComputeInstanceId", device, id, true);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	int64_t now;
	nvmlReturn_t ret = mig_call("DeviceGetAttributes", device, attributes, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (device->kind != MIG_DEVICE)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	const struct line *l = in_force(INSTANCE, device->id, now, 0);
	*attributes = (nvmlDeviceAttributes_t){
		.multiprocessorCount = l->compute * SMS_PER_SLICE, .sharedCopyEngineCount = l->slices,
		.gpuInstanceSliceCount = l->slices, .computeInstanceSliceCount = l->compute, .memorySizeMB = l->memory >> 20,
	};
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
	return nvmlDeviceGetAttributes_v2(device, attributes);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, uint32_t profile, nvmlGpuInstanceProfileInfo_t *info)
{
	int64_t now;
	nvmlReturn_t ret = mig_call("DeviceGetGpuInstanceProfileInfo", device, info, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct line *l = in_force(DEVICE, device->gpu->id, now, 0);
	for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++) {
		const struct profile *p = &profiles[i];
		if (p->of != l->slices || p->index != profile)
			continue;
		*info = (nvmlGpuInstanceProfileInfo_t){
			.id = p->id, .sliceCount = p->slices, .instanceCount = p->of / p->slices,
			.multiprocessorCount = p->slices * SMS_PER_SLICE, .copyEngineCount = p->slices,
			.memorySizeMB = (l->memory >> 20) * p->memory / memory_slices(p->of),
		};
		return leave(NVML_SUCCESS);
	}
	return leave(NVML_ERROR_NOT_SUPPORTED);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, uint32_t profile, nvmlGpuInstanceProfileInfo_v2_t *info)
{
	nvmlGpuInstanceProfileInfo_t v1;
	if (info == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (info->version != NVML_STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	nvmlReturn_t ret = nvmlDeviceGetGpuInstanceProfileInfo(device, profile, &v1);
	if (ret != NVML_SUCCESS)
		return ret;
	info->id = v1.id;
	memcpy((char *)info + offsetof(nvmlGpuInstanceProfileInfo_v2_t, id), &v1, offsetof(nvmlGpuInstanceProfileInfo_t, memorySizeMB));
	info->memorySizeMB = v1.memorySizeMB;
	snprintf(info->name, sizeof info->name, "MIG %ug.%llugb", v1.sliceCount, (unsigned long long)((v1.memorySizeMB + 512) >> 10));
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, uint32_t id, nvmlGpuInstance_t *instance)
{
	int64_t now;
	char name[MAX_ID + 16];
	nvmlReturn_t ret = mig_call("DeviceGetGpuInstanceById", device, instance, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct line *l;
	for (size_t i = 0; device->kind == GPU && (l = instance_of(device, now, i)) != NULL; i++) {
		if (l->gi != id)
			continue;
		snprintf(name, sizeof name, "%.*s/%u", MAX_ID, device->id, id);
		*instance = object_of(GPU_INSTANCE, name, device);
		(*instance)->gi = id;
		return leave(NVML_SUCCESS);
	}
	return leave(device->kind == GPU ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT);
}

/* profile_id is the driver's number of the profile that an instance was cut
 * with: what the scenario says, else the profile of as many slices. */
static uint32_t profile_id(const struct line *instance, uint32_t of)
{
	for (size_t i = 0; instance->profile_id == 0 && i < sizeof profiles / sizeof profiles[0]; i++)
		if (profiles[i].of == of && profiles[i].slices == instance->slices)
			return profiles[i].id;
	return instance->profile_id;
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
	int64_t now;
	nvmlReturn_t ret = enter("GpuInstanceGetInfo", instance, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct line *l;
	for (size_t i = 0; instance->kind == GPU_INSTANCE && info != NULL && (l = instance_of(instance->gpu, now, i)) != NULL; i++) {
		if (l->gi != instance->gi)
			continue;
		*info = (nvmlGpuInstanceInfo_t){
			.device = instance->gpu, .id = l->gi, .profileId = profile_id(l, in_force(DEVICE, l->device, now, 0)->slices),
			.placement = {l->place[0], l->place[1]},
		};
		return leave(NVML_SUCCESS);
	}
	return leave(NVML_ERROR_INVALID_ARGUMENT);
}
