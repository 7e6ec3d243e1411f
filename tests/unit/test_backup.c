/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: a backup leads back to exactly the rows that were committed up to the end of its log, from any checkpoint that
 * is sound; what is damaged is found, and never taken for sound.
 * Method: a RocksDB store with a backup, random rows against a plain array; the backup's files are then damaged, cut
 * and removed one by one. docs/FORMAT.md 9, clause by clause. */
#include "unit/test_kv_util.h"

#include <dirent.h>
#include <sys/stat.h>

#include "common/rand.h"
#include "jobs/backup.h"
#include "jobs/backup_format.h"
#include "jobs/restore.h"

enum { KEYS = 200, ROUNDS = 40 };

struct bench {
	struct store s; /* the kv under test */
	struct backup *b;
	char dir[256];
	struct fs *to;
	struct rng rng;
	int values[KEYS]; /* -1: no row */
};

static const uint8_t store_id[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static void open_all(struct bench *w)
{
	struct backup_options o = { .fs = w->s.fs, .to = w->to, .every_ns = UINT64_MAX, .keep = 3 };

	assert_int_equal(backup_new(&o, &w->b), 0);
	w->s.options.tap = backup_tap(w->b);
	assert_int_equal(kv_open_rocks(w->s.fs, "meta", &w->s.options, &w->s.kv), 0);
	backup_attach(w->b, w->s.kv, store_id);
	assert_int_equal(backup_run(w->b, 7, NULL), 0);
}

static void close_all(struct bench *w)
{
	backup_stop(w->b);
	kv_close(&w->s.kv);
	backup_free(&w->b);
}

static int set_up(void **state)
{
	struct bench *w = calloc(1, sizeof(*w));

	store_init(&w->s, kv_open_rocks, false);
	kv_close(&w->s.kv);
	assert_int_equal(fs_put_file(w->s.fs, "master.key", "0123456789abcdef0123456789abcdef", 32), 0);
	snprintf(w->dir, sizeof(w->dir), "%.200s/backup", w->s.root);
	assert_int_equal(mkdir(w->dir, 0700), 0);
	assert_int_equal(fs_new_kernel(w->dir, &w->to), 0);
	for (int i = 0; i < KEYS; i++) w->values[i] = -1;
	rng_seed(&w->rng, 1);
	open_all(w);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct bench *w = *state;

	if (w->b != NULL) close_all(w);
	fs_free(&w->to);
	w->s.kv = NULL;
	store_release(&w->s);
	free(w);
	return 0;
}

static struct slice key_of(char *buf, int i)
{
	snprintf(buf, 32, "row-%04d", i);
	return slice_str(buf);
}

/* One transaction of a few rows. */
static void change(struct bench *w)
{
	struct kv_txn *t = kv_txn_new(w->s.kv);
	char key[32];

	for (int n = 0; n < 4; n++) {
		int i = (int)rng_below(&w->rng, KEYS), value = (int)rng_below(&w->rng, 1000000);
		if (rng_below(&w->rng, 4) == 0) {
			kv_delete(t, key_of(key, i));
			w->values[i] = -1;
		} else {
			kv_put(t, key_of(key, i), slice_of(&value, sizeof(value)));
			w->values[i] = value;
		}
	}
	assert_int_equal(kv_submit_wait(w->s.kv, t), 0);
	kv_txn_free(&t);
}

static int restored(struct bench *w, struct restore *r, struct kv **kv)
{
	*r = (struct restore){ .from = w->to, .to = w->s.fs, .dir = "made", .checkpoint = r->checkpoint };
	return restore_metadata(r, kv);
}

static void check_rows(struct kv *kv, const int *values)
{
	char key[32];

	for (int i = 0; i < KEYS; i++) {
		struct kv_value v;
		int err = kv_get(kv, key_of(key, i), &v), value = -1;
		if (err == 0) memcpy(&value, v.v.p, sizeof(value));
		if (err == 0) kv_value_release(&v);
		assert_true(err == 0 || err == -GRANARY_ENOTFOUND);
		assert_int_equal(value, values[i]);
	}
}

static void check_restored(struct bench *w, const int *values, uint64_t checkpoint, bool has_gap)
{
	struct restore r = { .checkpoint = checkpoint };
	struct kv *kv;
	int err = restored(w, &r, &kv);

	if (err < 0) fail_msg("restore: %s", r.why);
	assert_int_equal(r.has_gap, has_gap);
	assert_memory_equal(r.store_id, store_id, 16);
	assert_int_equal(r.incarnation, 7);
	check_rows(kv, values);
	kv_close(&kv);
	assert_int_equal(fs_remove_folder(w->s.fs, "made"), 0);
}

static int count_name(void *arg, const char *name)
{
	(void)name;
	++*(int *)arg;
	return 0;
}

static int newest_of(void *arg, const char *name)
{
	char *newest = arg;

	if (strncmp(name, newest, 4) == 0 && strlen(name) > 16 && strcmp(name, newest) > 0)
		snprintf(newest, 64, "%s", name);
	return 0;
}

/* The newest file that begins with the four letters. */
static void find_newest(struct bench *w, const char *prefix, char out[300])
{
	char name[64];

	snprintf(name, sizeof(name), "%s", prefix);
	assert_int_equal(fs_list(w->to, "", newest_of, name), 0);
	snprintf(out, 300, "%.200s/%s", w->dir, name);
}

static void flip_byte(const char *path, long at)
{
	FILE *f = fopen(path, "r+");
	int c;

	assert_non_null(f);
	fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
	c = fgetc(f);
	assert_int_not_equal(c, EOF);
	fseek(f, -1, SEEK_CUR);
	fputc(c ^ 0x40, f);
	fclose(f);
}

static void test_checkpoint_and_log_give_every_row_at_every_moment(void **state)
{
	struct bench *w = *state;

	for (int i = 0; i < ROUNDS; i++) {
		if (i % 10 == 0) backup_ask(w->b);
		for (uint64_t n = 1 + rng_below(&w->rng, 5); n > 0; n--) change(w);
		assert_int_equal(backup_turn(w->b), 0);
		if (i % 8 == 7) check_restored(w, w->values, 0, false);
	}
}

static void test_a_log_goes_on_over_a_restart_without_a_gap(void **state)
{
	struct bench *w = *state;
	char path[300];

	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	close_all(w);
	check_restored(w, w->values, 0, false);
	open_all(w);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	check_restored(w, w->values, 0, false);
	find_newest(w, "chec", path); /* that of this run */
	assert_int_equal(unlink(path), 0);
	check_restored(w, w->values, 0, false);
}

static void test_a_chosen_checkpoint_is_as_of_then(void **state)
{
	struct bench *w = *state;
	int then[KEYS];

	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	memcpy(then, w->values, sizeof(then));
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	check_restored(w, then, w->b != NULL ? 2 : 0, false);
	check_restored(w, w->values, 0, false);
}

static void test_a_damaged_checkpoint_is_passed_over_and_the_log_leads_on(void **state)
{
	struct bench *w = *state;
	char path[300];

	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	find_newest(w, "chec", path);
	flip_byte(path, 20);
	check_restored(w, w->values, 0, false);
	assert_int_equal(unlink(path), 0);
	check_restored(w, w->values, 0, false);
}

static void test_a_log_that_is_cut_anywhere_gives_a_state_that_was(void **state)
{
	struct bench *w = *state;
	int then[KEYS];
	struct stat st;
	char path[300];

	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	memcpy(then, w->values, sizeof(then));
	find_newest(w, "log-", path);
	assert_int_equal(stat(path, &st), 0);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	flip_byte(path, -10);
	check_restored(w, then, 0, false);
	assert_int_equal(truncate(path, st.st_size + 40), 0);
	check_restored(w, then, 0, false);
	assert_int_equal(truncate(path, st.st_size), 0);
	check_restored(w, then, 0, false);
}

static void test_a_missing_log_is_a_gap_that_is_told(void **state)
{
	struct bench *w = *state;
	int then[KEYS];
	char path[300];

	assert_int_equal(backup_turn(w->b), 0);
	memcpy(then, w->values, sizeof(then));
	find_newest(w, "log-", path);
	change(w);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0);
	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	check_restored(w, w->values, 0, false);
	assert_int_equal(unlink(path), 0);
	find_newest(w, "chec", path);
	assert_int_equal(unlink(path), 0);
	check_restored(w, then, 0, true);
}

