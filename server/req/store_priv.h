/* SPDX-License-Identifier: Apache-2.0 */
/* store_priv.h -- private to req/store*.c. */
#pragma once

#include "req/store.h"

#define STORE_SUPER   "granary.super"
#define STORE_KEY     "master.key"
#define STORE_BALLAST "ballast"

/* store_super.c: the data directory's own files (FORMAT 2). All set `why` when they fail. */
struct super {
	uint8_t store_id[16];
	uint32_t incarnation;
	uint64_t created_s;
};
/* 1: there is one; 0: an empty directory; VERSION, BADFORMAT, NOTFOUND. Touches nothing. */
int super_read(struct fs *fs, struct super *out, char *why, size_t why_cap);
int super_write(struct fs *fs, const struct super *s, char *why, size_t why_cap);
/* 32 bytes; made when `may_make`. */
int master_key_read(struct fs *fs, bool may_make, uint8_t key[32], char *why, size_t why_cap);
/* The highest incarnation that the metadata's rows name. */
int incarnation_of_rows(struct kv *kv, uint32_t *out);
/* Checks or writes row M store; writes row M incarnation. */
int rows_identify(struct kv *kv, const struct super *s, char *why, size_t why_cap);

/* store_ballast.c */
int ballast_make(struct store *store);
void ballast_release(void *store);        /* kv_options.nospace */
void ballast_refill(struct store *store); /* when it is gone and there is room again */
