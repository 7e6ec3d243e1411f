/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack_check.c -- damage of every kind is found in packs that the writer wrote, at the right
 * offset, and what is not damaged is still read. */
#include "test_pack_fixture.h"

enum { MIB = 1024 * 1024, N = 120, PROBLEMS_MAX = 64 };

static uint8_t pool[2 * MIB];

struct found {
	uint32_t records, problems;
	struct pack_problem at[PROBLEMS_MAX];
};

struct lab {
	struct bed b;
	struct put puts[N];
	struct pack *pack;
	struct fs_file *file;
	uint64_t id, size, data_end;
	uint8_t *image;      /* the whole file, to restore */
	struct found found;
};

/* Sizes that exercise lines, chunks and several blocks; equal ones in pairs, to be exchanged. */
static uint32_t len_of(uint32_t i) { return i % 10 < 2 ? 5000 : i % 10 == 5 ? 300000 : 100 + i * 37; }

static int on_record(void *arg, uint64_t offset, const struct record *r, const uint8_t *data)
{
	struct found *f = arg;

	(void)offset;
	(void)r;
	(void)data;
	f->records++;
	return 0;
}

static void on_problem(void *arg, const struct pack_problem *p)
{
	struct found *f = arg;

	if (f->problems < PROBLEMS_MAX)
		f->at[f->problems] = *p;
	f->problems++;
}

static void lab_open(struct lab *l)
{
	struct pack_trailer t;

	bed_new(&l->b, 16 * MIB);
	for (uint32_t i = 0; i < N; i++) {
		put_init(&l->puts[i], &l->b, 8, i + 1, pool + i * 1000, len_of(i));
		pack_append(l->b.writers, &l->puts[i].a);
		if (i % 40 == 39)
			put_wait(&l->puts[i]);
	}
	for (uint32_t i = 0; i < N; i++)
		put_wait(&l->puts[i]);
	put_commit(&l->b, l->puts, N);
	writers_rotate(l->b.writers, true);
	bed_idle(&l->b);
	l->id = l->puts[0].a.extent.pack;
	l->pack = packs_ref(l->b.packs, l->id);
	if (pack_file(l->pack) == NULL)
		assert_int_equal(packs_open_file(l->b.packs, l->pack), 0);
	l->file = pack_file(l->pack);
	l->size = (uint64_t)fs_size(l->file);
	assert_int_equal(pack_footer_read(l->file, l->id, &t, NULL, NULL), 0);
	assert_int_equal(t.entries, N);
	l->data_end = t.data_end;
	l->image = aligned_alloc(4096, l->size);
	assert_int_equal(fs_read(l->file, l->image, l->size, 0), l->size);
}

static void lab_close(struct lab *l)
{
	free(l->image);
	packs_unref(l->b.packs, l->pack);
	bed_free(&l->b);
}

static int lab_check(struct lab *l)
{
	struct pack_walk walk = { .pack_id = l->id, .verify_data = true, .each = on_record, .problem = on_problem,
		.arg = &l->found };

	l->found = (struct found){ 0 };
	return pack_check_sealed(l->file, &walk);
}

/* Writes the image back with some bytes changed. */
static void lab_write(struct lab *l, const uint8_t *image)
{
	assert_int_equal(fs_truncate(l->file, l->size), 0);
	assert_int_equal(fs_write(l->file, image, l->size, 0), 0);
}

static const struct put *put_at(const struct lab *l, uint32_t i) { return &l->puts[i]; }

static void test_a_sound_pack_has_no_problem(void **state)
{
	struct lab *l = *state;

	assert_int_equal(lab_check(l), 0);
	assert_int_equal(l->found.problems, 0);
	assert_int_equal(l->found.records, N);
	for (uint32_t i = 0; i < N; i++)
		put_verify(&l->b, &l->puts[i], l->puts[i].a.data);
}

static void test_a_flipped_bit_is_found_where_it_is(void **state)
{
	struct lab *l = *state;
	uint8_t *image = aligned_alloc(4096, l->size), data[EXTENT_LEN_MAX];
	uint32_t len;

	for (uint32_t i = 0; i < N; i += 7) {
		const struct extent *e = &put_at(l, i)->a.extent;
		/* In turn: in the header, in the key, in the data's last byte. */
		uint64_t at = e->record + (i % 3 == 0 ? 30 : i % 3 == 1 ? 66 : e->skip + e->length - 1);

		memcpy(image, l->image, l->size);
		image[at] ^= 4;
		lab_write(l, image);
		assert_int_equal(lab_check(l), 0);
		assert_true(l->found.problems >= 1);
		assert_int_equal(l->found.at[0].offset, e->record);
		assert_int_equal(l->found.at[0].err, -GRANARY_ECORRUPT);
		assert_int_equal(pack_record_verify(l->file, l->id, e->record, put_at(l, i)->a.object_id, data, &len,
			NULL),
			-GRANARY_ECORRUPT);
		/* The walk finds its way back: few neighbours are lost, the footer names each. */
		assert_true(l->found.records + 40 >= N);
	}
	lab_write(l, l->image);
	free(image);
}

