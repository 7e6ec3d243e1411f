/* SPDX-License-Identifier: Apache-2.0 */
/* ns_plan.c -- a mutation on its way to the committer: the transaction, and over it what the plan's own entries have
 * changed so far, so that each entry sees those before it.
 *
 * Invariants: (1) whatever a plan concludes from a row of the engine, it states once as a precondition, before it
 * changes that row; (2) `seen` is older than every read, of rows and of the tables, that the stated row's content was
 * concluded from, and what was not read is stated with 0 (but for rows below a directory that this plan makes: its
 * inode was read and is stated to be absent, so they are); (3) sums (live bytes, quota, directory times, emptied
 * directories) are added once, by ns_plan_finish; (4) an emptied implicit directory is removed by the plan that
 * empties it, and who leaves it with a child states that the child is there: so of two that remove the last two
 * children one is refused and plans again. */
#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/tlv.h"
#include "meta/ns_priv.h"

enum { CHUNK_MIN = 4096, CHUNK_MAX = 256 * 1024, ROW_SLOTS_MIN = 64, DIR_MODE = 040755,
       REWRITE_TRIES = 50, REWRITE_PAUSE_US = 200 };

/* ---- memory ---- */

uint8_t *plan_buf(void)
{
	static _Thread_local uint8_t buf[PLAN_BUF_SIZE];

	return buf;
}

struct ns_plan *ns_plan_new(struct ns *ns)
{
	struct ns_plan *plan = malloc(sizeof(*plan));
	if (plan == NULL)
		return NULL;
	memset(plan, 0, sizeof(*plan));
	plan->magic = PLAN_MAGIC;
	plan->ns = ns;
	plan->now_ns = clock_wall_ns();
	plan->row_slots = ROW_SLOTS_MIN;
	plan->rows = calloc(plan->row_slots, sizeof(struct plan_row *));
	plan->txn = kv_txn_new(ns->kv);
	if (plan->rows == NULL || plan->txn == NULL)
		ns_plan_free(&plan);
	return plan;
}

static void plan_give_rewrites(struct ns_plan *plan)
{
	for (struct plan_rewrite *r = plan->rewrites; r != NULL; r = r->next)
		rewriting_give(plan->ns->rewriting, r->id);
	plan->rewrites = NULL;
}

static void plan_end_making(struct ns_plan *plan, bool committed)
{
	for (struct plan_made *m = plan->made; m != NULL; m = m->next)
		making_done(plan->ns->making, m->parent, m->name, m->id, m->is_submitted, committed);
	plan->made = NULL;
}

void ns_plan_free(struct ns_plan **planp)
{
	struct ns_plan *plan = *planp;
	*planp = NULL;
	if (plan == NULL)
		return;
	assert(plan->magic == PLAN_MAGIC);
	plan->magic = 0;
	plan_give_rewrites(plan);
	plan_end_making(plan, false);
	plan_end_removals(plan, false);
	kv_txn_free(&plan->txn);
	while (plan->chunks != NULL) {
		struct chunk *c = plan->chunks;
		plan->chunks = c->next;
		free(c);
	}
	free(plan->rows);
	free(plan);
}

void ns_plan_set_unblocking(struct ns_plan *plan)
{
	plan->may_not_block = true;
}

struct kv_txn *ns_plan_txn(struct ns_plan *plan)
{
	return plan->txn;
}

struct kv_txn *ns_plan_take_txn(struct ns_plan *plan)
{
	struct kv_txn *txn = plan->txn;
	assert(plan->is_committed);
	plan->txn = NULL;
	return txn;
}

