/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c -- addresses, the client behind them, and whole listings kept in memory. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"

#define SCHEME "granary://"
enum {
	BULK_TIMEOUT_S = 120,
	FIRST_ANSWER_MS = 5000,
	ARENA_BLOCK = 256 * 1024,
	LIST_SHOW_AFTER_NS = 1000000000
};

bool is_remote(const char *text)
{
	return strncmp(text, SCHEME, strlen(SCHEME)) == 0;
}

uint32_t bulk_timeout_ms(void)
{
	return (uint32_t)(opts.timeout_s > 0 ? opts.timeout_s : BULK_TIMEOUT_S) * 1000u;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int remote_parse(struct remote *r, const char *text, int need)
{
	struct granary_url url;
	char why[256];
	size_t len;

	if (!is_remote(text))
		return fail(CLI_USAGE, "'%s' is no address; it must begin with %sHOST/",
			shown(text), SCHEME);
	if (granary_url_parse(text, &url, why, sizeof(why)) < 0) return fail(CLI_USAGE, "%s", why);
	if (url.snapshot[0] != '\0')
		return fail(CLI_USAGE,
			"'%s' names a snapshot: read it with granary stream, see granary snapshot "
			"--help",
			shown(text));
	if (need >= NEED_BUCKET && url.bucket[0] == '\0')
		return fail(CLI_USAGE, "'%s' names no bucket; write %sHOST/BUCKET%s", shown(text),
			SCHEME, need == NEED_PATH ? "/PATH" : "");
	if (need >= NEED_PATH && url.path[0] == '\0')
		return fail(CLI_USAGE, "'%s' names a bucket; write %sHOST/BUCKET/PATH", shown(text),
			SCHEME);
	len = strlen(SCHEME) + strcspn(text + strlen(SCHEME), "/");
	if (len >= sizeof(r->server)) return fail(CLI_USAGE, "'%s': too many hosts", shown(text));
	snprintf(r->server, sizeof(r->server), "%.*s", (int)len, text);
	snprintf(r->bucket, sizeof(r->bucket), "%s", url.bucket);
	snprintf(r->path, sizeof(r->path), "%s", url.path);
	len = strlen(r->path);
	r->ends_in_slash = text[strlen(text) - 1] == '/' && (len == 0 || r->path[len - 1] == '/');
	return CLI_OK;
}

int remote_open(struct remote *r, const char *text, int need, uint32_t connections)
{
	struct granary_options options = GRANARY_INIT(granary_options);
	int err;

	memset(r, 0, sizeof(*r));
	if (text != NULL) {
		err = remote_parse(r, text, need);
		if (err != CLI_OK) return err;
	}
	options.url = text != NULL ? text : opts.url;
	options.credentials = opts.credentials;
	options.profile = opts.profile;
	options.name = "granary";
	options.timeout_ms = (uint32_t)opts.timeout_s * 1000u;
	options.connections = connections;
	err = granary_open(&options, &r->client);
	if (err < 0) return fail(exit_of(err), "%s", granary_last_error(NULL));
	/* A server that is not there is said soon, not after the patience that work under way deserves. */
	err = granary_ping(
		r->client, GRANARY_CALL(.timeout_ms = opts.timeout_s > 0 ? 0 : FIRST_ANSWER_MS));
	if (err < 0) {
		err = fail_remote(r->client, err, "cannot use the server");
		remote_close(r);
		return err;
	}
	if (text == NULL) snprintf(r->bucket, sizeof(r->bucket), "%s", granary_bucket(r->client));
	return CLI_OK;
}

int remote_open_snapshot(
	struct remote *r, const char *text, char name[SNAPSHOT_NAME_CAP], uint32_t connections)
{
	char address[sizeof(r->server) + GRANARY_BUCKET_LEN_MAX + 2], path[GRANARY_KEY_LEN_MAX + 1];
	struct granary_url url;
	char why[256], whole[2048];
	int code;

	/* A bare BUCKET@NAME is at the server of --url, GRANARY_URL or the credentials file. */
	snprintf(whole, sizeof(whole), "%s%s", is_remote(text) ? "" : SCHEME "host/", text);
	if (granary_url_parse(whole, &url, why, sizeof(why)) < 0)
		return fail(CLI_USAGE, "'%s': %s", shown(text), why);
	if (url.bucket[0] == '\0')
		return fail(CLI_USAGE, "'%s' names no bucket; write BUCKET@NAME or %sHOST/BUCKET@NAME",
			shown(text), SCHEME);
	snprintf(name, SNAPSHOT_NAME_CAP, "%s", url.snapshot);
	snprintf(path, sizeof(path), "%s", url.path);
	snprintf(address, sizeof(address), "%.*s/%s",
		(int)(strlen(SCHEME) + strcspn(whole + strlen(SCHEME), "/")), whole, url.bucket);
	code = remote_open(r, is_remote(text) ? address : NULL, is_remote(text) ? NEED_BUCKET : NEED_NOTHING,
		connections);
	snprintf(r->bucket, sizeof(r->bucket), "%s", url.bucket);
	snprintf(r->path, sizeof(r->path), "%s", path);
	return code;
}

void remote_close(struct remote *r)
{
	if (r->client != NULL) granary_close(&r->client);
}

/* The value of `url=` in a credentials file. */
static int server_of_file(const char *path, char *out, size_t cap)
{
	char line[1024];
	FILE *file = fopen(path, "re");
	int found = -1;

	if (file == NULL) return -1;
	while (found < 0 && fgets(line, sizeof(line), file) != NULL) {
		line[strcspn(line, "\r\n")] = '\0';
		if (strncmp(line, "url=", 4) == 0 && is_remote(line + 4)) {
			snprintf(out, cap, "%s", line + 4);
			found = 0;
		}
	}
	memset(line, 0, sizeof(line));
	fclose(file);
	return found;
}

bool credentials_path(char *out, size_t cap)
{
	const char *file = opts.credentials;

	if (file == NULL && opts.profile == NULL) file = getenv("GRANARY_CREDENTIALS");
	if (file != NULL && file[0] != '\0') return snprintf(out, cap, "%s", file) < (int)cap;
	return granary_profile_path(opts.profile, out, cap) == 0;
}

int remote_server(const struct remote *r, char *out, size_t cap)
{
	const char *text = r->server[0] != '\0' ? r->server
			   : opts.url != NULL   ? opts.url
						: getenv("GRANARY_URL");
	char file[4096];

	if (text != NULL)
		snprintf(out, cap, "%s", text);
	else if (!credentials_path(file, sizeof(file)) || server_of_file(file, out, cap) < 0)
		return fail(CLI_USAGE, "which server? give its address, or --url");
	if (is_remote(out)) out[strlen(SCHEME) + strcspn(out + strlen(SCHEME), "/")] = '\0';
	return CLI_OK;
}

uint64_t wall_of_store_time(struct remote *r, uint64_t store_ns)
{
	struct granary_info info = GRANARY_INIT(granary_info);
	uint64_t wall_ns = clock_wall_ns();

	if (store_ns == 0 || granary_client_info(r->client, &info) < 0 || info.store_time_ns == 0)
		return store_ns;
	/* The answer is from the log-in a moment ago. Unsigned: differences of either sign. */
	return wall_ns + (store_ns - info.store_time_ns);
}

/* ---- keys ---------------------------------------------------------------------------------- */

int key_join(char out[GRANARY_KEY_LEN_MAX + 1], const char *path, const char *name)
{
	size_t len = strlen(path);
	int n = snprintf(out, GRANARY_KEY_LEN_MAX + 1, "%s%s%s", path,
		len > 0 && path[len - 1] != '/' ? "/" : "", name);

	if (n > GRANARY_KEY_LEN_MAX)
		return fail(CLI_USAGE, "'%s' below '%s' is longer than %d bytes", shown(name),
			shown(path), GRANARY_KEY_LEN_MAX);
	return CLI_OK;
}

int directory_prefix(char out[GRANARY_KEY_LEN_MAX + 1], const char *path)
{
	if (path[0] == '\0') {
		out[0] = '\0';
		return CLI_OK;
	}
	return key_join(out, path, "");
}

/* Is anything there below it? A directory that nobody made has no entry of its own. */
static bool has_children(struct remote *r, const char *prefix)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	struct granary_list_page *page;
	bool found = false;

	query.prefix = prefix;
	query.max = 1;
	if (granary_list(r->client, &query, &page, GRANARY_CALL(.bucket = r->bucket)) == 0)
		found = page->count > 0;
	granary_free(page);
	return found;
}

