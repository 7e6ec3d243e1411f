/* SPDX-License-Identifier: Apache-2.0 */
/* live.c -- a live bucket: start and end, which handler takes a request and in which thread, and what ends one early:
 * its process being killed. Each call to the server has the job's deadline, so that nothing waits longer. */
#include "fuse/live.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fuse/log.h"
#include "fuse/watch.h"

enum {
	REQUEST_THREADS = 64,
	LOCKER_THREADS = 1024,
	WRITER_THREADS = 16,
	TICK_MS = 100,
	AGE_TICKS = 5,         /* what is written waits so long for more, at most twice */
	USAGE_TICKS = 100,
	IDS_WANTED = 4096,
	BUFFERS_KEPT = 16,
	IDLE_SHARE = 32,       /* of the memory, for nodes that nobody uses */
};

struct handler {
	int (*run)(struct job *j);
	bool (*now)(struct job *j); /* may be NULL; false: it has to be run where it may block */
	/* May be NULL. It asked, and calls job_end() or job_to_thread() when it is answered, maybe before it returns;
	 * false: it has to be run where it may block. */
	bool (*start)(struct job *j);
};
static const struct handler handlers[] = {
	[FUSE_LOOKUP] = { .run = live_lookup, .now = live_lookup_now, .start = live_lookup_start },
	[FUSE_GETATTR] = { .run = live_getattr, .now = live_getattr_now },
	[FUSE_SETATTR] = { .run = live_setattr, .now = live_setattr_now },
	[FUSE_READLINK] = { .run = live_readlink },
	[FUSE_SYMLINK] = { .run = live_symlink },
	[FUSE_MKNOD] = { .run = live_mknod },
	[FUSE_MKDIR] = { .run = live_mkdir },
	[FUSE_UNLINK] = { .run = live_unlink },
	[FUSE_RMDIR] = { .run = live_rmdir },
	[FUSE_RENAME] = { .run = live_rename },
	[FUSE_RENAME2] = { .run = live_rename },
	[FUSE_LINK] = { .run = live_link },
	[FUSE_CREATE] = { .run = live_create, .now = live_create_now },
	[FUSE_OPEN] = { .run = live_open_file, .start = live_open_start },
	[FUSE_READ] = { .run = live_read, .now = live_read_now },
	[FUSE_WRITE] = { .run = live_write, .now = live_write_now },
	[FUSE_FLUSH] = { .run = live_flush, .now = live_flush_now },
	[FUSE_RELEASE] = { .run = live_release, .now = live_release_now },
	[FUSE_FSYNC] = { .run = live_fsync },
	[FUSE_FSYNCDIR] = { .run = live_fsyncdir },
	[FUSE_FALLOCATE] = { .run = live_fallocate },
	[FUSE_LSEEK] = { .run = live_lseek },
	[FUSE_COPY_FILE_RANGE] = { .run = live_copy_file_range },
	[FUSE_OPENDIR] = { .run = live_opendir },
	[FUSE_READDIR] = { .run = live_readdir },
	[FUSE_READDIRPLUS] = { .run = live_readdir },
	[FUSE_RELEASEDIR] = { .run = live_releasedir },
	[FUSE_SETXATTR] = { .run = live_setxattr },
	[FUSE_GETXATTR] = { .run = live_getxattr, .now = live_getxattr_now },
	[FUSE_LISTXATTR] = { .run = live_listxattr },
	[FUSE_REMOVEXATTR] = { .run = live_removexattr },
	[FUSE_STATFS] = { .run = live_statfs },
	[FUSE_GETLK] = { .run = live_getlk },
	[FUSE_SETLK] = { .run = live_setlk },
	[FUSE_SETLKW] = { .run = live_setlk },
};

/* ---- time, errors, buffers ---- */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
uint64_t live_now_ns(void) { return clock_ns(CLOCK_REALTIME); }
uint64_t live_clock_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

