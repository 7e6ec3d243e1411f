/* SPDX-License-Identifier: Apache-2.0 */
/* bench_client.c -- load through libgranary, as a loader would make it. Server address and key: GRANARY_URL,
 * GRANARY_CREDENTIALS. Keys are computed, so nothing is listed before a run: sample i of a set is
 * PREFIX/dNNNN/sNNNNNNNN.
 *
 *   bench_client make BUCKET PREFIX COUNT SIZE [FIRST [DIR]]   imports samples FIRST..COUNT-1, incompressible (256 a
 *                                                           batch put), DIR (1,000) in a directory
 *   bench_client makegroup BUCKET PREFIX COUNT SIZE         samples of three files: .cls of 24 bytes, .jpg of three
 *                                                           quarters of SIZE, .json of the rest
 *   bench_client read BUCKET PREFIX COUNT SIZE BATCH INFLIGHT SECONDS [key|id|order] [connections]
 *                                                           random batches; `order`: dataset order
 *   bench_client single BUCKET PREFIX COUNT SIZE INFLIGHT SECONDS   one GET a request
 *   bench_client put BUCKET PREFIX CLIENTS SIZE SECONDS     CLIENTS connections, one put in flight on each
 *   bench_client unstable BUCKET PREFIX SIZE SECONDS       one put at a time, answered before it is durable; a sync
 *                                                           at the end, outside the clock
 *   bench_client write BUCKET KEY SIZE DEPTH COUNT [SEED]  COUNT random writes of 4 KiB into an object of SIZE bytes
 *                                                           (made when it is not there), DEPTH in flight, each
 *                                                           answered before it is durable; a sync at the end, inside
 *                                                           the clock
 *   bench_client putbatch BUCKET PREFIX BATCH SIZE INFLIGHT SECONDS   keys in a random order
 *   bench_client stat BUCKET KEYFILE BATCH INFLIGHT SECONDS random keys of the file
 *   bench_client list BUCKET PREFIX ROUNDS                  whole listings, pages of 1,000
 *   bench_client stream BUCKET@NAME MODE BATCH RANKS SECONDS [BATCHES [TOKEN]]
 *                                                            epochs of a snapshot, one after the other until SECONDS
 *                                                           are over (0: one whole epoch); the ranks are threads of
 *                                                           this process, each with a client of its own
 *   bench_client epoch BUCKET@NAME MODE BATCH RANK WORLD MEMORY_MIB SECONDS [TOKEN]   one rank in a process of its
 *                                                           own, with so much memory for client and epoch together;
 *                                                           SECONDS 0: until the first batch is there. Prints when
 *                                                           that was (first, of CLOCK_MONOTONIC), the token of the
 *                                                           beginning, peak memory
 *
 *   bench_client fair BUCKET@NAME MODE BATCH RANKS SECONDS WEIGHT WEIGHT   two jobs of so many ranks each stream at the
 *                                                           same time; `share`: what the first had of all, once both
 *                                                           were at it for a second
 *
 * Prints one JSON object: per_s (samples or keys), MB/s, CPU microseconds a sample of this process and of the server's
 * (from status). Every byte that is read is verified by the library. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "common/rand.h"
#include "granary/granary.h"

enum { DIR_SAMPLES = 1000, NAME_MAX_LEN = 256, INFLIGHT_MAX = 256, SLAB_ALIGN = 4096, KEY_SIZE = 64 };

struct set {
	const char *bucket, *prefix;
	uint64_t count, size, first; /* first: of those that are made */
	uint32_t fields;             /* files of a sample; 0: one */
	uint64_t dir_samples;        /* in a directory; 0: DIR_SAMPLES */
	bool shuffled;
	uint64_t *ids, *dirs; char (*keys)[KEY_SIZE];
};
struct load {
	double seconds;
	uint32_t batch, inflight, connections;
	const char *how;
};

static void die(const char *what, struct granary_client *c, int64_t err)
{
	fprintf(stderr, "bench_client: %s: %s (%s)\n", what, granary_strerror((int)err),
		c ? granary_last_error(c) : "");
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double own_cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* One number of the server's status; 0 when it has no such line. */
static double status_number(struct granary_client *c, const char *name)
{
	char *text = NULL;
	double v = 0;
	int err = granary_status(c, &text, NULL);
	if (err < 0) die("status", c, err);
	size_t n = strlen(name);
	for (char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, name, n) == 0 && p[n] == ' ') v = strtod(p + n + 1, NULL);
	granary_free(text);
	return v;
}

