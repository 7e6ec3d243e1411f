/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: any mix of transactions gives the results and rows that a model of a page gives.
 * Method: random groups on both engines against an array of rows that applies one transaction at a time. `seen` is
 * given as a planner would: with preconditions that held when it was taken, now or some groups ago. GRANARY_SEED
 * repeats a run. */
#include "meta/kv.h"

#include "common/rand.h"
#include "unit/test_kv_util.h"

#include <inttypes.h>
#include <time.h>

enum { DIRS = 3, NAMES = 6, OTHERS = 6, ROWS = DIRS * NAMES + OTHERS, OPS_MAX = 6, GROUP = 24, GROUPS = 400 };

struct model_row {
	bool exists;
	uint64_t id, version, count[2]; /* tags 64, 65 */
};
struct model { struct model_row rows[ROWS]; };

enum kind { PUT, DELETE, ADD, MAX, ABSENT, VERSION, ID, RANGE, COUNTER, KINDS };
struct step {
	enum kind kind;
	int row, dir, tag;
	bool flag;
	uint64_t a, b;
	int64_t delta;
};
struct plan {
	struct step steps[OPS_MAX];
	int count;
};

static struct slice key_of(uint8_t *buf, int row)
{
	char name[8];

	if (row >= DIRS * NAMES)
		return row_inode(buf, (uint64_t)row);
	snprintf(name, sizeof(name), "n%d", row % NAMES);
	return row_entry(buf, (uint64_t)(row / NAMES + 1), slice_str(name), false);
}

/* ---- the model ---- */

static bool model_holds(const struct model *m, const struct step *s)
{
	const struct model_row *r = &m->rows[s->row];
	bool is_empty = true;

	switch (s->kind) {
	case ABSENT: return !r->exists;
	case VERSION: return r->exists && r->version == s->a;
	case ID: return r->exists ? r->id == s->a : s->flag;
	case RANGE:
		for (int i = 0; i < NAMES; i++)
			is_empty = is_empty && !m->rows[s->dir * NAMES + i].exists;
		return is_empty == s->flag;
	case COUNTER: return (r->exists ? r->count[s->tag] : 0) + s->a <= s->b;
	default: return true;
	}
}

static void model_apply_step(struct model *m, const struct step *s)
{
	struct model_row *r = &m->rows[s->row];

	if (s->kind == PUT)
		*r = (struct model_row){ true, s->a, s->b, { s->a % 50, 0 } };
	else if (s->kind == DELETE)
		*r = (struct model_row){ false, 0, 0, { 0, 0 } };
	else if (s->kind == ADD && s->delta < 0 && r->count[s->tag] < (uint64_t)-s->delta)
		r->count[s->tag] = 0;
	else if (s->kind == ADD)
		r->count[s->tag] += (uint64_t)s->delta;
	else if (s->kind == MAX && r->count[s->tag] < s->a)
		r->count[s->tag] = s->a;
	r->exists = r->exists || s->kind == ADD || s->kind == MAX;
}

static int model_run(struct model *m, const struct plan *p)
{
	struct model after = *m;

	for (int i = 0; i < p->count; i++) {
		if (p->steps[i].kind != RANGE && !model_holds(m, &p->steps[i]))
			return p->steps[i].kind == COUNTER ? -GRANARY_EQUOTA : -GRANARY_EBUSY;
	}
	for (int i = 0; i < p->count; i++)
		model_apply_step(&after, &p->steps[i]);
	for (int i = 0; i < p->count; i++)
		if (p->steps[i].kind == RANGE && !model_holds(&after, &p->steps[i]))
			return -GRANARY_EBUSY;
	*m = after;
	return 0;
}

/* ---- random plans, and the transaction of one ---- */

static void plan_random(struct rng *r, const struct model *hint, struct plan *p)
{
	p->count = 1 + (int)rng_below(r, OPS_MAX);
	for (int i = 0; i < p->count; i++) {
		struct step *s = &p->steps[i];
		*s = (struct step){ .kind = (enum kind)rng_below(r, KINDS), .row = (int)rng_below(r, ROWS),
			.dir = (int)rng_below(r, DIRS), .tag = (int)rng_below(r, 2), .flag = rng_below(r, 2) != 0,
			.a = rng_below(r, 60), .b = rng_below(r, 200), .delta = (int64_t)rng_below(r, 60) - 20 };
		if (rng_below(r, 4) > 0 && s->kind == VERSION) /* mostly true, or nothing would ever apply */
			s->a = hint->rows[s->row].version;
		if (rng_below(r, 4) > 0 && s->kind == ID)
			s->a = hint->rows[s->row].id;
		if (rng_below(r, 4) > 0 && s->kind == ABSENT)
			s->kind = hint->rows[s->row].exists ? DELETE : ABSENT;
	}
}

