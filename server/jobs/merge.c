/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c -- puts small extents of an object together again (ns_write.c leaves one for each write in place, and pieces
 * of what it cut): their bytes are read, appended as one record a run, and take their place. What they pointed at is
 * dead then, and compaction gives its space back.
 *
 * A cursor goes over the `x` rows, some of them a pass, whenever something was written in place since it last began.
 * What is looked at is a window of WINDOW bytes of an object; it is worth it where its extents are smaller than
 * EXTENT_SMALL in the mean, and once nobody writes to the object for a while, or where they are so many that it pays
 * anyway.
 *
 * Invariants: (1) an extent is replaced only where the rows still say what was read, in one transaction after the new
 * record was flushed: bytes and version of the object stay, a crash in between leaves a dead record; (2) every block
 * that is read is verified by the checksum in the row; (3) memory: a window, a record, and the window's rows; (4) an
 * error of an object leaves it as it is, and the others go on. */
#include "jobs/jobs_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/list.h"
#include "common/log.h"
#include "common/tlv.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/ns_file.h"
#include "pack/gather.h"
#include "pack/writer.h"

enum {
	WINDOW = EXTENT_LEN_MAX,
	EXTENT_SMALL = 256 * 1024, /* in the mean */
	EXTENTS_MIN = 8,           /* fewer are left as they are */
	EXTENTS_BUSY = 1024,       /* of an object that is being written */
	ROWS_A_PASS = 65536,
	WINDOWS_A_PASS = 16,
	RUNS_MAX = 64,             /* of one window; what is left waits for the next time */
	COMMIT_TRIES = 8,
	PAUSE_S = 60,              /* after an error */
	SIM_TURNS_MAX = 100000,
};

struct window { /* of an object: extents that lie in it whole */
	uint64_t id, number; /* WINDOW * number is where it begins */
	uint32_t generation, count;
	uint64_t bytes;
};

struct merging;
struct run { /* extents that follow each other without a hole */
	struct pack_append append;
	struct merging *m;
	uint32_t first, count; /* of the extents */
	uint64_t at, length;   /* of the object */
	uint32_t crcs[WINDOW / CRC_BLOCK_SIZE];
};

struct merging {
	struct jobs *j;
	uint64_t id, dir, group, version, start;
	uint32_t generation;
	uint16_t name_len;
	uint8_t name[KEY_LEN_MAX];
	uint8_t attrs[3 * 14];
	size_t attrs_len;
	struct extent *extents; /* of the window */
	uint32_t count, cap;
	uint8_t *crcs; /* theirs */
	size_t crcs_len, crcs_cap;
	uint8_t *bytes; /* WINDOW */
	struct run *runs; /* RUNS_MAX */
	uint32_t run_count;
	struct task start_task;
	_Atomic uint32_t left;
	sem_t done;
};

/* ---- what is worth it ---- */

static bool is_worth_it(const struct window *w)
{
	return w->count >= EXTENTS_MIN && w->bytes < (uint64_t)w->count * EXTENT_SMALL;
}

struct scan {
	struct jobs *j;
	struct window found[WINDOWS_A_PASS], at;
	uint32_t found_count, rows;
};

static void scan_end_window(struct scan *s)
{
	if (is_worth_it(&s->at)) s->found[s->found_count++] = s->at;
	s->at = (struct window){ .id = 0 };
}

static int scan_row(struct scan *s, struct slice key, struct slice value)
{
	struct extent e;
	struct window w = { .id = be64_get(key.p + 1), .generation = be32_get(key.p + 9) };
	int err = extent_row_decode(value, &e);

	if (err < 0) return err;
	w.number = e.logical / WINDOW;
	if (w.id != s->at.id || w.generation != s->at.generation || w.number != s->at.number) {
		scan_end_window(s);
		s->at = w;
	}
	if ((e.logical + e.length - 1) / WINDOW != w.number || (e.flags & EXTENT_HOLE) != 0) return 0;
	s->at.count++;
	s->at.bytes += e.length;
	return 0;
}

