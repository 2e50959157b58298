// A stand-in for libdcgm.so.4: the calls that the agent makes, answered from
// the scenario file that GPULEDGER_DCGM_SCENARIO names. The file is read again
// for each call, so that a test may change the machine while it runs. Its
// language is in dcgmstub.go. Layouts are those of DCGM 4's dcgm_structs.h.
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	OK = 0, BADPARAM = -1, INIT_ERROR = -7, UNINITIALIZED = -10, VER_MISMATCH = -12, NO_DATA = -14,
	NOT_WATCHED = -16, CONNECTION_NOT_VALID = -21, MAX_LIMIT = -24, DUPLICATE_KEY = -26,
};
enum { GPU = 1, GPU_I = 4, GPU_CI = 5, UUID_FIELD = 54, LIVE = 1 };
enum { MAX_DEVICES = 32, MAX_HIERARCHY = 32 * 14, MAX_LINES = 4096, MAX_OBJECTS = 256, MAX_MEMBERS = 1024 };
#define EMBEDDED ((uintptr_t)0x7fffffff)
#define BLANK 140737488355328.0
#define VERSION(type, n) ((unsigned)(sizeof(type) | (unsigned)(n) << 24))

typedef struct { unsigned kind, id; } entity;
typedef struct { unsigned version, persist, timeout, unix_socket; } connect_params;
typedef struct {
	char uuid[128];
	unsigned gpu_index, instance, compute_instance, profile, slices;
} mig_info;
typedef struct { entity self, parent; mig_info info; } mig_entity;
typedef struct { unsigned version, count; mig_entity list[MAX_HIERARCHY]; } hierarchy;
typedef struct {
	unsigned version, kind, id;
	unsigned short field, type;
	int status;
	unsigned unused;
	int64_t ts;
	union { double dbl; char str[256]; char blob[4096]; } value;
} field_value;

typedef struct { uintptr_t id, owner; char name[256]; entity members[MAX_MEMBERS]; int count; } group;
typedef struct { uintptr_t id, owner; char name[256]; unsigned short fields[128]; int count; } field_group;
typedef struct { uintptr_t group, fields, owner; } watching;

static struct {
	pthread_mutex_t lock;
	int ready;
	uintptr_t next, open[MAX_OBJECTS];
	long generation[MAX_OBJECTS];
	group groups[MAX_OBJECTS];
	field_group field_groups[MAX_OBJECTS];
	watching watches[MAX_OBJECTS];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .next = 1};

// The scenario, as lines of at most eight words.
typedef struct { int count; char *words[8]; char text[512]; } line;
typedef struct { int count; line *lines; } scenario;

static scenario load(void) {
	scenario s = {0, NULL};
	const char *path = getenv("GPULEDGER_DCGM_SCENARIO");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (!f) return s;
	int most = 1;
	for (int c; (c = fgetc(f)) != EOF;) most += c == '\n';
	rewind(f);
	if (most > MAX_LINES) most = MAX_LINES;
	s.lines = calloc((size_t)most, sizeof(line));
	while (s.lines && s.count < most && fgets(s.lines[s.count].text, sizeof s.lines[0].text, f)) {
		line *l = &s.lines[s.count];
		char *save = NULL;
		for (char *w = strtok_r(l->text, " \t\n", &save); w && *w != '#' && l->count < 8; w = strtok_r(NULL, " \t\n", &save))
			l->words[l->count++] = w;
		if (l->count > 0) s.count++;
	}
	fclose(f);
	return s;
}

static line *find(scenario s, int *from, const char *word, int words) {
	while (*from < s.count) {
		line *l = &s.lines[(*from)++];
		if (l->count >= words && strcmp(l->words[0], word) == 0) return l;
	}
	return NULL;
}

static long number(const char *word) { return strtol(word, NULL, 0); }

static unsigned kind(const char *word) {
	return strcmp(word, "gpu") == 0 ? GPU : strcmp(word, "gi") == 0 ? GPU_I : strcmp(word, "ci") == 0 ? GPU_CI : 0;
}

static line *setting(scenario s, const char *word, const char *of) {
	int at = 0;
	for (line *l; (l = find(s, &at, word, 2));)
		if (!of || (l->count >= 3 && strcmp(l->words[1], of) == 0)) return l;
	return NULL;
}

// enter writes the call down, delays it, and says how it is to fail.
static int enter(const char *call) {
	scenario s = load();
	line *calls = setting(s, "calls", NULL), *delay = setting(s, "delay", call), *fail = setting(s, "fail", call);
	if (calls) {
		FILE *f = fopen(calls->words[1], "a");
		if (f) {
			fprintf(f, "%s\n", call);
			fclose(f);
		}
	}
	if (delay) {
		long ms = number(delay->words[2]);
		struct timespec t = {ms / 1000, ms % 1000 * 1000000};
		nanosleep(&t, NULL);
	}
	int code = fail ? (int)number(fail->words[2]) : OK;
	free(s.lines);
	return code;
}

