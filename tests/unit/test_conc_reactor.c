/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: mail keeps each poster's order and none is lost, whatever the target does meanwhile; workers run all.
 * Method: several posters, targets that fall asleep again and again, over both engines; meant for TSan too. */
#include "io/reactor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"
#include "io/io.h"

enum { POSTERS = 4, TASKS = 100000, PAUSES = 300, WORKER_TASKS = 20000 };

struct numbered { struct task task; uint32_t poster, number; };

static enum io_engine_kind kind;
static struct reactor *target;
static uint32_t next_number[POSTERS]; /* the target's thread only */
static _Atomic uint32_t ran, out_of_order;
static sem_t all_ran;
static uint32_t all_count;

static struct reactor *start_reactor(uint32_t index)
{
	struct io_options o = { .engine = kind, .recv_bufs = 16, .threads = 2 };
	struct reactor *r;
	assert_int_equal(reactor_new(index, &o, &r), 0);
	int err = reactor_start(r);
	if (err == -GRANARY_EUNSUPPORTED) {
		reactor_free(&r);
		skip();
	}
	assert_int_equal(err, 0);
	return r;
}

static void expect(uint32_t count)
{
	for (uint32_t i = 0; i < POSTERS; i++)
		next_number[i] = 0;
	atomic_store(&ran, 0);
	atomic_store(&out_of_order, 0);
	sem_init(&all_ran, 0, 0);
	all_count = count;
}

static void await_all(void)
{
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 120;
	assert_int_equal(sem_timedwait(&all_ran, &end), 0); /* else a wake-up was lost */
}

static void on_number(struct task *task)
{
	struct numbered *n = (struct numbered *)(void *)task;
	if (next_number[n->poster]++ != n->number || reactor_self() != target)
		atomic_fetch_add(&out_of_order, 1);
	if (atomic_fetch_add(&ran, 1) + 1 == all_count)
		sem_post(&all_ran);
}

static struct numbered *make_tasks(uint32_t poster, uint32_t count)
{
	struct numbered *list = calloc(count, sizeof(*list));
	for (uint32_t i = 0; list && i < count; i++)
		list[i] = (struct numbered){ { on_number, NULL }, poster, i };
	return list;
}

static void *post_singly(void *arg)
{
	struct numbered *list = arg;
	for (uint32_t i = 0; i < TASKS; i++)
		reactor_post(target, &list[i].task);
	return NULL;
}

/* In lists of 1 to 7, linked here. */
static void *post_lists(void *arg)
{
	struct numbered *list = arg;
	for (uint32_t i = 0; i < TASKS;) {
		uint32_t n = i % 7 + 1;
		if (n > TASKS - i)
			n = TASKS - i;
		for (uint32_t k = i; k + 1 < i + n; k++)
			list[k].task.next = &list[k + 1].task;
		reactor_post_list(target, &list[i].task, &list[i + n - 1].task);
		i += n;
	}
	return NULL;
}