/* From the cursor on; the cursor stands on the first row that was not looked at, or is 0 at the end. */
static int scan_rows(struct scan *s)
{
	struct merge_state *state = &s->j->merge;
	struct kv_iter *it = kv_iter_new(s->j->o.kv, NULL);
	int err = 0;

	if (it == NULL) return -GRANARY_ENOMEM;
	for (kv_iter_seek(it, slice_of(state->cursor, sizeof(state->cursor)));; kv_iter_next(it)) {
		struct slice key = kv_iter_valid(it) ? kv_iter_key(it) : slice_of(NULL, 0);
		bool is_row = key.len == sizeof(state->cursor) && key.p[0] == 'x';
		bool is_enough = s->found_count == WINDOWS_A_PASS - 1 || s->rows++ >= ROWS_A_PASS;

		if (is_row && is_enough && s->at.id != be64_get(key.p + 1)) scan_end_window(s);
		if (!is_row || (is_enough && s->at.id == 0)) { /* not in the middle of a window */
			state->is_scanning = is_row;
			if (is_row) memcpy(state->cursor, key.p, key.len);
			break;
		}
		err = scan_row(s, key, kv_iter_value(it));
		if (err < 0) break;
	}
	scan_end_window(s);
	if (err == 0) err = kv_iter_error(it);
	kv_iter_free(&it);
	return err;
}

/* ---- one window ---- */

static int take_extent(void *arg, const struct extent *e)
{
	struct merging *m = arg;
	size_t len = 4 * (size_t)e->crc_count;

	if (e->logical < m->start || e->logical + e->length > m->start + WINDOW || e->length == 0) return 0;
	if (m->count == m->cap) {
		uint32_t cap = 2 * m->cap + 256;
		struct extent *wide = realloc(m->extents, cap * sizeof(*wide));

		if (wide == NULL) return -GRANARY_ENOMEM;
		m->extents = wide;
		m->cap = cap;
	}
	if (m->crcs_len + len > m->crcs_cap) {
		size_t cap = 2 * (m->crcs_len + len);
		uint8_t *wide = realloc(m->crcs, cap);

		if (wide == NULL) return -GRANARY_ENOMEM;
		m->crcs = wide;
		m->crcs_cap = cap;
	}
	memcpy(m->crcs + m->crcs_len, e->crcs, len);
	m->extents[m->count++] = *e;
	m->crcs_len += len;
	return 0;
}

static void crcs_point(struct merging *m)
{
	const uint8_t *at = m->crcs;

	for (uint32_t i = 0; i < m->count; i++) {
		m->extents[i].crcs = at;
		at += 4 * (size_t)m->extents[i].crc_count;
	}
}

static void take_attrs(struct merging *m, const struct object *o, uint64_t bucket)
{
	struct wr t = wr_of(m->attrs, sizeof(m->attrs));

	tlv_put_u64(&t, TAG_BUCKET, bucket);
	tlv_put_u64(&t, TAG_SIZE, o->size);
	tlv_put_u64(&t, TAG_MTIME, o->mtime_ns);
	assert(wr_ok(&t));
	m->attrs_len = wr_len(&t);
}

/* What the rows say now. 1: not now, or not any more. */
static int window_look(struct merging *m, const struct window *w)
{
	struct jobs *j = m->j;
	struct ns_ref ref = { .by = NS_BY_ID, .id = w->id };
	struct kv_value value = { 0 };
	struct ns_place place;
	struct object o;
	int err = ns_lookup(j->o.ns, &ref, &place, &o, &value);

	if (err < 0) return err == -GRANARY_ESTALE || err == -GRANARY_ENOTFOUND ? 1 : err;
	m->id = o.id;
	m->generation = o.generation;
	m->version = o.version; /* what is merged is that one's bytes: a rebuild takes any later write over them */
	m->start = w->number * WINDOW;
	m->name_len = (uint16_t)place.name.len;
	memcpy(m->name, place.name.p, place.name.len);
	if (o.is_dir || place.orphan != 0 || o.generation != w->generation || o.extents_outside == 0) err = 1;
	if (err == 0 && w->count < EXTENTS_BUSY &&
		store_clock_now(j->o.clock) < o.written_ns + j->o.merge_quiet_ns) {
		j->merge.has_busy = true;
		err = 1;
	}
	if (err == 0) {
		struct ns_ref by_name = { .by = NS_BY_NAME, .dir = place.dir, .name = slice_of(m->name, m->name_len) };

		take_attrs(m, &o, place.bucket);
		err = ns_parent(j->o.ns, &by_name, &m->dir, &m->group);
	}
	m->count = 0;
	m->crcs_len = 0;
	if (err == 0) err = ns_extents(j->o.ns, &o, m->start, WINDOW, take_extent, m);
	kv_value_release(&value);
	crcs_point(m);
	return err;
}

