/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_xattr.c -- extended attributes of a snapshot's files: where their bytes are. They never change, but for
 * user.granary.tier: "memory" where this program has the first of them, else "store". */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fuse/snapshot.h"

enum { VALUE_MAX = 96 };
static const char pack[] = "user.granary.pack", etag[] = "user.granary.etag", tier[] = "user.granary.tier";

/* A text for GETXATTR or LISTXATTR: its size when that is asked for. */
static int text_answer(struct request *r, const char *text, size_t len)
{
	const struct fuse_getxattr_in *in = r->arg;
	struct fuse_getxattr_out size = { .size = (uint32_t)len };

	if (in->size > 0 && in->size < len) return -ERANGE;
	const void *bytes = in->size > 0 ? (const void *)text : &size;
	r->out_len = in->size > 0 ? len : sizeof(size);
	if (r->out_len > r->out_cap) return -E2BIG;
	memcpy(r->out, bytes, r->out_len);
	return 0;
}

static bool is_name(const struct request *r, const char *name)
{
	return r->name_len == strlen(name) && memcmp(r->name, name, r->name_len) == 0;
}

int snapshot_getxattr(struct mount *m, struct request *r)
{
	struct granary_snapshot_row row;
	char value[VALUE_MAX];
	uint64_t id;
	uint32_t field;

	if (!is_name(r, pack) && !is_name(r, etag) && !is_name(r, tier)) return -ENODATA;
	if (!tree_row(&m->tree, r->node, &id, &field)) return -ENODATA; /* a directory */
	if (is_name(r, tier)) {
		const char *where = cache_has(m->cache, id * m->tree.fields + field, 0) ? "memory" : "store";
		return text_answer(r, where, strlen(where));
	}
	int err = granary_snapshot_row(m->tree.snapshot, id, field, &row);
	if (err < 0) return errno_of(err);
	int len = is_name(r, pack)
			  ? snprintf(value, sizeof(value), "%llx:%llu+%llu", (unsigned long long)row.pack,
				    (unsigned long long)row.offset, (unsigned long long)row.size)
			  : snprintf(value, sizeof(value), "%llx-%llx-%08x", (unsigned long long)row.pack,
				    (unsigned long long)row.offset, row.crc32c);
	return text_answer(r, value, (size_t)len);
}

int snapshot_listxattr(struct mount *m, struct request *r)
{
	char all[sizeof(pack) + sizeof(etag) + sizeof(tier)];
	uint64_t id;
	uint32_t field;

	if (!tree_row(&m->tree, r->node, &id, &field)) return text_answer(r, "", 0);
	memcpy(all, pack, sizeof(pack));
	memcpy(all + sizeof(pack), etag, sizeof(etag));
	memcpy(all + sizeof(pack) + sizeof(etag), tier, sizeof(tier));
	return text_answer(r, all, sizeof(all));
}
