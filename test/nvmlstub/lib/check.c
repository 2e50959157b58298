/* nvmlstub-check FILE: says what is wrong with a scenario, or prints it. */
#include "scenario.h"

#include <inttypes.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	char error[512];
	if (argc != 2) {
		fprintf(stderr, "usage: %s SCENARIO\n", argv[0]);
		return 2;
	}
	struct scenario *s = scenario_load(argv[1], error, sizeof error);
	if (s == NULL) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	if (s->has_start)
		printf("start %" PRId64 ".%09" PRId64 "\n", s->start / SECOND, s->start % SECOND);
	if (s->clock != 0)
		printf("clock %" PRId64 ".%09" PRId64 "\n", s->clock / SECOND, s->clock % SECOND);
	for (size_t i = 0; i < s->count; i++)
		line_print(&s->lines[i], stdout);
	scenario_free(s);
	return 0;
}
