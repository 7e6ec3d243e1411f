/* SPDX-License-Identifier: Apache-2.0 */
/* link_walk.c -- the list of a source and the names here, both in the order of keys, side by side.
 * Invariants: (1) each key of either side is judged once; (2) what is judged SAME has the row's key and tag: its bytes
 * are those of the source as long as the tag stays; (3) a list that ends with an error tells nothing of what it did
 * not show: nothing is GONE then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/link_priv.h"
#include "meta/kv.h"
#include "tier/copy.h"
#include "tier/packs.h"
#include "tier/stores.h"

const char *const link_count_names[LINK_COUNTS] = { "new", "same", "changed", "conflict", "gone", "local", "refused" };

struct here { /* a name of this side */
	char *key;
	uint64_t size, version, pack, record;
};

struct walk {
	struct links *l;
	struct link_task *t;
	struct place *place;
	struct ns_bucket bucket;
	char dir[KEY_LEN_MAX + 2]; /* "" or "a/b/" */
	size_t dir_len;
	struct link_packer *packer; /* NULL: it compares alone */
	struct here page[NS_LIST_MAX];
	uint32_t at, count;
	bool more;
	char last[KEY_LEN_MAX + 1]; /* of the page */
};

/* ---- the report ---- */

static void count(struct walk *w, enum link_count what)
{
	pthread_mutex_lock(&w->l->lock);
	w->t->p.counts[what]++;
	pthread_mutex_unlock(&w->l->lock);
}

static void tell(struct walk *w, enum link_count what, const char *key, const char *why)
{
	char text[KEY_LEN_MAX + 64], line[sizeof(text) + 256];
	int n;

	name_escape(text, sizeof(text), slice_str(key));
	n = snprintf(line, sizeof(line), "%s\t%s\t%s\n", link_count_names[what], text, why);
	pthread_mutex_lock(&w->l->lock);
	w->t->p.counts[what]++;
	if (w->t->report_len + (size_t)n < LINK_REPORT_MAX) {
		memcpy(w->t->report + w->t->report_len, line, (size_t)n + 1);
		w->t->report_len += (size_t)n;
	}
	pthread_mutex_unlock(&w->l->lock);
}

static void named(void *arg, const char *key, uint64_t size, bool is_new, int err)
{
	struct walk *w = arg;

	if (err == -GRANARY_EPRECONDITION)
		tell(w, LINK_CONFLICT, key, "it was written here meanwhile");
	else if (err < 0)
		tell(w, LINK_REFUSED, key, error_text(err));
	else
		count(w, is_new ? LINK_NEW : LINK_CHANGED);
	if (err < 0) return;
	pthread_mutex_lock(&w->l->lock);
	w->t->p.bytes += size;
	pthread_mutex_unlock(&w->l->lock);
}

/* ---- this side ---- */

static void page_free(struct walk *w)
{
	for (uint32_t i = 0; i < w->count; i++) free(w->page[i].key);
	w->at = w->count = 0;
}

static int page_add(void *arg, struct slice key, const struct object *o)
{
	struct walk *w = arg;
	struct here *h = &w->page[w->count];

	memcpy(w->last, key.p, key.len);
	w->last[key.len] = '\0';
	if (o == NULL || o->is_dir || key.len == w->dir_len) return 0; /* a directory that was made */
	*h = (struct here){ .key = malloc(key.len + 1), .size = o->size, .version = o->version };
	if (h->key == NULL) return -GRANARY_ENOMEM;
	memcpy(h->key, w->last, key.len + 1);
	if (o->extent_count > 0 && (o->extents[0].flags & EXTENT_HOLE) == 0 && o->extents[0].logical == 0) {
		h->pack = o->extents[0].pack;
		h->record = o->extents[0].record;
	}
	w->count++;
	return 0;
}

/* The name at hand, or NULL at the end. */
static int here_now(struct walk *w, struct here **out)
{
	*out = NULL;
	while (w->at == w->count && w->more) {
		struct ns_list list = { .bucket = w->bucket.id, .prefix = slice_str(w->dir),
			.start_after = slice_str(w->last), .max = NS_LIST_MAX };
		char after[KEY_LEN_MAX + 1];
		int err;

		page_free(w);
		memcpy(after, w->last, sizeof(after)); /* which page_add() moves on */
		list.start_after = slice_str(after);
		err = ns_list(w->l->o.ns, &list, page_add, w, &w->more);
		if (err < 0) return err;
	}
	if (w->at < w->count) *out = &w->page[w->at];
	return 0;
}

