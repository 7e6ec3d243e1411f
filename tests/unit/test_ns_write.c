/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: whatever is written, punched, cut, copied and merged in place, an object's extents say of every byte what an
 * array of bytes says, with the right checksums, and each record is found from its header.
 * Method: every record has a number, and each of its bytes a value made of that and its offset; so a byte tells which
 * place of which record it is. The seed is printed; GRANARY_SEED repeats a run, GRANARY_OPS makes it longer. */
#include "common/clock.h"
#include "effort.h"
#include "unit/test_ns_util.h"

enum { SIZE_MAX_BYTES = 260000, RECORDS_MAX = 20000, FILES = 3, OPS_DEFAULT = 900, OPS_LONG = 6000,
       HEADER = 104, PACKS = 5, RECORD_BITS = 17, BATCH_MAX = 24 };

struct test_record {
	uint64_t pack, at, object, logical;
	uint32_t length;
	uint8_t crcs[4 * 4];
};

struct file {
	char key[32];
	uint64_t id, version, size;
	uint32_t bytes[SIZE_MAX_BYTES];
};

struct writes {
	struct world *w;
	struct rng rng;
	struct test_record records[RECORDS_MAX];
	uint32_t record_count;
	struct file files[FILES];
	struct ns_change changes[BATCH_MAX];
};

static uint32_t byte_of(uint32_t record, uint32_t at) { return (record + 1) << RECORD_BITS | at; }

/* The record number is its place in its pack as well, so that an extent names it. */
static struct extent record_new(struct writes *t, uint64_t object, uint64_t logical, uint32_t length)
{
	assert_true(t->record_count < RECORDS_MAX && length < 1u << RECORD_BITS);
	struct test_record *r = &t->records[t->record_count];
	*r = (struct test_record){ 1 + t->record_count % PACKS, 8 * (uint64_t)t->record_count, object, logical, length,
				   { 0 } };
	for (uint32_t i = 0; i < crc_block_count(length); i++) {
		uint32_t crc = t->record_count * 16 + i;
		memcpy(r->crcs + 4 * (size_t)i, &crc, 4);
	}
	t->record_count++;
	return (struct extent){ .pack = r->pack, .record = r->at, .skip = HEADER, .length = length, .logical = logical,
				.crc_count = crc_block_count(length), .crcs = r->crcs };
}

/* ---- comparing ---- */

struct compare { struct writes *t; const struct file *f; uint64_t at; uint32_t count; };

static int compare_extent(void *arg, const struct extent *e)
{
	struct compare *c = arg;
	assert_true(e->logical >= c->at && e->length > 0);
	for (; c->at < e->logical; c->at++)
		assert_int_equal(c->f->bytes[c->at], 0);
	uint32_t number = (uint32_t)(e->record / 8);
	const struct test_record *r = &c->t->records[number];
	assert_true(number < c->t->record_count && r->pack == e->pack);
	assert_int_equal(extent_stored(e), r->length);
	assert_int_equal(extent_header(e), HEADER);
	for (uint32_t i = 0; i < e->length; i++, c->at++)
		assert_int_equal(c->f->bytes[c->at], byte_of(number, e->cut_before + i));
	for (uint32_t i = 0; i < e->crc_count; i++)
		assert_int_equal(extent_crc(e, i), number * 16 + e->cut_before / CRC_BLOCK_SIZE + i);
	c->count++;
	return 0;
}

static void compare_file(struct writes *t, const struct file *f)
{
	struct compare c = { t, f, 0, 0 };
	struct ns_ref ref = by_key(t->w, f->key);
	struct ns_place place;
	struct object o;
	struct kv_value value;
	assert_int_equal(ns_lookup(t->w->ns, &ref, &place, &o, &value), 0);
	assert_true(o.size == f->size && o.version == f->version && o.id == f->id && !o.has_hash);
	for (uint32_t i = 0; i < o.extent_count; i++)
		(void)compare_extent(&c, &o.extents[i]);
	assert_int_equal(ns_extents_in(t->w->ns, NULL, &o, compare_extent, &c), 0);
	assert_int_equal(c.count, o.extent_count + o.extents_outside);
	assert_true(c.at <= f->size);
	for (; c.at < f->size; c.at++)
		assert_int_equal(f->bytes[c.at], 0);
	kv_value_release(&value);
}

