/* SPDX-License-Identifier: Apache-2.0 */
/* packs_move.c -- a sealed pack goes to another drive, or comes back from a cold store: copied, read back and compared,
 * one transaction, delayed deletion of what it was copied of (contracts I and J).
 * Invariants: (1) the old file is not touched before the row names the new one, and then not before the removal delay;
 * (2) the new file and its name are synced and were read back past the page cache before the row names it; (3) a crash
 * before the transaction leaves a file that no row names, which a later start sweeps; after it, a `g` row of kind 3;
 * (4) addresses do not change: in the table a fresh struct takes the place of the old one, which lives, with its open
 * descriptor, until its last reader is through; (5) memory: one piece, or AHEAD of them. */
#include "tier/packs_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "tier/frames.h"
#include "tier/stores.h"

#define PACE_NS UINT64_C(100000000)
enum { PIECE_SIZE = 4 * 1024 * 1024, AHEAD = 4, VALUE_MAX = 256 };
#define PROMOTE_NS UINT64_C(60000000000)

struct moving {
	struct packs *packs;
	struct pack *old, *new;
	struct fs_file *from, *to;
	uint8_t *piece;          /* AHEAD of them, of a cold copy */
	struct ahead *ahead;
	uint64_t size;
	uint32_t crc;
	const struct packs_move *order;
	bool is_cold; /* it is made of the cold copy */
	bool lost;    /* but not all of it: objects of a linked one were changed */
};

static int is_stopped(const struct moving *m)
{
	return m->order->pace != NULL ? m->order->pace(m->order->arg, 0) : 0;
}

/* After `len` bytes were read back. */
static int pace_back(const struct moving *m, size_t len)
{
	return m->order->pace != NULL ? m->order->pace(m->order->arg, len) : 0;
}

/* After `len` bytes were copied: waits as long as they may take. */
static int pace(const struct moving *m, size_t len)
{
	uint64_t rate = m->order->rate != NULL ? m->order->rate(m->order->arg) : 0;
	uint64_t left_ns = rate > 0 ? (uint64_t)((double)len * 1e9 / (double)rate) : 0;
	int err = pace_back(m, len);

	while (err == 0 && left_ns > 0) {
		uint64_t some_ns = left_ns < PACE_NS ? left_ns : PACE_NS;
		struct timespec pause = { .tv_nsec = (long)some_ns };

		nanosleep(&pause, NULL);
		left_ns -= some_ns;
		err = is_stopped(m);
	}
	return err;
}

static size_t piece_len(const struct moving *m, uint64_t at)
{
	return m->size - at < PIECE_SIZE ? (size_t)(m->size - at) : PIECE_SIZE;
}

/* ---- pieces of a cold copy, several asked for at a time ---- */

struct ahead {
	struct copy_read reads[AHEAD];
	pthread_mutex_t lock;
	pthread_cond_t came;
	bool done[AHEAD];
};

static void ahead_came(struct copy_read *read)
{
	struct ahead *a = read->arg;

	pthread_mutex_lock(&a->lock);
	a->done[read - a->reads] = true;
	pthread_cond_signal(&a->came);
	pthread_mutex_unlock(&a->lock);
}

static void ahead_ask(struct moving *m, uint64_t at)
{
	uint64_t slot = at / PIECE_SIZE % AHEAD;
	struct ahead *a = m->ahead;

	a->done[slot] = false;
	a->reads[slot] = (struct copy_read){ .buf = m->piece + slot * PIECE_SIZE, .len = piece_len(m, at), .at = at,
		.done = ahead_came, .arg = a, .may_lose = m->order->may_lose };
	copy_read_part(pack_cold(m->old), &a->reads[slot]);
}

static int64_t ahead_wait(struct ahead *a, uint64_t slot)
{
	pthread_mutex_lock(&a->lock);
	while (!a->done[slot]) pthread_cond_wait(&a->came, &a->lock);
	pthread_mutex_unlock(&a->lock);
	return a->reads[slot].res;
}

