/* SPDX-License-Identifier: Apache-2.0 */
/* bench_read.c -- reads epochs of a dataset as a data loader does: a random permutation, in batches, several of them
 * under way; measures, and compares with local files when asked to. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/rand.h"
#include "scan.h"

enum { BATCH_DEFAULT = 64, INFLIGHT_DEFAULT = 4, ALIGN = 64, NAMED_MAX = 10 };

struct bench_slot {
	struct bench *bench;
	struct granary_op *op;
	struct granary_entry *entries;
	struct granary_batch batch;
	uint64_t began_ns;
	int64_t result;
	bool busy, done;
};

struct bench {
	struct remote r;
	struct catalog catalog;
	size_t prefix_len;
	uint32_t *order; /* indices of samples: no directories */
	size_t samples;
	size_t next; /* into order: not yet asked for */
	size_t batch;
	struct bench_slot *slots;
	size_t slots_count;
	int against_fd;
	char *file; /* the local file compared with */
	size_t file_size;
	uint64_t *latencies_ns;
	size_t latencies_count, latencies_cap;
	uint64_t bytes, read_samples, failed, different, missing;
	int first_err;
	struct progress progress;
};

static const char *sample_name(const struct bench *b, const struct item *item)
{
	return item->key + b->prefix_len;
}

/* ---- comparing ----------------------------------------------------------------------------- */

static void differs(struct bench *b, const struct item *item, const char *why)
{
	if (b->different++ < NAMED_MAX)
		fail(CLI_FAILED, "'%s' differs from '%s/%s': %s", shown(item->key),
			shown(opts.against), shown(sample_name(b, item)), why);
}

/* Reads the local file into b->file; *len is its size. NULL or what is wrong. */
static const char *file_read(struct bench *b, const char *name, size_t *len)
{
	int fd = openat(b->against_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	const char *why = NULL;
	struct stat st;
	ssize_t got;

	*len = 0;
	if (fd < 0) return errno == ENOENT ? "there is no such file" : "the file cannot be opened";
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return "the file is no regular file";
	}
	if ((size_t)st.st_size + 1 > b->file_size) {
		b->file_size = (size_t)st.st_size + 1;
		b->file = must_alloc(realloc(b->file, b->file_size));
	}
	while (*len < (size_t)st.st_size) {
		got = read(fd, b->file + *len, (size_t)st.st_size - *len);
		if (got <= 0) {
			why = "the file cannot be read";
			break;
		}
		*len += (size_t)got;
	}
	close(fd);
	return why;
}