void *plan_alloc(struct ns_plan *plan, size_t size)
{
	struct chunk *c = plan->chunks;
	size = (size + 7) & ~(size_t)7;
	if (c == NULL || c->cap - c->used < size) {
		size_t cap = c == NULL ? CHUNK_MIN : c->cap * 2 > CHUNK_MAX ? CHUNK_MAX : c->cap * 2;
		if (cap < size)
			cap = size;
		c = malloc(sizeof(*c) + cap);
		if (c == NULL) {
			plan->error = -GRANARY_ENOMEM;
			return NULL;
		}
		*c = (struct chunk){ .next = plan->chunks, .cap = cap };
		plan->chunks = c;
	}
	void *p = c->bytes + c->used;
	c->used += size;
	return p;
}

struct slice plan_copy(struct ns_plan *plan, struct slice s)
{
	void *p = plan_alloc(plan, s.len);
	if (p == NULL || s.len == 0)
		return slice_of(NULL, 0);
	memcpy(p, s.p, s.len);
	return slice_of(p, s.len);
}

/* ---- rows ---- */

static uint64_t row_hash(struct slice key)
{
	return hash_keyed(PLAN_MAGIC, 0, key.p, key.len).lo;
}

static struct plan_row *row_find(const struct ns_plan *plan, struct slice key, uint64_t hash)
{
	struct plan_row *row = plan->rows[hash & (plan->row_slots - 1)];
	while (row != NULL && (row->hash != hash || !slice_eq(row->key, key)))
		row = row->next;
	return row;
}

struct plan_row *plan_row_find(const struct ns_plan *plan, struct slice key)
{
	return plan->row_count == 0 ? NULL : row_find(plan, key, row_hash(key));
}

static void rows_grow(struct ns_plan *plan)
{
	uint32_t slots = plan->row_slots * 4;
	struct plan_row **rows = calloc(slots, sizeof(struct plan_row *));
	if (rows == NULL)
		return; /* slower, still right */
	for (uint32_t i = 0; i < plan->row_slots; i++) {
		for (struct plan_row *row = plan->rows[i], *next; row != NULL; row = next) {
			next = row->next;
			row->next = rows[row->hash & (slots - 1)];
			rows[row->hash & (slots - 1)] = row;
		}
	}
	free(plan->rows);
	plan->rows = rows;
	plan->row_slots = slots;
}

static struct plan_row *row_make(struct ns_plan *plan, struct slice key)
{
	uint64_t hash = row_hash(key);
	struct plan_row *row = row_find(plan, key, hash);
	if (row != NULL)
		return row;
	if (plan->row_count >= plan->row_slots)
		rows_grow(plan);
	row = plan_alloc(plan, sizeof(*row));
	if (row == NULL)
		return NULL;
	*row = (struct plan_row){ .hash = hash, .key = plan_copy(plan, key), .change = ROW_SAME };
	if (plan->error < 0)
		return NULL;
	struct plan_row **at = &plan->rows[hash & (plan->row_slots - 1)];
	row->next = *at;
	*at = row;
	plan->row_count++;
	return row;
}

/* Keeps count of a directory's child rows. */
static void row_counts(struct ns_plan *plan, const struct plan_row *row, enum row_change change)
{
	if (row->key.p[0] != 'd' || row->change == change)
		return;
	struct plan_dir *pd = plan_dir_get(plan, be64_get(row->key.p + 1));
	if (pd == NULL)
		return;
	if (change == ROW_PUT) {
		pd->puts++;
		return;
	}
	if (row->change == ROW_PUT)
		pd->puts--;
	if (slice_cmp(pd->last_deleted, row->key) < 0)
		pd->last_deleted = row->key;
}

static bool row_put(struct ns_plan *plan, struct slice key, struct slice value)
{
	struct plan_row *row = row_make(plan, key);
	if (row == NULL)
		return false;
	row_counts(plan, row, ROW_PUT);
	row->change = ROW_PUT;
	row->value = plan_copy(plan, value);
	return true;
}

void plan_put_row(struct ns_plan *plan, struct slice key, struct slice value)
{
	if (row_put(plan, key, value))
		kv_put(plan->txn, key, value);
}

