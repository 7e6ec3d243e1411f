/* SPDX-License-Identifier: Apache-2.0 */
/* provenance.h -- what a job was given, in a few numbers: the checksum of checksums and the samples that were replaced;
 * docs/ORDER.md 9. The sum does not depend on how positions are split among ranks: those of all ranks add up. */
#pragma once

#include <stdint.h>

#include "common/order.h"

enum { PROVENANCE_SKIPS_MAX = 256, PROVENANCE_SKIP_SIZE = 8 + 4 + 8 + 8 };

/* In the place of `lost` stands `substitute`: numbers of samples of the snapshot, or of a recipe's source. */
struct provenance_skip {
	uint64_t position;
	uint32_t source;
	uint64_t lost, substitute;
};

/* Of one position: begun, then of each file its size and of each of its extents the crc32c, in their order. */
static inline uint64_t provenance_begin(uint64_t position) { return order_key_add(0, position); }
static inline uint64_t provenance_file(uint64_t sum, uint64_t size) { return order_key_add(sum, size); }
static inline uint64_t provenance_extent(uint64_t sum, uint32_t crc) { return order_key_add(sum, crc); }
