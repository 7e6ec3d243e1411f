/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c -- reads of a cold copy: one ranged get for what is wanted, decoded on a thread of the store.
 * Invariants: (1) until its deadline a read's buffer is written only by who claimed the job (stores_jobs.c);
 * the store writes into memory of the job alone; (2) the index on flash is a cache: damaged, foreign or
 * missing, it is made anew from the copy; (3) indexes in memory stay within their budget, the least recently
 * used go; one that is in use lives on; (4) what is kept of reads on flash (tier/kept.h) are frames as they stand in
 * the copy, of a raw copy blocks of RAW_BLOCK bytes: an address is the same wherever its bytes come from. Jobs, and who
 * found a wrong checksum, read the store itself. */
#include "tier/copy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/log.h"
#include "io/fs.h"
#include "io/fs_ops.h"
#include "tier/frames.h"
#include "tier/stores_priv.h"

enum { END_GUESS = 1024 * 1024, INDEX_PATH_MAX = COPY_NAME_MAX + 24, LINKED_PIECE_TIMES = 6,
	RAW_BLOCK = 64 * 1024 };

struct copy {
	_Atomic uint32_t refs;
	struct copy_info info;
	struct list node;      /* in stores->frames while `frames` is set; both under frames_lock */
	struct frames *frames;
	_Atomic uint32_t reads; /* since it was last asked for */
	uint64_t seed;          /* of the keys of its pieces: a hash of its name, which is used once */
};

/* ---- names ---- */

void copy_path(uint64_t pack_id, const char *name, char out[COPY_PATH_MAX])
{
	snprintf(out, COPY_PATH_MAX, "packs/%02x/%s", (unsigned)(pack_id & 0xff), name);
}

void copy_name(uint64_t pack_id, uint64_t attempt, char out[COPY_NAME_MAX])
{
	snprintf(out, COPY_NAME_MAX, "%016" PRIx64 "-%016" PRIx64 ".cold", pack_id, attempt);
}

bool copy_name_parse(const char *name, uint64_t *pack_id, uint64_t *attempt)
{
	char *end, again[COPY_NAME_MAX];

	if (strlen(name) != 16 + 1 + 16 + 5) return false;
	*pack_id = strtoull(name, &end, 16);
	*attempt = strtoull(name + 17, &end, 16);
	copy_name(*pack_id, *attempt, again);
	return strcmp(name, again) == 0;
}

static void index_path(const struct copy *c, char out[INDEX_PATH_MAX])
{
	snprintf(out, INDEX_PATH_MAX, "frames/%02x/%.*s.idx", (unsigned)(c->info.pack_id & 0xff), COPY_NAME_MAX - 1,
		c->info.name);
}

/* ---- the object ---- */

struct copy *copy_new(const struct copy_info *info)
{
	struct copy *c = calloc(1, sizeof(*c));

	if (c == NULL) return NULL;
	atomic_init(&c->refs, 1);
	c->info = *info;
	c->seed = hash_content(info->name, strlen(info->name)).lo;
	list_init(&c->node);
	return c;
}

struct copy *copy_ref(struct copy *c)
{
	atomic_fetch_add(&c->refs, 1);
	return c;
}

static void frames_let_go(struct stores *stores, struct copy *c)
{
	if (c->frames == NULL) return;
	stores->frames_bytes -= frames_weight(c->frames);
	list_remove(&c->node);
	frames_unref(&c->frames);
}

void copy_unref(struct copy **cp)
{
	struct copy *c = *cp;
	struct stores *stores;

	*cp = NULL;
	if (c == NULL || atomic_fetch_sub(&c->refs, 1) > 1) return;
	stores = c->info.place->stores;
	pthread_mutex_lock(&stores->frames_lock);
	frames_let_go(stores, c);
	pthread_mutex_unlock(&stores->frames_lock);
	free(c);
}

const struct copy_info *copy_info(const struct copy *c)
{
	return &c->info;
}

void copy_come_instead(struct copy *c, const char *hot)
{
	snprintf(c->info.instead, sizeof(c->info.instead), "%s", hot);
}

/* ---- the index ---- */

