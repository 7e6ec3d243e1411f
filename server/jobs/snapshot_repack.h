/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_repack.h -- a snapshot gets packs of its own: what is copied before the transaction that changes its row. */
#pragma once

#include "jobs/snapshot_priv.h"

/* Copies the samples, pages and names of the snapshot of this row. m->manifest: the hash of the new manifest; out: the
 * new packs, each of which has a pin in RAM, also after an error. m->text says what failed. */
int snapshot_repack_build(
	struct snapshots *s, struct snapshot_making *m, const struct snapshot_row *row, struct build_result *out);
