/* SPDX-License-Identifier: Apache-2.0 */
/* write.c -- `oracle write`: workers that change and read their own names, each answer compared with the model's. */
#include "oracle.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/hash.h"

enum { READ_COUNT = 12, PEEK_COUNT = 6, PAUSE_MS = 20 };

struct worker {
	const struct oracle_options *o;
	struct granary_client *client;
	struct model model;
	struct rng rng;
	struct op op;
	uint32_t id;
	uint64_t number;
	uint8_t *buf; /* LARGE_MAX */
	size_t leave; /* names; with --leave-percent */
	bool is_unsure, is_drained;
	const struct granary_call *call; /* of the operation at hand; with --unstable-percent */
	pthread_t thread;
};

static atomic_bool is_stopping;
static atomic_uint_fast64_t ops_done, entries_done, ended, refused, unsure, bytes_written,
	reads_done;

static void on_signal(int number)
{
	(void)number;
	atomic_store(&is_stopping, true);
}

static uint32_t below(struct worker *w, uint64_t n)
{
	return (uint32_t)rng_below(&w->rng, n);
}

/* ---- names ---- */

static void pick_dir(struct worker *w, uint32_t owner, char *out)
{
	uint32_t shape = below(w, 8);

	if (shape == 0)
		snprintf(out, 48, "w%02u/", owner);
	else if (shape < 6)
		snprintf(out, 48, "w%02u/d%u/", owner, below(w, DIRS_COUNT));
	else
		snprintf(out, 48, "w%02u/d%u/s%u/", owner, below(w, DIRS_COUNT),
			below(w, SUBDIRS_COUNT));
}

static void pick_file(struct worker *w, uint32_t owner, char *out)
{
	char dir[48];
	uint32_t n = below(w, w->o->files);

	pick_dir(w, owner, dir);
	snprintf(out, ORACLE_PATH_MAX, "%s%s%u", dir, n % 7 == 3 ? "k\xc3\xbc" : "k", n);
}

/* A directory of this worker, never its root. */
static void pick_subdir(struct worker *w, char *out)
{
	do pick_dir(w, w->id, out);
	while (strlen(out) < 5);
}

static uint64_t pick_size(struct worker *w)
{
	uint64_t size;

	switch (below(w, 16)) {
	case 0: size = 0; break;
	case 1:
	case 2:
	case 3:
	case 4: size = below(w, 300); break;
	case 5:
	case 6:
	case 7:
	case 8:
	case 9: size = below(w, 9000); break;
	case 10:
	case 11:
	case 12:
	case 13: size = below(w, 70000); break;
	case 14: size = 65536ull * (1 + below(w, 3)) + below(w, 3) - 1; break;
	default: size = below(w, SMALL_MAX);
	}
	return size < w->o->size_max ? size : w->o->size_max;
}

static struct op_entry *op_add(struct worker *w, const char *path)
{
	struct op_entry *e = &w->op.entries[w->op.count];

	memset(e, 0, sizeof(*e));
	snprintf(e->path, sizeof(e->path), "%s", path);
	e->seed = hash_u64(w->o->seed * 0x9e3779b97f4a7c15ull ^ (uint64_t)w->id << 48 ^
			   w->number << 8 ^ w->op.count);
	e->status = STATUS_NONE;
	w->op.count++;
	return e;
}

static bool op_has(const struct op *op, const char *path)
{
	for (uint32_t i = 0; i < op->count; i++)
		if (strcmp(op->entries[i].path, path) == 0) return true;
	return false;
}

/* ---- making operations: names, content, and the answers that must come ---- */

static uint64_t add_put(struct worker *w, const char *path, uint64_t size)
{
	struct op_entry *e = op_add(w, path);
	const struct item *item = model_find(&w->model, path);

	e->size = size;
	switch (below(w, 10)) {
	case 0:
		e->flags = GRANARY_PUT_IF_ABSENT;
		e->expected = item != NULL ? -GRANARY_EPRECONDITION : 0;
		break;
	case 1:
		e->flags = GRANARY_PUT_IF_VERSION;
		e->version =
			item != NULL && item->version != 0 && below(w, 4) > 0 ? item->version : 1;
		e->expected = e->version == 1 ? -GRANARY_EPRECONDITION : 0;
		break;
	default: break;
	}
	return size;
}