static long generation(scenario s) {
	line *l = setting(s, "generation", NULL);
	return l ? number(l->words[1]) : 0;
}

// session finds an open handle; a hostengine of another generation has
// forgotten it.
static int session(uintptr_t handle) {
	scenario s = load();
	long now = generation(s);
	free(s.lines);
	if (!state.ready) return UNINITIALIZED;
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (handle && state.open[i] == handle) return state.generation[i] == now ? OK : CONNECTION_NOT_VALID;
	return CONNECTION_NOT_VALID;
}

static int connect_as(uintptr_t handle, uintptr_t *out) {
	scenario s = load();
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (!state.open[i]) {
			state.open[i] = handle;
			state.generation[i] = generation(s);
			free(s.lines);
			*out = handle;
			return OK;
		}
	free(s.lines);
	return MAX_LIMIT;
}

static int disconnect(uintptr_t handle) {
	int result = session(handle);
	for (int i = 0; i < MAX_OBJECTS; i++) {
		if (state.open[i] == handle) state.open[i] = 0;
		if (state.groups[i].owner == handle) memset(&state.groups[i], 0, sizeof(group));
		if (state.field_groups[i].owner == handle) memset(&state.field_groups[i], 0, sizeof(field_group));
		if (state.watches[i].owner == handle) memset(&state.watches[i], 0, sizeof(watching));
	}
	return result;
}

#define BEGIN(call)                               \
	int result = enter(call);                     \
	if (result != OK) return result;              \
	pthread_mutex_lock(&state.lock)
#define END                                       \
	pthread_mutex_unlock(&state.lock);            \
	return result
#define BEGIN_SESSION(call, handle)               \
	BEGIN(call);                                  \
	result = session(handle);                     \
	if (result != OK) {                           \
		pthread_mutex_unlock(&state.lock);        \
		return result;                            \
	}

const char *errorString(int code) {
	switch (code) {
	case OK: return "Success";
	case BADPARAM: return "Bad parameter passed to function";
	case -6: return "Feature not supported";
	case VER_MISMATCH: return "API version mismatch";
	case NO_DATA: return "No data is available";
	case -17: return "No permission";
	case -18: return "GPU is lost";
	case CONNECTION_NOT_VALID: return "Host engine connection invalid/disconnected";
	case -29: return "Operation requires root";
	case -33: return "Module not loaded";
	case -34: return "Resource in use";
	case -36: return "Profiling is not supported";
	case -37: return "Profiling library error";
	}
	return "Unknown error";
}

int dcgmInit(void) {
	BEGIN("dcgmInit");
	state.ready = 1;
	END;
}

int dcgmShutdown(void) {
	BEGIN("dcgmShutdown");
	state.ready = 0;
	END;
}

int dcgmStartEmbedded(int mode, uintptr_t *handle) {
	BEGIN("dcgmStartEmbedded");
	result = state.ready && mode == 1 ? connect_as(EMBEDDED, handle) : INIT_ERROR;
	END;
}

int dcgmStopEmbedded(uintptr_t handle) {
	BEGIN("dcgmStopEmbedded");
	result = disconnect(handle);
	END;
}

int dcgmConnect_v2(const char *address, connect_params *p, uintptr_t *handle) {
	BEGIN("dcgmConnect_v2");
	scenario s = load();
	line *l = setting(s, p->unix_socket ? "listen-unix" : "listen", NULL);
	if (p->version != VERSION(connect_params, 2)) result = VER_MISMATCH;
	else if (!state.ready) result = UNINITIALIZED;
	else if (!l || strcmp(l->words[1], address) != 0) result = CONNECTION_NOT_VALID;
	else result = connect_as(1000 + state.next++, handle);
	free(s.lines);
	END;
}

int dcgmDisconnect(uintptr_t handle) {
	BEGIN("dcgmDisconnect");
	result = disconnect(handle);
	END;
}

int dcgmGetAllSupportedDevices(uintptr_t handle, unsigned ids[MAX_DEVICES], int *count) {
	BEGIN_SESSION("dcgmGetAllSupportedDevices", handle);
	scenario s = load();
	int at = 0;
	*count = 0;
	for (line *l; *count < MAX_DEVICES && (l = find(s, &at, "gpu", 3));) ids[(*count)++] = (unsigned)number(l->words[1]);
	free(s.lines);
	END;
}

static line *by_id(scenario s, const char *word, unsigned id) {
	int at = 0;
	for (line *l; (l = find(s, &at, word, 3));)
		if ((unsigned)number(l->words[1]) == id) return l;
	return NULL;
}

