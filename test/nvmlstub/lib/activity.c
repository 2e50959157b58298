/* NVML calls: what a device does as a whole. */
#include "world.h"

#include <stdlib.h>

#define RING 72

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization);
API nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, uint64_t last_seen, int *value_type, uint32_t *count, nvmlSample_t *samples);
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, uint32_t *mw);
API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, uint64_t *mj);
API nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support);
API nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample);
API nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample);
API nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample);
API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, uint32_t gi, nvmlGpmSample_t sample);
API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get);

/* A GPM sample is a device's SM time up to a time. */
struct gpm_sample {
	struct object *device;
	uint32_t gi;
	int64_t time;
	double active;
};

/* busy is the mean activity in the k'th sampling period, in percent. */
static uint32_t busy(struct object *gpu, int64_t k)
{
	struct tally t = {0};
	int64_t period = world_scenario()->period;
	measure(gpu, (k - 1) * period, k * period, &t);
	double percent = 100 * t.active / (double)period;
	tally_free(&t);
	return (uint32_t)(percent + 0.5);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetUtilizationRates", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (utilization == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != GPU || mig_mode(device, now))
		return leave(NVML_ERROR_NOT_SUPPORTED);
	*utilization = (nvmlUtilization_t){.gpu = busy(device, now / world_scenario()->period)};
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, int type, uint64_t last_seen, int *value_type, uint32_t *count, nvmlSample_t *samples)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetSamples", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (value_type == NULL || count == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != GPU || mig_mode(device, now) || type != NVML_GPU_UTILIZATION_SAMPLES)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	int64_t period = world_scenario()->period, newest = now / period;
	int64_t seen = last_seen > INT64_MAX / 1000 ? INT64_MAX : (int64_t)last_seen * 1000;
	int64_t k = newest - RING + 1;
	/* Times are told in µs, so a sample is newer by those. */
	while (k <= newest && k * period / 1000 <= seen / 1000)
		k++;
	*value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
	uint32_t found = (uint32_t)(newest - k + 1), size = *count;
	if (found == 0)
		return leave(NVML_ERROR_NOT_FOUND);
	if (samples == NULL) {
		*count = found;
		return leave(NVML_SUCCESS);
	}
	*count = found < size ? found : size;
	for (uint32_t i = 0; i < *count; i++, k++)
		samples[i] = (nvmlSample_t){.timeStamp = (uint64_t)(k * period) / 1000, .value.u32 = busy(device, k)};
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, uint32_t *mw)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetPowerUsage", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (mw == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	const struct line *l = in_force(DEVICE, device->gpu->id, now, 0);
	if (device->kind != GPU || l->full == 0)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	struct tally t = {0};
	int64_t period = world_scenario()->period;
	measure(device, now - period, now, &t);
	*mw = (uint32_t)(1000 * (l->idle + (l->full - l->idle) * t.active / (double)period));
	tally_free(&t);
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, uint64_t *mj)
{
	int64_t now;
	nvmlReturn_t ret = enter("DeviceGetTotalEnergyConsumption", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (mj == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != GPU || !in_force(DEVICE, device->id, now, 0)->energy)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	advance(device, now);
	*mj = (uint64_t)(device->energy / 1e6);
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
	int64_t now;
	nvmlReturn_t ret = enter("GpmQueryDeviceSupport", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (support == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (support->version != 1)
		return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	support->isSupportedDevice = in_force(DEVICE, device->gpu->id, now, 0)->gpm;
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
	int64_t now;
	nvmlReturn_t ret = enter("GpmSampleAlloc", NULL, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (sample == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	*sample = calloc(1, sizeof **sample);
	return leave(*sample != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
	if (sample == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	free(sample);
	return NVML_SUCCESS;
}

static nvmlReturn_t gpm_call(const char *call, nvmlDevice_t device, nvmlGpmSample_t sample, int64_t *now)
{
	nvmlReturn_t ret = enter(call, device, now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (sample == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (device->kind != GPU || !in_force(DEVICE, device->id, *now, 0)->gpm)
		return leave(NVML_ERROR_NOT_SUPPORTED);
	advance(device, *now);
	*sample = (struct gpm_sample){.device = device, .gi = NVML_NO_INSTANCE, .time = *now};
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
	int64_t now;
	nvmlReturn_t ret = gpm_call("GpmSampleGet", device, sample, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	sample->active = device->active;
	return leave(NVML_SUCCESS);
}

/* An instance's activity is that of its compute instances, by their size. */
nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, uint32_t gi, nvmlGpmSample_t sample)
{
	int64_t now;
	bool found = false;
	nvmlReturn_t ret = gpm_call("GpmMigSampleGet", device, sample, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct line *l;
	for (size_t i = 0; mig_mode(device, now) && (l = instance_of(device, now, i)) != NULL; i++) {
		if (l->gi != gi)
			continue;
		found = true;
		sample->active += instance_object(l)->active * l->compute / l->slices;
	}
	sample->gi = gi;
	return leave(found ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get)
{
	int64_t now;
	if (get == NULL || get->sample1 == NULL || get->sample2 == NULL || get->sample1->device == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	nvmlReturn_t ret = enter("GpmMetricsGet", get->sample1->device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	const struct gpm_sample *a = get->sample1, *b = get->sample2;
	if (get->version != 1)
		return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	if (a->device != b->device || a->gi != b->gi || b->time <= a->time)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	for (uint32_t i = 0; i < get->numMetrics; i++) {
		nvmlGpmMetric_t *m = &get->metrics[i];
		bool known = m->metricId == NVML_GPM_SM_UTIL || m->metricId == NVML_GPM_GRAPHICS_UTIL;
		m->nvmlReturn = known ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
		m->value = known ? 100 * (b->active - a->active) / (double)(b->time - a->time) : 0;
		m->metricInfo = (nvmlGpmMetricInfo_t){"SMUtil", "SM Utilization", "%"};
	}
	return leave(NVML_SUCCESS);
}
