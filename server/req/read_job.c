/* SPDX-License-Identifier: Apache-2.0 */
/* read_job.c -- what a worker does for one piece: verify its record past the cache after a client
 * found a wrong checksum (contract F), and find it again after its pack was compacted away. */
#include "req/read.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "pack/by_record.h"
#include "pack/cache.h"
#include "pack/gather.h"
#include "pack/linked.h"
#include "tier/packs.h"

struct piece_job {
	struct task task;
	struct read *b;
	struct read_piece *p;
	struct read_piece
		fresh; /* of a retry: what p becomes, on the reactor: p may stand in a queue */
	bool is_fresh;
	uint8_t *data;  /* the record's, verified */
	bool was_wrong; /* the cache held other bytes than the disk */
	int err;
};

static void job_start(struct read *b, struct read_piece *p, void (*work)(struct task *task))
{
	struct piece_job *j = req_alloc(sizeof(*j));

	memset(j, 0, sizeof(*j));
	j->b = b;
	j->p = p;
	j->task.fn = work;
	b->inflight++;
	workers_post(b->local->store->workers, &j->task);
}

static void job_post(struct piece_job *j, void (*done)(struct task *task))
{
	j->task.fn = done;
	reactor_post(j->b->local->reactor, &j->task);
}

/* ---- verify ---- */

static int record_read(struct piece_job *j, uint32_t *len, uint32_t *header_len)
{
	struct store *store = j->b->local->store;
	struct by_record r = { .data = j->data };
	int err = by_record_read(store->packs, store->kv, j->p->read.pack, j->p->record, &r);

	*len = r.len;
	*header_len = r.header_len;
	j->was_wrong |= r.is_other;
	if (r.is_other) (void)store_repair(store, j->p->read.pack, true, "read");
	return err;
}

/* The row's checksums must be those of the bytes, too. */
static bool crcs_match(const struct read_piece *p, const uint8_t *bytes)
{
	uint32_t crcs[CACHE_UNIT_MAX / CRC_BLOCK_SIZE];

	crc32c_blocks(crcs, bytes, p->len);
	return memcmp(crcs, p->crcs, 4 * (size_t)p->crc_count) == 0;
}

static bool cache_was_wrong(struct read *b, const struct read_piece *p, const uint8_t *bytes)
{
	struct cache *cache = b->local->store->cache;
	struct cache_buf buf;
	bool is_wrong;

	if (!cache_find(cache, p->read.pack, p->read.unit_offset, &buf)) return false;
	is_wrong = buf.len < p->read.want_offset + p->len ||
		   memcmp(buf.p + p->read.want_offset, bytes, p->len) != 0;
	cache_release(cache, &buf);
	if (is_wrong) cache_drop_pack(cache, p->read.pack);
	return is_wrong;
}

static void verify_done(struct task *task)
{
	struct piece_job *j = container_of(task, struct piece_job, task);
	struct req_stats *stats = j->b->local->stats;
	struct read_piece *p = j->p;
	struct read *b = j->b;

	b->inflight--;
	stat_add(&stats->corrupt_reported, b->verify);
	stat_add(&stats->corrupt_repaired, j->was_wrong);
	p->err = (int16_t)j->err;
	if (j->err == 0) {
		p->own = j->data;
		j->data = NULL;
	}
	free(j->data);
	free(j);
	if (p->err == -GRANARY_ESTALE && p->retries < READ_RETRIES_MAX)
		read_piece_retry(b, p);
	else
		read_piece_ready(b, p);
	read_schedule(b);
}

static void verify_work(struct task *task)
{
	struct piece_job *j = container_of(task, struct piece_job, task);
	struct read_piece *p = j->p;
	uint32_t len = 0, header_len = 0;
	uint64_t at; /* of the piece in the record's data */

	j->data = req_alloc(EXTENT_LEN_MAX);
	j->err = record_read(j, &len, &header_len);
	at = p->read.unit_offset + p->read.want_offset - p->record - header_len;
	if (j->err == 0 && (at > len || at + p->len > len)) j->err = -GRANARY_ECORRUPT;
	if (j->err == 0) {
		memmove(j->data, j->data + at, p->len);
		if (!p->unsummed && !crcs_match(p, j->data))
			j->err = -GRANARY_ECORRUPT;
		else
			j->was_wrong |= cache_was_wrong(j->b, p, j->data);
	}
	job_post(j, verify_done);
}