/* `seen` stands for `then`: only where the precondition held there. */
static struct kv_txn *txn_of(struct kv *kv, struct rng *r, const struct plan *p, uint64_t seen,
	const struct model *then)
{
	struct kv_txn *t = kv_txn_new(kv);
	struct model after = *then;
	uint8_t key[ROW_KEY_MAX], prefix[ROW_KEY_MAX], value[256];

	for (int i = 0; i < p->count; i++)
		model_apply_step(&after, &p->steps[i]);
	for (int i = 0; i < p->count; i++) {
		const struct step *s = &p->steps[i];
		struct slice k = key_of(key, s->row);
		bool held = model_holds(s->kind == RANGE ? &after : then, s);
		uint64_t n = held && rng_below(r, 2) ? seen : 0;
		switch (s->kind) {
		case PUT: kv_put(t, k, value_of(value, s->a, s->b, s->a % 50)); break;
		case DELETE: kv_delete(t, k); break;
		case ADD: kv_add(t, k, (uint16_t)(64 + s->tag), s->delta); break;
		case MAX: kv_max(t, k, (uint16_t)(64 + s->tag), s->a); break;
		case ABSENT: kv_pre_absent(t, n, k); break;
		case VERSION: kv_pre_version(t, n, k, s->a); break;
		case ID: kv_pre_id(t, n, k, s->a, s->flag); break;
		case RANGE: kv_pre_range_seen(t, n, row_entry_prefix(prefix, (uint64_t)s->dir + 1), s->flag); break;
		default: kv_pre_counter(t, k, (uint16_t)(64 + s->tag), s->a, s->b); break;
		}
	}
	return t;
}

static void model_check(const struct model *m, struct kv *kv)
{
	static const uint16_t tags[4] = { TAG_ID, TAG_VERSION, 64, 65 };
	uint8_t key[ROW_KEY_MAX];
	struct kv_iter *it = kv_iter_new(kv, NULL);
	int rows = 0, rows_found = 0;

	for (int i = 0; i < ROWS; i++) {
		const struct model_row *r = &m->rows[i];
		const uint64_t want[4] = { r->id, r->version, r->count[0], r->count[1] };
		rows += r->exists;
		for (int j = 0; j < 4; j++)
			assert_true(row_tag(kv, key_of(key, i), tags[j]) == (r->exists ? want[j] : UINT64_MAX));
	}
	for (kv_iter_seek(it, slice_str("")); kv_iter_valid(it); kv_iter_next(it))
		rows_found++;
	assert_int_equal(kv_iter_error(it), 0);
	assert_int_equal(rows, rows_found);
	kv_iter_free(&it);
}

static void run_random(struct store *s, uint64_t seed)
{
	struct model now = { .rows = { { .exists = false } } }, old = now;
	uint64_t old_seen = kv_seq(s->kv);
	uint32_t applied = 0;
	struct rng r;

	rng_seed(&r, seed);
	for (int g = 0; g < GROUPS; g++) {
		struct plan plans[GROUP];
		struct kv_txn *txns[GROUP];
		int results[GROUP];
		uint32_t n = 1 + (uint32_t)rng_below(&r, GROUP);
		uint64_t seen = kv_seq(s->kv);
		struct model start = now;
		for (uint32_t i = 0; i < n; i++) {
			bool is_stale = rng_below(&r, 3) == 0;
			plan_random(&r, &start, &plans[i]);
			txns[i] = txn_of(s->kv, &r, &plans[i], is_stale ? old_seen : seen, is_stale ? &old : &start);
		}
		run_group(s, txns, results, n);
		for (uint32_t i = 0; i < n; i++) {
			assert_int_equal(results[i], model_run(&now, &plans[i]));
			applied += results[i] == 0;
		}
		if (g % 5 == 0) {
			old = now;
			old_seen = kv_seq(s->kv);
		}
		if (g % 100 == 99)
			store_reopen(s);
		if (g % 100 == 99) { /* numbers of another run mean nothing */
			old = now;
			old_seen = kv_seq(s->kv);
		}
		model_check(&now, s->kv);
	}
	assert_true(applied > GROUPS);
}

static uint64_t seed_pick(void)
{
	const char *given = getenv("GRANARY_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);

	printf("GRANARY_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	return seed;
}

static void test_random_transactions_match_the_model_on_mem(void **state)
{
	uint64_t seed = seed_pick();

	(void)state;
	for (uint64_t i = 0; i < 10; i++) {
		struct store s;
		store_init(&s, kv_open_mem, true);
		run_random(&s, seed + i);
		store_release(&s);
	}
}

static void test_random_transactions_match_the_model_on_rocks(void **state)
{
	uint64_t seed = seed_pick();
	struct store s;

	(void)state;
	store_init(&s, kv_open_rocks, false);
	run_random(&s, seed);
	store_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_transactions_match_the_model_on_mem),
		cmocka_unit_test(test_random_transactions_match_the_model_on_rocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
