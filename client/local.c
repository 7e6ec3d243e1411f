/* SPDX-License-Identifier: Apache-2.0 */
/* local.c -- the descriptors of packs that this process holds: asked for when they are missed, used for a lease, closed
 * soon after nobody uses them.
 *
 * Invariants: (1) a descriptor is used only while its lease runs, which the server extends only for a key that may
 * still read all of the pack; (2) nobody waits for a descriptor: what is missed is read from the server meanwhile;
 * (3) a descriptor that somebody reads through stays open until local_put(), whatever becomes of the file here;
 * (4) no read waits for a disk, and none has a disk read twice: a pack that is not in the page cache is not tried; the
 * server reads it, better than page by page. What is wanted of it over and over is brought there in the background
 * (local_warm.c), as the server reads past the page cache and nothing else would;
 * (5) a file that is in use is not given up for another one: with more packs than descriptors some stay, all others
 * come over the socket. */
#include "local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client_priv.h"
#include "common/clock.h"
#include "common/hash.h"

enum { FILE_WANTED, FILE_ASKED, FILE_HERE, FILE_REFUSED };
enum { FILES_MAX = 4096, FILES_MIN = 8, FILES_SHARE = 4, TABLE_MAX = 2 * FILES_MAX,
	COLD_MIN = 1024 * 1024, COLD_SHARE = 8, /* so much was missed, of what was found: the page cache lost it */
	CACHE_PART = 2 * 1024 * 1024, /* the page cache drops whole folios only, and they may be so large */
};
static const uint64_t lease_ns = (uint64_t)WIRE_LEASE_S * 1000000000, idle_ns = 1000000000, short_ns = 1000000000,
	probe_pause_ns = 1000000000, warm_pause_ns = 600 * (uint64_t)1000000000;

void passed_drop(struct passed *p)
{
	for (uint32_t i = 0; i < p->count; i++)
		close(p->fds[i]);
	p->count = 0;
}

static struct local_file *file_of(struct list *at) { return container_of(at, struct local_file, used); }

/* ---- the table: all with the lock held ---- */

static struct list *bucket_of(const struct local *l, uint64_t pack)
{
	return &l->buckets[hash_u64(pack) % LOCAL_BUCKETS];
}

static struct local_file *file_find(const struct local *l, uint64_t pack)
{
	list_for(at, bucket_of(l, pack)) {
		struct local_file *f = container_of(at, struct local_file, bucket);
		if (f->pack == pack)
			return f;
	}
	return NULL;
}