static struct granary_client *open_client_with(uint32_t connections, uint64_t memory)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c = NULL;
	o.connections = connections;
	o.memory_max = memory;
	o.timeout_ms = 120000;
	int err = granary_open(&o, &c);
	if (err < 0) die("open", NULL, err);
	err = granary_ping(c, NULL);
	if (err < 0) die("connect", c, err);
	return c;
}

static struct granary_client *open_client(uint32_t connections)
{
	return open_client_with(connections, (uint64_t)1 << 30);
}

static void *big(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) die("memory", NULL, -GRANARY_ENOMEM);
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}

static void sample_key(const struct set *s, uint64_t i, char *out)
{
	snprintf(out, NAME_MAX_LEN, "%s/d%04llu/s%08llu", s->prefix,
		(unsigned long long)(i / (s->dir_samples ? s->dir_samples : DIR_SAMPLES)), (unsigned long long)i);
}

struct meter {
	double start, cpu, server;
	struct granary_client *c;
};

static struct meter meter_start(struct granary_client *c)
{
	struct meter m = { .c = c,
		.server = status_number(c, "cpu_user_s") + status_number(c, "cpu_system_s") };
	m.cpu = own_cpu();
	m.start = now();
	return m;
}

/* `more`: further members, each with its comma in front. */
static void meter_report_with(struct meter *m, const char *what, double samples, double bytes, const char *more)
{
	double seconds = now() - m->start, cpu = own_cpu() - m->cpu;
	double server =
		status_number(m->c, "cpu_user_s") + status_number(m->c, "cpu_system_s") - m->server;
	printf("{\"what\": \"%s\", \"per_s\": %.1f, \"mb_s\": %.2f, \"client_us\": %.3f, "
	       "\"server_us\": %.3f, "
	       "\"samples\": %.0f, \"seconds\": %.3f%s}\n",
		what, samples / seconds, bytes / seconds * 1e-6, cpu / samples * 1e6,
		server / samples * 1e6, samples, seconds, more);
	fflush(stdout);
}

static void meter_report(struct meter *m, const char *what, double samples, double bytes)
{
	meter_report_with(m, what, samples, bytes, "");
}

/* ---- writing in place ------------------------------------------------------------------------------------------ */

enum { WRITE_SIZE = 4096, WRITE_DEPTH_MAX = 256, WRITE_FILL = 8 * 1024 * 1024 };

static void write_object(struct granary_client *c, const struct set *set, const struct granary_call *call)
{
	struct granary_stat st;
	uint8_t *data = malloc(WRITE_FILL);
	if (!data) die("memory", NULL, -GRANARY_ENOMEM);
	int err = granary_stat(c, granary_ref_key(set->prefix), &st, call);
	if (err == 0 && st.size == set->size) {
		free(data);
		return;
	}
	for (size_t i = 0; i < WRITE_FILL; i++) data[i] = (uint8_t)(i * 2654435761u >> 13);
	err = granary_put(c, set->prefix, "", 0, call);
	for (uint64_t at = 0; err == 0 && at < set->size; at += WRITE_FILL)
		err = granary_write(c, granary_ref_key(set->prefix), at, data,
			set->size - at < WRITE_FILL ? set->size - at : WRITE_FILL, NULL, call);
	if (err < 0) die("the object that is written", c, err);
	free(data);
}

static void run_write(const struct set *set, uint32_t depth, uint64_t count, uint64_t seed)
{
	static uint8_t data[WRITE_DEPTH_MAX][WRITE_SIZE];
	struct granary_client *c = open_client(1);
	struct granary_op *ops[WRITE_DEPTH_MAX] = { NULL };
	const struct granary_call *call = GRANARY_CALL(.bucket = set->bucket, .flags = GRANARY_UNSTABLE);
	int64_t err = 0;

	if (depth == 0 || depth > WRITE_DEPTH_MAX || set->size < WRITE_SIZE)
		die("depth or size", NULL, -GRANARY_EINVAL);
	write_object(c, set, GRANARY_CALL(.bucket = set->bucket));
	struct granary_stat st; /* by its id, as who has it open writes */
	err = granary_stat(c, granary_ref_key(set->prefix), &st, GRANARY_CALL(.bucket = set->bucket));
	struct meter m = meter_start(c);
	for (uint64_t i = 0; err >= 0 && i < count + depth; i++) {
		uint32_t slot = (uint32_t)(i % depth);
		if (ops[slot]) {
			err = granary_wait(ops[slot], GRANARY_FOREVER);
			granary_op_free(&ops[slot]);
		}
		if (err < 0 || i >= count) continue;
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		memcpy(data[slot], &seed, sizeof seed);
		struct granary_change x = { .kind = GRANARY_CHANGE_DATA, .length = WRITE_SIZE, .data = data[slot],
			.offset = (seed >> 20) % (set->size / WRITE_SIZE) * WRITE_SIZE };
		err = granary_change_start(c, granary_ref_id(st.object_id, 0, NULL), &x, 1, NULL, NULL, call,
			&ops[slot]);
	}
	if (err >= 0) err = granary_sync(c, NULL);
	if (err < 0) die("write", c, (int)err);
	meter_report(&m, "write", (double)count, (double)(count * WRITE_SIZE));
	granary_close(&c);
}

