/* SPDX-License-Identifier: Apache-2.0 */
/* share.c -- spans in a ring, found by a table of chains.
 *
 * Invariants: (1) a share has a reference while it is in the table, one while its reads run, and one for each take that
 * has its data; without any it is dead, and its place in the ring is free once all older ones are dead; (2) bytes of a
 * share do not change from HERE until it is dead; (3) state, left and takers are guarded by the lock of its chain's
 * shard, the ring and who waits for it by the ring's, which is taken first; (4) what a share was read to stays
 * where it is, referenced, when it is part of the cache, else it is copied at once: whoever has a take holds no memory
 * that reads wait for. */
#include "pack/share.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/list.h"
#include "io/io.h"
#include "io/mem.h"
#include "pack/reader.h"

enum { SHARDS = 64, CHAINS = 64, LAGS = 64, READS_MAX = 3, PLACE_ALIGN = 64, MEMORY_MIN = 4 * 1024 * 1024 };
static const uint64_t lag_ns = 4 * SHARE_PATIENCE_NS;

enum share_state { SHARE_READING, SHARE_HERE };

struct share {
	struct share_span span;
	struct share *chain;       /* of the table */
	struct share *newer;       /* of the ring */
	uint64_t end;              /* of its place in the ring, counted from the ring's beginning on and on */
	uint8_t *data;
	int64_t left;              /* bytes still to be taken */
	struct share_take *takers; /* while it is being read */
	enum share_state state;
	bool linked;               /* in the table */
	bool dead;
	_Atomic uint32_t refs;
	_Atomic uint64_t touched_ns; /* came, or was taken from */
	struct shares_local *local;  /* whose reactor reads it */
	uint32_t pending, reads_count;
	int err;
	struct cache *cache;
	struct pack_read reads[READS_MAX]; /* in order; with data: of the cache, else it was copied to `data` */
};

struct shard {
	_Alignas(64) pthread_mutex_t lock;
	struct share *chains[CHAINS];
	uint64_t taken_bytes, alone;
};

struct lag {
	uint64_t tag, until_ns;
};

struct shares {
	struct shard shards[SHARDS];
	pthread_mutex_t lock;      /* the ring's: all below */
	uint8_t *memory;
	uint64_t size, begin, end; /* of what is in use, counted on and on */
	struct share *oldest, *newest;
	struct share_wait *waiters;
	struct lag lags[LAGS];     /* tags with a consumer that does not come */
	uint64_t made, dropped;
};

struct shares_local {
	struct shares *shares;
	struct reader *reader;
	struct reactor *reactor;
	struct io *io;
	struct io_op timer;
	bool timer_runs;
};

/* ---- the table ---- */

static uint64_t span_hash(const struct share_span *s)
{
	return hash_u64(s->tag ^ hash_u64(s->pack ^ hash_u64(s->offset)));
}

static struct shard *shard_of(struct shares *shares, uint64_t hash)
{
	return &shares->shards[hash % SHARDS];
}

static struct share **chain_of(struct shard *shard, uint64_t hash)
{
	return &shard->chains[hash / SHARDS % CHAINS];
}

static bool span_equal(const struct share_span *a, const struct share_span *b)
{
	return a->tag == b->tag && a->pack == b->pack && a->offset == b->offset && a->length == b->length &&
		a->wanted == b->wanted;
}

/* Under the shard's lock. */
static struct share *find(struct shard *shard, uint64_t hash, const struct share_span *span)
{
	for (struct share *s = *chain_of(shard, hash); s != NULL; s = s->chain)
		if (span_equal(&s->span, span))
			return s;
	return NULL;
}

/* Under the shard's lock. True: the table's reference is the caller's to drop. */
static bool unlink_share(struct shard *shard, struct share *s)
{
	struct share **at = chain_of(shard, span_hash(&s->span));

	if (!s->linked)
		return false;
	while (*at != s)
		at = &(*at)->chain;
	*at = s->chain;
	s->linked = false;
	return true;
}

/* ---- the ring ---- */

