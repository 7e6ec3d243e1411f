/* SPDX-License-Identifier: Apache-2.0 */
/* read.c -- batch read: PARSE -> FIND -> RUN (until the last piece is in a frame).
 *
 * FIND asks the tables in RAM for all entries, with the cache misses of READ_CHUNK of them
 * overlapping; what they do not know goes to a worker in one task. RUN makes pieces while the peer
 * takes them, serves them from the cache, starts the reads of the others, and sends what is ready;
 * it runs again when reads complete, the worker is back, or the peer's queue shrank. */
#include "req/read.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "pack/by_record.h"
#include "tier/packs.h"

static struct read *read_of(const struct req *r)
{
	return r->body;
}

/* ---- parse ---- */

static int entry_parse(struct read *b, struct read_entry *e, struct cur *c)
{
	int err;

	e->flags = cur_flags(c, READ_ENTRY_RANGE | READ_ENTRY_VERSION | READ_ENTRY_OPEN);
	err = ref_parse(c, &b->auth, &e->ref);
	if (err == -GRANARY_EPROTO) return err;
	e->err = (int16_t)err;
	e->length = WIRE_WHOLE;
	e->offset = 0;
	if ((e->flags & READ_ENTRY_RANGE) != 0) {
		e->offset = cur_u64(c);
		e->length = cur_u64(c);
	}
	if ((e->flags & READ_ENTRY_VERSION) != 0) e->version = cur_u64(c);
	if ((e->flags & READ_ENTRY_OPEN) != 0) e->handle = cur_u64(c);
	e->read = b;
	e->state = READ_NEW;
	e->made_first = e->several = false;
	e->extents = NULL;
	e->text = NULL;
	e->extents_end = UINT64_MAX;
	e->next_extent = e->unframed = 0;
	return 0;
}

static struct read *body_new(struct req *r, uint32_t count)
{
	struct read *b = req_alloc(sizeof(*b) + count * sizeof(struct read_entry));

	memset(b, 0, offsetof(struct read, auth));
	b->r = r;
	b->local = r->local;
	b->peer = r->peer;
	b->refs = 1;
	b->count = b->left = count;
	b->small_tail = &b->small;
	read_queue_init(&b->queue);
	return b;
}

enum step_result read_parse(struct req *r)
{
	struct cur c = cur_of(r->meta, r->frame.meta_len);
	struct slice bucket = cur_bytes16(&c);
	uint8_t flags = cur_flags(&c, READ_IN_ORDER | READ_VERIFY);
	uint32_t count = cur_u32(&c);
	struct read *b;
	int err;

	if (!cur_ok(&c) || count == 0 || count > WIRE_BATCH_MAX || r->frame.data_len != 0)
		return req_fail(r, -GRANARY_EPROTO,
			"%s does not parse, or has not 1 to %d entries", r->kind->name, WIRE_BATCH_MAX);
	b = body_new(r, count);
	r->body = b;
	b->in_order = (flags & READ_IN_ORDER) != 0;
	b->verify = (flags & READ_VERIFY) != 0;
	b->count = 0; /* as many as are parsed: cleanup frees those */
	err = auth_begin(r, &b->auth, GRANT_READ, bucket);
	if (err < 0) return req_fail(r, err, "cannot read from this bucket: %s", error_text(err));
	for (uint32_t i = 0; i < count; i++, b->count++)
		if (entry_parse(b, &b->entries[i], &c) < 0)
			return req_fail(r, -GRANARY_EPROTO, "%s: entry %u does not parse", r->kind->name, i);
	if (!cur_done(&c)) return req_fail(r, -GRANARY_EPROTO, "%s: bytes follow the last entry", r->kind->name);
	return STEP_NEXT;
}

/* ---- find ---- */

void read_entry_found(struct read_entry *e, int err)
{
	e->err = (int16_t)err;
	e->state = READ_FOUND;
	if (e->made_first) return; /* the next of its extents */
	if (err == 0)
		read_entry_set_range(e);
	else
		memset(&e->loc, 0, sizeof(e->loc));
}