/* ---- making a set, and puts ------------------------------------------------------------------------------------ */

struct put_slot {
	struct granary_put *puts;
	char (*names)[NAME_MAX_LEN];
	struct granary_op *op;
	uint32_t count;
};

static void slot_init(struct put_slot *s, uint32_t batch)
{
	s->puts = calloc(batch, sizeof *s->puts);
	s->names = calloc(batch, sizeof *s->names);
	if (!s->puts || !s->names) die("memory", NULL, -GRANARY_ENOMEM);
}

static uint64_t slot_settle(struct granary_client *c, struct put_slot *s)
{
	if (!s->op) return 0;
	int64_t n = granary_wait(s->op, GRANARY_FOREVER);
	if (n < 0 || (uint64_t)n != s->count) {
		fprintf(stderr, "bench_client: put: %s\n", granary_op_error(s->op));
		die("put", c, n < 0 ? n : s->puts[0].status);
	}
	granary_op_free(&s->op);
	return s->count;
}

/* Every number of a block of 2^18 once, far from the one before; bench/run writes the same order for RocksDB. */
static uint64_t shuffled(uint64_t i)
{
	const uint64_t mask = (UINT64_C(1) << 18) - 1;
	return (i & ~mask) | (i * 2654435761 & mask);
}

/* File `at` of a set whose samples have three. */
static void group_put(const struct set *set, uint64_t at, char *name, struct granary_put *put)
{
	static const char *const suffixes[] = { ".cls", ".jpg", ".json" };
	const uint64_t sizes[] = { 24, set->size / 4 * 3, set->size - set->size / 4 * 3 - 24 };

	sample_key(set, at / set->fields, name);
	size_t len = strlen(name);
	snprintf(name + len, NAME_MAX_LEN - len, "%s", suffixes[at % set->fields]);
	put->size = sizes[at % set->fields];
}

static void slot_start(struct granary_client *c, const struct set *set, struct put_slot *s,
	uint64_t first, uint32_t n, const uint8_t *noise)
{
	for (uint32_t i = 0; i < n; i++) {
		s->puts[i] = (struct granary_put){ .ref = granary_ref_key(s->names[i]),
			.data = noise + (first + i) % 4096 * 64,
			.size = set->size };
		if (set->fields > 1)
			group_put(set, first + i, s->names[i], &s->puts[i]);
		else
			sample_key(set, set->shuffled ? shuffled(first + i) : first + i, s->names[i]);
	}
	s->count = n;
	int err =
		granary_put_batch_start(c, s->puts, n, GRANARY_CALL(.bucket = set->bucket), &s->op);
	if (err < 0) die("put", c, err);
}

static uint8_t *make_noise(uint64_t size)
{
	uint8_t *p = big(size + 4096 * 64);
	struct rng r;
	rng_seed(&r, 42);
	for (uint64_t i = 0; i + 8 <= size + 4096 * 64; i += 8) {
		uint64_t v = rng_next(&r);
		memcpy(p + i, &v, 8);
	}
	return p;
}

/* Puts from `first` on until `count` or `seconds` (whichever is set) is reached. */
static uint64_t put_many(struct granary_client *c, const struct set *set, uint32_t batch,
	uint32_t inflight, uint64_t count, double seconds)
{
	struct put_slot slots[INFLIGHT_MAX] = { 0 };
	uint8_t *noise = make_noise(set->size);
	uint64_t at = 0, done = 0;
	double end = now() + seconds;
	for (uint32_t i = 0; i < inflight; i++) slot_init(&slots[i], batch);
	for (uint32_t turn = 0; count ? at < count : now() < end; turn = (turn + 1) % inflight) {
		uint64_t n = count && count - at < batch ? count - at : batch;
		done += slot_settle(c, &slots[turn]);
		slot_start(c, set, &slots[turn], set->first + at, (uint32_t)n, noise);
		at += n;
	}
	for (uint32_t i = 0; i < inflight; i++) done += slot_settle(c, &slots[i]);
	return done;
}