/* Under the ring's lock. */
static void wake_all(struct shares *shares)
{
	while (shares->waiters != NULL) {
		struct share_wait *w = shares->waiters;

		shares->waiters = w->next;
		reactor_post(w->local->reactor, &w->task);
	}
}

/* Under the ring's lock: frees the places of the oldest, as far as they are dead. */
static void ring_advance(struct shares *shares)
{
	bool moved = false;

	while (shares->oldest != NULL && shares->oldest->dead) {
		struct share *s = shares->oldest;

		shares->oldest = s->newer;
		shares->begin = s->end;
		free(s);
		moved = true;
	}
	if (shares->oldest == NULL)
		shares->newest = NULL;
	if (moved)
		wake_all(shares);
}

static void unref_locked(struct shares *shares, struct share *s)
{
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
		return;
	for (uint32_t i = 0; i < s->reads_count; i++)
		if (s->reads[i].data != NULL)
			cache_release(s->cache, &s->reads[i].buf);
	s->dead = true;
	ring_advance(shares);
}

static void unref(struct shares *shares, struct share *s)
{
	/* Only the last one needs the lock; who is not the last must not touch the share any more. */
	uint32_t refs = atomic_load_explicit(&s->refs, memory_order_relaxed);

	while (refs > 1)
		if (atomic_compare_exchange_weak_explicit(&s->refs, &refs, refs - 1, memory_order_acq_rel,
			    memory_order_relaxed))
			return;
	pthread_mutex_lock(&shares->lock);
	unref_locked(shares, s);
	pthread_mutex_unlock(&shares->lock);
}

static struct lag *lag_of(struct shares *shares, uint64_t tag) { return &shares->lags[hash_u64(tag) % LAGS]; }

static bool lags(struct shares *shares, uint64_t tag, uint64_t now)
{
	const struct lag *l = lag_of(shares, tag);

	return l->tag == tag && now < l->until_ns;
}

/* Under the ring's lock. Drops the oldest, which is not dead, if it may go; false: wait for it. */
static bool ring_drop(struct shares *shares, uint64_t now)
{
	struct share *s = shares->oldest;
	uint64_t age = now - atomic_load_explicit(&s->touched_ns, memory_order_relaxed);
	struct shard *shard = shard_of(shares, span_hash(&s->span));
	bool ours;

	if (age < SHARE_PATIENCE_NS && !lags(shares, s->span.tag, now))
		return false;
	pthread_mutex_lock(&shard->lock);
	ours = s->state == SHARE_HERE && unlink_share(shard, s);
	pthread_mutex_unlock(&shard->lock);
	if (!ours)
		return false;
	*lag_of(shares, s->span.tag) = (struct lag){ s->span.tag, now + lag_ns };
	shares->dropped++;
	unref_locked(shares, s);
	return true;
}

/* Under the ring's lock. A place of so many bytes; false: there is none. */
static bool ring_place(struct shares *shares, struct share *s, uint32_t length)
{
	uint64_t len = ((uint64_t)length + PLACE_ALIGN - 1) & ~(uint64_t)(PLACE_ALIGN - 1), at;

	if (shares->oldest == NULL)
		shares->begin = shares->end;
	at = shares->end;
	if (at % shares->size + len > shares->size)
		at += shares->size - at % shares->size;
	if (at + len - shares->begin > shares->size)
		return false;
	s->data = shares->memory + at % shares->size;
	s->end = shares->end = at + len;
	if (shares->newest != NULL)
		shares->newest->newer = s;
	else
		shares->oldest = s;
	shares->newest = s;
	shares->made++;
	return true;
}

static void on_timer(struct io_op *op)
{
	struct shares_local *local = container_of(op, struct shares_local, timer);

	local->timer_runs = false;
	pthread_mutex_lock(&local->shares->lock);
	wake_all(local->shares);
	pthread_mutex_unlock(&local->shares->lock);
}

static void timer_arm(struct shares_local *local, uint64_t now)
{
	if (local->timer_runs)
		return;
	local->timer_runs = true;
	local->timer.done = on_timer;
	io_timer(local->io, &local->timer, now + SHARE_PATIENCE_NS / 4);
}

