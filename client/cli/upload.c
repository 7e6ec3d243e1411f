/* SPDX-License-Identifier: Apache-2.0 */
/* upload.c -- many local files into the store, as fast as they can be read.
 *
 * A few readers each take a run of neighbouring files from the scan, read them (open, fstat, read, close: four calls a
 * file) into one buffer and send the buffer as one batch put, with several batches under way.
 * Invariants: (1) batches are started in the order of the tickets of their runs, on one connection, so the packs have
 * the order of the scan; (2) a slot's memory is touched only while no operation is under way for it; (3) every ticket
 * is passed on exactly once, also after a failure, so nobody waits for ever; (4) no file is read twice. */
#include "upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"

enum {
	READERS_DEFAULT = 2,
	READERS_MAX = 64,
	SLOTS = 4,
	RUN_MAX = SLOT_FILES,
	RUN_MIN = 4,
	RUN_BYTES = 2 << 20,
};

struct upload {
	struct sender s;
	struct scan *scan;
	const char *prefix;
	struct known *known;
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t turn; /* under lock: the ticket whose batches may start */
	_Atomic uint64_t read_files, read_bytes; /* for the size of runs */
};

struct reader {
	struct upload *u;
	pthread_t thread;
	struct slot slots[SLOTS];
	unsigned slot;
	struct scan_file *run;
	uint64_t ticket;
	const struct scan_dir *dir; /* open in dir_fd */
	int dir_fd;
};

