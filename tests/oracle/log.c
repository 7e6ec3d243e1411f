/* SPDX-License-Identifier: Apache-2.0 */
/* log.c -- the log: written line by line, read back into what each worker may find. See oracle.h for the lines. */
#include "oracle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 16 * 1024 };

static int log_fd = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint_fast64_t violations_count;

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void log_begin(int fd)
{
	log_fd = fd;
}

static void log_write(const char *line, size_t len)
{
	pthread_mutex_lock(&log_lock);
	while (len > 0) {
		ssize_t n = write(log_fd, line, len);
		if (n < 0 && errno != EINTR) {
			perror("oracle: cannot write the log");
			_exit(2);
		}
		if (n > 0) {
			line += n;
			len -= (size_t)n;
		}
	}
	pthread_mutex_unlock(&log_lock);
}

void log_started(const struct op *op)
{
	char line[LINE_MAX_BYTES];
	size_t len = (size_t)snprintf(line, sizeof(line), "S %" PRIu64 " %u %" PRIu64 " %c %u",
		now_ns(), op->worker, op->number, op->kind, op->count);

	for (uint32_t i = 0; i < op->count; i++)
		len += (size_t)snprintf(line + len, sizeof(line) - len,
			" %s %" PRIu64 " %" PRIu64 " %d", op->entries[i].path, op->entries[i].seed,
			op->entries[i].size, op->entries[i].expected == 0);
	line[len++] = '\n';
	log_write(line, len);
}

void log_answered(const struct op *op)
{
	char line[LINE_MAX_BYTES];
	size_t len = (size_t)snprintf(line, sizeof(line), "A %" PRIu64 " %u %" PRIu64 " %u",
		now_ns(), op->worker, op->number, op->count);

	for (uint32_t i = 0; i < op->count; i++)
		len += (size_t)snprintf(
			line + len, sizeof(line) - len, " %d", op->entries[i].status);
	line[len++] = '\n';
	log_write(line, len);
}