void plan_put_dir(struct ns_plan *plan, struct slice key, struct slice value, bool sets_mtime)
{
	if (row_put(plan, key, value))
		kv_put_keeping(plan->txn, key, value, TAG_NLINK, sets_mtime ? 0 : TAG_MTIME);
}

void plan_delete_row(struct ns_plan *plan, struct slice key)
{
	struct plan_row *row = row_make(plan, key);
	if (row == NULL)
		return;
	row_counts(plan, row, ROW_DELETED);
	row->change = ROW_DELETED;
	row->value = slice_of(NULL, 0);
	kv_delete(plan->txn, key);
}

/* True the first time, for a row the plan did not change: invariant (1). */
static bool row_state(struct ns_plan *plan, struct slice key)
{
	struct plan_row *row = row_make(plan, key);
	if (row == NULL || row->is_stated || row->change != ROW_SAME)
		return false;
	row->is_stated = true;
	return true;
}

void plan_state_absent(struct ns_plan *plan, uint64_t seen, struct slice key)
{
	if (row_state(plan, key))
		kv_pre_absent(plan->txn, seen, key);
}

void plan_state_version(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t version)
{
	if (row_state(plan, key))
		kv_pre_version(plan->txn, seen, key, version);
}

void plan_state_unmoved(struct ns_plan *plan, uint64_t seen, struct slice key)
{
	const struct plan_row *row = plan_row_find(plan, key);
	if (row == NULL || row->change == ROW_SAME)
		kv_pre_untouched(plan->txn, seen, key);
}

void plan_state_id(struct ns_plan *plan, uint64_t seen, struct slice key, uint64_t id)
{
	if (row_state(plan, key))
		kv_pre_id(plan->txn, seen, key, id, false);
}

struct plan_scan {
	struct ns_plan *plan;
	int (*each)(void *arg, struct slice key, struct slice value);
	void *arg;
};

static int plan_scan_engine_row(void *arg, struct slice key, struct slice value)
{
	struct plan_scan *s = arg;
	const struct plan_row *row = plan_row_find(s->plan, key);
	return row != NULL && row->change != ROW_SAME ? 0 : s->each(s->arg, key, value);
}

int plan_scan(struct ns_plan *plan, struct slice prefix, int (*each)(void *arg, struct slice key, struct slice value),
	      void *arg)
{
	struct plan_scan s = { plan, each, arg };
	if (plan->may_not_block)
		return -GRANARY_EAGAIN;
	int err = rows_scan(plan->ns, prefix, plan_scan_engine_row, &s);
	for (uint32_t i = 0; err == 0 && i < plan->row_slots; i++)
		for (struct plan_row *row = plan->rows[i]; err == 0 && row != NULL; row = row->next)
			if (row->change == ROW_PUT && slice_begins(row->key, prefix))
				err = each(arg, row->key, row->value);
	return err;
}

int plan_encode(struct ns_plan *plan, const struct object *o, struct slice *out)
{
	uint8_t *buf = plan_buf();
	int64_t len = object_encode(o, buf, PLAN_BUF_SIZE);
	if (len == -GRANARY_ETOOBIG && o->xattrs.len > 0) {
		size_t cap = PLAN_BUF_SIZE + ROW_XATTRS_LEN_MAX;
		buf = plan_alloc(plan, cap);
		len = buf == NULL ? -GRANARY_ENOMEM : object_encode(o, buf, cap);
	}
	if (len < 0)
		return (int)len;
	*out = slice_of(buf, (size_t)len);
	return 0;
}

/* Whoever has it has it until a commit: that is awaited for a while, but for the one who must not block. */
static bool rewrite_wait(struct ns_plan *plan, uint64_t id)
{
	for (int tries = 0; tries < REWRITE_TRIES; tries++) {
		if (rewriting_take(plan->ns->rewriting, id))
			return true;
		if (plan->may_not_block)
			return false;
		usleep(REWRITE_PAUSE_US);
	}
	return false;
}

