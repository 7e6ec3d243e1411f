/* SPDX-License-Identifier: Apache-2.0 */
/* kv_wal.c -- is a RocksDB log torn where only an unfinished batch can be?
 *
 * Each batch is one record and is synced before the next is written. So a power cut can leave any mix of old and
 * new pages in the last record, and nothing after it; fragments of that same record (MIDDLE, LAST) may stand behind
 * the hole. Where a record begins soundly (FULL, FIRST) behind damage, the damaged one was followed by a later
 * batch, so it had been synced and was damaged afterwards: that is corruption, and a person must decide.
 *
 * Format (RocksDB's log_format.h): blocks of 32 KiB; in them fragments: masked crc32c u32 of type and data, length
 * u16, type u8 (1 full, 2 first, 3 middle, 4 last), data; a block's last bytes that hold no header are zeros. */
#include "meta/kv_wal.h"

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "io/fs.h"

#include <stdio.h>
#include <stdlib.h>

enum { WAL_BLOCK_SIZE = 32 * 1024, WAL_HEADER_SIZE = 7, WAL_FULL = 1, WAL_FIRST = 2, WAL_LAST = 4 };

static bool crc_matches(const uint8_t *fragment, uint32_t len)
{
	uint32_t crc = crc32c(0, fragment + 6, (size_t)len + 1);
	uint32_t stored;

	memcpy(&stored, fragment, 4);
	return stored == ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

struct wal_scan {
	bool is_damaged;       /* something unsound was met */
	bool is_followed;      /* and a record begins behind it */
};

/* Fragments of one block; the rest of a block behind an unsound header cannot be read, as its length is not known:
 * but a record might begin there soundly, so every byte is tried. */
static void scan_block(struct wal_scan *s, const uint8_t *block, uint32_t size)
{
	uint32_t at = 0;

	while (at + WAL_HEADER_SIZE <= size) {
		uint32_t len = (uint32_t)block[at + 4] | (uint32_t)block[at + 5] << 8;
		uint8_t type = block[at + 6];
		bool is_sound = type >= WAL_FULL && type <= WAL_LAST && at + WAL_HEADER_SIZE + len <= size &&
			crc_matches(block + at, len);
		if (is_sound && s->is_damaged && type <= WAL_FIRST)
			s->is_followed = true;
		if (!is_sound)
			s->is_damaged = true;
		at += is_sound ? WAL_HEADER_SIZE + len : 1;
	}
}

static int scan_file(struct wal_scan *s, struct fs *fs, const char *path)
{
	uint8_t *block = malloc(WAL_BLOCK_SIZE);
	struct fs_file *f = NULL;
	int64_t got = block ? fs_open(fs, path, FS_READ, &f) : -GRANARY_ENOMEM;

	for (uint64_t at = 0; got >= 0; at += WAL_BLOCK_SIZE) {
		got = fs_read(f, block, WAL_BLOCK_SIZE, at);
		if (got <= 0)
			break;
		scan_block(s, block, (uint32_t)got);
	}
	fs_close(&f);
	free(block);
	return (int)got;
}

struct wal_walk {
	struct fs *fs;
	const char *dir;
	uint64_t newest; /* log number */
	struct wal_scan scan;
};

/* "000123.log" -> 123; 0 for any other name. */
static uint64_t log_number(const char *name)
{
	char *end;
	uint64_t number = strtoull(name, &end, 10);

	return end != name && strcmp(end, ".log") == 0 ? number : 0;
}

static int find_newest(void *arg, const char *name)
{
	struct wal_walk *w = arg;

	if (log_number(name) > w->newest)
		w->newest = log_number(name);
	return 0;
}

/* 0 to go on: this log is as it should be. */
static int scan_log(void *arg, const char *name)
{
	struct wal_walk *w = arg;
	struct wal_scan scan = { false, false };
	char path[1024];
	int len = snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	int err;

	if (log_number(name) == 0)
		return 0;
	err = len > 0 && (size_t)len < sizeof(path) ? scan_file(&scan, w->fs, path) : -GRANARY_ETOOBIG;
	if (err < 0)
		return err;
	if (log_number(name) == w->newest)
		w->scan = scan;
	else if (scan.is_damaged)
		return -GRANARY_ECORRUPT;
	return 0;
}

bool kv_wal_is_torn_at_end(struct fs *fs, const char *dir)
{
	struct wal_walk w = { .fs = fs, .dir = dir };
	int err = fs_list(fs, dir, find_newest, &w);

	if (err == 0 && w.newest > 0)
		err = fs_list(fs, dir, scan_log, &w);
	return err == 0 && w.scan.is_damaged && !w.scan.is_followed;
}
