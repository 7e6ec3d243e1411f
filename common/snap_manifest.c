/* SPDX-License-Identifier: Apache-2.0 */
/* snap_manifest.c -- the manifest of a snapshot, FORMAT 8.5: header, fixed fields, data pages, names pages, texts. */
#include "common/snap.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/snap_build.h"

enum { COUNT_FIELDS, COUNT_PAGES, COUNT_NAMES, COUNT_ZERO }; /* of the header */
enum {
	FIXED_SIZE = 8 * (9 + SNAP_HISTOGRAM) + 8,
	PAGE_REF_SIZE = 40,
	NAMES_REF_MIN = 27,
	IDENTITY_SIZE = 16,
	FIELD_NAMES_MAX = SNAP_FIELDS_MAX * 256,
};

/* ---- what every manifest keeps ---- */

static bool sums_hold(const struct snap_manifest *m)
{
	uint64_t samples = 0, bytes = 0, counted = 0;

	for (uint32_t i = 0; i < m->page_count; i++) {
		samples += m->pages[i].samples;
		if (__builtin_add_overflow(bytes, m->pages[i].bytes, &bytes))
			return false;
	}
	for (unsigned i = 0; i < SNAP_HISTOGRAM; i++)
		if (__builtin_add_overflow(counted, m->histogram[i], &counted))
			return false;
	return samples == m->samples && bytes == m->bytes && counted == m->samples;
}

static bool names_ascend(const struct snap_manifest *m)
{
	for (uint32_t i = 0; i < m->names_count; i++) {
		struct slice b = m->names[i].first;

		if (b.len == 0 || b.len > SNAP_KEY_MAX || m->names[i].entries == 0)
			return false;
		if (i > 0) {
			struct slice a = m->names[i - 1].first;
			int order = memcmp(a.p, b.p, a.len < b.len ? a.len : b.len);

			if (order > 0 || (order == 0 && a.len >= b.len))
				return false;
		}
	}
	return true;
}

/* Exactly K names of u8 length and bytes, none when K is 1. */
static bool field_names_hold(const struct snap_manifest *m)
{
	struct cur c = cur_of(m->field_names.p, m->field_names.len);

	for (uint32_t i = 0; m->fields > 1 && i < m->fields; i++)
		(void)cur_bytes(&c, cur_u8(&c));
	return cur_done(&c);
}

static bool counts_hold(const struct snap_manifest *m)
{
	return m->fields >= 1 && m->fields <= SNAP_FIELDS_MAX && m->page_count <= SNAP_PAGES_MAX &&
	       m->names_count <= SNAP_PAGES_MAX;
}

static bool manifest_holds(const struct snap_manifest *m)
{
	return counts_hold(m) && m->prefix.len <= SNAP_PREFIX_MAX && m->options.len <= SNAP_OPTIONS_MAX &&
	       m->field_names.len <= FIELD_NAMES_MAX && m->smallest <= m->largest && sums_hold(m) && names_ascend(m) &&
	       field_names_hold(m);
}

/* ---- writing ---- */

static void fixed_put(struct wr *w, const struct snap_manifest *m)
{
	wr_u64(w, m->samples);
	wr_u64(w, m->bytes);
	wr_u64(w, m->directories);
	wr_u64(w, m->incomplete);
	wr_u64(w, m->created_ns);
	wr_u64(w, m->smallest);
	wr_u64(w, m->largest);
	wr_u64(w, m->block);
	wr_u64(w, m->window);
	wr_u32(w, m->lanes);
	wr_u32(w, m->mode);
	for (unsigned i = 0; i < SNAP_HISTOGRAM; i++)
		wr_u64(w, m->histogram[i]);
}

static void hash_put(struct wr *w, struct hash128 hash)
{
	wr_u64(w, hash.lo);
	wr_u64(w, hash.hi);
}

static void page_put(struct wr *w, const struct snap_page_ref *p)
{
	hash_put(w, p->hash);
	wr_u64(w, p->pack);
	wr_u64(w, p->bytes);
	wr_u32(w, p->samples);
	wr_u32(w, p->size);
}

static void names_put(struct wr *w, const struct snap_names_ref *n)
{
	hash_put(w, n->hash);
	wr_u32(w, n->entries);
	wr_u32(w, n->size);
	wr_bytes16(w, n->first);
}

static uint64_t manifest_size(const struct snap_manifest *m)
{
	uint64_t size = sizeof(struct snap_header) + FIXED_SIZE + (uint64_t)m->page_count * PAGE_REF_SIZE;

	for (uint32_t i = 0; i < m->names_count; i++)
		size += NAMES_REF_MIN - 1 + m->names[i].first.len;
	size += m->has_identity ? IDENTITY_SIZE : 0;
	return size + 3 * sizeof(uint16_t) + m->prefix.len + m->options.len + m->field_names.len;
}

