/* SPDX-License-Identifier: Apache-2.0 */
/* client_priv.h -- what the files of libgranary share: client, operation, request, connection.
 *
 * Who may touch what:
 * (1) A client's fields under "lock" belong to whoever holds `lock`; those under "io" to the client's thread alone.
 * (2) An operation belongs to the client's thread from op_submit() until its state is OP_DONE, then to its owner.
 * (3) A request (struct rpc), a connection and what hangs off them belong to the client's thread.
 * (4) Bytes are written into memory of the caller only by the client's thread, only while the operation is not done.
 * (5) "The client's thread" is whoever runs its loop: a thread of its own, or for a while one that waits in a blocking
 * call (enum loop, loop.c). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/list.h"
#include "common/rand.h"
#include "common/wire.h"
#include "granary/granary.h"
#include "local.h"

enum {
	CLIENT_MAGIC = 0x636c6e74,
	OP_MAGIC = 0x6f706572,
	ERROR_TEXT_SIZE = 512,
	RX_DATA_MAX = 4 * 1024 * 1024, /* data of one frame that we accept */
	CONN_FLIGHT_MAX = 1024,        /* requests in flight on one connection */
	PARTS_WINDOW = 4,              /* requests of one operation in flight, times the connections */
	MEMORY_MIN = 8 * 1024 * 1024,
};
#define NEVER_NS UINT64_MAX

struct rpc;
struct conn;
struct rx;

/* ---- what a client was opened with; never changes -------------------------------------------------------------- */

struct config {
	uint32_t hosts_count;
	struct granary_host hosts[GRANARY_HOSTS_MAX];
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char access_key[128];
	uint8_t secret[WIRE_SECRET_SIZE];
	char name[64];
	uint64_t memory_max;
	uint32_t timeout_ms, connect_timeout_ms, connections, retries_max, engine, local_reads;
	char cache_dir[512];
	uint64_t cache_size;
};

/* ---- leased memory (lease.c) ----------------------------------------------------------------------------------- */

struct chunk {
	struct list link;
	uint8_t *p;
	size_t size, used;
};
struct lease { /* one operation's chunks */
	struct list chunks;
	uint64_t reserved; /* of the client's memory_max, at least the chunks' sizes */
	uint64_t held;
};
struct pool { /* under the client's lock */
	struct list free; /* chunks of POOL_CHUNK bytes, warm */
	uint64_t free_size, used;
};

/* ---- operations (op.c) ----------------------------------------------------------------------------------------- */

enum op_state { OP_UNDER_WAY, OP_DONE };

struct op_kind {
	/* Makes and queues requests for what is left, as many as should be in flight. 0, or an error of the
	 * operation. */
	int (*more)(struct granary_op *op);
	/* Nothing is under way any more: the result. err < 0: the operation failed as a whole. */
	int64_t (*finish)(struct granary_op *op, int err);
	void (*free)(struct granary_op *op); /* all of it */
};

struct granary_op {
	uint32_t magic;
	bool quiet;     /* of a blocking call: never in the client's done list */
	bool drives;    /* who submits it runs the loop: wishes to, then does (op_run) */
	bool orphaned;  /* of the parent process: its requests are not to be touched */
	bool sent;      /* some request of it went out */
	bool unstable;  /* its changes may be answered before they are durable */
	bool at_once;   /* its callback runs where it is done; quiet */
	bool is_internal; /* nobody's: freed when it is announced */
	struct granary_client *client;
	const struct op_kind *kind;
	granary_done_fn *done;
	void *arg;
	struct granary_file *file; /* NULL, or whose locks its changes rest on */
	uint64_t deadline_ns, started_ns;
	uint32_t timeout_ms;
	_Atomic uint32_t waiters;    /* threads that sleep until state changes */
	_Atomic uint32_t state;      /* enum op_state; set under lock */
	bool canceled, dropped;      /* lock; dropped: its callback must not run */
	bool collected;              /* lock */
	int err;                     /* io: why it fails as a whole */
	uint64_t request;            /* the one that failed, else the one sent last, as the server knows it; 0: none */
	bool ended;                  /* io: in io.finished */
	struct list all;             /* lock: in client->ops until done */
	struct list link;            /* lock: submitted, then io.finished, then client->done */
	struct list cancel_link;     /* lock */
	struct list rpcs;            /* io */
	struct lease lease;
	int64_t result;
	pthread_cond_t *watch;       /* NULL, or signaled when it is done, with the client's lock held */
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char error[ERROR_TEXT_SIZE]; /* "" or a text */
};

