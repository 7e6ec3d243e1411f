/* SPDX-License-Identifier: Apache-2.0 */
/* policy_run.c -- the rules in force, and passes over them. The text stands whole in one row (`r`, FORMAT
 * 6.16), so what is in force is one transaction old or new, never a mixture. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/tlv.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "pack/writer.h"
#include "tier/stores.h"

#define PINS_ORIGIN "pins"
enum { RULES_TAG_TEXT = 64, DELETES_A_TXN = 500, COMMIT_TRIES = 8, SCAN_SHARE = 10 };
static const char RULES_ROW[] = "r";

/* ---- the row ---- */

static uint64_t store_of(void *arg, const char *name)
{
	struct stores *stores = arg;
	struct place *place = stores ? stores_by_name(stores, name) : NULL;

	return place ? place_id(place) : 0;
}

int policy_parse(struct policy *p, const char *text, size_t len, struct rules **out, char *why, size_t why_cap)
{
	const struct rules_env env = { store_of, p->o.stores };

	return rules_parse(text, len, &env, out, why, why_cap);
}

static int row_read(struct policy *p, char **text)
{
	struct kv_value v;
	int err = kv_get(p->o.kv, slice_of(RULES_ROW, 1), &v);

	*text = NULL;
	if (err == -GRANARY_ENOTFOUND) return 0;
	if (err < 0) return err;
	struct cur c = cur_of(v.v.p, v.v.len);
	struct slice value;
	uint16_t tag;
	(void)cur_u8(&c);
	while (tlv_next(&c, &tag, &value))
		if (tag == RULES_TAG_TEXT && !*text) *text = strndup((const char *)value.p, value.len);
	kv_value_release(&v);
	return *text ? 0 : -GRANARY_ECORRUPT;
}

static int row_write(struct policy *p, const char *text, size_t len)
{
	size_t cap = len + 16;
	uint8_t *buf = malloc(cap);
	struct kv_txn *txn = buf ? kv_txn_new(p->o.kv) : NULL;
	struct wr w = wr_of(buf, cap);
	int err = -GRANARY_ENOMEM;

	if (txn) {
		wr_u8(&w, 1);
		tlv_put(&w, RULES_TAG_TEXT, slice_of(text, len));
		kv_put(txn, slice_of(RULES_ROW, 1), slice_of(buf, wr_len(&w)));
		err = kv_submit_wait(p->o.kv, txn);
		kv_txn_free(&txn);
	}
	free(buf);
	return err;
}

/* The lowest share of flash at which watermarks stop; 0: there are none. */
static uint32_t until_percent(const struct rules *rules)
{
	uint32_t least = 0;

	for (uint32_t i = 0; rules && i < rules_count(rules); i++) {
		const struct rule *r = rules_at(rules, i);
		if (r->class == RULE_RELIEF && (!least || r->until_percent < least)) least = r->until_percent;
	}
	return least;
}

/* Takes rules and text over. Under pass_lock. */
static void rules_set(struct policy *p, struct rules *rules, char *text, const char *why)
{
	pthread_mutex_lock(&p->lock);
	struct rules *old = p->rules;
	char *old_text = p->text;
	p->rules = rules;
	p->text = text;
	snprintf(p->why, sizeof(p->why), "%s", why);
	p->stats.rules = rules ? rules_count(rules) : 0;
	pthread_mutex_unlock(&p->lock);
	if (p->o.until_changed) p->o.until_changed(p->o.arg, until_percent(rules));
	rules_free(&old);
	free(old_text);
}

static int rules_load(struct policy *p)
{
	char *text, why[RULE_WHY_MAX] = "";
	struct rules *rules = NULL;
	int err = row_read(p, &text);

	if (err < 0) return err;
	if (!text) text = strdup("");
	if (!text) return -GRANARY_ENOMEM;
	if (*text && policy_parse(p, text, strlen(text), &rules, why, sizeof(why)) < 0)
		log_error("the rules in force cannot be carried out, nothing is moved by rules: %s", why);
	rules_set(p, rules, text, why);
	return 0;
}

