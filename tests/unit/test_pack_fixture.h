/* SPDX-License-Identifier: Apache-2.0 */
/* test_pack_fixture.h -- a store's lower half in a temporary directory: files, rows (kv_mem), ids,
 * packs, reactors on real threads (engine by GRANARY_IO_ENGINE: uring or threads), workers,
 * writers. */
#pragma once

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
/* cmocka wants the five above first */
#include <cmocka.h>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/error.h"
#include "common/list.h"
#include "common/rand.h"
#include "io/fs.h"
#include "io/io.h"
#include "io/reactor.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "pack/check.h"
#include "pack/format.h"
#include "pack/writer.h"
#include "tier/packs.h"

enum { BED_REACTORS = 2, BED_WORKERS = 3 };

struct bed {
	char root[64];
	struct fs *fs;
	struct kv *kv;
	struct ids *ids;
	struct packs *packs;
	struct reactor *reactors[BED_REACTORS];
	struct workers *workers;
	struct writers *writers;
	uint64_t pack_size, budget;
	uint32_t incarnation;
};

static inline enum io_engine_kind bed_engine(void)
{
	const char *name = getenv("GRANARY_IO_ENGINE");

	if (name != NULL && strcmp(name, "threads") == 0)
		return IO_ENGINE_THREADS;
	return name != NULL && strcmp(name, "uring") == 0 ? IO_ENGINE_URING : IO_ENGINE_AUTO;
}

static inline void bed_sleep(void)
{
	struct timespec pause = { .tv_nsec = 200 * 1000 };

	nanosleep(&pause, NULL);
}

/* Opens everything on what is in bed->root; a new incarnation each time. */
static inline void bed_up(struct bed *b)
{
	struct kv_options ko = { .group_max = 256 };
	struct packs_options po;
	struct writers_options wo;
	int err = fs_new_kernel(b->root, &b->fs);

	assert_int_equal(err, 0);
	err = fs_mkdir(b->fs, "meta");
	assert_true(err == 0 || err == -GRANARY_EEXIST);
	err = kv_open_mem(b->fs, "meta", &ko, &b->kv);
	assert_int_equal(err, 0);
	b->ids = ids_new(++b->incarnation);
	po = (struct packs_options){ .fs = b->fs, .kv = b->kv, .ids = b->ids, .pack_size = b->pack_size,
		.files_max = 64 };
	err = packs_open(&po, &b->packs);
	assert_int_equal(err, 0);
	for (uint32_t i = 0; i < BED_REACTORS; i++) {
		struct io_options io = { .engine = bed_engine(), .depth = 256, .threads = 8, .recv_bufs = 16 };

		err = reactor_new(i, &io, &b->reactors[i]);
		assert_int_equal(err, 0);
		err = reactor_start(b->reactors[i]);
		assert_int_equal(err, 0);
	}
	err = workers_new(BED_WORKERS, &b->workers);
	assert_int_equal(err, 0);
	wo = (struct writers_options){ .packs = b->packs, .reactors = b->reactors, .reactor_count = BED_REACTORS,
		.workers = b->workers, .buffer_budget = b->budget, .open_max = 64 };
	err = writers_new(&wo, &b->writers);
	assert_int_equal(err, 0);
}

static inline void bed_down(struct bed *b)
{
	writers_free(&b->writers);
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		reactor_stop(b->reactors[i]);
	workers_free(&b->workers);
	for (uint32_t i = 0; i < BED_REACTORS; i++)
		reactor_free(&b->reactors[i]);
	packs_close(&b->packs);
	ids_free(&b->ids);
	kv_close(&b->kv);
	fs_free(&b->fs);
}

static inline void bed_new(struct bed *b, uint64_t pack_size)
{
	const char *tmp = getenv("TMPDIR");

	*b = (struct bed){ .pack_size = pack_size, .budget = 64u << 20 };
	snprintf(b->root, sizeof(b->root), "%s/granary-pack-XXXXXX", tmp && strlen(tmp) < 32 ? tmp : "/var/tmp");
	assert_non_null(mkdtemp(b->root));
	bed_up(b);
}