void read_piece_verify(struct read *b, struct read_piece *p)
{
	job_start(b, p, verify_work);
}

/* ---- retry ---- */

/* What the piece has to have, put together anew: where its bytes lie is cut in another way by now (merged, or
 * compacted), so its blocks are others. They are verified here, and get checksums of their own. */
static int retry_gather(struct ns *ns, struct piece_job *j, const struct object *o)
{
	struct packs *packs = j->b->local->store->packs;
	const struct read_piece *p = j->p;
	uint32_t live = p->cut_len > 0 ? p->cut_len : p->len, crcs = crc_block_count(live);
	struct read_entry part = { .flags = READ_ENTRY_RANGE, .offset = p->logical, .length = live };
	uint8_t *own = calloc(1, live + 4 + 4 * (size_t)crcs), *crcs_at;
	int err = own == NULL ? -GRANARY_ENOMEM : read_entry_gather(ns, &part, o);

	if (err == 0 && part.extents_end < p->logical + live) err = -GRANARY_EBUSY;
	for (uint32_t i = 0; err == 0 && i < part.extents->count; i++) {
		struct extent *x = &part.extents->e[i];
		uint64_t from = p->logical > x->logical ? p->logical - x->logical : 0;
		uint64_t end = p->logical + live - x->logical;

		if ((x->flags & EXTENT_HOLE) == 0)
			*x = extent_part(x, (uint32_t)from, (uint32_t)((end < x->length ? end : x->length) - from));
	}
	if (err == 0) err = pack_gather(packs, part.extents->e, part.extents->count, p->logical, own);
	free(part.extents);
	if (err < 0) {
		free(own);
		return err;
	}
	crcs_at = own + (live + 3) / 4 * 4;
	crc32c_blocks((uint32_t *)(void *)crcs_at, own, live);
	j->fresh = (struct read_piece){ .entry = p->entry, .logical = p->logical, .len = live, .crcs = crcs_at,
		.crc_count = (uint16_t)crcs, .own = own, .first = p->first, .last = p->last };
	j->is_fresh = true;
	return 0;
}

/* The entry has this piece only: all of it is taken anew, also as another version. */
static int retry_whole(struct ns *ns, struct piece_job *j, const struct ns_place *place, const struct object *o)
{
	struct read_entry *e = j->p->entry;
	uint64_t version = e->loc.version;
	int err;

	e->made_first = false;
	err = read_entry_take(ns, e, place, o);
	if (err < 0) return err;
	read_entry_set_range(e);
	if (e->err < 0) return e->err;
	if (!read_piece_make(e, &j->fresh) || !j->fresh.last) {
		e->at = e->end; /* it stays the only one */
		return o->version == version ? retry_gather(ns, j, o) : -GRANARY_EBUSY;
	}
	j->is_fresh = true;
	return 0;
}

/* Where the piece lies in x, if its blocks there are the same: a move keeps what is live of a record, so they may be
 * others by now. */
static bool retry_extent(struct read_piece *p, const struct extent *x)
{
	uint32_t live = p->cut_len > 0 ? p->cut_len : p->len;
	struct read_piece now = { .err = 0 };

	if (p->logical < x->logical || p->logical - x->logical >= x->length || (x->flags & EXTENT_HOLE) != 0)
		return false;
	piece_of_extent(&now, x, p->logical, p->logical + live);
	if (now.err < 0 || now.len != p->len || now.cut_from != p->cut_from || now.cut_len != p->cut_len ||
		memcmp(now.crcs, p->crcs, 4 * (size_t)now.crc_count) != 0)
		return false;
	p->unsummed = now.unsummed;
	p->record = now.record; /* what is verified is read from there */
	p->read.pack = now.read.pack;
	p->read.unit_offset = now.read.unit_offset;
	p->read.unit_len = now.read.unit_len;
	p->read.want_offset = now.read.want_offset;
	return true;
}

