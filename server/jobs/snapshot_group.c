/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_group.c -- samples of several files: files of one directory alike up to the first dot of
 * their name.
 *
 * The fields are the suffixes that most groups have; a first scan counts the sets of suffixes. A
 * group that lacks one of them is left out and counted; files of other suffixes are left out.
 * Invariants: (1) a group's files follow each other in key order, as all begin with its name and a
 * dot; one that a directory of such a name interrupts counts as two; (2) members are kept in key
 * order, which is that of suffixes. */
#include "jobs/snapshot_build.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { MEMBERS_MAX = 256, SETS_MAX = 4096, NAMED_MAX = 20, SUFFIX_MAX = 255 };

struct member {
	uint32_t key_at, key_len, suffix_at, suffix_len;
	struct build_field field;
};
struct set {
	uint64_t count;
	uint32_t len, fields;
	uint8_t *bytes;
}; /* of suffixes: u8 length and bytes each */

struct group {
	struct set sets[SETS_MAX];
	uint32_t set_count, best;
	bool is_counting;
	/* the group at hand */
	struct member members[MEMBERS_MAX];
	uint32_t member_count, base_len;
	uint64_t dropped; /* members past MEMBERS_MAX, suffixes too long */
	uint8_t keys[MEMBERS_MAX * (SNAP_KEY_MAX + 1)];
	uint32_t keys_len;
	uint64_t extra; /* files of complete groups that are no field */
	uint32_t named;
};

/* Length of the key up to and without the first dot of its last component; the suffix begins behind
 * it. */
static uint32_t base_of(struct slice key)
{
	struct slice dir, leaf;
	const uint8_t *dot;

	key_split(key, &dir, &leaf);
	dot = leaf.len > 0 ? memchr(leaf.p, '.', leaf.len) : NULL;
	return (uint32_t)(dot != NULL ? (size_t)(dot - key.p) : key.len);
}

static struct slice key_of(const struct group *g, const struct member *m)
{
	return slice_of(g->keys + m->key_at, m->key_len);
}
static struct slice suffix_of(const struct group *g, const struct member *m)
{
	return slice_of(g->keys + m->suffix_at, m->suffix_len);
}

/* ---- counting ---- */

static int set_count(struct group *g)
{
	uint8_t bytes[SNAP_FIELDS_MAX * (SUFFIX_MAX + 1)];
	struct wr w = wr_of(bytes, sizeof(bytes));
	struct set *s;

	if (g->member_count == 0 || g->member_count > SNAP_FIELDS_MAX) return 0;
	for (uint32_t i = 0; i < g->member_count; i++) {
		wr_u8(&w, (uint8_t)g->members[i].suffix_len);
		wr_slice(&w, suffix_of(g, &g->members[i]));
	}
	for (uint32_t i = 0; i < g->set_count; i++)
		if (slice_eq(slice_of(g->sets[i].bytes, g->sets[i].len),
			    slice_of(bytes, wr_len(&w)))) {
			g->sets[i].count++;
			return 0;
		}
	if (g->set_count == SETS_MAX) return 0; /* the frequent ones are among the first */
	s = &g->sets[g->set_count];
	*s = (struct set){ .count = 1,
		.len = (uint32_t)wr_len(&w),
		.fields = g->member_count,
		.bytes = malloc(wr_len(&w)) };
	if (s->bytes == NULL) return -GRANARY_ENOMEM;
	memcpy(s->bytes, bytes, s->len);
	g->set_count++;
	return 0;
}

/* ---- giving ---- */

static void group_left_out(struct build *b)
{
	struct group *g = b->group;
	char text[256];

	b->manifest.incomplete++;
	if (g->named++ < NAMED_MAX)
		making_warn(b->m, "incomplete, left out: '%s'",
			name_escape(text, sizeof(text),
				slice_of(g->keys + g->members[0].key_at, g->base_len)));
}

