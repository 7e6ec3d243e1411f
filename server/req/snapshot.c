/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- snapshots: list, show, page, create, remove, note (PROTOCOL 4.7, 5.10). Whoever may
 * read a snapshot's prefix may read it; making, removing and noting one also needs WRITE on the
 * bucket. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/snapshot.h"
#include "meta/snapshot.h"
#include "req/kind.h"

enum {
	ENTRY_FIXED = 3 * 2 + 1 + 5 * 8 + 2 * 16,
	PAGE_ASK_MAX = 8 * 1024 * 1024,
	SHOW_ASK_MAX = PAGE_ASK_MAX
};

struct snapshot_req {
	struct auth auth;
	struct slice bucket, name, prefix, options, note;
	struct hash128 hash;
	uint64_t offset, expires_ns, size;
	uint32_t length, max, count;
	uint8_t flags;
	bool more, found;
	int err;
	uint8_t *out, *data; /* malloc'd: entries; bytes */
	size_t len, cap, data_len;
	char text[SNAPSHOT_TEXT_MAX];
	struct snapshot_making *making;
	struct req *r;
};

static struct snapshot_req *body_new(struct req *r)
{
	struct snapshot_req *b = req_alloc(sizeof(*b));

	memset(b, 0, sizeof(*b));
	b->r = r;
	r->body = b;
	return b;
}

static void body_free(struct req *r)
{
	struct snapshot_req *b = r->body;

	r->body = NULL;
	if (b == NULL) return;
	free(b->out);
	free(b->data);
	free(b->making);
	free(b);
}

/* What all begin with. */
static int begin(struct req *r, struct snapshot_req *b, uint8_t actions)
{
	char text[128];
	int err = b->bucket.len > 0 ? auth_begin(r, &b->auth, actions, b->bucket) : -GRANARY_EPROTO;

	if (err == -GRANARY_EPROTO)
		req_set_error(r, err, "%s names no bucket", r->kind->name);
	else if (err < 0)
		req_set_error(r, err, "%s in '%s': %s", r->kind->name,
			name_escape(text, sizeof(text), b->bucket), error_text(err));
	if (err == 0 && b->name.p != NULL) {
		err = snapshot_name_check(b->name);
		if (err < 0)
			req_set_error(r, err,
				"'%s' is no name of a snapshot: 1 to %d of A-Z, a-z, 0-9, '.', '_' "
				"and '-'",
				name_escape(text, sizeof(text), b->name), SNAPSHOT_NAME_MAX);
	}
	return err;
}

static enum step_result proto(struct req *r)
{
	return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
}

static enum step_result fail(struct req *r, const struct snapshot_req *b)
{
	char text[160];

	if (b->text[0] != '\0') return req_fail(r, b->err, "%s: %s", r->kind->name, b->text);
	return req_fail(r, b->err, "%s '%s': %s", r->kind->name,
		name_escape(text, sizeof(text), b->name), error_text(b->err));
}

/* ---- entries ---- */

static struct wr room_for(struct snapshot_req *b, size_t n)
{
	if (b->len + n > b->cap) {
		b->cap = 2 * (b->len + n) + 4096;
		b->out = realloc(b->out, b->cap);
		assert(b->out != NULL);
	}
	return wr_of(b->out + b->len, b->cap - b->len);
}

static void entry_put(struct snapshot_req *b, const struct snapshot_entry *e)
{
	struct wr w = room_for(b, ENTRY_FIXED + e->name.len + e->prefix.len + e->note.len);

	wr_bytes16(&w, e->name);
	wr_u8(&w, e->state);
	wr_u64(&w, e->created_ns);
	wr_u64(&w, e->expires_ns);
	wr_u64(&w, e->samples);
	wr_u64(&w, e->bytes);
	wr_u64(&w, e->alone);
	wr_u64(&w, e->manifest.lo);
	wr_u64(&w, e->manifest.hi);
	wr_bytes16(&w, e->prefix);
	wr_bytes16(&w, e->note);
	wr_u64(&w, e->identity.lo);
	wr_u64(&w, e->identity.hi);
	assert(wr_ok(&w));
	b->len += wr_len(&w);
	b->count++;
}

/* ---- list ---- */

