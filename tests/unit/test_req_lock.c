/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: locks of files are granted, waited for, refused and given back as flock(2) and fcntl(2) have it, over several
 * clients; they go with the open, the session and the connection that waits; after a restart who had one gets it again
 * and nobody else before. Method: requests against a store on real threads. */
#include "unit/harness_open.h"

#include "common/clock.h"
#include "req/locks.h"

static struct world world;
static struct peer a, b;
static struct opened_result of_a, of_b;
static uint64_t next_number = 1;

static struct lock range(uint8_t type, uint64_t start, uint64_t end)
{
	return (struct lock){ .owner = 1, .start = start, .end = end, .pid = 4711, .kind = LOCK_RANGE, .type = type };
}

static struct lock whole(uint8_t type)
{
	return (struct lock){ .owner = 1, .end = UINT64_MAX, .kind = LOCK_WHOLE, .type = type };
}

static struct call *lock_start(struct peer *p, uint64_t handle, uint8_t action, struct lock lock, uint64_t number)
{
	uint8_t buf[64];
	struct wr w = wr_of(buf, sizeof(buf));

	wr_u8(&w, action);
	wr_u64(&w, handle);
	wr_u64(&w, number);
	lock_write(&w, &lock);
	return call_start(p, OP_LOCK, 0, &w, NULL, 0);
}

static int lock_end(struct call *c)
{
	int err;

	call_wait(c);
	err = call_status(c);
	call_free(c);
	return err;
}

static int lock_now(struct peer *p, const struct opened_result *o, uint8_t action, struct lock lock)
{
	return lock_end(lock_start(p, o->handle, action, lock, next_number++));
}

/* Type of what is in the way; LOCK_NONE: nothing. */
static uint8_t lock_test(struct peer *p, const struct opened_result *o, struct lock lock, struct lock *other)
{
	struct call *c = lock_start(p, o->handle, LOCK_TEST, lock, next_number++);
	struct cur m;

	call_wait(c);
	assert_int_equal(call_status(c), 0);
	m = cur_of(c->first->meta, c->first->meta_len);
	other->type = cur_u8(&m);
	other->session = cur_u8(&m);
	other->owner = cur_u64(&m);
	other->start = cur_u64(&m);
	other->end = cur_u64(&m);
	other->pid = cur_u32(&m);
	assert_true(cur_done(&m));
	call_free(c);
	return other->type;
}

static struct locks_stats stats(void)
{
	struct locks_stats s;

	locks_get_stats(world.store->locks, &s);
	return s;
}

static void wait_for_waiting(uint64_t n)
{
	for (int i = 0; i < 5000 && stats().waiting != n; i++) usleep(1000);
	assert_int_equal(stats().waiting, n);
}

struct unpark { struct task task; struct peer *p; _Atomic bool done; };

static void unpark_task(struct task *task)
{
	struct unpark *u = container_of(task, struct unpark, task);

	u->p->peer.gone = true;
	req_unpark(&u->p->peer);
	u->p->peer.gone = false;
	atomic_store(&u->done, true);
}

static void connection_lost(struct peer *p)
{
	struct unpark u = { .task = { .fn = unpark_task }, .p = p };

	reactor_post(p->peer.local->reactor, &u.task);
	while (!atomic_load(&u.done)) usleep(100);
}

static void assert_none_held(void)
{
	assert_int_equal(stats().held, 0);
	assert_int_equal(stats().waiting, 0);
}

/* ---- tests ---- */

static void test_ranges(void **state)
{
	struct lock other;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, range(LOCK_EXCLUSIVE, 0, 99)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_SHARED, 50, 150)), -GRANARY_ELOCKED);
	assert_int_equal(lock_test(&b, &of_b, range(LOCK_SHARED, 50, 150), &other), LOCK_EXCLUSIVE);
	assert_true(other.start == 0 && other.end == 99 && other.pid == 4711 && other.session == 0 && other.owner == 1);
	assert_int_equal(lock_test(&a, &of_a, range(LOCK_EXCLUSIVE, 0, 99), &other), LOCK_NONE);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_SHARED, 100, 150)), 0);
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, range(LOCK_SHARED, 0, 49)), 0); /* less than before */
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_SHARED, 0, 49)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_SHARED, 0, 50)), -GRANARY_ELOCKED);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, range(LOCK_NONE, 0, UINT64_MAX)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_EXCLUSIVE, 0, UINT64_MAX)), 0);
	/* flock(2) does not see them. */
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, whole(LOCK_EXCLUSIVE)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, whole(LOCK_SHARED)), -GRANARY_ELOCKED);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, whole(LOCK_NONE)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, range(LOCK_NONE, 0, UINT64_MAX)), 0);
	assert_none_held();
}