int policy_rules_text(struct policy *p, char **text)
{
	pthread_mutex_lock(&p->lock);
	*text = strdup(p->text);
	pthread_mutex_unlock(&p->lock);
	return *text ? 0 : -GRANARY_ENOMEM;
}

/* ---- a change of rules ---- */

static int deletes_check(struct policy *p, const struct rules *rules, char *why, size_t why_cap)
{
	struct plan plan = { 0 };
	int err = plan_make(p, rules, &plan);
	uint64_t objects = 0, bytes = 0;

	for (uint32_t i = 0; err == 0 && i < rules_count(rules); i++) {
		objects += plan.by_rule[i].deletes;
		bytes += plan.by_rule[i].delete_bytes;
	}
	plan_free(&plan);
	if (err < 0) return err;
	snprintf(why, why_cap,
		"these rules delete, and those in force do not: %llu objects of %llu bytes now; say --yes-delete to "
		"apply them",
		(unsigned long long)objects, (unsigned long long)bytes);
	return -GRANARY_EPRECONDITION;
}

int policy_apply(struct policy *p, const char *text, size_t len, bool yes_delete, char *why, size_t why_cap)
{
	struct rules *rules = NULL;
	char *copy = strndup(text, len);
	int err = copy ? policy_parse(p, text, len, &rules, why, why_cap) : -GRANARY_ENOMEM;

	pthread_mutex_lock(&p->pass_lock);
	if (err == 0 && !yes_delete && rules_delete_anything(rules) && !(p->rules && rules_delete_anything(p->rules)))
		err = deletes_check(p, rules, why, why_cap);
	if (err == 0) {
		err = row_write(p, text, len);
		if (err < 0) snprintf(why, why_cap, "the rules could not be stored: %s", error_text(err));
	}
	if (err == 0) {
		rules_set(p, rules, copy, "");
		log_info("rules are in force; count=%u", rules_count(rules));
	} else {
		rules_free(&rules);
		free(copy);
	}
	pthread_mutex_unlock(&p->pass_lock);
	if (err == 0) policy_wake(p);
	return err;
}

/* ---- a pass ---- */

struct deleter {
	struct policy *p;
	uint64_t bucket, versions[DELETES_A_TXN];
	char *keys[DELETES_A_TXN];
	uint32_t count;
	uint64_t deleted, bytes;
};

static int delete_one(struct ns_plan *plan, struct deleter *d, const struct pins *pins, uint32_t i)
{
	if (pins_cover(pins, d->bucket, d->keys[i])) return 0; /* pinned since the plan */

	struct ns_ref ref = { .by = NS_BY_KEY, .bucket = d->bucket, .name = slice_str(d->keys[i]) };
	struct ns_deleted deleted;
	int err = ns_plan_delete(plan, &ref, NS_IF_VERSION, d->versions[i], &deleted);

	if (err == 0) {
		d->deleted++;
		d->bytes += deleted.size;
	}
	/* Gone, or written anew since the plan: not what was judged. */
	return err == -GRANARY_ENOTFOUND || err == -GRANARY_EPRECONDITION || err == -GRANARY_ECHANGED ||
			       err == -GRANARY_EISDIR
		       ? 0
		       : err;
}

static int deletes_commit(struct deleter *d)
{
	int err = d->count ? -GRANARY_EBUSY : 0;

	for (int tries = 0; err == -GRANARY_EBUSY && tries < COMMIT_TRIES; tries++) {
		struct ns_plan *plan = ns_plan_new(d->p->o.ns);
		uint64_t deleted = d->deleted, bytes = d->bytes;
		struct pins *pins = policy_pins(d->p);
		err = plan ? 0 : -GRANARY_ENOMEM;
		for (uint32_t i = 0; err == 0 && i < d->count; i++) err = delete_one(plan, d, pins, i);
		pins_unref(&pins);
		if (err == 0) err = ns_plan_finish(plan);
		if (err == 0) {
			err = kv_submit_wait(d->p->o.kv, ns_plan_txn(plan));
			ns_plan_committed(plan, err);
		}
		if (plan) ns_plan_free(&plan);
		if (err < 0) d->deleted = deleted, d->bytes = bytes;
	}
	for (uint32_t i = 0; i < d->count; i++) free(d->keys[i]);
	d->count = 0;
	return err;
}

