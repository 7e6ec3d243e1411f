/* SPDX-License-Identifier: Apache-2.0 */
/* known.c -- what the target holds already, from one listing: a hash table over its catalog. */
#include "upload.h"

#include <stdlib.h>
#include <string.h>

#include "common/hash.h"

struct known {
	struct catalog catalog;
	uint32_t *slots; /* index + 1 of an item, 0: free */
	size_t mask;
};

static size_t known_slot(const struct known *k, const char *key)
{
	return (size_t)hash_keyed(0, 0, key, strlen(key)).lo & k->mask;
}

int known_list(struct known **out, struct remote *r, const char *prefix)
{
	struct known *k = must_alloc(calloc(1, sizeof(*k)));
	size_t size = 16;
	int code = catalog_list(&k->catalog, r, prefix);

	*out = NULL;
	if (code != CLI_OK || k->catalog.count > UINT32_MAX / 2) {
		known_free(&k);
		return code != CLI_OK ? code
				      : fail(CLI_FAILED, "the target holds too many objects");
	}
	while (size < k->catalog.count * 2) size *= 2;
	k->slots = must_alloc(calloc(size, sizeof(*k->slots)));
	k->mask = size - 1;
	for (size_t i = 0; i < k->catalog.count; i++) {
		size_t at = known_slot(k, k->catalog.items[i].key);
		while (k->slots[at] != 0) at = (at + 1) & k->mask;
		k->slots[at] = (uint32_t)(i + 1);
	}
	*out = k;
	return CLI_OK;
}

static const struct item *known_find(const struct known *k, const char *key)
{
	if (k->catalog.count == 0) return NULL;
	for (size_t at = known_slot(k, key); k->slots[at] != 0; at = (at + 1) & k->mask) {
		const struct item *item = &k->catalog.items[k->slots[at] - 1];
		if (strcmp(item->key, key) == 0) return item;
	}
	return NULL;
}

bool known_has(const struct known *k, const char *key)
{
	return known_find(k, key) != NULL;
}

enum known_state known_state(
	const struct known *k, const char *key, uint64_t size, uint64_t mtime_ns)
{
	const struct item *item = known_find(k, key);

	if (item == NULL) return KNOWN_ABSENT;
	return item->size == size && item->mtime_ns == mtime_ns ? KNOWN_SAME : KNOWN_OTHER;
}

size_t known_count(const struct known *k)
{
	return k->catalog.count;
}

void known_free(struct known **known)
{
	struct known *k = *known;

	*known = NULL;
	if (k == NULL) return;
	catalog_free(&k->catalog);
	free(k->slots);
	free(k);
}
