/* SPDX-License-Identifier: Apache-2.0 */
/* bench_kv.c -- what the metadata engine alone can do with the same keys, and what a hash table in RAM can.
 *
 *   bench_kv insert DIR KEYS VALUE_BYTES BATCH   synced inserts of all keys, BATCH a write (keys/s)
 *   bench_kv get DIR KEYS SECONDS                Get of random keys, all in cache (ops/s, CPU us)
 *   bench_kv scan DIR KEYS ROUNDS                whole scans through an iterator (keys/s)
 *   bench_kv hash KEYS SECONDS                   look-ups of random keys in an open-addressing table, values
 *   of 64 bytes
 *
 * KEYS: a file, one key a line. DIR is made by insert. Prints one JSON object. */
#include <errno.h>
#include <rocksdb/c.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/hash.h"
#include "common/rand.h"

struct keys {
	char *text;
	char **at;
	size_t *len;
	size_t count;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench_kv: %s: %s\n", what, why);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void report(const char *what, double count, double seconds, double cpu_seconds)
{
	printf("{\"what\": \"%s\", \"per_s\": %.1f, \"cpu_us\": %.4f, \"count\": %.0f, "
	       "\"seconds\": %.4f}\n",
		what, count / seconds, cpu_seconds / count * 1e6, count, seconds);
}

static struct keys load_keys(const char *path)
{
	struct keys k = { 0 };
	FILE *f = fopen(path, "rb");
	if (!f) die(path, strerror(errno));
	fseek(f, 0, SEEK_END);
	size_t size = (size_t)ftell(f);
	rewind(f);
	k.text = malloc(size + 1);
	if (!k.text || fread(k.text, 1, size, f) != size) die(path, "cannot read");
	fclose(f);
	k.text[size] = '\n';
	for (size_t i = 0; i <= size; i++) k.count += k.text[i] == '\n';
	k.at = malloc(k.count * sizeof *k.at);
	k.len = malloc(k.count * sizeof *k.len);
	size_t n = 0;
	for (char *p = k.text, *end = k.text + size; p < end;) {
		char *nl = memchr(p, '\n', (size_t)(end + 1 - p));
		if (nl > p) {
			k.at[n] = p;
			k.len[n++] = (size_t)(nl - p);
		}
		p = nl + 1;
	}
	k.count = n;
	if (n == 0) die(path, "no keys");
	return k;
}

static rocksdb_t *open_db(const char *dir, bool create)
{
	char *err = NULL;
	rocksdb_options_t *o = rocksdb_options_create();
	rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
	rocksdb_block_based_options_set_block_cache(t, rocksdb_cache_create_lru((size_t)2 << 30));
	rocksdb_block_based_options_set_filter_policy(
		t, rocksdb_filterpolicy_create_bloom_full(10));
	rocksdb_block_based_options_set_data_block_index_type(t, 1);
	rocksdb_options_set_block_based_table_factory(o, t);
	rocksdb_options_set_create_if_missing(o, create);
	rocksdb_options_set_compression(o, rocksdb_no_compression);
	rocksdb_t *db = rocksdb_open(o, dir, &err);
	if (err) die(dir, err);
	return db;
}

static void run_insert(const char *dir, const struct keys *k, size_t value_size, size_t batch_size)
{
	rocksdb_t *db = open_db(dir, true);
	rocksdb_writeoptions_t *w = rocksdb_writeoptions_create();
	char *value = calloc(1, value_size ? value_size : 1), *err = NULL;
	rocksdb_writeoptions_set_sync(w, 1);
	double start = now(), c = cpu();
	for (size_t i = 0; i < k->count;) {
		rocksdb_writebatch_t *b = rocksdb_writebatch_create();
		for (size_t n = 0; n < batch_size && i < k->count; n++, i++)
			rocksdb_writebatch_put(b, k->at[i], k->len[i], value, value_size);
		rocksdb_write(db, w, b, &err);
		if (err) die("write", err);
		rocksdb_writebatch_destroy(b);
	}
	report("insert", (double)k->count, now() - start, cpu() - c);
	rocksdb_flushoptions_t *f = rocksdb_flushoptions_create();
	rocksdb_flush(db, f, &err);
	rocksdb_close(db);
}

static void run_get(const char *dir, const struct keys *k, double seconds)
{
	rocksdb_t *db = open_db(dir, false);
	rocksdb_readoptions_t *r = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(r, 0);
	struct rng rng;
	char *err = NULL;
	double count = 0, start = 0, c = 0;
	rng_seed(&rng, 1);
	for (size_t i = 0; i < k->count; i++) { /* into the block cache */
		rocksdb_pinnableslice_t *v = rocksdb_get_pinned(db, r, k->at[i], k->len[i], &err);
		if (!v) die("get", "a key is missing");
		rocksdb_pinnableslice_destroy(v);
	}
	start = now();
	c = cpu();
	while (now() - start < seconds)
		for (int i = 0; i < 256; i++, count++) {
			size_t n = rng_below(&rng, k->count);
			rocksdb_pinnableslice_destroy(
				rocksdb_get_pinned(db, r, k->at[n], k->len[n], &err));
		}
	report("get", count, now() - start, cpu() - c);
	rocksdb_close(db);
}

static void run_scan(const char *dir, const struct keys *k, int rounds)
{
	rocksdb_t *db = open_db(dir, false);
	rocksdb_readoptions_t *r = rocksdb_readoptions_create();
	double count = 0, start = now(), c = cpu(), sum = 0;
	for (int round = -1; round < rounds; round++) {
		if (round == 0) {
			count = 0;
			start = now();
			c = cpu();
		}
		rocksdb_iterator_t *it = rocksdb_create_iterator(db, r);
		for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it);
			rocksdb_iter_next(it)) {
			size_t key_len, value_len;
			sum += rocksdb_iter_key(it, &key_len)[0] +
			       rocksdb_iter_value(it, &value_len)[0];
			count++;
		}
		rocksdb_iter_destroy(it);
	}
	if (count < (double)k->count * rounds || sum < 0) die("scan", "keys are missing");
	report("scan", count, now() - start, cpu() - c);
	rocksdb_close(db);
}

