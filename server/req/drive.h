/* SPDX-License-Identifier: Apache-2.0 */
/* drive.h -- orders about the hot directories (PROTOCOL 5.9), and what status says of them. Workers. */
#pragma once

#include <stddef.h>

struct store;

/* A line a drive, `name=value` separated by tabs. Returns the length. */
size_t drive_list(struct store *store, char *buf, size_t cap);
/* argument: PATH, or PATH and its size in bytes after a tab. buf: what was done, or why not. */
int drive_add(struct store *store, const char *argument, char *buf, size_t cap);
int drive_drain(struct store *store, const char *path, char *buf, size_t cap);
int drive_cancel(struct store *store, const char *path, char *buf, size_t cap);
/* Lines `name value` of STATUS. */
size_t drive_status(struct store *store, char *buf, size_t cap);
