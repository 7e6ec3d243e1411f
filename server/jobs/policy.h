/* SPDX-License-Identifier: Apache-2.0 */
/* policy.h -- rules applied: a plan is what they want now, a pass begins it. One thread of its own, low priority.
 *
 * A plan comes from one scan of the namespace: for each pack, which rules decide over how much of it; then from how
 * each pack fares: hot, cold, when it was written and read last, how full flash is. The unit that is moved is
 * the pack; what rules want to do with a part of a pack waits until compaction has sorted it (`apart`: policy_sort.c).
 *
 * Invariants: (1) a plan changes nothing; (2) what a pass does to an object was judged by its row as it is when it is
 * done: a deletion states the version that the plan saw; (3) nothing is due by a clock but store time; (4) rules that
 * cannot be read (a store that nothing names any more) stop all moves by rules and say so: never a part of them;
 * (5) pins win, those of rules and those by hand: what they cover stays on flash or comes back to it; (6) what a
 * snapshot needs is not deleted from disk by the deletion of its key, and is said to be held. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "jobs/rules.h"

struct heat;
struct jobs;
struct kv;
struct moves;
struct ns;
struct packs;
struct policy;
struct store_clock;
struct stores;
struct writers;

struct policy_options {
	struct kv *kv;
	struct ns *ns;
	struct packs *packs;
	struct stores *stores;
	struct heat *heat;
	struct moves *moves;     /* NULL: plans only */
	struct writers *writers; /* NULL: open packs are not ended for `within` */
	struct jobs *jobs;       /* NULL: what rules want apart stays together */
	struct store_clock *clock;
	uint64_t interval_ns; /* between passes; a pass also waits ten times as long as its scan took */
	bool thread;          /* false: policy_pass() is called by hand */
	bool (*needed)(void *arg, uint64_t pack); /* an announced epoch will use it: it is not moved now. Or NULL */
	/* The lowest `until` of the watermarks in force, 0: there are none. Or NULL. */
	void (*until_changed)(void *arg, uint32_t percent);
	void *arg; /* of both */
	double hot_price;     /* of a GB-month of flash, in the currency of the stores' prices */
};
int policy_open(const struct policy_options *options, struct policy **out);
void policy_close(struct policy **policy);

/* The rules in force; "" if there are none. Freed by the caller. */
int policy_rules_text(struct policy *p, char **text);
/* A text becomes the rules in force: committed, then a pass soon. CONFIG and why. A text with rules that delete where
 * those in force have none needs `yes_delete`: else PRECONDITION and why, with what they would delete now. */
int policy_apply(struct policy *p, const char *text, size_t len, bool yes_delete, char *why, size_t why_cap);

/* Below, worker or job: long. text NULL: the rules in force. Output is for people, or JSON; freed by the caller. */
int policy_plan(struct policy *p, const char *text, size_t len, bool json, char **out, char *why, size_t why_cap);
/* Which rule decides over a key, where its bytes are, and when it will move. NOTFOUND. */
int policy_explain(
	struct policy *p, const char *bucket, const char *key, bool json, char **out, char *why, size_t why_cap);
/* Prefixes by heat: those right below BUCKET[/PREFIX], or ("") the first ones of all buckets. Reads all names there. */
int policy_top(struct policy *p, const char *path, bool json, char **out, char *why, size_t why_cap);
/* A JSON object a line for each pack: where it is, how much it is read. */
int policy_map(struct policy *p, char **out);

/* Pins by hand. path: BUCKET[/PATH], the object of that name and all below it; committed; what is cold comes back with
 * the next pass. NOBUCKET, INVAL, TOOBIG and why. Worker. */
int policy_pin(struct policy *p, const char *path, bool there, char *why, size_t why_cap);
/* Lines BUCKET/PATH, or JSON: all, or (path not NULL) the one that covers it; "": none. */
int policy_pins_text(struct policy *p, const char *path, bool json, char **out, char *why, size_t why_cap);
/* Something at or below BUCKET[/PATH] is pinned, or a directory above it: which pin. Any thread. */
bool policy_pinned_at(struct policy *p, const char *path, char *pin, size_t pin_cap);

/* Bills: today's, with all on flash, with the plan. */
int policy_cost(struct policy *p, bool json, char **out, char *why, size_t why_cap);

int policy_pass(struct policy *p);
void policy_wake(struct policy *p);
struct policy_stats {
	uint64_t rules, pins, passes, scans, scanned_objects, scan_ns, tasks_started, deleted_objects, deleted_bytes,
		errors;
	uint64_t once_packs, once_bytes,
		once_oldest_ns; /* live bytes in just one place, as of the last pass; when the oldest of their packs was
				   made */
};
void policy_get_stats(struct policy *p, struct policy_stats *out);