int plan_take_rewrite(struct ns_plan *plan, uint64_t id)
{
	for (struct plan_rewrite *r = plan->rewrites; r != NULL; r = r->next)
		if (r->id == id)
			return 0;
	struct plan_rewrite *r = plan_alloc(plan, sizeof(*r));
	if (r == NULL)
		return -GRANARY_ENOMEM;
	if (!rewrite_wait(plan, id))
		return -GRANARY_EBUSY;
	*r = (struct plan_rewrite){ plan->rewrites, id };
	plan->rewrites = r;
	return 0;
}

/* ---- sums ---- */

void plan_account_pack(struct ns_plan *plan, const struct extent *e, int sign)
{
	int64_t bytes = (int64_t)extent_weight(e);
	struct plan_pack *p = plan->packs;
	while (p != NULL && p->pack != e->pack)
		p = p->next;
	if (p == NULL) {
		p = plan_alloc(plan, sizeof(*p));
		if (p == NULL)
			return;
		*p = (struct plan_pack){ .next = plan->packs, .pack = e->pack };
		plan->packs = p;
	}
	p->bytes += sign * bytes;
	p->records += sign;
}

void plan_account_bucket(struct ns_plan *plan, uint64_t bucket, int64_t bytes, int64_t objects)
{
	struct plan_bucket *b = plan->buckets;
	while (b != NULL && b->bucket != bucket)
		b = b->next;
	if (b == NULL) {
		b = plan_alloc(plan, sizeof(*b));
		if (b == NULL)
			return;
		*b = (struct plan_bucket){ .next = plan->buckets, .bucket = bucket };
		plan->buckets = b;
	}
	b->bytes += bytes;
	b->objects += objects;
}

/* ---- directories ---- */

struct plan_dir *plan_dir_find(struct ns_plan *plan, uint64_t id)
{
	struct plan_dir *pd = plan->dirs[hash_u64(id) % PLAN_DIR_SLOTS];
	while (pd != NULL && pd->d.id != id)
		pd = pd->next;
	return pd;
}

struct plan_dir *plan_dir_get(struct ns_plan *plan, uint64_t id)
{
	struct plan_dir *pd = plan_dir_find(plan, id);
	if (pd != NULL)
		return pd;
	pd = plan_alloc(plan, sizeof(*pd));
	if (pd == NULL)
		return NULL;
	struct plan_dir **at = &plan->dirs[hash_u64(id) % PLAN_DIR_SLOTS];
	*pd = (struct plan_dir){ .next = *at, .older = plan->newest_dir, .d.id = id };
	*at = plan->newest_dir = pd;
	return pd;
}

static struct plan_dir *plan_dir_load(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	struct plan_dir *pd = plan_dir_get(plan, dir->d.id);
	if (pd == NULL || pd->is_loaded)
		return pd;
	pd->d = dir->d;
	pd->name = plan_copy(plan, dir->name);
	pd->seen = seen;
	pd->is_loaded = true;
	return pd;
}

int plan_dir_gains(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	struct plan_dir *pd = plan_dir_load(plan, seen, dir);
	if (pd == NULL)
		return -GRANARY_ENOMEM;
	pd->has_gained = true;
	return 0;
}

int plan_dir_loses(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	struct plan_dir *pd = plan_dir_load(plan, seen, dir);
	if (pd == NULL)
		return -GRANARY_ENOMEM;
	pd->has_lost = true;
	pd->is_judged = pd->needs_child = false;
	return 0;
}

void plan_dir_links(struct ns_plan *plan, uint64_t dir, int32_t delta)
{
	struct plan_dir *pd = plan_dir_get(plan, dir);
	if (pd != NULL)
		pd->subdirs += delta;
}