/* What the record's header leads to is every byte that lives of it. */
struct owned { uint64_t live; };

static int owned_take(void *arg, const struct ns_owner *owner)
{
	struct owned *o = arg;
	o->live += owner->extent->length;
	return 0;
}

static void compare_owners(struct writes *t)
{
	static uint64_t live[RECORDS_MAX];
	memset(live, 0, sizeof(live));
	for (int f = 0; f < FILES; f++)
		for (uint64_t i = 0; i < t->files[f].size; i++)
			if (t->files[f].bytes[i] != 0)
				live[(t->files[f].bytes[i] >> RECORD_BITS) - 1]++;
	for (uint32_t i = 0; i < t->record_count; i++) {
		const struct test_record *r = &t->records[i];
		struct ns_record who = { .pack = r->pack, .record = r->at, .object_id = r->object,
					 .dir = t->w->bucket.root, .logical = r->logical, .length = r->length,
					 .name = slice_str("old name") };
		struct owned o = { 0 };
		for (int f = 0; f < FILES; f++)
			if (t->files[f].id == r->object)
				who.name = slice_str(t->files[f].key);
		assert_int_equal(ns_record_owners(t->w->ns, &who, owned_take, &o), 0);
		assert_int_equal(o.live, live[i]);
	}
}

/* ---- operations ---- */

static void random_range(struct writes *t, const struct file *f, uint64_t *offset, uint32_t *length)
{
	uint64_t most = rng_below(&t->rng, 4) == 0 ? 100000 : rng_below(&t->rng, 2) == 0 ? 5000 : 300;
	*offset = rng_below(&t->rng, 5) > 0 && f->size > 0 ? rng_below(&t->rng, f->size)
							   : rng_below(&t->rng, SIZE_MAX_BYTES - 1);
	*length = 1 + (uint32_t)rng_below(&t->rng, most);
	if (rng_below(&t->rng, 6) == 0)
		*offset = *offset / 4096 * 4096;
	if (*offset + *length > SIZE_MAX_BYTES)
		*length = (uint32_t)(SIZE_MAX_BYTES - *offset);
}

static void fill(struct file *f, uint64_t at, uint64_t end, uint32_t record)
{
	for (uint32_t i = 0; at + i < end; i++)
		f->bytes[at + i] = record == UINT32_MAX ? 0 : byte_of(record, i);
}

static void grow(struct file *f, uint64_t size)
{
	for (; f->size < size; f->size++)
		if (f->bytes[f->size] == UINT32_MAX)
			f->bytes[f->size] = 0;
}

/* One change: into the batch, and done to the model. */
static void change_add(struct writes *t, struct file *f, uint32_t n)
{
	struct ns_change *c = &t->changes[n];
	uint64_t offset;
	uint32_t length;
	random_range(t, f, &offset, &length);
	*c = (struct ns_change){ .kind = NS_CHANGE_DATA, .offset = offset, .length = length };
	switch (rng_below(&t->rng, 12)) {
	case 0:
		*c = (struct ns_change){ .kind = NS_CHANGE_TRUNCATE, .offset = offset };
		if (offset < f->size) {
			fill(f, offset, f->size, UINT32_MAX);
			f->size = offset;
		}
		grow(f, offset);
		return;
	case 1:
		c->kind = NS_CHANGE_ZEROS;
		grow(f, offset + length);
		fill(f, offset, offset + length, UINT32_MAX);
		return;
	case 2:
		c->kind = NS_CHANGE_PUNCH;
		fill(f, offset, offset + length < f->size ? offset + length : f->size, UINT32_MAX);
		return;
	default:
		c->extent = record_new(t, f->id, offset, length);
		grow(f, offset + length);
		fill(f, offset, offset + length, t->record_count - 1);
	}
}

