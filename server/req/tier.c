/* SPDX-License-Identifier: Apache-2.0 */
/* tier.c -- orders of an admin about hot and cold: which packs lie below a prefix, tasks over them, how stores fare.
 * Invariants: (1) the pack is what moves: an order takes every pack that holds a byte of what it names, with
 * what else is in it; (2) an order is committed before it is answered; (3) a line holds no tab and no newline
 * of a text. */
#include "req/tier.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/id.h"
#include "jobs/ahead.h"
#include "jobs/move.h"
#include "jobs/policy.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "pack/linked.h"
#include "pack/writer.h"
#include "req/store.h"
#include "tier/packs.h"
#include "tier/stores.h"

struct text {
	char *buf;
	size_t cap, len;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, args);
	va_end(args);
	if (n > 0 && (size_t)n < t->cap - t->len) t->len += (size_t)n;
	t->buf[t->len] = '\0';
}

/* ---- packs below a prefix ---- */

struct below {
	struct store *store;
	struct kv_snapshot *view;
	uint64_t *packs, last;
	uint32_t count, cap;
};

static int below_add(struct below *b, uint64_t pack)
{
	if (pack == b->last || pack == 0) return 0;
	b->last = pack;
	if (b->count == b->cap) {
		uint32_t cap = b->cap > 0 ? 2 * b->cap : 1024;
		uint64_t *wide = realloc(b->packs, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		b->packs = wide;
		b->cap = cap;
	}
	b->packs[b->count++] = pack;
	return 0;
}

static int below_extent(void *arg, const struct extent *e)
{
	return (e->flags & EXTENT_HOLE) != 0 ? 0 : below_add(arg, e->pack);
}

static void below_sort(struct below *b)
{
	uint32_t n = 0;

	if (b->count > 0) qsort(b->packs, b->count, sizeof(b->packs[0]), u64_compare);
	for (uint32_t i = 0; i < b->count; i++)
		if (n == 0 || b->packs[n - 1] != b->packs[i]) b->packs[n++] = b->packs[i];
	b->count = n;
}

static int below_file(void *arg, struct slice key, const struct object *o)
{
	struct below *b = arg;
	int err = 0;

	(void)key;
	if (!object_has_bytes(o)) return 0;
	for (uint32_t i = 0; err == 0 && i < o->extent_count; i++) err = below_extent(b, &o->extents[i]);
	if (err == 0) err = ns_extents_in(b->store->ns, b->view, o, below_extent, b);
	/* Files of one pack need not follow each other: what is gathered stays as small as the packs. */
	if (err == 0 && b->count == b->cap && b->count > 4096) below_sort(b);
	return err;
}

int tier_packs_below(struct store *store, const char *path, uint64_t **packs, uint32_t *count, char *why,
	size_t why_cap)
{
	struct below b = { .store = store };
	const char *slash = strchr(path, '/');
	size_t len = slash != NULL ? (size_t)(slash - path) : strlen(path);
	struct ns_bucket bucket;
	int err = ns_bucket_find(store->ns, slice_of(path, len), &bucket);

	*packs = NULL;
	*count = 0;
	if (err < 0) {
		snprintf(why, why_cap, "there is no bucket '%.*s'", (int)(len < 80 ? len : 80), path);
		return -GRANARY_ENOBUCKET;
	}
	b.view = kv_snapshot_new(store->kv);
	err = ns_scan(store->ns, b.view, bucket.id, slice_str(slash != NULL ? slash + 1 : ""), below_file, &b);
	kv_snapshot_free(store->kv, &b.view);
	below_sort(&b);
	if (err == 0 && b.count == 0) {
		snprintf(why, why_cap, "no bytes lie below '%.200s'", path);
		err = -GRANARY_ENOTFOUND;
	}
	if (err == 0 && b.count > MOVE_PACKS_MAX) {
		snprintf(why, why_cap, "%u packs lie below '%.200s', one order takes %d; name longer prefixes",
			b.count, path,
			MOVE_PACKS_MAX);
		err = -GRANARY_ETOOBIG;
	}
	if (err < 0) {
		free(b.packs);
		return err;
	}
	*packs = b.packs;
	*count = b.count;
	return 0;
}

/* ---- orders ---- */

int tier_order(struct store *store, const struct move_order *order, const char *path, char *buf, size_t cap)
{
	uint64_t *packs, task;
	uint32_t count;
	struct text t = { buf, cap, 0 };
	int err = tier_packs_below(store, path, &packs, &count, buf, cap);

	if (err < 0) return err;
	writers_rotate(store->writers, true); /* what is open is sealed, so that it can go */
	err = moves_start(store->moves, order, packs, count, &task);
	free(packs);
	if (err == -GRANARY_EBUSY) snprintf(buf, cap, "%d tasks are not through; cancel some", MOVES_MAX);
	if (err == 0) put(&t, "task %016" PRIx64 "\npacks %u\n", task, count);
	return err;
}

static int store_named(struct store *store, const char *name, struct place **out, char *buf, size_t cap)
{
	*out = stores_by_name(store->stores, name);
	if (*out != NULL) return 0;
	snprintf(buf, cap, "there is no cold store '%.64s'; `stores:` in the settings names them", name);
	return -GRANARY_ENOTFOUND;
}

int tier_push(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct move_order order = { .origin = "push" };
	char name[STORE_NAME_MAX] = "", kind[16] = "";
	struct place *place;
	unsigned level = 0;
	int at = 0, err;

	if (sscanf(argument, "%63[^\t]\t%u\t%15[^\t]\t%n", name, &level, kind, &at) != 3 || at == 0 || level > 19) {
		snprintf(buf, cap, "STORE, a level of 0 to 19, copy or demote, and BUCKET[/PREFIX] are needed");
		return -GRANARY_EINVAL;
	}
	err = store_named(store, name, &place, buf, cap);
	if (err < 0) return err;
	if (place_is_source(place)) {
		snprintf(buf, cap, "store '%s' is a source: it is linked and never written to", name);
		return -GRANARY_EREADONLY;
	}
	order.kind = strcmp(kind, "copy") == 0 ? MOVE_COPY : strcmp(kind, "demote") == 0 ? MOVE_DEMOTE : 0;
	order.store = place_id(place);
	order.level = (uint8_t)level;
	char pin[1200];
	if (order.kind == MOVE_DEMOTE && store->policy != NULL &&
		policy_pinned_at(store->policy, argument + at, pin, sizeof(pin))) {
		snprintf(buf, cap, "'%.800s' is pinned: granary tier unpin it, or keep the hot copy with --copy", pin);
		return -GRANARY_EPRECONDITION;
	}
	return tier_order(store, &order, argument + at, buf, cap);
}

int tier_pull(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct move_order order = { .kind = MOVE_PROMOTE, .origin = "pull" };

	return tier_order(store, &order, argument, buf, cap);
}

int tier_drop(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct move_order order = { .kind = MOVE_DROP, .origin = "pull" };

	return tier_order(store, &order, argument, buf, cap);
}

int tier_cancel(struct store *store, const char *task, char *buf, size_t cap)
{
	uint64_t id = strtoull(task, NULL, 16);
	int err = moves_cancel(store->moves, id);

	if (err < 0)
		snprintf(buf, cap, "there is no task '%.32s'; see granary tier status", task);
	else
		snprintf(buf, cap, "task %016" PRIx64 "\n", id);
	return err;
}

int tier_pause(struct store *store, int pause, char *buf, size_t cap)
{
	int err = moves_pause(store->moves, pause != 0);

	if (err == 0) snprintf(buf, cap, "paused %d\n", pause != 0);
	return err;
}

/* ---- how it goes ---- */

int tier_tasks(struct store *store, char *buf, size_t cap)
{
	static const char *const kinds[] = { "", "copy", "evict", "demote", "promote", "drop", "repair-hot",
		"repair-cold", "fetch" };
	static const char *const states[] = { "", "waiting", "running", "paused", "done", "failed", "canceled" };
	struct move_progress *p = calloc(MOVES_MAX, sizeof(*p));
	struct text t = { buf, cap, 0 };
	uint32_t n = p != NULL ? moves_list(store->moves, p, MOVES_MAX) : 0;

	buf[0] = '\0';
	for (uint32_t i = 0; i < n; i++) {
		uint64_t end = p[i].ended_ns != 0 ? p[i].ended_ns : clock_mono_ns(), ns = end - p[i].began_ns;
		uint64_t through = p[i].packs_done + p[i].packs_skipped + p[i].packs_failed, eta = 0;
		char why[512];
		const struct place *place = stores_find(store->stores, p[i].order.store);

		if (through > 0 && p[i].ended_ns == 0)
			eta = (uint64_t)((double)ns / 1e9 / (double)through * (double)(p[i].packs - through));
		put(&t,
			"task=%016" PRIx64 "\tkind=%s\tstate=%s\tstore=%s\torigin=%s\tpacks=%" PRIu64 "\tdone=%" PRIu64
			"\tskipped=%" PRIu64 "\tfailed=%" PRIu64 "\tbytes=%" PRIu64 "\tstored=%" PRIu64
			"\tseconds=%" PRIu64
			"\trate=%" PRIu64 "\teta_s=%" PRIu64 "\twhy=%s",
			p[i].task, kinds[p[i].order.kind], states[p[i].state], place != NULL ? place_name(place) : "",
			p[i].order.origin, p[i].packs, p[i].packs_done, p[i].packs_skipped, p[i].packs_failed,
				p[i].bytes_in,
			p[i].bytes_out, ns / 1000000000u,
				(uint64_t)((double)p[i].bytes_in * 1e9 / (double)(ns + 1)), eta,
			p[i].err < 0 ? error_text(p[i].err) : "");
		if (p[i].err < 0) put(&t, " (pack %016" PRIx64 ")", p[i].err_pack);
		if (p[i].err == -GRANARY_ESOURCE && linked_why(p[i].err_pack, 0, UINT64_MAX, why, sizeof(why)))
			put(&t, ": %s", why);
		put(&t, "\n");
	}
	free(p);
	return p != NULL ? 0 : -GRANARY_ENOMEM;
}

static void count_packs(struct store *store, uint64_t place, uint64_t out[4])
{
	struct pack_info infos[256];
	uint64_t after = 0;
	uint32_t n;

	memset(out, 0, 4 * sizeof(out[0]));
	do {
		n = packs_list(store->packs, after, infos, 256);
		for (uint32_t i = 0; i < n; i++) {
			after = infos[i].id;
			if (infos[i].store != place) continue;
			out[0]++;
			out[1] += infos[i].drive == 0;
			out[2] += infos[i].file_size;
			out[3] += infos[i].cold_length;
		}
	} while (n == 256);
}

int tier_stores(struct store *store, char *buf, size_t cap)
{
	static const char *const healths[] = { "unknown", "online", "away" };
	struct text t = { buf, cap, 0 };

	buf[0] = '\0';
	for (uint32_t i = 0; i < stores_count(store->stores); i++) {
		struct place *p = stores_at(store->stores, i);
		struct place_info info;
		uint64_t packs[4];

		place_get_info(p, &info);
		count_packs(store, place_id(p), packs);
		put(&t,
			"store=%s\thealth=%s\twhere=%s\tpacks=%" PRIu64 "\tcold_only=%" PRIu64 "\tbytes=%" PRIu64
			"\tstored=%" PRIu64 "\tgets=%" PRIu64 "\tget_bytes=%" PRIu64 "\tputs=%" PRIu64
			"\tput_bytes=%" PRIu64
			"\terrors=%" PRIu64 "\thanging=%" PRIu64 "\twhy=%s\n",
			place_name(p), healths[info.health], place_where(p), packs[0], packs[1], packs[2], packs[3],
				info.gets,
			info.get_bytes, info.puts, info.put_bytes, info.errors, info.hanging,
			info.health != PLACE_ONLINE ? info.why : "");
	}
	return 0;
}

static void status_policy(struct store *store, struct text *t)
{
	struct policy_stats s;
	uint64_t now_ns = store_clock_now(store->clock);

	policy_get_stats(store->policy, &s);
	put(t,
		"once_packs %" PRIu64 "\nonce_bytes %" PRIu64 "\nonce_oldest_age_s %" PRIu64 "\nrules %" PRIu64
		"\npins %" PRIu64 "\nrules_passes %" PRIu64 "\nrules_scanned_objects %" PRIu64
		"\nrules_scan_ms %" PRIu64 "\nrules_tasks_started %" PRIu64 "\nrules_deleted_objects %" PRIu64
		"\nrules_deleted_bytes %" PRIu64 "\nrules_errors %" PRIu64 "\n",
		s.once_packs, s.once_bytes,
		s.once_oldest_ns && now_ns > s.once_oldest_ns ? (now_ns - s.once_oldest_ns) / 1000000000u : 0, s.rules,
		s.pins, s.passes, s.scanned_objects, s.scan_ns / 1000000, s.tasks_started, s.deleted_objects,
		s.deleted_bytes, s.errors);
}

size_t tier_status(struct store *store, char *buf, size_t cap)
{
	struct text t = { buf, cap, 0 };
	struct packs_stats packs;
	struct moves_stats moves = { .tasks = 0 };

	buf[0] = '\0';
	if (stores_count(store->stores) == 0) return 0;
	packs_get_stats(store->packs, &packs);
	if (store->moves != NULL) moves_get_stats(store->moves, &moves);
	put(&t,
		"packs_cold_copies %" PRIu64 "\npacks_cold_only %" PRIu64 "\nmove_tasks %" PRIu64 "\nmoves_paused %d\n"
		"moved_to_cold %" PRIu64 "\nmoved_to_hot %" PRIu64 "\nmoves_evicted %" PRIu64 "\nmoves_failed %" PRIu64
		"\nmoves_bytes_in %" PRIu64 "\nmoves_bytes_out %" PRIu64 "\ncold_swept %" PRIu64
		"\ncold_removed %" PRIu64 "\n",
		packs.cold_copies, packs.cold_only, moves.tasks, moves.paused,
			moves.packs[MOVE_COPY] + moves.packs[MOVE_DEMOTE],
		moves.packs[MOVE_PROMOTE] + moves.packs[MOVE_FETCH], moves.packs[MOVE_EVICT], moves.failed,
		moves.bytes_in, moves.bytes_out,
			moves.swept,
		moves.removed);
	if (store->ahead != NULL) {
		struct ahead_stats ahead;

		ahead_get_stats(store->ahead, &ahead);
		put(&t,
			"ahead_orders %" PRIu64 "\nahead_packs %" PRIu64 "\nahead_fetched %" PRIu64
			"\nahead_let_go %" PRIu64 "\n",
			ahead.orders, ahead.packs, ahead.fetched, ahead.let_go);
	}
	for (uint32_t i = 0; i < stores_count(store->stores); i++) {
		struct place *p = stores_at(store->stores, i);
		struct place_info info;

		place_get_info(p, &info);
		if (info.health == PLACE_AWAY)
			put(&t, "store_%s_away '%s': %s: %s\n", place_name(p), place_where(p), error_text(info.err),
				info.why);
		put(&t, "store_%s_gets %" PRIu64 "\nstore_%s_get_bytes %" PRIu64 "\nstore_%s_errors %" PRIu64 "\n",
			place_name(p), info.gets, place_name(p), info.get_bytes, place_name(p), info.errors);
		if (info.promote == PROMOTE_SAMPLE)
			put(&t, "store_%s_kept_hits %" PRIu64 "\nstore_%s_kept_pieces %" PRIu64 "\n", place_name(p),
				info.kept_hits, place_name(p), info.kept_pieces);
	}
	if (store->policy != NULL) status_policy(store, &t);
	return t.len;
}