static int list_each(void *arg, const struct snapshot_entry *e)
{
	struct snapshot_req *b = arg;

	if (!auth_key(&b->auth, e->prefix)) return 0;
	if (b->count == b->max) {
		b->more = true;
		return 1;
	}
	entry_put(b, e);
	return 0;
}

static void list_work(struct req *r)
{
	struct snapshot_req *b = r->body;

	room_for(b, 5);
	b->len = 5;
	b->err = snapshots_list(r->store->snapshots, b->auth.bucket.id, b->note, list_each, b);
}

static enum step_result page_parse_of(struct req *r, void (*work)(struct req *r))
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->note = cur_bytes16(&c); /* after */
	b->max = cur_u32(&c);
	if (!cur_done(&c) || b->max == 0 || b->max > WIRE_LIST_MAX ||
		b->note.len > SNAPSHOT_NAME_MAX)
		return proto(r);
	if (begin(r, b, GRANT_READ) < 0) return STEP_DONE;
	r->step++;
	return req_work(r, work);
}

static enum step_result list_parse(struct req *r)
{
	return page_parse_of(r, list_work);
}

static enum step_result list_answer(struct req *r)
{
	struct snapshot_req *b = r->body;
	struct wr head;

	if (b->err < 0) return fail(r, b);
	head = wr_of(b->out, 5);
	wr_u8(&head, b->more);
	wr_u32(&head, b->count);
	answer_send(r, answer_adopt(r, b->out, b->len), true);
	b->out = NULL;
	return STEP_DONE;
}

/* ---- tags ---- */

/* The lines "tag=NAME=VALUE" of the options, without "tag=". */
static void tags_put(struct snapshot_req *b, struct slice name, struct slice options)
{
	static const char head[] = "tag=";
	struct wr w = room_for(b, 2 + name.len + 2 + options.len);
	struct cur lines = cur_of(options.p, options.len);
	uint8_t *len_at;
	uint16_t len = 0;

	wr_bytes16(&w, name);
	len_at = wr_room(&w, sizeof(len));
	while (cur_left(&lines) > 0) {
		const uint8_t *end = memchr(lines.p, '\n', cur_left(&lines));
		struct slice line = slice_of(lines.p, end != NULL ? (size_t)(end - lines.p) + 1 : cur_left(&lines));

		lines.p += line.len;
		if (line.len < sizeof(head) || memcmp(line.p, head, sizeof(head) - 1) != 0) continue;
		line = slice_of(line.p + sizeof(head) - 1, line.len - sizeof(head) + 1);
		wr_slice(&w, line);
		len = (uint16_t)(len + line.len);
	}
	assert(wr_ok(&w));
	memcpy(len_at, &len, sizeof(len));
	b->len += wr_len(&w);
	b->count++;
}

static int tags_each(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct snapshot_req *b = arg;

	(void)bucket;
	if (!auth_key(&b->auth, row->prefix)) return 0;
	if (b->count == b->max) {
		b->more = true;
		return 1;
	}
	tags_put(b, name, row->options);
	return 0;
}

static void tags_work(struct req *r)
{
	struct snapshot_req *b = r->body;

	room_for(b, 5);
	b->len = 5;
	b->err = snapshot_each(r->store->kv, b->auth.bucket.id, b->note, tags_each, b);
}

static enum step_result tags_parse(struct req *r)
{
	return page_parse_of(r, tags_work);
}

/* ---- show, page ---- */

static int find_each(void *arg, const struct snapshot_entry *e)
{
	struct snapshot_req *b = arg;

	if (!slice_eq(e->name, b->name)) return 1; /* behind where it would be */
	if (!auth_key(&b->auth, e->prefix)) return -GRANARY_EACCESS;
	b->found = true;
	b->hash = e->state == SNAPSHOT_READY ? e->manifest : (struct hash128){ 0, 0 };
	entry_put(b, e);
	return 1;
}

/* The greatest name below it, as a bound: the last byte made smaller, or gone. */
static struct slice just_before(struct slice name, uint8_t buf[SNAPSHOT_NAME_MAX + 1])
{
	memcpy(buf, name.p, name.len);
	if (--buf[name.len - 1] == 0) return slice_of(buf, name.len - 1);
	buf[name.len] = 0xff;
	return slice_of(buf, name.len + 1);
}

