/* SPDX-License-Identifier: Apache-2.0 */
/* provenance.h -- rows of what jobs were given (FORMAT 6.12f): one a rank and opened epoch. Owns nothing. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/token.h"

struct kv;

enum {
	NTAG_SEEN = 64, /* store time */
	NTAG_NAME,      /* of the snapshot or recipe */
	NTAG_HOST,
	NTAG_TOKEN, /* where the segment begins */
	NTAG_WORLD,
	NTAG_RANK,
	NTAG_BATCH,
	NTAG_LAST,
	NTAG_DELIVERED, /* batches of the rank */
	NTAG_TO,        /* position after them */
	NTAG_SAMPLES,
	NTAG_BYTES,
	NTAG_CHECKSUM,
	NTAG_SKIPPED, /* samples that were replaced */
	NTAG_SKIPS,   /* the first of them, as on the wire */
	NTAG_ENDED,
	NTAG_FIRST, /* it had the batches first, first + step, ... of its rank */
	NTAG_STEP
};

enum { PROVENANCE_NAME_MAX = 4096 }; /* of a part of a snapshot: NAME/PREFIX, the prefix escaped */
struct provenance_row { /* slices borrow */
	uint64_t seen_ns, delivered, to, samples, bytes, checksum, skipped;
	uint32_t world, rank, batch, first, step;
	uint8_t last;
	bool ended;
	struct slice name, host, token, skips;
};
/* 0 or -GRANARY_ECORRUPT: also when the token is none. */
int provenance_row_decode(struct slice value, struct provenance_row *out, struct token *token);
size_t provenance_row_size(const struct provenance_row *r);
int64_t provenance_row_encode(const struct provenance_row *r, void *buf, size_t cap);

struct provenance_key {
	struct slice job;
	uint64_t begun_ns, id, bucket; /* begun: by the consumer's clock; id: random */
};
struct slice row_provenance(uint8_t *buf, const struct provenance_key *k); /* `n` 1 */
struct slice row_provenance_prefix(uint8_t *buf, struct slice job);        /* empty: of all jobs */
bool row_provenance_parse(struct slice key, struct provenance_key *out);
/* Rows with this prefix behind the key `after` (empty: from the first), in order. */
int provenance_each(struct kv *kv, struct slice prefix, struct slice after,
	int (*each)(void *arg, struct slice key, struct slice value), void *arg);
