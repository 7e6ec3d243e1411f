/* SPDX-License-Identifier: Apache-2.0 */
/* policy_priv.h -- private to policy_*.c. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "jobs/move.h"
#include "jobs/policy.h"
#include "tier/heat.h"
#include "tier/packs.h"

#define NO_RULES "rules: []"
enum { SHARES_MAX = 4, PINS_MAX = 16384 };
struct pins;

struct policy {
	struct policy_options o;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t wake;
	bool woken, stop;
	struct rules *rules;    /* in force; NULL: none, or not readable */
	struct rules *no_rules; /* a text of none: pins alone count */
	char *text;             /* of them; "" none */
	char why[RULE_WHY_MAX]; /* of a text in force that cannot be read */
	struct policy_stats stats;
	struct pins *pins;          /* changed under pin_lock, too */
	pthread_mutex_t pass_lock; /* one pass, or change of rules, at a time */
	pthread_mutex_t pin_lock;  /* one change of pins; taken before lock */
	_Atomic bool stopping;
};

/* Bytes of one pack that one rule decides over; NULL: none does. */
struct share {
	const struct rule *rule;
	uint64_t bytes;
};
struct shares {
	struct share at[SHARES_MAX];
	uint8_t count;
	bool more; /* than SHARES_MAX rules */
};

enum verdict { STAYS, MOVES, LATER, APART, PINNED, IMPOSSIBLE };

struct plan_pack {
	/* by the scan */
	uint64_t id, objects, bytes, pinned_bytes, kept_bytes, written_oldest_ns, written_newest_ns;
	struct shares place, copies, relief;
	/* by the table of packs */
	bool known;
	struct pack_info info;
	uint64_t live_bytes, snapshot_pins;
	struct pack_heat heat;
	/* what follows */
	enum verdict verdict, copy_verdict;
	const struct rule *rule, *copy_rule;
	uint64_t due_ns, copy_due_ns;
	uint8_t kind; /* enum move_kind, of MOVES */
};

struct plan_rule {
	uint64_t packs, bytes; /* that it moves or copies now */
	uint64_t later_packs, later_bytes, next_due_ns;
	uint64_t apart_packs, apart_bytes;          /* of packs that other rules, or none, have a part of */
	uint64_t impossible_packs;                  /* drop_hot without a copy, not sealed yet */
	uint64_t deletes, delete_bytes, held_bytes; /* objects due; of these what snapshots keep on disk */
};

struct plan {
	struct policy *policy;
	const struct rules *rules;
	struct pins *pins; /* a reference */
	uint64_t now_ns, scan_ns, objects, bytes;
	struct plan_pack *packs;
	uint32_t count, cap;
	uint32_t *slots, slot_count;
	struct plan_rule *by_rule;
	uint64_t hot_total, hot_used;                                           /* of all drives */
	uint64_t hot_bytes, cold_bytes, once_bytes, once_packs, once_oldest_ns; /* live bytes by place; only in one */
	uint64_t pinned_packs, pinned_bytes, pinned_cold_packs; /* pinned_cold: to be brought to flash */
	struct kept_dirs *kept;
	/* Of a second scan: instead of summing up, each place of an object that is not pinned, and the rule over it. */
	int (*on_extent)(void *arg, uint64_t pack, uint64_t object, const struct rule *place);
	/* Each object that a rule deletes now; may be NULL. */
	int (*on_delete)(void *arg, uint64_t bucket, const char *key, uint64_t version, const struct rule *rule);
	void *arg;
};

/* policy_scan.c */
int plan_read_names(struct plan *plan);
struct plan_pack *plan_pack_find(const struct plan *plan, uint64_t id);
int plan_tags_text(const uint8_t *pairs, size_t len, char *out, size_t cap);

/* policy_pin.c */
struct pins *policy_pins(struct policy *p); /* a reference; may be NULL, which covers nothing */
void pins_unref(struct pins **pins);
uint32_t pins_count(const struct pins *pins);
/* The path of the widest pin that covers a key; NULL: none does. */
const char *pins_cover(const struct pins *pins, uint64_t bucket, const char *key);
int policy_pins_load(struct policy *p);
int policy_pins_sweep(struct policy *p);

/* policy_sort.c: orders that what is due of packs goes to packs of its own, where the rest is not. */
int policy_sort(struct policy *p, const struct plan *plan);
/* The rule that would move a part of a pack now, and cannot; NULL: none. */
const struct rule *plan_due_part(const struct plan *plan, const struct plan_pack *p);

/* policy_packs.c */
int policy_count_once(struct policy *p);

/* policy_text.c */
void policy_json_text(FILE *f, const char *s);
const char *policy_bytes_text(uint64_t n, char buf[32]);
const char *policy_span_text(uint64_t ns, char buf[32]);
/* How long ago; 0 of what happened since `now` was asked for. */
static inline uint64_t policy_since(uint64_t now_ns, uint64_t ns) { return now_ns > ns ? now_ns - ns : 0; }

/* policy_keep.c: directories that keep_last keeps. */
struct kept_dirs;
int kept_begin(struct kept_dirs **kept);
/* Of a rule with keep_last, in the first scan: an object below a directory that its glob names. */
int kept_note(struct kept_dirs *kept, const struct rule *rule, uint64_t bucket, const char *key, size_t dir_len,
	uint64_t written_ns);
void kept_choose(struct kept_dirs *kept);
bool kept_is(const struct kept_dirs *kept, const struct rule *rule, uint64_t bucket, const char *key, size_t dir_len);
void kept_free(struct kept_dirs **kept);

/* policy_plan.c: scan, then verdicts. */
int plan_make(struct policy *policy, const struct rules *rules, struct plan *plan);
void plan_free(struct plan *plan);
bool plan_pack_is_hot(const struct plan_pack *p);
uint32_t plan_rule_index(const struct plan *plan, const struct rule *rule);

/* policy_bill.c: a month's money in each placement. */
enum placement { AS_IT_IS, ALL_HOT, AS_PLANNED };
struct bill {
	double flash, cold, requests, egress;
	double moves; /* once: what it takes to get there */
	uint64_t reads, hot_reads;
};
double bill_sum(const struct bill *b); /* without moves */
double bill_hits(const struct bill *b);
void bills_make(const struct plan *plan, struct bill bills[3]);

/* policy_text.c: the plan of a text (NULL: of the rules in force) is made and written. */
typedef void plan_write_fn(FILE *f, const struct plan *plan, const struct bill bills[3]);
int policy_planned(struct policy *p, const char *text, size_t len, plan_write_fn *write, char **out, char *why,
	size_t why_cap);

/* policy_run.c: rules of a text, with the stores there are. */
int policy_parse(struct policy *p, const char *text, size_t len, struct rules **out, char *why, size_t why_cap);
