/* SPDX-License-Identifier: Apache-2.0 */
/* bytes.h -- little-endian integers behind types (formats and wire), big-endian for sort keys,
 * a bounded read cursor whose error sticks, and a bounded writer whose overflow sticks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct le16 { uint8_t b[2]; };
struct le32 { uint8_t b[4]; };
struct le64 { uint8_t b[8]; };

static inline uint16_t le16_get(struct le16 v) { uint16_t r; memcpy(&r, v.b, 2); return r; }
static inline uint32_t le32_get(struct le32 v) { uint32_t r; memcpy(&r, v.b, 4); return r; }
static inline uint64_t le64_get(struct le64 v) { uint64_t r; memcpy(&r, v.b, 8); return r; }
static inline struct le16 le16_of(uint16_t v) { struct le16 r; memcpy(r.b, &v, 2); return r; }
static inline struct le32 le32_of(uint32_t v) { struct le32 r; memcpy(r.b, &v, 4); return r; }
static inline struct le64 le64_of(uint64_t v) { struct le64 r; memcpy(r.b, &v, 8); return r; }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian; port these four lines");

static inline void be64_put(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
static inline uint64_t be64_get(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
static inline void be32_put(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline uint32_t be32_get(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }

/* Borrowed bytes. */
struct slice {
	const uint8_t *p;
	size_t len;
};

static inline struct slice slice_of(const void *p, size_t len) { return (struct slice){ p, len }; }
static inline struct slice slice_str(const char *s) { return (struct slice){ (const uint8_t *)s, strlen(s) }; }
static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}
/* Below, at or above 0 as strcmp(); bytes are unsigned, what begins another stands before it. */
static inline int slice_compare(struct slice a, struct slice b)
{
	size_t both = a.len < b.len ? a.len : b.len;
	int order = both > 0 ? memcmp(a.p, b.p, both) : 0;

	return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* Reader. After any read past the end `bad` stays set and every read gives zero / an empty slice:
 * check once at the end with cur_done() (all consumed, nothing bad) or cur_ok(). */
struct cur {
	const uint8_t *p;
	const uint8_t *end;
	bool bad;
};

static inline struct cur cur_of(const void *p, size_t len)
{
	const uint8_t *start = p;

	return (struct cur){ start, len ? start + len : start, false }; /* NULL of 0 bytes is fine */
}
static inline size_t cur_left(const struct cur *c) { return c->bad ? 0 : (size_t)(c->end - c->p); }
static inline bool cur_ok(const struct cur *c) { return !c->bad; }
static inline bool cur_done(const struct cur *c) { return !c->bad && c->p == c->end; }
static inline const uint8_t *cur_take(struct cur *c, size_t n)
{
	const uint8_t *p = c->p;
	if (c->bad || (size_t)(c->end - c->p) < n) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	return p;
}
static inline uint8_t cur_u8(struct cur *c) { const uint8_t *p = cur_take(c, 1); return p ? *p : 0; }
static inline uint16_t cur_u16(struct cur *c)
{
	const uint8_t *p = cur_take(c, 2); uint16_t v = 0; if (p) memcpy(&v, p, 2); return v;
}
static inline uint32_t cur_u32(struct cur *c)
{
	const uint8_t *p = cur_take(c, 4); uint32_t v = 0; if (p) memcpy(&v, p, 4); return v;
}
static inline uint64_t cur_u64(struct cur *c)
{
	const uint8_t *p = cur_take(c, 8); uint64_t v = 0; if (p) memcpy(&v, p, 8); return v;
}
static inline struct slice cur_bytes(struct cur *c, size_t n)
{
	const uint8_t *p = cur_take(c, n); return p ? (struct slice){ p, n } : (struct slice){ NULL, 0 };
}
/* A byte of flags: a bit that is not in `known` is as bad as a read past the end. */
static inline uint8_t cur_flags(struct cur *c, uint8_t known)
{
	uint8_t v = cur_u8(c);
	if (v & (uint8_t)~known)
		c->bad = true;
	return v;
}
/* A u16 length, then that many bytes (borrowed). */
static inline struct slice cur_bytes16(struct cur *c) { size_t n = cur_u16(c); return cur_bytes(c, n); }
/* A u32 length, then that many bytes (borrowed). */
static inline struct slice cur_bytes32(struct cur *c) { size_t n = cur_u32(c); return cur_bytes(c, n); }

/* Writer into a fixed buffer. After an overflow `bad` stays set and nothing more is written. */
struct wr {
	uint8_t *start;
	uint8_t *p;
	uint8_t *end;
	bool bad;
};

/* gcc 12 loses wr_room's bound when many writes are inlined into one caller and warns of a write that cannot happen. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Warray-bounds"
#endif
static inline struct wr wr_of(void *p, size_t cap) { return (struct wr){ p, p, (uint8_t *)p + cap, false }; }
static inline size_t wr_len(const struct wr *w) { return (size_t)(w->p - w->start); }
static inline bool wr_ok(const struct wr *w) { return !w->bad; }
static inline uint8_t *wr_room(struct wr *w, size_t n)
{
	uint8_t *p = w->p;
	if (w->bad || (size_t)(w->end - w->p) < n) {
		w->bad = true;
		return NULL;
	}
	w->p += n;
	return p;
}
static inline void wr_u8(struct wr *w, uint8_t v) { uint8_t *p = wr_room(w, 1); if (p) *p = v; }
static inline void wr_u16(struct wr *w, uint16_t v) { uint8_t *p = wr_room(w, 2); if (p) memcpy(p, &v, 2); }
static inline void wr_u32(struct wr *w, uint32_t v) { uint8_t *p = wr_room(w, 4); if (p) memcpy(p, &v, 4); }
static inline void wr_u64(struct wr *w, uint64_t v) { uint8_t *p = wr_room(w, 8); if (p) memcpy(p, &v, 8); }
static inline void wr_be64(struct wr *w, uint64_t v) { uint8_t *p = wr_room(w, 8); if (p) be64_put(p, v); }
static inline void wr_bytes(struct wr *w, const void *src, size_t n)
{
	uint8_t *p = wr_room(w, n);
	if (p && n)
		memcpy(p, src, n);
}
static inline void wr_slice(struct wr *w, struct slice s) { wr_bytes(w, s.p, s.len); }
static inline void wr_bytes16(struct wr *w, struct slice s)
{
	if (s.len > UINT16_MAX) { w->bad = true; return; }
	wr_u16(w, (uint16_t)s.len); wr_slice(w, s);
}
static inline void wr_bytes32(struct wr *w, struct slice s)
{
	if (s.len > UINT32_MAX) { w->bad = true; return; }
	wr_u32(w, (uint32_t)s.len); wr_slice(w, s);
}
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