static void run_put(const char *what, const struct set *set, uint32_t batch, uint32_t inflight,
	uint64_t count, double seconds, uint32_t connections)
{
	struct granary_client *c = open_client(connections);
	struct meter m = meter_start(c);
	uint64_t n = put_many(c, set, batch, inflight, count, seconds);
	meter_report(&m, what, (double)n, (double)(n * set->size));
	granary_close(&c);
}

/* ---- reads ------------------------------------------------------------------------------------------------------ */

struct read_slot {
	struct granary_batch batch;
	struct granary_entry *entries;
	struct granary_op *op;
};

/* Keys of all samples, made before the clock starts: a loader has its list of names. */
static void make_keys(struct set *set)
{
	char key[NAME_MAX_LEN];

	set->keys = calloc(set->count, sizeof *set->keys);
	if (!set->keys) die("memory", NULL, -GRANARY_ENOMEM);
	for (uint64_t i = 0; i < set->count; i++) {
		sample_key(set, i, key);
		if (strlen(key) >= KEY_SIZE) die("the prefix is too long", NULL, -GRANARY_ENAME);
		memcpy(set->keys[i], key, strlen(key));
	}
}

static void learn_ids(struct granary_client *c, struct set *set)
{
	enum { STEP = 4096 };
	static char names[STEP][NAME_MAX_LEN];
	static struct granary_ref refs[STEP];
	static struct granary_stat stats[STEP];
	set->ids = malloc(set->count * sizeof *set->ids);
	set->dirs = malloc(set->count * sizeof *set->dirs);
	if (!set->ids || !set->dirs) die("memory", NULL, -GRANARY_ENOMEM);
	for (uint64_t at = 0; at < set->count; at += STEP) {
		uint64_t n = set->count - at < STEP ? set->count - at : STEP;
		for (uint64_t i = 0; i < n; i++) {
			sample_key(set, at + i, names[i]);
			refs[i] = granary_ref_key(names[i]);
		}
		int64_t got = granary_stat_batch(
			c, refs, n, 0, stats, GRANARY_CALL(.bucket = set->bucket));
		if (got != (int64_t)n) die("stat", c, got < 0 ? got : stats[0].status);
		for (uint64_t i = 0; i < n; i++) {
			set->ids[at + i] = stats[i].object_id;
			set->dirs[at + i] = stats[i].dir_id;
		}
	}
}

static void read_start(struct granary_client *c, const struct set *set, const struct load *l,
	struct read_slot *s, struct rng *r, uint64_t *next)
{
	bool by_id = strcmp(l->how, "id") == 0, in_order = strcmp(l->how, "order") == 0;
	for (uint32_t i = 0; i < l->batch; i++) {
		uint64_t at = in_order ? (*next)++ % set->count : rng_below(r, set->count);
		struct granary_entry *e = &s->entries[i];
		*e = (struct granary_entry){ .length = GRANARY_TO_END };
		if (by_id) {
			e->ref = granary_ref_id(set->ids[at], set->dirs[at], NULL);
		} else {
			e->ref = granary_ref_key(set->keys[at]);
		}
	}
	int err =
		granary_read_batch_start(c, &s->batch, GRANARY_CALL(.bucket = set->bucket), &s->op);
	if (err < 0) die("read", c, err);
}

static uint64_t read_settle(struct granary_client *c, const struct set *set, struct read_slot *s)
{
	if (!s->op) return 0;
	int64_t n = granary_wait(s->op, GRANARY_FOREVER);
	if (n != (int64_t)s->batch.count) {
		fprintf(stderr, "bench_client: read: %s\n", granary_op_error(s->op));
		die("read", c, n < 0 ? n : s->entries[0].status);
	}
	for (size_t i = 0; i < s->batch.count; i++)
		if (s->entries[i].data_len != set->size)
			die("read: wrong length", c, -GRANARY_ECORRUPT);
	granary_op_free(&s->op);
	return s->batch.count;
}

