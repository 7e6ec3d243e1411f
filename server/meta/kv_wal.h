/* SPDX-License-Identifier: Apache-2.0 */
/* kv_wal.h -- RocksDB's log, read only to tell a power cut from damage. Only kv*.c include this. */
#pragma once

#include <stdbool.h>

struct fs;

/* RocksDB refused to open `dir` because of its logs: true when the newest log is damaged in its last
 * record only, and every older log is sound. False when in doubt. */
bool kv_wal_is_torn_at_end(struct fs *fs, const char *dir);
