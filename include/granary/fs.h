/* SPDX-License-Identifier: Apache-2.0 */
/* fs.h -- what a filesystem asks of a bucket besides: directories by their ids, ids for files to come. Part of
 * granary.h, which includes it. */
#pragma once

#include "granary/granary.h"

#ifdef __cplusplus
extern "C" {
#endif

struct granary_dir_entry {
	const char *name;           /* one component */
	struct granary_stat stat;   /* without metadata */
	struct granary_inode inode;
};
struct granary_dir_page {
	uint32_t count;
	uint32_t more;              /* 1: the page does not reach the end */
	const char *next;           /* where the next page goes on */
	struct granary_dir_entry *entries;
};
/** A page of one directory, with all attributes, in the order of the store. A page is one moment; across pages a name
 * that is there throughout comes exactly once. A file that has a directory of its name beside it is left out.
 * @param dir_id  of the directory, wherever it is by now. @param after  NULL, or `next` of the page before. @param max
 * entries, 1..GRANARY_LIST_MAX; 0: GRANARY_LIST_MAX. @param page  one block, granary_free() it; NULL on error.
 * @return 0; -GRANARY_ESTALE (no such directory). Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_readdir(struct granary_client *client, uint64_t dir_id, const char *after,
	uint32_t max, struct granary_dir_page **page, const struct granary_call *call);

enum { GRANARY_IDS_MAX = 4096 };
/** Ids for files that this client is going to put (GRANARY_PUT_ID): no other object ever gets them. Each is for one
 * file, while the session lasts, and of the last four calls; else the put is refused with -GRANARY_ESTALE.
 * @param count  1..GRANARY_IDS_MAX. @param first  the first of as many consecutive ones.
 * @return 0 or an error. Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_ids(struct granary_client *client, uint32_t count, uint64_t *first,
	const struct granary_call *call);

#ifdef __cplusplus
}
#endif
