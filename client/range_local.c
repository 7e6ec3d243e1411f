/* SPDX-License-Identifier: Apache-2.0 */
/* range_local.c -- wanted ranges of packs whose descriptors this process holds (local.h): read and verified in the
 * thread that asks for them, without a word to the server, or by threads that wait for the disk (local_cold.c). What is
 * not in the page cache, or has a wrong checksum, is left for RANGE.
 *
 * A want is done only when all its units are good. */
#include <stdlib.h>

#include "range.h"

enum { IOV_MAX_USED = 64, RUN_MAX = 256 * 1024 }; /* of one call: verified while it is in the CPU's cache */

struct run { /* units of a want that one call reads, with what lies between them */
	struct iovec iov[2 * IOV_MAX_USED];
	int count;
	uint32_t from, len;  /* in the pack */
	uint32_t first, end; /* units */
};

static void run_add(struct run *r, uint8_t *to, uint32_t len)
{
	r->iov[r->count++] = (struct iovec){ to, len };
	r->len += len;
}

/* From unit `at` on; the bytes of a gap go where the want has them, else nowhere. */
static void run_make(const struct range_plan *p, const struct range_want *w, uint32_t at, struct run *r,
	uint8_t *nowhere)
{
	const struct range_unit *u = &p->units[w->first + at];

	*r = (struct run){ .from = u->offset, .first = at, .end = at };
	for (; r->end < w->count && r->end - at < IOV_MAX_USED; r->end++) {
		u = &p->units[w->first + r->end];
		uint32_t gap = u->offset - (r->from + r->len);
		if (r->len > 0 && r->len + gap + u->len > RUN_MAX)
			break;
		if (gap > 0)
			run_add(r, w->base ? w->base + (u->offset - gap - w->offset) : nowhere, gap);
		run_add(r, u->dst, u->len);
	}
}

static bool run_verify(struct range_plan *p, struct granary_client *c, const struct range_want *w, const struct run *r,
	struct local_file *f)
{
	bool good = true;

	for (uint32_t i = r->first; i < r->end; i++) {
		struct range_unit *u = &p->units[w->first + i];
		if (crc32c(0, u->dst, u->len) == u->crc)
			continue;
		atomic_fetch_add_explicit(&c->counters.crc_errors, 1, memory_order_relaxed);
		local_bad(f, u->offset, u->len);
		good = false;
	}
	return good;
}

static bool want_read(struct range_plan *p, struct granary_client *c, const struct range_want *w, struct local_file *f,
	bool waits)
{
	uint8_t nowhere[RANGE_GAP_MAX];
	struct run r;

	for (uint32_t i = 0; i < w->count; i++)
		if (p->units[w->first + i].unsummed)
			return false; /* nothing here could tell whether they are right */
	for (uint32_t at = 0; at < w->count; at = r.end) {
		run_make(p, w, at, &r, nowhere);
		if (waits ? !local_read_cold(f, r.iov, r.count, r.from) : !local_read(c, f, r.iov, r.count, r.from))
			return false;
		if (!run_verify(p, c, w, &r, f)) {
			p->is_suspect = true;
			return false;
		}
	}
	atomic_fetch_add_explicit(&c->counters.local_reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->counters.local_bytes, w->length, memory_order_relaxed);
	return true;
}

static uint32_t wants_read(struct range_plan *p, struct granary_client *c, bool waits, bool warms)
{
	struct local_file *f = NULL;
	uint64_t pack = 0;
	uint32_t left = 0;

	for (uint32_t i = 0; i < p->wants_count; i++) {
		struct range_want *w = &p->wants[i];
		if (w->done)
			continue;
		if (!f || w->pack != pack) {
			local_put(c, f);
			f = waits ? local_get_cold(c, w->pack) : local_get(c, w->pack, warms ? w->length : 0);
			pack = w->pack;
		}
		w->kept = w->done = f && want_read(p, c, w, f, waits);
		left += !w->done;
		for (uint32_t u = 0; w->done && u < w->count; u++)
			p->units[w->first + u].bad = false;
	}
	local_put(c, f);
	return left;
}

uint32_t range_local(struct range_plan *p, struct granary_client *c, bool warms)
{
	return wants_read(p, c, false, warms);
}

uint32_t range_cold(struct range_plan *p, struct granary_client *c)
{
	return wants_read(p, c, true, false);
}
