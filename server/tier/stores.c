/* SPDX-License-Identifier: Apache-2.0 */
/* stores.c -- the table of cold stores: rows, marks, health, and calls through the breaker.
 * Invariants: stores.h's, and: (1) the row says that a store is marked only after its mark was written; from
 * then on one without a mark, or with another's, is AWAY; (2) a pack's copy that is NOTFOUND makes the mark
 * unknown: it may be the whole store that is not there; (3) only errors of the place open the breaker: full
 * or no such object do not. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/quantity.h"
#include "common/rand.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/rows.h"
#include "tier/stores_priv.h"
#include "tier/super_text.h"

#define MARK        "granary.cold"
#define BREAK_NS    UINT64_C(250000000) /* first pause of an open breaker; doubled up to the next */
#define BREAK_NS_MAX UINT64_C(15000000000)
enum { FAILURES_MAX = 3, MARK_SIZE = 512, PROMOTE_AFTER = 3 };

/* ---- the table ---- */

uint32_t stores_count(const struct stores *stores)
{
	return stores->count;
}
struct place *stores_at(const struct stores *stores, uint32_t index)
{
	return index < stores->count ? stores->all[index] : NULL;
}

struct place *stores_find(const struct stores *stores, uint64_t id)
{
	for (uint32_t i = 0; stores != NULL && i < stores->count; i++)
		if (stores->all[i]->id == id && id != 0) return stores->all[i];
	return NULL;
}

struct place *stores_by_name(const struct stores *stores, const char *name)
{
	for (uint32_t i = 0; stores != NULL && i < stores->count; i++)
		if (strcmp(stores->all[i]->settings.name, name) == 0) return stores->all[i];
	return NULL;
}

uint64_t place_id(const struct place *p)
{
	return p->id;
}
const char *place_name(const struct place *p)
{
	return p->settings.name;
}
const char *place_where(const struct place *p)
{
	return p->cold != NULL ? p->cold->where : "";
}
const struct store_settings *place_settings(const struct place *p)
{
	return &p->settings;
}

void place_get_info(struct place *p, struct place_info *out)
{
	*out = (struct place_info){
		.health = (enum place_health)atomic_load(&p->health),
		.promote = p->promote,
		.promote_after = p->promote_after,
		.read_timeout_ns = p->read_timeout_ns,
		.gets = atomic_load(&p->gets),
		.get_bytes = atomic_load(&p->get_bytes),
		.puts = atomic_load(&p->puts),
		.put_bytes = atomic_load(&p->put_bytes),
		.errors = atomic_load(&p->errors),
		.timeouts = atomic_load(&p->timeouts),
		.hanging = atomic_load(&p->hanging),
	};
	if (p->kept != NULL) {
		struct kept_stats kept;

		kept_get_stats(p->kept, &kept);
		out->kept_hits = kept.hits;
		out->kept_pieces = kept.puts;
	}
	pthread_mutex_lock(&p->lock);
	out->err = p->err;
	memcpy(out->why, p->why, sizeof(out->why));
	pthread_mutex_unlock(&p->lock);
}

/* ---- health ---- */

__attribute__((format(printf, 3, 4))) static void note(struct place *p, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	pthread_mutex_lock(&p->lock);
	p->err = err;
	vsnprintf(p->why, sizeof(p->why), fmt, args);
	pthread_mutex_unlock(&p->lock);
	va_end(args);
}

static void went_away(struct place *p, int err)
{
	uint32_t failures = atomic_load(&p->failures);
	uint32_t doubled = failures < FAILURES_MAX ? 0 : failures - FAILURES_MAX < 6 ? failures - FAILURES_MAX : 6;
	uint64_t pause = BREAK_NS << doubled;

	uint32_t jitter;

	if (pause > BREAK_NS_MAX) pause = BREAK_NS_MAX;
	rand_bytes(&jitter, sizeof(jitter));
	atomic_store(&p->retry_ns, clock_mono_ns() + pause / 2 + jitter % (pause / 2 + 1));
	if (atomic_exchange(&p->health, PLACE_AWAY) != PLACE_AWAY)
		log_error("store '%s' is away: %s; reads of what lies only there fail, moves wait; where='%s' why='%s'",
			p->settings.name, error_text(err), place_where(p), p->why);
}

static bool is_of_place(int err)
{
	return err == -GRANARY_EOFFLINE || err == -GRANARY_ETIMEDOUT || err == -GRANARY_EBUSY ||
		err == -GRANARY_EIO ||
	       err == -GRANARY_EACCESS;
}

