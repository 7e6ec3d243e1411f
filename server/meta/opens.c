/* SPDX-License-Identifier: Apache-2.0 */
/* opens.c -- see opens.h. One lock guards all but what is atomic. A removal of an object that nobody has open takes no
 * lock: it counts itself in its slot and finds that no open object hashes there. */
#include "meta/opens.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/list.h"
#include "common/rand.h"

enum { OBJECT_SLOTS = 1 << 14, OPEN_SLOTS = 1 << 16, SESSION_SLOTS = 1 << 12 };

struct opened { /* an object */
	struct opened *next; /* in its slot */
	uint64_t id;
	struct list holders;
	bool is_orphan;
};

struct opener { /* a session */
	struct opener *next; /* in its slot */
	uint64_t session, state;
	struct list opens;
	uint32_t count;
};

struct holder { /* a session of an object */
	struct list link; /* of the object */
	struct opened *object;
	struct opener *by;
	uint32_t opens, reads, writes;
};

struct open {
	struct open *next; /* in its slot */
	struct list link;  /* of the session */
	struct holder *holder;
	uint64_t handle;
	uint8_t access;
};

struct slot {
	_Atomic uint32_t removing, objects; /* under way; in `first` */
	struct opened *first;
};

struct opens {
	pthread_mutex_t lock;
	struct slot slots[OBJECT_SLOTS];
	struct open *by_handle[OPEN_SLOTS];
	struct opener *sessions[SESSION_SLOTS];
	uint64_t *dead;
	uint32_t dead_count, dead_cap;
	uint64_t open_count, object_count, orphan_count;
	_Atomic bool is_grace;
	void (*on_dead)(void *arg);
	void *arg;
};

struct opens *opens_new(void (*on_dead)(void *arg), void *arg)
{
	struct opens *o = calloc(1, sizeof(*o));
	if (o == NULL)
		return NULL;
	pthread_mutex_init(&o->lock, NULL);
	o->on_dead = on_dead;
	o->arg = arg;
	return o;
}

void opens_free(struct opens **op)
{
	struct opens *o = *op;
	*op = NULL;
	if (o == NULL)
		return;
	o->on_dead = NULL;
	for (uint32_t i = 0; i < SESSION_SLOTS; i++)
		while (o->sessions[i] != NULL)
			opens_end_session(o, o->sessions[i]->session);
	assert(o->open_count == 0 && o->object_count == 0);
	pthread_mutex_destroy(&o->lock);
	free(o->dead);
	free(o);
}

static struct slot *slot_of(struct opens *o, uint64_t id) { return &o->slots[hash_u64(id) % OBJECT_SLOTS]; }

static struct opened *object_find(struct opens *o, uint64_t id)
{
	struct opened *at = slot_of(o, id)->first;
	while (at != NULL && at->id != id)
		at = at->next;
	return at;
}

static struct opener *opener_find(struct opens *o, uint64_t session)
{
	struct opener *at = o->sessions[hash_u64(session) % SESSION_SLOTS];
	while (at != NULL && at->session != session)
		at = at->next;
	return at;
}

static struct open **open_slot(struct opens *o, uint64_t session, uint64_t handle)
{
	return &o->by_handle[hash_u64(hash_u64(session) ^ handle) % OPEN_SLOTS];
}

static struct open **open_place(struct opens *o, uint64_t session, uint64_t handle)
{
	struct open **at = open_slot(o, session, handle);
	while (*at != NULL && ((*at)->handle != handle || (*at)->holder->by->session != session))
		at = &(*at)->next;
	return at;
}

static struct holder *holder_of(const struct opened *object, uint64_t session)
{
	list_for (n, &object->holders) {
		struct holder *h = container_of(n, struct holder, link);
		if (h->by->session == session)
			return h;
	}
	return NULL;
}

/* ---- the dead ---- */

/* True: whoever removes them is to be told. When there is no memory it stays until the next start. */
static bool dead_push(struct opens *o, uint64_t id)
{
	if (o->dead_count == o->dead_cap) {
		uint32_t cap = o->dead_cap == 0 ? 64 : 2 * o->dead_cap;
		uint64_t *wide = realloc(o->dead, cap * sizeof(*wide));
		if (wide == NULL)
			return false;
		o->dead = wide;
		o->dead_cap = cap;
	}
	o->dead[o->dead_count++] = id;
	return true;
}

bool opens_take_dead(struct opens *o, uint64_t *id)
{
	pthread_mutex_lock(&o->lock);
	bool found = o->dead_count > 0;
	if (found)
		*id = o->dead[--o->dead_count];
	pthread_mutex_unlock(&o->lock);
	return found;
}

