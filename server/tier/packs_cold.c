/* SPDX-License-Identifier: Apache-2.0 */
/* packs_cold.c -- which copies of a pack there are, hot and cold: what changes them, and what is removed
 * afterwards. Invariants: (1) a change is one transaction, under copies_lock, and then the table says it; (2)
 * a pack always has a copy that a row names: the last one goes only with the pack; (3) a copy whose row is
 * gone is removed later, after a look that no row names it: a hot file from a list in RAM (a crash leaves it
 * to the sweep), a cold object by a `g` row; (4) a fresh struct takes the old one's place when the hot copy
 * goes: who reads through the old descriptor goes on. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "tier/packs_priv.h"
#include "tier/stores.h"

enum { VALUE_MAX = 256 };
#define REMOVE_NS UINT64_C(30000000000)

static uint64_t now_of(const struct packs *packs)
{
	return packs->o.clock != NULL ? store_clock_now(packs->o.clock) : 0;
}

bool pack_is_of_table(struct packs *packs, const struct pack *pack)
{
	struct packs_shard *s = packs_shard_of(packs, pack->id);
	bool yes;

	pthread_mutex_lock(&s->lock);
	yes = !pack->gone;
	pthread_mutex_unlock(&s->lock);
	return yes;
}

void pack_set_cold(struct packs *packs, struct pack *pack, struct copy *copy)
{
	assert(pack_cold(pack) == NULL);
	atomic_store_explicit(&pack->cold, copy, memory_order_release);
	atomic_fetch_add(&packs->cold_copies, 1);
}

/* ---- rows ---- */

static void txn_put_cold(struct kv_txn *txn, const struct copy_info *info)
{
	uint8_t codec = info->codec | (info->instead[0] != '\0' ? CODEC_INSTEAD : 0);
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX];
	struct wr w = wr_of(value, sizeof(value));

	value_begin(&w);
	tlv_put(&w, CTAG_NAME, slice_str(info->name));
	tlv_put(&w, CTAG_CODEC, slice_of(&codec, 1));
	tlv_put_u64(&w, CTAG_LENGTH, info->length);
	tlv_put_u32(&w, CTAG_CRC, info->crc);
	tlv_put(&w, CTAG_STATE, slice_of("\2", 1));
	if (info->instead[0] != '\0') tlv_put(&w, CTAG_INSTEAD, slice_str(info->instead));
	assert(wr_ok(&w));
	kv_pre_absent(txn, 0, row_copy(key, place_id(info->place), info->pack_id));
	kv_put(txn, row_copy(key, place_id(info->place), info->pack_id), slice_of(value, wr_len(&w)));
}

/* What lists the records of a linked pack. */
static int txn_drop_linked(struct packs *packs, struct kv_txn *txn, uint64_t pack_id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_linked_prefix(buf, pack_id);
	struct kv_iter *it = kv_iter_new(packs->o.kv, NULL);
	int err;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, prefix); kv_iter_valid(it); kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);

		if (key.len < prefix.len || memcmp(key.p, prefix.p, prefix.len) != 0) break;
		kv_delete(txn, key);
	}
	err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

int packs_txn_drop_cold(struct packs *packs, struct kv_txn *txn, const struct pack *pack)
{
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX];
	struct wr w = wr_of(value, sizeof(value));
	const struct copy_info *info;

	if (pack_cold(pack) == NULL) return 0;
	info = copy_info(pack_cold(pack));
	kv_delete(txn, row_copy(key, place_id(info->place), pack->id));
	/* the objects are not ours */
	if (copy_is_linked(pack_cold(pack))) return txn_drop_linked(packs, txn, pack->id);
	value_begin(&w);
	tlv_put_u64(&w, GTAG_STORE, place_id(info->place));
	tlv_put(&w, GTAG_NAME, slice_str(info->name));
	assert(wr_ok(&w));
	kv_put(txn, row_deletion(key, now_of(packs), DELETION_COLD, pack->id), slice_of(value, wr_len(&w)));
	return 0;
}

/* ---- changes, under copies_lock ---- */

/* The pack as it is in the table now, referenced; BUSY: nothing can be done with it. */
static int sealed_ref(struct packs *packs, uint64_t pack_id, struct pack **out)
{
	*out = packs_ref(packs, pack_id);
	if (*out == NULL) return -GRANARY_ENOTFOUND;
	if (atomic_load(&(*out)->state) == PACK_SEALED && packs_pending_count(*out) == 0) return 0;
	packs_unref(packs, *out);
	return -GRANARY_EBUSY;
}

