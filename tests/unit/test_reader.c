/* SPDX-License-Identifier: Apache-2.0 */
/* test_reader.c -- reads through cache and disk on a real reactor. */
#include "test_pack_fixture.h"

#include "pack/cache.h"
#include "pack/reader.h"

enum { MIB = 1024 * 1024 };

static uint8_t pool[8 * MIB];

static const uint8_t *data_of(uint64_t object, uint32_t len)
{
	return pool + (object * 4099) % (sizeof(pool) - len);
}

/* ---- calls that must run on the reactor's thread ---- */

struct call {
	struct task task;
	void (*fn)(void *arg);
	void *arg;
	_Atomic bool done;
};

static void on_call(struct task *t)
{
	struct call *c = container_of(t, struct call, task);

	c->fn(c->arg);
	atomic_store(&c->done, true);
}

static void call_on(struct reactor *r, void (*fn)(void *arg), void *arg)
{
	struct call c = { .task.fn = on_call, .fn = fn, .arg = arg };

	reactor_post(r, &c.task);
	while (!atomic_load(&c.done))
		bed_sleep();
}

struct desk {                 /* a reader and its cache on reactor 0 */
	struct bed *b;
	struct cache *cache;
	struct reader *reader;
	uint32_t depth;
	struct look *looks;
	uint32_t looks_count;
	struct reader_stats stats;
};

struct look {
	struct pack_read r;
	_Atomic uint32_t done;
	bool cached;
	const struct put *put;
};

static void on_look(struct pack_read *r)
{
	struct look *l = container_of(r, struct look, r);

	atomic_fetch_add(&l->done, 1);
}

static void desk_make(void *arg)
{
	struct desk *d = arg;
	struct reader_options o = { .packs = d->b->packs, .cache = d->cache, .reactor = d->b->reactors[0],
		.workers = d->b->workers, .depth = d->depth };

	d->reader = reader_new(&o);
}

static void desk_unmake(void *arg)
{
	struct desk *d = arg;

	reader_free(&d->reader);
}

static void desk_open(struct desk *d, struct bed *b, uint64_t budget, uint64_t transient, uint32_t depth)
{
	*d = (struct desk){ .b = b, .cache = cache_new(budget, transient), .depth = depth };
	assert_non_null(d->cache);
	call_on(b->reactors[0], desk_make, d);
	assert_non_null(d->reader);
}

static void desk_close(struct desk *d)
{
	call_on(d->b->reactors[0], desk_unmake, d);
	cache_free(&d->cache);
}

static void desk_go(void *arg)
{
	struct desk *d = arg;
	struct pack_read **misses = calloc(d->looks_count, sizeof(*misses));
	uint32_t n = 0;

	for (uint32_t i = 0; i < d->looks_count; i++) {
		struct look *l = &d->looks[i];

		l->r.done = on_look;
		l->cached = read_cached(d->reader, &l->r);
		if (!l->cached)
			misses[n++] = &l->r;
	}
	read_start(d->reader, misses, n);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(atomic_load(&container_of(misses[i], struct look, r)->done), 0);
	reader_get_stats(d->reader, &d->stats);
	free(misses);
}

static void look_init(struct look *l, const struct put *p)
{
	memset(l, 0, sizeof(*l));
	l->put = p;
	l->r.pack = p->a.extent.pack;
	l->r.unit_offset = p->a.extent.record + p->a.extent.skip;
	l->r.unit_len = l->r.want_len = p->a.data_len;
}

/* Starts all looks and waits; returns hits. Bytes are compared and released. */
static uint32_t desk_read(struct desk *d, struct look *looks, uint32_t n, int want_err)
{
	uint32_t hits = 0;

	d->looks = looks;
	d->looks_count = n;
	call_on(d->b->reactors[0], desk_go, d);
	for (uint32_t i = 0; i < n; i++) {
		struct look *l = &looks[i];

		hits += l->cached;
		while (!l->cached && atomic_load(&l->done) == 0)
			bed_sleep();
		assert_int_equal(l->r.err, want_err);
		if (want_err == 0)
			assert_memory_equal(l->r.data, l->put->a.data + l->r.want_offset, l->r.want_len);
		if (want_err == 0 && l->r.bypass && l->r.want_len <= 16384) /* reader.c (5) */
			assert_null(l->r.buf.segment);
		read_release(d->reader, &l->r);
	}
	return hits;
}

