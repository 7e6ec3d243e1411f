/* SPDX-License-Identifier: Apache-2.0 */
/* ns_extents.h -- private to meta/: all extents of an object in the plan's memory, and a new object out of them. */
#pragma once

#include "meta/ns_file.h"
#include "meta/ns_holder.h"

struct extent_list {
	struct extent *at; /* crcs in the plan's memory */
	uint32_t count, cap;
	int err;
};
/* Adds o's extents, those in its `x` rows too, `shift` bytes further on. States that none is moved meanwhile. */
int extents_gather(struct ns_plan *plan, uint64_t seen, uint64_t dir, struct slice name, const struct object *o,
		   uint64_t shift, struct extent_list *list);
/* Puts o's extents into its row and `x` rows. */
int extents_put(struct ns_plan *plan, struct object *o, const struct extent_list *list);

struct placement {
	struct ns_ref ref;
	enum ns_condition condition;
	uint64_t if_version;
	uint64_t bucket; /* that the place must be in; 0: any */
	uint64_t dir, replaced; /* out */
};
/* A new object o with these extents of others at the place, with a `y` row each, over whatever file stands there. */
int plan_place(struct ns_plan *plan, uint64_t seen, struct placement *p, struct object *o,
	       const struct extent_list *list);