int plan_state_dir(struct ns_plan *plan, uint64_t seen, const struct ns_dir *dir)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key;
	uint64_t id;
	int err = dir_row(plan->ns, dir, buf, &key, &id);
	if (err == 0)
		plan_state_id(plan, seen, key, id);
	return err;
}

int plan_new_dir(struct ns_plan *plan, uint64_t bucket, uint64_t parent, struct slice name, uint64_t id,
		 const struct dir_attributes *a)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns *ns = plan->ns;
	struct slice value;
	struct object o = { .id = id, .mode = 0, .nlink = 1, .is_dir = true, .is_dataset = a->is_dataset };
	int err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, row_entry(buf, parent, name, true), value);
	o = (struct object){
		.id = id, .version = ids_version(ns->ids), .mtime_ns = plan->now_ns, .ctime_ns = plan->now_ns,
		.written_ns = ns->clock == NULL ? 0 : store_clock_now(ns->clock), .mode = a->mode, .uid = a->uid,
		.gid = a->gid, .parent = parent, .bucket = bucket, .name = name, .nlink = DIR_LINKS, .is_dir = true,
		.is_dataset = a->is_dataset,
	};
	err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	plan_put_row(plan, row_inode(buf, id), value);

	ids_note(id);
	plan_dir_links(plan, parent, 1);
	struct plan_dir *pd = plan_dir_get(plan, id);
	struct plan_made *made = plan_alloc(plan, sizeof(*made));
	if (pd == NULL || made == NULL)
		return -GRANARY_ENOMEM;
	pd->is_made = true;
	pd->is_removed = false;
	*made = (struct plan_made){ .next = plan->made, .parent = parent, .id = id, .name = plan_copy(plan, name) };
	plan->made = made;
	return plan->error;
}

/* A shared id may have been made by another plan and moved elsewhere before its maker gave it up: then its inode is
 * there, and not ours to make. */
int plan_state_unmade(struct ns_plan *plan, uint64_t seen, uint64_t id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	struct slice key = row_inode(buf, id);
	int err = row_get(plan->ns, plan, key, &value);
	row_release(&value);
	if (err != -GRANARY_ENOTFOUND)
		return err < 0 ? err : -GRANARY_EBUSY;
	plan_state_absent(plan, seen, key);
	return 0;
}

/* The next missing directory below s->dir. */
static int plan_make_dir(struct ns_plan *plan, uint64_t seen, struct spot *s, struct slice name)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns *ns = plan->ns;
	uint64_t parent = s->dir.d.id;
	uint64_t id = making_id(ns->making, ns->ids, parent, name, making_erased(ns->making));
	if (id == 0)
		return -GRANARY_EBUSY;
	struct slice key = row_entry(buf, parent, name, true);
	struct plan_row *row = plan_row_find(plan, key);
	if (making_is_submitted(ns->making, parent, name, id) && (row == NULL || row->change == ROW_SAME)) {
		/* Its maker comes before us at the committer. If it is refused, so are we, and plan again. Not `seen`:
		 * what we read is that the row is missing. */
		plan_state_id(plan, 0, key, id);
	} else {
		struct dir_attributes a = { .mode = DIR_MODE };
		plan_state_absent(plan, seen, key);
		int err = plan_state_unmade(plan, seen, id);
		if (err == 0)
			err = plan_new_dir(plan, s->dir.d.bucket, parent, name, id, &a);
		if (err < 0)
			return err;
	}
	s->dir.d.parent = parent;
	s->dir.d.id = id;
	s->dir.name = name;
	return 0;
}

int plan_make_dirs(struct ns_plan *plan, uint64_t seen, struct spot *s)
{
	int err = plan_state_dir(plan, seen, &s->dir);
	struct slice rest = s->missing, name;
	while (err == 0 && path_next(&rest, &name)) {
		err = plan_dir_gains(plan, seen, &s->dir);
		if (err == 0)
			err = plan_make_dir(plan, seen, s, name);
	}
	if (err == 0 && s->missing.len > 0 && s->dir.d.id != s->new_dir)
		err = -GRANARY_EBUSY; /* the ids given out changed meanwhile */
	s->missing = slice_of(NULL, 0);
	return err;
}

