/* SPDX-License-Identifier: Apache-2.0 */
/* live.h -- a bucket mounted read-write: what its files share.
 *
 * (1) everything is named by ids: a node's number is its object's or directory's id (the root's is 1); parent and name
 *     are as they were learnt last and only hints for the server.
 * (2) a request runs at once where nothing has to be asked, or asks and goes on when the answer is there (start()), or
 *     runs in a thread that may block (struct job). It is answered
 *     once: by its handler, or before that when its process is killed; then what the handler got is undone.
 * (3) locks, outer first: a file's, then the mount's. Neither is held while the server is asked.
 * (4) what is written goes into a file's batch, then to the server in the background; what it refuses is told by the
 *     file's next flush or fsync (live_file.c).
 * (5) a file made here is not at the server before its first batch: then one put makes it, all at once.
 * (6) names and attributes are answered from here while the server tells what others change (live_watch.c). */
#pragma once

#include <granary/granary.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fuse/mount.h"
#include "fuse/pool.h"

enum {
	LIVE_NAME_MAX = 255,
	LIVE_NODE_SLOTS = 1 << 16,
	LIVE_BUFFER = MOUNT_READ_MAX,      /* of reads' answers */
	LIVE_INLINE_MAX = 128 * 1024,      /* a file up to this is read when it is opened */
};

struct live_batch;

/* One inode that the kernel knows, or that is open here. */
struct live_node {
	struct live_node *next, *next_name; /* of its slots: by number, by place */
	uint64_t number;                   /* the kernel's; of a directory and a file its id */
	uint64_t lookups;                  /* that the kernel has not forgotten */
	uint32_t uses;                     /* handles, jobs: 0 and no lookups, and it goes */
	uint64_t parent;                   /* directory id */
	char *name;
	uint64_t cached_version;           /* whose bytes the kernel may hold; 0: none */
	struct granary_stat stat;
	struct granary_inode inode;
	uint64_t changed_ns, changed_clock_ns; /* of a directory: when something was made or removed in it here; 0 */
	bool was_moved;                    /* it was not where its name says */
	bool unlinked;                     /* by us: no name is left */
	bool has_links;                    /* it had several names once: */
	uint64_t links_seen;               /* its link count is so as long as this is the live's links_lost */
	struct live_file *file;            /* while it is open or something of it is not written */
	uint64_t place_epoch, attr_epoch;  /* the live's, while what is known of its place, of its attributes, is so */
	uint64_t own_epoch;                /* of a directory: the same of all but its times (node_is_ours()) */
	struct live_node *newer, *older;   /* of those that nobody uses, but what is known of them is so */
	bool idle;                         /* it is one of these */
};

/* What of an open file is not at the server yet. */
struct live_file {
	struct live *live;
	struct live_node *node;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t refs;                     /* the mount's lock: handles and jobs */
	/* lock */
	bool fresh;                        /* not at the server yet */
	bool lost;                         /* it could not be made: what is written is lost */
	bool exact;                        /* `version` is ours: nobody else wrote since it was opened */
	bool dirty;                        /* something is in batches: size and times are ours */
	bool touched;                      /* written to since it was opened */
	_Atomic bool sparse;               /* dirty, and the server has to be asked how much of it is stored */
	uint64_t opened_ns;                /* when it was opened first, of a clock that only goes on */
	uint64_t size, mtime_ns, ctime_ns;
	uint64_t version;                  /* of the last answer; 0: not known */
	struct live_batch *filling, *waiting, **waiting_last, *running;
	uint32_t running_count;
	int error;                         /* of the first write that failed since error_count grew */
	uint64_t error_count;
	_Atomic bool locked;               /* it may have locks at the server */
	struct live_handle *locker;        /* the mount's lock: the newest that was given one, while it is open */
	struct granary_file *kept;         /* the mount's lock: keeps it at the server when it loses its name */
	struct live_file *next_dirty, **at_dirty; /* the mount's lock: those with something in `filling` */
	struct live_file *next_fresh, **at_fresh; /* the mount's lock: those that are fresh */
};

