/* SPDX-License-Identifier: Apache-2.0 */
/* bench_put.c -- many clients write small objects, each waiting for its answer before it writes the next. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/rand.h"

enum { SIZE_DEFAULT = 4096, COUNT_DEFAULT = 1000, DELETE_BATCH = 1000 };

struct put_bench {
	struct remote *r;
	char directory[GRANARY_KEY_LEN_MAX + 1];
	const char *data;
	uint64_t size, count, batch;
	_Atomic uint64_t next, written, failed;
	_Atomic int first_err;
	uint64_t *latencies_ns; /* one a request, at its first object's number */
	struct progress progress;
};

struct writer {
	struct put_bench *b;
	struct remote r;
	pthread_t thread;
	bool started;
};

static void object_key(
	const struct put_bench *b, char key[GRANARY_KEY_LEN_MAX + 1], uint64_t number)
{
	snprintf(key, GRANARY_KEY_LEN_MAX + 1, "%.900s/%08" PRIu64, b->directory, number);
}

/* Writes objects first..first+n in one request; returns how many are written. */
static uint64_t write_batch(struct writer *w, struct granary_put *puts,
	char (*keys)[GRANARY_KEY_LEN_MAX + 1], uint64_t first, uint64_t n)
{
	int64_t done;

	for (uint64_t i = 0; i < n; i++) {
		object_key(w->b, keys[i], first + i);
		puts[i] = (struct granary_put){ .ref = granary_ref_key(keys[i]),
			.data = w->b->size > 0 ? w->b->data : NULL,
			.size = w->b->size };
	}
	done = granary_put_batch(w->r.client, puts, n, GRANARY_CALL(.bucket = w->r.bucket));
	if (done == (int64_t)n) return n;
	for (uint64_t i = 0; i < n; i++) {
		int none = 0;
		int err = done < 0 ? (int)done : puts[i].status;
		if (err < 0 && atomic_compare_exchange_strong(&w->b->first_err, &none, err))
			fail_text(err, done < 0 ? granary_last_error(w->r.client) : "",
				"cannot write '%s'", keys[i]);
	}
	return done < 0 ? 0 : (uint64_t)done;
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct put_bench *b = w->b;
	struct granary_put *puts = must_alloc(calloc(b->batch, sizeof(*puts)));
	char(*keys)[GRANARY_KEY_LEN_MAX + 1] = must_alloc(calloc(b->batch, sizeof(*keys)));

	while (atomic_load(&b->first_err) == 0) {
		uint64_t first = atomic_fetch_add(&b->next, b->batch), n, good, began_ns;
		if (first >= b->count) break;
		n = b->count - first < b->batch ? b->count - first : b->batch;
		began_ns = clock_mono_ns();
		good = write_batch(w, puts, keys, first, n);
		b->latencies_ns[first / b->batch] = clock_mono_ns() - began_ns;
		atomic_fetch_add(&b->written, good);
		atomic_fetch_add(&b->failed, n - good);
		progress_add(&b->progress, n, n * b->size);
	}
	free(puts);
	free(keys);
	return NULL;
}

