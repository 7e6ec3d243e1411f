/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: struct fs on the kernel: paths stay inside, errors are ours, small files are put whole, locks exclude. */
#include "io/fs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "io/mem.h"
#include "io/sock.h"

static char dir[64];
static struct fs *fs;

static void test_missing_root_is_not_found(void **state)
{
	struct fs *none;
	(void)state;
	assert_int_equal(fs_new_kernel("/nonexistent/granary", &none), -GRANARY_ENOTFOUND);
	assert_null(none);
}

static void test_paths_that_leave_the_root_are_refused(void **state)
{
	static const char *const bad[] = { "", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "../x" };
	struct fs_file *f;
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(fs_open(fs, bad[i], FS_READ, &f), -GRANARY_EINVAL);
		assert_int_equal(fs_unlink(fs, bad[i]), -GRANARY_EINVAL);
		assert_int_equal(fs_rename(fs, "x", bad[i]), -GRANARY_EINVAL);
		assert_int_equal(fs_put_file(fs, bad[i], "x", 1), -GRANARY_EINVAL);
	}
}

static void test_open_flags_say_what_must_exist(void **state)
{
	struct fs_file *f;
	(void)state;
	assert_int_equal(fs_open(fs, "a", FS_READ, &f), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_open(fs, "a", FS_WRITE, &f), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_open(fs, "a", FS_CREATE_NEW, &f), 0);
	assert_true(fs_file_fd(f) >= 0);
	fs_close(&f);
	assert_null(f);
	assert_int_equal(fs_open(fs, "a", FS_CREATE_NEW, &f), -GRANARY_EEXIST);
	assert_int_equal(fs_mkdir(fs, "d"), 0);
	assert_int_equal(fs_mkdir(fs, "d"), -GRANARY_EEXIST);
	assert_int_equal(fs_open(fs, "d", FS_READ, &f), -GRANARY_EISDIR);
	assert_int_equal(fs_exists(fs, "a"), 1);
	assert_int_equal(fs_exists(fs, "a/b"), 0);
	assert_int_equal(fs_exists(fs, "d/none"), 0);
	assert_int_equal(fs_unlink(fs, "a"), 0);
	assert_int_equal(fs_unlink(fs, "a"), -GRANARY_ENOTFOUND);
	rmdir("d");
}

static void test_fifo_is_refused_and_does_not_block(void **state)
{
	char path[128];
	struct fs_file *f;
	(void)state;
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(fs_open(fs, "fifo", FS_READ, &f), -GRANARY_EINVAL);
	assert_int_equal(fs_unlink(fs, "fifo"), 0);
}

static void test_symbolic_link_is_not_followed(void **state)
{
	char path[128];
	struct fs_file *f;
	(void)state;
	snprintf(path, sizeof(path), "%s/link", dir);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_true(fs_open(fs, "link", FS_READ, &f) < 0);
	assert_int_equal(fs_unlink(fs, "link"), 0);
}

static void test_read_write_size_allocate_truncate(void **state)
{
	char text[16];
	struct fs_file *f;
	(void)state;
	assert_int_equal(fs_open(fs, "f", FS_CREATE_NEW, &f), 0);
	assert_int_equal(fs_write(f, "0123456789", 10, 0), 0);
	assert_int_equal(fs_datasync(f), 0);
	assert_int_equal(fs_sync(f), 0);
	assert_int_equal(fs_size(f), 10);
	assert_int_equal(fs_read(f, text, sizeof(text), 4), 6);
	assert_memory_equal(text, "456789", 6);
	assert_int_equal(fs_read(f, text, sizeof(text), 10), 0);
	assert_int_equal(fs_allocate(f, 0, 1 << 20), 0);
	assert_int_equal(fs_size(f), 1 << 20);
	assert_int_equal(fs_truncate(f, 3), 0);
	assert_int_equal(fs_read(f, text, sizeof(text), 0), 3);
	fs_close(&f);
	assert_int_equal(fs_unlink(fs, "f"), 0);
}