/* ---- one of them ---- */

struct origin {
	uint64_t record;
	char source[SOURCE_KEY_MAX + 1], tag[SOURCE_TAG_MAX];
};

static int take_origin(void *arg, const struct linked_entry *e)
{
	struct origin *o = arg;

	if (e->record == o->record) {
		snprintf(o->source, sizeof(o->source), "%.*s", (int)e->source.len, (const char *)e->source.p);
		snprintf(o->tag, sizeof(o->tag), "%.*s", (int)e->tag.len, (const char *)e->tag.p);
	}
	return 1;
}

/* Of what object of this source h is: "" of none. */
static int origin_of(struct walk *w, const struct here *h, struct origin *out)
{
	struct pack *pack = h->pack != 0 ? packs_ref(w->l->o.packs, h->pack) : NULL;
	bool is_ours = pack != NULL && copy_is_linked(pack_cold(pack)) &&
		copy_info(pack_cold(pack))->place == w->place;
	int err = 0;

	*out = (struct origin){ .record = h->record };
	if (is_ours) err = linked_each(w->l->o.kv, h->pack, h->record, take_origin, out);
	if (pack != NULL) packs_unref(w->l->o.packs, pack);
	return err < 0 && err != -GRANARY_ENOTFOUND ? err : 0;
}

/* Here alone, or gone there. */
static int only_here(struct walk *w, const struct here *h)
{
	char whole[SOURCE_KEY_MAX + KEY_LEN_MAX + 2];
	struct origin from;
	int err = origin_of(w, h, &from);

	snprintf(whole, sizeof(whole), "%s%s", w->t->p.order.prefix, h->key + w->dir_len);
	if (err == 0 && strcmp(from.source, whole) == 0)
		tell(w, LINK_GONE, h->key, "the source has it no more");
	else if (err == 0)
		count(w, LINK_LOCAL);
	return err;
}

static int source_takes(struct walk *w, const char *key, const struct source_object *o, uint64_t if_version)
{
	if (w->packer != NULL) return link_packer_add(w->packer, key, o->key, o, if_version);
	tell(w, if_version == 0 ? LINK_NEW : LINK_CHANGED, key,
		if_version == 0 ? "the source has it, here it is not" : "the source has other bytes by now");
	return 0;
}

static int both(struct walk *w, const struct here *h, const struct source_object *o)
{
	struct origin from;
	int err = origin_of(w, h, &from);
	bool is_it = strcmp(from.source, o->key) == 0;

	if (err < 0) return err;
	if (h->size == o->len && (o->len == 0 || (is_it && strcmp(from.tag, o->tag) == 0))) {
		count(w, LINK_SAME);
		return 0;
	}
	if (is_it || w->t->p.order.takes_source) return source_takes(w, h->key, o, h->version);
	tell(w, LINK_CONFLICT, h->key, "what is here is not of the source; it is kept");
	return 0;
}

static int key_of(struct walk *w, const struct source_object *o, char out[KEY_LEN_MAX + 1])
{
	const char *rest = o->key + strlen(w->t->p.order.prefix);
	size_t len = w->dir_len + strlen(rest);

	if (*rest == '\0' && w->dir_len > 0 && o->len == 0) return 1; /* the entry of the prefix itself */
	if (len > KEY_LEN_MAX) return -GRANARY_ENAME;
	memcpy(out, w->dir, w->dir_len);
	memcpy(out + w->dir_len, rest, strlen(rest) + 1);
	return key_check(slice_str(out));
}

