/* SPDX-License-Identifier: Apache-2.0 */
/* ns_orphan.c -- objects that lost their last name while somebody had them open (FORMAT 6.3b): an inode with nlink 0,
 * and a `j` row for each session that holds it. They are found by their id alone; bytes and attributes change as those
 * of any other; they are charged to their bucket until they go.
 *
 * Invariants: (1) an inode with nlink 0 has a `j` row at least, put and removed in the transactions that put and remove
 * it; (2) an orphan never gets a name again; (3) a plan that takes a last name is a removal (opens.h) until its commit
 * is through, also where nobody has the object open. */
#include "meta/ns_holder.h"

#include "common/tlv.h"
#include "meta/ns_orphan.h"

void plan_touch(struct ns_plan *plan, uint64_t dir, struct slice name, uint64_t id)
{
	if (dir != 0)
		kv_txn_touch(plan->txn, dir, name, id);
}

/* ---- removals ---- */

static struct plan_removal *removal_find(const struct ns_plan *plan, uint64_t id)
{
	struct plan_removal *r = plan->removals;
	while (r != NULL && r->id != id)
		r = r->next;
	return r;
}

bool plan_keeps(struct ns_plan *plan, uint64_t id)
{
	struct opens *opens = plan->ns->opens;
	if (opens == NULL)
		return false;
	struct plan_removal *r = plan_alloc(plan, sizeof(*r));
	if (r == NULL)
		return true; /* plan->error is set */
	*r = (struct plan_removal){ .next = plan->removals, .id = id };
	plan->removals = r;
	opens_remove_begin(opens, id);
	return opens_has(opens, id);
}

void plan_end_removals(struct ns_plan *plan, bool committed)
{
	for (struct plan_removal *r = plan->removals; r != NULL; r = r->next) {
		if (committed && r->is_orphan)
			opens_set_orphan(plan->ns->opens, r->id);
		opens_remove_end(plan->ns->opens, r->id);
	}
	plan->removals = NULL;
}

/* ---- rows `j` ---- */

enum { ORPHAN_ROW_MAX = 64 + KEY_LEN_MAX };

struct last_place {
	struct ns_plan *plan;
	uint64_t id, dir;
	struct slice name;
	uint32_t holders;
};

static void put_holder(void *arg, uint64_t session, uint8_t access)
{
	struct last_place *p = arg;
	uint8_t key[ROW_KEY_MAX], value[ORPHAN_ROW_MAX];
	struct wr w = wr_of(value, sizeof(value));
	value_begin(&w);
	tlv_put(&w, JTAG_ACCESS, slice_of(&access, 1));
	tlv_put_u64(&w, JTAG_DIR, p->dir);
	tlv_put(&w, JTAG_NAME, p->name);
	if (!wr_ok(&w))
		p->plan->error = -GRANARY_ETOOBIG;
	p->holders++;
	plan_put_row(p->plan, row_orphan(key, p->id, session), slice_of(value, wr_len(&w)));
}

int plan_orphan(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t bucket, uint64_t dir, struct slice name,
		const struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	struct last_place last = { .plan = plan, .id = o->id, .dir = dir, .name = name };
	struct object orphan = *o;
	struct slice value;
	int err = 0;
	plan_state_unmoved(plan, seen, key);
	if (o->has_links)
		err = plan_delete_under(plan, row_link_prefix(buf, o->id));
	if (err == 0) {
		orphan.in_inode = orphan.has_links = true; /* so that no write makes an `o` row */
		orphan.nlink = 0;
		orphan.bucket = bucket;
		orphan.ctime_ns = plan->now_ns;
		err = plan_encode(plan, &orphan, &value);
	}
	if (err < 0)
		return err;
	if (!o->in_inode)
		plan_state_absent(plan, seen, row_inode(buf, o->id));
	plan_put_row(plan, row_inode(buf, o->id), value);
	opens_each_holder(plan->ns->opens, o->id, put_holder, &last);
	if (last.holders == 0) /* closed meanwhile, or not announced again yet */
		put_holder(&last, 0, OPENS_ALL);
	plan_touch(plan, dir, name, o->id);
	removal_find(plan, o->id)->is_orphan = true;
	return plan->error;
}

static int orphan_row_decode(struct slice value, struct ns_orphan *out)
{
	uint64_t access;
	if (!value_u64(value, JTAG_ACCESS, 0, &access) || !value_u64(value, JTAG_DIR, 0, &out->dir) ||
	    !value_bytes(value, JTAG_NAME, &out->name) || out->name.len > KEY_LEN_MAX || access > OPENS_ALL)
		return -GRANARY_ECORRUPT;
	out->access = (uint8_t)access;
	if (out->name.len > 0)
		memcpy(out->buf, out->name.p, out->name.len);
	out->name.p = out->buf;
	return 0;
}

int ns_orphan_holder(struct ns *ns, uint64_t id, uint64_t session, struct ns_orphan *out)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	int err = kv_get(ns->kv, row_orphan(buf, id, session), &value);
	if (err < 0)
		return err == -GRANARY_ENOTFOUND ? -GRANARY_ESTALE : err;
	err = orphan_row_decode(value.v, out);
	kv_value_release(&value);
	return err;
}

/* ---- the end ---- */

int plan_state_bucket(struct ns_plan *plan, uint64_t bucket)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns_bucket b;
	int err = ns_bucket_by_id(plan->ns, bucket, &b);
	if (err < 0)
		return -GRANARY_ENOTFOUND;
	kv_pre_id(plan->txn, 0, row_bucket(buf, slice_of(b.name, b.name_len)), bucket, false);
	return 0;
}

int ns_plan_end_orphan(struct ns_plan *plan, uint64_t id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct object o;
	struct kv_value value;
	uint64_t seen = kv_seq(plan->ns->kv);
	if (plan_keeps(plan, id))
		return plan->error < 0 ? plan->error : -GRANARY_ELOCKED;
	int err = plan_take_rewrite(plan, id);
	if (err == 0)
		err = inode_get(plan->ns, plan, id, &o, &value);
	if (err < 0)
		return err == -GRANARY_ECORRUPT ? -GRANARY_ENOTFOUND : err; /* a directory's */
	struct slice key = row_inode(buf, id);
	if (o.nlink != 0)
		err = -GRANARY_ENOTFOUND;
	if (err == 0) {
		plan_state_version(plan, seen, key, o.version);
		err = plan_release_bytes(plan, seen, key, &o);
	}
	if (err == 0 && plan_state_bucket(plan, o.bucket) == 0)
		plan_account_bucket(plan, o.bucket, -(int64_t)o.size, -1);
	if (err == 0) {
		plan_delete_row(plan, row_inode(buf, id));
		err = plan_delete_under(plan, row_orphan_prefix(buf, id));
	}
	row_release(&value);
	return err < 0 ? err : plan->error;
}

struct orphan_scan {
	int (*each)(void *arg, uint64_t id);
	void *arg;
	uint64_t last;
};

static int orphan_found(void *arg, struct slice key, struct slice value)
{
	struct orphan_scan *s = arg;
	uint64_t id;
	(void)value;
	if (key.len != 1 + 8 + 8)
		return -GRANARY_ECORRUPT;
	id = be64_get(key.p + 1);
	if (id == s->last)
		return 0;
	s->last = id;
	return s->each(s->arg, id);
}

int ns_orphans(struct ns *ns, int (*each)(void *arg, uint64_t id), void *arg)
{
	struct orphan_scan s = { each, arg, 0 };
	return rows_scan(ns, slice_of("j", 1), orphan_found, &s);
}
