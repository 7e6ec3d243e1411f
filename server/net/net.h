/* SPDX-License-Identifier: Apache-2.0 */
/* net.h -- the native protocol's front end: listeners, connections, framing, authentication, send queues.
 * All functions are called from the main thread (never a reactor). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net;
struct store;

enum { NET_LISTENERS_MAX = 16, NET_ADDRESS_MAX = 128 };

struct net_options {
	const char *const *addresses; /* as sock.h spells them */
	uint32_t address_count;       /* 1..NET_LISTENERS_MAX */
	uint32_t connections_max;     /* over all reactors; more are told BUSY and closed */
};
/* Binds every address. On failure `why` (cap >= 256) names the address, the cause and the fix. */
int net_open(struct store *store, const struct net_options *options, struct net **out, char *why,
	size_t why_cap);
uint32_t net_address_count(const struct net *net);
const char *net_address(const struct net *net, uint32_t i); /* as bound: a port 0 became a number */
int net_start(struct net *net);                             /* accepts from now on */
/* Stops accepting, refuses new requests (SHUTDOWN), lets running ones finish, says GOODBYE to connections with none.
 * Returns 0 when all are gone, -GRANARY_ETIMEDOUT after timeout_ns. */
int net_drain(struct net *net, uint64_t timeout_ns);
/* Drops what is left and frees everything; -GRANARY_ETIMEDOUT when requests do not end within timeout_ns: then nothing
 * is freed, and the store must not be closed. */
int net_stop(struct net **net, uint64_t timeout_ns);
