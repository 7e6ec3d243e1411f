/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c.h -- CRC-32C (Castagnoli, RFC 3720 B.4; reflected, init and final xor 0xffffffff). The fastest way the
 * processor has is chosen once: AVX-512 carry-less multiply folding, 3-way SSE4.2, else a table. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* crc of `len` bytes appended to what gave `crc` (0 to start): crc32c(crc32c(0, a), b) == crc32c(0, ab). */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);
/* "avx512", "sse42" or "table": for the start-up log line and the bench. */
const char *crc32c_engine(void);

enum { CRC_BLOCK_SIZE = 64 * 1024 }; /* data is checksummed in blocks of this many bytes, FORMAT 3.3 */

static inline uint32_t crc_block_count(uint64_t len) { return (uint32_t)((len + CRC_BLOCK_SIZE - 1) / CRC_BLOCK_SIZE); }
/* Fills crc_block_count(len) values: one a 64 KiB block of buf. */
void crc32c_blocks(uint32_t *crcs, const void *buf, size_t len);
