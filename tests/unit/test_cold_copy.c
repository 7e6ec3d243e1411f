/* SPDX-License-Identifier: Apache-2.0 */
/* test_cold_copy.c -- frames (FORMAT 4), the directory store against its contract, and threads of a store that
 * hangs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/log.h"
#include "common/rand.h"
#include "io/fs.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "tier/frames.h"
#include "tier/stores.h"

#define SOON_NS UINT64_C(5000000000)

/* ---- frames ---- */

enum { PARTS = 7, PART_MAX = 300 * 1024 };

static uint8_t *copy_make(uint8_t *raw, size_t *raw_len, size_t *len)
{
	static const uint32_t sizes[PARTS] = { 4096, 1, 300, PART_MAX, 128 * 1024, 128 * 1024 + 1, 77 };
	struct frames_writer w = { .info = { .pack_id = 7, .attempt = 9 } };
	uint8_t *out = malloc(4 * 1024 * 1024), *end;
	size_t at, end_len;
	struct rng rng;

	rng_seed(&rng, 4);
	*raw_len = 0;
	for (uint32_t i = 0; i < PARTS; i++) *raw_len += sizes[i];
	for (size_t i = 0; i < *raw_len; i++) raw[i] = (uint8_t)rng_next(&rng);
	w.info.raw_len = *raw_len;
	at = frames_head(&w, "dictionary", 0, out);
	for (uint32_t i = 0, from = 0; i < PARTS; from += sizes[i], i++) {
		size_t n = frames_stored(raw + from, sizes[i], out + at);

		assert_true(n <= frames_stored_bound(sizes[i]));
		assert_int_equal(frames_add(&w, (uint32_t)n, sizes[i]), 0);
		at += n;
	}
	w.info.raw_crc = crc32c(0, raw, *raw_len);
	assert_int_equal(frames_end(&w, &end, &end_len), 0);
	memcpy(out + at, end, end_len);
	free(end);
	frames_writer_release(&w);
	*len = at + end_len;
	return out;
}

static void test_every_range_decodes_to_the_packs_bytes(void **state)
{
	uint8_t *raw = malloc(1024 * 1024), *out = malloc(1024 * 1024), *copy, *index;
	size_t raw_len, len, index_len, comp_len;
	struct frames *f, *again;
	uint64_t need, from;
	struct rng rng;

	(void)state;
	copy = copy_make(raw, &raw_len, &len);
	assert_int_equal(frames_parse(copy + len - 20, 20, len, &need, &f), -GRANARY_EBADFORMAT);
	assert_int_equal(frames_parse(copy + len - 100, 100, len, &need, &f), -GRANARY_ETOOBIG);
	assert_true(need > 100 && need < len);
	assert_int_equal(frames_parse(copy + len - need, need, len, &need, &f), 0);
	assert_int_equal(frames_take_head(f, copy, frames_head_len(f)), 0);
	assert_int_equal(frames_index_encode(f, &index, &index_len), 0);
	assert_int_equal(frames_index_parse(index, index_len, &again), 0);
	rng_seed(&rng, 5);
	for (int i = 0; i < 500; i++) {
		uint64_t at = rng_below(&rng, raw_len);
		size_t n = 1 + (size_t)rng_below(&rng, i % 2 ? 200 : raw_len - at);

		if (n > raw_len - at) n = (size_t)(raw_len - at);
		assert_int_equal(frames_range(again, at, n, &from, &comp_len), 0);
		assert_int_equal(frames_decode(again, copy + from, comp_len, at, n, out), 0);
		assert_memory_equal(out, raw + at, n);
	}
	assert_int_equal(frames_range(f, raw_len - 1, 2, &from, &comp_len), -GRANARY_ERANGE);
	frames_unref(&f);
	frames_unref(&again);
	free(index);
	free(copy);
	free(raw);
	free(out);
}

