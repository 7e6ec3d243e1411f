/* SPDX-License-Identifier: Apache-2.0 */
/* packs_files.c -- pack files in the hot directory: names, descriptors, making, growing, removing,
 * free space.
 * Invariants: (1) a name is used once: its attempt is an object id (FORMAT 2.2); (2) a row names a
 * file only after the file's header and every directory above it are synced; (3) a file that no row
 * names is garbage of an attempt that
 * failed: swept when the attempt's incarnation is over; (4) a descriptor closes only when the table
 * alone references its pack, decided under the shard's lock, where references are taken. */
#include "tier/packs_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/id.h"
#include "common/log.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"

#define WRITE_PROBE_NS UINT64_C(30000000000) /* so often a drive is written to even if nothing else is */
enum { HEADER_BLOCK = 4096, FILES_SCAN_MAX = 64, VALUE_MAX = 512 };

/* ---- names -------------------------------------------------------------------------------------
 * */

void pack_path(const struct pack *pack, char out[PACK_PATH_SIZE])
{
	snprintf(out, PACK_PATH_SIZE, "packs/%02x/%s", (unsigned)(pack->id & 0xff), pack->name);
}

static bool hex16_parse(const char *s, uint64_t *out)
{
	*out = 0;
	for (int i = 0; i < 16; i++) {
		char c = s[i];
		uint64_t digit;

		if (c >= '0' && c <= '9')
			digit = (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			digit = (uint64_t)(c - 'a') + 10;
		else
			return false;
		*out = *out << 4 | digit;
	}
	return true;
}

bool pack_name_parse(const char *name, uint64_t *id, uint64_t *attempt)
{
	return strlen(name) == PACK_NAME_SIZE - 1 && hex16_parse(name, id) && name[16] == '-' &&
	       hex16_parse(name + 17, attempt) && strcmp(name + 33, ".pack") == 0;
}

bool packs_name_parse(const char *name, uint64_t *id)
{
	uint64_t attempt;

	return pack_name_parse(name, id, &attempt);
}

/* ---- descriptors ---- */

/* Under files_lock. Closes the descriptor if nobody but the table references the pack. */
static bool file_close_if_idle(struct packs *packs, struct pack *pack)
{
	struct packs_shard *s = packs_shard_of(packs, pack->id);
	struct fs_file *file = NULL;

	pthread_mutex_lock(&s->lock);
	if (atomic_load(&pack->refs) == 1 && !pack->gone)
		file = atomic_exchange(&pack->file, NULL);
	pthread_mutex_unlock(&s->lock);
	if (file == NULL)
		return false;
	list_remove(&pack->file_node);
	packs->files_open--;
	fs_close(&file);
	return true;
}

/* Under files_lock. A clock: what was used since the hand passed is spared once. */
static void files_trim(struct packs *packs)
{
	for (uint32_t i = 0; i < FILES_SCAN_MAX && packs->files_open > packs->o.files_max; i++) {
		struct pack *p = container_of(packs->files.next, struct pack, file_node);

		if (!atomic_exchange(&p->used, false) && file_close_if_idle(packs, p))
			continue;
		list_remove(&p->file_node);
		list_push(&packs->files, &p->file_node);
	}
}

void packs_file_add(struct packs *packs, struct pack *pack, struct fs_file *file)
{
	if (pack->drive != NULL)
		atomic_store(&pack->generation, drive_generation(pack->drive));
	pthread_mutex_lock(&packs->files_lock);
	assert(atomic_load(&pack->file) == NULL);
	atomic_store_explicit(&pack->file, file, memory_order_release);
	list_push(&packs->files, &pack->file_node);
	packs->files_open++;
	files_trim(packs);
	pthread_mutex_unlock(&packs->files_lock);
}

void packs_file_drop(struct packs *packs, struct pack *pack)
{
	struct fs_file *file;

	pthread_mutex_lock(&packs->files_lock);
	file = atomic_exchange(&pack->file, NULL);
	if (file != NULL) {
		list_remove(&pack->file_node);
		packs->files_open--;
	}
	pthread_mutex_unlock(&packs->files_lock);
	fs_close(&file);
}

/* tier/ does not know pack/: magic, version, id and crc stand at fixed places (FORMAT 3.1). */
static int header_is_of(const uint8_t *b, int64_t len, const struct pack *pack)
{
	struct cur c = cur_of(b, (size_t)len);
	const uint8_t *magic = cur_take(&c, 8);
	uint32_t version = cur_u32(&c), incompat = cur_u32(&c);
	uint64_t id;

	cur_take(&c, 8);
	id = cur_u64(&c);
	cur_take(&c, 28);
	if (cur_u32(&c) != crc32c(0, b, cur_ok(&c) ? 60 : 0) || !cur_ok(&c) || memcmp(magic, "GRNPACK", 8) != 0 ||
	    id != pack->id)
		return -GRANARY_EBADFORMAT;
	return version == 1 && incompat == 0 ? 0 : -GRANARY_EBADFORMAT;
}

static int header_check(struct fs_file *file, const struct pack *pack)
{
	uint8_t *block = aligned_alloc(HEADER_BLOCK, HEADER_BLOCK);
	int64_t n;
	int err;

	if (block == NULL)
		return -GRANARY_ENOMEM;
	n = fs_read(file, block, HEADER_BLOCK, 0);
	err = n < 0 ? (int)n : header_is_of(block, n, pack);
	free(block);
	return err;
}

/* Who reads through it now may go on: it is closed with the table. */
static int file_retire(struct packs *packs, struct pack *pack)
{
	int err = 0;

	pthread_mutex_lock(&packs->files_lock);
	if (packs->stale_count == packs->stale_cap) {
		uint32_t cap = packs->stale_cap ? 2 * packs->stale_cap : 64;
		struct fs_file **wide = realloc(packs->stale, cap * sizeof(*wide));

		if (wide != NULL) {
			packs->stale = wide;
			packs->stale_cap = cap;
		}
		err = wide != NULL ? 0 : -GRANARY_ENOMEM;
	}
	if (err == 0) {
		packs->stale[packs->stale_count++] = atomic_exchange(&pack->file, NULL);
		list_remove(&pack->file_node);
		packs->files_open--;
	}
	pthread_mutex_unlock(&packs->files_lock);
	return err;
}

static int file_open_in(struct packs *packs, struct pack *pack, struct fs *fs)
{
	char path[PACK_PATH_SIZE];
	struct fs_file *file = NULL;
	bool writes = atomic_load(&pack->state) == PACK_OPEN && drive_may_write(pack->drive);
	int err;

	pack_path(pack, path);
	/* Open packs are sealed later through the same descriptor. */
	err = fs_open(fs, path, (writes ? FS_WRITE : FS_READ) | FS_DIRECT, &file);
	if (err < 0)
		return err;
	err = header_check(file, pack);
	if (err < 0) {
		log_error("a pack's file has a bad header: %s; pack=%016" PRIx64 " name=%s", error_text(err), pack->id,
			pack->name);
		fs_close(&file);
		return err;
	}
	packs_file_add(packs, pack, file);
	return 0;
}

static int hot_open(struct packs *packs, struct pack *pack)
{
	struct fs *fs = pack->drive != NULL && pack_is_hot(pack) ? drive_take(pack->drive) : NULL;
	int err = fs != NULL ? 0 : -GRANARY_EOFFLINE;

	if (fs == NULL)
		return err;
	if (pack_file(pack) != NULL)
		err = file_retire(packs, pack);
	if (err == 0)
		err = file_open_in(packs, pack, fs);
	drive_give(pack->drive);
	if (err < 0 && err != -GRANARY_ENOMEM && err != -GRANARY_EBADFORMAT) {
		(void)drive_probe(pack->drive, false); /* is it this file, or all of it? */
		if (!drive_may_read(pack->drive))
			err = -GRANARY_EOFFLINE;
	}
	return err;
}

/* Its hot copy, or where there is none that can be opened, the cold one. */
static int file_open(struct packs *packs, struct pack *pack)
{
	struct copy *cold = pack_cold(pack);
	struct fs_file *file;
	int err = hot_open(packs, pack);

	if (err == 0 || err == -GRANARY_ENOMEM || cold == NULL || copy_of_file(pack_file(pack)) != NULL)
		return err == 0 || copy_of_file(pack_file(pack)) == NULL ? err : 0;
	if (err == -GRANARY_ENOTFOUND || err == -GRANARY_EBADFORMAT)
		atomic_store(&pack->hot_lost, true);
	err = pack_file(pack) != NULL ? file_retire(packs, pack) : 0;
	if (err == 0)
		err = copy_open_file(cold, &file);
	if (err == 0)
		packs_file_add(packs, pack, file);
	return err;
}

int packs_open_file(struct packs *packs, struct pack *pack)
{
	int err = 0;

	pthread_mutex_lock(&pack->lock);
	if (!pack_is_ready(pack))
		err = file_open(packs, pack);
	pthread_mutex_unlock(&pack->lock);
	return err;
}

/* Not through `file`, which is direct, may write, and shares its offset and flags with whoever gets it. */
static int shared_open(const struct pack *pack, struct fs *fs, struct pack_shared *out)
{
	char path[PACK_PATH_SIZE];
	struct fs_file *file = NULL;
	int err;

	pack_path(pack, path);
	err = fs_open(fs, path, FS_READ, &file);
	if (err == 0) err = header_check(file, pack);
	if (err == 0) err = fs_file_share(file, &out->fd, &out->dev, &out->ino);
	fs_close(&file);
	return err;
}

int packs_open_shared(struct packs *packs, uint64_t pack_id, struct pack_shared *out)
{
	struct pack *pack = packs_ref(packs, pack_id);
	struct fs *fs;
	int err;

	*out = (struct pack_shared){ .fd = -1 };
	if (pack == NULL)
		return -GRANARY_ESTALE;
	out->size = pack_fixed_size(pack);
	err = out->size > 0 ? 0 : -GRANARY_EBUSY;
	fs = err == 0 && pack->drive != NULL && pack->name[0] != 0 && drive_may_read(pack->drive)
		? drive_take(pack->drive) : NULL;
	if (err == 0 && fs == NULL)
		err = -GRANARY_EOFFLINE;
	if (err == 0)
		err = shared_open(pack, fs, out);
	if (fs != NULL)
		drive_give(pack->drive);
	packs_unref(packs, pack);
	return err;
}

/* Descriptors on drives that went, or were opened anew since, as far as nobody uses them. */
static void files_let_go(struct packs *packs)
{
	pthread_mutex_lock(&packs->files_lock);
	list_for_safe(at, tmp, &packs->files) {
		struct pack *p = container_of(at, struct pack, file_node);

		if (!pack_is_ready(p))
			(void)file_close_if_idle(packs, p);
	}
	pthread_mutex_unlock(&packs->files_lock);
}

bool packs_probe(struct packs *packs)
{
	uint64_t now_ns = clock_mono_ns();
	bool changed = false, all_ready = true, write = now_ns - packs->written_ns > WRITE_PROBE_NS;

	if (write)
		packs->written_ns = now_ns;

	for (uint32_t i = 0; i < drives_count(packs->o.drives); i++) {
		struct drive *drive = drives_at(packs->o.drives, i);

		changed |= drive_probe(drive, write);
		all_ready &= drive_health(drive) == DRIVE_ONLINE;
	}
	if (changed || !all_ready)
		files_let_go(packs);
	return changed;
}

/* ---- making and growing ---- */

int packs_refresh_space(struct packs *packs) { return drives_refresh_space(packs->o.drives); }

int packs_room(struct packs *packs, uint64_t bytes)
{
	int err;

	(void)drives_choose(packs->o.drives, false, bytes, NULL, &err);
	return err;
}

int packs_room_data(struct packs *packs, uint64_t bytes)
{
	return drive_room(drives_at(packs->o.drives, 0), false, bytes);
}

static int root_make(struct drive *drive, struct fs *fs)
{
	int err;

	if (drive_id(drive) == DRIVE_DATA)
		return 0; /* packs_open() did it */
	err = fs_mkdir(fs, "packs");
	return err == 0 || err == -GRANARY_EEXIST ? fs_sync_dir(fs, "") : err;
}

int packs_dir_make(struct packs *packs, struct drive *drive, struct fs *fs, uint64_t pack_id)
{
	uint8_t low = (uint8_t)pack_id;
	bool *made = drive_dir_made(drive, low);
	char path[16];
	int err = 0;

	pthread_mutex_lock(&packs->dirs_lock);
	if (!*made) {
		snprintf(path, sizeof(path), "packs/%02x", low);
		err = root_make(drive, fs);
		if (err == 0)
			err = fs_mkdir(fs, path);
		/* Also when it exists: an earlier process may have stopped before this sync. */
		if (err == 0 || err == -GRANARY_EEXIST)
			err = fs_sync_dir(fs, "packs");
		*made = err == 0;
	}
	pthread_mutex_unlock(&packs->dirs_lock);
	return err;
}

/* FORMAT 3.1; pack/format.c has the decoder, the tests compare both. */
static void header_put(uint8_t *block, const struct pack *pack, uint64_t attempt)
{
	struct wr w = wr_of(block, 64);

	memset(block, 0, HEADER_BLOCK);
	wr_bytes(&w, "GRNPACK", 8);
	wr_u32(&w, 1); /* version */
	wr_u64(&w, 0); /* features */
	wr_u32(&w, 8); /* record_align */
	wr_u64(&w, pack->id);
	wr_u64(&w, clock_wall_ns());
	wr_u64(&w, pack->group);
	wr_u64(&w, attempt);
	wr_u32(&w, 0);
	wr_u32(&w, crc32c(0, block, 60));
	assert(wr_ok(&w));
}

static int file_fill(struct pack *pack, struct fs_file *file, uint64_t attempt)
{
	uint8_t *block = aligned_alloc(HEADER_BLOCK, HEADER_BLOCK);
	int err;

	if (block == NULL)
		return -GRANARY_ENOMEM;
	assert(fs_file_align(file) <= HEADER_BLOCK);
	header_put(block, pack, attempt);
	err = fs_allocate(file, 0, PACKS_STEP);
	if (err == 0)
		err = fs_write(file, block, HEADER_BLOCK, 0);
	if (err == 0)
		err = fs_sync(file);
	free(block);
	atomic_store(&pack->allocated, PACKS_STEP);
	return err;
}

static int file_make_in(struct packs *packs, struct pack *pack, struct fs *fs, uint64_t attempt, struct fs_file **out)
{
	char path[PACK_PATH_SIZE], dir[16];
	int err = packs_dir_make(packs, pack->drive, fs, pack->id);

	if (err < 0)
		return err;
	snprintf(pack->name, sizeof(pack->name), "%016" PRIx64 "-%016" PRIx64 ".pack", pack->id, attempt);
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(pack->id & 0xff));
	pack_path(pack, path);
	err = fs_open(fs, path, FS_CREATE_NEW | FS_DIRECT, out);
	if (err < 0)
		return err;
	err = file_fill(pack, *out, attempt);
	if (err == 0)
		err = fs_sync_dir(fs, dir);
	if (err < 0) {
		fs_close(out);
		if (fs_unlink(fs, path) < 0)
			log_warn("cannot remove an unused pack file, a later start sweeps it; name=%s", pack->name);
	}
	return err;
}