static void set_uuid(scenario s, unsigned gpu, mig_info *info) {
	line *l = by_id(s, "gpu", gpu);
	if (l) snprintf(info->uuid, sizeof info->uuid, "%s", l->words[2]);
}

int dcgmGetGpuInstanceHierarchy(uintptr_t handle, hierarchy *h) {
	BEGIN_SESSION("dcgmGetGpuInstanceHierarchy", handle);
	scenario s = load();
	h->count = 0;
	if (h->version != VERSION(hierarchy, 2)) result = VER_MISMATCH;
	int at = 0;
	for (line *l; result == OK && h->count < MAX_HIERARCHY && (l = find(s, &at, "gi", 4));) {
		mig_entity *e = &h->list[h->count++];
		memset(e, 0, sizeof *e);
		e->self = (entity){GPU_I, (unsigned)number(l->words[1])};
		e->parent = (entity){GPU, (unsigned)number(l->words[2])};
		e->info.instance = (unsigned)number(l->words[3]);
		e->info.compute_instance = (unsigned)-1;
		set_uuid(s, e->parent.id, &e->info);
	}
	at = 0;
	for (line *l; result == OK && h->count < MAX_HIERARCHY && (l = find(s, &at, "ci", 4));) {
		line *gi = by_id(s, "gi", (unsigned)number(l->words[2]));
		if (!gi) continue;
		mig_entity *e = &h->list[h->count++];
		memset(e, 0, sizeof *e);
		e->self = (entity){GPU_CI, (unsigned)number(l->words[1])};
		e->parent = (entity){GPU_I, (unsigned)number(l->words[2])};
		e->info.instance = (unsigned)number(gi->words[3]);
		e->info.compute_instance = (unsigned)number(l->words[3]);
		set_uuid(s, (unsigned)number(gi->words[2]), &e->info);
	}
	line *count = setting(s, "hierarchy-count", NULL);
	if (count) h->count = (unsigned)number(count->words[1]);
	free(s.lines);
	END;
}

int dcgmGroupCreate(uintptr_t handle, int type, const char *name, uintptr_t *id) {
	BEGIN_SESSION("dcgmGroupCreate", handle);
	result = type == 1 ? MAX_LIMIT : BADPARAM;
	for (int i = 0; result == MAX_LIMIT && i < MAX_OBJECTS; i++)
		if (!state.groups[i].id) {
			state.groups[i] = (group){.id = state.next++, .owner = handle};
			snprintf(state.groups[i].name, sizeof state.groups[i].name, "%s", name);
			*id = state.groups[i].id;
			result = OK;
		}
	END;
}

static group *group_by_id(uintptr_t id) {
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (id && state.groups[i].id == id) return &state.groups[i];
	return NULL;
}

static field_group *fields_by_id(uintptr_t id) {
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (id && state.field_groups[i].id == id) return &state.field_groups[i];
	return NULL;
}

int dcgmGroupAddEntity(uintptr_t handle, uintptr_t id, unsigned entity_kind, unsigned entity_id) {
	BEGIN_SESSION("dcgmGroupAddEntity", handle);
	scenario s = load();
	const char *word = entity_kind == GPU ? "gpu" : entity_kind == GPU_I ? "gi" : "ci";
	group *g = group_by_id(id);
	if (!g || !by_id(s, word, entity_id)) result = BADPARAM;
	else if (g->count == MAX_MEMBERS) result = MAX_LIMIT;
	else g->members[g->count++] = (entity){entity_kind, entity_id};
	free(s.lines);
	END;
}

int dcgmGroupDestroy(uintptr_t handle, uintptr_t id) {
	BEGIN_SESSION("dcgmGroupDestroy", handle);
	group *g = group_by_id(id);
	if (g) memset(g, 0, sizeof *g);
	else result = BADPARAM;
	END;
}

int dcgmFieldGroupCreate(uintptr_t handle, int count, const unsigned short *fields, const char *name, uintptr_t *id) {
	BEGIN_SESSION("dcgmFieldGroupCreate", handle);
	result = count >= 1 && count <= 128 ? MAX_LIMIT : BADPARAM;
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (state.field_groups[i].id && strcmp(state.field_groups[i].name, name) == 0) result = DUPLICATE_KEY;
	for (int i = 0; result == MAX_LIMIT && i < MAX_OBJECTS; i++)
		if (!state.field_groups[i].id) {
			field_group *f = &state.field_groups[i];
			*f = (field_group){.id = state.next++, .owner = handle, .count = count};
			memcpy(f->fields, fields, (size_t)count * sizeof *fields);
			snprintf(f->name, sizeof f->name, "%s", name);
			*id = f->id;
			result = OK;
		}
	END;
}

