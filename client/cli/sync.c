/* SPDX-License-Identifier: Apache-2.0 */
/* sync.c -- sync: DST holds what SRC holds, and with --delete nothing else.
 *
 * Invariants: (1) nothing is removed before all of SRC was listed and copied without a failure; (2) what is removed was
 * said and agreed to (--yes, or an answer on the terminal); (3) on this machine nothing outside DST is touched. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "dest.h"
#include "fetch.h"
#include "upload.h"

/* ---- keys of a side ------------------------------------------------------------------------ */

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted names, to ask whether one is there, or anything below one. */
struct names {
	const char **list;
	size_t count, cap;
};

static void names_add(struct names *n, const char *name)
{
	if (n->count == n->cap) {
		n->cap = n->cap == 0 ? 1024 : n->cap * 2;
		n->list = must_alloc(realloc(n->list, n->cap * sizeof(*n->list)));
	}
	n->list[n->count++] = name;
}

static void names_sort(struct names *n)
{
	if (n->count > 1) qsort(n->list, n->count, sizeof(*n->list), compare_texts);
}

/* Where the first name that is not before this one stands. */
static size_t names_seek(const struct names *n, const char *name)
{
	size_t low = 0, high = n->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(n->list[middle], name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool names_have(const struct names *n, const char *name)
{
	size_t at = names_seek(n, name);

	return at < n->count && strcmp(n->list[at], name) == 0;
}

/* Is there anything that begins with this directory ("a/")? */
static bool names_have_below(const struct names *n, const char *directory)
{
	size_t at = names_seek(n, directory);

	return at < n->count && strncmp(n->list[at], directory, strlen(directory)) == 0;
}

static void names_of_catalog(struct names *n, const struct catalog *c, size_t cut)
{
	for (size_t i = 0; i < c->count; i++) names_add(n, c->items[i].key + cut);
	names_sort(n);
}

/* ---- what is too much in the store --------------------------------------------------------- */

static int delete_remote(struct remote *to, const char *prefix, const struct names *wanted)
{
	struct catalog have, extra = { .count = 0 };
	size_t cut = strlen(prefix), len;
	int code = catalog_list(&have, to, prefix);

	for (size_t i = 0; code == CLI_OK && i < have.count; i++) {
		const char *name = have.items[i].key + cut;
		len = strlen(name);
		if (len == 0 || (name[len - 1] == '/' ? names_have_below(wanted, name) : names_have(wanted, name)))
			continue;
		catalog_add(&extra, &have.items[i]);
	}
	if (code == CLI_OK && extra.count > 0) code = remove_catalog(to, &extra);
	catalog_free(&extra);
	catalog_free(&have);
	return code;
}

/* ---- from this machine to the store -------------------------------------------------------- */

/* The names that the scan met, files and directories. */
static void names_of_scan(struct names *n, const struct scan *scan, struct arena *texts)
{
	char name[2 * GRANARY_KEY_LEN_MAX];

	for (size_t i = 0; i < scan->count; i++) {
		int len = snprintf(name, sizeof(name), "%s%s", scan->files[i].dir->path, scan->files[i].name);
		names_add(n, arena_text(texts, name, (size_t)len));
	}
	for (const struct scan_dir *d = scan->dirs; d != NULL; d = d->next)
		if (d->path_len > 0) names_add(n, d->path);
	names_sort(n);
}

static int sync_up(const char *src, struct remote *to)
{
	struct scan_root root = { .path = src, .under = "" };
	struct upload_totals totals = { .files = 0 };
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	uint64_t began_ns = clock_mono_ns();
	struct names wanted = { .count = 0 };
	struct arena texts = { .head = NULL };
	struct scan scan;
	int code = directory_prefix(prefix, to->path);

	if (code == CLI_OK) code = scan_open(&scan, &root, 1);
	if (code != CLI_OK) return code;
	scan_start(&scan);
	code = upload_run(to, &scan, prefix, "sync", &totals);
	if (code == CLI_OK || totals.files + totals.same + totals.failed > 0)
		upload_report(&totals, &scan, "sync", (double)(clock_mono_ns() - began_ns + 1) / 1e9);
	if (code == CLI_OK && opts.delete) {
		names_of_scan(&wanted, &scan, &texts);
		code = delete_remote(to, prefix, &wanted);
	} else if (opts.delete) {
		note("nothing was removed, because not all was copied");
	}
	free(wanted.list);
	arena_free(&texts);
	scan_close(&scan);
	return code;
}

/* ---- from the store to this machine -------------------------------------------------------- */

static int remove_local(struct dest *d, const char *dst, const struct names *files, const struct names *dirs)
{
	uint64_t failed = 0;

	for (size_t i = 0; i < files->count; i++) {
		int err = dest_remove(d, files->list[i], false);
		if (err < 0 && err != -ENOENT && failed++ < 10)
			fail_errno(-err, "cannot remove '%s/%s'", shown(dst), shown(files->list[i]));
	}
	for (size_t i = dirs->count; i-- > 0;) { /* what lies deeper comes later */
		int err = dest_remove(d, dirs->list[i], true);
		if (err < 0 && err != -ENOENT && err != -ENOTEMPTY && failed++ < 10)
			fail_errno(-err, "cannot remove '%s/%s'", shown(dst), shown(dirs->list[i]));
	}
	return failed > 0 ? CLI_PARTIAL : CLI_OK;
}

static int delete_local(const char *dst, const struct names *wanted)
{
	struct scan_root root = { .path = dst, .under = "" };
	struct names have = { .count = 0 }, files = { .count = 0 }, dirs = { .count = 0 };
	struct arena texts = { .head = NULL };
	struct dest *d = NULL;
	char count[TEXT_SHORT];
	struct scan scan;
	int err, code = scan_open(&scan, &root, 1);

	if (code != CLI_OK) return code;
	scan_start(&scan);
	scan_wait(&scan);
	names_of_scan(&have, &scan, &texts);
	for (size_t i = 0; i < have.count; i++) {
		size_t len = strlen(have.list[i]);
		bool is_dir = len > 0 && have.list[i][len - 1] == '/';
		if (is_dir ? !names_have_below(wanted, have.list[i]) : !names_have(wanted, have.list[i]))
			names_add(is_dir ? &dirs : &files, have.list[i]);
	}
	if (files.count + dirs.count == 0) {
		code = CLI_OK;
	} else if (opts.dry_run) {
		printf("would remove %s entries below '%s'\n", human_count(count, files.count + dirs.count),
			shown(dst));
	} else {
		code = ask("remove %s entries below '%s'", human_count(count, files.count + dirs.count), shown(dst));
		err = code == CLI_OK ? dest_open(&d, dst, false) : 0;
		if (err < 0) code = fail_errno(-err, "cannot open directory '%s'", shown(dst));
		if (code == CLI_OK && d != NULL) code = remove_local(d, dst, &files, &dirs);
		if (code == CLI_OK) note("  %s entries removed", human_count(count, files.count + dirs.count));
	}
	dest_close(&d);
	free(have.list);
	free(files.list);
	free(dirs.list);
	arena_free(&texts);
	scan_close(&scan);
	return code;
}

/* To a directory here (dst), or to another place in a store (to). */
static int sync_from(struct remote *from, const char *dst, struct remote *to)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1], to_prefix[GRANARY_KEY_LEN_MAX + 1] = "";
	struct fetch_totals totals = { .files = 0 };
	struct names wanted = { .count = 0 };
	struct catalog c = { .count = 0 };
	int code = directory_prefix(prefix, from->path);

	if (code == CLI_OK && to != NULL) code = directory_prefix(to_prefix, to->path);
	if (code == CLI_OK) code = catalog_list(&c, from, prefix);
	if (code == CLI_OK && c.count == 0 && from->path[0] != '\0')
		code = fail(CLI_NOTFOUND, "cannot sync '%s/%s': nothing there", from->bucket, shown(from->path));
	if (code == CLI_OK) code = fetch_run(from, &c, prefix, dst, to, to_prefix, &totals);
	if (code == CLI_OK && opts.delete) {
		names_of_catalog(&wanted, &c, strlen(prefix));
		code = to != NULL ? delete_remote(to, to_prefix, &wanted) : delete_local(dst, &wanted);
	} else if (opts.delete &&c.count > 0) {
		note("nothing was removed, because not all was copied");
	}
	free(wanted.list);
	catalog_free(&c);
	return code;
}