/* Its file is removed later: readers may be about to open it. */
static int left_add(struct packs *packs, const struct pack *pack)
{
	struct packs_left *left;

	if (packs->left_count == packs->left_cap) {
		uint32_t cap = packs->left_cap > 0 ? 2 * packs->left_cap : 64;
		struct packs_left *wide = realloc(packs->left, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		packs->left = wide;
		packs->left_cap = cap;
	}
	left = &packs->left[packs->left_count++];
	*left = (struct packs_left){ .drive = pack->drive, .id = pack->id, .since_ns = now_of(packs) };
	memcpy(left->name, pack->name, sizeof(left->name));
	return 0;
}

/* The row of the hot copy goes with txn too, where the cold copy's does not undo it. */
static int evict(struct packs *packs, struct pack *old, struct kv_txn *txn, struct copy *cold)
{
	bool is_void = strcmp(copy_info(cold)->instead, old->name) == 0;
	uint8_t key[ROW_KEY_MAX];
	struct pack *fresh;
	int err;

	if (old->drive == NULL || !drive_may_write(old->drive)) return -GRANARY_EOFFLINE;
	fresh = pack_twin(packs, old, NULL, false);
	err = fresh != NULL ? left_add(packs, old) : -GRANARY_ENOMEM;
	if (err == 0) {
		if (is_void)
			fresh->void_store = drive_id(old->drive);
		else
			kv_delete(txn, row_copy(key, drive_id(old->drive), old->id));
		err = kv_submit_wait(packs->o.kv, txn);
		if (err < 0) packs->left_count--; /* not known to be gone: the next start looks */
	}
	if (err < 0) {
		pack_free(&fresh);
		return err;
	}
	atomic_store(&fresh->cold, copy_ref(cold));
	atomic_fetch_add(&packs->cold_only, 1);
	pack_charge(old, 0);
	packs_replace(packs, old, fresh);
	return 0;
}

int packs_add_cold(struct packs *packs, uint64_t pack_id, struct copy *copy, bool with_evict)
{
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	struct pack *pack = NULL;
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	pthread_mutex_lock(&packs->copies_lock);
	err = sealed_ref(packs, pack_id, &pack);
	if (err == 0 && pack_cold(pack) != NULL) err = -GRANARY_EBUSY;
	if (err == 0) {
		if (with_evict) copy_come_instead(copy, pack->name); /* one row a pack says both */
		txn_put_cold(txn, copy_info(copy));
		err = with_evict ? evict(packs, pack, txn, copy) : kv_submit_wait(packs->o.kv, txn);
		if (err == 0 && with_evict) atomic_fetch_add(&packs->cold_copies, 1);
		if (err == 0 && !with_evict) pack_set_cold(packs, pack, copy_ref(copy));
	}
	pthread_mutex_unlock(&packs->copies_lock);
	if (pack != NULL && err != -GRANARY_ENOTFOUND) packs_unref(packs, pack);
	kv_txn_free(&txn);
	return err;
}

int packs_evict(struct packs *packs, uint64_t pack_id)
{
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	struct pack *pack;
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	pthread_mutex_lock(&packs->copies_lock);
	err = sealed_ref(packs, pack_id, &pack);
	if (err == 0) {
		err = pack_cold(pack) == NULL ? -GRANARY_EINVAL
		      : pack_is_hot(pack)     ? evict(packs, pack, txn, pack_cold(pack))
					      : 0;
		packs_unref(packs, pack);
	}
	pthread_mutex_unlock(&packs->copies_lock);
	kv_txn_free(&txn);
	return err;
}

static int drop_cold(struct packs *packs, struct pack *old, struct kv_txn *txn)
{
	uint8_t key[ROW_KEY_MAX];
	struct pack *fresh;
	int err;

	if (pack_cold(old) == NULL) return 0;
	if (!pack_is_hot(old) || old->drive == NULL || !drive_may_read(old->drive)) return -GRANARY_EINVAL;
	fresh = pack_twin(packs, old, old->drive, false);
	if (fresh == NULL) return -GRANARY_ENOMEM;
	memcpy(fresh->name, old->name, sizeof(fresh->name));
	err = packs_txn_drop_cold(packs, txn, old);
	if (atomic_load(&old->brought))
		kv_max(txn, row_copy(key, drive_id(old->drive), old->id), CTAG_BROUGHT, COPY_KEPT);
	if (err == 0) err = kv_submit_wait(packs->o.kv, txn);
	if (err < 0) {
		pack_free(&fresh);
		return err;
	}
	pack_charge(old, 0);
	pack_charge(fresh, atomic_load(&fresh->file_size));
	atomic_fetch_sub(&packs->cold_copies, 1);
	packs_replace(packs, old, fresh);
	return 0;
}

int packs_drop_cold(struct packs *packs, uint64_t pack_id)
{
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	struct pack *pack;
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	pthread_mutex_lock(&packs->copies_lock);
	err = sealed_ref(packs, pack_id, &pack);
	if (err == 0) {
		err = drop_cold(packs, pack, txn);
		packs_unref(packs, pack);
	}
	pthread_mutex_unlock(&packs->copies_lock);
	kv_txn_free(&txn);
	return err;
}

int packs_keep_hot(struct packs *packs, uint64_t pack_id)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	struct pack *pack;
	int err = txn != NULL ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	pthread_mutex_lock(&packs->copies_lock);
	err = sealed_ref(packs, pack_id, &pack);
	if (err == 0) {
		if (atomic_load(&pack->brought) && pack->drive != NULL) {
			kv_max(txn, row_copy(key, drive_id(pack->drive), pack_id), CTAG_BROUGHT, COPY_KEPT);
			err = kv_submit_wait(packs->o.kv, txn);
			if (err == 0) {
				atomic_store(&pack->brought, false);
				err = 1;
			}
		}
		packs_unref(packs, pack);
	}
	pthread_mutex_unlock(&packs->copies_lock);
	kv_txn_free(&txn);
	return err;
}

