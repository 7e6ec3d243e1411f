/* SPDX-License-Identifier: Apache-2.0 */
/* packs.c -- the table of packs: references, states, rows. Files are in packs_files.c.
 * Invariants: (1) a pack is in the table from packs_open or its creation until packs_remove; the
 * table holds one reference, so the count meets zero once, after the pack is gone, and whoever
 * brings it there frees it; (2) `state` changes only after the row that says so is committed; (3)
 * lock order: files_lock, a shard's lock; nothing blocks under a shard's lock; (4) rows change by
 * commutative operations only (kv_max), except when made and when deleted; (5) `pins` of a pack
 * grow only inside a hold, so what packs_change_begin() let in sees all of them. */
#include "tier/packs_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/id.h"
#include "common/log.h"
#include "io/fs.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "tier/stores.h"

enum { BUCKETS_MIN = 16 };

/* ---- the table ---------------------------------------------------------------------------------
 * */

struct pack *pack_new(uint64_t id, uint8_t state)
{
	struct pack *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return NULL;
	p->magic = PACK_MAGIC;
	p->id = id;
	p->order = id;
	atomic_init(&p->state, state);
	atomic_init(&p->refs, 1);
	list_init(&p->file_node);
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

void pack_free(struct pack **pp)
{
	struct pack *p = *pp;

	*pp = NULL;
	if (p == NULL)
		return;
	struct copy *cold = atomic_load(&p->cold);

	assert(p->magic == PACK_MAGIC && atomic_load(&p->file) == NULL);
	p->magic = 0;
	copy_unref(&cold);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static uint64_t hash_of(uint64_t pack_id) { return hash_u64(pack_id + 0x9e3779b97f4a7c15u); }

struct packs_shard *packs_shard_of(struct packs *packs, uint64_t pack_id)
{
	return &packs->shards[hash_of(pack_id) >> 58];
}
_Static_assert(PACKS_SHARDS == 1 << (64 - 58), "the hash's top bits choose the shard");

static struct pack **bucket_of(const struct packs_shard *s, uint64_t pack_id)
{
	return &s->buckets[hash_of(pack_id) & (s->bucket_count - 1)];
}

static struct pack *shard_find(const struct packs_shard *s, uint64_t pack_id)
{
	struct pack *p = s->bucket_count ? *bucket_of(s, pack_id) : NULL;

	while (p != NULL && p->id != pack_id)
		p = p->chain;
	return p;
}

static int shard_grow(struct packs_shard *s)
{
	uint32_t n = s->bucket_count ? 2 * s->bucket_count : BUCKETS_MIN;
	struct packs_shard wide = { .buckets = calloc(n, sizeof(struct pack *)), .bucket_count = n };

	if (wide.buckets == NULL)
		return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < s->bucket_count; i++)
		for (struct pack *p = s->buckets[i], *next; p != NULL; p = next) {
			struct pack **to = bucket_of(&wide, p->id);

			next = p->chain;
			p->chain = *to;
			*to = p;
		}
	free(s->buckets);
	s->buckets = wide.buckets;
	s->bucket_count = n;
	return 0;
}

/* Where id stands in packs->ids, or where it would. */
static uint32_t ids_at(const struct packs *packs, uint64_t id)
{
	uint32_t lo = 0, hi = packs->ids_count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (packs->ids[mid] < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int ids_insert(struct packs *packs, uint64_t id)
{
	uint32_t at;
	int err = 0;

	pthread_rwlock_wrlock(&packs->index_lock);
	if (packs->ids_count == packs->ids_cap) {
		uint32_t cap = packs->ids_cap ? 2 * packs->ids_cap : 256;
		uint64_t *wide = realloc(packs->ids, cap * sizeof(*wide));

		if (wide != NULL) {
			packs->ids = wide;
			packs->ids_cap = cap;
		}
		err = wide != NULL ? 0 : -GRANARY_ENOMEM;
	}
	if (err == 0) {
		at = ids_at(packs, id);
		memmove(packs->ids + at + 1, packs->ids + at, (packs->ids_count - at) * sizeof(id));
		packs->ids[at] = id;
		packs->ids_count++;
	}
	pthread_rwlock_unlock(&packs->index_lock);
	return err;
}

static void ids_remove(struct packs *packs, uint64_t id)
{
	uint32_t at;

	pthread_rwlock_wrlock(&packs->index_lock);
	at = ids_at(packs, id);
	if (at < packs->ids_count && packs->ids[at] == id) {
		packs->ids_count--;
		memmove(packs->ids + at, packs->ids + at + 1, (packs->ids_count - at) * sizeof(id));
	}
	pthread_rwlock_unlock(&packs->index_lock);
}

int packs_insert(struct packs *packs, struct pack *pack)
{
	struct packs_shard *s = packs_shard_of(packs, pack->id);
	int err = ids_insert(packs, pack->id);

	if (err < 0)
		return err;
	pthread_mutex_lock(&s->lock);
	err = s->count >= s->bucket_count ? shard_grow(s) : 0;
	if (err == 0) {
		struct pack **to = bucket_of(s, pack->id);

		pack->chain = *to;
		*to = pack;
		s->count++;
		atomic_fetch_add(&packs->by_state[atomic_load(&pack->state)], 1);
	}
	pthread_mutex_unlock(&s->lock);
	if (err < 0)
		ids_remove(packs, pack->id);
	return err;
}

void packs_make_gone(struct packs *packs, struct pack *pack)
{
	struct packs_shard *s = packs_shard_of(packs, pack->id);
	struct pack **at;

	ids_remove(packs, pack->id);
	pthread_mutex_lock(&s->lock);
	assert(!pack->gone);
	pack->gone = true;
	for (at = bucket_of(s, pack->id); *at != pack; at = &(*at)->chain)
		;
	*at = pack->chain;
	s->count--;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_sub(&packs->by_state[atomic_load(&pack->state)], 1);
	pack_charge(pack, 0);
	pack_count(pack, false);
	if (pack_cold(pack) != NULL) {
		atomic_fetch_sub(&packs->cold_copies, 1);
		if (!pack_is_hot(pack))
			atomic_fetch_sub(&packs->cold_only, 1);
	}
	packs_unref(packs, pack);
}

void packs_replace(struct packs *packs, struct pack *old, struct pack *fresh)
{
	struct packs_shard *s = packs_shard_of(packs, old->id);
	struct pack **at;

	pthread_mutex_lock(&s->lock);
	assert(!old->gone && old->id == fresh->id);
	old->gone = true;
	for (at = bucket_of(s, old->id); *at != old; at = &(*at)->chain)
		;
	fresh->chain = old->chain;
	atomic_store(&fresh->pins, atomic_load(&old->pins));
	*at = fresh;
	pthread_mutex_unlock(&s->lock);
	packs_unref(packs, old);
}

static struct pack *ref_if(struct packs *packs, uint64_t pack_id, bool dying_too)
{
	struct packs_shard *s = packs_shard_of(packs, pack_id);
	struct pack *p;

	pthread_mutex_lock(&s->lock);
	p = shard_find(s, pack_id);
	if (p != NULL && !dying_too && atomic_load_explicit(&p->state, memory_order_relaxed) == PACK_DYING)
		p = NULL;
	if (p != NULL) {
		atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
		if (!atomic_load_explicit(&p->used, memory_order_relaxed))
			atomic_store_explicit(&p->used, true, memory_order_relaxed);
	}
	pthread_mutex_unlock(&s->lock);
	return p;
}

struct pack *packs_ref(struct packs *packs, uint64_t pack_id) { return ref_if(packs, pack_id, false); }
struct pack *packs_ref_any(struct packs *packs, uint64_t pack_id) { return ref_if(packs, pack_id, true); }

void packs_unref(struct packs *packs, struct pack *pack)
{
	int64_t before = atomic_fetch_sub_explicit(&pack->refs, 1, memory_order_acq_rel);

	assert(pack->magic == PACK_MAGIC && before > 0);
	if (before > 1)
		return;
	packs_file_drop(packs, pack);
	pack_free(&pack);
}

uint64_t pack_id_of(const struct pack *pack) { return pack->id; }

uint32_t packs_refs(const struct pack *pack)
{
	return (uint32_t)atomic_load(&pack->refs) - 1; /* but the table's */
}

struct fs_file *pack_file(const struct pack *pack)
{
	return atomic_load_explicit(&pack->file, memory_order_acquire);
}

bool pack_is_ready(const struct pack *pack)
{
	const struct fs_file *file = pack_file(pack);

	if (copy_of_file(file) != NULL)
		return pack->drive == NULL || atomic_load(&pack->hot_lost) || !drive_may_read(pack->drive);
	return file != NULL && drive_may_read(pack->drive) &&
	       atomic_load_explicit(&pack->generation, memory_order_relaxed) == drive_generation(pack->drive);
}

struct drive *pack_drive(const struct pack *pack) { return pack->drive; }
bool pack_may_append(const struct pack *pack) { return pack->drive != NULL && drive_may_place(pack->drive); }
bool pack_may_write(const struct pack *pack)
{
	return pack->drive != NULL ? drive_may_write(pack->drive) : pack_cold(pack) != NULL;
}
struct copy *pack_cold(const struct pack *pack) { return atomic_load_explicit(&pack->cold, memory_order_acquire); }
bool pack_lost_hot(const struct pack *pack) { return atomic_load(&pack->hot_lost); }
bool pack_is_hot(const struct pack *pack) { return pack->name[0] != '\0'; }

struct task *pack_suspect(const struct pack *pack)
{
	return pack->drive != NULL ? drive_suspect(pack->drive) : NULL;
}

void pack_charge(struct pack *pack, uint64_t bytes)
{
	int64_t before = atomic_exchange(&pack->charged, (int64_t)bytes);

	if (pack->drive != NULL)
		drive_charge(pack->drive, (int64_t)bytes - before);
}

void pack_count(struct pack *pack, bool is_written)
{
	bool before = atomic_exchange(&pack->counted, is_written);

	if (pack->drive != NULL && before != is_written)
		drive_writing(pack->drive, is_written ? 1 : -1);
}

void packs_pending(struct pack *pack, int delta)
{
	int64_t before = atomic_fetch_add(&pack->pending, delta);

	assert(before + delta >= 0);
}

int64_t packs_pending_count(const struct pack *pack) { return atomic_load(&pack->pending); }
void packs_lazy(struct pack *pack, int delta) { atomic_fetch_add(&pack->lazy, delta); }
int64_t packs_lazy_count(const struct pack *pack) { return atomic_load(&pack->lazy); }
uint64_t pack_pins(const struct pack *pack) { return (uint64_t)atomic_load(&pack->pins); }
uint64_t pack_order(const struct pack *pack) { return pack->order; }
uint64_t pack_group(const struct pack *pack) { return pack->group; }

uint64_t pack_fixed_size(const struct pack *pack)
{
	return atomic_load(&pack->state) == PACK_SEALED ? atomic_load(&pack->file_size) : 0;
}

void packs_set_end(struct pack *pack, uint64_t end) { atomic_store(&pack->end, end); }
uint64_t packs_allocated(const struct pack *pack) { return atomic_load(&pack->allocated); }
uint64_t packs_end(const struct pack *pack) { return atomic_load(&pack->end); }
bool packs_seal_begin(struct pack *pack) { return !atomic_exchange(&pack->sealing, true); }

void packs_seal_end(struct pack *pack, bool leave_open)
{
	if (leave_open)
		atomic_store(&pack->mine, false);
	atomic_store(&pack->sealing, false);
}

/* ---- states ------------------------------------------------------------------------------------
 * */

void pack_set_state(struct packs *packs, struct pack *pack, uint8_t state)
{
	uint8_t old = atomic_exchange(&pack->state, state);

	atomic_fetch_sub(&packs->by_state[old], 1);
	atomic_fetch_add(&packs->by_state[state], 1);
}

static int commit_state(struct packs *packs, const struct pack *pack, uint8_t state, uint64_t file_size)
{
	uint8_t pack_key[ROW_KEY_MAX], copy_key[ROW_KEY_MAX];
	uint64_t drive = pack->drive != NULL ? drive_id(pack->drive) : 0;
	struct slice p = row_pack(pack_key, pack->id), c = row_copy(copy_key, drive, pack->id);
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	int err;

	if (txn == NULL)
		return -GRANARY_ENOMEM;
	kv_max(txn, p, PTAG_STATE, state);
	if (file_size > 0) {
		assert(pack->drive != NULL);
		kv_max(txn, p, PTAG_SIZE, file_size);
		kv_max(txn, c, CTAG_LENGTH, file_size);
	}
	err = kv_submit_wait(packs->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

int packs_set_sealed(struct packs *packs, struct pack *pack, uint64_t file_size)
{
	int err;

	if (atomic_load(&pack->state) != PACK_OPEN)
		return -GRANARY_EINVAL;
	err = commit_state(packs, pack, PACK_SEALED, file_size);
	if (err < 0)
		return err;
	atomic_store(&pack->file_size, file_size);
	atomic_store(&pack->mine, false);
	pack_charge(pack, file_size);
	pack_count(pack, false);
	pack_set_state(packs, pack, PACK_SEALED);
	return 0;
}

int packs_set_broken(struct packs *packs, struct pack *pack)
{
	int err;

	if (atomic_load(&pack->state) == PACK_BROKEN)
		return 0;
	err = commit_state(packs, pack, PACK_BROKEN, 0);
	if (err < 0)
		log_error("cannot record that a pack is broken: %s; pack=%016" PRIx64, error_text(err), pack->id);
	/* In RAM it is broken even so: after a restart it is an open pack of an earlier
	 * incarnation, never appended to. */
	atomic_store(&pack->mine, false);
	pack_count(pack, false);
	pack_set_state(packs, pack, PACK_BROKEN);
	log_error("pack is broken: nothing more is appended, its live records will be copied out; pack=%016" PRIx64,
		pack->id);
	if (pack->drive != NULL)
		(void)drive_probe(pack->drive, true);
	return err;
}

/* ---- pins and holds ---- */

/* Under the shard's lock: a pack that moves to another drive takes its pins along there. */
void packs_pin(struct packs *packs, uint64_t pack_id, int delta)
{
	struct packs_shard *s = packs_shard_of(packs, pack_id);
	struct pack *pack;

	pthread_mutex_lock(&s->lock);
	pack = shard_find(s, pack_id);
	if (pack != NULL) {
		int64_t before = atomic_fetch_add(&pack->pins, delta);

		assert(before + delta >= 0);
	}
	pthread_mutex_unlock(&s->lock);
}

bool packs_is_undone(struct packs *packs, uint64_t pack_id, struct slice name)
{
	struct packs_shard *s = packs_shard_of(packs, pack_id);
	struct pack *pack;
	bool yes;

	pthread_mutex_lock(&s->lock);
	pack = shard_find(s, pack_id);
	yes = pack != NULL && pack_cold(pack) != NULL && slice_eq(slice_str(copy_info(pack_cold(pack))->instead), name);
	pthread_mutex_unlock(&s->lock);
	return yes;
}

void packs_hold(struct packs *packs)
{
	pthread_mutex_lock(&packs->hold_lock);
	packs->holds++;
	while (packs->changes > 0)
		pthread_cond_wait(&packs->hold_changed, &packs->hold_lock);
	pthread_mutex_unlock(&packs->hold_lock);
}

void packs_unhold(struct packs *packs)
{
	pthread_mutex_lock(&packs->hold_lock);
	assert(packs->holds > 0);
	packs->holds--;
	pthread_mutex_unlock(&packs->hold_lock);
}

bool packs_change_begin(struct packs *packs)
{
	bool may;

	pthread_mutex_lock(&packs->hold_lock);
	may = packs->holds == 0;
	packs->changes += may;
	pthread_mutex_unlock(&packs->hold_lock);
	return may;
}

void packs_change_end(struct packs *packs)
{
	pthread_mutex_lock(&packs->hold_lock);
	assert(packs->changes > 0);
	if (--packs->changes == 0)
		pthread_cond_broadcast(&packs->hold_changed);
	pthread_mutex_unlock(&packs->hold_lock);
}

static int retire(struct packs *packs, struct pack *pack)
{
	uint8_t state = atomic_load(&pack->state);
	int err = 0;

	if (pack_pins(pack) > 0)
		return -GRANARY_EBUSY;
	if (state != PACK_BROKEN)
		err = commit_state(packs, pack, PACK_DYING, 0);
	if (err == 0)
		pack_set_state(packs, pack, PACK_DYING);
	return err;
}

int packs_retire(struct packs *packs, struct pack *pack)
{
	int err;

	assert(atomic_load(&pack->pending) == 0);
	if (atomic_load(&pack->state) == PACK_DYING)
		return 0;
	if (!packs_change_begin(packs))
		return -GRANARY_EBUSY;
	pthread_mutex_lock(&packs->copies_lock);
	err = pack_is_of_table(packs, pack) ? retire(packs, pack) : -GRANARY_EBUSY;
	pthread_mutex_unlock(&packs->copies_lock);
	packs_change_end(packs);
	return err;
}

int packs_row(struct packs *packs, uint64_t pack_id, struct pack_row *out)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value v;
	int err = kv_get(packs->o.kv, row_pack(key, pack_id), &v);

	if (err < 0)
		return err;
	err = pack_row_decode(v.v, out);
	kv_value_release(&v);
	return err;
}

/* 1: no drive and no store has a copy of it. */
static int has_no_copy(struct packs *packs, uint64_t pack_id)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value v;
	int err = -GRANARY_ENOTFOUND;

	for (uint32_t i = 0; err == -GRANARY_ENOTFOUND && i < drives_count(packs->o.drives); i++)
		err = kv_get(packs->o.kv, row_copy(key, drive_id(drives_at(packs->o.drives, i)), pack_id), &v);
	for (uint32_t i = 0; err == -GRANARY_ENOTFOUND && packs->o.stores != NULL &&
		i < stores_count(packs->o.stores); i++)
		err = kv_get(packs->o.kv, row_copy(key, place_id(stores_at(packs->o.stores, i)), pack_id), &v);
	if (err == 0)
		kv_value_release(&v);
	return err == -GRANARY_ENOTFOUND ? 1 : err;
}

int packs_is_gone(struct packs *packs, uint64_t pack_id)
{
	struct pack_row row;
	int err = packs_row(packs, pack_id, &row);

	if (err == 0 && row.state != 0)
		return 0; /* without a state: a counter came late, there is no such pack */
	return err < 0 && err != -GRANARY_ENOTFOUND ? err : has_no_copy(packs, pack_id);
}

static void info_of(const struct pack *p, struct pack_info *out)
{
	const struct copy *cold = pack_cold(p);

	*out = (struct pack_info){ .id = p->id, .group = p->group, .order = p->order,
		.file_size = atomic_load(&p->file_size), .state = atomic_load(&p->state),
		.mine = atomic_load(&p->mine), .brought = atomic_load(&p->brought),
		.drive = p->drive != NULL ? drive_id(p->drive) : 0,
		.may_read = p->drive != NULL && drive_may_read(p->drive), .may_write = pack_may_write(p) };
	if (cold == NULL)
		return;
	out->store = place_id(copy_info(cold)->place);
	out->cold_length = copy_info(cold)->length;
	out->is_linked = copy_is_linked(cold);
	out->may_read |= !place_is_away(copy_info(cold)->place);
}

uint32_t packs_list(struct packs *packs, uint64_t after, struct pack_info *out, uint32_t max)
{
	uint32_t n = 0;

	pthread_rwlock_rdlock(&packs->index_lock);
	for (uint32_t i = ids_at(packs, after + 1); i < packs->ids_count && n < max; i++) {
		struct packs_shard *s = packs_shard_of(packs, packs->ids[i]);
		struct pack *p;

		pthread_mutex_lock(&s->lock);
		p = shard_find(s, packs->ids[i]);
		if (p != NULL)
			info_of(p, &out[n++]);
		pthread_mutex_unlock(&s->lock);
	}
	pthread_rwlock_unlock(&packs->index_lock);
	return n;
}

void packs_get_stats(struct packs *packs, struct packs_stats *out)
{
	*out = (struct packs_stats){
		.open_packs = atomic_load(&packs->by_state[PACK_OPEN]),
		.sealed = atomic_load(&packs->by_state[PACK_SEALED]),
		.dying = atomic_load(&packs->by_state[PACK_DYING]),
		.broken = atomic_load(&packs->by_state[PACK_BROKEN]),
		.cold_copies = atomic_load(&packs->cold_copies),
		.cold_only = atomic_load(&packs->cold_only),
	};
	for (uint32_t i = 0; i < drives_count(packs->o.drives); i++) {
		struct drive_info info;

		drive_get_info(drives_at(packs->o.drives, i), &info);
		if (!info.listed || info.state != DRIVE_ACTIVE || info.health != DRIVE_ONLINE)
			continue;
		out->space_total += info.total;
		out->space_available += info.available;
	}
	out->packs = out->open_packs + out->sealed + out->dying + out->broken;
	pthread_mutex_lock(&packs->files_lock);
	out->files_open = packs->files_open;
	pthread_mutex_unlock(&packs->files_lock);
}

struct heat *packs_heat(const struct packs *packs) { return packs->o.heat; }

uint64_t packs_size(const struct packs *packs) { return packs->o.pack_size; }
struct drives *packs_drives(struct packs *packs) { return packs->o.drives; }

static void count_pack(struct packs_of_drive *out, const struct pack *p)
{
	uint32_t i = 0;

	out->packs++;
	out->open_packs += atomic_load(&p->state) == PACK_OPEN;
	out->bytes += (uint64_t)atomic_load(&p->charged);
	while (i < out->groups_count && out->groups[i] != p->group)
		i++;
	if (i == out->groups_count && i < sizeof(out->groups) / sizeof(out->groups[0]))
		out->groups[out->groups_count++] = p->group;
}

void packs_count_drive(struct packs *packs, const struct drive *drive, struct packs_of_drive *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < PACKS_SHARDS; i++) {
		struct packs_shard *s = &packs->shards[i];

		pthread_mutex_lock(&s->lock);
		for (uint32_t b = 0; b < s->bucket_count; b++)
			for (const struct pack *p = s->buckets[b]; p != NULL; p = p->chain)
				if (p->drive == drive)
					count_pack(out, p);
		pthread_mutex_unlock(&s->lock);
	}
}

/* ---- start and stop -----------------------------------------------------------------------------
 * */

static int load_pack(struct packs *packs, struct slice key, struct slice value)
{
	struct pack_row row;
	struct pack *p;
	int err = pack_row_decode(value, &row);

	if (err < 0)
		return err;
	if (row.state == 0)
		return 0; /* a counter of a pack that was removed came late: there is no such pack */
	p = pack_new(be64_get(key.p + 1), row.state);
	if (p == NULL)
		return -GRANARY_ENOMEM;
	p->group = row.group;
	p->order = row.order;
	atomic_store(&p->file_size, row.file_size);
	atomic_store(&p->pins, (int64_t)row.pins);
	/* Charged to its drive once that is known: what the file takes at least. */
	atomic_store(&p->charged, (int64_t)(row.file_size > 0 ? row.file_size : row.committed_end));
	err = packs_insert(packs, p);
	if (err < 0)
		pack_free(&p);
	return err;
}

/* A row of a cold copy. */
static int load_cold(struct packs *packs, struct pack *p, struct place *place, struct slice value)
{
	struct copy_info info = { .place = place, .pack_id = p->id, .raw_len = atomic_load(&p->file_size) };
	struct slice name, instead = slice_of(NULL, 0);
	uint64_t codec, crc;
	struct copy *copy;

	if (!value_bytes(value, CTAG_NAME, &name) || name.len >= sizeof(info.name) ||
	    !value_u64(value, CTAG_CODEC, 0, &codec) || !value_u64(value, CTAG_LENGTH, 0, &info.length) ||
	    !value_u64(value, CTAG_CRC, 0, &crc))
		return -GRANARY_ECORRUPT;
	if ((codec & CODEC_INSTEAD) != 0 && !value_bytes(value, CTAG_INSTEAD, &instead))
		return -GRANARY_ECORRUPT;
	codec &= ~(uint64_t)CODEC_INSTEAD;
	if (codec > CODEC_LINKED || instead.len >= sizeof(info.instead))
		return -GRANARY_ECORRUPT;
	if (pack_cold(p) != NULL) {
		log_warn("a pack has a second cold copy, which is not used; pack=%016" PRIx64 " store=%s", p->id,
			place_name(place));
		return 0;
	}
	memcpy(info.name, name.p, name.len);
	if (instead.len > 0) memcpy(info.instead, instead.p, instead.len);
	info.codec = (uint8_t)codec;
	info.crc = (uint32_t)crc;
	copy = copy_new(&info);
	if (copy == NULL)
		return -GRANARY_ENOMEM;
	pack_set_cold(packs, p, copy);
	return 0;
}

static int load_copy(struct packs *packs, struct slice key, struct slice value)
{
	uint64_t pack_id = be64_get(key.p + 9);
	struct pack *p = shard_find(packs_shard_of(packs, pack_id), pack_id);
	struct drive *drive = drives_find(packs->o.drives, be64_get(key.p + 1));
	struct place *place = stores_find(packs->o.stores, be64_get(key.p + 1));
	struct slice name;
	uint64_t brought;

	if (p != NULL && place != NULL)
		return load_cold(packs, p, place, value);
	if (p == NULL || (drive == NULL && p->drive != NULL))
		return 0;
	if (!value_bytes(value, CTAG_NAME, &name) || name.len != PACK_NAME_SIZE - 1)
		return -GRANARY_ECORRUPT;
	memcpy(p->name, name.p, name.len);
	atomic_store(&p->brought, value_u64(value, CTAG_BROUGHT, 0, &brought) && brought == COPY_BROUGHT);
	p->drive = drive;
	p->void_store = be64_get(key.p + 1); /* of the row, until all are known */
	return 0;
}

/* All rows of its copies were read. */
static void settle_copies(struct pack *p)
{
	uint64_t store = p->void_store;

	if (p->name[0] != '\0' && pack_cold(p) != NULL && strcmp(copy_info(pack_cold(p))->instead, p->name) == 0) {
		p->drive = NULL;
		p->name[0] = '\0';
		atomic_store(&p->brought, false);
		return;
	}
	p->void_store = 0;
	if (p->drive != NULL)
		drive_charge(p->drive, atomic_load(&p->charged));
	else if (store != 0)
		log_error("a pack lies on a drive that no row names; pack=%016" PRIx64 " drive=%016" PRIx64, p->id,
			store);
}

static void settle_packs(struct packs *packs)
{
	for (uint32_t i = 0; i < packs->ids_count; i++) {
		struct pack *p = shard_find(packs_shard_of(packs, packs->ids[i]), packs->ids[i]);

		settle_copies(p);
		if (pack_cold(p) != NULL && !pack_is_hot(p)) {
			atomic_fetch_add(&packs->cold_only, 1);
			atomic_store(&p->charged, 0);
		}
	}
}

static int load_rows(struct packs *packs, char prefix, size_t key_len,
	int (*load)(struct packs *packs, struct slice key, struct slice value))
{
	struct kv_iter *it = kv_iter_new(packs->o.kv, NULL);
	int err = 0;

	if (it == NULL)
		return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_of(&prefix, 1)); err == 0 && kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len == 0 || key.p[0] != (uint8_t)prefix)
			break;
		err = key.len == key_len ? load(packs, key, kv_iter_value(it)) : -GRANARY_ECORRUPT;
	}
	if (err == 0)
		err = kv_iter_error(it);
	kv_iter_free(&it);
	if (err < 0)
		log_error("cannot read the rows of packs: %s; kind=%c", error_text(err), prefix);
	return err;
}