/* 0; EAGAIN: a worker has to; or the entry's error. */
static int entry_find(struct read *b, struct read_entry *e, const struct ns_probe *probe)
{
	int err = ns_probe_end(b->auth.store->ns, probe, &e->loc);

	if (err == 0 && e->ref.by == NS_BY_ID)
		err = auth_entry(&b->auth, e->loc.dir_id, slice_of(NULL, 0), false);
	if (err == 0 && (e->flags & READ_ENTRY_OPEN) != 0) err = read_open_found(b, e);
	return err;
}

/* Returns how many are left for a worker. */
static uint32_t find_chunk(struct read *b, uint32_t from, uint32_t count)
{
	struct ns *ns = b->auth.store->ns;
	struct ns_probe probes[READ_CHUNK], *before = NULL;
	uint32_t missing = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct read_entry *e = &b->entries[from + i];

		if (e->err == 0) e->err = (int16_t)auth_ref(&b->auth, &e->ref, false);
		if (e->err == 0 && b->verify) e->err = -GRANARY_EAGAIN; /* past the tables, too */
		probes[i].loc = (struct loc_probe){ .id = 0 };
		if (e->err < 0) continue;
		ns_probe_begin(ns, &e->ref, before, &probes[i]);
		before = &probes[i];
	}
	ns_probes_fetch(probes, count);
	for (uint32_t i = 0; i < count; i++)
		if (b->entries[from + i].err == 0) ns_probe_next(ns, &probes[i]);
	ns_probes_fetch(probes, count);
	for (uint32_t i = 0; i < count; i++) {
		struct read_entry *e = &b->entries[from + i];
		int err = e->err < 0 ? e->err : entry_find(b, e, &probes[i]);

		if (err == -GRANARY_EAGAIN) {
			e->err = 0;
			e->state = READ_LOOKING;
			missing++;
		} else {
			read_entry_found(e, err);
		}
	}
	return missing;
}

/* Worker. */
static int entry_look(struct read *b, struct auth *a, struct read_entry *e)
{
	struct ns *ns = a->store->ns;
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	uint64_t version = e->made_first ? e->loc.version : 0;
	int err = auth_ref(a, &e->ref, true);

	if (err == 0 && (e->flags & READ_ENTRY_OPEN) != 0) err = read_open_look(b, a, e);
	if (err == 0) err = ns_lookup(ns, &e->ref, &place, &o, &value);
	if (err < 0) return err;
	if (e->ref.by == NS_BY_ID) err = auth_place(a, &place);
	if (err == 0 && version != 0 && o.version != version) err = -GRANARY_ECHANGED;
	if (err == 0) err = read_entry_take(ns, e, &place, &o);
	kv_value_release(&value);
	return err;
}

static void look_done(struct task *task)
{
	struct read *b = container_of(task, struct read, look);

	b->looking = false;
	b->next = 0;
	read_schedule(b);
}

static void look_work(struct task *task)
{
	struct read *b = container_of(task, struct read, look);
	struct auth *a = b->look_auth;

	for (uint32_t i = 0; i < b->look_count; i++) {
		struct read_entry *e = &b->entries[b->look_list[i]];

		e->err = (int16_t)entry_look(b, a, e);
	}
	free(a);
	free(b->look_list);
	b->look_auth = NULL;
	b->look_list = NULL;
	b->look.fn = look_done;
	reactor_post(b->local->reactor, &b->look);
}

/* The worker gets a list and its own memo of directories: the reactor goes on meanwhile. */
static void look_start(struct read *b, uint32_t missing)
{
	b->look_list = req_alloc(missing * sizeof(*b->look_list));
	b->look_count = 0;
	for (uint32_t i = 0; i < b->count; i++)
		if (b->entries[i].state == READ_LOOKING) b->look_list[b->look_count++] = i;
	b->looking = true;
	b->look_auth = auth_copy(&b->auth);
	b->look.fn = look_work;
	workers_post(b->local->store->workers, &b->look);
}

enum step_result read_find(struct req *r)
{
	struct read *b = read_of(r);
	uint32_t missing = 0;

