/* SPDX-License-Identifier: Apache-2.0 */
/* split_tar.c -- members of a tar archive; see split.h.
 *
 * HEADER -> META      a header whose data says something of the next member (pax, GNU long name)
 *        -> MAP       old GNU sparse: more blocks of its map
 *        -> DATA      a regular file's bytes        -> SKIP -> HEADER
 *        -> SKIP      what is not taken, and what fills the last block
 *        -> END       a block of zeros              LOST: damage
 * Invariants: (1) no length of the archive is trusted before the checksum of its header was right; (2) what headers
 * say of the next member is forgotten after it. */
#include "jobs/split_priv.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/name.h"

enum { TAR_HEADER, TAR_META, TAR_MAP, TAR_DATA, TAR_SKIP, TAR_END, TAR_LOST };
enum { NAME_AT = 0, NAME_LEN = 100, SIZE_AT = 124, NUMBER_LEN = 12, SUM_AT = 148, SUM_LEN = 8, TYPE_AT = 156,
	MAGIC_AT = 257, PREFIX_AT = 345, PREFIX_LEN = 155, MORE_MAP_AT = 482, MORE_MAP_NEXT_AT = 504 };
#define SIZE_MAX_BYTES (UINT64_C(1) << 62)

static void member_forget(struct tar *t)
{
	t->has_name = t->has_size = t->is_sparse = t->name_bad = t->takes = false;
	t->name_len = 0;
}

void tar_begin(struct tar *t)
{
	t->state = TAR_HEADER;
	t->fill = t->meta_len = 0;
	t->any = t->told = false;
	member_forget(t);
}

static int tell(struct split *s, enum split_problem what, uint64_t at)
{
	struct tar *t = &s->tar;

	return s->sink.problem(s->sink.arg, what, at, slice_of(t->name, t->name_len));
}

static int lose(struct split *s, enum split_problem what, uint64_t at)
{
	s->tar.state = TAR_LOST;
	return tell(s, what, at);
}

/* ---- fields ---- */

/* Octal digits among blanks and zero bytes, or, with the top bit set, the rest as a big-endian number. */
static bool number_get(const uint8_t *p, size_t len, uint64_t *out)
{
	uint64_t v = p[0] & 0x7f;
	size_t i = 0;

	if (p[0] & 0x80) {
		for (i = 1; i < len; i++) {
			if (v >> 54) return false;
			v = v << 8 | p[i];
		}
		*out = v;
		return p[0] != 0xff; /* negative */
	}
	for (v = 0; i < len && (p[i] == ' ' || p[i] == 0); i++) continue;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 60) return false;
		v = v << 3 | (uint64_t)(p[i] - '0');
	}
	*out = v;
	return i == len || p[i] == ' ' || p[i] == 0;
}

static bool sum_holds(const uint8_t *block)
{
	int64_t as_unsigned = 0, as_signed = 0;
	uint64_t want;

	for (uint32_t i = 0; i < TAR_BLOCK; i++) {
		uint8_t c = i >= SUM_AT && i < SUM_AT + SUM_LEN ? ' ' : block[i];

		as_unsigned += c;
		as_signed += (int8_t)c;
	}
	if (!number_get(block + SUM_AT, SUM_LEN, &want)) return false;
	return (int64_t)want == as_unsigned || (int64_t)want == as_signed;
}

static size_t text_len(const uint8_t *p, size_t cap)
{
	const uint8_t *end = memchr(p, 0, cap);

	return end != NULL ? (size_t)(end - p) : cap;
}

static void name_set(struct tar *t, struct slice name)
{
	t->has_name = true;
	t->name_bad = name.len > sizeof(t->name);
	t->name_len = (uint32_t)(t->name_bad ? sizeof(t->name) : name.len);
	if (t->name_len > 0) memcpy(t->name, name.p, t->name_len);
}

static void name_of_header(struct tar *t)
{
	const uint8_t *h = t->block;
	size_t prefix = memcmp(h + MAGIC_AT, "ustar\0", 6) == 0 ? text_len(h + PREFIX_AT, PREFIX_LEN) : 0;
	size_t name = text_len(h + NAME_AT, NAME_LEN);

	memcpy(t->name, h + PREFIX_AT, prefix);
	if (prefix > 0) t->name[prefix++] = '/';
	memcpy(t->name + prefix, h + NAME_AT, name);
	t->name_len = (uint32_t)(prefix + name);
}

static struct slice component_at(const struct tar *t, uint32_t from)
{
	const uint8_t *slash = memchr(t->name + from, '/', t->name_len - from);

	return slice_of(t->name + from, slash != NULL ? (size_t)(slash - t->name) - from : t->name_len - from);
}

static bool name_is_good(const struct tar *t)
{
	struct slice all = slice_of(t->name, t->name_len), c;

	if (t->name_bad || all.len == 0 || t->name[0] == '/' || memchr(all.p, 0, all.len) != NULL || !utf8_valid(all))
		return false;
	for (uint32_t from = 0; from < t->name_len; from += (uint32_t)c.len + 1) {
		c = component_at(t, from);
		if (slice_eq(c, slice_str(".."))) return false;
	}
	return true;
}