/* The runs of small extents in the window. */
static void runs_find(struct merging *m)
{
	m->run_count = 0;
	for (uint32_t i = 0, to; i < m->count && m->run_count < RUNS_MAX; i = to) {
		struct run *r = &m->runs[m->run_count];
		const struct extent *e = &m->extents[i];
		uint64_t end = e->logical + e->length;

		to = i + 1;
		if ((e->flags & EXTENT_HOLE) != 0) continue;
		while (to < m->count && m->extents[to].logical == end && (m->extents[to].flags & EXTENT_HOLE) == 0)
			end += m->extents[to++].length;
		if (to - i < 2 || end - e->logical >= (uint64_t)(to - i) * EXTENT_SMALL) continue;
		r->m = m;
		r->first = i;
		r->count = to - i;
		r->at = e->logical;
		r->length = end - e->logical;
		m->run_count++;
	}
}

static void append_done(struct task *task)
{
	struct merging *m = container_of(task, struct run, append.done)->m;

	if (atomic_fetch_sub(&m->left, 1) == 1) sem_post(&m->done);
}

static void append_start(struct task *task)
{
	struct merging *m = container_of(task, struct merging, start_task);

	pack_append(m->j->o.writers, &m->runs[0].append);
}

static void append_fill(struct merging *m, struct run *r)
{
	struct pack_append *a = &r->append;
	const uint8_t *data = m->bytes + (r->at - m->start);

	crc32c_blocks(r->crcs, data, r->length);
	*a = (struct pack_append){ .done.fn = append_done,
		.notify = m->j->o.reactors[0],
		.group = m->group,
		.object_id = m->id,
		.version = m->version,
		.dir_id = m->dir,
		.logical = r->at,
		.generation = m->generation,
		.name = slice_of(m->name, m->name_len),
		.attrs = slice_of(m->attrs, m->attrs_len),
		.crcs = (const uint8_t *)r->crcs,
		.data = data,
		.data_len = (uint32_t)r->length };
	a->next = r + 1 < m->runs + m->run_count ? &r[1].append : NULL;
}

static void append_wait(struct merging *m)
{
	const struct jobs_options *o = &m->j->o;

	if (!o->simulated) {
		while (sem_wait(&m->done) != 0) continue;
		return;
	}
	for (uint32_t i = 0; atomic_load(&m->left) > 0; i++) {
		assert(i < SIM_TURNS_MAX);
		workers_turn(o->workers);
		reactor_turn(o->reactors[0], true);
	}
	while (sem_trywait(&m->done) == 0) continue;
}

static int runs_append(struct merging *m)
{
	int err = packs_room(m->j->o.packs, WINDOW);

	if (err < 0) return err;
	for (uint32_t i = 0; i < m->run_count; i++) append_fill(m, &m->runs[i]);
	atomic_store(&m->left, m->run_count);
	m->start_task.fn = append_start;
	reactor_post(m->j->o.reactors[0], &m->start_task);
	append_wait(m);
	for (uint32_t i = 0; i < m->run_count; i++)
		if (m->runs[i].append.err < 0) err = m->runs[i].append.err;
	return err;
}

static int runs_plan(struct merging *m, struct ns_plan *plan)
{
	struct extent extents[RUNS_MAX];
	struct ns_merge merge = { .id = m->id, .extents = extents, .count = m->run_count };
	struct extent *sources = malloc(m->count * sizeof(*sources));
	int err;

	if (sources == NULL) return -GRANARY_ENOMEM;
	for (uint32_t i = 0; i < m->run_count; i++) {
		const struct run *r = &m->runs[i];
		const struct pack_append *a = &r->append;

		extents[i] = a->extent;
		memcpy(&sources[merge.source_count], &m->extents[r->first], r->count * sizeof(*sources));
		merge.source_count += r->count;
		writers_account(ns_plan_txn(plan), &a, 1);
	}
	merge.sources = sources;
	err = ns_plan_merge(plan, &merge);
	free(sources);
	return err == 0 ? ns_plan_finish(plan) : err;
}

