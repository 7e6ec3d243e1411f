/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: threads that race on a few rows see each transaction whole and in one order.
 * Method: four threads create and delete the same files in one directory as the namespace does: the file's row must
 * be as it was read, the directory's row goes with its last file, and a counter tells how many there are. Readers
 * check at all times that what one snapshot shows agrees with itself. */
#include "meta/kv.h"

#include "common/rand.h"
#include "unit/test_kv_util.h"

enum { THREADS = 4, FILES = 5, TURNS = 1500, TURNS_MAX_TRIES = 8 };

/* RocksDB is not built for ThreadSanitizer, which cannot see its atomics: only our own code is judged. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:librocksdb\nrace:librocksdb\n";
}

struct shared {
	struct store store;
	_Atomic bool is_over;
	_Atomic uint64_t done, refused;
};

static const uint64_t dir_id = 42;
#define DIR_ROW slice_str("D")
#define COUNT_ROW slice_str("N")

static struct slice file_key(uint8_t *buf, uint64_t n)
{
	char name[4] = { 'f', (char)('0' + n), 0, 0 };

	return row_entry(buf, dir_id, slice_str(name), false);
}

/* The rows under the directory, read with a view. */
static uint32_t files_count(struct kv *kv, struct kv_snapshot *snap)
{
	uint8_t prefix[ROW_KEY_MAX];
	struct slice p = row_entry_prefix(prefix, dir_id);
	struct kv_iter *it = kv_iter_new(kv, snap);
	uint32_t n = 0;

	for (kv_iter_seek(it, p); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice k = kv_iter_key(it);
		if (k.len < p.len || memcmp(k.p, p.p, p.len) != 0)
			break;
		n++;
	}
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
	return n;
}

static uint64_t view_tag(struct kv *kv, struct kv_snapshot *snap, struct slice key, uint16_t tag)
{
	struct kv_iter *it = kv_iter_new(kv, snap);
	uint64_t n = UINT64_MAX;

	kv_iter_seek(it, key);
	if (kv_iter_valid(it) && slice_eq(kv_iter_key(it), key))
		assert_true(value_u64(kv_iter_value(it), tag, 0, &n));
	kv_iter_free(&it);
	return n;
}

/* Creates the file or deletes it, as it was found; the directory's row comes with the first file and goes with the
 * last. */
static int flip(struct kv *kv, uint64_t file, uint64_t version)
{
	uint8_t key[ROW_KEY_MAX], prefix[ROW_KEY_MAX], value[256], dir_value[256];
	struct slice k = file_key(key, file);
	struct kv_txn *t = kv_txn_new(kv);
	uint64_t seen = kv_seq(kv);
	uint64_t old = row_tag(kv, k, TAG_VERSION);
	bool has_dir = row_tag(kv, DIR_ROW, TAG_ID) != UINT64_MAX;
	bool is_last = files_count(kv, NULL) == 1;

	if (old == UINT64_MAX) {
		kv_pre_absent(t, seen, k);
		if (has_dir)
			kv_pre_id(t, seen, DIR_ROW, dir_id, false);
		else
			kv_pre_absent(t, seen, DIR_ROW);
		kv_put(t, k, value_of(value, file + 1, version, 0));
		if (!has_dir)
			kv_put(t, DIR_ROW, value_of(dir_value, dir_id, version, 0));
		kv_add(t, COUNT_ROW, 64, 1);
	} else {
		kv_pre_version(t, seen, k, old);
		kv_delete(t, k);
		kv_pre_range(t, row_entry_prefix(prefix, dir_id), is_last);
		if (is_last)
			kv_delete(t, DIR_ROW);
		kv_add(t, COUNT_ROW, 64, -1);
	}
	return run_txn(kv, t);
}

static void *writer(void *arg)
{
	struct shared *s = arg;
	struct rng r;

	rng_seed(&r, atomic_fetch_add(&s->done, 1));
	for (int i = 0; i < TURNS; i++) {
		int err = -GRANARY_EBUSY;
		for (int n = 0; err == -GRANARY_EBUSY && n < TURNS_MAX_TRIES; n++)
			err = flip(s->store.kv, rng_below(&r, FILES), rng_next(&r) >> 1);
		if (err != 0 && err != -GRANARY_EBUSY)
			abort();
		atomic_fetch_add(err == 0 ? &s->done : &s->refused, 1);
	}
	return NULL;
}

