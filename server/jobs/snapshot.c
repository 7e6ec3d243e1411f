/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c -- snapshots that are there: found, noted, removed; passes, start and stop. See
 * snapshot.h. Invariants: (1) a row in state `creating` belongs to a thread of this process; (2)
 * pins in RAM follow the rows' in the same order: up inside the hold, down after the row is gone;
 * (3) the table of open snapshots holds ready rows only: who changes one drops it from there. */
#include "jobs/snapshot_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/name.h"
#include "common/wire.h"
#include "jobs/recipe.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "meta/rows.h"
#include "tier/packs.h"

/* ---- rows ---- */

int snapshot_row_commit(struct snapshots *s, struct kv_txn *txn)
{
	int err = txn != NULL ? kv_submit_wait(s->o.kv, txn) : -GRANARY_ENOMEM;

	if (txn != NULL) kv_txn_free(&txn);
	return err;
}

int snapshot_row_put(
	struct kv_txn *txn, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	uint8_t key[ROW_KEY_MAX], *value;
	size_t cap = snapshot_row_size(row);
	int64_t len;

	value = malloc(cap);
	if (txn == NULL || value == NULL) {
		free(value);
		return -GRANARY_ENOMEM;
	}
	len = snapshot_row_encode(row, value, cap);
	assert(len > 0);
	kv_put(txn, row_snapshot(key, bucket, name), slice_of(value, (size_t)len));
	free(value);
	return 0;
}

int snapshot_row_delete(struct snapshots *s, uint64_t bucket, struct slice name)
{
	uint8_t key[ROW_KEY_MAX];
	struct kv_txn *txn = kv_txn_new(s->o.kv);

	if (txn != NULL) kv_delete(txn, row_snapshot(key, bucket, name));
	return snapshot_row_commit(s, txn);
}

void snapshot_plan_pins(struct kv_txn *txn, const uint64_t *pins, size_t count, int delta)
{
	uint8_t key[ROW_KEY_MAX];

	for (size_t i = 0; i < count; i++) kv_add(txn, row_pack(key, pins[i]), PTAG_PINS, delta);
}

void snapshots_set_dirty(struct snapshots *s)
{
	pthread_mutex_lock(&s->lock);
	s->dirty = true;
	pthread_mutex_unlock(&s->lock);
}

/* ---- the table of open ones ---- */

static struct snapshot_open **bucket_of(struct snapshots *s, uint64_t bucket, struct slice name)
{
	return &s->open[hash_keyed(0, bucket, name.p, name.len).lo % OPEN_BUCKETS];
}

static void open_free(struct snapshot_open *o)
{
	free(o->pages);
	free(o);
}

/* Under the lock. */
static struct snapshot_open *open_find(struct snapshots *s, uint64_t bucket, struct slice name)
{
	struct snapshot_open *o = *bucket_of(s, bucket, name);

	while (o != NULL &&
		(o->bucket != bucket || !slice_eq(slice_of(o->name, o->name_len), name)))
		o = o->next;
	return o;
}

static void open_unlink(struct snapshots *s, struct snapshot_open *o)
{
	struct snapshot_open **at = bucket_of(s, o->bucket, slice_of(o->name, o->name_len));

	while (*at != o) at = &(*at)->next;
	*at = o->next;
	o->gone = true;
	s->open_count--;
	if (o->refs == 0) open_free(o);
}

void snapshot_open_drop(struct snapshots *s, uint64_t bucket, struct slice name)
{
	struct snapshot_open *o;

	pthread_mutex_lock(&s->lock);
	o = open_find(s, bucket, name);
	if (o != NULL) open_unlink(s, o);
	pthread_mutex_unlock(&s->lock);
}

/* One that nobody uses gives way; any will do. */
static void open_evict(struct snapshots *s)
{
	for (uint32_t i = 0; i < OPEN_BUCKETS && s->open_count > OPEN_IDLE_MAX; i++)
		for (struct snapshot_open *o = s->open[i], *next; o != NULL; o = next) {
			next = o->next;
			if (o->refs == 0 && s->open_count > OPEN_IDLE_MAX) open_unlink(s, o);
		}
}

int snapshot_ref_cached(
	struct snapshots *s, uint64_t bucket, struct slice name, struct snapshot_open **out)
{
	pthread_mutex_lock(&s->lock);
	*out = open_find(s, bucket, name);
	if (*out != NULL) (*out)->refs++;
	pthread_mutex_unlock(&s->lock);
	return *out != NULL ? 0 : -GRANARY_EAGAIN;
}

