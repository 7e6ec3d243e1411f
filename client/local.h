/* SPDX-License-Identifier: Apache-2.0 */
/* local.h -- reading packs of this host by descriptors that the server passed (PROTOCOL 4.16, 4.17). What the bytes
 * are and whether they are right is decided elsewhere, by the same checksums as of bytes that came over a socket.
 *
 * A file:  WANTED -> ASKED    local_turn()     the next request for descriptors has it
 *          ASKED  -> HERE     local_answered() a descriptor came; used until its lease ends
 *          ASKED  -> REFUSED  local_answered() none came; not asked for again before the lease's length has passed
 *          HERE   -> HERE     asked for again in the second half of its lease: the same, or another copy
 *          any    -> (freed)  lease over, restart of the server, connection without a Unix socket, room for another */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/list.h"

struct granary_client;
struct conn;
struct local_file;

enum { LOCAL_BUCKETS = 1024, PASSED_MAX = 2 * 16, COLD_THREADS = 4 };

/* Descriptors that came on a connection and that no answer has claimed yet. */
struct passed {
	int fds[PASSED_MAX];
	uint32_t count;
};
void passed_drop(struct passed *p);

struct local {
	pthread_mutex_t lock;      /* after the client's; held for no system call but close() */
	struct list *buckets;      /* lock: LOCAL_BUCKETS lists of files by pack; NULL: nothing was asked for yet */
	struct list used;          /* lock: all files, least recently used first */
	uint32_t count, here;      /* lock: files; those with a descriptor */
	uint32_t files_max;        /* lock: of those; less when the process may not open so many */
	_Atomic bool is_open;      /* the server is on a Unix socket, and has not said that it passes none */
	_Atomic uint32_t wanted;   /* files that local_turn() is to ask for */
	_Atomic uint64_t next_ns;  /* when the next lease ends, about */
	bool asking;               /* io: a request is under way */
	/* io: LOCATE pays off where most entries then are read by descriptor */
	uint32_t hits;             /* of the last ones, in 256th */
	uint32_t tries;            /* batches since it was tried */
	bool has_news;             /* descriptors came since */
	pthread_t warmer;          /* lock: the thread that fills the page cache */
	bool warmer_runs, warmer_ended, stopping;
	struct list to_warm;       /* lock */
	pthread_t cold[COLD_THREADS]; /* lock: threads that read what is not in the page cache (local_cold.c) */
	uint32_t cold_threads;
	struct list to_advise, to_read; /* lock: what they are to do */
	pthread_cond_t cold_wake, cold_idle; /* for them; for who waits for one of them */
	uint64_t boot_id;          /* io: of the server whose descriptors these are */
};

void local_init(struct granary_client *c);
void local_release(struct granary_client *c);       /* no thread uses it any more */
void local_forked(struct granary_client *c);        /* in the child: what was open is closed */

/* Any thread. The file, referenced, or NULL: it is asked for then, if it may be had; or it is not in the page cache,
 * and may be brought there, as `len` bytes of it are wanted. */
struct local_file *local_get(struct granary_client *c, uint64_t pack, uint64_t len);
void local_put(struct granary_client *c, struct local_file *f);
/* Reads what is in the page cache, without waiting for a disk: true when all of it is there. iov may be changed. */
bool local_read(struct granary_client *c, struct local_file *f, struct iovec *iov, int count, uint64_t offset);
/* Likewise, the file whether it is in the page cache or not; NULL: there is no descriptor. */
struct local_file *local_get_cold(struct granary_client *c, uint64_t pack);
/* Reads, and waits for the disk where it must. */
bool local_read_cold(const struct local_file *f, struct iovec *iov, int count, uint64_t offset);
/* The bytes of a range were wrong (and that was counted): they are dropped from the page cache, and come from the
 * server. */
void local_bad(const struct local_file *f, uint64_t offset, uint64_t len);

/* The client's thread. */
void local_hello(struct granary_client *c, struct conn *k, uint64_t boot_id); /* a connection says who the server is */
void local_turn(struct granary_client *c);
uint64_t local_next_ns(const struct granary_client *c); /* when local_turn() is due by itself */
void local_lost(struct granary_client *c);          /* a connection is gone: what was asked for may not be answered */

/* local_warm.c */
/* Does it lie in the page cache? Looked for in some places. */
bool local_probe(const struct local_file *f);
/* Brings it there, in the background. Lock held; f gets a reference of its own. */
void local_warm(struct granary_client *c, struct local_file *f);
void local_warm_stop(struct granary_client *c);
bool local_memory_is_free(void); /* the machine has some that nobody uses */
/* local_cold.c, after local_warm_stop() */
void local_cold_stop(struct granary_client *c);

struct local_file {
	struct list bucket, used; /* in local.buckets, local.used */
	uint64_t pack, dev, ino, size;
	uint64_t lease_ns;     /* HERE: usable until then; REFUSED: not asked for until then */
	uint64_t used_ns;
	_Atomic bool is_hot;   /* it is in the page cache, but for a little */
	_Atomic uint64_t hot, cold; /* since that changed: bytes that were asked for and in the page cache, and not */
	uint64_t probed_ns, warmed_ns; /* when that was looked for last; when it was to be brought there */
	struct list warm;      /* in local.to_warm */
	uint32_t refs;         /* lock: the table's, and of readers */
	int fd;
	uint8_t state;
	bool is_wanted;        /* local_turn() is to ask for it */
	bool gone;             /* not in the table any more */
};
