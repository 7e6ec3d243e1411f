/* SPDX-License-Identifier: Apache-2.0 */
#include "req/keys.h"

#include "meta/ids.h"
#include "meta/ns.h"
#include "req/store.h"

const struct ns_access_key *keys_ref(struct store *store, struct slice id)
{
	return ns_key_ref(store->ns, id);
}

void keys_unref(struct store *store, const struct ns_access_key *key)
{
	ns_key_unref(store->ns, key);
}

bool keys_valid(struct store *store, const struct ns_access_key *key)
{
	return ns_key_valid(store->ns, key);
}

const uint8_t *keys_secret(const struct ns_access_key *key)
{
	return key->secret;
}

const char *keys_id(const struct ns_access_key *key)
{
	return key->id;
}

uint64_t keys_store_time(struct store *store)
{
	return store_clock_now(store->clock);
}
