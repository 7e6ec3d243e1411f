/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_split.c -- samples that are parts of files: the bytes of all files are read once, in the order in which
 * they lie in the packs, and cut by a scanner (split.h).
 *
 * Invariants: (1) a part's checksum is made of bytes that were compared with the checksum of their extent, or the
 * snapshot fails; (2) a piece of a part lies in one extent; (3) memory: the extents of one file, one window of a pack,
 * the fixed tables of sorters and spools; (4) with groups, members wait in a spool until the fields are known: the
 * packs are not read twice. */
#include "jobs/snapshot_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/error.h"
#include "jobs/pack_source.h"
#include "jobs/text_sort.h"

enum { LISTED_MAX = 20, EXTENTS_MAX = 1 << 20, ZEROS = 64 * 1024 };

struct splitting {
	struct build *b;
	struct split *scanner;
	struct pack_source *source;
	struct spool *objects; /* key length, number of extents, key, extents */
	struct sorter *order;  /* of them, by where they begin; value 0: where in `objects` */
	struct spool *members; /* with groups: name length, number of extents, name, extents */
	struct text_sorter *names;
	/* the file at hand */
	uint8_t key[KEY_LEN_MAX];
	uint32_t key_len, count, cap;
	struct row_extent *extents;
	uint32_t cursor; /* extent that `cursor_at` of the file is the first byte of */
	uint64_t cursor_at;
	uint32_t last; /* extent of the part's last piece */
	/* names, in their order */
	struct slice ahead;
	uint64_t ahead_value[2];
	int more; /* 1: there is one ahead */
	uint8_t name[SNAP_KEY_MAX], path[SNAP_KEY_MAX];
	uint64_t problems[SPLIT_PROBLEMS];
	uint32_t listed;
};

/* ---- problems ---- */

static int on_problem(void *arg, enum split_problem what, uint64_t at, struct slice name)
{
	struct splitting *s = arg;
	char key[160], member[160];

	s->problems[what]++;
	if (what == SPLIT_EMPTY_LINE || what == SPLIT_REST || s->listed++ >= LISTED_MAX) return 0;
	name_escape(key, sizeof(key), slice_of(s->key, s->key_len));
	name_escape(member, sizeof(member), name);
	making_warn(s->b->m, "'%s' at %llu%s%s%s: %s", key, (unsigned long long)at, name.len > 0 ? " ('" : "",
		name.len > 0 ? member : "", name.len > 0 ? "')" : "", split_problem_text(what));
	return 0;
}

static void problems_sum(struct splitting *s, enum split_problem from, enum split_problem to)
{
	for (enum split_problem i = from; i < to; i++)
		if (s->problems[i] > 0)
			making_warn(s->b->m, "%s: %llu in all", split_problem_text(i),
				(unsigned long long)s->problems[i]);
}

/* ---- the part at hand ---- */

/* Moves the cursor to the extent that holds this byte, or ends with it. */
static const struct row_extent *extent_at(struct splitting *s, uint64_t at)
{
	while (at < s->cursor_at) s->cursor_at -= s->extents[--s->cursor].length;
	while (s->cursor + 1 < s->count && at >= s->cursor_at + s->extents[s->cursor].length)
		s->cursor_at += s->extents[s->cursor++].length;
	return &s->extents[s->cursor];
}

static int on_bytes(void *arg, uint64_t at, const uint8_t *p, size_t len)
{
	struct splitting *s = arg;
	struct build *b = s->b;
	int err = 0;

	while (err == 0 && len > 0) {
		const struct row_extent *e = extent_at(s, at);
		uint32_t skip = (uint32_t)(at - s->cursor_at);
		uint32_t n = e->length - skip < len ? e->length - skip : (uint32_t)len;
		struct row_extent *piece = b->extent_count > 0 ? &b->extents[b->extent_count - 1] : NULL;

		if (piece != NULL && s->last == s->cursor) {
			piece->crc = crc32c(piece->crc, p, n);
			piece->length += n;
		} else {
			err = build_extent_add(b, &(struct row_extent){ e->pack, e->pack == HOLE ? 0 : e->offset + skip,
							  n, crc32c(0, p, n), 0 });
			s->last = s->cursor;
		}
		at += n;
		p += n;
		len -= n;
	}
	return err;
}

