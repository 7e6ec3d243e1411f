/* SPDX-License-Identifier: Apache-2.0 */
/* list.c -- a page of a listing, on a worker, written in its final form (PROTOCOL 4.4).
 *
 * A key whose grants begin deeper than the prefix sees only what lies under them: the page is then
 * made from one grant at a time, in key order, so that it stays one snapshot. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "req/kind.h"

enum { LIST_ENTRY_FIXED = 1 + 2 + 5 * 8 + 4 + 1 + 16, LIST_HEAD = 1 + 4 };

struct list_req {
	struct auth auth;
	struct slice prefix, delimiter, start_after;
	uint32_t max, entries;
	bool more, full;
	int err;
	uint8_t *out; /* malloc'd: the answer's meta */
	size_t len, cap;
	uint32_t grant_count; /* deeper ones, in order; 0: the whole prefix is allowed */
	struct slice grants[NS_GRANTS_MAX];
};

static struct list_req *list_of(const struct req *r)
{
	return r->body;
}

static bool slice_begins(struct slice s, struct slice with)
{
	return s.len >= with.len && (with.len == 0 || memcmp(s.p, with.p, with.len) == 0);
}

/* ---- grants ---- */

static void grant_insert(struct list_req *l, struct slice prefix)
{
	uint32_t at = l->grant_count;

	for (uint32_t i = 0; i < l->grant_count; i++)
		if (slice_begins(prefix, l->grants[i])) return; /* under another one */
	while (at > 0 && slice_compare(l->grants[at - 1], prefix) > 0) {
		l->grants[at] = l->grants[at - 1];
		at--;
	}
	l->grants[at] = prefix;
	l->grant_count++;
	for (uint32_t i = at + 1; i < l->grant_count;) { /* those under this one */
		if (!slice_begins(l->grants[i], prefix)) {
			i++;
			continue;
		}
		memmove(&l->grants[i], &l->grants[i + 1],
			(l->grant_count - i - 1) * sizeof(l->grants[0]));
		l->grant_count--;
	}
}

static int list_authorise(struct list_req *l)
{
	const struct ns_access_key *key = l->auth.key;

	if (auth_key(&l->auth, l->prefix)) return 0;
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];
		struct slice prefix = slice_of(g->prefix, g->prefix_len);

		if ((g->actions & GRANT_LIST) == 0 || !slice_begins(prefix, l->prefix)) continue;
		if (g->bucket[0] == '\0' ||
			slice_eq(slice_str(g->bucket), ref_bucket_name(&l->auth)))
			grant_insert(l, prefix);
	}
	return l->grant_count > 0 ? 0 : -GRANARY_EACCESS;
}

/* ---- entries (worker) ---- */

static struct wr room_for(struct list_req *l, size_t n)
{
	if (l->len + n > l->cap) {
		l->cap = 2 * (l->len + n) + 16 * 1024;
		l->out = realloc(l->out, l->cap);
		assert(l->out != NULL);
	}
	return wr_of(l->out + l->len, l->cap - l->len);
}

static int list_entry(void *arg, struct slice key, const struct object *o)
{
	struct list_req *l = arg;
	struct wr w = room_for(l, LIST_ENTRY_FIXED + STAT_FULL_SIZE + key.len);

	wr_u8(&w, o != NULL ? LIST_OBJECT : LIST_PREFIX);
	wr_bytes16(&w, key);
	if (o != NULL) {
		wr_u64(&w, o->id);
		wr_u64(&w, o->version);
		wr_u64(&w, o->size);
		wr_u64(&w, o->mtime_ns);
		wr_u64(&w, o->parent);
		wr_u32(&w, o->mode);
		wr_u8(&w, o->has_hash);
		wr_u64(&w, o->has_hash ? o->hash.lo : 0);
		wr_u64(&w, o->has_hash ? o->hash.hi : 0);
	}
	if (o != NULL && l->full) {
		wr_u64(&w, o->ctime_ns);
		wr_u64(&w, o->atime_ns != 0 ? o->atime_ns : o->mtime_ns);
		wr_u64(&w, o->rdev);
		wr_u32(&w, o->nlink);
	}
	l->len += wr_len(&w);
	l->entries++;
	return 0;
}

static int list_part(struct list_req *l, struct slice prefix, struct slice delimiter)
{
	struct ns_list page = { .bucket = l->auth.bucket.id,
		.prefix = prefix,
		.delimiter = delimiter,
		.start_after = l->start_after,
		.max = l->max };

	return ns_list(l->auth.store->ns, &page, list_entry, l, &l->more);
}

/* Up to and with the first delimiter after the listing's prefix; empty: none. */
static struct slice common_prefix(const struct list_req *l, struct slice key)
{
	struct slice d = l->delimiter;

