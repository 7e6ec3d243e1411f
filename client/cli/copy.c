/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c -- cp and cat: decides what goes where; upload.c and fetch.c move it. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "dest.h"
#include "fetch.h"
#include "upload.h"

enum { PATH_MAX_HERE = 4096 };

struct side {
	const char *text;
	bool remote, standard;
	struct remote r;
};

static int report_one(const char *from, const char *to, uint64_t bytes)
{
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "from", from);
		json_text(&j, "to", to);
		json_number(&j, "bytes", bytes);
		json_flag(&j, "dry_run", opts.dry_run);
		json_close(&j);
	} else if (opts.dry_run) {
		printf("would copy '%s' to '%s'\n", shown(from), shown(to));
	}
	return CLI_OK;
}

/* ---- one file into the store --------------------------------------------------------------- */

static int put_one(const char *src, int fd, struct remote *to, const char *key)
{
	struct granary_put put = { .ref = granary_ref_key(key) };
	struct progress progress;
	struct stat st;
	int err, errnum;

	if (fstat(fd, &st) < 0) return fail_errno(errno, "cannot read '%s'", shown(src));
	if (S_ISDIR(st.st_mode))
		return fail(CLI_FAILED, "cannot copy '%s': is a directory; try -r", shown(src));
	if (S_ISREG(st.st_mode) && fd != STDIN_FILENO) {
		put.flags = GRANARY_PUT_MODE | GRANARY_PUT_MTIME;
		put.mode = st.st_mode & 07777;
		put.uid = st.st_uid;
		put.gid = st.st_gid;
		put.mtime_ns = stat_mtime_ns(&st);
	}
	if (opts.dry_run)
		return report_one(src, key, S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0);
	progress_start(&progress, "copy");
	if (S_ISREG(st.st_mode)) atomic_store(&progress.bytes_total, (uint64_t)st.st_size);
	err = upload_stream(to, fd, &put, &errnum, &progress);
	progress_stop(&progress);
	if (errnum != 0) return fail_errno(errnum, "cannot read '%s'", shown(src));
	if (err < 0)
		return fail_remote(to->client, err, "cannot write '%s/%s'", to->bucket, shown(key));
	return report_one(src, key, put.size);
}

static int copy_up(const char *src, bool standard, struct remote *to)
{
	char key[GRANARY_KEY_LEN_MAX + 1];
	bool into = to->path[0] == '\0' || to->ends_in_slash;
	int fd, code = CLI_OK;

	if (standard && into)
		return fail(CLI_USAGE,
			"standard input has no name: give the whole address of the object");
	if (into)
		code = key_join(key, to->path, leaf_of(src));
	else
		snprintf(key, sizeof(key), "%s", to->path);
	if (code != CLI_OK) return code;
	fd = standard ? STDIN_FILENO : open(src, O_RDONLY | O_CLOEXEC);
	if (fd < 0) return fail_errno(errno, "cannot read '%s'", shown(src));
	code = put_one(src, fd, to, key);
	if (!standard) close(fd);
	return code;
}

/* ---- one object out of the store ----------------------------------------------------------- */

static int sink_stdout(void *arg, const void *data, size_t len)
{
	(void)arg;
	return fwrite(data, 1, len, stdout) == len ? 0 : -GRANARY_EIO;
}

static int cat_key(struct remote *r, const char *key)
{
	int64_t got = granary_read_stream(r->client, granary_ref_key(key), 0, GRANARY_TO_END,
		sink_stdout, NULL, GRANARY_CALL(.bucket = r->bucket));

	if (got >= 0) return CLI_OK;
	if (ferror(stdout)) return CLI_FAILED; /* output_close() says why */
	return fail_remote(r->client, (int)got, "cannot read '%s/%s'", r->bucket, shown(key));
}

struct file_sink {
	struct dest *dest;
	struct progress progress;
	int err;
};