static struct snapshot_open *open_new(
	uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct snapshot_open *o =
		calloc(1, sizeof(*o) + row->pins.len + name.len + row->prefix.len);
	uint8_t *at = (uint8_t *)(o + 1);

	if (o == NULL) return NULL;
	o->bucket = bucket;
	o->id = row->id;
	o->manifest = row->manifest;
	o->pin_count = (uint32_t)(row->pins.len / 8);
	o->pins = (const uint64_t *)(const void *)at;
	if (row->pins.len > 0) memcpy(at, row->pins.p, row->pins.len);
	at += row->pins.len;
	o->name = (const char *)at;
	o->name_len = (uint32_t)name.len;
	memcpy(at, name.p, name.len);
	at += name.len;
	o->prefix = (const char *)at;
	o->prefix_len = (uint32_t)row->prefix.len;
	if (row->prefix.len > 0) memcpy(at, row->prefix.p, row->prefix.len);
	return o;
}

/* Under change_lock: no row changes between its read and its place in the table. */
static int open_load(
	struct snapshots *s, uint64_t bucket, struct slice name, struct snapshot_open **out)
{
	struct snapshot_row row;
	struct kv_value value;
	struct snapshot_open *o, **head;
	int err = snapshot_find(s->o.kv, bucket, name, &row, &value);

	if (err < 0) return err;
	o = row.state == SNAPSHOT_READY ? open_new(bucket, name, &row) : NULL;
	err = row.state == SNAPSHOT_CREATING   ? -GRANARY_EBUSY
	      : row.state == SNAPSHOT_REMOVING ? -GRANARY_ENOTFOUND
	      : o == NULL                      ? -GRANARY_ENOMEM
					       : 0;
	kv_value_release(&value);
	if (err < 0) return err;
	pthread_mutex_lock(&s->lock);
	open_evict(s);
	head = bucket_of(s, bucket, name);
	o->refs = 1;
	o->next = *head;
	*head = o;
	s->open_count++;
	pthread_mutex_unlock(&s->lock);
	*out = o;
	return 0;
}

int snapshot_ref(
	struct snapshots *s, uint64_t bucket, struct slice name, struct snapshot_open **out)
{
	int err;

	pthread_mutex_lock(&s->change_lock);
	err = snapshot_ref_cached(s, bucket, name, out);
	if (err == -GRANARY_EAGAIN) err = open_load(s, bucket, name, out);
	pthread_mutex_unlock(&s->change_lock);
	return err;
}

void snapshot_unref(struct snapshots *s, struct snapshot_open **op)
{
	struct snapshot_open *o = *op;

	*op = NULL;
	if (o == NULL) return;
	pthread_mutex_lock(&s->lock);
	assert(o->refs > 0);
	if (--o->refs == 0 && o->gone) open_free(o);
	pthread_mutex_unlock(&s->lock);
}

bool snapshot_pins(const struct snapshot_open *o, uint64_t pack)
{
	uint32_t lo = 0, hi = o->pin_count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (o->pins[mid] < pack)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < o->pin_count && o->pins[lo] == pack;
}

int snapshot_has_page(struct snapshots *s, struct snapshot_open *o, struct hash128 hash)
{
	struct hash128 *pages = NULL;
	uint32_t count = 0;
	bool is_read, has;
	int err;

	pthread_mutex_lock(&s->lock);
	is_read = o->pages != NULL;
	pthread_mutex_unlock(&s->lock);
	err = is_read ? 0 : object_pages_of(s, o->manifest, &pages, &count);
	if (err < 0) return err;
	pthread_mutex_lock(&s->lock);
	if (o->pages == NULL) {
		o->pages = pages;
		o->page_count = count;
		pages = NULL;
	}
	has = object_hash_in(o->pages, o->page_count, hash);
	pthread_mutex_unlock(&s->lock);
	free(pages);
	return has ? 0 : -GRANARY_ENOTFOUND;
}

/* ---- listing, reading ---- */

/* Bytes that its removal gives back: what is dead in packs that nobody else pins. */
static int alone_bytes(struct snapshots *s, const struct snapshot_row *row, uint64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < row->pins.len / 8; i++) {
		struct pack_row pack;
		uint64_t id;
		int err;

		memcpy(&id, row->pins.p + 8 * i, 8);
		err = packs_row(s->o.packs, id, &pack);
		if (err < 0 && err != -GRANARY_ENOTFOUND) return err;
		if (err == 0 && pack.pins == 1 && pack.total_bytes > pack.live_bytes)
			*out += pack.total_bytes - pack.live_bytes;
	}
	return 0;
}

struct listing {
	struct snapshots *s;
	int (*each)(void *arg, const struct snapshot_entry *e);
	void *arg;
};

