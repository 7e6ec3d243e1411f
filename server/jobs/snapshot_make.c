/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_make.c -- one snapshot is made on a thread of its own: its row, the hold, its files, the
 * transaction that makes it ready. */
#include "jobs/snapshot_repack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/wire.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "meta/recipe.h"
#include "meta/rows.h"
#include "tier/packs.h"

struct maker {
	struct snapshots *s;
	struct snapshot_making *m;
	struct build_options o;
	struct task task;
	uint64_t id;
	bool repacks, force;
};

static struct snapshot_row row_of(const struct maker *k, uint8_t state)
{
	const struct snapshot_making *m = k->m;

	return (struct snapshot_row){ .id = k->id,
		.state = state,
		.created_ns = m->created_ns,
		.expires_ns = m->expires_ns,
		.options = m->options,
		.note = m->note,
		.prefix = m->prefix };
}

static int row_begin(struct maker *k)
{
	struct snapshots *s = k->s;
	struct snapshot_making *m = k->m;
	struct snapshot_row row = row_of(k, SNAPSHOT_CREATING);
	uint8_t key[ROW_KEY_MAX];
	struct ns_bucket bucket;
	struct kv_txn *txn;
	int err = ns_bucket_by_id(s->o.ns, m->bucket, &bucket);

	if (err < 0) return err;
	txn = kv_txn_new(s->o.kv);
	err = snapshot_row_put(txn, m->bucket, m->name, &row);
	if (err < 0) {
		if (txn != NULL) kv_txn_free(&txn);
		return err;
	}
	kv_pre_absent(txn, 0, row_snapshot(key, m->bucket, m->name));
	kv_pre_absent(txn, 0, row_recipe(key, m->bucket, m->name));
	kv_pre_id(
		txn, 0, row_bucket(key, slice_of(bucket.name, bucket.name_len)), bucket.id, false);
	err = snapshot_row_commit(s, txn);
	if (err == -GRANARY_EBUSY)
		return making_fail(m, -GRANARY_EEXIST,
			"there is a snapshot or recipe '%.*s' already, or the bucket was removed",
			(int)m->name.len, (const char *)m->name.p);
	return err;
}

static int row_ready(struct maker *k, const struct build_result *result)
{
	struct snapshot_making *m = k->m;
	struct snapshot_row row = row_of(k, SNAPSHOT_READY);
	struct kv_txn *txn = kv_txn_new(k->s->o.kv);
	int err;

	row.has_manifest = true;
	row.manifest = m->manifest;
	row.samples = m->samples;
	row.bytes = m->bytes;
	row.pins = slice_of(result->pins, result->pin_count * sizeof(*result->pins));
	err = snapshot_row_put(txn, m->bucket, m->name, &row);
	if (err < 0) {
		if (txn != NULL) kv_txn_free(&txn);
		return err;
	}
	snapshot_plan_pins(txn, result->pins, result->pin_count, 1);
	return snapshot_row_commit(k->s, txn);
}

/* The pins that a build took in RAM become those of the row, or go. */
static int make_held(struct maker *k)
{
	struct packs *packs = k->s->o.packs;
	struct build_result result = { .held = true };
	int err;

	packs_hold(packs);
	err = snapshot_build(k->s, k->m, &k->o, &result);
	if (err == 0) err = row_ready(k, &result);
	for (uint32_t i = 0; err < 0 && !result.held && i < result.pin_count; i++)
		packs_pin(packs, result.pins[i], -1);
	if (result.held) packs_unhold(packs);
	free(result.pins);
	return err;
}

struct keeping {
	struct snapshots *s;
	struct snapshot_making *m;
	uint64_t newer;
	char (*names)[SNAPSHOT_NAME_MAX + 1];
	uint64_t *created;
	uint32_t count, cap;
};

static int keep_each(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct keeping *k = arg;

	(void)bucket;
	if (row->state != SNAPSHOT_READY || snapshot_is_automatic(name) ||
		!slice_eq(row->prefix, k->m->prefix))
		return 0;
	if (k->count == k->cap) {
		uint32_t cap = k->cap ? 2 * k->cap : 64;
		void *names = realloc(k->names, cap * sizeof(*k->names)), *created;

		if (names == NULL) return -GRANARY_ENOMEM;
		k->names = names;
		created = realloc(k->created, cap * sizeof(*k->created));
		if (created == NULL) return -GRANARY_ENOMEM;
		k->created = created;
		k->cap = cap;
	}
	memcpy(k->names[k->count], name.p, name.len);
	k->names[k->count][name.len] = '\0';
	k->created[k->count++] = row->created_ns;
	return 0;
}

