/* SPDX-License-Identifier: Apache-2.0 */
/* request.c -- decodes the kernel's requests. What it does not know becomes a request that handlers refuse. */
#include "fuse/request.h"

#include <errno.h>
#include <string.h>

struct shape {
	const char *name;
	uint16_t arg;  /* bytes of the fixed argument */
	uint8_t names; /* NUL-terminated names that follow it */
};

#define SHAPE(op, type, count) [FUSE_##op] = { #op, sizeof(struct type), count }
#define BARE(op, count)        [FUSE_##op] = { #op, 0, count }
static const struct shape shapes[] = {
	BARE(LOOKUP, 1),
	SHAPE(FORGET, fuse_forget_in, 0),
	SHAPE(GETATTR, fuse_getattr_in, 0),
	SHAPE(SETATTR, fuse_setattr_in, 0),
	BARE(READLINK, 0),
	BARE(SYMLINK, 2),
	SHAPE(MKNOD, fuse_mknod_in, 1),
	SHAPE(MKDIR, fuse_mkdir_in, 1),
	BARE(UNLINK, 1),
	BARE(RMDIR, 1),
	SHAPE(RENAME, fuse_rename_in, 2),
	SHAPE(LINK, fuse_link_in, 1),
	SHAPE(OPEN, fuse_open_in, 0),
	SHAPE(READ, fuse_read_in, 0),
	SHAPE(WRITE, fuse_write_in, 0),
	BARE(STATFS, 0),
	SHAPE(RELEASE, fuse_release_in, 0),
	SHAPE(FSYNC, fuse_fsync_in, 0),
	SHAPE(GETXATTR, fuse_getxattr_in, 1),
	SHAPE(LISTXATTR, fuse_getxattr_in, 0),
	BARE(REMOVEXATTR, 1),
	SHAPE(FLUSH, fuse_flush_in, 0),
	BARE(INIT, 0),
	SHAPE(OPENDIR, fuse_open_in, 0),
	SHAPE(READDIR, fuse_read_in, 0),
	SHAPE(RELEASEDIR, fuse_release_in, 0),
	SHAPE(FSYNCDIR, fuse_fsync_in, 0),
	SHAPE(GETLK, fuse_lk_in, 0),
	SHAPE(SETLK, fuse_lk_in, 0),
	SHAPE(SETLKW, fuse_lk_in, 0),
	SHAPE(ACCESS, fuse_access_in, 0),
	SHAPE(CREATE, fuse_create_in, 1),
	SHAPE(INTERRUPT, fuse_interrupt_in, 0),
	BARE(BMAP, 0),
	BARE(DESTROY, 0),
	SHAPE(IOCTL, fuse_ioctl_in, 0),
	SHAPE(POLL, fuse_poll_in, 0),
	SHAPE(BATCH_FORGET, fuse_batch_forget_in, 0),
	SHAPE(FALLOCATE, fuse_fallocate_in, 0),
	SHAPE(READDIRPLUS, fuse_read_in, 0),
	SHAPE(RENAME2, fuse_rename2_in, 2),
	SHAPE(LSEEK, fuse_lseek_in, 0),
	SHAPE(COPY_FILE_RANGE, fuse_copy_file_range_in, 0),
	BARE(SYNCFS, 0),
	BARE(TMPFILE, 0),
	[FUSE_SETXATTR] = { "SETXATTR", FUSE_COMPAT_SETXATTR_IN_SIZE, 1 },
	[KERNEL_STATX] = { "STATX", 0, 0 },
};

static const struct shape *shape_of(uint32_t opcode)
{
	static const struct shape none = { "?", 0, 0 };

	return opcode < sizeof(shapes) / sizeof(shapes[0]) && shapes[opcode].name ? &shapes[opcode] : &none;
}

size_t request_arg_size(uint32_t opcode)
{
	return shape_of(opcode)->arg;
}
const char *request_name(uint32_t opcode)
{
	return shape_of(opcode)->name;
}

static int name_take(const uint8_t *at, size_t len, struct request *out, const char **what)
{
	const void *end = len > 0 ? memchr(at, '\0', len) : NULL;

	*what = "a name without an end";
	if (!end) return -EINVAL;
	out->name = (const char *)at;
	out->name_len = (size_t)((const uint8_t *)end - at);
	*what = "a name that is empty or has a slash";
	return out->name_len == 0 || memchr(at, '/', out->name_len) ? -EINVAL : 0;
}

int request_decode(const struct fuse_in_header *header, const void *arg, size_t arg_len, const void *rest,
	size_t rest_len, struct request *out, const char **what)
{
	const struct shape *shape = shape_of(header->opcode);

	*out = (struct request){ .opcode = header->opcode,
		.uid = header->uid,
		.gid = header->gid,
		.pid = header->pid,
		.unique = header->unique,
		.node = header->nodeid,
		.rest = rest,
		.rest_len = rest_len };
	out->silent = header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET ||
		      header->opcode == FUSE_INTERRUPT;
	*what = "an argument that is too short";
	if (arg_len < shape->arg) return -EINVAL;
	out->arg = shape->arg > 0 ? arg : NULL;
	/* What SYMLINK has first is a name; its second is a target, with whatever bytes. */
	return shape->names > 0 ? name_take(rest, rest_len, out, what) : 0;
}

int request_decode_run(const void *bytes, size_t len, struct request *out, const char **what)
{
	struct fuse_in_header header;
	const uint8_t *at = bytes;

	*out = (struct request){ .opcode = 0 };
	*what = "a header that is too short";
	if (len < sizeof(header)) return -EINVAL;
	memcpy(&header, bytes, sizeof(header));
	*what = "a length that is not that of the message";
	if (header.len != len) {
		out->unique = header.unique;
		return -EINVAL;
	}
	size_t size = request_arg_size(header.opcode), body = len - sizeof(header);
	size_t arg = size < body ? size : body;
	return request_decode(&header, at + sizeof(header), arg, at + sizeof(header) + arg, body - arg, out, what);
}