static void make_put(struct worker *w)
{
	char path[ORACLE_PATH_MAX];
	bool is_large = below(w, 1000) < w->o->large_per_mille;

	pick_file(w, w->id, path);
	w->op.kind = OP_PUT;
	add_put(w, path,
		is_large ? (4u << 20) - 5 + below(w, LARGE_MAX - (4u << 20)) : pick_size(w));
}

static void make_upload(struct worker *w)
{
	char path[ORACLE_PATH_MAX];
	bool is_large = below(w, 1000) < 10 * w->o->large_per_mille;

	pick_file(w, w->id, path);
	w->op.kind = OP_UPLOAD;
	add_put(w, path,
		is_large ? (4u << 20) + 1 + below(w, LARGE_MAX - (4u << 20) - 1) : pick_size(w));
}

static void make_batch(struct worker *w, enum op_kind kind)
{
	uint32_t count = 2 + below(w, below(w, 4) == 0 ? ENTRIES_MAX - 2 : 10);
	uint64_t size = 0;

	w->op.kind = kind;
	for (uint32_t i = 0; i < count && size + SMALL_MAX <= LARGE_MAX; i++) {
		char path[ORACLE_PATH_MAX];
		pick_file(w, w->id, path);
		if (op_has(&w->op, path)) continue;
		if (kind == OP_BATCH_PUT)
			size += add_put(w, path, pick_size(w));
		else
			op_add(w, path)->expected =
				model_find(&w->model, path) != NULL ? 0 : -GRANARY_ENOTFOUND;
	}
}

static void make_delete(struct worker *w)
{
	char path[ORACLE_PATH_MAX];

	pick_file(w, w->id, path);
	w->op.kind = OP_DELETE;
	op_add(w, path)->expected = model_find(&w->model, path) != NULL ? 0 : -GRANARY_ENOTFOUND;
}

static void make_rename_file(struct worker *w)
{
	char from[ORACLE_PATH_MAX], to[ORACLE_PATH_MAX];
	struct op_entry *e;

	pick_file(w, w->id, from);
	pick_file(w, w->id, to);
	w->op.kind = OP_RENAME;
	e = op_add(w, from);
	if (below(w, 4) == 0) e->flags = GRANARY_RENAME_NO_REPLACE;
	if (model_find(&w->model, from) == NULL)
		e->expected = -GRANARY_ENOTFOUND;
	else if (e->flags != 0 && model_find(&w->model, to) != NULL)
		e->expected = -GRANARY_EEXIST;
	op_add(w, to);
}

/* Two names change places: two files, or two directories of one depth. */
static bool make_exchange(struct worker *w)
{
	char names[2][ORACLE_PATH_MAX];
	bool is_dir = below(w, 3) == 0, are_there = true;

	w->op.kind = OP_EXCHANGE;
	for (int i = 0; i < 2; i++) {
		if (is_dir)
			pick_subdir(w, names[i]);
		else
			pick_file(w, w->id, names[i]);
		are_there = are_there && (is_dir ? model_dir_exists(&w->model, names[i])
						 : model_find(&w->model, names[i]) != NULL);
		op_add(w, names[i])->flags = GRANARY_RENAME_EXCHANGE;
	}
	if (!are_there) w->op.entries[0].expected = -GRANARY_ENOTFOUND;
	return strcmp(names[0], names[1]) != 0 && (!is_dir || strlen(names[0]) == strlen(names[1]));
}

