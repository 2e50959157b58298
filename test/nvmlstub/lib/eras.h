/* Eras: from when to when which scenario held. The past is kept for as long as
 * the driver's rings reach back, so that a changed scenario does not change
 * what has been. */
#ifndef NVMLSTUB_ERAS_H
#define NVMLSTUB_ERAS_H

#include "world.h"

#define KEEP (120 * SECOND)

/* era_begin makes s the scenario from a time on; it is the world's from here. */
void era_begin(struct scenario *s, int64_t from);
void advance_all(int64_t now);
int64_t world_observed(void);

#endif
