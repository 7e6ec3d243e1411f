/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: what was answered survives the end of the process and a torn log, what was not is absent or whole; damage to
 * answered batches is refused and not hidden; reopening takes views away without harm.
 * Method: a child commits, tells each answer through a pipe and ends without closing; logs are cut and overwritten. */
#include "meta/kv.h"

#include "unit/test_kv_util.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

enum { CHILD_TXNS = 300, VALUE_LEN = 3000 };

static struct slice number_key(char *buf, uint32_t n, const char *what)
{
	snprintf(buf, 32, "%s%06u", what, n);
	return slice_str(buf);
}

/* Two rows that must appear together, one of them longer than a page. */
static void pair_put(struct kv_txn *t, uint32_t n)
{
	char a[32], b[32];
	uint8_t value[VALUE_LEN];
	struct wr w = wr_of(value, sizeof(value));

	value_begin(&w);
	tlv_put_u64(&w, TAG_ID, n + 1);
	tlv_put(&w, TAG_TAG, slice_of(wr_room(&w, 0), 0));
	memset(w.p, (int)('a' + n % 26), sizeof(value) - wr_len(&w));
	memcpy(w.p - 4, &(uint32_t){ (uint32_t)(sizeof(value) - wr_len(&w)) }, 4);
	kv_put(t, number_key(a, n, "a"), slice_of(value, sizeof(value)));
	kv_put(t, number_key(b, n, "b"), slice_of(value, sizeof(value)));
}

/* How many pairs from 0 on are there; asserts that none is half there. */
static uint32_t pairs_count(struct kv *kv)
{
	char a[32], b[32];
	uint32_t n = 0;

	for (;; n++) {
		uint64_t x = row_tag(kv, number_key(a, n, "a"), TAG_ID), y = row_tag(kv, number_key(b, n, "b"), TAG_ID);
		assert_true(x == y);
		if (x == UINT64_MAX)
			return n;
		assert_true(x == n + 1);
	}
}

