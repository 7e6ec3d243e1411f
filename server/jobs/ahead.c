/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.c -- see ahead.h: who consumes what, when that needs which packs, and the orders that follow.
 *
 * A turn:  consumers -> orders (those of one order are one) -> uses of packs by time -> choice -> tasks of the mover
 *
 * Invariants: (1) the table of consumers is under `lock`, all else is the thread's, or whoever calls ahead_turn(); (2)
 * one order to the mover at a time: the next choice sees what came of it; (3) where a consumer is between two reports
 * is reckoned from its pace: it may be late, a use that was missed costs a read of the cold copy. */
#include "jobs/ahead.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/snap.h"
#include "jobs/move.h"
#include "jobs/snapshot.h"
#include "meta/ids.h"
#include "meta/snapshot.h"
#include "tier/drives.h"
#include "tier/heat.h"
#include "tier/packs.h"
#include "tier/stores.h"

enum { CONSUMERS_MAX = 4096, ORDERS_MAX = 64, COMES_MAX = 4, UNTIL_PERCENT = 80, WANTED_A_TURN = 64, LIST_MAX = 256,
	AHEAD_NICE = 10, TURN_S = 1, IDLE_TURNS = 10, MANIFEST_MAX = 1 << 30 };
#define SILENT_NS UINT64_C(150000000000) /* missed two reports */
#define EPOCH_S   3600.0                 /* as long as an epoch is taken to last before its pace is known */

struct consumer {
	struct hash128 key;
	uint64_t bucket, position, of, elapsed_ns, seen_ns;
	double per_s; /* positions */
	struct token token;
	char name[SNAPSHOT_NAME_MAX + 1];
};

/* What several consumers go through together. */
struct known_order {
	struct hash128 key;
	struct consumer at;       /* of the one that is behind the others */
	double per_s;
	struct order order;
	uint32_t pages;
	uint64_t *starts, *packs; /* of each page; starts has one more */
	double *bytes;            /* a sample, of each page */
	struct page_use *uses;
	uint64_t used_at;         /* position of `uses`; UINT64_MAX: never */
	uint64_t used_ns, cost_ns;
	bool in_use;
};

struct ahead {
	struct ahead_options o;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool has_thread, stop, woken;
	struct consumer *consumers;
	uint32_t count;
	uint64_t *needed;         /* under lock: ascending */
	uint32_t needed_count;
	/* the turn's */
	struct known_order orders[ORDERS_MAX];
	struct ahead_pack *packs; /* ascending */
	uint32_t packs_count, packs_cap;
	uint64_t wanted[4 * WANTED_A_TURN];
	uint32_t wanted_count, idle_turns;
	uint64_t tasks[2];        /* that were begun last: what goes, what comes; 0: none */
	_Atomic uint32_t until_percent;
	_Atomic uint64_t stat_orders, stat_packs, stat_fetched, stat_let_go;
};

/* ---- consumers ---- */

static bool is_same(struct hash128 x, struct hash128 y)
{
	return x.lo == y.lo && x.hi == y.hi;
}

static struct hash128 consumer_key(const struct ahead_report *r)
{
	uint8_t buf[3 * 256 + 16];
	struct wr w = wr_of(buf, sizeof(buf));

	wr_u64(&w, r->bucket);
	wr_u32(&w, r->rank);
	wr_bytes16(&w, r->name);
	wr_bytes16(&w, r->job);
	wr_bytes16(&w, r->host);
	return hash_content(buf, wr_len(&w));
}

static struct consumer *consumer_find(struct ahead *a, struct hash128 key)
{
	for (uint32_t i = 0; i < a->count; i++)
		if (is_same(a->consumers[i].key, key)) return &a->consumers[i];
	return NULL;
}

static void consumer_note(struct consumer *c, const struct ahead_report *r, uint64_t now)
{
	bool again = c->seen_ns != 0 && r->elapsed_ns > c->elapsed_ns && r->position > c->position;
	double s = (double)(r->elapsed_ns - (again ? c->elapsed_ns : 0)) / 1e9;

	if (again) c->per_s = (double)(r->position - c->position) / s;
	c->bucket = r->bucket;
	c->position = r->position;
	c->of = r->of;
	c->elapsed_ns = r->elapsed_ns;
	c->seen_ns = now;
	c->token = r->token;
	memcpy(c->name, r->name.p, r->name.len);
	c->name[r->name.len] = '\0';
}

