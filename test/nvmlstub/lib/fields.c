/* The scenario language's table, its names, and how lines are written. */
#include "fields.h"
#include "api.h"
#include "scenario.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AT(f) offsetof(struct line, f)
#define TABLE(name, ...) static const struct field name[] = {__VA_ARGS__, {END, NULL, 0, false}}

static const struct field no_fields[] = {{END, NULL, 0, false}};
TABLE(text_field, {TEXT, NULL, AT(text), true});
TABLE(ns_field, {NS, NULL, AT(duration), true});
TABLE(mode_field, {MODE, NULL, AT(sampling), true});
TABLE(id_field, {ID, NULL, AT(id), true});
TABLE(number_fields, {ID, NULL, AT(id), true}, {NUMBER, NULL, AT(number_of), true});
TABLE(event_fields, {ID, NULL, AT(id), true}, {NUMBER, NULL, AT(number_of), true},
      {NUMBER, "gi", AT(gi), false}, {NUMBER, "ci", AT(ci), false});
TABLE(fail_fields, {FUNCTION, NULL, AT(word), true}, {ID, NULL, AT(id), true}, {CODE, NULL, AT(code), true});
TABLE(delay_fields, {FUNCTION, NULL, AT(word), true}, {ID, NULL, AT(id), true}, {NS, NULL, AT(duration), true});
TABLE(hang_fields, {FUNCTION, NULL, AT(word), true}, {ID, NULL, AT(id), true});
TABLE(device_fields, {ID, NULL, AT(id), true}, {TEXT, "name", AT(text), true}, {NUMBER, "minor", AT(minor), false},
      {WORD, "bus", AT(word), false}, {SIZE, "memory", AT(memory), true}, {NUMBER, "slices", AT(slices), false},
      {FLAG, "gpm", AT(gpm), false}, {FLAG, "energy", AT(energy), false}, {WATTS, "idle", AT(idle), false},
      {WATTS, "full", AT(full), false}, {FLAG, "credit-server", AT(credit_server), false});
TABLE(instance_fields, {ID, NULL, AT(id), true}, {ID, "device", AT(device), true}, {NUMBER, "gi", AT(gi), true},
      {NUMBER, "ci", AT(ci), false}, {WORD, "profile", AT(word), true}, {NUMBER, "profile-id", AT(profile_id), false},
      {PAIR, "placement", AT(place), true}, {NUMBER, "slices", AT(slices), true},
      {NUMBER, "compute", AT(compute), false}, {SIZE, "memory", AT(memory), true});
TABLE(process_fields, {NUMBER, "pid", AT(pid), false}, {TEXT, "match", AT(text), false},
      {ID, "device", AT(device), true}, {NUMBER, "sm", AT(sm), false}, {NS, "on", AT(duration), false},
      {NS, "off", AT(off), false}, {SIZE, "memory", AT(memory), false}, {KIND, "kind", AT(kind), false});
TABLE(sample_fields, {ID, NULL, AT(id), true}, {NUMBER, "pid", AT(pid), true}, {NUMBER, "sm", AT(sm), true},
      {NS, "ago", AT(off), false}, {NS, "ahead", AT(duration), false});

const struct verb_fields verbs[] = {
	[START] = {"start", no_fields}, /* its value is the parser's business */
	[CLOCK] = {"clock", no_fields},
	[DRIVER] = {"driver", text_field},
	[PERIOD] = {"period", ns_field},
	[SAMPLING] = {"sampling", mode_field},
	[EXCESS] = {"excess", no_fields},
	[PROCFS] = {"procfs", text_field},
	[SCAN] = {"scan", ns_field},
	[DEVICE] = {"device", device_fields},
	[MIG] = {"mig", id_field},
	[INSTANCE] = {"instance", instance_fields},
	[PROCESS] = {"process", process_fields},
	[SAMPLE] = {"sample", sample_fields},
	[COUNT] = {"count", number_fields},
	[FAIL] = {"error", fail_fields},
	[DELAY] = {"delay", delay_fields},
	[HANG] = {"hang", hang_fields},
	[LOST] = {"lost", id_field},
	[UNLOADED] = {"unloaded", no_fields},
	[XID] = {"xid", event_fields},
	[EVENT] = {"event", event_fields},
};

