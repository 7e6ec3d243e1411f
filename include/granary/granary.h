/* SPDX-License-Identifier: Apache-2.0 */
/* granary.h -- the C API of Granary, a storage tier for training data. Library: libgranary (pkg-config granary).
 *
 * In one minute: granary_open() makes a client from an address and a credentials file; it does not connect yet.
 * Calls name an object by its key. The native operation is the batch read: one request for many objects, each
 * answered by its own status, straight into memory of yours (or into leased memory of the library).
 *
 * Conventions
 * (1) Results. Functions return 0 (or a count, or bytes) when they succeed, and -GRANARY_E... of granary/error.h
 *     when they fail. granary_strerror() is a text for the code; granary_last_error() is the full text of what went
 *     wrong, with the name of the thing, the cause and what helps. Each function below names the errors that have a
 *     meaning of their own there; any call to a server may also return: -GRANARY_ETIMEDOUT (the deadline passed),
 *     -GRANARY_EUNREACHABLE (no host answered, retries used up), -GRANARY_ECLOSED (the connection was lost, retries
 *     used up), -GRANARY_EAUTH, -GRANARY_EACCESS (the key does not allow this), -GRANARY_ENOBUCKET,
 *     -GRANARY_EINVAL, -GRANARY_ENAME, -GRANARY_EBUSY, -GRANARY_ENOMEM, -GRANARY_EPROTO, -GRANARY_EVERSION,
 *     -GRANARY_ESHUTDOWN, -GRANARY_EFORKED, -GRANARY_ECANCELED.
 * (2) Blocking and asynchronous. A blocking call is its `..._start` form and granary_wait(). A start function
 *     returns at once; the operation goes on in the client's own thread while you compute. It ends in one of two
 *     ways, both equal: some thread calls granary_poll(), which runs the callback given in struct granary_call; or
 *     some thread calls granary_wait() for it, which runs the callback too. A callback never runs inside a start
 *     function, and in a thread of the library only where the call says so (GRANARY_AT_ONCE). granary_fd() is an
 *     eventfd to put into a poll loop of your own.
 * (3) Memory. What is `const` is borrowed for the call. A start form copies its single arguments, also their texts;
 *     arrays (entries, puts, refs, deletes), what they point to, buffers and places for results belong to the
 *     caller and must stay until the operation is done. What the library hands over (`char **`, pages, `data` of
 *     granary_get()) is one block: release it with granary_free().
 * (4) Threads. Any thread may call anything with any client, at the same time, except granary_close() and the
 *     function that frees an object while another thread uses that object.
 * (5) Fork. A client may be used on both sides of a fork(). In the child it starts afresh by itself at the first
 *     use: new connections, a new session, the same descriptor number in granary_fd(). Operations that were under
 *     way belong to the parent: in the child they are done, with -GRANARY_EFORKED. Buffers of the child are its own
 *     copies. A child that never touches the client costs nothing and disturbs nothing. Upload and list handles of
 *     the parent return -GRANARY_EFORKED in the child. Nothing may be called between vfork() and exec.
 * (6) Time. Every operation has a deadline (struct granary_call, else struct granary_options), in milliseconds from
 *     its start. Until then the library repeats what is safe to repeat, after a random pause: reads always;
 *     mutations under the same number in the client's session, so that they happen once. When a mutation ends with
 *     -GRANARY_ETIMEDOUT or -GRANARY_ECLOSED it may or may not have happened. Everything else that fails has
 *     changed nothing.
 * (7) Checksums. Every byte read is verified in the client right after it was received, before it is handed over.
 *     After a mismatch the server is asked to verify and repair; -GRANARY_ECORRUPT means that no good copy was
 *     found.
 * (8) Names. A key is 1..GRANARY_KEY_LEN_MAX bytes of UTF-8; `/` has no meaning for the API beyond directories. A
 *     bucket is 3..63 characters of a-z 0-9 . -. Texts are NUL-terminated.
 * (9) Growth. Structs that begin with `size` are set to sizeof by the caller (GRANARY_INIT does it) and may grow at
 *     their end. Other structs never change within a major version. Fields not set are 0 and mean the default.
 *
 * Text between the two markers below is a whole program; all of them are compiled by the tests.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int main(void)
 *	{
 *		struct granary_client *client;
 *		struct granary_options options = GRANARY_INIT(granary_options);
 *		void *data;
 *		size_t len;
 *
 *		options.url = "granary://localhost/vision";
 *		options.credentials = "/etc/granary/reader.key";
 *		if (granary_open(&options, &client) < 0) {
 *			fprintf(stderr, "%s\n", granary_last_error(NULL));
 *			return 1;
 *		}
 *		if (granary_get(client, "train/n01440764/10026.jpeg", &data, &len, NULL) < 0)
 *			fprintf(stderr, "%s\n", granary_last_error(client));
 *		else
 *			printf("%zu bytes\n", len);
 *		granary_free(data);
 *		granary_close(&client);
 *		return 0;
 *	}
 * @end */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "granary/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define GRANARY_API __attribute__((visibility("default")))
#define GRANARY_MUST_CHECK __attribute__((warn_unused_result))
#else
#define GRANARY_API
#define GRANARY_MUST_CHECK
#endif

/* ---- version and texts --------------------------------------------------------------------- */

#define GRANARY_VERSION_MAJOR 0
#define GRANARY_VERSION_MINOR 1
#define GRANARY_VERSION_PATCH 0
#define GRANARY_VERSION (GRANARY_VERSION_MAJOR * 1000000 + GRANARY_VERSION_MINOR * 1000 + GRANARY_VERSION_PATCH)

/** The version of the library that runs, as GRANARY_VERSION has that of the header. Any thread. Since 0.1. */
GRANARY_API uint32_t granary_version(void);
/** The same as "0.1.0"; static. Any thread. Since 0.1. */
GRANARY_API const char *granary_version_string(void);
/** A short English text for a code, lower case, no full stop: granary_strerror(-GRANARY_ENOTFOUND) is "no such
 * object". Static, never NULL. Any thread. Since 0.1. */
GRANARY_API const char *granary_strerror(int err);
/** The name of a code without its prefix: "NOTFOUND"; "OK" for 0; "UNKNOWN". Static, never NULL. Since 0.1. */
GRANARY_API const char *granary_error_name(int err);
/** The errno that stands for a code: ENOENT for -GRANARY_ENOTFOUND; 0 for 0. Since 0.1. */
GRANARY_API int granary_error_errno(int err);
/** Releases a block that the library handed over. NULL is allowed. Since 0.1. */
GRANARY_API void granary_free(void *block);

/* Starts a struct that has a size: struct granary_options o = GRANARY_INIT(granary_options); */
#ifdef __cplusplus
#define GRANARY_INIT(name) { sizeof(struct name) }
#else
#define GRANARY_INIT(name) { .size = sizeof(struct name) }
#endif

enum {
	GRANARY_PORT = 7420,
	GRANARY_KEY_LEN_MAX = 1024,
	GRANARY_BUCKET_LEN_MAX = 63,
	GRANARY_HOSTS_MAX = 16,
	GRANARY_HOST_LEN_MAX = 255,
	GRANARY_LIST_MAX = 1000,          /* entries of a page */
	GRANARY_ALIGN_MAX = 4096,         /* of an entry in a slab */
	GRANARY_META_LEN_MAX = 2048,      /* user metadata of one object, with 4 bytes a pair */
	GRANARY_CONNECTIONS_MAX = 64
};
#define GRANARY_READ_SIZE_MAX ((size_t)1 << 40) /* bytes of one read */
#define GRANARY_TO_END UINT64_MAX               /* a length: all there is */
#define GRANARY_FOREVER UINT32_MAX              /* a timeout: none */

/* ---- addresses ----------------------------------------------------------------------------- */

struct granary_host {
	char name[GRANARY_HOST_LEN_MAX + 1]; /* host name, address without brackets, or path of a Unix socket */
	uint16_t port;                       /* 0 for a Unix socket */
	uint8_t is_unix;
	uint8_t reserved[5];
};

struct granary_url {
	uint32_t hosts_count;
	uint32_t reserved;
	struct granary_host hosts[GRANARY_HOSTS_MAX];
	char bucket[GRANARY_BUCKET_LEN_MAX + 1]; /* "" when the address has none */
	char snapshot[256];                      /* "" when it has none */
	char path[GRANARY_KEY_LEN_MAX + 1];      /* "" when it has none; else without the slash that ends the bucket */
};

/** Reads granary://HOST[:PORT][,HOST...][/BUCKET[@SNAPSHOT][/PATH]]. HOST is a name, an IPv4 address, an IPv6
 * address in brackets, or the absolute path of a Unix socket, percent-encoded (%2Frun%2Fgranary.sock; only HOST is
 * decoded). `@` is read only in the bucket part. PATH is taken literally, whatever bytes it has: `%` and `@` there
 * mean themselves, and a slash at its end stays.
 * @param text      the address; borrowed
 * @param url       filled; undefined content on error
 * @param why       NULL, or a place for a text that says what is wrong and where
 * @param why_size  bytes of `why`
 * @return 0 or -GRANARY_EINVAL. Does not block, does not look up names. Any thread. Since 0.1. Stable.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int main(int argc, char **argv)
 *	{
 *		struct granary_url url;
 *		char why[200];
 *
 *		if (argc < 2 || granary_url_parse(argv[1], &url, why, sizeof(why)) < 0) {
 *			fprintf(stderr, "%s\n", argc < 2 ? "usage: NAME URL" : why);
 *			return 2;
 *		}
 *		printf("%s:%u bucket '%s' path '%s'\n", url.hosts[0].name, url.hosts[0].port, url.bucket, url.path);
 *		return 0;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_url_parse(const char *text, struct granary_url *url, char *why,
	size_t why_size);

/* ---- client -------------------------------------------------------------------------------- */

struct granary_client; /* connections, a session, one thread; started at the first use */
struct granary_op;     /* one operation under way, or done and not yet freed */

/* How the client waits for its sockets. AUTO is what the environment's GRANARY_CLIENT_ENGINE says (auto, epoll or
 * uring), else epoll: measured on one connection, io_uring spent as much CPU on a sample of a batch, within what
 * a busy machine lets one see, and 5 to 25% more on a read of its own; and sandboxes often forbid it. */
enum granary_engine { GRANARY_ENGINE_AUTO = 0, GRANARY_ENGINE_EPOLL = 1, GRANARY_ENGINE_URING = 2 };

/* A server of this host on a Unix socket passes descriptors of packs, and what is in the page cache is read through
 * them. AUTO: GRANARY_LOCAL_READS, auto or off; else so. OFF: everything comes over the socket. */
enum granary_local { GRANARY_LOCAL_AUTO = 0, GRANARY_LOCAL_OFF = 1 };

struct granary_options {
	size_t size;
	const char *url;         /* NULL: GRANARY_URL, else the credentials file's. PATH and SNAPSHOT are ignored */
	const char *credentials; /* path of a file of lines access_key=, secret=, url= (# comments); NULL: that of
	                          * GRANARY_CREDENTIALS, else of the profile. Refused when group or others may
	                          * read it */
	const char *access_key;  /* with `secret`: instead of a file */
	const char *secret;      /* 64 hex digits */
	const char *name;        /* who is calling, for the server's log; NULL: the program's name */
	uint64_t memory_max;     /* bytes for leases and buffers; 0: 256 MiB; at least 8 MiB */
	uint32_t timeout_ms;     /* of a call that gives none; 0: 30,000; GRANARY_FOREVER */
	uint32_t connect_timeout_ms; /* of one attempt at one host, log-in included; 0: 5,000 */
	uint32_t connections;    /* to the server; 0: 1; at most GRANARY_CONNECTIONS_MAX */
	uint32_t retries_max;    /* repeats of one operation; 0: until its deadline; UINT32_MAX: none */
	uint32_t engine;         /* enum granary_engine */
	uint32_t local_reads;    /* enum granary_local */
	const char *profile;     /* whose credentials file granary_profile_path() names; it wins over
	                          * GRANARY_CREDENTIALS. NULL: GRANARY_PROFILE; else "default" if it has a file */
	const char *cache_dir;   /* a directory on this node's flash, where bytes of snapshots that were read are kept
	                          * for the next time, and for other processes of the user that name it: in one file,
	                          * granary-cache. NULL: GRANARY_CACHE_DIR; none: nothing is kept */
	uint64_t cache_size;     /* bytes of that file, never more: 64 MiB at least. 0: GRANARY_CACHE_SIZE, as 200GiB */
};