void ahead_report(struct ahead *a, const struct ahead_report *r)
{
	struct hash128 key = consumer_key(r);
	struct consumer *c;

	if (r->name.len > SNAPSHOT_NAME_MAX || r->token.of_recipe || r->of == 0) return;
	pthread_mutex_lock(&a->lock);
	c = consumer_find(a, key);
	if (r->ended) {
		if (c != NULL) *c = a->consumers[--a->count];
	} else {
		if (c == NULL && a->count < CONSUMERS_MAX) {
			c = &a->consumers[a->count++];
			*c = (struct consumer){ .key = key };
			a->woken = true;
			pthread_cond_signal(&a->wake);
		}
		if (c != NULL) consumer_note(c, r, clock_mono_ns());
	}
	pthread_mutex_unlock(&a->lock);
}

/* ---- orders ---- */

static struct hash128 order_key_of(const struct consumer *c)
{
	struct token t = c->token;
	uint8_t buf[TOKEN_SIZE];

	t.position = 0;
	return token_encode(&t, buf, NULL, 0) == 0 ? hash_content(buf, sizeof(buf)) : (struct hash128){ 0, 0 };
}

static void order_forget(struct known_order *o)
{
	free(o->starts);
	free(o->packs);
	free(o->bytes);
	free(o->uses);
	*o = (struct known_order){ .in_use = false };
}

static struct known_order *order_of(struct ahead *a, struct hash128 key)
{
	struct known_order *empty = NULL;

	for (uint32_t i = 0; i < ORDERS_MAX; i++) {
		if (a->orders[i].starts != NULL && is_same(a->orders[i].key, key)) return &a->orders[i];
		if (a->orders[i].starts == NULL && !a->orders[i].in_use && empty == NULL) empty = &a->orders[i];
		if (a->orders[i].in_use && is_same(a->orders[i].key, key)) return &a->orders[i];
	}
	if (empty != NULL) empty->key = key;
	return empty;
}

static uint64_t position_now(const struct consumer *c, uint64_t now)
{
	double on = c->per_s * (double)(now - c->seen_ns) / 1e9;

	return (double)(c->of - c->position) > on ? c->position + (uint64_t)on : c->of;
}

/* Of each order where it is, from those who go through it; those that nobody does are forgotten. */
static void orders_gather(struct ahead *a, uint64_t now)
{
	for (uint32_t i = 0; i < ORDERS_MAX; i++) a->orders[i].in_use = false;
	pthread_mutex_lock(&a->lock);
	for (uint32_t i = 0; i < a->count;) {
		struct consumer *c = &a->consumers[i];
		struct known_order *o;
		uint64_t at;

		if (now - c->seen_ns > SILENT_NS) {
			*c = a->consumers[--a->count];
			continue;
		}
		i++;
		o = order_of(a, order_key_of(c));
		if (o == NULL) continue;
		at = position_now(c, now);
		if (!o->in_use || at < o->at.position) {
			o->at = *c;
			o->at.position = at;
		}
		o->per_s = o->in_use && o->per_s > c->per_s ? o->per_s : c->per_s;
		o->in_use = true;
	}
	pthread_mutex_unlock(&a->lock);
	for (uint32_t i = 0; i < ORDERS_MAX; i++)
		if (!a->orders[i].in_use) order_forget(&a->orders[i]);
}

static int manifest_read(struct ahead *a, const struct consumer *c, uint8_t **bytes, size_t *len)
{
	struct snapshot_open *open;
	uint64_t size = 0;
	int64_t n;
	int err = snapshot_ref(a->o.snapshots, c->bucket, slice_str(c->name), &open);

	if (err < 0) return err;
	n = snapshot_read_manifest(a->o.snapshots, open->manifest, 0, NULL, 0, &size);
	*bytes = n >= 0 && size > 0 && size <= MANIFEST_MAX ? malloc(size) : NULL;
	if (*bytes == NULL) err = n < 0 ? (int)n : -GRANARY_ENOMEM;
	for (*len = 0; err == 0 && *len < size; *len += (size_t)n) {
		n = snapshot_read_manifest(a->o.snapshots, open->manifest, *len, *bytes + *len, size - *len, &size);
		if (n <= 0) err = n < 0 ? (int)n : -GRANARY_ECORRUPT;
		if (err < 0) break;
	}
	snapshot_unref(a->o.snapshots, &open);
	if (err < 0) free(*bytes);
	return err;
}