/* To a name that is free; what stands below goes with it. */
static bool make_rename_dir(struct worker *w)
{
	char from[ORACLE_PATH_MAX], to[ORACLE_PATH_MAX];
	struct op_entry *e;

	pick_subdir(w, from);
	pick_subdir(w, to);
	if (strcmp(from, to) == 0 || model_dir_exists(&w->model, to)) return false;
	if (strncmp(from, to, strlen(from)) == 0 && below(w, 4) > 0) return false;
	/* d0/ goes to d1/, taking d0/s0/ along; it must not become d1/s0/s0/: depth stays bounded. */
	if (strlen(to) > strlen(from) && strncmp(from, to, strlen(from)) != 0) return false;
	w->op.kind = OP_RENAME;
	e = op_add(w, from);
	if (!model_dir_exists(&w->model, from))
		e->expected = -GRANARY_ENOTFOUND;
	else if (strncmp(from, to, strlen(from)) == 0)
		e->expected = -GRANARY_ELOOP;
	op_add(w, to);
	return true;
}

static bool make_mkdir(struct worker *w)
{
	char path[ORACLE_PATH_MAX];
	struct op_entry *e;

	pick_subdir(w, path);
	w->op.kind = OP_MKDIR;
	if (model_dir_exists(&w->model, path) && model_find(&w->model, path) == NULL)
		return false; /* implicit: not judged here */
	e = op_add(w, path);
	if (model_find(&w->model, path) != NULL) {
		e->expected = -GRANARY_EEXIST;
	} else {
		char above[ORACLE_PATH_MAX];
		snprintf(above, sizeof(above), "%s", path);
		above[strlen(above) - 3] = '\0'; /* "d0/" or "s0/" */
		if (!model_dir_exists(&w->model, above)) e->expected = -GRANARY_ENOTFOUND;
	}
	return true;
}

static void make_rmdir(struct worker *w)
{
	char path[ORACLE_PATH_MAX];
	struct op_entry *e;

	pick_subdir(w, path);
	w->op.kind = OP_RMDIR;
	e = op_add(w, path);
	if (!model_dir_exists(&w->model, path))
		e->expected = -GRANARY_ENOTFOUND;
	else if (!model_dir_is_bare(&w->model, path))
		e->expected = -GRANARY_ENOTEMPTY;
}

/* Some of what is there, until w->leave names are left. */
static bool make_drain(struct worker *w)
{
	w->op.kind = OP_BATCH_DELETE;
	for (uint32_t tries = 0; tries < 4 * ENTRIES_MAX && w->op.count < ENTRIES_MAX; tries++) {
		const struct item *item = &w->model.items[below(w, w->model.count)];
		if (w->model.count - w->op.count <= w->leave) break;
		if (item->path[strlen(item->path) - 1] != '/' && !op_has(&w->op, item->path))
			op_add(w, item->path);
	}
	return w->op.count > 0;
}

static bool make_op(struct worker *w)
{
	uint32_t dice = below(w, 100);

	w->op.worker = w->id;
	w->op.number = w->number;
	w->op.count = 0;
	if (w->o->leave_percent < 100) {
		if (!make_drain(w)) w->is_drained = true;
		return !w->is_drained;
	}
	if (w->model.count == 0) { /* its root, once */
		char root[ORACLE_PATH_MAX];
		snprintf(root, sizeof(root), "w%02u/", w->id);
		w->op.kind = OP_MKDIR;
		op_add(w, root);
		return true;
	}
	if (dice >= 80 && w->o->no_renames) dice = below(w, 80);
	if (dice < 34)
		make_put(w);
	else if (dice < 54)
		make_batch(w, OP_BATCH_PUT);
	else if (dice < 58)
		make_upload(w);
	else if (dice < 70)
		make_delete(w);
	else if (dice < 76)
		make_batch(w, OP_BATCH_DELETE);
	else if (dice < 82)
		return make_mkdir(w);
	else if (dice < 86)
		make_rmdir(w);
	else if (dice < 89)
		return make_exchange(w);
	else if (dice < 94)
		make_rename_file(w);
	else
		return make_rename_dir(w);
	return true;
}

/* ---- running them ---- */

static struct granary_ref ref_of(const char *path, char *copy)
{
	size_t len = strlen(path);

	snprintf(copy, ORACLE_PATH_MAX, "%s", path);
	if (copy[len - 1] == '/') copy[len - 1] = '\0';
	return granary_ref_key(copy);
}

