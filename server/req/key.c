/* SPDX-License-Identifier: Apache-2.0 */
/* key.c -- access keys: create, remove, list (PROTOCOL 5.8). All need ADMIN on all buckets; a key
 * grants only what it has. Secrets are wiped from every buffer of ours. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/rand.h"
#include "meta/ids.h"
#include "req/mutation.h"

enum { KEY_ID_LEN = 20, KEYS_A_PAGE = 64 };
static_assert((int)KEY_ID_LEN <= (int)NS_KEY_ID_MAX, "an id fits");

static bool may_admin(const struct req *r)
{
	return auth_whole(r->peer->key, GRANT_ADMIN, slice_of(NULL, 0));
}

static enum step_result refuse(struct req *r)
{
	return req_fail(r, -GRANARY_EACCESS, "access key %s has no admin grant on all buckets",
		r->peer->key->id);
}

/* ---- create ---- */

struct key_req {
	struct mutation m;
	struct slice id;           /* remove */
	struct ns_access_key *key; /* create */
};

static struct key_req *key_of(const struct req *r)
{
	return r->body;
}

static int grant_parse(struct cur *c, struct ns_grant *g)
{
	struct slice bucket, prefix;

	g->actions = cur_u8(c);
	bucket = cur_bytes16(c);
	prefix = cur_bytes16(c);
	if (!cur_ok(c)) return -GRANARY_EPROTO;
	if (g->actions == 0 || g->actions > 31 ||
		(bucket.len > 0 && bucket_name_check(bucket) < 0) || prefix.len > KEY_LEN_MAX ||
		!utf8_valid(prefix) || (prefix.len > 0 && memchr(prefix.p, 0, prefix.len) != NULL))
		return -GRANARY_EINVAL;
	if (bucket.len > 0) memcpy(g->bucket, bucket.p, bucket.len);
	if (prefix.len > 0) memcpy(g->prefix, prefix.p, prefix.len);
	g->prefix_len = (uint16_t)prefix.len;
	return 0;
}

/* Does one grant of the key cover this one, action by action? */
static bool has_grant(const struct ns_access_key *key, const struct ns_grant *wanted)
{
	uint8_t missing = wanted->actions;

	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];

		if ((g->bucket[0] == '\0' || strcmp(g->bucket, wanted->bucket) == 0) &&
			g->prefix_len <= wanted->prefix_len &&
			memcmp(g->prefix, wanted->prefix, g->prefix_len) == 0)
			missing &= (uint8_t)~g->actions;
	}
	return missing == 0;
}

static void key_id_make(char id[NS_KEY_ID_MAX + 1])
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t n = 2;

	memcpy(id, "GK", 2);
	while (n < KEY_ID_LEN) {
		uint8_t byte;

		rand_bytes(&byte, 1);
		if (byte < 252) /* 7 x 36: every letter equally often */
			id[n++] = letters[byte % 36];
	}
	id[n] = '\0';
}

static const struct mutation_ops key_create_ops, key_remove_ops;

static enum step_result create_parse(struct req *r, struct cur *c, struct ns_access_key *key)
{
	uint64_t expires_s = cur_u64(c);
	struct slice note = cur_bytes16(c);
	uint16_t grants = cur_u16(c);

	if (!cur_ok(c) || grants == 0 || grants > NS_GRANTS_MAX)
		return req_fail(r, -GRANARY_EPROTO,
			"KEY_CREATE does not parse, or has not 1 to %d grants", NS_GRANTS_MAX);
	if (note.len >= sizeof(key->note) || !utf8_valid(note))
		return req_fail(r, -GRANARY_EINVAL,
			"the note is longer than %zu bytes or not UTF-8", sizeof(key->note) - 1);
	memcpy(key->note, note.len > 0 ? note.p : (const uint8_t *)"", note.len);
	if (expires_s > 1000 * UINT64_C(366) * 86400)
		return req_fail(r, -GRANARY_EINVAL,
			"the key would live longer than 1,000 years; 0 is never");
	if (expires_s > 0)
		key->expires_ns =
			store_clock_now(r->store->clock) + expires_s * UINT64_C(1000000000);
	for (; key->grant_count < grants; key->grant_count++) {
		struct ns_grant *g = &key->grants[key->grant_count];
		int err = grant_parse(c, g);

		if (err < 0)
			return req_fail(r, err,
				"grant %u: unknown actions, no bucket name, or no prefix of a key",
				key->grant_count);
		if (!has_grant(r->peer->key, g))
			return req_fail(r, -GRANARY_EACCESS,
				"grant %u is more than access key %s has itself", key->grant_count,
				r->peer->key->id);
	}
	return cur_done(c)
		       ? STEP_NEXT
		       : req_fail(r, -GRANARY_EPROTO, "KEY_CREATE: bytes follow the last grant");
}

static enum step_result key_create_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct ns_access_key *key;

	cur_bytes16(&c);
	if (mutation_begin(r, &c, &key_create_ops, sizeof(struct key_req)) < 0)
		return req_fail(r, -GRANARY_EPROTO, "KEY_CREATE does not parse");
	if (!may_admin(r)) return refuse(r);
	key = req_alloc(sizeof(*key));
	memset(key, 0, sizeof(*key));
	key_of(r)->key = key;
	if (create_parse(r, &c, key) == STEP_DONE) return STEP_DONE;
	key_id_make(key->id);
	rand_bytes(key->secret, sizeof(key->secret));
	return STEP_NEXT;
}

static int key_create_run(struct req *r)
{
	int err = ns_key_create(r->store->ns, key_of(r)->key);

	if (err < 0) req_set_error(r, err, "cannot create an access key: %s", error_text(err));
	return err;
}

