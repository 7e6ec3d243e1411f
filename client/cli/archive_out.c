/* SPDX-License-Identifier: Apache-2.0 */
/* archive_out.c -- objects into a tar or zip archive, in the order of the catalog: several batch reads are under way
 * while the first one's members are written.
 *
 * Invariants: (1) members come in the order of the keys, whatever order answers come in; (2) an object that cannot be
 * read whole is left out and counted, never written in part (a large one that fails in its middle ends the archive);
 * (3) a file gets its name when it is whole. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archives.h"
#include "dest.h"

enum { RUNS = 4, RUN_ITEMS = 512, RUN_BYTES = 4 << 20, LARGE = 4 << 20, NAMED_MAX = 10, BLOCK = 1 << 20 };

struct run { /* items [first, end) of the catalog: one batch read, or one large object and no read */
	size_t first, end;
	struct granary_op *op;
	struct granary_batch batch;
	struct granary_entry *entries;
	bool large;
};

struct export
{
	struct remote *from;
	const struct catalog *catalog;
	size_t prefix_len, next;
	struct archive *archive;
	struct archive_entry *entry;
	struct run runs[RUNS];
	const char *link; /* of the member that is a symbolic link */
	const char *file;
	char temporary[4096];
	struct progress progress;
	uint64_t files, bytes, failed, special;
	int first_code;
	int broken; /* the archive cannot go on: an exit code */
};

/* ---- failures ------------------------------------------------------------------------------ */

static void item_failed(struct export *x, const struct item *item, int err, const char *text)
{
	if (x->first_code == CLI_OK) x->first_code = exit_of(err);
	if (x->failed++ < NAMED_MAX) fail_text(err, text, "leaving out '%s'", shown(item->key));
}

static void archive_failed(struct export *x)
{
	int errnum = archive_errno(x->archive);

	if (x->broken == CLI_OK && errnum == EPIPE && strcmp(x->file, "-") == 0)
		x->broken = CLI_FAILED; /* who reads has seen enough: no word about it */
	else if (x->broken == CLI_OK)
		x->broken = fail(CLI_FAILED, "cannot write the archive '%s': %s", shown(x->file),
			archive_error_string(x->archive) != NULL ? archive_error_string(x->archive) : strerror(errnum));
}

/* ---- members ------------------------------------------------------------------------------- */

static bool member_begin(struct export *x, const struct item *item, uint64_t size, unsigned type)
{
	struct archive_entry *e = archive_entry_clear(x->entry);
	mode_t mode = (mode_t)(item->mode & 07777);

	archive_entry_set_pathname_utf8(e, item->key + x->prefix_len);
	archive_entry_set_filetype(e, type);
	archive_entry_set_perm(e, mode != 0 ? mode : type == AE_IFDIR ? 0755 : 0644);
	if (x->link != NULL) archive_entry_set_symlink_utf8(e, x->link);
	archive_entry_set_size(e, (la_int64_t)size);
	archive_entry_set_mtime(e, (time_t)(item->mtime_ns / 1000000000u), (long)(item->mtime_ns % 1000000000u));
	if (archive_write_header(x->archive, e) < ARCHIVE_WARN) {
		archive_failed(x);
		return false;
	}
	return true;
}

static bool member_data(struct export *x, const void *data, size_t len)
{
	if (len == 0 || archive_write_data(x->archive, data, len) == (la_ssize_t)len) return true;
	archive_failed(x);
	return false;
}

static void member_small(struct export *x, const struct item *item, const struct granary_entry *e)
{
	struct item as_read = *item;

	if (e->mtime_ns != 0) as_read.mtime_ns = e->mtime_ns;
	if (!member_begin(x, &as_read, e->data_len, AE_IFREG) || !member_data(x, e->data, e->data_len)) return;
	x->files++;
	x->bytes += e->data_len;
	progress_add(&x->progress, 1, e->data_len);
}

static int large_sink(void *arg, const void *data, size_t len)
{
	struct export *x = arg;

	progress_add(&x->progress, 0, len);
	return member_data(x, data, len) ? 0 : -GRANARY_EIO;
}

/* Its header says the size before its bytes come, so a failure in the middle spoils the archive. */
static void member_large(struct export *x, const struct item *item)
{
	struct granary_stat st;
	const struct granary_call *call = GRANARY_CALL(.bucket = x->from->bucket, .timeout_ms = bulk_timeout_ms());
	int err = granary_stat(x->from->client, granary_ref_key(item->key), &st, call);
	int64_t got;

	if (err < 0) {
		item_failed(x, item, err, granary_last_error(x->from->client));
		return;
	}
	if (!member_begin(x, item, st.size, AE_IFREG)) return;
	got = granary_read_stream(x->from->client, granary_ref_key(item->key), 0, GRANARY_TO_END, large_sink, x, call);
	if (x->broken != CLI_OK) return;
	if (got != (int64_t)st.size) {
		x->broken = fail_text(got < 0 ? (int)got : -GRANARY_ECHANGED,
			got < 0 ? granary_last_error(x->from->client) : "", "the archive ends in the middle of '%s'",
			shown(item->key));
		return;
	}
	x->files++;
	x->bytes += st.size;
	progress_add(&x->progress, 1, 0);
}

