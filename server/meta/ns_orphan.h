/* SPDX-License-Identifier: Apache-2.0 */
/* ns_orphan.h -- objects without a name (FORMAT 6.3b): who holds them, and their end. Workers. */
#pragma once

#include "meta/ns.h"

struct ns_orphan {
	uint8_t access;   /* OPENS_... bits */
	uint64_t dir;     /* where its last name was */
	struct slice name;
	uint8_t buf[KEY_LEN_MAX];
};
/* What the session may do to it. Session 0: nobody is known who had it open. ESTALE: it does not hold it. */
int ns_orphan_holder(struct ns *ns, uint64_t id, uint64_t session, struct ns_orphan *out);
/* Removes an orphan that nobody has open. LOCKED: somebody has; NOTFOUND: it is none. */
int ns_plan_end_orphan(struct ns_plan *plan, uint64_t id);
/* Each orphan, once. Non-zero from each() stops and is returned. */
int ns_orphans(struct ns *ns, int (*each)(void *arg, uint64_t id), void *arg);