int live_errno(int err)
{
	switch (-err) {
	case GRANARY_ENAME: return -EILSEQ; /* its length was looked at before */
	case GRANARY_EBUSY:
	case GRANARY_EAGAIN: return -EBUSY; /* EAGAIN is for those who said O_NONBLOCK */
	case GRANARY_ECLOSED:
	case GRANARY_EPROTO:
	case GRANARY_ESHUTDOWN: return -EIO; /* ENOTCONN would say that the mount is gone */
	case GRANARY_ERANGE: return -EINVAL;
	default: return errno_of(err);
	}
}

struct granary_call live_call(const struct job *j, bool unstable)
{
	uint64_t now = live_clock_ns(), left = j->deadline_ns > now ? (j->deadline_ns - now) / 1000000 + 1 : 1;

	return (struct granary_call){ .size = sizeof(struct granary_call),
		.bucket = j->live->bucket,
		.timeout_ms = j->deadline_ns == UINT64_MAX ? GRANARY_FOREVER : (uint32_t)left,
		.flags = unstable ? GRANARY_UNSTABLE : 0 };
}

uint8_t *live_buffer_get(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	uint8_t *b = l->buffers;
	if (b) {
		memcpy(&l->buffers, b, sizeof(l->buffers));
		l->buffers_count--;
	}
	pthread_mutex_unlock(&l->lock);
	return b ? b : malloc(LIVE_BUFFER);
}

void live_buffer_put(struct live *l, uint8_t *b)
{
	pthread_mutex_lock(&l->lock);
	bool keep = b && l->buffers_count < BUFFERS_KEPT;
	if (keep) {
		memcpy(b, &l->buffers, sizeof(l->buffers));
		l->buffers = b;
		l->buffers_count++;
	}
	pthread_mutex_unlock(&l->lock);
	if (!keep) free(b);
}

/* ---- messages to the kernel ---- */

/* ENOENT: it does not know it; ENODEV, EPERM: not mounted any more. */
static void notify(struct live *l, struct iovec *parts, int count)
{
	if (writev(l->mount->device, parts, count) < 0 && errno != ENOENT && errno != ENODEV && errno != EPERM)
		log_say("the kernel took no invalidation: %s", strerror(errno));
}

static void notify_inode(struct live *l, uint64_t number, int64_t offset)
{
	struct fuse_notify_inval_inode_out inval = { .ino = number, .off = offset, .len = 0 };
	struct fuse_out_header header = { .len = sizeof(header) + sizeof(inval), .error = FUSE_NOTIFY_INVAL_INODE };
	struct iovec parts[2] = { { &header, sizeof(header) }, { &inval, sizeof(inval) } };

	notify(l, parts, 2);
}

void live_notify_name(struct live *l, uint64_t parent, const char *name)
{
	struct fuse_notify_inval_entry_out inval = { .parent = parent, .namelen = (uint32_t)strlen(name),
		.flags = l->may_expire ? FUSE_EXPIRE_ONLY : 0 };
	struct fuse_out_header header = { .len = (uint32_t)(sizeof(header) + sizeof(inval) + inval.namelen + 1),
		.error = FUSE_NOTIFY_INVAL_ENTRY };
	char copy[LIVE_NAME_MAX + 1];
	struct iovec parts[3] = { { &header, sizeof(header) }, { &inval, sizeof(inval) }, { copy, inval.namelen + 1 } };

	if (inval.namelen > LIVE_NAME_MAX) return;
	memcpy(copy, name, inval.namelen + 1);
	notify(l, parts, 3);
}

void live_notify_attributes(struct live *l, uint64_t number) { notify_inode(l, number, -1); }
void live_notify_bytes(struct live *l, uint64_t number) { notify_inode(l, number, 0); }

/* ---- jobs ---- */

int job_out(struct job *j, const void *bytes, size_t len)
{
	if (len > sizeof(j->out)) return -EIO;
	memcpy(j->out, bytes, len);
	j->out_len = len;
	return 0;
}