void place_failed(struct place *p, int err)
{
	uint32_t before;

	atomic_fetch_add(&p->errors, 1);
	if (err == -GRANARY_ETIMEDOUT) atomic_fetch_add(&p->timeouts, 1);
	if (!is_of_place(err)) return;
	before = atomic_fetch_add(&p->failures, 1);
	if (p->err != err) note(p, err, "%s", error_text(err));
	if (before + 1 >= FAILURES_MAX || err == -GRANARY_EACCESS) went_away(p, err);
}

static void went_well(struct place *p)
{
	if (atomic_load_explicit(&p->failures, memory_order_relaxed) > 0) atomic_store(&p->failures, 0);
}

bool place_is_away(const struct place *p)
{
	return p->cold == NULL ||
	       (atomic_load(&p->health) == PLACE_AWAY && clock_mono_ns() < atomic_load(&p->retry_ns));
}

/* ---- the mark ---- */

static int mark_text(const struct place *p, char out[MARK_SIZE])
{
	char hex[33];

	for (size_t i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", p->stores->o.store_id[i]);
	return snprintf(out, MARK_SIZE, "format=1\nstore=%s\ncold=%016" PRIx64 "\n", hex, p->id);
}

static int row_put(struct place *p, bool marked)
{
	uint8_t key[ROW_KEY_MAX], value[PLACE_VALUE_MAX];
	struct kv_txn *txn = kv_txn_new(p->stores->o.kv);
	struct wr w = wr_of(value, sizeof(value));
	int err;

	if (txn == NULL) return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put(&w, ZTAG_NAME, slice_str(p->settings.name));
	tlv_put(&w, ZTAG_MARKED, slice_of(marked ? "\1" : "\0", 1));
	assert(wr_ok(&w));
	kv_put(txn, row_cold(key, p->id), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(p->stores->o.kv, txn);
	kv_txn_free(&txn);
	return err;
}

/* A place that never had one: nobody's. */
static int mark_write(struct place *p, uint64_t deadline_ns)
{
	char text[MARK_SIZE];
	int len = mark_text(p, text), err;
	struct cold_put *put;

	err = p->cold->ops->put_begin(p->cold, MARK, (uint64_t)len, deadline_ns, &put);
	if (err == 0) err = put->ops->put_write(put, text, (size_t)len, deadline_ns);
	if (err == 0)
		err = put->ops->put_finish(&put, deadline_ns);
	else if (put != NULL)
		put->ops->put_abort(&put);
	if (err == 0) err = row_put(p, true);
	if (err == 0) atomic_store(&p->marked, true);
	return err;
}

/* 0: it is ours. */
static int mark_judge(struct place *p, const char *have, size_t len)
{
	char text[MARK_SIZE];
	int want = mark_text(p, text);

	if (len == (size_t)want && memcmp(have, text, len) == 0) {
		if (atomic_load(&p->marked)) return 0;
		atomic_store(&p->marked, true);
		return row_put(p, true);
	}
	note(p, -GRANARY_EOFFLINE, "'%s' belongs to another store, or to another entry of this one; its mark is %s",
		place_where(p), MARK);
	return -GRANARY_EOFFLINE;
}

static int mark_check(struct place *p, uint64_t deadline_ns)
{
	char have[MARK_SIZE];
	int64_t n;

	if (p->is_source) return -GRANARY_EREADONLY;
	n = p->cold->ops->get(p->cold, MARK, have, sizeof(have), 0, deadline_ns);
	if (n >= 0) return mark_judge(p, have, (size_t)n);
	if (n != -GRANARY_ENOTFOUND) return (int)n;
	if (!atomic_load(&p->marked)) return mark_write(p, deadline_ns);
	note(p, -GRANARY_EOFFLINE, "'%s' has no %s: it is not mounted, or not the place that it was",
		place_where(p), MARK);
	return -GRANARY_EOFFLINE;
}

int place_probe(struct place *p, uint64_t deadline_ns)
{
	int err = p->cold == NULL || p->id == 0 ? -GRANARY_EOFFLINE : p->is_source ? 0 : mark_check(p, deadline_ns);

	if (err < 0) {
		if (is_of_place(err)) atomic_store(&p->failures, FAILURES_MAX + atomic_load(&p->failures));
		place_failed(p, err);
		return err;
	}
	atomic_store(&p->failures, 0);
	if (atomic_exchange(&p->health, PLACE_ONLINE) == PLACE_AWAY)
		log_info("store '%s' is back; where='%s'", p->settings.name, place_where(p));
	return 0;
}

/* May a call go out? The breaker lets one through when its pause is over: that one looks for the mark. */
static int enter(struct place *p, uint64_t deadline_ns)
{
	uint8_t health = atomic_load(&p->health);
	uint64_t retry = atomic_load(&p->retry_ns), now;

	if (p->cold == NULL) return -GRANARY_EOFFLINE;
	if (health == PLACE_ONLINE) return 0;
	now = clock_mono_ns();
	if (health == PLACE_AWAY && (now < retry || !atomic_compare_exchange_strong(&p->retry_ns, &retry,
		now + BREAK_NS_MAX)))
		return -GRANARY_EOFFLINE;
	return place_probe(p, deadline_ns);
}

/* An object that a row names is not there: perhaps nothing is. */
static int64_t leave(struct place *p, int64_t res)
{
	if (res == -GRANARY_ENOTFOUND) {
		uint8_t online = PLACE_ONLINE;

		(void)atomic_compare_exchange_strong(&p->health, &online, PLACE_UNKNOWN);
	}
	if (res < 0)
		place_failed(p, (int)res);
	else
		went_well(p);
	return res;
}

/* ---- calls ---- */

int place_put_begin(struct place *p, const char *name, uint64_t len_max, uint64_t deadline_ns, struct cold_put **out)
{
	int err = enter(p, deadline_ns);

	*out = NULL;
	if (err == 0) err = mark_check(p, deadline_ns); /* never into an empty mount point */
	if (err == 0) err = p->cold->ops->put_begin(p->cold, name, len_max, deadline_ns, out);
	return (int)leave(p, err);
}

int place_put_write(struct place *p, struct cold_put *put, const void *buf, size_t len, uint64_t deadline_ns)
{
	int err = put->ops->put_write(put, buf, len, deadline_ns);

	if (err == 0) atomic_fetch_add(&p->put_bytes, len);
	return (int)leave(p, err);
}

int place_put_finish(struct place *p, struct cold_put **put, uint64_t deadline_ns)
{
	int err = (*put)->ops->put_finish(put, deadline_ns);

	if (err == 0) atomic_fetch_add(&p->puts, 1);
	return (int)leave(p, err);
}

void place_put_abort(struct cold_put **put)
{
	if (*put != NULL) (*put)->ops->put_abort(put);
}

int64_t place_get(struct place *p, const char *name, void *buf, size_t len, uint64_t offset, uint64_t deadline_ns)
{
	int64_t n = enter(p, deadline_ns);

	if (n == 0) n = p->cold->ops->get(p->cold, name, buf, len, offset, deadline_ns);
	if (n >= 0) {
		atomic_fetch_add(&p->gets, 1);
		atomic_fetch_add(&p->get_bytes, (uint64_t)n);
	}
	n = leave(p, n);
	/* Is it this object, or the whole place? */
	if (n == -GRANARY_ENOTFOUND && place_probe(p, deadline_ns) < 0) n = -GRANARY_EOFFLINE;
	return n;
}

int place_remove(struct place *p, const char *name, uint64_t deadline_ns)
{
	int err = enter(p, deadline_ns);

	/* What is not mounted has nothing to remove, and must not look as if it were done. */
	if (err == 0) err = mark_check(p, deadline_ns);
	if (err == 0) err = p->cold->ops->remove(p->cold, name, deadline_ns);
	return (int)leave(p, err);
}

int place_list(struct place *p, const char *prefix, uint64_t deadline_ns,
	int (*each)(void *arg, const char *name, uint64_t len), void *arg)
{
	int err = enter(p, deadline_ns);

	if (err == 0) err = mark_check(p, deadline_ns);
	if (err == 0) err = p->cold->ops->list(p->cold, prefix, deadline_ns, each, arg);
	return err > 0 ? err : (int)leave(p, err);
}

int place_space(struct place *p, uint64_t *total, uint64_t *available)
{
	if (p->cold == NULL || place_is_away(p)) return -GRANARY_EOFFLINE;
	return p->cold->ops->space != NULL ? p->cold->ops->space(p->cold, total, available) : -GRANARY_EUNSUPPORTED;
}

/* ---- sources ---- */

void stores_set_linked(struct stores *stores, const struct stores_linked *linked)
{
	stores->linked = *linked;
}

bool place_is_source(const struct place *p)
{
	return p->is_source;
}

int place_source_list(struct place *p, const char *prefix, uint64_t timeout_ns,
	int (*each)(void *arg, const struct source_object *o), void *arg)
{
	int err = p->is_source ? enter(p, clock_mono_ns() + timeout_ns) : -GRANARY_EINVAL;

	if (err == 0) err = p->cold->ops->source_list(p->cold, prefix, timeout_ns, each, arg);
	return err > 0 ? err : (int)leave(p, err);
}

/* That an object is another one now says nothing about the place. */
int place_source_get(struct place *p, const char *key, const char *tag, void *buf, size_t len, uint64_t offset,
	uint64_t deadline_ns)
{
	int err = p->is_source ? enter(p, deadline_ns) : -GRANARY_EINVAL;

	if (err == 0) err = p->cold->ops->source_get(p->cold, key, tag, buf, len, offset, deadline_ns);
	if (err == 0) {
		atomic_fetch_add(&p->gets, 1);
		atomic_fetch_add(&p->get_bytes, len);
	}
	return (int)leave(p, err);
}

/* ---- what is to be brought up ---- */

void stores_want(struct stores *stores, uint64_t pack_id)
{
	uint32_t i = 0;

	pthread_mutex_lock(&stores->wanted_lock);
	while (i < stores->wanted_count && stores->wanted[i] != pack_id) i++;
	if (i == stores->wanted_count && i < WANTED_MAX) stores->wanted[stores->wanted_count++] = pack_id;
	pthread_mutex_unlock(&stores->wanted_lock);
}

uint32_t stores_take_wanted(struct stores *stores, uint64_t *packs, uint32_t max)
{
	uint32_t n;

	pthread_mutex_lock(&stores->wanted_lock);
	n = stores->wanted_count < max ? stores->wanted_count : max;
	memcpy(packs, stores->wanted, n * sizeof(packs[0]));
	stores->wanted_count -= n;
	memmove(stores->wanted, stores->wanted + n, stores->wanted_count * sizeof(packs[0]));
	pthread_mutex_unlock(&stores->wanted_lock);
	return n;
}

/* ---- opening ---- */

static struct place *place_new(struct stores *stores, const char *name)
{
	struct place *p = stores->count < STORES_MAX ? calloc(1, sizeof(*p)) : NULL;

	if (p == NULL) return NULL;
	p->stores = stores;
	snprintf(p->settings.name, sizeof(p->settings.name), "%s", name);
	p->promote_after = PROMOTE_AFTER;
	p->read_timeout_ns = UINT64_C(10000000000);
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->jobs_lock, NULL);
	pthread_cond_init(&p->work, NULL);
	stores->all[stores->count++] = p;
	return p;
}

/* A cache: without it samples are read where they lie. */
static void kept_begin(struct place *p, const struct store_settings *s)
{
	uint64_t size = UINT64_C(1) << 30;
	char text[64];
	int err;

	p->promote_after = 1;
	if (store_setting(s, "promote_space", text, sizeof(text))) (void)quantity_size(text, &size);
	err = kept_open(p->stores->o.fs, s->name, size, p->stores->o.spare, &p->kept);
	if (err < 0)
		log_warn("store '%s': there is no room for samples that are read of it on flash: %s", s->name,
			error_text(err));
}

static int settings_take(struct place *p, const struct store_settings *s, char *why, size_t why_cap)
{
	char text[64], what[COLD_WHY_MAX];
	int err = store_settings_check(s, what, sizeof(what));

	if (err == 0) {
		(void)store_setting(s, "type", text, sizeof(text));
		err = cold_type_find(text)->open(s, &p->stores->o.env, &p->cold, what, sizeof(what));
	}
	if (err < 0) {
		snprintf(why, why_cap, "store '%s': %s", s->name, what);
		return err;
	}
	p->settings = *s;
	if (store_setting(s, "promote", text, sizeof(text)))
		p->promote = strcmp(text, "pack") == 0 ? PROMOTE_PACK : strcmp(text, "sample") == 0 ? PROMOTE_SAMPLE
											: PROMOTE_NONE;
	if (p->promote == PROMOTE_SAMPLE) kept_begin(p, s);
	if (store_setting(s, "use", text, sizeof(text))) p->is_source = strcmp(text, "source") == 0;
	if (store_setting(s, "promote_after", text, sizeof(text))) p->promote_after = (uint32_t)strtoul(text, NULL,
		10);
	if (store_setting(s, "read_timeout", text, sizeof(text))) p->read_timeout_ns = (uint64_t)(strtod(text,
		NULL) * 1e9);
	return 0;
}

static int row_load(struct stores *stores, struct slice key, struct slice value)
{
	char name[STORE_NAME_MAX];
	struct slice text;
	struct place *p;
	uint64_t marked;

	if (key.len != 9 || !value_bytes(value, ZTAG_NAME, &text) || text.len >= sizeof(name) ||
		!value_u64(value, ZTAG_MARKED, 0, &marked))
		return -GRANARY_ECORRUPT;
	snprintf(name, sizeof(name), "%.*s", (int)text.len, (const char *)text.p);
	p = place_new(stores, name);
	if (p == NULL) return -GRANARY_ETOOBIG;
	p->id = be64_get(key.p + 1);
	atomic_store(&p->marked, marked != 0);
	return 0;
}

static int rows_load(struct stores *stores)
{
	struct kv_iter *it = kv_iter_new(stores->o.kv, NULL);
	int err = it != NULL ? 0 : -GRANARY_ENOMEM;

	if (err == 0) kv_iter_seek(it, slice_str("z"));
	for (; err == 0 && kv_iter_valid(it) && kv_iter_key(it).p[0] == 'z'; kv_iter_next(it))
		err = row_load(stores, kv_iter_key(it), kv_iter_value(it));
	if (err == 0) err = kv_iter_error(it);
	if (it != NULL) kv_iter_free(&it);
	return err;
}

int stores_open(const struct stores_options *options, struct stores **out, char *why, size_t why_cap)
{
	struct stores *stores = calloc(1, sizeof(*stores));
	int err;

	*out = NULL;
	if (stores == NULL) return -GRANARY_ENOMEM;
	stores->o = *options;
	if (stores->o.threads == 0) stores->o.threads = 8;
	if (stores->o.threads > PLACE_THREADS_MAX) stores->o.threads = PLACE_THREADS_MAX;
	if (stores->o.frames_budget == 0) stores->o.frames_budget = UINT64_C(64) << 20;
	pthread_mutex_init(&stores->watch_lock, NULL);
	pthread_mutex_init(&stores->frames_lock, NULL);
	pthread_mutex_init(&stores->wanted_lock, NULL);
	list_init(&stores->frames);
	err = rows_load(stores);
	if (err < 0) snprintf(why, why_cap, "cannot read the rows of cold stores: %s", error_text(err));
	for (uint32_t i = 0; err == 0 && i < options->settings_count; i++) {
		struct place *p = stores_by_name(stores, options->settings[i].name);

		if (p == NULL) p = place_new(stores, options->settings[i].name);
		if (p == NULL) {
			snprintf(why, why_cap, "stores: more than %d, with those that packs still lie in",
				STORES_MAX);
			err = -GRANARY_ECONFIG;
		} else
			err = settings_take(p, &options->settings[i], why, why_cap);
	}
	if (err == 0) err = jobs_table_start(stores);
	if (err < 0) stores_close(&stores);
	*out = stores;
	return err;
}

int stores_begin(struct stores *stores, struct ids *ids, char *why, size_t why_cap)
{
	for (uint32_t i = 0; i < stores->count; i++) {
		struct place *p = stores->all[i];
		int err = 0;

		if (p->cold == NULL) {
			note(p, -GRANARY_EOFFLINE,
				"no settings name this store, but rows do: give `stores: %s:` again",
				p->settings.name);
			atomic_store(&p->health, PLACE_AWAY);
			log_warn("store '%s' is not in the settings; what lies only there cannot be read",
				p->settings.name);
		}
		if (p->id != 0) continue;
		p->id = ids_object(ids);
		err = row_put(p, false);
		if (err < 0) {
			snprintf(why, why_cap, "cannot number the store '%s': %s", p->settings.name, error_text(err));
			return err;
		}
	}
	return 0;
}

static void place_free(struct place *p)
{
	kept_close(&p->kept);
	if (p->cold != NULL) p->cold->ops->close(p->cold);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->jobs_lock);
	pthread_cond_destroy(&p->work);
	free(p);
}

void stores_close(struct stores **sp)
{
	struct stores *stores = *sp;

	*sp = NULL;
	if (stores == NULL) return;
	if (!jobs_table_stop(stores)) return; /* a thread hangs in a store: it keeps what it uses */
	assert(list_empty(&stores->frames));
	for (uint32_t i = 0; i < stores->count; i++) place_free(stores->all[i]);
	pthread_mutex_destroy(&stores->watch_lock);
	pthread_mutex_destroy(&stores->frames_lock);
	pthread_mutex_destroy(&stores->wanted_lock);
	free(stores);
}