int plan_put_marker(struct ns_plan *plan, uint64_t seen, uint64_t bucket, uint64_t dir, uint32_t mode)
{
	uint8_t buf[ROW_KEY_MAX];
	struct ns *ns = plan->ns;
	struct slice value;
	struct object o = {
		.id = ids_object(ns->ids), .version = ids_version(ns->ids), .mtime_ns = plan->now_ns,
		.ctime_ns = plan->now_ns, .written_ns = ns->clock == NULL ? 0 : store_clock_now(ns->clock), .nlink = 1,
		.mode = 0100000 | (mode & 0666),
	};
	int err = plan_encode(plan, &o, &value);
	if (err < 0)
		return err;
	struct slice key = row_entry(buf, dir, slice_of(NULL, 0), false);
	plan_state_absent(plan, seen, key);
	plan_put_row(plan, key, value);
	plan_account_bucket(plan, bucket, 0, 1);
	return plan->error;
}

/* ---- the end ---- */

/* Whether any child row is left that the plan did not delete. The iterator's state is the plan's, or newer. */
static int dir_has_child_in(struct ns_plan *plan, struct kv_iter *it, const struct plan_dir *pd, struct slice prefix)
{
	/* Right behind the last one deleted is mostly another: no walk over what was deleted before it. */
	struct slice from[2] = { pd->last_deleted.len > 0 ? pd->last_deleted : prefix, prefix };
	for (int i = pd->last_deleted.len > 0 ? 0 : 1; i < 2; i++) {
		kv_iter_seek(it, from[i]);
		for (; kv_iter_valid(it) && slice_begins(kv_iter_key(it), prefix); kv_iter_next(it)) {
			const struct plan_row *row = plan_row_find(plan, kv_iter_key(it));
			if (row == NULL || row->change != ROW_DELETED)
				return 1;
		}
		int err = kv_iter_error(it);
		if (err < 0)
			return err;
	}
	return 0;
}

static int dir_has_child(struct ns_plan *plan, const struct plan_dir *pd)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice prefix = row_entry_prefix(buf, pd->d.id);
	struct kv_iter *it = kv_iter_new_under(plan->ns->kv, prefix);
	int err = it == NULL ? -GRANARY_ENOMEM : dir_has_child_in(plan, it, pd, prefix);
	if (it != NULL)
		kv_iter_free(&it);
	return err;
}

/* 1: removed, its parent loses a child. */
static int dir_judge(struct ns_plan *plan, uint64_t seen, struct plan_dir *pd)
{
	uint8_t buf[ROW_KEY_MAX];
	struct kv_value value;
	uint64_t id;
	pd->is_judged = true;
	if (pd->d.parent == 0 || pd->d.group == pd->d.id || pd->puts > 0)
		return 0; /* roots and datasets stay; what the plan put is there */
	struct slice key = row_entry(buf, pd->d.id, slice_of(NULL, 0), false);
	int err = row_get(plan->ns, plan, key, &value);
	if (err == 0) { /* explicit: stays as long as this entry does */
		bool is_sound = value_u64(value.v, TAG_ID, 0, &id);
		row_release(&value);
		if (!is_sound)
			return -GRANARY_ECORRUPT;
		plan_state_id(plan, seen, key, id);
		return 0;
	}
	if (err != -GRANARY_ENOTFOUND)
		return err;
	err = plan->may_not_block ? -GRANARY_EAGAIN : dir_has_child(plan, pd);
	if (err != 0) {
		pd->needs_child = true;
		return err < 0 ? err : 0;
	}
	struct ns_dir dir = { .d = pd->d, .name = pd->name };
	err = plan_remove_dir(plan, pd->seen, &dir);
	return err < 0 ? err : 1;
}