static int list_row(void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct listing *l = arg;
	struct snapshot_entry e = { .name = name,
		.prefix = row->prefix,
		.note = row->note,
		.state = row->state,
		.created_ns = row->created_ns,
		.expires_ns = row->expires_ns,
		.samples = row->samples,
		.bytes = row->bytes,
		.manifest = row->manifest,
		.identity = snapshot_row_identity(row) };
	int err = alone_bytes(l->s, row, &e.alone);

	(void)bucket;
	return err < 0 ? err : l->each(l->arg, &e);
}

int snapshots_list(struct snapshots *s, uint64_t bucket, struct slice after,
	int (*each)(void *arg, const struct snapshot_entry *e), void *arg)
{
	struct listing l = { s, each, arg };

	return snapshot_each(s->o.kv, bucket, after, list_row, &l);
}

int64_t snapshot_read_page(struct snapshots *s, struct hash128 hash, uint64_t offset, void *buf,
	size_t len, uint64_t *size)
{
	return object_read(s, hash, false, offset, buf, len, size);
}

int64_t snapshot_read_manifest(struct snapshots *s, struct hash128 hash, uint64_t offset, void *buf,
	size_t len, uint64_t *size)
{
	return object_read(s, hash, true, offset, buf, len, size);
}

/* ---- changing ---- */

static int remove_row(
	struct snapshots *s, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	size_t count = row->state == SNAPSHOT_READY ? row->pins.len / 8 : 0;
	uint64_t *pins = malloc(row->pins.len + 8);
	struct kv_txn *txn = kv_txn_new(s->o.kv);
	uint8_t key[ROW_KEY_MAX];
	int err = -GRANARY_ENOMEM;

	if (pins != NULL && txn != NULL) {
		if (count > 0) memcpy(pins, row->pins.p, row->pins.len);
		snapshot_plan_pins(txn, pins, count, -1);
		kv_delete(txn, row_snapshot(key, bucket, name));
		err = kv_submit_wait(s->o.kv, txn);
	}
	if (txn != NULL) kv_txn_free(&txn);
	for (size_t i = 0; err == 0 && i < count; i++) packs_pin(s->o.packs, pins[i], -1);
	free(pins);
	return err;
}

static int remove_found(
	struct snapshots *s, uint64_t bucket, struct slice name, bool force, char *text, size_t cap)
{
	struct snapshot_row row;
	struct kv_value value;
	char job[LEASE_JOB_MAX + 1], shown[160];
	int err = snapshot_find(s->o.kv, bucket, name, &row, &value), held = 0;

	name_escape(shown, sizeof(shown), name);
	if (err < 0) {
		snprintf(text, cap, "there is no snapshot '%s'", shown);
		return err;
	}
	if (row.state == SNAPSHOT_CREATING) {
		snprintf(text, cap, "'%s' is being made", shown);
		err = -GRANARY_EBUSY;
	} else if (!force && lease_holder(s, bucket, name, job, sizeof(job))) {
		snprintf(text, cap,
			"job '%s' reads it; wait until an hour after its last read, or use force",
			job);
		err = -GRANARY_EBUSY;
	} else if (!force && (held = recipes_hold(s, bucket, name, snapshot_row_identity(&row), text, cap)) < 0) {
		err = held;
	} else {
		err = remove_row(s, bucket, name, &row);
		if (err < 0) snprintf(text, cap, "%s", error_text(err));
	}
	kv_value_release(&value);
	return err;
}