static int on_delete(void *arg, uint64_t bucket, const char *key, uint64_t version, const struct rule *rule)
{
	struct deleter *d = arg;
	int err = 0;

	(void)rule;
	if (d->count == DELETES_A_TXN || (d->count && d->bucket != bucket)) err = deletes_commit(d);
	if (err < 0) return err;
	d->bucket = bucket;
	d->versions[d->count] = version;
	d->keys[d->count] = strdup(key);
	return d->keys[d->count] && ++d->count ? 0 : -GRANARY_ENOMEM;
}

static uint32_t minute_of_day(void)
{
	time_t now = (time_t)(clock_wall_ns() / 1000000000);
	struct tm tm;

	return localtime_r(&now, &tm) ? (uint32_t)tm.tm_hour * 60 + (uint32_t)tm.tm_min : 0;
}

/* A task of this rule (or of pins) and kind that is not through. */
static bool is_at_work(struct policy *p, const char *origin, uint8_t kind)
{
	struct move_progress *all = calloc(MOVES_MAX, sizeof(*all));
	uint32_t n = all ? moves_list(p->o.moves, all, MOVES_MAX) : 0;
	bool found = !all;

	for (uint32_t i = 0; !found && i < n; i++)
		found = all[i].state <= MOVE_PAUSED && all[i].order.kind == kind &&
			strcmp(all[i].order.origin, origin) == 0;
	free(all);
	return found;
}

static int task_start(struct policy *p, const struct plan *plan, const struct rule *r, uint8_t kind)
{
	uint64_t *packs = malloc(MOVE_PACKS_MAX * sizeof(*packs)), task = 0;
	struct move_order order = { .kind = kind, .level = (uint8_t)r->level, .rate = r->rate };
	uint32_t n = 0;
	int err = packs ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i < plan->count && n < MOVE_PACKS_MAX; i++) {
		const struct plan_pack *pack = &plan->packs[i];
		bool place = pack->verdict == MOVES && pack->rule == r && pack->kind == kind;
		bool copy = kind == MOVE_COPY && pack->copy_verdict == MOVES && pack->copy_rule == r;
		if (place || copy) packs[n++] = pack->id;
	}
	if (err == 0 && n > 0 && !is_at_work(p, r->name, kind)) {
		order.store = kind == MOVE_EVICT ? 0 : r->store_id;
		snprintf(order.origin, sizeof(order.origin), "%.63s", r->name);
		err = moves_start(p->o.moves, &order, packs, n, &task);
		if (err == 0) {
			p->stats.tasks_started++;
			log_info(
				"rule '%s' moves packs; task=%016llx packs=%u", r->name, (unsigned long long)task, n);
		}
	}
	free(packs);
	return err;
}

/* What is pinned and lies in a cold store alone comes back. */
static int pinned_start(struct policy *p, const struct plan *plan)
{
	const struct move_order order = { .kind = MOVE_PROMOTE, .origin = PINS_ORIGIN };
	uint64_t *packs, task;
	uint32_t n = 0;
	int err = 0;

	if (!plan->pinned_cold_packs || is_at_work(p, PINS_ORIGIN, MOVE_PROMOTE)) return 0;
	packs = malloc(MOVE_PACKS_MAX * sizeof(*packs));
	if (!packs) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < plan->count && n < MOVE_PACKS_MAX; i++)
		if (plan->packs[i].verdict == PINNED && !plan_pack_is_hot(&plan->packs[i]))
			packs[n++] = plan->packs[i].id;
	if (n > 0) err = moves_start(p->o.moves, &order, packs, n, &task);
	if (n > 0 && err == 0) p->stats.tasks_started++;
	free(packs);
	return err == -GRANARY_EBUSY ? 0 : err;
}