static void file_unref(struct local_file *f)
{
	if (--f->refs > 0)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

static void file_want(struct local *l, struct local_file *f, bool on)
{
	if (f->is_wanted == on)
		return;
	f->is_wanted = on;
	atomic_fetch_add(&l->wanted, on ? 1u : (uint32_t)-1);
}

static void file_drop(struct local *l, struct local_file *f)
{
	file_want(l, f, false);
	list_remove(&f->bucket);
	list_remove(&f->used);
	f->gone = true;
	l->count--;
	l->here -= f->state == FILE_HERE;
	file_unref(f);
}

static void table_clear(struct local *l)
{
	while (l->buckets && !list_empty(&l->used))
		file_drop(l, file_of(l->used.next));
}

static bool table_make(struct local *l)
{
	struct rlimit limit;

	if (l->buckets)
		return true;
	l->buckets = malloc(LOCAL_BUCKETS * sizeof(*l->buckets));
	if (!l->buckets)
		return false;
	for (uint32_t i = 0; i < LOCAL_BUCKETS; i++)
		list_init(&l->buckets[i]);
	uint64_t most = getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / FILES_SHARE : FILES_MIN;
	l->files_max = most > FILES_MAX ? FILES_MAX : most < FILES_MIN ? FILES_MIN : (uint32_t)most;
	return true;
}

static struct local_file *file_new(struct local *l, uint64_t pack)
{
	if (l->count >= TABLE_MAX) /* full of what was refused: the oldest goes */
		file_drop(l, file_of(l->used.next));
	struct local_file *f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->pack = pack;
	f->fd = -1;
	f->refs = 1;
	list_init(&f->warm);
	list_push(bucket_of(l, pack), &f->bucket);
	list_push(&l->used, &f->used);
	l->count++;
	return f;
}

/* Room for one more descriptor: there is, or the one that was not used for longest goes, unless it is in use. */
static bool file_room(struct local *l, uint64_t now)
{
	if (l->here < l->files_max)
		return true;
	list_for(at, &l->used) {
		struct local_file *f = file_of(at);
		if (f->state != FILE_HERE)
			continue;
		if (f->refs > 1 || now - f->used_ns < idle_ns)
			return false;
		file_drop(l, f);
		return true;
	}
	return false;
}

/* ---- life ---- */

static void local_cold_init(struct local *l)
{
	list_init(&l->to_advise);
	list_init(&l->to_read);
	pthread_cond_init(&l->cold_wake, NULL);
	pthread_cond_init(&l->cold_idle, NULL);
	l->cold_threads = 0;
}

void local_init(struct granary_client *c)
{
	struct local *l = &c->local;

	pthread_mutex_init(&l->lock, NULL);
	list_init(&l->used);
	list_init(&l->to_warm);
	local_cold_init(l);
	atomic_store(&l->next_ns, NEVER_NS);
}

void local_release(struct granary_client *c)
{
	struct local *l = &c->local;

	table_clear(l);
	free(l->buckets);
	l->buckets = NULL;
	pthread_cond_destroy(&l->cold_wake);
	pthread_cond_destroy(&l->cold_idle);
	pthread_mutex_destroy(&l->lock);
}

/* The parent's lock was held across fork(). Its readers are not here: what they referenced is closed with the rest. */
void local_forked(struct granary_client *c)
{
	struct local *l = &c->local;

	pthread_mutex_init(&l->lock, NULL);
	list_init(&l->to_warm);
	local_cold_init(l);
	l->warmer_runs = l->warmer_ended = l->stopping = false;
	if (l->buckets)
		list_for(at, &l->used)
			file_of(at)->refs = 1;
	table_clear(l);
	atomic_store(&l->is_open, false);
	atomic_store(&l->next_ns, NEVER_NS);
	l->asking = false;
	l->boot_id = 0;
}

/* ---- readers ---- */

/* What must be asked for, and when: lock held. True: the client's thread is to be woken, as nothing else may do it. */
static bool file_look(struct local *l, struct local_file *f, uint64_t now)
{
	bool over = now >= f->lease_ns;

	if (f->state == FILE_HERE && !over) {
		if (f->lease_ns - now > lease_ns / 2 || f->is_wanted)
			return false;
		file_want(l, f, true);
		return true;
	}
	if (f->state == FILE_HERE || (f->state == FILE_REFUSED && over)) {
		uint64_t pack = f->pack;
		file_drop(l, f);
		f = file_new(l, pack);
	}
	if (f && f->state == FILE_WANTED && !f->is_wanted && file_room(l, now))
		file_want(l, f, true);
	return false;
}

static void wake(struct granary_client *c)
{
	pthread_mutex_lock(&c->lock);
	enum wake how = c->thread_runs ? client_wake(c) : WAKE_NOT;
	pthread_mutex_unlock(&c->lock);
	client_wake_now(c, how);
}

/* It is not in the page cache: once half of it was wanted it is brought there. Lock held. */
static void file_demand(struct granary_client *c, struct local_file *f, uint64_t len, uint64_t now)
{
	uint64_t cold = atomic_fetch_add_explicit(&f->cold, len, memory_order_relaxed) + len;

	if (cold < f->size / 2 || (f->warmed_ns != 0 && now - f->warmed_ns < warm_pause_ns))
		return;
	f->warmed_ns = now;
	local_warm(c, f);
}

static void file_heat(struct local_file *f, bool is_hot)
{
	if (atomic_exchange(&f->is_hot, is_hot) == is_hot)
		return;
	atomic_store_explicit(&f->hot, 0, memory_order_relaxed);
	atomic_store_explicit(&f->cold, 0, memory_order_relaxed);
}

struct local_file *local_get(struct granary_client *c, uint64_t pack, uint64_t len)
{
	struct local *l = &c->local;

	if (!atomic_load_explicit(&l->is_open, memory_order_relaxed))
		return NULL;
	uint64_t now = clock_mono_ns();
	bool due = false;
	pthread_mutex_lock(&l->lock);
	struct local_file *f = table_make(l) ? file_find(l, pack) : NULL;
	if (!f && l->buckets)
		f = file_new(l, pack);
	if (f)
		due = file_look(l, f, now);
	f = f && l->buckets ? file_find(l, pack) : NULL;
	if (f) {
		f->used_ns = now;
		list_remove(&f->used);
		list_push(&l->used, &f->used);
	}
	f = f && f->state == FILE_HERE ? f : NULL;
	bool probe = f && !f->is_hot && now - f->probed_ns > probe_pause_ns;
	if (f && !f->is_hot)
		file_demand(c, f, len, now);
	if (probe)
		f->probed_ns = now;
	f = f && (f->is_hot || probe) ? f : NULL;
	if (f)
		f->refs++;
	pthread_mutex_unlock(&l->lock);
	if (due)
		wake(c);
	if (!probe || local_probe(f)) {
		if (probe)
			file_heat(f, true);
		return f;
	}
	local_put(c, f);
	return NULL;
}

struct local_file *local_get_cold(struct granary_client *c, uint64_t pack)
{
	struct local *l = &c->local;

	pthread_mutex_lock(&l->lock);
	struct local_file *f = l->buckets ? file_find(l, pack) : NULL;
	f = f && f->state == FILE_HERE && clock_mono_ns() < f->lease_ns ? f : NULL;
	if (f)
		f->refs++;
	pthread_mutex_unlock(&l->lock);
	return f;
}

void local_put(struct granary_client *c, struct local_file *f)
{
	struct local *l = &c->local;

	if (!f)
		return;
	pthread_mutex_lock(&l->lock);
	file_unref(f);
	pthread_mutex_unlock(&l->lock);
}

/* In its place one that is not asked for until then: lock held. */
static void file_refused(struct local *l, uint64_t pack, uint64_t until_ns)
{
	struct local_file *f = file_find(l, pack);

	if (f)
		file_drop(l, f);
	f = file_new(l, pack);
	if (!f)
		return;
	f->state = FILE_REFUSED;
	f->lease_ns = until_ns;
}

/* A file system that cannot say what is in its page cache is not read from here. */
static void file_refuse(struct granary_client *c, const struct local_file *f)
{
	pthread_mutex_lock(&c->local.lock);
	if (!f->gone)
		file_refused(&c->local, f->pack, NEVER_NS);
	pthread_mutex_unlock(&c->local.lock);
}

/* -1 with ERANGE: the file ends before; the server has words for it. */
static ssize_t file_read(const struct local_file *f, struct iovec *iov, int count, uint64_t offset, size_t len,
	int flags)
{
	ssize_t n; /* preadv2() is a place where threads may be canceled, which takes a while */

	errno = ERANGE;
	if (offset > f->size || len > f->size - offset)
		return -1;
	do
		n = syscall(SYS_preadv2, f->fd, iov, count, (long)offset, 0L, flags);
	while (n < 0 && errno == EINTR);
	return n;
}

static size_t iov_len(const struct iovec *iov, int count)
{
	size_t len = 0;

	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	return len;
}

bool local_read_cold(const struct local_file *f, struct iovec *iov, int count, uint64_t offset)
{
	size_t len = iov_len(iov, count);

	return file_read(f, iov, count, offset, len, 0) == (ssize_t)len;
}

bool local_read(struct granary_client *c, struct local_file *f, struct iovec *iov, int count, uint64_t offset)
{
	size_t len = iov_len(iov, count);
	ssize_t n = file_read(f, iov, count, offset, len, RWF_NOWAIT);

	if (n < 0 && errno == ERANGE)
		return false;
	if (n == (ssize_t)len) {
		atomic_fetch_add_explicit(&f->hot, len, memory_order_relaxed);
		return true;
	}
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
		file_refuse(c, f);
		return false;
	}
	uint64_t cold = atomic_fetch_add_explicit(&f->cold, len, memory_order_relaxed) + len;
	if (cold > COLD_MIN + atomic_load_explicit(&f->hot, memory_order_relaxed) / COLD_SHARE)
		file_heat(f, false);
	return false;
}