static int make_root(struct fs *fs)
{
	int err = fs_mkdir(fs, "packs");

	if (err < 0 && err != -GRANARY_EEXIST)
		return err;
	return fs_sync_dir(fs, "");
}

static int open_own_drives(struct packs *packs)
{
	struct drives_options o = { .fs = packs->o.fs, .kv = packs->o.kv, .reserve = packs->o.reserve };
	char why[512];
	int err;

	if (packs->o.drives != NULL)
		return 0;
	err = drives_open(&o, &packs->own_drives, why, sizeof(why));
	packs->o.drives = packs->own_drives;
	return err;
}

int packs_open(const struct packs_options *options, struct packs **out)
{
	struct packs *packs = calloc(1, sizeof(*packs));
	int err;

	*out = NULL;
	if (packs == NULL)
		return -GRANARY_ENOMEM;
	packs->magic = PACKS_MAGIC;
	packs->o = *options;
	if (packs->o.files_max == 0)
		packs->o.files_max = 4096;
	for (uint32_t i = 0; i < PACKS_SHARDS; i++)
		pthread_mutex_init(&packs->shards[i].lock, NULL);
	pthread_rwlock_init(&packs->index_lock, NULL);
	pthread_mutex_init(&packs->files_lock, NULL);
	pthread_mutex_init(&packs->dirs_lock, NULL);
	pthread_mutex_init(&packs->hold_lock, NULL);
	pthread_mutex_init(&packs->copies_lock, NULL);
	pthread_cond_init(&packs->hold_changed, NULL);
	list_init(&packs->files);
	err = make_root(packs->o.fs);
	if (err == 0)
		err = open_own_drives(packs);
	if (err == 0)
		err = packs_refresh_space(packs);
	if (err == 0)
		err = load_rows(packs, 'p', 1 + 8, load_pack);
	if (err == 0)
		err = load_rows(packs, 'c', 1 + 8 + 8, load_copy);
	if (err == 0)
		settle_packs(packs);
	if (err < 0) {
		packs_close(&packs);
		return err;
	}
	*out = packs;
	return 0;
}

