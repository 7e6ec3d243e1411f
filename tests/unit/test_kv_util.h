/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv_util.h -- a store in a temporary folder on either engine, and short ways to build and run transactions. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/error.h"
#include "common/tlv.h"
#include "io/fs.h"
#include "io/reactor.h"
#include "meta/kv.h"
#include "meta/rows.h"

typedef int (*kv_open_fn)(struct fs *fs, const char *dir, const struct kv_options *options, struct kv **out);

struct store {
	char root[256];
	struct fs *fs;
	struct kv *kv;
	kv_open_fn open;
	struct kv_options options;
	bool is_mem;
};

static inline void store_fatal(void *arg, const char *what)
{
	(void)arg;
	fprintf(stderr, "fatal: %s\n", what);
	abort();
}

static inline void store_init(struct store *s, kv_open_fn open, bool is_mem)
{
	const char *tmp = getenv("TMPDIR");

	*s = (struct store){ .open = open, .is_mem = is_mem, .options = { .fatal = store_fatal } };
	snprintf(s->root, sizeof(s->root), "%s/granary-kv-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(s->root));
	assert_int_equal(fs_new_kernel(s->root, &s->fs), 0);
	assert_int_equal(s->open(s->fs, "meta", &s->options, &s->kv), 0);
}

static inline void store_reopen(struct store *s)
{
	kv_close(&s->kv);
	assert_int_equal(s->open(s->fs, "meta", &s->options, &s->kv), 0);
}

static inline int store_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline void store_release(struct store *s)
{
	kv_close(&s->kv);
	fs_free(&s->fs);
	nftw(s->root, store_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Submits and waits; frees the transaction. */
static inline int run_txn(struct kv *kv, struct kv_txn *t)
{
	int err = kv_submit_wait(kv, t);

	kv_txn_free(&t);
	return err;
}

/* Many at once, in one group where the engine has no thread of its own. */
struct pending {
	struct task task;
	_Atomic bool is_done;
};

static inline void pending_done(struct task *task)
{
	struct pending *p = (struct pending *)(void *)task;

	atomic_store(&p->is_done, true);
}

static inline void run_group(struct store *s, struct kv_txn **txns, int *results, uint32_t n)
{
	struct pending *p = calloc(n, sizeof(*p));

	for (uint32_t i = 0; i < n; i++) {
		p[i].task.fn = pending_done;
		kv_submit(s->kv, txns[i], NULL, &p[i].task);
	}
	while (s->is_mem && kv_turn(s->kv) > 0)
		;
	for (uint32_t i = 0; i < n; i++) {
		while (!atomic_load(&p[i].is_done))
			usleep(20);
		results[i] = kv_txn_result(txns[i]);
		kv_txn_free(&txns[i]);
	}
	free(p);
}

/* A value with id, version and one counter. */
static inline struct slice value_of(uint8_t *buf, uint64_t id, uint64_t version, uint64_t count)
{
	struct wr w = wr_of(buf, 256);

	value_begin(&w);
	tlv_put_u64(&w, TAG_ID, id);
	tlv_put_u64(&w, TAG_VERSION, version);
	tlv_put_u64(&w, 64, count);
	return slice_of(buf, wr_len(&w));
}

static inline int put_row(struct kv *kv, struct slice key, uint64_t id, uint64_t version, uint64_t count)
{
	uint8_t buf[256];
	struct kv_txn *t = kv_txn_new(kv);

	kv_put(t, key, value_of(buf, id, version, count));
	return run_txn(kv, t);
}

static inline int delete_row(struct kv *kv, struct slice key)
{
	struct kv_txn *t = kv_txn_new(kv);

	kv_delete(t, key);
	return run_txn(kv, t);
}

/* The row's tag, or UINT64_MAX when there is no row. */
static inline uint64_t row_tag(struct kv *kv, struct slice key, uint16_t tag)
{
	struct kv_value v;
	uint64_t n = 0;
	int err = kv_get(kv, key, &v);

	if (err == -GRANARY_ENOTFOUND)
		return UINT64_MAX;
	assert_int_equal(err, 0);
	assert_true(value_u64(v.v, tag, 0, &n));
	kv_value_release(&v);
	return n;
}