/** Where the credentials of a profile are: $XDG_CONFIG_HOME/granary/NAME.credentials, else below ~/.config.
 * `granary login` writes that file.
 * @param name  1..64 of A-Z a-z 0-9 . _ -, not beginning with a dot; NULL: GRANARY_PROFILE, else "default"
 * @param out, size  the path with its NUL. @return 0; -GRANARY_EINVAL (no such name may be, or there is no home);
 *         -GRANARY_ETOOBIG. Does not block, looks at no file. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_profile_path(const char *name, char *out, size_t size);

/** Makes a client. Reads the credentials file and checks everything that can be checked without a server; connects
 * at the first call that needs it.
 * @param options  NULL: everything from GRANARY_URL and GRANARY_CREDENTIALS; borrowed for the call
 * @param out      the client, or NULL on error; granary_close() it
 * @return 0; -GRANARY_EINVAL (address, secret, an option out of range); -GRANARY_EACCESS (the credentials file is
 *         readable by others, or cannot be read); -GRANARY_ENOTFOUND (no such file); -GRANARY_EAUTH (no credentials
 *         given); -GRANARY_EUNSUPPORTED (an engine that this kernel does not let us use); -GRANARY_ENOMEM. The text is
 *         at granary_last_error(NULL).
 * Does not block on the network. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int granary_open(const struct granary_options *options,
	struct granary_client **out);

/** Ends a client and sets *client to NULL. Operations under way are canceled: they are done with -GRANARY_ECANCELED,
 * and handles not yet freed stay valid for granary_op_...() and granary_op_free(), leased views too. Blocks until
 * the client's thread has ended (milliseconds). No other thread may be using the client. Since 0.1. */
GRANARY_API void granary_close(struct granary_client **client);

/** The text of the last failure: of the calling thread's last failed call on this client; without one, of the last
 * operation that failed on it. NULL: of the thread's last failed granary_open(). Valid until the thread's next call
 * of this function. Never NULL, "" when nothing failed. Any thread. Since 0.1. */
GRANARY_API const char *granary_last_error(struct granary_client *client);
/** The request, as granary_op_request(), that failed in this thread's last call that failed; 0: none did, or it failed
 * in another thread. Does not block. Any thread. Since 0.1. */
GRANARY_API uint64_t granary_last_request(struct granary_client *client);

/** The bucket of the client's address, "" without one; valid as long as the client. Any thread. Since 0.1. */
GRANARY_API const char *granary_bucket(const struct granary_client *client);

struct granary_info {
	size_t size;
	uint64_t session_id, boot_id, store_time_ns; /* 0 until connected; store time as of the last log-in */
	uint8_t store_id[16];
	char server_version[64];
	char host[GRANARY_HOST_LEN_MAX + 1];         /* of the first connection */
	char engine[16];                             /* epoll or uring */
	uint64_t requests, retries, reconnects;      /* since granary_open() */
	uint64_t bytes_received, bytes_sent;
	uint64_t crc_errors;                         /* checksum mismatches found */
	uint64_t memory_used, memory_max;
	uint64_t cache_hits, cache_misses, cache_hit_bytes; /* of the node's flash, by this client */
	uint64_t cache_size, cache_filled;           /* bytes, of all processes that use it */
	uint64_t local_reads, local_bytes;           /* runs of bytes read by descriptor, and their bytes */
};
/** What a client knows about its server, and its counters. @param info  `size` set by the caller. @return 0 or
 * -GRANARY_EINVAL. Does not block. Any thread. Since 0.1. */
GRANARY_API int granary_client_info(struct granary_client *client, struct granary_info *info);

/* ---- operations ---------------------------------------------------------------------------- */

/** Runs when an operation is done, in the thread that called granary_poll() or granary_wait(). `result` is what the
 * blocking form would have returned. May call anything, also granary_op_free(op) and start functions. */
typedef void granary_done_fn(struct granary_op *op, int64_t result, void *arg);

struct granary_file; /* granary/open.h */
/* What may differ from call to call. Every call takes one; NULL is all defaults. Copied, also the text. */
struct granary_call {
	size_t size;
	const char *bucket;    /* NULL: the bucket of the client's address */
	granary_done_fn *done; /* start forms only */
	void *arg;
	uint32_t timeout_ms;   /* 0: the client's default; GRANARY_FOREVER */
	uint32_t flags;        /* GRANARY_UNSTABLE, GRANARY_AT_ONCE */
	struct granary_file *file; /* NULL, or whose locks (granary/open.h) this change rests on: refused when they are
	                            * lost, and durable when it is answered. Borrowed for the call. Since 0.2 */
};
/* Of a change (put, delete, write in place, mkdir, rename, attributes, links, copies, ...): it may be answered before
 * it is durable. This client sees it at once, others only once it is durable: within a second, or when they look. The
 * client keeps it, its bytes too, until granary_sync() or one of its own (it keeps at most 32 MiB, and asks for durable
 * answers above that), and sends it again, in order, if the server was killed before that; only both failing within
 * that second lose it. A change that the server does not answer so is durable when it is answered.
 * What a caller has to do: nothing while it goes well; granary_sync() where it promised durability (fsync), whose error
 * is the only place where a change that could not be done again is told; granary_close(), which syncs. Changes that
 * depend on each other are made one after the other: the second once the first is answered. A process that ends
 * without granary_close() loses nothing that was answered more than a second before, and nothing at all while the
 * server lives. */
#define GRANARY_UNSTABLE UINT32_C(1)
/* Start forms: the callback runs as soon as the operation is done, in whatever thread the client's work is done by: one
 * of the library, or one that waits in a blocking call. It must be short and must not wait for anything; it may start
 * operations, and free its own, which is what frees it: nobody else may. Epochs' batches: as without. Since 0.2. */
#define GRANARY_AT_ONCE UINT32_C(2)
/* granary_stat(c, ref, &st, GRANARY_CALL(.bucket = "audio", .timeout_ms = 500)) */
#define GRANARY_CALL(...) (&(const struct granary_call){ .size = sizeof(struct granary_call), __VA_ARGS__ })

/** An eventfd, readable while operations are done that nobody has collected with granary_poll() or granary_wait().
 * For poll, epoll, libuv, asyncio. Belongs to the client: do not read, write or close it.
 * @return the descriptor, or -GRANARY_E... . Does not block. Any thread. Since 0.1. */
GRANARY_API int granary_fd(struct granary_client *client);

/** Waits until every change of this client that was answered before the call is durable (GRANARY_UNSTABLE).
 * @return 0; -GRANARY_EIO: some of it was lost and could not be done again, since others changed the same things
 * meanwhile, or the server was restored from an older backup; granary_last_error() names the first. Told once.
 * Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_sync(struct granary_client *client, const struct granary_call *call);
/** The same without waiting. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_sync_start(struct granary_client *client, const struct granary_call *call,
	struct granary_op **op);

/** Collects operations that are done: runs their callbacks.
 * @param max  at most so many; 0: all
 * @return how many were collected, 0 when none was done. Does not block. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <poll.h>
 *	#include <stdio.h>
 *
 *	static void done(struct granary_op *op, int64_t result, void *arg)
 *	{
 *		if (result < 0)
 *			fprintf(stderr, "%s\n", granary_op_error(op));
 *		*(int *)arg = 1;
 *		granary_op_free(&op);
 *	}
 *
 *	int stat_in_a_loop(struct granary_client *client, struct granary_stat *out)
 *	{
 *		int is_done = 0;
 *		struct granary_op *op;
 *		struct granary_ref ref = granary_ref_key("train/0.jpeg");
 *		struct pollfd fd = { .fd = granary_fd(client), .events = POLLIN };
 *		int err = granary_stat_start(client, &ref, 1, 0, out, GRANARY_CALL(.done = done, .arg = &is_done), &op);
 *
 *		while (err == 0 && !is_done) {
 *			poll(&fd, 1, -1);
 *			granary_poll(client, 0);
 *		}
 *		return err;
 *	}
 * @end */
GRANARY_API int granary_poll(struct granary_client *client, uint32_t max);

/** Waits for one operation, and runs its callback if nobody has yet.
 * @param timeout_ms  how long to wait; 0: only look; GRANARY_FOREVER: the operation's own deadline ends it
 * @return the operation's result (>= 0, or its error), or -GRANARY_EAGAIN when it is still under way: then nothing
 *         has changed and it may be waited for again. The operation stays until granary_op_free().
 * Blocks. Any thread. Since 0.1. */
GRANARY_API int64_t granary_wait(struct granary_op *op, uint32_t timeout_ms);

/** 1 when the operation is done, else 0. Does not block. Any thread. Since 0.1. */
GRANARY_API int granary_op_done(const struct granary_op *op);
/** Its result; -GRANARY_EAGAIN while it is under way. Does not block. Any thread. Since 0.1. */
GRANARY_API int64_t granary_op_result(const struct granary_op *op);
/** The text of its failure, or of the first of its entries that failed; "" without one. Valid as long as the operation.
 * Since 0.1. */
GRANARY_API const char *granary_op_error(const struct granary_op *op);
/** Which request of the session (granary_info.session_id) failed, else which was sent last; 0: none was sent. With the
 * session it is what the server knows the request by. Since 0.1. */
GRANARY_API uint64_t granary_op_request(const struct granary_op *op);
/** Asks for the operation to end soon, with -GRANARY_ECANCELED unless it is done first. A mutation may still happen.
 * Does not block: wait or poll for the end as always. Any thread. Since 0.1. */
GRANARY_API void granary_op_cancel(struct granary_op *op);
/** Releases an operation, and with it its leased views, and sets *op to NULL. One that is under way is canceled
 * first and waited for (it no longer touches any memory of yours after this returns); its callback does not run.
 * *op may be NULL. Blocks only while the operation is under way. Since 0.1. */
GRANARY_API void granary_op_free(struct granary_op **op);

/** Asks the server for nothing: connects, logs in, and goes one round trip.
 * @return 0 or an error of (1) at the top. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_ping(struct granary_client *client, const struct granary_call *call);
/** granary_ping() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_ping_start(struct granary_client *client, const struct granary_call *call,
	struct granary_op **op);

/* ---- naming an object ---------------------------------------------------------------------- */

enum granary_ref_kind {
	GRANARY_REF_KEY = 1,  /* `name` is the key */
	GRANARY_REF_NAME = 2, /* `name` (one component) in directory `dir_id` */
	GRANARY_REF_ID = 3    /* `object_id`; `dir_id` and `name` as they were learnt, or 0 and NULL */
};

struct granary_ref {
	const char *name;
	uint64_t dir_id;
	uint64_t object_id;
	uint32_t kind;
	uint32_t reserved;
};

/* By key; by name in a directory; by object id (with the directory where it was learnt, which makes it cheap and is
 * what grants are judged by: an id alone opens nothing). Names are borrowed. */
static inline struct granary_ref granary_ref_key(const char *key)
{
	struct granary_ref ref = { key, 0, 0, GRANARY_REF_KEY, 0 };
	return ref;
}
static inline struct granary_ref granary_ref_name(uint64_t dir_id, const char *name)
{
	struct granary_ref ref = { name, dir_id, 0, GRANARY_REF_NAME, 0 };
	return ref;
}
static inline struct granary_ref granary_ref_id(uint64_t object_id, uint64_t dir_id, const char *name)
{
	struct granary_ref ref = { name, dir_id, object_id, GRANARY_REF_ID, 0 };
	return ref;
}

/* ---- reading ------------------------------------------------------------------------------- */

enum granary_entry_flag {
	GRANARY_ENTRY_RANGE = 1,   /* only `offset`, `length` of it */
	GRANARY_ENTRY_VERSION = 2, /* only this `version`; another is -GRANARY_ECHANGED */
	GRANARY_ENTRY_MALLOC = 4,  /* into a block of its own: `data` is handed over, granary_free() it */
	GRANARY_ENTRY_HASH = 256   /* answered: `hash` is known */
};

/* One object to read. Asked by the fields above the line, answered in those below it. */
struct granary_entry {
	struct granary_ref ref;
	uint32_t flags;
	int32_t status;     /* answered: 0 or -GRANARY_E... */
	uint64_t offset;    /* bytes; offset == size reads 0, beyond it is -GRANARY_ERANGE */
	uint64_t length;    /* bytes, or GRANARY_TO_END; short only at the object's end */
	uint64_t version;   /* asked with GRANARY_ENTRY_VERSION; answered: the version read */
	void *buf;          /* where the bytes go, when the batch has no slab; NULL: leased */
	size_t buf_size;    /* bytes there; more to read than that is -GRANARY_ETOOBIG, `size` says how much */
	/* -- answered -- */
	const void *data;   /* the bytes: in buf, in the slab, leased, or handed over; NULL when status != 0 */
	size_t data_len;
	uint64_t object_id;
	uint64_t dir_id;
	uint64_t size;      /* of the whole object */
	uint64_t mtime_ns;  /* since 1970, as set by users */
	uint8_t hash[16];   /* XXH3-128 of the whole object, low half first */
	void *user;         /* yours, untouched */
};

