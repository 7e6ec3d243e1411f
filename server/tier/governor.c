/* SPDX-License-Identifier: Apache-2.0 */
/* governor.c -- see governor.h. A window is WINDOW_NS of one kind; its reads are added to what that kind had, of which
 * the older half of the weight goes whenever there is plenty. Above RAISE times the calm p99 the share of work shrinks
 * by a third at each window, below it grows by a twentieth. */
#include "tier/governor.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	BUCKETS = 256,           /* four of each doubling */
	READS_FEW = 4,           /* in a window: nobody is there */
	READS_JUDGE = 100,       /* a p99 of fewer is luck */
	READS_KEEP = 2000,
	SHARE_ONE = 65536, SHARE_MIN = SHARE_ONE / 32, SHARE_STEP = SHARE_ONE / 20,
	RAISE_PERCENT = 125,
};
#define WINDOW_NS UINT64_C(200000000)
#define CALM_NS   UINT64_C(100000000)   /* a deliberate pause */
#define CALM_EVERY_NS UINT64_C(4000000000)
#define GONE_NS   UINT64_C(1000000000)  /* since it last asked: it was at rest, not at work */

struct slot {
	_Alignas(64) _Atomic uint32_t counts[BUCKETS];
};
struct window {
	uint64_t counts[BUCKETS], reads;
};

struct governor {
	uint32_t before[BUCKETS];   /* of all slots, when the window began */
	struct window busy, calm;
	uint64_t began_ns, asked_ns, calm_ns; /* calm_ns: when the last calm window ended */
	uint64_t work_ns;           /* of the window */
	uint64_t paused_ns;         /* what was answered last */
	bool is_calm;
	_Atomic uint32_t share;
	_Atomic uint64_t busy_p99, calm_p99;
	struct slot slots[GOVERNOR_SLOTS];
};

struct governor *governor_new(void)
{
	struct governor *g = aligned_alloc(64, (sizeof(*g) + 63) & ~(size_t)63);

	if (g == NULL) return NULL;
	memset(g, 0, sizeof(*g));
	atomic_store(&g->share, SHARE_ONE);
	return g;
}

void governor_free(struct governor **g)
{
	free(*g);
	*g = NULL;
}

/* ---- counts ---- */

static uint32_t bucket_of(uint64_t ns)
{
	uint32_t log = ns < 4 ? 2 : 63 - (uint32_t)__builtin_clzll(ns);

	return log * 4 + (ns < 4 ? 0 : (uint32_t)(ns >> (log - 2) & 3));
}

static uint64_t bucket_end(uint32_t bucket)
{
	return (UINT64_C(1) << bucket / 4) + ((uint64_t)(bucket % 4 + 1) << (bucket / 4 - 2));
}

void governor_note(struct governor *g, uint32_t slot, uint64_t took_ns)
{
	_Atomic uint32_t *count;

	if (g == NULL) return;
	count = &g->slots[slot % GOVERNOR_SLOTS].counts[bucket_of(took_ns)];
	atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
}

static uint64_t p99(const struct window *w)
{
	uint64_t above = 0, part = w->reads / 100;

	if (w->reads < READS_JUDGE) return 0;
	for (uint32_t b = BUCKETS; b > 8; b--) {
		above += w->counts[b - 1];
		if (above > part) return bucket_end(b - 1);
	}
	return bucket_end(8);
}

/* Adds what came since the window began, to `to` unless it is NULL. How many reads. */
static uint64_t take(struct governor *g, struct window *to)
{
	uint64_t reads = 0;

	if (to != NULL && to->reads > READS_KEEP) {
		to->reads = 0;
		for (uint32_t b = 0; b < BUCKETS; b++) to->reads += to->counts[b] /= 2;
	}
	for (uint32_t b = 0; b < BUCKETS; b++) {
		uint32_t now = 0, came;

		for (uint32_t s = 0; s < GOVERNOR_SLOTS; s++)
			now += atomic_load_explicit(&g->slots[s].counts[b], memory_order_relaxed);
		came = now - g->before[b];
		g->before[b] = now;
		reads += came;
		if (to != NULL) to->counts[b] += came;
	}
	if (to != NULL) to->reads += reads;
	return reads;
}

