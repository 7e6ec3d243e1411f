/* SPDX-License-Identifier: Apache-2.0 */
/* link_sums.h -- what a virtual pack's loading leaves to do: its checksums go into the rows. */
#pragma once

#include <stdint.h>

struct kv;
struct ns;
struct packs;

struct link_sums {
	struct kv *kv;
	struct ns *ns;
	struct packs *packs;
	int (*pace)(void *arg, uint64_t bytes); /* an error ends it; or NULL */
	void *arg;
};
/* Of a pack that has a hot file. Done twice it is as done once. Job. */
int link_sums(const struct link_sums *o, uint64_t pack_id);