static void op_write(struct writes *t)
{
	struct file *f = &t->files[rng_below(&t->rng, FILES)];
	uint32_t n = rng_below(&t->rng, 3) > 0 ? 1 : 1 + (uint32_t)rng_below(&t->rng, BATCH_MAX);
	for (uint32_t i = 0; i < n; i++)
		change_add(t, f, i);
	struct mutation m = { .kind = M_WRITE, .ref = by_key(t->w, f->key), .write = { .id = f->id,
			      .changes = t->changes, .count = n, .if_version = rng_below(&t->rng, 2) * f->version } };
	assert_int_equal(mutate(t->w, &m), 0);
	assert_true(m.write.size == f->size && m.write.version > f->version && m.write.object == f->id);
	f->version = m.write.version;
	m.write.if_version = f->version - 1;
	assert_int_equal(mutate(t->w, &m), -GRANARY_EPRECONDITION);
	m.write.if_version = 0;
	m.write.id = f->id + 100;
	assert_int_equal(mutate(t->w, &m), -GRANARY_ECHANGED);
}

static void op_copy_range(struct writes *t)
{
	static uint32_t bytes[SIZE_MAX_BYTES];
	struct file *from = &t->files[rng_below(&t->rng, FILES)], *to = &t->files[rng_below(&t->rng, FILES)];
	uint64_t offset, to_offset;
	uint32_t length, ignored;
	random_range(t, from, &offset, &length);
	random_range(t, to, &to_offset, &ignored);
	if (to_offset + length > SIZE_MAX_BYTES)
		length = (uint32_t)(SIZE_MAX_BYTES - to_offset);
	struct mutation m = { .kind = M_COPY_RANGE, .range = { .from = by_key(t->w, from->key),
			      .to = by_key(t->w, to->key), .from_offset = offset, .to_offset = to_offset,
			      .length = length, .from_version = from->version } };
	if (offset > from->size) {
		assert_int_equal(mutate(t->w, &m), -GRANARY_ERANGE);
		return;
	}
	assert_int_equal(mutate(t->w, &m), 0);
	uint64_t copied = length < from->size - offset ? length : from->size - offset;
	assert_int_equal(m.range.copied, copied);
	memcpy(bytes, from->bytes + offset, copied * sizeof(bytes[0]));
	if (copied > 0)
		grow(to, to_offset + copied);
	memcpy(to->bytes + to_offset, bytes, copied * sizeof(bytes[0]));
	to->version = m.range.version;
	assert_int_equal(m.range.size, to->size);
	m.range.from_version = from->version + 1;
	assert_int_equal(mutate(t->w, &m), -GRANARY_ECHANGED);
}

/* A stretch without holes becomes one record. */
static void op_merge(struct writes *t)
{
	struct file *f = &t->files[rng_below(&t->rng, FILES)];
	uint64_t at = f->size > 0 ? rng_below(&t->rng, f->size) : 0, end = at;
	while (end < f->size && f->bytes[end] != 0 && end - at < 70000)
		end++;
	if (end == at)
		return;
	struct extent e = record_new(t, f->id, at, (uint32_t)(end - at));
	struct mutation m = { .kind = M_MERGE, .merge = { .id = f->id, .version = f->version, .extents = &e,
			      .count = 1 } };
	assert_int_equal(mutate(t->w, &m), 0);
	fill(f, at, end, t->record_count - 1);
	m.merge.version++;
	assert_int_equal(mutate(t->w, &m), -GRANARY_ENOTFOUND);
}

static void op_rename(struct writes *t)
{
	struct file *f = &t->files[rng_below(&t->rng, FILES)];
	char to[sizeof(f->key)];
	snprintf(to, sizeof(to), "%c-%u", f->key[0], (unsigned)rng_below(&t->rng, 1000000));
	assert_int_equal(rename_key(t->w, f->key, to), 0);
	memcpy(f->key, to, sizeof(to));
}