int remote_stat(struct remote *r, const char *path, struct granary_stat *st)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	size_t len = strlen(path);
	int err = granary_stat(r->client, granary_ref_key(path), st, call);

	if (err != -GRANARY_ENOTFOUND || len == 0 || len >= GRANARY_KEY_LEN_MAX) {
		if (err == 0 && path[len - 1] == '/') st->kind = GRANARY_DIR;
		return err;
	}
	snprintf(prefix, sizeof(prefix), "%s%s", path, path[len - 1] == '/' ? "" : "/");
	if (granary_stat(r->client, granary_ref_key(prefix), st, call) < 0) {
		if (!has_children(r, prefix)) return -GRANARY_ENOTFOUND;
		memset(st, 0, sizeof(*st));
		st->mode = 0755;
	}
	st->kind = GRANARY_DIR;
	return 0;
}

const char *leaf_of(const char *path)
{
	const char *end = path + strlen(path);

	while (end > path && end[-1] == '/') end--;
	while (end > path && end[-1] != '/') end--;
	return end;
}

/* ---- listings ------------------------------------------------------------------------------ */

struct arena_block {
	struct arena_block *next;
	char bytes[];
};

const char *arena_text(struct arena *a, const char *text, size_t len)
{
	char *at;

	if (a->head == NULL || a->cap - a->used < len + 1) {
		size_t size = len + 1 > ARENA_BLOCK ? len + 1 : ARENA_BLOCK;
		struct arena_block *block = must_alloc(malloc(sizeof(*block) + size));
		block->next = a->head;
		a->head = block;
		a->used = 0;
		a->cap = size;
	}
	at = a->head->bytes + a->used;
	memcpy(at, text, len);
	at[len] = '\0';
	a->used += len + 1;
	return at;
}