static void frames_keep(struct copy *c, struct frames *f)
{
	struct stores *stores = c->info.place->stores;

	pthread_mutex_lock(&stores->frames_lock);
	if (c->frames == NULL) {
		c->frames = frames_ref(f);
		list_push(&stores->frames, &c->node);
		stores->frames_bytes += frames_weight(f);
	}
	while (stores->frames_bytes > stores->o.frames_budget && stores->frames.next != &c->node)
		frames_let_go(stores, container_of(stores->frames.next, struct copy, node));
	pthread_mutex_unlock(&stores->frames_lock);
}

static struct frames *frames_in_memory(struct copy *c)
{
	struct stores *stores = c->info.place->stores;
	struct frames *f = NULL;

	pthread_mutex_lock(&stores->frames_lock);
	if (c->frames != NULL) {
		f = frames_ref(c->frames);
		list_remove(&c->node);
		list_push(&stores->frames, &c->node);
	}
	pthread_mutex_unlock(&stores->frames_lock);
	return f;
}

/* Is it the index of this very copy? */
static bool is_mine(const struct copy *c, const struct frames *f)
{
	const struct frames_info *i = frames_info(f);
	uint64_t pack_id, attempt;

	return copy_name_parse(c->info.name, &pack_id, &attempt) && i->pack_id == pack_id && i->attempt == attempt &&
	       i->pack_id == c->info.pack_id && frames_file_len(f) == c->info.length &&
	       (c->info.raw_len == 0 || i->raw_len == c->info.raw_len);
}

static struct frames *frames_on_flash(const struct copy *c)
{
	char path[INDEX_PATH_MAX];
	struct frames *f = NULL;
	struct fs_file *file;
	uint8_t *buf = NULL;
	int64_t size = 0;

	index_path(c, path);
	if (fs_open(c->info.place->stores->o.fs, path, FS_READ, &file) < 0) return NULL;
	size = fs_size(file);
	if (size > 0 && size <= INT32_MAX) buf = malloc((size_t)size);
	if (buf != NULL && fs_read(file, buf, (size_t)size, 0) == size) (void)frames_index_parse(buf, (size_t)size,
		&f);
	fs_close(&file);
	free(buf);
	if (f != NULL && !is_mine(c, f)) frames_unref(&f);
	if (f == NULL) log_warn("the index of a cold copy is damaged, it is made anew; name=%s", c->info.name);
	return f;
}

static int index_dir_make(struct stores *stores, uint8_t low)
{
	char path[16];
	int err;

	if (stores->frames_dirs[low]) return 0;
	err = fs_mkdir(stores->o.fs, "frames");
	if (err < 0 && err != -GRANARY_EEXIST) return err;
	snprintf(path, sizeof(path), "frames/%02x", low);
	err = fs_mkdir(stores->o.fs, path);
	if (err < 0 && err != -GRANARY_EEXIST) return err;
	stores->frames_dirs[low] = true;
	return 0;
}

void copy_frames_put(struct copy *c, struct frames *f)
{
	struct stores *stores = c->info.place->stores;
	char path[INDEX_PATH_MAX];
	uint8_t *buf;
	size_t len;
	int err = frames_index_encode(f, &buf, &len);

	frames_keep(c, f);
	index_path(c, path);
	if (err == 0) err = index_dir_make(stores, (uint8_t)c->info.pack_id);
	if (err == 0) err = fs_put_file(stores->o.fs, path, buf, len);
	if (err < 0) log_warn("cannot keep the index of a cold copy: %s; name=%s", error_text(err), c->info.name);
	free(buf);
}

bool copy_is_linked(const struct copy *c)
{
	return c != NULL && c->info.codec == CODEC_LINKED;
}

int copy_finish_file(struct copy *c, struct fs_file *file, uint64_t size, bool lost)
{
	const struct stores_linked *l = &c->info.place->stores->linked;

	return l->finish != NULL ? l->finish(l->arg, c->info.pack_id, file, size, lost) : -GRANARY_EUNSUPPORTED;
}

void copy_forget(struct copy *c)
{
	char path[INDEX_PATH_MAX];

	index_path(c, path);
	(void)fs_unlink(c->info.place->stores->o.fs, path);
}