/* A record is moved as compaction does it: all that point at it. */
struct moving { struct writes *t; uint64_t to; uint32_t count; };

static int move_take(void *arg, const struct ns_owner *owner)
{
	struct moving *m = arg;
	struct ns_move move = { .dir = owner->place.dir, .name = owner->place.name, .id = owner->object->id,
				.from = *owner->extent, .to = *owner->extent, .is_reference = owner->is_reference };
	move.to.record = m->to;
	move.to.pack = 1 + m->to / 8 % PACKS;
	move.to.crcs = m->t->records[m->to / 8].crcs + 4 * (size_t)(move.to.cut_before / CRC_BLOCK_SIZE);
	struct ns_plan *plan = ns_plan_new(m->t->w->ns);
	assert_int_equal(ns_plan_move_extent(plan, &move), 0);
	assert_int_equal(ns_plan_finish(plan), 0);
	assert_int_equal(kv_submit_wait(m->t->w->store.kv, ns_plan_txn(plan)), 0);
	ns_plan_committed(plan, 0);
	ns_plan_free(&plan);
	m->count++;
	return 0;
}

static void op_move(struct writes *t)
{
	uint32_t number = (uint32_t)rng_below(&t->rng, t->record_count), fresh = t->record_count;
	struct test_record *r = &t->records[number];
	struct ns_record who = { .pack = r->pack, .record = r->at, .object_id = r->object, .dir = t->w->bucket.root,
				 .logical = r->logical, .length = r->length };
	(void)record_new(t, r->object, r->logical, r->length);
	struct moving m = { t, t->records[fresh].at, 0 };
	assert_int_equal(ns_record_owners(t->w->ns, &who, move_take, &m), 0);
	for (int f = 0; f < FILES; f++)
		for (uint64_t i = 0; i < t->files[f].size; i++)
			if (t->files[f].bytes[i] >> RECORD_BITS == number + 1)
				t->files[f].bytes[i] = byte_of(fresh, t->files[f].bytes[i] & ((1u << RECORD_BITS) - 1));
}

static void test_random(void **state)
{
	static struct writes t;
	uint64_t seed = effort_number("GRANARY_SEED", clock_mono_ns());
	uint32_t ops = (uint32_t)effort("GRANARY_OPS", OPS_DEFAULT, OPS_LONG);

	memset(&t, 0, sizeof(t));
	t.w = *state;
	rng_seed(&t.rng, seed);
	print_message("seed %" PRIu64 "\n", seed);
	for (int i = 0; i < FILES; i++) {
		struct file *f = &t.files[i];
		snprintf(f->key, sizeof(f->key), "%c", 'a' + i);
		struct mutation m = { .kind = M_PUT, .ref = by_key(t.w, f->key) };
		assert_int_equal(mutate(t.w, &m), 0);
		f->id = m.id;
		f->version = m.version;
	}
	for (uint32_t i = 0; i < ops && t.record_count + BATCH_MAX < RECORDS_MAX; i++) {
		uint64_t pick = rng_below(&t.rng, 20);
		if (pick < 11)
			op_write(&t);
		else if (pick < 14)
			op_copy_range(&t);
		else if (pick < 17)
			op_merge(&t);
		else if (pick < 19 && t.record_count > 0)
			op_move(&t);
		else
			op_rename(&t);
		for (int f = 0; f < FILES; f++)
			compare_file(&t, &t.files[f]);
		if (i % 250 == 249) {
			compare_owners(&t);
			check_rows(t.w);
		}
	}
	compare_owners(&t);
	for (int i = 0; i < FILES; i++)
		assert_int_equal(delete_key(t.w, t.files[i].key), 0);
	struct tally left = check_rows(t.w);
	assert_true(left.extents == 0 && left.weight == 0 && left.references == 0);
}

/* ---- what a write costs ---- */

