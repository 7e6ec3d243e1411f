/* SPDX-License-Identifier: Apache-2.0 */
/* slow.c -- a ring of slow requests.
 *
 * Invariants: (1) a request that is not slow takes no lock; (2) an entry holds no pointer into the request, only into
 * static tables of kinds; (3) names of objects are not kept. */
#include "req/slow.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "req/kind.h"

enum { RING_SIZE = 256 };

struct slow_entry {
	const struct req_kind *kind;
	uint64_t ended_ns, took_ns, bytes_in;
	int err;
	uint32_t mark_count;
	struct slow_mark marks[SLOW_MARKS];
	char key[64];
};

struct slow_ring {
	_Atomic uint64_t limit_ns;
	pthread_mutex_t lock;
	uint64_t count; /* under lock: ever noted; the newest is at (count - 1) % RING_SIZE */
	struct slow_entry entries[RING_SIZE];
};

struct slow_ring *slow_ring_new(void)
{
	struct slow_ring *ring = calloc(1, sizeof(*ring));

	if (ring != NULL) pthread_mutex_init(&ring->lock, NULL);
	return ring;
}

void slow_ring_free(struct slow_ring **ring)
{
	if (*ring != NULL) pthread_mutex_destroy(&(*ring)->lock);
	free(*ring);
	*ring = NULL;
}

void slow_ring_set_limit(struct slow_ring *ring, uint64_t limit_ns)
{
	atomic_store_explicit(&ring->limit_ns, limit_ns, memory_order_relaxed);
}

void slow_ring_note(struct slow_ring *ring, const struct req *r, uint64_t took_ns)
{
	uint64_t limit = atomic_load_explicit(&ring->limit_ns, memory_order_relaxed);
	struct slow_entry *e;

	if (limit == 0 || took_ns < limit) return;
	pthread_mutex_lock(&ring->lock);
	e = &ring->entries[ring->count++ % RING_SIZE];
	*e = (struct slow_entry){ .kind = r->kind,
		.ended_ns = clock_mono_ns(),
		.took_ns = took_ns,
		.bytes_in = (uint64_t)r->frame.meta_len + r->frame.data_len,
		.err = r->err,
		.mark_count = r->mark_count };
	memcpy(e->marks, r->marks, sizeof(e->marks));
	snprintf(e->key, sizeof(e->key), "%.63s", r->peer->key->id);
	pthread_mutex_unlock(&ring->lock);
}

static size_t entry_text(const struct slow_entry *e, uint64_t now_ns, char *buf, size_t cap)
{
	int n = snprintf(buf, cap, "age_s=%.1f ms=%.1f op=%s key=%s bytes_in=%" PRIu64 " error=%s",
		(double)(now_ns - e->ended_ns) / 1e9, (double)e->took_ns / 1e6, e->kind->name, e->key, e->bytes_in,
		e->err == 0 ? "none" : error_name(e->err));
	size_t len = n < 0 || (size_t)n >= cap ? cap : (size_t)n;

	for (uint32_t i = 0; i < e->mark_count && len < cap; i++) {
		uint32_t step = e->marks[i].step;
		n = snprintf(buf + len, cap - len, " at_%s=%.1f",
			step < e->kind->step_count ? e->kind->steps[step].name : "end", e->marks[i].wait_us / 1e3);
		len = n < 0 || (size_t)n >= cap - len ? cap : len + (size_t)n;
	}
	if (len + 1 >= cap) return 0; /* whole lines only */
	buf[len++] = '\n';
	buf[len] = '\0';
	return len;
}

size_t slow_ring_text(struct slow_ring *ring, char *buf, size_t cap)
{
	uint64_t now_ns = clock_mono_ns();
	size_t at = 0;

	if (cap > 0) buf[0] = '\0';
	pthread_mutex_lock(&ring->lock);
	for (uint64_t i = 0; i < ring->count && i < RING_SIZE; i++) {
		size_t len = entry_text(&ring->entries[(ring->count - 1 - i) % RING_SIZE], now_ns, buf + at, cap - at);
		if (len == 0) break;
		at += len;
	}
	pthread_mutex_unlock(&ring->lock);
	if (at < cap) buf[at] = '\0';
	return at;
}
