/* SPDX-License-Identifier: Apache-2.0 */
/* name_req.h -- private to req/: mutations of one name, or of two: one commit, one status. */
#pragma once

#include "req/mutation.h"

/* The first member of such a kind's body. */
struct name_req {
	struct mutation m;
	struct auth auth, auth_to; /* of ref; of to: WRITE */
	struct ns_ref ref, to;
	uint32_t mode;
	uint8_t flags;
};

static inline struct name_req *name_of(const struct req *r)
{
	return r->body;
}

/* Reads bucket and PROTOCOL 5.1 and makes the body; the caller parses on. actions: what it needs on ref. */
enum step_result name_begin(
	struct req *r, struct cur *c, const struct mutation_ops *ops, size_t body_size, uint8_t actions);
/* The end of parsing; err: of a ref, of any. */
enum step_result name_parsed(struct req *r, const struct cur *c, int err);
/* The error of a plan, told with the name it is about. */
int name_failed(struct req *r, struct auth *a, const struct ns_ref *ref, int err);

#define NAME_KIND(NAME, OP, ACTION, STEPS) \
	{ .op = (OP), .name = (NAME), .action = (ACTION), .mutation = true, .steps = (STEPS), .step_count = 4, \
		.cleanup = mutation_cleanup }