/* SHARE_COMING: it has a place. */
static enum share_answer ring_take(struct shares_local *local, struct share *s, struct share_wait *wait)
{
	struct shares *shares = local->shares;
	uint64_t now = io_now_ns(local->io);
	enum share_answer answer = SHARE_COMING;

	pthread_mutex_lock(&shares->lock);
	while (!ring_place(shares, s, s->span.length)) {
		const struct share *oldest = shares->oldest;

		if (ring_drop(shares, now))
			continue;
		/* Dropped before, or read, and still in use by those who do not go on. */
		answer = now - atomic_load_explicit(&oldest->touched_ns, memory_order_relaxed) <
				2 * SHARE_PATIENCE_NS ? SHARE_FULL : SHARE_ALONE;
		if (answer == SHARE_FULL && wait != NULL) {
			wait->local = local;
			wait->next = shares->waiters;
			shares->waiters = wait;
		}
		break;
	}
	pthread_mutex_unlock(&shares->lock);
	if (answer == SHARE_FULL)
		timer_arm(local, now);
	return answer;
}

/* ---- taking ---- */

/* From byte `at` of the span: where it is, and how many follow it there. */
static const uint8_t *bytes_at(const struct share *s, uint32_t at, uint32_t *len)
{
	for (uint32_t i = 0; i < s->reads_count; i++) {
		const struct pack_read *r = &s->reads[i];
		uint32_t from = (uint32_t)(r->unit_offset + r->want_offset - s->span.offset);

		*len = from + r->want_len - at;
		if (at - from < r->want_len)
			return (r->data != NULL ? r->data : s->data + from) + (at - from);
	}
	assert(false);
	return NULL;
}

/* What was taken, in one piece: where it is, else copied. False: no memory. */
static bool take_join(struct share_take *t)
{
	uint32_t done, len;
	const uint8_t *first = bytes_at(t->share, t->at, &len), *p;

	t->own = NULL;
	for (done = len; done < t->len; done += len) {
		p = bytes_at(t->share, t->at + done, &len);
		if (p != first + done)
			break;
	}
	t->data = first;
	if (done >= t->len)
		return true;
	t->data = t->own = malloc(t->len);
	for (done = 0; t->own != NULL && done < t->len; done += len) {
		p = bytes_at(t->share, t->at + done, &len);
		len = len < t->len - done ? len : t->len - done;
		memcpy(t->own + done, p, len);
	}
	return t->own != NULL;
}

/* Under the shard's lock: the bytes are there. True: they were the last, unlinked. */
static bool take_bytes(struct shard *shard, struct share *s, struct share_take *t)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	t->share = s;
	t->err = 0;
	s->left -= t->len;
	shard->taken_bytes += t->len;
	return s->left <= 0 && unlink_share(shard, s);
}

static void take_done(struct share_take *t)
{
	if (t->err == 0 && !take_join(t)) {
		share_release(t);
		t->err = -GRANARY_ENOMEM;
	}
	t->done(t);
}

static void on_told(struct task *task) { take_done(container_of(task, struct share_take, task)); }

/* All that joined the read but `not`, in the order of their coming. */
static void tell(struct shares_local *here, struct share_take *first, const struct share_take *not)
{
	struct share_take *t = NULL, *next;

	for (; first != NULL; first = next) { /* they were pushed at the head */
		next = first->next;
		first->next = t;
		t = first;
	}
	for (; t != NULL; t = next) {
		next = t->next;
		if (t == not)
			continue;
		if (t->local == here) {
			take_done(t);
			continue;
		}
		t->task.fn = on_told;
		reactor_post(t->local->reactor, &t->task);
	}
}

