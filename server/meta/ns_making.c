/* SPDX-License-Identifier: Apache-2.0 */
/* ns_making.c -- directories that are being made and objects that are being rewritten: two small tables that let
 * concurrent requests agree before the key-value store can tell them.
 *
 * Invariants: (1) both only save work or narrow races: if an entry is lost, the commit's preconditions still refuse
 * what is wrong; (2) an id leaves `making` for good when its directory was committed, so a directory that is removed
 * and made again gets a new one; (3) `erased` grows under the mutex with every such leaving: a reader who found a row
 * missing before it asks again instead of inventing a second id for a directory that exists by now; (4) `making`
 * keeps at most MAKING_MAX entries, the oldest go first. */
#include <assert.h>
#include <stdlib.h>

#include "meta/ns_priv.h"

enum { MAKING_SLOTS = 4096, MAKING_MAX = 65536, REWRITING_SLOTS = 4096 };

struct making_entry {
	struct list age;
	struct making_entry *next;
	uint64_t hash, parent, id;
	uint32_t submitted; /* plans that put its rows and are at the committer */
	uint32_t name_len;
	uint8_t name[];
};

struct making {
	pthread_mutex_t lock;
	uint64_t seed, erased;
	struct list by_age;
	uint32_t count;
	struct making_entry *slots[MAKING_SLOTS];
};

struct making *making_new(void)
{
	struct making *m = calloc(1, sizeof(*m));
	if (m == NULL)
		return NULL;
	pthread_mutex_init(&m->lock, NULL);
	list_init(&m->by_age);
	m->seed = clock_mono_ns();
	return m;
}

static struct making_entry **making_slot(struct making *m, uint64_t parent, struct slice name, uint64_t *hash)
{
	*hash = hash_keyed(m->seed, parent, name.p, name.len).lo;
	struct making_entry **at = &m->slots[*hash % MAKING_SLOTS];
	while (*at != NULL && ((*at)->hash != *hash || (*at)->parent != parent ||
			       !slice_eq(slice_of((*at)->name, (*at)->name_len), name)))
		at = &(*at)->next;
	return at;
}

static void making_unlink(struct making *m, struct making_entry **at)
{
	struct making_entry *e = *at;
	*at = e->next;
	list_remove(&e->age);
	m->count--;
	free(e);
}

static void making_drop_oldest(struct making *m)
{
	uint64_t hash;
	struct making_entry *e = container_of(m->by_age.next, struct making_entry, age);
	making_unlink(m, making_slot(m, e->parent, slice_of(e->name, e->name_len), &hash));
}

void making_free(struct making **mp)
{
	struct making *m = *mp;
	*mp = NULL;
	if (m == NULL)
		return;
	while (m->count > 0)
		making_drop_oldest(m);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

uint64_t making_erased(struct making *m)
{
	pthread_mutex_lock(&m->lock);
	uint64_t erased = m->erased;
	pthread_mutex_unlock(&m->lock);
	return erased;
}

uint64_t making_id(struct making *m, struct ids *ids, uint64_t parent, struct slice name, uint64_t erased_before)
{
	uint64_t hash, id = 0;
	pthread_mutex_lock(&m->lock);
	struct making_entry **at = making_slot(m, parent, name, &hash);
	if (*at != NULL) {
		id = (*at)->id;
	} else if (m->erased == erased_before) {
		id = ids_object(ids);
		struct making_entry *e = malloc(sizeof(*e) + name.len);
		if (e != NULL) { /* without it others invent their own id and have to append anew: invariant (1) */
			*e = (struct making_entry){ .hash = hash, .parent = parent, .id = id,
				.name_len = (uint32_t)name.len };
			if (name.len > 0)
				memcpy(e->name, name.p, name.len);
			*at = e;
			list_push(&m->by_age, &e->age);
			if (++m->count > MAKING_MAX)
				making_drop_oldest(m);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return id;
}

void making_submit(struct making *m, uint64_t parent, struct slice name, uint64_t id)
{
	uint64_t hash;
	pthread_mutex_lock(&m->lock);
	struct making_entry *e = *making_slot(m, parent, name, &hash);
	if (e != NULL && e->id == id)
		e->submitted++;
	pthread_mutex_unlock(&m->lock);
}

void making_done(struct making *m, uint64_t parent, struct slice name, uint64_t id, bool was_submitted, bool committed)
{
	uint64_t hash;
	pthread_mutex_lock(&m->lock);
	struct making_entry **at = making_slot(m, parent, name, &hash);
	if (*at != NULL && (*at)->id == id) {
		if (committed) {
			making_unlink(m, at);
			m->erased++;
		} else if (was_submitted && (*at)->submitted > 0) {
			(*at)->submitted--;
		}
	}
	pthread_mutex_unlock(&m->lock);
}

bool making_is_submitted(struct making *m, uint64_t parent, struct slice name, uint64_t id)
{
	uint64_t hash;
	pthread_mutex_lock(&m->lock);
	const struct making_entry *e = *making_slot(m, parent, name, &hash);
	bool is_submitted = e != NULL && e->id == id && e->submitted > 0;
	pthread_mutex_unlock(&m->lock);
	return is_submitted;
}

struct rewriting_entry {
	struct rewriting_entry *next;
	uint64_t id;
};

struct rewriting {
	pthread_mutex_t lock;
	struct rewriting_entry *slots[REWRITING_SLOTS];
};

struct rewriting *rewriting_new(void)
{
	struct rewriting *r = calloc(1, sizeof(*r));
	if (r != NULL)
		pthread_mutex_init(&r->lock, NULL);
	return r;
}

void rewriting_free(struct rewriting **rp)
{
	struct rewriting *r = *rp;
	*rp = NULL;
	if (r == NULL)
		return;
	for (int i = 0; i < REWRITING_SLOTS; i++)
		assert(r->slots[i] == NULL); /* every plan gives back what it took */
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static struct rewriting_entry **rewriting_slot(struct rewriting *r, uint64_t id)
{
	struct rewriting_entry **at = &r->slots[hash_u64(id) % REWRITING_SLOTS];
	while (*at != NULL && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

bool rewriting_take(struct rewriting *r, uint64_t id)
{
	struct rewriting_entry *e = malloc(sizeof(*e));
	if (e == NULL)
		return false;
	*e = (struct rewriting_entry){ .id = id };
	pthread_mutex_lock(&r->lock);
	struct rewriting_entry **at = rewriting_slot(r, id);
	bool is_free = *at == NULL;
	if (is_free)
		*at = e;
	pthread_mutex_unlock(&r->lock);
	if (!is_free)
		free(e);
	return is_free;
}

void rewriting_give(struct rewriting *r, uint64_t id)
{
	pthread_mutex_lock(&r->lock);
	struct rewriting_entry **at = rewriting_slot(r, id);
	struct rewriting_entry *e = *at;
	assert(e != NULL);
	*at = e->next;
	pthread_mutex_unlock(&r->lock);
	free(e);
}
