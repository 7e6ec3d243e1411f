/* SPDX-License-Identifier: Apache-2.0 */
/* link_lost.h -- what the hot file of a linked pack lacks: objects that had been changed when it was loaded, in whose
 * place fillers stand. */
#pragma once

#include <stdint.h>

struct kv;
struct ns;
struct packs;

struct link_lost {
	struct kv *kv;
	struct ns *ns;
	struct packs *packs;
};
/* 0: it has all that a name leads to, or is not hot, or not linked; SOURCE: it lacks some, which are told
 * (linked_why()); BUSY: the pack is gone; ... Blocking. */
int link_lost(const struct link_lost *o, uint64_t pack_id);