static void member_link(struct export *x, const struct item *item)
{
	char *target = NULL;
	int err = granary_readlink(x->from->client, granary_ref_key(item->key), &target,
		GRANARY_CALL(.bucket = x->from->bucket, .timeout_ms = bulk_timeout_ms()));

	if (err < 0) {
		item_failed(x, item, err, granary_last_error(x->from->client));
		return;
	}
	x->link = target;
	if (member_begin(x, item, 0, AE_IFLNK)) x->files++;
	x->link = NULL;
	granary_free(target);
	progress_add(&x->progress, 1, 0);
}

/* ---- runs ---------------------------------------------------------------------------------- */

/* Neither a directory nor a file with bytes. */
static bool is_special(const struct item *item)
{
	return (item->mode & S_IFMT) != 0 && !S_ISREG(item->mode) && !S_ISDIR(item->mode);
}

static bool is_directory(const struct item *item)
{
	return item->key[strlen(item->key) - 1] == '/';
}

/* Takes the next items and begins to read them; false when there are none left. */
static bool run_begin(struct export *x, struct run *r)
{
	const struct catalog *c = x->catalog;
	uint64_t bytes = 0;
	size_t reads = 0;
	int64_t err;

	r->first = r->end = x->next;
	r->large = r->end < c->count && c->items[r->end].size > LARGE;
	if (r->large) r->end++;
	while (!r->large && r->end < c->count && r->end - r->first < RUN_ITEMS && bytes < RUN_BYTES &&
		c->items[r->end].size <= LARGE) {
		const struct item *item = &c->items[r->end++];
		bytes += item->size;
		if (!is_directory(item) && !is_special(item))
			r->entries[reads++] =
				(struct granary_entry){ .ref = granary_ref_key(item->key), .length = GRANARY_TO_END };
	}
	x->next = r->end;
	r->batch = (struct granary_batch)GRANARY_INIT(granary_batch);
	r->batch.entries = r->entries;
	r->batch.count = reads;
	r->batch.bytes_hint = bytes;
	if (reads == 0) return r->end > r->first;
	err = granary_read_batch_start(x->from->client, &r->batch,
		GRANARY_CALL(.bucket = x->from->bucket, .timeout_ms = bulk_timeout_ms()), &r->op);
	if (err < 0) x->broken = fail_remote(x->from->client, (int)err, "cannot read");
	return err == 0;
}

static void run_write(struct export *x, struct run *r)
{
	int64_t served = r->op != NULL ? granary_wait(r->op, GRANARY_FOREVER) : 0;
	size_t read = 0;

	for (size_t i = r->first; i < r->end && x->broken == CLI_OK; i++) {
		const struct item *item = &x->catalog->items[i];
		const struct granary_entry *e = &r->entries[read];
		if (is_directory(item)) {
			if (item->key[x->prefix_len] != '\0') member_begin(x, item, 0, AE_IFDIR);
			progress_add(&x->progress, 1, 0);
			continue;
		}
		if (is_special(item)) {
			if (S_ISLNK(item->mode))
				member_link(x, item);
			else
				x->special++;
			continue;
		}
		if (r->large) {
			member_large(x, item);
			continue;
		}
		read++;
		if (e->status < 0 || e->data == NULL)
			item_failed(x, item, e->status < 0 ? e->status : (int)served,
				served < 0 ? granary_op_error(r->op) : "");
		else
			member_small(x, item, e);
	}
	granary_op_free(&r->op);
}

static void runs_write(struct export *x)
{
	bool begun[RUNS];
	unsigned at = 0;

	for (unsigned i = 0; i < RUNS; i++) begun[i] = run_begin(x, &x->runs[i]);
	while (begun[at] && x->broken == CLI_OK) {
		run_write(x, &x->runs[at]);
		begun[at] = x->broken == CLI_OK && run_begin(x, &x->runs[at]);
		at = (at + 1) % RUNS;
	}
	for (unsigned i = 0; i < RUNS; i++)
		if (x->runs[i].op != NULL) granary_op_free(&x->runs[i].op);
}

/* ---- the file ------------------------------------------------------------------------------ */

