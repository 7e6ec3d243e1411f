/* SPDX-License-Identifier: Apache-2.0 */
/* backup_away.h -- the backup of the metadata, a second time, in cold stores: off this machine.
 *
 * A thread of its own looks into the backup directory; whenever a checkpoint was made there, its files, the logs that
 * ended, title and master key go to every store with `backup: on`, below backup/SERIES/ (FORMAT 9.5); the manifest
 * last. SERIES is drawn once for a backup directory and kept in it: numbers of another one are never mixed up with it.
 *
 * Invariants: (1) what a manifest in a store names is there, whole, before the manifest is; (2) an object is put once
 * and never changed; (3) removed is only what neither a manifest that is kept in the store nor
 * one in the backup directory names, of this series alone, and nothing when one of them cannot be read; (4) the
 * backup, requests and other stores wait for nothing here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tier/store.h"

struct away;
struct fs;
struct stores;

struct away_options {
	struct stores *stores;
	const char *dir; /* the backup directory */
	uint32_t keep;   /* checkpoints kept in each store */
};
bool away_is_wanted(const struct store_settings *settings, uint32_t count); /* one of them has `backup: on` */
int away_open(const struct away_options *options, struct away **out);
/* false: its thread hangs in a store, and is left behind with what it uses. */
bool away_close(struct away **away);
size_t away_status(struct away *away, char *buf, size_t cap); /* lines "name value" */

/* What is restored from: a directory that is a cold store, or s3+http(s)://HOST[:PORT]/BUCKET[/PREFIX] with
 * ?FIELD=VALUE&... of the store's settings (credentials, region, style, ca, profile). */
bool fetch_is_url(const char *from);
/* The newest series there, into the folder `into` of fs, as a backup directory. why (cap >= 512). NOTFOUND: the store
 * holds no backup. */
int fetch_backup(const char *from, struct fs *fs, const char *into,
	void (*progress)(void *arg, const char *what, uint64_t done, uint64_t total), void *arg, char *why,
	size_t why_cap);
int fetch_remove(struct fs *fs, const char *into);
