/* SPDX-License-Identifier: Apache-2.0 */
/* req.h -- a request: what a front end hands over, what it gets back, and the table of steps in
 * between.
 *
 * A front end (net/) fills a struct req and calls req_start(); the request runs on that reactor; it
 * answers through peer->ops->answer, one or more times, and at the end peer->ops->finished exactly
 * once, after its last answer. Nothing is answered from inside req_start().
 *
 * PARSE -> AUTHORISE -> (kind's own steps) -> ANSWER -> finished. A step says NEXT, WAIT (an op, a
 * worker task, an append or a commit is pending and will call req_resume on this reactor) or
 * DONE. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/list.h"
#include "common/wire.h"
#include "io/reactor.h"
#include "req/slow.h"

struct ns_access_key;
struct req;
struct req_peer;
struct session;
struct store;
struct store_local;

/* One frame of an answer. Made by the request, owned by the front end once handed over, until it
 * calls released(). */
struct answer {
	struct answer *next;
	uint64_t request;
	uint8_t op;
	uint16_t flags;          /* FRAME_LAST, FRAME_RELAXED */
	uint16_t status;
	uint8_t *meta;           /* meta_len bytes; crc not yet computed */
	uint32_t meta_len, data_len;
	struct iovec *iov;       /* the data: data_len bytes in iov_count parts */
	uint32_t iov_count;
	const int *fds;          /* descriptors that travel with its first byte; the answer's own */
	uint32_t fd_count;       /* at most DESCRIPTORS_MAX; a Unix socket's peer only */
	uint64_t memory;         /* bytes this answer keeps in memory (for back-pressure) */
	void (*released)(struct answer *a); /* on the reactor; frees meta, iov, references, itself */
};

struct req_peer_ops {
	void (*answer)(struct req_peer *peer, struct answer *a);
	void (*finished)(struct req_peer *peer, struct req *r); /* the front end frees body and req */
	/* Bytes of answers queued and not yet sent: a request that produces much waits above the limit. */
	uint64_t (*queued)(const struct req_peer *peer);
};
/* The other side of a connection, after authentication. Lives until its last request finished and
 * its last answer was released. When it is gone the front end sets `gone` and calls
 * req_drained(). */
struct req_peer {
	const struct req_peer_ops *ops;
	struct store_local *local;
	const struct ns_access_key *key;
	struct session *session;
	uint32_t data_cap;       /* data bytes it accepts in one frame */
	bool is_local;           /* on a Unix socket: descriptors can be passed */
	bool takes_descriptors;  /* req's own: a request for some is under way, or its answer */
	bool gone;               /* the connection ended: answers are dropped, mutations go on */
	struct list waiting;     /* requests waiting for its send queue to shrink: req_drained() */
	struct list parked;      /* requests waiting for what others do, for as long as it takes: req_unpark() */
	/* req's own, zero at first: what is being read for it or waits in its send queue. */
	uint64_t ahead_bytes;
	uint32_t ahead_entries;
};

enum step_result { STEP_NEXT, STEP_WAIT, STEP_DONE };
struct req_step { const char *name; enum step_result (*run)(struct req *r); };
struct req_kind {
	uint8_t op;
	const char *name;        /* "read": of counters and logs */
	uint8_t action;          /* GRANT_* it needs at least on something; judged in detail by the steps */
	bool mutation;
	bool is_judged;          /* how long it takes tells how the foreground fares (tier/governor.h) */
	bool sees_own;           /* it is shown what its session has pending (kv_read_as); mutations are */
	const struct req_step *steps;
	uint32_t step_count;
	void (*cleanup)(struct req *r);
	bool (*withdraw)(struct req *r); /* of a kind that parks: req_unpark() */
};
const struct req_kind *req_kind_of(uint8_t op); /* NULL: unknown */

#define REQ_MAGIC 0x71657247u
struct req {
	uint32_t magic;
	const struct req_kind *kind;
	struct req_peer *peer;
	struct store *store;
	struct store_local *local;
	struct frame frame;
	const uint8_t *meta;     /* frame.meta_len bytes, checked against its crc by the front end */
	const uint8_t *data;     /* frame.data_len bytes, 64-byte aligned */
	uint32_t step;
	uint32_t pending;        /* ops that will resume it */
	bool running, resumed, answered, waking, is_parked;
	bool is_cold;            /* a read that waited for a cold store, or for others */
	int err;
	char text[256];          /* error text for the answer, names the thing, the cause and the fix */
	uint64_t started_ns;
	uint64_t waits_ns;       /* since when, while it waits */
	uint32_t mark_count;     /* steps that waited so far */
	struct slow_mark marks[SLOW_MARKS];
	struct task task;        /* to itself: deferred runs, worker hops */
	struct task done;        /* commits */
	void (*work)(struct req *r); /* what `task` does on a worker */
	struct list node;        /* the front end's */
	struct list wait_node;   /* in peer->waiting or peer->parked */
	void *body;              /* the kind's own state (freed by kind->cleanup) */
	void *front;             /* the front end's own */
};
/* r->peer, frame, meta, data, front set; the rest zero. On the peer's reactor. */
void req_start(struct req *r);
/* On r's reactor: what it waited for happened. */
void req_resume(struct req *r);
/* The peer's send queue shrank below its limit, or the peer is gone. */
void req_drained(struct req_peer *peer);
/* On the peer's reactor: it is gone, or is to finish what it has. Parked requests whose kind can withdraw them go on
 * with what withdraw() made their result; what others made them wait for comes to the rest by itself. */
void req_unpark(struct req_peer *peer);

/* Counters of one reactor: written by it alone, read by status. */
enum { REQ_OPS = 96, REQ_LATENCY_BUCKETS = 32 };
struct req_stats {
	uint64_t requests[REQ_OPS], errors[REQ_OPS], entries[REQ_OPS], bytes_in[REQ_OPS], bytes_out[REQ_OPS];
	uint64_t ns_total[REQ_OPS];
	uint64_t descriptors_passed;
	uint64_t corrupt_reported, corrupt_repaired, retries_answered, connections, connections_total, auth_failures;
};

/* ---- sessions (PROTOCOL 2.3, 5.1, 5.2): any thread ---- */
struct sessions;
int sessions_open(struct store *store, struct sessions **out);
void sessions_close(struct sessions **s);
/* id 0: a new one. ACCESS when it belongs to another key; STALE when its rows were removed (a day
 * after its lease). Counted reference; also after a restart (row `h`). Blocks on the store
 * only for an unknown id: front ends call it on a worker then; -GRANARY_EAGAIN when may_block is false. */
int session_attach(struct sessions *s, const struct ns_access_key *key, uint64_t id, bool may_block,
		   struct session **out);
void session_detach(struct sessions *s, struct session **session); /* starts its lease when it was the last */
uint64_t session_id(const struct session *s);
/* Ends sessions without a connection for longer than their lease and waits that nothing will end.
 * Once a job pass; now: clock_mono_ns(). */
void sessions_tick(struct sessions *s, uint64_t now_ns);
/* It lives, and says so from now on at least once a lease: silent for longer it loses what it has open and locked. Now:
 * the number of what is remembered of its opens (opens_state()). */
uint64_t session_hear(struct store *store, struct session *s, uint64_t now_ns);
/* Removes old rows of sessions, some of them a call, a sweep an hour at most. Once a job pass. */
void sessions_sweep(struct sessions *s, uint64_t now_ns);
uint64_t sessions_count(struct sessions *s);
/* At the end, when nothing is pending: no session has anything to send again. Blocks. */
void sessions_leave(struct sessions *s);
