/* SPDX-License-Identifier: Apache-2.0 */
/* mount.h -- one mounted snapshot or bucket: what the handlers, the two transports and the start share. */
#pragma once

#include "fuse/cache.h"
#include "fuse/fetch.h"
#include "fuse/options.h"
#include "fuse/request.h"
#include "fuse/tree.h"

enum {
	MOUNT_READ_MAX = 1024 * 1024, /* bytes of one READ's answer, and of a directory's */
	MOUNT_READ_PAGES = MOUNT_READ_MAX / KERNEL_PAGE,
	MOUNT_READ_LEAST = 128 * 1024,
	MOUNT_DEPTH = 4,      /* entries of a ring's queue */
	MOUNT_DEPTH_MAX = 32, /* of a bucket: who waits for the server keeps one */
	MOUNT_AHEAD_MAX = 16 * 1024 * 1024, /* of a live one: read ahead in as many requests as that takes */
};

struct watch;   /* watch.h */
struct control; /* control.h */
enum { MOUNT_FAILURES = 64 };
struct mount_failure { /* of a READ, just now: the kernel asks again at once, and is told the same at once */
	uint64_t node, until_ns;
	int error;
};
struct waiting; /* a READ that waits for its bytes: snapshot_ops.c */

struct live;    /* live.h */

struct mount {
	const struct options *options;
	struct tree tree;
	struct cache *cache;
	struct fetch *fetch;
	struct watch *watch;
	struct control *control;
	struct live *live; /* a bucket; the three above are of a snapshot */
	int device;       /* of the mount: /dev/fuse */
	uint64_t time_ns; /* all files' times: when the snapshot was made */
	bool use_rings;   /* asked for at INIT and granted by the kernel */
	uint32_t read_max; /* bytes of one READ */
	uint32_t depth;    /* entries of a ring's queue: each has memory for a READ */
	bool direct;      /* the same: files are read past the kernel's cache, so each is opened by a request */
	struct rings *rings;        /* NULL: the classic transport */
	pthread_mutex_t lock;
	struct waiting *waiting; /* lock */
	struct mount_failure failures[MOUNT_FAILURES]; /* lock: by node */
};

/* Answers a request, or keeps it (false) and calls `answer` later, in whatever thread. */
typedef void mount_answer_fn(struct request *r);
bool mount_handle(struct mount *m, struct request *r, mount_answer_fn *answer);
/* The answer is with the kernel: what it lent goes back. */
void mount_answered(struct mount *m, struct request *r);

/* device.c: serves /dev/fuse in `threads` threads until it is unmounted; the first request must be INIT. `ready` runs
 * when that was answered. 0 or -errno. */
int device_run(struct mount *m, uint32_t threads, void (*ready)(void *arg), void *arg);
/* ring.c: starts a queue a CPU; NULL: the kernel or the memory limit does not let us. */
struct rings;
struct rings *rings_start(struct mount *m, const char **why);
void rings_stop(struct rings *rings); /* after the unmount: no handler runs any more, late answers go nowhere */
void rings_free(struct rings *rings);
bool rings_possible(const char **why);

/* attach.c: mounts; gives the device. -1 and a text when it cannot. */
int attach(const struct options *o, const char *source, char *why, size_t why_size);
int detach(const char *target, bool lazy, char *why, size_t why_size);
