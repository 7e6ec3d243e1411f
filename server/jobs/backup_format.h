/* SPDX-License-Identifier: Apache-2.0 */
/* backup_format.h -- the bytes of a backup: docs/FORMAT.md 9. Encode and decode, no I/O. Decoders take any bytes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

enum {
	BACKUP_NAME_MAX = 120, /* of a file: letters, digits, `.`, `_`, `-` */
	BACKUP_FILES_MAX = 1 << 20,
	BACKUP_MANIFEST_MAX = 256 * 1024 * 1024,
	BACKUP_LOG_HEADER_SIZE = 64,
	BACKUP_LOG_LINE = 4096, /* a write to a log begins at a multiple: what was synced is not written again */
	BACKUP_RECORD_HEADER_SIZE = 32,
	BACKUP_RECORD_MAX = 256 * 1024 * 1024, /* bytes of the ops of a record */
	BACKUP_OP_HEADER_SIZE = 9,
};

/* ---- manifest of a checkpoint (9.2) ---- */

struct backup_file {
	char stored[BACKUP_NAME_MAX + 1]; /* in files/ of the backup */
	char name[BACKUP_NAME_MAX + 1];   /* in the engine's folder */
	uint64_t size, identity;          /* identity: fs_identity() of what was copied, 0 not known */
	uint32_t crc;                     /* of all its bytes */
};

struct backup_manifest {
	uint64_t number, position, store_time_ns, made_s;
	uint32_t incarnation;
	uint8_t store_id[16];
	char engine[16];
	struct backup_file *files; /* owned */
	uint32_t count, cap;
};
void backup_manifest_release(struct backup_manifest *m);
/* 0 or -GRANARY_ENOMEM. */
int backup_manifest_add(struct backup_manifest *m, const struct backup_file *f);
/* The text on the heap; NULL when memory ran out. */
char *backup_manifest_encode(const struct backup_manifest *m, size_t *len);
/* Zeroes m first. BADFORMAT, VERSION, CORRUPT (the checksum differs), NOMEM: then m is empty. */
int backup_manifest_decode(struct slice text, struct backup_manifest *m);

/* ---- log segment (9.3) ---- */

struct backup_log_header {
	uint64_t number, start; /* start: position at which it begins */
	uint8_t store_id[16];
	uint32_t incarnation;
};
void backup_log_header_encode(const struct backup_log_header *h, uint8_t out[BACKUP_LOG_HEADER_SIZE]);
int backup_log_header_decode(const uint8_t *in, size_t len, struct backup_log_header *out); /* as a manifest's */

struct backup_record {
	uint64_t before, after; /* positions */
	uint32_t count;
	struct slice ops;
};
/* Fills in all but the checksum, which backup_record_seal does, where there is time for it. */
void backup_record_encode(const struct backup_record *r, uint8_t out[BACKUP_RECORD_HEADER_SIZE]);
/* The record at p, whole: its length. */
size_t backup_record_seal(uint8_t *p);
/* Length of the record at the start of buf, and its parts; 0 when it is not whole there (*need: how many bytes would
 * tell, 0 when more would not help). */
size_t backup_record_decode(const uint8_t *buf, size_t len, struct backup_record *out, size_t *need);

struct backup_op {
	struct slice key, value;
	bool is_delete;
};
static inline size_t backup_op_size(size_t key_len, size_t value_len)
{
	return BACKUP_OP_HEADER_SIZE + key_len + value_len;
}
void backup_op_encode(struct wr *w, const struct backup_op *op);
/* False at the end, or when it is damaged (then c->bad). */
bool backup_op_next(struct cur *c, struct backup_op *out);
