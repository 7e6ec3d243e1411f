/* SPDX-License-Identifier: Apache-2.0 */
/* flow.c -- see flow.h. Invariant: a source is a store that the settings name so (`use: source`): no order reaches a
 * place that the server's administrator did not give it. */
#include "req/flow.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "jobs/link.h"
#include "jobs/move.h"
#include "meta/ns.h"
#include "req/store.h"
#include "req/tier.h"
#include "tier/stores.h"

__attribute__((format(printf, 4, 5))) static int refuse(char *buf, size_t cap, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(buf, cap, fmt, args);
	va_end(args);
	return err;
}

/* What of `text` lies below the place that `base` names: NULL, it does not. */
static const char *below(const char *text, const char *base)
{
	size_t len = strlen(base);

	while (len > 0 && base[len - 1] == '/') len--;
	if (strncmp(text, base, len) != 0 || (text[len] != '\0' && text[len] != '/')) return NULL;
	return text[len] == '/' ? text + len + 1 : text + len;
}

static const char *place_has(const struct place *place, const char *source)
{
	const struct store_settings *s = place_settings(place);
	char type[16], bucket[128], at[1024], whole[1200];

	(void)store_setting(s, "type", type, sizeof(type));
	if (strncmp(source, "s3://", 5) == 0) {
		if (strcmp(type, "s3") != 0 || !store_setting(s, "bucket", bucket, sizeof(bucket))) return NULL;
		(void)store_setting(s, "prefix", at, sizeof(at));
		snprintf(whole, sizeof(whole), "s3://%s/%s", bucket, at);
		return below(source, whole);
	}
	if (source[0] != '/') return below(source, place_name(place));
	return strcmp(type, "directory") == 0 && store_setting(s, "path", at, sizeof(at)) ? below(source, at) : NULL;
}

static int source_find(struct store *store, const char *source, struct link_order *o, char *buf, size_t cap)
{
	for (uint32_t i = 0; i < stores_count(store->stores); i++) {
		const struct place *place = stores_at(store->stores, i);
		const char *rest = place_has(place, source);
		size_t len = rest != NULL ? strlen(rest) : 0;

		if (rest == NULL) continue;
		if (!place_is_source(place))
			return refuse(buf, cap, -GRANARY_EINVAL,
				"store '%s' holds packs; what is linked is a store with `use: source` in the settings",
				place_name(place));
		if (len + 1 >= sizeof(o->prefix)) return refuse(buf, cap, -GRANARY_ENAME, "the prefix is too long");
		snprintf(o->prefix, sizeof(o->prefix), "%s%s", rest, len > 0 && rest[len - 1] != '/' ? "/" : "");
		o->store = place_id(place);
		return 0;
	}
	return refuse(buf, cap, -GRANARY_ENOTFOUND,
		"no store of the settings is '%.200s'; add one with `use: source` to `stores:` (docs/FLOW.md)", source);
}

static int target_take(const char *text, struct link_order *o, char *buf, size_t cap)
{
	size_t len = strlen(text);

	if (len == 0 || len + 2 > sizeof(o->target) || text[0] == '/')
		return refuse(buf, cap, -GRANARY_EINVAL, "'%.200s' is no BUCKET[/DIR]", text);
	snprintf(o->target, sizeof(o->target), "%s%s", text, text[len - 1] != '/' ? "/" : "");
	return 0;
}

static int begin(struct store *store, const struct link_order *o, char *buf, size_t cap)
{
	const char *slash = strchr(o->target, '/');
	struct ns_bucket bucket;
	uint64_t task;
	int err = ns_bucket_find(store->ns, slice_of(o->target, (size_t)(slash - o->target)), &bucket);

	if (err < 0)
		return refuse(buf, cap, -GRANARY_ENOBUCKET,
			"there is no bucket '%.*s'; granary bucket create makes one",
			(int)(slash - o->target), o->target);
	err = links_start(store->links, o, &task);
	if (err == -GRANARY_EBUSY) return refuse(buf, cap, err, "%d tasks are not through; cancel some", LINKS_MAX);
	if (err == 0) snprintf(buf, cap, "task %016" PRIx64 "\n", task);
	return err;
}

/* keep or source, up to a tab; what follows. NULL: neither. */
static const char *policy_take(const char *text, struct link_order *o)
{
	o->takes_source = strncmp(text, "source\t", 7) == 0;
	return o->takes_source ? text + 7 : strncmp(text, "keep\t", 5) == 0 ? text + 5 : NULL;
}

