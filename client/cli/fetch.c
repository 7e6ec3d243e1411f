/* SPDX-License-Identifier: Apache-2.0 */
/* fetch.c -- many objects out of the store. Workers take runs of the catalog; small objects come in one batch read a
 * run, large ones are streamed. What the target has already with the same size and time is not read. */
#include "fetch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dest.h"
#include "upload.h"

enum {
	WORKERS_DEFAULT = 4,
	RUN_ITEMS = 512,
	RUN_BYTES = 4 << 20,
	LARGE = 4 << 20,
	FAILURES_NAMED = 10,
	FAILURES_STOP = 1000
};

struct fetch {
	struct remote *from, *to;
	const struct catalog *catalog;
	const char *dir, *to_prefix;
	size_t prefix_len;
	struct known *known; /* of a remote target */
	struct fetch_totals *totals;
	struct progress progress;
	pthread_mutex_t lock;
	size_t next; /* under lock: the first item nobody has taken */
	_Atomic bool stop;
};

struct worker {
	struct fetch *f;
	pthread_t thread;
	struct dest *dest;
	struct granary_entry *entries;
	struct granary_put *puts;
	char (*keys)[GRANARY_KEY_LEN_MAX + 1];
};

/* ---- failures ------------------------------------------------------------------------------ */

static bool count_failure(struct fetch *f, int code)
{
	uint64_t before = atomic_fetch_add(&f->totals->failed, 1);
	int none = CLI_OK;

	atomic_compare_exchange_strong(&f->totals->first_code, &none, code);
	if (before + 1 >= FAILURES_STOP) atomic_store(&f->stop, true);
	return before < FAILURES_NAMED;
}

static void item_failed(
	struct fetch *f, const char *verb, const char *key, int err, const char *text)
{
	if (count_failure(f, exit_of(err)))
		fail_text(err, text, "cannot %s '%s'", verb, shown(key));
}

static void local_failed(struct fetch *f, const char *name, int err)
{
	if (count_failure(f, exit_of_errno(-err)))
		fail_errno(-err, "cannot write '%s/%s'", shown(f->dir), shown(name));
}

static void item_done(struct fetch *f, uint64_t bytes, bool counted)
{
	atomic_fetch_add(&f->totals->files, 1);
	atomic_fetch_add(&f->totals->bytes, bytes);
	progress_add(&f->progress, 1, counted ? 0 : bytes);
}

/* ---- what is worth reading ----------------------------------------------------------------- */

static const char *name_of(const struct fetch *f, const struct item *item)
{
	return item->key + f->prefix_len;
}

static bool refused(struct fetch *f, const struct item *item)
{
	const char *why = f->dir == NULL ? NULL : dest_refuses(name_of(f, item));

	if (why == NULL) return false;
	if (atomic_fetch_add(&f->totals->refused, 1) < FAILURES_NAMED)
		fail(CLI_PARTIAL, "refusing to write '%s' below '%s': %s", shown(name_of(f, item)),
			shown(f->dir), why);
	return true;
}

static bool is_directory(const char *name)
{
	size_t len = strlen(name);

	return len == 0 || name[len - 1] == '/';
}

static void make_directory(struct worker *w, const struct item *item)
{
	struct fetch *f = w->f;
	const char *name = name_of(f, item);
	char key[GRANARY_KEY_LEN_MAX + 1];
	int err;

	if (opts.dry_run || name[0] == '\0') return;
	if (f->dir != NULL) {
		err = dest_mkdir(w->dest, name);
		if (err < 0) local_failed(f, name, err);
		return;
	}
	if (key_join(key, f->to_prefix, name) != CLI_OK) return;
	key[strlen(key) - 1] = '\0';
	err = granary_mkdir(f->to->client, granary_ref_key(key), 0755, GRANARY_MKDIR_PARENTS, NULL,
		GRANARY_CALL(.bucket = f->to->bucket));
	if (err < 0 && err != -GRANARY_EEXIST)
		item_failed(f, "make directory", key, err, granary_last_error(f->to->client));
}

static bool there_already(struct worker *w, const struct item *item, const char *target)
{
	struct fetch *f = w->f;
	bool same =
		f->dir != NULL
			? w->dest != NULL && dest_has(w->dest, target, item->size, item->mtime_ns)
			: known_state(f->known, target, item->size, item->mtime_ns) == KNOWN_SAME;

	if (same) {
		atomic_fetch_add(&f->totals->same, 1);
		atomic_fetch_add(&f->totals->same_bytes, item->size);
		progress_add(&f->progress, 1, item->size);
	}
	return same;
}

