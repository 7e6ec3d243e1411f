/* SPDX-License-Identifier: Apache-2.0 */
/* test_conc_share.c -- spans that consumers on two reactors take in parts: read once, right bytes, gone when all was
 * taken; a full ring waits, drops whom nobody comes for, and is never what a read hangs on. */
#include "test_pack_fixture.h"

#include "pack/cache.h"
#include "pack/reader.h"
#include "pack/share.h"

enum { MIB = 1024 * 1024, SPAN = 200000, RING = 4 * MIB, PARTS = 8, RING_SPANS = RING / SPAN };

static uint8_t pool[8 * MIB];

struct desk {
	struct bed b;
	struct cache *cache;
	struct shares *shares;
	struct reader *readers[BED_REACTORS];
	struct shares_local *locals[BED_REACTORS];
	struct put *puts;
	uint32_t count;
};

struct call {
	struct task task;
	void (*fn)(struct desk *d, uint32_t reactor);
	struct desk *d;
	uint32_t reactor;
	_Atomic bool done;
};

static void on_call(struct task *t)
{
	struct call *c = container_of(t, struct call, task);

	c->fn(c->d, c->reactor);
	atomic_store(&c->done, true);
}

static void call_all(struct desk *d, void (*fn)(struct desk *d, uint32_t reactor))
{
	for (uint32_t i = 0; i < BED_REACTORS; i++) {
		struct call c = { .task.fn = on_call, .fn = fn, .d = d, .reactor = i };

		reactor_post(d->b.reactors[i], &c.task);
		while (!atomic_load(&c.done))
			bed_sleep();
	}
}

static void local_make(struct desk *d, uint32_t i)
{
	struct reader_options o = { .packs = d->b.packs, .cache = d->cache, .reactor = d->b.reactors[i],
		.workers = d->b.workers };

	d->readers[i] = reader_new(&o);
	d->locals[i] = shares_local_new(d->shares, d->readers[i], d->b.reactors[i]);
}

static void local_unmake(struct desk *d, uint32_t i) { reader_free(&d->readers[i]); }

/* A bed, a cache of so many bytes, and `count` records of SPAN bytes, each a span. */
static struct desk *desk_new(uint64_t cache, uint32_t count)
{
	struct desk *d = calloc(1, sizeof(*d));

	bed_new(&d->b, 16 * MIB);
	d->cache = cache_new(cache, 8 * MIB);
	d->shares = shares_new(RING);
	assert_non_null(d->shares);
	call_all(d, local_make);
	d->count = count;
	d->puts = calloc(count, sizeof(*d->puts));
	for (uint32_t i = 0; i < count; i++) {
		put_init(&d->puts[i], &d->b, 5, i + 1, pool + i * 4099 % (sizeof(pool) - SPAN), SPAN);
		pack_append(d->b.writers, &d->puts[i].a);
	}
	for (uint32_t i = 0; i < count; i++) {
		put_wait(&d->puts[i]);
		assert_int_equal(d->puts[i].a.err, 0);
	}
	put_commit(&d->b, d->puts, count);
	return d;
}

static uint64_t ring_used(struct desk *d)
{
	struct shares_stats s;

	shares_get_stats(d->shares, &s);
	return s.used;
}

static void desk_free(struct desk *d)
{
	call_all(d, local_unmake);
	bed_free(&d->b);
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		shares_local_free(&d->locals[i]);
	shares_free(&d->shares);
	cache_free(&d->cache);
	free(d->puts);
	free(d);
}

/* ---- one that takes a part ---- */

static uint64_t pack_end(struct desk *d, uint64_t pack)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < d->count; i++)
		if (d->puts[i].a.extent.pack == pack)
			end = d->puts[i].a.extent.record + d->puts[i].a.extent.skip + SPAN;
	return end;
}

struct taker {
	struct task go;
	struct share_take take;
	struct share_wait wait;
	struct desk *d;
	const struct put *put;
	uint32_t reactor;
	bool holds;              /* keeps what it took */
	_Atomic uint32_t full;
	_Atomic int result;      /* 1: not yet; 0, an error, or -1000: alone */
};

static void taken(struct share_take *t)
{
	struct taker *k = container_of(t, struct taker, take);
	int err = t->err;

	if (err == 0)
		assert_memory_equal(t->data, k->put->a.data + t->at, t->len);
	if (err == 0 && !k->holds)
		share_release(t);
	atomic_store(&k->result, err);
}