static void shard_release(struct packs *packs, struct packs_shard *s)
{
	for (uint32_t i = 0; i < s->bucket_count; i++)
		for (struct pack *p = s->buckets[i], *next; p != NULL; p = next) {
			next = p->chain;
			packs_file_drop(packs, p);
			pack_free(&p);
		}
	free(s->buckets);
	pthread_mutex_destroy(&s->lock);
}

void packs_close(struct packs **pp)
{
	struct packs *packs = *pp;

	*pp = NULL;
	if (packs == NULL)
		return;
	assert(packs->magic == PACKS_MAGIC);
	packs->magic = 0;
	for (uint32_t i = 0; i < PACKS_SHARDS; i++)
		shard_release(packs, &packs->shards[i]);
	for (uint32_t i = 0; i < packs->stale_count; i++)
		fs_close(&packs->stale[i]);
	free(packs->stale);
	drives_close(&packs->own_drives);
	pthread_rwlock_destroy(&packs->index_lock);
	pthread_mutex_destroy(&packs->files_lock);
	pthread_mutex_destroy(&packs->dirs_lock);
	pthread_mutex_destroy(&packs->hold_lock);
	pthread_mutex_destroy(&packs->copies_lock);
	free(packs->left);
	pthread_cond_destroy(&packs->hold_changed);
	free(packs->ids);
	free(packs);
}