uint64_t stat_mtime_ns(const struct stat *st)
{
	return st->st_mtim.tv_sec < 0
		       ? 0
		       : (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

/* ---- batches ------------------------------------------------------------------------------- */

static void read_failed(struct upload *u, const struct scan_file *f, int errnum)
{
	if (errnum == ENOENT) { /* removed since the scan */
		atomic_fetch_add(&u->s.totals->vanished, 1);
		return;
	}
	if (sender_count_failure(&u->s, exit_of_errno(errnum)))
		fail_errno(errnum, "cannot read '%s/%s%s'", shown(f->dir->root->path),
			shown(f->dir->path), shown(f->name));
}

static void turn_await(struct upload *u, uint64_t ticket)
{
	pthread_mutex_lock(&u->lock);
	while (u->turn != ticket) pthread_cond_wait(&u->turned, &u->lock);
	pthread_mutex_unlock(&u->lock);
}

static void turn_pass(struct upload *u, uint64_t ticket)
{
	turn_await(u, ticket);
	pthread_mutex_lock(&u->lock);
	u->turn = ticket + 1;
	pthread_cond_broadcast(&u->turned);
	pthread_mutex_unlock(&u->lock);
}

/* Starts the batch of the current slot and goes on to the next one, which is empty when this returns. */
static void reader_send(struct reader *rd)
{
	struct upload *u = rd->u;
	struct slot *s = &rd->slots[rd->slot];

	if (s->count == 0) return;
	turn_await(u, rd->ticket);
	slot_start(&u->s, s);
	rd->slot = (rd->slot + 1) % SLOTS;
	slot_collect(&u->s, &rd->slots[rd->slot]);
}

/* ---- one file ------------------------------------------------------------------------------ */

struct stream_source {
	int fd;
	int errnum;
	struct progress *progress;
};

static int64_t stream_read(void *arg, void *buf, size_t len)
{
	struct stream_source *s = arg;
	ssize_t got;

	do got = read(s->fd, buf, len);
	while (got < 0 && errno == EINTR);
	if (got < 0) {
		s->errnum = errno;
		return -GRANARY_EIO;
	}
	if (s->progress != NULL) progress_add(s->progress, 0, (uint64_t)got);
	return got;
}

int upload_stream(
	struct remote *r, int fd, struct granary_put *put, int *errnum, struct progress *progress)
{
	struct stream_source source = { fd, 0, progress };
	int64_t done = granary_put_stream(r->client, put, stream_read, &source,
		GRANARY_CALL(.bucket = r->bucket, .timeout_ms = bulk_timeout_ms()));

	*errnum = source.errnum;
	if (done >= 0) put->size = (uint64_t)done;
	return done < 0 ? (int)done : 0;
}

/* The directory of a file, opened once for all its neighbours. */
static int reader_dir(struct reader *rd, const struct scan_dir *dir)
{
	if (rd->dir == dir) return rd->dir_fd;
	if (rd->dir_fd >= 0) close(rd->dir_fd);
	rd->dir = dir;
	rd->dir_fd = openat(dir->root->fd, dir->path_len == 0 ? "." : dir->path,
		O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return rd->dir_fd;
}

/* The key in the slot's memory; not yet taken, slot->keys_used is where it is. NULL when it is too long. */
static char *reader_key(struct reader *rd, const struct scan_file *f)
{
	struct slot *s = &rd->slots[rd->slot];
	char *key = s->keys + s->keys_used;
	size_t lens[4] = { strlen(rd->u->prefix), strlen(f->dir->root->under), f->dir->path_len,
		f->name_len };
	const char *parts[4] = { rd->u->prefix, f->dir->root->under, f->dir->path, f->name };
	size_t at = 0;

	if (lens[0] + lens[1] + lens[2] + lens[3] > GRANARY_KEY_LEN_MAX) {
		if (sender_count_failure(&rd->u->s, CLI_PARTIAL))
			fail(CLI_PARTIAL, "skipping '%s%s': the key is longer than %d bytes",
				shown(f->dir->path), shown(f->name), GRANARY_KEY_LEN_MAX);
		return NULL;
	}
	for (unsigned i = 0; i < 4; i++) {
		memcpy(key + at, parts[i], lens[i]);
		at += lens[i];
	}
	key[at] = '\0';
	return key;
}

/* Already there with the same size and time? Only what the listing has is looked at. */
static bool reader_skips(struct reader *rd, const struct scan_file *f, int dir_fd, const char *key)
{
	struct upload_totals *t = rd->u->s.totals;
	struct stat st;

	if (!opts.dry_run && !known_has(rd->u->known, key)) return false;
	if (fstatat(dir_fd, f->name, &st, 0) < 0) return false;
	switch (known_state(rd->u->known, key, (uint64_t)st.st_size, stat_mtime_ns(&st))) {
	case KNOWN_SAME:
		atomic_fetch_add(&t->same, 1);
		atomic_fetch_add(&t->same_bytes, (uint64_t)st.st_size);
		progress_add(&rd->u->s.progress, 1, 0);
		return true;
	case KNOWN_OTHER: atomic_fetch_add(&t->replaced, 1); break;
	case KNOWN_ABSENT: break;
	}
	if (opts.dry_run) {
		atomic_fetch_add(&t->files, 1);
		atomic_fetch_add(&t->bytes, (uint64_t)st.st_size);
	}
	return opts.dry_run;
}

static void put_init(struct granary_put *put, const char *key, const struct stat *st)
{
	memset(put, 0, sizeof(*put));
	put->ref = granary_ref_key(key);
	put->flags = GRANARY_PUT_MODE | GRANARY_PUT_MTIME;
	put->mode = st->st_mode & 07777;
	put->uid = st->st_uid;
	put->gid = st->st_gid;
	put->mtime_ns = stat_mtime_ns(st);
}

/* Reads up to `size` bytes; a file that shrank meanwhile gives what is left. -1 with errno set. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t at = 0;

	while (at < size) {
		ssize_t got = read(fd, buf + at, size - at);
		if (got < 0 && errno == EINTR) continue;
		if (got < 0) return -1;
		if (got == 0) break;
		at += (size_t)got;
	}
	return (ssize_t)at;
}

static void reader_stream(
	struct reader *rd, const struct scan_file *f, int fd, const struct stat *st)
{
	struct upload *u = rd->u;
	char key[GRANARY_KEY_LEN_MAX + 1];
	const char *built = reader_key(rd, f);
	struct granary_put put;
	int err, errnum;

	if (built == NULL) return;
	snprintf(key, sizeof(key), "%s", built);
	put_init(&put, key, st);
	err = upload_stream(u->s.r, fd, &put, &errnum, &u->s.progress);
	if (errnum != 0) {
		read_failed(u, f, errnum);
	} else if (err < 0) {
		sender_put_failed(&u->s, key, err, granary_last_error(u->s.r->client));
	} else {
		atomic_fetch_add(&u->s.totals->files, 1);
		atomic_fetch_add(&u->s.totals->bytes, put.size);
		progress_add(&u->s.progress, 1, 0); /* its bytes were added on their way */
	}
}

/* Reads an open file into the batch; sends the batch first when it is full. */
static void reader_whole(
	struct reader *rd, const struct scan_file *f, int fd, const struct stat *st)
{
	struct slot *s = &rd->slots[rd->slot];
	struct granary_put put;
	ssize_t got;
	char *key;

	if (s->count == RUN_MAX || s->data_used + (size_t)st->st_size > SLOT_BYTES) {
		reader_send(rd);
		s = &rd->slots[rd->slot];
	}
	key = reader_key(rd, f);
	if (key == NULL) return;
	got = read_all(fd, s->data + s->data_used, (size_t)st->st_size);
	if (got < 0) {
		read_failed(rd->u, f, errno);
		return;
	}
	put_init(&put, key, st);
	slot_add(s, &put, (size_t)got);
	atomic_fetch_add_explicit(&rd->u->read_files, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&rd->u->read_bytes, (uint64_t)got, memory_order_relaxed);
}

static void reader_file(struct reader *rd, const struct scan_file *f)
{
	int dir_fd = reader_dir(rd, f->dir), fd;
	struct stat st;
	const char *key;

	if (dir_fd < 0) {
		read_failed(rd->u, f, errno);
		return;
	}
	key = reader_key(rd, f);
	if (key == NULL) return;
	if (f->is_link) atomic_fetch_add(&rd->u->s.totals->links, 1);
	if (reader_skips(rd, f, dir_fd, key)) return;
	fd = openat(
		dir_fd, f->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (f->is_link ? 0 : O_NOFOLLOW));
	if (fd < 0 || fstat(fd, &st) < 0)
		read_failed(rd->u, f, errno);
	else if (!S_ISREG(st.st_mode))
		atomic_fetch_add(&rd->u->s.totals->vanished, 1); /* was a file when it was scanned */
	else if (st.st_size > WHOLE_MAX)
		reader_stream(rd, f, fd, &st);
	else
		reader_whole(rd, f, fd, &st);
	if (fd >= 0) close(fd);
}

/* ---- readers ------------------------------------------------------------------------------- */

/* So many files are about one batch, by the sizes met so far. */
static size_t run_length(const struct upload *u)
{
	uint64_t files = atomic_load_explicit(&u->read_files, memory_order_relaxed);
	uint64_t average =
		files == 0 ? 16384
			   : atomic_load_explicit(&u->read_bytes, memory_order_relaxed) / files + 1;
	uint64_t want = RUN_BYTES / average;

	return (size_t)(want < RUN_MIN ? RUN_MIN : want > RUN_MAX * 3 / 4 ? RUN_MAX * 3 / 4 : want);
}

static void *reader_main(void *arg)
{
	struct reader *rd = arg;
	struct upload *u = rd->u;
	size_t n;

	while (!atomic_load(&u->s.stop) &&
		(n = scan_take(u->scan, rd->run, run_length(u), RUN_MAX, &rd->ticket)) > 0) {
		atomic_store(&u->s.progress.files_total, scan_total(u->scan));
		for (size_t i = 0; i < n && !atomic_load(&u->s.stop); i++)
			reader_file(rd, &rd->run[i]);
		reader_send(rd);
		turn_pass(u, rd->ticket);
	}
	for (unsigned i = 0; i < SLOTS; i++) slot_collect(&u->s, &rd->slots[i]);
	return NULL;
}

static void readers_run(struct upload *u)
{
	size_t count = opts.jobs > 0 ? (size_t)opts.jobs : READERS_DEFAULT, started = 0;
	struct reader *readers = must_alloc(calloc(count, sizeof(*readers)));

	for (size_t i = 0; i < count; i++) {
		readers[i].u = u;
		readers[i].dir_fd = -1;
		readers[i].run = must_alloc(malloc(RUN_MAX * sizeof(*readers[i].run)));
		for (unsigned j = 0; j < SLOTS; j++) slot_init(&readers[i].slots[j]);
	}
	while (started + 1 < count &&
		pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]) == 0)
		started++;
	reader_main(&readers[started]); /* this thread is the last one */
	for (size_t i = 0; i < started; i++) pthread_join(readers[i].thread, NULL);
	for (size_t i = 0; i < count; i++) {
		if (readers[i].dir_fd >= 0) close(readers[i].dir_fd);
		for (unsigned j = 0; j < SLOTS; j++) slot_release(&readers[i].slots[j]);
		free(readers[i].run);
	}
	free(readers);
}

