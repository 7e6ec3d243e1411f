/* SPDX-License-Identifier: Apache-2.0 */
/* name_req.c -- see name_req.h. */
#include "req/name_req.h"

#include "common/error.h"

enum step_result name_begin(
	struct req *r, struct cur *c, const struct mutation_ops *ops, size_t body_size, uint8_t actions)
{
	struct slice bucket = cur_bytes16(c);
	struct name_req *n;
	int err;

	if (mutation_begin(r, c, ops, body_size) < 0)
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	n = name_of(r);
	err = auth_begin(r, &n->auth, actions, bucket);
	if (err == 0) err = auth_begin(r, &n->auth_to, GRANT_WRITE, bucket);
	if (err < 0)
		return req_fail(
			r, err, "cannot %s in this bucket: %s", r->kind->name, error_text(err));
	n->m.relaxed = n->auth.bucket.relaxed != 0;
	return STEP_NEXT;
}

enum step_result name_parsed(struct req *r, const struct cur *c, int err)
{
	if (err == -GRANARY_EPROTO || !cur_done(c))
		return req_fail(r, -GRANARY_EPROTO, "%s does not parse", r->kind->name);
	if (err < 0)
		return req_fail(r, err, "invalid key or name: 1 to %d bytes of UTF-8 without NUL",
			KEY_LEN_MAX);
	return STEP_NEXT;
}

int name_failed(struct req *r, struct auth *a, const struct ns_ref *ref, int err)
{
	char name[160];

	if (err < 0 && err != -GRANARY_EBUSY && err != -GRANARY_ECHANGED)
		req_set_error(r, err, "%s '%s': %s", r->kind->name,
			ref_text(a, ref, name, sizeof(name)), error_text(err));
	return err;
}