void opens_put_dead(struct opens *o, uint64_t id)
{
	pthread_mutex_lock(&o->lock);
	dead_push(o, id);
	pthread_mutex_unlock(&o->lock);
}

static void tell_dead(struct opens *o, bool is_new)
{
	if (is_new && o->on_dead != NULL)
		o->on_dead(o->arg);
}

/* ---- opening ---- */

static struct opened *object_make(struct opens *o, uint64_t id)
{
	struct slot *slot = slot_of(o, id);
	struct opened *object = object_find(o, id);
	if (object != NULL)
		return object;
	object = malloc(sizeof(*object));
	if (object == NULL)
		return NULL;
	*object = (struct opened){ .next = slot->first, .id = id };
	list_init(&object->holders);
	slot->first = object;
	o->object_count++;
	atomic_fetch_add(&slot->objects, 1);
	return object;
}

/* It has no holder any more. True: it was an orphan, and is a dead one. */
static bool object_drop(struct opens *o, struct opened *object)
{
	struct slot *slot = slot_of(o, object->id);
	struct opened **at = &slot->first;
	bool is_new = false;
	while (*at != object)
		at = &(*at)->next;
	*at = object->next;
	o->object_count--;
	if (object->is_orphan) {
		o->orphan_count--;
		is_new = dead_push(o, object->id);
	}
	atomic_fetch_sub(&slot->objects, 1);
	free(object);
	return is_new;
}

static struct opener *opener_make(struct opens *o, uint64_t session)
{
	struct opener **slot = &o->sessions[hash_u64(session) % SESSION_SLOTS];
	struct opener *s = opener_find(o, session);
	if (s != NULL)
		return s;
	s = malloc(sizeof(*s));
	if (s == NULL)
		return NULL;
	*s = (struct opener){ .next = *slot, .session = session };
	rand_bytes(&s->state, sizeof(s->state));
	s->state |= 1;
	list_init(&s->opens);
	*slot = s;
	return s;
}

static struct holder *holder_make(struct opened *object, struct opener *by)
{
	struct holder *h = holder_of(object, by->session);
	if (h != NULL)
		return h;
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return NULL;
	h->object = object;
	h->by = by;
	list_push(&object->holders, &h->link);
	return h;
}

static int open_make(struct opens *o, uint64_t session, uint64_t handle, uint64_t id, uint8_t access)
{
	struct opener *by = opener_make(o, session);
	struct opened *object = by == NULL ? NULL : object_make(o, id);
	struct holder *h = object == NULL ? NULL : holder_make(object, by);
	struct open *open = h == NULL ? NULL : malloc(sizeof(*open));
	if (open == NULL) {
		if (h != NULL && h->opens == 0) {
			list_remove(&h->link);
			free(h);
		}
		if (object != NULL && list_empty(&object->holders))
			object_drop(o, object);
		return -GRANARY_ENOMEM;
	}
	struct open **slot = open_slot(o, session, handle);
	*open = (struct open){ .next = *slot, .holder = h, .handle = handle, .access = access };
	*slot = open;
	list_push(&by->opens, &open->link);
	by->count++;
	h->opens++;
	h->reads += (access & OPENS_READ) != 0;
	h->writes += (access & OPENS_WRITE) != 0;
	o->open_count++;
	return 0;
}

int opens_add(struct opens *o, uint64_t session, uint64_t handle, uint64_t id, uint8_t access)
{
	pthread_mutex_lock(&o->lock);
	const struct open *there = *open_place(o, session, handle);
	const struct opener *by = opener_find(o, session);
	int err = 0;
	if (there != NULL)
		err = there->holder->object->id == id && there->access == access ? 0 : -GRANARY_EINVAL;
	else if (by != NULL && by->count >= OPENS_SESSION_MAX)
		err = -GRANARY_ETOOBIG;
	else
		err = open_make(o, session, handle, id, access);
	pthread_mutex_unlock(&o->lock);
	return err;
}

/* ---- closing ---- */

/* *at goes. True: and with it an orphan. */
static bool open_drop(struct opens *o, struct open **at)
{
	struct open *open = *at;
	struct holder *h = open->holder;
	struct opened *object = h->object;
	*at = open->next;
	list_remove(&open->link);
	h->by->count--;
	h->opens--;
	h->reads -= (open->access & OPENS_READ) != 0;
	h->writes -= (open->access & OPENS_WRITE) != 0;
	o->open_count--;
	free(open);
	if (h->opens > 0)
		return false;
	list_remove(&h->link);
	free(h);
	return list_empty(&object->holders) && object_drop(o, object);
}

