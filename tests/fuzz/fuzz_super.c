/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_super.c -- any bytes as the superblock of a hot directory: refused, or a drive that may be. */
#include <assert.h>

#include "common/id.h"
#include "tier/drives_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct drive_super s;

	if (drive_super_parse(data, size, &s) == 0)
		assert(s.drive > DRIVE_DATA && s.incarnation <= ID_INCARNATION_MAX);
	return 0;
}
