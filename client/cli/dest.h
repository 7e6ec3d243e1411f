/* SPDX-License-Identifier: Apache-2.0 */
/* dest.h -- a local directory that objects are written into, and nothing outside it, whatever the keys say. */
#pragma once

#include "cli.h"

struct dest; /* one thread at a time */

/* Opens the directory. If it is missing it is made; or with make == false *out is NULL. 0 or -errno. */
int dest_open(struct dest **out, const char *path, bool make);
void dest_close(struct dest **dest);

/* NULL when a name below the directory may be written, else what is wrong with it. A slash at the end of the name
 * means a directory. */
const char *dest_refuses(const char *name);
/* Is the file there with this size and time? */
bool dest_has(struct dest *d, const char *name, uint64_t size, uint64_t mtime_ns);
int dest_mkdir(struct dest *d, const char *name); /* with its parents; 0 or -errno */

/* A file is written under a name of its own and gets its place in dest_commit(). All return 0 or -errno. */
int dest_create(struct dest *d, const char *name);
int dest_write(struct dest *d, const void *data, size_t len);
int dest_commit(struct dest *d, uint32_t mode, uint64_t mtime_ns);
void dest_abort(struct dest *d);
/* A symbolic link, in the place of what has its name unless that is a directory. It is never followed. */
int dest_symlink(struct dest *d, const char *name, const char *target);

/* Removes a file or link, or an empty directory. 0 or -errno. */
int dest_remove(struct dest *d, const char *name, bool directory);