static bool more_weight(const struct rule *a, const struct rule *b)
{
	return a->weight > b->weight || (a->weight == b->weight && a->line < b->line);
}

/* Rules with work, heavier ones first. */
static int tasks_start(struct policy *p, const struct plan *plan)
{
	static const uint8_t kinds[] = { MOVE_COPY, MOVE_DEMOTE, MOVE_EVICT };
	uint32_t count = rules_count(plan->rules), minute = minute_of_day();
	const struct rule *last = NULL, *next;
	int err = 0;

	do {
		next = NULL;
		for (uint32_t i = 0; i < count; i++) {
			const struct rule *r = rules_at(plan->rules, i);
			if ((!last || more_weight(last, r)) && (!next || more_weight(r, next))) next = r;
		}
		last = next;
		if (!next || !rule_window_open(next, minute) || !plan->by_rule[plan_rule_index(plan, next)].packs)
			continue;
		for (unsigned k = 0; err == 0 && k < sizeof(kinds); k++) err = task_start(p, plan, next, kinds[k]);
	} while (next && err == 0);
	return err == -GRANARY_EBUSY ? 0 : err; /* enough tasks for now */
}

/* An open pack can be neither copied, moved nor put apart: what is due there ends it; for `copy within`, at half of the
 * time. */
static bool must_end(const struct plan *plan, const struct plan_pack *pack)
{
	const struct rule *r = pack->copy_rule;

	if (pack->info.state != PACK_OPEN) return false;
	if (pack->verdict == IMPOSSIBLE || plan_due_part(plan, pack)) return true;
	return pack->copy_verdict == IMPOSSIBLE && plan->now_ns - pack->written_oldest_ns >= r->within_ns / 2;
}

static void end_packs(struct policy *p, const struct plan *plan)
{
	for (uint32_t i = 0; p->o.writers && i < plan->count; i++) {
		if (!must_end(plan, &plan->packs[i])) continue;
		writers_rotate(p->o.writers, true);
		return;
	}
}

/* Tasks of rules that may fail only so often. */
static void stop_failing(struct policy *p, const struct rules *rules)
{
	struct move_progress *all = calloc(MOVES_MAX, sizeof(*all));
	uint32_t n = all ? moves_list(p->o.moves, all, MOVES_MAX) : 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct move_progress *m = &all[i];
		for (uint32_t k = 0; k < rules_count(rules) && m->state <= MOVE_PAUSED; k++) {
			const struct rule *r = rules_at(rules, k);
			uint64_t through = m->packs_done + m->packs_failed;
			if (!r->stop_after_error_percent || strcmp(r->name, m->order.origin) != 0) continue;
			if (m->packs_failed * 100 <= through * r->stop_after_error_percent) continue;
			log_warn("a task of rule '%s' failed too often and is stopped; failed=%llu of=%llu", r->name,
				(unsigned long long)m->packs_failed, (unsigned long long)through);
			(void)moves_cancel(p->o.moves, m->task);
		}
	}
	free(all);
}

static void stats_take(struct policy *p, const struct plan *plan, const struct deleter *d, int err)
{
	pthread_mutex_lock(&p->lock);
	p->stats.passes++;
	p->stats.scans++;
	p->stats.scanned_objects = plan->objects;
	p->stats.scan_ns = plan->scan_ns;
	p->stats.deleted_objects += d->deleted;
	p->stats.deleted_bytes += d->bytes;
	p->stats.errors += err < 0;
	pthread_mutex_unlock(&p->lock);
}

/* What a pass goes by; NULL: there is nothing to do. Pins count without rules, but not where rules in force cannot be
 * read: then nothing moves. */
static const struct rules *rules_of_pass(const struct policy *p)
{
	if (p->rules && rules_count(p->rules) > 0) return p->rules;
	return pins_count(p->pins) > 0 && !p->why[0] ? p->no_rules : NULL;
}

