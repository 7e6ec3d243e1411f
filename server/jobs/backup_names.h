/* SPDX-License-Identifier: Apache-2.0 */
/* backup_names.h -- names of a backup's objects in a cold store (FORMAT 9.5); of backup_away.c and backup_fetch.c. */
#pragma once

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "tier/store.h"

#define AWAY_PREFIX "backup/"
#define AWAY_SERIES "series"
enum { AWAY_SERIES_LEN = 16 };

/* backup/SERIES/NAME; a name of the engine's may have capitals and `_`, which no store has to know. */
static inline int away_name(char out[COLD_NAME_MAX + 1], const char *series, const char *folder, const char *name)
{
	int n = snprintf(out, COLD_NAME_MAX + 1, AWAY_PREFIX "%s/%s%s", series, folder, name);

	if (n > COLD_NAME_MAX) return -GRANARY_ENAME;
	for (char *c = out; *c != '\0'; c++) *c = *c == '_' ? '-' : (char)tolower((unsigned char)*c);
	return 0;
}
