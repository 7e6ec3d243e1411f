/* SPDX-License-Identifier: Apache-2.0 */
/* tlv.h -- tag-length-value blocks (docs/FORMAT.md 1.3): u16 tag, u32 length, bytes; tags ascending is not required,
 * a tag may repeat where its clause says so. Unknown tags survive a rewrite: copy them with tlv_copy_unknown(). */
#pragma once

#include "common/bytes.h"

/* Next element; false at the end or when damaged (then c->bad). */
static inline bool tlv_next(struct cur *c, uint16_t *tag, struct slice *value)
{
	if (c->bad || c->p == c->end)
		return false;
	*tag = cur_u16(c);
	*value = cur_bytes32(c);
	return !c->bad;
}
static inline uint64_t tlv_u64(struct slice v) { uint64_t r = 0; if (v.len <= 8) memcpy(&r, v.p, v.len); return r; }
static inline void tlv_put(struct wr *w, uint16_t tag, struct slice v) { wr_u16(w, tag); wr_bytes32(w, v); }
static inline void tlv_put_u64(struct wr *w, uint16_t tag, uint64_t v)
{
	wr_u16(w, tag); wr_u32(w, 8); wr_u64(w, v);
}
static inline void tlv_put_u32(struct wr *w, uint16_t tag, uint32_t v)
{
	wr_u16(w, tag); wr_u32(w, 4); wr_u32(w, v);
}
/* Starts a value whose length is not known yet; returns the place to give to tlv_close(). */
static inline uint8_t *tlv_open(struct wr *w, uint16_t tag) { wr_u16(w, tag); return wr_room(w, 4); }
static inline void tlv_close(struct wr *w, uint8_t *at)
{
	if (w->bad || !at) return;
	uint32_t n = (uint32_t)(w->p - at - 4); memcpy(at, &n, 4);
}
