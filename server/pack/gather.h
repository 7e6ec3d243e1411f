/* SPDX-License-Identifier: Apache-2.0 */
/* gather.h -- the bytes that extents point at, past every cache, blocking: for those who put extents together. */
#pragma once

#include <stdint.h>

#include "meta/rows.h"

struct packs;

/* Byte `from + i` of their object goes to out[i], for all that they cover; holes stay as they are there. Each block is
 * verified by the extent's checksums. The extents lie in [from, from + size of out). 0; ESTALE (a pack is gone: look
 * their rows up again); ECORRUPT; EIO; OFFLINE; NOMEM. */
int pack_gather(struct packs *packs, const struct extent *extents, uint32_t count, uint64_t from, uint8_t *out);