static int each_object(void *arg, const struct source_object *o)
{
	struct walk *w = arg;
	char key[KEY_LEN_MAX + 1];
	struct here *h;
	int err = key_of(w, o, key), order = 1;

	if (link_is_over(w->l, w->t)) return -GRANARY_ESHUTDOWN;
	if (err > 0) return 0;
	pthread_mutex_lock(&w->l->lock);
	w->t->p.listed++;
	pthread_mutex_unlock(&w->l->lock);
	if (err < 0 || o->tag[0] == '\0') {
		tell(w, LINK_REFUSED, o->key, err < 0 ? "it can be no name here" : "the list does not say its ETag");
		return 0;
	}
	for (err = here_now(w, &h); err == 0 && h != NULL; err = here_now(w, &h)) {
		order = strcmp(h->key, key);
		if (order >= 0) break;
		err = only_here(w, h);
		if (err < 0) break;
		w->at++;
	}
	if (err < 0) return err;
	if (h == NULL || order > 0) return source_takes(w, key, o, 0);
	err = both(w, h, o);
	w->at++;
	return err;
}

static int rest_of_here(struct walk *w)
{
	struct here *h;
	int err;

	for (err = here_now(w, &h); err == 0 && h != NULL; err = here_now(w, &h)) {
		err = link_is_over(w->l, w->t) ? -GRANARY_ESHUTDOWN : only_here(w, h);
		if (err < 0) break;
		w->at++;
	}
	return err;
}

/* ---- all of it ---- */

/* The directory is made, and its packs are its own. */
static int target_make(struct walk *w, uint64_t *group)
{
	struct ns_ref ref = { .by = NS_BY_KEY, .bucket = w->bucket.id, .name = slice_str(w->dir) };
	int err = -GRANARY_EBUSY;

	*group = w->bucket.id;
	if (w->dir_len == 0) return 0;
	for (int tries = 0; err == -GRANARY_EBUSY && tries < 8; tries++) {
		struct ns_plan *plan = ns_plan_new(w->l->o.ns);

		err = plan != NULL ? ns_plan_mkdir(plan, &ref, 0755, true, true, group) : -GRANARY_ENOMEM;
		if (err == 0) err = ns_plan_finish(plan);
		if (err == 0) {
			err = kv_submit_wait(w->l->o.kv, ns_plan_txn(plan));
			ns_plan_committed(plan, err);
		}
		if (plan != NULL) ns_plan_free(&plan);
	}
	return err == -GRANARY_EEXIST && *group != 0 ? 0 : err;
}

static int target_find(struct walk *w)
{
	const char *target = w->t->p.order.target, *slash = strchr(target, '/');

	if (slash == NULL || strlen(slash + 1) > KEY_LEN_MAX) return -GRANARY_EINVAL;
	snprintf(w->dir, sizeof(w->dir), "%s", slash + 1);
	w->dir_len = strlen(w->dir);
	memcpy(w->last, w->dir, w->dir_len + 1);
	w->more = true;
	return ns_bucket_find(w->l->o.ns, slice_of(target, (size_t)(slash - target)), &w->bucket);
}

static int walk_run(struct walk *w)
{
	struct link_packing packing = { .l = w->l, .place = w->place, .bucket_name = w->bucket.name, .named = named,
		.arg = w };
	int err = target_find(w);

	packing.bucket = w->bucket.id;
	if (err == 0 && w->t->p.order.kind == LINK_LINK) {
		err = target_make(w, &packing.group);
		if (err == 0) w->packer = link_packer_new(&packing);
		if (err == 0 && w->packer == NULL) err = -GRANARY_ENOMEM;
	}
	if (err == 0)
		err = place_source_list(w->place, w->t->p.order.prefix, w->l->o.timeout_ns, each_object, w);
	if (err == 0) err = rest_of_here(w);
	if (err == 0 && w->packer != NULL) err = link_packer_finish(w->packer);
	if (w->packer != NULL) w->t->p.packs = link_packer_packs(w->packer);
	return err;
}

int link_walk(struct links *l, struct link_task *t)
{
	struct walk *w = calloc(1, sizeof(*w));
	int err = -GRANARY_ENOMEM;

	if (w == NULL) return err;
	w->l = l;
	w->t = t;
	w->place = stores_find(l->o.stores, t->p.order.store);
	pthread_mutex_lock(&l->lock);
	memset(t->p.counts, 0, sizeof(t->p.counts));
	t->p.listed = t->p.bytes = t->report_len = 0;
	t->report[0] = '\0';
	pthread_mutex_unlock(&l->lock);
	err = w->place != NULL ? walk_run(w) : -GRANARY_ENOTFOUND;
	link_packer_free(&w->packer);
	page_free(w);
	free(w);
	return err;
}
