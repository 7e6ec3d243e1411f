/* SPDX-License-Identifier: Apache-2.0 */
/* rules.c -- an admin's words about rules: show, apply, plan, explain, cost; and pins, which who may write
 * there may set (PROTOCOL 5.21). Plans scan the
 * namespace: on a worker, one such request a time; others are told BUSY and come again. */
#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/policy.h"
#include "meta/ns.h"
#include "req/kind.h"

struct rules_req {
	uint8_t what, flags;
	struct slice text, path; /* in the request's meta */
	int err;
	char *out, why[RULE_WHY_MAX];
};

static _Atomic bool is_planning;

static bool splits(struct slice path, char bucket[BUCKET_LEN_MAX + 1], char key[KEY_LEN_MAX + 1])
{
	const uint8_t *slash = path.len ? memchr(path.p, '/', path.len) : NULL;
	size_t len = slash ? (size_t)(slash - path.p) : 0, rest = slash ? path.len - len - 1 : 0;

	if (len == 0 || len > BUCKET_LEN_MAX || rest == 0 || rest > KEY_LEN_MAX) return false;
	memcpy(bucket, path.p, len);
	bucket[len] = '\0';
	memcpy(key, slash + 1, rest);
	key[rest] = '\0';
	return strlen(bucket) == len && strlen(key) == rest;
}

static int run_explain(struct policy *p, struct rules_req *q)
{
	char bucket[BUCKET_LEN_MAX + 1], key[KEY_LEN_MAX + 1];

	if (splits(q->path, bucket, key))
		return policy_explain(p, bucket, key, q->flags & RULES_JSON, &q->out, q->why, sizeof(q->why));
	snprintf(q->why, sizeof(q->why), "BUCKET/KEY is needed");
	return -GRANARY_EINVAL;
}

static int run_pins(struct policy *p, struct rules_req *q)
{
	char *path = q->path.len ? strndup((const char *)q->path.p, q->path.len) : NULL;
	int err;

	if (q->path.len && (!path || strlen(path) != q->path.len)) {
		snprintf(q->why, sizeof(q->why), "BUCKET[/PATH] holds a zero");
		err = -GRANARY_EINVAL;
	} else if (q->what == RULES_PINS) {
		err = policy_pins_text(p, path, q->flags & RULES_JSON, &q->out, q->why, sizeof(q->why));
	} else if (path) {
		err = policy_pin(p, path, q->what == RULES_PIN, q->why, sizeof(q->why));
	} else {
		snprintf(q->why, sizeof(q->why), "BUCKET[/PATH] is needed");
		err = -GRANARY_EINVAL;
	}
	free(path);
	return err;
}

static int run_top(struct policy *p, struct rules_req *q)
{
	char *path = strndup(q->path.len ? (const char *)q->path.p : "", q->path.len);
	int err = path ? policy_top(p, path, q->flags & RULES_JSON, &q->out, q->why, sizeof(q->why)) : -GRANARY_ENOMEM;

	free(path);
	return err;
}

static int run(struct policy *p, struct rules_req *q)
{
	const char *text = q->flags & RULES_GIVEN ? (const char *)q->text.p : NULL;
	bool json = q->flags & RULES_JSON;

	switch (q->what) {
	case RULES_SHOW: return policy_rules_text(p, &q->out);
	case RULES_APPLY:
		return policy_apply(
			p, text ? text : "", q->text.len, q->flags & RULES_YES_DELETE, q->why, sizeof(q->why));
	case RULES_PLAN: return policy_plan(p, text, q->text.len, json, &q->out, q->why, sizeof(q->why));
	case RULES_EXPLAIN: return run_explain(p, q);
	case RULES_PIN:
	case RULES_UNPIN:
	case RULES_PINS: return run_pins(p, q);
	case RULES_TOP: return run_top(p, q);
	case RULES_MAP: return policy_map(p, &q->out);
	default: return policy_cost(p, json, &q->out, q->why, sizeof(q->why));
	}
}

static void rules_work(struct req *r)
{
	struct rules_req *q = r->body;
	bool scans = q->what == RULES_PLAN || q->what == RULES_COST || q->what == RULES_APPLY ||
		     q->what == RULES_TOP;

	if (scans && atomic_exchange(&is_planning, true)) {
		q->err = -GRANARY_EBUSY;
		return;
	}
	q->err = run(r->store->policy, q);
	if (scans) atomic_store(&is_planning, false);
}

/* A pin is of who may write what it names; to ask about one, reading is enough. */
static bool may_pin(const struct req *r, uint8_t what, struct slice path)
{
	const uint8_t *slash = path.len ? memchr(path.p, '/', path.len) : NULL;
	size_t len = slash ? (size_t)(slash - path.p) : path.len;
	struct auth auth;

	if (len == 0 || auth_begin(r, &auth, what == RULES_PINS ? GRANT_READ : GRANT_WRITE, slice_of(path.p, len)) < 0)
		return false;
	return auth_key(&auth, slash ? slice_of(slash + 1, path.len - len - 1) : slice_of("", 0));
}

static enum step_result rules_parse_step(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	uint8_t what = cur_u8(&c), flags = cur_u8(&c);
	struct slice path = cur_bytes16(&c), text = cur_bytes32(&c);
	struct rules_req *q;

	if (!cur_done(&c) || what < RULES_SHOW || what > RULES_MAP || flags > 7)
		return req_fail(r, -GRANARY_EPROTO, "RULES does not parse");
	bool is_pin = what >= RULES_PIN && what <= RULES_PINS;
	if (!auth_whole(r->peer->key, GRANT_ADMIN, slice_of(NULL, 0)) && !(is_pin && may_pin(r, what, path)))
		return req_fail(
			r, -GRANARY_EACCESS, "access key %s has no admin grant on all buckets", r->peer->key->id);
	if (!r->store->policy) return req_fail(r, -GRANARY_EUNSUPPORTED, "this server runs no background jobs");
	q = req_alloc(sizeof(*q));
	*q = (struct rules_req){ .what = what, .flags = flags, .text = text, .path = path };
	r->body = q;
	r->step++;
	return req_work(r, rules_work);
}

static enum step_result rules_answer(struct req *r)
{
	const struct rules_req *q = r->body;
	const char *out = q->out ? q->out : "";

	if (q->err < 0) return req_fail(r, q->err, "%s", q->why[0] ? q->why : error_text(q->err));
	answer_text(r, out, strlen(out));
	return STEP_DONE;
}

static void body_free(struct req *r)
{
	struct rules_req *q = r->body;

	r->body = NULL;
	if (!q) return;
	free(q->out);
	free(q);
}

static const struct req_step steps[] = { { "parse", rules_parse_step }, { "answer", rules_answer } };
const struct req_kind rules_kind = {
	.op = OP_RULES,
	.name = "rules",
	.steps = steps,
	.step_count = 2,
	.cleanup = body_free,
};
