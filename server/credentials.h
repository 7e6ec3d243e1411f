/* SPDX-License-Identifier: Apache-2.0 */
/* credentials.h -- the first access key of a store and the file that hands it to its owner; addresses as URLs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct store;

#define CREDENTIALS_FILE "root.credentials" /* in the data directory, mode 0600 */

enum { CREDENTIALS_URL_MAX = 512 };

bool credentials_any_key(struct store *store);
/* "granary://HOST:PORT" of "tcp:..." or "unix:..."; a wildcard address becomes loopback. */
void credentials_url(const char *address, char out[CREDENTIALS_URL_MAX]);
/* Without any key: makes one for everything and writes the file. With keys: if the file is there, brings its url up to
 * date. Blocks; main thread. *made tells whether there is a new key. On failure why (cap >= 256) says what. */
int credentials_ensure(struct store *store, const char *url, bool *made, char *why, size_t why_cap);