enum granary_batch_flag {
	GRANARY_BATCH_IN_ORDER = 1 /* entries are answered, and laid into the slab, in their order */
};

/** Runs for each entry that is done, in the client's own thread, before the batch is done; entries that were asked
 * for again (lost connection, bad checksum) come late. Must be short, must not call the library. */
typedef void granary_entry_fn(struct granary_entry *entry, void *arg);

struct granary_batch {
	size_t size;
	struct granary_entry *entries; /* yours until the operation is done; any number of them */
	size_t count;
	uint32_t flags;      /* enum granary_batch_flag */
	uint32_t align;      /* of each entry in the slab or lease: a power of two up to GRANARY_ALIGN_MAX; 0: 1 in
	                      * a slab of yours (one entry right after the other), 64 in a lease */
	void *slab;          /* all entries go here, one after the other; page-locked memory is fine */
	size_t slab_size;    /* an entry that no longer fits is -GRANARY_ETOOBIG; the others are served */
	uint64_t bytes_hint; /* of all entries together, for the memory budget; 0: guessed from what was read before */
	granary_entry_fn *each;
	void *each_arg;
};

/** Reads many objects at once. Each entry is answered by itself: a missing one has -GRANARY_ENOTFOUND in its status,
 * the rest is served. Where the bytes go: into `slab` if the batch has one; else into the entry's `buf`; else into
 * leased memory that stays until granary_op_free(). In a slab entries lie in the order of their arrival unless
 * GRANARY_BATCH_IN_ORDER is given (`data` says where); they touch each other where `align` allows, except that an
 * entry replaced by a larger version in mid-read moves to the end.
 * @param batch  borrowed for the call, its arrays until the operation is done
 * @param op     receives the operation, to be freed; may be NULL in the blocking form if nothing is leased
 * @return the number of entries with status 0, or an error of the whole batch (then every entry has it as its
 *         status, except those that were served before). Own errors: -GRANARY_EBUSY (start form: `memory_max` is
 *         used up by leases not freed; the blocking form waits), -GRANARY_EINVAL.
 * Entry errors: -GRANARY_ENOTFOUND, -GRANARY_ESTALE (by id), -GRANARY_EISDIR, -GRANARY_ERANGE, -GRANARY_ECHANGED,
 * -GRANARY_ECORRUPT, -GRANARY_ETOOBIG, -GRANARY_EACCESS, -GRANARY_EOFFLINE, -GRANARY_ENOMEM (lease over
 * `memory_max`).
 * Blocks. Any thread. Since 0.1. Stable.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <inttypes.h>
 *	#include <stdio.h>
 *
 *	int print_sizes(struct granary_client *client, const char *const *keys, size_t count)
 *	{
 *		struct granary_entry entries[64] = { { .flags = 0 } };
 *		struct granary_batch batch = GRANARY_INIT(granary_batch);
 *		struct granary_op *op;
 *		int64_t served;
 *
 *		for (size_t i = 0; i < count && i < 64; i++)
 *			entries[i].ref = granary_ref_key(keys[i]);
 *		batch.entries = entries;
 *		batch.count = count < 64 ? count : 64;
 *		served = granary_read_batch(client, &batch, NULL, &op);
 *		for (size_t i = 0; served >= 0 && i < batch.count; i++)
 *			if (entries[i].status == 0)
 *				printf("%s: %zu bytes at %p\n", keys[i], entries[i].data_len, entries[i].data);
 *			else
 *				printf("%s: %s\n", keys[i], granary_strerror(entries[i].status));
 *		granary_op_free(&op);
 *		return served < 0 ? (int)served : 0;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_read_batch(struct granary_client *client, struct granary_batch *batch,
	const struct granary_call *call, struct granary_op **op);
/** granary_read_batch() without waiting. @return 0 and *op, or an error: then there is no operation. Does not block. */
GRANARY_API GRANARY_MUST_CHECK int granary_read_batch_start(struct granary_client *client, struct granary_batch *batch,
	const struct granary_call *call, struct granary_op **op);

/** Reads many objects into one contiguous buffer, in order: granary_read_batch() with a slab and
 * GRANARY_BATCH_IN_ORDER.
 * @param slab, slab_size  caller's memory; undefined content where no entry lies
 * @param align            as in struct granary_batch
 * @return as granary_read_batch(). Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_read_batch_into(struct granary_client *client,
	struct granary_entry *entries, size_t count, void *slab, size_t slab_size, uint32_t align,
	const struct granary_call *call);

/** Reads part of one object.
 * @param key       1..GRANARY_KEY_LEN_MAX bytes; borrowed for the call
 * @param offset    bytes; offset == size reads 0, beyond it is -GRANARY_ERANGE
 * @param buf, len  caller's memory; len <= GRANARY_READ_SIZE_MAX; undefined content on error
 * @return bytes read, short only at the object's end; or -GRANARY_ENOTFOUND; -GRANARY_ETIMEDOUT (safe to repeat);
 *         -GRANARY_ECORRUPT (every copy failed its checksum). Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_read(struct granary_client *client, const char *key, uint64_t offset,
	void *buf, size_t len, const struct granary_call *call);

/** Reads one whole object into a block of its own.
 * @param data  the block, granary_free() it; NULL on error, and a valid pointer for an empty object
 * @param len   bytes
 * @return 0 or an error as of granary_read(). Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int granary_get(struct granary_client *client, const char *key, void **data,
	size_t *len, const struct granary_call *call);

/** Takes bytes of an object in order. @return 0 to go on; negative ends the read with that code. */
typedef int granary_sink_fn(void *arg, const void *data, size_t len);
/** Reads one object of any size piece by piece, a few MiB read ahead, all of one version.
 * @param ref     borrowed for the call
 * @param offset  where to begin
 * @param length  bytes, or GRANARY_TO_END
 * @param sink    called in the calling thread
 * @return bytes given to the sink, or an error; -GRANARY_ECHANGED: it was replaced meanwhile. timeout_ms holds for
 *         each piece. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_read_stream(struct granary_client *client, struct granary_ref ref,
	uint64_t offset, uint64_t length, granary_sink_fn *sink, void *arg, const struct granary_call *call);

/* ---- writing ------------------------------------------------------------------------------- */

struct granary_pair {
	const char *name, *value; /* user metadata */
};

enum granary_put_flag {
	GRANARY_PUT_IF_ABSENT = 1,  /* else -GRANARY_EPRECONDITION */
	GRANARY_PUT_IF_VERSION = 2, /* only over version `if_version` */
	GRANARY_PUT_MODE = 4,       /* `mode`, `uid`, `gid` are given */
	GRANARY_PUT_MTIME = 8,      /* `mtime_ns` is given; else now */
	GRANARY_PUT_ID = 16         /* `object_id` is given, one of granary_ids(); up to 4 MiB of data */
};

/* One object to write; a put replaces what the name had, all or nothing. */
struct granary_put {
	struct granary_ref ref; /* by key or by name */
	const void *data;       /* the whole content; NULL when size is 0 */
	uint64_t size;          /* bytes; above 4 MiB it is sent in pieces and then named in one step */
	uint32_t flags;
	uint32_t mode, uid, gid;
	uint64_t if_version;
	uint64_t mtime_ns;
	const struct granary_pair *meta;
	uint32_t meta_count;
	int32_t status;         /* answered: 0 or -GRANARY_E... */
	/* -- answered -- */
	uint64_t object_id;     /* asked with GRANARY_PUT_ID */
	uint64_t version, dir_id;
	uint64_t replaced_version; /* 0: it was new */
	void *user;
};

/** Writes one object. Returns after it is durable (unless the bucket is relaxed).
 * @param data, len  borrowed for the call
 * @return 0; -GRANARY_ENOSPACE; -GRANARY_EQUOTA; -GRANARY_ENAME; -GRANARY_EISDIR; -GRANARY_ETIMEDOUT and
 *         -GRANARY_ECLOSED (it may have happened). Blocks. Any thread. Since 0.1. Stable.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int save(struct granary_client *client, const void *bytes, size_t len)
 *	{
 *		return granary_put(client, "runs/7/checkpoint", bytes, len, GRANARY_CALL(.timeout_ms = 60000));
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_put(struct granary_client *client, const char *key, const void *data,
	size_t len, const struct granary_call *call);

/** Writes many objects. Entries succeed or fail one by one; they are sent in requests of up to 8 MiB, each of which
 * is one commit of the server: batches of a few hundred small objects are fastest.
 * @param puts  the caller's until the operation is done; answered in place
 * @return the number of entries with status 0, or an error of the whole batch (entries answered before keep their
 *         answer).
 * Entry errors: those of granary_put(), -GRANARY_EPRECONDITION. Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_put_batch(struct granary_client *client, struct granary_put *puts,
	size_t count, const struct granary_call *call);
/** granary_put_batch() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_put_batch_start(struct granary_client *client, struct granary_put *puts,
	size_t count, const struct granary_call *call, struct granary_op **op);

struct granary_upload; /* an object being written whose size need not be known */

/** Begins to write an object piece by piece. Nothing is visible before granary_upload_commit().
 * @param put   ref and, for the commit, flags, mode, mtime, if_version, metadata; `data` and `size` are not used.
 *         Copied
 * @param call  bucket, and the timeout of each step
 * @return 0 and *out, to be ended with granary_upload_free(). Does not block. One thread at a time. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_upload_new(struct granary_client *client, const struct granary_put *put,
	const struct granary_call *call, struct granary_upload **out);
/** Appends bytes. They are copied, sent in pieces of 4 MiB with several in flight; blocks while those are
 * unanswered.
 * @return 0, or the error of an earlier piece: the upload has failed. -GRANARY_ESTALE: the server was restarted,
 *         write it again from the start with a new upload. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_upload_write(struct granary_upload *up, const void *data, size_t len);
/** Waits for all pieces and puts the object under its name, in one step. @param put  NULL, or answered as by
 * granary_put_batch(). @return 0 or an error as of granary_put(). Blocks. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_upload_commit(struct granary_upload *up, struct granary_put *put);
/** Ends an upload; one not committed leaves nothing behind. Sets *up to NULL, which is allowed. Since 0.1. */
GRANARY_API void granary_upload_free(struct granary_upload **up);

/** Gives the next bytes of an object to write. @return bytes put into buf, at most len; 0 at the end; negative ends
 * the write with that code. */
typedef int64_t granary_source_fn(void *arg, void *buf, size_t len);
/** Writes one object of any size from a callback, which runs in the calling thread.
 * @param put  as in granary_upload_new(); answered
 * @return bytes written, or an error as of granary_upload_write() and granary_put(). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_put_stream(struct granary_client *client, struct granary_put *put,
	granary_source_fn *source, void *arg, const struct granary_call *call);

/* ---- looking ------------------------------------------------------------------------------- */

enum granary_kind {
	GRANARY_FILE = 1,
	GRANARY_DIR = 2,
	GRANARY_PREFIX = 3, /* of a listing: what lies below a common prefix */
	GRANARY_SYMLINK = 4,
	GRANARY_FIFO = 5,
	GRANARY_SOCKET = 6,
	GRANARY_CHAR = 7, /* a character device */
	GRANARY_BLOCK = 8 /* a block device */
};

struct granary_stat {
	int32_t status;      /* of this entry: 0 or -GRANARY_E...; the fields below are 0 unless it is 0 */
	uint32_t kind;       /* enum granary_kind */
	uint64_t object_id;  /* of a directory: its id */
	uint64_t version;
	uint64_t size;
	uint64_t mtime_ns;
	uint64_t dir_id;     /* where the name is */
	uint32_t mode, uid, gid;
	uint32_t has_hash;
	uint8_t hash[16];
	struct granary_pair *meta; /* with GRANARY_STAT_META: one block, granary_free() it; NULL without metadata */
	uint64_t meta_count;
};
enum granary_stat_flag { GRANARY_STAT_META = 1 };

