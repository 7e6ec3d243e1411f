/* SPDX-License-Identifier: Apache-2.0 */
/* bench_nullfuse.c -- a file system that costs nothing, on Debian's libfuse 3.14: the limit of rows of the mount.
 *
 *   bench_nullfuse DIR SIZE [libfuse's mount options...]
 *
 * Whatever is looked up is there: a name that begins with `d` is a directory, any other a file of SIZE zeros. Names and
 * attributes are good for an hour; two threads serve, each with a descriptor of its own, which measured best. Prints
 * "ready" when it is mounted, and ends when it is unmounted. */
#define FUSE_USE_VERSION 314
#include <stdio.h>

#ifdef HAVE_LIBFUSE
#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SERVERS = 2 };
#define KEEP_S   3600.0
#define DIR_MARK (UINT64_C(1) << 40)
#define FILES    (UINT64_C(1) << 41)

static uint64_t file_size;
static char *zeros;

static struct stat attributes(fuse_ino_t node)
{
	bool is_dir = node == FUSE_ROOT_ID || (node & DIR_MARK);

	return (struct stat){ .st_ino = node, .st_mode = is_dir ? S_IFDIR | 0555 : S_IFREG | 0444, .st_nlink = 1,
		.st_size = is_dir ? 0 : (off_t)file_size, .st_blksize = 4096,
		.st_blocks = is_dir ? 0 : (blkcnt_t)(file_size / 512) };
}

static void null_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .attr_timeout = KEEP_S, .entry_timeout = KEEP_S };

	(void)parent;
	e.ino = strtoull(name + 1, NULL, 10) + (name[0] == 'd' ? DIR_MARK : FILES);
	e.attr = attributes(e.ino);
	fuse_reply_entry(req, &e);
}

static void null_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
	struct stat st = attributes(node);

	(void)file;
	fuse_reply_attr(req, &st, KEEP_S);
}

static void null_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *file)
{
	(void)node;
	file->keep_cache = 1;
	fuse_reply_open(req, file);
}

static void null_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t at, struct fuse_file_info *file)
{
	(void)node;
	(void)file;
	uint64_t left = (uint64_t)at < file_size ? file_size - (uint64_t)at : 0;
	fuse_reply_buf(req, zeros, size < left ? size : left);
}

static int serve(struct fuse_session *session, const char *target)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	if (fuse_session_mount(session, target) != 0) return 1;
	printf("ready\n");
	fflush(stdout);
	fuse_loop_cfg_set_max_threads(config, SERVERS);
	fuse_loop_cfg_set_clone_fd(config, 1);
	int err = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	fuse_session_unmount(session);
	return err != 0;
}

int main(int argc, char **argv)
{
	static const struct fuse_lowlevel_ops ops = { .lookup = null_lookup, .getattr = null_getattr, .open = null_open,
		.read = null_read };

	if (argc < 3) {
		fprintf(stderr, "usage: bench_nullfuse DIR SIZE [OPTION...]\n");
		return 2;
	}
	file_size = strtoull(argv[2], NULL, 10);
	zeros = calloc(1, file_size + 1);
	argv[2] = argv[0];
	struct fuse_args args = FUSE_ARGS_INIT(argc - 2, argv + 2);
	struct fuse_session *session = zeros ? fuse_session_new(&args, &ops, sizeof(ops), NULL) : NULL;
	int code = session ? serve(session, argv[1]) : 1;
	if (session) fuse_session_destroy(session);
	free(zeros);
	return code;
}
#else
int main(void)
{
	fprintf(stderr, "bench_nullfuse: built without libfuse3-dev (tools/deps --bench)\n");
	return 1;
}
#endif