struct live_handle {
	_Atomic uint32_t refs;             /* the kernel's, and of jobs that outlive their answer */
	struct live_file *file;
	uint32_t flags;                    /* O_... */
	uint64_t errors_seen;
	uint8_t *bytes;                    /* all of a small file, as of when it was opened; NULL: not read */
	uint64_t bytes_len, bytes_version;
	struct granary_file *opened;       /* the server keeps it while it is open here; NULL: made here */
	struct live_handle *next_closed;
};

struct live_dir;

struct live {
	struct mount *mount;
	const struct options *options;
	struct granary_client *client;
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	uint64_t root;                     /* its directory id */
	struct pool *requests, *writers, *lockers; /* lockers: those that wait for locks */
	pthread_mutex_t lock;              /* all below */
	pthread_cond_t room;               /* of memory for what is written */
	struct live_node **nodes, **names; /* LIVE_NODE_SLOTS each */
	uint64_t node_count;
	struct live_node *newest, *oldest; /* idle ones */
	uint32_t idle_count, idle_max;
	/* live_watch.c */
	uint64_t epoch;                    /* 0: the server does not tell what others change, now */
	uint64_t changes;                  /* grows with what it told, and with what is done here */
	uint64_t epochs;                   /* that there were */
	struct granary_op *watching;
	pthread_t watcher;
	pthread_cond_t watch_wake;
	bool watches;
	bool has_links;                    /* some file with several names was seen */
	uint64_t links_lost;               /* grows when a name goes and whose it was is not known */
	bool may_expire;                   /* the kernel can look a name up again and keep what hangs on it */
	struct job *jobs;
	uint32_t asking;                   /* jobs that wait for an answer, in no thread */
	pthread_cond_t asked;              /* none does any more */
	struct live_handle *closed;        /* the server has not been told yet */
	struct live_file *dirty, *fresh;
	uint64_t unwritten, unwritten_max; /* bytes in batches */
	uint64_t id_next, id_end;          /* for files to come */
	bool ids_asked;
	struct { uint64_t bytes, objects, quota_bytes, quota_objects; } usage;
	uint8_t *buffers;                  /* free ones of LIVE_BUFFER */
	uint32_t buffers_count;
	pthread_t minder;
	bool minds;
	_Atomic bool stop;
	pthread_cond_t wake;
};

enum job_state { JOB_RUNS, JOB_COPIES, JOB_ANSWERED };
struct job {
	struct pool_task task;
	struct live *live;
	struct request *request;           /* the transport's, until the job is answered */
	mount_answer_fn *answer;
	struct job *next, **at;            /* of live->jobs */
	_Atomic int state;
	bool interrupted;                  /* live->lock */
	uint32_t opcode, uid, gid, pid;
	uint64_t unique, node, deadline_ns;
	_Alignas(8) uint8_t arg[128];
	char name[LIVE_NAME_MAX + 1], name2[LIVE_NAME_MAX + 1];
	const uint8_t *rest;               /* what follows the argument; of a job that may block: its own copy */
	size_t rest_len;
	/* the answer */
	int error;
	_Alignas(8) uint8_t out[512];
	size_t out_len;
	bool direct;                       /* out_len bytes are in the request's own memory (where nothing blocks) */
	const uint8_t *shown;              /* the same: bytes that stay until it is answered */
	uint8_t *lent;                     /* instead: a buffer of live_buffer_get() */
	size_t lent_len;
	struct live_handle *held[2];       /* pinned while it runs */
	struct live_dir *held_dir;
	void (*undo)(struct job *j);       /* nobody got the answer */
	void *undo_arg;
	uint64_t undo_node;
};

/* ---- live.c: start and end, dispatch, interrupts ---- */
/* path: of the directory to show; "": all. -1 and a text when it cannot. */
int live_open(struct mount *m, struct granary_client *client, const char *bucket, const char *path, char *why,
	size_t why_size);