/* Exactly len bytes. */
static int get_exactly(const struct copy *c, uint8_t *buf, size_t len, uint64_t offset, uint64_t deadline_ns)
{
	char path[COPY_PATH_MAX];
	int64_t n;

	copy_path(c->info.pack_id, c->info.name, path);
	n = place_get(c->info.place, path, buf, len, offset, deadline_ns);
	return n < 0 ? (int)n : (size_t)n == len ? 0 : -GRANARY_ECORRUPT;
}

static int end_get(const struct copy *c, uint64_t len, uint64_t deadline_ns, uint64_t *need, struct frames **out)
{
	uint8_t *buf = malloc((size_t)len);
	int err = buf != NULL ? get_exactly(c, buf, (size_t)len, c->info.length - len, deadline_ns) : -GRANARY_ENOMEM;

	if (err == 0) err = frames_parse(buf, (size_t)len, c->info.length, need, out);
	free(buf);
	return err;
}

static int frames_from_store(const struct copy *c, uint64_t deadline_ns, struct frames **out)
{
	uint64_t len = c->info.length < END_GUESS ? c->info.length : END_GUESS, need;
	uint8_t *head;
	int err = end_get(c, len, deadline_ns, &need, out);

	if (err == -GRANARY_ETOOBIG && need > len && need <= c->info.length) err = end_get(c, need, deadline_ns,
		&need, out);
	if (err < 0) return err;
	head = malloc(frames_head_len(*out));
	err = head != NULL ? get_exactly(c, head, frames_head_len(*out), 0, deadline_ns) : -GRANARY_ENOMEM;
	if (err == 0) err = frames_take_head(*out, head, frames_head_len(*out));
	if (err == 0 && !is_mine(c, *out)) err = -GRANARY_ECORRUPT;
	free(head);
	if (err < 0) frames_unref(out);
	return err;
}

int copy_frames(struct copy *c, uint64_t deadline_ns, struct frames **out)
{
	int err;

	*out = NULL;
	if (c->info.codec != CODEC_ZSTD) return 0;
	*out = frames_in_memory(c);
	if (*out != NULL) return 0;
	*out = frames_on_flash(c);
	if (*out != NULL) {
		frames_keep(c, *out);
		return 0;
	}
	err = frames_from_store(c, deadline_ns, out);
	if (err == 0) copy_frames_put(c, *out);
	return err;
}

/* ---- reads ---- */

struct reading {
	struct place_job job;
	struct copy *copy;
	struct copy_read *read; /* touched by finish and fail alone */
	uint64_t at;
	size_t len;             /* clamped to the pack's end once that is known */
	bool exact;             /* of a linked copy: headers of records, too */
	bool may_lose;
	uint64_t lost;
	struct frames *frames;
	bool fresh;             /* nothing that was kept */
	struct kept *kept;      /* NULL: not of this read */
	uint8_t *stored;        /* of the copy, from `from` on; what is wanted of a raw one from `skip` on */
	uint64_t from;
	size_t stored_len, skip;
};

static int linked_fetch(struct reading *r)
{
	const struct stores_linked *l = &r->copy->info.place->stores->linked;

	r->stored = calloc(1, r->len);
	if (r->stored == NULL) return -GRANARY_ENOMEM;
	return l->read != NULL ? l->read(l->arg, &r->copy->info, r->stored, r->len, r->at, r->exact,
		r->may_lose ? &r->lost : NULL, r->job.deadline_ns) : -GRANARY_EUNSUPPORTED;
}

/* What of the copy has the bytes: frames; of a raw one blocks, where blocks are kept. */
static int reading_place(struct reading *r)
{
	uint64_t end = (r->at + r->len + RAW_BLOCK - 1) / RAW_BLOCK * RAW_BLOCK;

	r->from = r->at;
	r->stored_len = r->len;
	if (r->frames != NULL) return frames_range(r->frames, r->at, r->len, &r->from, &r->stored_len);
	if (r->kept == NULL) return 0;
	if (end > r->copy->info.length) end = r->copy->info.length;
	r->from = r->at / RAW_BLOCK * RAW_BLOCK;
	r->stored_len = (size_t)(end - r->from);
	r->skip = (size_t)(r->at - r->from);
	return 0;
}