static int pages_take(struct known_order *o, const struct snap_manifest *m)
{
	uint64_t at = 0;

	o->pages = m->page_count;
	o->starts = calloc((size_t)o->pages + 1, sizeof(*o->starts));
	o->packs = calloc((size_t)o->pages + 1, sizeof(*o->packs));
	o->bytes = calloc((size_t)o->pages + 1, sizeof(*o->bytes));
	o->uses = calloc((size_t)o->pages + 1, sizeof(*o->uses));
	if (o->starts == NULL || o->packs == NULL || o->bytes == NULL || o->uses == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < o->pages; i++) {
		const struct snap_page_ref *p = &m->pages[i];

		o->starts[i] = at;
		o->packs[i] = p->pack;
		o->bytes[i] = p->samples > 0 ? (double)p->bytes / p->samples : 0;
		at += p->samples;
	}
	o->starts[o->pages] = at;
	return 0;
}

/* Its pages, the first time. An order that is not the snapshot's is nobody's. */
static int order_learn(struct ahead *a, struct known_order *o)
{
	struct snap_manifest m;
	struct order_spec spec;
	uint8_t *bytes;
	size_t len;
	int err = manifest_read(a, &o->at, &bytes, &len);

	if (err < 0) return err;
	err = snap_manifest_decode(bytes, len, &m);
	if (err == 0) {
		spec = token_order(&o->at.token, m.samples);
		err = m.samples == o->at.of ? order_init(&o->order, &spec, NULL, 0) : -GRANARY_EINVAL;
		if (err == 0) err = pages_take(o, &m);
		snap_manifest_release(&m);
	}
	free(bytes);
	o->used_at = UINT64_MAX;
	return err;
}

static void order_uses(struct known_order *o)
{
	uint64_t now = clock_mono_ns();

	/* As long ago as twenty times what it takes. */
	if (o->used_at != UINT64_MAX && (o->used_at == o->at.position || now - o->used_ns < 20 * o->cost_ns)) return;
	ahead_order_uses(&o->order, o->at.position, o->starts, o->pages, o->uses);
	o->used_at = o->at.position;
	o->used_ns = clock_mono_ns();
	o->cost_ns = o->used_ns - now;
}

/* ---- packs ---- */

