/* SPDX-License-Identifier: Apache-2.0 */
/* by_record.h -- bytes that no row has checksums of (EXTENT_UNSUMMED, SNAP_ROW_UNSUMMED): those rows were made before a
 * linked pack was loaded. The record around them has its own. Blocking, past every cache.
 *
 * Bytes that come from a source need none: each answer says whose they are (pack/linked.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct kv;
struct packs;

/* Does a read of the pack not go to its source? False also where there is no such pack. */
bool by_record_is_due(struct packs *packs, uint64_t pack);

/* out: of a copy other than the one that reads use, because that is damaged */
struct by_record {
	uint8_t *data; /* in: EXTENT_LEN_MAX; out: all of the record's data, verified */
	uint32_t len, header_len;
	bool is_other;
};
/* The record at `record`. 0; STALE: the pack is gone; CORRUPT, EIO: every copy is damaged; OFFLINE; ... */
int by_record_read(struct packs *packs, struct kv *kv, uint64_t pack, uint64_t record, struct by_record *r);
/* The one whose data has all of [offset, offset + len) of the pack; *at: where they begin in r->data. RANGE: none. */
int by_record_find(struct packs *packs, struct kv *kv, uint64_t pack, uint64_t offset, uint32_t len,
	struct by_record *r, uint32_t *at);