int job_over(const struct job *j)
{
	if (atomic_load(&j->state) == JOB_ANSWERED) return -EINTR;
	return live_clock_ns() > j->deadline_ns ? -ETIMEDOUT : 0;
}

/* The second name of RENAME and the target of SYMLINK lie behind the first. */
static int names_take(struct job *j, const struct request *r)
{
	const struct request *q = r;

	if (!q->name) return 0;
	if (q->name_len > LIVE_NAME_MAX) return -ENAMETOOLONG;
	memcpy(j->name, q->name, q->name_len);
	if (r->opcode != FUSE_RENAME && r->opcode != FUSE_RENAME2) return 0;
	const char *second = q->name + q->name_len + 1;
	size_t left = q->rest_len - q->name_len - 1;
	const char *end = left > 0 ? memchr(second, '\0', left) : NULL;
	if (!end || end == second) return -EINVAL;
	if (end - second > LIVE_NAME_MAX) return -ENAMETOOLONG;
	memcpy(j->name2, second, (size_t)(end - second));
	return 0;
}

static int job_fill(struct job *j, struct live *l, struct request *r, mount_answer_fn *answer)
{
	size_t arg = request_arg_size(r->opcode);

	memset(j, 0, offsetof(struct job, out));
	j->out_len = j->lent_len = 0;
	j->direct = false;
	j->shown = NULL;
	j->lent = NULL;
	j->undo = NULL;
	j->live = l;
	j->request = r;
	j->answer = answer;
	j->opcode = r->opcode;
	j->uid = r->uid;
	j->gid = r->gid;
	j->pid = r->pid;
	j->unique = r->unique;
	j->node = r->node;
	j->rest = r->rest;
	j->rest_len = r->rest_len;
	j->deadline_ns = l->options->hard ? UINT64_MAX
					  : live_clock_ns() + (uint64_t)l->options->deadline_ms * 1000000;
	if (r->arg) memcpy(j->arg, r->arg, arg < sizeof(j->arg) ? arg : sizeof(j->arg));
	return names_take(j, r);
}

/* Into the request, which is still ours to answer. */
static void answer_put(struct job *j, struct request *r)
{
	r->error = j->error;
	if (j->error < 0) {
		live_buffer_put(j->live, j->lent);
		return;
	}
	if (j->shown) {
		r->lent = j->shown;
		r->lent_len = j->out_len;
	} else if (j->direct) {
		r->out_len = j->out_len;
	} else if (j->lent) {
		r->lent = j->lent;
		r->lent_len = j->lent_len;
		r->lender = j->lent;
	} else if (j->out_len <= r->out_cap) {
		memcpy(r->out, j->out, j->out_len);
		r->out_len = j->out_len;
	}
}

static void job_unlink(struct job *j)
{
	struct live *l = j->live;

	pthread_mutex_lock(&l->lock);
	*j->at = j->next;
	if (j->next) j->next->at = j->at;
	pthread_mutex_unlock(&l->lock);
}

static void job_unpin(struct job *j);

static void job_finish(struct job *j)
{
	int runs = JOB_RUNS;

	job_unlink(j);
	if (atomic_compare_exchange_strong(&j->state, &runs, JOB_ANSWERED)) {
		answer_put(j, j->request);
		j->answer(j->request);
	} else {
		live_buffer_put(j->live, j->lent);
		if (j->error == 0 && j->undo) j->undo(j);
	}
	job_unpin(j);
	free(j);
}

static void job_run(struct pool_task *task)
{
	struct job *j = (struct job *)task;

	j->error = handlers[j->opcode].run(j);
	job_finish(j);
}

static void asking_ends(struct live *l)
{
	pthread_mutex_lock(&l->lock);
	if (--l->asking == 0) pthread_cond_signal(&l->asked);
	pthread_mutex_unlock(&l->lock);
}

void job_end(struct job *j, int error)
{
	struct live *l = j->live;

	j->error = error;
	job_finish(j);
	asking_ends(l);
}

void job_to_thread(struct job *j)
{
	struct live *l = j->live;

	pool_add(l->requests, &j->task);
	asking_ends(l);
}