/* All its reads are done. `not` knows already. */
static void share_came(struct share *s, const struct share_take *not)
{
	struct shares_local *local = s->local;
	struct shares *shares = local->shares;
	struct shard *shard = shard_of(shares, span_hash(&s->span));
	struct share_take *takers;
	bool ours;

	atomic_store_explicit(&s->touched_ns, io_now_ns(local->io), memory_order_relaxed);
	pthread_mutex_lock(&shard->lock);
	s->state = SHARE_HERE;
	takers = s->takers;
	s->takers = NULL;
	ours = s->err < 0 && unlink_share(shard, s);
	for (struct share_take *t = takers; t != NULL; t = t->next) {
		if (s->err == 0)
			ours = take_bytes(shard, s, t) || ours;
		else
			t->err = s->err;
	}
	pthread_mutex_unlock(&shard->lock);
	if (ours)
		unref(shares, s);
	unref(shares, s);
	tell(local, takers, not);
}

static void part_take(struct share *s, struct pack_read *r)
{
	if (r->err < 0) {
		s->err = s->err < 0 ? s->err : r->err;
		r->data = NULL;
	} else if (!cache_buf_kept(s->cache, &r->buf)) {
		memcpy(s->data + (r->unit_offset + r->want_offset - s->span.offset), r->data, r->want_len);
		read_release(s->local->reader, r);
		assert(r->data == NULL);
	}
}

static void on_read(struct pack_read *r)
{
	struct share *s = r->arg;

	part_take(s, r);
	if (--s->pending == 0)
		share_came(s, NULL);
}

/* Its reads start for t; what the cache has is taken at once: then t has its data. */
static enum share_answer share_read(struct share *s, struct share_take *t)
{
	struct pack_read *misses[READS_MAX];
	uint32_t missed = 0;

	for (uint32_t at = 0; at < s->span.length;) {
		struct pack_read *r = &s->reads[s->reads_count];

		assert(s->reads_count < READS_MAX);
		s->reads_count++;
		*r = (struct pack_read){ .pack = s->span.pack, .done = on_read, .arg = s };
		at += read_cut(r, t->fixed, (uint64_t)s->span.offset + at, s->span.length - at);
		if (read_cached(s->local->reader, r))
			part_take(s, r);
		else
			misses[missed++] = r;
	}
	s->pending = missed;
	if (missed > 0)
		read_start(s->local->reader, misses, missed);
	else
		share_came(s, t);
	return missed > 0 ? SHARE_COMING : SHARE_TAKEN;
}

static struct share *share_new(struct shares_local *local, const struct share_span *span)
{
	struct share *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->span = *span;
	s->left = span->wanted;
	s->local = local;
	s->cache = reader_cache(local->reader);
	s->linked = true;
	atomic_init(&s->refs, 2); /* the table's, its reads' */
	atomic_init(&s->touched_ns, io_now_ns(local->io));
	return s;
}

/* Takes from what is there (*answer: TAKEN), or joins (COMING). The share; NULL: there is none. */
static struct share *share_join(struct shares_local *local, uint64_t hash, struct share_take *t, struct share *mine,
	enum share_answer *answer)
{
	struct shares *shares = local->shares;
	struct shard *shard = shard_of(shares, hash);
	struct share *s, *last = NULL;

	pthread_mutex_lock(&shard->lock);
	s = find(shard, hash, &t->span);
	if (s == NULL && mine != NULL) {
		s = mine;
		s->chain = *chain_of(shard, hash);
		*chain_of(shard, hash) = s;
	}
	t->share = NULL;
	t->local = local;
	*answer = s != NULL && s->state == SHARE_HERE ? SHARE_TAKEN : SHARE_COMING;
	if (*answer == SHARE_TAKEN) {
		last = take_bytes(shard, s, t) ? s : NULL;
		atomic_store_explicit(&s->touched_ns, io_now_ns(local->io), memory_order_relaxed);
	} else if (s != NULL) {
		t->next = s->takers;
		s->takers = t;
	}
	pthread_mutex_unlock(&shard->lock);
	if (last != NULL)
		unref(shares, last);
	return s;
}

static void count_alone(struct shard *shard)
{
	pthread_mutex_lock(&shard->lock);
	shard->alone++;
	pthread_mutex_unlock(&shard->lock);
}