/** Attributes of one object or directory. A key that ends in `/` names the directory's own entry.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_ESTALE. `meta` is not asked for. Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int granary_stat(struct granary_client *client, struct granary_ref ref,
	struct granary_stat *out, const struct granary_call *call);
/** Attributes of many. @param refs  borrowed until the operation is done. @param flags  enum granary_stat_flag.
 * @param out  `count` of them. @return entries with status 0, or an error of all. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_stat_batch(struct granary_client *client, const struct granary_ref *refs,
	size_t count, uint32_t flags, struct granary_stat *out, const struct granary_call *call);
/** granary_stat_batch() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_stat_start(struct granary_client *client, const struct granary_ref *refs,
	size_t count, uint32_t flags, struct granary_stat *out, const struct granary_call *call,
		struct granary_op **op);

/* What a filesystem asks for besides. */
struct granary_inode {
	uint64_t ctime_ns, atime_ns; /* last change of bytes or attributes; as set, else the mtime */
	uint64_t rdev;               /* of a device, as makedev(3) makes it */
	uint32_t nlink;              /* names of the file; of a directory 2 and one for each directory in it,
				      * 1: not counted (made before they were) */
	uint32_t reserved;
	uint64_t holes;              /* bytes of the file that nothing is stored for: they are zeros; 0 in a listing */
};
/** granary_stat_batch() that fills `inodes`, `count` of them, as well. Those of entries that failed are zeros.
 * Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_stat_full(struct granary_client *client, const struct granary_ref *refs,
	size_t count, uint32_t flags, struct granary_stat *out, struct granary_inode *inodes,
	const struct granary_call *call);
/** granary_stat_full() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_stat_full_start(struct granary_client *client,
	const struct granary_ref *refs, size_t count, uint32_t flags, struct granary_stat *out,
	struct granary_inode *inodes, const struct granary_call *call, struct granary_op **op);

struct granary_list_entry {
	const char *key;    /* or the common prefix */
	uint32_t kind;      /* GRANARY_PREFIX, or what the object is: enum granary_kind */
	uint32_t mode;
	uint64_t object_id, version, size, mtime_ns, dir_id; /* 0 for a prefix */
	uint32_t has_hash;
	uint32_t reserved;
	uint8_t hash[16];
};
struct granary_list_page {
	uint32_t count;
	uint32_t more; /* 1: the page does not reach the end */
	struct granary_list_entry *entries;
	struct granary_inode *inodes; /* with GRANARY_LIST_FULL: one an entry; zeros of a prefix. Else NULL */
};
enum granary_list_flag { GRANARY_LIST_FULL = 1 };
/* Texts may be NULL and are borrowed for the call. Order is that of the bytes of the keys. */
struct granary_list_query {
	size_t size;
	const char *prefix;
	const char *delimiter;   /* "/" lists like a directory: what lies below comes as one GRANARY_PREFIX */
	const char *start_after; /* a key or common prefix: the last one of the page before */
	uint32_t max;            /* entries of a page, 1..GRANARY_LIST_MAX; 0: GRANARY_LIST_MAX */
	uint32_t flags;          /* enum granary_list_flag; not for granary_iter_open() */
};
/** One page of a listing; a page is one snapshot of the bucket. @param query  NULL lists everything.
 * @param page  one block, granary_free() it; NULL on error. @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_list(struct granary_client *client, const struct granary_list_query *query,
	struct granary_list_page **page, const struct granary_call *call);
/** granary_list() without waiting. `page` must stay until the operation is done. @return 0 and *op, or an error. */
GRANARY_API GRANARY_MUST_CHECK int granary_list_start(struct granary_client *client,
	const struct granary_list_query *query, struct granary_list_page **page, const struct granary_call *call,
	struct granary_op **op);

struct granary_iter; /* a listing across pages, the next page read ahead */
/** Begins a listing of any length. @return 0 and *out, to be closed. Does not block. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int list_all(struct granary_client *client)
 *	{
 *		struct granary_list_query query = GRANARY_INIT(granary_list_query);
 *		const struct granary_list_entry *entry;
 *		struct granary_iter *iter;
 *		int more;
 *
 *		query.prefix = "train/";
 *		more = granary_iter_open(client, &query, NULL, &iter);
 *		if (more < 0)
 *			return more;
 *		while ((more = granary_iter_next(iter, &entry)) > 0)
 *			puts(entry->key);
 *		granary_iter_close(&iter);
 *		return more;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_iter_open(struct granary_client *client,
	const struct granary_list_query *query, const struct granary_call *call, struct granary_iter **out);
/** The next entry, valid until the next call. @return 1; 0 at the end; or an error: calling again tries that page
 * again. Blocks. One thread at a time. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_iter_next(struct granary_iter *iter,
	const struct granary_list_entry **entry);
/** Ends a listing and sets *iter to NULL, which is allowed. Since 0.1. */
GRANARY_API void granary_iter_close(struct granary_iter **iter);

/* ---- deleting, directories, names ---------------------------------------------------------- */

enum granary_delete_flag { GRANARY_DELETE_IF_VERSION = 1 };
struct granary_delete {
	struct granary_ref ref;
	uint64_t if_version;
	uint32_t flags;
	int32_t status;         /* answered; -GRANARY_ENOTFOUND when there was nothing */
	uint64_t version, size; /* answered: of what is gone */
	void *user;
};
/** Removes one object. @return 0; -GRANARY_ENOTFOUND. Blocks. Any thread. Since 0.1. Stable. */
GRANARY_API GRANARY_MUST_CHECK int granary_delete(struct granary_client *client, const char *key,
	const struct granary_call *call);
/** Removes many; entries succeed or fail one by one. @return entries with status 0, or an error of all. Blocks. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_delete_batch(struct granary_client *client,
	struct granary_delete *deletes, size_t count, const struct granary_call *call);
/** granary_delete_batch() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_delete_start(struct granary_client *client, struct granary_delete *deletes,
	size_t count, const struct granary_call *call, struct granary_op **op);

enum granary_mkdir_flag {
	GRANARY_MKDIR_PARENTS = 1, /* make what is missing above it; an existing one is fine */
	GRANARY_MKDIR_DATASET = 2  /* its objects are packed together, in the order of arrival */
};
/** Makes a directory. @param mode  permission bits. @param dir_id  NULL, or its id.
 * @return 0; -GRANARY_EEXIST; -GRANARY_ENOTFOUND (no parent); -GRANARY_ENOTDIR. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_mkdir(struct granary_client *client, struct granary_ref ref, uint32_t mode,
	uint32_t flags, uint64_t *dir_id, const struct granary_call *call);
/** granary_mkdir() without waiting; dir_id (or NULL) must stay. @return 0 and *op, or an error. Does not block. */
GRANARY_API GRANARY_MUST_CHECK int granary_mkdir_start(struct granary_client *client, struct granary_ref ref,
	uint32_t mode, uint32_t flags, uint64_t *dir_id, const struct granary_call *call, struct granary_op **op);
/** Removes an empty directory. @return 0; -GRANARY_ENOTEMPTY; -GRANARY_ENOTFOUND; -GRANARY_ENOTDIR. Blocks. Since
 * 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_rmdir(struct granary_client *client, struct granary_ref ref,
	const struct granary_call *call);
/** granary_rmdir() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_rmdir_start(struct granary_client *client, struct granary_ref ref,
	const struct granary_call *call, struct granary_op **op);

enum granary_rename_flag {
	GRANARY_RENAME_NO_REPLACE = 1,
	GRANARY_RENAME_EXCHANGE = 2 /* both are there, and each gets the other's name; of any two kinds */
};
/** Renames a file, or a directory with all that is below it, in one step. Both in one bucket.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EEXIST; -GRANARY_EISDIR; -GRANARY_ENOTDIR; -GRANARY_ENOTEMPTY;
 *         -GRANARY_ELOOP; -GRANARY_EINVAL (both flags).
 * Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_rename(struct granary_client *client, struct granary_ref from,
	struct granary_ref to, uint32_t flags, const struct granary_call *call);
/** granary_rename() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_rename_start(struct granary_client *client, struct granary_ref from,
	struct granary_ref to, uint32_t flags, const struct granary_call *call, struct granary_op **op);

/* ---- attributes, links, special files ------------------------------------------------------- */
/* A key names the file or, where there is none, the directory; one that ends in `/` the directory. Attributes change
 * neither bytes nor version. */

enum granary_setattr_flag {
	GRANARY_SET_MODE = 1,
	GRANARY_SET_UID = 2,
	GRANARY_SET_GID = 4,
	GRANARY_SET_ATIME = 8,
	GRANARY_SET_MTIME = 16,
	GRANARY_SET_ATIME_NOW = 32, /* the server's clock */
	GRANARY_SET_MTIME_NOW = 64
};
struct granary_setattr {
	size_t size;
	uint32_t set;  /* enum granary_setattr_flag: which of the fields count */
	uint32_t mode; /* permission bits, set-id bits and the sticky bit; the kind stays */
	uint32_t uid, gid;
	uint64_t atime_ns, mtime_ns; /* since 1970 */
};
/** Sets attributes of a file or directory, and its ctime.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_ESTALE. Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int make_private(struct granary_client *client, const char *key)
 *	{
 *		struct granary_setattr a = GRANARY_INIT(granary_setattr);
 *
 *		a.set = GRANARY_SET_MODE | GRANARY_SET_UID;
 *		a.mode = 0600;
 *		a.uid = 1000;
 *		return granary_setattr(client, granary_ref_key(key), &a, NULL);
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_setattr(struct granary_client *client, struct granary_ref ref,
	const struct granary_setattr *attributes, const struct granary_call *call);
/** granary_setattr() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_setattr_start(struct granary_client *client, struct granary_ref ref,
	const struct granary_setattr *attributes, const struct granary_call *call, struct granary_op **op);

enum {
	GRANARY_XATTR_NAME_MAX = 255,
	GRANARY_XATTRS_LEN_MAX = 65536, /* all of one object: names, values, and 4 bytes each */
	GRANARY_TAGS_MAX = 10,          /* of one object; a name to 512 bytes, a value to 1,024 */
	GRANARY_SYMLINK_LEN_MAX = 4095
};
enum granary_xattr_flag { GRANARY_XATTR_CREATE = 1, GRANARY_XATTR_REPLACE = 2 };
/** Sets an extended attribute. @param name  1..GRANARY_XATTR_NAME_MAX bytes. @param value  `len` bytes of any kind.
 * @param flags  0, or one of enum granary_xattr_flag: only where there is none yet, or where there is one.
 * @return 0; -GRANARY_EEXIST (CREATE); -GRANARY_ENOATTR (REPLACE); -GRANARY_ETOOBIG. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_xattr_set(struct granary_client *client, struct granary_ref ref,
	const char *name, const void *value, size_t len, uint32_t flags, const struct granary_call *call);
/** granary_xattr_set() without waiting. @return 0 and *op, or an error. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_xattr_set_start(struct granary_client *client, struct granary_ref ref,
	const char *name, const void *value, size_t len, uint32_t flags, const struct granary_call *call,
	struct granary_op **op);
/** Removes an extended attribute. @return 0; -GRANARY_ENOATTR. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_xattr_remove(struct granary_client *client, struct granary_ref ref,
	const char *name, const struct granary_call *call);
/** The value of an extended attribute. @param value  one block of *len bytes, granary_free() it; NULL on error.
 * @return 0; -GRANARY_ENOATTR. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_xattr_get(struct granary_client *client, struct granary_ref ref,
	const char *name, void **value, size_t *len, const struct granary_call *call);
/** Names of all extended attributes, each ended by a NUL, as listxattr(2) has them. @param names  one block of *len
 * bytes, granary_free() it; NULL on error. @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_xattr_list(struct granary_client *client, struct granary_ref ref,
	char **names, size_t *len, const struct granary_call *call);
/** Sets all tags of an object at once; those it had are gone. A name stands once.
 * @return 0; -GRANARY_EINVAL (a name twice); -GRANARY_ETOOBIG. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_tags_set(struct granary_client *client, struct granary_ref ref,
	const struct granary_pair *tags, size_t count, const struct granary_call *call);
/** All tags of an object. @param tags  one block of *count pairs and their texts, granary_free() it; NULL on error and
 * when there are none. @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_tags_get(struct granary_client *client, struct granary_ref ref,
	struct granary_pair **tags, uint64_t *count, const struct granary_call *call);

/** Makes a symbolic link. @param target  1..GRANARY_SYMLINK_LEN_MAX bytes, never resolved by the server. Directories
 * that are missing above a key are made. @param object_id  NULL, or its id.
 * @return 0; -GRANARY_EEXIST; -GRANARY_EINVAL. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_symlink(struct granary_client *client, const char *target,
	struct granary_ref ref, uint64_t *object_id, const struct granary_call *call);
/** Where a symbolic link points. @param target  NUL-terminated, granary_free() it; NULL on error.
 * @return 0; -GRANARY_EINVAL (no symbolic link). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_readlink(struct granary_client *client, struct granary_ref ref,
	char **target, const struct granary_call *call);
/** Makes an empty file, a pipe, a socket or a device. @param mode  with its type, as mknod(2) takes it.
 * @param rdev  of devices, else 0. @param object_id  NULL, or its id.
 * @return 0; -GRANARY_EEXIST; -GRANARY_EINVAL. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_mknod(struct granary_client *client, struct granary_ref ref, uint32_t mode,
	uint64_t rdev, uint32_t uid, uint32_t gid, uint64_t *object_id, const struct granary_call *call);
/** Gives a file one more name, in the same bucket. Its bytes and attributes are the same under all of its names; they
 * go with the last one. @param object_id  NULL, or the file's id.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EEXIST; -GRANARY_EISDIR; -GRANARY_EMLINK; -GRANARY_EINVAL (another bucket).
 * Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_link(struct granary_client *client, struct granary_ref from,
	struct granary_ref to, uint64_t *object_id, const struct granary_call *call);

/* ---- copies, objects out of parts ------------------------------------------------------------- */