/* Of the same prefix only the last keep-last stay. */
static void keep_last(struct maker *maker)
{
	struct keeping k = { .s = maker->s, .m = maker->m };
	char text[SNAPSHOT_TEXT_MAX];

	if (maker->o.keep_last == 0) return;
	if (snapshot_each(k.s->o.kv, k.m->bucket, slice_of(NULL, 0), keep_each, &k) < 0)
		k.count = 0;
	for (uint32_t i = 0; i < k.count; i++) {
		uint64_t newer = 0;

		for (uint32_t j = 0; j < k.count; j++) newer += k.created[j] > k.created[i];
		if (newer >= maker->o.keep_last &&
			snapshots_remove(k.s, k.m->bucket, slice_str(k.names[i]), false, text,
				sizeof(text)) < 0)
			making_warn(k.m, "'%s' is older than the last %llu and was kept: %s",
				k.names[i], (unsigned long long)maker->o.keep_last, text);
	}
	free(k.names);
	free(k.created);
}

static int make(struct maker *k)
{
	struct snapshots *s = k->s;
	struct snapshot_making *m = k->m;
	int err = row_begin(k);

	if (err < 0) return err;
	err = make_held(k);
	if (err == 0) {
		keep_last(k);
		return 0;
	}
	snapshots_set_dirty(s);
	if (snapshot_row_delete(s, m->bucket, m->name) < 0)
		log_warn("cannot delete the row of a snapshot that failed; the next start does; "
			 "name='%.*s'",
			(int)m->name.len, (const char *)m->name.p);
	return err;
}

/* ---- repacking ---- */

/* The row as it was when the copy began, if it may be repacked. The pins and the rest are the caller's. */
static int repack_look(struct maker *k, struct snapshot_row *row, struct kv_value *value)
{
	struct snapshot_making *m = k->m;
	char job[LEASE_JOB_MAX + 1], shown[160];
	int err = snapshot_find(k->s->o.kv, m->bucket, m->name, row, value);

	name_escape(shown, sizeof(shown), m->name);
	if (err < 0) return making_fail(m, err, "there is no snapshot '%s'", shown);
	if (row->state != SNAPSHOT_READY)
		err = making_fail(m, -GRANARY_EBUSY, "'%s' is being made", shown);
	else if (!k->force && lease_holder(k->s, m->bucket, m->name, job, sizeof(job)))
		err = making_fail(m, -GRANARY_EBUSY,
			"job '%s' reads it, and would have to go on from its token; wait until an hour after its "
			"last read, or use force",
			job);
	if (err < 0) kv_value_release(value);
	return err;
}

static int repack_commit(struct maker *k, const struct snapshot_row *was, const struct build_result *result)
{
	struct snapshot_making *m = k->m;
	struct snapshot_row row = *was;
	size_t old_count = was->pins.len / sizeof(uint64_t);
	uint64_t *old = malloc(was->pins.len + 1);
	struct kv_txn *txn = kv_txn_new(k->s->o.kv);
	int err = old != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0 && was->pins.len > 0) memcpy(old, was->pins.p, was->pins.len);
	row.identity = snapshot_row_identity(was);
	row.has_identity = true;
	row.manifest = m->manifest;
	row.pins = slice_of(result->pins, result->pin_count * sizeof(*result->pins));
	if (err == 0) err = snapshot_row_put(txn, m->bucket, m->name, &row);
	if (err == 0) {
		snapshot_plan_pins(txn, old, old_count, -1);
		snapshot_plan_pins(txn, result->pins, result->pin_count, 1);
		err = kv_submit_wait(k->s->o.kv, txn);
	}
	if (txn != NULL) kv_txn_free(&txn);
	for (size_t i = 0; err == 0 && i < old_count; i++) packs_pin(k->s->o.packs, old[i], -1);
	free(old);
	return err;
}