/* Nothing is under way when it returns: the pieces are the mover's. */
static int pieces_of_cold(struct moving *m)
{
	struct ahead a = { .done = { false } };
	uint64_t asked = 0, at = 0;
	int err = 0;

	m->ahead = &a;
	pthread_mutex_init(&a.lock, NULL);
	pthread_cond_init(&a.came, NULL);
	m->crc = 0;
	for (; at < m->size && (err == 0 || at < asked); at += PIECE_SIZE) {
		uint64_t slot = at / PIECE_SIZE % AHEAD;
		int64_t n;

		for (; err == 0 && asked < m->size && asked < at + AHEAD * (uint64_t)PIECE_SIZE; asked += PIECE_SIZE)
			ahead_ask(m, asked);
		n = ahead_wait(&a, slot);
		if (err < 0) continue;
		err = n < 0 ? (int)n : (size_t)n < piece_len(m, at) ? -GRANARY_ECORRUPT : pace(m, (size_t)n);
		m->lost |= a.reads[slot].lost > 0;
		if (err == 0) m->crc = crc32c(m->crc, m->piece + slot * PIECE_SIZE, (size_t)n);
		if (err == 0) err = fs_write(m->to, m->piece + slot * PIECE_SIZE, (size_t)n, at);
	}
	pthread_cond_destroy(&a.came);
	pthread_mutex_destroy(&a.lock);
	return err;
}

/* Whole pieces: sizes of sealed packs are multiples of 4 KiB. */
static int pieces(struct moving *m, struct fs_file *from, struct fs_file *to, uint32_t *crc)
{
	int err = 0;

	*crc = 0;
	for (uint64_t at = 0; err == 0 && at < m->size; at += PIECE_SIZE) {
		size_t len = piece_len(m, at);
		int64_t n = fs_read(from, m->piece, len, at);

		err = n < 0 ? (int)n : (size_t)n < len ? -GRANARY_ECORRUPT : 0;
		if (err == 0) err = to != NULL ? pace(m, len) : pace_back(m, len);
		if (err == 0) *crc = crc32c(*crc, m->piece, len);
		if (err == 0 && to != NULL) err = fs_write(to, m->piece, len, at);
	}
	return err;
}

static int copy_in(struct moving *m, struct fs *fs)
{
	char path[PACK_PATH_SIZE], dir[16];
	uint32_t back;
	int err = packs_dir_make(m->packs, m->new->drive, fs, m->new->id);

	if (err < 0) return err;
	snprintf(m->new->name, sizeof(m->new->name), "%016" PRIx64 "-%016" PRIx64 ".pack", m->new->id,
		ids_object(m->packs->o.ids));
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(m->new->id & 0xff));
	pack_path(m->new, path);
	err = fs_open(fs, path, FS_CREATE_NEW | FS_DIRECT, &m->to);
	if (err < 0) return err;
	err = fs_allocate(m->to, 0, m->size);
	if (err == 0) err = m->is_cold ? pieces_of_cold(m) : pieces(m, m->from, m->to, &m->crc);
	if (err == 0 && m->is_cold && copy_is_linked(pack_cold(m->old))) {
		err = copy_finish_file(pack_cold(m->old), m->to, m->size, m->lost);
		if (err == 0) err = pieces(m, m->to, NULL, &m->crc);
	}
	if (err == 0) err = fs_sync(m->to);
	if (err == 0) err = fs_sync_dir(fs, dir);
	if (err == 0) err = pieces(m, m->to, NULL, &back);
	if (err == 0 && back != m->crc) err = -GRANARY_ECORRUPT;
	if (err < 0) {
		fs_close(&m->to);
		if (fs_unlink(fs, path) < 0)
			log_warn("cannot remove an unused pack file, a later start sweeps it; name=%s", m->new->name);
	}
	return err;
}

static int copy(struct moving *m)
{
	struct fs *fs = drive_take(m->new->drive);
	int err;

	if (fs == NULL) return -GRANARY_EOFFLINE;
	err = copy_in(m, fs);
	drive_give(m->new->drive);
	return err;
}