void arena_free(struct arena *a)
{
	while (a->head != NULL) {
		struct arena_block *next = a->head->next;
		free(a->head);
		a->head = next;
	}
}

int symlink_put(struct remote *r, const char *key, const char *target)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket, .timeout_ms = bulk_timeout_ms());
	int err = granary_symlink(r->client, target, granary_ref_key(key), NULL, call);
	char *there = NULL;

	if (err != -GRANARY_EEXIST) return err;
	if (granary_readlink(r->client, granary_ref_key(key), &there, call) == 0 && strcmp(there, target) == 0)
		err = 0;
	else if ((err = granary_delete(r->client, key, call)) == 0)
		err = granary_symlink(r->client, target, granary_ref_key(key), NULL, call);
	granary_free(there);
	return err;
}

void catalog_add(struct catalog *c, const struct item *item)
{
	if (c->count == c->cap) {
		c->cap = c->cap == 0 ? 1024 : c->cap * 2;
		c->items = must_alloc(realloc(c->items, c->cap * sizeof(*c->items)));
	}
	c->items[c->count] = *item;
	c->items[c->count++].key = arena_text(&c->texts, item->key, strlen(item->key));
	c->bytes += item->size;
}

void catalog_keep_files(struct catalog *c)
{
	size_t kept = 0;

	c->bytes = 0;
	for (size_t i = 0; i < c->count; i++) {
		if ((c->items[i].mode & S_IFMT) != 0 && !S_ISREG(c->items[i].mode)) continue;
		c->bytes += c->items[i].size;
		c->items[kept++] = c->items[i];
	}
	if (kept < c->count)
		note("%zu symbolic links and special files are left out", c->count - kept);
	c->count = kept;
}

int catalog_list(struct catalog *c, struct remote *r, const char *prefix)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	const struct granary_list_entry *entry;
	struct granary_iter *iter;
	struct progress progress;
	bool shows = false;
	uint64_t began_ns = clock_mono_ns();
	int more;

	memset(c, 0, sizeof(*c));
	query.prefix = prefix;
	more = granary_iter_open(r->client, &query, call, &iter);
	if (more < 0) return fail_remote(r->client, more, "cannot list '%s'", shown(prefix));
	while ((more = granary_iter_next(iter, &entry)) > 0) {
		catalog_add(c, &(struct item){ entry->key, entry->size, entry->mtime_ns, entry->object_id,
				       entry->dir_id, entry->mode, 0 });
		if (!shows && c->count % 1024 == 0 &&
			clock_mono_ns() - began_ns > LIST_SHOW_AFTER_NS) {
			progress_start(&progress, "listing");
			progress_add(&progress, c->count - 1, c->bytes - entry->size);
			shows = true;
		}
		if (shows) progress_add(&progress, 1, entry->size);
	}
	if (shows) progress_stop(&progress);
	if (more < 0) {
		fail_remote(r->client, more, "cannot list '%s'", shown(prefix));
		catalog_free(c);
	}
	granary_iter_close(&iter);
	return more < 0 ? exit_of(more) : CLI_OK;
}

void catalog_free(struct catalog *c)
{
	free(c->items);
	arena_free(&c->texts);
	memset(c, 0, sizeof(*c));
}