static void compare(struct bench *b, const struct granary_entry *e)
{
	const struct item *item = e->user;
	char text[96];
	size_t len, at = 0;
	const char *why = file_read(b, sample_name(b, item), &len);

	if (why != NULL) {
		differs(b, item, why);
		return;
	}
	if (len == e->data_len && (len == 0 || memcmp(b->file, e->data, len) == 0)) return;
	while (at < len && at < e->data_len && b->file[at] == ((const char *)e->data)[at]) at++;
	snprintf(text, sizeof(text), "from byte %zu on (%zu bytes here, %zu there)", at, len,
		e->data_len);
	differs(b, item, text);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Every file that an import would have taken must be among the samples. */
static int find_missing(struct bench *b)
{
	struct scan_root root = { .path = opts.against, .under = "" };
	const char **names = must_alloc(malloc((b->samples + 1) * sizeof(*names)));
	struct scan scan;
	int code = scan_open(&scan, &root, 1);

	if (code != CLI_OK) {
		free(names);
		return code;
	}
	for (size_t i = 0; i < b->samples; i++)
		names[i] = sample_name(b, &b->catalog.items[b->order[i]]);
	qsort(names, b->samples, sizeof(*names), compare_names);
	scan_start(&scan);
	scan_wait(&scan);
	for (size_t i = 0; i < scan.count; i++) {
		char path[2 * GRANARY_KEY_LEN_MAX + 2];
		const char *key = path;
		snprintf(path, sizeof(path), "%s%s", scan.files[i].dir->path, scan.files[i].name);
		if (bsearch(&key, names, b->samples, sizeof(*names), compare_names) != NULL)
			continue;
		if (b->missing++ < NAMED_MAX)
			fail(CLI_FAILED, "'%s/%s' is missing in the target", shown(opts.against),
				shown(path));
	}
	scan_close(&scan);
	free(names);
	return CLI_OK;
}

/* ---- batches ------------------------------------------------------------------------------- */

static void batch_done(struct granary_op *op, int64_t result, void *arg)
{
	struct bench_slot *s = arg;
	struct bench *b = s->bench;

	(void)op;
	if (b->latencies_count < b->latencies_cap)
		b->latencies_ns[b->latencies_count++] = clock_mono_ns() - s->began_ns;
	s->result = result;
	s->done = true;
}

/* Counts, and compares, what a batch brought. */
static void batch_collect(struct bench *b, struct bench_slot *s)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < s->batch.count; i++) {
		struct granary_entry *e = &s->entries[i];
		const struct item *item = e->user;
		int err = e->status < 0                      ? e->status
			  : e->data == NULL && s->result < 0 ? (int)s->result
							     : 0;
		if (err < 0) {
			if (b->first_err == 0) b->first_err = err;
			if (b->failed++ < NAMED_MAX)
				fail_text(err, s->result < 0 ? granary_op_error(s->op) : "",
					"cannot read '%s'", shown(item->key));
			continue;
		}
		bytes += e->data_len;
		b->read_samples++;
		if (b->against_fd >= 0) compare(b, e);
	}
	b->bytes += bytes;
	progress_add(&b->progress, s->batch.count, bytes);
	granary_op_free(&s->op);
	s->busy = s->done = false;
}

static void slab_fit(struct bench_slot *s, size_t size)
{
	if (size <= s->batch.slab_size) return;
	if (s->batch.slab != NULL) munmap(s->batch.slab, s->batch.slab_size);
	size = (size + (4u << 20)) & ~(size_t)((2u << 20) - 1);
	s->batch.slab =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must_alloc(s->batch.slab == MAP_FAILED ? NULL : s->batch.slab);
	(void)madvise(s->batch.slab, size, MADV_HUGEPAGE); /* only a hint */
	s->batch.slab_size = size;
}

