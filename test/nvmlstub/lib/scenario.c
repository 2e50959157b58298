/* Scenario files: the language as one table, and its parser. */
#define _GNU_SOURCE
#include "scenario.h"
#include "fields.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE (4 << 20)
#define MAX_TOKENS 40

struct parser {
	char *error;
	size_t size;
	int number;
};

static bool fail(struct parser *p, const char *format, ...)
{
	va_list args;
	int n = snprintf(p->error, p->size, "%d: ", p->number);
	va_start(args, format);
	vsnprintf(p->error + n, p->size - (size_t)n, format, args);
	va_end(args);
	return false;
}

/* split cuts a line into words in place; "…" holds blanks, \" and \\. It
 * returns their number, or −1. */
static int split(struct parser *p, char *s, char **words)
{
	int n = 0;
	for (;;) {
		s += strspn(s, " \t\r");
		if (*s == '\0' || *s == '#')
			return n;
		if (n == MAX_TOKENS)
			return fail(p, "too many words"), -1;
		words[n++] = s;
		if (*s != '"') {
			s += strcspn(s, " \t\r");
			if (*s != '\0')
				*s++ = '\0';
			continue;
		}
		char *to = s++;
		while (*s != '"') {
			if (*s == '\\')
				s++;
			if (*s == '\0')
				return fail(p, "a quote is not closed"), -1;
			*to++ = *s++;
		}
		s++;
		*to = '\0';
	}
}

/* scaled parses a decimal number with a unit, such as 1.5s, exactly. */
static bool scaled(const char *s, const struct unit *units, int64_t *out)
{
	unsigned __int128 value = 0, one = 1;
	const char *c = s;
	bool point = false, digits = false;
	for (; (*c >= '0' && *c <= '9') || (*c == '.' && !point); c++) {
		if (*c == '.') {
			point = true;
			continue;
		}
		digits = true;
		value = value * 10 + (unsigned)(*c - '0');
		if (point)
			one *= 10;
		if (value > INT64_MAX || one > INT64_MAX)
			return false;
	}
	for (; digits && units->name != NULL; units++) {
		if (strcmp(c, units->name) != 0)
			continue;
		value = value * (unsigned __int128)units->factor / one;
		*out = (int64_t)value;
		return value <= INT64_MAX;
	}
	return false;
}

static bool number(const char *s, uint32_t *out)
{
	char *end;
	errno = 0;
	unsigned long v = strtoul(s, &end, 10);
	*out = (uint32_t)v;
	return *s >= '0' && *s <= '9' && *end == '\0' && errno == 0 && v <= UINT32_MAX;
}

static bool named(const struct name *names, const char *s, uint32_t *out)
{
	for (; names->name != NULL; names++)
		if (strcmp(names->name, s) == 0) {
			*out = (uint32_t)names->value;
			return true;
		}
	return false;
}

static bool known_function(const char *s)
{
#define SYMBOL(name) if (function_matches(s, call_name(#name))) return true;
#include "symbols.h"
#undef SYMBOL
	return false;
}

static bool text(char *to, size_t size, const char *s)
{
	if (strlen(s) >= size)
		return false;
	strcpy(to, s);
	return true;
}

/* value reads one field. */
static bool value(struct parser *p, struct line *l, const struct field *f, const char *s)
{
	char *at = (char *)l + f->offset;
	const char *what = f->key != NULL ? f->key : "that";
	int64_t v;
	switch (f->type) {
	case END: case FLAG:
		return true;
	case ID:
		return (*s != '\0' && text(at, MAX_ID, s)) || fail(p, "%s: \"%s\" is no id", what, s);
	case WORD:
		return (*s != '\0' && text(at, MAX_ID, s)) || fail(p, "%s: \"%s\" is empty or too long", what, s);
	case TEXT:
		return (*s != '\0' && text(at, MAX_TEXT, s)) || fail(p, "%s: \"%s\" is empty or too long", what, s);
	case FUNCTION:
		return (known_function(s) && text(at, MAX_ID, s)) || fail(p, "no function \"%s\"", s);
	case NUMBER:
		return number(s, (uint32_t *)(void *)at) || fail(p, "%s: \"%s\" is no number", what, s);
	case KIND: case CODE: case MODE:
		return named(field_names(f->type), s, (uint32_t *)(void *)at) || fail(p, "no %s \"%s\"", type_name(f->type), s);
	case WATTS:
		if (!scaled(s, watts, &v) || v > 1000000)
			return fail(p, "%s: \"%s\" is no power, such as 60W", what, s);
		*(uint32_t *)(void *)at = (uint32_t)v;
		return true;
	case NS:
		return scaled(s, durations, (int64_t *)(void *)at) || fail(p, "%s: \"%s\" is no duration, such as 1.5s or 200ms", what, s);
	case SIZE:
		if (strcmp(s, "unavailable") == 0) {
			*(uint64_t *)(void *)at = UINT64_MAX;
			return true;
		}
		if (!scaled(s, sizes, &v))
			return fail(p, "%s: \"%s\" is no size, such as 2GiB", what, s);
		*(uint64_t *)(void *)at = (uint64_t)v;
		return true;
	case PAIR: {
		uint32_t *pair = (uint32_t *)(void *)at;
		char extra;
		return sscanf(s, "%u:%u%c", &pair[0], &pair[1], &extra) == 2 || fail(p, "%s: \"%s\" is no pair, such as 0:1", what, s);
	}
	}
	return false;
}

