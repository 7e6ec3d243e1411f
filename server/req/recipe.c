/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c -- recipes: list, show, create, remove (PROTOCOL 4.10, 5.11). Whoever may read all of a recipe's
 * sources may read it; making and removing one needs WRITE on the bucket. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/recipe.h"
#include "jobs/recipe.h"
#include "jobs/snapshot.h"
#include "meta/kv.h"
#include "meta/recipe.h"
#include "meta/snapshot.h"
#include "req/kind.h"

enum { ENTRY_FIXED = 2 + 8 + 8 + 4 + 16 + 2 };

struct recipe_req {
	struct auth auth;
	struct slice bucket, name, text, note;
	uint32_t max, count;
	uint8_t flags;
	bool more;
	int err;
	uint8_t *out, *data; /* malloc'd: entries; the text */
	size_t len, cap, data_len;
	char why[SNAPSHOT_TEXT_MAX];
	struct recipe_making making;
};

static struct recipe_req *body_new(struct req *r)
{
	struct recipe_req *b = req_alloc(sizeof(*b));

	memset(b, 0, sizeof(*b));
	r->body = b;
	return b;
}

static void body_free(struct req *r)
{
	struct recipe_req *b = r->body;

	r->body = NULL;
	if (b == NULL) return;
	free(b->out);
	free(b->data);
	free(b);
}

static enum step_result proto(struct req *r)
{
	return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
}

static enum step_result fail(struct req *r, const struct recipe_req *b)
{
	char name[160];

	return req_fail(r, b->err, "%s '%s': %s", r->kind->name, name_escape(name, sizeof(name), b->name),
		b->why[0] != '\0' ? b->why : error_text(b->err));
}

/* What all begin with. */
static int begin(struct req *r, struct recipe_req *b)
{
	char text[160];
	int err = b->bucket.len > 0 ? auth_begin(r, &b->auth, GRANT_READ, b->bucket) : -GRANARY_EPROTO;

	if (err == -GRANARY_EPROTO)
		req_set_error(r, err, "%s names no bucket", r->kind->name);
	else if (err < 0)
		req_set_error(r, err, "%s in '%s': %s", r->kind->name,
			name_escape(text, sizeof(text), b->bucket), error_text(err));
	else if (b->name.p != NULL && (err = snapshot_name_check(b->name)) < 0)
		req_set_error(r, err, "'%s' is no name of a recipe: 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'",
			name_escape(text, sizeof(text), b->name), SNAPSHOT_NAME_MAX);
	return err;
}

static bool may_read(void *arg, struct slice bucket_name, struct slice prefix)
{
	const struct req *r = arg;

	return ns_key_allows(r->peer->key, GRANT_READ, bucket_name, prefix);
}

static struct recipe_asker asker_of(struct req *r)
{
	return (struct recipe_asker){ may_read, r };
}

/* ---- entries ---- */

static uint32_t sources_of(const struct recipe_row *row)
{
	return (uint32_t)(row->buckets.len / 8);
}

static void entry_put(struct recipe_req *b, struct slice name, const struct recipe_row *row)
{
	size_t need = b->len + ENTRY_FIXED + name.len + row->note.len;
	struct wr w;

	if (need > b->cap) {
		b->cap = 2 * need + 1024;
		b->out = realloc(b->out, b->cap);
		assert(b->out != NULL);
	}
	w = wr_of(b->out + b->len, b->cap - b->len);
	wr_bytes16(&w, name);
	wr_u64(&w, row->created_ns);
	wr_u64(&w, row->samples);
	wr_u32(&w, sources_of(row));
	wr_u64(&w, row->hash.lo);
	wr_u64(&w, row->hash.hi);
	wr_bytes16(&w, row->note);
	assert(wr_ok(&w));
	b->len += wr_len(&w);
	b->count++;
}

/* ---- list ---- */

static int list_each(void *arg, struct slice name, const struct recipe_row *row)
{
	struct recipe_req *b = arg;

	if (b->count == b->max) {
		b->more = true;
		return 1;
	}
	entry_put(b, name, row);
	return 0;
}

static void list_work(struct req *r)
{
	struct recipe_req *b = r->body;
	int found;

	b->cap = 1024;
	b->out = req_alloc(b->cap);
	b->len = 5; /* more, count */
	found = recipes_list(r->store->snapshots, b->auth.bucket.id, b->note, list_each, b);
	b->err = found < 0 ? found : 0;
}

static enum step_result list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct recipe_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->note = cur_bytes16(&c); /* after */
	b->max = cur_u32(&c);
	if (!cur_done(&c) || b->max == 0 || b->max > WIRE_LIST_MAX || b->note.len > SNAPSHOT_NAME_MAX)
		return proto(r);
	if (begin(r, b) < 0) return STEP_DONE;
	r->step++;
	return req_work(r, list_work);
}

static enum step_result list_answer(struct req *r)
{
	struct recipe_req *b = r->body;
	struct wr head;

