/* SPDX-License-Identifier: Apache-2.0 */
/* writer.h -- appends records to the open pack of a placement group, in groups of a flush. A
 * group's writer belongs to one reactor (hash of the group id); others send it mail.
 *
 * Invariants: (1) bytes below `durable` are on disk and never change; (2) durable <= written <=
 * reserved; (3) an append is done only after (1) covers it; (4) one writer a pack, all fields
 * belong to its reactor thread; (5) each flush group starts on a fresh 4 KiB line; (6) a failed
 * flush is never retried on that file: the pack is set broken, what was not acknowledged is
 * appended to a new pack from memory, or fails; (7) at most open_max packs are open; (8) a
 * transaction made early (pack_append.placed) is submitted only after (1) covers its record; (9) an
 * append that is not waited for (pack_append.flushed) is done once it is placed; it is flushed with others, or when
 * writers_flush asks for it, and nothing is kept to write it again: when its flush fails it is lost. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/reactor.h"
#include "meta/rows.h"

struct kv;
struct kv_txn;
struct pack;
struct fs_file;
struct packs;
struct writers;

struct writers_options {
	struct packs *packs;
	struct kv *kv;           /* takes the transactions that pack_append.placed gives; NULL: nobody asks for them */
	struct reactor **reactors;
	uint32_t reactor_count;
	struct workers *workers;
	uint64_t buffer_budget;  /* staging memory over all writers, huge pages (64 MiB) */
	uint32_t open_max;       /* 64 */
	uint64_t idle_seal_ns;   /* an open pack idle this long is sealed at the next job pass; 0 never */
};
int writers_new(const struct writers_options *options, struct writers **out);
/* From here on appends fail with SHUTDOWN; what was taken is still flushed. Any thread. */
void writers_stop(struct writers *writers);
bool writers_idle(const struct writers *writers); /* nothing queued, flying or with a worker */
/* Stops, waits until idle, frees; does not seal open packs (the next start's job does). Reactors
 * and workers must still run, and this must be none of their threads; under sim: writers_stop,
 * turns until writers_idle, then this. */
void writers_free(struct writers **writers);

/* One record. Everything it points at stays valid until done. */
struct pack_append {
	struct task done;           /* fn set by the caller; posted to `notify` */
	struct reactor *notify;
	uint64_t group, object_id, version, dir_id, logical;
	uint32_t generation;
	bool whole;
	struct slice key, name, attrs;
	const uint8_t *crcs;        /* crc_block_count(data_len) little-endian u32 */
	const uint8_t *data;
	uint32_t data_len;          /* 0..EXTENT_LEN_MAX */
	/* NULL, or: called on the writer's reactor while the record is on its way to the disk, `extent` and what
	 * writers_account() needs are known. May give the transaction that names the record: it is submitted as soon
	 * as the record is flushed, with those of all records of the flush, and `committed` is posted to `notify`
	 * instead of `done`. If that flush fails, unplaced() takes the transaction back. Either may be called again,
	 * in turn, for another place. */
	struct kv_txn *(*placed)(struct pack_append *a);
	void (*unplaced)(struct pack_append *a);
	struct task *committed;
	/* NULL, or: `done` is posted as soon as the record is placed in the pack of this reactor (pack_append is
	 * called on one, and notify is it), what it points at is not needed any more, and this is called there when
	 * the record is flushed (err 0) or lost. `placed` is not used. */
	void (*flushed)(struct pack_append *a, int err);
	void *user;
	/* out */
	int err;                    /* 0; ENOSPACE; EIO; SHUTDOWN; NOMEM; TOOBIG */
	struct extent extent;       /* crcs points at the caller's */
	uint64_t end, total_len;    /* for writers_account */
	/* the writer's own */
	struct kv_txn *txn;
	struct pack *pack;
	struct pack_append *next;
	struct writers *owner;
	struct task mail;
	uint64_t at;
	uint32_t buffer;            /* packs tried in vain */
};
/* From any reactor thread. Batches: a list linked by `next` is taken in order (one mail). */
void pack_append(struct writers *writers, struct pack_append *first);
/* Adds the `p` row counters of these finished appends to the transaction that names them (6.8:
 * total, records, end). */
void writers_account(struct kv_txn *txn, const struct pack_append *const *appends, uint32_t n);
/* After that transaction is settled (either way), or when it will never be submitted: once for each
 * append with err 0. */
void pack_append_settled(struct pack_append *a);
/* Flushes what is placed and not waited for. Any thread; asynchronous. */
void writers_flush(struct writers *writers);
/* Ends the open packs that are idle or all of them, and those whose drive takes nothing new; they are handed to
 * sealing. Any thread; asynchronous. */
void writers_rotate(struct writers *writers, bool all);
/* Footer entries (FORMAT 3.6) of every record of a pack, in the order of the file. */
struct pack_index {
	uint8_t *entries;
	uint32_t count, cap;
	uint64_t object_bytes;
	bool is_lost; /* there was no memory for some: walk instead */
};
/* Seals one pack that no writer appends to any more (rotated, or of an earlier incarnation): writes
 * footer and trailer, syncs, commits the state. The entries are those of `index`, or, with NULL,
 * those met in a walk over the records up to the committed end. Worker or job. */
int pack_seal(struct packs *packs, uint64_t pack_id, const struct pack_index *index);
/* Footer and trailer behind `entries` records that end at `end`, synced, as the end of a file of `size` bytes; it has
 * header and records. CORRUPT: they are not so many. */
int pack_footer_write(struct fs_file *file, uint64_t pack_id, uint64_t end, uint32_t entries, uint64_t size);
