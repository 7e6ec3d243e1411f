/* SPDX-License-Identifier: Apache-2.0 */
/* check.c -- `oracle check`: reads everything back through batch reads and a listing, and judges it by the log.
 *
 * For each worker there are two states, that of its last answer and that with the unanswered operation done. A
 * name must
 * be as in one of the two; the names of one rename must all be as in the same of the two. Everything else is counted:
 *   lost    an answered change is not there: absent, unreadable, older, or still there after its deletion
 *   torn    bytes that no write wrote
 *   stray   a name that nobody wrote
 *   unequal the listing and the reads differ
 *   half    a rename that is neither done nor undone */
#include "oracle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"

enum { CHUNK = 24 };

/* One name with what it may be and what it is. */
struct name {
	char path[ORACLE_PATH_MAX];
	bool has[2]; /* it exists before / after the unanswered operation */
	uint64_t seed[2], size[2];
	bool is_listed, is_read, matches[2];
	uint64_t listed_size;
	uint8_t listed_hash[16];
	bool listed_has_hash;
	uint64_t got_seed, got_size; /* of what was read */
	uint32_t worker;
};

struct checker {
	const struct oracle_options *o;
	struct granary_client *client;
	struct history h;
	struct name *names;
	size_t count, cap;
	size_t *table; /* open addressing over names: index + 1 */
	size_t table_size;
	uint64_t lost, torn, stray, unequal, half, bytes, pending, applied;
};

static struct name *name_of(struct checker *c, const char *path)
{
	size_t i = (size_t)hash_content(path, strlen(path)).lo % c->table_size;

	while (c->table[i] != 0) {
		if (strcmp(c->names[c->table[i] - 1].path, path) == 0)
			return &c->names[c->table[i] - 1];
		i = (i + 1) % c->table_size;
	}
	if (c->count == c->cap || c->count * 2 > c->table_size) {
		fprintf(stderr, "oracle: more names than there is place for\n");
		exit(2);
	}
	c->table[i] = ++c->count;
	snprintf(c->names[c->count - 1].path, ORACLE_PATH_MAX, "%s", path);
	return &c->names[c->count - 1];
}

static bool is_dir(const char *path)
{
	return path[strlen(path) - 1] == '/';
}

static void expect_states(struct checker *c)
{
	for (uint32_t w = 0; w < c->h.workers_count; w++) {
		struct worker_state *state = &c->h.workers[w];
		struct model after;
		model_copy(&after, &state->model);
		if (state->has_pending) {
			for (uint32_t i = 0; i < state->pending.count; i++)
				state->pending.entries[i].status =
					state->pending.entries[i].expected;
			model_apply(&after, &state->pending);
			c->pending++;
		}
		for (int k = 0; k < 2; k++) {
			const struct model *m = k == 0 ? &state->model : &after;
			for (size_t i = 0; i < m->count; i++) {
				struct name *n = name_of(c, m->items[i].path);
				n->has[k] = true;
				n->seed[k] = m->items[i].seed;
				n->size[k] = m->items[i].size;
				n->worker = w;
			}
		}
		model_free(&after);
	}
}

static int list_all(struct checker *c)
{
	struct granary_iter *iter = NULL;
	const struct granary_list_entry *entry;
	int more = granary_iter_open(c->client, NULL, NULL, &iter);

	while (more >= 0 && (more = granary_iter_next(iter, &entry)) > 0) {
		struct name *n;
		if (strlen(entry->key) >= ORACLE_PATH_MAX) {
			c->stray++;
			continue;
		}
		n = name_of(c, entry->key);
		if (n->is_listed) {
			fprintf(stderr, "oracle: UNEQUAL %s is listed twice\n", entry->key);
			c->unequal++;
		}
		n->is_listed = true;
		n->listed_size = entry->size;
		n->listed_has_hash = entry->has_hash;
		memcpy(n->listed_hash, entry->hash, 16);
	}
	if (more < 0) fprintf(stderr, "oracle: cannot list: %s\n", granary_last_error(c->client));
	granary_iter_close(&iter);
	return more;
}

/* ---- judging one name ---- */

