/* SPDX-License-Identifier: Apache-2.0 */
/* policy_keep.c -- keep_last: which directories are the last ones. A directory's age is that of what was
 * written into it last; of two of the same age the one with the greater name is younger. A directory is known
 * by a hash of rule, bucket and path: 128 bits, so two that share one are not to be expected. */
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "granary/error.h"
#include "jobs/policy_priv.h"

struct dir {
	struct hash128 id, parent;
	const struct rule *rule;
	uint64_t written_ns;
	char tail[32]; /* the end of its name, for ties */
	bool kept;
};

struct kept_dirs {
	struct dir *at;
	size_t count, cap;
	size_t last; /* found last: neighbours in a scan are in one directory */
	size_t *slots, slot_count;
};

static struct hash128 path_hash(const struct rule *rule, uint64_t bucket, const char *path, size_t len)
{
	struct hash128 h = hash_content(path, len);

	h.hi ^= hash_u64(bucket);
	h.lo ^= hash_u64(rule->line + UINT64_C(0x100000000) * (len + 1));
	return h;
}

static bool same(struct hash128 a, struct hash128 b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

int kept_begin(struct kept_dirs **kept)
{
	*kept = calloc(1, sizeof(**kept));
	return *kept ? 0 : -GRANARY_ENOMEM;
}

void kept_free(struct kept_dirs **kp)
{
	struct kept_dirs *k = *kp;

	*kp = NULL;
	if (!k) return;
	free(k->at);
	free(k->slots);
	free(k);
}

static size_t slot_of(const struct kept_dirs *k, struct hash128 id)
{
	size_t i = (size_t)id.lo & (k->slot_count - 1);

	while (k->slots[i] && !same(k->at[k->slots[i] - 1].id, id)) i = (i + 1) & (k->slot_count - 1);
	return i;
}

static int grow(struct kept_dirs *k)
{
	if (k->count == k->cap) {
		size_t cap = k->cap ? 2 * k->cap : 256;
		struct dir *wide = realloc(k->at, cap * sizeof(*wide));
		if (!wide) return -GRANARY_ENOMEM;
		k->at = wide;
		k->cap = cap;
	}
	if (2 * (k->count + 1) <= k->slot_count) return 0;
	size_t count = k->slot_count ? 2 * k->slot_count : 1024;
	size_t *slots = calloc(count, sizeof(*slots));
	if (!slots) return -GRANARY_ENOMEM;
	free(k->slots);
	k->slots = slots;
	k->slot_count = count;
	for (size_t i = 0; i < k->count; i++) k->slots[slot_of(k, k->at[i].id)] = i + 1;
	return 0;
}

int kept_note(struct kept_dirs *k, const struct rule *rule, uint64_t bucket, const char *key, size_t dir_len,
	uint64_t written_ns)
{
	struct hash128 id = path_hash(rule, bucket, key, dir_len);
	size_t slot, parent_len = dir_len, tail;
	int err;

	if (k->last < k->count && same(k->at[k->last].id, id)) {
		if (written_ns > k->at[k->last].written_ns) k->at[k->last].written_ns = written_ns;
		return 0;
	}
	err = grow(k);
	if (err < 0) return err;
	slot = slot_of(k, id);
	if (!k->slots[slot]) {
		while (parent_len > 0 && key[parent_len - 1] != '/') parent_len--;
		tail = dir_len - parent_len < sizeof(k->at->tail) - 1 ? dir_len - parent_len
								      : sizeof(k->at->tail) - 1;
		struct dir *d = &k->at[k->count];
		*d = (struct dir){ .id = id, .parent = path_hash(rule, bucket, key, parent_len), .rule = rule };
		memcpy(d->tail, key + dir_len - tail, tail);
		k->slots[slot] = ++k->count;
	}
	k->last = k->slots[slot] - 1;
	if (written_ns > k->at[k->last].written_ns) k->at[k->last].written_ns = written_ns;
	return 0;
}

/* By rule and parent; the youngest first. */
static int age_compare(const void *a, const void *b, void *arg)
{
	const struct dir *at = arg, *x = &at[*(const size_t *)a], *y = &at[*(const size_t *)b];

	if (x->rule != y->rule) return x->rule->line < y->rule->line ? -1 : 1;
	if (x->parent.hi != y->parent.hi) return x->parent.hi < y->parent.hi ? -1 : 1;
	if (x->parent.lo != y->parent.lo) return x->parent.lo < y->parent.lo ? -1 : 1;
	if (x->written_ns != y->written_ns) return x->written_ns > y->written_ns ? -1 : 1;
	return -strcmp(x->tail, y->tail);
}

void kept_choose(struct kept_dirs *k)
{
	size_t *order = k->count ? malloc(k->count * sizeof(*order)) : NULL;
	uint32_t rank = 0;

	for (size_t i = 0; i < k->count; i++) k->at[i].kept = !order; /* without memory all are kept: nothing goes */
	if (!order) return;
	for (size_t i = 0; i < k->count; i++) order[i] = i;
	qsort_r(order, k->count, sizeof(*order), age_compare, k->at);
	for (size_t i = 0; i < k->count; i++) {
		struct dir *d = &k->at[order[i]];
		const struct dir *before = i ? &k->at[order[i - 1]] : NULL;
		rank = before && before->rule == d->rule && same(before->parent, d->parent) ? rank + 1 : 0;
		d->kept = rank < d->rule->keep_last;
	}
	free(order);
}

/* One that came after the first scan is younger than any: kept. */
bool kept_is(const struct kept_dirs *k, const struct rule *rule, uint64_t bucket, const char *key, size_t dir_len)
{
	if (!k || !k->slot_count) return true;
	size_t slot = slot_of(k, path_hash(rule, bucket, key, dir_len));
	return !k->slots[slot] || k->at[k->slots[slot] - 1].kept;
}
