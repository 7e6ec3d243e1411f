/* SPDX-License-Identifier: Apache-2.0 */
/* policy_scan.c -- every file of every bucket, once (twice where a rule has keep_last), against the rules. A scope of
 * rules is opened per directory; a pack is found by a table, the last one first: neighbours lie in one pack. */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/hash.h"
#include "granary/error.h"
#include "jobs/policy_priv.h"
#include "meta/kv.h"
#include "meta/ns.h"

enum { TAGS_TEXT_MAX = 8192, KEY_BUF = 1025 };

struct scan {
	struct plan *plan;
	struct kv_snapshot *view;
	struct rule_scope scope;
	struct ns_bucket bucket;
	char dir[KEY_BUF], key[KEY_BUF], tags[TAGS_TEXT_MAX];
	size_t dir_len;
	bool has_scope, keeps, first; /* first: of two scans, for directories only */
	uint32_t last_pack;
	/* of the object at hand */
	const struct rule *place, *copy, *relief;
	bool kept, pinned;
	uint64_t written_ns, object;
};

int plan_tags_text(const uint8_t *pairs, size_t len, char *out, size_t cap)
{
	struct cur c = cur_of(pairs, len);
	size_t n = 0;

	while (cur_left(&c) > 0 && cur_ok(&c)) {
		struct slice name = cur_bytes16(&c), value = cur_bytes16(&c);
		if (!cur_ok(&c) || n + name.len + value.len + 3 > cap) return -GRANARY_ETOOBIG;
		memcpy(out + n, name.p, name.len);
		out[n + name.len] = '=';
		memcpy(out + n + name.len + 1, value.p, value.len);
		n += name.len + value.len + 2;
		out[n - 1] = '\0';
	}
	out[n] = '\0';
	return 0;
}

/* ---- packs ---- */

static uint32_t slot_of(const struct plan *p, uint64_t id)
{
	uint32_t i = (uint32_t)hash_u64(id) & (p->slot_count - 1);

	while (p->slots[i] && p->packs[p->slots[i] - 1].id != id) i = (i + 1) & (p->slot_count - 1);
	return i;
}

struct plan_pack *plan_pack_find(const struct plan *p, uint64_t id)
{
	uint32_t at = p->slot_count ? p->slots[slot_of(p, id)] : 0;

	return at ? &p->packs[at - 1] : NULL;
}

static int packs_grow(struct plan *p)
{
	if (p->count == p->cap) {
		uint32_t cap = p->cap ? 2 * p->cap : 256;
		struct plan_pack *wide = realloc(p->packs, cap * sizeof(*wide));
		if (!wide) return -GRANARY_ENOMEM;
		p->packs = wide;
		p->cap = cap;
	}
	if (2 * (p->count + 1) <= p->slot_count) return 0;
	uint32_t count = p->slot_count ? 2 * p->slot_count : 1024;
	uint32_t *slots = calloc(count, sizeof(*slots));
	if (!slots) return -GRANARY_ENOMEM;
	free(p->slots);
	p->slots = slots;
	p->slot_count = count;
	for (uint32_t i = 0; i < p->count; i++) p->slots[slot_of(p, p->packs[i].id)] = i + 1;
	return 0;
}

static int pack_of(struct scan *s, uint64_t id, struct plan_pack **out)
{
	struct plan *p = s->plan;

	if (s->last_pack < p->count && p->packs[s->last_pack].id == id) {
		*out = &p->packs[s->last_pack];
		return 0;
	}
	int err = packs_grow(p);
	if (err < 0) return err;
	uint32_t slot = slot_of(p, id);
	if (!p->slots[slot]) {
		p->packs[p->count] = (struct plan_pack){ .id = id, .written_oldest_ns = UINT64_MAX };
		p->slots[slot] = ++p->count;
	}
	s->last_pack = p->slots[slot] - 1;
	*out = &p->packs[s->last_pack];
	return 0;
}

static void share_add(struct shares *s, const struct rule *rule, uint64_t bytes)
{
	for (uint8_t i = 0; i < s->count; i++)
		if (s->at[i].rule == rule) {
			s->at[i].bytes += bytes;
			return;
		}
	if (s->count == SHARES_MAX)
		s->more = true;
	else
		s->at[s->count++] = (struct share){ rule, bytes };
}

/* ---- objects ---- */

static int each_extent(void *arg, const struct extent *e)
{
	struct scan *s = arg;
	struct plan_pack *p;

	if (!e->pack) return 0; /* a hole */
	if (s->plan->on_extent)
		return s->pinned || s->kept ? 0 : s->plan->on_extent(s->plan->arg, e->pack, s->object, s->place);
	int err = pack_of(s, e->pack, &p);
	if (err < 0) return err;
	p->objects++;
	p->bytes += e->length;
	if (s->pinned) p->pinned_bytes += e->length;
	if (s->kept) p->kept_bytes += e->length;
	if (s->written_ns < p->written_oldest_ns) p->written_oldest_ns = s->written_ns;
	if (s->written_ns > p->written_newest_ns) p->written_newest_ns = s->written_ns;
	share_add(&p->place, s->place, e->length);
	share_add(&p->copies, s->copy, e->length);
	share_add(&p->relief, s->relief, e->length);
	return 0;
}

static int scope_enter(struct scan *s, struct slice key)
{
	size_t len = key.len;

	while (len > 0 && key.p[len - 1] != '/') len--;
	if (s->has_scope && len == s->dir_len && memcmp(s->dir, key.p, len) == 0) return 0;
	memcpy(s->dir, key.p, len);
	s->dir[len] = '\0';
	s->dir_len = len;
	s->has_scope = true;
	return rule_scope_open(&s->scope, s->plan->rules, s->bucket.name, s->dir);
}