static uint32_t data_max(const struct req *r, uint32_t asked)
{
	uint32_t cap = r->peer->data_cap < PAGE_ASK_MAX ? r->peer->data_cap : PAGE_ASK_MAX;

	return asked < cap ? asked : cap;
}

static void take_data(struct snapshot_req *b, int64_t n)
{
	if (n < 0)
		b->err = (int)n;
	else
		b->data_len = (size_t)n;
}

static void show_work(struct req *r)
{
	struct snapshot_req *b = r->body;
	struct snapshots *s = r->store->snapshots;
	uint8_t buf[SNAPSHOT_NAME_MAX + 1];
	uint32_t len = data_max(r, b->length);
	int err = snapshots_list(s, b->auth.bucket.id, just_before(b->name, buf), find_each, b);

	b->err = err < 0 ? err : b->found ? 0 : -GRANARY_ENOTFOUND;
	if (b->err < 0 || (b->hash.lo == 0 && b->hash.hi == 0)) return;
	b->data = req_alloc(len + 1);
	take_data(b, snapshot_read_manifest(s, b->hash, b->offset, b->data, len, &b->size));
}

static enum step_result show_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->offset = cur_u64(&c);
	b->length = cur_u32(&c);
	if (!cur_done(&c)) return proto(r);
	if (begin(r, b, GRANT_READ) < 0) return STEP_DONE;
	r->step++;
	return req_work(r, show_work);
}

static enum step_result show_answer(struct req *r)
{
	struct snapshot_req *b = r->body;
	struct wr w;

	if (b->err < 0) return fail(r, b);
	w = room_for(b, 8);
	wr_u64(&w, b->size);
	b->len += 8;
	w = wr_of(b->out, b->len);
	wr_room(&w, b->len);
	answer_data(r, &w, b->data, b->data_len);
	b->data = NULL;
	return STEP_DONE;
}

/* A page opens only to who may read a snapshot; which of them it belongs to is the client's word.
 */
static void page_work(struct req *r)
{
	struct snapshot_req *b = r->body;
	struct snapshots *s = r->store->snapshots;
	struct snapshot_open *o;
	uint32_t len = data_max(r, b->length);

	b->err = snapshot_ref(s, b->auth.bucket.id, b->name, &o);
	if (b->err < 0) return;
	if (!auth_key(&b->auth, slice_of(o->prefix, o->prefix_len))) b->err = -GRANARY_EACCESS;
	if (b->err == 0) b->err = snapshot_has_page(s, o, b->hash);
	if (b->err == 0) {
		b->data = req_alloc(len + 1);
		take_data(b, snapshot_read_page(s, b->hash, b->offset, b->data, len, &b->size));
	}
	snapshot_unref(s, &o);
}

static enum step_result page_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->hash.lo = cur_u64(&c);
	b->hash.hi = cur_u64(&c);
	b->offset = cur_u64(&c);
	b->length = cur_u32(&c);
	if (!cur_done(&c) || b->length > PAGE_ASK_MAX) return proto(r);
	if (begin(r, b, GRANT_READ) < 0) return STEP_DONE;
	r->step++;
	return req_work(r, page_work);
}

static enum step_result page_answer(struct req *r)
{
	struct snapshot_req *b = r->body;
	uint8_t meta[8];
	struct wr w = wr_of(meta, sizeof(meta));

	if (b->err < 0) return fail(r, b);
	wr_u64(&w, b->size);
	answer_data(r, &w, b->data, b->data_len);
	b->data = NULL;
	return STEP_DONE;
}

/* ---- create ---- */

struct create {
	struct snapshot_making m;
	struct req *r;
}; /* what body->making is */

static void made(struct snapshot_making *m)
{
	req_post(container_of(m, struct create, m)->r);
}

/* Its thread posts the request back, unless it could not begin. */
static void create_task(struct task *task)
{
	struct req *r = container_of(task, struct req, task);
	struct snapshot_req *b = r->body;
	int err = snapshots_make(r->store->snapshots, b->making);

	if (err == 0) return;
	b->making->err = err;
	req_post(r);
}