/* Asks for the next batch. 0 or -GRANARY_E... */
static int batch_start(struct bench *b, struct bench_slot *s)
{
	bool by_id = opts.by != NULL && strcmp(opts.by, "id") == 0;
	size_t n = 0, bytes = 0;
	int err;

	for (; n < b->batch && b->next < b->samples; n++) {
		struct item *item = &b->catalog.items[b->order[b->next++]];
		const char *slash = strrchr(item->key, '/');
		s->entries[n] = (struct granary_entry){ .length = GRANARY_TO_END, .user = item };
		s->entries[n].ref = by_id ? granary_ref_id(item->object_id, item->dir_id,
						    slash != NULL ? slash + 1 : item->key)
					  : granary_ref_key(item->key);
		bytes += (item->size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
	}
	slab_fit(s, bytes + ALIGN);
	s->batch.entries = s->entries;
	s->batch.count = n;
	s->batch.align = ALIGN;
	s->batch.bytes_hint = bytes;
	s->began_ns = clock_mono_ns();
	s->busy = true;
	s->done = false;
	err = granary_read_batch_start(b->r.client, &s->batch,
		GRANARY_CALL(.bucket = b->r.bucket, .done = batch_done, .arg = s,
			.timeout_ms = bulk_timeout_ms()),
		&s->op);
	if (err < 0) s->busy = false;
	return err;
}

/* One epoch. 0 or the error that ended it. */
static int epoch_run(struct bench *b)
{
	struct pollfd fd = { .fd = granary_fd(b->r.client), .events = POLLIN };
	size_t busy = 0;
	int err = fd.fd < 0 ? fd.fd : 0;

	b->next = 0;
	do {
		for (size_t i = 0; i < b->slots_count; i++) {
			struct bench_slot *s = &b->slots[i];
			if (s->busy && s->done) {
				batch_collect(b, s);
				busy--;
			}
			if (!s->busy && b->next < b->samples && err == 0 &&
				b->failed < b->batch * 16) {
				err = batch_start(b, s);
				busy += err == 0;
			}
		}
		if (busy > 0 && granary_poll(b->r.client, 0) == 0) {
			poll(&fd, 1, -1);
			granary_poll(b->r.client, 0);
		}
	} while (busy > 0);
	return err;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void shuffle(struct bench *b, uint64_t seed)
{
	struct rng rng;

	rng_seed(&rng, seed);
	for (size_t i = b->samples; i > 1; i--) {
		size_t j = (size_t)rng_below(&rng, i);
		uint32_t swap = b->order[i - 1];
		b->order[i - 1] = b->order[j];
		b->order[j] = swap;
	}
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static double latency_ms(const struct bench *b, double share)
{
	size_t at = (size_t)((double)b->latencies_count * share);

	if (b->latencies_count == 0) return 0;
	return (double)b->latencies_ns[at < b->latencies_count ? at : b->latencies_count - 1] / 1e6;
}

static void bench_report(struct bench *b, uint64_t epoch, double seconds)
{
	char samples[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT];
	double per_s = (double)b->read_samples / seconds, mb_s = (double)b->bytes / seconds / 1e6;
	struct json j;

	qsort(b->latencies_ns, b->latencies_count, sizeof(*b->latencies_ns), compare_u64);
	if (!opts.json) {
		printf("epoch %llu: %s samples, %s in %.2f s: %s samples/s, %.1f MB/s; a batch of "
		       "%zu: p50 %.2f ms, p99 %.2f ms%s\n",
			(unsigned long long)epoch, human_count(samples, b->read_samples),
			human_bytes(bytes, b->bytes), seconds, human_count(rate, (uint64_t)per_s),
			mb_s, b->batch, latency_ms(b, 0.5), latency_ms(b, 0.99),
			b->against_fd < 0                            ? ""
			: b->different + b->missing + b->failed == 0 ? "; every byte equal"
								     : "; NOT equal");
		return;
	}
	json_open(&j, stdout);
	json_text(&j, "verb", "bench read");
	json_number(&j, "epoch", epoch);
	json_number(&j, "samples", b->read_samples);
	json_number(&j, "bytes", b->bytes);
	json_real(&j, "seconds", seconds);
	json_real(&j, "samples_per_s", per_s);
	json_real(&j, "mb_per_s", mb_s);
	json_number(&j, "batch", b->batch);
	json_real(&j, "p50_ms", latency_ms(b, 0.5));
	json_real(&j, "p99_ms", latency_ms(b, 0.99));
	json_number(&j, "failed", b->failed);
	if (b->against_fd >= 0) {
		json_number(&j, "different", b->different);
		json_number(&j, "missing", b->missing);
	}
	json_close(&j);
}

static int epochs_run(struct bench *b, bool shuffled, uint64_t seed)
{
	uint64_t epochs = opts.epochs > 0 ? opts.epochs : 1;
	int err = 0;

	for (uint64_t e = 0; e < epochs && err == 0 && b->failed == 0; e++) {
		uint64_t began_ns;
		if (shuffled) shuffle(b, seed + e);
		b->bytes = b->read_samples = b->latencies_count = 0;
		progress_start(&b->progress, "reading");
		atomic_store(&b->progress.files_total, b->samples);
		atomic_store(&b->progress.bytes_total, b->catalog.bytes);
		began_ns = clock_mono_ns();
		err = epoch_run(b);
		progress_stop(&b->progress);
		bench_report(b, e + 1, (double)(clock_mono_ns() - began_ns + 1) / 1e9);
	}
	if (err < 0) return fail_remote(b->r.client, err, "cannot read the epoch");
	if (b->different + b->missing > 0)
		return fail(CLI_FAILED, "%llu samples differ, %llu files are missing",
			(unsigned long long)b->different, (unsigned long long)b->missing);
	return b->failed == 0 ? CLI_OK : b->read_samples > 0 ? CLI_PARTIAL : exit_of(b->first_err);
}

static int bench_prepare(struct bench *b)
{
	char prefix[GRANARY_KEY_LEN_MAX + 1];
	int code = directory_prefix(prefix, b->r.path);

	if (code == CLI_OK) code = catalog_list(&b->catalog, &b->r, prefix);
	if (code == CLI_OK) catalog_keep_files(&b->catalog);
	if (code != CLI_OK) return code;
	b->prefix_len = strlen(prefix);
	b->order = must_alloc(malloc((b->catalog.count + 1) * sizeof(*b->order)));
	for (size_t i = 0; i < b->catalog.count; i++) {
		const char *key = b->catalog.items[i].key;
		if (key[0] != '\0' && key[strlen(key) - 1] != '/')
			b->order[b->samples++] = (uint32_t)i;
	}
	if (b->samples == 0)
		return fail(
			CLI_NOTFOUND, "nothing to read at '%s/%s'", b->r.bucket, shown(b->r.path));
	b->batch = opts.batch > 0 ? (size_t)opts.batch : BATCH_DEFAULT;
	b->slots_count = opts.inflight > 0 ? (size_t)opts.inflight : INFLIGHT_DEFAULT;
	b->latencies_cap = b->samples / b->batch + 1;
	b->latencies_ns = must_alloc(malloc(b->latencies_cap * sizeof(*b->latencies_ns)));
	b->slots = must_alloc(calloc(b->slots_count, sizeof(*b->slots)));
	for (size_t i = 0; i < b->slots_count; i++) {
		b->slots[i].bench = b;
		b->slots[i].batch = (struct granary_batch)GRANARY_INIT(granary_batch);
		b->slots[i].entries = must_alloc(malloc(b->batch * sizeof(*b->slots[i].entries)));
	}
	return CLI_OK;
}

static void bench_release(struct bench *b)
{
	remote_close(&b->r); /* no operation touches the slabs after this */
	for (size_t i = 0; i < b->slots_count; i++) {
		if (b->slots[i].batch.slab != NULL)
			munmap(b->slots[i].batch.slab, b->slots[i].batch.slab_size);
		free(b->slots[i].entries);
	}
	free(b->slots);
	free(b->order);
	free(b->latencies_ns);
	free(b->file);
	catalog_free(&b->catalog);
	if (b->against_fd >= 0) close(b->against_fd);
}

int run_bench_read(int count, char **args)
{
	struct bench b = { .against_fd = -1 };
	bool shuffled = opts.shuffle == NULL || strcmp(opts.shuffle, "no") != 0;
	uint64_t seed = 1;
	int code;

	(void)count;
	if (shuffled && opts.shuffle != NULL && parse_number(opts.shuffle, &seed) < 0)
		return fail(CLI_USAGE, "--shuffle: '%s' is neither a number nor no",
			shown(opts.shuffle));
	if (opts.by != NULL && strcmp(opts.by, "key") != 0 && strcmp(opts.by, "id") != 0)
		return fail(CLI_USAGE, "--by: '%s' is neither key nor id", shown(opts.by));
	if (opts.against != NULL) {
		b.against_fd = open(opts.against, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (b.against_fd < 0)
			return fail_errno(errno, "cannot open directory '%s'", shown(opts.against));
	}
	code = remote_open(&b.r, args[0], NEED_BUCKET, 1);
	if (code == CLI_OK) code = bench_prepare(&b);
	if (code == CLI_OK && opts.against != NULL) code = find_missing(&b);
	if (code == CLI_OK) code = epochs_run(&b, shuffled, seed);
	bench_release(&b);
	return code;
}