int dcgmFieldGroupDestroy(uintptr_t handle, uintptr_t id) {
	BEGIN_SESSION("dcgmFieldGroupDestroy", handle);
	field_group *f = fields_by_id(id);
	if (f) memset(f, 0, sizeof *f);
	else result = BADPARAM;
	END;
}

// unwatchable says what "unwatchable KIND ID CODE" has for a group's members.
static int unwatchable(const group *g) {
	scenario s = load();
	int at = 0, code = OK;
	for (line *l; (l = find(s, &at, "unwatchable", 4));)
		for (int i = 0; i < g->count; i++)
			if (g->members[i].kind == kind(l->words[1]) && g->members[i].id == (unsigned)number(l->words[2])) code = (int)number(l->words[3]);
	free(s.lines);
	return code;
}

int dcgmWatchFields(uintptr_t handle, uintptr_t group_id, uintptr_t fields_id, long long every, double age, int samples) {
	BEGIN_SESSION("dcgmWatchFields", handle);
	group *g = group_by_id(group_id);
	result = g && fields_by_id(fields_id) && every > 0 && (age > 0 || samples > 0) ? unwatchable(g) : BADPARAM;
	for (int i = 0; result == OK && i < MAX_OBJECTS; i++)
		if (!state.watches[i].group) {
			state.watches[i] = (watching){group_id, fields_id, handle};
			break;
		}
	END;
}

int dcgmUnwatchFields(uintptr_t handle, uintptr_t group_id, uintptr_t fields_id) {
	BEGIN_SESSION("dcgmUnwatchFields", handle);
	result = BADPARAM;
	for (int i = 0; i < MAX_OBJECTS; i++)
		if (state.watches[i].group == group_id && state.watches[i].fields == fields_id) {
			memset(&state.watches[i], 0, sizeof(watching));
			result = OK;
		}
	END;
}

int dcgmUpdateAllFields(uintptr_t handle, int wait) {
	BEGIN_SESSION("dcgmUpdateAllFields", handle);
	(void)wait;
	END;
}

static int watched(unsigned entity_kind, unsigned id, unsigned short field) {
	for (int i = 0; i < MAX_OBJECTS; i++) {
		group *g = group_by_id(state.watches[i].group);
		field_group *f = fields_by_id(state.watches[i].fields);
		int in_group = 0, in_fields = 0;
		for (int j = 0; g && j < g->count; j++) in_group |= g->members[j].kind == entity_kind && g->members[j].id == id;
		for (int j = 0; f && j < f->count; j++) in_fields |= f->fields[j] == field;
		if (in_group && in_fields) return 1;
	}
	return 0;
}

static void answer(scenario s, field_value *v) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	v->ts = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
	v->type = 'd';
	v->value.dbl = BLANK;
	v->status = watched(v->kind, v->id, v->field) ? NO_DATA : NOT_WATCHED;
	int at = 0;
	for (line *l; v->status == NO_DATA && (l = find(s, &at, "value", 5));) {
		if (kind(l->words[1]) != v->kind || (unsigned)number(l->words[2]) != v->id || number(l->words[3]) != v->field) continue;
		v->status = OK;
		if (strcmp(l->words[4], "blank") == 0) v->value.dbl = BLANK;
		else if (strcmp(l->words[4], "unsupported") == 0) v->value.dbl = BLANK + 2;
		else if (strcmp(l->words[4], "denied") == 0) v->value.dbl = BLANK + 3;
		else if (strcmp(l->words[4], "integer") == 0) v->type = 'i';
		else if (strcmp(l->words[4], "status") == 0) v->status = l->count > 5 ? (int)number(l->words[5]) : -3;
		else v->value.dbl = strtod(l->words[4], NULL);
		if (l->count > 6 && strcmp(l->words[5], "age") == 0) v->ts -= number(l->words[6]) * 1000;
		return;
	}
}

int dcgmEntitiesGetLatestValues(uintptr_t handle, const entity entities[], unsigned count, const unsigned short fields[],
	unsigned field_count, unsigned flags, field_value values[]) {
	BEGIN_SESSION(flags & LIVE ? "dcgmEntitiesGetLatestValues(live)" : "dcgmEntitiesGetLatestValues", handle);
	scenario s = load();
	// In the opposite order to that asked for: DCGM promises none.
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < field_count; j++) {
			field_value *v = &values[(count - 1 - i) * field_count + j];
			memset(v, 0, sizeof *v);
			v->version = VERSION(field_value, 2);
			v->kind = entities[i].kind;
			v->id = entities[i].id;
			v->field = fields[j];
			line *gpu = v->kind == GPU ? by_id(s, "gpu", v->id) : NULL;
			if (flags & LIVE && v->field == UUID_FIELD && gpu) {
				v->type = 's';
				snprintf(v->value.str, sizeof v->value.str, "%s", gpu->words[2]);
			} else answer(s, v);
		}
	free(s.lines);
	END;
}
