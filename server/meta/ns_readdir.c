/* SPDX-License-Identifier: Apache-2.0 */
/* ns_readdir.c -- one directory by its id, with all attributes, page by page.
 *
 * Invariants: (1) a page is one view; (2) rows sort by name, a child directory's with its slash, and that is the order
 * of a listing: where it goes on is the name of the last row, slash included; (3) a file that has a directory beside it
 * of the same name is taken back: between their rows stand only names that begin with theirs and go on below `/`. */
#include "meta/ns_holder.h"

struct reader {
	struct ns *ns;
	struct kv_snapshot *view;
	struct kv_iter *rows, *aside; /* aside: inodes, and rows out of turn */
	uint64_t dir;
	const struct ns_dir_page *page;
	uint32_t given;
	uint8_t last[KEY_LEN_MAX]; /* a file that was given last, while one may stand beside it */
	size_t last_len;
};

static int aside_find(struct reader *s, struct slice key, bool *found)
{
	if (s->aside == NULL)
		s->aside = kv_iter_new(s->ns->kv, s->view);
	if (s->aside == NULL)
		return -GRANARY_ENOMEM;
	kv_iter_seek(s->aside, key);
	*found = kv_iter_valid(s->aside) && slice_eq(kv_iter_key(s->aside), key);
	return *found ? 0 : kv_iter_error(s->aside);
}

/* Attributes that stand in the inode of this id; borrowed until the next one. */
static int aside_object(struct reader *s, uint64_t id, struct object *o)
{
	uint8_t buf[ROW_KEY_MAX];
	bool found;
	int err = aside_find(s, row_inode(buf, id), &found);
	if (err == 0 && !found)
		err = -GRANARY_ECORRUPT;
	return err < 0 ? err : object_decode(kv_iter_value(s->aside), o);
}

/* Invariant (3), when the row of this name comes: 1: the file given last is hidden by it. */
static int last_is_hidden(struct reader *s, struct slice name)
{
	struct slice last = slice_of(s->last, s->last_len);
	uint8_t buf[ROW_KEY_MAX];
	bool found;
	int err;
	if (last.len == 0)
		return 0;
	s->last_len = 0;
	if (!slice_begins(name, last) || name.p[last.len] > '/')
		return 0;
	if (name.p[last.len] == '/')
		return 1;
	err = aside_find(s, row_entry(buf, s->dir, last, true), &found);
	return err < 0 ? err : found;
}

static int give_row(struct reader *s, struct slice name, bool is_dir, struct slice value)
{
	struct object o;
	uint64_t id;
	int err;
	if (is_dir)
		err = value_u64(value, TAG_ID, 0, &id) && id != 0 ? aside_object(s, id, &o) : -GRANARY_ECORRUPT;
	else
		err = object_decode(value, &o);
	if (err == 0 && !is_dir && o.in_inode)
		err = aside_object(s, o.id, &o);
	if (err < 0)
		return err;
	o.parent = s->dir;
	s->given++;
	if (!is_dir) {
		memcpy(s->last, name.p, name.len);
		s->last_len = name.len;
	}
	return s->page->each(s->page->arg, name, is_dir, &o);
}

static int read_rows(struct reader *s, bool *more)
{
	uint8_t buf[ROW_KEY_MAX], prefix_buf[ROW_KEY_MAX];
	struct slice prefix = row_entry_prefix(prefix_buf, s->dir), after = s->page->after;
	struct slice from = row_entry(buf, s->dir, after, false);
	int err = 0;
	kv_iter_seek(s->rows, from);
	if (after.len > 0 && kv_iter_valid(s->rows) && slice_eq(kv_iter_key(s->rows), from))
		kv_iter_next(s->rows);
	for (; err == 0 && kv_iter_valid(s->rows); kv_iter_next(s->rows)) {
		struct slice key = kv_iter_key(s->rows);
		if (!slice_begins(key, prefix))
			break;
		struct slice name = slice_of(key.p + prefix.len, key.len - prefix.len);
		if (name.len == 0) /* its own */
			continue;
		err = last_is_hidden(s, name);
		if (err == 1) {
			s->page->take_back(s->page->arg);
			s->given--;
			err = 0;
		}
		if (err == 0 && s->given >= s->page->max) {
			*more = true;
			return 0;
		}
		if (err == 0)
			err = give_row(s, name, name.p[name.len - 1] == '/', kv_iter_value(s->rows));
	}
	return err < 0 ? err : kv_iter_error(s->rows);
}

int ns_readdir(struct ns *ns, uint64_t dir, const struct ns_dir_page *page, bool *more)
{
	struct reader s = { .ns = ns, .dir = dir, .page = page };
	struct object self;
	*more = false;
	if (page->max < 1 || page->after.len > KEY_LEN_MAX)
		return -GRANARY_EINVAL;
	s.view = kv_snapshot_new(ns->kv);
	s.rows = s.view != NULL ? kv_iter_new(ns->kv, s.view) : NULL;
	int err = s.rows == NULL ? -GRANARY_ENOMEM : aside_object(&s, dir, &self);
	if (err == -GRANARY_ECORRUPT || (err == 0 && !self.is_dir))
		err = -GRANARY_ESTALE;
	if (err == 0)
		err = read_rows(&s, more);
	if (s.rows != NULL)
		kv_iter_free(&s.rows);
	if (s.aside != NULL)
		kv_iter_free(&s.aside);
	if (s.view != NULL)
		kv_snapshot_free(ns->kv, &s.view);
	return err;
}