static bool is_kept(const struct scan *s, const struct rule *r)
{
	return r && r->keep_last && kept_is(s->plan->kept, r, s->bucket.id, s->key, rule_kept_dir(r, s->key));
}

static int note_dirs(struct scan *s, const struct object *o)
{
	for (uint32_t i = 0; i < s->scope.count; i++) {
		const struct rule *r = rules_at(s->plan->rules, s->scope.candidates[i]);
		size_t len = r->keep_last ? rule_kept_dir(r, s->key) : 0;
		int err = len ? kept_note(s->plan->kept, r, s->bucket.id, s->key, len, o->written_ns) : 0;
		if (err < 0) return err;
	}
	return 0;
}

/* A snapshot needs the pack of its first byte: the key can go, the space not yet. */
static bool is_held(const struct plan *p, const struct object *o)
{
	struct pack *pack = o->extent_count ? packs_ref(p->policy->o.packs, o->extents[0].pack) : NULL;
	bool held = pack && pack_pins(pack) > 0;

	if (pack) packs_unref(p->policy->o.packs, pack);
	return held;
}

static int object_delete(struct scan *s, const struct rule *r, const struct object *o)
{
	struct plan *p = s->plan;
	struct plan_rule *sum = r ? &p->by_rule[plan_rule_index(p, r)] : NULL;

	if (!r || s->pinned || is_kept(s, r)) return 0;
	uint64_t due = rule_due_ns(r, o->written_ns, 0);
	if (due > p->now_ns) {
		if (!sum->next_due_ns || due < sum->next_due_ns) sum->next_due_ns = due;
		return 0;
	}
	sum->deletes++;
	sum->delete_bytes += o->size;
	if (is_held(p, o)) sum->held_bytes += o->size;
	return p->on_delete ? p->on_delete(p->arg, s->bucket.id, s->key, o->version, r) : 0;
}

static int each_object(void *arg, struct slice key, const struct object *o)
{
	struct scan *s = arg;
	struct rule_object subject = { .bucket = s->bucket.name, .key = s->key, .size = o->size };
	int err;

	if (atomic_load(&s->plan->policy->stopping)) return -GRANARY_ESHUTDOWN;
	if (!object_has_bytes(o) || key.len >= sizeof(s->key)) return 0;
	memcpy(s->key, key.p, key.len);
	s->key[key.len] = '\0';
	err = scope_enter(s, key);
	if (err == 0 && o->tags.len) {
		err = plan_tags_text(o->tags.p, o->tags.len, s->tags, sizeof(s->tags));
		subject.tags = s->tags;
	}
	if (err == 0 && s->first) return note_dirs(s, o);
	if (err < 0) return err;
	s->plan->objects++;
	s->plan->bytes += o->size;
	s->pinned = pins_cover(s->plan->pins, s->bucket.id, s->key) != NULL ||
		    rule_decide(&s->scope, RULE_PINS, &subject) != NULL;
	s->place = rule_decide(&s->scope, RULE_PLACE, &subject);
	s->copy = rule_decide(&s->scope, RULE_COPIES, &subject);
	s->relief = rule_decide(&s->scope, RULE_RELIEF, &subject);
	s->kept = is_kept(s, s->place);
	s->written_ns = o->written_ns;
	s->object = o->id;
	if (o->extents_outside) {
		err = ns_extents_in(s->plan->policy->o.ns, s->view, o, each_extent, s);
	} else {
		for (uint32_t i = 0; err == 0 && i < o->extent_count; i++) err = each_extent(s, &o->extents[i]);
	}
	if (err < 0 || s->plan->on_extent) return err;
	return object_delete(s, rule_decide(&s->scope, RULE_DELETES, &subject), o);
}

/* ---- all of it ---- */

static int buckets_scan(struct scan *s)
{
	struct ns *ns = s->plan->policy->o.ns;
	char after[BUCKET_LEN_MAX + 1] = "";
	int err = 0;

	while (err == 0 && ns_bucket_list(ns, slice_str(after), &s->bucket, 1) == 1) {
		s->has_scope = false;
		err = ns_scan(ns, s->view, s->bucket.id, slice_of("", 0), each_object, s);
		memcpy(after, s->bucket.name, sizeof(after));
	}
	return err;
}

static bool rules_keep(const struct rules *rules)
{
	for (uint32_t i = 0; i < rules_count(rules); i++)
		if (rules_at(rules, i)->keep_last) return true;
	return false;
}

int plan_read_names(struct plan *plan)
{
	struct scan *s = calloc(1, sizeof(*s));
	struct kv *kv = plan->policy->o.kv;
	uint64_t began_ns = clock_mono_ns();
	int err = s ? 0 : -GRANARY_ENOMEM;

	if (err < 0) return err;
	s->plan = plan;
	s->view = kv_snapshot_new(kv);
	if (!s->view) err = -GRANARY_ENOMEM;
	if (err == 0 && rules_keep(plan->rules)) {
		err = kept_begin(&plan->kept);
		s->first = true;
		if (err == 0) err = buckets_scan(s);
		if (err == 0) kept_choose(plan->kept);
		s->first = false;
	}
	if (err == 0) err = buckets_scan(s);
	plan->scan_ns = clock_mono_ns() - began_ns;
	if (s->view) kv_snapshot_free(kv, &s->view);
	rule_scope_close(&s->scope);
	free(s);
	return err;
}