/* Removes what was written, and the directory. */
static void remove_all(struct put_bench *b)
{
	struct granary_delete *deletes = must_alloc(calloc(DELETE_BATCH, sizeof(*deletes)));
	char(*keys)[GRANARY_KEY_LEN_MAX + 1] = must_alloc(calloc(DELETE_BATCH, sizeof(*keys)));
	const struct granary_call *call =
		GRANARY_CALL(.bucket = b->r->bucket, .timeout_ms = bulk_timeout_ms());

	for (uint64_t at = 0; at < b->count; at += DELETE_BATCH) {
		uint64_t n = b->count - at < DELETE_BATCH ? b->count - at : DELETE_BATCH;
		for (uint64_t i = 0; i < n; i++) {
			object_key(b, keys[i], at + i);
			deletes[i] = (struct granary_delete){ .ref = granary_ref_key(keys[i]) };
		}
		if (granary_delete_batch(b->r->client, deletes, n, call) < 0) {
			note("what was written stays at '%s/%s': %s", b->r->bucket, b->directory,
				granary_last_error(b->r->client));
			break;
		}
	}
	free(deletes);
	free(keys);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static void put_report(struct put_bench *b, uint64_t clients, double seconds)
{
	uint64_t requests = (b->count + b->batch - 1) / b->batch;
	double rate = (double)b->written / seconds, p50, p99;
	struct json j;

	qsort(b->latencies_ns, requests, sizeof(*b->latencies_ns), compare_u64);
	p50 = (double)b->latencies_ns[requests / 2] / 1e6;
	p99 = (double)b->latencies_ns[requests * 99 / 100] / 1e6;
	if (!opts.json) {
		printf("%" PRIu64 " objects of %" PRIu64 " bytes by %" PRIu64
		       " clients in %.2f s: %.0f objects/s, %.1f MB/s; "
		       "a request of %" PRIu64 ": p50 %.2f ms, p99 %.2f ms\n",
			b->written, b->size, clients, seconds, rate, rate * (double)b->size / 1e6,
			b->batch, p50, p99);
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "verb", "bench put");
	json_number(&j, "objects", b->written);
	json_number(&j, "size", b->size);
	json_number(&j, "clients", clients);
	json_number(&j, "batch", b->batch);
	json_real(&j, "seconds", seconds);
	json_real(&j, "objects_per_s", rate);
	json_real(&j, "p50_ms", p50);
	json_real(&j, "p99_ms", p99);
	json_number(&j, "failed", b->failed);
	json_close(&j);
}

static int put_run(struct put_bench *b, const char *address, uint64_t clients)
{
	struct writer *writers = must_alloc(calloc(clients, sizeof(*writers)));
	int code = CLI_OK;
	double seconds;

	for (uint64_t i = 0; i < clients && code == CLI_OK; i++) {
		writers[i].b = b;
		code = remote_open(&writers[i].r, address, NEED_BUCKET, 1);
		if (code == CLI_OK && granary_ping(writers[i].r.client, NULL) < 0)
			code = fail_remote(writers[i].r.client, -GRANARY_EUNREACHABLE,
				"client %" PRIu64 " cannot connect", i + 1);
	}
	progress_start(&b->progress, "writing");
	atomic_store(&b->progress.files_total, b->count);
	for (uint64_t i = 0; i < clients && code == CLI_OK; i++)
		writers[i].started =
			pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]) == 0;
	for (uint64_t i = 0; i < clients; i++)
		if (writers[i].started) pthread_join(writers[i].thread, NULL);
	seconds = progress_seconds(&b->progress);
	progress_stop(&b->progress);
	for (uint64_t i = 0; i < clients; i++) remote_close(&writers[i].r);
	free(writers);
	if (code != CLI_OK) return code;
	put_report(b, clients, seconds);
	return b->failed == 0 ? CLI_OK : b->written > 0 ? CLI_PARTIAL : exit_of(b->first_err);
}

int run_bench_put(int count, char **args)
{
	struct put_bench b = { .size = opts.size > 0 ? opts.size : SIZE_DEFAULT,
		.count = opts.count > 0 ? opts.count : COUNT_DEFAULT,
		.batch = opts.batch > 0 ? opts.batch : 1 };
	char *data = must_alloc(malloc(b.size));
	char name[32];
	uint64_t id;
	struct remote r;
	int code = remote_open(&r, args[0], NEED_BUCKET, 1);

	(void)count;
	b.r = &r;
	rand_bytes(data, b.size);
	rand_bytes(&id, sizeof(id));
	b.data = data;
	b.latencies_ns = must_alloc(calloc(b.count / b.batch + 1, sizeof(*b.latencies_ns)));
	snprintf(name, sizeof(name), "bench-put-%016" PRIx64, id);
	if (code == CLI_OK) code = key_join(b.directory, r.path, name);
	if (code == CLI_OK) code = put_run(&b, args[0], opts.clients > 0 ? opts.clients : 1);
	if (r.client != NULL && !opts.keep) remove_all(&b);
	remote_close(&r);
	free(b.latencies_ns);
	free(data);
	return code;
}