/* Now, if nothing is being made; else a job pass does it. */
static void sweep_if_dirty(struct snapshots *s)
{
	bool may;
	int err;

	pthread_mutex_lock(&s->lock);
	may = s->dirty && s->making == 0 && !s->sweeping && !atomic_load(&s->stopping);
	if (may) {
		s->sweeping = true;
		s->dirty = false;
	}
	pthread_mutex_unlock(&s->lock);
	if (!may) return;
	err = objects_sweep(s);
	if (err < 0 && err != -GRANARY_ESHUTDOWN)
		log_warn("cannot remove pages that no snapshot uses: %s; the next pass tries it "
			 "again",
			error_text(err));
	pthread_mutex_lock(&s->lock);
	s->sweeping = false;
	s->dirty |= err < 0;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

int snapshots_remove(
	struct snapshots *s, uint64_t bucket, struct slice name, bool force, char *text, size_t cap)
{
	int err;

	pthread_mutex_lock(&s->change_lock);
	err = remove_found(s, bucket, name, force, text, cap);
	if (err == 0) snapshot_open_drop(s, bucket, name);
	pthread_mutex_unlock(&s->change_lock);
	if (err < 0) return err;
	leases_forget(s, bucket, name);
	snapshots_set_dirty(s);
	sweep_if_dirty(s);
	return 0;
}

int snapshots_note(struct snapshots *s, uint64_t bucket, struct slice name, struct slice note,
	uint64_t expires_ns)
{
	struct snapshot_row row;
	struct kv_value value;
	struct kv_txn *txn;
	int err;

	pthread_mutex_lock(&s->change_lock);
	err = snapshot_find(s->o.kv, bucket, name, &row, &value);
	if (err == 0 && row.state != SNAPSHOT_READY) {
		kv_value_release(&value);
		err = -GRANARY_EBUSY;
	}
	if (err == 0) {
		row.note = note;
		row.expires_ns = expires_ns;
		txn = kv_txn_new(s->o.kv);
		err = snapshot_row_put(txn, bucket, name, &row);
		if (err == 0) err = kv_submit_wait(s->o.kv, txn);
		if (txn != NULL) kv_txn_free(&txn);
		kv_value_release(&value);
	}
	pthread_mutex_unlock(&s->change_lock);
	return err;
}

/* ---- passes ---- */

struct found {
	struct found *next;
	uint64_t bucket;
	size_t name_len;
	uint8_t name[SNAPSHOT_NAME_MAX];
};
struct finding {
	struct snapshots *s;
	struct found *first;
	uint64_t now;
};

static int find_add(struct finding *f, uint64_t bucket, struct slice name)
{
	struct found *e = malloc(sizeof(*e));

	if (e == NULL) return -GRANARY_ENOMEM;
	*e = (struct found){ .next = f->first, .bucket = bucket, .name_len = name.len };
	memcpy(e->name, name.p, name.len < sizeof(e->name) ? name.len : sizeof(e->name));
	f->first = e;
	return 0;
}

static int find_expired(
	void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	struct finding *f = arg;
	bool expired =
		row->state == SNAPSHOT_READY && row->expires_ns != 0 && row->expires_ns <= f->now;

	return expired ? find_add(f, bucket, name) : 0;
}

static int find_unfinished(
	void *arg, uint64_t bucket, struct slice name, const struct snapshot_row *row)
{
	return row->state != SNAPSHOT_READY ? find_add(arg, bucket, name) : 0;
}

void snapshots_tick(struct snapshots *s)
{
	struct finding f = { .s = s, .now = store_clock_now(s->o.clock) };
	char text[SNAPSHOT_TEXT_MAX];
	int err = snapshot_each(s->o.kv, 0, slice_of(NULL, 0), find_expired, &f);

	for (struct found *e = f.first, *next; e != NULL; e = next) {
		next = e->next;
		if (err == 0 && !atomic_load(&s->stopping) &&
			snapshots_remove(s, e->bucket, slice_of(e->name, e->name_len), false, text,
				sizeof(text)) == 0)
			log_info("removed a snapshot that had expired; name='%.*s'",
				(int)e->name_len, (const char *)e->name);
		free(e);
	}
	if (err < 0)
		log_warn("cannot look for expired snapshots: %s; the next pass does",
			error_text(err));
	leases_tick(s);
	sweep_if_dirty(s);
}

/* Rows of snapshots that were being made or removed when the server stopped: they have no pins. */
static int finish_interrupted(struct snapshots *s)
{
	struct finding f = { .s = s };
	int err = snapshot_each(s->o.kv, 0, slice_of(NULL, 0), find_unfinished, &f);

	for (struct found *e = f.first, *next; e != NULL; e = next) {
		next = e->next;
		if (err == 0)
			err = snapshot_row_delete(s, e->bucket, slice_of(e->name, e->name_len));
		if (err == 0)
			log_info("removed a snapshot that was not finished when the server "
				 "stopped; name='%.*s'",
				(int)e->name_len, (const char *)e->name);
		free(e);
	}
	return err;
}

/* ---- start and stop ---- */

int snapshots_open(const struct snapshots_options *options, struct snapshots **out)
{
	struct snapshots *s = calloc(1, sizeof(*s));
	int err;

	*out = NULL;
	if (s == NULL) return -GRANARY_ENOMEM;
	s->o = *options;
	s->dirty = true; /* pages of one that was interrupted: the first pass looks */
	list_init(&s->leases);
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->change_lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	err = finish_interrupted(s);
	if (err == 0) err = leases_load(s);
	if (err < 0) {
		snapshots_close(&s);
		return err;
	}
	*out = s;
	return 0;
}

void snapshots_abort(struct snapshots *s)
{
	atomic_store(&s->stopping, true);
}

void snapshots_stop(struct snapshots *s)
{
	snapshots_abort(s);
	pthread_mutex_lock(&s->lock);
	while (!s->o.simulated && s->making > 0) pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

void snapshots_close(struct snapshots **sp)
{
	struct snapshots *s = *sp;

	*sp = NULL;
	if (s == NULL) return;
	for (uint32_t i = 0; i < OPEN_BUCKETS; i++)
		for (struct snapshot_open *o = s->open[i], *next; o != NULL; o = next) {
			next = o->next;
			open_free(o);
		}
	leases_free(s);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->change_lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}