/* Also of a put that was repeated: its retry row knows what it replaced. */
static void judge_replaced(
	struct worker *w, const struct op_entry *e, const struct granary_put *put)
{
	const struct item *before = model_find(&w->model, e->path);

	if ((before == NULL) != (put->replaced_version == 0))
		log_violation("put of %s says it replaced version %" PRIx64 ", the name was %s",
			e->path, put->replaced_version, before ? "there" : "free");
	else if (before != NULL && before->version != 0 && before->version != put->replaced_version)
		log_violation("put of %s replaced version %" PRIx64 " instead of %" PRIx64, e->path,
			put->replaced_version, before->version);
	if (put->version <= put->replaced_version)
		log_violation("put of %s: version %" PRIx64 " is not above %" PRIx64, e->path,
			put->version, put->replaced_version);
}

static void run_puts(struct worker *w)
{
	struct granary_put puts[ENTRIES_MAX];
	uint64_t at = 0;
	int64_t n;

	memset(puts, 0, sizeof(puts));
	for (uint32_t i = 0; i < w->op.count; i++) {
		struct op_entry *e = &w->op.entries[i];
		content_fill(w->buf + at, e->seed, (size_t)e->size);
		puts[i] = (struct granary_put){ .ref = granary_ref_key(e->path),
			.data = e->size > 0 ? w->buf + at : NULL,
			.size = e->size,
			.flags = e->flags,
			.if_version = e->version,
			.status = STATUS_NONE };
		at += e->size;
	}
	n = granary_put_batch(w->client, puts, w->op.count, w->call);
	for (uint32_t i = 0; i < w->op.count; i++) {
		struct op_entry *e = &w->op.entries[i];
		e->status = puts[i].status != STATUS_NONE ? puts[i].status
			    : n < 0                       ? (int32_t)n
							  : STATUS_NONE;
		if (e->status != 0) continue;
		judge_replaced(w, e, &puts[i]);
		e->version = puts[i].version;
		atomic_fetch_add(&bytes_written, e->size);
	}
}

static void run_upload(struct worker *w)
{
	struct op_entry *e = &w->op.entries[0];
	struct granary_put put = {
		.ref = granary_ref_key(e->path), .flags = e->flags, .if_version = e->version
	};
	struct granary_upload *up = NULL;
	int err = granary_upload_new(w->client, &put, NULL, &up);

	content_fill(w->buf, e->seed, (size_t)e->size);
	for (uint64_t at = 0; err == 0 && at < e->size;) {
		uint64_t n = 1 + below(w, 3u << 20);
		n = n < e->size - at ? n : e->size - at;
		err = granary_upload_write(up, w->buf + at, (size_t)n);
		at += n;
	}
	/* Nothing is visible before the commit: until here a lost connection has changed nothing. */
	if (err < 0)
		e->status = -GRANARY_EBUSY;
	else
		e->status = granary_upload_commit(up, &put);
	if (e->status == 0) {
		e->version = put.version;
		atomic_fetch_add(&bytes_written, e->size);
	}
	granary_upload_free(&up);
}

static void run_deletes(struct worker *w)
{
	struct granary_delete deletes[ENTRIES_MAX];
	int64_t n;

	memset(deletes, 0, sizeof(deletes));
	for (uint32_t i = 0; i < w->op.count; i++) {
		deletes[i].ref = granary_ref_key(w->op.entries[i].path);
		deletes[i].status = STATUS_NONE;
	}
	n = granary_delete_batch(w->client, deletes, w->op.count, w->call);
	for (uint32_t i = 0; i < w->op.count; i++)
		w->op.entries[i].status = deletes[i].status != STATUS_NONE ? deletes[i].status
					  : n < 0                          ? (int32_t)n
									   : STATUS_NONE;
}