	for (size_t at = l->prefix.len; d.len > 0 && at + d.len <= key.len; at++)
		if (memcmp(key.p + at, d.p, d.len) == 0) return slice_of(key.p, at + d.len);
	return slice_of(NULL, 0);
}

static int stop_at_first(void *arg, struct slice key, const struct object *o)
{
	(void)key;
	(void)o;
	*(bool *)arg = true;
	return 1;
}

static int grant_has_any(struct list_req *l, struct slice prefix, bool *has_any)
{
	struct ns_list probe = { .bucket = l->auth.bucket.id, .prefix = prefix, .max = 1 };
	bool more;
	int err = ns_list(l->auth.store->ns, &probe, stop_at_first, has_any, &more);

	return err < 0 ? err : 0;
}

/* What one deeper grant shows: a common prefix it lies under, or the part of the listing under
 * it. */
static int list_grant(struct list_req *l, struct slice grant)
{
	struct slice common = common_prefix(l, grant);
	bool has_any = false;
	int err;

	if (common.len == 0) return list_part(l, grant, l->delimiter);
	if (slice_compare(common, l->start_after) <= 0) return 0;
	err = grant_has_any(l, grant, &has_any);
	return err < 0 || !has_any ? err : list_entry(l, common, NULL);
}

static int list_grants(struct list_req *l)
{
	for (uint32_t i = 0; i < l->grant_count; i++) {
		struct slice g = l->grants[i];
		int err;

		l->more = false;
		if (slice_compare(g, l->start_after) < 0 && !slice_begins(l->start_after, g) &&
			common_prefix(l, g).len == 0)
			continue; /* all of it lies before */
		err = list_grant(l, g);
		if (err < 0) return err;
		if (l->entries > 0) {
			l->more |= i + 1 < l->grant_count;
			return 0;
		}
	}
	return 0;
}

static void list_work(struct req *r)
{
	struct list_req *l = list_of(r);

	room_for(l, LIST_HEAD);
	l->len = LIST_HEAD;
	l->err = l->grant_count > 0 ? list_grants(l) : list_part(l, l->prefix, l->delimiter);
}

/* ---- steps ---- */

static enum step_result list_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	struct list_req *l = req_alloc(sizeof(*l));
	int err;

	memset(l, 0, sizeof(*l));
	r->body = l;
	l->prefix = cur_bytes16(&c);
	l->delimiter = cur_bytes16(&c);
	l->start_after = cur_bytes16(&c);
	l->max = cur_u32(&c);
	l->full = cur_left(&c) > 0; /* a byte of flags, left out when it is 0 */
	if (l->full && cur_u8(&c) != LIST_WANT_FULL) c.bad = true;
	if (!cur_done(&c) || bucket.len == 0 || l->max == 0 || l->max > WIRE_LIST_MAX)
		return req_fail(r, -GRANARY_EPROTO,
			"LIST does not parse, has no bucket, or asks not for 1 to %d entries",
			WIRE_LIST_MAX);
	if (l->prefix.len > KEY_LEN_MAX || l->start_after.len > KEY_LEN_MAX ||
		l->delimiter.len > KEY_LEN_MAX)
		return req_fail(r, -GRANARY_ENAME,
			"prefix, delimiter or start-after is longer than %d bytes", KEY_LEN_MAX);
	err = auth_begin(r, &l->auth, GRANT_LIST, bucket);
	if (err == 0) err = list_authorise(l);
	if (err < 0) return req_fail(r, err, "cannot list here: %s", error_text(err));
	r->step++;
	return req_work(r, list_work);
}

static enum step_result list_answer(struct req *r)
{
	struct list_req *l = list_of(r);
	struct wr head;

	if (l->err < 0) return req_fail(r, l->err, "cannot list: %s", error_text(l->err));
	head = wr_of(l->out, LIST_HEAD);
	wr_u8(&head, l->more);
	wr_u32(&head, l->entries);
	stat_add(&r->local->stats->entries[OP_LIST], l->entries);
	answer_send(r, answer_adopt(r, l->out, l->len), true);
	l->out = NULL;
	return STEP_DONE;
}

static void list_cleanup(struct req *r)
{
	struct list_req *l = list_of(r);

	if (l != NULL) free(l->out);
	free(l);
	r->body = NULL;
}

static const struct req_step list_steps[] = { { "parse", list_parse }, { "answer", list_answer } };
const struct req_kind list_kind = {
	.op = OP_LIST,
	.name = "list",
	.action = GRANT_LIST,
	.steps = list_steps,
	.step_count = 2,
	.cleanup = list_cleanup,
};
