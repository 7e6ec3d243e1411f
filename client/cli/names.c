/* SPDX-License-Identifier: Apache-2.0 */
/* names.c -- ls, stat, mkdir, mv: what only looks at names or moves them. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "common/hash.h"

/* ---- ls ------------------------------------------------------------------------------------ */

struct lister {
	struct table table;
	size_t cut; /* bytes of the prefix that every name has, not shown */
	uint64_t count, bytes;
	bool long_format;
};

static void list_json(const struct granary_list_entry *e)
{
	struct json j;
	size_t len = strlen(e->key);
	bool is_dir = e->kind == GRANARY_PREFIX || (len > 0 && e->key[len - 1] == '/');
	char mode[TEXT_SHORT], letter;

	json_open(&j, stdout);
	json_text(&j, "key", e->key);
	json_text(&j, "type", kind_text(is_dir ? GRANARY_DIR : e->kind, &letter));
	if (e->kind != GRANARY_PREFIX) {
		json_number(&j, "size", e->size);
		json_time(&j, "mtime", e->mtime_ns);
		snprintf(mode, sizeof(mode), "%04o", e->mode & 07777);
		json_text(&j, "mode", mode);
		json_number(&j, "version", e->version);
		json_number(&j, "object_id", e->object_id);
		json_number(&j, "dir_id", e->dir_id);
	}
	json_close(&j);
}

static void list_entry(struct lister *l, const struct granary_list_entry *e)
{
	const char *name = strlen(e->key) >= l->cut ? e->key + l->cut : e->key;
	char size[TEXT_SHORT], time[TEXT_SHORT], mode[TEXT_SHORT], letter;
	bool is_dir = e->kind == GRANARY_PREFIX;

	if (name[0] == '\0' && l->cut > 0) return; /* the listed directory's own entry */
	l->count++;
	l->bytes += e->size;
	if (opts.json) {
		list_json(e);
		return;
	}
	if (stdout_is_tty()) name = shown(name);
	if (!l->long_format) {
		puts(name);
		return;
	}
	(void)kind_text(e->kind, &letter);
	table_row(&l->table,
		(const char *[]){ mode_text(mode, letter, is_dir ? 0755 : e->mode),
			is_dir ? "-" : human_bytes(size, e->size), human_time(time, e->mtime_ns),
			name });
}

/* Lists below a prefix; *found: whether there was anything, the prefix's own entry included. */
static int list_prefix(struct remote *r, const char *prefix, bool *found)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	const struct granary_list_entry *entry;
	struct lister l = { .cut = strlen(prefix), .long_format = opts.long_format };
	struct granary_iter *iter;
	int more;

	query.prefix = prefix;
	query.delimiter = opts.recursive ? NULL : "/";
	more = granary_iter_open(r->client, &query, GRANARY_CALL(.bucket = r->bucket), &iter);
	if (more < 0) return fail_remote(r->client, more, "cannot list '%s'", shown(prefix));
	table_init(&l.table, 4, 1u << 1);
	*found = false;
	while (!ferror(stdout) && (more = granary_iter_next(iter, &entry)) > 0) {
		*found = true;
		list_entry(&l, entry);
	}
	table_end(&l.table);
	if (more < 0)
		fail_remote(r->client, more, "cannot list '%s%s%s'", r->bucket,
			prefix[0] != '\0' ? "/" : "", shown(prefix));
	granary_iter_close(&iter);
	if (more >= 0 && opts.long_format && l.count > 1) {
		char count[TEXT_SHORT], bytes[TEXT_SHORT];
		fflush(stdout);
		note("%s entries, %s", human_count(count, l.count), human_bytes(bytes, l.bytes));
	}
	return more < 0 ? exit_of(more) : CLI_OK;
}