struct granary_placed { /* what a copy or an assembled object became */
	uint64_t object_id, version, dir_id;
	uint64_t replaced_version; /* 0: nothing was there */
	uint64_t size;             /* of an assembled object */
};
struct granary_copy {
	size_t size;
	const char *to_bucket;  /* NULL: the same */
	uint64_t from_version;  /* 0: any */
	uint32_t condition;     /* of the target: 0, GRANARY_PUT_IF_ABSENT, GRANARY_PUT_IF_VERSION */
	uint32_t reserved;
	uint64_t if_version;
};
/** Copies an object without reading or writing its bytes: the copy refers to where they are, and keeps them when the
 * object it was taken from is replaced or deleted. Attributes, metadata and tags come along. @param options  NULL, or
 * which version and conditions. @param out  NULL, or what it became.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EISDIR; -GRANARY_EPRECONDITION (also of from_version). Blocks. Any thread.
 * Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_copy(struct granary_client *client, struct granary_ref from,
	struct granary_ref to, const struct granary_copy *options, struct granary_placed *out,
	const struct granary_call *call);

/* ---- changing bytes in place ------------------------------------------------------------------ */

enum {
	GRANARY_CHANGE_DATA = 1,     /* these bytes */
	GRANARY_CHANGE_ZEROS = 2,    /* zeros that take no space; beyond the end they make the object longer */
	GRANARY_CHANGE_PUNCH = 3,    /* the same, but the size stays */
	GRANARY_CHANGE_TRUNCATE = 4, /* the size becomes `offset`; length is 0 */
	GRANARY_CHANGES_MAX = 4096,
	GRANARY_WRITE_MAX = 8 * 1024 * 1024, /* bytes of all changes of one call */
};
struct granary_change {
	uint32_t kind, reserved;
	uint64_t offset, length;
	const void *data; /* DATA: length bytes, which stay until the call ends */
};
struct granary_write {
	size_t size;
	uint64_t if_version; /* 0: any */
	uint64_t mtime_ns;   /* 0: now */
};
struct granary_written {
	uint64_t object_id, version;
	uint64_t object_size;
};
/** Changes an object's bytes where it stands, all or nothing: on disk when it returns, but for a call with
 * GRANARY_UNSTABLE. Where two changes overlap the
 * later one counts. The object gets a new version and loses its content hash; who reads it then reads the version that
 * he began with. What was never written reads as zeros and takes no space. Changes of one object that are made at
 * the same time come one after the other, in any order.
 * @param ref  a file that is there. @param options  NULL, or a condition and a time.
 * @param out  NULL, or what it is now.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EISDIR; -GRANARY_ENOTFILE; -GRANARY_EPRECONDITION; -GRANARY_ETOOBIG;
 * -GRANARY_EINVAL. Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int replace_header(struct granary_client *client, const char *key, const void *header, size_t len)
 *	{
 *		struct granary_change changes[2] = {
 *			{ .kind = GRANARY_CHANGE_DATA, .offset = 0, .length = len, .data = header },
 *			{ .kind = GRANARY_CHANGE_PUNCH, .offset = 1 << 20, .length = 1 << 20 },
 *		};
 *
 *		return granary_change(client, granary_ref_key(key), changes, 2, NULL, NULL, NULL);
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_change(struct granary_client *client, struct granary_ref ref,
	const struct granary_change *changes, uint32_t count, const struct granary_write *options,
	struct granary_written *out, const struct granary_call *call);
/** granary_change() without waiting; the data of the changes and `out` must stay until it is done, `changes` need not.
 * With GRANARY_UNSTABLE, calls of up to 32 KiB of data and no options that are under way at once for the same reference
 * travel as one request: they are one change, and `out` tells the same of each.
 * @return 0 and *op, or an error. Does not block. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_change_start(struct granary_client *client, struct granary_ref ref,
	const struct granary_change *changes, uint32_t count, const struct granary_write *options,
	struct granary_written *out, const struct granary_call *call, struct granary_op **op);
/** Writes bytes at an offset, any number of them: more than GRANARY_WRITE_MAX go in several steps, and after an error
 * some may be there. @return 0, or as granary_change. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_write(struct granary_client *client, struct granary_ref ref, uint64_t offset,
	const void *data, size_t len, struct granary_written *out, const struct granary_call *call);
/** Makes an object shorter or longer; what is new reads as zeros. @return as granary_change. Blocks. Any thread.
 * Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_truncate(struct granary_client *client, struct granary_ref ref,
	uint64_t size, struct granary_written *out, const struct granary_call *call);
/** Copies a range of one object into another that is there, without moving a byte; holes stay holes. Both may be the
 * same object. @param options  NULL, or to_bucket, from_version, if_version. @param copied  how many: fewer where the
 * source ends before. @return as granary_change; -GRANARY_ERANGE (from_offset behind the end). Blocks. Any thread.
 * Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_copy_range(struct granary_client *client, struct granary_ref from,
	uint64_t from_offset, struct granary_ref to, uint64_t to_offset, uint64_t length,
	const struct granary_copy *options, uint64_t *copied, struct granary_written *out,
	const struct granary_call *call);

struct granary_stretch {
	uint64_t offset, length;
};
enum { GRANARY_MAP_MAX = 4096 };
/** Where an object has bytes, ascending: what lies between is holes, which read as zeros. For SEEK_DATA and SEEK_HOLE.
 * @param version  0: any. @param offset  from the stretch on that reaches behind it. @param found  memory for max, at
 * most GRANARY_MAP_MAX. @param more  whether there are others behind the last. @param out  NULL, or what the object is.
 * @return how many; -GRANARY_ENOTFOUND; -GRANARY_ECHANGED (another version). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int64_t granary_map(struct granary_client *client, struct granary_ref ref,
	uint64_t version, uint64_t offset, struct granary_stretch *found, uint32_t max, int *more,
	struct granary_written *out, const struct granary_call *call);

/* ---- objects out of parts --------------------------------------------------------------------- */

/** Begins an object that comes in parts, put in any order, by any number of clients, over any time. Nobody sees it
 * until it is finished. @param put  ref, mode, uid, gid and metadata of the object to be. @param upload  its number.
 * Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int put_in_parts(struct granary_client *client, const char *key, const void *a, size_t a_len, const void *b,
 *		size_t b_len)
 *	{
 *		struct granary_put put = { .ref = granary_ref_key(key) };
 *		struct granary_part parts[2] = { { .number = 1 }, { .number = 2 } };
 *		struct granary_ref ref = put.ref;
 *		char name[GRANARY_PART_NAME_SIZE];
 *		uint64_t upload;
 *		int err = granary_parts_begin(client, &put, &upload, NULL);
 *
 *		for (int i = 0; err == 0 && i < 2; i++) {
 *			put.ref = granary_part_ref(upload, parts[i].number, name);
 *			put.data = i == 0 ? a : b;
 *			put.size = i == 0 ? a_len : b_len;
 *			err = (int)granary_put_batch(client, &put, 1, NULL);
 *			err = err < 0 ? err : put.status;
 *		}
 *		if (err == 0)
 *			err = granary_parts_finish(client, ref, upload, parts, 2, NULL, NULL, NULL);
 *		return err;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_parts_begin(struct granary_client *client, const struct granary_put *put,
	uint64_t *upload, const struct granary_call *call);
enum { GRANARY_PARTS_MAX = 10000, GRANARY_PART_NUMBER_MAX = 99999, GRANARY_PART_NAME_SIZE = 8 };
/** Where part `number`, 1..GRANARY_PART_NUMBER_MAX, of an upload is put: for granary_put(), granary_upload_new() and as
 * the target of granary_copy(). Put again, it is replaced. @param name  memory for its name, as long as the ref is
 * used. Any thread. Since 0.1. */
GRANARY_API struct granary_ref granary_part_ref(uint64_t upload, uint32_t number, char name[GRANARY_PART_NAME_SIZE]);
struct granary_part {
	uint32_t number;
	uint32_t has_hash;
	uint64_t version; /* of granary_parts_finish(): 0, or the one that it must have */
	uint64_t size, mtime_ns;
	uint8_t hash[16];
};
/** Makes the object out of the parts named, in ascending order, at most GRANARY_PARTS_MAX; others are dropped. No bytes
 * are moved. It is one step: a part that is put at the same time comes before it, or fails.
 * @param options  NULL, or the condition on what is replaced.
 * @return 0; -GRANARY_ESTALE (no such upload: finished or given up); -GRANARY_ENOTFOUND (a part);
 *         -GRANARY_EPRECONDITION (also of a part's version). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_parts_finish(struct granary_client *client, struct granary_ref ref,
	uint64_t upload, const struct granary_part *parts, size_t count, const struct granary_copy *options,
	struct granary_placed *out, const struct granary_call *call);
/** Gives an upload up: its parts go. @return 0; -GRANARY_ESTALE. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_parts_abort(struct granary_client *client, uint64_t upload,
	const struct granary_call *call);
/** The parts behind number `after`. @param parts  one block of *count, at most `max` (1..GRANARY_LIST_MAX),
 * granary_free() it; NULL on error. @param more  1: there are further ones. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_parts_list(struct granary_client *client, uint64_t upload, uint32_t after,
	uint32_t max, struct granary_part **parts, uint32_t *count, uint32_t *more, const struct granary_call *call);
struct granary_upload_entry {
	const char *key;
	uint64_t upload, created_ns; /* store time */
};
/** Uploads whose key begins with `prefix`, behind (after, after_upload): of the page before, or NULL and 0.
 * @param uploads  one block of *count, granary_free() it; NULL on error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_uploads_list(struct granary_client *client, const char *prefix,
	const char *after, uint64_t after_upload, uint32_t max, struct granary_upload_entry **uploads, uint32_t *count,
	uint32_t *more, const struct granary_call *call);

/* ---- snapshots ----------------------------------------------------------------------------- */
/* A snapshot is a fixed set of samples of a bucket: the objects below a prefix at one instant. It copies no
 * bytes and never changes. Its samples have dense ids 0..samples-1 in the order of their bytes on disk. Calls
 * take the bucket from `call`, else from the client's address; names are 1..255 characters without `/` and `@`. */

struct granary_snapshot_spec {
	size_t size;
	const char *prefix;     /* NULL: all of the bucket */
	const char *group;      /* "basename": files alike up to the first dot of the name are one sample */
	const char *split;      /* "lines", "tar", "fixed:BYTES": several samples in a file */
	const char *include;    /* globs on the key, one a line; NULL: everything */
	const char *exclude;    /* globs on the key, one a line */
	const char *note;       /* a text for people */
	uint64_t block, window; /* for the order `blocks`: samples a block, a power of two; blocks a window of one lane;
	                         * 0: chosen from the data (docs/ORDER.md) */
	uint64_t expire_s;      /* seconds from now; 0: never */
	uint32_t lanes;         /* 0: chosen */
	uint32_t mode;          /* what `auto` is to mean, enum granary_mode; 0: chosen */
	uint32_t reserved;
	uint32_t keep_last;     /* removes older snapshots of the same prefix beyond so many; 0: none */
	const char *tags;       /* NAME=VALUE, one a line: names to 128 bytes without =, values to 256 */
};

enum granary_snapshot_state { GRANARY_SNAPSHOT_CREATING = 1, GRANARY_SNAPSHOT_READY = 2,
	GRANARY_SNAPSHOT_REMOVING = 3 };

struct granary_snapshot_info {
	const char *name, *prefix, *note;
	const char *warnings;            /* of granary_snapshot_create(), lines; else "" */
	uint64_t created_ns, expires_ns; /* store time; expires 0: never */
	uint64_t samples, bytes;
	uint64_t bytes_alone;            /* what its removal would set free */
	uint32_t state;                  /* enum granary_snapshot_state */
	uint32_t reserved;
	uint8_t id[16];                  /* its identity: the same id is the same samples; of tokens and recipes */
	const char *tags;                /* of granary_snapshot_list(): NAME=VALUE, one a line; else "" */
	uint8_t manifest[16];            /* hash of its table: another one after it was repacked */
};

