/* SPDX-License-Identifier: Apache-2.0 */
/* conn.h -- private to net/: one connection, and what a reactor knows of its connections.
 *
 * HELLO     -> AUTH       hello_handle()      transcript made, nonce sent
 * AUTH      -> ATTACHING  auth_handle()       proof right; the session is being looked up, perhaps on a worker
 * ATTACHING -> OPEN       attach_done()       peer has key and session: requests may run
 * any       -> CLOSING    conn_refuse()       nothing is parsed any more; queued answers and GOODBYE still go out
 * CLOSING   -> CLOSED     conn_close()        after that, or 2 s; socket shut down, peer.gone
 * any       -> CLOSED     conn_close()        the peer went away, a send failed, no progress
 * CLOSED    -> (freed)    conn_turn()         no op in flight, no request running, no worker
 *
 * Invariants: (1) everything of a connection belongs to its reactor's thread; (2) at most one recv and one send in
 * flight; (3) while input waits (`input.len > 0`) no recv is in flight; (4) an idle connection holds no more than this
 * struct; (5) nothing is freed but in conn_turn(), which only the loop calls. */
#pragma once

#include "common/list.h"
#include "io/io.h"
#include "io/reactor.h"
#include "net/framer.h"
#include "net/handshake.h"
#include "net/blocks.h"
#include "net/sendq.h"
#include "req/req.h"

struct net;

enum conn_state { CONN_HELLO, CONN_AUTH, CONN_ATTACHING, CONN_OPEN, CONN_CLOSING, CONN_CLOSED };

enum {
	CONN_FRAMES_A_TURN = 32,             /* then others get theirs */
	CONN_QUEUE_MAX = 4 * 1024 * 1024,    /* bytes of answers not sent: above it nothing new is read */
	CONN_QUEUE_LOW = 2 * 1024 * 1024,    /* requests that wait for the queue go on below it */
	CONN_RECV_SMALL_MAX = IO_RECV_BUF_SIZE, /* missing of a body: copied up to here, else in place */
	CONN_RECV_STEP_MAX = 128 * 1024,     /* in one op, so that a sender's progress shows */
	CONN_PROGRESS_BYTES_S = 1024,
	CONN_TEXT_MAX = 512,
};
#define CONN_HANDSHAKE_NS UINT64_C(10000000000)
#define CONN_PROGRESS_NS UINT64_C(30000000000)
#define CONN_QUIET_NS UINT64_C(5000000000) /* the peer has that long to send after we began to receive again */
#define CONN_CLOSING_NS UINT64_C(2000000000)
#define CONN_STALLED_NS UINT64_C(5000000000) /* a send that long in flight */
#define CONN_WAITING_NS UINT64_C(2000000000) /* a request that long without an answer */
#define CONN_KEY_CHECK_NS UINT64_C(500000000)

/* A frame being received, then a request that runs: one block with its meta behind it, data apart. */
struct inbound {
	struct req req;
	struct list node;   /* of conn.inflight */
	uint64_t size;      /* of this block */
	uint64_t data_size;
	uint8_t *data;
	uint64_t charge;    /* bytes counted in store.request_bytes */
	uint64_t began_ns;
	uint8_t meta[];
};

/* Of a connection that is not open yet. */
struct opening {
	struct transcript transcript;
	struct task task;    /* the look-up of the session: to a worker and back */
	struct conn *conn;
	uint64_t session_id, request;
	uint32_t data_cap;
	int err;
	const struct ns_access_key *key;
	struct session *session;
};