static void note_directory(struct build *b, struct slice key)
{
	struct slice dir, leaf;

	if (b->split == NULL) {
		build_count_directory(b, key);
		return;
	}
	key_split(key, &dir, &leaf);
	build_note_directory(b, dir);
}

/* Both the fields and the members are in order of suffix. */
static int group_give(struct build *b)
{
	struct group *g = b->group;
	const struct set *s = &g->sets[g->best];
	struct cur c = cur_of(s->bytes, s->len);
	struct slice keys[SNAP_FIELDS_MAX];
	uint32_t at = 0;

	for (uint32_t i = 0; i < s->fields; i++) {
		struct slice want = cur_bytes(&c, cur_u8(&c));

		while (at < g->member_count && !slice_eq(suffix_of(g, &g->members[at]), want)) at++;
		if (at == g->member_count) {
			group_left_out(b);
			b->extent_count = 0;
			return 0;
		}
		keys[i] = key_of(g, &g->members[at]);
		b->fields[i] = g->members[at++].field;
	}
	g->extra += g->member_count - s->fields + g->dropped;
	note_directory(b, keys[0]);
	return build_sample(b, keys);
}

/* Extents of members that are no field must not be counted: keep those of the fields only, in their order. */
static int group_trim(struct build *b)
{
	struct group *g = b->group;
	const struct set *s = &g->sets[g->best];
	struct cur c = cur_of(s->bytes, s->len);
	struct slice want = cur_bytes(&c, cur_u8(&c));
	uint32_t left = s->fields, base = b->extent_count;
	int err = 0;

	for (uint32_t i = 0; i < g->member_count; i++) {
		struct build_field *f = &g->members[i].field;
		uint32_t from = f->first;

		if (left == 0 || !slice_eq(suffix_of(g, &g->members[i]), want)) continue;
		f->first = b->extent_count - base;
		for (uint32_t k = 0; k < f->count && err == 0; k++) {
			struct row_extent e = b->extents[from + k]; /* which moves when there is no room */

			err = build_extent_add(b, &e);
		}
		if (--left > 0) want = cur_bytes(&c, cur_u8(&c));
	}
	if (err < 0) return err;
	b->extent_count -= base;
	memmove(b->extents, b->extents + base, b->extent_count * sizeof(*b->extents));
	return group_give(b);
}

/* Members of an archive may come in any order; those of directories come sorted. */
static void group_sort(struct group *g)
{
	for (uint32_t i = 1; i < g->member_count; i++) {
		struct member m = g->members[i];
		uint32_t k = i;

		for (; k > 0 && slice_compare(suffix_of(g, &g->members[k - 1]), suffix_of(g, &m)) > 0; k--)
			g->members[k] = g->members[k - 1];
		g->members[k] = m;
	}
}

static int group_close(struct build *b)
{
	struct group *g = b->group;
	int err = 0;

	group_sort(g);
	if (g->member_count > 0) err = g->is_counting ? set_count(g) : group_trim(b);
	g->member_count = g->keys_len = 0;
	g->dropped = 0;
	b->extent_count = 0;
	return err;
}

static bool is_of_group(const struct group *g, struct slice key, uint32_t base_len)
{
	return g->member_count > 0 && base_len == g->base_len &&
	       memcmp(g->keys, key.p, base_len) == 0 &&
	       (key.len > base_len) == (g->members[0].key_len > base_len);
}

int build_group_next(struct build *b, struct slice key)
{
	struct group *g = b->group;
	uint32_t base_len = base_of(key);
	int err = is_of_group(g, key, base_len) ? 0 : group_close(b);

	g->base_len = base_len;
	return err;
}

/* Whether the group at hand takes one more; if not it is counted. */
static bool group_takes(struct group *g, struct slice key)
{
	size_t suffix_len = key.len > g->base_len ? key.len - g->base_len - 1 : 0;
	bool takes = g->member_count < MEMBERS_MAX && suffix_len <= SUFFIX_MAX;

	g->dropped += !takes;
	return takes;
}

