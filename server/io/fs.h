/* SPDX-License-Identifier: Apache-2.0 */
/* fs.h -- blocking file-system calls, for workers, jobs and start-up (never a reactor in service), and open files.
 * A `struct fs` is a root directory on the kernel or on a simulated disk: every path is relative to it, has no "..",
 * and every byte that reaches a disk goes through here or through io.h, so that faults can be injected.
 * All functions return 0 (or a count) or -GRANARY_E...; results of fsync are always checked by callers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fs;
struct fs_file;
struct sim;

int fs_new_kernel(const char *root, struct fs **out); /* NOTFOUND when the directory is missing */
int fs_new_sim(struct sim *sim, const char *root, struct fs **out); /* in tests/sim */
void fs_free(struct fs **fs);
const char *fs_root(const struct fs *fs);

enum fs_open_flags {
	FS_READ = 1,        /* must exist */
	FS_WRITE = 2,       /* read and write, must exist */
	FS_CREATE_NEW = 4,  /* read and write, must not exist (EXIST) */
	FS_DIRECT = 8,      /* O_DIRECT; falls back to buffered with one warning where the filesystem refuses it */
};
int fs_open(struct fs *fs, const char *path, unsigned flags, struct fs_file **out);
void fs_close(struct fs_file **file);
uint32_t fs_file_align(const struct fs_file *file); /* bytes; statx DIOALIGN, at least 512; offsets, lengths, memory */
int fs_file_fd(const struct fs_file *file);         /* -1 under sim */

int64_t fs_read(struct fs_file *file, void *buf, size_t len, uint64_t offset); /* short only at the end of the file */
int fs_write(struct fs_file *file, const void *buf, size_t len, uint64_t offset); /* all or an error */
int fs_datasync(struct fs_file *file);
int fs_sync(struct fs_file *file);
/* Hints, for large files that are written once: what was written there goes to the disk from now on, nobody waits; and
 * what is there already leaves the page cache. Nothing under sim. */
void fs_write_out(struct fs_file *file, uint64_t offset, uint64_t len);
void fs_forget(struct fs_file *file);
int fs_allocate(struct fs_file *file, uint64_t offset, uint64_t len); /* fallocate, grows the file */
int fs_truncate(struct fs_file *file, uint64_t size);
int64_t fs_size(struct fs_file *file);
/* A descriptor of its own for another process, and which file it is. UNSUPPORTED under sim. */
int fs_file_share(struct fs_file *file, int *fd, uint64_t *dev, uint64_t *ino);
/* Of a file nobody writes: the same later means that it is the same file with the same bytes, also after a restart;
 * a hard link has its file's. 0: not known. */
uint64_t fs_identity(struct fs_file *file);

int fs_mkdir(struct fs *fs, const char *path); /* EXIST is an error the caller may accept */
int fs_rename(struct fs *fs, const char *from, const char *to);
int fs_unlink(struct fs *fs, const char *path);
int fs_rmdir(struct fs *fs, const char *path); /* NOTEMPTY */
int fs_remove_folder(struct fs *fs, const char *path); /* with the plain files in it; 0 also when it is not there */
int fs_sync_dir(struct fs *fs, const char *path); /* "" is the root itself */
/* Calls each(arg, name) for every entry but . and ..; stops at and returns the first non-zero. */
int fs_list(struct fs *fs, const char *path, int (*each)(void *arg, const char *name), void *arg);
int fs_exists(struct fs *fs, const char *path); /* 1, 0, or an error */
int fs_space(struct fs *fs, uint64_t *total, uint64_t *available); /* bytes */
/* Small files whole. fs_put_file: temporary name, sync, rename, directory sync: atomic. */
int fs_get_file(struct fs *fs, const char *path, void *buf, size_t cap, size_t *len);
int fs_put_file(struct fs *fs, const char *path, const void *buf, size_t len);
/* An exclusive lock on a file for the process's life: -GRANARY_ELOCKED when another holds it. */
int fs_lock(struct fs *fs, const char *path, struct fs_file **out);