/* A piece of the copy into or out of its place in `stored`. */
typedef bool piece_fn(struct reading *r, uint64_t key, uint8_t *p, size_t len);

static bool piece_take(struct reading *r, uint64_t key, uint8_t *p, size_t len)
{
	return kept_get(r->kept, key, p, len);
}

static bool piece_keep(struct reading *r, uint64_t key, uint8_t *p, size_t len)
{
	if (r->fresh) kept_forget(r->kept, key);
	if (kept_wants(r->kept, key, r->copy->info.place->promote_after)) kept_put(r->kept, key, p, len);
	return true;
}

/* All pieces of `stored`, until one says no. */
static bool kept_each(struct reading *r, piece_fn *each)
{
	uint32_t i = r->frames != NULL ? frames_first(r->frames, r->at) : (uint32_t)(r->from / RAW_BLOCK);

	for (size_t at = 0; at < r->stored_len; i++) {
		uint64_t from;
		uint32_t len = RAW_BLOCK;

		if (r->frames != NULL) frames_piece(r->frames, i, &from, &len);
		if (len > r->stored_len - at) len = (uint32_t)(r->stored_len - at); /* the last block */
		if (!each(r, hash_u64(r->copy->seed + i), r->stored + at, len)) return false;
		at += len;
	}
	return true;
}

static int reading_fetch(struct place_job *job)
{
	struct reading *r = (struct reading *)job;
	uint64_t raw_len;
	int err = copy_frames(r->copy, job->deadline_ns, &r->frames);

	if (err < 0) return err;
	raw_len = r->frames != NULL ? frames_info(r->frames)->raw_len : r->copy->info.length;
	if (r->at >= raw_len) r->len = 0;
	if (r->len > 0 && r->len > raw_len - r->at) r->len = (size_t)(raw_len - r->at);
	if (r->len == 0) return 0;
	if (copy_is_linked(r->copy)) return linked_fetch(r);
	err = reading_place(r);
	if (err < 0) return err;
	r->stored = malloc(r->stored_len);
	if (r->stored == NULL) return -GRANARY_ENOMEM;
	if (r->kept != NULL && !r->fresh && kept_each(r, piece_take)) return 0;
	err = get_exactly(r->copy, r->stored, r->stored_len, r->from, job->deadline_ns);
	if (err == 0 && r->kept != NULL) (void)kept_each(r, piece_keep);
	return err;
}

static void reading_finish(struct place_job *job, int err)
{
	struct reading *r = (struct reading *)job;

	if (err == 0 && r->frames != NULL && r->len > 0) {
		err = frames_decode(r->frames, r->stored, r->stored_len, r->at, r->len, r->read->buf);
		if (err == -GRANARY_ECORRUPT)
			log_error("a cold copy is damaged; store=%s name=%s offset=%" PRIu64 " bytes=%zu",
				place_name(r->copy->info.place), r->copy->info.name, r->at, r->len);
	} else if (err == 0 && r->len > 0) {
		memcpy(r->read->buf, r->stored + r->skip, r->len);
	}
	r->read->lost = r->lost;
	r->read->res = err < 0 ? err : (int64_t)r->len;
	r->read->done(r->read);
}

static void reading_fail(struct place_job *job, int err)
{
	struct reading *r = (struct reading *)job;

	r->read->res = err;
	r->read->done(r->read);
}

static void reading_free(struct place_job *job)
{
	struct reading *r = (struct reading *)job;

	free(r->stored);
	frames_unref(&r->frames);
	copy_unref(&r->copy);
	free(r);
}

/* Often enough that the whole pack had better come up? */
static void read_count(struct copy *c)
{
	struct place *p = c->info.place;

	if (p->promote != PROMOTE_PACK || atomic_fetch_add(&c->reads, 1) + 1 < p->promote_after) return;
	atomic_store(&c->reads, 0);
	stores_want(p->stores, c->info.pack_id);
}

