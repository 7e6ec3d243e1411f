/* SPDX-License-Identifier: Apache-2.0 */
/* range_copy.c -- a range of one object copied into another by reference (PROTOCOL 5.18), and where an object has bytes
 * (4.14). */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "meta/ns_file.h"
#include "req/name_req.h"

/* ---- COPY_RANGE ---- */

struct range_copy_req {
	struct name_req n;
	struct ns_copy_range range;
};

static struct range_copy_req *range_copy_of(const struct req *r)
{
	return r->body;
}

static const struct mutation_ops range_copy_ops;

static enum step_result range_copy_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct range_copy_req *x;
	struct slice bucket;
	int err, err_to;

	if (name_begin(r, &c, &range_copy_ops, sizeof(*x), GRANT_READ) == STEP_DONE) return STEP_DONE;
	x = range_copy_of(r);
	err = ref_parse(&c, &x->n.auth, &x->n.ref);
	x->range.from_version = cur_u64(&c);
	x->range.from_offset = cur_u64(&c);
	bucket = cur_bytes16(&c);
	if (cur_ok(&c) && bucket.len > 0) {
		err_to = auth_begin(r, &x->n.auth_to, GRANT_WRITE, bucket);
		if (err_to < 0) return req_fail(r, err_to, "cannot write to the other bucket: %s", error_text(err_to));
		x->n.m.relaxed = x->n.auth_to.bucket.relaxed != 0;
	}
	err_to = err == -GRANARY_EPROTO ? 0 : ref_parse(&c, &x->n.auth_to, &x->n.to);
	x->range.to_offset = cur_u64(&c);
	x->range.length = cur_u64(&c);
	x->range.if_version = cur_u64(&c);
	return name_parsed(r, &c, err < 0 ? err : err_to);
}

static int range_copy_plan(struct req *r, struct ns_plan *plan)
{
	struct range_copy_req *x = range_copy_of(r);
	char name[KEY_LEN_MAX], name_to[KEY_LEN_MAX];
	int err;

	x->range.from = x->n.ref;
	x->range.to = x->n.to;
	err = auth_ref_found(&x->n.auth, &x->range.from, name);
	if (err < 0) return name_failed(r, &x->n.auth, &x->n.ref, err);
	err = auth_ref_found(&x->n.auth_to, &x->range.to, name_to);
	if (err == 0) err = ns_plan_copy_range(plan, &x->range);
	if (err == -GRANARY_ECHANGED) { /* for good: nothing is to be planned again */
		req_set_error(r, err, "copy-range: the source has another version");
		return -GRANARY_EPRECONDITION;
	}
	x->n.m.first_id = x->range.object;
	x->n.m.first_version = x->range.version;
	return name_failed(r, &x->n.auth_to, &x->n.to, err);
}

static size_t range_copy_meta_cap(const struct req *r)
{
	(void)r;
	return 4 * 8;
}

static void range_copy_answer(struct req *r, struct wr *w)
{
	const struct range_copy_req *x = range_copy_of(r);

	wr_u64(w, x->n.m.first_id);
	wr_u64(w, x->n.m.first_version);
	wr_u64(w, x->range.size);
	wr_u64(w, x->range.copied);
}

/* How much was copied is kept where a put keeps what it replaced. */
static bool range_copy_list(const struct req *r, enum retry_field field, uint64_t *out)
{
	const struct range_copy_req *x = range_copy_of(r);

	if (field != RETRY_SIZE && field != RETRY_REPLACED) return false;
	out[0] = field == RETRY_SIZE ? x->range.size : x->range.copied;
	return true;
}

static void range_copy_replay(struct req *r, const struct retry_row *row)
{
	struct range_copy_req *x = range_copy_of(r);

	(void)retry_row_get(row, RETRY_SIZE, 0, &x->range.size);
	(void)retry_row_get(row, RETRY_REPLACED, 0, &x->range.copied);
}

static const struct mutation_ops range_copy_ops = { .plan = range_copy_plan,
	.answer = range_copy_answer,
	.meta_cap = range_copy_meta_cap,
	.list = range_copy_list,
	.replay = range_copy_replay };
static const struct req_step range_copy_steps[] = { { "parse", range_copy_begin }, MUTATION_STEPS };
const struct req_kind range_copy_kind = NAME_KIND("copy-range", OP_COPY_RANGE, GRANT_WRITE, range_copy_steps);

/* ---- MAP ---- */

struct stretch {
	uint64_t offset, end;
};

struct mapping {
	struct auth auth;
	struct ns_ref ref;
	uint64_t if_version, offset, id, version, size;
	uint32_t max, count;
	bool more;
	int err;
	struct stretch *found; /* max of them */
};

static struct mapping *mapping_of(const struct req *r)
{
	return r->body;
}

