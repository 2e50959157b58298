/* NVML calls: which processes run on a device, and what they do there. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SAMPLES 1024
#define SIZING_COUNT 100 /* what the driver says however many there are */
#define RING 72          /* samples that the driver keeps */
#define EXACT_WINDOW SECOND

#define LIST(name, type) API nvmlReturn_t name(nvmlDevice_t device, uint32_t *count, type *infos)
LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t);
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_t);
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t);
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t);
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_t);
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t);
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t);
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_t);
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t);
API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, uint32_t *count, uint64_t last_seen);
API nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info);

enum list { COMPUTE_LIST, GRAPHICS_LIST, MPS_LIST };

static enum list list_of(const struct line *l)
{
	return l->kind == GRAPHICS ? GRAPHICS_LIST : l->kind == MPS_CLIENT ? MPS_LIST : COMPUTE_LIST;
}

/* collect lists the processes of one kind; several lines about one process on
 * one device are one process. It returns their number, even beyond size. */
static uint32_t collect(const struct object *o, enum list which, int64_t now, nvmlProcessInfo_t *infos, uint32_t size)
{
	uint32_t n = 0;
	const struct track *t;
	for (size_t i = 0; (t = next_running(o, now, &i)) != NULL;) {
		if (t->line->kind == HIDDEN || list_of(t->line) != which)
			continue;
		nvmlProcessInfo_t info = {.pid = t->pid, .usedGpuMemory = t->line->memory, .gpuInstanceId = t->unit->gi, .computeInstanceId = t->unit->ci};
		uint32_t k = 0;
		while (k < n && k < size && (infos[k].pid != info.pid || infos[k].gpuInstanceId != info.gpuInstanceId || infos[k].computeInstanceId != info.computeInstanceId))
			k++;
		if (k < n && k < size) {
			bool known = infos[k].usedGpuMemory != NVML_VALUE_NOT_AVAILABLE && info.usedGpuMemory != NVML_VALUE_NOT_AVAILABLE;
			infos[k].usedGpuMemory = known ? infos[k].usedGpuMemory + info.usedGpuMemory : NVML_VALUE_NOT_AVAILABLE;
			continue;
		}
		if (n < size)
			infos[n] = info;
		n++;
	}
	return n;
}

