/* SPDX-License-Identifier: Apache-2.0 */
/* stores.h -- the cold stores that rows or settings name: how each fares, and threads that may hang with it.
 *
 * Fields of every store in the settings, besides those of its type: `use` (packs; source: somebody else's objects,
 * which are linked (jobs/link.h) and never written, marked or removed), `promote` (none, sample, pack: what a read of
 * cold bytes brings up), `promote_after` (after so many reads of a pack, 3, or of a sample, 1), `promote_space`
 * (bytes of flash for samples, 1GiB: tier/kept.h), `read_timeout` (10s), prices for the cost model.
 *
 * health:  UNKNOWN --its mark was read--> ONLINE <--> AWAY (calls fail at once; now and then one is let
 * through)
 *
 * Invariants: (1) a store is known by the mark in it, an object `granary.cold` that names the store and its
 * number, never by its path or URL: an empty mount point or another bucket is AWAY, and gets no mark once
 * there was one; (2) nobody waits on a thread that may hang: a job is answered by its deadline, and what such
 * a thread still does then touches only memory of the job; (3) an error of a cold store says nothing about
 * any other; (4) entries live as long as the table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tier/store.h"

struct fs;
struct ids;
struct kv;
struct place;
struct stores;

struct stores_options {
	struct fs *fs; /* the data directory, for indexes of frames; not owned */
	struct kv *kv;
	uint8_t store_id[16];
	const struct store_settings *settings;
	uint32_t settings_count;
	struct cold_env env;
	uint32_t threads;       /* of each store (8); with `inline_jobs` none */
	bool inline_jobs;       /* sim: a job runs where it is started */
	uint64_t frames_budget; /* bytes of indexes in memory (64 MiB) */
	uint64_t spare;         /* left free on the data directory's disk by what is kept of reads */
};
/* Reads rows; touches no store. A store that rows name and no settings do is AWAY. */
int stores_open(const struct stores_options *options, struct stores **out, char *why, size_t why_cap);
/* After the incarnation is taken: gives new ones their numbers. Commits. */
int stores_begin(struct stores *stores, struct ids *ids, char *why, size_t why_cap);
void stores_close(struct stores **stores); /* a thread that hangs is left behind, with what it uses */

uint32_t stores_count(const struct stores *stores);
struct place *stores_at(const struct stores *stores, uint32_t index);
struct place *stores_find(const struct stores *stores, uint64_t id); /* or NULL */
struct place *stores_by_name(const struct stores *stores, const char *name);

uint64_t place_id(const struct place *place);
const char *place_name(const struct place *place);
const char *place_where(const struct place *place); /* path or URL; "" while no settings name it */
const struct store_settings *place_settings(const struct place *place);

enum place_health { PLACE_UNKNOWN, PLACE_ONLINE, PLACE_AWAY };
enum place_promote { PROMOTE_NONE, PROMOTE_SAMPLE, PROMOTE_PACK };
struct place_info {
	enum place_health health;
	enum place_promote promote;
	uint32_t promote_after;
	uint64_t read_timeout_ns;
	uint64_t kept_hits, kept_pieces; /* of PROMOTE_SAMPLE: read on flash instead; put there */
	uint64_t gets, get_bytes, puts, put_bytes, errors, timeouts,
		hanging; /* hanging: jobs past their deadline now */
	int err;                                                              /* of the last call that failed */
	char why[COLD_WHY_MAX];
};
void place_get_info(struct place *place, struct place_info *out);
bool place_is_away(const struct place *place); /* calls would fail at once */

/* Calls of store.h, on a thread that may hang; each looks for the mark first where that is not known. They
 * count, and open the breaker. */
int place_put_begin(struct place *p, const char *name, uint64_t len_max, uint64_t deadline_ns, struct cold_put **out);
int place_put_write(struct place *p, struct cold_put *put, const void *buf, size_t len, uint64_t deadline_ns);
int place_put_finish(struct place *p, struct cold_put **put, uint64_t deadline_ns);
void place_put_abort(struct cold_put **put);
int64_t place_get(struct place *p, const char *name, void *buf, size_t len, uint64_t offset, uint64_t deadline_ns);
int place_remove(struct place *p, const char *name, uint64_t deadline_ns);
int place_list(struct place *p, const char *prefix, uint64_t deadline_ns,
	int (*each)(void *arg, const char *name, uint64_t len), void *arg);
int place_space(struct place *p, uint64_t *total, uint64_t *available);
int place_probe(struct place *p, uint64_t deadline_ns); /* looks for the mark now */
/* Of a source alone; all calls above are READONLY there, and these INVAL anywhere else. */
bool place_is_source(const struct place *place);
int place_source_list(struct place *p, const char *prefix, uint64_t timeout_ns,
	int (*each)(void *arg, const struct source_object *o), void *arg);
int place_source_get(struct place *p, const char *key, const char *tag, void *buf, size_t len, uint64_t offset,
	uint64_t deadline_ns);

/* How bytes of a pack are made whose only copy is a source (pack/linked.h). read: exactly len bytes at `at` into zeroed
 * memory; exact: headers too, else only data; lost: NULL, or counts objects that are not those that were linked any
 * more, of which zeros come instead of an error. finish: the footer of a file of `size` bytes that got all the records;
 * with `lost` fillers take the place of those that are not whole. */
struct copy_info;
struct fs_file;
struct stores_linked {
	int (*read)(void *arg, const struct copy_info *info, uint8_t *buf, size_t len, uint64_t at, bool exact,
		uint64_t *lost, uint64_t deadline_ns);
	int (*finish)(void *arg, uint64_t pack_id, struct fs_file *file, uint64_t size, bool lost);
	void *arg;
};
void stores_set_linked(struct stores *stores, const struct stores_linked *linked); /* before the first read */

/* Work on one of the store's threads. fetch() may hang and touches only what belongs to the job; then, unless
 * the deadline passed meanwhile, finish() with its result; else fail() was called with TIMEDOUT (OFFLINE: the
 * store is away) by then. One of the two, once, on some thread; last free(), on a thread of the store. */
struct place_job {
	int (*fetch)(struct place_job *job);
	void (*finish)(struct place_job *job, int err);
	void (*fail)(struct place_job *job, int err);
	void (*free)(struct place_job *job);
	uint64_t deadline_ns;
	bool local; /* begun also while the store is away: it may not need it */
	/* the table's own */
	struct place_job *next, *prev;
	uint8_t state;
};
void place_start(struct place *place, struct place_job *job);

/* Packs whose cold copy was read often enough that they are to be brought up (field `promote`). Any thread;
 * what does not fit is asked for again by later reads. */
void stores_want(struct stores *stores, uint64_t pack_id);
uint32_t stores_take_wanted(struct stores *stores, uint64_t *packs, uint32_t max);