/* fields reads a verb's fields: those without a key in their order, then the
 * others in any. */
static bool fields(struct parser *p, struct line *l, char **words, int n)
{
	int i = 0;
	for (const struct field *f = verbs[l->verb].fields; f->type != END; f++) {
		uint32_t bit = 1U << (f - verbs[l->verb].fields);
		if (f->key != NULL)
			continue;
		if (i == n)
			return fail(p, "%s: something is missing", verbs[l->verb].name);
		if (!value(p, l, f, words[i++]))
			return false;
		l->given |= bit;
	}
	while (i < n) {
		const struct field *f = verbs[l->verb].fields;
		while (f->type != END && (f->key == NULL || strcmp(f->key, words[i]) != 0))
			f++;
		if (f->type == END)
			return fail(p, "%s: unknown word \"%s\"", verbs[l->verb].name, words[i]);
		uint32_t bit = 1U << (f - verbs[l->verb].fields);
		if (l->given & bit)
			return fail(p, "%s twice", f->key);
		l->given |= bit;
		i++;
		if (f->type == FLAG) {
			*((bool *)l + f->offset) = true;
			continue;
		}
		if (i == n)
			return fail(p, "%s: its value is missing", f->key);
		if (!value(p, l, f, words[i++]))
			return false;
	}
	for (const struct field *f = verbs[l->verb].fields; f->type != END; f++)
		if (f->required && !(l->given & 1U << (f - verbs[l->verb].fields)))
			return fail(p, "%s: %s is missing", verbs[l->verb].name, f->key);
	return true;
}

/* sensible is what the table can't say. */
static bool sensible(struct parser *p, struct line *l)
{
	switch (l->verb) {
	case PROCESS:
		if ((l->pid != 0) == (l->text[0] != '\0'))
			return fail(p, "process: give either its pid or what its command line matches");
		if (l->sm > 100)
			return fail(p, "process: sm %u is more than 100 %%", l->sm);
		if ((l->duration == 0) != (l->off == 0))
			return fail(p, "process: on and off come together, and are not 0");
		return true;
	case DEVICE:
		if (l->memory == UINT64_MAX)
			return fail(p, "device: its memory is a size");
		if (l->slices == 0)
			l->slices = 7;
		return l->full >= l->idle || fail(p, "device: less power full than idle");
	case INSTANCE:
		if (l->slices == 0 || l->compute > l->slices)
			return fail(p, "instance: %u of %u slices", l->compute, l->slices);
		if (l->compute == 0)
			l->compute = l->slices;
		return true;
	case PERIOD: case SCAN:
		return l->duration >= MS || fail(p, "at least 1ms");
	default:
		return true;
	}
}

static bool prefixes(struct parser *p, struct line *l, char ***words, int *n)
{
	l->lasts = FOREVER;
	while (*n >= 2) {
		bool at = strcmp((*words)[0], "at") == 0;
		if (!at && strcmp((*words)[0], "for") != 0)
			return true;
		if (!scaled((*words)[1], durations, at ? &l->at : &l->lasts))
			return fail(p, "%s: \"%s\" is no duration, such as 1.5s or 200ms", (*words)[0], (*words)[1]);
		*words += 2;
		*n -= 2;
	}
	return true;
}

static bool moment(struct parser *p, enum verb v, struct scenario *s, char **words, int n)
{
	int64_t *to = v == START ? &s->start : &s->clock;
	s->has_start = s->has_start || v == START;
	return (n == 2 && scaled(words[1], unix_seconds, to)) || fail(p, "%s: one Unix time in seconds", words[0]);
}

static void set(struct scenario *s, const struct line *l)
{
	switch (l->verb) {
	case DRIVER: strcpy(s->version, l->text); break;
	case PROCFS: strcpy(s->procfs, l->text); break;
	case PERIOD: s->period = l->duration; break;
	case SCAN: s->scan = l->duration; break;
	case SAMPLING: s->sampling = (enum sampling)l->sampling; break;
	case EXCESS: s->excess = true; break;
	default: break;
	}
}

