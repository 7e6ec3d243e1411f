/* SPDX-License-Identifier: Apache-2.0 */
/* move_pack.c -- one pack is copied to a cold store, brought back, or loses one of two copies.
 * Invariants: (1) what the table says now decides, not what it said when the order was given; (2) a copy is
 * named by a row only after cold_write() read it back; one that lost the race for the row is removed; (3)
 * before a hot copy goes, the store is asked for the end of the cold one. */
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "jobs/link_lost.h"
#include "jobs/link_sums.h"
#include "jobs/move_priv.h"
#include "meta/ids.h"
#include "meta/rows.h"
#include "pack/cache.h"
#include "pack/check.h"
#include "pack/cold_write.h"
#include "pack/linked.h"
#include "tier/frames.h"
#include "tier/governor.h"
#include "tier/packs.h"
#include "tier/stores.h"

static bool is_stopped(const struct move_step *s)
{
	return atomic_load(&s->m->stopping);
}

static void sleep_ns(uint64_t ns)
{
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	nanosleep(&pause, NULL);
}

/* Keeps to the order's rate; what was read and what was written counts. */
static int rate_keep(struct move_step *s, uint64_t bytes)
{
	struct moves *m = s->m;
	uint64_t now = clock_mono_ns(), due;

	if (s->order->rate == 0) return 0;
	if (m->rate_from_ns == 0 || now - m->rate_from_ns > UINT64_C(10000000000)) {
		m->rate_from_ns = now;
		m->rate_bytes = 0;
	}
	m->rate_bytes += bytes;
	due = m->rate_from_ns + (uint64_t)((double)m->rate_bytes * 1e9 / (double)s->order->rate);
	if (due <= now) return 0;
	if (due - now > UINT64_C(1000000000)) due = now + UINT64_C(1000000000);
	sleep_ns(due - now);
	return 0;
}

/* And leaves reads of the foreground what they need. */
static int pace(void *arg, uint64_t bytes)
{
	struct move_step *s = arg;
	struct governor *g = s->m->o.governor;
	uint64_t pause_ns;

	if (is_stopped(s)) return -GRANARY_ESHUTDOWN;
	if (bytes == 0) return 0;
	while (g != NULL && (pause_ns = governor_pause(g, clock_mono_ns())) > 0) {
		sleep_ns(pause_ns);
		if (is_stopped(s)) return -GRANARY_ESHUTDOWN;
	}
	return rate_keep(s, bytes);
}

/* ---- to a store ---- */

static int copy_of(struct move_step *s, struct place *place, const struct cold_write *w, bool with_evict)
{
	struct copy *copy = copy_new(&w->info);
	char path[COPY_PATH_MAX];
	int err;

	if (copy == NULL) return -GRANARY_ENOMEM;
	/* Known before the row: a reader finds the index of what it reads. */
	if (w->frames != NULL) copy_frames_put(copy, w->frames);
	err = packs_add_cold(s->m->o.packs, s->pack, copy, with_evict);
	/* Nothing was applied; of any other error that is not known, and the sweep will judge. */
	if (err == -GRANARY_EBUSY || err == -GRANARY_ENOTFOUND || err == -GRANARY_EOFFLINE) {
		copy_forget(copy);
		copy_path(s->pack, w->info.name, path);
		(void)place_remove(place, path, clock_mono_ns() + s->m->o.timeout_ns);
	}
	copy_unref(&copy);
	return err;
}

static int to_store(struct move_step *s, struct pack *pack, bool with_evict)
{
	struct place *place = stores_find(s->m->o.stores, s->order->store);
	struct cold_write w = {
		.pack_id = s->pack, .place = place, .level = s->order->level, .pace = pace, .arg = s,
			.timeout_ns = s->m->o.timeout_ns
	};
	int err = place != NULL ? packs_open_file(s->m->o.packs, pack) : -GRANARY_ENOTFOUND;

	if (err < 0) return err;
	w.from = pack_file(pack);
	w.size = pack_fixed_size(pack);
	w.attempt = ids_object(s->m->o.ids);
	err = cold_write(&w);
	if (err == 0) err = copy_of(s, place, &w, with_evict);
	frames_unref(&w.frames);
	if (err < 0) return err;
	s->bytes_in += w.size;
	s->bytes_out += w.info.length;
	log_info("copied a pack to a cold store; pack=%016llx store=%s bytes=%llu stored=%llu codec=%u hot=%d",
		(unsigned long long)s->pack, place_name(place), (unsigned long long)w.size,
		(unsigned long long)w.info.length, w.info.codec, !with_evict);
	return 1;
}

