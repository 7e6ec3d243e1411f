/* SPDX-License-Identifier: Apache-2.0 */
/* du.c -- du: objects and bytes below each directory. Keys come in byte order, so of every level only one directory is
 * open at a time and nothing but their sums is kept. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { LEVELS_MAX = 1000 };

struct level { /* of the directory path[0..end) */
	size_t end;
	uint64_t objects, bytes;
};

struct usage {
	struct remote *r;
	struct table table;
	char path[GRANARY_KEY_LEN_MAX + 2]; /* below the prefix; its open directories are levels[1..count) */
	struct level *levels;               /* [0]: all of it */
	uint32_t count, shown_max;
	const char *prefix;
};

static void usage_line(struct usage *u, const char *name, const struct level *l)
{
	char objects[TEXT_SHORT], bytes[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "bucket", u->r->bucket);
		json_text(&j, "key", name);
		json_number(&j, "objects", l->objects);
		json_number(&j, "bytes", l->bytes);
		json_close(&j);
		return;
	}
	table_row(&u->table, (const char *[]){ human_bytes(bytes, l->bytes), human_count(objects, l->objects),
				     stdout_is_tty() ? shown(name) : name });
}

/* Ends the directories that lie deeper than `keep`: their sums go to the one above, and a line is printed. */
static void usage_leave(struct usage *u, uint32_t keep)
{
	while (u->count > keep) {
		struct level *l = &u->levels[--u->count];
		char name[2 * GRANARY_KEY_LEN_MAX + 4];
		u->levels[u->count - 1].objects += l->objects;
		u->levels[u->count - 1].bytes += l->bytes;
		snprintf(name, sizeof(name), "%s%.*s", u->prefix, (int)l->end, u->path);
		if (u->count <= u->shown_max) usage_line(u, name, l);
	}
}

static void usage_entry(struct usage *u, const struct granary_list_entry *e)
{
	const char *name = e->key + strlen(u->prefix);
	size_t len = strlen(name), at = 0;
	uint32_t same = 1;

	while (same < u->count && strncmp(name, u->path, u->levels[same].end) == 0) same++;
	usage_leave(u, same);
	at = u->levels[same - 1].end;
	memcpy(u->path, name, len + 1);
	for (const char *slash; (slash = strchr(name + at, '/')) != NULL && u->count <= u->shown_max;) {
		at = (size_t)(slash - name) + 1;
		u->levels[u->count++] = (struct level){ .end = at };
	}
	if (len > 0 && name[len - 1] == '/') return; /* a directory's own entry */
	u->levels[u->count - 1].objects++;
	u->levels[u->count - 1].bytes += e->size;
}

static int usage_walk(struct usage *u)
{
	struct granary_list_query query = GRANARY_INIT(granary_list_query);
	const struct granary_list_entry *entry;
	struct granary_iter *iter;
	uint64_t met = 0;
	int more;

	query.prefix = u->prefix;
	more = granary_iter_open(u->r->client, &query, GRANARY_CALL(.bucket = u->r->bucket), &iter);
	if (more < 0) return fail_remote(u->r->client, more, "cannot list '%s'", shown(u->prefix));
	while ((more = granary_iter_next(iter, &entry)) > 0) {
		usage_entry(u, entry);
		met++;
	}
	granary_iter_close(&iter);
	if (more < 0) return fail_remote(u->r->client, more, "cannot list '%s'", shown(u->prefix));
	if (met == 0 && u->prefix[0] != '\0')
		return fail(CLI_NOTFOUND, "nothing below '%s/%s'", u->r->bucket, shown(u->prefix));
	usage_leave(u, 1);
	usage_line(u, u->prefix[0] != '\0' ? u->prefix : u->r->bucket, &u->levels[0]);
	return CLI_OK;
}

int run_du(int count, char **args)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct remote r;
	struct usage u = {
		.r = &r, .count = 1, .shown_max = opts.depth_given ? (uint32_t)opts.depth : 1, .prefix = prefix
	};
	int code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code == CLI_OK && r.bucket[0] == '\0') {
		remote_close(&r);
		return run_bucket_ls(count, args);
	}
	if (code == CLI_OK) code = directory_prefix(prefix, r.path);
	if (code == CLI_OK) {
		u.levels = must_alloc(calloc(LEVELS_MAX + 2, sizeof(*u.levels)));
		table_init(&u.table, 3, 3);
		code = usage_walk(&u);
		table_end(&u.table);
		free(u.levels);
	}
	remote_close(&r);
	return code;
}