void local_bad(const struct local_file *f, uint64_t offset, uint64_t len)
{
	uint64_t from = offset - offset % CACHE_PART, to = offset + len + CACHE_PART - 1;

	posix_fadvise(f->fd, (off_t)from, (off_t)(to - to % CACHE_PART - from), POSIX_FADV_DONTNEED);
}

/* ---- asking ---- */

struct ask {
	struct rpc rpc;
	uint32_t count;
	struct { uint64_t pack, dev, ino; } files[DESCRIPTORS_MAX];
};

static struct ask *ask_of(struct rpc *r) { return container_of(r, struct ask, rpc); }

static size_t ask_body_size(struct rpc *r)
{
	return 4 + ask_of(r)->count * 24;
}

static int ask_encode(struct rpc *r, struct wr *w)
{
	const struct ask *a = ask_of(r);

	wr_u32(w, a->count);
	for (uint32_t i = 0; i < a->count; i++) {
		wr_u64(w, a->files[i].pack);
		wr_u64(w, a->files[i].dev);
		wr_u64(w, a->files[i].ino);
	}
	return 0;
}

/* The descriptor of this file among those that came; -1: it got lost, as this process may not open so many. */
static int passed_take(struct passed *p, uint64_t dev, uint64_t ino)
{
	struct stat st;

	for (uint32_t i = 0; i < p->count; i++) {
		int fd = p->fds[i];
		if (fstat(fd, &st) != 0 || st.st_dev != dev || st.st_ino != ino)
			continue;
		p->fds[i] = p->fds[--p->count];
		return fd;
	}
	return -1;
}