/* A snapshot that is being made wants addresses as they are. */
static int runs_commit(struct merging *m)
{
	struct jobs *j = m->j;
	struct ns_plan *plan = ns_plan_new(j->o.ns);
	int err;

	if (plan == NULL) return -GRANARY_ENOMEM;
	if (!packs_change_begin(j->o.packs)) {
		ns_plan_free(&plan);
		return 1;
	}
	err = runs_plan(m, plan);
	if (err == 0) {
		err = kv_submit_wait(j->o.kv, ns_plan_txn(plan));
		ns_plan_committed(plan, err);
	}
	packs_change_end(j->o.packs);
	ns_plan_free(&plan);
	return err == -GRANARY_ENOTFOUND ? 1 : err;
}

static void merged_count(struct merging *m)
{
	for (uint32_t i = 0; i < m->run_count; i++) {
		atomic_fetch_add(&m->j->merged_extents, m->runs[i].count);
		atomic_fetch_add(&m->j->merged_bytes, m->runs[i].length);
	}
}

/* 0; 1: it was left as it is. */
static int window_merge(struct merging *m, const struct window *w)
{
	int err = window_look(m, w);

	if (err != 0) return err;
	runs_find(m);
	if (m->run_count == 0) return 1;
	for (uint32_t i = 0; err == 0 && i < m->run_count; i++) {
		const struct run *r = &m->runs[i];

		err = pack_gather(m->j->o.packs, &m->extents[r->first], r->count, m->start, m->bytes);
	}
	if (err == -GRANARY_ESTALE) return 1; /* compacted meanwhile */
	if (err < 0) return err;
	err = runs_append(m);
	for (int tries = 0; err == 0 && tries < COMMIT_TRIES; tries++) {
		err = runs_commit(m);
		if (err != -GRANARY_EBUSY) break;
		err = 0;
	}
	for (uint32_t i = 0; i < m->run_count; i++)
		if (m->runs[i].append.err == 0) pack_append_settled(&m->runs[i].append);
	if (err == 0) merged_count(m);
	return err;
}

static void window_failed(struct jobs *j, const struct window *w, int err)
{
	if (err == -GRANARY_ESHUTDOWN) return;
	log_warn("cannot merge small extents: %s; object=%016" PRIx64 " offset=%" PRIu64 "; left as they are for %d s",
		error_text(err), w->id, w->number * WINDOW, PAUSE_S);
	j->merge.not_before_ns = clock_mono_ns() + PAUSE_S * UINT64_C(1000000000);
}

static int windows_merge(struct scan *s)
{
	struct merging m = { .j = s->j, .bytes = malloc(WINDOW), .runs = malloc(RUNS_MAX * sizeof(struct run)) };
	int err = m.bytes != NULL && m.runs != NULL ? 0 : -GRANARY_ENOMEM, first = err;

	sem_init(&m.done, 0, 0);
	for (uint32_t i = 0; err != -GRANARY_ENOMEM && i < s->found_count && !jobs_stopping(s->j); i++) {
		err = window_merge(&m, &s->found[i]);
		if (err < 0) window_failed(s->j, &s->found[i], err);
		if (err < 0 && first == 0) first = err;
	}
	sem_destroy(&m.done);
	free(m.bytes);
	free(m.runs);
	free(m.extents);
	free(m.crcs);
	return first;
}

int merge_pass(struct jobs *j, bool *more)
{
	struct merge_state *state = &j->merge;
	struct scan s = { .j = j };
	int err;

	*more = false;
	if (clock_mono_ns() < state->not_before_ns) return 0;
	if (!state->is_scanning) {
		uint64_t writes = ns_writes(j->o.ns) + 1;

		if (state->writes_seen == writes && !state->has_busy) return 0;
		state->writes_seen = writes;
		state->has_busy = false;
		state->is_scanning = true;
		memset(state->cursor, 0, sizeof(state->cursor));
		state->cursor[0] = 'x';
	}
	err = scan_rows(&s);
	if (err == 0 && s.found_count > 0) err = windows_merge(&s);
	*more = err == 0 && state->is_scanning;
	return err;
}