static void test_waiting(void **state)
{
	struct call *first, *second;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, range(LOCK_EXCLUSIVE, 0, 99)), 0);
	first = lock_start(&b, of_b.handle, LOCK_WAIT, range(LOCK_SHARED, 10, 19), next_number++);
	second = lock_start(&b, of_b.handle, LOCK_WAIT, range(LOCK_EXCLUSIVE, 90, 95), next_number++);
	wait_for_waiting(2);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, range(LOCK_NONE, 90, 99)), 0);
	assert_int_equal(lock_end(second), 0);
	assert_false(first->done);
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, range(LOCK_SHARED, 0, 89)), 0);
	assert_int_equal(lock_end(first), 0);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, range(LOCK_NONE, 0, UINT64_MAX)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, range(LOCK_NONE, 0, UINT64_MAX)), 0);
	assert_none_held();
}

static void test_circles_are_refused(void **state)
{
	struct call *waits;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, range(LOCK_EXCLUSIVE, 0, 0)), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, range(LOCK_EXCLUSIVE, 1, 1)), 0);
	waits = lock_start(&a, of_a.handle, LOCK_WAIT, range(LOCK_EXCLUSIVE, 1, 1), next_number++);
	wait_for_waiting(1);
	assert_int_equal(lock_now(&b, &of_b, LOCK_WAIT, range(LOCK_EXCLUSIVE, 0, 0)), -GRANARY_EDEADLOCK);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, range(LOCK_NONE, 0, 10)), 0);
	assert_int_equal(lock_end(waits), 0);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, range(LOCK_NONE, 0, 10)), 0);
	assert_none_held();
}

/* Canceled; a second time it gives back what was granted meanwhile. */
static void test_canceling(void **state)
{
	uint64_t number = next_number++;
	struct call *waits;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, whole(LOCK_EXCLUSIVE)), 0);
	waits = lock_start(&b, of_b.handle, LOCK_WAIT, whole(LOCK_EXCLUSIVE), number);
	wait_for_waiting(1);
	assert_int_equal(lock_end(lock_start(&b, of_b.handle, LOCK_CANCEL, whole(LOCK_NONE), number)), 0);
	assert_int_equal(lock_end(waits), -GRANARY_ECANCELED);
	number = next_number++;
	waits = lock_start(&b, of_b.handle, LOCK_WAIT, whole(LOCK_EXCLUSIVE), number);
	wait_for_waiting(1);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, whole(LOCK_NONE)), 0);
	assert_int_equal(lock_end(waits), 0);
	assert_int_equal(lock_end(lock_start(&b, of_b.handle, LOCK_CANCEL, whole(LOCK_NONE), number)), 0);
	assert_none_held();
}

static void test_locks_go_with_opens_sessions_and_connections(void **state)
{
	struct opened_result twice = open_key(&a, "x", OPEN_FOR_READ);
	struct call *waits;
	struct peer c;
	struct opened_result of_c;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, whole(LOCK_EXCLUSIVE)), 0);
	close_handle(&a, twice.handle);
	assert_int_equal(stats().held, 1); /* it is still open */
	waits = lock_start(&b, of_b.handle, LOCK_WAIT, whole(LOCK_SHARED), next_number++);
	wait_for_waiting(1);
	close_handle(&a, of_a.handle);
	assert_int_equal(lock_end(waits), 0);
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, whole(LOCK_SHARED)), -GRANARY_ESTALE);
	of_a = open_key(&a, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);

	/* A connection that waits, and ends. */
	waits = lock_start(&a, of_a.handle, LOCK_WAIT, whole(LOCK_EXCLUSIVE), next_number++);
	wait_for_waiting(1);
	connection_lost(&a);
	assert_int_equal(lock_end(waits), -GRANARY_ECLOSED);
	wait_for_waiting(0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, whole(LOCK_NONE)), 0);

	/* A session whose lease ends. */
	peer_init(&c, &world, "root", 0);
	of_c = open_key(&c, "x", OPEN_FOR_READ);
	assert_int_equal(lock_now(&c, &of_c, LOCK_SET, whole(LOCK_EXCLUSIVE)), 0);
	assert_int_equal(lock_now(&c, &of_c, LOCK_SET, range(LOCK_EXCLUSIVE, 0, 1)), -GRANARY_EACCESS);
	waits = lock_start(&b, of_b.handle, LOCK_WAIT, whole(LOCK_EXCLUSIVE), next_number++);
	wait_for_waiting(1);
	peer_release(&c);
	sessions_tick(world.store->sessions, clock_mono_ns() + (WIRE_LEASE_S + 1) * UINT64_C(1000000000));
	assert_int_equal(lock_end(waits), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, whole(LOCK_NONE)), 0);
	assert_none_held();
}

