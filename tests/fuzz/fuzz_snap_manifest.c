/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_snap_manifest.c -- a manifest over any bytes, as they are and with their checksums made right: one that decodes
 * encodes to the same bytes, but for unknown compatible features. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/snap.h"
#include "fuzz_snap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void manifest_run(const uint8_t *data, size_t size)
{
	struct snap_manifest m;
	struct hash128 hash;
	uint8_t *bytes;
	size_t len;

	if (snap_manifest_decode(data, size, &m) < 0)
		return;
	require(snap_manifest_encode(&m, &bytes, &len, &hash) == 0);
	require(len == size && memcmp(bytes + 64, data + 64, len - 64) == 0);
	require(memcmp(bytes, data, 16) == 0 && memcmp(bytes + 20, data + 20, 40) == 0);
	free(bytes);
	snap_manifest_release(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	manifest_run(data, size);
	run_resealed(data, size, manifest_run);
	return 0;
}