static int on_drop(void *arg)
{
	struct splitting *s = arg;

	s->b->extent_count = 0;
	return 0;
}

/* One of no bytes stands where its bytes would. */
static int part_of_nothing(struct splitting *s, uint64_t at)
{
	const struct row_extent *e = extent_at(s, at);
	uint32_t skip = (uint32_t)(at - s->cursor_at);

	return build_extent_add(s->b, &(struct row_extent){ e->pack, e->pack == HOLE ? 0 : e->offset + skip, 0, 0, 0 });
}

static int member_keep(struct splitting *s, struct slice name)
{
	struct build *b = s->b;
	const struct build_field none = { 0, 0 };
	uint32_t head[2] = { (uint32_t)name.len, b->extent_count };
	int err = spool_append(s->members, head, sizeof(head));

	if (err == 0) err = spool_append(s->members, name.p, name.len);
	if (err == 0) err = spool_append(s->members, b->extents, b->extent_count * sizeof(*b->extents));
	if (err == 0) err = build_group_next(b, name);
	if (err == 0) err = build_group_member(b, name, &none);
	b->extent_count = 0;
	return err > 0 ? on_problem(s, SPLIT_TWICE, 0, name) : err;
}

static bool is_excluded(const struct splitting *s, struct slice name)
{
	char text[SNAP_KEY_MAX + 1];
	size_t from = s->b->m->prefix.len;

	if (s->b->o->exclude_count == 0 || s->b->o->split.kind != SPLIT_TAR) return false;
	memcpy(text, name.p + from, name.len - from);
	text[name.len - from] = '\0';
	return build_options_exclude(s->b->o, text);
}

/* KEY#NUMBER or KEY/MEMBER; false: it is too long. */
static bool name_make(struct splitting *s, const struct split_part *part, struct slice *out)
{
	char number[24];
	struct slice more = part->name;
	bool is_member = s->b->o->split.kind == SPLIT_TAR;

	if (!is_member) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)part->number);
		more = slice_str(number);
	}
	*out = slice_of(s->name, s->key_len + 1 + more.len);
	if (out->len > sizeof(s->name)) return false;
	memcpy(s->name, s->key, s->key_len);
	s->name[s->key_len] = is_member ? '/' : '#';
	memcpy(s->name + s->key_len + 1, more.p, more.len);
	return true;
}

static int on_part(void *arg, const struct split_part *part)
{
	struct splitting *s = arg;
	struct build *b = s->b;
	struct slice name, dir, leaf;
	int err = b->extent_count == 0 ? part_of_nothing(s, part->at) : 0;

	if (err < 0) return err;
	if (!name_make(s, part, &name)) {
		on_drop(s);
		return on_problem(s, SPLIT_BAD_NAME, part->at, part->name);
	}
	if (is_excluded(s, name)) return on_drop(s);
	if (b->o->group) return member_keep(s, name);
	b->fields[0] = (struct build_field){ 0, b->extent_count };
	key_split(build_split_path(b, name), &dir, &leaf);
	build_note_directory(b, dir);
	return build_sample(b, &name);
}

/* ---- files ---- */

int build_split_new(struct build *b, const struct spool_options *table)
{
	struct splitting *s = b->split = calloc(1, sizeof(*s));
	struct split_sink sink = { s, on_bytes, on_part, on_drop, on_problem };

	if (s == NULL) return -GRANARY_ENOMEM;
	s->b = b;
	s->scanner = split_new(&b->o->split, &sink);
	s->source = pack_source_new(b->s->o.packs, b->s->o.kv);
	s->objects = spool_new(table);
	s->order = sorter_new(table);
	s->members = spool_new(table);
	s->names = text_sorter_new(table);
	if (s->scanner == NULL || s->source == NULL || s->objects == NULL || s->order == NULL || s->members == NULL ||
		s->names == NULL)
		return -GRANARY_ENOMEM;
	return b->o->group ? build_group_start(b) : 0;
}

void build_split_free(struct build *b)
{
	struct splitting *s = b->split;

	b->split = NULL;
	if (s == NULL) return;
	split_free(&s->scanner);
	pack_source_free(&s->source);
	spool_free(&s->objects);
	sorter_free(&s->order);
	spool_free(&s->members);
	text_sorter_free(&s->names);
	free(s->extents);
	free(s);
}