static int commit(struct moving *m)
{
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX];
	struct kv_txn *txn = kv_txn_new(m->packs->o.kv);
	struct wr w = wr_of(value, sizeof(value));
	uint64_t now = m->packs->o.clock != NULL ? store_clock_now(m->packs->o.clock) : 0;
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put(&w, CTAG_NAME, slice_str(m->new->name));
	tlv_put(&w, CTAG_CODEC, slice_of("\0", 1));
	tlv_put_u64(&w, CTAG_LENGTH, m->size);
	tlv_put_u32(&w, CTAG_CRC, m->crc);
	tlv_put(&w, CTAG_STATE, slice_of("\2", 1));
	tlv_put(&w, CTAG_SPARSE, slice_of("\0", 1));
	if (atomic_load(&m->new->brought)) tlv_put_u64(&w, CTAG_BROUGHT, COPY_BROUGHT);
	assert(wr_ok(&w));
	if (m->old->drive != m->new->drive && m->old->void_store != drive_id(m->new->drive))
		kv_pre_absent(txn, 0, row_copy(key, drive_id(m->new->drive), m->new->id));
	if (m->old->void_store != 0 && m->old->void_store != drive_id(m->new->drive))
		kv_delete(txn, row_copy(key, m->old->void_store, m->old->id));
	kv_put(txn, row_copy(key, drive_id(m->new->drive), m->new->id), slice_of(value, wr_len(&w)));
	if (m->old->drive != NULL) {
		if (m->old->drive != m->new->drive) kv_delete(txn, row_copy(key, drive_id(m->old->drive), m->old->id));
		w = wr_of(value, sizeof(value));
		value_begin(&w);
		tlv_put_u64(&w, GTAG_STORE, drive_id(m->old->drive));
		tlv_put(&w, GTAG_NAME, slice_str(m->old->name));
		kv_put(txn, row_deletion(key, now, DELETION_MOVED, m->old->id), slice_of(value, wr_len(&w)));
	}
	err = kv_submit_wait(m->packs->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

struct pack *pack_twin(struct packs *packs, const struct pack *old, struct drive *drive, bool with_cold)
{
	struct pack *p = pack_new(old->id, PACK_SEALED);

	(void)packs;
	if (p == NULL) return NULL;
	p->group = old->group;
	p->order = old->order;
	p->drive = drive;
	p->void_store = drive == NULL ? old->void_store : 0;
	atomic_store(&p->file_size, atomic_load(&old->file_size));
	atomic_store(&p->end, atomic_load(&old->end));
	if (with_cold && pack_cold(old) != NULL) atomic_store(&p->cold, copy_ref(pack_cold(old)));
	return p;
}

/* Where the metadata cannot tell whether it was committed, the next start knows: it sweeps what no row names.
 * */
static void file_leave(struct moving *m, int err)
{
	if (err == -GRANARY_EBUSY || err == -GRANARY_ENOSPACE || err == -GRANARY_ENOMEM)
		packs_file_unmake(m->new, &m->to);
	fs_close(&m->to);
}

/* What the copy must be, where the cold one says it. */
static int crc_check(const struct moving *m)
{
	const struct copy_info *info = copy_info(pack_cold(m->old));
	struct frames *frames;
	uint32_t want = info->crc;
	int err;

	if (copy_is_linked(pack_cold(m->old))) return 0; /* each of its objects said whose bytes they are */
	err = copy_frames(pack_cold(m->old), clock_mono_ns() + PROMOTE_NS, &frames);

	if (err < 0) return err;
	if (frames != NULL) want = frames_info(frames)->raw_crc;
	frames_unref(&frames);
	return want == m->crc ? 0 : -GRANARY_ECORRUPT;
}

/* Under copies_lock: the pack may have gone, or gone elsewhere, while it was copied. */
static int settle(struct moving *m)
{
	int err = pack_is_of_table(m->packs, m->old) &&
		atomic_load(&m->old->state) == PACK_SEALED ? commit(m) : -GRANARY_EBUSY;

	if (err < 0) {
		file_leave(m, err);
		return err;
	}
	packs_file_add(m->packs, m->new, m->to);
	pack_charge(m->old, 0);
	pack_charge(m->new, m->size);
	if (m->old->drive == NULL) atomic_fetch_sub(&m->packs->cold_only, 1);
	packs_replace(m->packs, m->old, m->new); /* the table's reference of the old one is gone */
	log_info("moved a pack; pack=%016" PRIx64 " from='%s' to='%s' bytes=%" PRIu64, m->new->id,
		m->is_cold ? place_name(copy_info(pack_cold(m->old))->place) : drive_path(m->old->drive),
		drive_path(m->new->drive), m->size);
	m->new = NULL;
	return 0;
}

static int move(struct moving *m)
{
	int err;

	m->size = atomic_load(&m->old->file_size);
	m->piece = aligned_alloc(4096, (m->is_cold ? (size_t)AHEAD : 1) * PIECE_SIZE);
	err = m->piece == NULL ? -GRANARY_ENOMEM : m->is_cold ? 0 : packs_open_file(m->packs, m->old);
	if (err < 0) return err;
	if (!m->is_cold) m->from = pack_file(m->old);
	err = copy(m);
	if (err < 0) return err;
	if (m->is_cold) err = crc_check(m);
	if (err < 0) {
		packs_file_unmake(m->new, &m->to);
		return err;
	}
	pthread_mutex_lock(&m->packs->copies_lock);
	err = settle(m);
	pthread_mutex_unlock(&m->packs->copies_lock);
	return err;
}

/* To a drive that has room. */
static int move_to(struct moving *m, uint64_t *bytes)
{
	struct drive *to = NULL;
	int err = packs_refresh_space(m->packs);

	if (err == 0)
		to = drives_choose(m->packs->o.drives, m->old->drive != NULL, atomic_load(&m->old->file_size),
			m->is_cold ? NULL : m->old->drive, &err);
	if (to == NULL) return err;
	m->new = pack_twin(m->packs, m->old, to, true);
	if (m->new != NULL)
		atomic_store(&m->new->brought,
			m->old->drive != NULL ? atomic_load(&m->old->brought) : m->order->brought);
	err = m->new != NULL ? move(m) : -GRANARY_ENOMEM;
	*bytes = err == 0 ? m->size : 0;
	if (err < 0 && err != -GRANARY_ESHUTDOWN && err != -GRANARY_EBUSY) {
		(void)drive_probe(to, true);
		if (m->old->drive != NULL) (void)drive_probe(m->old->drive, true);
	}
	pack_free(&m->new);
	free(m->piece);
	return err;
}

int packs_move(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes)
{
	struct moving m = { .packs = packs, .old = packs_ref(packs, pack_id), .order = order };
	int err = 0;

	*bytes = 0;
	if (m.old == NULL) return 0;
	if (atomic_load(&m.old->state) != PACK_SEALED || packs_pending_count(m.old) > 0 || m.old->drive == NULL ||
		drive_may_place(m.old->drive))
		err = -GRANARY_EBUSY;
	if (err == 0) err = move_to(&m, bytes);
	packs_unref(packs, m.old);
	return err;
}

int packs_promote(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes)
{
	struct moving m = { .packs = packs, .old = packs_ref(packs, pack_id), .order = order };
	int err = 0;

	*bytes = 0;
	if (m.old == NULL) return -GRANARY_ENOTFOUND;
	if (atomic_load(&m.old->state) != PACK_SEALED || (!pack_is_hot(m.old) && pack_cold(m.old) == NULL))
		err = -GRANARY_EBUSY;
	m.is_cold = true;
	if (err == 0 && !pack_is_hot(m.old)) err = move_to(&m, bytes);
	packs_unref(packs, m.old);
	return err;
}

int packs_repair_hot(struct packs *packs, uint64_t pack_id, const struct packs_move *order, uint64_t *bytes)
{
	struct moving m = { .packs = packs, .old = packs_ref(packs, pack_id), .order = order, .is_cold = true };
	int err = 0;

	*bytes = 0;
	if (m.old == NULL) return -GRANARY_ENOTFOUND;
	if (atomic_load(&m.old->state) != PACK_SEALED) err = -GRANARY_EBUSY;
	if (err == 0 && (m.old->drive == NULL || pack_cold(m.old) == NULL)) err = -GRANARY_EINVAL;
	if (err == 0) err = move_to(&m, bytes);
	packs_unref(packs, m.old);
	return err;
}

/* ---- what was copied from ---- */

int packs_names_still(struct packs *packs, uint64_t store, uint64_t pack_id, struct slice name)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_value v;
	struct slice have;
	int err = kv_get(packs->o.kv, row_copy(key, store, pack_id), &v);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	err = !value_bytes(v.v, CTAG_NAME, &have) ? -GRANARY_ECORRUPT : slice_eq(have, name);
	kv_value_release(&v);
	return err == 1 && packs_is_undone(packs, pack_id, name) ? 0 : err;
}

