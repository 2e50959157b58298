/* The world's state: scenarios as they follow each other, objects, and what a
 * call meets when it enters. */
#define _GNU_SOURCE
#include "world.h"
#include "eras.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define STAT_EVERY (50 * MS)

static struct {
	pthread_mutex_t lock;
	int inits;
	int64_t began;    /* when it was initialised */
	int64_t unloaded; /* when the driver was last seen to be unloaded */
	int64_t loaded;   /* when the first scenario was */
	int64_t observed; /* when a call was last answered */
	int64_t checked;
	struct stat file;
	struct object *objects;
	struct event events[MAX_EVENTS];
	uint64_t fired;
	pthread_t scanner;
	bool scanning, stopping, told;
} world = {.lock = PTHREAD_MUTEX_INITIALIZER};

int64_t wall(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

int64_t world_now(void)
{
	const struct scenario *s = world_scenario();
	return s != NULL && s->clock != 0 ? s->clock : wall();
}

void world_lock(void) { pthread_mutex_lock(&world.lock); }
void world_unlock(void) { pthread_mutex_unlock(&world.lock); }
bool world_stopping(void) { return world.stopping; }

struct object *object_of(enum object_kind kind, const char *id, struct object *gpu)
{
	for (struct object *o = world.objects; o != NULL; o = o->next)
		if (o->kind == kind && strcmp(o->id, id) == 0)
			return o;
	struct object *o = calloc(1, sizeof *o);
	if (o == NULL)
		abort();
	o->kind = kind;
	snprintf(o->id, sizeof o->id, "%s", id);
	o->gpu = gpu != NULL ? gpu : o;
	o->gi = o->ci = NVML_NO_INSTANCE;
	o->upto = world_now();
	o->next = world.objects;
	return world.objects = o;
}

struct object *instance_object(const struct line *instance)
{
	struct object *o = object_of(MIG_DEVICE, instance->id, object_of(GPU, instance->device, NULL));
	o->gi = instance->gi;
	o->ci = instance->ci;
	return o;
}

static bool known(const struct object *o)
{
	for (const struct object *k = world.objects; k != NULL; k = k->next)
		if (k == o)
			return true;
	return false;
}

void advance_all(int64_t now)
{
	for (struct object *o = world.objects; o != NULL; o = o->next)
		if (o->kind == GPU)
			advance(o, now);
}

int64_t world_observed(void) { return world.observed; }

uint64_t events_fired(void) { return world.fired; }

const struct event *event_at(uint64_t sequence)
{
	return &world.events[sequence % MAX_EVENTS];
}

static bool fired(const struct event *e)
{
	uint64_t kept = world.fired < MAX_EVENTS ? world.fired : MAX_EVENTS;
	for (uint64_t i = world.fired - kept; i < world.fired; i++) {
		const struct event *o = event_at(i);
		if (o->time == e->time && o->gpu == e->gpu && o->type == e->type && o->data == e->data)
			return true;
	}
	return false;
}

/* fire notes the events whose time has come, each once, however often the file
 * that holds it is read. What was before the library was loaded is nobody's. */
static void fire(int64_t now)
{
	const struct scenario *s = world_scenario();
	for (size_t i = 0; s != NULL && i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if ((l->verb != XID && l->verb != EVENT) || l->from > now || l->from < world.loaded)
			continue;
		struct event e = {.time = l->from, .gpu = object_of(GPU, l->id, NULL), .gi = NVML_NO_INSTANCE, .ci = NVML_NO_INSTANCE};
		e.type = l->verb == XID ? NVML_EVENT_XID : l->number_of;
		e.data = l->verb == XID ? l->number_of : 0;
		if (l->given & 1U << 2) {
			e.gi = l->gi;
			e.ci = l->ci;
		}
		if (!fired(&e))
			world.events[world.fired++ % MAX_EVENTS] = e;
	}
}

/* start_scanner starts the thread that looks for processes, which most
 * scenarios can do without. It takes none of the program's signals. */
static void start_scanner(void)
{
	sigset_t all, before;
	if (world.scanning || world.stopping || world.inits == 0)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	world.scanning = pthread_create(&world.scanner, NULL, scan_processes, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* reload reads the scenario file if it has changed. A broken one is told of
 * once and changes nothing. */
static void reload(int64_t now)
{
	const char *path = getenv("GPULEDGER_NVML_SCENARIO");
	struct stat file;
	char error[1024];
	if (path == NULL)
		path = "libnvidia-ml.scenario";
	bool stands = world_scenario() != NULL && world_scenario()->clock != 0;
	if (!stands && now - world.checked < STAT_EVERY && now >= world.checked)
		return;
	world.checked = now;
	if (stat(path, &file) != 0) {
		if (world_scenario() == NULL && !world.told)
			fprintf(stderr, "libnvidia-ml stub: %s: %s (GPULEDGER_NVML_SCENARIO names the scenario)\n", path, strerror(errno));
		world.told = true;
		return;
	}
	if (file.st_ino == world.file.st_ino && file.st_size == world.file.st_size && file.st_dev == world.file.st_dev &&
	    memcmp(&file.st_mtim, &world.file.st_mtim, sizeof file.st_mtim) == 0)
		return;
	world.file = file;
	struct scenario *s = scenario_load(path, error, sizeof error);
	if (s == NULL) {
		fprintf(stderr, "libnvidia-ml stub: %s\n", error);
		return;
	}
	int64_t written = file.st_mtim.tv_sec * SECOND + file.st_mtim.tv_nsec;
	written = written < now ? written : now;
	if (s->clock != 0)
		written = s->clock;
	if (world_scenario() == NULL)
		world.loaded = s->clock != 0 ? s->clock : now;
	scenario_begin(s, s->has_start ? s->start : written);
	/* What has been answered for stays as it was. */
	era_begin(s, written > world.observed ? written : world.observed);
	for (size_t i = 0; i < s->count; i++)
		if (s->lines[i].verb == PROCESS && s->lines[i].pid == 0)
			start_scanner();
}

static void note_unloaded(int64_t now)
{
	const struct scenario *s = world_scenario();
	for (size_t i = 0; s != NULL && i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if (l->verb != UNLOADED || l->from > now)
			continue;
		int64_t last = l->until < now ? l->until : now;
		if (last > world.unloaded)
			world.unloaded = last;
	}
}

static int64_t refresh(void)
{
	note_unloaded(world_now());
	reload(wall());
	int64_t now = world_now();
	note_unloaded(now);
	fire(now);
	if (now > world.observed)
		world.observed = now;
	return now;
}

/* scripted is the index'th line of a verb about a call to an object. */
static const struct line *scripted(enum verb v, const char *call, const struct object *o, int64_t now, size_t index)
{
	const struct scenario *s = world_scenario();
	for (size_t i = 0; s != NULL && i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if (l->verb != v || now < l->from || now >= l->until || !function_matches(l->word, call))
			continue;
		bool about = strcmp(l->id, "*") == 0 || (o != NULL && (strcmp(l->id, o->id) == 0 || strcmp(l->id, o->gpu->id) == 0));
		if (about && index-- == 0)
			return l;
	}
	return NULL;
}

/* wait_out waits as long as the scenario makes this call wait, without the
 * lock, and returns the time. */
static int64_t wait_out(const char *call, const struct object *o)
{
	int64_t began = wall();
	for (;;) {
		const struct line *l;
		int64_t now = refresh(), waited = wall() - began;
		int64_t left = scripted(HANG, call, o, now, 0) != NULL ? SECOND : 0;
		for (size_t i = 0; (l = scripted(DELAY, call, o, now, i)) != NULL; i++)
			if (l->duration - waited > left)
				left = l->duration - waited;
		if (left <= 0)
			return now;
		left = left < 5 * MS ? left : 5 * MS;
		world_unlock();
		nanosleep(&(struct timespec){.tv_nsec = left}, NULL);
		world_lock();
	}
}

static nvmlReturn_t meets(const char *call, const struct object *o, int64_t now)
{
	const struct line *l;
	if (world_scenario() == NULL || in_force(UNLOADED, NULL, now, 0) != NULL)
		return NVML_ERROR_DRIVER_NOT_LOADED;
	if (world.inits > 0 && world.unloaded >= world.began)
		return NVML_ERROR_UNINITIALIZED; /* by this driver */
	if (o != NULL) {
		if (in_force(LOST, o->gpu->id, now, 0) != NULL || in_force(DEVICE, o->gpu->id, now, 0) == NULL)
			return NVML_ERROR_GPU_IS_LOST;
		if (o->kind == MIG_DEVICE && (!mig_mode(o->gpu, now) || in_force(INSTANCE, o->id, now, 0) == NULL))
			return NVML_ERROR_INVALID_ARGUMENT;
	}
	l = scripted(FAIL, call, o, now, 0);
	return l != NULL ? (nvmlReturn_t)l->code : NVML_SUCCESS;
}

nvmlReturn_t enter(const char *call, struct object *o, int64_t *now)
{
	nvmlReturn_t ret = NVML_SUCCESS;
	world_lock();
	if (world.inits == 0)
		ret = NVML_ERROR_UNINITIALIZED;
	else if (o != NULL && !known(o))
		ret = NVML_ERROR_INVALID_ARGUMENT;
	if (ret == NVML_SUCCESS) {
		*now = wait_out(call, o);
		ret = world.inits == 0 ? NVML_ERROR_UNINITIALIZED : meets(call, o, *now);
	}
	if (ret != NVML_SUCCESS)
		world_unlock();
	return ret;
}

nvmlReturn_t leave(nvmlReturn_t ret)
{
	world_unlock();
	return ret;
}

nvmlReturn_t world_init(void)
{
	world_lock();
	world.checked = 0;
	int64_t now = wait_out("Init", NULL);
	/* A driver that was unloaded since the last one began is another driver. */
	int64_t began = world.began;
	if (world.inits == 0 || world.unloaded >= began)
		world.began = now > world.unloaded ? now : world.unloaded + 1;
	nvmlReturn_t ret = meets("Init", NULL, now);
	if (ret != NVML_SUCCESS) {
		world.began = began;
		return leave(ret);
	}
	world.inits++;
	for (size_t i = 0; i < world_scenario()->count; i++)
		if (world_scenario()->lines[i].verb == PROCESS && world_scenario()->lines[i].pid == 0)
			start_scanner();
	return leave(NVML_SUCCESS);
}

nvmlReturn_t world_shutdown(void)
{
	world_lock();
	if (world.inits == 0)
		return leave(NVML_ERROR_UNINITIALIZED);
	if (--world.inits > 0 || !world.scanning)
		return leave(NVML_SUCCESS);
	world.stopping = true;
	world_unlock();
	pthread_join(world.scanner, NULL);
	world_lock();
	world.stopping = world.scanning = false;
	return leave(NVML_SUCCESS);
}