/** Makes a snapshot. Answers when it is ready: seconds for millions of objects, while writes go on.
 * @param name  within the bucket; borrowed, like the spec and its texts. @param spec  NULL: all of the bucket
 * @param out   NULL, or receives what was made: one block, granary_free() it; NULL on error
 * @return 0; -GRANARY_EEXIST; -GRANARY_EINVAL (an option the server does not take; its text names it);
 *         -GRANARY_ENAME. When the answer is lost the call is repeated: -GRANARY_EEXIST may then mean that the
 *         first attempt did it. Blocks; give it a timeout that fits the data. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int freeze(struct granary_client *client)
 *	{
 *		struct granary_snapshot_spec spec = GRANARY_INIT(granary_snapshot_spec);
 *
 *		spec.prefix = "train/";
 *		spec.note = "as trained for the paper";
 *		return granary_snapshot_create(client, "v1", &spec, NULL, GRANARY_CALL(.timeout_ms = 600000));
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_create(struct granary_client *client, const char *name,
	const struct granary_snapshot_spec *spec, struct granary_snapshot_info **out, const struct granary_call *call);

struct granary_snapshot_page {
	uint32_t count;
	uint32_t more;
	struct granary_snapshot_info *entries;
};
/** Snapshots of a bucket, by name. @param after  NULL, or the last name of the page before.
 * @param page  one block, granary_free() it; NULL on error. @return 0 or an error. Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int print_snapshots(struct granary_client *client)
 *	{
 *		struct granary_snapshot_page *page;
 *		int err = granary_snapshot_list(client, NULL, &page, NULL);
 *
 *		for (uint32_t i = 0; err == 0 && i < page->count; i++)
 *			printf("%s: %llu samples\n", page->entries[i].name,
 *				(unsigned long long)page->entries[i].samples);
 *		granary_free(page);
 *		return err;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_list(struct granary_client *client, const char *after,
	struct granary_snapshot_page **page, const struct granary_call *call);
/** One snapshot's row. @param out  one block, granary_free() it; NULL on error. @return 0; -GRANARY_ENOTFOUND. Blocks.
 * Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int print_size(struct granary_client *client)
 *	{
 *		struct granary_snapshot_info *info;
 *		int err = granary_snapshot_show(client, "v1", &info, NULL);
 *
 *		if (err == 0)
 *			printf("%llu bytes\n", (unsigned long long)info->bytes);
 *		granary_free(info);
 *		return err;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_show(struct granary_client *client, const char *name,
	struct granary_snapshot_info **out, const struct granary_call *call);

enum granary_snapshot_remove_flag { GRANARY_SNAPSHOT_FORCE = 1 /* also while a job reads it */ };
/** Removes a snapshot; the bytes that it alone held become free.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EBUSY: a job reads it, the text names the job. Repeated after a lost
 *         answer: -GRANARY_ENOTFOUND may then mean that the first attempt did it. Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *
 *	int forget(struct granary_client *client)
 *	{
 *		return granary_snapshot_remove(client, "v1", 0, NULL);
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_remove(struct granary_client *client, const char *name,
	uint32_t flags, const struct granary_call *call);
/** Gives a snapshot packs of its own: copies its samples, in their order, and then reads only the copies. What it held
 * together with others becomes theirs alone, and neighbours are neighbours on the disk again. Its samples, their order
 * and its identity stay: tokens and recipes go on.
 * @param flags  GRANARY_SNAPSHOT_FORCE: also while a job reads it; its epochs then end with -GRANARY_ECHANGED and go on
 *               from their tokens
 * @return 0; -GRANARY_EBUSY (a job reads it, or two are being made; granary_last_error() says which);
 *         -GRANARY_ENOTFOUND; -GRANARY_ENOSPACE; -GRANARY_ECORRUPT (a sample cannot be read: nothing was changed).
 *         Blocks for as long as reading and writing its bytes takes: give a timeout. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_repack(struct granary_client *client, const char *name,
	uint32_t flags, const struct granary_call *call);
/** Changes the note of a snapshot and when it ends. @param expires_ns  store time; 0: never.
 * @return 0; -GRANARY_ENOTFOUND. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_note(struct granary_client *client, const char *name,
	const char *note, uint64_t expires_ns, const struct granary_call *call);

struct granary_snapshot; /* a snapshot open for reading: its table is fetched as it is needed */

struct granary_snapshot_detail {
	size_t size;
	const char *name, *bucket, *prefix; /* these texts are valid as long as the handle */
	const char *options;       /* as given at creation: lines `name=value` */
	uint64_t samples, bytes, directories;
	uint64_t incomplete;       /* groups left out because a file was missing */
	uint64_t created_ns;       /* store time */
	uint64_t smallest, largest; /* bytes of a sample */
	uint64_t block, window;    /* for the order `blocks`: samples a block, blocks a window of one lane */
	uint32_t lanes, mode;      /* mode: what `auto` means, enum granary_mode */
	uint32_t fields;           /* files of a sample */
	uint32_t pages, names_pages;
	uint32_t reserved;
	uint64_t histogram[48];    /* samples by floor(log2(size)); size 0 is in the first */
	uint8_t id[16];
	uint64_t names;            /* files that have a name */
};

/** Opens a snapshot: fetches its manifest (about 50 bytes for each 256 MiB of data). The rest of its table is
 * fetched as it is needed and shared by all processes of the user on this machine, as read-only files named by
 * their hash below $XDG_RUNTIME_DIR (else /dev/shm/granary-UID).
 * @param out  granary_snapshot_close() it; NULL on error. The client must stay open as long.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_ECORRUPT (what came does not have its hash); -GRANARY_EVERSION.
 *         Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int first_sample(struct granary_client *client)
 *	{
 *		struct granary_snapshot *snapshot;
 *		void *data;
 *		size_t len;
 *		int err = granary_snapshot_open(client, "v1", &snapshot, NULL);
 *
 *		if (err < 0)
 *			return err;
 *		err = granary_snapshot_read(snapshot, 0, &data, &len, NULL);
 *		if (err == 0)
 *			printf("%zu bytes\n", len);
 *		granary_free(data);
 *		granary_snapshot_close(&snapshot);
 *		return err;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_open(struct granary_client *client, const char *name,
	struct granary_snapshot **out, const struct granary_call *call);
/** Ends a handle and sets *snapshot to NULL, which is allowed. No other thread may be using it. Since 0.1. */
GRANARY_API void granary_snapshot_close(struct granary_snapshot **snapshot);
/** Says that a program uses a snapshot: for an hour from now its removal is refused, naming the holder, and
 * granary_jobs() lists it. Who goes on calls again, every minute or so. Streams do so by themselves.
 * @param holder  1..128 visible ASCII characters, no blanks: "mount:/data". @param end  1: it is used no more
 * @return 0; -GRANARY_EINVAL (the holder's name); -GRANARY_ENOTFOUND (it is gone). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_hold(struct granary_snapshot *snapshot, const char *holder,
	int end, const struct granary_call *call);
/** What the manifest says. @param detail  `size` set by the caller. @return 0 or -GRANARY_EINVAL. Does not block.
 * Any thread. Since 0.1. */
GRANARY_API int granary_snapshot_describe(const struct granary_snapshot *snapshot,
	struct granary_snapshot_detail *detail);
/** Samples of the snapshot: dense ids are below it. Does not block. Any thread. Since 0.1. */
GRANARY_API uint64_t granary_snapshot_samples(const struct granary_snapshot *snapshot);
/** Reads one sample by its dense id, the fields of a group one after the other.
 * @param data  a block, granary_free() it; NULL on error, and a valid pointer for an empty sample. @param len
 *         bytes
 * @return 0; -GRANARY_ERANGE (no such id); -GRANARY_ECORRUPT. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_read(struct granary_snapshot *snapshot, uint64_t id, void **data,
	size_t *len, const struct granary_call *call);
/** Reads many samples by their dense ids: one request of all, in the order of the disk.
 * @param ids, count  any ids, also repeated; borrowed
 * @param data     a block, granary_free() it: the samples one after the other in the order of `ids`, the fields of a
 *         group side by side; NULL on error. @param offsets  count * fields + 1 of the caller: file f of sample i is
 *         the bytes offsets[i * fields + f] up to the next offset
 * @return 0; -GRANARY_ERANGE (no such id); -GRANARY_ECORRUPT; the text names the sample. Blocks. Any thread.
 *         Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_read_batch(struct granary_snapshot *snapshot, const uint64_t *ids,
	size_t count, void **data, uint64_t *offsets, const struct granary_call *call);
/** The dense id of the sample that a key belongs to. @param field  NULL, or receives which of its fields the key
 * is.
 * @return 0; -GRANARY_ENOTFOUND. Blocks when that part of the table is not here. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_find(struct granary_snapshot *snapshot, const char *key,
	uint64_t *id, uint32_t *field);

struct granary_snapshot_row {
	uint64_t size;     /* bytes */
	uint64_t pack, offset; /* where they begin; 0 when there are none */
	uint32_t extents;  /* pieces that they lie in */
	uint32_t crc32c;   /* of the first piece */
};
/** Where one file of a sample lies. Two snapshots with equal rows have the same bytes there.
 * @return 0; -GRANARY_ERANGE; -GRANARY_ECORRUPT. Blocks when that part of the table is not here. Any thread.
 *         Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_row(struct granary_snapshot *snapshot, uint64_t id, uint32_t field,
	struct granary_snapshot_row *row);

/** Takes one name of a snapshot. @return 0 to go on; anything else ends the walk with that code. */
typedef int granary_name_fn(void *arg, const char *key, uint64_t id, uint32_t field);
/** Gives the names of a snapshot's files to a function, in the order of the keys.
 * @param from  NULL, or the first key wanted. @param fn  called in the calling thread
 * @return 0 at the end, what `fn` returned, or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_names(struct granary_snapshot *snapshot, const char *from,
	granary_name_fn *fn, void *arg);
/** As granary_snapshot_names(), from the name of a number on: names are numbered from 0 in the order of the keys.
 * Those of a snapshot never change their number. @param first  at or past the end: `fn` is not called. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_names_at(struct granary_snapshot *snapshot, uint64_t first,
	granary_name_fn *fn, void *arg);
/** How many names of a snapshot come before a key, which need not be one of them: the number of the first that does
 * not. @param number  names; set on success. @return 0 or an error. Blocks when that part of the table is not here.
 * Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_name_number(struct granary_snapshot *snapshot, const char *key,
	uint64_t *number);

struct granary_snapshot_piece {
	void *data;        /* a block, granary_free() it */
	uint64_t offset;   /* in the file, of its first byte */
	uint64_t size;     /* bytes, 4 MiB at most */
};
/** Reads the part of one file around a byte that is stored, and verified, as a whole: all of a file up to 4 MiB. What
 * reads large files in small steps keeps it until it has taken what it needs.
 * @param field  of the sample, below granary_snapshot_detail's `fields`. @param offset  below the file's size
 * @return 0; -GRANARY_ERANGE (no such sample, field or byte); -GRANARY_ECORRUPT. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_snapshot_read_piece(struct granary_snapshot *snapshot, uint64_t id,
	uint32_t field, uint64_t offset, struct granary_snapshot_piece *piece, const struct granary_call *call);

/** The consumers, as streams report them: a line each, `name=value` pairs separated by blanks: job,
 * host, rank, world, snapshot, epoch, position, of, samples, bytes, waited_ns, elapsed_ns (the last four since it
 * began), samples_s, bytes_s (lately), eta_s and more. @param text  NUL-terminated block, granary_free() it.
 * @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_jobs(struct granary_client *client, char **text,
	const struct granary_call *call);

/** What a job was given, as the server keeps it: a line for each epoch that each of its ranks opened, in the order in
 * which they began, `name=value` pairs separated by blanks: snapshot or recipe, hash, mode, seed, epoch, rank, world,
 * batch, last, first, step, from and to (positions of the epoch), batches, samples, bytes, checksum (of checksums:
 * docs/ORDER.md 9; those of all ranks add up), skipped, skips (POSITION:SOURCE:LOST:SUBSTITUTE, the first 256),
 * ended, token and more. Of a rank that was killed it ends with its last report, a minute before at most.
 * A job keeps its last 16,384 lines, for 400 days.
 * @param text  NUL-terminated block, granary_free() it; "" for a job that nothing is known of.
 * @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_provenance(struct granary_client *client, const char *job, char **text,
	const struct granary_call *call);
/** Computes a line of granary_provenance() again from the table of its snapshot or recipe, without reading a sample.
 * @param line  ends with a newline or 0; borrowed. @return 0: it agrees; -GRANARY_ECORRUPT: it does not;
 *         -GRANARY_ENOTFOUND, -GRANARY_ECHANGED: what the job read is gone; -GRANARY_EUNSUPPORTED: more than 256
 *         samples were replaced; -GRANARY_EINVAL: this is no such line. Blocks: about a second for a million samples.
 *         Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_provenance_verify(struct granary_client *client, const char *line);

/* ---- recipes ------------------------------------------------------------------------------- */
/* A recipe is a mixture of snapshots under a name of its own, beside those of snapshots: which samples of each, in
 * which shares, changing along the epoch if wanted. Its text is JSON (docs/ORDER.md 8); it never changes. An epoch
 * takes its name as it takes that of a snapshot. It keeps its snapshots from being removed. */

