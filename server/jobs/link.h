/* SPDX-License-Identifier: Apache-2.0 */
/* link.h -- data flow with somebody else's bucket or directory (docs/FLOW.md): its objects get names here, laid out in
 * virtual packs (pack/linked.h) in the order of their keys, and no byte is copied. A task lists the source and compares
 * it with what is here, key by key:
 *
 *   NEW       here is nothing of that name                              link: it is made
 *   SAME      here is that very object (its key and its tag)
 *   CHANGED   here is that object, with another tag                     link: what is there now takes its place
 *   CONFLICT  here is something else: written, or brought, by others    kept; taken only where the order says so
 *   GONE      here is an object that the source has no more             kept
 *   LOCAL     here alone
 *   REFUSED   its key can be no name here
 *
 * Invariants: (1) the source is never written to; (2) nothing here that is not CHANGED goes without being asked for;
 * (3) a pack is named by rows, and its table of records, before an object points into it; (4) a task may be
 * interrupted anywhere and is run again from its beginning, where what is done is SAME; (5) memory: one pack's
 * records, one page of the list, one page of names. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/name.h"
#include "tier/store.h"

struct ids;
struct kv;
struct links;
struct ns;
struct packs;
struct store_clock;
struct stores;

struct links_options {
	struct kv *kv;
	struct ids *ids;
	struct ns *ns;
	struct packs *packs;
	struct stores *stores;
	struct store_clock *clock;
	uint64_t timeout_ns; /* of a page of a list (60 s) */
	uint64_t retry_ns;   /* first pause of a task whose source is away, doubled up to 64 times (500 ms) */
	bool thread;         /* false: links_turn() is called by hand (tests) */
};
int links_open(const struct links_options *options, struct links **out); /* takes up the tasks that are left */
bool links_close(struct links **links); /* false: a call into a source hangs */
int links_turn(struct links *links);    /* all that can be done now; the first error, or 0 */

enum link_kind { LINK_LINK = 1, LINK_VERIFY };
enum link_state { LINK_WAITING = 1, LINK_RUNNING, LINK_PAUSED, LINK_DONE, LINK_FAILED, LINK_CANCELED };
struct link_order {
	uint8_t kind;       /* enum link_kind; VERIFY: compares alone */
	bool takes_source;  /* of a CONFLICT the source's object is taken */
	uint64_t store;
	char prefix[SOURCE_KEY_MAX + 1];                     /* in the store */
	char target[BUCKET_LEN_MAX + 1 + KEY_LEN_MAX + 2];   /* BUCKET/ or BUCKET/dir/ */
};
enum link_count { LINK_NEW, LINK_SAME, LINK_CHANGED, LINK_CONFLICT, LINK_GONE, LINK_LOCAL, LINK_REFUSED, LINK_COUNTS };
extern const char *const link_count_names[LINK_COUNTS];
struct link_progress {
	uint64_t task, counts[LINK_COUNTS], listed, bytes, packs, began_ns, ended_ns;
	uint8_t state;
	int err;
	struct link_order order;
};
/* Committed before it returns. BUSY: LINKS_MAX tasks are not through; INVAL: the store is no source; NOTFOUND. */
enum { LINKS_MAX = 64, LINK_REPORT_MAX = 32 * 1024 };
int links_start(struct links *l, const struct link_order *order, uint64_t *task);
int links_cancel(struct links *l, uint64_t task);
uint32_t links_list(struct links *l, struct link_progress *out, uint32_t max); /* newest last */
/* Lines KIND \t KEY \t WHY of what a task did not leave the same on both sides, as many as fit. */
int links_report(struct links *l, uint64_t task, char *buf, size_t cap);
/* Which order linked this place (BUCKET/dir/), as kept over restarts. NOTFOUND. */
int links_source(struct links *l, const char *target, struct link_order *out);
