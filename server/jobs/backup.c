/* SPDX-License-Identifier: Apache-2.0 */
/* backup.c -- the tap, the log and the schedule; see backup.h. */
#include "jobs/backup_priv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "meta/ids.h"

#define SECOND_NS    UINT64_C(1000000000)
#define LOG_SIZE_MAX (UINT64_C(1) << 30) /* then a checkpoint is due, which begins another one */
enum {
	TAP_BYTES_MAX = 32 * 1024 * 1024,
	TAP_WAKE_BYTES = 8 * 1024 * 1024, /* the thread writes before its second is over */
	TAP_BYTES_KEPT = 1024 * 1024,     /* of a buffer that is empty */
	RETRY_S = 10,
	BACKUP_NICE = 10, /* as the jobs: at 19 a busy machine would leave the log behind */
};

/* ---- the tap: on the committer ---- */

static size_t record_size(const struct kv_write_op *ops, uint32_t n)
{
	size_t size = BACKUP_RECORD_HEADER_SIZE;

	for (uint32_t i = 0; i < n; i++) size += backup_op_size(ops[i].key.len, ops[i].value.len);
	return size;
}

/* Lock held. */
static bool buffer_reserve(struct backup *b, size_t size)
{
	size_t cap = b->cap ? b->cap : TAP_BYTES_KEPT;
	uint8_t *buf;

	if (size > TAP_BYTES_MAX - b->len) return false;
	while (cap < b->len + size) cap *= 2;
	if (cap == b->cap) return true;
	buf = realloc(b->buf, cap);
	if (buf == NULL) return false;
	b->buf = buf;
	b->cap = cap;
	return true;
}

static void record_put(struct backup *b, size_t size, const struct backup_record *r, const struct kv_write_op *ops)
{
	struct wr w = wr_of(b->buf + b->len + BACKUP_RECORD_HEADER_SIZE, size - BACKUP_RECORD_HEADER_SIZE);

	backup_record_encode(r, b->buf + b->len);
	for (uint32_t i = 0; i < r->count; i++)
		backup_op_encode(&w, &(struct backup_op){ ops[i].key, ops[i].value, ops[i].is_delete });
	assert(wr_ok(&w) && wr_len(&w) == size - BACKUP_RECORD_HEADER_SIZE);
	b->len += size;
}

static void on_group(void *arg, uint64_t before, uint64_t after, const struct kv_write_op *ops, uint32_t n)
{
	struct backup *b = arg;
	size_t size = record_size(ops, n);
	struct backup_record r = { before, after, n, slice_of(NULL, size - BACKUP_RECORD_HEADER_SIZE) };
	bool must_wake = false;

	pthread_mutex_lock(&b->lock);
	if (b->is_collecting && !buffer_reserve(b, size)) {
		b->is_collecting = false;
		b->has_gap = must_wake = true;
		b->gaps++;
	}
	if (b->is_collecting) {
		must_wake = b->len < TAP_WAKE_BYTES && b->len + size >= TAP_WAKE_BYTES;
		record_put(b, size, &r, ops);
	}
	pthread_mutex_unlock(&b->lock);
	if (must_wake) pthread_cond_signal(&b->wake);
}

struct kv_tap backup_tap(struct backup *b)
{
	return (struct kv_tap){ on_group, b };
}

/* ---- failures: one line when it begins, one when it is over ---- */

int backup_fail(struct backup *b, int err, const char *what)
{
	char why[BACKUP_WHY_MAX];
	uint64_t pause_ns;
	bool is_news;

	if (err == -GRANARY_ESHUTDOWN) return err;
	snprintf(why, sizeof(why), "cannot %s: %s", what, error_text(err));
	pthread_mutex_lock(&b->lock);
	is_news = !b->is_failing || strcmp(b->why, why) != 0;
	b->is_failing = true;
	b->failures++;
	b->in_row++;
	snprintf(b->why, sizeof(b->why), "%s", why);
	pthread_mutex_unlock(&b->lock);
	pause_ns = RETRY_S * SECOND_NS << (b->in_row < 6 ? b->in_row - 1 : 5);
	b->retry_ns = clock_mono_ns() + pause_ns;
	if (is_news)
		log_error("backup: %s; directory='%s'; it is tried again until it works", why,
			b->o.dir ? b->o.dir : fs_root(b->o.to));
	return err;
}

