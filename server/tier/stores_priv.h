/* SPDX-License-Identifier: Apache-2.0 */
/* stores_priv.h -- shared by stores*.c and copy.c only. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/list.h"
#include "tier/kept.h"
#include "tier/stores.h"

enum { PLACE_THREADS_MAX = 64, PLACE_VALUE_MAX = 256, WANTED_MAX = 256 };

struct place {
	struct stores *stores;
	uint64_t id;         /* 0: not numbered yet */
	struct cold *cold;   /* NULL: no settings name it */
	struct store_settings settings;
	enum place_promote promote;
	struct kept *kept; /* PROMOTE_SAMPLE; NULL where its file cannot be made */
	bool is_source;
	uint32_t promote_after;
	uint64_t read_timeout_ns;
	_Atomic bool marked; /* the row says that its mark was written */
	_Atomic uint8_t health;
	_Atomic uint64_t retry_ns; /* while AWAY: when the next call is let through */
	_Atomic uint32_t failures; /* in a row */
	_Atomic uint64_t gets, get_bytes, puts, put_bytes, errors, timeouts, hanging;
	pthread_mutex_t lock;      /* why, err; writing the mark */
	int err;
	char why[COLD_WHY_MAX];
	/* stores_jobs.c */
	pthread_mutex_t jobs_lock;
	pthread_cond_t work;
	struct place_job *queue, *queue_last, *running;
	pthread_t threads[PLACE_THREADS_MAX];
	uint32_t thread_count, idle;
	bool stop;
};

struct stores {
	struct stores_options o;
	uint32_t count;
	struct place *all[STORES_MAX];
	pthread_t watcher;
	bool has_watcher;
	pthread_mutex_t watch_lock;
	pthread_cond_t watch;
	_Atomic bool watch_sleeps; /* until a job comes */
	bool stop;
	pthread_mutex_t frames_lock; /* copy.c: indexes in memory, least recently used first */
	struct list frames;
	size_t frames_bytes;
	pthread_mutex_t wanted_lock;
	uint64_t wanted[WANTED_MAX];
	uint32_t wanted_count;
	bool frames_dirs[256];
	struct stores_linked linked;
};

/* stores_jobs.c */
int jobs_table_start(struct stores *stores);
/* false: a thread hangs; its store must not be freed. */
bool jobs_table_stop(struct stores *stores);
void place_failed(struct place *p, int err); /* stores.c: one more failure, may open the breaker */