static void test_direct_file_has_an_alignment_and_refuses_odd_writes(void **state)
{
	struct fs_file *f;
	uint8_t *mem = mem_map(4096);
	(void)state;
	assert_int_equal(fs_open(fs, "f", FS_CREATE_NEW | FS_DIRECT, &f), 0);
	uint32_t align = fs_file_align(f);
	assert_true(align >= 512 && (align & (align - 1)) == 0);
	memset(mem, 'a', 4096);
	assert_int_equal(fs_write(f, mem, 4096, 0), 0);
	memset(mem, 0, 4096);
	assert_int_equal(fs_read(f, mem, 8192, 0), 4096);
	assert_int_equal(mem[4095], 'a');
	fs_close(&f);
	assert_int_equal(fs_unlink(fs, "f"), 0);
	mem_unmap(mem, 4096);
}

static void test_put_file_replaces_whole_and_survives_a_leftover(void **state)
{
	char text[16];
	size_t len;
	struct fs_file *f;
	(void)state;
	assert_int_equal(fs_mkdir(fs, "put"), 0);
	assert_int_equal(fs_get_file(fs, "put/c", text, sizeof(text), &len), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_put_file(fs, "put/c", "first", 5), 0);
	assert_int_equal(fs_open(fs, "put/c.tmp", FS_CREATE_NEW, &f), 0); /* a crash in the middle of a put */
	fs_close(&f);
	assert_int_equal(fs_put_file(fs, "put/c", "2nd", 3), 0);
	assert_int_equal(fs_get_file(fs, "put/c", text, sizeof(text), &len), 0);
	assert_true(len == 3 && memcmp(text, "2nd", 3) == 0);
	assert_int_equal(fs_get_file(fs, "put/c", text, 2, &len), -GRANARY_ETOOBIG);
	assert_int_equal(fs_exists(fs, "put/c.tmp"), 0);
	assert_int_equal(fs_put_file(fs, "none/c", "x", 1), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_put_file(fs, "put/empty", "", 0), 0);
	assert_int_equal(fs_get_file(fs, "put/empty", text, 0, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(fs_unlink(fs, "put/c"), 0);
	assert_int_equal(fs_unlink(fs, "put/empty"), 0);
}

static void test_lock_is_refused_twice_and_free_after_close(void **state)
{
	struct fs_file *one, *two;
	char text[32] = "";
	size_t len;
	(void)state;
	assert_int_equal(fs_lock(fs, "lock", &one), 0);
	assert_int_equal(fs_lock(fs, "lock", &two), -GRANARY_ELOCKED);
	assert_int_equal(fs_get_file(fs, "lock", text, sizeof(text) - 1, &len), 0);
	assert_int_equal(strtol(text, NULL, 10), getpid());
	fs_close(&one);
	assert_int_equal(fs_lock(fs, "lock", &two), 0);
	fs_close(&two);
	assert_int_equal(fs_unlink(fs, "lock"), 0);
}

struct names { uint32_t count, stop_at; };
static int on_name(void *arg, const char *name)
{
	struct names *n = arg;
	assert_true(name[0] != '.');
	return ++n->count == n->stop_at ? 42 : 0;
}

static void test_list_gives_every_name_and_stops_when_told(void **state)
{
	struct names all = { 0, 0 }, some = { 0, 2 };
	(void)state;
	assert_int_equal(fs_mkdir(fs, "list"), 0);
	assert_int_equal(fs_put_file(fs, "list/a", "", 0), 0);
	assert_int_equal(fs_put_file(fs, "list/b", "", 0), 0);
	assert_int_equal(fs_put_file(fs, "list/c", "", 0), 0);
	assert_int_equal(fs_list(fs, "list", on_name, &all), 0);
	assert_int_equal(all.count, 3);
	assert_int_equal(fs_list(fs, "list", on_name, &some), 42);
	assert_int_equal(fs_list(fs, "none", on_name, &all), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_rename(fs, "list/a", "list/b"), 0);
	assert_int_equal(fs_rename(fs, "list/a", "list/b"), -GRANARY_ENOTFOUND);
	assert_int_equal(fs_unlink(fs, "list/b"), 0);
	assert_int_equal(fs_unlink(fs, "list/c"), 0);
}

static void test_space_is_known(void **state)
{
	uint64_t total = 0, available = 0;
	(void)state;
	assert_int_equal(fs_space(fs, &total, &available), 0);
	assert_true(total > 0 && available <= total);
}

static void test_listening_addresses(void **state)
{
	static const char *const bad[] = {
		"", "tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:", "tcp:127.0.0.1:x", "tcp:127.0.0.1:70000", "tcp::::1",
		"tcp:[::1:5",
		"udp:127.0.0.1:1", "unix:relative", "tcp::80",
	};
	char text[128], again[128], path[128];
	int fd, fd2;
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(sock_listen(bad[i], &fd, text, sizeof(text)), -GRANARY_EINVAL);
	assert_int_equal(sock_listen("tcp:127.0.0.1:0", &fd, text, sizeof(text)), 0);
	assert_int_equal(sock_listen(text, &fd2, again, sizeof(again)), -GRANARY_ELOCKED);
	sock_close(fd);
	snprintf(path, sizeof(path), "unix:%s/s", dir);
	assert_int_equal(sock_listen(path, &fd, text, sizeof(text)), 0);
	assert_string_equal(text, path);
	assert_int_equal(sock_listen(path, &fd2, again, sizeof(again)), -GRANARY_ELOCKED);
	sock_close(fd);
	assert_int_equal(sock_listen(path, &fd, text, sizeof(text)), 0); /* a dead socket file is replaced */
	sock_close(fd);
	assert_int_equal(fs_unlink(fs, "s"), 0);
	assert_true(sock_address_is_loopback("tcp:127.3.2.1:5") && sock_address_is_loopback("tcp:[::1]:5"));
	assert_true(sock_address_is_loopback("unix:/x"));
	assert_false(sock_address_is_loopback("tcp:0.0.0.0:5") || sock_address_is_loopback("tcp:[::]:5"));
	assert_false(sock_address_is_loopback("tcp:127.0.0.1.example.com:5") || sock_address_is_loopback("nonsense"));
}

static void test_loopback_listener_does_not_pace(void **state)
{
	char text[128], name[32] = "", probe[] = "reno";
	socklen_t len = sizeof(name);
	int fd, plain = socket(AF_INET, SOCK_STREAM, 0);
	(void)state;
	assert_true(plain >= 0);
	int has_reno = setsockopt(plain, IPPROTO_TCP, TCP_CONGESTION, probe, sizeof(probe) - 1) == 0;
	sock_close(plain);
	if (!has_reno)
		skip();
	assert_int_equal(sock_listen("tcp:127.0.0.1:0", &fd, text, sizeof(text)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	assert_string_equal(name, "reno");
	sock_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_missing_root_is_not_found),
		cmocka_unit_test(test_paths_that_leave_the_root_are_refused),
		cmocka_unit_test(test_open_flags_say_what_must_exist),
		cmocka_unit_test(test_fifo_is_refused_and_does_not_block),
		cmocka_unit_test(test_symbolic_link_is_not_followed),
		cmocka_unit_test(test_read_write_size_allocate_truncate),
		cmocka_unit_test(test_direct_file_has_an_alignment_and_refuses_odd_writes),
		cmocka_unit_test(test_put_file_replaces_whole_and_survives_a_leftover),
		cmocka_unit_test(test_lock_is_refused_twice_and_free_after_close),
		cmocka_unit_test(test_list_gives_every_name_and_stops_when_told),
		cmocka_unit_test(test_space_is_known),
		cmocka_unit_test(test_listening_addresses),
		cmocka_unit_test(test_loopback_listener_does_not_pace),
	};
	const char *tmp = getenv("TMPDIR");
	snprintf(dir, sizeof(dir), "%s/test_fs.XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	if (!mkdtemp(dir) || chdir(dir) != 0 || fs_new_kernel(dir, &fs) != 0)
		return 1;
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	fs_free(&fs);
	rmdir("put");
	rmdir("list");
	if (chdir("/") != 0 || rmdir(dir) != 0)
		return failed ? failed : 1;
	return failed;
}