bool opens_close(struct opens *o, uint64_t session, uint64_t handle, uint64_t *left)
{
	bool is_new = false;
	*left = 0;
	pthread_mutex_lock(&o->lock);
	struct open **at = open_place(o, session, handle);
	bool found = *at != NULL;
	if (found) {
		const struct holder *h = (*at)->holder;
		if (h->opens == 1)
			*left = h->object->id;
		is_new = open_drop(o, at);
	}
	pthread_mutex_unlock(&o->lock);
	tell_dead(o, is_new);
	return found;
}

void opens_end_session(struct opens *o, uint64_t session)
{
	bool is_new = false;
	pthread_mutex_lock(&o->lock);
	struct opener **at = &o->sessions[hash_u64(session) % SESSION_SLOTS];
	while (*at != NULL && (*at)->session != session)
		at = &(*at)->next;
	struct opener *by = *at;
	if (by != NULL) {
		while (!list_empty(&by->opens)) {
			const struct open *open = container_of(by->opens.next, struct open, link);
			is_new = open_drop(o, open_place(o, session, open->handle)) || is_new;
		}
		*at = by->next;
		free(by);
	}
	pthread_mutex_unlock(&o->lock);
	tell_dead(o, is_new);
}

/* ---- asking ---- */

bool opens_find(struct opens *o, uint64_t session, uint64_t handle, uint64_t *id, uint8_t *access)
{
	pthread_mutex_lock(&o->lock);
	const struct open *open = *open_place(o, session, handle);
	if (open != NULL) {
		*id = open->holder->object->id;
		*access = open->access;
	}
	pthread_mutex_unlock(&o->lock);
	return open != NULL;
}

bool opens_allow(struct opens *o, uint64_t session, uint64_t id, uint8_t access)
{
	pthread_mutex_lock(&o->lock);
	const struct opened *object = object_find(o, id);
	const struct holder *h = object == NULL ? NULL : holder_of(object, session);
	bool allowed = h != NULL && ((access & OPENS_READ) == 0 || h->reads > 0) &&
		       ((access & OPENS_WRITE) == 0 || h->writes > 0);
	pthread_mutex_unlock(&o->lock);
	return allowed;
}

uint64_t opens_state(struct opens *o, uint64_t session)
{
	pthread_mutex_lock(&o->lock);
	const struct opener *by = opener_find(o, session);
	uint64_t state = by == NULL ? 0 : by->state;
	pthread_mutex_unlock(&o->lock);
	return state;
}

bool opens_is_removing(struct opens *o, uint64_t id) { return atomic_load(&slot_of(o, id)->removing) > 0; }
void opens_remove_begin(struct opens *o, uint64_t id) { atomic_fetch_add(&slot_of(o, id)->removing, 1); }
void opens_remove_end(struct opens *o, uint64_t id) { atomic_fetch_sub(&slot_of(o, id)->removing, 1); }
void opens_set_grace(struct opens *o, bool is_grace) { atomic_store(&o->is_grace, is_grace); }
bool opens_is_grace(const struct opens *o) { return atomic_load(&o->is_grace); }

bool opens_has(struct opens *o, uint64_t id)
{
	if (atomic_load(&o->is_grace))
		return true;
	if (atomic_load(&slot_of(o, id)->objects) == 0)
		return false;
	pthread_mutex_lock(&o->lock);
	bool found = object_find(o, id) != NULL;
	pthread_mutex_unlock(&o->lock);
	return found;
}

void opens_each_holder(struct opens *o, uint64_t id, void (*each)(void *arg, uint64_t session, uint8_t access),
		       void *arg)
{
	pthread_mutex_lock(&o->lock);
	const struct opened *object = object_find(o, id);
	if (object != NULL) {
		list_for (n, &object->holders) {
			const struct holder *h = container_of(n, struct holder, link);
			each(arg, h->by->session, (uint8_t)((h->reads > 0 ? OPENS_READ : 0) |
							     (h->writes > 0 ? OPENS_WRITE : 0)));
		}
	}
	pthread_mutex_unlock(&o->lock);
}

void opens_set_orphan(struct opens *o, uint64_t id)
{
	bool is_new = false;
	pthread_mutex_lock(&o->lock);
	struct opened *object = object_find(o, id);
	if (object != NULL) {
		o->orphan_count += !object->is_orphan;
		object->is_orphan = true;
	} else if (!atomic_load(&o->is_grace)) { /* else: the end of it looks at all orphans */
		is_new = dead_push(o, id);
	}
	pthread_mutex_unlock(&o->lock);
	tell_dead(o, is_new);
}

void opens_get_stats(struct opens *o, struct opens_stats *out)
{
	pthread_mutex_lock(&o->lock);
	*out = (struct opens_stats){ o->open_count, o->object_count, o->orphan_count, o->dead_count };
	pthread_mutex_unlock(&o->lock);
}