struct granary_recipe_info {
	const char *name, *note;
	const char *text;        /* as it is kept, of granary_recipe_show(); else "" */
	uint64_t created_ns;     /* store time */
	uint64_t samples;        /* of an epoch as its text says; 0: what its sources come to */
	uint32_t sources;
	uint32_t reserved;
	uint8_t id[16];          /* hash of its text; tokens name it */
};

/** Makes a recipe. The text may leave out `hash`, `block`, `window` and `lanes`: they are filled in from the snapshots,
 * which must exist and be readable by the key; with `include` or `exclude` their names are read once.
 * @param name  within the bucket, of no snapshot and no other recipe. @param text, len  JSON; borrowed
 * @param note  NULL, or a text for people. @param out  NULL, or what was made: one block, granary_free() it
 * @return 0; -GRANARY_EINVAL (the text; which line, field and why is in the last error); -GRANARY_ENOTFOUND,
 *         -GRANARY_EACCESS, -GRANARY_ECHANGED (a source, named); -GRANARY_EEXIST (also when the answer to a first
 *         attempt was lost). Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <string.h>
 *
 *	int mix(struct granary_client *client)
 *	{
 *		const char *text = "{\"samples\": 1000000, \"sources\": ["
 *			"{\"snapshot\": \"vision@v1\", \"weight\": 3, \"exclude\": [\"*.txt\"]},"
 *			"{\"snapshot\": \"text@v7\", \"weight\": 1}]}";
 *
 *		return granary_recipe_create(client, "mix1", text, strlen(text), NULL, NULL, NULL);
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_create(struct granary_client *client, const char *name,
	const char *text, size_t len, const char *note, struct granary_recipe_info **out,
	const struct granary_call *call);

struct granary_recipe_page {
	uint32_t count;
	uint32_t more;
	struct granary_recipe_info *entries;
};
/** Recipes of a bucket, by name. @param after  NULL, or the last name of the page before.
 * @param page  one block, granary_free() it; NULL on error. @return 0 or an error. Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_list(struct granary_client *client, const char *after,
	struct granary_recipe_page **page, const struct granary_call *call);
/** One recipe and its text. @param out  one block, granary_free() it; NULL on error. @return 0; -GRANARY_ENOTFOUND;
 * -GRANARY_EACCESS (one of its snapshots may not be read). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_show(struct granary_client *client, const char *name,
	struct granary_recipe_info **out, const struct granary_call *call);
/** Removes a recipe; its snapshots stay. @param flags  GRANARY_SNAPSHOT_FORCE: also while a job reads it.
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_EBUSY: a job reads it, the text names the job. Blocks. Any thread.
 *         Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_remove(struct granary_client *client, const char *name,
	uint32_t flags, const struct granary_call *call);

struct granary_recipe; /* a recipe open for reading, with all its snapshots */

struct granary_recipe_detail {
	size_t size;
	const char *name, *bucket, *text; /* these are valid as long as the handle */
	uint64_t samples;       /* of an epoch */
	uint64_t bytes;         /* of an epoch, about */
	uint64_t created_ns;    /* store time */
	uint64_t block, window; /* as in struct granary_snapshot_detail */
	uint32_t lanes, mode;
	uint32_t fields;        /* files of a sample: the same in all sources */
	uint32_t sources, stages;
	uint32_t reserved;
	uint8_t id[16];
};
struct granary_recipe_source {
	size_t size;
	const char *snapshot;   /* BUCKET@NAME; valid as long as the recipe's handle, like the next */
	struct granary_snapshot *handle;
	uint64_t samples;       /* that the recipe takes of it */
	uint64_t samples_of_snapshot;
	uint32_t weight, repeat; /* 0: not given; weights divided by what divides all */
};
/** Opens a recipe: fetches its text and the manifests of its snapshots; with `include` or `exclude` their names too
 * (a few seconds for 10 million). Takes about an eighth of a byte for each sample of such a snapshot.
 * @param out  granary_recipe_close() it; NULL on error. The client must stay open as long.
 * @return 0; -GRANARY_ENOTFOUND (no such recipe, or a snapshot of it is gone; the text says which); -GRANARY_ECHANGED
 *         (another snapshot has the name of one of them). Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_open(struct granary_client *client, const char *name,
	struct granary_recipe **out, const struct granary_call *call);
/** Ends a handle and sets *recipe to NULL, which is allowed. No other thread may be using it. Since 0.1. */
GRANARY_API void granary_recipe_close(struct granary_recipe **recipe);
/** What a recipe comes to. @param detail  `size` set by the caller. @return 0 or -GRANARY_EINVAL. Does not block. Any
 * thread. Since 0.1. */
GRANARY_API int granary_recipe_describe(const struct granary_recipe *recipe, struct granary_recipe_detail *detail);
/** One of its sources. @param source  `size` set by the caller. @return 0; -GRANARY_ERANGE (there are not so many);
 * -GRANARY_EINVAL. Does not block. Any thread. Since 0.1. */
GRANARY_API int granary_recipe_source(const struct granary_recipe *recipe, uint32_t index,
	struct granary_recipe_source *source);

struct granary_recipe_positions {
	size_t size;
	uint64_t seed, epoch;
	uint64_t first, step;   /* positions first, first + step, ...: all below the recipe's samples */
	uint32_t mode;          /* enum granary_mode; 0: the recipe's */
	uint32_t count;
	uint32_t *sources;      /* out: of count; which source */
	uint64_t *ids;          /* out: of count; dense id in its snapshot */
};
/** Which samples are at some positions of an epoch (docs/ORDER.md 7): arithmetic, nothing is read. The first call for
 * an order makes its tables (milliseconds). @param p  `size` set by the caller; borrowed
 * @return 0; -GRANARY_ERANGE: past the end; -GRANARY_EINVAL; -GRANARY_ENOMEM. Does not block. No other thread may be
 *         using the handle. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_recipe_at(struct granary_recipe *recipe,
	const struct granary_recipe_positions *p);

/* ---- epochs -------------------------------------------------------------------------------- */
/* An epoch is every sample of a snapshot once, in an order that seed and epoch number alone give
 * (docs/ORDER.md). It is a sequence of global batches; each of `world` ranks takes `batch` samples of each. For
 * one world * batch, step k holds the same samples whatever the world is. Samples come in whole batches, each
 * one contiguous buffer, read ahead by a thread of the epoch within its memory budget, verified as they arrive.
 * A lost connection is made good without losing or repeating a sample. */

struct granary_epoch; /* one rank's part of one epoch */

enum granary_mode {
	GRANARY_MODE_AUTO = 0,  /* exact or blocks, as recorded in the snapshot */
	GRANARY_MODE_EXACT = 1, /* one permutation of all samples */
	GRANARY_MODE_BLOCKS = 2, /* blocks of neighbours, permuted, then shuffled within windows: large reads */
	GRANARY_MODE_NONE = 3   /* by dense id */
};
enum granary_last {
	GRANARY_LAST_PAD = 0,  /* the last batch is filled with samples from the beginning, marked */
	GRANARY_LAST_DROP = 1, /* samples that fill no batch are left out */
	GRANARY_LAST_KEEP = 2  /* the last batch is short; then ranks may have different numbers of batches */
};
enum granary_on_error {
	GRANARY_ERROR_RAISE = 0, /* a sample that cannot be read ends the epoch */
	GRANARY_ERROR_SKIP = 1   /* another takes its place, marked: the same one on every run */
};
#define GRANARY_TOKEN_MAX 64

/* Where an epoch goes on: equal on all ranks after equally many batches, valid for any world and batch. */
struct granary_token {
	uint32_t len; /* bytes; 0: none */
	uint8_t bytes[GRANARY_TOKEN_MAX];
};

enum { GRANARY_TOKEN_TEXT_LEN = 80 };
/** A token as text of GRANARY_TOKEN_TEXT_LEN characters of A-Z a-z 0-9 - _. @return 0 or -GRANARY_EINVAL (it is
 * none). Does not block. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_token_text(const struct granary_token *token,
	char out[GRANARY_TOKEN_TEXT_LEN + 1]);
/** The token of a text. @return 0; -GRANARY_EINVAL, -GRANARY_ECORRUPT (damaged or truncated); -GRANARY_EVERSION;
 * the text is at granary_last_error(NULL). Does not block. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_token_parse(const char *text, struct granary_token *token);

/* Memory of the caller's that batches are put into: page-locked, or shared with other processes. take() is called by
 * a thread of the epoch and must not block for long; what it gives is aligned to 64 bytes at least. NULL: the epoch
 * takes memory of its own for this batch. give() gets it back once the batch was released, on any thread. Neither calls
 * the library. */
struct granary_batch_memory {
	void *(*take)(void *arg, size_t size);
	void (*give)(void *arg, void *memory, size_t size);
	void *arg;
};

struct granary_epoch_options {
	size_t size;
	const char *snapshot;   /* of a snapshot or recipe: NAME, BUCKET@NAME or granary://HOST/BUCKET@NAME (the host
	                         * is not looked at); BUCKET@NAME/PREFIX: of a snapshot the samples below that
	                         * directory, which is a recipe (docs/ORDER.md 8.5).
	                         * Without @: BUCKET or BUCKET/PREFIX, and an automatic snapshot of
	                         * it is made, one for each job and prefix, kept until 24 h after its last use;
	                         * granary_epoch_info() has its name */
	uint64_t seed, epoch;
	uint32_t mode;          /* enum granary_mode */
	uint32_t rank, world;   /* world 0 is refused: say 1 */
	uint32_t batch;         /* samples a batch of this rank, 1..4,096 */
	uint32_t last;          /* enum granary_last */
	uint32_t on_error;      /* enum granary_on_error */
	uint32_t max_errors;    /* with SKIP: more than so many end the epoch; 0: 100 */
	uint32_t stall_timeout_ms; /* no byte for so long, and a batch is waited for: -GRANARY_ETIMEDOUT; 0: 300,000 */
	uint32_t read_ahead;    /* batches; 0: enough to keep a disk busy, and little beside what was taken already */
	uint32_t weight;        /* of the job's share of the server, 1..1,000; 0: 1 */
	uint64_t memory;        /* bytes for batches and what is read ahead; 0: two windows of the order
	                         * `blocks`, at least
	                         * 64 MiB, at most a quarter of the machine. With less than two windows the
	                         * order is the same and reading is slower. A quarter of it, or one page where
	                         * that is more, is for mapped pages of the snapshot's table; those used least
	                         * recently are unmapped, and mapped again when they are needed */
	const char *job;        /* a name under which the stream is shown by granary_jobs(), holds what it reads and
	                         * has a log: 1..128 visible characters of ASCII. NULL: "unnamed:HOST:PROCESS:NUMBER",
	                         * without a log; of an automatic snapshot "stream" */
	const struct granary_token *token; /* NULL, or where to go on: it then gives seed, epoch and order */
	uint32_t first, step;   /* for processes that share a rank: of its batches only number first, first + step,
	                         * first + 2 * step, ... (step 0: 1). Token and position are then those behind the
	                         * last batch handed out */
	uint64_t files;         /* of samples of several files: bit f asks for file f, up to 63; the others are not
	                         * read, their size is 0. 0: all. Equal on all ranks, so that they share what is read */
	const struct granary_batch_memory *batches; /* NULL: the epoch's own; copied, but what it points to stays */
};

enum granary_sample_flag {
	GRANARY_SAMPLE_PADDED = 1, /* from the beginning of the epoch, to fill the last batch; not counted as read */
	GRANARY_SAMPLE_SKIPPED = 2 /* in the place of one that could not be read */
};

/* One batch. Sample i has `fields` files: file f of it is sizes[i * fields + f] bytes at data + offsets[i *
 * fields + f]; the files of a sample lie side by side. */