/* A new file in the place of f, which readers may still use: lock held. */
static void file_here(struct local *l, uint64_t pack, int fd, const struct local_file *what)
{
	struct local_file *f = file_find(l, pack);

	if (f)
		file_drop(l, f);
	f = file_new(l, pack);
	if (!f) {
		close(fd);
		return;
	}
	f->fd = fd;
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no more is read than what is wanted: that is known here */
	f->dev = what->dev;
	f->ino = what->ino;
	f->size = what->size;
	f->state = FILE_HERE;
	f->lease_ns = what->lease_ns;
	f->used_ns = what->used_ns;
	l->here++;
}

static void entry_take(struct granary_client *c, struct passed *passed, struct cur *in)
{
	struct local *l = &c->local;
	struct local_file what = { .pack = cur_u64(in) };
	uint16_t status = cur_u16(in);
	uint8_t flags = cur_u8(in);
	uint64_t now = c->io.now_ns;

	what.dev = cur_u64(in);
	what.ino = cur_u64(in);
	what.size = cur_u64(in);
	what.lease_ns = now + lease_ns;
	what.used_ns = now;
	int fd = flags & DESCRIPTOR_PASSED ? passed_take(passed, what.dev, what.ino) : -1;
	struct local_file *f = file_find(l, what.pack);
	if (fd >= 0 && f) {
		file_here(l, what.pack, fd, &what);
		l->has_news = true;
	} else if (flags & DESCRIPTOR_SAME && f && f->state == FILE_HERE) {
		f->lease_ns = what.lease_ns;
	} else if (f) { /* one that may still grow is asked for again soon */
		if (flags & DESCRIPTOR_PASSED && l->here < l->files_max) /* this process may not open so many */
			l->files_max = l->here > FILES_MIN ? l->here : FILES_MIN;
		file_refused(l, what.pack, now + (status == GRANARY_EBUSY ? short_ns : lease_ns));
	} else if (fd >= 0) {
		close(fd);
	}
	if (what.lease_ns < atomic_load(&l->next_ns))
		atomic_store(&l->next_ns, what.lease_ns);
}

static int ask_answer(struct rpc *r, struct slice meta, struct slice data)
{
	struct granary_client *c = r->op->client;
	struct passed *passed = &r->conn->passed;
	struct cur in = cur_of(meta.p, meta.len);
	uint32_t count = cur_u32(&in);

	(void)data;
	c->local.asking = false;
	if (count != ask_of(r)->count || meta.len != 4 + (size_t)count * DESCRIPTORS_ENTRY_SIZE)
		return -GRANARY_EPROTO;
	pthread_mutex_lock(&c->local.lock);
	for (uint32_t i = 0; i < count; i++)
		entry_take(c, passed, &in);
	pthread_mutex_unlock(&c->local.lock);
	passed_drop(passed);
	return 0;
}