int flow_link(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct link_order o = { .kind = LINK_LINK };
	char source[SOURCE_KEY_MAX + 256];
	const char *tab = strchr(argument, '\t'), *target = tab != NULL ? policy_take(tab + 1, &o) : NULL;
	int err;

	if (target == NULL || (size_t)(tab - argument) >= sizeof(source))
		return refuse(buf, cap, -GRANARY_EINVAL, "SOURCE, keep or source, and BUCKET[/DIR] are needed");
	snprintf(source, sizeof(source), "%.*s", (int)(tab - argument), argument);
	err = source_find(store, source, &o, buf, cap);
	if (err == 0) err = target_take(target, &o, buf, cap);
	return err < 0 ? err : begin(store, &o, buf, cap);
}

static int linked_to(struct store *store, const char *target, struct link_order *o, char *buf, size_t cap)
{
	struct link_order given = { .kind = 0 };
	int err = target_take(target, &given, buf, cap);

	if (err < 0) return err;
	err = links_source(store->links, given.target, o);
	return err != -GRANARY_ENOTFOUND
		? err
		: refuse(buf, cap, err, "'%.200s' is linked to nothing; granary link SOURCE URL links it",
			given.target);
}

int flow_refresh(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct link_order o, policy = { .kind = LINK_LINK };
	const char *target = policy_take(argument, &policy);
	int err;

	if (target == NULL) return refuse(buf, cap, -GRANARY_EINVAL, "keep or source, and BUCKET[/DIR] are needed");
	err = linked_to(store, target, &o, buf, cap);
	o.takes_source = policy.takes_source;
	return err < 0 ? err : begin(store, &o, buf, cap);
}

int flow_verify(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct link_order o;
	int err = linked_to(store, argument, &o, buf, cap);

	o.kind = LINK_VERIFY;
	return err < 0 ? err : begin(store, &o, buf, cap);
}

int flow_evict(struct store *store, const char *argument, char *buf, size_t cap)
{
	struct move_order order = { .kind = MOVE_EVICT, .origin = "evict" };

	return tier_order(store, &order, argument, buf, cap);
}

int flow_tasks(struct store *store, char *buf, size_t cap)
{
	static const char *const kinds[] = { "", "link", "verify" };
	static const char *const states[] = { "", "waiting", "running", "paused", "done", "failed", "canceled" };
	struct link_progress *p = calloc(LINKS_MAX, sizeof(*p));
	uint32_t n = p != NULL ? links_list(store->links, p, LINKS_MAX) : 0;
	size_t at = 0;

	buf[0] = '\0';
	for (uint32_t i = 0; i < n && at < cap; i++) {
		uint64_t end = p[i].ended_ns != 0 ? p[i].ended_ns : clock_mono_ns();
		const struct place *place = stores_find(store->stores, p[i].order.store);

		at += (size_t)snprintf(buf + at, cap - at,
			"task=%016" PRIx64 "\tkind=%s\tstate=%s\tstore=%s\tprefix=%s\ttarget=%s\tlisted=%" PRIu64,
			p[i].task, kinds[p[i].order.kind], states[p[i].state], place != NULL ? place_name(place) : "",
			p[i].order.prefix, p[i].order.target, p[i].listed);
		for (int c = 0; c < LINK_COUNTS && at < cap; c++)
			at += (size_t)snprintf(buf + at, cap - at, "\t%s=%" PRIu64, link_count_names[c],
				p[i].counts[c]);
		if (at < cap)
			at += (size_t)snprintf(buf + at, cap - at,
				"\tbytes=%" PRIu64 "\tpacks=%" PRIu64 "\tseconds=%" PRIu64 "\twhy=%s\n", p[i].bytes,
				p[i].packs, (end - p[i].began_ns) / 1000000000u,
					p[i].err < 0 ? error_text(p[i].err) : "");
	}
	free(p);
	return p != NULL ? 0 : -GRANARY_ENOMEM;
}

static int task_unknown(char *buf, size_t cap, int err, const char *task)
{
	return err != -GRANARY_ENOTFOUND ? err
					 : refuse(buf, cap, err, "there is no task '%.32s'; see granary flow status",
					 	task);
}

int flow_report(struct store *store, const char *task, char *buf, size_t cap)
{
	buf[0] = '\0';
	return task_unknown(buf, cap, links_report(store->links, strtoull(task, NULL, 16), buf, cap), task);
}

int flow_cancel(struct store *store, const char *task, char *buf, size_t cap)
{
	return task_unknown(buf, cap, links_cancel(store->links, strtoull(task, NULL, 16)), task);
}