/* What was copied takes the place of what it was copied of, if that is still there. */
static int repack_swap(struct maker *k, struct hash128 manifest, const struct build_result *result)
{
	struct snapshots *s = k->s;
	struct snapshot_row row;
	struct kv_value value;
	int err;

	pthread_mutex_lock(&s->change_lock);
	err = repack_look(k, &row, &value);
	if (err == 0) {
		if (row.id != k->id || row.manifest.lo != manifest.lo || row.manifest.hi != manifest.hi)
			err = making_fail(k->m, -GRANARY_ECHANGED, "it was removed or repacked meanwhile");
		if (err == 0) err = repack_commit(k, &row, result);
		kv_value_release(&value);
	}
	if (err == 0) snapshot_open_drop(s, k->m->bucket, k->m->name);
	pthread_mutex_unlock(&s->change_lock);
	return err;
}

static int repack(struct maker *k)
{
	struct build_result result = { 0 };
	struct snapshot_row row;
	struct kv_value value;
	struct hash128 manifest;
	int err = repack_look(k, &row, &value);

	if (err < 0) return err;
	k->id = row.id;
	manifest = row.manifest;
	err = snapshot_repack_build(k->s, k->m, &row, &result);
	kv_value_release(&value);
	if (err == 0) err = repack_swap(k, manifest, &result);
	for (uint32_t i = 0; err < 0 && i < result.pin_count; i++) packs_pin(k->s->o.packs, result.pins[i], -1);
	free(result.pins);
	snapshots_set_dirty(k->s); /* pages of the old one, or of one that failed */
	return err;
}

static void making_ended(struct snapshots *s)
{
	pthread_mutex_lock(&s->lock);
	s->making--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void *make_main(void *arg)
{
	struct maker *k = arg;
	struct snapshots *s = k->s;
	struct snapshot_making *m = k->m;

	if (!s->o.simulated) pthread_setname_np(pthread_self(), "granary-snap");
	m->err = k->repacks ? repack(k) : make(k);
	if (m->err < 0 && m->text[0] == '\0')
		snprintf(m->text, sizeof(m->text), "%s", error_text(m->err));
	free(k);
	m->done(m); /* m is gone from here on */
	making_ended(s);
	return NULL;
}

static void make_task(struct task *task)
{
	make_main(container_of(task, struct maker, task));
}

static int maker_start(struct maker *k)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	if (k->s->o.simulated) {
		k->task.fn = make_task;
		workers_post(k->s->o.workers, &k->task);
		return 0;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, make_main, k);
	pthread_attr_destroy(&attr);
	return err == 0 ? 0 : -GRANARY_ENOMEM;
}

static bool may_make(struct snapshots *s)
{
	bool may;

	pthread_mutex_lock(&s->lock);
	may = s->making < SNAPSHOTS_MAKING_MAX && !atomic_load(&s->stopping);
	while (may && s->sweeping) pthread_cond_wait(&s->changed, &s->lock);
	s->making += may;
	pthread_mutex_unlock(&s->lock);
	return may;
}

int snapshots_make(struct snapshots *s, struct snapshot_making *m)
{
	struct maker *k = calloc(1, sizeof(*k));
	int err;

	if (k == NULL) return -GRANARY_ENOMEM;
	k->s = s;
	k->m = m;
	err = build_options_parse(m, &k->o);
	if (err == 0 && !may_make(s))
		err = making_fail(m, -GRANARY_EBUSY,
			"%d snapshots are being made; try again when one is ready",
			SNAPSHOTS_MAKING_MAX);
	if (err < 0) {
		free(k);
		return err;
	}
	k->id = ids_object(s->o.ids);
	m->created_ns = store_clock_now(s->o.clock);
	m->expires_ns = k->o.expire_ns > 0 ? m->created_ns + k->o.expire_ns : 0;
	m->note = slice_of(NULL, 0);
	if (k->o.note != NULL) /* as it stands in the options, which outlive the maker's copy */
		m->note = slice_of(m->options.p + (k->o.note - k->o.text), strlen(k->o.note));
	err = maker_start(k);
	if (err < 0) {
		free(k);
		making_ended(s);
	}
	return err;
}

int snapshots_repack(struct snapshots *s, struct snapshot_making *m, bool force)
{
	struct maker *k = calloc(1, sizeof(*k));
	int err;

	if (k == NULL) return -GRANARY_ENOMEM;
	k->s = s;
	k->m = m;
	k->repacks = true;
	k->force = force;
	err = may_make(s) ? maker_start(k)
			  : making_fail(m, -GRANARY_EBUSY,
				    "%d snapshots are being made or repacked; try again when one is ready",
				    SNAPSHOTS_MAKING_MAX);
	if (err < 0 && err != -GRANARY_EBUSY) making_ended(s);
	if (err < 0) free(k);
	return err;
}