static int list_one(struct remote *r)
{
	struct granary_list_entry entry = { .kind = GRANARY_FILE };
	struct lister l = { .long_format = opts.long_format };
	struct granary_stat st;
	int err = granary_stat(
		r->client, granary_ref_key(r->path), &st, GRANARY_CALL(.bucket = r->bucket));

	if (err < 0)
		return fail_remote(
			r->client, err, "cannot list '%s/%s'", r->bucket, shown(r->path));
	entry.key = r->path;
	entry.kind = st.kind;
	entry.mode = st.mode;
	entry.size = st.size;
	entry.mtime_ns = st.mtime_ns;
	entry.version = st.version;
	entry.object_id = st.object_id;
	entry.dir_id = st.dir_id;
	table_init(&l.table, 4, 1u << 1);
	list_entry(&l, &entry);
	table_end(&l.table);
	return CLI_OK;
}

int run_ls(int count, char **args)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct remote r;
	bool found = false;
	int code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	if (r.bucket[0] == '\0') {
		remote_close(&r);
		return run_bucket_ls(count, args);
	}
	code = directory_prefix(prefix, r.path);
	if (code == CLI_OK) code = list_prefix(&r, prefix, &found);
	if (code == CLI_OK && !found && r.path[0] != '\0')
		code = r.ends_in_slash ? fail(CLI_NOTFOUND, "cannot list '%s/%s': nothing there",
						 r.bucket, shown(r.path))
				       : list_one(&r);
	remote_close(&r);
	return code;
}

/* ---- stat ---------------------------------------------------------------------------------- */

static void hash_text(char out[36], const uint8_t hash[16])
{
	for (unsigned i = 0; i < 16; i++) /* high half first, as xxh128sum prints it */
		snprintf(out + 2 * i, 3, "%02x", hash[15 - i]);
}

static bool has_bytes(const struct granary_stat *st)
{
	return st->kind == GRANARY_FILE;
}

/* As S3 tells it: of bytes that were changed in place nobody knows the hash, and the version tells them apart. */
static const char *etag_text(char out[TEXT_SHORT], const struct granary_stat *st)
{
	char hash[TEXT_SHORT];

	snprintf(hash, sizeof(hash), "%016" PRIx64, st->version);
	if (st->has_hash) hash_text(hash, st->hash);
	snprintf(out, TEXT_SHORT, "%.40s-1", hash);
	return out;
}

struct shown_stat {
	struct granary_stat st;
	struct granary_inode inode; /* nlink 0: not known */
	char *target;
};

static void stat_json(const struct remote *r, const struct shown_stat *s)
{
	const struct granary_stat *st = &s->st;
	struct json j;
	char text[TEXT_SHORT], letter;

	json_open(&j, stdout);
	json_text(&j, "bucket", r->bucket);
	json_text(&j, "key", r->path);
	json_text(&j, "type", kind_text(st->kind, &letter));
	json_number(&j, "size", st->size);
	json_time(&j, "mtime", st->mtime_ns);
	if (s->inode.nlink > 0) {
		json_time(&j, "atime", s->inode.atime_ns);
		json_time(&j, "ctime", s->inode.ctime_ns);
		json_number(&j, "nlink", s->inode.nlink);
		json_number(&j, "rdev", s->inode.rdev);
	}
	if (s->target != NULL) json_text(&j, "target", s->target);
	snprintf(text, sizeof(text), "%04o", st->mode & 07777);
	json_text(&j, "mode", text);
	json_number(&j, "uid", st->uid);
	json_number(&j, "gid", st->gid);
	json_number(&j, "object_id", st->object_id);
	json_number(&j, "dir_id", st->dir_id);
	json_number(&j, "version", st->version);
	if (st->has_hash) {
		hash_text(text, st->hash);
		json_text(&j, "hash", text);
	}
	if (has_bytes(st)) json_text(&j, "etag", etag_text(text, st));
	for (uint64_t i = 0; i < st->meta_count; i++) {
		char name[GRANARY_META_LEN_MAX + 8];
		snprintf(name, sizeof(name), "meta.%s", st->meta[i].name);
		json_text(&j, name, st->meta[i].value);
	}
	json_close(&j);
}