struct granary_epoch_batch {
	uint64_t number;         /* of the batches of this rank, from 0 where the handle began */
	uint64_t position;       /* of the epoch: where its global batch begins */
	const uint8_t *data;
	uint64_t data_size;
	const uint64_t *offsets, *sizes;
	const uint64_t *ids;     /* dense id of each sample */
	const uint32_t *flags;   /* enum granary_sample_flag of each sample */
	uint32_t count, fields;
	const uint32_t *sources; /* of a recipe: which of its sources each sample is of, whose snapshot has its id;
	                          * else 0 */
};

struct granary_epoch_info {
	size_t size;
	const char *bucket, *snapshot; /* valid as long as the epoch; snapshot: or recipe */
	uint64_t samples;      /* of the epoch */
	uint64_t batches;      /* of this handle, from where it began */
	uint64_t delivered;    /* batches handed out */
	uint64_t position;     /* of the epoch, after those */
	uint64_t samples_read, bytes_read; /* handed out, without padded ones */
	uint64_t waited_ns;    /* in granary_epoch_next(), and by granary_epoch_ready_start(), for data */
	uint64_t skipped;      /* samples replaced by another */
	uint64_t seed, epoch;
	uint64_t memory, memory_used;
	uint32_t mode;         /* never AUTO */
	uint32_t rank, world, batch;
	uint64_t bytes_fetched; /* asked from the server, with what is between samples */
	uint32_t is_recipe;     /* `snapshot` is the name of a recipe */
	uint32_t sources;       /* of the recipe; else 1 */
};

/** Opens one rank's part of an epoch and begins to read ahead.
 * @param options  borrowed for the call
 * @param out      granary_epoch_close() it, before the client; NULL on error
 * @return 0; -GRANARY_EINVAL (world 0, rank not below world, batch 0, an unknown mode, a token of another snapshot);
 *         -GRANARY_ECORRUPT (a damaged token); -GRANARY_EVERSION (a token of a later
 *         version); -GRANARY_ETOOBIG (a sample is larger than the memory budget; the text says how large);
 *         -GRANARY_ENOTFOUND (no such snapshot). Blocks. Any thread. Since 0.1.
 *
 * @example
 *	#include <granary/granary.h>
 *	#include <stdio.h>
 *
 *	int train(struct granary_client *client, uint32_t rank, uint32_t world)
 *	{
 *		struct granary_epoch_options options = GRANARY_INIT(granary_epoch_options);
 *		const struct granary_epoch_batch *batch;
 *		struct granary_epoch *epoch;
 *		int more;
 *
 *		options.snapshot = "vision@v1";
 *		options.seed = 7;
 *		options.rank = rank;
 *		options.world = world;
 *		options.batch = 256;
 *		more = granary_epoch_open(client, &options, &epoch);
 *		if (more < 0)
 *			return more;
 *		while ((more = granary_epoch_next(epoch, &batch)) > 0) {
 *			for (uint32_t i = 0; i < batch->count; i++)
 *				printf("%llu bytes\n", (unsigned long long)batch->sizes[i]);
 *			granary_epoch_release(epoch, &batch);
 *		}
 *		if (more < 0)
 *			fprintf(stderr, "%s\n", granary_last_error(client));
 *		granary_epoch_close(&epoch);
 *		return more;
 *	}
 * @end */
GRANARY_API GRANARY_MUST_CHECK int granary_epoch_open(struct granary_client *client,
	const struct granary_epoch_options *options, struct granary_epoch **out);
/** The next batch, leased until granary_epoch_release(); several may be held.
 * @return 1; 0 at the end; or the error that ended the epoch, the same from then on: -GRANARY_ETIMEDOUT (it
 *         stalled), -GRANARY_ECORRUPT (a sample; the text names it), -GRANARY_ENOTFOUND, -GRANARY_ECHANGED and
 *         -GRANARY_EACCESS (the snapshot is gone, or the key). Blocks until the batch is whole. One thread at a
 *         time. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_epoch_next(struct granary_epoch *epoch,
	const struct granary_epoch_batch **batch);
/** The next batch, its bytes copied to memory of the caller (page-locked memory is fine); the arrays of *batch
 * stay leased.
 * @param buf, size  caller's memory. @return as granary_epoch_next(), or -GRANARY_ETOOBIG: the batch has more
 *         than `size` bytes (*batch is NULL, *need says how many; call again, nothing is lost). @param need  may
 *         be NULL. Blocks. One thread at a time. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_epoch_next_into(struct granary_epoch *epoch, void *buf, size_t size,
	const struct granary_epoch_batch **batch, uint64_t *need);
/** Waits for the next batch without blocking: the operation is done, with the result of granary_epoch_next(), as
 * soon as that would not block; then call it. At most one at a time; it has no deadline of its own: a stream
 * that stalls ends it. Of `call` only done and arg are used. @return 0 and *op; -GRANARY_EBUSY: one is under
 * way. Does not block. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_epoch_ready_start(struct granary_epoch *epoch,
	const struct granary_call *call, struct granary_op **op);
/** Gives a batch back and sets *batch to NULL, which is allowed. Any thread. Since 0.1. */
GRANARY_API void granary_epoch_release(struct granary_epoch *epoch, const struct granary_epoch_batch **batch);
/** Where to go on after the batches handed out so far. @return 0 or an error. Does not block. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_epoch_token(struct granary_epoch *epoch, struct granary_token *token);
/** What an epoch is and how far it got. @param info  `size` set by the caller. @return 0 or -GRANARY_EINVAL. Does
 * not block. Any thread. Since 0.1. */
GRANARY_API int granary_epoch_info(struct granary_epoch *epoch, struct granary_epoch_info *info);
/** Ends an epoch, with all its batches, and sets *epoch to NULL, which is allowed. Blocks until nothing of it is
 * under way (milliseconds, and one round trip). No other thread may be using it. Since 0.1. */
GRANARY_API void granary_epoch_close(struct granary_epoch **epoch);

/* ---- buckets, keys, the server ------------------------------------------------------------- */
/* These block, take any thread, and are since 0.1. The bucket of `call` is not used. */

/** Makes a bucket. @return 0; -GRANARY_EEXIST; -GRANARY_ENAME. */
GRANARY_API GRANARY_MUST_CHECK int granary_bucket_create(struct granary_client *client, const char *bucket,
	const struct granary_call *call);
/** Removes an empty bucket. @return 0; -GRANARY_ENOBUCKET; -GRANARY_ENOTEMPTY. */
GRANARY_API GRANARY_MUST_CHECK int granary_bucket_remove(struct granary_client *client, const char *bucket,
	const struct granary_call *call);

struct granary_bucket_entry {
	const char *name;
	uint64_t id, root_dir_id;
	uint64_t created_ns;            /* store time */
	uint64_t bytes, objects;
	uint64_t quota_bytes, quota_objects; /* 0: none */
	uint32_t durability;            /* 0: an answered write is durable; 1: relaxed */
	uint32_t reserved;
};
struct granary_bucket_page {
	uint32_t count;
	uint32_t more;
	struct granary_bucket_entry *entries;
};
/** Buckets on which the access key has any grant, by name. @param after  NULL, or the last name of the page before.
 * @param page  one block, granary_free() it. @return 0 or an error. */
GRANARY_API GRANARY_MUST_CHECK int granary_bucket_list(struct granary_client *client, const char *after,
	struct granary_bucket_page **page, const struct granary_call *call);

enum granary_action {
	GRANARY_MAY_READ = 1, GRANARY_MAY_LIST = 2, GRANARY_MAY_WRITE = 4, GRANARY_MAY_DELETE = 8,
		GRANARY_MAY_ADMIN = 16
};
struct granary_grant {
	const char *bucket; /* NULL or "": all buckets */
	const char *prefix; /* NULL or "": all keys */
	uint32_t actions;   /* enum granary_action, or-ed */
	uint32_t reserved;
};
struct granary_key_secret {
	char access_key[128];
	char secret[72]; /* 64 hex digits; the server shows them only now */
};
/** Makes an access key. @param grants, count  what it may do; the caller's own key must have all of it.
 * @param expires_s  seconds from now; 0: never. @param note  NULL, or a text for people. @return 0;
 *         -GRANARY_EACCESS. */
GRANARY_API GRANARY_MUST_CHECK int granary_key_create(struct granary_client *client, const struct granary_grant *grants,
	size_t count, uint64_t expires_s, const char *note, struct granary_key_secret *out,
		const struct granary_call *call);
/** Removes an access key. @return 0; -GRANARY_ENOTFOUND. */
GRANARY_API GRANARY_MUST_CHECK int granary_key_remove(struct granary_client *client, const char *access_key,
	const struct granary_call *call);

struct granary_key_entry {
	const char *access_key;
	const char *note;
	uint64_t expires_ns; /* store time; 0: never */
	struct granary_grant *grants;
	uint64_t grants_count;
};
struct granary_key_page {
	uint32_t count;
	uint32_t more;
	struct granary_key_entry *entries;
};
/** Access keys, by id. @param after  NULL, or the last of the page before. @param page  one block, granary_free()
 * it. */
GRANARY_API GRANARY_MUST_CHECK int granary_key_list(struct granary_client *client, const char *after,
	struct granary_key_page **page, const struct granary_call *call);

/** The server's state and counters: lines `name value`. @param text  NUL-terminated block, granary_free() it. */
GRANARY_API GRANARY_MUST_CHECK int granary_status(struct granary_client *client, char **text,
	const struct granary_call *call);
/** What granary_rules() is to do. SHOW: the text in force. APPLY: `text` becomes it. PLAN: what `text`, or with NULL
 * what is in force, would move and delete now, free and cost. EXPLAIN: which rules decide over `path`, and when. COST:
 * today's bill, that with all on flash, the plan's. PIN, UNPIN: what `path` names, the object and all below it, stays
 * on flash (comes back to it) and is not deleted by rules, or no longer. PINS: all pins, or the one that covers
 * `path`. TOP: prefixes right below `path` (NULL: of all buckets) by heat, hottest first. MAP: a JSON object a line for
 * each pack, where it is and how much it is read. */
enum granary_rules_verb {
	GRANARY_RULES_SHOW = 1, GRANARY_RULES_APPLY = 2, GRANARY_RULES_PLAN = 3, GRANARY_RULES_EXPLAIN = 4,
	GRANARY_RULES_COST = 5, GRANARY_RULES_PIN = 6, GRANARY_RULES_UNPIN = 7, GRANARY_RULES_PINS = 8,
	GRANARY_RULES_TOP = 9, GRANARY_RULES_MAP = 10
};
/** GRANARY_RULES_JSON: the answer is JSON. GRANARY_RULES_YES_DELETE: APPLY may put rules that delete in force where
 * none did. */
enum { GRANARY_RULES_JSON = 1, GRANARY_RULES_YES_DELETE = 2 };
/** The rules by which the server moves packs between flash and cold stores (docs/TIERS.md). PLAN, COST and APPLY read
 * all names: seconds for millions of objects; give call->timeout_ms room. Needs an admin's key; PIN
 * and UNPIN one that may write `path`, PINS of a path one that may read it.
 * @param text    rules as YAML, at most 4 MiB; or NULL
 * @param path    of EXPLAIN: "bucket/key"; of PIN, UNPIN, PINS: "bucket" or "bucket/path" (PINS: NULL for all);
 *                NULL else
 * @param answer  NUL-terminated block, granary_free() it; of PINS lines "bucket/path", or JSON objects
 * @return 0; -GRANARY_ECONFIG: the text, and where it is wrong; -GRANARY_EPRECONDITION: it deletes, and that was not
 *         allowed; -GRANARY_ENOTFOUND: no such key, or no rules in force; -GRANARY_ENOBUCKET;
 *         -GRANARY_ETOOBIG: 16,384 places are pinned; -GRANARY_EACCESS.
 * Blocks. Any thread. Since 0.1. */
GRANARY_API GRANARY_MUST_CHECK int granary_rules(struct granary_client *client, enum granary_rules_verb verb,
	unsigned flags, const char *text, const char *path, char **answer, const struct granary_call *call);

/** Has the server do a task: "check", "check-status", "compact", "rotate" (docs/OPERATING.md). @param argument NULL:
 * "".
 * @param text  what it answered, lines `name value`; NUL-terminated block, granary_free() it. */
GRANARY_API GRANARY_MUST_CHECK int granary_task(struct granary_client *client, const char *verb, const char *argument,
	char **text, const struct granary_call *call);

#ifdef __cplusplus
}
#endif

#include "granary/fs.h"
#include "granary/open.h"
