/* The scenario language as a table: what each verb may say. */
#ifndef NVMLSTUB_FIELDS_H
#define NVMLSTUB_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum type { END, FLAG, ID, WORD, TEXT, FUNCTION, NUMBER, KIND, CODE, MODE, WATTS, NS, SIZE, PAIR };

struct field {
	enum type type;
	const char *key; /* NULL: by its place, and required */
	size_t offset;   /* in struct line */
	bool required;
};

struct verb_fields {
	const char *name;
	const struct field *fields;
};

struct unit {
	const char *name;
	int64_t factor;
};

struct name {
	const char *name;
	int value;
};

extern const struct verb_fields verbs[];
/* Units from the largest; the last of each has a factor of 1. */
extern const struct unit durations[], sizes[], watts[], unix_seconds[];

const struct name *field_names(enum type t);
const char *type_name(enum type t);
/* call_name is a symbol without "nvml"; the version is kept. */
const char *call_name(const char *symbol);

#endif
