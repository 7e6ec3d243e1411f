/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_pages.c -- pages of a snapshot's table as they are needed, mapped within a limit.
 *
 * AWAY -> HERE  pages_load()   mapped from the node's store, or fetched, verified and left there for others
 * HERE -> AWAY  slot_evict()   least recently used, in nobody's use, when more than held_max bytes are mapped
 *
 * (1) what came has the hash it was asked by; one that this handle verified before is mapped again without reading it.
 * (2) a page that someone got stays until it is put; then it may go, and is mapped again when it is needed.
 * (3) processes of a node share the work: a page that another one is fetching is left to it, unless that takes long. */
#include "snapshot_priv.h"

#include <stdlib.h>
#include <time.h>

#include "common/clock.h"

enum { LOADS_MAX = 4, LIMIT_SHARE = 4, WAIT_NS = 2000000 };
#define WAIT_MAX_NS UINT64_C(5000000000)

struct page_slot {
	struct stored file;          /* p NULL: away */
	struct snap_page page;
	uint64_t used;
	uint32_t refs;
	bool known;                  /* its hash was verified by this handle */
};

static struct granary_call pages_call(const struct granary_snapshot *s)
{
	return (struct granary_call){ .size = sizeof(struct granary_call), .bucket = s->bucket,
		.timeout_ms = s->timeout_ms };
}

int snapshot_pages_open(struct granary_snapshot *s)
{
	s->slots = calloc((size_t)s->manifest.page_count + 1, sizeof(*s->slots));
	s->held_max = s->client->config.memory_max / LIMIT_SHARE;
	return s->slots ? 0 : -GRANARY_ENOMEM;
}

void snapshot_pages_close(struct granary_snapshot *s)
{
	for (uint32_t i = 0; s->slots && i < s->manifest.page_count; i++)
		stored_close(&s->slots[i].file);
	free(s->slots);
	s->slots = NULL;
}

/* ---- pages that are here ---- */

static void slot_evict(struct granary_snapshot *s, struct page_slot *slot)
{
	s->held -= slot->file.len;
	s->here--;
	stored_close(&slot->file);
}

/* Lock held. Makes room for `bytes`, as far as pages are in nobody's use. */
static void slots_trim(struct granary_snapshot *s, uint64_t bytes)
{
	while (s->held + bytes > s->held_max) {
		struct page_slot *least = NULL;
		for (uint32_t i = 0; i < s->manifest.page_count; i++) {
			struct page_slot *slot = &s->slots[i];
			if (slot->file.p && slot->refs == 0 && (!least || slot->used < least->used))
				least = slot;
		}
		if (!least)
			return;
		slot_evict(s, least);
	}
}

void snapshot_pages_limit(struct granary_snapshot *s, uint64_t bytes)
{
	pthread_mutex_lock(&s->lock);
	s->held_max = bytes;
	slots_trim(s, 0);
	pthread_mutex_unlock(&s->lock);
}