static void test_tables_are_copied_once_and_old_checkpoints_go(void **state)
{
	struct bench *w = *state;
	int names = 0, later = 0;
	char text[4096];

	for (int i = 0; i < 6; i++) {
		for (int n = 0; n < 20; n++) change(w);
		backup_ask(w->b);
		assert_int_equal(backup_turn(w->b), 0);
	}
	assert_int_equal(fs_list(w->to, "files", count_name, &names), 0);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0); /* nothing is new but the small files */
	assert_true(backup_status(w->b, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "backup_checkpoints 7\n"));
	assert_int_equal(fs_list(w->to, "files", count_name, &later), 0);
	assert_true(later <= names + 3);
	names = 0;
	assert_int_equal(fs_list(w->to, "", count_name, &names), 0);
	assert_int_equal(names, 3 + 3 + 4); /* checkpoints, logs, title, lock, key, files/ */
	check_restored(w, w->values, 0, false);
}

static int unlink_table(void *arg, const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "files/%.120s", name);
	return strstr(name, ".sst") != NULL ? fs_unlink(arg, path) : 0;
}

static void test_a_table_that_was_taken_away_is_copied_again(void **state)
{
	struct bench *w = *state;

	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	assert_int_equal(fs_list(w->to, "files", unlink_table, w->to), 0);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0);
	check_restored(w, w->values, 0, false);
}