/* One of several pieces: the same version, elsewhere. */
static int retry_part(struct ns *ns, struct piece_job *j, const struct object *o)
{
	struct read_piece *p = j->p;
	struct read_entry now = { .flags = READ_ENTRY_RANGE, .offset = p->logical, .length = 1 };
	bool is_same;
	int err;

	if (o->version != p->entry->loc.version) return -GRANARY_ECHANGED;
	err = read_entry_gather(ns, &now, o);
	is_same = err == 0 && now.extents->count == 1 && retry_extent(p, &now.extents->e[0]);
	free(now.extents);
	return err == 0 && !is_same ? retry_gather(ns, j, o) : err;
}

static void retry_done(struct task *task)
{
	struct piece_job *j = container_of(task, struct piece_job, task);
	struct read_piece *p = j->p;
	struct read *b = j->b;

	b->inflight--;
	if (j->is_fresh) {
		b->peer->ahead_bytes += j->fresh.len;
		b->peer->ahead_bytes -= p->len;
		j->fresh.read.done = p->read.done;
		j->fresh.next = p->next;
		j->fresh.inside = p->inside;
		j->fresh.retries = p->retries;
		*p = j->fresh;
	}
	if (j->err < 0) p->err = (int16_t)j->err;
	free(j);
	read_piece_start(b, p);
	read_schedule(b);
}

static void retry_work(struct task *task)
{
	struct piece_job *j = container_of(task, struct piece_job, task);
	struct read_entry *e = j->p->entry;
	struct ns *ns = j->b->local->store->ns;
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;

	j->err = -GRANARY_ESTALE;
	for (int tries = 0; j->err == -GRANARY_ESTALE && tries < READ_RETRIES_MAX; tries++) {
		j->err = ns_lookup(ns, &e->ref, &place, &o, &value);
		if (j->err < 0) break;
		j->err = e->several ? retry_part(ns, j, &o) : retry_whole(ns, j, &place, &o);
		kv_value_release(&value);
	}
	job_post(j, retry_done);
}

void read_piece_retry(struct read *b, struct read_piece *p)
{
	p->retries++;
	p->err = 0;
	job_start(b, p, retry_work);
}

/* ---- telling ---- */

static bool log_once(struct store *store, uint64_t pack, uint64_t offset)
{
	uint64_t h = hash_u64(pack ^ hash_u64(offset)) | 1;

	return atomic_exchange(&store->corrupt_logged[(h >> 32) % 64], h) != h;
}

void read_piece_explain(struct read *b, struct read_piece *p)
{
	struct read_entry *e = p->entry;
	char name[512], text[1024];

	if (e->text != NULL || (p->err != -GRANARY_ECORRUPT && p->err != -GRANARY_EIO &&
				       p->err != -GRANARY_EOFFLINE && p->err != -GRANARY_ESOURCE))
		return;
	ref_text(&b->auth, &e->ref, name, sizeof(name));
	if (p->err == -GRANARY_ESOURCE) {
		char why[400];
		bool known = linked_why(p->read.pack, p->read.unit_offset + p->read.want_offset, p->len + 1u, why,
			sizeof(why));

		snprintf(text, sizeof(text), "'%s': %s; granary flow refresh takes what is there now", name,
			known ? why : error_text(p->err));
		e->text = req_alloc(strlen(text) + 1);
		memcpy(e->text, text, strlen(text) + 1);
		return;
	}
	if (p->read.pack == 0) { /* not a record: the row cannot be read */
		snprintf(text, sizeof(text), "'%s': its row cannot be read: %s", name,
			error_text(p->err));
	} else {
		snprintf(text, sizeof(text),
			"'%s': %s; pack=%016" PRIx64 " offset=%" PRIu64
			"; run granary check, restore the object or its pack from a backup",
			name, error_text(p->err), p->read.pack, p->record);
		if (log_once(b->local->store, p->read.pack, p->record))
			log_error("cannot read '%s': %s; pack=%016" PRIx64 " offset=%" PRIu64, name,
				error_text(p->err), p->read.pack, p->record);
	}
	e->text = req_alloc(strlen(text) + 1);
	memcpy(e->text, text, strlen(text) + 1);
}
