/* SPDX-License-Identifier: Apache-2.0 */
/* test_writer.c -- the pack writer on real threads and a real file system. */
#include "test_pack_fixture.h"

enum { MIB = 1024 * 1024 };

static uint8_t pool[8 * MIB];

static const uint8_t *data_of(uint64_t object, uint32_t len)
{
	return pool + (object * 4099) % (sizeof(pool) - len);
}

static int each_count(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	uint64_t *count = arg;

	(void)offset;
	assert_memory_equal(data, data_of(r->object_id, r->data_len), r->data_len);
	assert_int_equal(r->version, r->object_id + 7);
	(*count)++;
	return 0;
}

static void on_problem(void *arg, const struct pack_problem *p)
{
	(void)arg;
	fail_msg("problem at %llu: %s", (unsigned long long)p->offset, p->what);
}

/* Walks every sealed pack, compares with its footer, counts records. */
static uint64_t walk_all(struct bed *b)
{
	struct pack_info info[64];
	uint32_t n = packs_list(b->packs, 0, info, 64);
	uint64_t count = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct pack_walk walk = { .pack_id = info[i].id, .verify_data = true, .want_data = true,
			.each = each_count, .problem = on_problem, .arg = &count };
		struct pack *pack = packs_ref(b->packs, info[i].id);
		int err = pack_file(pack) ? 0 : packs_open_file(b->packs, pack);

		assert_int_equal(err, 0);
		assert_int_equal(info[i].state, PACK_SEALED);
		err = pack_check_sealed(pack_file(pack), &walk);
		assert_int_equal(err, 0);
		packs_unref(b->packs, pack);
	}
	return count;
}

struct feeder {
	pthread_t thread;
	struct bed *b;
	struct put *puts;
	uint32_t count, first;
	uint64_t group;
	uint32_t len_max;
};

static void *feed(void *arg)
{
	struct feeder *f = arg;
	struct rng r;

	rng_seed(&r, f->first + 1);
	for (uint32_t i = 0; i < f->count; i++) {
		uint32_t len = (uint32_t)rng_below(&r, i % 50 == 0 ? f->len_max : 12000);
		uint64_t object = f->first + i + 1;

		put_init(&f->puts[i], f->b, f->group + i % 3, object, data_of(object, len), len);
		pack_append(f->b->writers, &f->puts[i].a);
		if (i >= 200)
			put_wait(&f->puts[i - 200]);
	}
	return NULL;
}

/* Several threads, several groups, records of 0 bytes to 4 MiB, small packs so that they roll over.
 * */
static void test_appends_of_many_threads_are_in_the_packs(void **state)
{
	enum { THREADS = 4, EACH = 3000 };
	struct feeder f[THREADS];
	struct bed b;

	(void)state;
	bed_new(&b, 16 * MIB);
	for (uint32_t i = 0; i < THREADS; i++) {
		f[i] = (struct feeder){ .b = &b, .count = EACH, .first = i * EACH, .group = 10 + i, .len_max = 4 * MIB,
			.puts = calloc(EACH, sizeof(struct put)) };
		assert_non_null(f[i].puts);
		pthread_create(&f[i].thread, NULL, feed, &f[i]);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(f[i].thread, NULL);
		for (uint32_t k = 0; k < EACH; k++) {
			put_wait(&f[i].puts[k]);
			assert_int_equal(atomic_load(&f[i].puts[k].done), 1);
			assert_int_equal(f[i].puts[k].a.err, 0);
			put_verify(&b, &f[i].puts[k], f[i].puts[k].a.data);
		}
		put_commit(&b, f[i].puts, EACH);
	}
	writers_rotate(b.writers, true);
	bed_idle(&b);
	assert_int_equal(walk_all(&b), THREADS * EACH);
	/* Everything is still there after a restart. */
	bed_down(&b);
	bed_up(&b);
	assert_int_equal(walk_all(&b), THREADS * EACH);
	for (uint32_t i = 0; i < THREADS; i++)
		free(f[i].puts);
	bed_free(&b);
}

/* A pack left open is sealed by the next start up to its committed end. */
static void test_open_packs_of_an_earlier_start_are_sealed_at_the_committed_end(void **state)
{
	enum { N = 50, COMMITTED = 30 };
	struct put *puts = calloc(N, sizeof(*puts));
	struct pack_info info[8];
	uint64_t records = 0;
	uint32_t n;
	struct bed b;

	(void)state;
	bed_new(&b, 64 * MIB);
	for (uint32_t i = 0; i < N; i++) {
		put_init(&puts[i], &b, 77, i + 1, data_of(i + 1, 5000), 5000);
		pack_append(b.writers, &puts[i].a);
		put_wait(&puts[i]);
		assert_int_equal(puts[i].a.err, 0);
	}
	put_commit(&b, puts, COMMITTED);
	for (uint32_t i = COMMITTED; i < N; i++)
		pack_append_settled(&puts[i].a);
	bed_down(&b);
	bed_up(&b);
	n = packs_list(b.packs, 0, info, 8);
	assert_int_equal(n, 1);
	assert_int_equal(info[0].state, PACK_OPEN);
	assert_false(info[0].mine);
	assert_int_equal(pack_seal(b.packs, info[0].id, NULL), 0);
	assert_int_equal(pack_seal(b.packs, info[0].id, NULL), -GRANARY_EINVAL);
	records = walk_all(&b);
	assert_int_equal(records, COMMITTED);
	free(puts);
	bed_free(&b);
}

