/* SPDX-License-Identifier: Apache-2.0 */
/* tree.h -- a snapshot as a tree of directories, without a table of its own.
 *
 * (1) a node's number says by itself what it is: a file has the number of its row (sample * fields + field), a
 *     directory the number of the first name below it and its depth. So nothing is remembered for the kernel, FORGET
 *     means nothing, and numbers are the same on every mount of a snapshot.
 * (2) a directory is what begins the name of some file. Where a file and a directory have one name, the directory is
 *     shown. A name with an empty component, `.`, `..` or a component above 255 bytes cannot be shown.
 * (3) a position in a directory is the number of the name that comes next; it is good for ever. */
#pragma once

#include <granary/granary.h>
#include <stdbool.h>
#include <stdint.h>

enum { TREE_PATH_MAX = 1101, TREE_NAME_MAX = 255 };

struct tree {
	struct granary_snapshot *snapshot;
	uint64_t samples, names, bytes;
	uint32_t fields;
	char root[GRANARY_KEY_LEN_MAX + 2]; /* what every path begins with: "" or a directory with its slash */
};

struct node {
	uint64_t number;
	bool is_dir;
	uint64_t size; /* bytes; of a file */
};

/* -GRANARY_E... as -errno, for the kernel. */
static inline int errno_of(int err) { return err < 0 ? -granary_error_errno(err) : 0; }

#define TREE_ROOT 1 /* the kernel's number of the mounted directory */

/* path: of the directory to show, "" for all. 0 or -GRANARY_E...; -GRANARY_ENOTFOUND: nothing lies below it. */
int tree_open(struct tree *t, struct granary_snapshot *snapshot, const char *path);
bool tree_is_dir(uint64_t number);
/* The row of a file; false: not a file of this snapshot. */
bool tree_row(const struct tree *t, uint64_t number, uint64_t *id, uint32_t *field);
/* All functions below: 0 or -errno. */
int tree_get(struct tree *t, uint64_t number, struct node *out);
int tree_lookup(struct tree *t, uint64_t dir, const char *name, size_t len, struct node *out);

/* Takes one entry; `next` is the position after it. false: no room, the walk ends. */
typedef bool tree_entry_fn(void *arg, const char *name, size_t len, const struct node *node, uint64_t next);
int tree_list(struct tree *t, uint64_t dir, uint64_t from, bool sizes, tree_entry_fn *fn, void *arg);