/* FORMAT 4.2 to 4.5: any bit of head, tail, table or index that is wrong is found. */
static void test_a_wrong_bit_in_what_leads_to_frames_is_found(void **state)
{
	uint8_t *raw = malloc(1024 * 1024), *copy, *index;
	size_t raw_len, len, index_len;
	struct frames *f, *other;
	uint64_t need = 0;

	(void)state;
	copy = copy_make(raw, &raw_len, &len);
	(void)frames_parse(copy + len - 100, 100, len, &need, &f);
	assert_int_equal(frames_parse(copy + len - need, need, len, &need, &f), 0);
	assert_int_equal(frames_take_head(f, copy, frames_head_len(f)), 0);
	assert_int_equal(frames_index_encode(f, &index, &index_len), 0);
	for (size_t bit = 0; bit < 8 * need; bit++) {
		uint8_t *at = copy + len - need + bit / 8;

		*at ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(frames_parse(copy + len - need, need, len, &(uint64_t){ 0 }, &other), 0);
		*at ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t bit = 0; bit < 8 * index_len; bit++) {
		index[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(frames_index_parse(index, index_len, &other), 0);
		index[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	frames_unref(&f);
	free(index);
	free(copy);
	free(raw);
}

/* ---- a store in a directory ---- */

static char root[] = "/tmp/granary-cold-XXXXXX";
static char cold_path[64];

struct world {
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct stores *stores;
	struct place *place;
};

static void world_up(struct world *w, const char *timeout)
{
	struct store_settings s = { .name = "archive" };
	struct stores_options o = { .settings = &s, .settings_count = 1, .threads = 2 };
	char why[512] = "";

	snprintf(s.text, sizeof(s.text), "type=directory\npath=%s\nread_timeout=%s\n", cold_path, timeout);
	assert_int_equal(fs_new_kernel(root, &w->fs), 0);
	(void)fs_mkdir(w->fs, "meta");
	assert_int_equal(kv_open_mem(w->fs, "meta", &(struct kv_options){ .group_max = 64 }, &w->kv), 0);
	w->ids = ids_new(1);
	o.fs = w->fs;
	o.kv = w->kv;
	if (stores_open(&o, &w->stores, why, sizeof(why)) != 0) fail_msg("%s", why);
	assert_int_equal(stores_begin(w->stores, w->ids, why, sizeof(why)), 0);
	w->place = stores_by_name(w->stores, "archive");
}

static void world_down(struct world *w)
{
	stores_close(&w->stores);
	ids_free(&w->ids);
	kv_close(&w->kv);
	fs_free(&w->fs);
}

static uint64_t soon(void)
{
	return clock_mono_ns() + SOON_NS;
}

static int put(struct place *p, const char *name, const char *text)
{
	struct cold_put *c;
	int err = place_put_begin(p, name, strlen(text), soon(), &c);

	if (err == 0) err = place_put_write(p, c, text, strlen(text), soon());
	if (err == 0) return place_put_finish(p, &c, soon());
	place_put_abort(&c);
	return err;
}

static int count(void *arg, const char *name, uint64_t len)
{
	(void)name;
	*(uint64_t *)arg += 1000 + len;
	return 0;
}

static void test_a_directory_keeps_the_contract(void **state)
{
	struct world w;
	struct cold_put *c;
	char buf[16], moved[80];
	uint64_t n = 0;

	(void)state;
	world_up(&w, "5s");
	assert_int_equal(put(w.place, "packs/00/a", "hello"), 0);
	assert_int_equal(put(w.place, "packs/00/a", "again"), -GRANARY_EEXIST); /* a name is used once */
	assert_int_equal(place_get(w.place, "packs/00/a", buf, sizeof(buf), 1, soon()), 4);
	assert_memory_equal(buf, "ello", 4);
	assert_int_equal(place_get(w.place, "packs/00/a", buf, sizeof(buf), 9, soon()), 0);
	assert_int_equal(place_get(w.place, "packs/00/b", buf, sizeof(buf), 0, soon()), -GRANARY_ENOTFOUND);
	assert_int_equal(place_put_begin(w.place, "packs/00/c", 5, soon(), &c), 0);
	assert_int_equal(place_put_write(w.place, c, "half", 4, soon()), 0);
	place_put_abort(&c);
	assert_int_equal(place_list(w.place, "packs/", soon(), count, &n), 0);
	assert_int_equal(n, 1005);
	assert_int_equal(place_put_begin(w.place, "packs/../c", 5, soon(), &c), -GRANARY_EINVAL);
	assert_int_equal(place_get(w.place, "packs/00/a", buf, 1, 0, clock_mono_ns() - 1), -GRANARY_ETIMEDOUT);
	assert_int_equal(place_remove(w.place, "packs/00/a", soon()), 0);
	assert_int_equal(place_remove(w.place, "packs/00/a", soon()), 0);
	/* Another directory at its path is not the store: nothing is put there, nothing is said to be removed. */
	snprintf(moved, sizeof(moved), "%s.moved", cold_path);
	assert_int_equal(rename(cold_path, moved), 0);
	assert_int_equal(mkdir(cold_path, 0700), 0);
	assert_int_equal(place_probe(w.place, soon()), -GRANARY_EOFFLINE);
	assert_int_equal(put(w.place, "packs/00/d", "x"), -GRANARY_EOFFLINE);
	assert_int_equal(place_remove(w.place, "packs/00/a", soon()), -GRANARY_EOFFLINE);
	assert_int_equal(rmdir(cold_path), 0); /* empty still */
	assert_int_equal(rename(moved, cold_path), 0);
	assert_int_equal(place_probe(w.place, soon()), 0);
	assert_int_equal(put(w.place, "packs/00/d", "x"), 0);
	world_down(&w);
}

/* ---- a store that hangs ---- */

struct hanging {
	struct place_job job;
	sem_t go, back;
	_Atomic int finished, failed, freed;
};

static int hang_fetch(struct place_job *job)
{
	struct hanging *h = (struct hanging *)job;

	while (sem_wait(&h->go) != 0) continue;
	return 0;
}

static void hang_finish(struct place_job *job, int err)
{
	struct hanging *h = (struct hanging *)job;

	(void)err;
	atomic_fetch_add(&h->finished, 1);
	sem_post(&h->back);
}

static void hang_fail(struct place_job *job, int err)
{
	struct hanging *h = (struct hanging *)job;

	assert_true(err == -GRANARY_ETIMEDOUT || err == -GRANARY_EOFFLINE);
	atomic_fetch_add(&h->failed, 1);
	sem_post(&h->back);
}

static void hang_free(struct place_job *job)
{
	atomic_fetch_add(&((struct hanging *)job)->freed, 1);
}

static void hang_start(struct place *p, struct hanging *h, uint64_t ns)
{
	sem_init(&h->go, 0, 0);
	sem_init(&h->back, 0, 0);
	h->job = (struct place_job){ .fetch = hang_fetch, .finish = hang_finish, .fail = hang_fail, .free = hang_free,
		.deadline_ns = clock_mono_ns() + ns };
	place_start(p, &h->job);
}

/* Goal: with every thread of the store stuck, whoever waits is answered, once, and later callers at once. */
static void test_who_waits_for_a_store_that_hangs_is_answered(void **state)
{
	static struct hanging h[5];
	struct place_info info;
	struct world w;

	(void)state;
	world_up(&w, "5s");
	assert_int_equal(place_probe(w.place, soon()), 0);
	for (int i = 0; i < 4; i++) hang_start(w.place, &h[i], 30000000); /* two run, two wait for a thread */
	for (int i = 0; i < 4; i++)
		while (sem_wait(&h[i].back) != 0) continue;
	place_get_info(w.place, &info);
	assert_int_equal(info.hanging, 2);
	assert_int_equal(info.health, PLACE_AWAY);
	hang_start(w.place, &h[4], SOON_NS);
	assert_int_equal(h[4].failed, 1); /* the breaker is open: from inside the call */
	for (int i = 0; i < 4; i++) sem_post(&h[i].go);
	world_down(&w); /* joins the threads */
	for (int i = 0; i < 5; i++) {
		assert_int_equal(h[i].failed, 1);
		assert_int_equal(h[i].finished, 0);
		assert_int_equal(h[i].freed, 1);
	}
}

static void test_settings_of_stores_are_checked(void **state)
{
	static const char *const bad[] = { "", "type=tape\n", "type=directory\n", "type=directory\npath=relative\n",
		"type=directory\npath=/x\nbucket=b\n", "type=directory\npath=/x\npromote=samples\n",
		"type=directory\npath=/x\npromote_space=1GiB\n",
		"type=directory\npath=/x\npromote=sample\npromote_space=1MiB\n",
		"type=directory\npath=/x\npromote=sample\nuse=source\n",
		"type=directory\npath=/x\npromote_after=0\n", "type=directory\npath=/x\nread_timeout=0s\n",
		"type=directory\npath=/x\nprice_gb_month=cheap\n",
		"type=directory\npath=/a\nuse=source\nbackup=on\n" };
	struct store_settings s = { .name = "archive" };
	char why[512];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(s.text, sizeof(s.text), "%s", bad[i]);
		why[0] = '\0';
		if (store_settings_check(&s, why, sizeof(why)) != -GRANARY_ECONFIG) fail_msg("taken: %s", bad[i]);
		assert_true(strlen(why) > 10);
	}
	snprintf(s.text, sizeof(s.text),
		"type=directory\npath=/x\npromote=pack\npromote_after=2\nprice_gb_month=0.01\n");
	assert_int_equal(store_settings_check(&s, why, sizeof(why)), 0);
	snprintf(s.name, sizeof(s.name), "Not A Name");
	assert_int_equal(store_settings_check(&s, why, sizeof(why)), -GRANARY_ECONFIG);
	assert_int_equal(store_setting_add(&s, "path", "/y", why, sizeof(why)), -GRANARY_ECONFIG);
	assert_int_equal(store_setting_add(&s, "x", "a\nb", why, sizeof(why)), -GRANARY_ECONFIG);
}

static int group_setup(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	if (mkdtemp(root) == NULL) return -1;
	snprintf(cold_path, sizeof(cold_path), "%s/cold", root);
	return mkdir(cold_path, 0700);
}

static int group_teardown(void **state)
{
	char command[80];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_range_decodes_to_the_packs_bytes),
		cmocka_unit_test(test_a_wrong_bit_in_what_leads_to_frames_is_found),
		cmocka_unit_test(test_a_directory_keeps_the_contract),
		cmocka_unit_test(test_who_waits_for_a_store_that_hangs_is_answered),
		cmocka_unit_test(test_settings_of_stores_are_checked),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
