/* SPDX-License-Identifier: Apache-2.0 */
/* ns_list.c -- a page of keys: depth first over directories, on one snapshot.
 *
 * Rows of a directory sort by name, a child directory's with its slash: so the walk meets keys in byte order of the
 * whole key, and everything below a child directory lies between its row and the next one.
 * Invariants: (1) key[0..prefix_len) of a frame is the path of its directory; the frame's iterator stands on the next
 * row to look at; (2) iterators are kept by depth and only move forward while a depth is walked, so one that stands
 * on a row of the directory about to be entered stands on its first; (3) no allocation a key: one key buffer, one
 * object; (4) deeper than ITERS_MAX frames share iterators: who finds his taken seeks again behind the name he left;
 * (5) what lies beyond KEY_LEN_MAX cannot be named by a key and is left out. */
#include <stdlib.h>

#include "meta/ns_holder.h"

enum { ITERS_MAX = 32, DEPTH_MAX = KEY_LEN_MAX + 1 };

struct frame {
	uint64_t dir;
	uint32_t prefix_len;
	uint32_t child_len; /* length of the key up to and with the child's slash, while a child is walked */
};

struct walk_iter {
	struct kv_iter *it;
	uint32_t owner; /* depth + 1 of the frame it stands for; 0: none */
};

struct lister {
	struct ns *ns;
	const struct ns_list *l;
	int (*each)(void *arg, struct slice key, const struct object *o);
	void *arg;
	struct kv_snapshot *snapshot;
	struct walk_iter iters[ITERS_MAX];
	uint32_t depth; /* frames[depth] is walked */
	bool is_slash;  /* the delimiter is "/" */
	bool is_scan;   /* ns_scan: no limit, what each() says is returned */
	bool more;
	uint32_t given;
	struct kv_iter *inodes; /* of files with links; made when the first one is met */
	int stopped;    /* is_scan: what each() said */
	struct slice from;    /* keys below are not wanted */
	bool is_exclusive;    /* nor `from` itself */
	struct slice skipped; /* the common prefix given or passed last, in skipped_buf */
	struct frame frames[DEPTH_MAX];
	uint8_t key[KEY_LEN_MAX];
	uint8_t skipped_buf[KEY_LEN_MAX];
};

enum step { STEP_ON, STEP_END }; /* errors are negative */

/* ---- iterators ---- */

static int frame_iter(struct lister *s, uint32_t depth, struct walk_iter **out)
{
	struct walk_iter *w = &s->iters[depth % ITERS_MAX];
	if (w->it == NULL)
		w->it = s->is_scan ? kv_iter_new_scan(s->ns->kv, s->snapshot) : kv_iter_new(s->ns->kv, s->snapshot);
	*out = w;
	return w->it == NULL ? -GRANARY_ENOMEM : 0;
}

static bool stands_in(const struct kv_iter *it, uint64_t dir)
{
	if (!kv_iter_valid(it))
		return false;
	struct slice key = kv_iter_key(it);
	return key.len >= 9 && key.p[0] == 'd' && be64_get(key.p + 1) == dir;
}

/* Begins to walk `dir` at the first row whose name is >= bound. */
static int frame_enter(struct lister *s, uint32_t depth, uint64_t dir, size_t prefix_len, struct slice bound)
{
	uint8_t buf[ROW_KEY_MAX];
	struct walk_iter *w;
	if (depth >= DEPTH_MAX)
		return -GRANARY_ECORRUPT; /* every level has a slash of a key that fits KEY_LEN_MAX */
	int err = frame_iter(s, depth, &w);
	if (err < 0)
		return err;
	s->depth = depth;
	s->frames[depth] = (struct frame){ .dir = dir, .prefix_len = (uint32_t)prefix_len };
	if (bound.len > 0 || w->owner != depth + 1 || !stands_in(w->it, dir)) /* invariant (2) */
		kv_iter_seek(w->it, row_entry(buf, dir, bound, false));
	w->owner = depth + 1;
	return 0;
}