/* Commits in a child that ends without kv_close; returns how many answers came. */
static uint32_t run_child(struct store *s, uint32_t stop_at)
{
	int pipe_fds[2];
	uint32_t answered = 0, n;
	pid_t pid;

	kv_close(&s->kv);
	assert_int_equal(pipe(pipe_fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (s->open(s->fs, "meta", &s->options, &s->kv) < 0)
			_exit(1);
		for (n = 0; n < stop_at; n++) {
			struct kv_txn *t = kv_txn_new(s->kv);
			pair_put(t, n);
			if (run_txn(s->kv, t) != 0 || write(pipe_fds[1], &n, sizeof(n)) != sizeof(n))
				_exit(1);
		}
		_exit(0);
	}
	close(pipe_fds[1]);
	while (read(pipe_fds[0], &n, sizeof(n)) == sizeof(n))
		answered = n + 1;
	close(pipe_fds[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	return answered;
}

static void newest_log(const struct store *s, char *path, size_t cap)
{
	char dir[300];
	DIR *d;
	unsigned long best = 0;

	snprintf(dir, sizeof(dir), "%s/meta", s->root);
	d = opendir(dir);
	assert_non_null(d);
	for (const struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
		unsigned long n = strtoul(e->d_name, NULL, 10);
		if (strstr(e->d_name, ".log") != NULL && n >= best) {
			best = n;
			snprintf(path, cap, "%s/%.64s", dir, e->d_name);
		}
	}
	closedir(d);
	assert_true(best > 0);
}

static off_t file_size(const char *path)
{
	int fd = open(path, O_RDONLY);
	off_t size = lseek(fd, 0, SEEK_END);

	close(fd);
	return size;
}

static void zero_bytes(const char *path, off_t at, size_t len)
{
	int fd = open(path, O_WRONLY);
	uint8_t zeros[4096] = { 0 };

	assert_true(fd >= 0 && len <= sizeof(zeros));
	assert_int_equal(pwrite(fd, zeros, len, at), len);
	close(fd);
}

static int reopen(struct store *s) { return s->open(s->fs, "meta", &s->options, &s->kv); }

static int set_up(void **state)
{
	store_init(*state = calloc(1, sizeof(struct store)), kv_open_rocks, false);
	return 0;
}

static int tear_down(void **state)
{
	store_release(*state);
	free(*state);
	return 0;
}

static void test_answered_transactions_survive_the_process(void **state)
{
	struct store *s = *state;
	uint32_t answered = run_child(s, CHILD_TXNS);

	assert_int_equal(answered, CHILD_TXNS);
	assert_int_equal(reopen(s), 0);
	assert_true(pairs_count(s->kv) >= answered);
}

static void test_log_cut_short_loses_the_tail_only(void **state)
{
	struct store *s = *state;
	char path[512];

	for (off_t cut = 1; cut < 20000; cut = cut * 3 + 1) {
		uint32_t kept;
		run_child(s, 20);
		newest_log(s, path, sizeof(path));
		assert_int_equal(truncate(path, file_size(path) - cut), 0);
		assert_int_equal(reopen(s), 0);
		kept = pairs_count(s->kv);
		assert_true(kept < 20 && kept + 1 + (uint32_t)cut / (2 * VALUE_LEN) >= 20);
		store_release(s); /* from the start again: an older log would cover the cut */
		store_init(s, kv_open_rocks, false);
	}
}

static void test_hole_in_the_last_batch_is_a_torn_write(void **state)
{
	struct store *s = *state;
	char path[512];
	off_t size;

	run_child(s, 20);
	newest_log(s, path, sizeof(path));
	size = file_size(path);
	zero_bytes(path, size - 5000, 600); /* inside the last batch; its end stands behind the hole */
	assert_int_equal(reopen(s), 0);
	assert_int_equal(pairs_count(s->kv), 19);
}

static void test_damage_before_the_last_batch_is_refused(void **state)
{
	struct store *s = *state;
	char path[512];

	run_child(s, 20);
	newest_log(s, path, sizeof(path));
	zero_bytes(path, file_size(path) / 2, 100);
	assert_int_equal(reopen(s), -GRANARY_ECORRUPT);
	assert_null(s->kv);
}

static void test_second_opener_is_told_it_is_locked(void **state)
{
	struct store *s = *state;
	struct kv *second;

	assert_int_equal(kv_open_rocks(s->fs, "meta", &s->options, &second), -GRANARY_ELOCKED);
	assert_null(second);
}

static void test_reopen_ends_views_and_keeps_rows(void **state)
{
	struct store *s = *state;
	struct kv_snapshot *snap;
	struct kv_iter *it, *late;
	struct kv_value v;
	char key[32];

	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(put_row(s->kv, number_key(key, i, "k"), i, 1, 0), 0);
	snap = kv_snapshot_new(s->kv);
	it = kv_iter_new(s->kv, snap);
	kv_iter_seek(it, slice_str("k"));
	assert_true(kv_iter_valid(it));
	assert_int_equal(kv_get(s->kv, slice_str("k000003"), &v), 0);
	assert_int_equal(kv_reopen(s->kv), 0);
	assert_true(slice_eq(kv_iter_key(it), slice_str("k000000"))); /* what it stood on is its own copy */
	kv_iter_next(it);
	assert_false(kv_iter_valid(it));
	assert_int_equal(kv_iter_error(it), -GRANARY_EBUSY);
	late = kv_iter_new(s->kv, snap);
	kv_iter_seek(late, slice_str("k"));
	assert_false(kv_iter_valid(late));
	assert_int_equal(kv_iter_error(late), -GRANARY_EBUSY);
	assert_true(v.v.len > 0);
	kv_value_release(&v);
	kv_iter_free(&it);
	kv_iter_free(&late);
	kv_snapshot_free(s->kv, &snap);
	assert_int_equal(row_tag(s->kv, slice_str("k000009"), TAG_ID), 9);
	assert_int_equal(put_row(s->kv, slice_str("after"), 1, 1, 0), 0);
	assert_int_equal(row_tag(s->kv, slice_str("after"), TAG_ID), 1);
}

static void test_many_rows_outlive_flushes_and_compactions(void **state)
{
	struct store *s = *state;
	struct kv_iter *it;
	uint32_t n = 0;

	s->options.write_buffer_size = 256 * 1024;
	s->options.block_cache_size = 1024 * 1024;
	store_reopen(s);
	for (uint32_t i = 0; i < 40; i++) {
		struct kv_txn *t = kv_txn_new(s->kv);
		for (uint32_t j = 0; j < 50; j++)
			pair_put(t, (j * 40 + i) % 2000);
		assert_int_equal(run_txn(s->kv, t), 0);
	}
	store_reopen(s);
	assert_int_equal(pairs_count(s->kv), 2000);
	it = kv_iter_new(s->kv, NULL);
	for (kv_iter_seek(it, slice_str("a")); kv_iter_valid(it); kv_iter_next(it))
		n++;
	assert_int_equal(n, 4000);
	kv_iter_free(&it);
}

struct ballast {
	struct fs *fs;
	uint32_t calls;
};

static void ballast_release(void *arg)
{
	struct ballast *b = arg;

	if (b->calls++ == 0 && fs_unlink(b->fs, "ballast") < 0)
		abort();
}

/* On a file system of 24 MiB: writes are refused when it is full, rows stay right, deletes work, writes come back. */
static void full_disk_run(struct store *s)
{
	struct ballast b = { NULL, 0 };
	struct fs_file *f;
	uint32_t n, left;
	int err = 0;

	assert_int_equal(fs_new_kernel(s->root, &s->fs), 0);
	assert_int_equal(fs_open(s->fs, "ballast", FS_CREATE_NEW, &f), 0);
	assert_int_equal(fs_allocate(f, 0, 8 * 1024 * 1024), 0);
	fs_close(&f);
	b.fs = s->fs;
	s->options = (struct kv_options){ .write_buffer_size = 1024 * 1024, .fatal = store_fatal,
		.nospace = ballast_release, .nospace_arg = &b };
	assert_int_equal(kv_open_rocks(s->fs, "meta", &s->options, &s->kv), 0);
	for (n = 0; n < 10000 && err == 0; n++) {
		struct kv_txn *t = kv_txn_new(s->kv);
		pair_put(t, n);
		err = run_txn(s->kv, t);
	}
	printf("full after %u pairs, ballast released %u times\n", n, b.calls);
	assert_true(b.calls > 0);
	assert_int_equal(err, -GRANARY_ENOSPACE);
	assert_int_equal(pairs_count(s->kv), n - 1); /* refused means not there, also after the reopen */
	left = n - 1;
	for (uint32_t i = 0; i < left; i++) {
		char a[32], c[32];
		struct kv_txn *t = kv_txn_new(s->kv);
		kv_delete(t, number_key(a, i, "a"));
		kv_delete(t, number_key(c, i, "b"));
		assert_int_equal(run_txn(s->kv, t), 0);
	}
	assert_int_equal(put_row(s->kv, slice_str("again"), 1, 1, 0), 0);
	store_reopen(s);
	assert_int_equal(row_tag(s->kv, slice_str("again"), TAG_ID), 1);
	assert_int_equal(pairs_count(s->kv), 0);
	kv_close(&s->kv);
	fs_free(&s->fs);
}

/* The mount comes before RocksDB's first thread: a thread keeps the mounts it was made with. */
static int full_disk_main(void)
{
	struct store s = { .open = kv_open_rocks };
	const char *tmp = getenv("TMPDIR");

	snprintf(s.root, sizeof(s.root), "%s/granary-kv-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(s.root));
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", s.root, "tmpfs", 0, "size=24m") < 0) {
		rmdir(s.root);
		return 77;
	}
	full_disk_run(&s);
	umount2(s.root, MNT_DETACH);
	rmdir(s.root);
	return 0;
}

/* In a process of its own, for its own mounts and for RocksDB's threads, which a fork does not take along. */
static void test_full_disk_refuses_and_recovers(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		execl("/proc/self/exe", "test_kv_rocks", "full-disk", (char *)NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip(); /* no right to mount here */
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_answered_transactions_survive_the_process, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_log_cut_short_loses_the_tail_only, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_hole_in_the_last_batch_is_a_torn_write, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damage_before_the_last_batch_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_second_opener_is_told_it_is_locked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reopen_ends_views_and_keeps_rows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_many_rows_outlive_flushes_and_compactions, set_up, tear_down),
		cmocka_unit_test(test_full_disk_refuses_and_recovers),
	};

	if (argc == 2 && strcmp(argv[1], "full-disk") == 0)
		return full_disk_main();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
