/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_backup.c -- manifest of a checkpoint, header and records of a log, over any bytes (FORMAT 9). The first byte
 * chooses; half of the choices make the checksums right first, else nearly every input would end there. What is decoded
 * and encoded again decodes to the same; a name never leads out of its folder; a record lies within its buffer. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "jobs/backup_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok) abort();
}

static void check_name(const char *name)
{
	require(name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL && strlen(name) <= BACKUP_NAME_MAX);
}

static void manifest(const uint8_t *data, size_t size)
{
	struct backup_manifest m, again;
	size_t len;
	char *text;

	if (backup_manifest_decode(slice_of(data, size), &m) != 0) {
		require(m.count == 0 && m.files == NULL);
		return;
	}
	for (uint32_t i = 0; i < m.count; i++) {
		check_name(m.files[i].stored);
		check_name(m.files[i].name);
	}
	text = backup_manifest_encode(&m, &len);
	require(text != NULL && backup_manifest_decode(slice_of(text, len), &again) == 0);
	require(again.count == m.count && again.number == m.number && again.position == m.position);
	require(strcmp(again.engine, m.engine) == 0 && memcmp(again.store_id, m.store_id, sizeof(m.store_id)) == 0);
	for (uint32_t i = 0; i < m.count; i++)
		require(again.files[i].size == m.files[i].size && again.files[i].crc == m.files[i].crc);
	free(text);
	backup_manifest_release(&m);
	backup_manifest_release(&again);
}

static void header(const uint8_t *data, size_t size)
{
	struct backup_log_header h;
	uint8_t again[BACKUP_LOG_HEADER_SIZE];

	if (backup_log_header_decode(data, size, &h) != 0) return;
	backup_log_header_encode(&h, again);
	require(memcmp(again, data, 52) == 0);
}

static void records(const uint8_t *data, size_t size)
{
	struct backup_record r;
	size_t at = 0, len, need;

	while ((len = backup_record_decode(data + at, size - at, &r, &need)) > 0) {
		struct cur c = cur_of(r.ops.p, r.ops.len);
		struct backup_op op;
		require(len <= size - at && r.after > r.before && r.ops.p + r.ops.len <= data + size);
		while (backup_op_next(&c, &op)) require(op.key.len + op.value.len <= r.ops.len);
		at += len;
	}
	require(need == 0 || need > size - at);
}

static void put_crc(uint8_t *at, uint32_t crc)
{
	memcpy(at, &crc, sizeof(crc));
}

static void resealed(uint8_t what, uint8_t *p, size_t size)
{
	uint32_t len;
	char end[16];

	if (what == 0 && size >= 13) {
		snprintf(end, sizeof(end), "end=%08x\n", crc32c(0, p, size - 13));
		memcpy(p + size - 13, end, 13);
	} else if (what == 1 && size >= BACKUP_LOG_HEADER_SIZE) {
		put_crc(p + BACKUP_LOG_HEADER_SIZE - 4, crc32c(0, p, BACKUP_LOG_HEADER_SIZE - 4));
	} else if (what == 2) {
		for (size_t at = 0; at + BACKUP_RECORD_HEADER_SIZE <= size; at += BACKUP_RECORD_HEADER_SIZE + len) {
			memcpy(&len, p + at + 4, sizeof(len));
			if (len > size - at - BACKUP_RECORD_HEADER_SIZE) break;
			(void)backup_record_seal(p + at);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const runs[])(const uint8_t *data, size_t size) = { manifest, header, records };
	uint8_t what = size > 0 ? data[0] % 6 : 0, *copy;

	if (size < 2) return 0;
	copy = malloc(size - 1); /* of exactly its size */
	require(copy != NULL);
	memcpy(copy, data + 1, size - 1);
	if (what >= 3) resealed(what - 3, copy, size - 1);
	runs[what % 3](copy, size - 1);
	free(copy);
	return 0;
}