#define CONN_MAGIC 0x6e6e6f43u
struct conn {
	uint32_t magic;
	int fd;
	struct net_local *nl;
	uint8_t state;           /* enum conn_state */
	bool recving, direct;    /* a recv is in flight; into the body */
	bool sending;
	bool probing;            /* the recv in flight is being cancelled, to see how much came */
	bool turn_posted;
	bool dirty;              /* in nl->dirty: has answers to send or to drop */
	bool parked;             /* input waits for requests, the queue or memory to shrink */
	bool linger;             /* after GOODBYE: wait for the peer to close, so that it can read our words */
	struct req_peer peer;
	struct io_op recv, send;
	size_t recv_want;        /* bytes of a recv into the body */
	struct framer framer;
	struct inbound *in;      /* the frame being received */
	struct slice input;      /* received, not parsed */
	void *recv_buf;          /* holds input: io's buffer, to be given back */
	uint8_t *stash;          /* holds input: ours */
	struct opening *opening;
	struct sendq queue;
	struct sendbuf *sb;
	struct list inflight;
	uint32_t inflight_count;
	uint64_t request_newest;
	uint64_t held;           /* bytes of its requests and answers, of store.request_bytes */
	uint64_t watch_ns, watch_bytes; /* start of the window in which progress is judged, bytes since */
	uint64_t send_ns;        /* when the send in flight began */
	uint64_t key_checked_ns;
	struct list node;        /* nl->conns */
	struct list timed;       /* nl->timed: handshake, in a frame, closing */
	struct list hungry;      /* nl->hungry: parked for memory */
	struct conn *dirty_next;
	struct task task;
};

struct net_local {
	struct net *net;
	struct store *store;
	struct store_local *local;
	struct io *io;
	struct reactor *reactor;
	struct list conns, timed, hungry;
	uint32_t conn_count;
	struct conn *dirty, **dirty_tail;
	struct task flush;
	bool flush_posted;
	struct blocks blocks;
	int64_t charged;          /* not yet in store.request_bytes */
	struct sendbuf *sendbufs; /* free ones */
	struct io_op tick;
	bool tick_armed, draining, stopping;
	struct task begin, drain, stop; /* orders of the main thread, each posted once: it does not wait for them */
	_Atomic bool stopped;
	uint32_t sending_count;   /* connections with a send in flight */
	uint32_t inflight_count;  /* requests that run */
	uint64_t stalled_ns;      /* when stalled senders were last looked for */
	uint64_t auth_logged_ns;  /* failed log-ins: at most one line a second */
	uint32_t auth_unlogged;
};

/* A counter of one reactor, read by status from any thread. */
static inline void stat_count(uint64_t *counter, int delta)
{
	__atomic_store_n(counter, *counter + (uint64_t)(int64_t)delta, __ATOMIC_RELAXED);
}

/* conn.c */
void conn_adopt(struct net_local *nl, struct conn *c); /* first step on its reactor; conn_new() made it */
struct conn *conn_new(int fd);                         /* any thread */
void conn_discard(struct conn **c);                    /* before conn_adopt() */
void conn_close(struct conn *c);
/* Says GOODBYE with this status and text, then closes. */
void conn_refuse(struct conn *c, int err, const char *text);
void conn_drain(struct conn *c);                       /* closes it if nothing runs */
void conn_tick(struct conn *c, uint64_t now);          /* of a timed connection */
bool conn_is_stalled(const struct conn *c, uint64_t now); /* takes no answers */
bool conn_is_waiting(const struct conn *c, uint64_t now); /* gets none */
void conn_drop_stalled(struct conn *c);
void conn_charge(struct conn *c, int64_t bytes);       /* of its requests and answers */
void conn_post_turn(struct conn *c);
void conn_retry(struct conn *c);                       /* a parked one, after memory was freed */
/* What came is a whole frame in c->in; consumed. conn_dispatch.c */
void conn_dispatch(struct conn *c);
void conn_opening_free(struct conn *c);
void inbound_free(struct conn *c, struct inbound **in);
/* conn_send.c */
extern const struct req_peer_ops conn_peer_ops;
void conn_answer(struct conn *c, struct answer *a);
/* An answer of our own; nothing when there is no memory for it. The error's meta is a text, PROTOCOL 1.4. */
void conn_reply_error(struct conn *c, uint8_t op, uint64_t request, int err, const char *text);
void conn_reply(struct conn *c, uint8_t op, uint64_t request, int err, struct slice meta);
void conn_flush(struct conn *c);
void conn_drop_queue(struct conn *c);
/* net.c */
void local_charge(struct net_local *nl, int64_t bytes);
/* May a connection that holds `held` bytes take `bytes` more? */
bool local_has_memory(const struct net_local *nl, uint64_t held, uint64_t bytes);
void local_flush(struct task *task);
void local_conn_gone(struct net_local *nl);