static void run_read(struct set *set, const struct load *l)
{
	struct granary_client *c = open_client(l->connections);
	struct read_slot slots[INFLIGHT_MAX] = { 0 };
	struct rng r;
	uint64_t next = 0, done = 0;
	size_t slab = l->batch * set->size;
	rng_seed(&r, (uint64_t)(now() * 1e6));
	make_keys(set);
	if (strcmp(l->how, "id") == 0) learn_ids(c, set);
	for (uint32_t i = 0; i < l->inflight; i++) {
		struct read_slot *s = &slots[i];
		s->entries = calloc(l->batch, sizeof *s->entries);
		if (!s->entries) die("memory", NULL, -GRANARY_ENOMEM);
		s->batch = (struct granary_batch){ .size = sizeof s->batch,
			.entries = s->entries,
			.count = l->batch,
			.slab = big(slab),
			.slab_size = slab };
		memset(s->batch.slab, 1, slab);
	}
	struct meter m = meter_start(c);
	double end = now() + l->seconds;
	for (uint32_t turn = 0; now() < end; turn = (turn + 1) % l->inflight) {
		done += read_settle(c, set, &slots[turn]);
		read_start(c, set, l, &slots[turn], &r, &next);
	}
	for (uint32_t i = 0; i < l->inflight; i++) done += read_settle(c, set, &slots[i]);
	meter_report(&m, "read", (double)done, (double)(done * set->size));
	granary_close(&c);
}

/* ---- stat, list ------------------------------------------------------------------------------------------------- */

struct stat_slot {
	struct granary_ref *refs;
	struct granary_stat *out;
	struct granary_op *op;
};

static char **load_keys(const char *path, size_t *count)
{
	FILE *f = fopen(path, "r");
	char **keys = NULL, line[2048];
	size_t n = 0, cap = 0;
	if (!f) die(path, NULL, -GRANARY_ENOTFOUND);
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (n == cap) {
			cap = cap ? cap * 2 : 1024;
			keys = realloc(keys, cap * sizeof *keys);
		}
		keys[n++] = strdup(line);
	}
	fclose(f);
	*count = n;
	return keys;
}

