/* NVML calls: events. A set tells an event once, to one of its waiters, if it
 * happened after the set was made and its device was registered for it. */
#define _GNU_SOURCE
#include "world.h"

#include <stdlib.h>
#include <time.h>

#define POLL_EVERY (100 * MS)

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set);
API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set);
API nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, uint32_t timeout_ms);
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, uint32_t timeout_ms);
API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, uint64_t types, nvmlEventSet_t set);
API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, uint64_t *types);

/* XID, MIG configuration change, GPU unavailable, recovery action. */
#define SUPPORTED 0xc108ULL

struct event_set {
	uint64_t told; /* of the world's events, so many */
	struct registration {
		struct object *gpu;
		uint64_t types;
	} *registrations;
	size_t count;
};

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
	int64_t now;
	nvmlReturn_t ret = enter("EventSetCreate", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (set == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*set = calloc(1, sizeof **set);
	if (*set == NULL)
		return leave(NVML_ERROR_MEMORY);
	(*set)->told = events_fired();
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
	if (set == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	free(set->registrations);
	free(set);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, uint64_t *types)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetSupportedEventTypes", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (types == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*types = SUPPORTED;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, uint64_t types, nvmlEventSet_t set)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceRegisterEvents", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (set == NULL || device->kind != GPU)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if ((types & ~SUPPORTED) != 0)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	struct registration *more = realloc(set->registrations, (set->count + 1) * sizeof *more);
	if (more == NULL)
		return leave(NVML_ERROR_MEMORY);
	set->registrations = more;
	set->registrations[set->count++] = (struct registration){device, types};
	return leave(NVML_SUCCESS);
}

/* next finds the set's next event. */
static bool next(struct event_set *set, nvmlEventData_t *data)
{
	if (events_fired() - set->told > MAX_EVENTS)
		set->told = events_fired() - MAX_EVENTS; /* the others are forgotten */
	while (set->told < events_fired()) {
		const struct event *e = event_at(set->told++);
		for (size_t i = 0; i < set->count; i++)
			if (set->registrations[i].gpu == e->gpu && (set->registrations[i].types & e->type) != 0) {
				*data = (nvmlEventData_t){e->gpu, e->type, e->data, e->gi, e->ci};
				return true;
			}
	}
	return false;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, uint32_t timeout_ms)
{
	int64_t until = wall() + timeout_ms * MS, now;
	if (set == NULL || data == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (;;) {
		nvmlReturn_t ret = enter("EventSetWait", NULL, &now);
		if (ret != NVML_SUCCESS)
			return ret;
		if (next(set, data))
			return leave(NVML_SUCCESS);
		leave(NVML_SUCCESS);
		int64_t left = until - wall();
		if (left <= 0)
			return NVML_ERROR_TIMEOUT;
		left = left < POLL_EVERY ? left : POLL_EVERY;
		nanosleep(&(struct timespec){.tv_nsec = left}, NULL);
	}
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, uint32_t timeout_ms)
{
	return nvmlEventSetWait_v2(set, data, timeout_ms);
}