static struct ahead_pack *pack_find(struct ahead *a, uint64_t id)
{
	uint32_t lo = 0, hi = a->packs_count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (a->packs[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < a->packs_count && a->packs[lo].id == id ? &a->packs[lo] : NULL;
}

static int pack_add(struct ahead *a, const struct pack_info *info, uint64_t now)
{
	struct ahead_pack *p;
	struct pack_heat heat = { .last_read_ns = 0 };

	if (a->packs_count == a->packs_cap) {
		uint32_t cap = a->packs_cap > 0 ? 2 * a->packs_cap : 256;
		struct ahead_pack *wide = realloc(a->packs, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		a->packs = wide;
		a->packs_cap = cap;
	}
	if (info->brought && a->o.heat != NULL) heat_of(a->o.heat, info->id, &heat);
	p = &a->packs[a->packs_count++];
	*p = (struct ahead_pack){ .id = info->id, .size = info->file_size, .next_s = INFINITY, .last_s = INFINITY,
		.idle_s = heat.last_read_ns < now ? (double)(now - heat.last_read_ns) / 1e9 : 0,
		.hot = info->drive != 0, .cold = info->store != 0, .brought = info->brought };
	return 0;
}

/* Those that have a cold copy: the others neither come nor go. */
static int packs_gather(struct ahead *a)
{
	uint64_t after = 0, now = a->o.clock != NULL ? store_clock_now(a->o.clock) : 0;
	struct pack_info infos[LIST_MAX];
	int err = 0;
	uint32_t n;

	a->packs_count = 0;
	do {
		n = packs_list(a->o.packs, after, infos, LIST_MAX);
		for (uint32_t i = 0; err == 0 && i < n; i++) {
			after = infos[i].id;
			if (infos[i].store != 0 && infos[i].state == PACK_SEALED) err = pack_add(a, &infos[i], now);
		}
	} while (err == 0 && n == LIST_MAX);
	return err;
}

static void uses_join(struct ahead *a, const struct known_order *o)
{
	double per_s = o->per_s > 0 ? o->per_s : (double)o->order.spec.samples / EPOCH_S;

	for (uint32_t i = 0; i < o->pages; i++) {
		const struct page_use *u = &o->uses[i];
		struct ahead_pack *p = u->first != UINT64_MAX ? pack_find(a, o->packs[i]) : NULL;
		double next, last;

		if (p == NULL) continue;
		next = u->first > o->at.position ? (double)(u->first - o->at.position) / per_s : 0;
		last = u->last > o->at.position ? (double)(u->last - o->at.position) / per_s : 0;
		if (p->next_s == INFINITY) p->last_s = 0;
		if (next < p->next_s) p->next_s = next;
		if (last > p->last_s) p->last_s = last;
		p->left += (uint64_t)((double)u->left * o->bytes[i]);
	}
}

static void wanted_take(struct ahead *a)
{
	uint32_t free_count = sizeof(a->wanted) / sizeof(a->wanted[0]) - a->wanted_count;

	if (free_count > WANTED_A_TURN) free_count = WANTED_A_TURN;
	if (a->o.stores != NULL)
		a->wanted_count += stores_take_wanted(a->o.stores, a->wanted + a->wanted_count, free_count);
}

/* What reads asked for stays asked for until it was there once. */
static void wanted_join(struct ahead *a)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < a->wanted_count; i++) {
		struct ahead_pack *p = pack_find(a, a->wanted[i]);

		if (p == NULL || p->hot) continue;
		p->wanted = true;
		a->wanted[kept++] = a->wanted[i];
	}
	a->wanted_count = kept;
}

static void needed_publish(struct ahead *a)
{
	uint64_t *ids = malloc(((size_t)a->packs_count + 1) * sizeof(*ids)), *old;
	uint32_t n = 0;

	for (uint32_t i = 0; ids != NULL && i < a->packs_count; i++)
		if (a->packs[i].next_s < INFINITY) ids[n++] = a->packs[i].id;
	pthread_mutex_lock(&a->lock);
	old = a->needed;
	a->needed = ids;
	a->needed_count = n;
	pthread_mutex_unlock(&a->lock);
	free(old);
	atomic_store(&a->stat_packs, n);
}

bool ahead_needs(struct ahead *a, uint64_t pack)
{
	uint32_t lo = 0, hi;
	bool is;

	if (a == NULL) return false;
	pthread_mutex_lock(&a->lock);
	for (hi = a->needed_count; lo < hi;) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (a->needed[mid] < pack)
			lo = mid + 1;
		else
			hi = mid;
	}
	is = lo < a->needed_count && a->needed[lo] == pack;
	pthread_mutex_unlock(&a->lock);
	return is;
}

/* ---- orders to the mover ---- */

void ahead_set_until(struct ahead *a, uint32_t percent)
{
	atomic_store(&a->until_percent, percent);
}

static int64_t room(struct ahead *a)
{
	uint32_t percent = atomic_load(&a->until_percent);
	uint64_t total, used;

	if (percent == 0 || percent > UNTIL_PERCENT) percent = UNTIL_PERCENT;
	drives_use(packs_drives(a->o.packs), &total, &used);
	return (int64_t)(total / 100 * percent) - (int64_t)used;
}

/* What was ordered last is not through. */
static bool is_at_work(struct ahead *a)
{
	struct move_progress p;
	bool works = false;

	for (int i = 0; i < 2; i++) {
		if (a->tasks[i] == 0) continue;
		if (moves_get(a->o.moves, a->tasks[i], &p) == 0 && p.state < MOVE_DONE) {
			/* Others took the room: what comes is chosen anew, as it is now. */
			if (p.state == MOVE_PAUSED && p.err == -GRANARY_ENOSPACE)
				(void)moves_cancel(a->o.moves, a->tasks[i]);
			works = true;
			continue;
		}
		a->tasks[i] = 0;
	}
	return works;
}