int packs_remove_moved(struct packs *packs, uint64_t pack_id, struct slice value)
{
	char path[PACK_PATH_SIZE + 8], dir[16], text[PACK_NAME_SIZE];
	uint64_t store, id, attempt;
	struct slice name;
	struct drive *drive;
	struct fs *fs;
	int err;

	if (!value_u64(value, GTAG_STORE, 0, &store) || !value_bytes(value, GTAG_NAME, &name) ||
		name.len != PACK_NAME_SIZE - 1)
		return -GRANARY_ECORRUPT;
	memcpy(text, name.p, name.len);
	text[name.len] = '\0';
	if (!pack_name_parse(text, &id, &attempt) || id != pack_id) return -GRANARY_ECORRUPT;
	drive = drives_find(packs->o.drives, store);
	if (drive == NULL) return 0; /* the drive was given up, its files with it */
	err = packs_names_still(packs, store, pack_id, name);
	if (err != 0) return err < 0 ? err : -GRANARY_ECORRUPT;
	fs = drive_may_write(drive) ? drive_take(drive) : NULL;
	if (fs == NULL) return -GRANARY_EOFFLINE;
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(pack_id & 0xff));
	snprintf(path, sizeof(path), "%s/%s", dir, text);
	err = fs_unlink(fs, path);
	if (err == 0 || err == -GRANARY_ENOTFOUND) err = fs_sync_dir(fs, dir);
	drive_give(drive);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}
