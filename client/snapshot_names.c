/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot_names.c -- the names of a snapshot: by key, by number, one after the other.
 *
 * (1) names pages stay mapped, the latest used ones, within a share of the client's memory; one in use stays.
 * (2) a page is parsed, its checksum with it, once each time it is mapped.
 * (3) the number of a name is the entries of the names pages before its own, plus its place there. */
#include <stdlib.h>

#include "snapshot_priv.h"

enum { LIMIT_SHARE = 8 };

struct names_slot {
	struct stored file; /* p NULL: away */
	struct snap_names page;
	uint64_t used;
	uint32_t refs;
};
struct names_slots {
	pthread_mutex_t lock; /* all below */
	uint64_t held, held_max, clock;
	struct names_slot slots[];
};

int snapshot_names_open(struct granary_snapshot *s)
{
	uint32_t count = s->manifest.names_count;

	s->first_names = calloc((size_t)count + 1, sizeof(*s->first_names));
	s->names = calloc(1, sizeof(*s->names) + (size_t)count * sizeof(s->names->slots[0]));
	if (!s->first_names || !s->names) return -GRANARY_ENOMEM;
	pthread_mutex_init(&s->names->lock, NULL);
	s->names->held_max = s->client->config.memory_max / LIMIT_SHARE;
	for (uint32_t i = 0; i < count; i++) s->first_names[i + 1] = s->first_names[i] + s->manifest.names[i].entries;
	return 0;
}

void snapshot_names_close(struct granary_snapshot *s)
{
	if (s->names) {
		for (uint32_t i = 0; i < s->manifest.names_count; i++) stored_close(&s->names->slots[i].file);
		pthread_mutex_destroy(&s->names->lock);
	}
	free(s->names);
	free(s->first_names);
}

/* ---- pages ---- */

/* Lock held. */
static void names_trim(struct granary_snapshot *s, uint64_t bytes)
{
	struct names_slots *n = s->names;

	while (n->held + bytes > n->held_max) {
		struct names_slot *least = NULL;
		for (uint32_t i = 0; i < s->manifest.names_count; i++) {
			struct names_slot *slot = &n->slots[i];
			if (slot->file.p && slot->refs == 0 && (!least || slot->used < least->used)) least = slot;
		}
		if (!least) return;
		n->held -= least->file.len;
		stored_close(&least->file);
	}
}

static bool names_find(struct names_slots *n, struct names_slot *slot)
{
	pthread_mutex_lock(&n->lock);
	bool here = slot->file.p != NULL;
	if (here) {
		slot->refs++;
		slot->used = ++n->clock;
	}
	pthread_mutex_unlock(&n->lock);
	return here;
}

/* The page, mapped when it is not here; stays until it is put. */
static int names_get(struct granary_snapshot *s, uint32_t index, const struct snap_names **out)
{
	const struct snap_names_ref *ref = &s->manifest.names[index];
	struct names_slot *slot = &s->names->slots[index];
	struct stored file;
	struct snap_names page;

	*out = &slot->page;
	if (names_find(s->names, slot)) return 0;
	int err = snapshot_file(s, ref->hash, ref->size, &file);
	if (err < 0) return err;
	err = snap_names_parse(file.p, file.len, &page);
	if (err == 0 && page.count != ref->entries) err = -GRANARY_ECORRUPT;
	if (err < 0) {
		stored_close(&file);
		return error_fail(
			s->client, err, "the names of snapshot '%s' cannot be read: %s", s->name, error_text(err));
	}
	pthread_mutex_lock(&s->names->lock);
	if (slot->file.p) { /* another thread was faster */
		stored_close(&file);
	} else {
		names_trim(s, file.len);
		slot->file = file;
		slot->page = page;
		s->names->held += file.len;
	}
	slot->refs++;
	slot->used = ++s->names->clock;
	pthread_mutex_unlock(&s->names->lock);
	return 0;
}

static void names_put(struct granary_snapshot *s, uint32_t index)
{
	pthread_mutex_lock(&s->names->lock);
	s->names->slots[index].refs--;
	pthread_mutex_unlock(&s->names->lock);
}

/* ---- what a name means ---- */

/* The dense id that a row of a names page means; false when the manifest has no such sample. */
static bool name_id(const struct granary_snapshot *s, const struct snap_name *n, uint64_t *id)
{
	const struct snap_page_ref *pages = s->manifest.pages;
	uint32_t low = 0, high = s->manifest.page_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (pages[s->by_pack[middle]].pack < n->pack)
			low = middle + 1;
		else
			high = middle;
	}
	uint32_t page = low < s->manifest.page_count ? s->by_pack[low] : 0;
	if (low == s->manifest.page_count || pages[page].pack != n->pack || n->slot >= pages[page].samples)
		return false;
	*id = s->first_ids[page] + n->slot;
	return true;
}

