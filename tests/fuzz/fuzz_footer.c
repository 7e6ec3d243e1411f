/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_footer.c -- trailer, footer and the check of a sealed pack over any bytes. The input is the
 * end of a file: what stands before it up to a multiple of 4 KiB is zeros. Entries that are handed
 * out are sorted and inside. */
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

enum { INPUT_MAX = 256 * 1024, PACK_ID = 1 };

static struct fs_file *file;
static char root[] = "/tmp/granary-fuzz-foot-XXXXXX";

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

struct seen {
	uint64_t at, entries, limit;
};

static int each(void *arg, const struct footer_entry *e)
{
	struct seen *s = arg;

	require(e->offset >= s->at && e->offset + e->header_len <= s->limit);
	s->at = e->offset + e->header_len;
	s->entries++;
	return 0;
}

static void problem(void *arg, const struct pack_problem *p)
{
	(void)arg;
	require(p->err < 0 && p->what[0] != 0);
}

static void decode_only(const uint8_t *data, size_t size)
{
	struct pack_trailer t;
	struct pack_header h;
	uint8_t again[PACK_TRAILER_SIZE];

	(void)pack_header_decode(data, size, &h);
	if (pack_trailer_decode(data, size, &t) != 0)
		return;
	pack_trailer_encode(&t, again);
	require(memcmp(again, data, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t end = 2 * PACK_BLOCK + (size + PACK_BLOCK - 1) / PACK_BLOCK * PACK_BLOCK;
	struct pack_walk walk = { .pack_id = PACK_ID, .verify_data = true, .problem = problem };
	struct seen seen = { .limit = end };
	struct pack_trailer t;
	int err;

	if (size > INPUT_MAX)
		return 0;
	decode_only(data, size);
	file_make();
	require(fs_truncate(file, 0) == 0 && fs_truncate(file, end) == 0);
	if (size > 0)
		require(fs_write(file, data, size, end - size) == 0);
	err = pack_footer_read(file, PACK_ID, &t, each, &seen);
	require(err < 0 || (err == 0 && seen.entries == t.entries));
	require(pack_check_sealed(file, &walk) <= 0);
	return 0;
}
