/* The world: the machine that the scenarios describe, as a function of time.
 * One lock guards it. It is held for microseconds and never by a call that
 * waits, so that a hanging device stalls nobody else. */
#ifndef NVMLSTUB_WORLD_H
#define NVMLSTUB_WORLD_H

#include "api.h"
#include "scenario.h"

#define API __attribute__((visibility("default")))

enum object_kind { GPU, MIG_DEVICE, GPU_INSTANCE };

/* What a handle is of. Objects live as long as the process. */
struct object {
	enum object_kind kind;
	char id[MAX_ID + 16];
	struct object *gpu; /* a GPU's is itself */
	uint32_t gi, ci;
	double active;      /* SM time in ns, up to gpu->upto */
	double energy;      /* of a GPU since its driver was loaded, in nJ */
	int64_t upto;
	uint64_t piece;     /* while measuring: the piece that the next two are of */
	double asked, weight;
	struct object *next;
};

/* A process on a device for a time: a process line and one pid that it is
 * about. A line with a pid has one track, a line with a match one for each
 * process that it has matched. */
struct track {
	const struct line *line;
	struct object *unit; /* a GPU or a MIG device */
	uint32_t pid;
	uint64_t life;       /* 0: the line has a pid */
	int64_t from, until;
};

/* What a process did in a stretch of time, in ns of SM time. asked is more
 * than active where all together asked for more than there is. */
struct credit {
	const struct track *track;
	uint32_t pid;
	struct object *unit;
	enum kind kind;
	double active, asked;
};

struct tally {
	double active, energy;
	bool reset; /* the driver was unloaded: energy is since */
	struct credit *credits;
	size_t count, size;
};

/* Something that EventSetWait tells. So many are remembered. */
#define MAX_EVENTS 1024
struct event {
	int64_t time;
	struct object *gpu;
	uint64_t type, data;
	uint32_t gi, ci;
};

int64_t wall(void);      /* Unix ns */
int64_t world_now(void); /* the same, or where the scenario's clock stands */

/* A call begins with enter. If that is NVML_SUCCESS, the lock is held and now
 * is the time that the call answers for, and it ends with leave. Otherwise it
 * is the answer. Waiting is done here: hangs and delays of the scenario. */
nvmlReturn_t enter(const char *call, struct object *o, int64_t *now);
nvmlReturn_t leave(nvmlReturn_t ret);

nvmlReturn_t world_init(void);
nvmlReturn_t world_shutdown(void);

/* The following want the lock. */
const struct scenario *world_scenario(void);
/* in_force is the index'th line about id (NULL: any) at a time, or NULL. */
const struct line *in_force(enum verb v, const char *id, int64_t now, size_t index);
/* instance_of is the index'th instance line of a GPU at a time, or NULL. */
const struct line *instance_of(const struct object *gpu, int64_t now, size_t index);
bool mentions(enum verb v, const char *id);
struct object *object_of(enum object_kind kind, const char *id, struct object *gpu);
struct object *instance_object(const struct line *instance);
bool mig_mode(const struct object *gpu, int64_t now);
/* advance brings a GPU's integrals up to now. */
void advance(struct object *gpu, int64_t now);
/* measure adds up what ran on a GPU between two times. */
void measure(struct object *gpu, int64_t from, int64_t to, struct tally *out);
void tally_free(struct tally *t);
/* next_running is the first track at or after *i of a GPU or MIG device that
 * lives at a time. */
const struct track *next_running(const struct object *o, int64_t now, size_t *i);
uint64_t events_fired(void);
const struct event *event_at(uint64_t sequence);

/* The scanner's part: begin says whether any line matches the command line. */
uint64_t life_begin(uint32_t pid, int64_t started, const char *command);
void life_end(uint64_t life, int64_t now);
void world_lock(void);
void world_unlock(void);
uint64_t world_version(void); /* counts scenarios */
bool world_stopping(void);
void *scan_processes(void *unused); /* the thread; ends when stopping */

#endif