static void member_add(struct group *g, struct slice key, const struct build_field *field)
{
	struct member *m = &g->members[g->member_count++];

	m->suffix_len = (uint32_t)(key.len > g->base_len ? key.len - g->base_len - 1 : 0);
	m->key_at = g->keys_len;
	m->key_len = (uint32_t)key.len;
	m->suffix_at = m->key_at + m->key_len - m->suffix_len;
	m->field = *field;
	memcpy(g->keys + m->key_at, key.p, key.len);
	g->keys_len += m->key_len;
}

int build_group_member(struct build *b, struct slice key, const struct build_field *field)
{
	struct group *g = b->group;

	for (uint32_t i = 0; i < g->member_count; i++)
		if (slice_eq(key_of(g, &g->members[i]), key)) { /* the later one counts */
			g->members[i].field = *field;
			return 1;
		}
	if (group_takes(g, key)) member_add(g, key, field);
	return 0;
}

int build_group_file(struct build *b, struct slice key, const struct object *o)
{
	struct group *g = b->group;
	struct build_field field = { 0, 0 };
	int err = build_group_next(b, key);

	if (err < 0 || !group_takes(g, key)) return err;
	if (!g->is_counting) err = build_take_extents(b, key, o, &field);
	member_add(g, key, &field);
	return err;
}

static int count_file(void *arg, struct slice key, const struct object *o)
{
	struct build *b = arg;
	char text[KEY_LEN_MAX + 1];
	size_t from = b->m->prefix.len;

	if (atomic_load_explicit(&b->s->stopping, memory_order_relaxed)) return -GRANARY_ESHUTDOWN;
	memcpy(text, key.p + from, key.len - from);
	text[key.len - from] = '\0';
	return build_is_marker(key, o) || !build_options_want(b->o, text) ? 0 : build_group_file(b, key, o);
}

int build_group_start(struct build *b)
{
	b->group = calloc(1, sizeof(*b->group));
	if (b->group == NULL) return -GRANARY_ENOMEM;
	b->group->is_counting = true;
	return 0;
}

int build_group_begin(struct build *b)
{
	int err = build_group_start(b);

	if (err == 0) err = ns_scan(b->s->o.ns, b->view, b->m->bucket, b->m->prefix, count_file, b);
	return err < 0 ? err : build_group_choose(b);
}

int build_group_choose(struct build *b)
{
	struct group *g = b->group;
	int err = group_close(b);

	g->is_counting = false;
	if (err < 0 || g->set_count == 0)
		return err < 0 ? err
			       : making_fail(b->m, -GRANARY_ENOTFOUND,
					 "no file is below the prefix, or none is wanted");
	for (uint32_t i = 1; i < g->set_count; i++)
		if (g->sets[i].count > g->sets[g->best].count ||
			(g->sets[i].count == g->sets[g->best].count &&
				g->sets[i].fields > g->sets[g->best].fields))
			g->best = i;
	b->manifest.fields = g->sets[g->best].fields;
	if (b->manifest.fields > 1)
		b->manifest.field_names = slice_of(g->sets[g->best].bytes, g->sets[g->best].len);
	return 0;
}

int build_group_end(struct build *b)
{
	int err = group_close(b);

	if (b->manifest.incomplete > 0)
		making_warn(b->m, "%llu incomplete samples were left out",
			(unsigned long long)b->manifest.incomplete);
	if (b->group->extra > 0)
		making_warn(b->m, "%llu files of suffixes that most samples lack were left out",
			(unsigned long long)b->group->extra);
	return err;
}

void build_group_free(struct build *b)
{
	for (uint32_t i = 0; b->group != NULL && i < b->group->set_count; i++)
		free(b->group->sets[i].bytes);
	free(b->group);
	b->group = NULL;
}
