/* What ran where at what time, and the sums over it. */
#define _GNU_SOURCE
#include "eras.h"

#include <stdlib.h>
#include <string.h>

struct era {
	struct scenario *scenario;
	int64_t from;
	struct track *tracks;
	size_t count, size;
	struct era *older;
};

/* A process that lives, or lived until a moment ago, and matches some line. */
struct life {
	uint64_t id;
	uint32_t pid;
	int64_t from;
	char *command;
	struct life *next;
};

static struct era *eras; /* the newest first */
static struct life *lives;
static uint64_t life_count, era_count, pieces;

const struct scenario *world_scenario(void) { return eras != NULL ? eras->scenario : NULL; }
uint64_t world_version(void) { return era_count; }

static bool holds(const struct line *l, int64_t now) { return l->from <= now && now < l->until; }

static const struct line *find(const struct scenario *s, enum verb v, const char *id, int64_t now, size_t index)
{
	for (size_t i = 0; s != NULL && i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if (l->verb == v && holds(l, now) && (id == NULL || strcmp(l->id, id) == 0) && index-- == 0)
			return l;
	}
	return NULL;
}

const struct line *in_force(enum verb v, const char *id, int64_t now, size_t index)
{
	return find(world_scenario(), v, id, now, index);
}

const struct line *instance_of(const struct object *gpu, int64_t now, size_t index)
{
	const struct scenario *s = world_scenario();
	for (size_t i = 0; s != NULL && i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if (l->verb == INSTANCE && holds(l, now) && strcmp(l->device, gpu->id) == 0 && index-- == 0)
			return l;
	}
	return NULL;
}

bool mentions(enum verb v, const char *id)
{
	const struct scenario *s = world_scenario();
	for (size_t i = 0; s != NULL && i < s->count; i++)
		if (s->lines[i].verb == v && strcmp(s->lines[i].id, id) == 0)
			return true;
	return false;
}

bool mig_mode(const struct object *gpu, int64_t now)
{
	return in_force(MIG, gpu->id, now, 0) != NULL;
}

static struct object *unit_of(const struct scenario *s, const char *id)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->lines[i].verb == INSTANCE && strcmp(s->lines[i].id, id) == 0)
			return instance_object(&s->lines[i]);
	return object_of(GPU, id, NULL);
}

static void add_track(struct era *e, struct track t)
{
	if (t.from >= t.until)
		return;
	if (e->count == e->size) {
		e->size = e->size == 0 ? 64 : 2 * e->size;
		e->tracks = realloc(e->tracks, e->size * sizeof t);
		if (e->tracks == NULL)
			abort();
	}
	e->tracks[e->count++] = t;
}

static bool match(struct era *e, const struct life *life)
{
	bool any = false;
	for (size_t i = 0; i < e->scenario->count; i++) {
		const struct line *l = &e->scenario->lines[i];
		if (l->verb != PROCESS || l->pid != 0 || strstr(life->command, l->text) == NULL)
			continue;
		any = true;
		add_track(e, (struct track){
			.line = l, .unit = unit_of(e->scenario, l->device), .pid = life->pid, .life = life->id,
			.from = l->from > life->from ? l->from : life->from, .until = l->until,
		});
	}
	return any;
}

static void free_era(struct era *e)
{
	scenario_free(e->scenario);
	free(e->tracks);
	free(e);
}

void era_begin(struct scenario *s, int64_t from)
{
	struct era *e = calloc(1, sizeof *e);
	if (e == NULL)
		abort();
	if (eras == NULL)
		from = 0; /* the first has always been */
	advance_all(from);
	*e = (struct era){.scenario = s, .from = from, .older = eras};
	eras = e;
	era_count++;
	for (size_t i = 0; i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if (l->verb == DEVICE)
			object_of(GPU, l->id, NULL);
		if (l->verb == PROCESS && l->pid != 0)
			add_track(e, (struct track){.line = l, .unit = unit_of(s, l->device), .pid = l->pid, .from = l->from, .until = l->until});
	}
	for (const struct life *life = lives; life != NULL; life = life->next)
		match(e, life);
	for (; e->older != NULL; e = e->older)
		if (e->from < from - KEEP) { /* so nobody asks for what is older */
			struct era *old = e->older;
			e->older = NULL;
			while (old != NULL) {
				struct era *next = old->older;
				free_era(old);
				old = next;
			}
			break;
		}
}

/* forget drops the tracks that nobody asks for any more. */
static void forget(struct era *e, int64_t now)
{
	size_t kept = 0;
	advance_all(now);
	for (size_t i = 0; i < e->count; i++)
		if (e->tracks[i].until > now - KEEP)
			e->tracks[kept++] = e->tracks[i];
	e->count = kept;
}

uint64_t life_begin(uint32_t pid, int64_t started, const char *command)
{
	struct life *life = calloc(1, sizeof *life);
	if (eras == NULL || life == NULL || (life->command = strdup(command)) == NULL) {
		free(life);
		return 0;
	}
	life->id = ++life_count;
	life->pid = pid;
	/* Not before what has been answered for: the answers would not add up. */
	life->from = started > world_observed() ? started : world_observed();
	if (!match(eras, life)) {
		free(life->command);
		free(life);
		return 0;
	}
	life->next = lives;
	lives = life;
	forget(eras, life->from);
	return life->id;
}

void life_end(uint64_t id, int64_t now)
{
	for (struct era *e = eras; e != NULL; e = e->older)
		for (size_t i = 0; i < e->count; i++)
			if (e->tracks[i].life == id && e->tracks[i].until > now)
				e->tracks[i].until = now;
	for (struct life **l = &lives; *l != NULL; l = &(*l)->next)
		if ((*l)->id == id) {
			struct life *dead = *l;
			*l = dead->next;
			free(dead->command);
			free(dead);
			return;
		}
}