static void check_view(struct kv *kv)
{
	struct kv_snapshot *snap = kv_snapshot_new(kv);
	uint32_t files = files_count(kv, snap);
	uint64_t count = view_tag(kv, snap, COUNT_ROW, 64);
	bool has_dir = view_tag(kv, snap, DIR_ROW, TAG_ID) != UINT64_MAX;

	if (has_dir != (files > 0) || (count != UINT64_MAX && count != files)) {
		fprintf(stderr, "torn view: files=%u count=%d dir=%d\n", files, (int)count, has_dir);
		abort();
	}
	kv_snapshot_free(kv, &snap);
}

static void *reader(void *arg)
{
	struct shared *s = arg;

	while (!atomic_load(&s->is_over))
		check_view(s->store.kv);
	return NULL;
}

static void run_race(kv_open_fn open, bool is_mem)
{
	struct shared s = { .is_over = false };
	pthread_t writers[THREADS], readers[2];
	struct kv_stats stats;

	store_init(&s.store, open, is_mem);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&writers[i], NULL, writer, &s), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, reader, &s), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&s.is_over, true);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	check_view(s.store.kv);
	kv_get_stats(s.store.kv, &stats);
	printf("done=%d refused=%d conflicts=%d groups=%d\n", (int)s.done, (int)s.refused, (int)stats.conflicts,
		(int)stats.groups);
	assert_int_equal(stats.clamped, 0);
	assert_true(atomic_load(&s.done) > TURNS);
	store_release(&s.store);
}

static void test_racing_creates_and_deletes_keep_the_directory_right_on_rocks(void **state)
{
	(void)state;
	run_race(kv_open_rocks, false);
}

static void test_racing_creates_and_deletes_keep_the_directory_right_on_mem(void **state)
{
	(void)state;
	run_race(kv_open_mem, true);
}

/* Scans that a reopen may end, but never make wrong; gets go on. */
static void *scanner(void *arg)
{
	struct shared *s = arg;
	uint8_t key[ROW_KEY_MAX];

	while (!atomic_load(&s->is_over)) {
		struct kv_iter *it = kv_iter_new(s->store.kv, NULL);
		struct kv_value v;
		uint32_t n = 0;
		for (kv_iter_seek(it, slice_str("")); kv_iter_valid(it); kv_iter_next(it))
			n += kv_iter_key(it).len > 0;
		if (kv_iter_error(it) != -GRANARY_EBUSY && (kv_iter_error(it) != 0 || n < FILES))
			abort();
		kv_iter_free(&it);
		if (kv_get(s->store.kv, file_key(key, 0), &v) != 0 || v.v.len == 0)
			abort();
		kv_value_release(&v);
	}
	return NULL;
}

static void *putter(void *arg)
{
	struct shared *s = arg;
	uint8_t key[ROW_KEY_MAX];

	for (uint64_t i = 0; !atomic_load(&s->is_over); i++)
		if (put_row(s->store.kv, file_key(key, i % FILES), i, i, 0) != 0)
			abort();
	return NULL;
}

static void test_reopening_under_load_harms_nobody(void **state)
{
	struct shared s = { .is_over = false };
	pthread_t scanners[2], putters[2];
	uint8_t key[ROW_KEY_MAX];

	(void)state;
	store_init(&s.store, kv_open_rocks, false);
	for (uint64_t i = 0; i < FILES; i++)
		assert_int_equal(put_row(s.store.kv, file_key(key, i), i, i, 0), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&scanners[i], NULL, scanner, &s), 0);
		assert_int_equal(pthread_create(&putters[i], NULL, putter, &s), 0);
	}
	for (int i = 0; i < 10; i++) {
		usleep(20000);
		assert_int_equal(kv_reopen(s.store.kv), 0);
	}
	atomic_store(&s.is_over, true);
	for (int i = 0; i < 2; i++) {
		pthread_join(scanners[i], NULL);
		pthread_join(putters[i], NULL);
	}
	store_release(&s.store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_racing_creates_and_deletes_keep_the_directory_right_on_rocks),
		cmocka_unit_test(test_racing_creates_and_deletes_keep_the_directory_right_on_mem),
		cmocka_unit_test(test_reopening_under_load_harms_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