static void run_stat(const char *bucket, const char *file, const struct load *l)
{
	struct granary_client *c = open_client(1);
	struct stat_slot slots[INFLIGHT_MAX] = { 0 };
	struct rng r;
	size_t count = 0;
	char **keys = load_keys(file, &count);
	double done = 0;
	rng_seed(&r, 7);
	for (uint32_t i = 0; i < l->inflight; i++) {
		slots[i].refs = calloc(l->batch, sizeof *slots[i].refs);
		slots[i].out = calloc(l->batch, sizeof *slots[i].out);
	}
	for (size_t at = 0; at < count; at += l->batch) { /* once through: tables warm */
		size_t n = count - at < l->batch ? count - at : l->batch;
		for (size_t i = 0; i < n; i++) slots[0].refs[i] = granary_ref_key(keys[at + i]);
		int64_t got = granary_stat_batch(
			c, slots[0].refs, n, 0, slots[0].out, GRANARY_CALL(.bucket = bucket));
		if (got != (int64_t)n) die("stat", c, got);
	}
	struct meter m = meter_start(c);
	double end = now() + l->seconds;
	for (uint32_t turn = 0; now() < end; turn = (turn + 1) % l->inflight) {
		struct stat_slot *s = &slots[turn];
		if (s->op) {
			int64_t n = granary_wait(s->op, GRANARY_FOREVER);
			if (n != l->batch) die("stat", c, n);
			done += (double)n;
			granary_op_free(&s->op);
		}
		for (uint32_t i = 0; i < l->batch; i++)
			s->refs[i] = granary_ref_key(keys[rng_below(&r, count)]);
		int err = granary_stat_start(
			c, s->refs, l->batch, 0, s->out, GRANARY_CALL(.bucket = bucket), &s->op);
		if (err < 0) die("stat", c, err);
	}
	for (uint32_t i = 0; i < l->inflight; i++)
		if (slots[i].op) {
			done += (double)granary_wait(slots[i].op, GRANARY_FOREVER);
			granary_op_free(&slots[i].op);
		}
	meter_report(&m, "stat", done, 0);
	granary_close(&c);
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

struct consumer {
	const char *snapshot, *mode;
	uint32_t batch, rank, ranks;
	double end;
	bool whole; /* one epoch to its end, however long it takes */
	uint64_t most; /* batches of it */
	struct granary_token token; /* where it begins, then where it may go on; len 0: at its start */
	const char *job;
	uint32_t weight;
	double from; /* what came before is not counted */
	double counted;
	double samples, bytes, waited_s, fetched;
	double first_s; /* open to first batch */
	pthread_t thread;
};

static uint32_t mode_number(const char *mode)
{
	static const char *const names[] = { "auto", "exact", "blocks", "none" };
	for (uint32_t i = 0; i < 4; i++)
		if (strcmp(mode, names[i]) == 0) return i;
	die("mode is none of auto, exact, blocks, none", NULL, -GRANARY_EINVAL);
	return 0;
}

/* One epoch, or what of it fits before the end; touches a byte of each sample as a trainer would. */
static void stream_epoch(struct granary_client *c, struct consumer *k, uint64_t number)
{
	struct granary_epoch_options o = GRANARY_INIT(granary_epoch_options);
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	double start = now();
	volatile uint8_t touched = 0;
	o.snapshot = k->snapshot;
	o.mode = mode_number(k->mode);
	o.batch = k->batch;
	o.rank = k->rank;
	o.world = k->ranks;
	o.epoch = number;
	o.job = k->job;
	o.weight = k->weight;
	o.token = number == 0 && k->token.len > 0 ? &k->token : NULL; /* the first goes on there */
	int more = granary_epoch_open(c, &o, &e);
	uint64_t taken = 0;
	if (more < 0) die("stream", c, more);
	while ((k->whole || now() < k->end) && taken++ < k->most && (more = granary_epoch_next(e, &b)) > 0) {
		if (k->first_s == 0) k->first_s = now() - start;
		for (uint32_t i = 0; i < b->count; i++)
			if (b->sizes[i] > 0) touched = (uint8_t)(touched + b->data[b->offsets[i]]);
		if (now() >= k->from) k->counted += b->count;
		granary_epoch_release(e, &b);
	}
	if (more < 0) die("stream", c, more);
	if ((more = granary_epoch_token(e, &k->token)) < 0) die("token", c, more);
	granary_epoch_info(e, &info);
	k->samples += (double)info.samples_read;
	k->bytes += (double)info.bytes_read;
	k->fetched += (double)info.bytes_fetched;
	k->waited_s += (double)info.waited_ns * 1e-9;
	granary_epoch_close(&e);
}

static void *consumer_main(void *arg)
{
	struct consumer *k = arg;
	struct granary_client *c = open_client(1);
	for (uint64_t n = 0; k->whole ? n == 0 : now() < k->end; n++) stream_epoch(c, k, n);
	granary_close(&c);
	return NULL;
}

static void run_stream(const char *snapshot, const char *mode, uint32_t batch, uint32_t ranks, double seconds,
	uint64_t most, const char *token)
{
	struct granary_client *c = open_client(1);
	struct consumer *all = calloc(ranks, sizeof *all), sum = { 0 };
	if (!all) die("memory", NULL, -GRANARY_ENOMEM);
	struct meter m = meter_start(c);
	for (uint32_t r = 0; r < ranks; r++) {
		all[r] = (struct consumer){ .snapshot = snapshot, .mode = mode, .batch = batch, .rank = r,
			.ranks = ranks, .end = now() + seconds, .whole = seconds == 0, .most = most };
		if (token && granary_token_parse(token, &all[r].token) < 0) die("token", NULL, -GRANARY_EINVAL);
		if (pthread_create(&all[r].thread, NULL, consumer_main, &all[r]) != 0)
			die("thread", NULL, -GRANARY_ENOMEM);
	}
	for (uint32_t r = 0; r < ranks; r++) {
		pthread_join(all[r].thread, NULL);
		sum.samples += all[r].samples;
		sum.bytes += all[r].bytes;
		sum.fetched += all[r].fetched;
	}
	char more[256], text[GRANARY_TOKEN_TEXT_LEN + 1] = "";
	(void)!granary_token_text(&all[0].token, text);
	snprintf(more, sizeof more, ", \"first_s\": %.3f, \"fetched\": %.0f, \"token\": \"%s\"", all[0].first_s,
		sum.fetched, text);
	meter_report_with(&m, "stream", sum.samples, sum.bytes, more);
	free(all);
	granary_close(&c);
}

/* Bytes that a line of /proc/self/status says; 0: none. */
static double own_memory(const char *line)
{
	char text[4096];
	FILE *f = fopen("/proc/self/status", "r");
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

	if (f) fclose(f);
	text[n] = '\0';
	const char *at = strstr(text, line);
	return at ? strtod(at + strlen(line) + 1, NULL) * 1024 : 0;
}

static void run_epoch(const struct consumer *k, uint64_t memory, double seconds, const char *token)
{
	const uint64_t for_client = (uint64_t)8 << 20;
	struct granary_client *c = open_client_with(1, for_client);
	struct granary_epoch_options o = GRANARY_INIT(granary_epoch_options);
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	const struct granary_epoch_batch *b;
	struct granary_token given, begin;
	struct granary_epoch *e;
	char text[GRANARY_TOKEN_TEXT_LEN + 1];
	double first = 0, start = now();
	int err = 0;
	o.snapshot = k->snapshot;
	o.mode = mode_number(k->mode);
	o.batch = k->batch;
	o.rank = k->rank;
	o.world = k->ranks;
	o.memory = memory > for_client ? memory - for_client : 0;
	if (token) err = granary_token_parse(token, &given);
	if (err < 0) die("token", NULL, err);
	o.token = token ? &given : NULL;
	err = granary_epoch_open(c, &o, &e);
	if (err < 0) die("epoch", c, err);
	err = granary_epoch_token(e, &begin);
	if (err == 0) err = granary_token_text(&begin, text);
	if (err < 0) die("token", c, err);
	do {
		err = granary_epoch_next(e, &b);
		if (first == 0) first = now();
		if (err > 0) granary_epoch_release(e, &b);
	} while (err > 0 && now() - start < seconds);
	if (err < 0) die("epoch", c, err);
	granary_epoch_info(e, &info);
	printf("{\"first\": %.6f, \"token\": \"%s\", \"samples\": %llu, \"fetched\": %llu, \"budget\": %llu, "
	       "\"peak\": %.0f, \"anonymous\": %.0f, \"cpu_s\": %.3f}\n",
		first, text, (unsigned long long)info.samples_read, (unsigned long long)info.bytes_fetched,
		(unsigned long long)(info.memory + for_client), own_memory("VmHWM:"), own_memory("RssAnon:"),
		own_cpu());
	granary_epoch_close(&e);
	granary_close(&c);
}

static void run_fair(const char *snapshot, const char *mode, uint32_t batch, uint32_t ranks, double seconds,
	const uint32_t weights[2])
{
	struct granary_client *c = open_client(1);
	struct consumer *all = calloc(2 * ranks, sizeof *all);
	double counted[2] = { 0, 0 };
	if (!all) die("memory", NULL, -GRANARY_ENOMEM);
	struct meter m = meter_start(c);
	for (uint32_t i = 0; i < 2 * ranks; i++) {
		all[i] = (struct consumer){ .snapshot = snapshot, .mode = mode, .batch = batch, .rank = i / 2,
			.ranks = ranks, .from = now() + 1, .end = now() + 1 + seconds, .most = UINT64_MAX,
			.job = i % 2 ? "second" : "first", .weight = weights[i % 2] };
		if (pthread_create(&all[i].thread, NULL, consumer_main, &all[i]) != 0)
			die("thread", NULL, -GRANARY_ENOMEM);
	}
	for (uint32_t i = 0; i < 2 * ranks; i++) {
		pthread_join(all[i].thread, NULL);
		counted[i % 2] += all[i].counted;
	}
	char more[128];
	snprintf(more, sizeof more, ", \"share\": %.4f", counted[0] / (counted[0] + counted[1]));
	meter_report_with(&m, "fair", counted[0] + counted[1], 0, more);
	free(all);
	granary_close(&c);
}

static void run_unstable(const struct set *set, double seconds)
{
	struct granary_client *c = open_client(1);
	const struct granary_call *call =
		GRANARY_CALL(.bucket = set->bucket, .flags = GRANARY_UNSTABLE);
	uint8_t *data = malloc(set->size);
	uint64_t count = 0, warm = 200;
	struct meter m = { 0 };
	int err = 0;
	if (!data) die("memory", NULL, -GRANARY_ENOMEM);
	memset(data, 'x', set->size);
	for (double start = now(); err == 0 && (count <= warm || now() - start < seconds); count++) {
		char name[NAME_MAX_LEN];
		if (count == warm) {
			m = meter_start(c);
			start = now();
		}
		snprintf(name, sizeof name, "%s/s%08llu", set->prefix, (unsigned long long)count);
		err = granary_put(c, name, data, set->size, call);
	}
	if (err < 0) die("unstable put", c, err);
	meter_report(&m, "unstable", (double)(count - warm), (double)((count - warm) * set->size));
	err = granary_sync(c, NULL);
	if (err < 0) die("sync", c, err);
	free(data);
	granary_close(&c);
}

static void run_list(const char *bucket, const char *prefix, int rounds)
{
	struct granary_client *c = open_client(1);
	struct meter m = { 0 };
	double keys = 0, bytes = 0;
	for (int round = -1; round < rounds; round++) {
		struct granary_list_query q = { .size = sizeof q, .prefix = prefix };
		const struct granary_list_entry *e;
		struct granary_iter *it = NULL;
		int err = granary_iter_open(c, &q, GRANARY_CALL(.bucket = bucket), &it);
		if (round == 0) {
			keys = bytes = 0;
			m = meter_start(c);
		}
		while (err >= 0 && (err = granary_iter_next(it, &e)) > 0) {
			keys++;
			bytes += (double)e->size;
		}
		if (err < 0) die("list", c, err);
		granary_iter_close(&it);
	}
	meter_report(&m, "list", keys, 0);
	granary_close(&c);
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 10);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct set s = { .bucket = argc > 2 ? argv[2] : "",
		.prefix = argc > 3 ? argv[3] : "",
		.count = argc > 4 ? number(argv[4]) : 0,
		.size = argc > 5 ? number(argv[5]) : 0 };
	if (argc >= 6 && argc <= 8 && strcmp(mode, "make") == 0) {
		s.first = argc > 6 ? number(argv[6]) : 0;
		s.dir_samples = argc > 7 ? number(argv[7]) : 0;
		run_put("make", &s, s.size > 65536 ? 64 : 256, 8, s.count - s.first, 0, 1);
	} else if (argc == 6 && strcmp(mode, "makegroup") == 0) {
		s.fields = 3;
		run_put("makegroup", &s, 255, 8, s.count * s.fields, 0, 1);
	} else if ((argc == 9 || argc == 10) && strcmp(mode, "epoch") == 0) {
		struct consumer k = { .snapshot = argv[2], .mode = argv[3], .batch = (uint32_t)number(argv[4]),
			.rank = (uint32_t)number(argv[5]), .ranks = (uint32_t)number(argv[6]) };
		run_epoch(&k, number(argv[7]) << 20, strtod(argv[8], NULL), argc == 10 ? argv[9] : NULL);
	} else if (argc >= 9 && strcmp(mode, "read") == 0) {
		struct load l = { strtod(argv[8], NULL), (uint32_t)number(argv[6]),
			(uint32_t)number(argv[7]), argc > 10 ? (uint32_t)number(argv[10]) : 1,
			argc > 9 ? argv[9] : "key" };
		run_read(&s, &l);
	} else if (argc == 8 && strcmp(mode, "single") == 0) {
		struct load l = { strtod(argv[7], NULL), 1, (uint32_t)number(argv[6]), 1, "key" };
		run_read(&s, &l);
	} else if (argc == 7 && strcmp(mode, "put") == 0) {
		uint32_t clients = (uint32_t)number(argv[4]);
		run_put("put", &s, 1, clients, 0, strtod(argv[6], NULL),
			clients < 64 ? clients : 64);
	} else if (argc == 6 && strcmp(mode, "unstable") == 0) {
		s.size = number(argv[4]);
		run_unstable(&s, strtod(argv[5], NULL));
	} else if ((argc == 7 || argc == 8) && strcmp(mode, "write") == 0) {
		s.size = number(argv[4]);
		run_write(&s, (uint32_t)number(argv[5]), number(argv[6]), argc == 8 ? number(argv[7]) : 1);
	} else if (argc == 8 && strcmp(mode, "putbatch") == 0) {
		s.shuffled = true;
		run_put("putbatch", &s, (uint32_t)number(argv[4]), (uint32_t)number(argv[6]), 0,
			strtod(argv[7], NULL), 1);
	} else if (argc == 7 && strcmp(mode, "stat") == 0) {
		struct load l = { strtod(argv[6], NULL), (uint32_t)number(argv[4]),
			(uint32_t)number(argv[5]), 1, "" };
		run_stat(s.bucket, argv[3], &l);
	} else if (argc >= 7 && argc <= 9 && strcmp(mode, "stream") == 0) {
		run_stream(argv[2], argv[3], (uint32_t)number(argv[4]), (uint32_t)number(argv[5]),
			strtod(argv[6], NULL), argc > 7 ? number(argv[7]) : UINT64_MAX, argc > 8 ? argv[8] : NULL);
	} else if (argc == 9 && strcmp(mode, "fair") == 0) {
		const uint32_t weights[2] = { (uint32_t)number(argv[7]), (uint32_t)number(argv[8]) };
		run_fair(argv[2], argv[3], (uint32_t)number(argv[4]), (uint32_t)number(argv[5]),
			strtod(argv[6], NULL), weights);
	} else if (argc == 5 && strcmp(mode, "list") == 0) {
		run_list(s.bucket, s.prefix, (int)number(argv[4]));
	} else {
		fprintf(stderr, "bench_client: see the head of bench/bench_client.c\n");
		return 2;
	}
	return 0;
}
