/* SPDX-License-Identifier: Apache-2.0 */
/* range_keep.c -- ranges whose bytes are on the node's own flash (node_cache.h), and keeping those that came.
 *
 * (1) a want is done only when all its units are there; bytes in between that nobody wants are not.
 * (2) what is part of a span comes from the server, which counts what each rank took of it.
 * (3) what the snapshot has no checksum of is not kept: nothing could tell later whether it is right. */
#include "node_cache.h"
#include "range.h"

struct store { uint8_t id[16]; };

static struct store store_of(struct granary_client *c)
{
	struct store s;

	pthread_mutex_lock(&c->lock);
	memcpy(s.id, c->info.store_id, sizeof(s.id));
	pthread_mutex_unlock(&c->lock);
	return s;
}

static struct node_cache_key unit_key(const struct store *s, const struct range_unit *u)
{
	struct node_cache_key k = { .pack = u->pack, .offset = u->offset, .len = u->len, .crc = u->crc };

	memcpy(k.store, s->id, sizeof(k.store));
	return k;
}

static bool want_kept(const struct range_plan *p, struct node_cache *cache, const struct store *s,
	const struct range_want *w)
{
	for (uint32_t i = 0; i < w->count; i++) {
		const struct range_unit *u = &p->units[w->first + i];
		struct node_cache_key k = unit_key(s, u);
		if (u->unsummed || !node_cache_get(cache, &k, u->dst))
			return false;
	}
	return true;
}

uint32_t range_kept(struct range_plan *p, struct granary_client *c)
{
	bool look = c->node_cache && !p->past_cache;
	struct store store = look ? store_of(c) : (struct store){ .id = { 0 } };
	uint32_t left = 0;

	for (uint32_t i = 0; i < p->wants_count; i++) {
		struct range_want *w = &p->wants[i];
		if (w->done) /* it was read by descriptor */
			continue;
		w->kept = w->done = look && w->span_length == 0 && want_kept(p, c->node_cache, &store, w);
		w->status = 0;
		left += !w->done;
		for (uint32_t u = 0; w->done && u < w->count; u++)
			p->units[w->first + u].bad = false;
	}
	return left;
}

void range_keep(const struct range_plan *p, const struct granary_snapshot *s)
{
	struct node_cache *cache = s->client->node_cache;
	struct store store = cache ? store_of(s->client) : (struct store){ .id = { 0 } };

	for (uint32_t i = 0; cache && i < p->wants_count; i++) {
		const struct range_want *w = &p->wants[i];
		for (uint32_t u = 0; !w->kept && w->done && w->span_length == 0 && u < w->count; u++) {
			const struct range_unit *unit = &p->units[w->first + u];
			struct node_cache_key k = unit_key(&store, unit);
			if (!unit->bad && !unit->unsummed)
				node_cache_put(cache, &k, unit->dst, s->manifest.bytes);
		}
	}
}