/* Directories without anything in them would be lost: they are made in the target. */
static void make_empty_directories(struct upload *u)
{
	for (const struct scan_dir *d = u->scan->dirs; d != NULL && !atomic_load(&u->s.stop);
		d = d->next) {
		char key[2 * GRANARY_KEY_LEN_MAX];
		int err, len = snprintf(
				 key, sizeof(key), "%s%s%s", u->prefix, d->root->under, d->path);
		if (!d->empty || d->path_len == 0 || len > GRANARY_KEY_LEN_MAX ||
			known_has(u->known, key))
			continue;
		key[len - 1] = '\0';
		err = granary_mkdir(u->s.r->client, granary_ref_key(key), 0755, GRANARY_MKDIR_PARENTS,
			NULL, GRANARY_CALL(.bucket = u->s.r->bucket));
		if (err < 0 && err != -GRANARY_EEXIST)
			sender_put_failed(&u->s, key, err, granary_last_error(u->s.r->client));
	}
}

int upload_run(struct remote *r, struct scan *scan, const char *prefix, const char *what,
	struct upload_totals *totals)
{
	struct upload u = { .s = { .r = r, .totals = totals }, .scan = scan, .prefix = prefix };
	int code = known_list(&u.known, r, prefix);

	if (code != CLI_OK) return code;
	pthread_mutex_init(&u.lock, NULL);
	pthread_cond_init(&u.turned, NULL);
	progress_start(&u.s.progress, what);
	readers_run(&u);
	scan_wait(scan);
	if (!opts.dry_run) make_empty_directories(&u);
	progress_stop(&u.s.progress);
	known_free(&u.known);
	if (totals->failed == 0 && scan->bad_names == 0 && scan->unreadable == 0) return CLI_OK;
	return totals->files + totals->same > 0 ? CLI_PARTIAL
	       : totals->first_code != CLI_OK   ? totals->first_code
						: CLI_FAILED;
}