/* Takes "." and empty components out. false: nothing that may be the name of a sample. */
static bool name_tidy(struct tar *t)
{
	uint32_t to = 0, len;

	if (!name_is_good(t)) return false;
	for (uint32_t from = 0; from < t->name_len; from += len + 1) {
		struct slice c = component_at(t, from);

		len = (uint32_t)c.len;
		if (len == 0 || slice_eq(c, slice_str("."))) continue;
		if (to > 0) t->name[to++] = '/';
		memmove(t->name + to, c.p, len);
		to += len;
	}
	t->name_len = to;
	return to > 0;
}

/* ---- headers before a member's own ---- */

/* One record "LENGTH KEY=VALUE\n" of a pax header. */
static bool pax_record(struct tar *t, struct slice *rest)
{
	struct slice key, value;
	const uint8_t *equals;
	uint64_t len = 0, v = 0;
	size_t i = 0;

	for (; i < rest->len && rest->p[i] >= '0' && rest->p[i] <= '9' && len <= rest->len; i++)
		len = 10 * len + (uint64_t)(rest->p[i] - '0');
	if (i == 0 || i == rest->len || rest->p[i] != ' ' || len < i + 3 || len > rest->len || rest->p[len - 1] != '\n')
		return false;
	key = slice_of(rest->p + i + 1, (size_t)len - i - 2);
	equals = memchr(key.p, '=', key.len);
	if (equals == NULL) return false;
	value = slice_of(equals + 1, (size_t)(key.p + key.len - equals - 1));
	key.len = (size_t)(equals - key.p);
	rest->p += len;
	rest->len -= len;
	if (value.len == 0) return true; /* takes nothing back that we would have kept */
	if (slice_eq(key, slice_str("path"))) name_set(t, value);
	if (key.len > 11 && memcmp(key.p, "GNU.sparse.", 11) == 0) t->is_sparse = true;
	if (slice_eq(key, slice_str("SCHILY.realsize"))) t->is_sparse = true;
	if (!slice_eq(key, slice_str("size"))) return true;
	for (i = 0; i < value.len; i++) {
		if (value.p[i] < '0' || value.p[i] > '9' || v >= SIZE_MAX_BYTES / 10) return false;
		v = 10 * v + (uint64_t)(value.p[i] - '0');
	}
	t->has_size = true;
	t->size = v;
	return true;
}

static int meta_take(struct split *s)
{
	struct tar *t = &s->tar;
	struct slice all = slice_of(t->meta, t->meta_len);

	if (t->meta_type == 'L') {
		name_set(t, slice_of(all.p, all.len > 0 ? text_len(all.p, all.len) : 0));
		return 0;
	}
	while (all.len > 0)
		if (!pax_record(t, &all)) return lose(s, SPLIT_DAMAGED, t->data_at);
	return 0;
}

static int meta_begin(struct split *s, uint64_t size)
{
	struct tar *t = &s->tar;

	if (size > SPLIT_HEADERS_MAX) return lose(s, SPLIT_HUGE, s->at - TAR_BLOCK);
	if (size > t->meta_cap) {
		uint8_t *wide = realloc(t->meta, (size_t)size);

		if (wide == NULL) return -GRANARY_ENOMEM;
		t->meta = wide;
		t->meta_cap = (uint32_t)size;
	}
	t->meta_len = 0;
	t->state = TAR_META;
	return 0;
}

/* ---- members ---- */

static void skip(struct tar *t, uint64_t bytes)
{
	t->left = bytes;
	t->state = bytes > 0 ? TAR_SKIP : TAR_HEADER;
	t->fill = 0;
}

static int member_end(struct split *s)
{
	struct tar *t = &s->tar;
	struct split_part part = { .at = t->data_at, .name = slice_of(t->name, t->name_len) };
	int err = t->takes ? s->sink.part(s->sink.arg, &part) : 0;

	member_forget(t);
	skip(t, t->pad);
	return err;
}

/* What has no data behind its header. */
static int member_without_data(struct split *s, uint8_t type)
{
	int err = 0;

	if (type == '1' || type == '2') err = tell(s, SPLIT_LINK, s->at - TAR_BLOCK);
	if (type == '3' || type == '4' || type == '6') err = tell(s, SPLIT_SPECIAL, s->at - TAR_BLOCK);
	member_forget(&s->tar);
	skip(&s->tar, 0);
	return err;
}