static void run_op(struct worker *w)
{
	char from[ORACLE_PATH_MAX], to[ORACLE_PATH_MAX];
	struct op_entry *e = w->op.entries;

	switch (w->op.kind) {
	case OP_PUT:
		if (e->flags == 0 && below(w, 2) == 0) {
			content_fill(w->buf, e->seed, (size_t)e->size);
			e->status = granary_put(w->client, e->path, w->buf, (size_t)e->size, w->call);
			atomic_fetch_add(&bytes_written, e->status == 0 ? e->size : 0);
			break;
		}
		run_puts(w);
		break;
	case OP_BATCH_PUT: run_puts(w); break;
	case OP_UPLOAD: run_upload(w); break;
	case OP_DELETE: e->status = granary_delete(w->client, e->path, w->call); break;
	case OP_BATCH_DELETE: run_deletes(w); break;
	case OP_RENAME:
	case OP_EXCHANGE:
		e->status = granary_rename(
			w->client, ref_of(e[0].path, from), ref_of(e[1].path, to), e->flags, w->call);
		e[1].status = e->status;
		break;
	case OP_MKDIR:
		e->status = granary_mkdir(w->client, ref_of(e->path, from), 0755, 0, NULL, w->call);
		break;
	case OP_RMDIR: e->status = granary_rmdir(w->client, ref_of(e->path, from), w->call); break;
	}
}

/* A change that is answered before it is durable counts as answered with the sync that follows it. What a sync says
 * was lost is said once, of all workers of the client: so syncs take turns, and after that all are unsure. */
static void run_op_unstable(struct worker *w)
{
	static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
	static bool is_lost;

	w->call = GRANARY_CALL(.flags = GRANARY_UNSTABLE);
	run_op(w);
	w->call = NULL;
	pthread_mutex_lock(&turn);
	is_lost |= granary_sync(w->client, NULL) < 0;
	bool is_mine = is_lost;
	pthread_mutex_unlock(&turn);
	for (uint32_t i = 0; is_mine && i < w->op.count; i++)
		if (w->op.entries[i].status == 0) w->op.entries[i].status = -GRANARY_ETIMEDOUT;
}

/* The seed decides the same operations with and without. */
static bool is_turn_unstable(const struct worker *w)
{
	return hash_u64((uint64_t)w->id << 48 ^ w->op.number) % 100 < w->o->unstable_percent;
}

/* The server could not, and has changed nothing. */
static bool is_refusal(int32_t status)
{
	switch (-status) {
	case GRANARY_ENOSPACE:
	case GRANARY_EBUSY:
	case GRANARY_ESHUTDOWN:
	case GRANARY_EUNREACHABLE:
	case GRANARY_ENOMEM:
	case GRANARY_ESTALE:
	case GRANARY_EQUOTA: return true;
	default: return false;
	}
}

static bool is_unsure(int32_t status)
{
	return status == -GRANARY_ETIMEDOUT || status == -GRANARY_ECLOSED ||
	       status == -GRANARY_ECANCELED;
}