bool live_handle_request(struct live *l, struct request *r, mount_answer_fn *answer);
void live_stop(struct live *l);        /* nothing comes any more: all is answered and written */
void live_free(struct live *l);
uint8_t *live_buffer_get(struct live *l);
void live_buffer_put(struct live *l, uint8_t *buffer);
/* Milliseconds that the job has left, for a call; unstable: GRANARY_UNSTABLE. */
struct granary_call live_call(const struct job *j, bool unstable);
uint64_t live_now_ns(void);            /* the wall clock */
uint64_t live_clock_ns(void);          /* a clock that only goes on */
int live_errno(int err);               /* of an error of the library, as -errno */
int job_out(struct job *j, const void *bytes, size_t len);
/* The job waits here: -EINTR, -ETIMEDOUT when it is to end. Nothing locked. */
int job_over(const struct job *j);
/* Of a job whose start() was true: its end, in any thread; or a thread of its own does it all. */
void job_end(struct job *j, int error);
void job_to_thread(struct job *j);
void live_notify_attributes(struct live *l, uint64_t number); /* the kernel's are old */
void live_notify_bytes(struct live *l, uint64_t number);
void live_notify_name(struct live *l, uint64_t parent, const char *name); /* it is another's now, or nobody's */

/* ---- live_watch.c ---- */
void live_watch_start(struct live *l);
void live_watch_stop(struct live *l);
void live_doubt_all(struct live *l);   /* locked: nothing that is known is trusted any more */
uint64_t live_asks(struct live *l); /* before the server is asked: for node_learn() and its like */

/* ---- live_node.c ---- */
/* Pins: used until node_put(). NULL: not known. */
struct live_node *node_get(struct live *l, uint64_t number);
void node_put(struct live *l, struct live_node *n);
void node_forget(struct live *l, uint64_t number, uint64_t lookups);
/* The node of what was looked up, pinned, with `lookups` more; its place and attributes are these now. */
struct live_node *node_learn(struct live *l, uint64_t dir, const char *name, const struct granary_stat *st,
	const struct granary_inode *in, uint64_t lookups, uint64_t asked);
/* What is known of it is so as far as others go. Locked; asked: live_asks(), from before. */
void node_trust(struct live *l, struct live_node *n, uint64_t asked, bool place);
bool node_is_trusted(const struct live *l, const struct live_node *n); /* its attributes; locked */
bool node_knows_links(const struct live *l, const struct live_node *n); /* whatever else is ours; locked */
/* The node of this place, if it and its attributes are known to be so: pinned, with a lookup more. NULL: ask. */
struct live_node *node_look(struct live *l, uint64_t dir, const char *name);
void node_doubt_place(struct live *l, uint64_t number);
struct live_node *node_find(struct live *l, uint64_t number, bool make); /* locked; not pinned */
struct live_node *node_at(struct live *l, uint64_t dir, const char *name); /* the same of a place */
uint64_t node_number(const struct live *l, uint64_t object);
void node_changed(struct live *l, struct live_node *n);   /* here: its attributes are asked for again */
/* The node of this place as far as it is known, pinned; NULL: none. */
struct live_node *node_named(struct live *l, uint64_t dir, const char *name);
void node_place(struct live *l, struct live_node *n, uint64_t dir, const char *name);
/* A name came or went; file_came: a file's that is made here. */
void node_dir_changed(struct live *l, uint64_t dir, bool file_came);
/* Of a directory: all that is not known of it is when files were last made in it, and that was here and just now. */
bool node_is_ours(const struct live *l, const struct live_node *n);
/* One of its names is gone: that which it is known by. NULL: it was not known by it. */
void node_lost_name(struct live *l, struct live_node *n);
/* The node's ref, its name in `name` (LIVE_NAME_MAX + 1). */
struct granary_ref node_ref(struct live *l, const struct live_node *n, char *name);
uint64_t node_object(const struct live *l, uint64_t number); /* the id behind a number of the kernel's */
/* Asks the server; 0 or -errno. What is not written yet counts. */
int node_stat(struct job *j, struct live_node *n);
void node_attr(struct live *l, struct live_node *n, struct fuse_attr *out);
void node_entry(struct live *l, struct live_node *n, struct fuse_entry_out *out);
uint64_t node_valid_s(struct live *l, struct live_node *n); /* how long the kernel may keep its attributes */
void nodes_free(struct live *l);

