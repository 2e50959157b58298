/* NVML calls: the library, its devices, and what they are. */
#include "world.h"

#include <stdio.h>
#include <string.h>

API nvmlReturn_t nvmlInit(void);
API nvmlReturn_t nvmlInit_v2(void);
API nvmlReturn_t nvmlInitWithFlags(unsigned flags);
API nvmlReturn_t nvmlShutdown(void);
API const char *nvmlErrorString(nvmlReturn_t code);
API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length);
API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length);
API nvmlReturn_t nvmlDeviceGetCount(uint32_t *count);
API nvmlReturn_t nvmlDeviceGetCount_v2(uint32_t *count);
API nvmlReturn_t nvmlDeviceGetHandleByIndex(uint32_t index, nvmlDevice_t *device);
API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(uint32_t index, nvmlDevice_t *device);
API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device);
API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, uint32_t *index);
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length);
API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length);
API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, uint32_t *minor);
API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci);
API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci);
API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci);
API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, uint32_t *architecture);
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory);
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory);

static nvmlReturn_t answer_text(char *to, unsigned length, const char *text)
{
	if (to == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (strlen(text) >= length)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	strcpy(to, text);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit(void) { return world_init(); }
nvmlReturn_t nvmlInit_v2(void) { return world_init(); }
nvmlReturn_t nvmlInitWithFlags(unsigned flags) { return flags <= 3 ? world_init() : NVML_ERROR_INVALID_ARGUMENT; }
nvmlReturn_t nvmlShutdown(void) { return world_shutdown(); }
const char *nvmlErrorString(nvmlReturn_t code) { return code_name(code); }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
	int64_t now;
	nvmlReturn_t ret = enter("SystemGetDriverVersion", NULL, &now);
	return ret != NVML_SUCCESS ? ret : leave(answer_text(version, length, world_scenario()->version));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
	char text[MAX_TEXT + 4];
	int64_t now;
	nvmlReturn_t ret = enter("SystemGetNVMLVersion", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	snprintf(text, sizeof text, "12.%s", world_scenario()->version);
	return leave(answer_text(version, length, text));
}

nvmlReturn_t nvmlDeviceGetCount_v2(uint32_t *count)
{
	int64_t now;
	uint32_t n = 0;
	nvmlReturn_t ret = enter("DeviceGetCount", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (count == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	while (in_force(DEVICE, NULL, now, n) != NULL)
		n++;
	*count = n;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCount(uint32_t *count) { return nvmlDeviceGetCount_v2(count); }

/* hand_out ends a call that has found a handle, which meets what the scenario
 * says about the device itself. */
static nvmlReturn_t hand_out(const char *call, struct object *o, nvmlDevice_t *device)
{
	int64_t now;
	leave(NVML_SUCCESS);
	nvmlReturn_t ret = enter(call, o, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	*device = o;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(uint32_t index, nvmlDevice_t *device)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetHandleByIndex", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct line *l = in_force(DEVICE, NULL, now, index);
	if (l == NULL || device == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	return hand_out("DeviceGetHandleByIndex", object_of(GPU, l->id, NULL), device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(uint32_t index, nvmlDevice_t *device)
{
	return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	int64_t now;
	const struct line *l;
	nvmlReturn_t ret = enter("DeviceGetHandleByUUID", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (uuid == NULL || device == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if ((l = in_force(DEVICE, uuid, now, 0)) != NULL)
		return hand_out("DeviceGetHandleByUUID", object_of(GPU, l->id, NULL), device);
	if ((l = in_force(INSTANCE, uuid, now, 0)) != NULL)
		return hand_out("DeviceGetHandleByUUID", instance_object(l), device);
	return leave(NVML_ERROR_NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, uint32_t *index)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetIndex", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (index == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	const struct line *l;
	for (uint32_t i = 0; (l = in_force(DEVICE, NULL, now, i)) != NULL; i++)
		if (strcmp(l->id, device->gpu->id) == 0)
			*index = i;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetUUID", device, &now);
	return ret != NVML_SUCCESS ? ret : leave(answer_text(uuid, length, device->id));
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length)
{
	char text[MAX_TEXT + MAX_ID + 8];
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetName", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const char *model = in_force(DEVICE, device->gpu->id, now, 0)->text;
	if (device->kind != MIG_DEVICE)
		return leave(answer_text(name, length, model));
	snprintf(text, sizeof text, "%s MIG %s", model, in_force(INSTANCE, device->id, now, 0)->word);
	return leave(answer_text(name, length, text));
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, uint32_t *minor)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetMinorNumber", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (minor == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != GPU)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	*minor = in_force(DEVICE, device->id, now, 0)->minor;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	int64_t now;
	unsigned domain = 0, bus, slot = 0;
	nvmlReturn_t ret = enter("DeviceGetPciInfo", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (pci == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	const struct line *l = in_force(DEVICE, device->gpu->id, now, 0);
	bus = l->minor + 1;
	if (l->word[0] != '\0')
		(void)sscanf(l->word, "%x:%x:%x", &domain, &bus, &slot);
	*pci = (nvmlPciInfo_t){.domain = domain, .bus = bus, .device = slot, .pciDeviceId = 0x233010de, .pciSubSystemId = 0x16c110de};
	snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", domain & 0xffff, bus & 0xff, slot & 0xff);
	snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", domain, bus & 0xff, slot & 0xff);
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return nvmlDeviceGetPciInfo_v3(device, pci);
}

/* The oldest has no busId. */
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	nvmlPciInfo_t whole;
	if (pci == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	nvmlReturn_t ret = nvmlDeviceGetPciInfo_v3(device, &whole);
	if (ret == NVML_SUCCESS)
		memcpy(pci, &whole, offsetof(nvmlPciInfo_t, busId));
	return ret;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, uint32_t *architecture)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetArchitecture", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (architecture == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*architecture = in_force(DEVICE, device->gpu->id, now, 0)->gpm ? 9 : 7; /* Hopper has GPM, Ampere has not */
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	int64_t now;
	uint64_t used = 0;
	nvmlReturn_t ret = enter("DeviceGetMemoryInfo", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (memory == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (memory->version != NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2))
		return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	const struct track *t;
	for (size_t i = 0; (t = next_running(device, now, &i)) != NULL;)
		if (t->line->memory != UINT64_MAX)
			used += t->line->memory;
	memory->total = device->kind == MIG_DEVICE ? in_force(INSTANCE, device->id, now, 0)->memory
						   : in_force(DEVICE, device->gpu->id, now, 0)->memory;
	memory->reserved = 0;
	memory->used = used < memory->total ? used : memory->total;
	memory->free = memory->total - memory->used;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	nvmlMemory_v2_t m = {.version = NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2)};
	if (memory == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	nvmlReturn_t ret = nvmlDeviceGetMemoryInfo_v2(device, &m);
	if (ret == NVML_SUCCESS)
		*memory = (nvmlMemory_t){.total = m.total, .free = m.free, .used = m.used};
	return ret;
}
