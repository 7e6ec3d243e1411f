/* SPDX-License-Identifier: Apache-2.0 */
/* snap_cut.c -- see snap_cut.h. */
#include "common/snap_cut.h"

#include <string.h>

#include "common/name.h"

static bool is_of(const struct snap_cut *c, struct slice dir)
{
	return dir.len == c->dir_len && (dir.len == 0 || memcmp(dir.p, c->dir, dir.len) == 0);
}

bool snap_cut_before(const struct snap_cut *c, struct slice key, size_t size)
{
	struct slice dir, leaf;

	if (size < SNAP_CUT_MIN || size >= SNAP_CUT_MAX)
		return size >= SNAP_CUT_MAX;
	key_split(key, &dir, &leaf);
	if (is_of(c, dir))
		return false;
	return size >= SNAP_CUT_DIR || size - c->dir_at >= SNAP_CUT_MIN ||
	       hash_content(dir.p, dir.len).lo % SNAP_CUT_CHOSEN == 0;
}

void snap_cut_pass(struct snap_cut *c, struct slice key, size_t size)
{
	struct slice dir, leaf;

	key_split(key, &dir, &leaf);
	if (size < c->dir_at) /* a new page, perhaps in the middle of a directory */
		c->dir_at = size;
	if (is_of(c, dir))
		return;
	memcpy(c->dir, dir.p, dir.len);
	c->dir_len = dir.len;
	c->dir_at = size;
}
