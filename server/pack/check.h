/* SPDX-License-Identifier: Apache-2.0 */
/* check.h -- walking and verifying packs, blocking: recovery, sealing, scrub, compaction. Memory:
 * one buffer of 8 MiB. */
#pragma once

#include <stdint.h>

#include "pack/format.h"

struct fs_file;

struct pack_problem { uint64_t offset; int err; char what[96]; struct record record; };
struct pack_walk {
	uint64_t pack_id, end;  /* walk records in [4096, end) */
	bool verify_data;       /* check every block crc as well */
	/* Each data record in order; data is NULL unless want_data. Non-zero stops the walk and is
	 * returned. */
	int (*each)(void *arg, uint64_t offset, const struct record *r, const uint8_t *data);
	/* Each damaged place; the walk resumes at the next 4 KiB line. NULL: the first one ends the
	 * walk with its error. */
	void (*problem)(void *arg, const struct pack_problem *p);
	/* Where a record begins behind damage at `offset`, for who knows better than the next line
	 * (records of one flush follow each other without any): above `offset`, or 0. */
	uint64_t (*resume)(void *arg, uint64_t offset);
	void *arg;
	bool want_data;
	uint64_t bytes_per_second; /* 0: no limit */
};
int pack_walk(struct fs_file *file, const struct pack_walk *walk);
/* Sealed pack: trailer, footer crc, entries sorted and in range; then each() an entry. */
int pack_footer_read(struct fs_file *file, uint64_t pack_id, struct pack_trailer *trailer,
		     int (*each)(void *arg, const struct footer_entry *e), void *arg);
/* Sealed pack, whole: footer as above, then a walk up to the data end (walk->end is not used) that
 * is compared with it: also records that are missing, exchanged or unnamed are problems. */
int pack_check_sealed(struct fs_file *file, const struct pack_walk *walk);
/* One record read past every cache and verified whole. object_id: what it names; 0: any, others may refer to it. data
 * needs EXTENT_LEN_MAX. header_len: NULL, or bytes from the record's start to its data. */
int pack_record_verify(struct fs_file *file, uint64_t pack_id, uint64_t offset, uint64_t object_id, uint8_t *data,
		       uint32_t *data_len, uint32_t *header_len);
/* The same where data has less room: -GRANARY_ECORRUPT when the record is longer. */
int pack_record_verify_into(struct fs_file *file, uint64_t offset, uint64_t object_id, uint8_t *data, uint32_t room,
	uint32_t *data_len);
