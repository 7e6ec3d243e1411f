/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: when an order needs which pages is known to a window, and never later than it is; what is brought up and let go
 * keeps to the room, takes nothing down for what is needed later, and brings each pack of a sequential epoch up once.
 * Method: orders are walked position by position; choices are carried out on a model of flash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/rand.h"
#include "jobs/ahead.h"

enum { PAGES = 23, PACKS = 40, MB = 1000000 };

/* ---- orders ---- */

static struct order order_make(uint8_t mode, uint64_t samples, uint64_t seed)
{
	struct order_spec s = { .mode = mode, .samples = samples, .seed = seed, .epoch = 3 };
	struct order o;

	if (mode == ORDER_BLOCKS) {
		s.block = 16;
		s.window = 3;
		s.lanes = 4;
	}
	assert_int_equal(order_init(&o, &s, NULL, 0), 0);
	return o;
}

static uint32_t page_of(const uint64_t *starts, uint64_t id)
{
	uint32_t p = 0;

	while (starts[p + 1] <= id) p++;
	return p;
}

static void check_uses(const struct order *o, const uint64_t *starts, uint64_t position)
{
	uint64_t first[PAGES], last[PAGES], left[PAGES], all = 0, window = 16 * 3 * 4;
	struct page_use uses[PAGES];

	memset(left, 0, sizeof(left));
	for (uint64_t p = position; p < o->spec.samples; p++) {
		uint32_t page = page_of(starts, order_at(o, p));

		if (left[page]++ == 0) first[page] = p;
		last[page] = p;
	}
	ahead_order_uses(o, position, starts, PAGES, uses);
	for (uint32_t i = 0; i < PAGES; i++) {
		if (left[i] == 0) { /* nearly over: what was drawn of the present window still counts */
			assert_true(uses[i].first == UINT64_MAX || o->spec.mode == ORDER_EXACT ||
				    uses[i].last <= position + window + 8);
			continue;
		}
		assert_true(uses[i].first >= position && uses[i].first <= first[i]);
		assert_true(uses[i].last > last[i] || (o->spec.mode == ORDER_BLOCKS && uses[i].last + 4 >= last[i]));
		all += uses[i].left;
		if (o->spec.mode == ORDER_NONE) {
			assert_int_equal(uses[i].first, first[i]);
			assert_int_equal(uses[i].last, last[i] + 1);
			assert_int_equal(uses[i].left, left[i]);
		}
		if (o->spec.mode == ORDER_BLOCKS) {
			/* To a window; of the one that it is in nobody knows what was drawn already. */
			assert_true(uses[i].first + window > first[i] || uses[i].first < position + window);
			assert_true(uses[i].left >= left[i] && uses[i].left <= left[i] + window);
		}
	}
	assert_true(all + PAGES >= o->spec.samples - position); /* `exact` rounds */
}

static void test_orders_say_when_pages_are_used(void **state)
{
	static const uint8_t modes[] = { ORDER_EXACT, ORDER_BLOCKS, ORDER_NONE };
	struct rng rng;

	(void)state;
	rng_seed(&rng, 11);
	for (uint32_t round = 0; round < 60; round++) {
		uint64_t starts[PAGES + 1] = { 0 };
		struct order o;

		for (uint32_t i = 0; i < PAGES; i++) starts[i + 1] = starts[i] + 1 + rng_below(&rng, 400);
		o = order_make(modes[round % 3], starts[PAGES], round);
		for (uint32_t i = 0; i < 5; i++) check_uses(&o, starts, i == 0 ? 0 : rng_below(&rng, starts[PAGES]));
	}
}

static void test_an_epoch_that_is_over_needs_nothing(void **state)
{
	uint64_t starts[PAGES + 1];
	struct page_use uses[PAGES];
	struct order o;

	(void)state;
	for (uint32_t i = 0; i <= PAGES; i++) starts[i] = 100 * i;
	o = order_make(ORDER_BLOCKS, starts[PAGES], 1);
	ahead_order_uses(&o, starts[PAGES], starts, PAGES, uses);
	for (uint32_t i = 0; i < PAGES; i++) assert_true(uses[i].first == UINT64_MAX && uses[i].left == 0);
}

/* ---- choices ---- */

struct flash {
	struct ahead_pack packs[PACKS];
	int64_t room;
	uint32_t comes, goes;
};

static void flash_begin(struct flash *f, uint32_t room_packs)
{
	*f = (struct flash){ .room = (int64_t)room_packs * MB };
	for (uint32_t i = 0; i < PACKS; i++)
		f->packs[i] = (struct ahead_pack){ .id = i + 1, .size = MB, .cold = true, .next_s = INFINITY,
			.last_s = INFINITY, .idle_s = 1e6 };
}

static void flash_apply(struct flash *f)
{
	for (uint32_t i = 0; i < PACKS; i++) {
		struct ahead_pack *p = &f->packs[i];

		if (p->verdict == AHEAD_GOES) {
			assert_true(p->hot && p->cold && p->brought);
			p->hot = p->brought = false;
			f->room += MB;
			f->goes++;
		}
	}
	for (uint32_t i = 0; i < PACKS; i++) {
		struct ahead_pack *p = &f->packs[i];

		if (p->verdict != AHEAD_COMES) continue;
		assert_true(!p->hot && p->cold);
		p->hot = p->brought = true;
		f->room -= MB;
		f->comes++;
		assert_true(f->room >= 0);
	}
}