int build_split_file(struct build *b, struct slice key, const struct object *o)
{
	struct splitting *s = b->split;
	struct build_field field;
	int err = build_take_extents(b, key, o, &field);
	struct sort_row row = { .value = { spool_size(s->objects), spool_size(s->objects) } };
	uint32_t head[2] = { (uint32_t)key.len, field.count };

	if (err == 0) err = build_place(b, b->extents, field.count, &row);
	if (err == 0) err = spool_append(s->objects, head, sizeof(head));
	if (err == 0) err = spool_append(s->objects, key.p, key.len);
	if (err == 0) err = spool_append(s->objects, b->extents, field.count * sizeof(*b->extents));
	b->extent_count = 0;
	return err < 0 ? err : sorter_add(s->order, &row);
}

static int file_load(struct splitting *s, uint64_t at)
{
	uint32_t head[2];
	int err = spool_read(s->objects, at, head, sizeof(head));

	if (err < 0 || head[0] > sizeof(s->key) || head[1] > EXTENTS_MAX) return err < 0 ? err : -GRANARY_EIO;
	if (head[1] > s->cap) {
		struct row_extent *wide = realloc(s->extents, head[1] * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		s->extents = wide;
		s->cap = head[1];
	}
	s->key_len = head[0];
	s->count = head[1];
	s->cursor = s->last = 0;
	s->cursor_at = 0;
	at += sizeof(head);
	err = spool_read(s->objects, at, s->key, s->key_len);
	return err < 0 ? err : spool_read(s->objects, at + s->key_len, s->extents, s->count * sizeof(*s->extents));
}

static int hole_feed(struct splitting *s, uint32_t len)
{
	static const uint8_t zeros[ZEROS];
	int err = 0;

	for (uint32_t n; err == 0 && len > 0; len -= n) {
		n = len < ZEROS ? len : ZEROS;
		err = split_feed(s->scanner, zeros, n);
	}
	return err;
}

static int extent_feed(struct splitting *s, const struct row_extent *e)
{
	int64_t (*read)(struct pack_source *s, uint64_t pack, uint64_t offset, size_t len, const uint8_t **p) =
		e->unsummed != 0 ? pack_source_read_unsummed : pack_source_read;
	struct build *b = s->b;
	uint32_t crc = 0;
	int err = 0;

	for (uint32_t at = 0; err == 0 && at < e->length;) {
		const uint8_t *p;
		int64_t n = read(s->source, b->packs[e->pack].id, (uint64_t)e->offset + at,
			e->length - at, &p);

		if (n < 0) return (int)n;
		if (atomic_load_explicit(&b->s->stopping, memory_order_relaxed)) return -GRANARY_ESHUTDOWN;
		crc = crc32c(crc, p, (size_t)n);
		at += (uint32_t)n;
		err = split_feed(s->scanner, p, (size_t)n);
	}
	return err == 0 && !e->unsummed && crc != e->crc ? -GRANARY_ECORRUPT : err;
}

static int file_split(struct splitting *s)
{
	char text[256];
	uint64_t at = 0;
	int err = 0;

	split_begin(s->scanner);
	for (uint32_t i = 0; i < s->count && err == 0; at += err == 0 ? s->extents[i++].length : 0)
		err = s->extents[i].pack == HOLE ? hole_feed(s, s->extents[i].length) : extent_feed(s, &s->extents[i]);
	if (err < 0 && err != -GRANARY_ESHUTDOWN && s->b->m->text[0] == '\0')
		making_fail(s->b->m, err, "'%s' cannot be split, in the extent at %llu: %s; restore it, or exclude it",
			name_escape(text, sizeof(text), slice_of(s->key, s->key_len)), (unsigned long long)at,
			error_text(err));
	return err < 0 ? err : split_end(s->scanner);
}

/* ---- groups ---- */

static int member_give(struct splitting *s, uint64_t *at)
{
	struct build *b = s->b;
	struct build_field field = { .first = 0 };
	uint32_t head[2];
	int err = spool_read(s->members, *at, head, sizeof(head));
	struct slice name;

	if (err < 0 || head[0] > sizeof(s->name)) return err < 0 ? err : -GRANARY_EIO;
	*at += sizeof(head);
	err = spool_read(s->members, *at, s->name, head[0]);
	*at += head[0];
	name = slice_of(s->name, head[0]);
	if (err == 0) err = build_group_next(b, name);
	field = (struct build_field){ b->extent_count, head[1] };
	for (uint32_t i = 0; i < head[1] && err == 0; i++, *at += sizeof(struct row_extent)) {
		struct row_extent e;

		err = spool_read(s->members, *at, &e, sizeof(e));
		if (err == 0) err = build_extent_add(b, &e);
	}
	if (err == 0) err = build_group_member(b, name, &field);
	return err < 0 ? err : 0;
}

static int groups_give(struct splitting *s)
{
	uint64_t at = 0;
	int err = build_group_choose(s->b);

	while (err == 0 && at < spool_size(s->members)) err = member_give(s, &at);
	return err < 0 ? err : build_group_end(s->b);
}

int build_split_read(struct build *b)
{
	struct splitting *s = b->split;
	struct sort_row row;
	int more = 0, err = sorter_finish(s->order);

	while (err == 0 && (more = sorter_next(s->order, &row)) > 0) {
		err = file_load(s, row.value[0]);
		if (err == 0) err = file_split(s);
	}
	err = err < 0 ? err : more;
	sorter_free(&s->order);
	spool_free(&s->objects);
	if (err == 0 && b->o->group) err = groups_give(s);
	spool_free(&s->members);
	if (err == 0) problems_sum(s, 0, SPLIT_TWICE);
	return err;
}

/* ---- names ---- */

int build_split_names(struct build *b, const struct slice *keys)
{
	int err = 0;

	for (uint32_t i = 0; i < b->manifest.fields && err == 0; i++) {
		uint16_t len = (uint16_t)keys[i].len;

		err = spool_append(b->lists, &len, sizeof(len));
		if (err == 0) err = spool_append(b->lists, keys[i].p, len);
	}
	return err;
}

int build_split_slot(struct build *b, uint64_t at, uint64_t pack, uint32_t slot)
{
	struct splitting *s = b->split;
	int err = 0;

	for (uint32_t i = 0; i < b->manifest.fields && err == 0; i++) {
		uint64_t value[2] = { pack, (uint64_t)slot << 8 | i };
		uint16_t len = 0;

		err = spool_read(b->lists, at, &len, sizeof(len));
		if (err == 0 && len > sizeof(s->name)) err = -GRANARY_EIO;
		if (err == 0) err = spool_read(b->lists, at + sizeof(len), s->name, len);
		if (err == 0) err = text_sorter_add(s->names, slice_of(s->name, len), value);
		at += sizeof(len) + len;
	}
	return err;
}

int build_split_sort(struct build *b)
{
	struct splitting *s = b->split;
	int err = text_sorter_finish(s->names);

	s->more = err < 0 ? err : text_sorter_next(s->names, &s->ahead, s->ahead_value);
	return s->more < 0 ? s->more : 0;
}

/* Of equal names the last one counts. */
int build_split_name(struct build *b, struct snap_name *out)
{
	struct splitting *s = b->split;
	bool again;

	if (s->more <= 0) return s->more;
	do {
		memcpy(s->name, s->ahead.p, s->ahead.len);
		out->key = slice_of(s->name, s->ahead.len);
		out->pack = s->ahead_value[0];
		out->slot = (uint32_t)(s->ahead_value[1] >> 8);
		out->field = (uint32_t)(s->ahead_value[1] & 0xff);
		s->more = text_sorter_next(s->names, &s->ahead, s->ahead_value);
		if (s->more < 0) return s->more;
		again = s->more > 0 && slice_eq(s->ahead, out->key);
		s->problems[SPLIT_TWICE] += again;
	} while (again);
	if (s->more == 0) problems_sum(s, SPLIT_TWICE, SPLIT_PROBLEMS);
	return 1;
}

struct slice build_split_path(struct build *b, struct slice name)
{
	struct splitting *s = b->split;
	uint8_t *mark;

	if (b->o->split.kind == SPLIT_TAR) return name;
	memcpy(s->path, name.p, name.len);
	mark = memrchr(s->path, '#', name.len);
	if (mark != NULL) *mark = '/';
	return slice_of(s->path, name.len);
}