static inline void bed_free(struct bed *b)
{
	char command[96];

	bed_down(b);
	snprintf(command, sizeof(command), "rm -rf '%s'", b->root);
	assert_int_equal(system(command), 0);
}

static inline void bed_idle(struct bed *b)
{
	while (!writers_idle(b->writers))
		bed_sleep();
}

/* ---- appends from the test's thread ---- */

struct put {
	struct pack_append a;
	_Atomic uint32_t done;   /* times */
	uint8_t crcs[4 * EXTENT_CRCS_MAX];
	char key[40];
	uint64_t seed;
};

static inline void put_done(struct task *t)
{
	struct pack_append *a = container_of(t, struct pack_append, done);
	struct put *p = container_of(a, struct put, a);

	atomic_fetch_add(&p->done, 1);
}

static inline void bytes_fill(uint8_t *p, size_t len, uint64_t seed)
{
	struct rng r;

	rng_seed(&r, seed);
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rng_next(&r);

		memcpy(p + i, &v, len - i < 8 ? len - i : 8);
	}
}

static inline void put_init(struct put *p, struct bed *b, uint64_t group, uint64_t object, const uint8_t *data,
			    uint32_t len)
{
	*p = (struct put){ .seed = object };
	snprintf(p->key, sizeof(p->key), "bucket/dir/%llu", (unsigned long long)object);
	p->a = (struct pack_append){ .done.fn = put_done, .notify = b->reactors[object % BED_REACTORS],
		.group = group, .object_id = object, .version = object + 7, .dir_id = 5, .whole = true,
		.key = slice_str(p->key), .name = slice_str(p->key + 11), .data = data, .data_len = len,
		.crcs = p->crcs };
	for (uint32_t i = 0; i < crc_block_count(len); i++) {
		uint32_t at = i * CRC_BLOCK_SIZE, n = len - at < CRC_BLOCK_SIZE ? len - at : CRC_BLOCK_SIZE;
		uint32_t crc = crc32c(0, data + at, n);

		memcpy(p->crcs + 4 * (size_t)i, &crc, 4);
	}
}

static inline void put_wait(struct put *p)
{
	while (atomic_load(&p->done) == 0)
		bed_sleep();
}

static inline void put_commit(struct bed *b, struct put *puts, uint32_t n)
{
	struct kv_txn *txn = kv_txn_new(b->kv);
	int err;

	assert_non_null(txn);
	for (uint32_t i = 0; i < n; i++) {
		const struct pack_append *a = &puts[i].a;

		if (a->err == 0)
			writers_account(txn, &a, 1);
	}
	err = kv_submit_wait(b->kv, txn);
	assert_int_equal(err, 0);
	kv_txn_free(&txn);
	for (uint32_t i = 0; i < n; i++)
		if (puts[i].a.err == 0)
			pack_append_settled(&puts[i].a);
}

/* The record an append made is in its pack, whole. */
static inline void put_verify(struct bed *b, const struct put *p, const uint8_t *data)
{
	static _Thread_local uint8_t back[EXTENT_LEN_MAX];
	struct pack *pack = packs_ref(b->packs, p->a.extent.pack);
	uint32_t len;
	int err;

	assert_non_null(pack);
	if (pack_file(pack) == NULL) {
		err = packs_open_file(b->packs, pack);
		assert_int_equal(err, 0);
	}
	err = pack_record_verify(pack_file(pack), p->a.extent.pack, p->a.extent.record, p->a.object_id, back, &len,
		NULL);
	assert_int_equal(err, 0);
	assert_int_equal(len, p->a.data_len);
	assert_memory_equal(back, data, len);
	packs_unref(b->packs, pack);
}
