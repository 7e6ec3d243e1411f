/* SPDX-License-Identifier: Apache-2.0 */
/* compact.c -- gives the space of dead records back (contract I).
 *
 * A pass over one source pack copies live records in order into a new pack, a chunk at a time: gather up to 8
 * MiB, write,
 * sync, read back past the page cache and compare, then commit the new addresses in transactions of at most 1,000
 * objects, each only where the row still points to the old place.
 *
 * Invariants: (1) the source is never written; (2) a row changes only after the copy it will point at was
 * flushed and read
 * back; (3) a record counts as dead only if ns_record_owners, asked on complete rows, says so; any error on the way
 * ends
 * the run with the source as it was; (4) the source is retired only after a second walk found no owner and
 * with no append
 * of it waiting for its transaction; (5) memory: two chunks and the moves of one; (6) of a record that was written over
 * in part only what is still live is copied: each stretch becomes a record of its own, at its place in the object. */
#include "jobs/jobs_priv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "io/fs.h"
#include "io/mem.h"
#include "pack/check.h"
#include "pack/format.h"
#include "pack/linked.h"
#include "pack/writer.h"
#include "tier/copy.h"
#include "tier/heat.h"

enum {
	CHUNK_SIZE = 8 * 1024 * 1024,
	CHUNK_MOVES_MAX = 32 * 1024,
	MOVES_A_TXN = 1000,
	HOLD_POLL_US = 10000,
	COMMIT_TRIES = 8
};

struct move {
	struct ns_move m;
	uint64_t total_len; /* of the record, with the first of its moves; else 0 */
	uint32_t name_at, crcs_at;
};

struct owned;

struct compaction {
	struct jobs *j;
	struct packs *packs;
	struct pack *source, *target;
	uint64_t source_id, group;
	uint8_t *chunk, *back; /* CHUNK_SIZE each */
	uint64_t chunk_at;     /* file offset of the chunk's first byte */
	uint32_t fill;
	uint64_t target_end; /* next free 4 KiB line of the target */
	struct move *moves;
	uint32_t move_count;
	uint8_t *names; /* names and crcs of the chunk's moves */
	uint32_t names_len, names_cap;
	struct owned *owned; /* who points into the record at hand */
	uint8_t *owned_bytes; /* their names and crcs */
	uint32_t owned_count, owned_cap, owned_len, owned_bytes_cap;
	const struct job_sort *only; /* records of these objects alone, now; NULL: all */
};

static uint32_t keep_bytes(struct compaction *c, const void *p, size_t len)
{
	if (c->names_len + len > c->names_cap) {
		uint32_t cap = (uint32_t)((c->names_cap + len) * 2 + 65536);
		uint8_t *grown = realloc(c->names, cap);
		if (!grown) return UINT32_MAX;
		c->names = grown;
		c->names_cap = cap;
	}
	uint32_t at = c->names_len;
	if (len) memcpy(c->names + at, p, len);
	c->names_len += (uint32_t)len;
	return at;
}

static int target_open(struct compaction *c)
{
	if (c->target) return 0;
	int err = packs_create_for_job(c->packs, c->group, pack_order(c->source), &c->target);
	if (err < 0) return err;
	heat_follow(packs_heat(c->packs), c->source_id, pack_id_of(c->target));
	packs_pending(c->target, 1); /* nobody compacts or judges it while we fill it */
	c->target_end = PACK_DATA_START;
	return packs_open_file(c->packs, c->target);
}

static int target_close(struct compaction *c)
{
	if (!c->target) return 0;
	uint64_t id = pack_id_of(c->target);
	packs_pending(c->target, -1);
	packs_unref(c->packs, c->target);
	c->target = NULL;
	return pack_seal(c->packs, id, NULL);
}

/* Write, sync, read back, compare. */
static int chunk_write(struct compaction *c)
{
	uint32_t len = (c->fill + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	memset(c->chunk + c->fill, 0, len - c->fill);
	int err = packs_allocate(c->packs, c->target, c->chunk_at + len);
	if (err < 0) return err;
	struct fs_file *file = pack_file(c->target);
	err = fs_write(file, c->chunk, len, c->chunk_at);
	if (err == 0) err = fs_datasync(file);
	if (err < 0) {
		packs_set_broken(c->packs, c->target);
		return err;
	}
	int64_t n = fs_read(file, c->back, len, c->chunk_at);
	if (n < 0) return (int)n;
	if ((uint64_t)n != len || memcmp(c->back, c->chunk, len) != 0) return -GRANARY_ECORRUPT;
	c->target_end = c->chunk_at + len;
	return 0;
}

static void account(
	struct kv_txn *txn, uint64_t pack, uint64_t records, uint64_t bytes, uint64_t end)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key = row_pack(buf, pack);
	kv_add(txn, key, PTAG_RECORDS, (int64_t)records);
	kv_add(txn, key, PTAG_TOTAL, (int64_t)bytes);
	kv_max(txn, key, PTAG_END, end);
}