static void say(struct checker *c, uint64_t *counter, const char *kind, const struct name *n,
	const char *what)
{
	if ((*counter)++ < 20 && !c->o->quiet) {
		fprintf(stderr, "oracle: %s %s: %s; answered state: %s", kind, n->path, what,
			n->has[0] ? "" : "absent");
		if (n->has[0])
			fprintf(stderr, "%" PRIu64 " bytes of seed %" PRIu64, n->size[0],
				n->seed[0]);
		if (n->has[0] != n->has[1] || n->seed[0] != n->seed[1])
			fprintf(stderr, ", or %s with the unanswered operation of worker %u",
				n->has[1] ? "written" : "absent", n->worker);
		fprintf(stderr, "\n");
	}
}

static void judge_data(struct checker *c, struct name *n, const struct granary_entry *e)
{
	struct hash128 hash;
	enum content content = CONTENT_TORN;

	n->is_read = true;
	c->bytes += e->data_len;
	for (int k = 0; k < 2; k++) {
		enum content now = content_judge(e->data, e->data_len, n->has[k] ? n->seed[k] : 0,
			n->has[k] ? n->size[k] : UINT64_MAX);
		n->matches[k] = n->has[k] && now == CONTENT_RIGHT;
		content = now == CONTENT_RIGHT || content == CONTENT_TORN ? now : content;
	}
	if (n->matches[0] || n->matches[1]) {
		n->got_seed = n->seed[n->matches[0] ? 0 : 1];
		n->got_size = n->size[n->matches[0] ? 0 : 1];
	} else if (content == CONTENT_TORN) {
		say(c, &c->torn, "TORN", n, "bytes that no write wrote");
	} else if (!n->has[0] && !n->has[1]) {
		/* judged below as stray or lost */
	} else {
		say(c, &c->lost, "LOST", n, "content of another write");
	}
	hash = hash_content(e->data, e->data_len);
	if (n->is_listed && (n->listed_size != e->data_len ||
				    (n->listed_has_hash &&
					    (memcmp(n->listed_hash, &hash.lo, 8) != 0 ||
						    memcmp(n->listed_hash + 8, &hash.hi, 8) != 0))))
		say(c, &c->unequal, "UNEQUAL", n,
			"size or hash of the listing is not that of the bytes");
	if (!n->is_listed) say(c, &c->unequal, "UNEQUAL", n, "can be read but is not listed");
}

static bool was_ever(const struct name *n)
{
	return n->path[0] == 'w' && n->path[3] == '/';
}

static void judge_absent(struct checker *c, struct name *n, const struct granary_entry *e)
{
	if (e->status != -GRANARY_ENOTFOUND && e->status != -GRANARY_EISDIR) {
		char text[160];
		snprintf(text, sizeof(text), "cannot be read: %s", granary_strerror(e->status));
		say(c, &c->lost, "LOST", n, text);
		return;
	}
	for (int k = 0; k < 2; k++) n->matches[k] = !n->has[k];
	if (n->has[0] && n->has[1]) say(c, &c->lost, "LOST", n, "is not there");
	if (n->is_listed) say(c, &c->unequal, "UNEQUAL", n, "is listed but cannot be read");
}

/* A directory of its own is known by its listed entry. */
static void judge_dir(struct checker *c, struct name *n)
{
	for (int k = 0; k < 2; k++) n->matches[k] = n->has[k] == n->is_listed;
	if (!n->matches[0] && !n->matches[1])
		say(c, n->is_listed ? &c->stray : &c->lost, n->is_listed ? "STRAY" : "LOST", n,
			n->is_listed ? "a directory that should not be there"
				     : "the directory is not there");
}

static int read_chunk(struct checker *c, struct name **chunk, size_t count)
{
	struct granary_entry entries[CHUNK];
	struct granary_batch batch = GRANARY_INIT(granary_batch);
	struct granary_op *op = NULL;
	int64_t served;

	memset(entries, 0, sizeof(entries));
	for (size_t i = 0; i < count; i++) {
		entries[i].ref = granary_ref_key(chunk[i]->path);
		entries[i].flags = GRANARY_ENTRY_MALLOC;
	}
	batch.entries = entries;
	batch.count = count;
	served = granary_read_batch(c->client, &batch, NULL, &op);
	if (served < 0) fprintf(stderr, "oracle: cannot read: %s\n", granary_last_error(c->client));
	for (size_t i = 0; served >= 0 && i < count; i++) {
		struct name *n = chunk[i];
		if (entries[i].status != 0) {
			judge_absent(c, n, &entries[i]);
			continue;
		}
		judge_data(c, n, &entries[i]);
		if (!n->has[0] && !n->has[1])
			say(c, was_ever(n) ? &c->lost : &c->stray, was_ever(n) ? "LOST" : "STRAY",
				n, "is there");
		granary_free((void *)(uintptr_t)entries[i].data);
	}
	granary_op_free(&op);
	return served < 0 ? (int)served : 0;
}

