/* SPDX-License-Identifier: Apache-2.0 */
/* scan.h -- the files below some local directories, in the order they are to be packed in. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli.h"

struct scan_root {
	const char *path;
	const char *under; /* goes in front of the names below it in the target: "" or "name/" */
	int fd;
};

struct scan_dir {
	struct scan_dir *next;
	const struct scan_root *root;
	const char *path; /* below the root, with a slash at its end; "" for the root itself */
	uint32_t path_len;
	bool empty; /* nothing at all in it */
};

struct scan_file {
	const struct scan_dir *dir;
	const char *name;
	uint16_t name_len, stem_len; /* up to the first dot */
	bool is_link;                /* of a regular file, as far as it was looked at */
};

/* Grows while the scan runs: files[0..count) are final and in order, taken with scan_take(). */
struct scan {
	struct scan_root *roots;
	size_t roots_count;
	bool shuffled;
	uint64_t seed;
	/* below: under `lock` until `done` */
	pthread_mutex_t lock;
	pthread_cond_t grew;
	struct scan_file *files;
	size_t count, cap, taken;
	uint64_t tickets;
	struct scan_dir *dirs;
	struct arena texts;
	uint64_t special, dir_links, broken_links, bad_names, unreadable;
	bool done, started;
	pthread_t thread;
};

/* Opens the roots (paths and `under` are borrowed). CLI_OK, or says what failed. */
int scan_open(struct scan *s, struct scan_root *roots, size_t count);
void scan_start(struct scan *s); /* in a thread of its own */
/* The next run of files, at least one, about `want`, at most `max`, none of a group missing if that fits in `max`.
 * Waits for the scan. Returns how many; 0 at the end. *ticket counts the runs from 0. */
size_t scan_take(struct scan *s, struct scan_file *out, size_t want, size_t max, uint64_t *ticket);
uint64_t scan_total(struct scan *s); /* files; 0 while it runs */
void scan_wait(struct scan *s);      /* until it is done */
void scan_close(struct scan *s);
