/* SPDX-License-Identifier: Apache-2.0 */
/* snap_cut.h -- where a names page of a snapshot ends. Only who writes pages asks; a reader does not care (FORMAT 8.4).
 * Invariant: the answer depends on the page's size and on directories next to it alone, so versions of a dataset cut
 * alike again soon behind a change. A directory that fills a page ends it, and stays as it is when one beside it
 * changes. */
#pragma once

#include <stdbool.h>

#include "common/snap.h"

enum {
	SNAP_CUT_MIN = 8 * 1024,   /* from here behind a directory that has as much, or where a path's hash chooses */
	SNAP_CUT_DIR = 128 * 1024, /* from here at any directory */
	SNAP_CUT_MAX = 512 * 1024, /* from here at any sample */
	SNAP_CUT_CHOSEN = 4,       /* one directory of so many */
};

struct snap_cut { /* zeroed at the start */
	uint8_t dir[SNAP_KEY_MAX]; /* of the key before */
	size_t dir_len, dir_at;    /* dir_at: the page's size where it began */
};
/* The next key (of field 0) and the size of the page so far, which is not empty. true: the key begins a page. */
bool snap_cut_before(const struct snap_cut *c, struct slice key, size_t size);
/* The key goes into a page that has so many bytes without it. */
void snap_cut_pass(struct snap_cut *c, struct slice key, size_t size);