int pack_open_other(const struct pack *pack, struct fs_file **out)
{
	*out = NULL;
	if (pack_cold(pack) == NULL || copy_of_file(pack_file(pack)) != NULL) return -GRANARY_ENOTFOUND;
	return copy_open_file(pack_cold(pack), out);
}

/* ---- linked packs ---- */

static void txn_put_pack(struct kv_txn *txn, const struct packs_linked *l)
{
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX];
	struct pack_row row = { .state = PACK_SEALED, .order = l->id, .committed_end = l->end, .total_bytes = l->total,
		.group = l->group, .file_size = l->file_size, .records = l->records, .created = l->created_ns };
	int64_t len = pack_row_encode(&row, slice_of(NULL, 0), value, sizeof(value));

	assert(len > 0);
	kv_pre_absent(txn, 0, row_pack(key, l->id));
	kv_put(txn, row_pack(key, l->id), slice_of(value, (size_t)len));
}

int packs_add_linked(struct packs *packs, struct kv_txn *txn, const struct packs_linked *l)
{
	struct copy_info info = { .place = stores_find(packs->o.stores, l->store), .pack_id = l->id,
		.length = l->file_size, .raw_len = l->file_size,
		.codec = CODEC_LINKED, .name = COPY_LINKED_NAME };
	struct pack *pack = pack_new(l->id, PACK_SEALED);
	struct copy *copy = copy_new(&info);
	int err = info.place == NULL ? -GRANARY_ENOTFOUND : pack != NULL && copy != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) {
		pack->group = l->group;
		atomic_store(&pack->file_size, l->file_size);
		atomic_store(&pack->end, l->end);
		txn_put_pack(txn, l);
		txn_put_cold(txn, &info);
		err = kv_submit_wait(packs->o.kv, txn);
	}
	if (err == 0) { /* nobody knows of it yet: no row of an object names it */
		pack_set_cold(packs, pack, copy);
		copy = NULL;
		packs_pending(pack, 1);
		atomic_fetch_add(&packs->cold_only, 1);
		err = packs_insert(packs, pack);
	}
	copy_unref(&copy);
	if (err < 0) pack_free(&pack);
	return err;
}

/* ---- what is left of copies ---- */

uint32_t packs_left_on(struct packs *packs, const struct drive *drive)
{
	uint32_t n = 0;

	pthread_mutex_lock(&packs->copies_lock);
	for (uint32_t i = 0; i < packs->left_count; i++) n += packs->left[i].drive == drive;
	pthread_mutex_unlock(&packs->copies_lock);
	return n;
}

static int left_remove(struct packs *packs, const struct packs_left *left)
{
	char path[PACK_PATH_SIZE + 8], dir[16];
	struct fs *fs;
	int err = packs_names_still(packs, drive_id(left->drive), left->id, slice_str(left->name));

	if (err != 0) return err < 0 ? err : -GRANARY_ECORRUPT;
	fs = drive_may_write(left->drive) ? drive_take(left->drive) : NULL;
	if (fs == NULL) return -GRANARY_EOFFLINE;
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(left->id & 0xff));
	snprintf(path, sizeof(path), "%s/%s", dir, left->name);
	err = fs_unlink(fs, path);
	if (err == 0 || err == -GRANARY_ENOTFOUND) err = fs_sync_dir(fs, dir);
	drive_give(left->drive);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