static struct put *store(struct bed *b, uint32_t n, uint32_t len)
{
	struct put *puts = calloc(n, sizeof(*puts));

	assert_non_null(puts);
	for (uint32_t i = 0; i < n; i++) {
		put_init(&puts[i], b, 5, i + 1, data_of(i + 1, len), len);
		if (i % 256 != 0)
			puts[i - 1].a.next = &puts[i].a;
	}
	for (uint32_t i = 0; i < n; i += 256)
		pack_append(b->writers, &puts[i].a);
	for (uint32_t i = 0; i < n; i++) {
		put_wait(&puts[i]);
		assert_int_equal(puts[i].a.err, 0);
	}
	put_commit(b, puts, n);
	return puts;
}

static void shuffle(struct look *looks, uint32_t n, struct put *puts, uint64_t seed)
{
	struct rng r;

	rng_seed(&r, seed);
	for (uint32_t i = 0; i < n; i++)
		look_init(&looks[i], &puts[i]);
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t k = (uint32_t)rng_below(&r, i + 1);
		const struct put *a = looks[i].put, *c = looks[k].put;

		look_init(&looks[i], c);
		look_init(&looks[k], a);
	}
}

static void test_what_was_read_once_is_read_from_ram(void **state)
{
	enum { N = 1000 };
	struct look *looks = calloc(N, sizeof(*looks));
	struct put *puts;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 16 * MIB);
	puts = store(&b, N, 30000);
	desk_open(&d, &b, 128 * MIB, 16 * MIB, 32);
	shuffle(looks, N, puts, 1);
	assert_int_equal(desk_read(&d, looks, N, 0), 0);
	/* A whole data set at once: sorted, so nearly all are neighbours. */
	assert_true(d.stats.reads > 0 && d.stats.merged + d.stats.reads <= N);
	shuffle(looks, N, puts, 2);
	assert_int_equal(desk_read(&d, looks, N, 0), N);
	desk_close(&d);
	free(looks);
	free(puts);
	bed_free(&b);
}

/* Neither cache nor memory for all that is asked: everything is served all the same. */
/* Goal: reading a large object through takes no room in the cache; what is read again does. Method: a unit in two
 * parts, as requests that do not keep to units read it, from end to end; then once more, then its middle. */
static void test_units_of_a_large_object_are_kept_when_they_are_read_again(void **state)
{
	enum { LEN = 256 * 1024, CUT = 64 * 1024 };
	struct look looks[2];
	struct put *puts;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 64 * MIB);
	puts = store(&b, 1, LEN);
	desk_open(&d, &b, 16 * MIB, 8 * MIB, 0);
	for (uint32_t round = 0; round < 3; round++)
		for (uint32_t i = 0; i < 2; i++) {
			look_init(&looks[i], puts);
			looks[i].r.large = true;
			looks[i].r.want_offset = i * CUT;
			looks[i].r.want_len = i == 0 ? CUT : LEN - CUT;
			assert_int_equal(desk_read(&d, &looks[i], 1, 0), round == 2 || (round == 1 && i == 1));
		}
	assert_int_equal(d.stats.bytes_read / CUT, LEN / CUT + LEN / CUT);
	desk_close(&d);
	free(puts);
	bed_free(&b);
}

static void test_reads_wait_for_memory_and_never_fail(void **state)
{
	enum { N = 600 };
	struct look *looks = calloc(N, sizeof(*looks));
	struct put *puts;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 16 * MIB);
	puts = store(&b, N, 250000);
	desk_open(&d, &b, 16 * MIB, 8 * MIB, 128);
	for (uint32_t e = 0; e < 4; e++) {
		shuffle(looks, N, puts, e);
		for (uint32_t i = 0; i < N; i += 20)
			(void)desk_read(&d, looks + i, 20, 0);
	}
	desk_close(&d);
	free(looks);
	free(puts);
	bed_free(&b);
}