/* A process that is killed closes its files while its job still runs: what the job works on stays. */
static void job_pin(struct job *j)
{
	uint64_t fh;

	memset(j->held, 0, sizeof(j->held));
	j->held_dir = NULL;
	memcpy(&fh, j->arg, sizeof(fh)); /* the first field of each of these */
	switch (j->opcode) {
	case FUSE_COPY_FILE_RANGE:
		memcpy(&j->held[1], j->arg + offsetof(struct fuse_copy_file_range_in, fh_out), sizeof(j->held[1]));
		__attribute__((fallthrough));
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
	case FUSE_FALLOCATE:
	case FUSE_LSEEK:
	case FUSE_GETLK:
	case FUSE_SETLK:
	case FUSE_SETLKW: j->held[0] = (struct live_handle *)(uintptr_t)fh; break;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS: j->held_dir = (struct live_dir *)(uintptr_t)fh; break;
	default: break;
	}
	for (int i = 0; i < 2; i++)
		if (j->held[i]) atomic_fetch_add(&j->held[i]->refs, 1);
	if (j->held_dir) dir_pin(j->held_dir);
}

static void job_unpin(struct job *j)
{
	for (int i = 0; i < 2; i++)
		if (j->held[i]) handle_put(j->held[i]);
	if (j->held_dir) dir_put(j->held_dir);
}

/* A job that may block, or waits for an answer. */
static int job_start(struct job *filled)
{
	struct live *l = filled->live;
	size_t rest = filled->opcode == FUSE_WRITE ? 0 : filled->rest_len;
	struct job *j = malloc(sizeof(*j) + rest);

	if (!j) return -ENOMEM;
	memcpy(j, filled, sizeof(*j));
	if (rest > 0) {
		memcpy(j + 1, filled->rest, rest);
		j->rest = (const uint8_t *)(j + 1);
	}
	j->task.run = job_run;
	job_pin(j);
	pthread_mutex_lock(&l->lock);
	j->next = l->jobs;
	j->at = &l->jobs;
	if (j->next) j->next->at = &j->next;
	l->jobs = j;
	if (handlers[j->opcode].start) l->asking++;
	pthread_mutex_unlock(&l->lock);
	watch_waits(j->request);
	if (handlers[j->opcode].start) {
		if (!handlers[j->opcode].start(j)) job_to_thread(j);
		return 0;
	}
	pool_add(j->opcode == FUSE_SETLKW ? l->lockers : l->requests, &j->task);
	return 0;
}

/* ---- a process that is killed waits no longer ---- */

/* Any signal interrupts a request, but only who waits for a lock wants to hear of it: as on a disk, other calls end
 * early for none but SIGKILL. */
static bool is_killed(uint32_t thread)
{
	char path[64], line[256];
	uint64_t pending = 0, one;
	bool known = false;

	if (thread == 0) return true; /* of another PID namespace: cannot be looked at */
	snprintf(path, sizeof(path), "/proc/%u/status", thread);
	FILE *f = fopen(path, "re");
	if (!f) return true;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "SigPnd: %" SCNx64, &one) == 1 || sscanf(line, "ShdPnd: %" SCNx64, &one) == 1) {
			pending |= one;
			known = true;
		}
	fclose(f);
	return !known || (pending & UINT64_C(1) << 8) != 0;
}

/* Lock held. Takes those of killed processes off the mount, in a list of their own; true: others may follow. */
static bool killed_find(struct live *l, struct request **found, mount_answer_fn **answer, uint64_t *after)
{
	for (struct job *j = l->jobs; j; j = j->next) {
		int runs = JOB_RUNS;
		if (!j->interrupted || j->unique <= *after) continue;
		if (j->opcode != FUSE_SETLKW && !is_killed(j->pid)) continue;
		*after = j->unique;
		if (!atomic_compare_exchange_strong(&j->state, &runs, JOB_ANSWERED)) continue;
		*found = j->request;
		*answer = j->answer;
		return true;
	}
	return false;
}

