/* SPDX-License-Identifier: Apache-2.0 */
/* store.h -- what a cold store does: a flat set of named, immutable objects, in a directory or in a bucket.
 * Blocks: called from threads that may hang with the store (tier/fetch.h, jobs/move.h), never from a reactor,
 * the committer or a worker.
 *
 * Contract of an implementation:
 *  (1) Names: 1..COLD_NAME_MAX of a-z 0-9 `.` `-` `/`, no empty, `.` or `..` component. The caller never uses
 *      a name of a pack twice, whatever became of the first try; objects are never changed.
 *  (2) A put is seen whole or not at all: cold_put_finish() returns 0 only once the object is durable under
 *      its name with exactly the bytes written. After any error the object may be there or not, whole: the
 *      caller removes it or leaves it to the sweep, and tries again under another name. An abort leaves
 *      nothing behind as far as it can.
 *  (3) get, stat, list and remove change nothing, or are the same done twice (removing what is not there is
 *      0): an implementation repeats them after transient errors (connection lost, throttled, 500, 503), with
 *      growing pauses and jitter, until the deadline; parts of a put the same, where the store can tell one
 *      twice from two. The caller never retries at once.
 *  (4) Every call ends by deadline_ns (of clock_mono_ns()) with -GRANARY_ETIMEDOUT, as far
 *      as the kernel lets it: a hung directory may keep the thread longer. Who waits for it does not wait on
 *      that thread.
 *  (5) Errors: NOTFOUND the object is not there (never: the bucket, the directory); OFFLINE the store cannot
 *      be reached, or is known not to (a breaker that is open: at once); TIMEDOUT; BUSY it throttles and went
 *      on until the deadline; ACCESS credentials; NOSPACE full, over its quota; CORRUPT an answer of the
 *      wrong length or that is no answer of such a store; INVAL, UNSUPPORTED; IO, NOMEM. An error is no
 *      statement about other objects.
 *  (6) get returns bytes of that object alone; fewer than len only at its end (0 past it). Checksums of what
 *      is inside are the caller's matter; a length that differs from what was asked for is CORRUPT or
 *      repeated.
 *  (7) list gives every object that was there when it began and was not removed meanwhile; it may miss later
 *      ones, and a store may show removed ones: nothing is removed on the strength of a list alone.
 *  (8) Any number of threads at once; one put is one thread's. open() checks settings and touches nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cold;
struct cold_put;
struct fs;

enum { STORES_MAX = 8, STORE_NAME_MAX = 64, STORE_SETTINGS_MAX = 2048, COLD_NAME_MAX = 120, COLD_WHY_MAX = 512 };

/* Somebody else's objects (stores with `use: source`, linked by jobs/link.h): a key is any bytes without NUL, also one
 * that cannot be a name here; a tag is what the object is known by (the ETag; of a file its inode, size and times),
 * text, never the same for other bytes. They may change at any time. */
enum { SOURCE_KEY_MAX = 1024, SOURCE_TAG_MAX = 128 };
struct source_object {
	const char *key; /* without the store's prefix */
	const char *tag; /* "": the list does not say it */
	uint64_t len;
	int64_t mtime_s; /* 0: not known */
};

/* What the settings say about one store: its name, and lines "field=value" as written, `type` among them. */
struct store_settings {
	char name[STORE_NAME_MAX];
	char text[STORE_SETTINGS_MAX];
};
/* The value of a field into buf; false: it is not given. -- store_settings.c */
bool store_setting(const struct store_settings *s, const char *field, char *buf, size_t cap);
/* Adds a field; why: a newline in it, no room, given twice. */
int store_setting_add(struct store_settings *s, const char *field, const char *value, char *why, size_t why_cap);

/* How a directory is opened; NULL: the kernel's (tests: a simulated disk). */
struct cold_env {
	int (*open_fs)(void *arg, const char *path, struct fs **out);
	void *open_arg;
};

/* A type of store. Fields: those that it knows, `type` and what all have (prices, promotion:
 * store_settings.c) apart. */
struct cold_type {
	const char *type;
	const char *const *fields; /* ended by NULL */
	int (*open)(const struct store_settings *s, const struct cold_env *env, struct cold **out, char *why,
		size_t why_cap);
};
extern const struct cold_type cold_directory; /* store_dir.c */
extern const struct cold_type cold_s3;        /* store_s3.c */
/* NULL: there is no such type. -- store_settings.c, where the table of them is */
const struct cold_type *cold_type_find(const char *type);
/* Type, fields, values: 0, or -GRANARY_ECONFIG and why: the field, the cause, the fix. Opens nothing. */
int store_settings_check(const struct store_settings *s, char *why, size_t why_cap);

struct cold_ops {
	void (*close)(struct cold *store); /* nobody is inside any more */
	/* len_max: bytes that will be written, at most; what a store cannot take is NOSPACE or TOOBIG here
	 * already. */
	int (*put_begin)(struct cold *store, const char *name, uint64_t len_max, uint64_t deadline_ns,
		struct cold_put **out);
	int (*put_write)(struct cold_put *put, const void *buf, size_t len, uint64_t deadline_ns); /* in order */
	int (*put_finish)(struct cold_put **put, uint64_t deadline_ns); /* frees it, also when it fails */
	void (*put_abort)(struct cold_put **put);
	int64_t (*get)(struct cold *store, const char *name, void *buf, size_t len, uint64_t offset,
		uint64_t deadline_ns);
	int (*stat)(struct cold *store, const char *name, uint64_t deadline_ns, uint64_t *len);
	int (*remove)(struct cold *store, const char *name, uint64_t deadline_ns);
	/* Names that begin with prefix, any order; stops at and returns the first non-zero of each. */
	int (*list)(struct cold *store, const char *prefix, uint64_t deadline_ns,
		int (*each)(void *arg, const char *name, uint64_t len), void *arg);
	int (*space)(struct cold *store, uint64_t *total, uint64_t *available); /* UNSUPPORTED: it has no end */
	/* Of a source. All below a prefix, in ascending order of the keys' bytes; timeout_ns: of a page; memory: of a
	 * page, or of one folder's names. Stops at and returns the first non-zero of each. */
	int (*source_list)(struct cold *store, const char *prefix, uint64_t timeout_ns,
		int (*each)(void *arg, const struct source_object *o), void *arg);
	/* Exactly len bytes (1 or more) of the object with this tag; SOURCE: it has another one, is shorter, or gone.
	 * */
	int (*source_get)(struct cold *store, const char *key, const char *tag, void *buf, size_t len, uint64_t offset,
		uint64_t deadline_ns);
};

/* The head of every implementation's own struct. */
struct cold {
	const struct cold_ops *ops;
	char where[COLD_WHY_MAX]; /* for people: a path, a URL without secrets */
};
struct cold_put {
	const struct cold_ops *ops;
};