	for (uint32_t i = 0; i < b->count; i += READ_CHUNK)
		missing += find_chunk(b, i, b->count - i < READ_CHUNK ? b->count - i : READ_CHUNK);
	stat_add(&r->local->stats->entries[r->kind->op], b->count);
	if (missing > 0) {
		look_start(b, missing);
	}
	return STEP_NEXT;
}

/* ---- run ---- */

static void run_task(struct task *task)
{
	struct read *b = container_of(task, struct read, run);

	b->scheduled = false;
	if (b->r->pending == 0) /* it runs already, or the turn that waits comes */
		return;
	b->r->pending = 1;
	req_resume(b->r);
}

void read_schedule(struct read *b)
{
	if (b->scheduled) return;
	b->scheduled = true;
	b->run.fn = run_task;
	reactor_defer(b->local->reactor, &b->run);
}

static void piece_read_done(struct pack_read *read)
{
	struct read_piece *p = container_of(read, struct read_piece, read);
	struct read *b = p->entry->read;

	b->inflight--;
	b->r->is_cold |= read->is_cold;
	p->err = (int16_t)read->err;
	p->held = read->err == 0;
	if (read->err == -GRANARY_ESTALE && p->retries < READ_RETRIES_MAX)
		read_piece_retry(b, p);
	else
		read_piece_ready(b, p);
	read_schedule(b);
}

static struct read_piece *piece_new(struct read_entry *e)
{
	struct read_piece *p = &e->piece;
	bool inside = !e->made_first;

	if (!inside) p = req_alloc(sizeof(*p));
	memset(p, 0, sizeof(*p));
	p->inside = inside;
	p->read.done = piece_read_done;
	return p;
}

static bool has_room(const struct read *b, uint32_t making)
{
	const struct req_peer *peer = b->peer;

	if (peer->ahead_entries == 0 && making == 0) return true;
	return peer->ahead_bytes < READ_AHEAD_BYTES && peer->ahead_entries < READ_AHEAD_ENTRIES;
}

/* All pieces of the extents that are known are made, and that is not the end of it: a worker looks for the next ones
 * once these pieces are in frames, as their checksums are in the memory that goes then. */
static bool entry_wants_more(struct read *b, struct read_entry *e)
{
	if (e->state != READ_FOUND || !e->made_first || e->err < 0 || e->at >= e->end || e->at < e->extents_end)
		return false;
	if (e->unframed > 0 || b->looking) return true;
	e->state = READ_LOOKING;
	look_start(b, 1);
	return true;
}

/* The next piece of the batch; NULL when there is none now. */
static struct read_piece *next_piece(struct read *b)
{
	while (b->next < b->count) {
		struct read_entry *e = &b->entries[b->next];
		struct read_piece *p;

		if (e->state == READ_LOOKING && b->looking) {
			if (b->in_order) return NULL;
			b->next++;
			continue;
		}
		if (e->state == READ_LOOKING) read_entry_found(e, e->err);
		if (entry_wants_more(b, e)) {
			if (b->in_order) return NULL;
			b->next++;
			continue;
		}
		if (e->state == READ_STARTED || (e->made_first && e->at >= e->end)) {
			b->next++;
			continue;
		}
		if (!e->made_first && e->err == 0) read_queue_init(&e->queue);
		p = piece_new(e);
		p->entry = e;
		if (e->err < 0) {
			p->err = e->err;
			p->first = p->last = e->made_first = true;
			e->at = e->end = 0;
		} else if (!read_piece_make(e, p)) {
			continue;
		}
		e->several |= !p->last;
		if (p->last) e->state = READ_STARTED;
		e->unframed++;
		b->peer->ahead_bytes += p->len;
		b->peer->ahead_entries++;
		if (b->in_order || e->several)
			read_queue_push(b->in_order ? &b->queue : &e->queue, p);
		return p;
	}
	return NULL;
}

bool read_piece_by_record(struct read *b, const struct read_piece *p)
{
	return b->verify || (p->unsummed && by_record_is_due(b->local->store->packs, p->read.pack));
}