/* Verified bytes become the page; `pin` takes a reference. */
static int slot_take(struct granary_snapshot *s, uint32_t index, struct stored *file, bool pin)
{
	const struct snap_page_ref *ref = &s->manifest.pages[index];
	struct page_slot *slot = &s->slots[index];
	struct snap_page page;
	int err = snap_page_parse_known(file->p, file->len, &page);

	if (err == 0 && (page.samples != ref->samples || page.fields != s->manifest.fields))
		err = -GRANARY_ECORRUPT;
	if (err < 0) {
		stored_close(file);
		return error_fail(s->client, err, "page %u of snapshot '%s' cannot be read: %s", index, s->name,
			error_text(err));
	}
	pthread_mutex_lock(&s->lock);
	slots_trim(s, file->len);
	slot->file = *file;
	slot->page = page;
	slot->known = true;
	slot->used = ++s->clock;
	slot->refs += pin;
	s->held += file->len;
	s->here++;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* true: it is here, and `pin` took a reference. */
static bool slot_find(struct granary_snapshot *s, uint32_t index, bool pin)
{
	struct page_slot *slot = &s->slots[index];

	pthread_mutex_lock(&s->lock);
	bool here = slot->file.p != NULL;
	if (here) {
		slot->used = ++s->clock;
		slot->refs += pin;
	}
	pthread_mutex_unlock(&s->lock);
	return here;
}

void snapshot_page_put(struct granary_snapshot *s, uint32_t index)
{
	pthread_mutex_lock(&s->lock);
	s->slots[index].refs--;
	if (s->held > s->held_max)
		slots_trim(s, 0);
	pthread_mutex_unlock(&s->lock);
}

/* ---- fetching ---- */

struct load {
	uint32_t index;
	struct storing to;
	struct granary_op *op;       /* NULL: free */
	struct page_out piece;
	size_t done;
};

static int load_ask(struct granary_snapshot *s, struct load *l)
{
	struct granary_call call = pages_call(s);
	size_t left = l->to.len - l->done;

	l->piece = (struct page_out){ l->to.p + l->done, left < SNAPSHOT_PIECE ? left : SNAPSHOT_PIECE, 0 };
	return snapshot_fetch_start(s->client, s->name, l->to.hash, l->done, &l->piece, &call, &l->op);
}

static int load_begin(struct granary_snapshot *s, struct load *l, struct hash128 hash, size_t size, bool alone)
{
	int err = storing_begin(hash, size, alone, &l->to);

	if (err < 0)
		return err == -GRANARY_ENOMEM ? error_fail(s->client, err, "out of memory") : err;
	l->done = 0;
	err = load_ask(s, l);
	if (err < 0)
		storing_abandon(&l->to);
	return err;
}

/* Waits for the piece under way. 1: the file is whole and has its hash; 0: the next piece is under way. */
static int load_step(struct granary_snapshot *s, struct load *l)
{
	int err = (int)granary_wait(l->op, GRANARY_FOREVER);

	if (err < 0)
		error_fail(s->client, err, "cannot read a page of snapshot '%s': %s", s->name,
			granary_op_error(l->op));
	granary_op_free(&l->op);
	if (err == 0 && l->piece.size != l->to.len)
		err = error_fail(s->client, -GRANARY_ECORRUPT, "a page of snapshot '%s' has another size than its "
			"manifest says", s->name);
	l->done += l->piece.want;
	if (err == 0 && l->done < l->to.len)
		err = load_ask(s, l);
	else if (err == 0)
		err = 1;
	struct hash128 is = err == 1 ? hash_content(l->to.p, l->to.len) : l->to.hash;
	if (is.lo != l->to.hash.lo || is.hi != l->to.hash.hi)
		err = error_fail(s->client, -GRANARY_ECORRUPT, "a page of snapshot '%s' does not have its hash",
			s->name);
	if (err < 0)
		storing_abandon(&l->to);
	return err;
}

static void load_cancel(struct load *l)
{
	if (!l->op)
		return;
	granary_op_free(&l->op);
	storing_abandon(&l->to);
}

static void wait_for_others(void)
{
	struct timespec pause = { .tv_nsec = WAIT_NS };

	nanosleep(&pause, NULL);
}

int snapshot_file(struct granary_snapshot *s, struct hash128 hash, size_t size, struct stored *out)
{
	uint64_t since = clock_mono_ns();
	struct load l = { .op = NULL };

	for (;;) {
		if (stored_open(hash, size, false, out))
			return 0;
		int err = load_begin(s, &l, hash, size, clock_mono_ns() - since > WAIT_MAX_NS);
		while (err == 0)
			err = load_step(s, &l);
		if (err == 1)
			storing_end(&l.to, out);
		if (err != -GRANARY_EAGAIN)
			return err < 0 ? err : 0;
		wait_for_others();
	}
}

/* ---- several at a time ---- */

struct loads {
	struct granary_snapshot *s;
	const uint32_t *indices;
	uint32_t count, next;        /* next: the first not looked at in this round */
	uint32_t left;               /* found busy in this round */
	bool pin;                    /* count is 1: takes a reference */
	uint64_t since;
	struct load all[LOADS_MAX];
	uint32_t width, active;      /* width: how many at a time; each takes memory twice while it comes */
};

static struct loads loads_of(struct granary_snapshot *s, const uint32_t *indices)
{
	uint64_t width = s->held_max / (2 * SNAPSHOT_PIECE);

	return (struct loads){ .s = s, .indices = indices, .since = clock_mono_ns(),
		.width = width < 1 ? 1 : width > LOADS_MAX ? LOADS_MAX : (uint32_t)width };
}

/* Looks at one page: here, in the store, or under way in `l`. */
static int loads_look(struct loads *p, struct load *l, uint32_t index)
{
	struct granary_snapshot *s = p->s;
	const struct snap_page_ref *ref = &s->manifest.pages[index];
	struct stored file;

	if (slot_find(s, index, p->pin))
		return 0;
	if (stored_open(ref->hash, ref->size, s->slots[index].known, &file))
		return slot_take(s, index, &file, p->pin);
	int err = load_begin(s, l, ref->hash, ref->size, clock_mono_ns() - p->since > WAIT_MAX_NS);
	if (err == -GRANARY_EAGAIN) {
		p->left++;
		return 0;
	}
	l->index = index;
	p->active += err == 0;
	return err;
}

static int loads_step(struct loads *p, struct load *l)
{
	struct stored file;
	int err = load_step(p->s, l);

	p->active -= err != 0;
	if (err != 1)
		return err;
	storing_end(&l->to, &file);
	return slot_take(p->s, l->index, &file, p->pin);
}

static int loads_run(struct loads *p)
{
	int err = 0;

	while (err == 0 && (p->next < p->count || p->active > 0 || p->left > 0)) {
		for (uint32_t i = 0; err == 0 && i < p->width; i++)
			while (err == 0 && !p->all[i].op && p->next < p->count)
				err = loads_look(p, &p->all[i], p->indices[p->next++]);
		for (uint32_t i = 0; err == 0 && i < p->width; i++)
			if (p->all[i].op)
				err = loads_step(p, &p->all[i]);
		if (p->active > 0 || p->next < p->count || p->left == 0)
			continue;
		wait_for_others();
		p->next = p->left = 0;
	}
	for (uint32_t i = 0; i < LOADS_MAX; i++)
		load_cancel(&p->all[i]);
	return err;
}

int snapshot_pages_load(struct granary_snapshot *s, const uint32_t *indices, uint32_t count)
{
	struct loads p = loads_of(s, indices);
	uint64_t bytes = 0;

	pthread_mutex_lock(&s->lock);
	bool whole = s->here == s->manifest.page_count;
	pthread_mutex_unlock(&s->lock);
	if (whole)
		return 0;
	while (p.count < count && (bytes += s->manifest.pages[indices[p.count]].size) <= s->held_max)
		p.count++;
	pthread_mutex_lock(&s->loading);
	int err = loads_run(&p);
	pthread_mutex_unlock(&s->loading);
	return err;
}

int snapshot_page_get(struct granary_snapshot *s, uint32_t index, const struct snap_page **out)
{
	*out = &s->slots[index].page;
	if (slot_find(s, index, true))
		return 0;
	struct loads p = loads_of(s, &index);
	p.count = 1;
	p.pin = true;
	pthread_mutex_lock(&s->loading);
	int err = loads_run(&p);
	pthread_mutex_unlock(&s->loading);
	return err;
}

/* ---- one page after the other ---- */

int page_cursor_to(struct granary_snapshot *s, struct page_cursor *c, uint64_t id)
{
	if (c->page && id >= c->first && id < c->end)
		return 0;
	uint32_t index = snapshot_page_of(s, id), at = index % CURSOR_PAGES;
	int err = 0;
	if (c->held[at].page && c->held[at].index != index) {
		snapshot_page_put(s, c->held[at].index);
		c->held[at].page = NULL;
	}
	if (!c->held[at].page)
		err = snapshot_page_get(s, index, &c->held[at].page);
	if (err < 0)
		c->held[at].page = NULL;
	c->held[at].index = index;
	c->page = c->held[at].page;
	c->first = s->first_ids[index];
	c->end = s->first_ids[index + 1];
	return err;
}

void page_cursor_fetch(const struct granary_snapshot *s, const struct page_cursor *c, uint64_t id)
{
	uint32_t index = snapshot_page_of(s, id), at = index % CURSOR_PAGES;

	if (c->held[at].page && c->held[at].index == index)
		snap_page_fetch(c->held[at].page, (id - s->first_ids[index]) * s->manifest.fields);
}

void page_cursor_end(struct granary_snapshot *s, struct page_cursor *c)
{
	for (uint32_t i = 0; i < CURSOR_PAGES; i++)
		if (c->held[i].page)
			snapshot_page_put(s, c->held[i].index);
	*c = (struct page_cursor){ .page = NULL };
}