static int order_begin(struct ahead *a, enum ahead_verdict verdict, uint8_t kind, uint64_t *task)
{
	struct move_order order = { .kind = kind, .origin = MOVES_AHEAD };
	uint64_t *ids = malloc(((size_t)a->packs_count + 1) * sizeof(*ids));
	uint32_t n = 0;
	int err = ids != NULL ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < a->packs_count && n < MOVE_PACKS_MAX; i++)
		if (a->packs[i].verdict == verdict) ids[n++] = a->packs[i].id;
	if (err == 0 && n > 0) err = moves_start(a->o.moves, &order, ids, n, task);
	free(ids);
	if (err == 0) atomic_fetch_add(verdict == AHEAD_COMES ? &a->stat_fetched : &a->stat_let_go, n);
	return err;
}

int ahead_turn(struct ahead *a)
{
	uint64_t now = clock_mono_ns();
	uint32_t orders = 0;
	int err, learnt;

	wanted_take(a);
	orders_gather(a, now);
	if (a->count == 0 && a->wanted_count == 0 && ++a->idle_turns % IDLE_TURNS != 0) return 0;
	err = packs_gather(a);
	if (err < 0) return err;
	for (uint32_t i = 0; i < ORDERS_MAX; i++) {
		struct known_order *o = &a->orders[i];

		if (!o->in_use) continue;
		learnt = o->starts != NULL ? 0 : order_learn(a, o);
		if (learnt < 0) { /* its snapshot is gone, or cannot be read now */
			order_forget(o);
			continue;
		}
		orders++;
		order_uses(o);
		uses_join(a, o);
	}
	atomic_store(&a->stat_orders, orders);
	needed_publish(a);
	wanted_join(a);
	if (is_at_work(a)) return 0;
	ahead_choose(a->packs, a->packs_count, room(a), COMES_MAX);
	err = order_begin(a, AHEAD_GOES, MOVE_EVICT, &a->tasks[0]);
	if (err == 0) err = order_begin(a, AHEAD_COMES, MOVE_FETCH, &a->tasks[1]);
	return err == -GRANARY_EBUSY ? 0 : err;
}

void ahead_get_stats(struct ahead *a, struct ahead_stats *out)
{
	*out = (struct ahead_stats){ .orders = atomic_load(&a->stat_orders), .packs = atomic_load(&a->stat_packs),
		.fetched = atomic_load(&a->stat_fetched), .let_go = atomic_load(&a->stat_let_go) };
}

/* ---- the thread ---- */

static void wait_for_turn(struct ahead *a)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += TURN_S;
	while (!a->stop && !a->woken && pthread_cond_timedwait(&a->wake, &a->lock, &until) == 0) continue;
	a->woken = false;
}

static void *ahead_main(void *arg)
{
	struct ahead *a = arg;

	setpriority(PRIO_PROCESS, 0, AHEAD_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		int err;

		pthread_mutex_unlock(&a->lock);
		err = ahead_turn(a);
		if (err < 0) log_warn("cannot bring up what is wanted: %s; it is tried again", error_text(err));
		pthread_mutex_lock(&a->lock);
		wait_for_turn(a);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

int ahead_open(const struct ahead_options *options, struct ahead **out)
{
	struct ahead *a = calloc(1, sizeof(*a));
	pthread_condattr_t attr;
	int err = 0;

	*out = NULL;
	if (a == NULL) return -GRANARY_ENOMEM;
	a->o = *options;
	a->consumers = calloc(CONSUMERS_MAX, sizeof(*a->consumers));
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->wake, &attr);
	pthread_condattr_destroy(&attr);
	if (a->consumers == NULL) err = -GRANARY_ENOMEM;
	if (err == 0 && a->o.thread) {
		err = pthread_create(&a->thread, NULL, ahead_main, a) == 0 ? 0 : -GRANARY_ENOMEM;
		a->has_thread = err == 0;
		if (a->has_thread) pthread_setname_np(a->thread, "granary-ahead");
	}
	if (err < 0) ahead_close(&a);
	*out = a;
	return err;
}

void ahead_close(struct ahead **ap)
{
	struct ahead *a = *ap;

	*ap = NULL;
	if (a == NULL) return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_signal(&a->wake);
	pthread_mutex_unlock(&a->lock);
	if (a->has_thread) pthread_join(a->thread, NULL);
	for (uint32_t i = 0; i < ORDERS_MAX; i++) order_forget(&a->orders[i]);
	pthread_cond_destroy(&a->wake);
	pthread_mutex_destroy(&a->lock);
	free(a->consumers);
	free(a->needed);
	free(a->packs);
	free(a);
}
