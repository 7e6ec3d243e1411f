/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c -- counters in shards, a thread always in the same; lines of requests in a ring. */
#include "fuse/watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLOW_NS UINT64_C(100000000)
#define LINE_NS (UINT64_C(1) << 20) /* lines of other requests: one in about a millisecond */

struct shard {
	_Alignas(128) struct {
		_Atomic uint64_t count, errors, bytes, ns, ns_max;
	} ops[WATCH_OPS];
	_Atomic uint64_t absent, waited, waited_ns, begun, ended;
	_Atomic uint64_t sizes[WATCH_BINS], waits[WATCH_BINS];
	uint64_t line_ns; /* the last line kept */
};
struct line {
	uint64_t at_ns, ns, node, bytes, offset;
	uint32_t opcode, pid;
	int error;
	char name[REQUEST_NAME_KEPT + 1];
};
struct watch {
	struct shard shards[WATCH_SHARDS];
	_Atomic uint32_t threads;
	uint64_t since_ns;
	pthread_mutex_t lock;
	struct line lines[WATCH_LINES]; /* lock */
	uint64_t lines_count;           /* lock: all that ever were */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static struct shard *shard_of(struct watch *w)
{
	static _Thread_local uint32_t mine; /* plus 1 */

	if (mine == 0) mine = 1 + atomic_fetch_add(&w->threads, 1) % WATCH_SHARDS;
	return &w->shards[mine - 1];
}

static void add(_Atomic uint64_t *to, uint64_t n)
{
	atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static uint32_t bin_of(uint64_t n)
{
	uint32_t bin = n > 0 ? 63u - (uint32_t)__builtin_clzll(n) : 0;

	return bin < WATCH_BINS ? bin : WATCH_BINS - 1;
}

struct watch *watch_new(void)
{
	struct watch *w = aligned_alloc(128, (sizeof(*w) + 127) / 128 * 128);

	if (!w) return NULL;
	memset(w, 0, sizeof(*w));
	pthread_mutex_init(&w->lock, NULL);
	w->since_ns = clock_ns(CLOCK_MONOTONIC);
	return w;
}

void watch_free(struct watch *w)
{
	if (w) pthread_mutex_destroy(&w->lock);
	free(w);
}

void watch_begin(struct watch *w, struct request *r)
{
	r->log.begun_ns = clock_ns(CLOCK_MONOTONIC);
	r->log.waits = r->log.absent = false;
	r->log.name_len =
		r->name_len < REQUEST_NAME_KEPT ? (uint8_t)r->name_len : REQUEST_NAME_KEPT;
	if (r->name)
		memcpy(r->log.name, r->name,
			r->log.name_len); /* the answer may go where the name is */
	r->log.size = 0;
	r->log.offset = 0;
	if ((r->opcode == FUSE_READ || r->opcode == FUSE_WRITE) && r->arg) {
		const struct fuse_read_in *in = r->arg; /* WRITE has the same at its beginning */
		r->log.size = in->size;
		r->log.offset = in->offset;
	}
	add(&shard_of(w)->begun, 1);
}

void watch_waits(struct request *r)
{
	r->log.waits = true;
}

static void line_keep(struct watch *w, const struct request *r, uint64_t ns)
{
	struct line l = { .at_ns = clock_ns(CLOCK_REALTIME),
		.ns = ns,
		.node = r->node,
		.opcode = r->opcode,
		.pid = r->pid,
		.error = r->error,
		.bytes = r->log.size,
		.offset = r->log.offset };

	for (size_t i = 0; i < r->log.name_len && i < REQUEST_NAME_KEPT; i++)
		l.name[i] = r->log.name[i] > ' ' && r->log.name[i] != 127 ? r->log.name[i] : '?';
	pthread_mutex_lock(&w->lock);
	w->lines[w->lines_count++ % WATCH_LINES] = l;
	pthread_mutex_unlock(&w->lock);
}

void watch_end(struct watch *w, const struct request *r)
{
	if (r->log.begun_ns == 0) return; /* no request that could be understood */
	struct shard *s = shard_of(w);
	uint64_t now = clock_ns(CLOCK_MONOTONIC), ns = now - r->log.begun_ns;
	uint32_t op = r->opcode < WATCH_OPS ? r->opcode : 0;
	uint64_t bytes = r->opcode == FUSE_WRITE ? r->log.size
			 : r->lent               ? r->lent_len
						 : r->out_len;
	bool absent = r->opcode == FUSE_LOOKUP &&
		      (r->error == -ENOENT || (r->error == 0 && r->log.absent));

	add(&s->ops[op].count, 1);
	add(&s->ops[op].ns, ns);
	add(&s->ops[op].bytes, r->error == 0 ? bytes : 0);
	if (r->error < 0 && r->error != -ENOSYS && !absent) add(&s->ops[op].errors, 1);
	if (ns > atomic_load_explicit(&s->ops[op].ns_max, memory_order_relaxed))
		atomic_store(&s->ops[op].ns_max, ns);
	if (absent) add(&s->absent, 1);
	if (r->opcode == FUSE_READ) add(&s->sizes[bin_of(bytes)], 1);
	if (r->log.waits && r->opcode == FUSE_READ) {
		add(&s->waited, 1);
		add(&s->waited_ns, ns);
		add(&s->waits[bin_of(ns / 1000)], 1);
	}
	add(&s->ended, 1);
	bool notable = ns > SLOW_NS || (r->error < 0 && r->error != -ENOSYS);
	if (!notable && now - s->line_ns < LINE_NS) return;
	s->line_ns = now;
	line_keep(w, r, ns);
}

void watch_numbers(struct watch *w, struct watch_numbers *out)
{
	*out = (struct watch_numbers){ .seconds = (clock_ns(CLOCK_MONOTONIC) - w->since_ns) /
						  1000000000 };
	for (int i = 0; i < WATCH_SHARDS; i++) {
		struct shard *s = &w->shards[i];
		for (int op = 0; op < WATCH_OPS; op++) {
			struct watch_op *o = &out->ops[op];
			uint64_t most =
				atomic_load_explicit(&s->ops[op].ns_max, memory_order_relaxed);
			o->count += atomic_load_explicit(&s->ops[op].count, memory_order_relaxed);
			o->errors += atomic_load_explicit(&s->ops[op].errors, memory_order_relaxed);
			o->bytes += atomic_load_explicit(&s->ops[op].bytes, memory_order_relaxed);
			o->ns += atomic_load_explicit(&s->ops[op].ns, memory_order_relaxed);
			o->ns_max = most > o->ns_max ? most : o->ns_max;
		}
		for (int b = 0; b < WATCH_BINS; b++) {
			out->sizes[b] += atomic_load_explicit(&s->sizes[b], memory_order_relaxed);
			out->waits[b] += atomic_load_explicit(&s->waits[b], memory_order_relaxed);
		}
		out->absent += atomic_load_explicit(&s->absent, memory_order_relaxed);
		out->waited += atomic_load_explicit(&s->waited, memory_order_relaxed);
		out->waited_ns += atomic_load_explicit(&s->waited_ns, memory_order_relaxed);
		out->ended += atomic_load_explicit(&s->ended, memory_order_relaxed);
		out->begun += atomic_load_explicit(&s->begun, memory_order_relaxed);
	}
}

void watch_lines(struct watch *w, FILE *to)
{
	pthread_mutex_lock(&w->lock);
	uint64_t first = w->lines_count > WATCH_LINES ? w->lines_count - WATCH_LINES : 0;
	for (uint64_t i = first; i < w->lines_count; i++) {
		const struct line *l = &w->lines[i % WATCH_LINES];
		time_t seconds = (time_t)(l->at_ns / 1000000000);
		struct tm tm;
		char when[32];
		gmtime_r(&seconds, &tm);
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
		fprintf(to, "%s.%03uZ %s node=%llx", when, (unsigned)(l->at_ns / 1000000 % 1000),
			request_name(l->opcode), (unsigned long long)l->node);
		if (l->name[0]) fprintf(to, " name=%s", l->name);
		if (l->bytes)
			fprintf(to, " offset=%llu size=%llu", (unsigned long long)l->offset,
				(unsigned long long)l->bytes);
		fprintf(to, " pid=%u us=%llu %s\n", l->pid, (unsigned long long)(l->ns / 1000),
			l->error < 0 ? strerrorname_np(-l->error) : "ok");
	}
	pthread_mutex_unlock(&w->lock);
}
