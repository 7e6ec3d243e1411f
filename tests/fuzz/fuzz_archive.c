/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_archive.c -- members of archives that come from anybody: what import makes of their names and links. The first
 * byte chooses: the bytes are an archive for libarchive (an odd one gets right header sums first, else nearly every
 * input ends at its first header), or a name and a link's text themselves. A name that is taken is a key below the
 * target; a link that is taken, walked by another rule than the product's, never leaves it. */
#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../client/cli/archive_names.h"
#include "common/name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BLOCK = 512, SUM_AT = 148, SUM_LEN = 8, READ_MAX = 1 << 20, TEXT_MAX = 4096 };

static void require(bool ok)
{
	if (!ok) abort();
}

static void check_name(const char *name)
{
	size_t len = strlen(name);

	require(len <= GRANARY_KEY_LEN_MAX && utf8_valid(slice_of(name, len)));
	require(name[0] != '/' && (len == 0 || name[len - 1] != '/'));
	for (const char *p = name; *p != '\0';) {
		size_t part = strcspn(p, "/");
		require(part > 0 && !(part == 1 && p[0] == '.') && !(part == 2 && p[0] == '.' && p[1] == '.'));
		p += part + (p[part] == '/');
	}
}

/* The directories of the link's own name are where it begins; every name behind may be a link to the target itself. */
static void check_link(const char *name, const char *target)
{
	int64_t depth = 0, lowest;

	for (const char *p = name; *p != '\0'; p++) depth += *p == '/';
	lowest = depth;
	require(target[0] != '/');
	for (const char *p = target; *p != '\0';) {
		size_t part = strcspn(p, "/");
		bool is_up = part == 2 && memcmp(p, "..", 2) == 0, is_here = part == 0 || (part == 1 && *p == '.');
		if (is_up)
			lowest--;
		else if (!is_here)
			lowest = 0; /* it may lead anywhere in the target */
		require(lowest >= 0);
		p += part + (p[part] == '/');
	}
}

static void member(const char *path, const char *symbolic, const char *hard)
{
	char name[GRANARY_KEY_LEN_MAX + 1], other[GRANARY_KEY_LEN_MAX + 1];
	const char *why = NULL;

	if (path == NULL || member_name(name, path, &why) == NULL) {
		require(path == NULL || why != NULL);
		return;
	}
	check_name(name);
	require(member_name(other, name, &why) != NULL && strcmp(name, other) == 0); /* it stays what it is */
	if (symbolic != NULL && member_link_stays(name, symbolic)) check_link(name, symbolic);
	if (hard != NULL && member_name(other, hard, &why) != NULL) check_name(other);
}

static void archive(const uint8_t *data, size_t size)
{
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	static uint8_t buf[65536];
	size_t total = 0;

	require(a != NULL);
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_format_all(a);
	if (archive_read_open_memory(a, data, size) == ARCHIVE_OK) {
		for (int i = 0; i < 200 && total < READ_MAX; i++) {
			int got = archive_read_next_header(a, &e);
			const char *path;
			la_ssize_t n;
			if (got == ARCHIVE_EOF || (got < ARCHIVE_WARN && got != ARCHIVE_RETRY)) break;
			if (got == ARCHIVE_RETRY) continue;
			path = archive_entry_pathname_utf8(e);
			member(path != NULL ? path : archive_entry_pathname(e), archive_entry_symlink(e),
				archive_entry_hardlink(e));
			while (total < READ_MAX && (n = archive_read_data(a, buf, sizeof(buf))) > 0) total += (size_t)n;
		}
	}
	archive_read_free(a);
}

static void put_sums(uint8_t *p, size_t size)
{
	for (; size >= BLOCK; p += BLOCK, size -= BLOCK) {
		unsigned sum = 0;
		memset(p + SUM_AT, ' ', SUM_LEN);
		for (int i = 0; i < BLOCK; i++) sum += p[i];
		snprintf((char *)p + SUM_AT, SUM_LEN, "%06o", sum);
	}
}

static void texts(const uint8_t *data, size_t size)
{
	char name[TEXT_MAX + 1], target[TEXT_MAX + 1];
	size_t cut = 0;

	while (cut < size && data[cut] != 0) cut++;
	snprintf(name, sizeof(name), "%.*s", (int)cut, (const char *)data);
	snprintf(target, sizeof(target), "%.*s", (int)(size > cut ? size - cut - 1 : 0),
		(const char *)data + (size > cut ? cut + 1 : cut));
	member(name, target, target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool is_ready;
	uint8_t *copy;

	if (!is_ready) setlocale(LC_CTYPE, "C.UTF-8");
	is_ready = true;
	if (size < 2 || size > TEXT_MAX * 64) return 0;
	copy = malloc(size - 1); /* of exactly its size */
	require(copy != NULL);
	memcpy(copy, data + 1, size - 1);
	if (data[0] % 3 == 1) put_sums(copy, size - 1);
	if (data[0] % 3 == 2)
		texts(copy, size - 1);
	else
		archive(copy, size - 1);
	free(copy);
	return 0;
}
