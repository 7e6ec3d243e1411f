/* SPDX-License-Identifier: Apache-2.0 */
/* test_conc_fair.c -- jobs that always ask for more get by weight what is given, over two reactors; one that stops
 * asking holds nobody back. */
#include "test_pack_fixture.h"

#include "req/fair.h"

enum { REQUESTS = 16, ROUNDS = 4000 };

struct asker {
	struct fair_req r;
	struct task enter, begin, came;
	struct field *f;
	struct fair_local *local;
	struct reactor *reactor;
	uint64_t job;
	uint32_t weight;
	uint64_t most, made;     /* most: permissions, then it leaves */
	_Atomic bool left;
};
struct field {
	struct bed b;
	struct fair *fair;
	struct fair_local *locals[BED_REACTORS];
	struct asker askers[REQUESTS];
	_Atomic uint64_t given, had[2]; /* permissions of all, of the jobs, before the first asker left */
	_Atomic uint32_t entered;
	_Atomic bool over;
};

static void ask(struct asker *a)
{
	if (a->made == a->most || atomic_load(&a->f->over)) {
		fair_leave(a->local, &a->r);
		atomic_store(&a->left, true);
		return;
	}
	if (!fair_may(a->local, &a->r))
		return;
	a->made++;
	fair_made(a->local, &a->r, FAIR_QUANTUM);
	fair_reading(a->local, FAIR_QUANTUM);
	atomic_fetch_add(&a->f->had[a->job - 1], 1);
	if (atomic_fetch_add(&a->f->given, 1) + 1 == ROUNDS && a->most == UINT64_MAX)
		atomic_store(&a->f->over, true);
	reactor_defer(a->reactor, &a->came);
}

static void on_go(struct fair_req *r) { ask(container_of(r, struct asker, r)); }

static void on_came(struct task *t)
{
	struct asker *a = container_of(t, struct asker, came);

	fair_came(a->local, FAIR_QUANTUM);
	ask(a);
}

static void on_begin(struct task *t)
{
	struct asker *a = container_of(t, struct asker, begin);

	for (uint32_t i = 0; i < REQUESTS; i++) /* all of this reactor in one turn */
		if (a->f->askers[i].local == a->local)
			ask(&a->f->askers[i]);
}

static void on_enter(struct task *t)
{
	struct asker *a = container_of(t, struct asker, enter);

	fair_enter(a->local, &a->r, a->job, a->weight);
	atomic_fetch_add(&a->f->entered, 1);
}

/* Job 1 has `first` of the askers, weight 1; job 2 the others, weight 3. */
static struct field *field_run(uint32_t first, uint64_t most_of_first, uint64_t most)
{
	struct field *f = calloc(1, sizeof(*f));

	bed_new(&f->b, 16 << 20);
	f->fair = fair_new();
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		f->locals[i] = fair_local_new(f->fair, f->b.reactors[i]);
	for (uint32_t i = 0; i < REQUESTS; i++) {
		struct asker *a = &f->askers[i];

		*a = (struct asker){ .r.go = on_go, .enter.fn = on_enter, .begin.fn = on_begin,
			.came.fn = on_came, .f = f,
			.local = f->locals[i % BED_REACTORS], .reactor = f->b.reactors[i % BED_REACTORS],
			.job = i < first ? 1 : 2, .weight = i < first ? 1 : 3,
			.most = i < first ? most_of_first : most };
		reactor_post(a->reactor, &a->enter);
	}
	while (atomic_load(&f->entered) < REQUESTS)
		bed_sleep();
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		reactor_post(f->askers[i].reactor, &f->askers[i].begin);
	for (uint32_t i = 0; i < REQUESTS; i++)
		while (!atomic_load(&f->askers[i].left))
			bed_sleep();
	return f;
}

static void field_free(struct field *f)
{
	bed_free(&f->b);
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		fair_local_free(&f->locals[i]);
	fair_free(&f->fair);
	free(f);
}

/* Goal: weights hold, not numbers of requests: 12 of weight 1 against 4 of weight 3. A reactor that does not run for
 * long gives nothing, so the other gives what it has by weight: nearly a quarter on any machine. */
static void test_jobs_get_by_weight(void **state)
{
	struct field *f = field_run(12, UINT64_MAX, UINT64_MAX);
	uint64_t one = atomic_load(&f->had[0]), two = atomic_load(&f->had[1]);

	(void)state;
	assert_true(one + two >= ROUNDS);
	assert_in_range(one * 1000 / (one + two), 150, 350);
	field_free(f);
}

/* Goal: a job that is through leaves all to the other, at once and to the end. */
static void test_who_is_through_holds_nobody_back(void **state)
{
	struct field *f = field_run(8, 3, ROUNDS / 8);

	(void)state;
	assert_int_equal(8 * 3, atomic_load(&f->had[0]));
	assert_int_equal(ROUNDS, atomic_load(&f->had[1]));
	field_free(f);
}

/* Goal: jobs without number: the table is full, the rest count as those without a job, and all get through. */
static void test_more_jobs_than_the_table_holds(void **state)
{
	struct fair *fair = fair_new();
	struct bed b;
	struct fair_req r[2 * FAIR_JOBS_MAX];
	struct fair_local *local;

	(void)state;
	bed_new(&b, 16 << 20);
	local = fair_local_new(fair, b.reactors[0]);
	memset(r, 0, sizeof(r));
	for (uint32_t i = 0; i < 2 * FAIR_JOBS_MAX; i++)
		fair_enter(local, &r[i], i + 1, 1000000);
	assert_int_equal(1, r[0].job);
	assert_int_equal(0, r[2 * FAIR_JOBS_MAX - 1].job);
	for (uint32_t i = 0; i < 2 * FAIR_JOBS_MAX; i++)
		fair_leave(local, &r[i]);
	bed_free(&b);
	fair_local_free(&local);
	fair_free(&fair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_jobs_get_by_weight),
		cmocka_unit_test(test_who_is_through_holds_nobody_back),
		cmocka_unit_test(test_more_jobs_than_the_table_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
