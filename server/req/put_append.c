/* SPDX-License-Identifier: Apache-2.0 */
/* put_append.c -- records of a batch put: keys and attributes in one block of memory, one list for
 * the writers. */
#include "req/put.h"

#include <assert.h>
#include <stdlib.h>

#include "common/tlv.h"
#include "meta/ids.h"

enum { ATTRS_FIXED_MAX = 3 * 14 + 3 * 10 + 6 };

static size_t texts_size(const struct put *p)
{
	size_t n = 0;

	for (uint32_t i = 0; i < p->count; i++)
		n += REF_RECORD_KEY_MAX + ATTRS_FIXED_MAX + p->entries[i].meta.len;
	return n;
}

/* FORMAT 3.2: tags of 5.2, so that a rebuild needs nothing else. */
static struct slice entry_attrs(const struct put_entry *e, uint64_t bucket, struct wr *w)
{
	const uint8_t *start = w->p;

	if (bucket != 0) tlv_put_u64(w, TAG_BUCKET, bucket);
	tlv_put_u64(w, TAG_SIZE, e->size);
	tlv_put_u64(w, TAG_MTIME, e->mtime_ns);
	tlv_put_u32(w, TAG_MODE, e->mode);
	if (e->uid != 0) tlv_put_u32(w, TAG_UID, e->uid);
	if (e->gid != 0) tlv_put_u32(w, TAG_GID, e->gid);
	if (e->meta.len > 0) tlv_put(w, TAG_META, e->meta);
	return slice_of(start, (size_t)(w->p - start));
}

static void append_done(struct task *task)
{
	struct put_entry *e = container_of(task, struct put_entry, own.done);
	struct put *p = e->put;

	assert(p->appending > 0);
	if (--p->appending == 0) req_resume(p->r);
}

/* It is placed, or failed. */
static void append_done_unstable(struct task *task)
{
	struct pack_append *a = container_of(task, struct pack_append, done);
	struct put *p = ((struct unstable *)a->user)->context;

	if (a->err < 0) unstable_append_failed(a->user);
	assert(p->appending > 0);
	if (--p->appending == 0) req_resume(p->r);
}

/* On the writer's reactor. The request waits for the one append: nobody else has it. */
static struct kv_txn *append_placed(struct pack_append *a)
{
	struct put_entry *e = container_of(a, struct put_entry, own);
	struct put *p = e->put;
	struct kv_txn *txn = mutation_plan_early(p->r, PUT_STEP_FINISH);

	if (txn != NULL) p->appending = 0;
	return txn;
}

static void append_unplaced(struct pack_append *a)
{
	struct put_entry *e = container_of(a, struct put_entry, own);

	e->put->appending = 1;
	mutation_drop_early(e->put->r);
}

static void append_fill(struct req *r, struct put_entry *e)
{
	struct put *p = e->put;
	struct pack_append *a = &e->own;
	struct slice dir;

	if (p->m.tail != NULL) {
		a = &p->m.tail->appends[e - p->entries];
		unstable_append_begin(p->m.tail, a);
	}
	e->append = a;
	a->done.fn = p->m.tail != NULL ? append_done_unstable : append_done;
	a->notify = r->local->reactor;
	a->group = e->group;
	a->object_id = e->id;
	a->version = e->version;
	a->dir_id = e->dir;
	a->whole = true;
	a->placed = p->count == 1 && p->m.tail == NULL ? append_placed : NULL;
	a->unplaced = append_unplaced;
	a->committed = &r->done;
	a->name = e->ref.name;
	if (e->ref.by == NS_BY_KEY) key_split(e->ref.name, &dir, &a->name);
	a->crcs = e->crcs;
	a->data = e->data;
	a->data_len = (uint32_t)e->size;
}

uint32_t put_append(struct req *r, struct put *p)
{
	struct pack_append *first = NULL, **last = &first;
	size_t size = texts_size(p);
	uint32_t count;
	struct wr w;

	if (p->texts == NULL) p->texts = req_alloc(size);
	if (p->m.is_unstable && p->m.tail == NULL) {
		p->m.tail = unstable_new(r->local, p->count);
		p->m.tail->context = p;
	}
	w = wr_of(p->texts, size);
	for (uint32_t i = 0; i < p->count; i++) {
		struct put_entry *e = &p->entries[i];
		uint64_t bucket;
		struct slice key, attrs;

		if (e->err < 0 || e->appended || (e->flags & PUT_UPLOAD) != 0) continue;
		key = ref_record_key(&p->auth, &e->ref, &w, &bucket);
		attrs = entry_attrs(e, bucket, &w);
		append_fill(r, e);
		e->append->key = key;
		e->append->attrs = attrs;
		e->appended = true;
		e->append->next = NULL;
		*last = e->append;
		last = &e->append->next;
		p->appending++;
	}
	assert(wr_ok(&w));
	count = p->appending;
	if (first != NULL) {
		r->pending++;
		pack_append(r->store->writers, first); /* the request is the writers' after this line */
	}
	return count;
}