/* ---- requests (rpc.c, retry.c) --------------------------------------------------------------------------------- */

enum rpc_state { RPC_IDLE, RPC_READY, RPC_TX, RPC_FLIGHT };
enum { RPC_AGAIN = 1, RPC_REPEAT = 2 }; /* answer(): ask once more, after a pause and as a retry; at once */

struct upload_pin { /* pieces of one upload travel on one connection, in order */
	struct conn *conn;
	uint64_t generation;
};

struct rpc_kind {
	uint8_t wire_op;
	bool mutation; /* carries PROTOCOL 5.1 after the bucket */
	bool plain;    /* no bucket in front */
	int16_t final; /* an error that is not asked again, although its class says so; 0: none */
	bool in_order;   /* not before what was lost is sent again (unstable.c); so are mutations */
	bool is_patient; /* asked for as long as the client lives; belongs to no operation of a caller */
	bool is_replay;
	bool is_first;   /* goes before all others while files are announced (file.c) */
	bool own_meta; /* the answer has data and a meta of its own, not the data's checksums */
	/* Writes what follows bucket and 5.1 and sets data; called at each attempt. body_size(): bytes it may need. */
	size_t (*body_size)(struct rpc *r);
	int (*encode)(struct rpc *r, struct wr *w);
	/* READ only: the meta of a frame came; lays out its data. -GRANARY_EPROTO: not understood. */
	int (*plan)(struct rpc *r, struct slice meta, struct rx *rx);
	int (*frame)(struct rpc *r, struct rx *rx); /* its data is complete */
	/* The last frame came, with status 0. 0: done; RPC_AGAIN; or an error of the operation. */
	int (*answer)(struct rpc *r, struct slice meta, struct slice data);
	bool (*failed)(struct rpc *r, int err); /* may be NULL; true: dealt with, r is gone */
	void (*free)(struct rpc *r);            /* may be NULL: what r owns, not r */
};

struct rpc {
	const struct rpc_kind *kind;
	struct granary_op *op; /* NULL: given up; what still comes is thrown away */
	struct conn *conn;     /* RPC_TX, RPC_FLIGHT */
	struct upload_pin *pin;
	struct list link;      /* io.ready, conn->tx or conn->flight */
	struct list op_link;
	struct list seq_link;  /* session.open while sequence != 0 */
	enum rpc_state state;
	uint8_t wire_op;       /* 0: the kind's */
	bool is_unstable;      /* its answer may be lost */
	bool was_sent;         /* some byte of it went out under this sequence */
	uint32_t attempts;
	uint64_t request;      /* its id on the wire: low 16 bits its slot + 1 */
	uint64_t sequence;
	uint64_t not_before_ns, sent_ns;
	uint64_t fence;        /* of a change that rests on a lock (file_lease.c) */
	uint8_t *out;          /* header and meta */
	size_t out_len;
	const struct iovec *data;
	uint32_t data_count;
	uint32_t data_len;
	uint8_t *answer;       /* data of the answer, other than READ's */
	size_t answer_len;
	uint8_t *meta;         /* own_meta: of the last frame that has any */
	size_t meta_len;
};

/* ---- connections (conn.c, handshake.c, tx.c, rx.c) ------------------------------------------------------------- */

enum conn_state { CONN_DOWN, CONN_CONNECTING, CONN_HELLO, CONN_AUTH, CONN_READY };

/* A run of data that is verified at once: at most one 64 KiB block of one piece. */
struct rx_block {
	uint8_t *dst;
	uint32_t len;
	uint32_t crc;
	uint32_t piece;     /* index into rx->pieces */
	bool check;         /* there is a crc */
	uint32_t cut_from;  /* with `cut_to`: bytes [cut_from, cut_from + cut_len) of it are what is wanted */
	uint32_t cut_len;
	uint8_t *cut_to;    /* NULL: received in place */
	uint32_t *run;      /* the checksum of what comes before it and belongs to it; carried on. NULL: nothing does */
};
struct rx_piece {
	uint32_t slot;      /* READ: which entry of the request */
	uint32_t wanted;    /* bytes of it that the caller gets */
	int16_t status;
	bool last, bad;
};