static enum step_result map_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct mapping *m = req_alloc(sizeof(*m));
	struct slice bucket = cur_bytes16(&c);
	int err;

	memset(m, 0, sizeof(*m));
	r->body = m;
	err = auth_begin(r, &m->auth, GRANT_READ, bucket);
	if (err < 0) return req_fail(r, err, "cannot read from this bucket: %s", error_text(err));
	err = ref_parse(&c, &m->auth, &m->ref);
	m->if_version = cur_u64(&c);
	m->offset = cur_u64(&c);
	m->max = cur_u32(&c);
	if (err == -GRANARY_EPROTO || !cur_done(&c) || m->max == 0 || m->max > WIRE_MAP_MAX)
		return req_fail(r, -GRANARY_EPROTO, "map does not parse, or asks not for 1 to %d stretches",
			WIRE_MAP_MAX);
	if (err < 0) return req_fail(r, err, "invalid key or name");
	return STEP_NEXT;
}

/* Extents that touch are one stretch. */
static int map_extent(void *arg, const struct extent *e)
{
	struct mapping *m = arg;
	struct stretch *last = m->count > 0 ? &m->found[m->count - 1] : NULL;

	if ((e->flags & EXTENT_HOLE) != 0 || e->length == 0 || e->logical + e->length <= m->offset) return 0;
	if (last != NULL && last->end == e->logical) {
		last->end += e->length;
		return 0;
	}
	if (m->count == m->max) {
		m->more = true;
		return 1;
	}
	m->found[m->count++] = (struct stretch){ e->logical, e->logical + e->length };
	return 0;
}

static int map_object(struct req *r, struct mapping *m, const struct object *o)
{
	int err = 0;

	if (o->is_dir) return -GRANARY_EISDIR;
	if (!object_has_bytes(o)) return -GRANARY_ENOTFILE;
	if (m->if_version != 0 && m->if_version != o->version) return -GRANARY_ECHANGED;
	m->id = o->id;
	m->version = o->version;
	m->size = o->size;
	for (uint32_t i = 0; i < o->extent_count && err == 0; i++) err = map_extent(m, &o->extents[i]);
	if (err == 0) err = ns_extents(r->store->ns, o, m->offset, UINT64_MAX, map_extent, m);
	return err < 0 ? err : 0;
}

/* Extents are read after the row: of another version by then, once more. */
static int map_once(struct req *r, struct mapping *m)
{
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	uint64_t version;
	int err = ns_lookup(r->store->ns, &m->ref, &place, &o, &value);

	if (err < 0) return err;
	m->count = 0;
	m->more = false;
	version = o.version;
	if (m->ref.by == NS_BY_ID) err = auth_place(&m->auth, &place);
	if (err == 0) err = map_object(r, m, &o);
	kv_value_release(&value);
	if (err < 0 || m->count == 0) return err;
	err = ns_lookup(r->store->ns, &m->ref, &place, &o, &value);
	if (err < 0) return err;
	err = o.version == version ? 0 : -GRANARY_EBUSY;
	kv_value_release(&value);
	return err;
}

static void map_work(struct req *r)
{
	struct mapping *m = mapping_of(r);

	m->found = req_alloc(m->max * sizeof(*m->found));
	m->err = auth_ref(&m->auth, &m->ref, true);
	if (m->err < 0) return;
	m->err = -GRANARY_EBUSY;
	for (int tries = 0; m->err == -GRANARY_EBUSY && tries < MUTATION_TRIES_MAX; tries++) m->err = map_once(r, m);
}

static enum step_result map_look(struct req *r)
{
	r->step++;
	return req_work(r, map_work);
}

static enum step_result map_answer(struct req *r)
{
	struct mapping *m = mapping_of(r);
	size_t cap = 3 * 8 + 1 + 4 + m->count * (2 * sizeof(uint64_t));
	char name[160];
	struct wr w;
	uint8_t *out;

	if (m->err < 0)
		return req_fail(r, m->err, "map '%s': %s", ref_text(&m->auth, &m->ref, name, sizeof(name)),
			error_text(m->err));
	out = req_alloc(cap);
	w = wr_of(out, cap);
	wr_u64(&w, m->id);
	wr_u64(&w, m->version);
	wr_u64(&w, m->size);
	wr_u8(&w, m->more);
	wr_u32(&w, m->count);
	for (uint32_t i = 0; i < m->count; i++) {
		wr_u64(&w, m->found[i].offset);
		wr_u64(&w, m->found[i].end - m->found[i].offset);
	}
	answer_send(r, answer_adopt(r, out, wr_len(&w)), true);
	return STEP_DONE;
}

static void map_cleanup(struct req *r)
{
	struct mapping *m = mapping_of(r);

	if (m != NULL) free(m->found);
	free(m);
	r->body = NULL;
}

static const struct req_step map_steps[] = { { "parse", map_parse }, { "look", map_look }, { "answer", map_answer } };
const struct req_kind map_kind = {
	.op = OP_MAP,
	.name = "map",
	.action = GRANT_READ,
	.steps = map_steps,
	.step_count = 3,
	.cleanup = map_cleanup,
};