static void take_go(struct task *task)
{
	struct taker *k = container_of(task, struct taker, go);

	switch (share_take(k->d->locals[k->reactor], &k->take, &k->wait)) {
	case SHARE_TAKEN: taken(&k->take); break;
	case SHARE_COMING: break;
	case SHARE_FULL: atomic_fetch_add(&k->full, 1); break;
	case SHARE_ALONE: atomic_store(&k->result, -1000); break;
	}
}

static void take_again(struct task *task) { take_go(&container_of(task, struct taker, wait.task)->go); }

static void taker_init(struct taker *k, struct desk *d, uint32_t span, uint32_t part, uint32_t reactor)
{
	uint64_t at = d->puts[span].a.extent.record + d->puts[span].a.extent.skip;

	*k = (struct taker){ .go.fn = take_go, .wait.task.fn = take_again, .d = d, .put = &d->puts[span],
		.reactor = reactor, .holds = k->holds };
	k->take = (struct share_take){ .at = part * (SPAN / PARTS), .len = SPAN / PARTS, .done = taken };
	k->take.span = (struct share_span){ .tag = 7, .pack = d->puts[span].a.extent.pack, .offset = (uint32_t)at,
		.length = SPAN, .wanted = SPAN };
	atomic_store(&k->result, 1);
}

static void taker_go(struct taker *k) { reactor_post(k->d->b.reactors[k->reactor], &k->go); }

static void taker_start(struct taker *k, struct desk *d, uint32_t span, uint32_t part, uint32_t reactor)
{
	taker_init(k, d, span, part, reactor);
	taker_go(k);
}

static int taker_wait(struct taker *k)
{
	while (atomic_load(&k->result) == 1)
		bed_sleep();
	return atomic_load(&k->result);
}

static uint64_t disk_read(struct desk *d)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < BED_REACTORS; i++) {
		struct reader_stats s;

		reader_get_stats(d->readers[i], &s);
		sum += s.bytes_read;
	}
	return sum;
}

/* ---- tests ---- */

/* Consumers in step on both reactors, more spans than the ring holds: each span is read once, and then gone. */
static void take_in_step(uint64_t cache, bool sealed)
{
	enum { COUNT = 100 };
	struct desk *d = desk_new(cache, COUNT);
	struct taker *all = calloc(COUNT * PARTS, sizeof(*all));
	struct shares_stats s;
	uint64_t alone = 0;

	for (uint32_t i = 0; i < COUNT * PARTS; i++) { /* all parts of a span at about the same time */
		taker_init(&all[i], d, i / PARTS, (i * 5 + i / PARTS) % PARTS, (i ^ i / 3) % BED_REACTORS);
		all[i].take.fixed = sealed ? pack_end(d, all[i].take.span.pack) : 0;
		taker_go(&all[i]);
	}
	for (uint32_t i = 0; i < COUNT * PARTS; i++) {
		int result = taker_wait(&all[i]);
		assert_true(result == 0 || result == -1000);
		alone += result == -1000; /* found no room for a second: the machine has other work */
	}
	shares_get_stats(d->shares, &s);
	assert_int_equal((COUNT * PARTS - alone) * (SPAN / PARTS), s.taken_bytes);
	if (s.dropped == 0 && alone == 0) { /* no consumer was kept from running for a second */
		assert_true(s.made >= COUNT && (sealed || disk_read(d) <= (uint64_t)COUNT * (SPAN + 2 * 4096)));
		assert_int_equal(0, s.used);
	}
	free(all);
	desk_free(d);
}

static void test_each_span_is_read_once_for_all(void **state)
{
	(void)state;
	take_in_step(MIB, false);
}

/* Goal: takes point into the cache, also those that lie in two units of it, also while it changes under them. */
static void test_spans_are_taken_out_of_the_cache(void **state)
{
	(void)state;
	take_in_step(64 * MIB, true);
	take_in_step(8 * MIB, true);
}