enum rx_state { RX_HEADER, RX_META, RX_DATA };
struct rx {
	enum rx_state state;
	struct frame f;
	uint8_t *buf;       /* bytes received and not used: header and meta, sometimes a little more */
	size_t cap, start, end;
	size_t ahead;       /* header and meta of the next frame probably take so many */
	struct rpc *rpc;    /* whose data is coming; NULL: thrown away */
	struct rx_block *blocks;
	uint32_t blocks_count, blocks_cap, block_at;
	uint32_t block_done;         /* bytes of blocks[block_at] */
	struct rx_piece *pieces;
	uint32_t pieces_count, pieces_cap;
	uint64_t discard;            /* bytes still to be thrown away */
	uint8_t *scratch;            /* blocks that are cut, bytes thrown away */
	size_t scratch_cap, scratch_used;
	bool damaged;                /* a checksum of this frame was wrong */
};

struct conn {
	struct granary_client *client;
	uint32_t index;
	int fd;
	enum conn_state state;
	bool want_write, broken;     /* broken: to be closed as soon as nobody is inside it */
	uint32_t host_at, address_at, addresses_count, hosts_tried, backoff;
	uint64_t hello_session; /* what HELLO asked for */
	uint64_t next_try_ns, deadline_ns, last_rx_ns, generation;
	struct { uint32_t len; uint8_t bytes[128]; } addresses[8];
	uint32_t meta_max, data_max, flight_max, flight_count;
	struct list tx, flight;
	struct list to_send;         /* of io.to_send */
	size_t tx_at;                /* bytes of the first of tx that are sent */
	struct rpc *slots[CONN_FLIGHT_MAX];
	uint32_t slot_hint;
	uint64_t requests_count;
	uint8_t hello[WIRE_PREAUTH_META_MAX];  /* both metas of HELLO, for the two proofs */
	size_t hello_len;
	uint8_t hs_out[WIRE_HEADER_SIZE + WIRE_PREAUTH_META_MAX];
	size_t hs_len, hs_at;
	char why[ERROR_TEXT_SIZE];   /* of the last failure */
	struct passed passed;
	struct rx rx;
};

/* ---- the client ------------------------------------------------------------------------------------------------ */

enum loop { LOOP_THREAD, LOOP_FREE, LOOP_CALLER }; /* who runs it */
enum wake { WAKE_NOT, WAKE_EVENT, WAKE_FUTEX };

struct session {
	uint64_t id, next_sequence;
	struct list open; /* requests with a sequence that is not settled, ascending */
};

/* Answered, not known to be durable (unstable.c). */
struct unstable {
	struct list kept;    /* in the order of their sequences */
	uint64_t bytes, serial, boot_id, verifier; /* verifier: the server's newest */
	struct granary_op op; /* of its own requests */
	bool is_used, is_changed, is_replaying, is_syncing;
	uint32_t lost_count; /* since the last sync that told of it */
	char lost_text[ERROR_TEXT_SIZE];
};

/* Files that are open at the server (file.c). */
enum files_stage {
	FILES_TOLD,    /* the server knows what is open */
	FILES_DUE,     /* to be announced, before anything else is sent */
	FILES_WAITING, /* for what is sent again (unstable.c) */
	FILES_LATE,    /* those that were not there before it, once more */
};
enum files_lease {
	LEASE_UNKNOWN, /* does this start of the server know of it? */
	LEASE_NONE,
	LEASE_KEPT,    /* it is told at least once a lease that we live */
};

struct files {
	struct list open, closed; /* closed: CLOSE is to be sent */
	uint64_t boot_id;
	struct granary_op op;     /* of its own requests */
	enum files_stage stage;
	bool is_used;             /* something was opened since the client was */
	bool is_asked, is_through, is_closing; /* ANNOUNCE is under way; with all; CLOSE is */
	uint32_t waits;           /* locks that are waited for at the server */
	enum files_lease lease;
	bool has_locked, is_pinging; /* a lock was ever granted; PING is under way */
	uint64_t state, lease_ns, ping_ns; /* what the server calls what it remembers; when to PING next */
};

struct net;
struct net_engine;

