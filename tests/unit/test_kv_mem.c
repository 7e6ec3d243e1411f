/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the simulation's engine loses nothing that was synced: its log is replayed up to the first record that is not
 * whole, and a checkpoint replaces map and log together.
 * Method: the log is cut and damaged at many places; groups before the place are there, later ones are not. */
#include "meta/kv.h"

#include "unit/test_kv_util.h"

enum { GROUPS = 12, RECORD_SIZE = 4096 };

static struct slice number_key(char *buf, uint32_t n)
{
	snprintf(buf, 32, "k%06u", n);
	return slice_str(buf);
}

static uint32_t rows_count(struct kv *kv)
{
	struct kv_iter *it = kv_iter_new(kv, NULL);
	uint32_t n = 0;

	for (kv_iter_seek(it, slice_str("")); kv_iter_valid(it); kv_iter_next(it))
		n++;
	assert_int_equal(kv_iter_error(it), 0);
	kv_iter_free(&it);
	return n;
}

static int set_up(void **state)
{
	struct store *s = calloc(1, sizeof(*s));
	char key[32];

	store_init(s, kv_open_mem, true);
	for (uint32_t i = 0; i < GROUPS; i++)
		assert_int_equal(put_row(s->kv, number_key(key, i), i, 1, 0), 0);
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	store_release(*state);
	free(*state);
	return 0;
}

static int keep_log_name(void *arg, const char *name)
{
	if (strncmp(name, "log.", 4) == 0)
		snprintf(arg, 300, "meta/%.100s", name);
	return 0;
}

static struct fs_file *log_open(struct store *s)
{
	char path[300] = "";
	struct fs_file *f;

	kv_close(&s->kv);
	assert_int_equal(fs_list(s->fs, "meta", keep_log_name, path), 0);
	assert_int_equal(fs_open(s->fs, path, FS_WRITE, &f), 0);
	assert_int_equal(fs_size(f), GROUPS * RECORD_SIZE);
	return f;
}

static void log_close(struct store *s, struct fs_file *f, uint32_t rows)
{
	fs_close(&f);
	assert_int_equal(kv_open_mem(s->fs, "meta", &s->options, &s->kv), 0);
	assert_int_equal(rows_count(s->kv), rows);
	store_reopen(s); /* recovery made a checkpoint: the same again */
	assert_int_equal(rows_count(s->kv), rows);
	assert_int_equal(put_row(s->kv, slice_str("more"), 1, 1, 0), 0);
	store_reopen(s);
	assert_int_equal(rows_count(s->kv), rows + 1);
}

static void test_whole_log_is_replayed(void **state)
{
	struct store *s = *state;

	log_close(s, log_open(s), GROUPS);
}

static void test_log_cut_inside_a_record_keeps_those_before(void **state)
{
	struct store *s = *state;
	struct fs_file *f = log_open(s);

	assert_int_equal(fs_truncate(f, 7 * RECORD_SIZE + 40), 0);
	log_close(s, f, 7);
}

static void test_torn_last_record_is_dropped(void **state)
{
	struct store *s = *state;
	struct fs_file *f = log_open(s);
	uint8_t byte = 0xff;

	assert_int_equal(fs_write(f, &byte, 1, (GROUPS - 1) * RECORD_SIZE + 50), 0);
	log_close(s, f, GROUPS - 1);
}

static void test_stale_record_of_another_generation_is_not_replayed(void **state)
{
	struct store *s = *state;
	struct fs_file *f = log_open(s);
	uint8_t record[RECORD_SIZE];

	assert_int_equal(fs_read(f, record, sizeof(record), 0), sizeof(record));
	fs_close(&f);
	assert_int_equal(kv_open_mem(s->fs, "meta", &s->options, &s->kv), 0);
	assert_int_equal(delete_row(s->kv, slice_str("k000000")), 0);
	kv_close(&s->kv);
	{
		char path[300] = "";
		assert_int_equal(fs_list(s->fs, "meta", keep_log_name, path), 0);
		assert_int_equal(fs_open(s->fs, path, FS_WRITE, &f), 0);
		assert_int_equal(fs_size(f), RECORD_SIZE);
		assert_int_equal(fs_write(f, record, sizeof(record), RECORD_SIZE), 0);
	}
	log_close(s, f, GROUPS - 1);
}

static void test_checkpoints_come_and_nothing_is_lost(void **state)
{
	struct store *s = *state;
	struct slice row;
	char key[32];
	uint8_t *big = calloc(1, 200 * 1024);

	for (uint32_t i = 0; i < 60; i++) { /* 12 MiB of log */
		struct kv_txn *t = kv_txn_new(s->kv);
		kv_put(t, number_key(key, 1000 + i % 20), slice_of(big, 200 * 1024));
		assert_int_equal(run_txn(s->kv, t), 0);
		if (i % 7 == 0)
			store_reopen(s);
	}
	row = number_key(key, 1019);
	assert_true(row.len > 0);
	assert_int_equal(rows_count(s->kv), GROUPS + 20);
	store_reopen(s);
	assert_int_equal(rows_count(s->kv), GROUPS + 20);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_whole_log_is_replayed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_log_cut_inside_a_record_keeps_those_before, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_torn_last_record_is_dropped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stale_record_of_another_generation_is_not_replayed,
			set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_checkpoints_come_and_nothing_is_lost, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