/* Goal: a consumer that never comes holds nobody up for ever, and when it comes late it gets its bytes. */
static void test_a_consumer_that_does_not_come_is_given_up(void **state)
{
	enum { COUNT = 2 * RING_SPANS };
	struct desk *d = desk_new(MIB, COUNT);
	struct taker *all = calloc(COUNT * PARTS, sizeof(*all));
	struct shares_stats s;

	(void)state;
	for (uint32_t i = 0; i < COUNT * PARTS; i++)
		if (i % PARTS != 3)
			taker_start(&all[i], d, i / PARTS, i % PARTS, i % BED_REACTORS);
	for (uint32_t i = 0; i < COUNT * PARTS; i++)
		assert_int_equal(0, i % PARTS != 3 ? taker_wait(&all[i]) : 0);
	shares_get_stats(d->shares, &s);
	assert_true(s.dropped > 0 && s.used > 0 && s.used <= RING);
	for (uint32_t i = 0; i < COUNT; i++) { /* some are there yet, others are read for this one */
		taker_start(&all[i], d, i, 3, 0);
		assert_int_equal(0, taker_wait(&all[i]));
	}
	free(all);
	desk_free(d);
}

/* Goal: what the network does not take pins the ring; the next one is then told to read alone, and nobody hangs. */
static void test_a_ring_that_is_pinned_is_gone_around(void **state)
{
	struct desk *d = desk_new(MIB, 2 * RING_SPANS);
	struct taker *all = calloc(RING_SPANS, sizeof(*all)), late = { .holds = false };

	(void)state;
	for (uint32_t i = 0; i < RING_SPANS; i++) {
		all[i].holds = true;
		taker_start(&all[i], d, i, 0, i % BED_REACTORS);
		assert_int_equal(0, taker_wait(&all[i]));
	}
	taker_start(&late, d, 2 * RING_SPANS - 1, 0, 0);
	assert_int_equal(-1000, taker_wait(&late));
	assert_true(atomic_load(&late.full) > 0);
	for (uint32_t i = 0; i < RING_SPANS; i++)
		share_release(&all[i].take);
	taker_start(&late, d, 2 * RING_SPANS - 1, 0, 0);
	assert_int_equal(0, taker_wait(&late));
	free(all);
	desk_free(d);
}

/* Goal: what is read goes through the cache: an epoch over what it holds reads nothing. */
static void test_a_second_epoch_comes_from_the_cache(void **state)
{
	enum { COUNT = 40 };
	struct desk *d = desk_new(64 * MIB, COUNT);
	uint64_t first = 0;

	(void)state;
	for (uint64_t tag = 7; tag <= 8; tag++)
		for (uint32_t i = 0; i < COUNT * PARTS; i++) {
			struct taker one = { .holds = false };

			taker_init(&one, d, i / PARTS, i % PARTS, i % BED_REACTORS);
			one.take.span.tag = tag;
			one.take.fixed = pack_end(d, one.take.span.pack);
			taker_go(&one);
			assert_int_equal(0, taker_wait(&one));
			first = tag == 7 ? disk_read(d) : first;
		}
	assert_int_equal(first, disk_read(d));
	assert_int_equal(0, ring_used(d));
	desk_free(d);
}

/* Goal: a read that fails fails for all who joined it, and leaves nothing behind. */
static void test_a_failed_read_is_everybodys(void **state)
{
	struct desk *d = desk_new(MIB, 1);
	struct taker all[PARTS] = { { .holds = false } };

	(void)state;
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < PARTS; i++) {
			taker_init(&all[i], d, 0, i, i % BED_REACTORS);
			all[i].take.span.pack += 1000;
			taker_go(&all[i]);
		}
		for (uint32_t i = 0; i < PARTS; i++)
			assert_int_equal(-GRANARY_ESTALE, taker_wait(&all[i]));
	}
	bed_sleep();
	for (uint32_t i = 0; i < 10000 && ring_used(d) > 0; i++)
		bed_sleep();
	assert_int_equal(0, ring_used(d));
	desk_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_span_is_read_once_for_all),
		cmocka_unit_test(test_spans_are_taken_out_of_the_cache),
		cmocka_unit_test(test_a_consumer_that_does_not_come_is_given_up),
		cmocka_unit_test(test_a_ring_that_is_pinned_is_gone_around),
		cmocka_unit_test(test_a_second_epoch_comes_from_the_cache),
		cmocka_unit_test(test_a_failed_read_is_everybodys),
	};
	struct rng r;

	rng_seed(&r, 1);
	for (size_t i = 0; i < sizeof(pool); i++)
		pool[i] = (uint8_t)rng_next(&r);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