struct io {
	const struct net_engine *engine;
	struct net *net;
	struct conn *conns;
	struct list ready;    /* requests waiting for a connection or their time */
	struct list to_send;  /* connections that were given requests in this turn */
	uint32_t conn_hint;   /* the one that was used up last: where to begin to look for a free one */
	struct list finished; /* operations to be announced */
	struct list lanes, groups; /* of small writes (write_group.c) */
	uint32_t lanes_count;
	struct session session;
	struct unstable unstable;
	struct files files;
	struct rx local_rx;    /* of what is read by descriptor: its blocks, pieces, scratch */
	struct granary_op own; /* of requests that are nobody's: never ended, never freed */
	struct rng rng;
	uint64_t now_ns, next_deadline_ns, next_retry_ns;
	uint64_t generation;  /* of connections */
	char why[ERROR_TEXT_SIZE];
};

struct counters {
	_Atomic uint64_t requests, retries, reconnects, bytes_received, bytes_sent, crc_errors;
	_Atomic uint64_t local_reads, local_bytes;
};

struct granary_client {
	uint32_t magic;
	struct config config;
	struct list clients; /* client.c: all of the process */
	struct counters counters;
	_Atomic uint64_t entry_size_mean; /* of what was read */
	_Atomic uint64_t uploads_count;   /* numbers of uploads */
	_Atomic bool uses_unstable;
	_Atomic uint64_t files_count; /* handles of files */

	_Atomic uint32_t refs;            /* the handle, and each operation */

	pthread_mutex_t lock;
	/* lock */
	pthread_cond_t room; /* memory was given back */
	_Atomic uint32_t generation; /* forks since granary_open() */
	_Atomic bool forked; /* this process got it from its parent and has not used it */
	bool closed;
	bool thread_runs, stopping;
	_Atomic bool sleeping; /* the thread waits, or is about to; set under lock, cleared by either side */
	_Atomic uint32_t loop; /* enum loop; set under lock */
	bool parks;            /* the last operation was a blocking call's: the next may run the loop itself */
	uint64_t drives;       /* how often one did */
	pthread_t thread;
	int event_fd, wake_fd;
	bool watched;        /* event_fd is in the hands of the application */
	struct list ops, submitted, cancels, done;
	struct list released; /* files that were closed (file.c) */
	bool files_left;      /* nobody takes them any more */
	struct pool pool;
	struct node_cache *node_cache; /* NULL: none */
	struct local local;
	struct slab *epoch_slabs; /* memory of the epoch that was closed last, for the next one */
	struct granary_info info; /* host, ids, version */
	char last_error[ERROR_TEXT_SIZE];

	struct io io; /* io */
};

