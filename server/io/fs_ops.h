/* SPDX-License-Identifier: Apache-2.0 */
/* fs_ops.h -- private to io/ (and tests/sim, and tier/copy.c, whose files read out of cold copies): what stands behind
 * struct fs and struct fs_file.
 * fs.c checks paths, builds the whole-file helpers, and calls these; a member does exactly what fs.h says. */
#pragma once

#include "io/fs.h"

struct fs_ops {
	void (*free)(struct fs *fs);
	int (*open)(struct fs *fs, const char *path, unsigned flags, struct fs_file **out);
	int (*lock)(struct fs *fs, const char *path, struct fs_file **out);
	void (*close)(struct fs_file *file);
	int64_t (*read)(struct fs_file *file, void *buf, size_t len, uint64_t offset);
	int (*write)(struct fs_file *file, const void *buf, size_t len, uint64_t offset);
	int (*sync)(struct fs_file *file, bool data_only);
	int (*allocate)(struct fs_file *file, uint64_t offset, uint64_t len);
	int (*truncate)(struct fs_file *file, uint64_t size);
	int64_t (*size)(struct fs_file *file);
	uint64_t (*identity)(struct fs_file *file);
	int (*mkdir)(struct fs *fs, const char *path);
	int (*rename)(struct fs *fs, const char *from, const char *to);
	int (*unlink)(struct fs *fs, const char *path);
	int (*rmdir)(struct fs *fs, const char *path);
	int (*sync_dir)(struct fs *fs, const char *path);
	int (*list)(struct fs *fs, const char *path, int (*each)(void *arg, const char *name), void *arg);
	int (*exists)(struct fs *fs, const char *path);
	int (*space)(struct fs *fs, uint64_t *total, uint64_t *available);
};

struct fs {
	const struct fs_ops *ops;
	char *root;
};

struct fs_file {
	const struct fs_ops *ops;
	int fd;         /* -1 under sim */
	uint32_t align; /* bytes, a power of two, at least 512 */
	bool direct;    /* alignment is enforced */
};
