/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h -- how a batch lies in memory that travels between processes (shared.c, pool.c). The head at the beginning,
 * the bytes at SHARED_DATA_AT, then offsets (uint64), ids (uint64) and flags (uint32) at arrays_at. */
#pragma once

#include "native.h"

struct shared_head {
	uint64_t magic;
	uint64_t size; /* of all */
	uint64_t arrays_at, position, number;
	uint32_t count, fields;
	uint32_t given_back; /* set by the receiver: the memory may be used for another batch */
	uint32_t retired;    /* set by the sender: there will be no other one */
	uint32_t token_len;
	uint8_t token[GRANARY_TOKEN_MAX];
};
#define SHARED_MAGIC UINT64_C(0x3248435441424e47)
enum { SHARED_DATA_AT = 4096 };
_Static_assert(sizeof(struct shared_head) <= SHARED_DATA_AT, "before the bytes");

static inline uint64_t shared_arrays(uint64_t count, uint64_t fields)
{
	return (count * fields + 1) * 8 + count * 12;
}
/* What the batch needs. */
uint64_t shared_size(const BatchObject *batch);
/* Writes it, but for given_back and retired, which others may look at meanwhile; its bytes only when they are not there
 * already. Without the interpreter. */
void shared_fill(struct shared_head *head, const BatchObject *batch, bool bytes);
/* Memory of a batch and a quarter more, so that batches of changing sizes do not map anew each time. */
static inline uint64_t shared_room(uint64_t size)
{
	return (size + size / 4 + 4095) / 4096 * 4096;
}
