/* SPDX-License-Identifier: Apache-2.0 */
/* epoch_run.c -- an epoch's thread: takes what came, hands out what is whole, asks for what comes next, sleeps until an
 * operation is done or a batch is taken; tells the server what its job does. */
#include "epoch_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

static const uint64_t second_ns = 1000000000, report_every_ns = 60000000000;
enum { REPORT_TIMEOUT_MS = 5000, REPORT_PART = 100 };

/* The first failure is the epoch's; the caller is told by granary_epoch_next(). */
void epoch_fail(struct granary_epoch *e, int err, const char *fmt, ...)
{
	char text[ERROR_TEXT_SIZE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&e->client->lock);
	if (e->err == 0 && !e->closing) {
		e->err = err;
		e->error_request = granary_last_request(e->client);
		memcpy(e->error, text, sizeof(e->error));
	}
	epoch_tell(e);
	pthread_mutex_unlock(&e->client->lock);
}

/* ---- reports ---- */

/* Samples that were replaced in batches that were handed out. */
static uint32_t skips_delivered(const struct granary_epoch *e, uint64_t position)
{
	uint32_t count = 0;

	while (count < e->skips_count && e->skips[count].position < position)
		count++;
	return count;
}

/* Of one at a time: a report that came after its successor would count as news. False: the one before is under way. */
static bool report_settled(struct granary_epoch *e, bool ended)
{
	if (e->report && !granary_op_done(e->report) &&
		(!ended || granary_wait(e->report, REPORT_TIMEOUT_MS) == -GRANARY_ETIMEDOUT))
		return false;
	granary_op_free(&e->report);
	return true;
}

void epoch_report(struct granary_epoch *e, bool ended)
{
	struct granary_call call = { .size = sizeof(call), .bucket = e->bucket, .timeout_ms = REPORT_TIMEOUT_MS };
	char name[PART_TEXT_MAX + 1];
	struct stream_report r = { .snapshot = name, .job = e->lease, .log = e->job != NULL, .host = e->host,
		.rank = e->ranks.spec.rank, .world = e->ranks.spec.ranks, .weight = e->options.weight,
		.epoch = e->order.spec.epoch, .of = e->order.spec.samples, .ended = ended,
		.begun_ns = e->begun_wall_ns, .id = e->log_id, .batch = e->ranks.spec.batch,
		.last = e->ranks.spec.last, .first = e->options.first, .step = e->options.step, .skips = e->skips };

	if (!report_settled(e, ended))
		return;
	part_name_escape(name, e->name);
	pthread_mutex_lock(&e->client->lock);
	r.position = epoch_position(e);
	r.delivered = e->delivered;
	r.samples = e->samples_read;
	r.bytes = e->bytes_read;
	r.waited_ns = e->waited_ns;
	r.checksum = e->checksum;
	r.skipped = e->skipped;
	pthread_mutex_unlock(&e->client->lock);
	r.skips_count = skips_delivered(e, r.position);
	e->report_ns = clock_mono_ns();
	e->report_taken = e->seen_taken;
	r.elapsed_ns = e->report_ns - e->begun_ns;
	if (epoch_token_at(e, e->ranks.spec.start, r.token, NULL, 0) < 0 ||
		stream_report_start(e->client, &r, &call, &e->report) < 0)
		e->report = NULL; /* the next one may do better */
	if (ended && e->report) {
		(void)!granary_wait(e->report, REPORT_TIMEOUT_MS);
		granary_op_free(&e->report);
	}
}

/* Soon at first, for those who watch, and after each hundredth of the epoch: by its place the server knows which packs
 * are needed next; then once a minute. */
static bool report_due(const struct granary_epoch *e)
{
	uint64_t pause = e->report_ns - e->begun_ns;

	pause = pause < second_ns ? second_ns : pause < report_every_ns ? pause : report_every_ns;
	if ((e->seen_taken - e->report_taken) * REPORT_PART > e->batches)
		pause = second_ns;
	return clock_mono_ns() - e->report_ns > pause;
}

/* ---- stalls ---- */

/* Something is wanted, nothing came for long. */
static void stall_check(struct granary_epoch *e, bool hungry)
{
	uint64_t now = clock_mono_ns();

	if (!hungry) {
		e->progress_ns = now;
		return;
	}
	if (now - e->progress_ns < (uint64_t)e->options.stall_timeout_ms * 1000000)
		return;
	epoch_fail(e, -GRANARY_ETIMEDOUT, "the stream stalled: nothing came for %u ms for rank %u of %u of "
		"'%s@%s', batch %llu; "
		"is the server up and reachable?", e->options.stall_timeout_ms, e->ranks.spec.rank, e->ranks.spec.ranks,
		e->bucket, e->name, (unsigned long long)e->delivered);
}

/* ---- the loop ---- */

/* Takes over what callers gave back; false when the epoch is closing. */
static bool run_take(struct granary_epoch *e)
{
	struct list back;

	list_init(&back);
	pthread_mutex_lock(&e->client->lock);
	list_splice(&back, &e->returned);
	e->seen_taken = e->taken_count;
	e->seen_taken_bytes = e->taken_bytes;
	bool goes_on = !e->closing;
	pthread_mutex_unlock(&e->client->lock);
	for (struct list *at; (at = list_pop(&back)) != NULL;)
		batch_recycle(e, container_of(at, struct batch, link));
	return goes_on;
}

static bool run_once(struct granary_epoch *e)
{
	bool moved = false;

	if (e->err != 0)
		return false;
	if (e->holding) {
		moved = hold_collect(e);
		moved = hold_fetch_more(e) || moved;
	}
	if (moved)
		e->progress_ns = clock_mono_ns();
	moved = batch_plan_more(e) || moved;
	moved = moved || e->hold_wanted;
	e->hold_wanted = false;
	return batch_finish_more(e) || moved;
}

/* Is there something that could have been done already? An operation may have ended before we slept. */
static bool run_due(struct granary_epoch *e)
{
	struct batch *first = list_empty(&e->pipeline) ? NULL : container_of(e->pipeline.next, struct batch, link);

	if (e->closing || e->seen_taken != e->taken_count || !list_empty(&e->returned))
		return true;
	if (e->err != 0)
		return false;
	if (first && first->filling && batch_came(first))
		return true;
	for (struct list *at = e->coming.next; at != &e->coming; at = at->next)
		if (read_came(&container_of(at, struct fetch, link)->read))
			return true;
	return false;
}

static void run_sleep(struct granary_epoch *e)
{
	uint64_t until = clock_mono_ns() + second_ns;
	struct timespec at = { .tv_sec = (time_t)(until / second_ns), .tv_nsec = (long)(until % second_ns) };

	pthread_mutex_lock(&e->client->lock);
	if (!e->ended && e->err == 0 && e->planned == e->batches && list_empty(&e->pipeline)) {
		e->ended = true;
		epoch_tell(e);
	}
	bool hungry = list_empty(&e->ready) && !e->ended && e->err == 0;
	if (!run_due(e))
		pthread_cond_timedwait(&e->wake, &e->client->lock, &at);
	pthread_mutex_unlock(&e->client->lock);
	stall_check(e, hungry);
}

void *epoch_main(void *epoch)
{
	struct granary_epoch *e = epoch;

	e->progress_ns = clock_mono_ns();
	epoch_report(e, false);
	while (run_take(e)) {
		if (!run_once(e))
			run_sleep(e);
		if (report_due(e))
			epoch_report(e, false);
	}
	epoch_report(e, true);
	return NULL;
}