static void fail_clear(struct backup *b)
{
	bool was_failing;

	pthread_mutex_lock(&b->lock);
	was_failing = b->is_failing;
	b->is_failing = false;
	b->in_row = 0;
	b->why[0] = '\0';
	pthread_mutex_unlock(&b->lock);
	if (was_failing) log_info("backup: it works again");
}

/* ---- the log ---- */

/* What was not written is lost to this log; the next checkpoint makes up for it. */
static int log_lost(struct backup *b, int err)
{
	pthread_mutex_lock(&b->lock);
	b->gaps += !b->has_gap;
	b->is_collecting = false;
	b->has_gap = true;
	b->len = 0;
	pthread_mutex_unlock(&b->lock);
	fs_close(&b->log);
	return backup_fail(b, err, "write the log");
}

/* Takes what there is; the buffer changes places with the spare one. */
static size_t log_take(struct backup *b)
{
	uint8_t *buf;
	size_t cap, len;

	pthread_mutex_lock(&b->lock);
	buf = b->buf;
	cap = b->cap;
	len = b->len;
	b->buf = b->spare;
	b->cap = b->spare_cap;
	b->len = 0;
	pthread_mutex_unlock(&b->lock);
	b->spare = buf;
	b->spare_cap = cap;
	return len;
}

static void spare_trim(struct backup *b)
{
	if (b->spare_cap <= TAP_BYTES_KEPT) return;
	free(b->spare);
	b->spare = NULL;
	b->spare_cap = 0;
}

/* Checksums, and the position that the last record leads to. */
static uint32_t records_seal(struct backup *b, size_t len)
{
	struct backup_record r;
	uint32_t count = 0;
	size_t need;

	for (size_t at = 0; at < len; count++) {
		size_t size = backup_record_seal(b->spare + at);
		if (at + size == len && backup_record_decode(b->spare + at, size, &r, &need) == size)
			b->log_end = r.after;
		at += size;
	}
	return count;
}

int backup_log_write(struct backup *b)
{
	uint32_t count;
	size_t len;
	int err;

	b->log_turn_ns = clock_mono_ns();
	if (b->log == NULL) return 0;
	len = log_take(b);
	if (len > 0) {
		count = records_seal(b, len);
		err = fs_write(b->log, b->spare, len, b->log_at);
		if (err == 0) err = fs_datasync(b->log);
		if (err < 0) return log_lost(b, err);
		b->log_at = (b->log_at + len + BACKUP_LOG_LINE - 1) & ~(uint64_t)(BACKUP_LOG_LINE - 1);
		spare_trim(b);
		pthread_mutex_lock(&b->lock);
		b->log_bytes += len;
		b->log_groups += count;
		pthread_mutex_unlock(&b->lock);
	}
	pthread_mutex_lock(&b->lock);
	b->log_synced_ns = b->log_turn_ns;
	b->log_position = b->log_end;
	pthread_mutex_unlock(&b->lock);
	return 0;
}

int backup_log_tick(struct backup *b)
{
	bool is_full;

	pthread_mutex_lock(&b->lock);
	is_full = b->len >= TAP_WAKE_BYTES;
	pthread_mutex_unlock(&b->lock);
	return is_full || clock_mono_ns() - b->log_turn_ns >= SECOND_NS ? backup_log_write(b) : 0;
}

/* After a gap the next log begins anew: where the metadata is now, or where a record waits already. (A group may be
 * written and not yet here: then the log begins behind it, which the checkpoint that follows has.) */
static uint64_t collect_again(struct backup *b)
{
	struct backup_record r;
	uint64_t start;
	size_t need;

	pthread_mutex_lock(&b->lock);
	b->is_collecting = true;
	b->has_gap = false;
	pthread_mutex_unlock(&b->lock);
	start = kv_position(b->kv);
	pthread_mutex_lock(&b->lock);
	if (b->len > 0) {
		size_t size = backup_record_seal(b->buf);
		if (backup_record_decode(b->buf, size, &r, &need) == size && r.before < start) start = r.before;
	}
	pthread_mutex_unlock(&b->lock);
	return start;
}

static int log_create(struct backup *b, uint64_t number, uint64_t start)
{
	struct backup_log_header h = { .number = number, .start = start, .incarnation = b->incarnation };
	uint8_t head[BACKUP_LOG_HEADER_SIZE];
	char path[BACKUP_PATH_MAX];
	int err;

	memcpy(h.store_id, b->store_id, sizeof(h.store_id));
	backup_log_header_encode(&h, head);
	backup_path(path, BACKUP_LOGS, number);
	err = fs_open(b->to, path, FS_CREATE_NEW, &b->log);
	if (err == 0) err = fs_write(b->log, head, sizeof(head), 0);
	if (err == 0) err = fs_sync(b->log);
	if (err == 0) err = fs_sync_dir(b->to, "");
	return err;
}