void log_violation(const char *fmt, ...)
{
	char text[1024], line[1200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	atomic_fetch_add(&violations_count, 1);
	fprintf(stderr, "oracle: VIOLATION %s\n", text);
	if (log_fd >= 0)
		log_write(line,
			(size_t)snprintf(line, sizeof(line), "V %" PRIu64 " %s\n", now_ns(), text));
}

uint64_t log_violations(void)
{
	return atomic_load(&violations_count);
}

/* ---- reading ---- */

struct words {
	char *rest;
	bool bad;
};

static const char *next_word(struct words *w)
{
	char *word = w->rest, *end;

	if (word == NULL || *word == '\0') {
		w->bad = true;
		return "";
	}
	end = strchr(word, ' ');
	if (end != NULL) *end++ = '\0';
	w->rest = end;
	return word;
}

static uint64_t next_u64(struct words *w)
{
	char *end;
	const char *word = next_word(w);
	uint64_t value = strtoull(word, &end, 10);

	w->bad |= *word == '\0' || *end != '\0';
	return value;
}

static void next_path(struct words *w, char *path)
{
	const char *word = next_word(w);

	w->bad |= strlen(word) >= ORACLE_PATH_MAX;
	snprintf(path, ORACLE_PATH_MAX, "%s", word);
}

static struct worker_state *next_worker(struct words *w, struct history *h)
{
	uint64_t worker = next_u64(w);

	if (worker >= WORKERS_MAX) {
		w->bad = true;
		worker = 0;
	}
	if (worker >= h->workers_count) h->workers_count = (uint32_t)worker + 1;
	return &h->workers[worker];
}

static void read_started(struct words *w, struct history *h)
{
	struct worker_state *state = next_worker(w, h);
	struct op *op = &state->pending;
	uint64_t count;

	w->bad |= state->has_pending; /* one at a time */
	memset(op, 0, sizeof(*op));
	op->number = next_u64(w);
	op->kind = (enum op_kind)next_word(w)[0];
	count = next_u64(w);
	w->bad |= count > ENTRIES_MAX;
	for (op->count = 0; !w->bad && op->count < count; op->count++) {
		struct op_entry *e = &op->entries[op->count];
		next_path(w, e->path);
		e->seed = next_u64(w);
		e->size = next_u64(w);
		e->expected = next_u64(w) == 1 ? 0 : -1;
	}
	state->has_pending = true;
	state->next_number = op->number + 1;
}

static bool is_unsure(int32_t status)
{
	return status == -GRANARY_ETIMEDOUT || status == -GRANARY_ECLOSED ||
	       status == -GRANARY_ECANCELED;
}

/* What was answered is settled; entries whose fate is not known stay pending. */
static void read_answered(struct words *w, struct history *h)
{
	struct worker_state *state = next_worker(w, h);
	struct op *op = &state->pending;
	bool is_settled = true;

	w->bad |= !state->has_pending || next_u64(w) != op->number || next_u64(w) != op->count;
	for (uint32_t i = 0; !w->bad && i < op->count; i++) {
		op->entries[i].status = (int32_t)strtol(next_word(w), NULL, 10);
		is_settled &= !is_unsure(op->entries[i].status);
	}
	if (w->bad) return;
	h->answered += is_settled;
	model_apply(&state->model, op);
	if (is_settled) {
		state->has_pending = false;
		return;
	}
	for (uint32_t i = 0; i < op->count; i++)
		if (!is_unsure(op->entries[i].status))
			op->entries[i].expected = -1; /* settled: has no further effect */
}

static bool read_line(struct history *h, char *line, uint64_t until_ns)
{
	struct words w = { .rest = line };
	char kind = next_word(&w)[0];

	if (kind == 'I') {
		char path[ORACLE_PATH_MAX];
		struct worker_state *state = next_worker(&w, h);
		next_path(&w, path);
		uint64_t seed = next_u64(&w);
		model_set(&state->model, path, seed, next_u64(&w), 0);
	} else if (kind == 'N') {
		struct worker_state *state = next_worker(&w, h);
		state->next_number = next_u64(&w);
	} else if (kind == 'S' || kind == 'A' || kind == 'V') {
		if (next_u64(&w) > until_ns) return true;
		if (kind == 'S')
			read_started(&w, h);
		else if (kind == 'A')
			read_answered(&w, h);
		else
			h->violations++;
	} else {
		return false;
	}
	return !w.bad;
}

int history_read(struct history *h, const char *path, uint64_t until_ns)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t cap = 0, number = 0;
	ssize_t len;
	int err = 0;

	memset(h, 0, sizeof(*h));
	if (f == NULL) {
		fprintf(stderr, "oracle: cannot read '%s': %s\n", path, strerror(errno));
		return -1;
	}
	while (err == 0 && (len = getline(&line, &cap, f)) > 0) {
		number++;
		if (line[len - 1] != '\n')
			break; /* the writer was killed in mid-line: not sent, or not told */
		line[len - 1] = '\0';
		if (!read_line(h, line, until_ns)) {
			fprintf(stderr, "oracle: %s:%zu: malformed line\n", path, number);
			err = -1;
		}
	}
	free(line);
	fclose(f);
	return err;
}

int history_write(const struct history *h, const char *path)
{
	FILE *f = fopen(path, "w");

	if (f == NULL) {
		fprintf(stderr, "oracle: cannot write '%s': %s\n", path, strerror(errno));
		return -1;
	}
	for (uint32_t w = 0; w < h->workers_count; w++) {
		const struct model *m = &h->workers[w].model;
		fprintf(f, "N %u %" PRIu64 "\n", w, h->workers[w].next_number);
		for (size_t i = 0; i < m->count; i++)
			fprintf(f, "I %u %s %" PRIu64 " %" PRIu64 "\n", w, m->items[i].path,
				m->items[i].seed, m->items[i].size);
	}
	if (fclose(f) != 0) {
		fprintf(stderr, "oracle: cannot write '%s': %s\n", path, strerror(errno));
		return -1;
	}
	return 0;
}

void history_free(struct history *h)
{
	for (uint32_t w = 0; w < WORKERS_MAX; w++) model_free(&h->workers[w].model);
}