/* The server passes none, to this key or at all: nothing is asked for again on its connections. */
static bool ask_failed(struct rpc *r, int err)
{
	struct granary_client *c = r->op->client;

	(void)err;
	c->local.asking = false;
	atomic_store(&c->local.is_open, false);
	rpc_end(r);
	return true;
}

static const struct rpc_kind ask_kind = {
	.wire_op = OP_DESCRIPTORS, .plain = true, .is_patient = true, .body_size = ask_body_size, .encode = ask_encode,
	.answer = ask_answer, .failed = ask_failed,
};

static void ask_fill(struct local *l, struct ask *a)
{
	pthread_mutex_lock(&l->lock);
	list_for(at, &l->used) {
		struct local_file *f = file_of(at);
		if (a->count == DESCRIPTORS_MAX)
			break;
		if (!f->is_wanted)
			continue;
		file_want(l, f, false);
		if (f->state == FILE_WANTED)
			f->state = FILE_ASKED;
		a->files[a->count].pack = f->pack;
		a->files[a->count].dev = f->state == FILE_HERE ? f->dev : 0;
		a->files[a->count++].ino = f->state == FILE_HERE ? f->ino : 0;
	}
	pthread_mutex_unlock(&l->lock);
}

static void ask(struct granary_client *c)
{
	struct ask *a = rpc_new(sizeof(*a), &ask_kind, &c->io.own);

	if (!a)
		return;
	ask_fill(&c->local, a);
	if (a->count == 0) {
		rpc_drop(&a->rpc);
		return;
	}
	c->local.asking = true;
	rpc_queue(&a->rpc);
}

/* ---- the client's thread ---- */

/* Those whose lease is over, and those that were asked for in vain. */
static void sweep(struct local *l, uint64_t now)
{
	uint64_t next = NEVER_NS;

	pthread_mutex_lock(&l->lock);
	list_for_safe(at, after, &l->used) {
		struct local_file *f = file_of(at);
		if (f->state != FILE_HERE && f->state != FILE_REFUSED)
			continue;
		if (f->lease_ns <= now)
			file_drop(l, f);
		else if (f->lease_ns < next)
			next = f->lease_ns;
	}
	atomic_store(&l->next_ns, next);
	pthread_mutex_unlock(&l->lock);
}

static bool has_server(const struct granary_client *c)
{
	for (uint32_t i = 0; i < c->config.connections; i++)
		if (c->io.conns[i].state == CONN_READY)
			return true;
	return false;
}

/* Nothing is asked for that would have a connection opened. */
void local_turn(struct granary_client *c)
{
	struct local *l = &c->local;

	if (atomic_load_explicit(&l->next_ns, memory_order_relaxed) <= c->io.now_ns)
		sweep(l, c->io.now_ns);
	if (atomic_load_explicit(&l->wanted, memory_order_relaxed) > 0 && !l->asking && atomic_load(&l->is_open) &&
		has_server(c))
		ask(c);
}

uint64_t local_next_ns(const struct granary_client *c)
{
	return atomic_load_explicit(&c->local.next_ns, memory_order_relaxed);
}

static void forget(struct local *l)
{
	pthread_mutex_lock(&l->lock);
	table_clear(l);
	pthread_mutex_unlock(&l->lock);
}

void local_hello(struct granary_client *c, struct conn *k, uint64_t boot_id)
{
	struct local *l = &c->local;
	bool is_unix = c->config.hosts[k->host_at].is_unix;

	if (c->config.local_reads == GRANARY_LOCAL_OFF)
		return;
	if (l->boot_id != boot_id || !is_unix)
		forget(l);
	l->boot_id = boot_id;
	atomic_store(&l->is_open, is_unix);
}

void local_lost(struct granary_client *c)
{
	struct local *l = &c->local;

	if (!l->asking)
		return;
	l->asking = false;
	while (!list_empty(&c->io.own.rpcs))
		rpc_drop(container_of(c->io.own.rpcs.next, struct rpc, op_link));
	pthread_mutex_lock(&l->lock);
	list_for_safe(at, after, &l->used)
		if (file_of(at)->state == FILE_ASKED)
			file_drop(l, file_of(at));
	pthread_mutex_unlock(&l->lock);
}
