/* A scenario: what a file says about a machine's GPUs. See README.md for the
 * language. A scenario is immutable once parsed. */
#ifndef NVMLSTUB_SCENARIO_H
#define NVMLSTUB_SCENARIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECOND INT64_C(1000000000)
#define MS INT64_C(1000000)
#define FOREVER INT64_MAX
#define MAX_ID 96
#define MAX_TEXT 256

enum verb {
	/* Settings hold for the whole scenario. */
	START, CLOCK, DRIVER, PERIOD, SAMPLING, EXCESS, PROCFS, SCAN,
	/* Statements hold for a span of time. */
	DEVICE, MIG, INSTANCE, PROCESS, SAMPLE, COUNT, FAIL, DELAY, HANG, LOST, UNLOADED, XID, EVENT,
	VERBS
};

enum kind { COMPUTE, GRAPHICS, MPS_CLIENT, MPS_SERVER, HIDDEN };

enum sampling {
	EXACT,  /* each process's sample says its true share */
	RING,   /* the driver's ring of samples, each crediting one process; the mean per process */
	RAW,    /* the same, every sample returned */
};

/* One line of the file. Which fields it has is its verb's business. */
struct line {
	enum verb verb;
	int number;
	int64_t at, lasts;     /* ns since the start; FOREVER */
	int64_t from, until;   /* Unix ns, set when the scenario begins */
	uint32_t given;        /* which of the verb's fields the file gave */
	char id[MAX_ID];       /* of what it is about; "*": all */
	char device[MAX_ID];   /* the GPU or MIG instance that it is on */
	char text[MAX_TEXT];   /* name, match, version, path */
	char word[MAX_ID];     /* function, profile, bus */
	uint32_t pid, minor, slices, compute, gi, ci, profile_id, place[2], sm, idle, full, number_of;
	uint32_t kind, code, sampling;
	uint64_t memory;       /* bytes; UINT64_MAX: unavailable */
	int64_t duration, off; /* ns */
	bool gpm, energy, credit_server;
};

struct scenario {
	bool has_start;
	int64_t start;         /* Unix ns */
	int64_t clock;         /* where time stands still, Unix ns; 0: it does not */
	char version[MAX_TEXT], procfs[MAX_TEXT];
	int64_t period, scan;  /* ns */
	enum sampling sampling;
	bool excess;           /* shares may add up to more than 100 % */
	struct line *lines;
	size_t count;
};

/* scenario_parse reads a scenario from text, or returns NULL with what is wrong
 * in error, as "LINE: what". */
struct scenario *scenario_parse(const char *text, char *error, size_t size);
/* scenario_load is scenario_parse of a file; error begins with its path. */
struct scenario *scenario_load(const char *path, char *error, size_t size);
void scenario_free(struct scenario *s);
/* scenario_begin gives all spans their absolute times. */
void scenario_begin(struct scenario *s, int64_t start);
/* line_print writes a line to a FILE as it would be written by hand. */
void line_print(const struct line *l, void *file);

/* function_matches says whether a line's function means a call, which is named
 * without "nvml" and version. */
bool function_matches(const char *function, const char *call);
const char *code_name(int code);

/* edge_after is the next time after t at which a process's duty changes, and
 * on_duty whether it is on: duty is a pattern of absolute (Unix) time. */
bool on_duty(const struct line *process, int64_t t);
int64_t edge_after(const struct line *process, int64_t t);

#endif
