/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_snap.h -- for the fuzz targets of FORMAT 8: without right checksums nearly every input ends at the header. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static inline void require(bool ok)
{
	if (!ok)
		abort();
}

/* Runs over a copy (of exactly its size) whose version and both checksums were made right. */
static inline void run_resealed(const uint8_t *data, size_t size, void (*run)(const uint8_t *data, size_t size))
{
	enum { HEADER = 64, VERSION_AT = 8, BODY_AT = 36, CRC_AT = 60 };
	const uint32_t version = 1;
	uint8_t *copy;
	uint32_t crc;

	if (size < HEADER)
		return;
	copy = malloc(size);
	require(copy != NULL);
	memcpy(copy, data, size);
	memcpy(copy + VERSION_AT, &version, sizeof(version));
	crc = crc32c(0, copy + HEADER, size - HEADER);
	memcpy(copy + BODY_AT, &crc, sizeof(crc));
	crc = crc32c(0, copy, CRC_AT);
	memcpy(copy + CRC_AT, &crc, sizeof(crc));
	run(copy, size);
	free(copy);
}