static enum step_result create_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);
	struct create *k;

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->prefix = cur_bytes16(&c);
	b->options = cur_bytes16(&c);
	if (!cur_done(&c)) return proto(r);
	if (begin(r, b, GRANT_READ) < 0) return STEP_DONE;
	if (b->prefix.len > 0 && key_check(b->prefix) < 0)
		return req_fail(r, -GRANARY_ENAME, "the prefix is no beginning of a key");
	if (!auth_key(&b->auth, b->prefix))
		return req_fail(r, -GRANARY_EACCESS, "the key may not read all below the prefix");
	if (!auth_whole(r->peer->key, GRANT_WRITE, b->bucket))
		return req_fail(r, -GRANARY_EACCESS, "%s needs a write grant on the whole bucket",
			r->kind->name);
	k = req_alloc(sizeof(*k));
	memset(k, 0, sizeof(*k));
	k->r = r;
	k->m.bucket = b->auth.bucket.id;
	k->m.name = b->name;
	k->m.prefix = b->prefix;
	k->m.options = b->options;
	k->m.done = made;
	b->making = &k->m;
	r->step++;
	r->pending++;
	r->task.fn = create_task;
	workers_post(r->store->workers, &r->task);
	return STEP_WAIT;
}

static enum step_result create_answer(struct req *r)
{
	struct snapshot_req *b = r->body;
	const struct snapshot_making *m = b->making;
	struct snapshot_entry e = { .name = m->name,
		.prefix = m->prefix,
		.note = m->note,
		.state = SNAPSHOT_READY,
		.created_ns = m->created_ns,
		.expires_ns = m->expires_ns,
		.samples = m->samples,
		.bytes = m->bytes,
		.manifest = m->manifest,
		.identity = m->manifest };
	size_t len = strlen(m->warnings);
	struct wr w;

	b->err = m->err;
	if (b->err < 0) {
		memcpy(b->text, m->text, sizeof(b->text));
		return fail(r, b);
	}
	entry_put(b, &e);
	w = room_for(b, 2 + len);
	wr_bytes16(&w, slice_of(m->warnings, len));
	b->len += wr_len(&w);
	answer_send(r, answer_adopt(r, b->out, b->len), true);
	b->out = NULL;
	return STEP_DONE;
}

/* ---- remove, note ---- */

/* Needs READ on the snapshot's prefix, too. */
static int may_change(struct snapshot_req *b)
{
	struct snapshots *s = b->r->store->snapshots;
	uint8_t buf[SNAPSHOT_NAME_MAX + 1];
	int err = snapshots_list(s, b->auth.bucket.id, just_before(b->name, buf), find_each, b);

	return err < 0 ? err : b->found ? 0 : -GRANARY_ENOTFOUND;
}

static void remove_work(struct req *r)
{
	struct snapshot_req *b = r->body;

	b->err = may_change(b);
	if (b->err == 0)
		b->err = snapshots_remove(r->store->snapshots, b->auth.bucket.id, b->name,
			(b->flags & SNAPSHOT_FORCE) != 0, b->text, sizeof(b->text));
}

static void note_work(struct req *r)
{
	struct snapshot_req *b = r->body;

	b->err = may_change(b);
	if (b->err == 0)
		b->err = snapshots_note(
			r->store->snapshots, b->auth.bucket.id, b->name, b->note, b->expires_ns);
}

static enum step_result change_begin(
	struct req *r, struct snapshot_req *b, void (*work)(struct req *r))
{
	if (begin(r, b, GRANT_READ) < 0) return STEP_DONE;
	if (!auth_whole(r->peer->key, GRANT_WRITE, b->bucket))
		return req_fail(r, -GRANARY_EACCESS, "%s needs a write grant on the whole bucket",
			r->kind->name);
	r->step++;
	return req_work(r, work);
}

static enum step_result remove_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->flags = cur_flags(&c, SNAPSHOT_FORCE);
	return cur_done(&c) ? change_begin(r, b, remove_work) : proto(r);
}