static const char *const endings[] = { ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4",
	".zip" };

bool archive_named(const char *file)
{
	size_t len = strlen(file);

	for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
		size_t end = strlen(endings[i]);
		if (len > end && strcasecmp(file + len - end, endings[i]) == 0) return true;
	}
	return false;
}

static void archive_choose(struct archive *a, const char *file)
{
	static const struct {
		const char *ending;
		int (*add)(struct archive *);
	} filters[] = {
		{ "gz", archive_write_add_filter_gzip },
		{ "tgz", archive_write_add_filter_gzip },
		{ "zst", archive_write_add_filter_zstd },
		{ "xz", archive_write_add_filter_xz },
		{ "bz2", archive_write_add_filter_bzip2 },
		{ "lz4", archive_write_add_filter_lz4 },
	};
	const char *dot = strrchr(file, '.');

	if (dot != NULL && strcasecmp(dot, ".zip") == 0) {
		archive_write_set_format_zip(a);
		return;
	}
	archive_write_set_format_pax(a);
	for (size_t i = 0; dot != NULL && i < sizeof(filters) / sizeof(filters[0]); i++)
		if (strcasecmp(dot + 1, filters[i].ending) == 0) filters[i].add(a);
}

static int export_open(struct export *x)
{
	bool standard = strcmp(x->file, "-") == 0;

	if (snprintf(x->temporary, sizeof(x->temporary), "%s.part", x->file) >= (int)sizeof(x->temporary))
		return fail(CLI_USAGE, "the path '%s' is too long", shown(x->file));
	x->archive = must_alloc(archive_write_new());
	x->entry = must_alloc(archive_entry_new());
	archive_choose(x->archive, x->file);
	archive_write_set_bytes_per_block(x->archive, BLOCK);
	archive_write_set_bytes_in_last_block(x->archive, 1);
	if ((standard ? archive_write_open_fd(x->archive, STDOUT_FILENO)
		      : archive_write_open_filename(x->archive, x->temporary)) == ARCHIVE_OK)
		return CLI_OK;
	archive_failed(x);
	return x->broken;
}

/* Ends the archive; a file gets its name, or goes when it is not whole. */
static void export_close(struct export *x)
{
	bool standard = strcmp(x->file, "-") == 0;

	if (x->broken == CLI_OK && archive_write_close(x->archive) != ARCHIVE_OK) archive_failed(x);
	archive_write_free(x->archive);
	archive_entry_free(x->entry);
	if (standard) return;
	if (x->broken != CLI_OK)
		unlink(x->temporary);
	else if (rename(x->temporary, x->file) < 0)
		x->broken = fail_errno(errno, "cannot name the archive '%s'", shown(x->file));
}

static void export_report(const struct export *x, double seconds)
{
	char files[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT], time[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, strcmp(x->file, "-") == 0 ? stderr : stdout);
		json_text(&j, "verb", "export");
		json_number(&j, "files", x->files);
		json_number(&j, "bytes", x->bytes);
		json_number(&j, "failed", x->failed);
		json_number(&j, "left_out_special", x->special);
		json_real(&j, "seconds", seconds);
		json_close(&j);
		return;
	}
	note("export: %s files, %s in %s, %s/s", human_count(files, x->files), human_bytes(bytes, x->bytes),
		human_seconds(time, seconds), human_bytes(rate, (uint64_t)((double)x->bytes / seconds)));
	if (x->failed > 0) note("  %s left out", human_count(files, x->failed));
	if (x->special > 0) note("  %s devices, pipes and sockets left out", human_count(files, x->special));
}

int archive_export(struct remote *from, const struct catalog *c, const char *prefix, const char *file)
{
	struct export x = { .from = from, .catalog = c, .prefix_len = strlen(prefix), .file = file };
	int code;

	setlocale(LC_CTYPE, "C.UTF-8");
	for (unsigned i = 0; i < RUNS; i++)
		x.runs[i].entries = must_alloc(malloc(RUN_ITEMS * sizeof(*x.runs[i].entries)));
	progress_start(&x.progress, "export");
	atomic_store(&x.progress.files_total, c->count);
	atomic_store(&x.progress.bytes_total, c->bytes);
	code = export_open(&x);
	if (code == CLI_OK) runs_write(&x);
	export_close(&x);
	progress_stop(&x.progress);
	if (x.broken == CLI_OK) export_report(&x, progress_seconds(&x.progress));
	for (unsigned i = 0; i < RUNS; i++) free(x.runs[i].entries);
	if (x.broken != CLI_OK) return x.broken;
	return x.failed == 0 ? CLI_OK : x.files > 0 ? CLI_PARTIAL : x.first_code;
}