/* Small records do not straddle a 4 KiB line while that costs under a tenth; groups begin at lines.
 * */
static void test_small_records_keep_to_their_lines(void **state)
{
	enum { N = 4000 };
	struct put *puts = calloc(N, sizeof(*puts));
	uint32_t straddles = 0;
	struct bed b;

	(void)state;
	bed_new(&b, 64 * MIB);
	for (uint32_t i = 0; i < N; i++) {
		put_init(&puts[i], &b, 3, i + 1, data_of(i + 1, 300), 300);
		puts[i].a.next = NULL;
		if (i > 0)
			puts[i - 1].a.next = &puts[i].a;
	}
	pack_append(b.writers, &puts[0].a);
	for (uint32_t i = 0; i < N; i++) {
		uint64_t at;

		put_wait(&puts[i]);
		assert_int_equal(puts[i].a.err, 0);
		at = puts[i].a.extent.record;
		straddles += at / 4096 != (at + puts[i].a.total_len - 1) / 4096;
		assert_int_equal(at % 8, 0);
	}
	/* Only until the pack is long enough to pay for the padding. */
	assert_true(straddles < N / 20);
	for (uint32_t i = 0; i < N; i++)
		pack_append_settled(&puts[i].a);
	free(puts);
	bed_free(&b);
}

static void test_appends_after_stop_fail_with_shutdown(void **state)
{
	struct put p;
	struct bed b;

	(void)state;
	bed_new(&b, 16 * MIB);
	writers_stop(b.writers);
	put_init(&p, &b, 1, 1, pool, 100);
	pack_append(b.writers, &p.a);
	put_wait(&p);
	assert_int_equal(p.a.err, -GRANARY_ESHUTDOWN);
	bed_free(&b);
}

static void test_oversized_records_are_refused(void **state)
{
	struct put p;
	struct bed b;

	(void)state;
	bed_new(&b, 16 * MIB);
	put_init(&p, &b, 1, 1, pool, 100);
	p.a.data_len = EXTENT_LEN_MAX + 1;
	pack_append(b.writers, &p.a);
	put_wait(&p);
	assert_int_equal(p.a.err, -GRANARY_ETOOBIG);
	bed_free(&b);
}

static void put_all(struct bed *b, struct put *puts, uint32_t n)
{
	enum { BATCH = 500 };

	for (uint32_t i = 0; i < n; i++) {
		put_init(&puts[i], b, 4, i + 1, data_of(i % 64, 4096), 4096);
		if (i % BATCH != 0)
			puts[i - 1].a.next = &puts[i].a;
	}
	for (uint32_t i = 0; i < n; i += BATCH)
		pack_append(b->writers, &puts[i].a);
	for (uint32_t i = 0; i < n; i++) {
		put_wait(&puts[i]);
		assert_int_equal(puts[i].a.err, 0);
		pack_append_settled(&puts[i].a);
	}
}

static uint64_t reactors_cpu(struct bed *b)
{
	return reactor_cpu_ns(b->reactors[0]) + reactor_cpu_ns(b->reactors[1]);
}

/* The append path with its writes: CPU of the reactors, once staging memory is warm. */
static void test_append_rate_is_printed(void **state)
{
	enum { N = 20000 };
	struct put *puts = calloc(N, sizeof(*puts));
	uint64_t began, cpu, wall;
	struct bed b;

	(void)state;
	bed_new(&b, 256 * MIB);
	put_all(&b, puts, N);
	cpu = reactors_cpu(&b);
	began = clock_mono_ns();
	put_all(&b, puts, N);
	wall = clock_mono_ns() - began;
	cpu = reactors_cpu(&b) - cpu;
	printf("append 4 KiB: %.0f/s, reactor CPU %.0f ns a record, %.0f MB/s\n", N * 1e9 / (double)wall,
		(double)cpu / N, N * 4096.0 * 1e3 / (double)wall);
	free(puts);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_appends_of_many_threads_are_in_the_packs),
		cmocka_unit_test(test_open_packs_of_an_earlier_start_are_sealed_at_the_committed_end),
		cmocka_unit_test(test_small_records_keep_to_their_lines),
		cmocka_unit_test(test_appends_after_stop_fail_with_shutdown),
		cmocka_unit_test(test_oversized_records_are_refused),
		cmocka_unit_test(test_append_rate_is_printed),
	};

	bytes_fill(pool, sizeof(pool), 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