static void test_ranges_duplicates_and_bypass(void **state)
{
	enum { N = 40 };
	struct look looks[3 * N];
	struct put *puts;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 64 * MIB);
	puts = store(&b, N, 900000);
	for (uint32_t round = 0; round < 3; round++) {
		desk_open(&d, &b, round == 0 ? 128 * MIB : 2 * MIB, 160 * MIB, 16);
		for (uint32_t i = 0; i < 3 * N; i++) {
			look_init(&looks[i], &puts[i / 3]);
			if (i % 3 == 1) {
				looks[i].r.want_offset = 65536 * (1 + i % 7);
				looks[i].r.want_len = 65536;
			}
			looks[i].r.bypass = i % 3 == 2;
		}
		(void)desk_read(&d, looks, 3 * N, 0);
		desk_close(&d);
		bed_down(&b); /* the cache's memory is registered with the reactors */
		bed_up(&b);
	}
	free(puts);
	bed_free(&b);
}

/* After a restart no file is open: workers open them. A pack that is going is STALE. */
static void test_files_are_opened_on_the_way_and_dying_packs_are_stale(void **state)
{
	enum { N = 100 };
	struct look *looks = calloc(N, sizeof(*looks));
	struct pack_info info[16];
	struct pack *pack;
	struct put *puts;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 16 * MIB);
	puts = store(&b, N, 300000);
	bed_down(&b);
	bed_up(&b);
	desk_open(&d, &b, 4 * MIB, 64 * MIB, 128);
	shuffle(looks, N, puts, 3);
	(void)desk_read(&d, looks, N, 0);
	for (uint32_t i = 0, n = packs_list(b.packs, 0, info, 16); i < n; i++) {
		if (info[i].state == PACK_OPEN)
			assert_int_equal(pack_seal(b.packs, info[i].id, NULL), 0);
		pack = packs_ref(b.packs, info[i].id);
		assert_int_equal(packs_retire(b.packs, pack), 0);
		assert_null(packs_ref(b.packs, info[i].id));
		cache_drop_pack(d.cache, info[i].id);
		assert_int_equal(packs_remove(b.packs, pack), 0);
		packs_unref(b.packs, pack);
		assert_null(packs_ref_any(b.packs, info[i].id));
	}
	shuffle(looks, N, puts, 4);
	(void)desk_read(&d, looks, N, -GRANARY_ESTALE);
	desk_close(&d);
	free(looks);
	free(puts);
	bed_free(&b);
}

/* A file shorter than its rows say: CORRUPT for what is missing, the rest is served. */
static void test_a_truncated_file_is_corrupt(void **state)
{
	struct put *puts;
	struct look looks[2];
	struct fs_file *file;
	struct bed b;
	struct desk d;

	(void)state;
	bed_new(&b, 16 * MIB);
	puts = store(&b, 2, 200000);
	file = NULL;
	for (uint32_t i = 0; i < 1; i++) {
		struct pack *pack = packs_ref(b.packs, puts[0].a.extent.pack);

		file = pack_file(pack);
		assert_int_equal(fs_truncate(file, (puts[1].a.extent.record + 50000) & ~UINT64_C(4095)), 0);
		packs_unref(b.packs, pack);
	}
	desk_open(&d, &b, 16 * MIB, 16 * MIB, 4);
	look_init(&looks[0], &puts[0]);
	look_init(&looks[1], &puts[1]);
	(void)desk_read(&d, looks, 1, 0);
	(void)desk_read(&d, looks + 1, 1, -GRANARY_ECORRUPT);
	desk_close(&d);
	free(puts);
	bed_free(&b);
}

/* ---- rates, printed ---- */

struct hot {
	struct desk *d;
	struct look *looks;
	uint32_t n, rounds;
	uint64_t cpu_ns;
};

static void hot_run(void *arg)
{
	struct hot *h = arg;
	uint64_t began = clock_thread_cpu_ns();
	struct reader *reader = h->d->reader;

	for (uint32_t i = 0; i < h->rounds; i++) {
		struct look *l = h->looks + (i * 256) % (h->n - 256);

		for (uint32_t k = 0; k < 256; k++)
			read_prefetch(reader, &l[k].r);
		for (uint32_t k = 0; k < 256; k++)
			if (!read_cached(reader, &l[k].r))
				abort();
		for (uint32_t k = 0; k < 256; k++)
			read_release(reader, &l[k].r);
	}
	h->cpu_ns = clock_thread_cpu_ns() - began;
}