int packs_remove_left(struct packs *packs, uint64_t delay_ns)
{
	uint64_t now = now_of(packs);
	int first = 0;

	pthread_mutex_lock(&packs->copies_lock);
	for (uint32_t i = packs->left_count; i > 0; i--) {
		struct packs_left *left = &packs->left[i - 1];
		int err;

		if (now < left->since_ns + delay_ns) continue;
		err = left_remove(packs, left);
		if (err == 0)
			*left = packs->left[--packs->left_count];
		else if (err != -GRANARY_EOFFLINE && first == 0)
			first = err;
	}
	pthread_mutex_unlock(&packs->copies_lock);
	return first;
}

int packs_remove_cold(struct packs *packs, uint64_t pack_id, struct slice value)
{
	struct copy_info info = { .pack_id = pack_id };
	char path[COPY_PATH_MAX];
	struct slice name;
	struct copy *copy;
	uint64_t store;
	int err;

	if (!value_u64(value, GTAG_STORE, 0, &store) || !value_bytes(value, GTAG_NAME, &name) ||
		name.len >= sizeof(info.name))
		return -GRANARY_ECORRUPT;
	memcpy(info.name, name.p, name.len);
	info.place = stores_find(packs->o.stores, store);
	if (info.place == NULL) return 0; /* the store was given up, and what is in it */
	err = packs_names_still(packs, store, pack_id, name);
	if (err != 0) return err < 0 ? err : -GRANARY_ECORRUPT;
	copy = copy_new(&info);
	if (copy == NULL) return -GRANARY_ENOMEM;
	copy_path(pack_id, info.name, path);
	err = place_remove(info.place, path, clock_mono_ns() + REMOVE_NS);
	if (err == 0) copy_forget(copy);
	copy_unref(&copy);
	return err;
}

/* ---- objects without a row ---- */

struct cold_scan {
	struct packs *packs;
	struct place *place;
	uint32_t count, max;
	char (*names)[COPY_PATH_MAX + 8];
};

static int scan_each(void *arg, const char *name, uint64_t len)
{
	struct cold_scan *scan = arg;
	char base[COPY_NAME_MAX];
	uint64_t id, attempt;
	const char *slash = strrchr(name, '/');
	size_t n;
	int named;

	(void)len;
	n = (size_t)snprintf(base, sizeof(base), "%s", slash != NULL ? slash + 1 : name);
	if (n > 5 && n < sizeof(base) && strcmp(base + n - 5, ".part") == 0) base[n - 5] = '\0';
	if (n >= sizeof(base) || !copy_name_parse(base, &id, &attempt) ||
		id_incarnation(attempt) >= ids_incarnation(scan->packs->o.ids) ||
			strlen(name) >= sizeof(scan->names[0]))
		return 0;
	named = packs_names_still(scan->packs, place_id(scan->place), id, slice_str(base));
	if (named < 0) return named;
	if (named == 1 && strcmp(base, slash != NULL ? slash + 1 : name) == 0) return 0;
	snprintf(scan->names[scan->count++], sizeof(scan->names[0]), "%s", name);
	return scan->count == scan->max ? 1 : 0;
}

/* Deletions that wait have `g` rows; an object of an earlier incarnation without a `c` row is nobody's, or
 * one of these. */
int packs_sweep_cold(struct packs *packs, uint64_t store, uint32_t max, uint64_t deadline_ns)
{
	struct place *place = stores_find(packs->o.stores, store);
	struct cold_scan scan = { .packs = packs, .place = place, .max = max };
	int err, removed = 0;

	if (place == NULL) return -GRANARY_ENOTFOUND;
	scan.names = calloc(max, sizeof(*scan.names));
	if (scan.names == NULL) return -GRANARY_ENOMEM;
	err = place_list(place, "packs/", deadline_ns, scan_each, &scan);
	for (uint32_t i = 0; err >= 0 && i < scan.count; i++) {
		err = place_remove(place, scan.names[i], deadline_ns);
		if (err < 0) break;
		removed++;
		log_info("removed an object that no row names; store=%s name=%s", place_name(place), scan.names[i]);
	}
	free(scan.names);
	return err < 0 ? err : removed;
}