/* ---- live_file.c ---- */
struct live_file *file_open(struct live *l, struct live_node *n); /* NULL: no memory; one more ref */
void file_close(struct live_file *f);                             /* one ref less */
/* 0; -EAGAIN: there is no room now (wait with live_room_wait()), or, without wait_lock, somebody else is at it. */
int file_write(struct live_file *f, uint64_t offset, const uint8_t *data, size_t len, bool wait_lock);
void live_room_wait(struct live *l);
/* TRUNCATE, ZEROS, PUNCH: after what was written before. */
int file_change(struct live_file *f, uint32_t kind, uint64_t offset, uint64_t length);
void file_send(struct live_file *f);   /* all there is goes on its way */
/* Waits until the server has all (not: on disk). 0 or -errno of what could not be written. */
int file_flush(struct job *j, struct live_file *f);
bool file_is_clean(struct live_file *f);
void file_age(struct live_file *f);    /* what waits to become more is sent */
/* Errors that this handle has not been told yet. */
int handle_error(struct live_handle *h);

/* ---- what handlers share ---- */
int live_look(struct job *j, uint64_t dir, const char *name, uint64_t lookups, struct live_node **out);
int live_entry(struct job *j, struct live_node *n); /* the answer of LOOKUP */
int live_set(struct job *j, struct live_node *n, struct live_file *f, const struct granary_setattr *set);
/* ---- live_lock.c ---- */
int live_unlock_all(struct job *j, struct live_handle *h, uint64_t owner, bool whole);
bool live_lock_is_lost(const struct live_handle *h);
/* Whose locks changes of the file rest on: the handle, to be put, and what it has open; or NULL. */
struct live_handle *live_locker_get(struct live_file *f, struct granary_file **opened);
void live_locker_drop(struct live_handle *h); /* it is closed */
void handle_put(struct live_handle *h);
void dir_pin(struct live_dir *d);
void dir_put(struct live_dir *d);
int live_keep(struct job *j, struct live_file *f); /* open at the server, too */
void live_owner(struct job *j, uint32_t *uid, uint32_t *gid, bool *inherits); /* of what is made in j->node */

/* ---- the handlers: 0 or -errno ---- */
int live_lookup(struct job *j);
bool live_lookup_now(struct job *j);
bool live_lookup_start(struct job *j);
int live_getattr(struct job *j);
bool live_getattr_now(struct job *j);
int live_setattr(struct job *j);
bool live_setattr_now(struct job *j);
int live_readlink(struct job *j);
int live_symlink(struct job *j);
int live_mknod(struct job *j);
int live_mkdir(struct job *j);
int live_unlink(struct job *j);
int live_rmdir(struct job *j);
int live_rename(struct job *j);
int live_link(struct job *j);
int live_create(struct job *j);
bool live_create_now(struct job *j);
int live_open_file(struct job *j);
bool live_open_start(struct job *j);
void live_close_now(struct live *l); /* tells the server what was closed */
int live_read(struct job *j);
bool live_read_now(struct job *j);
int live_write(struct job *j);
bool live_write_now(struct job *j);
int live_flush(struct job *j);
bool live_flush_now(struct job *j);
int live_release(struct job *j);
bool live_release_now(struct job *j);
int live_fsync(struct job *j);
int live_fsyncdir(struct job *j);
int live_fallocate(struct job *j);
int live_lseek(struct job *j);
int live_copy_file_range(struct job *j);
int live_opendir(struct job *j);
int live_readdir(struct job *j);
int live_releasedir(struct job *j);
int live_setxattr(struct job *j);
int live_getxattr(struct job *j);
bool live_getxattr_now(struct job *j);
int live_listxattr(struct job *j);
int live_removexattr(struct job *j);
int live_statfs(struct job *j);
int live_getlk(struct job *j);
int live_setlk(struct job *j);
/* Fresh files of a directory go to the server first, so that it knows of them; 0: of all. */
int live_settle_dir(struct job *j, uint64_t dir);
/* What is not at the server yet of the file of this place goes there. */
int live_settle_name(struct job *j, uint64_t dir, const char *name);
