/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: racing puts, deletes of last children, rmdir, mkdir and renames of files and directories
 * over few names leave no child without a parent, no directory above itself, no empty implicit
 * directory, counters equal to what they count, and the tables never answer with what is gone.
 * Method: 4 threads, each operation as a request does it (plan, commit, at most 8 tries); a thread
 * also writes a key of its own, which all threads look up and fill into the tables, and must find
 * its own last version. In the end all rows are checked against each other and every name against
 * the tables. GRANARY_RACE_OPS: operations a thread. */
#include <stdatomic.h>

#include "common/clock.h"
#include "effort.h"
#include "unit/test_ns_util.h"

enum { THREADS = 4, OPS = 25000, OPS_LONG = 250000, NAME_COUNT = 4, DEPTH = 3 };

/* RocksDB is not built for ThreadSanitizer, which cannot see its atomics: only our own code is
 * judged. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:librocksdb\nrace:librocksdb\n";
}

struct race {
	struct world *w;
	_Atomic uint64_t done, refused, busy, retries, stale;
};

struct thread {
	pthread_t id;
	struct race *r;
	uint64_t number, ops, seed, version;
	char own[16];
	int bad; /* an answer no operation may give */
};

static void random_path(struct rng *rng, char *key, size_t cap)
{
	uint64_t depth = 1 + rng_below(rng, DEPTH);
	size_t at = 0;
	for (uint64_t i = 0; i < depth; i++)
		at += (size_t)snprintf(key + at, cap - at, "%s%c", i > 0 ? "/" : "",
				       (char)('a' + rng_below(rng, NAME_COUNT)));
}

static bool may_answer(int err)
{
	switch (err) {
	case 0:
	case -GRANARY_EBUSY:
	case -GRANARY_ENOTFOUND:
	case -GRANARY_EEXIST:
	case -GRANARY_ENOTEMPTY:
	case -GRANARY_ENOTDIR:
	case -GRANARY_EISDIR:
	case -GRANARY_ELOOP:
		return true;
	default:
		return false;
	}
}

static void race_mutate(struct thread *t, struct rng *rng)
{
	static const enum mutation_kind kinds[] = { M_PUT, M_PUT, M_PUT, M_DELETE, M_DELETE, M_DELETE, M_MKDIR, M_RMDIR,
						    M_RMDIR, M_RENAME, M_RENAME };
	char key[32], to[32];
	random_path(rng, key, sizeof(key));
	do /* mostly as deep: else the tree grows out of reach of these names and threads no longer meet */
		random_path(rng, to, sizeof(to));
	while (strlen(to) != strlen(key) && rng_below(rng, 64) > 0);
	struct mutation m = { .kind = kinds[rng_below(rng, sizeof(kinds) / sizeof(kinds[0]))], .parents = true,
			      .ref = by_key(t->r->w, key), .to = by_key(t->r->w, to), .pack = 1 + rng_below(rng, 3),
			      .size = (uint32_t)rng_below(rng, 100), .no_replace = rng_below(rng, 4) == 0 };
	int err = mutate(t->r->w, &m);
	if (!may_answer(err))
		t->bad = err;
	atomic_fetch_add(err == 0 ? &t->r->done : err == -GRANARY_EBUSY ? &t->r->busy : &t->r->refused, 1);
	atomic_fetch_add(&t->r->retries, m.tries - 1);
}

/* Read your writes, while others fill the same entry. */
static void race_own(struct thread *t)
{
	struct obj_loc loc;
	struct found f;
	struct mutation m = { .kind = M_PUT, .ref = by_key(t->r->w, t->own), .size = 1 };
	int err = mutate(t->r->w, &m);
	if (err == 0)
		t->version = m.version;
	else if (err != -GRANARY_EBUSY)
		t->bad = err;
	if (t->version == 0)
		return;
	if (ns_find_cached(t->r->w->ns, &m.ref, &loc) == 0 && loc.version != t->version)
		atomic_fetch_add(&t->r->stale, 1);
	if (look_up(t->r->w, m.ref, &f) != 0 || f.version != t->version)
		atomic_fetch_add(&t->r->stale, 1);
	if (ns_find_cached(t->r->w->ns, &m.ref, &loc) == 0 && loc.version != t->version)
		atomic_fetch_add(&t->r->stale, 1);
}