static int file_make(struct packs *packs, struct pack *pack, uint64_t attempt, struct fs_file **out)
{
	struct fs *fs = drive_take(pack->drive);
	int err;

	*out = NULL;
	if (fs == NULL)
		return -GRANARY_EOFFLINE;
	err = file_make_in(packs, pack, fs, attempt, out);
	drive_give(pack->drive);
	return err;
}

static int rows_put(struct packs *packs, const struct pack *pack)
{
	uint8_t key[ROW_KEY_MAX], value[VALUE_MAX];
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	struct pack_row row = { .state = PACK_OPEN, .order = pack->order, .group = pack->group,
		.created = packs->o.clock ? store_clock_now(packs->o.clock) : 0 };
	struct wr w = wr_of(value, sizeof(value));
	int64_t len = pack_row_encode(&row, slice_of("", 0), value, sizeof(value));
	int err;

	if (txn == NULL)
		return -GRANARY_ENOMEM;
	assert(len > 0);
	kv_put(txn, row_pack(key, pack->id), slice_of(value, (size_t)len));
	value_begin(&w);
	tlv_put(&w, CTAG_NAME, slice_str(pack->name));
	tlv_put(&w, CTAG_CODEC, slice_of("\0", 1));
	tlv_put_u64(&w, CTAG_LENGTH, 0);
	tlv_put_u32(&w, CTAG_CRC, 0);
	tlv_put(&w, CTAG_STATE, slice_of("\2", 1));
	tlv_put(&w, CTAG_SPARSE, slice_of("\0", 1));
	assert(wr_ok(&w));
	kv_put(txn, row_copy(key, drive_id(pack->drive), pack->id), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(packs->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

void packs_file_unmake(struct pack *pack, struct fs_file **file)
{
	struct fs *fs = drive_take(pack->drive);
	char path[PACK_PATH_SIZE];

	fs_close(file);
	pack_path(pack, path);
	if (fs == NULL || fs_unlink(fs, path) < 0)
		log_warn("cannot remove an unused pack file, a later start sweeps it; name=%s", pack->name);
	if (fs != NULL)
		drive_give(pack->drive);
}

static int pack_make(struct packs *packs, struct pack *pack)
{
	struct fs_file *file;
	int err = file_make(packs, pack, ids_object(packs->o.ids), &file);

	if (err < 0)
		return err;
	err = rows_put(packs, pack);
	if (err < 0) {
		packs_file_unmake(pack, &file);
		return err;
	}
	atomic_fetch_add(&pack->refs, 1); /* the caller's, besides the table's */
	err = packs_insert(packs, pack);
	if (err < 0) {
		fs_close(&file); /* the rows say open: the next start seals it, empty */
		return err;
	}
	packs_file_add(packs, pack, file);
	pack_charge(pack, PACKS_STEP);
	pack_count(pack, true);
	return 0;
}

struct making {
	uint64_t group, order;
	bool for_job;
};

static int create_on(struct packs *packs, const struct making *m, struct drive *drive, struct pack **out)
{
	struct pack *pack = pack_new(ids_pack(packs->o.ids), PACK_OPEN);
	int err;

	if (pack == NULL)
		return -GRANARY_ENOMEM;
	pack->group = m->group;
	if (m->order != 0)
		pack->order = m->order;
	pack->for_job = m->for_job;
	pack->drive = drive;
	atomic_store(&pack->mine, true);
	err = pack_make(packs, pack);
	if (err < 0)
		pack_free(&pack);
	*out = pack;
	return err;
}

/* None is ONLINE: perhaps one is by now. */
static void probe_all(struct packs *packs)
{
	for (uint32_t i = 0; i < drives_count(packs->o.drives); i++)
		(void)drive_probe(drives_at(packs->o.drives, i), false);
}

/* On the drive with the most room; where that one fails, on another. */
static int create(struct packs *packs, const struct making *m, struct pack **out)
{
	struct drive *drive, *but = NULL;
	int err = packs_refresh_space(packs), failed = 0;

	*out = NULL;
	if (err < 0)
		return err;
	for (uint32_t tries = 0; tries <= drives_count(packs->o.drives); tries++) {
		drive = drives_choose(packs->o.drives, m->for_job, PACKS_STEP, but, &err);
		if (drive == NULL && err == -GRANARY_EOFFLINE && but == NULL) {
			probe_all(packs);
			(void)packs_refresh_space(packs);
			drive = drives_choose(packs->o.drives, m->for_job, PACKS_STEP, but, &err);
		}
		if (drive == NULL)
			return failed < 0 ? failed : err;
		/* Counted before the second look: whoever ends a drain looks at the count after the state. */
		drive_writing(drive, 1);
		err = drive_may_place(drive) ? create_on(packs, m, drive, out) : -GRANARY_EOFFLINE;
		drive_writing(drive, -1);
		if (err == 0 || err == -GRANARY_ENOMEM)
			return err;
		failed = err;
		but = drive;
		(void)drive_probe(drive, true);
	}
	return failed;
}

int packs_create(struct packs *packs, uint64_t group, struct pack **out)
{
	return create(packs, &(struct making){ .group = group }, out);
}

int packs_create_for_job(struct packs *packs, uint64_t group, uint64_t order, struct pack **out)
{
	return create(packs, &(struct making){ .group = group, .order = order, .for_job = true }, out);
}

int packs_allocate(struct packs *packs, struct pack *pack, uint64_t end)
{
	uint64_t have, want = (end + PACKS_STEP - 1) / PACKS_STEP * PACKS_STEP;
	int err = 0;

	pthread_mutex_lock(&pack->lock);
	have = atomic_load(&pack->allocated);
	if (want > have) {
		err = packs_refresh_space(packs);
		if (err == 0)
			err = pack_may_write(pack) ? drive_room(pack->drive, pack->for_job, want - have) :
						     -GRANARY_EOFFLINE;
		if (err == 0)
			err = fs_allocate(pack_file(pack), have, want - have);
		if (err == 0) {
			atomic_store(&pack->allocated, want);
			pack_charge(pack, want);
		}
	}
	pthread_mutex_unlock(&pack->lock);
	return err;
}

/* ---- removing ---- */

static int rows_delete(struct packs *packs, const struct pack *pack)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(packs->o.kv);
	int err;

	if (txn == NULL)
		return -GRANARY_ENOMEM;
	kv_delete(txn, row_pack(key, pack->id));
	if (pack->void_store != 0)
		kv_delete(txn, row_copy(key, pack->void_store, pack->id));
	if (pack->drive != NULL)
		kv_delete(txn, row_copy(key, drive_id(pack->drive), pack->id));
	err = packs_txn_drop_cold(packs, txn, pack);
	if (err == 0)
		err = kv_submit_wait(packs->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

static int file_remove(struct pack *pack)
{
	char path[PACK_PATH_SIZE], dir[16];
	struct fs *fs = drive_take(pack->drive);
	int err;

	if (fs == NULL)
		return -GRANARY_EOFFLINE;
	snprintf(dir, sizeof(dir), "packs/%02x", (unsigned)(pack->id & 0xff));
	pack_path(pack, path);
	err = fs_unlink(fs, path);
	if (err == 0 || err == -GRANARY_ENOTFOUND)
		err = fs_sync_dir(fs, dir);
	drive_give(pack->drive);
	return err == -GRANARY_ENOTFOUND ? 0 : err;
}

static int remove_pack(struct packs *packs, struct pack *pack)
{
	int err = 0;

	assert(atomic_load(&pack->state) == PACK_DYING);
	if (pack_pins(pack) > 0)
		return -GRANARY_EBUSY;
	if (!pack_may_write(pack))
		return -GRANARY_EOFFLINE; /* the name is still there: when the drive is back */
	if (pack_is_hot(pack))
		err = file_remove(pack);
	if (err == 0)
		err = rows_delete(packs, pack);
	if (err < 0)
		return err;
	packs_make_gone(packs, pack);
	return 0;
}

int packs_remove(struct packs *packs, struct pack *pack)
{
	int err;

	if (!packs_change_begin(packs))
		return -GRANARY_EBUSY;
	pthread_mutex_lock(&packs->copies_lock);
	err = pack_is_of_table(packs, pack) ? remove_pack(packs, pack) : -GRANARY_EBUSY;
	pthread_mutex_unlock(&packs->copies_lock);
	packs_change_end(packs);
	return err;
}

/* ---- scanning names ---- */

struct names_scan {
	struct packs *packs; /* sweep only */
	struct drive *drive;
	struct fs *fs;
	char dir[16];
	uint32_t incarnation, max, count;
	bool dry;
};

/* Calls each(scan, name) for every file in packs/XX of one drive; 1 from it means enough. */
static int drive_scan(struct names_scan *scan, int (*each)(void *arg, const char *name))
{
	for (unsigned i = 0; i < 256; i++) {
		int err;

		snprintf(scan->dir, sizeof(scan->dir), "packs/%02x", i);
		err = fs_list(scan->fs, scan->dir, each, scan);
		if (err > 0)
			return 1;
		if (err < 0 && err != -GRANARY_ENOTFOUND)
			return err;
	}
	return 0;
}

struct files_walk {
	int (*each)(void *arg, const char *dir, const char *name, uint64_t id);
	void *arg;
	char dir[16];
};

static int walk_each(void *arg, const char *name)
{
	const struct files_walk *w = arg;
	uint64_t id, attempt;

	return pack_name_parse(name, &id, &attempt) ? w->each(w->arg, w->dir, name, id) : 0;
}

int packs_each_file(struct fs *fs, int (*each)(void *arg, const char *dir, const char *name, uint64_t id), void *arg)
{
	struct files_walk w = { .each = each, .arg = arg };
	int res = 0;

	for (unsigned i = 0; res == 0 && i < 256; i++) {
		snprintf(w.dir, sizeof(w.dir), "packs/%02x", i);
		res = fs_list(fs, w.dir, walk_each, &w);
		if (res == -GRANARY_ENOTFOUND && fs_exists(fs, w.dir) == 0)
			res = 0;
	}
	return res;
}

/* Of all drives that can be read. */
static int names_scan(struct drives *drives, struct names_scan *scan, int (*each)(void *arg, const char *name))
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < drives_count(drives); i++) {
		scan->drive = drives_at(drives, i);
		scan->fs = drive_take(scan->drive);
		if (scan->fs == NULL)
			continue;
		err = drive_scan(scan, each);
		drive_give(scan->drive);
		if (err < 0 && drive_id(scan->drive) != DRIVE_DATA) {
			(void)drive_probe(scan->drive, true);
			err = drive_health(scan->drive) == DRIVE_OFFLINE ? 0 : err;
		}
	}
	return err < 0 ? err : 0;
}

static int highest_each(void *arg, const char *name)
{
	struct names_scan *scan = arg;
	uint64_t id, attempt;

	if (!pack_name_parse(name, &id, &attempt))
		return 0;
	if (id_incarnation(id) > scan->incarnation)
		scan->incarnation = id_incarnation(id);
	if (id_incarnation(attempt) > scan->incarnation)
		scan->incarnation = id_incarnation(attempt);
	return 0;
}

int packs_highest_incarnation(struct drives *drives, uint32_t *out)
{
	struct names_scan scan = { .incarnation = drives_highest_incarnation(drives) };
	int err = names_scan(drives, &scan, highest_each);

	*out = scan.incarnation;
	return err;
}

int packs_incarnation_in(struct fs *fs, uint32_t *out)
{
	struct names_scan scan = { .fs = fs };
	int err = drive_scan(&scan, highest_each);

	*out = scan.incarnation;
	return err < 0 ? err : 0;
}

static int sweep_each(void *arg, const char *name)
{
	struct names_scan *scan = arg;
	uint64_t id, attempt;
	char path[PACK_PATH_SIZE + 8];
	int named;

	if (!pack_name_parse(name, &id, &attempt) ||
	    id_incarnation(attempt) >= ids_incarnation(scan->packs->o.ids) || !drive_may_write(scan->drive))
		return 0;
	named = packs_names_still(scan->packs, drive_id(scan->drive), id, slice_str(name)); /* an error counts as yes */
	if (named != 0)
		return named < 0 ? named : 0;
	snprintf(path, sizeof(path), "%s/%s", scan->dir, name);
	if (!scan->dry) {
		int err = fs_unlink(scan->fs, path);

		if (err < 0)
			return err;
		log_info("removed a pack file that no row names; name=%s", name);
	}
	return ++scan->count >= scan->max ? 1 : 0;
}

int packs_sweep_orphans(struct packs *packs, uint32_t max, bool dry)
{
	struct names_scan scan = { .packs = packs, .max = max, .dry = dry };
	int err = max == 0 ? 0 : names_scan(packs->o.drives, &scan, sweep_each);

	return err < 0 ? err : (int)scan.count;
}