/* Back in the frame above: its iterator goes on behind the child. */
static int frame_leave(struct lister *s)
{
	uint8_t buf[ROW_KEY_MAX];
	struct walk_iter *w;
	s->depth--;
	struct frame *f = &s->frames[s->depth];
	int err = frame_iter(s, s->depth, &w);
	if (err < 0)
		return err;
	if (w->owner != s->depth + 1) { /* invariant (4) */
		struct slice child = slice_of(s->key + f->prefix_len, f->child_len - f->prefix_len);
		kv_iter_seek(w->it, row_entry(buf, f->dir, child, false)); /* the child's name has its slash */
		w->owner = s->depth + 1;
	}
	if (kv_iter_valid(w->it))
		kv_iter_next(w->it);
	return 0;
}

/* ---- where it begins ---- */

/* Seeks a directory's row in the snapshot: 1 and *id, 0 when it is not there. */
static int child_find(struct lister *s, uint64_t dir, struct slice name, uint64_t *id)
{
	uint8_t buf[ROW_KEY_MAX];
	struct walk_iter *w;
	int err = frame_iter(s, 0, &w);
	if (err < 0)
		return err;
	struct slice key = row_entry(buf, dir, name, true);
	kv_iter_seek(w->it, key);
	w->owner = 0;
	if (!kv_iter_valid(w->it) || !slice_eq(kv_iter_key(w->it), key))
		return kv_iter_error(w->it);
	return value_u64(kv_iter_value(w->it), TAG_ID, 0, id) && *id != 0 ? 1 : -GRANARY_ECORRUPT;
}

/* The directory of the prefix: 1, 0 when it is not there (nothing to list). */
static int base_find(struct lister *s, struct slice dir_part, uint64_t *dir)
{
	struct ns_bucket b;
	struct slice name;
	int err = ns_bucket_by_id(s->ns, s->l->bucket, &b);
	if (err < 0)
		return err;
	*dir = b.root;
	for (err = 1; err == 1 && path_next(&dir_part, &name);)
		err = child_find(s, *dir, name, dir);
	return err;
}

/* Length of the first component of s with its slash; 0 when there is none. */
static size_t component_len(struct slice s)
{
	const uint8_t *slash = s.len == 0 ? NULL : memchr(s.p, '/', s.len);
	return slash == NULL ? 0 : (size_t)(slash - s.p) + 1;
}

/* Positions frames from the base directory down along `from`. */
static int walk_start(struct lister *s, uint64_t base, size_t base_len)
{
	struct slice rest = slice_of(s->from.p + base_len, s->from.len - base_len);
	uint64_t dir = base;
	size_t prefix_len = base_len;
	if (base_len > 0)
		memcpy(s->key, s->l->prefix.p, base_len);
	for (uint32_t depth = 0;; depth++) {
		size_t n = s->is_slash ? 0 : component_len(rest);
		struct walk_iter *w;
		int err = frame_enter(s, depth, dir, prefix_len, n > 0 ? slice_of(rest.p, n) : rest);
		if (err < 0 || n == 0)
			return err;
		err = frame_iter(s, depth, &w);
		if (err < 0)
			return err;
		if (!stands_in(w->it, dir) || kv_iter_key(w->it).len != 9 + n ||
		    memcmp(kv_iter_key(w->it).p + 9, rest.p, n) != 0)
			return 0; /* no such child: the iterator stands behind it */
		if (!value_u64(kv_iter_value(w->it), TAG_ID, 0, &dir))
			return -GRANARY_ECORRUPT;
		memcpy(s->key + prefix_len, rest.p, n);
		prefix_len += n;
		s->frames[depth].child_len = (uint32_t)prefix_len;
		rest = slice_of(rest.p + n, rest.len - n);
	}
}

/* ---- giving ---- */

static int give(struct lister *s, size_t key_len, const struct object *o)
{
	if (!s->is_scan && s->given == s->l->max) {
		s->more = true;
		return STEP_END;
	}
	s->given++;
	s->stopped = s->each(s->arg, slice_of(s->key, key_len), o);
	return s->stopped != 0 ? STEP_END : STEP_ON;
}

