/* SPDX-License-Identifier: Apache-2.0 */
/* ids.h -- the three counters of FORMAT 1.2 for this incarnation, and store time (FORMAT 7.1). Any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct ids;
struct kv;

/* incarnation: already written durably to the superblock by the caller. */
struct ids *ids_new(uint32_t incarnation);
void ids_free(struct ids **ids);
uint64_t ids_object(struct ids *ids); /* objects, directories, buckets, stores, groups, attempts */
uint64_t ids_pack(struct ids *ids);
uint64_t ids_version(struct ids *ids);
uint64_t ids_version_range(struct ids *ids, uint32_t n); /* first of n */
uint64_t ids_object_range(struct ids *ids, uint32_t n); /* first of n */
uint32_t ids_incarnation(const struct ids *ids);

/* The ids and versions that one mutation takes: while a thread uses a block, ids_object, ids_version and
 * ids_version_range take theirs from it, so that the same mutation, planned again, names the same things. is_short:
 * something was needed that is not in it. */
struct ids_block {
	uint64_t id_first, id, id_end, version, version_end; /* id, version: the next */
	bool is_short, is_replay; /* is_replay: it was given out before, what is there now may be newer */
};
struct ids_block *ids_use(struct ids_block *block); /* this thread's; NULL: none. Returns what it was */
const struct ids_block *ids_used(void);
void ids_note(uint64_t id); /* something is made under this id, wherever it came from */

/* Store time in ns: what row M clock held at start, plus at most 24 h of the stop (by the wall clock saved beside it,
 * never backwards), plus CLOCK_BOOTTIME since. A jump of the wall clock changes nothing. */
struct store_clock;
int store_clock_open(struct kv *kv, struct store_clock **out);
uint64_t store_clock_now(const struct store_clock *c);
int store_clock_save(struct store_clock *c, struct kv *kv); /* every minute, and at stop */
/* What stops lasted beyond 24 h each, in ns: not counted. accept counts it now, and saves. */
uint64_t store_clock_held(const struct store_clock *c);
int store_clock_accept(struct store_clock *c, struct kv *kv, uint64_t *accepted_ns);
void store_clock_free(struct store_clock **c);