static void pause_ms(uint32_t ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

static void judge_answer(struct worker *w)
{
	bool was_refused = false;

	for (uint32_t i = 0; i < (has_two_names(w->op.kind) ? 1 : w->op.count); i++) {
		const struct op_entry *e = &w->op.entries[i];
		was_refused |= is_refusal(e->status);
		w->is_unsure |= is_unsure(e->status);
		if (e->status != e->expected && !is_refusal(e->status) && !is_unsure(e->status))
			log_violation("worker %u operation %" PRIu64
				      " '%c' on %s%s%s: answer %d (%s), expected %d (%s)",
				w->id, w->op.number, w->op.kind, e->path,
				has_two_names(w->op.kind) ? " to " : "",
				has_two_names(w->op.kind) ? w->op.entries[1].path : "", e->status,
				granary_strerror(e->status), e->expected,
				granary_strerror(e->expected));
	}
	atomic_fetch_add(&unsure, w->is_unsure);
	atomic_fetch_add(&refused, was_refused);
	atomic_fetch_add(&ops_done, !w->is_unsure && !was_refused);
	atomic_fetch_add(&entries_done, w->is_unsure || was_refused ? 0 : w->op.count);
	if (was_refused) pause_ms(PAUSE_MS);
}

/* ---- reading ---- */

static bool is_outage(int status)
{
	return is_refusal(status) || is_unsure(status);
}

static void judge_read(struct worker *w, const struct granary_entry *e, bool is_own)
{
	const struct item *item = is_own ? model_find(&w->model, e->ref.name) : NULL;
	enum content content;

	if (is_outage(e->status)) return;
	if (e->status != 0) {
		if (e->status != -GRANARY_ENOTFOUND || item != NULL)
			log_violation("worker %u before operation %" PRIu64 ": read of %s: %s",
				w->id, w->number, e->ref.name, granary_strerror(e->status));
		return;
	}
	if (is_own && item == NULL) {
		log_violation("worker %u before operation %" PRIu64
			      ": read of %s found %zu bytes, it was deleted or never written",
			w->id, w->number, e->ref.name, e->data_len);
		return;
	}
	content = content_judge(
		e->data, e->data_len, item ? item->seed : 0, item ? item->size : UINT64_MAX);
	if (content == CONTENT_TORN || (is_own && content != CONTENT_RIGHT))
		log_violation("worker %u before operation %" PRIu64
			      ": read of %s found %s content of %zu bytes",
			w->id, w->number, e->ref.name, content == CONTENT_TORN ? "torn" : "other",
			e->data_len);
}

static void read_some(struct worker *w, bool is_own)
{
	struct granary_entry entries[READ_COUNT];
	char paths[READ_COUNT][ORACLE_PATH_MAX];
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	struct granary_op *op = NULL;
	uint32_t owner = is_own ? w->id : below(w, w->o->workers);
	int64_t n;

	if (owner == w->id) is_own = true;
	memset(entries, 0, sizeof(entries));
	batch.entries = entries;
	batch.count = is_own ? READ_COUNT : PEEK_COUNT;
	for (size_t i = 0; i < batch.count; i++) {
		const struct item *item =
			w->model.count == 0 ? NULL : &w->model.items[below(w, w->model.count)];
		if (is_own && item != NULL && item->path[strlen(item->path) - 1] != '/')
			snprintf(paths[i], ORACLE_PATH_MAX, "%s", item->path);
		else
			pick_file(w, owner, paths[i]);
		entries[i].ref = granary_ref_key(paths[i]);
	}
	n = granary_read_batch(w->client, &batch, NULL, &op);
	for (size_t i = 0; n >= 0 && i < batch.count; i++) judge_read(w, &entries[i], is_own);
	if (n < 0 && !is_outage((int)n))
		log_violation("worker %u: batch read: %s", w->id, granary_strerror((int)n));
	granary_op_free(&op);
	atomic_fetch_add(&reads_done, batch.count);
}

static void list_own(struct worker *w)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	const struct granary_list_entry *entry;
	struct granary_iter *iter = NULL;
	char prefix[16];
	size_t seen = 0;
	int more;

	snprintf(prefix, sizeof(prefix), "w%02u/", w->id);
	query.prefix = prefix;
	query.max = 1 + below(w, 64);
	more = granary_iter_open(w->client, &query, NULL, &iter);
	while (more >= 0 && (more = granary_iter_next(iter, &entry)) > 0) {
		const struct item *item = model_find(&w->model, entry->key);
		seen++;
		if (item == NULL)
			log_violation("worker %u before operation %" PRIu64
				      ": listing shows %s, which is not there",
				w->id, w->number, entry->key);
		else if (entry->size != item->size && entry->key[strlen(entry->key) - 1] != '/')
			log_violation("worker %u: listing says %s has %" PRIu64
				      " bytes instead of %" PRIu64,
				w->id, entry->key, entry->size, item->size);
	}
	if (more < 0 && !is_outage(more))
		log_violation("worker %u: listing: %s", w->id, granary_strerror(more));
	else if (more == 0 && seen != w->model.count)
		log_violation("worker %u before operation %" PRIu64
			      ": listing shows %zu names instead of %zu",
			w->id, w->number, seen, w->model.count);
	granary_iter_close(&iter);
}