const struct unit durations[] = {{"h", 3600 * SECOND}, {"m", 60 * SECOND}, {"s", SECOND}, {"ms", MS}, {"us", 1000}, {"ns", 1}, {NULL, 0}};
const struct unit sizes[] = {{"TiB", INT64_C(1) << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {NULL, 0}};
const struct unit watts[] = {{"W", 1}, {NULL, 0}};
const struct unit unix_seconds[] = {{"", SECOND}, {NULL, 0}};

static const struct name kinds[] = {
	{"compute", COMPUTE}, {"graphics", GRAPHICS}, {"mps-client", MPS_CLIENT}, {"mps-server", MPS_SERVER}, {"hidden", HIDDEN}, {NULL, 0},
};
static const struct name modes[] = {{"exact", EXACT}, {"driver", RING}, {"raw", RAW}, {NULL, 0}};
static const struct name codes[] = {
#define CODE_NAME(name) {#name, NVML_ERROR_##name}
	CODE_NAME(UNINITIALIZED), CODE_NAME(INVALID_ARGUMENT), CODE_NAME(NOT_SUPPORTED), CODE_NAME(NO_PERMISSION),
	CODE_NAME(NOT_FOUND), CODE_NAME(INSUFFICIENT_SIZE), CODE_NAME(DRIVER_NOT_LOADED), CODE_NAME(TIMEOUT),
	CODE_NAME(LIBRARY_NOT_FOUND), CODE_NAME(FUNCTION_NOT_FOUND), CODE_NAME(GPU_IS_LOST), CODE_NAME(RESET_REQUIRED),
	CODE_NAME(OPERATING_SYSTEM), CODE_NAME(LIB_RM_VERSION_MISMATCH), CODE_NAME(IN_USE), CODE_NAME(MEMORY),
	CODE_NAME(NO_DATA), CODE_NAME(ARGUMENT_VERSION_MISMATCH), CODE_NAME(NOT_READY), CODE_NAME(UNKNOWN), {NULL, 0},
#undef CODE_NAME
};

const struct name *field_names(enum type t)
{
	return t == KIND ? kinds : t == MODE ? modes : codes;
}

const char *type_name(enum type t)
{
	return t == KIND ? "kind" : t == MODE ? "sampling" : "error";
}

static const char *name_of(const struct name *names, int value)
{
	for (; names->name != NULL; names++)
		if (names->value == value)
			return names->name;
	return "?";
}

const char *code_name(int code)
{
	return code == NVML_SUCCESS ? "SUCCESS" : name_of(codes, code);
}

const char *call_name(const char *symbol)
{
	return strncmp(symbol, "nvml", 4) == 0 ? symbol + 4 : symbol;
}

/* versionless is the length of a call's name without _v2 and the like. */
static size_t versionless(const char *s)
{
	size_t n = strlen(s);
	return n > 3 && s[n - 3] == '_' && s[n - 2] == 'v' ? n - 3 : n;
}

bool function_matches(const char *function, const char *call)
{
	if (strcmp(function, "*") == 0)
		return true;
	function = call_name(function);
	size_t n = versionless(function), m = versionless(call);
	if (n == m && memcmp(function, call, n) == 0)
		return true;
	return m == n + 6 && memcmp(call, "Device", 6) == 0 && memcmp(call + 6, function, n) == 0;
}

static void print_scaled(FILE *to, int64_t v, const struct unit *units)
{
	while (units->factor > 1 && (v == 0 || v % units->factor != 0))
		units++;
	fprintf(to, "%" PRId64 "%s", v / units->factor, units->name);
}

static void print_text(FILE *to, const char *s)
{
	fputc('"', to);
	for (; *s != '\0'; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', to);
		fputc(*s, to);
	}
	fputc('"', to);
}

static void print_value(FILE *to, const struct line *l, const struct field *f)
{
	const char *at = (const char *)l + f->offset;
	const uint32_t *u = (const void *)at;
	switch (f->type) {
	case END: case FLAG:
		break;
	case ID: case WORD: case FUNCTION:
		fputs(at, to);
		break;
	case TEXT:
		print_text(to, at);
		break;
	case NUMBER:
		fprintf(to, "%" PRIu32, *u);
		break;
	case KIND: case CODE: case MODE:
		fputs(name_of(field_names(f->type), (int)*u), to);
		break;
	case WATTS:
		fprintf(to, "%" PRIu32 "W", *u);
		break;
	case NS:
		print_scaled(to, *(const int64_t *)(const void *)at, durations);
		break;
	case SIZE:
		if (*(const uint64_t *)(const void *)at == UINT64_MAX)
			fputs("unavailable", to);
		else
			print_scaled(to, *(const int64_t *)(const void *)at, sizes);
		break;
	case PAIR:
		fprintf(to, "%" PRIu32 ":%" PRIu32, u[0], u[1]);
		break;
	}
}

void line_print(const struct line *l, void *file)
{
	FILE *to = file;
	if (l->at != 0) {
		fputs("at ", to);
		print_scaled(to, l->at, durations);
		fputc(' ', to);
	}
	if (l->lasts != FOREVER) {
		fputs("for ", to);
		print_scaled(to, l->lasts, durations);
		fputc(' ', to);
	}
	fputs(verbs[l->verb].name, to);
	for (const struct field *f = verbs[l->verb].fields; f->type != END; f++) {
		if (!(l->given & 1U << (f - verbs[l->verb].fields)))
			continue;
		if (f->key != NULL)
			fprintf(to, " %s", f->key);
		if (f->type != FLAG) {
			fputc(' ', to);
			print_value(to, l, f);
		}
	}
	fputc('\n', to);
}