static int read_all(struct checker *c)
{
	struct name *chunk[CHUNK];
	size_t count = 0;
	int err = 0;

	for (size_t i = 0; err == 0 && i < c->count; i++) {
		if (is_dir(c->names[i].path))
			judge_dir(c, &c->names[i]);
		else
			chunk[count++] = &c->names[i];
		if (count == CHUNK || i + 1 == c->count) {
			err = count > 0 ? read_chunk(c, chunk, count) : 0;
			count = 0;
		}
	}
	return err;
}

/* ---- the unanswered operations ---- */

static bool differs(const struct name *n)
{
	return n->has[0] != n->has[1] ||
	       (n->has[0] && (n->seed[0] != n->seed[1] || n->size[0] != n->size[1]));
}

static void judge_renames(struct checker *c)
{
	bool can[WORKERS_MAX][2];

	memset(can, 1, sizeof(can));
	for (size_t i = 0; i < c->count; i++)
		for (int k = 0; k < 2; k++)
			if (differs(&c->names[i]))
				can[c->names[i].worker][k] &= c->names[i].matches[k];
	for (uint32_t w = 0; w < c->h.workers_count; w++) {
		const struct worker_state *state = &c->h.workers[w];
		if (!state->has_pending || !has_two_names(state->pending.kind) || can[w][0] ||
			can[w][1])
			continue;
		fprintf(stderr, "oracle: HALF rename of %s to %s\n", state->pending.entries[0].path,
			state->pending.entries[1].path);
		c->half++;
	}
}

/* What is there now is what must be there from now on. */
static void settle(struct checker *c)
{
	for (uint32_t w = 0; w < c->h.workers_count; w++) {
		model_free(&c->h.workers[w].model);
		c->h.workers[w].has_pending = false;
	}
	for (size_t i = 0; i < c->count; i++) {
		const struct name *n = &c->names[i];
		if (differs(n) && n->matches[1]) c->applied++;
		if (is_dir(n->path) ? n->is_listed : n->is_read)
			model_set(&c->h.workers[n->worker].model, n->path, n->got_seed, n->got_size,
				0);
	}
}

int oracle_check(const struct oracle_options *o)
{
	static struct checker c;
	bool is_bad;
	int err;

	c.o = o;
	c.cap = 200000;
	c.table_size = 524287;
	c.names = calloc(c.cap, sizeof(*c.names));
	c.table = calloc(c.table_size, sizeof(*c.table));
	if (c.names == NULL || c.table == NULL || history_read(&c.h, o->log, o->until_ns) < 0 ||
		client_open(o, &c.client) < 0)
		return 2;
	expect_states(&c);
	err = list_all(&c);
	if (err >= 0) err = read_all(&c);
	if (err == -GRANARY_ENOBUCKET && c.count == 0) err = 0; /* the bucket was not made yet */
	judge_renames(&c);
	settle(&c);
	is_bad = c.lost + c.torn + c.stray + c.unequal + c.half + c.h.violations > 0;
	printf("names=%zu bytes=%" PRIu64 " answered=%" PRIu64 " pending=%" PRIu64
	       " applied=%" PRIu64 " lost=%" PRIu64 " torn=%" PRIu64 " stray=%" PRIu64
	       " unequal=%" PRIu64 " half=%" PRIu64 " violations=%" PRIu64 "\n",
		c.count, c.bytes, c.h.answered, c.pending, c.applied, c.lost, c.torn, c.stray,
		c.unequal, c.half, c.h.violations);
	if (err >= 0 && !is_bad && o->state_out != NULL && history_write(&c.h, o->state_out) < 0)
		err = -1;
	granary_close(&c.client);
	history_free(&c.h);
	free(c.names);
	free(c.table);
	return err < 0 ? 2 : is_bad ? 1 : 0;
}