static void test_hot_rate_is_printed(void **state)
{
	enum { N = 20000 };
	struct look *looks = calloc(N, sizeof(*looks));
	struct put *puts;
	struct bed b;
	struct desk d;
	struct hot h;

	(void)state;
	bed_new(&b, 256 * MIB);
	puts = store(&b, N, 4096);
	desk_open(&d, &b, 256 * MIB, 16 * MIB, 64);
	shuffle(looks, N, puts, 1);
	(void)desk_read(&d, looks, N, 0);
	shuffle(looks, N, puts, 2);
	h = (struct hot){ .d = &d, .looks = looks, .n = N, .rounds = 2000 };
	call_on(b.reactors[0], hot_run, &h);
	printf("hot 4 KiB: prefetch + read_cached + read_release %.1f ns a sample\n",
		(double)h.cpu_ns / (h.rounds * 256.0));
	desk_close(&d);
	free(looks);
	free(puts);
	bed_free(&b);
}

/* Batches of 64 one after another, four at a time, as connections do; released at once. */
struct cold {
	struct desk *d;
	struct look *looks;
	uint32_t n, next, done;
	_Atomic bool is_over;
};

static struct cold *cold_now;

static void cold_start(struct cold *c);

static void on_cold(struct pack_read *r)
{
	struct cold *c = cold_now;

	if (r->err != 0)
		abort();
	read_release(c->d->reader, r);
	if (++c->done % 64 == 0 && c->next < c->n)
		cold_start(c);
	if (c->done == c->n)
		atomic_store(&c->is_over, true);
}

static void cold_start(struct cold *c)
{
	struct pack_read *reads[64];

	for (uint32_t i = 0; i < 64; i++) {
		reads[i] = &c->looks[c->next++].r;
		reads[i]->done = on_cold;
	}
	read_start(c->d->reader, reads, 64);
}

static void cold_run(void *arg)
{
	struct cold *c = arg;

	cold_now = c;
	for (uint32_t i = 0; i < 4; i++)
		cold_start(c);
}

static void test_cold_rate_is_printed(void **state)
{
	enum { N = 6016, LEN = 112 * 1024 };
	struct look *looks = calloc(N, sizeof(*looks));
	struct put *puts;
	struct bed b;
	struct desk d;
	struct cold c;
	uint64_t began, ns, cpu;

	(void)state;
	bed_new(&b, 256 * MIB);
	puts = store(&b, N, LEN);
	desk_open(&d, &b, 4 * MIB, 64 * MIB, 128);
	for (uint32_t round = 0; round < 2; round++) { /* the first takes the memory */
		shuffle(looks, N, puts, round);
		c = (struct cold){ .d = &d, .looks = looks, .n = N };
		cpu = reactor_cpu_ns(b.reactors[0]);
		began = clock_mono_ns();
		call_on(b.reactors[0], cold_run, &c);
		while (!atomic_load(&c.is_over))
			bed_sleep();
		ns = clock_mono_ns() - began;
		cpu = reactor_cpu_ns(b.reactors[0]) - cpu;
	}
	printf("cold 112 KiB, 4 batches of 64: %.0f/s, %.0f MB/s, %.1f us of CPU each\n",
		N * 1e9 / (double)ns, (double)N * LEN * 1e3 / (double)ns, (double)cpu / 1e3 / N);
	desk_close(&d);
	free(looks);
	free(puts);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_read_once_is_read_from_ram),
		cmocka_unit_test(test_units_of_a_large_object_are_kept_when_they_are_read_again),
		cmocka_unit_test(test_reads_wait_for_memory_and_never_fail),
		cmocka_unit_test(test_ranges_duplicates_and_bypass),
		cmocka_unit_test(test_files_are_opened_on_the_way_and_dying_packs_are_stale),
		cmocka_unit_test(test_a_truncated_file_is_corrupt),
		cmocka_unit_test(test_hot_rate_is_printed),
		cmocka_unit_test(test_cold_rate_is_printed),
	};

	bytes_fill(pool, sizeof(pool), 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