	if (b->err < 0) return fail(r, b);
	head = wr_of(b->out, 5);
	wr_u8(&head, b->more);
	wr_u32(&head, b->count);
	answer_send(r, answer_adopt(r, b->out, b->len), true);
	b->out = NULL;
	return STEP_DONE;
}

/* ---- show ---- */

static void show_work(struct req *r)
{
	struct recipe_req *b = r->body;
	struct recipe_asker asker = asker_of(r);
	struct recipe_row row;
	struct kv_value value;

	b->err = recipe_find(r->store->kv, b->auth.bucket.id, b->name, &row, &value);
	if (b->err < 0) return;
	b->err = recipes_judge(r->store->snapshots, &row, &asker);
	if (b->err == 0) {
		entry_put(b, b->name, &row);
		b->data_len = row.text.len;
		b->data = req_alloc(b->data_len);
		memcpy(b->data, row.text.p, b->data_len);
	}
	kv_value_release(&value);
}

static enum step_result show_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct recipe_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	if (!cur_done(&c)) return proto(r);
	if (begin(r, b) < 0) return STEP_DONE;
	r->step++;
	return req_work(r, show_work);
}

static enum step_result show_answer(struct req *r)
{
	struct recipe_req *b = r->body;
	struct wr w;

	_Static_assert((int)RECIPE_TEXT_MAX <= 1 << 20, "a frame of any client takes a whole text");
	if (b->err < 0) return fail(r, b);
	w = wr_of(b->out, b->len);
	wr_room(&w, b->len);
	answer_data(r, &w, b->data, b->data_len);
	b->data = NULL;
	return STEP_DONE;
}

/* ---- create, remove ---- */

static void create_work(struct req *r)
{
	struct recipe_req *b = r->body;

	b->making = (struct recipe_making){ .bucket = b->auth.bucket.id,
		.name = b->name,
		.text = b->text,
		.note = b->note,
		.asker = asker_of(r) };
	b->err = recipes_make(r->store->snapshots, &b->making, b->why, sizeof(b->why));
}

static enum step_result change_begin(struct req *r, struct recipe_req *b, void (*work)(struct req *r))
{
	if (begin(r, b) < 0) return STEP_DONE;
	if (!auth_whole(r->peer->key, GRANT_WRITE, b->bucket))
		return req_fail(r, -GRANARY_EACCESS, "%s needs a write grant on the whole bucket", r->kind->name);
	r->step++;
	return req_work(r, work);
}

static enum step_result create_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct recipe_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->note = cur_bytes16(&c);
	b->text = cur_bytes32(&c);
	if (!cur_done(&c)) return proto(r);
	if (b->note.len > RECIPE_NOTE_MAX || b->text.len > RECIPE_TEXT_MAX)
		return req_fail(r, -GRANARY_ETOOBIG, "a note is at most %d bytes, a recipe %d", RECIPE_NOTE_MAX,
			RECIPE_TEXT_MAX);
	return change_begin(r, b, create_work);
}

static enum step_result create_answer(struct req *r)
{
	struct recipe_req *b = r->body;
	struct recipe_row row = { .created_ns = b->making.created_ns,
		.samples = b->making.samples,
		.hash = b->making.hash,
		.note = b->note };

	if (b->err < 0) return fail(r, b);
	row.buckets.len = 8 * (size_t)b->making.sources;
	entry_put(b, b->name, &row);
	answer_send(r, answer_adopt(r, b->out, b->len), true);
	b->out = NULL;
	return STEP_DONE;
}

static void remove_work(struct req *r)
{
	struct recipe_req *b = r->body;

	b->err = recipes_remove(r->store->snapshots, b->auth.bucket.id, b->name,
		(b->flags & SNAPSHOT_FORCE) != 0, b->why, sizeof(b->why));
}

static enum step_result remove_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct recipe_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->flags = cur_flags(&c, SNAPSHOT_FORCE);
	return cur_done(&c) ? change_begin(r, b, remove_work) : proto(r);
}

static enum step_result remove_answer(struct req *r)
{
	struct recipe_req *b = r->body;

	if (b->err < 0) return fail(r, b);
	answer_empty(r);
	return STEP_DONE;
}

/* ---- kinds ---- */

#define KIND(what, op_, action_) \
	static const struct req_step what##_steps[] = { { "parse", what##_parse }, { "answer", what##_answer } }; \
	const struct req_kind recipe_##what##_kind = { .op = op_, \
		.name = "recipe_" #what, \
		.action = action_, \
		.steps = what##_steps, \
		.step_count = 2, \
		.cleanup = body_free }
KIND(list, OP_RECIPE_LIST, GRANT_READ);
KIND(show, OP_RECIPE_SHOW, GRANT_READ);
KIND(create, OP_RECIPE_CREATE, GRANT_WRITE);
KIND(remove, OP_RECIPE_REMOVE, GRANT_WRITE);