static void stat_text(const struct remote *r, const struct shown_stat *s)
{
	const struct granary_stat *st = &s->st;
	char text[TEXT_SHORT], other[TEXT_SHORT], letter;
	bool is_dir = st->kind == GRANARY_DIR;
	const char *kind = kind_text(st->kind, &letter);

	printf("%s/%s\n", r->bucket, shown(r->path));
	printf("  type       %s\n", is_dir ? "directory" : kind);
	if (s->target != NULL) printf("  target     %s\n", shown(s->target));
	if (!is_dir)
		printf("  size       %" PRIu64 " (%s)\n", st->size, human_bytes(text, st->size));
	printf("  time       %s\n", human_time(text, st->mtime_ns));
	printf("  mode       %s  uid %" PRIu32 "  gid %" PRIu32 "\n",
		mode_text(other, letter, st->mode), st->uid, st->gid);
	if (s->inode.nlink > 1) printf("  links      %" PRIu32 "\n", s->inode.nlink);
	if (st->kind == GRANARY_CHAR || st->kind == GRANARY_BLOCK)
		printf("  device     %u, %u\n", major(s->inode.rdev), minor(s->inode.rdev));
	printf("  object id  %016" PRIx64 " in directory %016" PRIx64 "\n", st->object_id,
		st->dir_id);
	printf("  version    %016" PRIx64 "\n", st->version);
	if (st->has_hash) {
		hash_text(text, st->hash);
		printf("  xxh128     %s\n", text);
	}
	if (has_bytes(st)) printf("  etag       %s\n", etag_text(text, st));
	for (uint64_t i = 0; i < st->meta_count; i++)
		printf("  meta       %s=%s\n", shown(st->meta[i].name), shown(st->meta[i].value));
}

/* "DIR/" names the entry by which the directory is explicit; shown is the directory that it lies in. */
static void stat_directory(struct remote *r, struct shown_stat *s)
{
	struct granary_ref ref = granary_ref_id(s->st.dir_id, 0, "");
	struct granary_stat st = { .status = 0 };
	struct granary_inode inode = { .nlink = 0 };
	int64_t got = s->st.dir_id == 0 ? 0
					: granary_stat_full(r->client, &ref, 1, 0, &st, &inode,
						  GRANARY_CALL(.bucket = r->bucket));

	s->st.kind = GRANARY_DIR;
	if (got != 1 || st.status < 0) return;
	granary_free(s->st.meta);
	s->st = st;
	s->inode = inode;
}

static int stat_one(struct remote *r)
{
	struct granary_ref ref = granary_ref_key(r->path);
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	struct shown_stat s = { .target = NULL };
	int64_t got = granary_stat_full(r->client, &ref, 1, GRANARY_STAT_META, &s.st, &s.inode, call);
	int err = got < 0 ? (int)got : s.st.status;
	size_t len = strlen(r->path);

	if (err == -GRANARY_ENOTFOUND) err = remote_stat(r, r->path, &s.st);
	if (err == 0 && (s.st.kind == GRANARY_DIR || (len > 0 && r->path[len - 1] == '/'))) stat_directory(r, &s);
	if (err == 0 && s.st.kind == GRANARY_SYMLINK) err = granary_readlink(r->client, ref, &s.target, call);
	if (err < 0)
		return fail_text(err, got < 0 ? granary_last_error(r->client) : "",
			"cannot stat '%s/%s'", r->bucket, shown(r->path));
	if (opts.json)
		stat_json(r, &s);
	else
		stat_text(r, &s);
	granary_free(s.st.meta);
	granary_free(s.target);
	return CLI_OK;
}

/* Runs one function over every address; the exit code is the first failure's, or CLI_PARTIAL when others went well. */
static int for_each(int count, char **args, int need, int (*one)(struct remote *r))
{
	int failed = CLI_OK, good = 0;

	for (int i = 0; i < count; i++) {
		struct remote r;
		int code = remote_open(&r, args[i], need, 1);
		if (code == CLI_OK) code = one(&r);
		remote_close(&r);
		if (code == CLI_OK)
			good++;
		else if (failed == CLI_OK)
			failed = code;
	}
	return failed != CLI_OK && good > 0 ? CLI_PARTIAL : failed;
}