static int sink_file(void *arg, const void *data, size_t len)
{
	struct file_sink *s = arg;

	progress_add(&s->progress, 0, len);
	s->err = dest_write(s->dest, data, len);
	return s->err < 0 ? -GRANARY_EIO : 0;
}

/* Into `name` in the local directory `dir`. */
static int get_one(struct remote *from, const char *dir, const char *name)
{
	struct file_sink sink = { .dest = NULL };
	struct granary_stat st;
	int64_t got;
	int err = remote_stat(from, from->path, &st);

	if (err == 0 && st.kind == GRANARY_DIR) err = -GRANARY_EISDIR;
	if (err < 0)
		return fail_text(err, "", "cannot read '%s/%s'", from->bucket, shown(from->path));
	if (dest_refuses(name) != NULL || strchr(name, '/') != NULL)
		return fail(CLI_USAGE, "cannot write '%s': no name of a file", shown(name));
	if (opts.dry_run) return report_one(from->path, name, st.size);
	err = dest_open(&sink.dest, dir, false);
	if (err == 0) err = sink.dest == NULL ? -ENOENT : dest_create(sink.dest, name);
	if (err < 0) {
		dest_close(&sink.dest);
		return fail_errno(-err, "cannot write '%s/%s'", shown(dir), shown(name));
	}
	progress_start(&sink.progress, "copy");
	atomic_store(&sink.progress.bytes_total, st.size);
	got = granary_read_stream(from->client, granary_ref_key(from->path), 0, GRANARY_TO_END,
		sink_file, &sink, GRANARY_CALL(.bucket = from->bucket));
	progress_stop(&sink.progress);
	if (got >= 0) sink.err = dest_commit(sink.dest, st.mode, st.mtime_ns);
	dest_close(&sink.dest);
	if (sink.err < 0)
		return fail_errno(-sink.err, "cannot write '%s/%s'", shown(dir), shown(name));
	if (got < 0)
		return fail_remote(from->client, (int)got, "cannot read '%s/%s'", from->bucket,
			shown(from->path));
	return report_one(from->path, name, (uint64_t)got);
}

/* Where a local path points: a directory to write into, and the name there ("" for the source's own). */
static int local_target(const char *path, char dir[PATH_MAX_HERE], const char **name)
{
	size_t len = strlen(path);
	const char *leaf = leaf_of(path);
	struct stat st;
	int n;

	*name = "";
	if (len > 0 && (path[len - 1] == '/' || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))) {
		n = snprintf(dir, PATH_MAX_HERE, "%s", path);
	} else {
		*name = leaf;
		n = leaf == path ? snprintf(dir, PATH_MAX_HERE, ".")
				 : snprintf(dir, PATH_MAX_HERE, "%.*s", (int)(leaf - path), path);
	}
	return n < PATH_MAX_HERE && len > 0 ? CLI_OK
					    : fail(CLI_USAGE, "'%s': no usable path", shown(path));
}

static int copy_down(struct remote *from, const char *dst, bool standard)
{
	char dir[PATH_MAX_HERE];
	const char *name;
	int code;

	if (from->path[0] == '\0' || from->ends_in_slash)
		return fail(CLI_USAGE, "'%s/%s' is a directory; try -r", from->bucket,
			shown(from->path));
	if (standard) return cat_key(from, from->path);
	code = local_target(dst, dir, &name);
	return code != CLI_OK ? code
			      : get_one(from, dir, name[0] != '\0' ? name : leaf_of(from->path));
}

/* ---- trees --------------------------------------------------------------------------------- */

/* A target that ends in a slash takes the source under its own name. */
static int tree_target(char out[GRANARY_KEY_LEN_MAX + 1], const struct remote *to, const char *src)
{
	char under[GRANARY_KEY_LEN_MAX + 1];
	const char *leaf = leaf_of(src);
	size_t len = strcspn(leaf, "/");
	int code;

	if (!to->ends_in_slash || len == 0 || strncmp(leaf, ".", len) == 0 ||
		strncmp(leaf, "..", len) == 0)
		return directory_prefix(out, to->path);
	snprintf(under, sizeof(under), "%.*s", (int)len, leaf);
	code = key_join(out, to->path, under);
	if (code != CLI_OK) return code;
	snprintf(under, sizeof(under), "%s", out);
	return directory_prefix(out, under);
}

