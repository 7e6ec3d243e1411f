/* SPDX-License-Identifier: Apache-2.0 */
/* ns_holder.h -- private to meta/: where the attributes of a name stand: in its `d` row, or, of a file that has or had
 * several names, in the `i` row of the id that the `d` row names.
 *
 * Invariants: (1) a `d` row with tag 41 has an `i` row of its id, made and removed in the transactions that make the
 * second name and remove the last; (2) whoever changes an object without giving it a new version holds it by
 * plan_take_rewrite before the row is read. */
#pragma once

#include "meta/ns_priv.h"

/* The file of a name, from its inode where it stands there: then o->in_inode. plan may be NULL. *value is to be
 * released only on 0. -GRANARY_ENOTFOUND. */
int entry_get(struct ns *ns, struct ns_plan *plan, uint64_t dir, struct slice name, struct object *o,
	      struct kv_value *value);
/* The same for its inode. */
int inode_get(struct ns *ns, struct ns_plan *plan, uint64_t id, struct object *o, struct kv_value *value);
/* The file of a spot: entry_get of its name, or inode_get of an orphan. */
int spot_get(struct ns *ns, struct ns_plan *plan, const struct spot *s, struct object *o, struct kv_value *value);
/* That the entry is as entry_get showed it: its row's version, or what it names and its inode's version. */
void plan_state_entry(struct ns_plan *plan, uint64_t seen, uint64_t dir, struct slice name, const struct object *o);
/* The row that holds o's attributes. */
struct slice object_row(uint8_t *buf, uint64_t dir, struct slice name, const struct object *o);

struct holder {
	struct spot spot; /* of a root: no name, dir is itself */
	bool is_dir;
	bool sets_mtime; /* by the caller, before holder_put: o.mtime_ns holds, whatever came meanwhile */
	struct object o;
	struct kv_value value;
};
/* What a ref names (ns_file.h). With a plan a file is held by plan_take_rewrite. Release with holder_release, only
 * after 0. */
int holder_find(struct ns *ns, struct ns_plan *plan, const struct ns_ref *ref, struct holder *h);
void holder_release(struct holder *h);
/* States what the plan rests on and puts h->o as it is now; a directory gets a new version. */
int holder_put(struct ns_plan *plan, uint64_t seen, struct holder *h);
