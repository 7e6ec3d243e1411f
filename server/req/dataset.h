/* SPDX-License-Identifier: Apache-2.0 */
/* dataset.h -- datasets as an admin sees them (PROTOCOL 5.9). Worker. */
#pragma once

#include <stddef.h>

struct store;

/* A line a dataset of the bucket ("": of all), `name=value` pairs with tabs between: bucket, path (escaped), id. */
int dataset_list(struct store *store, const char *bucket, char *buf, size_t cap);
/* "BUCKET/PATH" is no dataset any more; its objects stay. On failure buf says why. Commits. */
int dataset_end(struct store *store, const char *place, char *buf, size_t cap);