static void test_each_posters_order_is_kept_and_nothing_is_lost(void **state)
{
	pthread_t threads[POSTERS];
	struct numbered *lists[POSTERS];
	(void)state;
	target = start_reactor(0);
	expect(POSTERS * TASKS);
	for (uint32_t i = 0; i < POSTERS; i++) {
		lists[i] = make_tasks(i, TASKS);
		assert_non_null(lists[i]);
		assert_int_equal(pthread_create(&threads[i], NULL, i % 2 ? post_lists : post_singly, lists[i]), 0);
	}
	for (uint32_t i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	await_all();
	assert_true(reactor_cpu_ns(target) > 0);
	reactor_stop(target);
	assert_true(reactor_cpu_ns(target) > 0); /* still known after the end */
	reactor_free(&target);
	assert_int_equal(ran, POSTERS * TASKS);
	assert_int_equal(out_of_order, 0);
	for (uint32_t i = 0; i < POSTERS; i++)
		free(lists[i]);
}

/* One task at a time, each after the target had time to fall asleep, or just not: the races of going to sleep. */
static void test_a_sleeping_target_always_wakes(void **state)
{
	(void)state;
	target = start_reactor(0);
	expect(1);
	for (uint32_t i = 0; i < PAUSES * 10; i++) {
		struct numbered one = { { on_number, NULL }, 0, 0 };
		next_number[0] = 0;
		atomic_store(&ran, 0);
		if (i % 10 == 0)
			usleep(i % 500);
		reactor_post(target, &one.task);
		await_all();
	}
	assert_int_equal(out_of_order, 0);
	reactor_stop(target);
	reactor_free(&target);
}

struct ping { struct task task; struct reactor *to, *back; uint32_t left; };

static void on_ping(struct task *task)
{
	struct ping *p = (struct ping *)(void *)task;
	struct reactor *to = p->to;
	if (p->left-- == 0) {
		sem_post(&all_ran);
		return;
	}
	p->to = p->back;
	p->back = to;
	reactor_post(p->to, task); /* a task may be posted again from inside its fn */
}

static void test_two_reactors_play_ping_pong(void **state)
{
	(void)state;
	struct reactor *a = start_reactor(0), *b = start_reactor(1);
	struct ping pings[3];
	expect(0);
	for (uint32_t i = 0; i < 3; i++) {
		pings[i] = (struct ping){ { on_ping, NULL }, a, b, 20000 };
		reactor_post(a, &pings[i].task);
	}
	for (uint32_t i = 0; i < 3; i++)
		await_all();
	assert_int_equal(reactor_index(b), 1);
	reactor_stop(a);
	reactor_stop(b);
	reactor_free(&a);
	reactor_free(&b);
}

struct own { struct task task, deferred, posted; uint32_t order, deferred_at, posted_at; bool nested; };
static struct own own;

static void on_deferred(struct task *task) { (void)task; own.deferred_at = ++own.order; }
static void on_posted(struct task *task) { (void)task; own.posted_at = ++own.order; sem_post(&all_ran); }
static void on_own(struct task *task)
{
	(void)task;
	reactor_defer(reactor_self(), &own.deferred);
	reactor_post(reactor_self(), &own.posted);
	own.nested = own.order != 0;
}

static void test_own_mail_and_deferred_tasks_run_later_not_nested(void **state)
{
	(void)state;
	target = start_reactor(0);
	expect(0);
	own = (struct own){ .task.fn = on_own, .deferred.fn = on_deferred, .posted.fn = on_posted };
	reactor_post(target, &own.task);
	await_all();
	reactor_stop(target);
	assert_false(own.nested);
	assert_true(own.deferred_at > 0 && own.posted_at > 0);
	reactor_free(&target);
	assert_null(reactor_self());
}

/* Mail posted before the stop runs. */
static void test_stop_runs_what_was_posted(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 20; round++) {
		target = start_reactor(0);
		struct numbered *list = make_tasks(0, 1000);
		assert_non_null(list);
		expect(1000);
		for (uint32_t i = 0; i < 1000; i++)
			reactor_post(target, &list[i].task);
		reactor_stop(target);
		assert_int_equal(ran, 1000);
		reactor_free(&target);
		free(list);
	}
}

static void on_work(struct task *task)
{
	(void)task;
	if (atomic_fetch_add(&ran, 1) + 1 == all_count)
		sem_post(&all_ran);
}

static void test_workers_run_everything_also_at_the_end(void **state)
{
	static struct task tasks[WORKER_TASKS];
	struct workers *w;
	(void)state;
	for (int drain = 0; drain < 2; drain++) {
		assert_int_equal(workers_new(4, &w), 0);
		expect(WORKER_TASKS);
		for (uint32_t i = 0; i < WORKER_TASKS; i++) {
			tasks[i] = (struct task){ on_work, NULL };
			workers_post(w, &tasks[i]);
		}
		if (!drain)
			await_all();
		workers_free(&w);
		assert_int_equal(ran, WORKER_TASKS);
	}
}

static int run(const char *title, enum io_engine_kind engine)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_posters_order_is_kept_and_nothing_is_lost),
		cmocka_unit_test(test_a_sleeping_target_always_wakes),
		cmocka_unit_test(test_two_reactors_play_ping_pong),
		cmocka_unit_test(test_own_mail_and_deferred_tasks_run_later_not_nested),
		cmocka_unit_test(test_stop_runs_what_was_posted),
		cmocka_unit_test(test_workers_run_everything_also_at_the_end),
	};
	kind = engine;
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}

int main(void)
{
	return run("uring", IO_ENGINE_URING) + run("threads", IO_ENGINE_THREADS);
}