/* Rows of a server's metadata whose keys begin with `first`; the directory is a copy, nobody else opens it. Checksums
 * are verified, as the server does. */
static void run_scan_rows(const char *dir, const char *first, int rounds)
{
	char *err = NULL;
	rocksdb_options_t *o = rocksdb_options_create();
	rocksdb_t *db = rocksdb_open_for_read_only(o, dir, 0, &err);
	if (err) die(dir, err);
	rocksdb_readoptions_t *r = rocksdb_readoptions_create();
	double count = 0, start = now(), c = cpu(), sum = 0;
	for (int round = 0; round < rounds; round++) {
		rocksdb_iterator_t *it = rocksdb_create_iterator(db, r);
		for (rocksdb_iter_seek(it, first, 1); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
			size_t key_len, value_len;
			const char *key = rocksdb_iter_key(it, &key_len);
			if (key[0] != first[0]) break;
			sum += key[key_len - 1] + rocksdb_iter_value(it, &value_len)[0];
			count++;
		}
		rocksdb_iter_destroy(it);
	}
	if (count == 0 || sum == 0) die("scan", "no rows");
	report("scanrows", count, now() - start, cpu() - c);
	rocksdb_close(db);
}

struct cell {
	uint64_t hash;
	uint32_t key, value[14];
};

static void run_hash(const struct keys *k, double seconds)
{
	size_t size = 1;
	while (size < k->count * 2) size *= 2;
	struct cell *cells = calloc(size, sizeof *cells);
	struct rng rng;
	double count = 0, start, c, sum = 0;
	if (!cells) die("hash", "out of memory");
	rng_seed(&rng, 1);
	for (size_t i = 0; i < k->count; i++) {
		uint64_t h = hash_keyed(1, 0, k->at[i], k->len[i]).lo | 1;
		size_t at = h & (size - 1);
		while (cells[at].hash) at = (at + 1) & (size - 1);
		cells[at] =
			(struct cell){ .hash = h, .key = (uint32_t)i, .value = { (uint32_t)i } };
	}
	start = now();
	c = cpu();
	while (now() - start < seconds)
		for (int i = 0; i < 1024; i++, count++) {
			size_t n = rng_below(&rng, k->count);
			uint64_t h = hash_keyed(1, 0, k->at[n], k->len[n]).lo | 1;
			size_t at = h & (size - 1);
			while (cells[at].hash != h) at = (at + 1) & (size - 1);
			sum += cells[at].value[0];
		}
	if (sum < 0) die("hash", "impossible");
	report("hash", count, now() - start, cpu() - c);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	if (argc == 6 && strcmp(mode, "insert") == 0) {
		struct keys k = load_keys(argv[3]);
		run_insert(argv[2], &k, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
	} else if (argc == 5 && strcmp(mode, "get") == 0) {
		struct keys k = load_keys(argv[3]);
		run_get(argv[2], &k, strtod(argv[4], NULL));
	} else if (argc == 5 && strcmp(mode, "scan") == 0) {
		struct keys k = load_keys(argv[3]);
		run_scan(argv[2], &k, (int)strtol(argv[4], NULL, 10));
	} else if (argc == 5 && strcmp(mode, "scanrows") == 0) {
		run_scan_rows(argv[2], argv[3], (int)strtol(argv[4], NULL, 10));
	} else if (argc == 4 && strcmp(mode, "hash") == 0) {
		struct keys k = load_keys(argv[2]);
		run_hash(&k, strtod(argv[3], NULL));
	} else {
		fprintf(stderr,
			"usage: bench_kv insert DIR KEYS VALUE_BYTES BATCH | get DIR KEYS SECONDS |"
			" scan DIR KEYS ROUNDS | scanrows DIR FIRST ROUNDS | hash KEYS SECONDS\n");
		return 2;
	}
	return 0;
}