static int member_begin(struct split *s, uint8_t type)
{
	struct tar *t = &s->tar;
	bool is_file = type == '0' || type == '7' || type == 0;
	int err = 0;

	t->data_at = s->at;
	if (t->is_sparse || type == 'S')
		err = tell(s, SPLIT_SPARSE, s->at - TAR_BLOCK);
	else if (!is_file)
		err = tell(s, SPLIT_SPECIAL, s->at - TAR_BLOCK);
	else if (!name_tidy(t))
		err = tell(s, SPLIT_BAD_NAME, s->at - TAR_BLOCK);
	else
		t->takes = true;
	if (err < 0) return err;
	if (type == 'S' && t->block[MORE_MAP_AT] != 0) {
		t->state = TAR_MAP;
		t->fill = 0;
		return 0;
	}
	t->state = TAR_DATA;
	return t->left > 0 ? 0 : member_end(s);
}

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static int header_take(struct split *s)
{
	struct tar *t = &s->tar;
	uint8_t type = t->block[TYPE_AT];
	uint64_t size;

	t->fill = 0;
	if (is_zero(t->block, TAR_BLOCK)) {
		t->state = TAR_END;
		return 0;
	}
	if (!sum_holds(t->block) || !number_get(t->block + SIZE_AT, NUMBER_LEN, &size) || size > SIZE_MAX_BYTES)
		return lose(s, SPLIT_DAMAGED, s->at - TAR_BLOCK);
	t->any = true;
	if (t->has_size && strchr("xXgLK", type != 0 ? type : '0') == NULL) size = t->size;
	t->left = size;
	t->pad = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
	t->meta_type = type;
	t->data_at = s->at;
	if (type == 'x' || type == 'X' || type == 'L') return meta_begin(s, size);
	if (type == 'g' || type == 'K') {
		skip(t, size + t->pad);
		return 0;
	}
	if (!t->has_name) name_of_header(t);
	if ((type >= '1' && type <= '6') || (type == 0 && t->name_len > 0 && t->name[t->name_len - 1] == '/'))
		return member_without_data(s, type);
	return member_begin(s, type);
}

/* ---- bytes ---- */

/* Collects a block; true when it is whole. */
static bool block_fill(struct split *s, const uint8_t *p, size_t len, size_t *used)
{
	struct tar *t = &s->tar;

	*used = TAR_BLOCK - t->fill < len ? TAR_BLOCK - t->fill : len;
	memcpy(t->block + t->fill, p, *used);
	t->fill += (uint32_t)*used;
	s->at += *used;
	return t->fill == TAR_BLOCK;
}

static int map_take(struct split *s)
{
	struct tar *t = &s->tar;

	t->fill = 0;
	if (t->block[MORE_MAP_NEXT_AT] != 0) return 0;
	t->state = TAR_DATA;
	return t->left > 0 ? 0 : member_end(s);
}

/* Of the data that a header announced; *used of it. */
static int data_take(struct split *s, const uint8_t *p, size_t len, size_t *used)
{
	struct tar *t = &s->tar;
	uint64_t at = s->at;
	int err = 0;

	*used = t->left < len ? (size_t)t->left : len;
	if (t->state == TAR_META) {
		if (*used > 0) memcpy(t->meta + t->meta_len, p, *used);
		t->meta_len += (uint32_t)*used;
	}
	t->left -= *used;
	s->at += *used;
	if (t->state == TAR_DATA && t->takes && *used > 0) err = s->sink.bytes(s->sink.arg, at, p, *used);
	if (err < 0 || t->left > 0) return err;
	if (t->state == TAR_DATA) return member_end(s);
	if (t->state == TAR_META) {
		err = meta_take(s);
		if (t->state == TAR_META) skip(t, t->pad);
		return err;
	}
	skip(t, 0);
	return 0;
}

static int after_end(struct split *s, const uint8_t *p, size_t len)
{
	struct tar *t = &s->tar;
	uint64_t at = s->at;

	s->at += len;
	if (t->state == TAR_LOST || t->told || is_zero(p, len)) return 0;
	t->told = true;
	return tell(s, SPLIT_AFTER_END, at);
}

int tar_feed(struct split *s, const uint8_t *p, size_t len)
{
	struct tar *t = &s->tar;
	int err = 0;

	while (err == 0 && (len > 0 || (t->state == TAR_META && t->left == 0))) {
		size_t used = len;

		if (t->state == TAR_END || t->state == TAR_LOST)
			err = after_end(s, p, len);
		else if (t->state == TAR_HEADER)
			err = block_fill(s, p, len, &used) ? header_take(s) : 0;
		else if (t->state == TAR_MAP)
			err = block_fill(s, p, len, &used) ? map_take(s) : 0;
		else
			err = data_take(s, p, len, &used);
		p += used;
		len -= used;
	}
	return err;
}

int tar_end(struct split *s)
{
	struct tar *t = &s->tar;
	int err = 0;

	if (t->state == TAR_END || t->state == TAR_LOST) return 0;
	if (t->state == TAR_HEADER && t->fill == 0 && !t->has_name && !t->has_size)
		return tell(s, SPLIT_UNENDED, s->at);
	if (t->state == TAR_HEADER && t->fill > 0 && !t->any) return tell(s, SPLIT_DAMAGED, 0);
	if (t->state == TAR_SKIP && t->left < TAR_BLOCK) return tell(s, SPLIT_UNENDED, s->at);
	if (t->state == TAR_DATA && t->takes) err = s->sink.drop(s->sink.arg);
	return err < 0 ? err : tell(s, SPLIT_TRUNCATED, s->at);
}