/* The next log takes the place of the one that is written, without a gap if that one had none. */
static int log_begin(struct backup *b)
{
	uint64_t number = b->next_number++;
	bool has_gap;
	int err = backup_log_write(b);

	if (err < 0) return err;
	pthread_mutex_lock(&b->lock);
	has_gap = b->has_gap;
	pthread_mutex_unlock(&b->lock);
	fs_close(&b->log);
	if (has_gap) b->log_end = collect_again(b);
	b->log_at = BACKUP_LOG_LINE;
	err = log_create(b, number, b->log_end);
	return err < 0 ? log_lost(b, err) : 0;
}

/* ---- the directory ---- */

static int other_name(void *arg, const char *name)
{
	(void)arg;
	return strcmp(name, "lock") != 0 && strcmp(name, "lost+found") != 0 && strcmp(name, BACKUP_TITLE ".tmp") != 0;
}

/* A directory of somebody else's files is left alone, and so is another store's backup. */
static int title_ensure(struct backup *b)
{
	uint8_t id[16];
	int has = backup_title_read(b->to, id);

	if (has == 1) return memcmp(id, b->store_id, sizeof(id)) == 0 ? 0 : -GRANARY_EBADFORMAT;
	if (has == 0) has = fs_list(b->to, "", other_name, NULL);
	if (has == 1) return -GRANARY_ENOTEMPTY;
	return has < 0 ? has : backup_title_write(b->to, b->store_id);
}

/* The highest number so far, also of files that no manifest came to; the newest manifest that can be read. */
static int numbers_find(struct backup *b)
{
	struct backup_numbers logs, manifests = { .count = 0 };
	int err = backup_numbers_read(b->to, BACKUP_LOGS, &logs);

	if (err == 0) err = backup_numbers_read(b->to, BACKUP_MANIFESTS, &manifests);
	b->next_number = 1;
	if (err == 0 && logs.count > 0) b->next_number = logs.at[logs.count - 1] + 1;
	if (err == 0 && manifests.count > 0 && manifests.at[manifests.count - 1] >= b->next_number)
		b->next_number = manifests.at[manifests.count - 1] + 1;
	backup_manifest_release(&b->last);
	if (err == 0 && manifests.count > 0 &&
		backup_manifest_read(b->to, manifests.at[manifests.count - 1], &b->last) < 0)
		log_warn("the newest checkpoint of the backup cannot be read: all is copied again; number=%" PRIu64,
			manifests.at[manifests.count - 1]);
	backup_numbers_release(&logs);
	backup_numbers_release(&manifests);
	return err;
}

static void dir_close(struct backup *b)
{
	fs_close(&b->log);
	fs_close(&b->dir_lock);
	if (b->owns_to && b->to != NULL) fs_free(&b->to);
	b->to = NULL;
	b->is_ready = false;
}

static int dir_open(struct backup *b, const char **what)
{
	int err = 0;

	*what = "open the directory; make it (mkdir) if it is missing";
	b->owns_to = b->o.dir != NULL;
	if (b->owns_to)
		err = fs_new_kernel(b->o.dir, &b->to);
	else
		b->to = b->o.to;
	if (err < 0) return err;
	*what = "lock the directory";
	err = fs_lock(b->to, "lock", &b->dir_lock);
	if (err < 0) return err;
	*what = "use the directory; it must be empty, or hold the backup of this store and no other";
	err = title_ensure(b);
	if (err < 0) return err;
	*what = "read the directory";
	return numbers_find(b);
}

static int prepare(struct backup *b)
{
	const char *what;
	int err = dir_open(b, &what);

	if (err == 0)
		err = log_begin(b);
	else
		backup_fail(b, err, what);
	if (err < 0)
		dir_close(b);
	else
		b->is_ready = true;
	return err;
}

/* ---- a checkpoint ---- */

static int made_remove(struct backup *b)
{
	int err = fs_remove_folder(b->o.fs, BACKUP_MADE);

	return err == 0 ? fs_remove_folder(b->o.fs, BACKUP_MADE ".tmp") : err;
}