/* ---- the verb ------------------------------------------------------------------------------ */

static bool inside(const struct remote *a, const struct remote *b)
{
	size_t len = strlen(a->path);

	while (len > 0 && a->path[len - 1] == '/') len--;
	return strcmp(a->server, b->server) == 0 && strcmp(a->bucket, b->bucket) == 0 &&
	       strncmp(a->path, b->path, len) == 0 && (len == 0 || b->path[len] == '/' || b->path[len] == '\0');
}

static int sync_sides(const char *src, struct remote *from, const char *dst, struct remote *to)
{
	struct stat st;

	if (is_remote(src) && is_remote(dst)) {
		if (inside(from, to) || inside(to, from))
			return fail(CLI_USAGE, "'%s' and '%s' lie in each other", shown(src), shown(dst));
		return sync_from(from, NULL, to);
	}
	if (is_remote(src)) return sync_from(from, dst, NULL);
	if (!is_remote(dst))
		return fail(CLI_USAGE, "neither '%s' nor '%s' is an address; one must begin with granary://",
			shown(src), shown(dst));
	if (stat(src, &st) == 0 && !S_ISDIR(st.st_mode))
		return fail(CLI_USAGE, "'%s' is a file; sync is for directories, use granary cp", shown(src));
	return sync_up(src, to);
}

int run_sync(int count, char **args)
{
	struct remote from = { .client = NULL }, to = { .client = NULL };
	int code = is_remote(args[0]) ? remote_open(&from, args[0], NEED_BUCKET, 1) : CLI_OK;

	(void)count;
	if (code == CLI_OK && is_remote(args[1])) code = remote_open(&to, args[1], NEED_BUCKET, 1);
	if (code == CLI_OK) code = sync_sides(args[0], &from, args[1], &to);
	remote_close(&to);
	remote_close(&from);
	return code;
}
