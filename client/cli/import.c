/* SPDX-License-Identifier: Apache-2.0 */
/* import.c -- import and export: whole data sets in and out, as directories or as archives. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "archives.h"
#include "common/clock.h"
#include "fetch.h"
#include "upload.h"

/* ---- import of directories ----------------------------------------------------------------- */

static int parse_layout(struct scan *s)
{
	const char *text = opts.layout != NULL ? opts.layout : "name";

	s->seed = 1;
	if (strcmp(text, "name") == 0) return CLI_OK;
	s->shuffled = true;
	if (strcmp(text, "shuffled") == 0 ||
		(strncmp(text, "shuffled:", 9) == 0 && parse_number(text + 9, &s->seed) == 0))
		return CLI_OK;
	return fail(CLI_USAGE, "--layout: '%s' is neither name nor shuffled[:SEED]", shown(text));
}

/* Several directories go side by side, each under its own name. */
static int name_roots(struct scan_root *roots, char (*under)[GRANARY_KEY_LEN_MAX + 1], int count)
{
	for (int i = 0; i < count; i++) {
		const char *leaf = leaf_of(roots[i].path);
		roots[i].under = "";
		if (count == 1) break;
		snprintf(under[i], sizeof(under[i]), "%.*s/", (int)strcspn(leaf, "/"), leaf);
		roots[i].under = under[i];
		if (under[i][0] == '/' || strcmp(under[i], "./") == 0 || strcmp(under[i], "../") == 0)
			return fail(CLI_USAGE, "'%s' has no name to go under", shown(roots[i].path));
		for (int j = 0; j < i; j++)
			if (strcmp(under[i], under[j]) == 0)
				return fail(CLI_USAGE, "'%s' and '%s' have the same name; import them one by one",
					shown(roots[j].path), shown(roots[i].path));
	}
	return CLI_OK;
}

/* The target becomes a dataset: its objects are packed together. */
static int mark_dataset(struct remote *to)
{
	char key[GRANARY_KEY_LEN_MAX + 1];
	size_t len = strlen(to->path);
	int err;

	if (len == 0 || opts.dry_run) return CLI_OK; /* a bucket is packed together anyway */
	snprintf(key, sizeof(key), "%.*s", (int)(len - (to->path[len - 1] == '/')), to->path);
	err = granary_mkdir(to->client, granary_ref_key(key), 0755, GRANARY_MKDIR_PARENTS | GRANARY_MKDIR_DATASET, NULL,
		GRANARY_CALL(.bucket = to->bucket));
	if (err < 0 && err != -GRANARY_EEXIST)
		return fail_remote(to->client, err, "cannot make dataset '%s/%s'", to->bucket, shown(key));
	return CLI_OK;
}

static int import_roots(struct scan_root *roots, int count, struct remote *to)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct upload_totals totals = { .files = 0 };
	uint64_t began_ns = clock_mono_ns();
	struct scan scan;
	int code = directory_prefix(prefix, to->path);

	if (code == CLI_OK) code = scan_open(&scan, roots, (size_t)count);
	if (code != CLI_OK) return code;
	code = parse_layout(&scan);
	if (code == CLI_OK) code = mark_dataset(to);
	if (code == CLI_OK) {
		scan_start(&scan);
		code = upload_run(to, &scan, prefix, "import", &totals);
		if (code == CLI_OK || totals.files + totals.same + totals.failed > 0)
			upload_report(&totals, &scan, "import", (double)(clock_mono_ns() - began_ns + 1) / 1e9);
	}
	scan_close(&scan);
	return code;
}

static int import_directories(int count, char **args, struct remote *to)
{
	struct scan_root *roots = must_alloc(calloc((size_t)count, sizeof(*roots)));
	char(*under)[GRANARY_KEY_LEN_MAX + 1] = must_alloc(calloc((size_t)count, sizeof(*under)));
	int code;

	for (int i = 0; i < count; i++) roots[i].path = args[i];
	code = name_roots(roots, under, count);
	if (code == CLI_OK) code = import_roots(roots, count, to);
	free(under);
	free(roots);
	return code;
}

/* ---- import of archives -------------------------------------------------------------------- */

/* "-", or a file that is no directory. */
static bool is_archive(const char *path)
{
	struct stat st;

	return strcmp(path, "-") == 0 || (stat(path, &st) == 0 && !S_ISDIR(st.st_mode));
}

static int import_archives(int count, char **args, struct remote *to)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	int code = directory_prefix(prefix, to->path), done = 0;

	if (opts.layout != NULL && strcmp(opts.layout, "name") != 0)
		return fail(CLI_USAGE, "--layout: an archive is read once, its members keep their order");
	if (code == CLI_OK) code = mark_dataset(to);
	for (; code == CLI_OK && done < count; done++) code = archive_import(to, args[done], prefix);
	return code != CLI_OK && done > 1 ? CLI_PARTIAL : code;
}

int run_import(int count, char **args)
{
	int sources = count - 1, archives = 0, code;
	struct remote to;

	for (int i = 0; i < sources; i++) archives += is_archive(args[i]);
	if (archives > 0 && archives < sources)
		return fail(CLI_USAGE, "directories and archives are imported one after the other, not in one go");
	if (!is_remote(args[sources]))
		return fail(CLI_USAGE, "the last argument, '%s', must be an address that begins with granary://",
			shown(args[sources]));
	code = remote_open(&to, args[sources], NEED_BUCKET, 1); /* one connection keeps the order */
	if (code == CLI_OK)
		code = archives > 0 ? import_archives(sources, args, &to) : import_directories(sources, args, &to);
	remote_close(&to);
	return code;
}

/* ---- export -------------------------------------------------------------------------------- */

static int export_catalog(struct remote *from, const struct catalog *c, const char *prefix, const char *dst)
{
	struct fetch_totals totals = { .files = 0 };
	bool archive = strcmp(dst, "-") == 0 || opts.tar || archive_named(dst);

	if (!archive) return fetch_run(from, c, prefix, dst, NULL, NULL, &totals);
	if (strcmp(dst, "-") == 0 && stdout_is_tty())
		return fail(CLI_USAGE, "the archive would go to the terminal; send it to a file or a program");
	return archive_export(from, c, prefix, dst);
}

int run_export(int count, char **args)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct catalog c = { .count = 0 };
	struct remote from;
	int code = remote_open(&from, args[0], NEED_BUCKET, 1);

	(void)count;
	if (code == CLI_OK) code = directory_prefix(prefix, from.path);
	if (code == CLI_OK) code = catalog_list(&c, &from, prefix);
	if (code == CLI_OK && c.count == 0 && from.path[0] != '\0')
		code = fail(CLI_NOTFOUND, "cannot export '%s/%s': nothing there", from.bucket, shown(from.path));
	if (code == CLI_OK) code = export_catalog(&from, &c, prefix, args[1]);
	catalog_free(&c);
	remote_close(&from);
	return code;
}