static void race_look(struct thread *t, struct rng *rng)
{
	char key[32];
	struct found f;
	int err;
	for (int i = 0; i < THREADS; i++) {
		snprintf(key, sizeof(key), "own-%d", i);
		(void)look_up(t->r->w, by_key(t->r->w, key), NULL);
	}
	for (int i = 0; i < 4; i++) {
		random_path(rng, key, sizeof(key));
		err = look_up(t->r->w, by_key(t->r->w, key), &f);
		if (err != 0 && err != -GRANARY_ENOTFOUND)
			t->bad = err;
		if (err == 0)
			(void)look_up(t->r->w, by_name(f.dir, f.name), &f);
	}
}

static int no_key(void *arg, struct slice key, const struct object *o)
{
	char *last = arg;
	(void)o;
	int order = strncmp(last, (const char *)key.p, key.len);
	memcpy(last, key.p, key.len);
	last[key.len] = '\0';
	return order >= 0; /* keys of one page ascend */
}

static void race_list(struct thread *t)
{
	char last[KEY_LEN_MAX + 1] = "";
	bool more;
	struct ns_list l = { .bucket = t->r->w->bucket.id, .max = 1000 };
	int err = ns_list(t->r->w->ns, &l, no_key, last, &more);
	if (err < 0)
		t->bad = err;
}

static void *racer(void *arg)
{
	struct thread *t = arg;
	struct rng rng;
	rng_seed(&rng, t->seed);
	for (uint64_t i = 0; i < t->ops && t->bad == 0; i++) {
		race_mutate(t, &rng);
		if (i % 8 == 0)
			race_own(t);
		if (i % 4 == 0)
			race_look(t, &rng);
		if (i % 256 == 0)
			race_list(t);
	}
	return NULL;
}

/* Every name there could be: the tables say what the rows say, or nothing. */
static void check_tables(struct world *w)
{
	char key[32];
	uint64_t known = 0;
	for (uint32_t n = 0; n < (NAME_COUNT + 1) * (NAME_COUNT + 1) * NAME_COUNT; n++) {
		uint32_t c = n % (NAME_COUNT + 1), b = n / (NAME_COUNT + 1) % (NAME_COUNT + 1),
			 a = n / ((NAME_COUNT + 1) * (NAME_COUNT + 1));
		int len = snprintf(key, sizeof(key), "%c", (char)('a' + a));
		if (b < NAME_COUNT)
			len += snprintf(key + len, sizeof(key) - (size_t)len, "/%c", (char)('a' + b));
		if (c < NAME_COUNT)
			snprintf(key + len, sizeof(key) - (size_t)len, "/%c", (char)('a' + c));
		struct obj_loc loc;
		struct found f;
		struct ns_ref ref = by_key(w, key);
		bool is_cached = ns_find_cached(w->ns, &ref, &loc) == 0;
		int err = look_up(w, ref, &f);
		assert_true(err == 0 || err == -GRANARY_ENOTFOUND);
		assert_true(!is_cached || (err == 0 && loc.id == f.id && loc.version == f.version));
		known += is_cached;
	}
	print_message("%llu names in the tables at the end\n", (unsigned long long)known);
}

static void test_racing_mutations_keep_the_tree_whole(void **state)
{
	struct world *w = *state;
	struct race r = { .w = w };
	struct thread threads[THREADS];
	uint64_t seed = effort_number("GRANARY_SEED", clock_wall_ns());
	print_message("GRANARY_SEED=%llu\n", (unsigned long long)seed);
	for (uint64_t i = 0; i < THREADS; i++) {
		threads[i] = (struct thread){ .r = &r, .number = i, .seed = seed + i,
					      .ops = effort("GRANARY_RACE_OPS", OPS, OPS_LONG) };
		snprintf(threads[i].own, sizeof(threads[i].own), "own-%d", (int)i);
		assert_int_equal(pthread_create(&threads[i].id, NULL, racer, &threads[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i].id, NULL);
	print_message("%llu done, %llu refused, %llu busy after 8 tries, %llu tries again\n",
		      (unsigned long long)r.done, (unsigned long long)r.refused, (unsigned long long)r.busy,
		      (unsigned long long)r.retries);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(threads[i].bad, 0);
	assert_int_equal(r.stale, 0);
	struct tally t = check_rows(w);
	assert_true(t.files > 0);
	check_tables(w);
	assert_true(r.busy * 100 <= r.done); /* retries resolve nearly all conflicts */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_racing_mutations_keep_the_tree_whole, world_set_up_rocks,
						world_tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