static int tree_up(const char *src, struct remote *to)
{
	struct scan_root root = { .path = src, .under = "" };
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct upload_totals totals = { .files = 0 };
	uint64_t began_ns = clock_mono_ns();
	struct stat st;
	struct scan scan;
	int code;

	if (stat(src, &st) == 0 && !S_ISDIR(st.st_mode)) return copy_up(src, false, to);
	code = tree_target(prefix, to, src);
	if (code == CLI_OK) code = scan_open(&scan, &root, 1);
	if (code != CLI_OK) return code;
	scan_start(&scan);
	code = upload_run(to, &scan, prefix, "copy", &totals);
	if (code == CLI_OK || totals.files + totals.same + totals.failed > 0)
		upload_report(
			&totals, &scan, "copy", (double)(clock_mono_ns() - began_ns + 1) / 1e9);
	scan_close(&scan);
	return code;
}

/* The source's catalog and the prefix its names lose; a single object when it is one. */
static int tree_source(
	struct remote *from, struct catalog *c, char prefix[GRANARY_KEY_LEN_MAX + 1], bool *single)
{
	struct granary_stat st;
	int code = directory_prefix(prefix, from->path);

	*single = false;
	if (code == CLI_OK) code = catalog_list(c, from, prefix);
	if (code == CLI_OK) catalog_keep_files(c);
	if (code != CLI_OK || c->count > 0 || from->path[0] == '\0') return code;
	*single = !from->ends_in_slash && granary_stat(from->client, granary_ref_key(from->path),
						  &st, GRANARY_CALL(.bucket = from->bucket)) == 0;
	return *single ? CLI_OK
		       : fail(CLI_NOTFOUND, "cannot copy '%s/%s': nothing there", from->bucket,
				 shown(from->path));
}

static int tree_down(struct remote *from, const char *dst)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1], dir[PATH_MAX_HERE];
	struct fetch_totals totals = { .files = 0 };
	const char *leaf = leaf_of(from->path);
	struct catalog c;
	bool single;
	size_t len = strlen(dst);
	int n, code = tree_source(from, &c, prefix, &single);

	if (code != CLI_OK) return code;
	if (len > 0 && dst[len - 1] == '/' && leaf[0] != '\0' && !single)
		n = snprintf(dir, sizeof(dir), "%s%.*s", dst, (int)strcspn(leaf, "/"), leaf);
	else
		n = snprintf(dir, sizeof(dir), "%s", dst);
	if (single)
		code = copy_down(from, dst, false);
	else if (n >= (int)sizeof(dir) || len == 0 ||
		(leaf[0] != '\0' && strncmp(leaf, "..", strcspn(leaf, "/")) == 0))
		code = fail(CLI_USAGE, "cannot copy '%s' to '%s'", shown(from->path), shown(dst));
	else
		code = fetch_run(from, &c, prefix, dir, NULL, NULL, &totals);
	catalog_free(&c);
	return code;
}

/* On one server no byte is read: the copy refers to where they are. */
static int copy_by_reference(struct remote *from, struct remote *to, const char *key)
{
	struct granary_copy options = GRANARY_INIT(granary_copy);
	struct granary_placed placed;
	struct json j;
	int err;

	if (opts.dry_run) {
		if (!opts.json) printf("would copy '%s' to '%s/%s'\n", shown(from->path), to->bucket, shown(key));
		return CLI_OK;
	}
	options.to_bucket = to->bucket;
	err = granary_copy(from->client, granary_ref_key(from->path), granary_ref_key(key), &options, &placed,
		GRANARY_CALL(.bucket = from->bucket));
	if (err < 0)
		return fail_remote(from->client, err, "cannot copy '%s/%s' to '%s/%s'", from->bucket, shown(from->path),
			to->bucket, shown(key));
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", key);
		json_number(&j, "object_id", placed.object_id);
		json_number(&j, "version", placed.version);
		json_close(&j);
	}
	return CLI_OK;
}