/* ---- large objects ------------------------------------------------------------------------- */

struct relay {
	struct progress *progress;
	struct dest *dest;
	struct granary_upload *up;
	int errnum;
};

static int relay_sink(void *arg, const void *data, size_t len)
{
	struct relay *r = arg;
	int err;

	progress_add(r->progress, 0, len);
	if (r->dest == NULL) return granary_upload_write(r->up, data, len);
	err = dest_write(r->dest, data, len);
	r->errnum = -err;
	return err < 0 ? -GRANARY_EIO : 0;
}

static struct granary_put put_of(
	const struct item *item, const char *key, const void *data, uint64_t size)
{
	return (struct granary_put){ .ref = granary_ref_key(key),
		.data = data,
		.size = size,
		.flags = GRANARY_PUT_MODE | GRANARY_PUT_MTIME,
		.mode = item->mode,
		.mtime_ns = item->mtime_ns };
}

static int64_t stream_item(struct remote *from, const struct item *item, struct relay *relay)
{
	return granary_read_stream(from->client, granary_ref_key(item->key), 0, GRANARY_TO_END, relay_sink, relay,
		GRANARY_CALL(.bucket = from->bucket, .timeout_ms = bulk_timeout_ms()));
}

/* One object to another key, streamed; adds to progress as bytes pass. Bytes, or -GRANARY_E... */
static int64_t copy_stream(struct remote *from, const struct item *item, struct remote *to, const char *key,
	struct progress *progress)
{
	struct granary_put put = put_of(item, key, NULL, 0);
	struct relay relay = { .progress = progress };
	int64_t got = granary_upload_new(to->client, &put,
		GRANARY_CALL(.bucket = to->bucket, .timeout_ms = bulk_timeout_ms()), &relay.up);

	if (got == 0) got = stream_item(from, item, &relay);
	if (got >= 0) {
		int err = granary_upload_commit(relay.up, NULL);
		if (err < 0) got = err;
	}
	granary_upload_free(&relay.up);
	return got;
}

static void large_to_dest(struct worker *w, const struct item *item)
{
	struct fetch *f = w->f;
	struct relay relay = { .progress = &f->progress, .dest = w->dest };
	const char *name = name_of(f, item);
	int64_t got;
	int err = dest_create(w->dest, name);

	if (err < 0) {
		local_failed(f, name, err);
		return;
	}
	got = stream_item(f->from, item, &relay);
	if (got < 0) {
		dest_abort(w->dest);
		if (relay.errnum != 0)
			local_failed(f, name, -relay.errnum);
		else
			item_failed(f, "read", item->key, (int)got,
				granary_last_error(f->from->client));
		return;
	}
	err = dest_commit(w->dest, item->mode, item->mtime_ns);
	if (err < 0)
		local_failed(f, name, err);
	else
		item_done(f, (uint64_t)got, true);
}

static void large_to_store(struct worker *w, const struct item *item, const char *key)
{
	struct fetch *f = w->f;
	int64_t got = copy_stream(f->from, item, f->to, key, &f->progress);

	if (got < 0)
		item_failed(f, "copy", item->key, (int)got, granary_last_error(f->to->client));
	else
		item_done(f, (uint64_t)got, true);
}

/* ---- small objects: a batch at a time ------------------------------------------------------ */

static void write_local(struct worker *w, const struct granary_entry *e)
{
	const struct item *item = e->user;
	const char *name = name_of(w->f, item);
	int err = dest_create(w->dest, name);

	if (err == 0) {
		err = dest_write(w->dest, e->data, e->data_len);
		if (err == 0)
			err = dest_commit(w->dest, item->mode,
				e->mtime_ns != 0 ? e->mtime_ns : item->mtime_ns);
		else
			dest_abort(w->dest);
	}
	if (err < 0)
		local_failed(w->f, name, err);
	else
		item_done(w->f, e->data_len, false);
}

static void write_store(struct worker *w, size_t count)
{
	struct fetch *f = w->f;
	int64_t done;

	if (count == 0) return;
	done = granary_put_batch(f->to->client, w->puts, count,
		GRANARY_CALL(.bucket = f->to->bucket, .timeout_ms = bulk_timeout_ms()));
	for (size_t i = 0; i < count; i++) {
		int err = w->puts[i].status;
		if (err == 0 && done < 0 && w->puts[i].version == 0) err = (int)done;
		if (err < 0)
			item_failed(f, "write", w->puts[i].ref.name, err,
				done < 0 ? granary_last_error(f->to->client) : "");
		else
			item_done(f, w->puts[i].size, false);
	}
}