/* The attributes of a file with links, from its inode in the same view; they borrow from s->inodes. */
static int object_of_inode(struct lister *s, uint64_t id, struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	struct slice key = row_inode(buf, id);
	if (s->inodes == NULL)
		s->inodes = kv_iter_new(s->ns->kv, s->snapshot);
	if (s->inodes == NULL)
		return -GRANARY_ENOMEM;
	kv_iter_seek(s->inodes, key);
	if (!kv_iter_valid(s->inodes) || !slice_eq(kv_iter_key(s->inodes), key)) {
		int err = kv_iter_error(s->inodes);
		return err < 0 ? err : -GRANARY_ECORRUPT;
	}
	return object_decode(kv_iter_value(s->inodes), o);
}

static int give_object(struct lister *s, size_t key_len, struct slice value)
{
	struct object o;
	if (!s->is_scan && s->given == s->l->max) {
		s->more = true;
		return STEP_END;
	}
	int err = object_decode(value, &o);
	if (err == 0 && o.in_inode)
		err = object_of_inode(s, o.id, &o);
	if (err < 0)
		return err;
	o.parent = s->frames[s->depth].dir; /* where it was found, as ns.h says */
	return give(s, key_len, &o);
}

/* Is there a delimiter behind the prefix? 1: *len is the length up to and with it. */
static bool find_delimiter(const struct lister *s, size_t key_len, size_t *len)
{
	struct slice d = s->l->delimiter;
	size_t from = s->l->prefix.len;
	if (d.len == 0 || key_len < from + d.len)
		return false;
	const uint8_t *at = memmem(s->key + from, key_len - from, d.p, d.len);
	if (at == NULL)
		return false;
	*len = (size_t)(at - s->key) + d.len;
	return true;
}

/* A common prefix of which key[0..len) is the bytes: given once, and only behind start_after. */
static int give_prefix(struct lister *s, size_t len)
{
	struct slice p = slice_of(s->key, len);
	if (slice_eq(p, s->skipped))
		return STEP_ON;
	memcpy(s->skipped_buf, s->key, len);
	s->skipped = slice_of(s->skipped_buf, len);
	if (slice_cmp(p, s->l->start_after) <= 0)
		return STEP_ON;
	return give(s, len, NULL);
}

static int visit_file(struct lister *s, size_t key_len, struct slice value)
{
	size_t len;
	if (s->is_exclusive) { /* only the first row can be `from` itself */
		s->is_exclusive = false;
		if (slice_eq(slice_of(s->key, key_len), s->from))
			return STEP_ON;
	}
	if (find_delimiter(s, key_len, &len))
		return give_prefix(s, len);
	return give_object(s, key_len, value);
}

/* *enter: the directory is to be walked. */
static int visit_dir(struct lister *s, size_t key_len, bool *enter)
{
	size_t len;
	*enter = false;
	if (find_delimiter(s, key_len, &len))
		return give_prefix(s, len); /* all below has the same common prefix */
	*enter = true;
	return STEP_ON;
}

/* ---- the walk ---- */

static int walk_row(struct lister *s, struct walk_iter *w, struct frame *f)
{
	struct slice row = kv_iter_key(w->it);
	size_t name_len = row.len - 9, key_len = f->prefix_len + name_len;
	bool is_dir = name_len > 0 && row.p[row.len - 1] == '/', enter = false;
	uint64_t child;
	int step = STEP_ON;
	if (key_len <= KEY_LEN_MAX) { /* invariant (5) */
		memcpy(s->key + f->prefix_len, row.p + 9, name_len);
		if (s->depth == 0 && !slice_begins(slice_of(s->key, key_len), s->l->prefix))
			return STEP_END; /* rows begin at the prefix: the first without it is behind it */
		step = is_dir ? visit_dir(s, key_len, &enter) : visit_file(s, key_len, kv_iter_value(w->it));
	}
	if (step != STEP_ON || !enter) {
		if (step == STEP_ON)
			kv_iter_next(w->it);
		return step;
	}
	if (!value_u64(kv_iter_value(w->it), TAG_ID, 0, &child) || child == 0)
		return -GRANARY_ECORRUPT;
	f->child_len = (uint32_t)key_len;
	int err = frame_enter(s, s->depth + 1, child, key_len, slice_of(NULL, 0));
	return err < 0 ? err : STEP_ON;
}

