/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_pack.c -- the record decoder and the walk over any bytes: never a read outside, never an
 * endless walk, and what is accepted encodes to the same bytes. The input is a pack from offset
 * 4,096 on. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "io/fs.h"
#include "pack/check.h"
#include "pack/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 256 * 1024 };

static struct fs_file *file;
static char root[] = "/tmp/granary-fuzz-pack-XXXXXX";

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void file_remove(void)
{
	char path[sizeof(root) + 2];

	fs_close(&file);
	snprintf(path, sizeof(path), "%s/f", root);
	unlink(path);
	rmdir(root);
}

static void file_make(void)
{
	struct fs *fs;

	if (file != NULL)
		return;
	require(mkdtemp(root) != NULL);
	require(fs_new_kernel(root, &fs) == 0);
	require(fs_open(fs, "f", FS_CREATE_NEW, &file) == 0);
	fs_free(&fs);
	atexit(file_remove);
}

static void decode_one(const uint8_t *data, size_t size)
{
	struct record r;
	uint32_t need;
	uint8_t *again;

	if (record_decode(data, size, &r, &need) != 0)
		return;
	require(r.header_len <= size && r.header_len == need);
	again = malloc(r.header_len);
	require(again != NULL && record_encode(&r, again, r.header_len) == 0);
	/* All but the zeros before the data, which a reader does not look at: they are under the
	 * crc all the same. */
	require(memcmp(again, data, PACK_RECORD_HEADER_SIZE - 4) == 0);
	free(again);
}

struct seen {
	uint64_t at, records, problems;
};

static int each(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct seen *s = arg;

	require(offset >= s->at && offset % PACK_ALIGN == 0 && data != NULL);
	s->at = offset + record_span(r);
	s->records++;
	return 0;
}

static void problem(void *arg, const struct pack_problem *p)
{
	struct seen *s = arg;

	require(p->err < 0 && p->what[0] != 0);
	s->problems++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen seen = { 0 };
	struct pack_walk walk = { .pack_id = 1, .end = PACK_DATA_START + size, .verify_data = true, .want_data = true,
		.each = each, .problem = problem, .arg = &seen };

	if (size > INPUT_MAX)
		return 0;
	decode_one(data, size);
	file_make();
	require(fs_truncate(file, PACK_DATA_START) == 0);
	if (size > 0)
		require(fs_write(file, data, size, PACK_DATA_START) == 0);
	require(pack_walk(file, &walk) == 0);
	require(seen.problems <= size / PACK_BLOCK + seen.records + 1);
	walk.problem = NULL;
	seen = (struct seen){ 0 };
	require(pack_walk(file, &walk) <= 0);
	return 0;
}