/* As a write of x at offset 0, made under a lock that was granted with this state; 0: under none. */
static int write_fenced(struct peer *p, const struct opened_result *o, uint64_t fence, const char *text)
{
	struct msg m = msg_new("");
	uint32_t crc;
	struct call *c;
	int err;

	crc32c_blocks(&crc, (const uint8_t *)text, strlen(text));
	msg_sequence(&m, next_sequence++, 0, 0);
	if (fence != 0) wr_u64(&m.w, fence);
	msg_id(&m, o->id, o->dir, o->leaf);
	wr_u64(&m.w, 0);
	wr_u64(&m.w, 0);
	wr_u32(&m.w, 1);
	wr_u8(&m.w, CHANGE_DATA);
	wr_u64(&m.w, 0);
	wr_u64(&m.w, strlen(text));
	wr_u32(&m.w, crc);
	c = msg_call(p, OP_WRITE, fence != 0 ? FRAME_FENCED : 0, &m, text, strlen(text));
	err = call_status(c);
	call_free(c);
	return err;
}

/* What the grant of a lock tells: the state that changes under it name. */
static uint64_t lock_granted(struct peer *p, const struct opened_result *o, struct lock lock)
{
	struct call *c = lock_start(p, o->handle, LOCK_SET, lock, next_number++);
	uint64_t state;
	struct cur m;

	call_wait(c);
	assert_int_equal(call_status(c), 0);
	m = cur_of(c->first->meta, c->first->meta_len);
	state = cur_u64(&m);
	assert_true(cur_done(&m) && state != 0);
	call_free(c);
	return state;
}

/* Its connection stands, but nothing comes: it loses what it locked, and what it still sends under that is refused. */
static void test_a_silent_session_is_fenced(void **state)
{
	const uint64_t second = UINT64_C(1000000000);
	struct store *store = world.store;
	struct opened_result of_c, again;
	uint64_t now = clock_mono_ns(), fence, second_fence;
	struct lock mine = whole(LOCK_EXCLUSIVE);
	struct call *waits;
	struct peer c;

	(void)state;
	peer_init(&c, &world, "root", 0);
	of_c = open_key(&c, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);
	fence = lock_granted(&c, &of_c, mine);
	assert_true(fence == of_c.state && session_hear(store, c.peer.session, now) == fence);
	waits = lock_start(&b, of_b.handle, LOCK_WAIT, mine, next_number++);
	wait_for_waiting(1);
	assert_int_equal(write_fenced(&c, &of_c, fence, "mine"), 0);
	assert_int_equal(write_fenced(&c, &of_c, fence + 1, "none"), -GRANARY_ESTALE);
	/* As after a stop of the server: the session spoke, but that is not read yet. */
	now += (WIRE_LEASE_S + 10) * second;
	sessions_tick(store->sessions, now);
	assert_int_equal(session_hear(store, c.peer.session, now), fence);
	sessions_tick(store->sessions, now + WIRE_LEASE_S * second - 1);
	sessions_tick(store->sessions, now + WIRE_LEASE_S * second);
	assert_true(session_hear(store, c.peer.session, now) == fence && !waits->done);
	for (int i = 0; i < 3; i++) sessions_tick(store->sessions, now + (WIRE_LEASE_S + (uint64_t)i) * second);
	assert_int_equal(lock_end(waits), 0); /* b never says that it lives, and keeps its own */
	assert_int_equal(write_fenced(&c, &of_c, fence, "stale"), -GRANARY_ESTALE);
	assert_int_equal(lock_now(&c, &of_c, LOCK_SET, mine), -GRANARY_ESTALE);
	assert_int_equal(session_hear(store, c.peer.session, now), 0); /* so it learns of it */
	assert_int_equal(announce(&c, &of_c, OPEN_FOR_READ | OPEN_FOR_WRITE, &mine, ANNOUNCE_LAST), -GRANARY_ESTALE);
	assert_int_equal(lock_now(&b, &of_b, LOCK_UNSET, whole(LOCK_NONE)), 0);
	again = open_key(&c, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);
	second_fence = lock_granted(&c, &again, mine);
	assert_true(second_fence != fence && session_hear(store, c.peer.session, now) == second_fence);
	assert_int_equal(write_fenced(&c, &of_c, fence, "stale"), -GRANARY_ESTALE); /* of the lock before */
	assert_int_equal(write_fenced(&c, &again, second_fence, "again"), 0);
	close_handle(&c, of_c.handle);
	close_handle(&c, again.handle);
	peer_release(&c);
	assert_none_held();
}