static enum share_answer taken(struct share_take *t, enum share_answer answer)
{
	if (answer != SHARE_TAKEN || take_join(t))
		return answer;
	share_release(t);
	return SHARE_ALONE;
}

enum share_answer share_take(struct shares_local *local, struct share_take *t, struct share_wait *wait)
{
	uint64_t hash = span_hash(&t->span);
	enum share_answer answer;
	struct share *s = share_join(local, hash, t, NULL, &answer), *mine;

	assert(t->span.length > 0 && t->span.length <= SHARE_SPAN_MAX && t->at <= t->span.length &&
		t->len <= t->span.length - t->at);
	if (s != NULL)
		return taken(t, answer);
	mine = share_new(local, &t->span);
	answer = mine != NULL ? ring_take(local, mine, wait) : SHARE_ALONE;
	if (answer == SHARE_ALONE)
		count_alone(shard_of(local->shares, hash));
	if (answer != SHARE_COMING) {
		free(mine);
		return answer;
	}
	s = share_join(local, hash, t, mine, &answer);
	if (s == mine)
		return taken(t, share_read(mine, t));
	mine->linked = false; /* somebody else was first */
	unref(local->shares, mine);
	unref(local->shares, mine);
	return taken(t, answer);
}

void share_release(struct share_take *t)
{
	struct share *s = t->share;

	t->share = NULL;
	t->data = NULL;
	free(t->own);
	t->own = NULL;
	if (s != NULL)
		unref(t->local->shares, s);
}

/* ---- start and stop ---- */

struct shares *shares_new(uint64_t memory)
{
	struct shares *shares = aligned_alloc(64, (sizeof(*shares) + 63) & ~(size_t)63);

	if (shares == NULL)
		return NULL;
	memset(shares, 0, sizeof(*shares));
	shares->size = (memory > MEMORY_MIN ? memory : MEMORY_MIN) & ~(uint64_t)(PLACE_ALIGN - 1);
	shares->memory = mem_map(shares->size);
	pthread_mutex_init(&shares->lock, NULL);
	for (uint32_t i = 0; i < SHARDS; i++)
		pthread_mutex_init(&shares->shards[i].lock, NULL);
	if (shares->memory == NULL)
		shares_free(&shares);
	return shares;
}

void shares_free(struct shares **sp)
{
	struct shares *shares = *sp;

	*sp = NULL;
	if (shares == NULL)
		return;
	for (struct share *s = shares->oldest, *next; s != NULL; s = next) {
		next = s->newer;
		free(s);
	}
	if (shares->memory != NULL)
		mem_unmap(shares->memory, shares->size);
	for (uint32_t i = 0; i < SHARDS; i++)
		pthread_mutex_destroy(&shares->shards[i].lock);
	pthread_mutex_destroy(&shares->lock);
	free(shares);
}

struct shares_local *shares_local_new(struct shares *shares, struct reader *reader, struct reactor *reactor)
{
	struct shares_local *local = calloc(1, sizeof(*local));

	if (local == NULL)
		return NULL;
	local->shares = shares;
	local->reader = reader;
	local->reactor = reactor;
	local->io = reactor_io(reactor);
	return local;
}

void shares_local_free(struct shares_local **lp)
{
	struct shares_local *local = *lp;

	*lp = NULL;
	free(local);
}

void shares_get_stats(struct shares *shares, struct shares_stats *out)
{
	*out = (struct shares_stats){ .size = shares->size };
	pthread_mutex_lock(&shares->lock);
	out->made = shares->made;
	out->dropped = shares->dropped;
	out->used = shares->oldest != NULL ? shares->end - shares->begin : 0;
	pthread_mutex_unlock(&shares->lock);
	for (uint32_t i = 0; i < SHARDS; i++) {
		struct shard *shard = &shares->shards[i];

		pthread_mutex_lock(&shard->lock);
		out->taken_bytes += shard->taken_bytes;
		out->alone += shard->alone;
		pthread_mutex_unlock(&shard->lock);
	}
}