static int plan_judge_dirs(struct ns_plan *plan)
{
	uint64_t seen = kv_seq(plan->ns->kv);
	int err = 0;
	for (bool is_done = false; !is_done && err >= 0;) {
		is_done = true;
		for (struct plan_dir *pd = plan->newest_dir; err >= 0 && pd != NULL; pd = pd->older) {
			if (!pd->has_lost || pd->is_removed || pd->is_judged)
				continue;
			err = dir_judge(plan, seen, pd);
			if (err == 1)
				is_done = false;
		}
	}
	return err < 0 ? err : 0;
}

static void plan_end_dir(struct ns_plan *plan, const struct plan_dir *pd)
{
	uint8_t buf[ROW_KEY_MAX];
	if (pd->is_removed) {
		kv_pre_range(plan->txn, row_entry_prefix(buf, pd->d.id), true);
		return;
	}
	if (pd->needs_child)
		kv_pre_range(plan->txn, row_entry_prefix(buf, pd->d.id), false); /* invariant (4) */
	if ((pd->has_gained || pd->has_lost) && !pd->is_made)
		kv_max(plan->txn, row_inode(buf, pd->d.id), TAG_MTIME, plan->now_ns);
	if (pd->subdirs != 0)
		kv_add_known(plan->txn, row_inode(buf, pd->d.id), TAG_NLINK, pd->subdirs);
}

static void plan_end_bucket(struct ns_plan *plan, const struct plan_bucket *b)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key = row_quota(buf, b->bucket);
	struct ns_bucket bucket;
	if (!plan->is_unlimited && ns_bucket_by_id(plan->ns, b->bucket, &bucket) == 0) {
		if (bucket.quota_bytes > 0 && b->bytes > 0)
			kv_pre_counter(plan->txn, key, QTAG_BYTES, (uint64_t)b->bytes, bucket.quota_bytes);
		if (bucket.quota_objects > 0 && b->objects > 0)
			kv_pre_counter(plan->txn, key, QTAG_OBJECTS, (uint64_t)b->objects, bucket.quota_objects);
	}
	if (b->bytes != 0)
		kv_add(plan->txn, key, QTAG_BYTES, b->bytes);
	if (b->objects != 0)
		kv_add(plan->txn, key, QTAG_OBJECTS, b->objects);
}

int ns_plan_finish(struct ns_plan *plan)
{
	uint8_t buf[ROW_KEY_MAX];
	assert(!plan->is_finished);
	plan->is_finished = true;
	int err = plan->error < 0 ? plan->error : plan_judge_dirs(plan);
	if (err < 0)
		return err;
	for (struct plan_dir *pd = plan->newest_dir; pd != NULL; pd = pd->older)
		plan_end_dir(plan, pd);
	for (struct plan_bucket *b = plan->buckets; b != NULL; b = b->next)
		plan_end_bucket(plan, b);
	for (struct plan_pack *p = plan->packs; p != NULL; p = p->next) {
		struct slice key = row_pack(buf, p->pack);
		if (p->bytes != 0)
			kv_add(plan->txn, key, PTAG_LIVE, p->bytes);
		if (p->records != 0)
			kv_add(plan->txn, key, PTAG_LIVE_RECORDS, p->records);
	}
	if (plan->bumps_paths)
		kv_txn_touch(plan->txn, 0, slice_of(NULL, 0), 0);
	for (struct plan_made *m = plan->made; m != NULL; m = m->next) {
		making_submit(plan->ns->making, m->parent, m->name, m->id);
		m->is_submitted = true;
	}
	return plan->error;
}

void ns_plan_committed(struct ns_plan *plan, int result)
{
	assert(plan->is_finished && !plan->is_committed);
	plan->is_committed = true;
	plan_end_making(plan, result == 0);
	plan_end_removals(plan, result == 0);
	plan_give_rewrites(plan);
}