/* ---- the worker ---- */

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->leave = w->model.count * w->o->leave_percent / 100;
	while (!atomic_load(&is_stopping) && !w->is_unsure && !w->is_drained &&
		log_violations() == 0) {
		uint32_t dice = below(w, 100);
		if (w->o->ops_max > 0 && atomic_load(&ops_done) >= w->o->ops_max) break;
		if (dice < 12)
			read_some(w, true);
		else if (dice < 16)
			read_some(w, false);
		else if (dice < 17)
			list_own(w);
		if (!make_op(w)) continue;
		log_started(&w->op);
		is_turn_unstable(w) ? run_op_unstable(w) : run_op(w);
		log_answered(&w->op);
		w->number++;
		judge_answer(w);
		model_apply(&w->model, &w->op);
	}
	atomic_fetch_add(&ended, 1);
	return NULL;
}

static int make_bucket(const struct oracle_options *o, struct granary_client *client)
{
	int err = granary_bucket_create(client, o->bucket, NULL);

	if (err == 0 || err == -GRANARY_EEXIST) return 0;
	fprintf(stderr, "oracle: cannot make the bucket: %s\n", granary_last_error(client));
	return -1;
}

static void workers_begin(const struct oracle_options *o, struct worker *workers,
	struct granary_client **clients, const struct history *h)
{
	for (uint32_t i = 0; i < o->workers; i++) {
		struct worker *w = &workers[i];
		w->o = o;
		w->id = i;
		w->client = clients[i % o->clients];
		w->number = h->workers[i].next_number;
		model_copy(&w->model, &h->workers[i].model);
		rng_seed(&w->rng, o->seed ^ hash_u64((uint64_t)i << 32 ^ w->number));
		w->buf = malloc(LARGE_MAX);
		if (w->buf == NULL || pthread_create(&w->thread, NULL, worker_main, w) != 0)
			abort();
	}
}

static void wait_seconds(const struct oracle_options *o)
{
	uint64_t end = o->seconds > 0 ? now_ns() + o->seconds * 1000000000ull : UINT64_MAX;

	while (!atomic_load(&is_stopping) && now_ns() < end && log_violations() == 0 &&
		atomic_load(&ended) < o->workers &&
		(o->ops_max == 0 || atomic_load(&ops_done) < o->ops_max))
		pause_ms(10);
	atomic_store(&is_stopping, true);
}

static void print_summary(void)
{
	printf("answered=%" PRIu64 " entries=%" PRIu64 " refused=%" PRIu64 " unsure=%" PRIu64
	       " reads=%" PRIu64 " bytes=%" PRIu64 " violations=%" PRIu64 "\n",
		(uint64_t)atomic_load(&ops_done), (uint64_t)atomic_load(&entries_done),
		(uint64_t)atomic_load(&refused), (uint64_t)atomic_load(&unsure),
		(uint64_t)atomic_load(&reads_done), (uint64_t)atomic_load(&bytes_written),
		log_violations());
}

int oracle_write(const struct oracle_options *o)
{
	static struct history h;
	static struct worker workers[WORKERS_MAX];
	struct granary_client *clients[CLIENTS_MAX];
	struct sigaction action = { .sa_handler = on_signal };

	if (history_read(&h, o->log, UINT64_MAX) < 0) return 2;
	for (uint32_t i = 0; i < h.workers_count; i++) {
		if (h.workers[i].has_pending) {
			fprintf(stderr, "oracle: the log has an unanswered operation: `oracle "
					"check --state-out` settles it\n");
			return 2;
		}
	}
	log_begin(o->log_fd);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (uint32_t i = 0; i < o->clients; i++)
		if (client_open(o, &clients[i]) < 0) return 2;
	if (make_bucket(o, clients[0]) < 0) return 3;
	workers_begin(o, workers, clients, &h);
	wait_seconds(o);
	for (uint32_t i = 0; i < o->workers; i++) {
		pthread_join(workers[i].thread, NULL);
		free(workers[i].buf);
		model_free(&workers[i].model);
	}
	for (uint32_t i = 0; i < o->clients; i++) granary_close(&clients[i]);
	history_free(&h);
	print_summary();
	return log_violations() > 0 ? 1 : 0;
}
