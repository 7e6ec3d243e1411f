/* SPDX-License-Identifier: Apache-2.0 */
/* linked.h -- virtual packs: packs whose records' data are objects of a source (tier/store.h), which nobody has copied
 * yet (FORMAT 4.7). The rows `m` of a pack list its records, and of each the object, its tag and the place in it; so
 * any byte of the pack can be made: data by a ranged get that states the tag, headers out of the row and that data.
 *
 *   UNLOADED  the pack's only copy is the source (codec 2): reads are ranged gets
 *   LOADED    it has a hot file as well, an ordinary pack with checksums, made by packs_promote(); eviction goes back
 *
 * Invariants: (1) an address in the pack never changes, whatever it is made of; (2) bytes are given only if the source
 * said, in the answer that had them, that they are of the object with the row's tag; else the error is SOURCE, and
 * names the object; (3) the source is never written to. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"

struct fs_file;
struct kv;
struct kv_txn;
struct linked;
struct place;
struct stores;

struct linked *linked_new(struct kv *kv, struct stores *stores); /* and the stores read such copies through it */
void linked_free(struct linked **linked);

/* One record: `m` rows hold LINKED_ENTRIES each. */
enum { LINKED_ENTRIES = 64, LINKED_PACK_RECORDS_MAX = 16384 };
struct linked_entry {
	uint64_t record, source_at; /* of its record in the pack; of its data in the source object */
	uint32_t data_len, header_len;
	uint64_t object_id, version, dir_id, logical;
	bool is_whole;
	struct slice source, tag;         /* key in the store, tag */
	struct slice key, name, attrs;    /* as of a record (FORMAT 3.2) */
};
/* Puts the rows of a pack's entries, ascending. NOMEM. */
int linked_put(struct kv_txn *txn, uint64_t pack, const struct linked_entry *entries, uint32_t count);
/* Entries whose record begins at or after the one that holds byte `at`, in order; borrowed for the call; non-zero stops
 * and is returned. NOTFOUND: the pack has none. */
int linked_each(struct kv *kv, uint64_t pack, uint64_t at, int (*each)(void *arg, const struct linked_entry *e),
	void *arg);
/* Is every object of the pack still the one that its row names? 0; SOURCE; ... One request an object. */
int linked_verify(struct linked *linked, struct place *place, uint64_t pack, uint64_t timeout_ns);
/* Logs that the object of an entry is another one by now, and remembers it for linked_why(). */
void linked_tell(const struct place *place, uint64_t pack, const struct linked_entry *e);
/* What a recent SOURCE error at [offset, offset + len) of a pack was about: false, not known any more. Any thread,
 * never blocks for long. */
bool linked_why(uint64_t pack, uint64_t offset, uint64_t len, char *text, size_t cap);