void read_piece_start(struct read *b, struct read_piece *p)
{
	if (p->err < 0 || p->zeros || p->own != NULL) {
		read_piece_ready(b, p);
	} else if (read_piece_by_record(b, p)) {
		read_piece_verify(b, p);
	} else if (read_cached(b->local->reader, &p->read)) {
		p->held = true;
		read_piece_ready(b, p);
	} else {
		struct pack_read *one = &p->read;

		b->inflight++;
		read_start(b->local->reader, &one, 1);
	}
}

/* The kernel copies it soon, from memory that is in no cache: the address is translated and the stream of lines begun
 * while other entries are looked at. */
static void data_prefetch(const uint8_t *data)
{
	for (int i = 0; i < READ_LINES_AHEAD; i++) __builtin_prefetch(data + 64 * i);
}

/* Pieces of one chunk: prefetched together, served together; the misses go to the reader in one
 * call. */
static uint32_t run_chunk(struct read *b)
{
	struct read_piece *pieces[READ_CHUNK];
	struct pack_read *misses[READ_CHUNK];
	bool by_record[READ_CHUNK];
	uint32_t n = 0, missed = 0;

	while (n < READ_CHUNK && has_room(b, n)) {
		struct read_piece *p = next_piece(b);

		if (p == NULL) break;
		pieces[n++] = p;
	}
	for (uint32_t i = 0; i < n; i++)
		if (pieces[i]->read.pack != 0) read_prefetch(b->local->reader, &pieces[i]->read);
	for (uint32_t i = 0; i < n; i++) {
		struct read_piece *p = pieces[i];

		by_record[i] = p->err < 0 || p->zeros || read_piece_by_record(b, p);
		if (by_record[i])
			continue;
		p->held = read_cached(b->local->reader, &p->read);
		if (!p->held) misses[missed++] = &p->read;
	}
	for (uint32_t i = 0; i < n; i++)
		if (pieces[i]->held) data_prefetch(pieces[i]->read.data);
	for (uint32_t i = 0; i < n; i++) {
		struct read_piece *p = pieces[i];

		if (by_record[i])
			read_piece_start(b, p);
		else if (p->held)
			read_piece_ready(b, p);
	}
	b->inflight += missed;
	if (missed > 0) read_start(b->local->reader, misses, missed);
	return n;
}

/* Nothing more will come by itself: wait for the peer's queue. */
static void wait_for_room(struct req *r)
{
	if (list_empty(&r->wait_node)) list_push(&r->peer->waiting, &r->wait_node);
}

/* Small pieces wait for more of them while reads are under way. Returns whether a frame left. */
static bool flush_ripe(struct read *b)
{
	if (b->small_count == 0) return false;
	if (b->small_bytes < READ_FRAME_EARLY && b->inflight > 0 && b->left > 0) return false;
	read_flush(b);
	return true;
}

static enum step_result read_run(struct req *r)
{
	struct read *b = read_of(r);

	if (!list_empty(&r->wait_node)) list_remove(&r->wait_node);
	do /* frames may be released at once: then there is room again */
		while (run_chunk(b) > 0) continue;
	while (flush_ripe(b));
	if (b->left == 0 && b->inflight == 0 && !b->scheduled && !r->waking) return STEP_DONE;
	if (b->left > 0 && b->next < b->count && !has_room(b, 0))
		wait_for_room(r);
	else
		assert(b->inflight > 0 || b->looking || b->scheduled || r->waking);
	r->pending = 1;
	return STEP_WAIT;
}

void read_cleanup(struct req *r)
{
	struct read *b = read_of(r);

	r->body = NULL;
	if (b != NULL) read_body_unref(&b);
}

static const struct req_step read_steps[] = { { "parse", read_parse }, { "find", read_find },
	{ "run", read_run } };
const struct req_kind read_kind = {
	.op = OP_READ,
	.name = "read",
	.action = GRANT_READ,
	.is_judged = true,
	.steps = read_steps,
	.step_count = 3,
	.cleanup = read_cleanup,
};