static void manifest_begin(struct backup *b, struct backup_manifest *m)
{
	*m = (struct backup_manifest){ .number = b->next_number - 1,
		.position = kv_position(b->kv),
		.store_time_ns = b->clock ? store_clock_now(b->clock) : 0,
		.made_s = clock_wall_ns() / SECOND_NS,
		.incarnation = b->incarnation };
	memcpy(m->store_id, b->store_id, sizeof(m->store_id));
	snprintf(m->engine, sizeof(m->engine), "%s", kv_engine_name(b->kv));
}

static int checkpoint_steps(struct backup *b, struct backup_manifest *m, const char **what)
{
	int err;

	*what = "begin a log";
	err = log_begin(b);
	manifest_begin(b, m);
	*what = "make a checkpoint of the metadata";
	if (err == 0) err = made_remove(b);
	if (err == 0) err = kv_checkpoint(b->kv, BACKUP_MADE);
	if (err < 0) return err;
	*what = "copy the metadata";
	err = backup_copy_files(b, m);
	if (err < 0) return err;
	*what = "write the manifest";
	return backup_manifest_put(b, m);
}

static void checkpoint_done(struct backup *b, struct backup_manifest *m)
{
	backup_manifest_release(&b->last);
	b->last = *m;
	pthread_mutex_lock(&b->lock);
	b->made++;
	b->done_ns = clock_mono_ns();
	b->took_ns = b->done_ns - b->begun_ns;
	b->is_running = false;
	pthread_mutex_unlock(&b->lock);
	log_info("backup: checkpoint made; number=%" PRIu64 " files=%" PRIu32 " copied_bytes=%" PRIu64 " ms=%" PRIu64,
		m->number, m->count, b->copied_bytes, b->took_ns / 1000000);
	fail_clear(b);
}

static int checkpoint_make(struct backup *b)
{
	struct backup_manifest m = { .count = 0 };
	const char *what;
	int err;

	pthread_mutex_lock(&b->lock);
	b->is_running = true;
	b->is_asked = false;
	b->begun_ns = clock_mono_ns();
	b->copied_bytes = b->linked_bytes = b->done_bytes = b->total_bytes = 0;
	pthread_mutex_unlock(&b->lock);
	err = checkpoint_steps(b, &m, &what);
	(void)made_remove(b); /* what is left of it is removed before the next one */
	if (err == 0) {
		checkpoint_done(b, &m);
		err = backup_sweep(b);
		return err < 0 ? backup_fail(b, err, "remove what is not kept any more") : 0;
	}
	backup_manifest_release(&m);
	pthread_mutex_lock(&b->lock);
	b->is_running = false;
	pthread_mutex_unlock(&b->lock);
	if (err == -GRANARY_ESHUTDOWN) return err;
	(void)backup_sweep(b); /* what it copied: the disk may be full */
	backup_fail(b, err, what);
	dir_close(b); /* and open it again: it may be another filesystem by then */
	return err;
}

static bool checkpoint_due(struct backup *b)
{
	uint64_t now = clock_mono_ns();
	bool is_due, is_failing;

	pthread_mutex_lock(&b->lock);
	is_due = b->made == 0 || b->has_gap || b->log_at > LOG_SIZE_MAX || now - b->done_ns >= b->o.every_ns;
	is_failing = b->is_failing;
	is_due = b->is_asked || (is_due && (!is_failing || now >= b->retry_ns));
	pthread_mutex_unlock(&b->lock);
	return is_due;
}

int backup_turn(struct backup *b)
{
	int err;

	if (!b->is_ready && clock_mono_ns() < b->retry_ns && !b->is_asked) return -GRANARY_EIO;
	err = b->is_ready ? backup_log_write(b) : prepare(b);
	if (!b->is_ready) { /* who asked is told */
		pthread_mutex_lock(&b->lock);
		b->is_asked = false;
		pthread_mutex_unlock(&b->lock);
		return err;
	}
	if (checkpoint_due(b)) err = checkpoint_make(b);
	return err;
}

void backup_ask(struct backup *b)
{
	pthread_mutex_lock(&b->lock);
	b->is_asked = true;
	pthread_mutex_unlock(&b->lock);
	pthread_cond_signal(&b->wake);
}

/* ---- the thread ---- */

static void wait_a_second(struct backup *b)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	while (!b->is_stopping && !b->is_asked && b->len < TAP_WAKE_BYTES)
		if (pthread_cond_timedwait(&b->wake, &b->lock, &until) != 0) break;
}

