/* SPDX-License-Identifier: Apache-2.0 */
/* keys.h -- access keys and store time as front ends see them: net/ and http/ know nothing of meta/. Any thread, never
 * blocks. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

struct ns_access_key;
struct store;

/* A counted reference; NULL when unknown, expired or removed. */
const struct ns_access_key *keys_ref(struct store *store, struct slice id);
void keys_unref(struct store *store, const struct ns_access_key *key);
bool keys_valid(
	struct store *store, const struct ns_access_key *key); /* not removed, not expired since */
const uint8_t *keys_secret(const struct ns_access_key *key);   /* WIRE_SECRET_SIZE bytes */
const char *keys_id(const struct ns_access_key *key);
uint64_t keys_store_time(struct store *store); /* ns */
