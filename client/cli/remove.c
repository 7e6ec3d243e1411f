/* SPDX-License-Identifier: Apache-2.0 */
/* remove.c -- rm. With -r: one listing, then batches of deletes with several under way, then the directories that
 * somebody made, the deepest first. Running it again after a stop removes what is left. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

enum { DELETE_BATCH = 1000, DELETE_SLOTS = 4, FAILURES_NAMED = 10 };

struct remover {
	struct remote *r;
	struct progress progress;
	struct {
		struct granary_delete *deletes;
		size_t count;
		uint64_t bytes;
		struct granary_op *op;
	} slots[DELETE_SLOTS];
	uint64_t removed, bytes, gone, failed;
	int first_err;
};

static void remover_failed(struct remover *m, const char *key, int err, const char *text)
{
	if (m->first_err == 0) m->first_err = err;
	if (m->failed++ < FAILURES_NAMED) fail_text(err, text, "cannot remove '%s'", shown(key));
}

/* Waits for one batch and counts what became of it. */
static void remover_collect(struct remover *m, unsigned slot)
{
	int64_t done;

	if (m->slots[slot].op == NULL) return;
	done = granary_wait(m->slots[slot].op, GRANARY_FOREVER);
	for (size_t i = 0; i < m->slots[slot].count; i++) {
		struct granary_delete *d = &m->slots[slot].deletes[i];
		int err = done < 0 ? (int)done : d->status;
		if (err == -GRANARY_ENOTFOUND)
			m->gone++; /* somebody else was faster */
		else if (err < 0)
			remover_failed(m, d->ref.name, err,
				done < 0 ? granary_op_error(m->slots[slot].op) : "");
		else
			m->removed++;
		if (err == 0) m->bytes += d->size;
	}
	progress_add(&m->progress, m->slots[slot].count, m->slots[slot].bytes);
	granary_op_free(&m->slots[slot].op);
}

static bool is_directory_key(const char *key)
{
	size_t len = strlen(key);

	return len > 0 && key[len - 1] == '/';
}

static void remove_files(struct remover *m, const struct catalog *c)
{
	const struct granary_call *call =
		GRANARY_CALL(.bucket = m->r->bucket, .timeout_ms = bulk_timeout_ms());
	size_t at = 0;

	for (unsigned slot = 0; at < c->count && m->failed < DELETE_BATCH;
		slot = (slot + 1) % DELETE_SLOTS) {
		size_t n = 0;
		int err;
		remover_collect(m, slot);
		m->slots[slot].bytes = 0;
		for (; at < c->count && n < DELETE_BATCH; at++) {
			if (is_directory_key(c->items[at].key)) continue;
			m->slots[slot].deletes[n++] =
				(struct granary_delete){ .ref = granary_ref_key(c->items[at].key) };
			m->slots[slot].bytes += c->items[at].size;
		}
		m->slots[slot].count = n;
		if (n == 0) break;
		err = granary_delete_start(
			m->r->client, m->slots[slot].deletes, n, call, &m->slots[slot].op);
		if (err < 0) {
			remover_failed(m, m->slots[slot].deletes[0].ref.name, err,
				granary_last_error(m->r->client));
			m->failed += n - 1;
		}
	}
	for (unsigned slot = 0; slot < DELETE_SLOTS; slot++) remover_collect(m, slot);
}

/* Keys are in byte order, so what lies deeper comes later: walk backwards. */
static void remove_directories(struct remover *m, const struct catalog *c)
{
	for (size_t i = c->count; i-- > 0;) {
		char key[GRANARY_KEY_LEN_MAX + 1];
		int err;
		if (!is_directory_key(c->items[i].key)) continue;
		snprintf(key, sizeof(key), "%s", c->items[i].key);
		key[strlen(key) - 1] = '\0';
		err = granary_rmdir(
			m->r->client, granary_ref_key(key), GRANARY_CALL(.bucket = m->r->bucket));
		if (err == 0)
			m->removed++;
		else if (err == -GRANARY_ENOTFOUND)
			m->gone++;
		else
			remover_failed(m, c->items[i].key, err, granary_last_error(m->r->client));
	}
}

static int remover_report(const struct remover *m, const char *path)
{
	char count[TEXT_SHORT], bytes[TEXT_SHORT], time[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", path);
		json_number(&j, "removed", m->removed);
		json_number(&j, "bytes", m->bytes);
		json_number(&j, "failed", m->failed);
		json_close(&j);
	} else {
		note("removed %s entries, %s in %s", human_count(count, m->removed),
			human_bytes(bytes, m->bytes),
			human_seconds(time, progress_seconds(&m->progress)));
	}
	if (m->failed == 0) return CLI_OK;
	fail(CLI_PARTIAL, "%s entries were not removed", human_count(count, m->failed));
	return m->removed > 0 ? CLI_PARTIAL : exit_of(m->first_err);
}

