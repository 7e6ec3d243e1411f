/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: no find gives an older value than one that was acknowledged before the find began, while
 * writers change rows and readers fill what they read.
 * Method: a row is an atomic number; a writer does loc_busy, changes it, loc_ready, acknowledges. A
 * reader does what ns_lookup does: stamp, read, fill. Even rows get a new object id with each write
 * (a put), odd ones keep it (a rename, a move). A few rows, so that all threads meet; a small
 * table, so that eviction takes part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "common/name.h"
#include "common/rand.h"
#include "effort.h"
#include "meta/loc.h"

enum { ROWS = 64, WRITERS = 2, READERS = 2, OPS = 200000, PATHS = 16 };

struct shared {
	struct loc *loc;
	_Atomic uint64_t row[ROWS], acknowledged[ROWS];
	_Atomic uint64_t path[PATHS], path_acknowledged[PATHS];
	_Atomic bool is_done;
	_Atomic uint64_t found, stale;
};

struct thread {
	pthread_t id;
	struct shared *s;
	uint64_t number, ops;
};

static uint64_t ops_count(void)
{
	return effort("GRANARY_RACE_OPS", OPS, OPS);
}

static struct slice row_name(uint64_t i, char *buf)
{
	return slice_of(buf, (size_t)snprintf(buf, 16, "row-%llu", (unsigned long long)i));
}

static uint64_t id_of(uint64_t row, uint64_t version)
{
	return row % 2 == 0 ? (version << 8 | row) + 1 : row + 1;
}

static void write_row(struct shared *s, uint64_t i)
{
	char buf[16];
	struct slice name = row_name(i, buf);
	uint64_t old = atomic_load(&s->row[i]);
	loc_busy(s->loc, 1, name, id_of(i, old));
	atomic_store(&s->row[i], old + 1);
	loc_ready(s->loc, 1, name, id_of(i, old));
	atomic_store(&s->acknowledged[i], old + 1);
}

static void write_path(struct shared *s, uint64_t i)
{
	uint64_t old = atomic_load(&s->path[i]);
	loc_path_busy(s->loc);
	atomic_store(&s->path[i], old + 1);
	loc_path_ready(s->loc);
	atomic_store(&s->path_acknowledged[i], old + 1);
}

static void *writer(void *arg) /* rows congruent to its number: one writer a row, as there is one committer */
{
	struct thread *t = arg;
	struct rng rng;
	rng_seed(&rng, 100 + t->number);
	for (uint64_t n = 0; n < t->ops; n++) {
		write_row(t->s, rng_below(&rng, ROWS / WRITERS) * WRITERS + t->number);
		if (n % 64 == 0)
			write_path(t->s, rng_below(&rng, PATHS / WRITERS) * WRITERS + t->number);
	}
	return NULL;
}

static void read_row(struct shared *s, uint64_t i)
{
	char buf[16];
	struct slice name = row_name(i, buf);
	struct obj_loc o;
	uint64_t floor = atomic_load(&s->acknowledged[i]);
	if (loc_find_name(s->loc, 1, name, &o)) {
		atomic_fetch_add(&s->found, 1);
		if (o.version < floor || o.id != id_of(i, o.version) || o.size != o.version * 3 ||
			o.record != o.version * 5 || o.crcs[LOC_CRCS_MAX - 1] != (uint32_t)o.version)
			atomic_fetch_add(&s->stale, 1);
	}
	if (i % 2 == 1 && loc_find_id(s->loc, i + 1, &o) && o.version < floor)
		atomic_fetch_add(&s->stale, 1);
	uint64_t stamp = loc_stamp(s->loc, 1, name);
	uint64_t version = atomic_load(&s->row[i]);
	o = (struct obj_loc){ .id = id_of(i, version), .version = version, .size = version * 3, .dir_id = 1,
		.record = version * 5 };
	o.crcs[LOC_CRCS_MAX - 1] = (uint32_t)version;
	loc_fill(s->loc, stamp, 1, name, &o);
}

static void read_path(struct shared *s, uint64_t i)
{
	char buf[16];
	struct slice path = row_name(i, buf);
	struct loc_dir d;
	uint64_t floor = atomic_load(&s->path_acknowledged[i]);
	if (loc_path_find_dir(s->loc, 9, path, &d) && (d.id < floor + 1 || d.parent != d.id + 1))
		atomic_fetch_add(&s->stale, 1);
	uint64_t stamp = loc_path_stamp(s->loc);
	uint64_t version = atomic_load(&s->path[i]);
	d = (struct loc_dir){ .id = version + 1, .parent = version + 2, .bucket = 9, .group = 9 };
	loc_path_fill(s->loc, stamp, path, &d);
}

static void *reader(void *arg)
{
	struct thread *t = arg;
	struct rng rng;
	rng_seed(&rng, 200 + t->number);
	for (uint64_t n = 0; !atomic_load(&t->s->is_done); n++) {
		read_row(t->s, rng_below(&rng, ROWS));
		if (n % 8 == 0)
			read_path(t->s, rng_below(&rng, PATHS));
	}
	return NULL;
}

static void test_no_find_is_older_than_what_was_acknowledged(void **state)
{
	struct shared *s = calloc(1, sizeof(*s));
	struct thread threads[WRITERS + READERS];
	(void)state;
	s->loc = loc_new(1 << 20);
	for (uint64_t i = 0; i < WRITERS + READERS; i++) {
		threads[i] = (struct thread){ .s = s, .number = i, .ops = ops_count() };
		assert_int_equal(pthread_create(&threads[i].id, NULL, i < WRITERS ? writer : reader, &threads[i]), 0);
	}
	for (uint64_t i = 0; i < WRITERS; i++)
		pthread_join(threads[i].id, NULL);
	atomic_store(&s->is_done, true);
	for (uint64_t i = WRITERS; i < WRITERS + READERS; i++)
		pthread_join(threads[i].id, NULL);
	print_message("%llu finds\n", (unsigned long long)atomic_load(&s->found));
	assert_int_equal(atomic_load(&s->stale), 0);
	loc_free(&s->loc);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_no_find_is_older_than_what_was_acknowledged) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