int run_stat(int count, char **args)
{
	return for_each(count, args, NEED_PATH, stat_one);
}

/* ---- mkdir --------------------------------------------------------------------------------- */

static void trim_slashes(char *path)
{
	size_t len = strlen(path);

	while (len > 0 && path[len - 1] == '/') path[--len] = '\0';
}

static int mkdir_one(struct remote *r)
{
	uint32_t flags = (opts.parents ? GRANARY_MKDIR_PARENTS : 0u) |
			 (opts.dataset ? GRANARY_MKDIR_DATASET : 0u);
	struct granary_stat st;
	struct json j;
	uint64_t id = 0;
	int err;

	trim_slashes(r->path);
	err = granary_mkdir(r->client, granary_ref_key(r->path), 0755, flags, &id,
		GRANARY_CALL(.bucket = r->bucket));
	if (err == -GRANARY_EEXIST && opts.parents && remote_stat(r, r->path, &st) == 0 &&
		st.kind == GRANARY_DIR) {
		id = st.object_id;
		err = 0;
	}
	if (err < 0)
		return fail_remote(
			r->client, err, "cannot make directory '%s/%s'", r->bucket, shown(r->path));
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", r->path);
		json_number(&j, "dir_id", id);
		json_flag(&j, "dataset", opts.dataset);
		json_close(&j);
	}
	return CLI_OK;
}

int run_mkdir(int count, char **args)
{
	return for_each(count, args, NEED_PATH, mkdir_one);
}

/* ---- mv ------------------------------------------------------------------------------------ */

static int mv_report(const char *verb, const char *from, const char *to, bool done)
{
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "from", from);
		json_text(&j, "to", to);
		json_flag(&j, "done", done);
		json_close(&j);
	} else if (!done) {
		printf("%s '%s' to '%s'\n", verb, shown(from), shown(to));
	}
	return CLI_OK;
}

static int mv_dry(struct remote *r, const char *to)
{
	struct granary_stat st;
	int err = remote_stat(r, r->path, &st);

	if (err < 0) return fail_text(err, "", "cannot rename '%s'", shown(r->path));
	err = remote_stat(r, to, &st);
	return mv_report(err == 0 ? "would replace: rename" : "would rename", r->path, to, false);
}

static int mv_do(struct remote *r, const char *to)
{
	struct granary_ref from_ref = granary_ref_key(r->path), to_ref = granary_ref_key(to);
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	int err = granary_rename(r->client, from_ref, to_ref, GRANARY_RENAME_NO_REPLACE, call);

	if (err == -GRANARY_EEXIST) {
		int code = ask("'%s' exists: replace it", shown(to));
		if (code != CLI_OK) return code;
		err = granary_rename(r->client, from_ref, to_ref, 0, call);
	}
	if (err < 0)
		return fail_remote(
			r->client, err, "cannot rename '%s' to '%s'", shown(r->path), shown(to));
	return mv_report("", r->path, to, true);
}

int run_mv(int count, char **args)
{
	char to[GRANARY_KEY_LEN_MAX + 1];
	struct remote from, target;
	int code;

	(void)count;
	code = remote_open(&from, args[0], NEED_PATH, 1);
	if (code != CLI_OK) return code;
	code = remote_open(&target, args[1], NEED_BUCKET, 1);
	if (code == CLI_OK && (strcmp(from.server, target.server) != 0 ||
				      strcmp(from.bucket, target.bucket) != 0))
		code = fail(CLI_USAGE,
			"mv stays within one bucket; use granary cp -r, then granary rm -r");
	if (code == CLI_OK) {
		trim_slashes(from.path);
		if (target.ends_in_slash || target.path[0] == '\0')
			code = key_join(to, target.path, leaf_of(from.path));
		else
			snprintf(to, sizeof(to), "%s", target.path);
	}
	if (code == CLI_OK) code = opts.dry_run ? mv_dry(&from, to) : mv_do(&from, to);
	remote_close(&target);
	remote_close(&from);
	return code;
}