static void test_a_directory_of_others_is_refused_and_left_alone(void **state)
{
	struct bench *w = *state;
	uint8_t other[16] = { 9 };
	int names = 0;

	assert_int_equal(fs_put_file(w->to, "notes.txt", "x", 1), 0);
	assert_int_equal(backup_turn(w->b), -GRANARY_ENOTEMPTY);
	assert_int_equal(fs_list(w->to, "", count_name, &names), 0);
	assert_int_equal(names, 2); /* the lock */
	assert_int_equal(fs_unlink(w->to, "notes.txt"), 0);
	backup_ask(w->b);
	assert_int_equal(backup_turn(w->b), 0);
	close_all(w);
	open_all(w);
	backup_attach(w->b, w->s.kv, other);
	assert_int_equal(backup_turn(w->b), -GRANARY_EBADFORMAT);
}

static void test_a_damaged_file_is_never_restored(void **state)
{
	struct bench *w = *state;
	struct restore r = { .checkpoint = 0 };
	struct kv *kv;
	char path[600];
	struct dirent *e;
	DIR *dir;

	change(w);
	assert_int_equal(backup_turn(w->b), 0);
	snprintf(path, sizeof(path), "%s/files", w->dir);
	dir = opendir(path);
	while ((e = readdir(dir)) != NULL) {
		if (e->d_name[0] == '.') continue;
		snprintf(path, sizeof(path), "%s/files/%s", w->dir, e->d_name);
		flip_byte(path, 3);
		assert_int_equal(restored(w, &r, &kv), -GRANARY_ECORRUPT);
		assert_non_null(strstr(r.why, "whole"));
		flip_byte(path, 3);
	}
	closedir(dir);
	check_restored(w, w->values, 0, false);
}

static void test_format_9_2_refuses_what_is_no_manifest(void **state)
{
	struct backup_manifest m = { .number = 5, .position = 9, .made_s = 1, .engine = "rocksdb" }, got;
	const struct backup_file f = {
		.stored = "05-000009.sst", .name = "000009.sst", .size = 77, .crc = 3, .identity = 4
	};
	size_t len;
	char *text;

	(void)state;
	assert_int_equal(backup_manifest_add(&m, &f), 0);
	text = backup_manifest_encode(&m, &len);
	assert_int_equal(backup_manifest_decode(slice_of(text, len), &got), 0);
	assert_int_equal(got.count, 1);
	assert_string_equal(got.files[0].stored, f.stored);
	assert_int_equal(got.files[0].size, 77);
	backup_manifest_release(&got);
	for (size_t i = 0; i < len; i++) { /* any byte that differs */
		text[i] ^= 1;
		assert_int_not_equal(backup_manifest_decode(slice_of(text, len), &got), 0);
		text[i] ^= 1;
	}
	for (size_t n = 0; n < len; n++) assert_int_not_equal(backup_manifest_decode(slice_of(text, n), &got), 0);
	free(text);
	snprintf(m.files[0].name, sizeof(m.files[0].name), "../x");
	text = backup_manifest_encode(&m, &len);
	assert_int_equal(backup_manifest_decode(slice_of(text, len), &got), -GRANARY_EBADFORMAT);
	free(text);
	backup_manifest_release(&m);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_checkpoint_and_log_give_every_row_at_every_moment),
		TEST(test_a_log_goes_on_over_a_restart_without_a_gap),
		TEST(test_a_chosen_checkpoint_is_as_of_then),
		TEST(test_a_damaged_checkpoint_is_passed_over_and_the_log_leads_on),
		TEST(test_a_log_that_is_cut_anywhere_gives_a_state_that_was),
		TEST(test_a_missing_log_is_a_gap_that_is_told),
		TEST(test_tables_are_copied_once_and_old_checkpoints_go),
		TEST(test_a_table_that_was_taken_away_is_copied_again),
		TEST(test_a_directory_of_others_is_refused_and_left_alone),
		TEST(test_a_damaged_file_is_never_restored),
		cmocka_unit_test(test_format_9_2_refuses_what_is_no_manifest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