static void killed_answer(struct live *l)
{
	struct request *r;
	mount_answer_fn *answer;
	uint64_t after = 0;
	bool more = true;

	while (more) {
		pthread_mutex_lock(&l->lock);
		more = killed_find(l, &r, &answer, &after);
		pthread_mutex_unlock(&l->lock);
		if (!more) break;
		after = 0;
		r->error = -EINTR;
		answer(r);
	}
}

static void interrupt(struct live *l, const struct request *r)
{
	const struct fuse_interrupt_in *in = r->arg;
	bool found = false;

	pthread_mutex_lock(&l->lock);
	for (struct job *j = l->jobs; j; j = j->next)
		if (j->unique == in->unique) found = j->interrupted = true;
	pthread_mutex_unlock(&l->lock);
	if (found) killed_answer(l);
}

/* ---- what is due from time to time ---- */

struct due {
	struct pool_task task;
	struct live *live;
};

static void due_add(struct live *l, struct pool *pool, void (*run)(struct pool_task *task))
{
	struct due *d = calloc(1, sizeof(*d));

	if (!d) return;
	d->live = l;
	d->task.run = run;
	pool_add(pool, &d->task);
}

static void usage_ask(struct pool_task *task)
{
	struct live *l = ((struct due *)task)->live;
	struct granary_bucket_page *page = NULL;
	char after[GRANARY_BUCKET_LEN_MAX + 1] = "";
	bool more = true;

	free(task);
	while (more && granary_bucket_list(l->client, after[0] ? after : NULL, &page,
			       GRANARY_CALL(.timeout_ms = l->options->deadline_ms)) == 0) {
		for (uint32_t i = 0; i < page->count; i++) {
			const struct granary_bucket_entry *e = &page->entries[i];
			snprintf(after, sizeof(after), "%s", e->name);
			if (strcmp(e->name, l->bucket) != 0) continue;
			pthread_mutex_lock(&l->lock);
			l->root = l->root ? l->root : e->root_dir_id;
			l->usage.bytes = e->bytes;
			l->usage.objects = e->objects;
			l->usage.quota_bytes = e->quota_bytes;
			l->usage.quota_objects = e->quota_objects;
			pthread_mutex_unlock(&l->lock);
			page->more = 0;
		}
		more = page->more && page->count > 0;
		granary_free(page);
	}
}

static void ids_ask(struct pool_task *task)
{
	struct live *l = ((struct due *)task)->live;
	uint64_t first = 0;

	free(task);
	int err = granary_ids(l->client, IDS_WANTED, &first, GRANARY_CALL(.timeout_ms = l->options->deadline_ms));
	pthread_mutex_lock(&l->lock);
	if (err == 0 && l->id_next == l->id_end) {
		l->id_next = first;
		l->id_end = first + IDS_WANTED;
	}
	l->ids_asked = false;
	pthread_cond_broadcast(&l->room);
	pthread_mutex_unlock(&l->lock);
}

/* Lock held; it is given up meanwhile. Files with something unsent, or not made yet, are asked to send it. */
static void dirty_age(struct live *l)
{
	struct live_file *list[128];
	uint32_t count = 0;

	for (struct live_file *f = l->dirty; f && count < 64; f = f->next_dirty) {
		f->refs++;
		list[count++] = f;
	}
	for (struct live_file *f = l->fresh; f && count < 128; f = f->next_fresh) {
		f->refs++;
		list[count++] = f;
	}
	pthread_mutex_unlock(&l->lock);
	for (uint32_t i = 0; i < count; i++) {
		file_age(list[i]);
		file_close(list[i]);
	}
	pthread_mutex_lock(&l->lock);
}