static int remove_dry(const char *path, uint64_t entries, uint64_t bytes)
{
	char count[TEXT_SHORT], size[TEXT_SHORT];
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", path);
		json_number(&j, "would_remove", entries);
		json_number(&j, "bytes", bytes);
		json_close(&j);
	} else {
		printf("would remove %s entries, %s, at '%s'\n", human_count(count, entries),
			human_bytes(size, bytes), shown(path));
	}
	return CLI_OK;
}

int remove_catalog(struct remote *r, const struct catalog *c)
{
	struct remover m = { .r = r };
	char count[TEXT_SHORT], bytes[TEXT_SHORT];
	int code;

	if (opts.dry_run) return remove_dry(r->path, c->count, c->bytes);
	code = ask("remove %s entries, %s, at '%s/%s'", human_count(count, c->count),
		human_bytes(bytes, c->bytes), r->bucket, shown(r->path));
	if (code != CLI_OK) return code;
	progress_start(&m.progress, "removing");
	atomic_store(&m.progress.files_total, c->count);
	atomic_store(&m.progress.bytes_total, c->bytes);
	for (unsigned i = 0; i < DELETE_SLOTS; i++)
		m.slots[i].deletes =
			must_alloc(malloc(DELETE_BATCH * sizeof(struct granary_delete)));
	remove_files(&m, c);
	if (m.failed == 0) remove_directories(&m, c);
	for (unsigned i = 0; i < DELETE_SLOTS; i++) free(m.slots[i].deletes);
	progress_stop(&m.progress);
	return remover_report(&m, r->path);
}

/* All below the directory, and the object of that very name if there is one. */
static int remove_tree(struct remote *r)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	struct granary_stat st;
	struct catalog c;
	int code = directory_prefix(prefix, r->path);

	if (code == CLI_OK) code = catalog_list(&c, r, prefix);
	if (code != CLI_OK) return code;
	if (r->path[0] != '\0' && !r->ends_in_slash &&
		granary_stat(r->client, granary_ref_key(r->path), &st,
			GRANARY_CALL(.bucket = r->bucket)) == 0 &&
		st.kind == GRANARY_FILE) {
		c.items = must_alloc(realloc(c.items, (c.count + 1) * sizeof(*c.items)));
		c.items[c.count++] = (struct item){ .key = r->path, .size = st.size };
		c.bytes += st.size;
	}
	if (c.count == 0 && r->path[0] != '\0')
		code = fail(CLI_NOTFOUND, "cannot remove '%s/%s': nothing there", r->bucket,
			shown(r->path));
	else
		code = remove_catalog(r, &c);
	catalog_free(&c);
	return code;
}

static int remove_object(struct remote *r)
{
	const struct granary_call *call = GRANARY_CALL(.bucket = r->bucket);
	struct granary_stat st;
	struct json j;
	int err;

	if (r->path[0] == '\0')
		return fail(CLI_USAGE,
			"'%s' is a bucket; empty it with rm -r, remove it with bucket rm",
			r->bucket);
	err = r->ends_in_slash || opts.dry_run ? remote_stat(r, r->path, &st)
					       : granary_delete(r->client, r->path, call);
	if (err == -GRANARY_ENOTFOUND)
		err = remote_stat(r, r->path, &st);
	else if (!r->ends_in_slash && !opts.dry_run)
		st.kind = GRANARY_FILE;
	if (err == 0 && st.kind == GRANARY_DIR) err = -GRANARY_EISDIR;
	if (err < 0)
		return fail_text(err, err == -GRANARY_EISDIR ? "" : granary_last_error(r->client),
			"cannot remove '%s/%s'", r->bucket, shown(r->path));
	if (opts.dry_run) return remove_dry(r->path, 1, st.size);
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", r->path);
		json_number(&j, "removed", 1);
		json_close(&j);
	}
	return CLI_OK;
}

int run_rm(int count, char **args)
{
	int failed = CLI_OK, good = 0;

	for (int i = 0; i < count; i++) {
		struct remote r;
		int code = remote_open(&r, args[i], NEED_BUCKET, 1);
		if (code == CLI_OK) code = opts.recursive ? remove_tree(&r) : remove_object(&r);
		remote_close(&r);
		if (code == CLI_OK)
			good++;
		else if (failed == CLI_OK)
			failed = code;
	}
	return failed != CLI_OK && good > 0 ? CLI_PARTIAL : failed;
}