static void test_a_write_into_many_extents_touches_few_rows(void **state)
{
	enum { EXTENTS = 3000, LEN = 4096 };
	struct world *w = *state;
	static struct ns_change changes[EXTENTS];
	struct mutation put = { .kind = M_PUT, .ref = by_key(w, "big") };
	assert_int_equal(mutate(w, &put), 0);
	for (uint32_t i = 0; i < EXTENTS; i++)
		changes[i] = (struct ns_change){ .kind = NS_CHANGE_DATA, .offset = 2 * (uint64_t)i * LEN, .length = LEN,
						 .extent = { .pack = 3, .record = 8 * (uint64_t)i, .skip = 64,
							     .length = LEN, .logical = 2 * (uint64_t)i * LEN,
							     .crc_count = 1, .crcs = world_crcs } };
	struct mutation m = { .kind = M_WRITE, .ref = put.ref, .write = { .changes = changes, .count = EXTENTS } };
	assert_int_equal(mutate(w, &m), 0);
	check_rows(w);
	for (uint32_t i = 1; i + 1 < EXTENTS; i += 371) { /* inside one, over its border, into a hole */
		struct ns_change c = changes[i];
		c.offset += i % 3 * 2048 + 100;
		c.extent.logical = c.offset;
		struct ns_write x = { .ref = put.ref, .changes = &c, .count = 1 };
		struct ns_plan *plan = ns_plan_new(w->ns);
		assert_int_equal(ns_plan_write(plan, &x), 0);
		assert_int_equal(ns_plan_finish(plan), 0);
		assert_true(kv_txn_ops(ns_plan_txn(plan)) <= 16);
		assert_int_equal(kv_submit_wait(w->store.kv, ns_plan_txn(plan)), 0);
		ns_plan_committed(plan, 0);
		ns_plan_free(&plan);
	}
	check_rows(w);
}

static void test_what_is_refused(void **state)
{
	struct world *w = *state;
	struct ns_change c = { .kind = NS_CHANGE_PUNCH, .offset = 5, .length = 5 };
	struct mutation m = { .kind = M_WRITE, .ref = by_key(w, "none"), .write = { .changes = &c, .count = 1 } };
	assert_int_equal(mutate(w, &m), -GRANARY_ENOTFOUND);
	assert_int_equal(mkdir_key(w, "dir"), 0);
	m.ref = by_key(w, "dir");
	assert_int_equal(mutate(w, &m), -GRANARY_EISDIR);
	struct mutation make = { .kind = M_MAKE, .ref = by_key(w, "link"), .make = { .mode = 0120777,
				 .target = slice_str("x") } };
	assert_int_equal(mutate(w, &make), 0);
	m.ref = by_key(w, "link");
	assert_int_equal(mutate(w, &m), -GRANARY_ENOTFILE);
	assert_int_equal(put_key(w, "file"), 0);
	m.ref = by_key(w, "file");
	c.length = UINT64_MAX;
	assert_int_equal(mutate(w, &m), -GRANARY_ETOOBIG);
	c = (struct ns_change){ .kind = NS_CHANGE_TRUNCATE, .offset = UINT64_C(1) << 63 };
	assert_int_equal(mutate(w, &m), -GRANARY_ETOOBIG);
	c = (struct ns_change){ .kind = NS_CHANGE_ZEROS, .offset = 3 };
	assert_int_equal(mutate(w, &m), -GRANARY_EINVAL);
	c = (struct ns_change){ .kind = NS_CHANGE_TRUNCATE, .offset = UINT64_C(50) << 30 }; /* sparse, all of it */
	assert_int_equal(mutate(w, &m), 0);
	check_rows(w);
}

#define BOTH(test) cmocka_unit_test_setup_teardown(test, world_set_up_mem, world_tear_down), \
	cmocka_unit_test_setup_teardown(test, world_set_up_rocks, world_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_random),
		BOTH(test_a_write_into_many_extents_touches_few_rows),
		BOTH(test_what_is_refused),
	};
	return cmocka_run_group_tests_name("namespace: writes in place", tests, NULL, NULL);
}