static void *mind(void *arg)
{
	struct live *l = arg;
	struct timespec until;
	uint32_t ticks = 0;

	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += TICK_MS * 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&l->wake, &l->lock, &until);
		bool any = false;
		for (const struct job *j = l->jobs; j && !any; j = j->next) any = j->interrupted;
		ticks++;
		bool closed = l->closed;
		if (ticks % AGE_TICKS == 0) dirty_age(l);
		bool ids = l->id_end == l->id_next && !l->ids_asked;
		if (ids) l->ids_asked = true;
		pthread_mutex_unlock(&l->lock);
		if (any) killed_answer(l);
		if (closed) live_close_now(l);
		if (ids) due_add(l, l->writers, ids_ask);
		if (ticks % USAGE_TICKS == 0) due_add(l, l->writers, usage_ask);
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- requests ---- */

static int do_init(struct live *l, struct request *r)
{
	struct fuse_init_in in = { .major = 0 };
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };
	uint64_t can, want = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |
			     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
			     FUSE_INIT_EXT | FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 |
			     FUSE_CACHE_SYMLINKS | FUSE_ABORT_ERROR | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS |
			     (l->mount->use_rings ? KERNEL_OVER_IO_URING : 0);

	memcpy(&in, r->rest, r->rest_len < sizeof(in) ? r->rest_len : sizeof(in));
	if (in.major != FUSE_KERNEL_VERSION || in.minor < 36) return -EPROTO; /* Linux 5.17 */
	can = in.flags | (uint64_t)in.flags2 << 32;
	want &= can;
	l->mount->use_rings = (want & KERNEL_OVER_IO_URING) != 0;
	l->may_expire = (can & FUSE_HAS_EXPIRE_ONLY) != 0;
	out.flags = (uint32_t)want;
	out.flags2 = (uint32_t)(want >> 32);
	out.max_readahead = MOUNT_AHEAD_MAX;
	out.max_background = 64;
	out.congestion_threshold = 48;
	out.max_write = MOUNT_READ_MAX;
	out.time_gran = 1;
	out.max_pages = MOUNT_READ_PAGES;
	memcpy(r->out, &out, sizeof(out));
	r->out_len = sizeof(out);
	return 0;
}

static void forget_many(struct live *l, const struct request *r)
{
	const struct fuse_batch_forget_in *in = r->arg;
	struct fuse_forget_one one;

	for (uint32_t i = 0; i < in->count && (i + 1) * sizeof(one) <= r->rest_len; i++) {
		memcpy(&one, r->rest + i * sizeof(one), sizeof(one));
		node_forget(l, one.nodeid, one.nlookup);
	}
}

bool live_handle_request(struct live *l, struct request *r, mount_answer_fn *answer)
{
	struct job j;

	switch (r->opcode) {
	case FUSE_INIT: r->error = do_init(l, r); return true;
	case FUSE_FORGET: node_forget(l, r->node, ((const struct fuse_forget_in *)r->arg)->nlookup); return true;
	case FUSE_BATCH_FORGET: forget_many(l, r); return true;
	case FUSE_INTERRUPT: interrupt(l, r); return true;
	case FUSE_DESTROY: return true;
	default: break;
	}
	/* ACCESS, POLL, IOCTL, BMAP, TMPFILE, SYNCFS, STATX and what is not known: the kernel does without. */
	r->error = -ENOSYS;
	if (r->opcode >= sizeof(handlers) / sizeof(handlers[0]) || !handlers[r->opcode].run) return true;
	r->error = job_fill(&j, l, r, answer);
	if (r->error < 0) return true;
	if (handlers[r->opcode].now && handlers[r->opcode].now(&j)) {
		answer_put(&j, r);
		return true;
	}
	int err = job_start(&j); /* from here on the request is its job's, or answered already */
	if (err < 0) r->error = err;
	return err < 0;
}

/* ---- start and end ---- */

static int bucket_find(struct live *l, char *why, size_t why_size)
{
	struct due *first = calloc(1, sizeof(*first));

	if (!first) return -1;
	first->live = l;
	usage_ask(&first->task);
	if (l->root) return 0;
	snprintf(why, why_size, "%.900s", granary_last_error(l->client));
	if (!why[0]) snprintf(why, why_size, "there is no bucket '%.64s', or the key may do nothing in it", l->bucket);
	return -1;
}