static int walk(struct lister *s)
{
	for (;;) {
		struct frame *f = &s->frames[s->depth];
		struct walk_iter *w = &s->iters[s->depth % ITERS_MAX];
		int step;
		if (stands_in(w->it, f->dir)) {
			step = walk_row(s, w, f);
		} else {
			step = kv_iter_error(w->it); /* an end is an end only without an error */
			if (step == 0 && s->depth == 0)
				return 0;
			if (step == 0)
				step = frame_leave(s);
		}
		if (step < 0)
			return step;
		if (step == STEP_END)
			return 0;
	}
}

static int list_check(const struct ns_list *l)
{
	if (l->max < 1 || l->max > NS_LIST_MAX)
		return -GRANARY_EINVAL;
	struct slice texts[] = { l->prefix, l->delimiter, l->start_after };
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (texts[i].len > 0 && key_check(texts[i]) < 0)
			return -GRANARY_ENAME;
	return 0;
}

static int list_run(struct lister *s)
{
	const struct ns_list *l = s->l;
	struct slice dir_part, leaf;
	uint64_t base;
	bool resumes = slice_cmp(l->start_after, l->prefix) >= 0 && l->start_after.len > 0;
	if (resumes && !slice_begins(l->start_after, l->prefix))
		return 0; /* behind everything with the prefix */
	s->from = resumes ? l->start_after : l->prefix;
	s->is_exclusive = resumes;
	s->is_slash = l->delimiter.len == 1 && l->delimiter.p[0] == '/';
	key_split(l->prefix, &dir_part, &leaf);
	int err = base_find(s, dir_part, &base);
	if (err <= 0)
		return err;
	err = walk_start(s, base, dir_part.len);
	return err < 0 ? err : walk(s);
}

static struct lister *lister_new(struct ns *ns, const struct ns_list *l,
	int (*each)(void *arg, struct slice key, const struct object *o), void *arg)
{
	struct lister *s = malloc(sizeof(*s));
	if (s == NULL)
		return NULL;
	memset(s, 0, offsetof(struct lister, frames));
	s->ns = ns;
	s->l = l;
	s->each = each;
	s->arg = arg;
	return s;
}

static void lister_free(struct lister *s)
{
	for (uint32_t i = 0; i < ITERS_MAX; i++)
		if (s->iters[i].it != NULL)
			kv_iter_free(&s->iters[i].it);
	if (s->inodes != NULL)
		kv_iter_free(&s->inodes);
	free(s);
}

int ns_list(struct ns *ns, const struct ns_list *l, int (*each)(void *arg, struct slice key, const struct object *o),
	    void *arg, bool *more)
{
	struct kv_snapshot *view;
	*more = false;
	int err = list_check(l);
	if (err < 0)
		return err;
	struct lister *s = lister_new(ns, l, each, arg);
	if (s == NULL)
		return -GRANARY_ENOMEM;
	view = s->snapshot = kv_snapshot_new(ns->kv);
	err = view == NULL ? -GRANARY_ENOMEM : list_run(s);
	*more = s->more;
	lister_free(s);
	if (view != NULL)
		kv_snapshot_free(ns->kv, &view);
	return err;
}

int ns_scan(struct ns *ns, struct kv_snapshot *view, uint64_t bucket, struct slice prefix,
	    int (*each)(void *arg, struct slice key, const struct object *o), void *arg)
{
	struct ns_list l = { .bucket = bucket, .prefix = prefix };
	if (prefix.len > 0 && key_check(prefix) < 0)
		return -GRANARY_ENAME;
	struct lister *s = lister_new(ns, &l, each, arg);
	if (s == NULL)
		return -GRANARY_ENOMEM;
	s->snapshot = view;
	s->is_scan = true;
	int err = list_run(s);
	if (err == 0)
		err = s->stopped;
	lister_free(s);
	return err;
}
