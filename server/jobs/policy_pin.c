/* SPDX-License-Identifier: Apache-2.0 */
/* policy_pin.c -- pins: places that stay on flash, whatever rules say (`granary tier pin`). A row each (`r` + bucket
 * id + path, FORMAT 6.16); in memory a sorted list that never changes: a new one takes its place, and whoever makes a
 * plan goes on with the one it took.
 *
 * Invariants: (1) a pin is committed before it is in the list, and gone from the rows before it leaves the list; (2) a
 * path is whole components without a slash at either end: it covers the object of that name and all below it, never a
 * neighbour that begins alike; "" covers the bucket. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/policy_priv.h"
#include "meta/kv.h"
#include "meta/ns.h"

enum { PIN_ROW_HEAD = 1 + 8 };

struct pin {
	uint64_t bucket;
	char *path;
	size_t len;
};
struct pins {
	_Atomic uint32_t refs;
	uint32_t count;
	struct pin at[];
};

/* ---- the list ---- */

static int path_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int order = memcmp(a, b, a_len < b_len ? a_len : b_len);

	return order ? order : a_len < b_len ? -1 : a_len > b_len;
}

/* Where it is or would be. */
static uint32_t pin_find(const struct pins *pins, uint64_t bucket, const char *path, size_t len, bool *found)
{
	uint32_t low = 0, high = pins ? pins->count : 0;

	*found = false;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct pin *p = &pins->at[mid];
		int order = p->bucket != bucket ? (p->bucket < bucket ? -1 : 1)
						: path_compare(p->path, p->len, path, len);
		if (order == 0) *found = true;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct pins *pins_new(uint32_t count)
{
	struct pins *pins = calloc(1, sizeof(*pins) + count * sizeof(pins->at[0]));

	if (pins) atomic_init(&pins->refs, 1);
	return pins;
}

void pins_unref(struct pins **pp)
{
	struct pins *pins = *pp;

	*pp = NULL;
	if (!pins || atomic_fetch_sub(&pins->refs, 1) != 1) return;
	for (uint32_t i = 0; i < pins->count; i++) free(pins->at[i].path);
	free(pins);
}

struct pins *policy_pins(struct policy *p)
{
	pthread_mutex_lock(&p->lock);
	struct pins *pins = p->pins;
	if (pins) atomic_fetch_add(&pins->refs, 1);
	pthread_mutex_unlock(&p->lock);
	return pins;
}

static int pin_add(struct pins *pins, uint64_t bucket, const char *path, size_t len)
{
	char *copy = strndup(path, len);

	if (!copy) return -GRANARY_ENOMEM;
	pins->at[pins->count++] = (struct pin){ bucket, copy, len };
	return 0;
}

/* All but the one at `without`, with one more before `before`; UINT32_MAX: none. */
static int pins_changed(const struct pins *old, uint32_t without, uint32_t before, const struct pin *more,
	struct pins **out)
{
	uint32_t count = old ? old->count : 0;
	struct pins *pins = pins_new(count + 1);
	int err = pins ? 0 : -GRANARY_ENOMEM;

	for (uint32_t i = 0; err == 0 && i <= count; i++) {
		if (i == before) err = pin_add(pins, more->bucket, more->path, more->len);
		if (err == 0 && i < count && i != without)
			err = pin_add(pins, old->at[i].bucket, old->at[i].path, old->at[i].len);
	}
	if (err < 0) pins_unref(&pins);
	*out = pins;
	return err;
}

/* Takes the new list over. */
static void pins_set(struct policy *p, struct pins *pins)
{
	pthread_mutex_lock(&p->lock);
	struct pins *old = p->pins;
	p->pins = pins;
	p->stats.pins = pins ? pins->count : 0;
	pthread_mutex_unlock(&p->lock);
	pins_unref(&old);
}

const char *pins_cover(const struct pins *pins, uint64_t bucket, const char *key)
{
	size_t len = 0;
	bool found;

	if (!pins || !pins->count) return NULL;
	for (;; len++) {
		if (len == 0 || key[len] == '/' || key[len] == '\0') {
			uint32_t at = pin_find(pins, bucket, key, len, &found);
			if (found) return pins->at[at].path;
		}
		if (key[len] == '\0') return NULL;
	}
}

uint32_t pins_count(const struct pins *pins)
{
	return pins ? pins->count : 0;
}

/* ---- rows ---- */

static size_t key_make(uint8_t *out, uint64_t bucket, const char *path, size_t len)
{
	out[0] = 'r';
	be64_put(out + 1, bucket);
	memcpy(out + PIN_ROW_HEAD, path, len);
	return PIN_ROW_HEAD + len;
}

static int row_change(struct policy *p, uint64_t bucket, const char *path, size_t len, bool there)
{
	static const uint8_t value[] = { 1 };
	uint8_t key[PIN_ROW_HEAD + KEY_LEN_MAX];
	struct slice row = slice_of(key, key_make(key, bucket, path, len));
	struct kv_txn *txn = kv_txn_new(p->o.kv);
	int err = txn ? 0 : -GRANARY_ENOMEM;

	if (err == 0 && there) kv_put(txn, row, slice_of(value, sizeof(value)));
	if (err == 0 && !there) kv_delete(txn, row);
	if (err == 0) err = kv_submit_wait(p->o.kv, txn);
	if (txn) kv_txn_free(&txn);
	return err;
}

static bool row_is_pin(struct slice key)
{
	return key.len >= PIN_ROW_HEAD && key.len <= PIN_ROW_HEAD + KEY_LEN_MAX && key.p[0] == 'r';
}

/* The rows come in the order of the list. */
int policy_pins_load(struct policy *p)
{
	struct kv_iter *it = kv_iter_new_under(p->o.kv, slice_of("r", 1));
	struct pins *pins = pins_new(PINS_MAX), *fit = NULL;
	int err = it && pins ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_iter_seek(it, slice_of("r", 1));
	for (; err == 0 && kv_iter_valid(it) && kv_iter_key(it).p[0] == 'r'; kv_iter_next(it)) {
		struct slice key = kv_iter_key(it);
		if (!row_is_pin(key) || pins->count == PINS_MAX) continue;
		err = pin_add(pins, be64_get(key.p + 1), (const char *)key.p + PIN_ROW_HEAD, key.len - PIN_ROW_HEAD);
	}
	if (err == 0) err = kv_iter_error(it);
	if (it) kv_iter_free(&it);
	if (err == 0) err = pins_changed(pins, UINT32_MAX, UINT32_MAX, NULL, &fit);
	if (err == 0) pins_set(p, fit);
	pins_unref(&pins);
	return err;
}

/* ---- orders ---- */

/* The bucket of BUCKET[/PATH], and the path without slashes at its end. */
static int path_split(
	struct policy *p, const char *path, uint64_t *bucket, struct slice *rest, char *why, size_t why_cap)
{
	const char *slash = strchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : strlen(path);
	struct ns_bucket b;
	int err = ns_bucket_find(p->o.ns, slice_of(path, len), &b);

	*rest = slice_str(slash ? slash + 1 : "");
	while (rest->len > 0 && rest->p[rest->len - 1] == '/') rest->len--;
	if (err < 0) {
		snprintf(why, why_cap, "there is no bucket '%.*s'", (int)(len < 80 ? len : 80), path);
		return err == -GRANARY_ENOTFOUND ? -GRANARY_ENOBUCKET : err;
	}
	if (rest->len > KEY_LEN_MAX || (rest->len > 0 && rest->p[0] == '/')) {
		snprintf(why, why_cap, "'%.200s' is no BUCKET[/PATH]", path);
		return -GRANARY_EINVAL;
	}
	*bucket = b.id;
	return 0;
}

/* Under pin_lock: nobody else changes the list. */
static int pin_change(struct policy *p, uint64_t bucket, struct slice path, bool there, char *why, size_t why_cap)
{
	const struct pin more = { bucket, (char *)(uintptr_t)path.p, path.len };
	struct pins *pins;
	bool found;
	uint32_t at = pin_find(p->pins, bucket, more.path, more.len, &found);
	int err;

	if (found == there) return 0;
	if (there && pins_count(p->pins) == PINS_MAX) {
		snprintf(why, why_cap, "%d places are pinned, the most there can be; pin directories above them",
			PINS_MAX);
		return -GRANARY_ETOOBIG;
	}
	err = pins_changed(p->pins, there ? UINT32_MAX : at, there ? at : UINT32_MAX, &more, &pins);
	if (err < 0) return err;
	err = row_change(p, bucket, more.path, more.len, there);
	if (err < 0)
		pins_unref(&pins);
	else
		pins_set(p, pins);
	return err;
}

int policy_pin(struct policy *p, const char *path, bool there, char *why, size_t why_cap)
{
	struct slice rest;
	uint64_t bucket;
	int err = path_split(p, path, &bucket, &rest, why, why_cap);

	if (err < 0) return err;
	pthread_mutex_lock(&p->pin_lock);
	err = pin_change(p, bucket, rest, there, why, why_cap);
	pthread_mutex_unlock(&p->pin_lock);
	if (err == 0) policy_wake(p); /* what is cold comes back */
	return err;
}

/* Those of buckets that were removed. */
int policy_pins_sweep(struct policy *p)
{
	struct ns_bucket b;
	int err = 0;

	pthread_mutex_lock(&p->pin_lock);
	for (uint32_t i = pins_count(p->pins); err == 0 && i-- > 0;) {
		const struct pin *pin = &p->pins->at[i];
		if (ns_bucket_by_id(p->o.ns, pin->bucket, &b) == -GRANARY_ENOBUCKET)
			err = pin_change(p, pin->bucket, slice_of(pin->path, pin->len), false, NULL, 0);
	}
	pthread_mutex_unlock(&p->pin_lock);
	return err;
}

/* Which pin is in the way when what lies at or below a path is to leave flash; false: none. */
bool policy_pinned_at(struct policy *p, const char *path, char *pin, size_t pin_cap)
{
	struct pins *pins = policy_pins(p);
	struct slice rest;
	uint64_t bucket;
	char why[RULE_WHY_MAX];
	const char *hit = NULL;
	bool found;

	if (path_split(p, path, &bucket, &rest, why, sizeof(why)) == 0) {
		char below[KEY_LEN_MAX + 2];
		size_t len = rest.len;
		memcpy(below, rest.p, len);
		below[len] = '\0';
		hit = pins_cover(pins, bucket, below);
		if (len > 0) below[len++] = '/';
		uint32_t at = hit ? 0 : pin_find(pins, bucket, below, len, &found);
		if (!hit && at < pins_count(pins) && pins->at[at].bucket == bucket && pins->at[at].len >= len &&
			memcmp(pins->at[at].path, below, len) == 0)
			hit = pins->at[at].path;
	}
	if (hit)
		snprintf(pin, pin_cap, "%.*s%s%s", (int)strcspn(path, "/"), path, *hit ? "/" : "", hit);
	pins_unref(&pins);
	return hit != NULL;
}

int policy_pins_text(struct policy *p, const char *path, bool json, char **out, char *why, size_t why_cap)
{
	struct pins *pins = policy_pins(p);
	struct slice rest = slice_str("");
	uint64_t bucket = 0;
	const char *only = NULL;
	size_t size = 0;
	int err = path ? path_split(p, path, &bucket, &rest, why, why_cap) : 0;
	FILE *f = err == 0 ? open_memstream(out, &size) : NULL;

	if (err == 0 && path) {
		char *key = strndup((const char *)rest.p, rest.len);
		only = key ? pins_cover(pins, bucket, key) : NULL;
		free(key);
	}
	for (uint32_t i = 0; f && i < pins_count(pins); i++) {
		struct ns_bucket b;
		if (path && pins->at[i].path != only) continue;
		if (ns_bucket_by_id(p->o.ns, pins->at[i].bucket, &b) < 0) continue;
		if (!json) {
			fprintf(f, "%s/%s\n", b.name, pins->at[i].path);
			continue;
		}
		fprintf(f, "{\"bucket\":");
		policy_json_text(f, b.name);
		fprintf(f, ",\"path\":");
		policy_json_text(f, pins->at[i].path);
		fprintf(f, "}\n");
	}
	if (err == 0 && (!f || fclose(f) != 0)) err = -GRANARY_ENOMEM;
	pins_unref(&pins);
	return err;
}