/* ---- what follows ---- */

static void window_begin(struct governor *g, uint64_t now_ns)
{
	g->began_ns = now_ns;
	g->work_ns = 0;
}

static void judge(struct governor *g)
{
	uint64_t busy = p99(&g->busy), calm = p99(&g->calm);
	uint32_t share = atomic_load(&g->share);

	atomic_store(&g->busy_p99, busy);
	atomic_store(&g->calm_p99, calm);
	if (busy == 0 || calm == 0) return;
	if (busy * 100 > calm * RAISE_PERCENT)
		share -= share / 3;
	else
		share += SHARE_STEP;
	atomic_store(&g->share, share < SHARE_MIN ? SHARE_MIN : share > SHARE_ONE ? SHARE_ONE : share);
	/* What was measured under another share says little about this one. */
	for (uint32_t b = 0; b < BUCKETS; b++) g->busy.counts[b] /= 2;
	g->busy.reads = 0;
	for (uint32_t b = 0; b < BUCKETS; b++) g->busy.reads += g->busy.counts[b];
}

/* The work of this window was undisturbed, or there was none: both say how reads fare without. */
static void nobody_there(struct governor *g)
{
	atomic_store(&g->share, SHARE_ONE);
	memset(&g->busy, 0, sizeof(g->busy));
	memset(&g->calm, 0, sizeof(g->calm));
	atomic_store(&g->busy_p99, 0);
	atomic_store(&g->calm_p99, 0);
	g->calm_ns = 0;
}

static uint64_t pause_of(struct governor *g, uint64_t worked_ns)
{
	uint32_t share = atomic_load(&g->share);
	uint64_t pause = worked_ns * (SHARE_ONE - share) / share;

	return pause < GONE_NS / 2 ? pause : GONE_NS / 2;
}

static uint64_t calm_begin(struct governor *g, uint64_t now_ns)
{
	g->is_calm = true;
	window_begin(g, now_ns);
	return CALM_NS;
}

/* The end of a busy window, or of a calm one. */
static uint64_t window_end(struct governor *g, uint64_t now_ns, uint64_t worked_ns)
{
	bool was_calm = g->is_calm;
	uint64_t reads = take(g, was_calm ? &g->calm : &g->busy);

	g->is_calm = false;
	window_begin(g, now_ns);
	if (reads < READS_FEW) {
		nobody_there(g);
		return 0;
	}
	if (was_calm) g->calm_ns = now_ns;
	judge(g);
	if (!was_calm && (now_ns - g->calm_ns > CALM_EVERY_NS || g->calm.reads < READS_JUDGE))
		return calm_begin(g, now_ns);
	return was_calm ? 0 : pause_of(g, worked_ns);
}

uint64_t governor_pause(struct governor *g, uint64_t now_ns)
{
	uint64_t since = now_ns - g->asked_ns, worked = since > g->paused_ns ? since - g->paused_ns : 0, pause;

	if (g->asked_ns == 0 || worked > GONE_NS) {
		/* Nothing was done for long: how reads fared meanwhile is how they fare without work. */
		(void)take(g, g->asked_ns != 0 ? &g->calm : NULL);
		if (g->asked_ns != 0) g->calm_ns = now_ns;
		g->is_calm = false;
		window_begin(g, now_ns);
		g->asked_ns = now_ns;
		g->paused_ns = 0;
		return 0;
	}
	if (g->is_calm) {
		/* It ends with the pause; the piece of work behind it is a busy window's. */
		pause = window_end(g, now_ns, worked);
	} else {
		g->work_ns += worked;
		pause = now_ns - g->began_ns >= WINDOW_NS ? window_end(g, now_ns, worked) : pause_of(g, worked);
	}
	g->asked_ns = now_ns;
	g->paused_ns = pause;
	return pause;
}

void governor_get_info(struct governor *g, struct governor_info *out)
{
	*out = (struct governor_info){ .busy_p99_ns = atomic_load(&g->busy_p99),
		.calm_p99_ns = atomic_load(&g->calm_p99),
		.share_percent = (uint32_t)((uint64_t)atomic_load(&g->share) * 100 / SHARE_ONE) };
}