static bool parse_line(struct parser *p, struct scenario *s, char *raw)
{
	char *all[MAX_TOKENS], **words = all;
	struct line l = {.number = p->number};
	int n = split(p, raw, words);
	if (n <= 0)
		return n == 0;
	if (!prefixes(p, &l, &words, &n))
		return false;
	if (n == 0)
		return fail(p, "a time for nothing");
	while (l.verb < VERBS && strcmp(verbs[l.verb].name, words[0]) != 0)
		l.verb++;
	if (l.verb == VERBS)
		return fail(p, "unknown word \"%s\"", words[0]);
	if (l.verb < DEVICE && (l.at != 0 || l.lasts != FOREVER))
		return fail(p, "%s holds for the whole scenario", words[0]);
	if (l.verb == START || l.verb == CLOCK)
		return moment(p, l.verb, s, words, n);
	if (!fields(p, &l, words + 1, n - 1) || !sensible(p, &l))
		return false;
	set(s, &l);
	struct line *more = realloc(s->lines, (s->count + 1) * sizeof l);
	if (more == NULL)
		return fail(p, "out of memory");
	s->lines = more;
	s->lines[s->count++] = l;
	return true;
}

static bool declared(const struct scenario *s, const char *id, bool instances)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct line *l = &s->lines[i];
		if ((l->verb == DEVICE || (instances && l->verb == INSTANCE)) && strcmp(l->id, id) == 0)
			return true;
	}
	return false;
}

/* resolves checks that what lines are about is in the file. */
static bool resolves(struct parser *p, const struct scenario *s)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct line *l = &s->lines[i];
		bool own = l->verb == DEVICE || l->verb == INSTANCE;
		bool any = l->verb == FAIL || l->verb == DELAY || l->verb == HANG;
		p->number = l->number;
		if (l->id[0] != '\0' && !own && !(any && strcmp(l->id, "*") == 0) && !declared(s, l->id, any))
			return fail(p, "no device \"%s\" in this scenario", l->id);
		if (l->device[0] != '\0' && !declared(s, l->device, l->verb == PROCESS))
			return fail(p, "no device \"%s\" in this scenario", l->device);
	}
	return true;
}

struct scenario *scenario_parse(const char *input, char *error, size_t size)
{
	struct parser p = {.error = error, .size = size};
	struct scenario *s = calloc(1, sizeof *s);
	char *copy = strdup(input);
	bool ok = s != NULL && copy != NULL;
	if (!ok)
		fail(&p, "out of memory");
	else {
		strcpy(s->version, "550.90.07");
		strcpy(s->procfs, "/proc");
		s->period = SECOND / 6;
		s->scan = 100 * MS;
	}
	for (char *next = copy, *line; ok && next != NULL;) {
		line = strsep(&next, "\n");
		p.number++;
		ok = parse_line(&p, s, line);
	}
	ok = ok && resolves(&p, s);
	free(copy);
	if (ok)
		return s;
	scenario_free(s);
	return NULL;
}

struct scenario *scenario_load(const char *path, char *error, size_t size)
{
	struct scenario *s = NULL;
	char detail[512];
	char *input = malloc(MAX_FILE);
	FILE *file = fopen(path, "re");
	if (file == NULL || input == NULL) {
		snprintf(error, size, "%s: %s", path, strerror(errno));
	} else {
		size_t n = fread(input, 1, MAX_FILE, file);
		if (ferror(file) || n == MAX_FILE || memchr(input, '\0', n) != NULL) {
			snprintf(error, size, "%s: unreadable, no text or larger than 4 MiB", path);
		} else {
			input[n] = '\0';
			s = scenario_parse(input, detail, sizeof detail);
			if (s == NULL)
				snprintf(error, size, "%s:%s", path, detail);
		}
	}
	if (file != NULL)
		fclose(file);
	free(input);
	return s;
}

void scenario_free(struct scenario *s)
{
	if (s != NULL)
		free(s->lines);
	free(s);
}

void scenario_begin(struct scenario *s, int64_t begin)
{
	s->start = begin;
	for (size_t i = 0; i < s->count; i++) {
		struct line *l = &s->lines[i];
		l->from = begin + l->at;
		if (l->at > FOREVER - begin)
			l->from = FOREVER;
		l->until = l->lasts > FOREVER - l->from ? FOREVER : l->from + l->lasts;
	}
}

bool on_duty(const struct line *process, int64_t t)
{
	return process->off == 0 || t % (process->duration + process->off) < process->duration;
}

int64_t edge_after(const struct line *process, int64_t t)
{
	if (process->off == 0)
		return FOREVER;
	int64_t cycle = process->duration + process->off, phase = t % cycle;
	return t - phase + (phase < process->duration ? process->duration : cycle);
}