/* A snapshot being made wants addresses as they are: the swap waits for its end. EAGAIN: give up for now, the source
 * has a pin since, or there is nobody but us to end the hold. */
static int swap_begin(struct compaction *c)
{
	while (!packs_change_begin(c->packs)) {
		if (jobs_stopping(c->j)) return -GRANARY_ESHUTDOWN;
		if (!c->j->has_thread) return -GRANARY_EAGAIN;
		usleep(HOLD_POLL_US);
	}
	if (pack_pins(c->source) == 0) return 0;
	packs_change_end(c->packs);
	return -GRANARY_EAGAIN;
}

/* One transaction for moves[from..to). -GRANARY_EBUSY: a row changed under way. */
static int commit_some(struct compaction *c, uint32_t from, uint32_t to)
{
	struct ns_plan *plan = ns_plan_new(c->j->o.ns);
	if (!plan) return -GRANARY_ENOMEM;
	uint64_t records = 0, bytes = 0;
	int err = 0;
	for (uint32_t i = from; i < to && err == 0; i++) {
		err = ns_plan_move_extent(plan, &c->moves[i].m);
		if (err == -GRANARY_ENOTFOUND)
			err = 0; /* replaced or deleted since: its copy here is dead */
		records += c->moves[i].total_len > 0;
		bytes += c->moves[i].total_len;
	}
	if (err == 0) {
		account(ns_plan_txn(plan), pack_id_of(c->target), records, bytes, c->target_end);
		err = ns_plan_finish(plan);
	}
	if (err == 0) {
		err = kv_submit_wait(c->j->o.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	ns_plan_free(&plan);
	return err;
}

static int chunk_commit(struct compaction *c)
{
	for (uint32_t i = 0; i < c->move_count; i++) {
		struct move *m = &c->moves[i];
		m->m.name.p = c->names + m->name_at;
		m->m.to.crcs = c->names + m->crcs_at;
		m->m.from.crcs = NULL;
	}
	for (uint32_t from = 0; from < c->move_count; from += MOVES_A_TXN) {
		uint32_t to =
			from + MOVES_A_TXN < c->move_count ? from + MOVES_A_TXN : c->move_count;
		int err = -GRANARY_EBUSY;
		for (int tries = 0; err == -GRANARY_EBUSY && tries < COMMIT_TRIES; tries++) {
			err = swap_begin(c);
			if (err < 0) return err;
			err = commit_some(c, from, to);
			packs_change_end(c->packs);
		}
		if (err < 0) return err;
		atomic_fetch_add(&c->j->moved_records, to - from);
	}
	return 0;
}

static int chunk_flush(struct compaction *c)
{
	int err = 0;
	if (c->fill > 0) err = chunk_write(c);
	if (err == 0 && c->move_count > 0) err = chunk_commit(c);
	atomic_fetch_add(&c->j->moved_bytes, c->fill);
	c->fill = 0;
	c->move_count = 0;
	c->names_len = 0;
	return err;
}

/* FORMAT 3.4: a short record does not cross a 4 KiB line. */
static void place(struct compaction *c, uint64_t total)
{
	uint32_t in_line = c->fill % PACK_BLOCK;
	if (total > PACK_BLOCK || in_line == 0 || in_line + total <= PACK_BLOCK) return;
	uint32_t gap = PACK_BLOCK - in_line;
	if ((uint64_t)gap * 10 > c->fill) /* padding would pass a tenth: let it cross */
		return;
	memset(c->chunk + c->fill, 0, gap);
	if (gap >= PACK_RECORD_HEADER_SIZE) filler_encode(c->chunk + c->fill, gap);
	c->fill += gap;
}

static int room_for(struct compaction *c, uint64_t total)
{
	int err = target_open(c);
	if (err == 0 &&
		(c->fill + total + PACK_BLOCK > CHUNK_SIZE || c->move_count == CHUNK_MOVES_MAX))
		err = chunk_flush(c);
	if (err == 0 && c->target_end + c->fill + total + PACK_BLOCK > packs_size(c->packs)) {
		err = chunk_flush(c);
		if (err == 0) err = target_close(c);
		if (err == 0) err = target_open(c);
	}
	if (err == 0 && c->fill == 0) c->chunk_at = c->target_end;
	return err;
}

/* An extent that points into the record at hand. */
struct owned {
	struct extent e;
	uint64_t dir, id;
	uint32_t name_at, name_len, crcs_at; /* in owned_bytes */
	bool is_reference;
};

/* A live record of the source, and its copy, or that of a part of it. */
struct live_record {
	struct compaction *c;
	const struct record *r;
	const uint8_t *data;
	const struct owned *own; /* by whose name the copy goes; NULL: the object that it names is gone, others refer
				  * to it */
	uint32_t from, len;      /* of its data */
	const uint8_t *crcs;     /* of that */
	uint64_t at, total;      /* the copy */
	uint32_t header_len, moves;
};

static void *owned_room(void *at, uint32_t need, uint32_t *cap, size_t size)
{
	if (need <= *cap) return at;
	uint32_t wide_cap = 2 * need + 64;
	void *wide = realloc(at, wide_cap * size);
	if (wide) *cap = wide_cap;
	return wide;
}

static int owned_add(void *arg, const struct ns_owner *owner)
{
	struct compaction *c = arg;
	const struct extent *e = owner->extent;
	const struct slice *name = &owner->place.name;
	uint32_t crcs_len = 4 * e->crc_count, name_len = (uint32_t)name->len;
	struct owned *wide = owned_room(c->owned, c->owned_count + 1, &c->owned_cap, sizeof *wide);
	uint8_t *bytes = owned_room(c->owned_bytes, c->owned_len + name_len + crcs_len + 1, &c->owned_bytes_cap,
		1); /* + 1: an empty object without a name needs none, which is no lack of memory */
	if (wide) c->owned = wide;
	if (bytes) c->owned_bytes = bytes;
	if (!wide || !bytes) return -GRANARY_ENOMEM;
	c->owned[c->owned_count++] = (struct owned){ .e = *e,
		.dir = owner->place.dir,
		.id = owner->object->id,
		.name_at = c->owned_len,
		.name_len = name_len,
		.crcs_at = c->owned_len + name_len,
		.is_reference = owner->is_reference };
	if (name_len) memcpy(bytes + c->owned_len, name->p, name_len);
	if (crcs_len) memcpy(bytes + c->owned_len + name_len, e->crcs, crcs_len);
	c->owned_len += name_len + crcs_len;
	return 0;
}

/* Copies a part of a live record (or all of it) behind what is in the chunk, its directory id and name as they are
 * now. */
static int copy_record(struct live_record *l)
{
	struct compaction *c = l->c;
	struct record now = *l->r;
	if (l->own != NULL) {
		struct slice name = slice_of(c->owned_bytes + l->own->name_at, l->own->name_len);
		bool moved = l->own->dir != now.dir_id || !slice_eq(name, now.name);
		now.dir_id = l->own->dir;
		now.name = name;
		if (moved) /* the directory's path may be another too: directory id and name say it */
			now.key = slice_of(NULL, 0);
	}
	if (l->len != now.data_len) now.flags &= (uint8_t)~RECORD_WHOLE;
	now.logical += l->from;
	now.data_len = now.stored_len = l->len;
	now.crcs = l->crcs;
	now.crc_count = crc_block_count(l->len);
	now.header_len =
		record_header_len(now.key.len, now.name.len, now.attrs.len, now.stored_len);
	uint64_t total = record_total_len(now.header_len, now.stored_len);
	int err = room_for(c, total);
	if (err < 0) return err;
	place(c, total);
	l->at = c->chunk_at + c->fill;
	err = record_encode(&now, c->chunk + c->fill, CHUNK_SIZE - c->fill);
	if (err < 0) return err;
	uint8_t *body = c->chunk + c->fill + now.header_len;
	if (now.stored_len) memcpy(body, l->data + l->from, now.stored_len);
	memset(body + now.stored_len, 0, (size_t)(total - now.header_len - now.stored_len));
	c->fill += (uint32_t)total;
	l->header_len = now.header_len;
	l->total = total;
	l->moves = 0;
	return 0;
}

static int note_move(struct live_record *l, const struct owned *o)
{
	struct compaction *c = l->c;
	if (c->move_count == CHUNK_MOVES_MAX) {
		int err = chunk_flush(c);
		if (err < 0) return err;
	}
	struct move *m = &c->moves[c->move_count];
	*m = (struct move){ .m = { .dir = o->dir,
				    .name = { NULL, o->name_len },
				    .id = o->id,
				    .is_reference = o->is_reference,
				    .from = o->e,
				    .to = o->e },
		.total_len = l->moves++ == 0 ? l->total : 0 };
	m->m.to.pack = pack_id_of(c->target);
	m->m.to.flags &= ~(uint32_t)EXTENT_UNSUMMED; /* the record has them */
	m->m.to.record = l->at;
	m->m.to.cut_before = o->e.cut_before - l->from;
	m->m.to.cut_after = l->len - m->m.to.cut_before - o->e.length;
	m->m.to.skip = l->header_len + m->m.to.cut_before;
	m->m.to.crc_count = crc_block_count(m->m.to.cut_before % CRC_BLOCK_SIZE + (uint64_t)o->e.length);
	m->name_at = keep_bytes(c, c->owned_bytes + o->name_at, o->name_len);
	m->crcs_at = keep_bytes(c, l->crcs + 4 * (size_t)(m->m.to.cut_before / CRC_BLOCK_SIZE),
		4 * (size_t)m->m.to.crc_count);
	if (m->name_at == UINT32_MAX || m->crcs_at == UINT32_MAX) return -GRANARY_ENOMEM;
	c->move_count++;
	return 0;
}

/* Copies the part of the record that these extents cover, and notes that they move there. */
static int copy_part(struct live_record *l, const struct owned *first, uint32_t count)
{
	uint32_t crcs[EXTENT_CRCS_MAX];
	bool is_all = l->from == 0 && l->len == l->r->data_len;
	l->own = NULL;
	for (uint32_t i = 0; i < count && l->own == NULL; i++)
		if (!first[i].is_reference) l->own = &first[i];
	if (!is_all) crc32c_blocks(crcs, l->data + l->from, l->len); /* the walk verified them by the record's */
	l->crcs = is_all ? l->r->crcs : (const uint8_t *)crcs;
	int err = copy_record(l);
	for (uint32_t i = 0; i < count && err == 0; i++) err = note_move(l, &first[i]);
	return err;
}

static int owned_cmp(const void *a, const void *b)
{
	uint32_t x = ((const struct owned *)a)->e.cut_before, y = ((const struct owned *)b)->e.cut_before;
	return (x > y) - (x < y);
}

/* What is live of the record, each stretch as a record of its own: so a copy has no dead bytes. */
static int copy_owned(struct live_record *l)
{
	struct compaction *c = l->c;
	const struct record *r = l->r;
	int err = 0;
	if (c->owned_count == 0) return 0; /* dead */
	qsort(c->owned, c->owned_count, sizeof *c->owned, owned_cmp);
	for (uint32_t i = 0, to; i < c->owned_count && err == 0; i = to) {
		const struct extent *e = &c->owned[i].e;
		uint64_t end = (uint64_t)e->cut_before + e->length;
		for (to = i; to < c->owned_count && (to == i || c->owned[to].e.cut_before <= end); to++) {
			const struct extent *x = &c->owned[to].e;
			if (extent_header(x) != r->header_len || extent_stored(x) != r->data_len)
				return -GRANARY_ECORRUPT;
			if ((uint64_t)x->cut_before + x->length > end) end = (uint64_t)x->cut_before + x->length;
		}
		l->from = e->cut_before;
		l->len = (uint32_t)(end - l->from);
		err = copy_part(l, &c->owned[i], to - i);
	}
	return err;
}

static struct ns_record record_of(uint64_t pack, uint64_t offset, const struct record *r)
{
	return (struct ns_record){ .pack = pack,
		.record = offset,
		.object_id = r->object_id,
		.dir = r->dir_id,
		.version = r->version,
		.logical = r->logical,
		.generation = r->generation,
		.length = r->data_len,
		.name = r->name };
}

/* The record at hand belongs to one of the objects. */
static bool is_among(const struct compaction *c)
{
	for (uint32_t i = 0; i < c->owned_count; i++)
		if (bsearch(&c->owned[i].id, c->only->ids, c->only->count, sizeof(c->only->ids[0]), u64_compare))
			return true;
	return false;
}

static int each_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct compaction *c = arg;
	struct live_record l = { .c = c, .r = r, .data = data };
	struct ns_record who = record_of(c->source_id, offset, r);
	if (jobs_stopping(c->j)) return -GRANARY_ESHUTDOWN;
	c->owned_count = c->owned_len = 0;
	int err = ns_record_owners(c->j->o.ns, &who, owned_add, c);
	if (err >= 0 && c->only && !is_among(c)) return 0;
	return err < 0 ? err : copy_owned(&l);
}

static int copy_live(struct compaction *c, uint64_t end)
{
	struct pack_walk walk = { .pack_id = c->source_id,
		.end = end,
		.verify_data = true,
		.each = each_record,
		.arg = c,
		.want_data = true };
	int err = pack_walk(pack_file(c->source), &walk);
	if (err == 0) err = chunk_flush(c);
	int closed = target_close(c);
	return err < 0 ? err : closed;
}

struct look {
	struct jobs *j;
	uint64_t pack_id;
};

static int is_owned(void *arg, const struct ns_owner *owner)
{
	(void)arg, (void)owner;
	return 1;
}

static int each_look(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct look *l = arg;
	struct ns_record who = record_of(l->pack_id, offset, r);
	(void)data;
	if (jobs_stopping(l->j)) return -GRANARY_ESHUTDOWN;
	return ns_record_owners(l->j->o.ns, &who, is_owned, NULL);
}

static int linked_look(void *arg, const struct linked_entry *e)
{
	struct look *l = arg;
	struct ns_record who = { .pack = l->pack_id, .record = e->record, .object_id = e->object_id, .dir = e->dir_id,
		.version = e->version, .logical = e->logical, .length = e->data_len, .name = e->name };

	if (jobs_stopping(l->j)) return -GRANARY_ESHUTDOWN;
	return ns_record_owners(l->j->o.ns, &who, is_owned, NULL);
}

/* Its rows list the records: nothing is read of the source. */
static int linked_has_owner(struct jobs *j, struct pack *pack)
{
	struct look l = { j, pack_id_of(pack) };
	int res = linked_each(j->o.kv, l.pack_id, 0, linked_look, &l);

	return res == -GRANARY_ENOTFOUND ? 0 : res;
}

int pack_has_owner(struct jobs *j, struct pack *pack, uint64_t end)
{
	if (copy_is_linked(pack_cold(pack))) return linked_has_owner(j, pack);
	struct look l = { j, pack_id_of(pack) };
	struct pack_walk walk = { .pack_id = l.pack_id, .end = end, .each = each_look, .arg = &l };
	int err = packs_open_file(j->o.packs, pack);
	return err < 0 ? err : pack_walk(pack_file(pack), &walk);
}

static int compact_referenced(struct compaction *c)
{
	struct pack_row row;
	int err = packs_row(c->packs, c->source_id, &row);
	if (err < 0) return err;
	if (row.pins > 0 || pack_pins(c->source) > 0 || packs_pending_count(c->source) > 0) return 0;
	c->group = row.group;
	if (!copy_is_linked(pack_cold(c->source))) {
		err = packs_open_file(c->packs, c->source);
		if (err == 0) err = copy_live(c, row.committed_end);
		if (err == 0 && c->only) { /* what is left has its owners there still */
			c->only = NULL;
			err = copy_live(c, row.committed_end);
		}
	}
	if (err < 0) return err == -GRANARY_EAGAIN ? 0 : err;
	err = pack_has_owner(c->j, c->source, row.committed_end);
	if (err != 0) return err < 0 ? err : -GRANARY_EBUSY;
	err = packs_retire(c->packs, c->source);
	if (err == -GRANARY_EBUSY)
		return 0; /* a snapshot pinned it, or is being made: found again, with nothing live in it */
	return err < 0 ? err : 1;
}

static int compact(struct jobs *j, uint64_t pack_id, const struct job_sort *only)
{
	struct compaction c = { .j = j, .packs = j->o.packs, .source_id = pack_id, .only = only };
	int err = -GRANARY_ENOMEM;
	c.source = packs_ref(c.packs, pack_id);
	if (!c.source) return 0;
	c.chunk = mem_map(CHUNK_SIZE);
	c.back = mem_map(CHUNK_SIZE);
	c.moves = malloc(CHUNK_MOVES_MAX * sizeof *c.moves);
	if (c.chunk && c.back && c.moves) err = compact_referenced(&c);
	if (c.target)
		target_close(
			&c); /* what was committed into it stays; a failed seal is found again */
	if (c.chunk) mem_unmap(c.chunk, CHUNK_SIZE);
	if (c.back) mem_unmap(c.back, CHUNK_SIZE);
	free(c.moves);
	free(c.names);
	free(c.owned);
	free(c.owned_bytes);
	packs_unref(c.packs, c.source);
	return err;
}

int compact_pack(struct jobs *j, uint64_t pack_id)
{
	return compact(j, pack_id, NULL);
}

int compact_apart(struct jobs *j, const struct job_sort *sort)
{
	return compact(j, sort->pack_id, sort);
}