/* A sequential epoch over flash of five packs: each pack is there when its turn comes, and came up once. */
static void test_a_sequential_epoch_brings_each_pack_up_once(void **state)
{
	struct flash f;

	(void)state;
	flash_begin(&f, 5);
	for (uint32_t now = 0; now < 10 * PACKS; now++) {
		for (uint32_t i = 0; i < PACKS; i++) {
			struct ahead_pack *p = &f.packs[i];
			double from = 10.0 * i - now, to = 10.0 * (i + 1) - now;

			p->next_s = to <= 0 ? INFINITY : from > 0 ? from : 0;
			p->last_s = to <= 0 ? INFINITY : to;
			p->left = to <= 0 ? 0 : from > 0 ? MB : (uint64_t)(to / 10 * MB);
			if (to > 0 && from <= 0 && now > 0) assert_true(p->hot);
		}
		ahead_choose(f.packs, PACKS, f.room, 2);
		flash_apply(&f);
	}
	assert_int_equal(f.comes, PACKS);
	assert_int_equal(f.goes, PACKS - 5);
}

/* All of it is in use all the time and does not fit: what is there stays, nothing is moved to and fro. */
static void test_what_is_used_all_the_time_is_not_moved_to_and_fro(void **state)
{
	struct flash f;

	(void)state;
	flash_begin(&f, 10);
	for (uint32_t i = 0; i < PACKS; i++) {
		f.packs[i].next_s = i % 7;
		f.packs[i].last_s = 1000;
		f.packs[i].left = MB;
	}
	for (uint32_t n = 0; n < 50; n++) {
		ahead_choose(f.packs, PACKS, f.room, 4);
		flash_apply(&f);
	}
	assert_int_equal(f.comes, 10);
	assert_int_equal(f.goes, 0);
	for (uint32_t i = 0; i < PACKS; i++)
		if (i % 7 == 0) assert_true(f.packs[i].hot); /* those that are needed first */
}

static void test_little_of_a_pack_is_read_one_by_one(void **state)
{
	struct flash f;

	(void)state;
	flash_begin(&f, 10);
	f.packs[3].next_s = 1;
	f.packs[3].last_s = 2;
	f.packs[3].left = MB / 3;
	ahead_choose(f.packs, PACKS, f.room, 4);
	flash_apply(&f);
	assert_int_equal(f.comes, 0);
}

/* Only what was brought up goes, and of that what nobody speaks for first. */
static void test_who_goes(void **state)
{
	struct flash f;

	(void)state;
	flash_begin(&f, 0);
	for (uint32_t i = 0; i < 4; i++) f.packs[i].hot = true;
	for (uint32_t i = 1; i < 4; i++) f.packs[i].brought = true;
	f.packs[1].next_s = 500, f.packs[1].last_s = 600;
	f.packs[2].idle_s = 2000;
	f.packs[3].idle_s = 3000;
	f.packs[9].next_s = 1, f.packs[9].last_s = 100, f.packs[9].left = MB;
	ahead_choose(f.packs, PACKS, f.room, 1);
	assert_int_equal(f.packs[3].verdict, AHEAD_GOES);
	assert_int_equal(f.packs[2].verdict, AHEAD_STAYS);
	flash_apply(&f);
	f.packs[10] = f.packs[9], f.packs[10].id = 11, f.packs[10].hot = f.packs[10].brought = false;
	f.packs[11] = f.packs[10], f.packs[11].id = 12;
	f.packs[12] = f.packs[10], f.packs[12].id = 13;
	ahead_choose(f.packs, PACKS, f.room, 4);
	assert_int_equal(f.packs[2].verdict, AHEAD_GOES);
	assert_int_equal(f.packs[1].verdict, AHEAD_GOES); /* it is needed after the last use of what comes */
	assert_int_equal(f.packs[0].verdict, AHEAD_STAYS); /* it was not brought up */
	assert_int_equal(f.packs[9].verdict, AHEAD_STAYS);
	assert_int_equal(f.packs[12].verdict, AHEAD_STAYS); /* no room is left */
	flash_apply(&f);
	assert_int_equal(f.goes, 3);
}

/* Too much is there already: what nobody speaks for goes, what is needed stays. Reads that miss take the place of what
 * was not read for long, and of nothing else. */
static void test_pressure_and_misses(void **state)
{
	struct flash f;

	(void)state;
	flash_begin(&f, 0);
	f.room = -MB;
	for (uint32_t i = 0; i < 3; i++) f.packs[i].hot = f.packs[i].brought = true;
	f.packs[0].next_s = 1, f.packs[0].last_s = 5;
	ahead_choose(f.packs, PACKS, f.room, 4);
	assert_int_equal(f.packs[0].verdict, AHEAD_STAYS);
	assert_int_equal((f.packs[1].verdict == AHEAD_GOES) + (f.packs[2].verdict == AHEAD_GOES), 1);
	flash_apply(&f);
	f.packs[1].idle_s = f.packs[2].idle_s = 10;
	f.packs[20].wanted = true;
	ahead_choose(f.packs, PACKS, f.room, 4);
	assert_int_equal(f.packs[20].verdict, AHEAD_STAYS);
	f.packs[1].idle_s = f.packs[2].idle_s = 100000;
	ahead_choose(f.packs, PACKS, f.room, 4);
	assert_int_equal(f.packs[20].verdict, AHEAD_COMES);
	flash_apply(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_orders_say_when_pages_are_used),
		cmocka_unit_test(test_an_epoch_that_is_over_needs_nothing),
		cmocka_unit_test(test_a_sequential_epoch_brings_each_pack_up_once),
		cmocka_unit_test(test_what_is_used_all_the_time_is_not_moved_to_and_fro),
		cmocka_unit_test(test_little_of_a_pack_is_read_one_by_one),
		cmocka_unit_test(test_who_goes),
		cmocka_unit_test(test_pressure_and_misses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