static nvmlReturn_t list(const char *call, enum list which, nvmlDevice_t device, uint32_t *count, nvmlProcessInfo_t *infos)
{
	int64_t now;
	nvmlProcessInfo_t found[MAX_SAMPLES];
	nvmlReturn_t ret = enter(call, device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (count == NULL || (*count > 0 && infos == NULL))
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	uint32_t n = collect(device, which, now, found, MAX_SAMPLES), size = *count;
	n = n < MAX_SAMPLES ? n : MAX_SAMPLES;
	*count = n;
	if (n > size)
		return leave(NVML_ERROR_INSUFFICIENT_SIZE);
	memcpy(infos, found, n * sizeof *infos);
	return leave(NVML_SUCCESS);
}

/* The first version of the lists does not know MIG. */
static nvmlReturn_t list_v1(const char *call, enum list which, nvmlDevice_t device, uint32_t *count, nvmlProcessInfo_v1_t *infos)
{
	nvmlProcessInfo_t found[MAX_SAMPLES];
	if (count == NULL || (*count > 0 && infos == NULL))
		return NVML_ERROR_INVALID_ARGUMENT;
	uint32_t n = *count < MAX_SAMPLES ? *count : MAX_SAMPLES;
	nvmlReturn_t ret = list(call, which, device, &n, found);
	*count = n;
	for (uint32_t i = 0; ret == NVML_SUCCESS && i < n; i++)
		infos[i] = (nvmlProcessInfo_v1_t){.pid = found[i].pid, .usedGpuMemory = found[i].usedGpuMemory};
	return ret;
}

#define LISTS(name, which) \
	LIST(nvml##name, nvmlProcessInfo_v1_t) { return list_v1(#name, which, device, count, infos); } \
	LIST(nvml##name##_v2, nvmlProcessInfo_t) { return list(#name, which, device, count, infos); } \
	LIST(nvml##name##_v3, nvmlProcessInfo_t) { return list(#name, which, device, count, infos); }
LISTS(DeviceGetComputeRunningProcesses, COMPUTE_LIST)
LISTS(DeviceGetGraphicsRunningProcesses, GRAPHICS_LIST)
LISTS(DeviceGetMPSComputeRunningProcesses, MPS_LIST)

/* What a process's samples newer than the last seen add up to. */
struct share {
	uint32_t pid;
	uint64_t time;    /* of the newest, µs */
	double percents;
	uint32_t samples; /* that credit it */
};

struct shares {
	struct share list[MAX_SAMPLES];
	uint32_t count;
};

static struct share *share_of(struct shares *s, uint32_t pid, bool anew)
{
	for (uint32_t i = 0; i < s->count && !anew; i++)
		if (s->list[i].pid == pid)
			return &s->list[i];
	if (s->count == MAX_SAMPLES)
		return NULL;
	s->list[s->count] = (struct share){.pid = pid};
	return &s->list[s->count++];
}

/* billed is the pid that a sample carries: that of the MPS server, where the
 * device credits it for its clients. */
static uint32_t billed(const struct credit *c, int64_t now)
{
	const struct track *t;
	const struct line *device = in_force(DEVICE, c->unit->gpu->id, now, 0);
	if (c->kind == MPS_CLIENT && device != NULL && device->credit_server)
		for (size_t i = 0; (t = next_running(c->unit, now, &i)) != NULL;)
			if (t->line->kind == MPS_SERVER)
				return t->pid;
	return c->pid;
}

/* exact_shares gives each process its true share since the last seen time, or
 * of the last second, which is what a caller is told who was away. */
static void exact_shares(struct object *gpu, int64_t seen, int64_t now, struct shares *out)
{
	struct tally t = {0};
	bool excess = world_scenario()->excess;
	int64_t from = seen > now - EXACT_WINDOW ? seen : now - EXACT_WINDOW;
	if (from < now)
		measure(gpu, from, now, &t);
	for (size_t i = 0; i < t.count; i++) {
		struct share *s = t.credits[i].kind == HIDDEN ? NULL : share_of(out, billed(&t.credits[i], now), false);
		if (s == NULL)
			continue;
		s->time = (uint64_t)now / 1000;
		s->percents += 100 * (excess ? t.credits[i].asked : t.credits[i].active) / (double)(now - from);
		s->samples = 1;
	}
	tally_free(&t);
}

/* draw is a number in [0, 1) that is a sample's own. */
static double draw(const char *id, uint64_t k)
{
	uint64_t h = 14695981039346656037ULL ^ k * 0x9e3779b97f4a7c15ULL;
	for (; *id != '\0'; id++)
		h = (h ^ (unsigned char)*id) * 1099511628211ULL;
	h ^= h >> 31;
	h *= 0x7fb5d329728ea185ULL;
	h ^= h >> 27;
	h *= 0x81dadef4bc2dd44dULL;
	h ^= h >> 33;
	return (double)(h >> 11) / 9007199254740992.0;
}

/* ring_shares replays the driver's ring: each sample holds the device's
 * activity in its period and credits one process with it, chosen with the
 * probability of its part. The answer is the mean per process over all samples
 * newer than the last seen time; with excess over those that credit it, so that
 * shares add up to too much; raw, every sample by itself. */
static void ring_shares(struct object *gpu, int64_t seen, int64_t now, struct shares *out)
{
	const struct scenario *s = world_scenario();
	int64_t newest = now / s->period, k = newest - RING + 1;
	uint32_t samples = 0;
	/* Times are told in µs, so a sample is newer by those. */
	while (k <= newest && k * s->period / 1000 <= seen / 1000)
		k++;
	for (; k <= newest; k++) {
		struct tally t = {0};
		measure(gpu, (k - 1) * s->period, k * s->period, &t);
		double dice = draw(gpu->id, (uint64_t)k) * t.active;
		uint32_t percent = (uint32_t)(100 * t.active / (double)s->period + 0.5);
		samples++;
		for (size_t i = 0; i < t.count && percent > 0; i++) {
			dice -= t.credits[i].active;
			if (dice >= 0 && i + 1 < t.count)
				continue;
			struct share *h = t.credits[i].kind == HIDDEN ? NULL : share_of(out, billed(&t.credits[i], now), s->sampling == RAW);
			if (h != NULL) {
				h->time = (uint64_t)(k * s->period) / 1000;
				h->percents += percent;
				h->samples++;
			}
			break;
		}
		tally_free(&t);
	}
	for (uint32_t i = 0; i < out->count; i++)
		if (s->sampling != RAW)
			out->list[i].percents /= s->excess ? out->list[i].samples : samples;
}

static void scripted_samples(const struct object *gpu, int64_t now, struct shares *out)
{
	const struct line *l;
	for (size_t i = 0; (l = in_force(SAMPLE, gpu->id, now, i)) != NULL; i++) {
		struct share *s = share_of(out, l->pid, true);
		if (s != NULL)
			*s = (struct share){.pid = l->pid, .time = (uint64_t)(now - l->off + l->duration) / 1000, .percents = l->sm};
	}
}

/* shares answers for a call, which holds the lock. */
static nvmlReturn_t shares(struct object *o, uint64_t last_seen, int64_t now, struct shares *out)
{
	if (o->kind != GPU || mig_mode(o, now))
		return NVML_ERROR_NOT_SUPPORTED;
	int64_t seen = last_seen > INT64_MAX / 1000 ? INT64_MAX : (int64_t)last_seen * 1000;
	if (world_scenario()->sampling == EXACT)
		exact_shares(o, seen, now, out);
	else
		ring_shares(o, seen, now, out);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < out->count; i++)
		if (out->list[i].percents >= 0.5) /* a share of 0 is no sample */
			out->list[kept++] = out->list[i];
	out->count = kept;
	scripted_samples(o, now, out);
	return out->count > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, uint32_t *count, uint64_t last_seen)
{
	int64_t now;
	struct shares found = {.count = 0};
	nvmlReturn_t ret = enter("DeviceGetProcessUtilization", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (count == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	ret = shares(device, last_seen, now, &found);
	if (ret == NVML_ERROR_NOT_SUPPORTED)
		return leave(ret);
	if (samples == NULL) {
		*count = found.count > SIZING_COUNT ? found.count : SIZING_COUNT;
		return leave(NVML_ERROR_INSUFFICIENT_SIZE);
	}
	if (ret != NVML_SUCCESS)
		return leave(ret);
	uint32_t size = *count;
	const struct line *scripted = in_force(COUNT, device->id, now, 0);
	*count = scripted != NULL ? scripted->number_of : found.count;
	if (scripted == NULL && found.count > size)
		return leave(NVML_ERROR_INSUFFICIENT_SIZE);
	for (uint32_t i = 0; i < size && i < *count; i++) {
		samples[i] = (nvmlProcessUtilizationSample_t){0}; /* what is beyond a lying count */
		if (i < found.count)
			samples[i] = (nvmlProcessUtilizationSample_t){
				.pid = found.list[i].pid, .timeStamp = found.list[i].time, .smUtil = (uint32_t)(found.list[i].percents + 0.5),
			};
	}
	return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info)
{
	int64_t now;
	struct shares found = {.count = 0};
	nvmlReturn_t ret = enter("DeviceGetProcessesUtilizationInfo", device, &now);
	if (ret != NVML_SUCCESS)
		return ret;
	if (info == NULL)
		return leave(NVML_ERROR_INVALID_ARGUMENT);
	if (info->version != NVML_STRUCT_VERSION(nvmlProcessesUtilizationInfo_v1_t, 1))
		return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	ret = shares(device, info->lastSeenTimeStamp, now, &found);
	if (ret != NVML_SUCCESS)
		return leave(ret);
	uint32_t size = info->processSamplesCount;
	info->processSamplesCount = found.count;
	if (info->procUtilArray == NULL || found.count > size)
		return leave(NVML_ERROR_INSUFFICIENT_SIZE);
	for (uint32_t i = 0; i < found.count; i++)
		info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){
			.timeStamp = found.list[i].time, .pid = found.list[i].pid, .smUtil = (uint32_t)(found.list[i].percents + 0.5),
		};
	return leave(NVML_SUCCESS);
}