static enum step_result note_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->note = cur_bytes16(&c);
	b->expires_ns = cur_u64(&c);
	if (!cur_done(&c)) return proto(r);
	if (b->note.len > SNAPSHOT_NOTE_MAX)
		return req_fail(
			r, -GRANARY_ETOOBIG, "a note is at most %d bytes", SNAPSHOT_NOTE_MAX);
	return change_begin(r, b, note_work);
}

static enum step_result change_answer(struct req *r)
{
	struct snapshot_req *b = r->body;

	if (b->err < 0) return fail(r, b);
	answer_empty(r);
	return STEP_DONE;
}

/* ---- repack ---- */

static void repack_work(struct req *r)
{
	struct snapshot_req *b = r->body;

	b->err = may_change(b);
	b->len = b->count = 0; /* the entry comes again as it is then */
}

static void repack_entry(struct req *r)
{
	struct snapshot_req *b = r->body;

	b->err = may_change(b);
}

static void repack_task(struct task *task)
{
	struct req *r = container_of(task, struct req, task);
	struct snapshot_req *b = r->body;
	int err = snapshots_repack(r->store->snapshots, b->making, (b->flags & SNAPSHOT_FORCE) != 0);

	if (err == 0) return;
	b->making->err = err;
	req_post(r);
}

static enum step_result repack_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct snapshot_req *b = body_new(r);

	b->bucket = cur_bytes16(&c);
	b->name = cur_bytes16(&c);
	b->flags = cur_flags(&c, SNAPSHOT_FORCE);
	return cur_done(&c) ? change_begin(r, b, repack_work) : proto(r);
}

static enum step_result repack_start(struct req *r)
{
	struct snapshot_req *b = r->body;
	struct create *k;

	if (b->err < 0) return fail(r, b);
	k = req_alloc(sizeof(*k));
	memset(k, 0, sizeof(*k));
	k->r = r;
	k->m.bucket = b->auth.bucket.id;
	k->m.name = b->name;
	k->m.done = made;
	b->making = &k->m;
	r->step++;
	r->pending++;
	r->task.fn = repack_task;
	workers_post(r->store->workers, &r->task);
	return STEP_WAIT;
}

static enum step_result repack_look(struct req *r)
{
	struct snapshot_req *b = r->body;

	b->err = b->making->err;
	if (b->err < 0) {
		memcpy(b->text, b->making->text, sizeof(b->text));
		return fail(r, b);
	}
	r->step++;
	return req_work(r, repack_entry);
}

static enum step_result repack_answer(struct req *r)
{
	struct snapshot_req *b = r->body;

	if (b->err < 0) return fail(r, b);
	answer_send(r, answer_adopt(r, b->out, b->len), true);
	b->out = NULL;
	return STEP_DONE;
}

/* ---- kinds ---- */

#define KIND(what, op_, action_, second, third) \
	static const struct req_step what##_steps[] = { { "parse", second }, \
		{ "answer", third } }; \
	const struct req_kind snapshot_##what##_kind = { .op = op_, \
		.name = "snapshot_" #what, \
		.action = action_, \
		.steps = what##_steps, \
		.step_count = 2, \
		.cleanup = body_free }
KIND(list, OP_SNAPSHOT_LIST, GRANT_READ, list_parse, list_answer);
KIND(tags, OP_SNAPSHOT_TAGS, GRANT_READ, tags_parse, list_answer);
KIND(show, OP_SNAPSHOT_SHOW, GRANT_READ, show_parse, show_answer);
KIND(page, OP_SNAPSHOT_PAGE, GRANT_READ, page_parse, page_answer);
KIND(create, OP_SNAPSHOT_CREATE, GRANT_WRITE, create_parse, create_answer);
KIND(remove, OP_SNAPSHOT_REMOVE, GRANT_WRITE, remove_parse, change_answer);
KIND(note, OP_SNAPSHOT_NOTE, GRANT_WRITE, note_parse, change_answer);

static const struct req_step repack_steps[] = { { "parse", repack_parse }, { "start", repack_start },
	{ "look", repack_look }, { "answer", repack_answer } };
const struct req_kind snapshot_repack_kind = { .op = OP_SNAPSHOT_REPACK,
	.name = "snapshot_repack",
	.action = GRANT_WRITE,
	.steps = repack_steps,
	.step_count = 4,
	.cleanup = body_free };