/* Its last byte, and nothing behind it: it is there, and as long as the row says. Of a linked one each object. */
static int cold_is_there(struct move_step *s, const struct pack *pack)
{
	const struct copy_info *info = copy_info(pack_cold(pack));
	char path[COPY_PATH_MAX];
	uint8_t end[2];
	int64_t n;

	if (copy_is_linked(pack_cold(pack)))
		return linked_verify(s->m->o.linked, info->place, s->pack, s->m->o.timeout_ns);

	copy_path(info->pack_id, info->name, path);
	n = place_get(info->place, path, end, sizeof(end), info->length - 1, clock_mono_ns() + s->m->o.timeout_ns);
	return n < 0 ? (int)n : n == 1 ? 0 : -GRANARY_ECORRUPT;
}

static int evict(struct move_step *s, struct pack *pack)
{
	int err;

	if (!pack_is_hot(pack)) return 0;
	if (pack_cold(pack) == NULL) return -GRANARY_EINVAL;
	err = cold_is_there(s, pack);
	if (err == 0) err = packs_evict(s->m->o.packs, s->pack);
	/* What memory has of that file its readers verified; of what comes from the source nobody else can. */
	if (err == 0 && s->m->o.cache != NULL && copy_is_linked(pack_cold(pack)))
		cache_drop_pack(s->m->o.cache, s->pack);
	return err < 0 ? err : 1;
}

/* What rows say of a pack that was linked, once it is loaded. */
static int sums_take(struct move_step *s, const struct pack *pack)
{
	struct link_sums sums = { .kv = s->m->o.kv, .ns = s->m->o.ns, .packs = s->m->o.packs, .pace = pace, .arg = s };

	return copy_is_linked(pack_cold(pack)) ? link_sums(&sums, s->pack) : 0;
}

/* SOURCE: what was loaded of a linked pack lacks objects that were changed before. */
static int is_whole(struct move_step *s)
{
	return link_lost(&(struct link_lost){ .kv = s->m->o.kv, .ns = s->m->o.ns, .packs = s->m->o.packs }, s->pack);
}

static int hot_make(struct move_step *s)
{
	struct packs_move order = { .pace = pace, .arg = s };
	uint64_t bytes;
	int err = packs_repair_hot(s->m->o.packs, s->pack, &order, &bytes);

	if (err < 0) return err;
	s->bytes_in += bytes;
	s->bytes_out += bytes;
	return 1;
}

/* What was changed may be there again: then all of the pack is loaded anew. SOURCE: it is not. */
static int loaded_again(struct move_step *s, const struct pack *pack)
{
	int err, whole = is_whole(s);

	if (whole == -GRANARY_ESOURCE) whole = cold_is_there(s, pack) == 0 ? hot_make(s) : -GRANARY_ESOURCE;
	if (whole < 0 && whole != -GRANARY_ESOURCE) return whole;
	err = sums_take(s, pack); /* which a crash may have cut off */
	if (err == 0 && s->order->kind == MOVE_PROMOTE) err = packs_keep_hot(s->m->o.packs, s->pack);
	return err < 0 ? err : whole;
}

static int promote(struct move_step *s, const struct pack *pack)
{
	struct packs_move order = { .pace = pace, .arg = s, .brought = s->order->kind == MOVE_FETCH,
		.may_lose = true };
	uint64_t bytes;
	int err;

	if (pack_is_hot(pack)) return loaded_again(s, pack);
	err = packs_promote(s->m->o.packs, s->pack, &order, &bytes);
	if (err == 0) err = sums_take(s, pack);
	if (err < 0) return err;
	s->bytes_in += bytes;
	s->bytes_out += bytes;
	err = is_whole(s);
	return err < 0 ? err : 1;
}