int snap_manifest_encode(const struct snap_manifest *m, uint8_t **bytes, size_t *len, struct hash128 *hash)
{
	struct snap_header h = { 0 };
	uint64_t size;
	struct wr w;
	uint8_t *out;

	if (!manifest_holds(m))
		return -GRANARY_EINVAL;
	size = manifest_size(m);
	if (size >= SNAP_FILE_MAX)
		return -GRANARY_ETOOBIG;
	out = malloc((size_t)size);
	if (out == NULL)
		return -GRANARY_ENOMEM;
	h.features_incompat = le32_of(m->has_identity ? SNAP_FEATURE_IDENTITY : 0);
	h.counts[COUNT_FIELDS] = le32_of(m->fields);
	h.counts[COUNT_PAGES] = le32_of(m->page_count);
	h.counts[COUNT_NAMES] = le32_of(m->names_count);
	w = wr_of(out, (size_t)size);
	wr_bytes(&w, &h, sizeof(h));
	fixed_put(&w, m);
	for (uint32_t i = 0; i < m->page_count; i++)
		page_put(&w, &m->pages[i]);
	for (uint32_t i = 0; i < m->names_count; i++)
		names_put(&w, &m->names[i]);
	wr_bytes16(&w, m->prefix);
	wr_bytes16(&w, m->options);
	wr_bytes16(&w, m->field_names);
	if (m->has_identity)
		hash_put(&w, m->identity);
	if (!wr_ok(&w) || wr_len(&w) != size) {
		free(out);
		return -GRANARY_EINVAL;
	}
	snap_header_seal(out, (size_t)size, SNAP_MAGIC_MANIFEST);
	*hash = hash_content(out, (size_t)size);
	*bytes = out;
	*len = (size_t)size;
	return 0;
}

/* ---- reading ---- */

static void fixed_get(struct cur *c, struct snap_manifest *m)
{
	uint32_t mode;

	m->samples = cur_u64(c);
	m->bytes = cur_u64(c);
	m->directories = cur_u64(c);
	m->incomplete = cur_u64(c);
	m->created_ns = cur_u64(c);
	m->smallest = cur_u64(c);
	m->largest = cur_u64(c);
	m->block = cur_u64(c);
	m->window = cur_u64(c);
	m->lanes = cur_u32(c);
	mode = cur_u32(c);
	m->mode = (uint8_t)mode;
	c->bad |= mode > UINT8_MAX;
	for (unsigned i = 0; i < SNAP_HISTOGRAM; i++)
		m->histogram[i] = cur_u64(c);
}

static struct hash128 hash_get(struct cur *c)
{
	uint64_t lo = cur_u64(c), hi = cur_u64(c);

	return (struct hash128){ .lo = lo, .hi = hi };
}

static void page_get(struct cur *c, struct snap_page_ref *p)
{
	p->hash = hash_get(c);
	p->pack = cur_u64(c);
	p->bytes = cur_u64(c);
	p->samples = cur_u32(c);
	p->size = cur_u32(c);
}

static void names_get(struct cur *c, struct snap_names_ref *n)
{
	n->hash = hash_get(c);
	n->entries = cur_u32(c);
	n->size = cur_u32(c);
	n->first = cur_bytes16(c);
}

/* Arrays for as many refs as the header says; no more than the bytes that are left can hold. */
static int refs_new(const struct cur *c, struct snap_manifest *m)
{
	if (!counts_hold(m) ||
	    (uint64_t)m->page_count * PAGE_REF_SIZE + (uint64_t)m->names_count * NAMES_REF_MIN > cur_left(c))
		return -GRANARY_ECORRUPT;
	m->pages = calloc(m->page_count ? m->page_count : 1, sizeof(*m->pages));
	m->names = calloc(m->names_count ? m->names_count : 1, sizeof(*m->names));
	return m->pages && m->names ? 0 : -GRANARY_ENOMEM;
}

static int refs_get(struct cur *c, struct snap_manifest *m)
{
	int err = refs_new(c, m);

	if (err < 0)
		return err;
	for (uint32_t i = 0; i < m->page_count; i++)
		page_get(c, &m->pages[i]);
	for (uint32_t i = 0; i < m->names_count; i++)
		names_get(c, &m->names[i]);
	return 0;
}

int snap_manifest_decode(const uint8_t *bytes, size_t len, struct snap_manifest *out)
{
	struct snap_manifest m = { 0 };
	struct snap_header h;
	struct cur c;
	int err = snap_header_open(bytes, len, SNAP_MAGIC_MANIFEST, &h);

	if (err < 0)
		return err;
	m.fields = le32_get(h.counts[COUNT_FIELDS]);
	m.page_count = le32_get(h.counts[COUNT_PAGES]);
	m.names_count = le32_get(h.counts[COUNT_NAMES]);
	c = cur_of(bytes + sizeof(h), len - sizeof(h));
	fixed_get(&c, &m);
	err = refs_get(&c, &m);
	if (err == 0) {
		m.prefix = cur_bytes16(&c);
		m.options = cur_bytes16(&c);
		m.field_names = cur_bytes16(&c);
		m.has_identity = le32_get(h.features_incompat) & SNAP_FEATURE_IDENTITY;
		if (m.has_identity)
			m.identity = hash_get(&c);
		if (!cur_done(&c) || le32_get(h.counts[COUNT_ZERO]) != 0 || le64_get(h.pack) != 0 ||
		    !manifest_holds(&m))
			err = -GRANARY_ECORRUPT;
	}
	if (err < 0) {
		snap_manifest_release(&m);
		return err;
	}
	*out = m;
	return 0;
}

void snap_manifest_release(struct snap_manifest *m)
{
	free(m->pages);
	free(m->names);
	*m = (struct snap_manifest){ 0 };
}