static void test_every_zeroed_block_is_found(void **state)
{
	struct lab *l = *state;
	uint8_t *image = aligned_alloc(4096, l->size);

	for (uint64_t at = 4096; at + 4096 <= l->data_end; at += 4096 * 5) {
		memcpy(image, l->image, l->size);
		memset(image + at, 0, 4096);
		lab_write(l, image);
		assert_int_equal(lab_check(l), 0);
		assert_true(l->found.problems >= 1);
		/* The first problem is a record that overlaps the block or is named in it. */
		assert_true(l->found.at[0].offset < at + 4096);
		assert_true(l->found.at[0].offset + 310000 > at);
	}
	lab_write(l, l->image);
	free(image);
}

static void test_exchanged_records_are_found(void **state)
{
	struct lab *l = *state;
	uint8_t *image = aligned_alloc(4096, l->size), data[EXTENT_LEN_MAX];
	const struct put *a = put_at(l, 10), *c = put_at(l, 11);
	uint64_t span = a->a.total_len;
	uint32_t len;

	assert_int_equal(span, c->a.total_len);
	memcpy(image, l->image, l->size);
	memcpy(image + a->a.extent.record, l->image + c->a.extent.record, span);
	memcpy(image + c->a.extent.record, l->image + a->a.extent.record, span);
	lab_write(l, image);
	assert_int_equal(lab_check(l), 0);
	assert_int_equal(l->found.problems, 2);
	assert_int_equal(l->found.at[0].offset, a->a.extent.record);
	assert_int_equal(l->found.at[1].offset, c->a.extent.record);
	assert_int_equal(l->found.records, N);
	assert_int_equal(pack_record_verify(l->file, l->id, a->a.extent.record, a->a.object_id, data, &len, NULL),
		-GRANARY_ECORRUPT);
	lab_write(l, l->image);
	free(image);
}

static void test_a_truncated_tail_is_found(void **state)
{
	struct lab *l = *state;
	struct pack_walk walk = { .pack_id = l->id, .end = l->data_end, .verify_data = true, .each = on_record,
		.problem = on_problem, .arg = &l->found };
	uint64_t cut = (put_at(l, N - 20)->a.extent.record + 4096) & ~UINT64_C(4095);

	assert_int_equal(fs_truncate(l->file, l->size - 4096), 0);
	assert_true(lab_check(l) < 0);
	assert_int_equal(fs_truncate(l->file, cut), 0);
	assert_true(lab_check(l) < 0);
	l->found = (struct found){ 0 };
	assert_int_equal(pack_walk(l->file, &walk), 0);
	assert_true(l->found.problems >= 1);
	assert_true(l->found.at[0].offset <= cut);
	assert_true(l->found.records >= N - 21 && l->found.records < N);
	lab_write(l, l->image);
}

static void test_a_damaged_footer_is_refused(void **state)
{
	struct lab *l = *state;
	uint8_t *image = aligned_alloc(4096, l->size);
	uint64_t footer = (l->data_end + 4095) & ~UINT64_C(4095);

	for (uint64_t at = footer; at < l->size; at += 61) {
		bool is_padding = at >= footer + N * PACK_FOOTER_ENTRY_SIZE && at < l->size - PACK_TRAILER_SIZE;

		memcpy(image, l->image, l->size);
		image[at] ^= 0x10;
		lab_write(l, image);
		assert_int_equal(lab_check(l) < 0, !is_padding);
	}
	lab_write(l, l->image);
	assert_int_equal(lab_check(l), 0);
	free(image);
}

static void test_without_a_listener_the_first_problem_ends_the_walk(void **state)
{
	struct lab *l = *state;
	struct pack_walk walk = { .pack_id = l->id, .end = l->data_end, .verify_data = true, .each = on_record,
		.arg = &l->found };
	uint8_t *image = aligned_alloc(4096, l->size);

	memcpy(image, l->image, l->size);
	image[put_at(l, 50)->a.extent.record + 20] ^= 1;
	lab_write(l, image);
	l->found = (struct found){ 0 };
	assert_int_equal(pack_walk(l->file, &walk), -GRANARY_ECORRUPT);
	assert_int_equal(l->found.records, 50);
	assert_int_equal(pack_check_sealed(l->file, &walk), -GRANARY_ECORRUPT);
	lab_write(l, l->image);
	free(image);
}

int main(void)
{
	static struct lab lab;
	void *state = &lab;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_a_sound_pack_has_no_problem, state),
		cmocka_unit_test_prestate(test_a_flipped_bit_is_found_where_it_is, state),
		cmocka_unit_test_prestate(test_every_zeroed_block_is_found, state),
		cmocka_unit_test_prestate(test_exchanged_records_are_found, state),
		cmocka_unit_test_prestate(test_a_truncated_tail_is_found, state),
		cmocka_unit_test_prestate(test_a_damaged_footer_is_refused, state),
		cmocka_unit_test_prestate(test_without_a_listener_the_first_problem_ends_the_walk, state),
	};
	int failed;

	bytes_fill(pool, sizeof(pool), 1);
	lab_open(&lab);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	lab_close(&lab);
	return failed;
}