int policy_pass(struct policy *p)
{
	struct deleter d = { .p = p };
	struct plan plan = { .on_delete = on_delete, .arg = &d };
	int err = p->o.heat ? heat_save(p->o.heat, false) : 0;

	if (err == 0 && p->o.stores && stores_count(p->o.stores) > 0) err = policy_count_once(p);

	pthread_mutex_lock(&p->pass_lock);
	if (err == 0) err = policy_pins_sweep(p);
	const struct rules *rules = rules_of_pass(p);
	if (rules) {
		if (err == 0) err = plan_make(p, rules, &plan);
		if (err == 0)
			err = deletes_commit(&d);
		else
			for (; d.count > 0;) free(d.keys[--d.count]);
		if (p->o.moves) stop_failing(p, rules);
		if (err == 0 && p->o.moves) err = pinned_start(p, &plan);
		if (err == 0 && p->o.moves) err = tasks_start(p, &plan);
		if (err == 0 && p->o.jobs) err = policy_sort(p, &plan);
		if (err == 0) end_packs(p, &plan);
		if (err < 0 && err != -GRANARY_ESHUTDOWN)
			log_warn("a pass over the rules ended early: %s; it is done again", error_text(err));
		if (d.deleted)
			log_info("rules deleted objects; count=%llu bytes=%llu", (unsigned long long)d.deleted,
				(unsigned long long)d.bytes);
		stats_take(p, &plan, &d, err);
		plan_free(&plan);
	}
	pthread_mutex_unlock(&p->pass_lock);
	return err;
}

/* ---- the thread ---- */

static void *policy_thread(void *arg)
{
	struct policy *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		uint64_t wait_ns = p->o.interval_ns > p->stats.scan_ns * SCAN_SHARE ? p->o.interval_ns
										    : p->stats.scan_ns * SCAN_SHARE;
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += (time_t)(wait_ns / 1000000000);
		until.tv_nsec += (long)(wait_ns % 1000000000);
		if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
		while (!p->stop && !p->woken && pthread_cond_timedwait(&p->wake, &p->lock, &until) == 0) {}
		p->woken = false;
		if (p->stop) break;
		pthread_mutex_unlock(&p->lock);
		(void)policy_pass(p);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

void policy_wake(struct policy *p)
{
	pthread_mutex_lock(&p->lock);
	p->woken = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void policy_get_stats(struct policy *p, struct policy_stats *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->stats;
	pthread_mutex_unlock(&p->lock);
}

static void policy_free(struct policy *p)
{
	rules_free(&p->rules);
	rules_free(&p->no_rules);
	pins_unref(&p->pins);
	free(p->text);
	pthread_mutex_destroy(&p->pin_lock);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->pass_lock);
	free(p);
}

int policy_open(const struct policy_options *options, struct policy **out)
{
	struct policy *p = calloc(1, sizeof(*p));
	pthread_condattr_t attr;
	char why[RULE_WHY_MAX];
	int err;

	if (!p) return -GRANARY_ENOMEM;
	p->o = *options;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->pass_lock, NULL);
	pthread_mutex_init(&p->pin_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &attr);
	pthread_condattr_destroy(&attr);
	err = rules_load(p);
	if (err == 0) err = policy_parse(p, NO_RULES, sizeof(NO_RULES) - 1, &p->no_rules, why, sizeof(why));
	if (err == 0) err = policy_pins_load(p);
	if (err == 0 && p->o.thread && pthread_create(&p->thread, NULL, policy_thread, p) != 0) err = -GRANARY_ENOMEM;
	if (err < 0)
		policy_free(p);
	else
		*out = p;
	return err;
}

void policy_close(struct policy **pp)
{
	struct policy *p = *pp;

	*pp = NULL;
	if (!p) return;
	atomic_store(&p->stopping, true);
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	if (p->o.thread) pthread_join(p->thread, NULL);
	policy_free(p);
}
