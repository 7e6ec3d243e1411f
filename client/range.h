/* SPDX-License-Identifier: Apache-2.0 */
/* range.h -- reading samples of a snapshot where its table says that they are: extents become units (bytes with a
 * checksum and a place to go), neighbours in one pack become one wanted range, ranges become RANGE requests (PROTOCOL
 * 4.8). Every unit is verified as it arrives. */
#pragma once

#include "snapshot_priv.h"

enum {
	RANGE_LENGTH_MAX = 4 * 1024 * 1024, /* of a range: the protocol's cap */
	RANGE_MERGE_MAX = 1024 * 1024,      /* neighbours are merged up to so much */
	RANGE_GAP_MAX = 1024,               /* and over so much that nobody wants: headers between records */
};

struct range_unit {
	uint8_t *dst;
	uint64_t pack;
	uint32_t offset, len, crc;
	uint32_t tag;               /* the owner's */
	uint32_t span_offset, span_length, wanted; /* a span that it is part of (PROTOCOL 4.8); length 0: none */
	uint32_t run;               /* checksum of what came so far */
	bool unsummed;              /* the snapshot has no checksum of it: crc is what the server sent with it */
	bool bad;                   /* answered: wrong checksum, or the server could not read it */
};
struct range_want {
	uint64_t pack;
	uint8_t *base;              /* where its first byte goes, gaps and all; NULL: gaps are thrown away */
	uint32_t offset, length;
	uint32_t span_offset, span_length, wanted; /* of its units */
	uint32_t first, count;      /* its units, ascending, not overlapping */
	uint32_t got, unit_at, unit_got;
	int16_t status;
	bool unsummed;              /* its only unit is: the server verifies it, and sends a checksum */
	bool done, again;
	bool kept;                  /* came from the node: its flash, or by descriptor */
};
struct range_stream {
	uint64_t tag;               /* equal on all ranks of an epoch: spans with one tag are shared */
	uint64_t job;               /* hash of its name; 0: none */
	uint32_t weight;
};
struct range_plan {
	const struct range_stream *stream; /* whose requests these are; NULL: nobody's in particular */
	struct range_unit *units;
	struct range_want *wants;
	uint32_t units_count, units_cap, wants_count, wants_cap;
	uint64_t bytes;             /* of all wants */
	bool has_unsummed;
	bool past_cache;            /* ask for what is on disk: something was wrong before */
	bool is_suspect;            /* so were bytes that were read locally */
};

/* File `field` of the sample at a place of a page, empty where the handle leaves it out. */
int range_row(const struct granary_snapshot *s, const struct snap_page *page, uint64_t slot, uint32_t field,
	struct snap_row *row);
/* Bytes of a sample; sizes: NULL, or those of its fields. The cursor is the caller's, who ends it. */
int range_sample_size(struct granary_snapshot *s, struct page_cursor *c, uint64_t id, uint64_t *size, uint64_t *sizes);
/* What a sample at a position adds to the checksum of checksums: docs/ORDER.md 9. */
int range_sample_checksum(struct granary_snapshot *s, uint64_t id, uint64_t position, uint64_t *sum);
/* Adds the units of a sample whose bytes go to dst, fields one after the other; holes are zeroed at once. */
int range_add_sample(struct range_plan *p, struct granary_snapshot *s, struct page_cursor *c, uint64_t id,
	uint8_t *dst);
int range_add_unit(struct range_plan *p, const struct snap_extent *e, uint8_t *dst, uint32_t tag);
/* Sorts the units and makes the wants. */
int range_merge(struct range_plan *p);
void range_plan_clear(struct range_plan *p); /* keeps its memory */
void range_plan_release(struct range_plan *p);

/* range_keep.c: wants whose bytes are on the node's flash are done at once; how many are left. */
uint32_t range_kept(struct range_plan *p, struct granary_client *c);
/* What came from the server and is good is kept there. The caller's thread: it may wait for the flash. */
void range_keep(const struct range_plan *p, const struct granary_snapshot *s);
/* range_local.c: of those, wants that can be read by descriptor; how many are left. warms: a pack of which much is left
 * is worth being brought to the page cache. */
uint32_t range_local(struct range_plan *p, struct granary_client *c, bool warms);
uint32_t range_cold(struct range_plan *p, struct granary_client *c); /* likewise; waits for the disk */

/* local_cold.c: a plan that is read by threads of the client. */
struct cold_read {
	struct list link;           /* in local.to_advise, to_read */
	struct range_plan *plan;
	pthread_cond_t *watch;      /* signaled when it is done, with the client's lock held */
	uint32_t left;              /* wants that the server is to be asked for */
	_Atomic uint8_t state;      /* changes under local.lock */
};
/* False: the plan is to be started otherwise. */
bool cold_start(struct cold_read *r, struct range_plan *p, struct granary_client *c, pthread_cond_t *watch);
bool cold_came(const struct cold_read *r); /* nothing of it is under way */
/* The plan is the caller's again, whatever became of it; how many wants are left. */
uint32_t cold_end(struct cold_read *r, struct granary_client *c);

/* Starts the requests of a merged plan, which stays the operation's until it is done. `watch` is signaled when it is
 * done, with the client's lock held. The result is the number of units that are bad. *op is NULL when all was on the
 * node, and is good. */
int range_start(struct range_plan *p, struct granary_snapshot *s, uint32_t timeout_ms, pthread_cond_t *watch,
	struct granary_op **op);
/* Merges, runs and waits. -GRANARY_ECORRUPT: a unit is bad. */
int range_run(struct range_plan *p, struct granary_snapshot *s, uint32_t timeout_ms);