/* A link is the last that leads to an object that was not loaded: its bytes may be there again. */
static int drop(struct move_step *s, const struct pack *pack)
{
	int err;

	if (pack_cold(pack) == NULL) return 0;
	if (s->order->store != 0 && place_id(copy_info(pack_cold(pack))->place) != s->order->store) return 0;
	err = is_whole(s);
	if (err == 0) err = packs_drop_cold(s->m->o.packs, s->pack);
	return err < 0 ? err : 1;
}

static int repair_hot(struct move_step *s)
{
	int err = hot_make(s);

	if (err > 0) log_warn("a damaged hot copy was made anew; pack=%016llx", (unsigned long long)s->pack);
	return err;
}

/* The hot one is judged first: then the cold one may go, and another takes its place. */
static int repair_cold(struct move_step *s, struct pack *pack)
{
	struct move_order order = *s->order;
	struct move_step copy = { .m = s->m, .order = &order, .pack = s->pack };
	struct pack_walk walk = { .pack_id = s->pack, .verify_data = true };
	struct pack *fresh;
	int err;

	if (pack_cold(pack) == NULL) return 0;
	if (!pack_is_hot(pack)) return -GRANARY_EINVAL;
	order.store = place_id(copy_info(pack_cold(pack))->place);
	if (order.level == 0) order.level = 3;
	err = packs_open_file(s->m->o.packs, pack);
	if (err == 0 && copy_of_file(pack_file(pack)) != NULL) err = -GRANARY_EOFFLINE;
	if (err == 0) err = pack_check_sealed(pack_file(pack), &walk);
	if (err == 0) err = packs_drop_cold(s->m->o.packs, s->pack);
	if (err < 0) return err;
	fresh = packs_ref(s->m->o.packs, s->pack);
	if (fresh == NULL) return 0;
	err = to_store(&copy, fresh, false);
	packs_unref(s->m->o.packs, fresh);
	s->bytes_in += copy.bytes_in;
	s->bytes_out += copy.bytes_out;
	if (err > 0) log_warn("a damaged cold copy was made anew; pack=%016llx", (unsigned long long)s->pack);
	return err;
}

/* Another store has its copy: one is enough for now. */
static int has_copy_elsewhere(const struct move_step *s, const struct pack *pack)
{
	return place_id(copy_info(pack_cold(pack))->place) != s->order->store ? -GRANARY_EINVAL : 0;
}

static int pack_run(struct move_step *s, struct pack *pack)
{
	struct pack_row row;
	int err = packs_row(s->m->o.packs, s->pack, &row);

	if (err < 0) return err == -GRANARY_ENOTFOUND ? 0 : err;
	if (row.state != PACK_SEALED) return row.state == PACK_OPEN ? -GRANARY_EBUSY : 0;
	if (pack_fixed_size(pack) == 0) return -GRANARY_EBUSY; /* its row is committed first, the table follows */
	switch ((enum move_kind)s->order->kind) {
	case MOVE_COPY: return pack_cold(pack) != NULL ? has_copy_elsewhere(s, pack) : to_store(s, pack, false);
	case MOVE_DEMOTE: return pack_cold(pack) != NULL ? evict(s, pack) : to_store(s, pack, true);
	case MOVE_EVICT: return evict(s, pack);
	case MOVE_PROMOTE:
	case MOVE_FETCH: return promote(s, pack);
	case MOVE_DROP: return drop(s, pack);
	case MOVE_REPAIR_HOT: return repair_hot(s);
	case MOVE_REPAIR_COLD: return repair_cold(s, pack);
	}
	return -GRANARY_EINVAL;
}

int move_pack_run(struct move_step *s)
{
	struct pack *pack = packs_ref(s->m->o.packs, s->pack);
	int res;

	if (pack == NULL) return 0; /* dying, or gone */
	res = pack_run(s, pack);
	packs_unref(s->m->o.packs, pack);
	return res;
}