static void read_small(struct worker *w, size_t count)
{
	struct fetch *f = w->f;
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	struct granary_op *op = NULL;
	size_t puts = 0;
	int64_t served;

	if (count == 0) return;
	batch.entries = w->entries;
	batch.count = count;
	for (size_t i = 0; i < count; i++)
		batch.bytes_hint += ((const struct item *)w->entries[i].user)->size;
	served = granary_read_batch(f->from->client, &batch,
		GRANARY_CALL(.bucket = f->from->bucket, .timeout_ms = bulk_timeout_ms()), &op);
	for (size_t i = 0; i < count; i++) {
		struct granary_entry *e = &w->entries[i];
		const struct item *item = e->user;
		if (e->status < 0 || e->data == NULL)
			item_failed(f, "read", item->key, e->status < 0 ? e->status : (int)served,
				served < 0 ? granary_last_error(f->from->client) : "");
		else if (f->dir != NULL)
			write_local(w, e);
		else
			w->puts[puts++] = put_of(item, w->keys[i], e->data, e->data_len);
	}
	write_store(w, puts);
	granary_op_free(&op);
}

/* ---- workers ------------------------------------------------------------------------------- */

/* The next run: items[*first..returned). */
static size_t take_run(struct fetch *f, size_t *first)
{
	uint64_t bytes = 0;
	size_t at;

	pthread_mutex_lock(&f->lock);
	*first = at = f->next;
	while (at < f->catalog->count && at - *first < RUN_ITEMS && bytes < RUN_BYTES)
		bytes += f->catalog->items[at++].size;
	f->next = at;
	pthread_mutex_unlock(&f->lock);
	return at;
}

/* A symbolic link is made, not followed. */
static void copy_link(struct worker *w, const struct item *item, const char *key)
{
	struct fetch *f = w->f;
	char *target = NULL;
	int err = granary_readlink(f->from->client, granary_ref_key(item->key), &target,
		GRANARY_CALL(.bucket = f->from->bucket, .timeout_ms = bulk_timeout_ms()));

	if (err < 0) {
		item_failed(f, "read", item->key, err, granary_last_error(f->from->client));
	} else if (f->dir != NULL) {
		err = dest_symlink(w->dest, name_of(f, item), target);
		if (err < 0) local_failed(f, name_of(f, item), err);
	} else {
		err = symlink_put(f->to, key, target);
		if (err < 0) item_failed(f, "write", key, err, granary_last_error(f->to->client));
	}
	if (err == 0) item_done(f, 0, false);
	granary_free(target);
}

/* Sorts one item: refused, a directory, there already, large (done at once), or an entry of the batch. */
static bool worker_item(struct worker *w, struct item *item, size_t slot)
{
	struct fetch *f = w->f;
	char *key = w->keys[slot];

	if (name_of(f, item)[0] == '\0') { /* the directory itself */
		progress_add(&f->progress, 1, 0);
		return false;
	}
	if (refused(f, item)) return false;
	if (is_directory(name_of(f, item))) {
		make_directory(w, item);
		return false;
	}
	if (f->dir == NULL && key_join(key, f->to_prefix, name_of(f, item)) != CLI_OK) {
		count_failure(f, CLI_USAGE);
		return false;
	}
	if ((item->mode & S_IFMT) != 0 && !S_ISREG(item->mode) && !S_ISLNK(item->mode)) {
		atomic_fetch_add(&f->totals->special, 1);
		progress_add(&f->progress, 1, 0);
		return false;
	}
	if (there_already(w, item, f->dir != NULL ? name_of(f, item) : key)) return false;
	if (opts.dry_run) {
		item_done(f, item->size, false);
		return false;
	}
	if (S_ISLNK(item->mode)) {
		copy_link(w, item, key);
		return false;
	}
	if (item->size > LARGE) {
		if (f->dir != NULL)
			large_to_dest(w, item);
		else
			large_to_store(w, item, key);
		return false;
	}
	w->entries[slot] = (struct granary_entry){
		.ref = granary_ref_key(item->key), .length = GRANARY_TO_END, .user = item
	};
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct fetch *f = w->f;
	size_t at, end;

	while (!atomic_load(&f->stop) && (end = take_run(f, &at)) > at) {
		size_t count = 0;
		for (; at < end && !atomic_load(&f->stop); at++)
			count += worker_item(w, &f->catalog->items[at], count);
		read_small(w, count);
	}
	return NULL;
}