static int copy_across(struct remote *from, struct remote *to)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1] = "", to_prefix[GRANARY_KEY_LEN_MAX + 1],
					  key[GRANARY_KEY_LEN_MAX + 1];
	struct fetch_totals totals = { .files = 0 };
	struct item item = { .key = from->path };
	struct catalog c = { .items = &item, .count = 1 };
	struct granary_stat st;
	bool single = true;
	int code = CLI_OK, err;

	if (opts.recursive) {
		code = tree_source(from, &c, prefix, &single);
		if (code == CLI_OK && !single) code = tree_target(to_prefix, to, from->path);
		if (code == CLI_OK && !single)
			code = fetch_run(from, &c, prefix, NULL, to, to_prefix, &totals);
		catalog_free(&c);
		if (!single || code != CLI_OK) return code;
		return fail(CLI_USAGE, "'%s/%s' is an object; copy it without -r", from->bucket,
			shown(from->path));
	}
	err = remote_stat(from, from->path, &st);
	if (err < 0 || st.kind == GRANARY_DIR)
		return fail_text(err < 0 ? err : -GRANARY_EISDIR, "", "cannot read '%s/%s'",
			from->bucket, shown(from->path));
	/* One item under its own name: the prefix is all but that name, or the name is what it shall be called. */
	item.size = st.size;
	item.mode = st.mode;
	item.mtime_ns = st.mtime_ns;
	if (to->path[0] == '\0' || to->ends_in_slash)
		code = key_join(key, to->path, leaf_of(from->path));
	else
		snprintf(key, sizeof(key), "%s", to->path);
	if (code != CLI_OK || strcmp(from->server, to->server) != 0)
		return code != CLI_OK ? code : fetch_one(from, &item, to, key);
	return copy_by_reference(from, to, key);
}

/* ---- verbs --------------------------------------------------------------------------------- */

static int side_open(struct side *s, const char *text, int need)
{
	s->text = text;
	s->remote = is_remote(text);
	s->standard = strcmp(text, "-") == 0;
	return s->remote ? remote_open(&s->r, text, need, 1) : CLI_OK;
}

static int copy_sides(struct side *from, struct side *to)
{
	if (opts.recursive && (from->standard || to->standard))
		return fail(CLI_USAGE, "-r copies directories; - is none");
	if (from->remote && to->remote) return copy_across(&from->r, &to->r);
	if (from->remote)
		return opts.recursive ? tree_down(&from->r, to->text)
				      : copy_down(&from->r, to->text, to->standard);
	if (to->remote)
		return opts.recursive ? tree_up(from->text, &to->r)
				      : copy_up(from->text, from->standard, &to->r);
	return fail(CLI_USAGE,
		"neither '%s' nor '%s' is an address; one must begin with granary://",
		shown(from->text), shown(to->text));
}

int run_cp(int count, char **args)
{
	struct side from = { .text = NULL }, to = { .text = NULL };
	int code = side_open(&from, args[0], NEED_BUCKET);

	(void)count;
	if (code == CLI_OK) code = side_open(&to, args[1], NEED_BUCKET);
	if (code == CLI_OK) code = copy_sides(&from, &to);
	remote_close(&from.r);
	remote_close(&to.r);
	return code;
}

int run_cat(int count, char **args)
{
	int failed = CLI_OK, good = 0;

	for (int i = 0; i < count && !ferror(stdout); i++) {
		struct remote r;
		int code = remote_open(&r, args[i], NEED_PATH, 1);
		if (code == CLI_OK) code = cat_key(&r, r.path);
		remote_close(&r);
		if (code == CLI_OK)
			good++;
		else if (failed == CLI_OK)
			failed = code;
	}
	return failed != CLI_OK && good > 0 ? CLI_PARTIAL : failed;
}