/* The names page in which a key would be. */
static uint32_t page_of_key(const struct granary_snapshot *s, struct slice key)
{
	uint32_t low = 0, high = s->manifest.names_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (slice_compare(s->manifest.names[middle].first, key) <= 0)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static uint32_t page_of_number(const struct granary_snapshot *s, uint64_t number)
{
	uint32_t low = 0, high = s->manifest.names_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (s->first_names[middle] <= number)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static int names_fail(struct granary_snapshot *s, int err)
{
	return error_fail(s->client, err, "the names of snapshot '%s' cannot be read: %s", s->name, error_text(err));
}

/* ---- walks ---- */

struct walk {
	struct granary_snapshot *snapshot;
	granary_name_fn *fn;
	void *arg;
	bool by_number; /* the first page is entered at `place`, else at `key` */
	uint32_t place;
	struct slice key;
};

/* What is left of one page; 0 to go on to the next. */
static int walk_page(struct walk *w, uint32_t index)
{
	struct granary_snapshot *s = w->snapshot;
	const struct snap_names *page;
	struct snap_names_iter it;
	struct snap_name n;
	char key[SNAP_KEY_MAX + 1];
	uint64_t id;
	int stop = 0, err = names_get(s, index, &page);

	if (err < 0) return err;
	if (w->by_number)
		snap_names_at(page, w->place, &it);
	else
		snap_names_seek(page, w->key, &it);
	while (stop == 0 && err == 0 && snap_names_next(&it, &n)) {
		if (n.key.len > SNAP_KEY_MAX || !name_id(s, &n, &id)) {
			err = names_fail(s, -GRANARY_ECORRUPT);
			break;
		}
		memcpy(key, n.key.p, n.key.len);
		key[n.key.len] = '\0';
		stop = w->fn(w->arg, key, id, n.field);
	}
	if (stop == 0 && err == 0 && it.err < 0) err = names_fail(s, it.err);
	names_put(s, index);
	return stop != 0 ? stop : err;
}

static int walk_run(struct walk *w, uint32_t first)
{
	int err = client_enter(w->snapshot->client);

	for (uint32_t i = first; err == 0 && i < w->snapshot->manifest.names_count; i++) {
		err = walk_page(w, i);
		w->by_number = true; /* the pages after it from their beginning */
		w->place = 0;
	}
	return err;
}

int granary_snapshot_names(struct granary_snapshot *snapshot, const char *from, granary_name_fn *fn, void *arg)
{
	struct walk w = { .snapshot = snapshot, .fn = fn, .arg = arg, .key = slice_str(from ? from : "") };

	return walk_run(&w, page_of_key(snapshot, w.key));
}

int granary_snapshot_names_at(struct granary_snapshot *snapshot, uint64_t first, granary_name_fn *fn, void *arg)
{
	struct walk w = { .snapshot = snapshot, .fn = fn, .arg = arg, .by_number = true };
	uint32_t page = page_of_number(snapshot, first);

	if (first >= snapshot->first_names[snapshot->manifest.names_count]) return 0;
	w.place = (uint32_t)(first - snapshot->first_names[page]);
	return walk_run(&w, page);
}

/* ---- one name ---- */

int granary_snapshot_name_number(struct granary_snapshot *snapshot, const char *key, uint64_t *number)
{
	const struct snap_names *page;
	struct snap_names_iter it;
	struct slice wanted = slice_str(key);
	uint32_t index = page_of_key(snapshot, wanted);
	int err = client_enter(snapshot->client);

	*number = 0;
	if (err < 0 || snapshot->manifest.names_count == 0) return err;
	err = names_get(snapshot, index, &page);
	if (err < 0) return err;
	snap_names_seek(page, wanted, &it);
	if (it.err < 0)
		err = names_fail(snapshot, it.err);
	else
		*number = snapshot->first_names[index] + it.index;
	names_put(snapshot, index);
	return err;
}

struct find {
	const char *key;
	uint64_t *id;
	uint32_t *field;
	bool found;
};

static int find_name(void *arg, const char *key, uint64_t id, uint32_t field)
{
	struct find *f = arg;

	f->found = strcmp(key, f->key) == 0;
	if (f->found) {
		*f->id = id;
		if (f->field) *f->field = field;
	}
	return 1;
}

int granary_snapshot_find(struct granary_snapshot *snapshot, const char *key, uint64_t *id, uint32_t *field)
{
	struct find f = { key, id, field, false };
	int err = granary_snapshot_names(snapshot, key, find_name, &f);

	if (err < 0) return err;
	return f.found ? 0
		       : error_fail(snapshot->client, -GRANARY_ENOTFOUND, "'%.300s' is not in snapshot '%s'", key,
				 snapshot->name);
}