static void *backup_main(void *arg)
{
	struct backup *b = arg;

	setpriority(PRIO_PROCESS, 0, BACKUP_NICE); /* of this thread alone, on Linux */
	pthread_mutex_lock(&b->lock);
	while (!b->is_stopping) {
		pthread_mutex_unlock(&b->lock);
		(void)backup_turn(b); /* status tells */
		pthread_mutex_lock(&b->lock);
		wait_a_second(b);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

int backup_new(const struct backup_options *options, struct backup **out)
{
	struct backup *b = calloc(1, sizeof(*b));
	pthread_condattr_t attr;

	*out = NULL;
	if (b == NULL) return -GRANARY_ENOMEM;
	b->o = *options;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->wake, &attr);
	pthread_condattr_destroy(&attr);
	b->is_collecting = true;
	*out = b;
	return 0;
}

void backup_attach(struct backup *b, struct kv *kv, const uint8_t store_id[16])
{
	b->kv = kv;
	memcpy(b->store_id, store_id, sizeof(b->store_id));
	b->log_end = kv_position(kv);
}

int backup_run(struct backup *b, uint32_t incarnation, struct store_clock *clock)
{
	b->incarnation = incarnation;
	b->clock = clock;
	if (!b->o.thread) return 0;
	if (pthread_create(&b->thread, NULL, backup_main, b) != 0) return -GRANARY_ENOMEM;
	pthread_setname_np(b->thread, "granary-backup");
	b->has_thread = true;
	return 0;
}

void backup_stop(struct backup *b)
{
	atomic_store(&b->stopping, true);
	pthread_mutex_lock(&b->lock);
	b->is_stopping = true;
	pthread_mutex_unlock(&b->lock);
	pthread_cond_signal(&b->wake);
	if (b->has_thread) pthread_join(b->thread, NULL);
	b->has_thread = false;
	if (b->is_ready) (void)backup_log_write(b);
}

void backup_free(struct backup **bp)
{
	struct backup *b = *bp;

	*bp = NULL;
	if (b == NULL) return;
	if (b->is_ready) (void)backup_log_write(b); /* what was committed while the metadata was closed */
	dir_close(b);
	backup_manifest_release(&b->last);
	pthread_cond_destroy(&b->wake);
	pthread_mutex_destroy(&b->lock);
	free(b->piece);
	free(b->buf);
	free(b->spare);
	free(b);
}

/* ---- status ---- */

/* Since the newest checkpoint; of an earlier run by the wall clock, which may have jumped. */
static uint64_t age_s(const struct backup *b)
{
	uint64_t now_s = clock_wall_ns() / SECOND_NS;

	if (b->made > 0) return (clock_mono_ns() - b->done_ns) / SECOND_NS;
	return now_s > b->last.made_s ? now_s - b->last.made_s : 0;
}

size_t backup_status(struct backup *b, char *buf, size_t cap)
{
	int n;

	pthread_mutex_lock(&b->lock);
	n = snprintf(buf, cap,
		"backup_running %d\nbackup_failing %d\nbackup_checkpoints %" PRIu64 "\nbackup_failures %" PRIu64
		"\nbackup_number %" PRIu64 "\nbackup_age_s %" PRIu64 "\nbackup_took_ms %" PRIu64
		"\nbackup_total_bytes %" PRIu64 "\nbackup_done_bytes %" PRIu64 "\nbackup_copied_bytes %" PRIu64
		"\nbackup_log_bytes %" PRIu64 "\nbackup_log_groups %" PRIu64 "\nbackup_log_gaps %" PRIu64
		"\nbackup_log_age_ms %" PRIu64 "\n",
		b->is_running || b->is_asked, b->is_failing, b->made, b->failures, b->last.number,
		b->last.number > 0 ? age_s(b) : 0, b->took_ns / 1000000, b->total_bytes, b->done_bytes, b->copied_bytes,
		b->log_bytes, b->log_groups, b->gaps,
		b->log_synced_ns > 0 ? (clock_mono_ns() - b->log_synced_ns) / 1000000 : 0);
	if (n > 0 && (size_t)n < cap && b->is_failing)
		n += snprintf(buf + n, cap - (size_t)n, "backup_error %s\n", b->why);
	pthread_mutex_unlock(&b->lock);
	return n > 0 && (size_t)n < cap ? (size_t)n : 0;
}