/* ---- the end ------------------------------------------------------------------------------- */

void upload_summary_json(struct json *j, const struct upload_totals *t, const char *what)
{
	json_text(j, "verb", what);
	json_flag(j, "dry_run", opts.dry_run);
	json_number(j, "files", t->files);
	json_number(j, "bytes", t->bytes);
	json_number(j, "replaced", t->replaced);
	json_number(j, "same", t->same);
	json_number(j, "links_followed", t->links);
	json_number(j, "failed", t->failed);
}

static void remark(uint64_t count, const char *text)
{
	char buf[TEXT_SHORT];

	if (count > 0) note("  %s %s", human_count(buf, count), text);
}

void upload_summary(const struct upload_totals *t, const char *what, double seconds)
{
	char files[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT], time[TEXT_SHORT];

	if (opts.dry_run)
		printf("would %s %s files, %s\n", what, human_count(files, t->files),
			human_bytes(bytes, t->bytes));
	else
		note("%s: %s files, %s in %s, %s/s", what, human_count(files, t->files),
			human_bytes(bytes, t->bytes), human_seconds(time, seconds),
			human_bytes(rate, (uint64_t)((double)t->bytes / seconds)));
	remark(t->same, "were there already with the same size and time");
	remark(t->replaced,
		opts.dry_run ? "of them over another content" : "of them replaced another content");
	remark(t->links, "links to files followed");
	remark(t->failed, "failed");
}

static void report_json(
	const struct upload_totals *t, const struct scan *scan, const char *what, double seconds)
{
	struct json j;

	json_open(&j, stdout);
	upload_summary_json(&j, t, what);
	json_number(&j, "left_out_links_to_directories", scan->dir_links);
	json_number(&j, "left_out_broken_links", scan->broken_links);
	json_number(&j, "left_out_special", scan->special);
	json_number(&j, "vanished", t->vanished);
	json_number(&j, "bad_names", scan->bad_names);
	json_real(&j, "seconds", seconds);
	json_close(&j);
}

void upload_report(
	const struct upload_totals *t, const struct scan *scan, const char *what, double seconds)
{
	if (opts.json) {
		report_json(t, scan, what, seconds);
		return;
	}
	upload_summary(t, what, seconds);
	remark(scan->dir_links, "links to directories left out");
	remark(scan->broken_links, "broken links left out");
	remark(scan->special, "sockets, pipes and devices left out");
	remark(t->vanished, "went away while this ran");
	remark(scan->bad_names, "names that cannot be keys skipped");
}