static void reading_start(struct copy *c, struct copy_read *read, bool exact)
{
	struct reading *r = calloc(1, sizeof(*r));
	uint64_t timeout_ns = c->info.place->read_timeout_ns;

	if (r == NULL) {
		read->res = -GRANARY_ENOMEM;
		read->done(read);
		return;
	}
	r->job = (struct place_job){ .fetch = reading_fetch, .finish = reading_finish, .fail = reading_fail,
		.free = reading_free };
	/* A piece of a linked pack is a request for each of its objects. */
	if (exact && copy_is_linked(c)) timeout_ns *= LINKED_PIECE_TIMES;
	r->job.deadline_ns = clock_mono_ns() + timeout_ns;
	r->exact = exact;
	r->may_lose = read->may_lose;
	r->fresh = read->fresh;
	if (!exact && !copy_is_linked(c)) r->kept = c->info.place->kept;
	r->job.local = r->kept != NULL;
	r->copy = copy_ref(c);
	r->read = read;
	r->at = read->at;
	r->len = read->len;
	place_start(c->info.place, &r->job);
}

void copy_read_part(struct copy *c, struct copy_read *read)
{
	reading_start(c, read, true);
}

void copy_read_start(struct copy *c, struct copy_read *read)
{
	read_count(c);
	reading_start(c, read, false);
}

/* ---- as a file ---- */

struct copy_file {
	struct fs_file base;
	struct copy *copy;
};

struct waiting {
	struct copy_read read;
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool is_done;
};

static void wake(struct copy_read *read)
{
	struct waiting *w = container_of(read, struct waiting, read);

	pthread_mutex_lock(&w->lock);
	w->is_done = true;
	pthread_cond_signal(&w->done);
	pthread_mutex_unlock(&w->lock);
}

static int64_t file_read(struct fs_file *f, void *buf, size_t len, uint64_t offset)
{
	struct waiting w = { .read = { .buf = buf, .len = len, .at = offset, .done = wake } };

	pthread_mutex_init(&w.lock, NULL);
	pthread_cond_init(&w.done, NULL);
	copy_read_part(((struct copy_file *)f)->copy, &w.read);
	pthread_mutex_lock(&w.lock);
	while (!w.is_done) pthread_cond_wait(&w.done, &w.lock);
	pthread_mutex_unlock(&w.lock);
	pthread_cond_destroy(&w.done);
	pthread_mutex_destroy(&w.lock);
	return w.read.res;
}

static void file_close(struct fs_file *f)
{
	copy_unref(&((struct copy_file *)f)->copy);
	free(f);
}

static int file_write(struct fs_file *f, const void *buf, size_t len, uint64_t offset)
{
	(void)f, (void)buf, (void)len, (void)offset;
	return -GRANARY_EREADONLY;
}

static int file_sync(struct fs_file *f, bool data_only)
{
	(void)f, (void)data_only;
	return -GRANARY_EREADONLY;
}

static int file_allocate(struct fs_file *f, uint64_t offset, uint64_t len)
{
	(void)f, (void)offset, (void)len;
	return -GRANARY_EREADONLY;
}

static int file_truncate(struct fs_file *f, uint64_t size)
{
	(void)f, (void)size;
	return -GRANARY_EREADONLY;
}

static int64_t file_size(struct fs_file *f)
{
	return (int64_t)((struct copy_file *)f)->copy->info.raw_len;
}

static uint64_t file_identity(struct fs_file *f)
{
	(void)f;
	return 0;
}

static const struct fs_ops copy_ops = {
	.close = file_close,
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.allocate = file_allocate,
	.truncate = file_truncate,
	.size = file_size,
	.identity = file_identity,
};

int copy_open_file(struct copy *c, struct fs_file **out)
{
	struct copy_file *f = calloc(1, sizeof(*f));

	*out = NULL;
	if (f == NULL) return -GRANARY_ENOMEM;
	f->base = (struct fs_file){ .ops = &copy_ops, .fd = -1, .align = 1 };
	f->copy = copy_ref(c);
	*out = &f->base;
	return 0;
}

struct copy *copy_of_file(const struct fs_file *file)
{
	return file != NULL && file->ops == &copy_ops ? ((const struct copy_file *)file)->copy : NULL;
}

bool copy_file_is_linked(const struct fs_file *file)
{
	return copy_is_linked(copy_of_file(file));
}