/* client.c */
int client_enter(struct granary_client *c); /* first in every call: checks the handle, starts afresh after a fork */
void client_ref(struct granary_client *c);
void client_unref(struct granary_client *c);
enum wake client_wake(struct granary_client *c); /* lock held; client_wake_now() is due with it, after unlocking */
void client_wake_now(struct granary_client *c, enum wake how);
/* epoch_mem.c */
void epoch_slabs_free(struct granary_client *c);
/* options.c */
int config_load(struct config *config, const struct granary_options *options, char *why, size_t why_size);
/* last_error.c */
void error_set(const struct granary_client *c, const char *text); /* for the calling thread */
void error_enter(void);                   /* a call begins: no request of it failed yet */
void error_of_request(uint64_t request);  /* what granary_last_request() tells this thread, until its next call */
int error_fail(struct granary_client *c, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
struct slice error_meta(struct slice meta); /* the text that an error's meta holds: PROTOCOL 1.4 */
void text_copy(char *dst, size_t cap, struct slice text); /* control characters become '?' */

/* fork.c */
void fork_watch(struct granary_client *c);
void fork_unwatch(struct granary_client *c);

/* loop.c: the client's thread */
void *io_main(void *client);
void io_drive(struct granary_client *c, const struct granary_op *op); /* LOOP_CALLER: until it is done */
int io_init(struct granary_client *c);
void io_release(struct granary_client *c);
void io_forget(struct granary_client *c); /* after a fork: drops descriptors, leaves memory */

/* op.c */
void *op_new(size_t size, struct granary_client *c, const struct op_kind *kind, const struct granary_call *call,
	int *err);
int op_submit(struct granary_op *op);
int op_start(struct granary_op *op, struct granary_op **out); /* submit, or free it and fail */
int64_t op_run(struct granary_op *op);                        /* submit, wait; sets the thread's last error */
void op_release(struct granary_op *op);                       /* for op_kind.free: the common part, then the memory */
void op_free_quiet(struct granary_op *op);                    /* never submitted, or done */
/* Lock held. Ends an operation that was put into client->ops without op_submit(); one that was canceled is left to the
 * client's thread. */
void op_settle(struct granary_op *op, int64_t result, const char *text);
/* io */
void op_begin(struct granary_op *op);
void op_advance(struct granary_op *op); /* a request of it ended */
void op_fail(struct granary_op *op, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void op_note(struct granary_op *op, struct slice text); /* keeps the first text */
void op_announce(struct granary_client *c);             /* io.finished -> done */
void op_expire(struct granary_client *c);

/* rpc.c (io) */
void *rpc_new(size_t size, const struct rpc_kind *kind, struct granary_op *op); /* NULL: no memory */
void rpc_queue(struct rpc *r);
int rpc_encode(struct rpc *r);
void rpc_free(struct rpc *r);             /* in no list */
void rpc_end(struct rpc *r);              /* settled: frees it, its operation goes on */
void rpc_drop(struct rpc *r);             /* given up by its operation */
void rpc_answered(struct rpc *r, const struct frame *f, struct slice meta);
void rpc_dispatch(struct granary_client *c); /* io.ready -> connections */
/* retry.c (io) */
void rpc_failed(struct rpc *r, int err, struct slice text);
void rpc_lost(struct rpc *r, int err, const char *why);
uint64_t backoff_ns(struct rng *rng, uint32_t attempt);
void session_settle(struct rpc *r);
void session_assign(struct granary_client *c, struct rpc *r);
uint64_t session_seen(const struct granary_client *c);
void session_changed(struct granary_client *c);

/* unstable.c (io, but for unstable_leave) */
struct sync_rpc {
	struct rpc rpc;
	uint8_t flags;
	uint64_t up_to; /* serial of what was kept when it was sent */
};
void unstable_init(struct granary_client *c);
void unstable_release(struct granary_client *c);
uint64_t unstable_first(const struct granary_client *c); /* the lowest sequence that is kept */
bool unstable_may_ask(const struct granary_client *c);
/* r was answered: keeps it, and takes the tail off its meta. 0 or an error. */
int unstable_keep(struct rpc *r, struct slice *meta);
void unstable_durable(struct granary_client *c, uint64_t verifier, uint64_t up_to);
void unstable_hello(struct granary_client *c, uint64_t boot_id);
void unstable_turn(struct granary_client *c);
void unstable_forgotten(struct granary_client *c); /* the session is another now */
void unstable_leave(struct granary_client *c); /* at close: syncs */

/* file.c (io, but for files_leave) */
void files_init(struct granary_client *c);
void files_release(struct granary_client *c);
void files_take(struct granary_client *c, struct list *released);
void files_hello(struct granary_client *c, uint64_t boot_id); /* a connection is being made */
void files_lost(struct granary_client *c); /* the server may not know what is open any more */
void files_turn(struct granary_client *c);
bool files_hold(const struct granary_client *c, const struct rpc *r); /* r waits until all is announced */
uint64_t files_next_ns(const struct granary_client *c);
bool files_are_used(const struct granary_client *c);
void files_leave(struct granary_client *c); /* at close: closes all at the server */
/* lock.c */
bool lock_holds(const struct granary_client *c, const struct rpc *r); /* r waits until fewer wait at the server */

/* conn.c, handshake.c, tx.c, rx.c (io) */
void conn_init(struct conn *k, struct granary_client *c, uint32_t index);
void conn_release(struct conn *k);
void conn_tick(struct conn *k);  /* connects when that is wanted and due; ends a connect that takes too long */
void conn_ready_io(struct conn *k, bool readable, bool writable);
void conn_down(struct conn *k, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
uint64_t conn_next_ns(const struct conn *k);
void conn_want_write(struct conn *k, bool on);
int handshake_start(struct conn *k);
int handshake_frame(struct conn *k, const struct frame *f, struct slice meta);
void handshake_goodbye(struct conn *k);
int tx_flush(struct conn *k);
int rx_init(struct rx *rx);
void rx_release(struct rx *rx);
void rx_reset(struct rx *rx);
int rx_read(struct conn *k);
void rx_abandon(struct rx *rx, const struct rpc *r); /* r's memory is no longer ours to write */
/* For rpc_kind.plan: NULL or false when there is no memory. */
struct rx_piece *rx_add_piece(struct rx *rx);
bool rx_add_block(struct rx *rx, struct rx_block block);
/* All of its bytes are where they go: verified, cut, counted. */
void rx_block_verify(struct granary_client *c, struct rx *rx, const struct rx_block *b);
bool rx_scratch_room(struct rx *rx, size_t size); /* before the blocks of a frame that need it */
uint8_t *rx_scratch_take(struct rx *rx, size_t size);

/* lease.c */
void lease_init(struct lease *lease);
int lease_reserve(struct granary_client *c, struct lease *lease, uint64_t size); /* -GRANARY_EBUSY */
int lease_reserve_wait(struct granary_client *c, struct lease *lease, uint64_t size, uint64_t deadline_ns);
uint8_t *lease_take(struct granary_client *c, struct lease *lease, size_t size, size_t align, size_t expect);
void lease_release(struct granary_client *c, struct lease *lease);
void pool_release(struct pool *pool);

/* ref.c: PROTOCOL 3.1 */
int ref_check(const struct granary_ref *ref); /* 0, -GRANARY_EINVAL, -GRANARY_ENAME (longer than a message can say) */
/* Begins a call that names one object or two (b NULL: one): client_enter(), then the references are checked. */
int refs_enter(struct granary_client *c, const struct granary_ref *a, const struct granary_ref *b);
size_t ref_size(const struct granary_ref *ref);
void ref_encode(struct wr *w, const struct granary_ref *ref);
size_t text_size(const char *s); /* as bytes16 */
void text_encode(struct wr *w, const char *s);

/* simple.c: operations of one request, encoded when they are started */
struct simple_op {
	struct granary_op op;
	const struct rpc_kind *rpc_kind;
	bool asked;
	uint8_t *body;
	size_t body_len;
	struct iovec data;
	struct iovec *many; /* instead of data, freed with the operation; */
	uint32_t many_count;
	struct upload_pin *pin;
	int (*decode)(struct simple_op *s, struct slice meta, struct slice data); /* NULL: nothing to decode */
	void *out;
	uint64_t extra;
	void (*drop)(struct simple_op *s); /* of what belongs to it, when it is freed; may be NULL */
	struct {
		uint32_t count; /* of its changes; 0: it travels alone */
		size_t bytes, ref_len, changes_at; /* of data; of the body: the reference, where the changes begin */
	} joins; /* others' requests (write_group.c) */
};
struct simple_op *simple_new(struct granary_client *c, const struct rpc_kind *kind, const struct granary_call *call,
	size_t body_size, struct wr *w, int *err);
/* `w` covers the body; its length is what was written. */
int simple_start(struct simple_op *s, struct wr *w, struct granary_op **out);
int64_t simple_run(struct simple_op *s, struct wr *w); /* runs and frees it */
size_t simple_body_size(struct rpc *r);
int simple_encode(struct rpc *r, struct wr *w);
int simple_answer(struct rpc *r, struct slice meta, struct slice data);

/* write_group.c (io) */
void groups_init(struct granary_client *c);
void groups_release(struct granary_client *c);
bool groups_join(struct simple_op *s); /* false: no room, it asks by itself */
void groups_turn(struct granary_client *c);
const struct granary_op *group_op_of(struct rpc *r); /* NULL: r does not travel with a group's */

/* stat.c: pairs of bytes16 as one block (NULL when there are none); -GRANARY_EPROTO, -GRANARY_ENOMEM. */
int pairs_decode(struct slice pairs, struct granary_pair **out, uint64_t *count);
/* The hash, or what a file without one has in its place: inode (or NULL) gets its holes. */
void hash_take(struct cur *c, uint8_t flags, struct granary_stat *st, struct granary_inode *inode);
void inode_decode(struct cur *c, struct granary_inode *inode);
/* An entry of PROTOCOL 4.3, with full where inode is not NULL. Its status (st->status), or -GRANARY_ENOMEM. */
int stat_take(struct cur *c, struct granary_stat *st, struct granary_inode *inode);

static inline uint64_t deadline_after(uint64_t now_ns, uint32_t ms)
{
	return ms == GRANARY_FOREVER ? NEVER_NS : now_ns + (uint64_t)ms * 1000000;
}
