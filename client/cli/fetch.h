/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.h -- many objects out of the store: into a local directory, or into another part of a store. */
#pragma once

#include "cli.h"

struct fetch_totals {
	_Atomic uint64_t files, bytes;
	_Atomic uint64_t same, same_bytes; /* there already */
	_Atomic uint64_t refused;          /* keys that no local name may have */
	_Atomic uint64_t special;          /* devices, pipes and sockets: left out */
	_Atomic uint64_t failed;
	_Atomic int first_code;
};
/* All of the catalog, whose keys begin with `prefix`, to below the local directory `dir`, or with dir == NULL to below
 * `to_prefix` in `to`. Returns an exit code after naming what failed. */
int fetch_run(struct remote *from, const struct catalog *c, const char *prefix, const char *dir,
	struct remote *to, const char *to_prefix, struct fetch_totals *totals);
/* One object to another key. */
int fetch_one(struct remote *from, const struct item *item, struct remote *to, const char *key);