static bool lives_at(const struct scenario *s, const struct track *t, int64_t now)
{
	return t->from <= now && now < t->until && (t->unit->kind == GPU || find(s, INSTANCE, t->unit->id, now, 0) != NULL);
}

const struct track *next_running(const struct object *o, int64_t now, size_t *i)
{
	for (; eras != NULL && *i < eras->count; (*i)++) {
		const struct track *t = &eras->tracks[*i];
		if ((t->unit == o || (o->kind == GPU && t->unit->gpu == o)) && lives_at(eras->scenario, t, now))
			return &eras->tracks[(*i)++];
	}
	return NULL;
}

static void earlier(int64_t *edge, int64_t candidate, int64_t after)
{
	if (candidate > after && candidate < *edge)
		*edge = candidate;
}

/* piece_end is the end of the stretch from a time on in which nothing about a
 * GPU changes. */
static int64_t piece_end(const struct era *e, const struct object *gpu, int64_t now, int64_t end)
{
	for (size_t i = 0; i < e->scenario->count; i++) {
		const struct line *l = &e->scenario->lines[i];
		if (l->verb == DEVICE || l->verb == INSTANCE || l->verb == UNLOADED) {
			earlier(&end, l->from, now);
			earlier(&end, l->until, now);
		}
	}
	for (size_t i = 0; i < e->count; i++) {
		const struct track *t = &e->tracks[i];
		if (t->unit->gpu != gpu)
			continue;
		earlier(&end, t->from, now);
		earlier(&end, t->until, now);
		if (t->from <= now && now < t->until)
			earlier(&end, edge_after(t->line, now), now);
	}
	return end;
}

static struct credit *credit_of(struct tally *out, const struct track *t)
{
	for (size_t i = 0; i < out->count; i++) {
		struct credit *c = &out->credits[i];
		if (c->pid == t->pid && c->unit == t->unit && c->kind == (enum kind)t->line->kind)
			return c;
	}
	if (out->count == out->size) {
		out->size = out->size == 0 ? 64 : 2 * out->size;
		out->credits = realloc(out->credits, out->size * sizeof *out->credits);
		if (out->credits == NULL)
			abort();
	}
	out->credits[out->count] = (struct credit){.track = t, .pid = t->pid, .unit = t->unit, .kind = (enum kind)t->line->kind};
	return &out->credits[out->count++];
}

/* weigh is how much of its GPU a unit is. */
static double weigh(const struct scenario *s, const struct object *unit, const struct line *device, int64_t now)
{
	if (unit->kind == GPU)
		return 1;
	const struct line *l = find(s, INSTANCE, unit->id, now, 0);
	return l == NULL || device == NULL ? 0 : (double)l->compute / device->slices;
}

/* measure_piece adds a stretch in which nothing changes. Processes that ask
 * for more than there is get it in proportion. */
static void measure_piece(const struct era *e, const struct object *gpu, int64_t now, int64_t end, struct tally *out)
{
	const struct scenario *s = e->scenario;
	const struct line *device = find(s, DEVICE, gpu->id, now, 0);
	double length = (double)(end - now), active = 0;
	pieces++;
	for (size_t i = 0; i < e->count; i++) {
		const struct track *t = &e->tracks[i];
		if (t->unit->gpu != gpu || t->line->sm == 0 || !lives_at(s, t, now) || !on_duty(t->line, now))
			continue;
		if (t->unit->piece != pieces) {
			t->unit->piece = pieces;
			t->unit->asked = 0;
			t->unit->weight = weigh(s, t->unit, device, now);
		}
		t->unit->asked += t->line->sm;
	}
	for (size_t i = 0; i < e->count; i++) {
		const struct track *t = &e->tracks[i];
		if (t->unit->gpu != gpu || t->line->sm == 0 || t->unit->piece != pieces || !lives_at(s, t, now) || !on_duty(t->line, now))
			continue;
		struct credit *c = credit_of(out, t);
		double part = length * t->line->sm / (t->unit->asked > 100 ? t->unit->asked : 100);
		c->active += part;
		c->asked += length * t->line->sm / 100;
		active += part * t->unit->weight;
	}
	out->active += active;
	if (device != NULL && device->energy)
		out->energy += device->idle * length + (device->full - device->idle) * active;
	if (find(s, UNLOADED, NULL, now, 0) != NULL) {
		out->energy = 0;
		out->reset = true;
	}
}

void measure(struct object *gpu, int64_t from, int64_t to, struct tally *out)
{
	while (from < to) {
		const struct era *e = eras;
		int64_t end = to;
		while (e != NULL && e->from > from) {
			end = e->from < end ? e->from : end;
			e = e->older;
		}
		if (e == NULL) { /* older than what is kept */
			from = end;
			continue;
		}
		end = piece_end(e, gpu, from, end);
		measure_piece(e, gpu, from, end, out);
		from = end;
	}
}

void tally_free(struct tally *t)
{
	free(t->credits);
	*t = (struct tally){0};
}

void advance(struct object *gpu, int64_t now)
{
	struct tally t = {0};
	if (now <= gpu->upto)
		return;
	measure(gpu, gpu->upto, now, &t);
	gpu->active += t.active;
	gpu->energy = t.reset ? t.energy : gpu->energy + t.energy;
	gpu->upto = now;
	for (size_t i = 0; i < t.count; i++)
		if (t.credits[i].unit->kind == MIG_DEVICE)
			t.credits[i].unit->active += t.credits[i].active;
	tally_free(&t);
}