static int workers_run(struct fetch *f)
{
	size_t count = opts.jobs > 0 ? (size_t)opts.jobs : WORKERS_DEFAULT, started = 0;
	struct worker *workers = must_alloc(calloc(count, sizeof(*workers)));
	int err = 0;

	for (size_t i = 0; i < count; i++) {
		workers[i].f = f;
		workers[i].entries = must_alloc(malloc(RUN_ITEMS * sizeof(*workers[i].entries)));
		workers[i].puts = must_alloc(malloc(RUN_ITEMS * sizeof(*workers[i].puts)));
		workers[i].keys = must_alloc(malloc(RUN_ITEMS * sizeof(*workers[i].keys)));
		if (f->dir != NULL && err == 0)
			err = dest_open(&workers[i].dest, f->dir, !opts.dry_run);
	}
	if (err == 0) {
		while (started + 1 < count && pthread_create(&workers[started].thread, NULL,
						      worker_main, &workers[started]) == 0)
			started++;
		worker_main(&workers[started]);
	}
	for (size_t i = 0; i < started; i++) pthread_join(workers[i].thread, NULL);
	for (size_t i = 0; i < count; i++) {
		free(workers[i].entries);
		free(workers[i].puts);
		free(workers[i].keys);
		dest_close(&workers[i].dest);
	}
	free(workers);
	return err < 0 ? fail_errno(-err, "cannot write to directory '%s'", shown(f->dir)) : CLI_OK;
}

static void fetch_report(const struct fetch_totals *t, double seconds)
{
	char files[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT], time[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "verb", "copy");
		json_flag(&j, "dry_run", opts.dry_run);
		json_number(&j, "files", t->files);
		json_number(&j, "bytes", t->bytes);
		json_number(&j, "same", t->same);
		json_number(&j, "refused", t->refused);
		json_number(&j, "left_out_special", t->special);
		json_number(&j, "failed", t->failed);
		json_real(&j, "seconds", seconds);
		json_close(&j);
		return;
	}
	if (opts.dry_run)
		printf("would copy %s files, %s\n", human_count(files, t->files),
			human_bytes(bytes, t->bytes));
	else
		note("copy: %s files, %s in %s, %s/s", human_count(files, t->files),
			human_bytes(bytes, t->bytes), human_seconds(time, seconds),
			human_bytes(rate, (uint64_t)((double)t->bytes / seconds)));
	if (t->same > 0)
		note("  %s were there already with the same size and time",
			human_count(files, t->same));
	if (t->refused > 0)
		note("  %s refused: their keys are no names below a directory",
			human_count(files, t->refused));
	if (t->special > 0) note("  %s devices, pipes and sockets left out", human_count(files, t->special));
	if (t->failed > 0) note("  %s failed", human_count(files, t->failed));
}

int fetch_run(struct remote *from, const struct catalog *c, const char *prefix, const char *dir,
	struct remote *to, const char *to_prefix, struct fetch_totals *t)
{
	struct fetch f = { .from = from,
		.to = to,
		.catalog = c,
		.dir = dir,
		.to_prefix = to_prefix,
		.prefix_len = strlen(prefix),
		.totals = t };
	int code = dir == NULL ? known_list(&f.known, to, to_prefix) : CLI_OK;

	if (code != CLI_OK) return code;
	pthread_mutex_init(&f.lock, NULL);
	progress_start(&f.progress, "copy");
	atomic_store(&f.progress.files_total, c->count);
	atomic_store(&f.progress.bytes_total, c->bytes);
	code = workers_run(&f);
	progress_stop(&f.progress);
	known_free(&f.known);
	if (code != CLI_OK) return code;
	fetch_report(t, progress_seconds(&f.progress));
	if (t->failed + t->refused == 0) return CLI_OK;
	return t->files + t->same > 0 || t->first_code == CLI_OK ? CLI_PARTIAL : t->first_code;
}

int fetch_one(struct remote *from, const struct item *item, struct remote *to, const char *key)
{
	struct fetch_totals totals = { .files = 0 };
	struct fetch f = { .from = from, .to = to, .totals = &totals };
	struct worker w = { .f = &f };

	if (!opts.dry_run) {
		progress_start(&f.progress, "copy");
		atomic_store(&f.progress.bytes_total, item->size);
		large_to_store(&w, item, key);
		progress_stop(&f.progress);
		if (totals.first_code != CLI_OK) return totals.first_code;
	}
	if (opts.dry_run || opts.json) {
		totals.files = 1;
		totals.bytes = item->size;
		fetch_report(&totals, 1);
	}
	return CLI_OK;
}