static void test_locks_are_announced_after_a_restart(void **state)
{
	uint64_t session_a = session_id(a.peer.session), session_b = session_id(b.peer.session);
	struct lock mine = range(LOCK_EXCLUSIVE, 0, 9), others = range(LOCK_EXCLUSIVE, 20, 29);
	struct call *waits;

	(void)state;
	assert_int_equal(lock_now(&a, &of_a, LOCK_SET, mine), 0);
	assert_int_equal(lock_now(&b, &of_b, LOCK_SET, others), 0);
	assert_int_equal(announce(&a, &of_a, OPEN_FOR_READ | OPEN_FOR_WRITE, &mine, 0), 0); /* nothing was lost */
	assert_int_equal(announce(&a, &of_a, OPEN_FOR_READ | OPEN_FOR_WRITE, &others, 0), -GRANARY_ESTALE);
	peer_release(&a);
	peer_release(&b);
	world_restart(&world);
	peer_init(&a, &world, "root", 0);
	peer_reattach(&a, session_a);
	peer_init(&b, &world, "root", 1);
	peer_reattach(&b, session_b);
	assert_int_equal(announce(&b, &of_b, OPEN_FOR_READ | OPEN_FOR_WRITE, NULL, 0), 0);
	/* Also one that does not want to wait: it is not known yet who has what. */
	waits = lock_start(&b, of_b.handle, LOCK_SET, range(LOCK_SHARED, 5, 5), next_number++);
	wait_for_waiting(1);
	assert_int_equal(announce(&a, &of_a, OPEN_FOR_READ | OPEN_FOR_WRITE, &mine, ANNOUNCE_LAST), 0);
	assert_int_equal(announce(&b, &of_b, OPEN_FOR_READ | OPEN_FOR_WRITE, &mine, 0), -GRANARY_ESTALE);
	assert_false(waits->done);
	assert_int_equal(announce(&b, &of_b, OPEN_FOR_READ | OPEN_FOR_WRITE, NULL, ANNOUNCE_LAST), 0);
	assert_int_equal(lock_end(waits), -GRANARY_ELOCKED);
	assert_int_equal(announce(&b, &of_b, OPEN_FOR_READ | OPEN_FOR_WRITE, &others, ANNOUNCE_LAST), -GRANARY_ESTALE);
	assert_int_equal(stats().held, 1);
	assert_int_equal(lock_now(&a, &of_a, LOCK_UNSET, range(LOCK_NONE, 0, UINT64_MAX)), 0);
	assert_none_held();
}

/* Goal: mutual exclusion under load, nobody waits for ever. */
static void test_many_at_once(void **state)
{
	enum { ROUNDS = 200, EACH = 8 };

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		struct call *calls[2 * EACH];

		for (int k = 0; k < 2 * EACH; k++) {
			struct lock l = range(LOCK_EXCLUSIVE, 0, 0);
			l.owner = (uint64_t)k;
			calls[k] = lock_start(k % 2 == 0 ? &a : &b, k % 2 == 0 ? of_a.handle : of_b.handle,
				LOCK_WAIT, l, next_number++);
		}
		for (int left = 2 * EACH; left > 0; left--) {
			int held = -1, count = 0;

			while (count == 0) {
				count = 0;
				for (int k = 0; k < 2 * EACH; k++)
					if (calls[k] != NULL && __atomic_load_n(&calls[k]->done, __ATOMIC_ACQUIRE)) {
						held = k;
						count++;
					}
			}
			assert_int_equal(count, 1);
			assert_int_equal(lock_end(calls[held]), 0);
			calls[held] = NULL;
			struct lock l = range(LOCK_NONE, 0, 0);
			l.owner = (uint64_t)held;
			assert_int_equal(lock_now(held % 2 == 0 ? &a : &b, held % 2 == 0 ? &of_a : &of_b, LOCK_UNSET,
				l), 0);
		}
	}
	assert_none_held();
}

static int set_up(void **state)
{
	(void)state;
	world_new(&world);
	key_make(&world, "root", ALL_ACTIONS, "", "");
	peer_init(&a, &world, "root", 0);
	peer_init(&b, &world, "root", 1);
	assert_int_equal(simple_call(&a, OP_BUCKET_CREATE, "data"), 0);
	assert_int_equal(put_key(&a, "data", "x", "bytes", 5).err, 0);
	of_a = open_key(&a, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);
	of_b = open_key(&b, "x", OPEN_FOR_READ | OPEN_FOR_WRITE);
	assert_true(of_a.err == 0 && of_b.err == 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	peer_release(&a);
	peer_release(&b);
	world_free(&world);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_waiting),
		cmocka_unit_test(test_circles_are_refused),
		cmocka_unit_test(test_canceling),
		cmocka_unit_test(test_locks_go_with_opens_sessions_and_connections),
		cmocka_unit_test(test_a_silent_session_is_fenced),
		cmocka_unit_test(test_locks_are_announced_after_a_restart),
		cmocka_unit_test(test_many_at_once),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests_name("requests: locks", tests, set_up, tear_down);
}