/* The directory of a path, component by component. */
static int path_find(struct live *l, const char *path, char *why, size_t why_size)
{
	char name[GRANARY_KEY_LEN_MAX + 1];

	while (*path) {
		size_t len = strcspn(path, "/");
		struct granary_stat st;
		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		path += len + (path[len] == '/');
		if (len == 0) continue;
		int err = granary_stat(l->client, granary_ref_name(l->root, name), &st, NULL);
		if (err < 0 || st.kind != GRANARY_DIR) {
			snprintf(why, why_size, "'%.200s' in bucket '%.64s': %s", name, l->bucket,
				err < 0 ? granary_last_error(l->client) : "is not a directory");
			return -1;
		}
		l->root = st.object_id;
	}
	return 0;
}

int live_open(struct mount *m, struct granary_client *client, const char *bucket, const char *path, char *why,
	size_t why_size)
{
	struct live *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;

	snprintf(why, why_size, "no memory or threads");
	if (!l) return -1;
	m->live = l;
	l->mount = m;
	l->options = m->options;
	l->client = client;
	snprintf(l->bucket, sizeof(l->bucket), "%s", bucket);
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->room, &attr);
	pthread_cond_init(&l->wake, &attr);
	pthread_cond_init(&l->watch_wake, &attr);
	pthread_cond_init(&l->asked, NULL);
	pthread_condattr_destroy(&attr);
	l->unwritten_max = m->options->memory / 2;
	l->idle_max = (uint32_t)(m->options->memory / IDLE_SHARE / sizeof(struct live_node));
	l->changes = l->links_lost = 1;
	l->nodes = calloc(LIVE_NODE_SLOTS, sizeof(l->nodes[0]));
	l->names = calloc(LIVE_NODE_SLOTS, sizeof(l->names[0]));
	l->requests = pool_new(REQUEST_THREADS);
	l->writers = pool_new(WRITER_THREADS);
	l->lockers = pool_new(LOCKER_THREADS);
	if (!l->nodes || !l->names || !l->requests || !l->writers || !l->lockers) return -1;
	why[0] = '\0';
	if (bucket_find(l, why, why_size) < 0 || path_find(l, path, why, why_size) < 0) return -1;
	l->minds = pthread_create(&l->minder, NULL, mind, l) == 0;
	live_watch_start(l);
	return l->minds ? 0 : -1;
}

void live_stop(struct live *l)
{
	if (!l) return;
	live_watch_stop(l);
	if (l->minds) {
		pthread_mutex_lock(&l->lock);
		l->stop = true;
		pthread_cond_signal(&l->wake);
		pthread_mutex_unlock(&l->lock);
		pthread_join(l->minder, NULL);
		l->minds = false;
	}
	l->stop = true;
	pthread_mutex_lock(&l->lock);
	while (l->asking > 0) pthread_cond_wait(&l->asked, &l->lock);
	pthread_mutex_unlock(&l->lock);
	pool_free(l->lockers);
	pool_free(l->requests);
	l->lockers = NULL;
	l->requests = NULL;
	if (l->writers) {
		pthread_mutex_lock(&l->lock);
		while (l->dirty) dirty_age(l);
		pthread_mutex_unlock(&l->lock);
	}
	pool_free(l->writers);
	l->writers = NULL;
	live_close_now(l);
}

void live_free(struct live *l)
{
	if (!l) return;
	live_stop(l);
	if (l->nodes) nodes_free(l);
	free(l->nodes);
	free(l->names);
	while (l->buffers) {
		uint8_t *b = l->buffers;
		memcpy(&l->buffers, b, sizeof(l->buffers));
		free(b);
	}
	pthread_cond_destroy(&l->room);
	pthread_cond_destroy(&l->wake);
	pthread_cond_destroy(&l->watch_wake);
	pthread_cond_destroy(&l->asked);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
