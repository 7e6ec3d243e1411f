/* SPDX-License-Identifier: Apache-2.0 */
/* ids.h -- the three counters of FORMAT 1.2 for this incarnation, and store time (FORMAT 7.1). Any thread. */
#pragma once

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
uint32_t ids_incarnation(const struct ids *ids);

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