static void key_create_answer(struct req *r, struct wr *w)
{
	static const char digits[] = "0123456789abcdef";
	const struct ns_access_key *key = key_of(r)->key;
	char hex[2 * sizeof(key->secret)];

	for (size_t i = 0; i < sizeof(key->secret); i++) {
		hex[2 * i] = digits[key->secret[i] >> 4];
		hex[2 * i + 1] = digits[key->secret[i] & 15];
	}
	wr_bytes16(w, slice_str(key->id));
	wr_bytes16(w, slice_of(hex, sizeof(hex)));
	explicit_bzero(hex, sizeof(hex));
}

static size_t key_create_meta_cap(const struct req *r)
{
	(void)r;
	return 2 + KEY_ID_LEN + 2 + 2 * sizeof(((struct ns_access_key *)NULL)->secret);
}

static void key_cleanup(struct req *r)
{
	struct key_req *k = key_of(r);

	if (k != NULL && k->key != NULL) {
		explicit_bzero(k->key, sizeof(*k->key));
		free(k->key);
	}
	mutation_cleanup(r);
}

static const struct mutation_ops key_create_ops = {
	.run = key_create_run,
	.answer = key_create_answer,
	.meta_cap = key_create_meta_cap,
};
static const struct req_step key_create_steps[] = { { "parse", key_create_begin }, MUTATION_STEPS };
const struct req_kind key_create_kind = {
	.op = OP_KEY_CREATE,
	.name = "key_create",
	.action = GRANT_ADMIN,
	.mutation = true,
	.steps = key_create_steps,
	.step_count = 4,
	.cleanup = key_cleanup,
};

/* ---- remove ---- */

static enum step_result key_remove_begin(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);

	cur_bytes16(&c);
	if (mutation_begin(r, &c, &key_remove_ops, sizeof(struct key_req)) < 0)
		return req_fail(r, -GRANARY_EPROTO, "KEY_REMOVE does not parse");
	key_of(r)->id = cur_bytes16(&c);
	if (!cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "KEY_REMOVE does not parse");
	return may_admin(r) ? STEP_NEXT : refuse(r);
}

static int key_remove_run(struct req *r)
{
	char text[128];
	int err = ns_key_remove(r->store->ns, key_of(r)->id);

	if (err < 0)
		req_set_error(r, err, "access key '%s': %s",
			name_escape(text, sizeof(text), key_of(r)->id),
			err == -GRANARY_ENOTFOUND ? "no such key" : error_text(err));
	return err;
}

static const struct mutation_ops key_remove_ops = { .run = key_remove_run };
static const struct req_step key_remove_steps[] = { { "parse", key_remove_begin }, MUTATION_STEPS };
const struct req_kind key_remove_kind = {
	.op = OP_KEY_REMOVE,
	.name = "key_remove",
	.action = GRANT_ADMIN,
	.mutation = true,
	.steps = key_remove_steps,
	.step_count = 4,
	.cleanup = key_cleanup,
};

/* ---- list ---- */

static size_t key_entry_len(const struct ns_access_key *key)
{
	size_t n = 2 + strlen(key->id) + 8 + 2 + strlen(key->note) + 2;

	for (uint32_t i = 0; i < key->grant_count; i++)
		n += 1 + 2 + strlen(key->grants[i].bucket) + 2 + key->grants[i].prefix_len;
	return n;
}

static void key_entry_write(struct wr *w, const struct ns_access_key *key)
{
	wr_bytes16(w, slice_str(key->id));
	wr_u64(w, key->expires_ns);
	wr_bytes16(w, slice_str(key->note));
	wr_u16(w, (uint16_t)key->grant_count);
	for (uint32_t i = 0; i < key->grant_count; i++) {
		const struct ns_grant *g = &key->grants[i];

		wr_u8(w, g->actions);
		wr_bytes16(w, slice_str(g->bucket));
		wr_bytes16(w, slice_of(g->prefix, g->prefix_len));
	}
}

static void key_list_send(struct req *r, const struct ns_access_key *keys, uint32_t n, bool more)
{
	size_t cap = 5;
	struct answer *a;
	struct wr w;

	for (uint32_t i = 0; i < n; i++) cap += key_entry_len(&keys[i]);
	a = answer_new(r, cap);
	w = wr_of(a->meta, cap);
	wr_u8(&w, more);
	wr_u32(&w, n);
	for (uint32_t i = 0; i < n; i++) key_entry_write(&w, &keys[i]);
	a->meta_len = (uint32_t)wr_len(&w);
	answer_send(r, a, true);
}

static enum step_result key_list_run(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice after = cur_bytes16(&c);
	uint32_t max = cur_u32(&c), n;
	struct ns_access_key *keys;

	if (!cur_done(&c) || max == 0)
		return req_fail(r, -GRANARY_EPROTO, "KEY_LIST does not parse");
	if (!may_admin(r)) return refuse(r);
	if (max > KEYS_A_PAGE) max = KEYS_A_PAGE;
	keys = req_alloc((max + 1) * sizeof(*keys));
	n = ns_key_list(r->store->ns, after, keys, max + 1);
	key_list_send(r, keys, n < max ? n : max, n > max);
	explicit_bzero(keys, (max + 1) * sizeof(*keys));
	free(keys);
	return STEP_DONE;
}

static const struct req_step key_list_steps[] = { { "list", key_list_run } };
const struct req_kind key_list_kind = {
	.op = OP_KEY_LIST,
	.name = "key_list",
	.action = GRANT_ADMIN,
	.steps = key_list_steps,
	.step_count = 1,
};
