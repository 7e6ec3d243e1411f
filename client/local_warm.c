/* SPDX-License-Identifier: Apache-2.0 */
/* local_warm.c -- what lies in the page cache; and brings packs there that much is wanted of, whole: one thread, in the
 * background, at the lowest priority of CPU and disk, a step at a time, and only while the machine has memory that
 * nobody uses.
 *
 * Invariants: (1) no reader waits for it; (2) it stops within a step when the client closes; (3) a step that is there
 * already is not read. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include "client_priv.h"
#include "common/clock.h"
#include "common/hash.h"
#include "local.h"

enum { STEP = 2 * 1024 * 1024, MEMORY_SHARE = 8, NICE = 19, PAGE = 4096, PROBES = 16 };
enum { IOPRIO_OF_PROCESS = 1, IOPRIO_IDLE = 3 << 13 }; /* ABI of the kernel; libcs have no names for it */

bool local_memory_is_free(void)
{
	struct sysinfo s;

	return sysinfo(&s) == 0 && s.freeram > s.totalram / MEMORY_SHARE;
}

static bool byte_is_here(int fd, uint64_t offset)
{
	char byte;
	struct iovec one = { &byte, 1 };

	return preadv2(fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

bool local_probe(const struct local_file *f)
{
	uint64_t part = f->size / PROBES, salt = clock_mono_ns();

	/* Elsewhere each time: what is looked for and not there is read by that. */
	for (uint64_t i = 0; i < PROBES; i++)
		if (!byte_is_here(f->fd, part * i + hash_u64(salt + i) % part))
			return false;
	return true;
}

/* False: no more of this file. */
static bool step_warm(int fd, uint64_t offset, uint64_t len)
{
	char byte;

	if (byte_is_here(fd, offset) && byte_is_here(fd, offset + len / 2) && byte_is_here(fd, offset + len - 1))
		return true;
	if (!local_memory_is_free())
		return false;
	posix_fadvise(fd, (off_t)offset, (off_t)len, POSIX_FADV_WILLNEED);
	for (uint64_t at = offset; at < offset + len; at += PAGE) /* waits for what is on its way */
		if (pread(fd, &byte, 1, (off_t)at) != 1)
			return false;
	return true;
}

static bool stops(struct local *l)
{
	pthread_mutex_lock(&l->lock);
	bool stopping = l->stopping;
	pthread_mutex_unlock(&l->lock);
	return stopping;
}

static void file_warm(struct local *l, const struct local_file *f)
{
	for (uint64_t at = 0; at < f->size && !stops(l); at += STEP) {
		uint64_t len = f->size - at < STEP ? f->size - at : STEP;
		if (!step_warm(f->fd, at, len))
			break;
	}
}

static void *warm_main(void *client)
{
	struct granary_client *c = client;
	struct local *l = &c->local;

	setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
	syscall(SYS_ioprio_set, IOPRIO_OF_PROCESS, 0, IOPRIO_IDLE);
	pthread_mutex_lock(&l->lock);
	while (!l->stopping && !list_empty(&l->to_warm)) {
		struct local_file *f = container_of(list_pop(&l->to_warm), struct local_file, warm);
		list_init(&f->warm);
		pthread_mutex_unlock(&l->lock);
		file_warm(l, f);
		atomic_store(&f->is_hot, local_probe(f));
		local_put(c, f);
		pthread_mutex_lock(&l->lock);
	}
	l->warmer_ended = true;
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

void local_warm(struct granary_client *c, struct local_file *f)
{
	struct local *l = &c->local;
	sigset_t all, before;

	if (l->stopping || !list_empty(&f->warm))
		return;
	f->refs++;
	list_push(&l->to_warm, &f->warm);
	if (l->warmer_runs && !l->warmer_ended)
		return;
	if (l->warmer_runs)
		pthread_join(l->warmer, NULL); /* it does nothing any more */
	l->warmer_ended = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	l->warmer_runs = pthread_create(&l->warmer, NULL, warm_main, c) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!l->warmer_runs) {
		list_remove(&f->warm);
		list_init(&f->warm);
		f->refs--;
		return;
	}
	pthread_setname_np(l->warmer, "granary-warm");
}

void local_warm_stop(struct granary_client *c)
{
	struct local *l = &c->local;

	pthread_mutex_lock(&l->lock);
	l->stopping = true;
	bool runs = l->warmer_runs;
	l->warmer_runs = false;
	pthread_mutex_unlock(&l->lock);
	if (runs)
		pthread_join(l->warmer, NULL);
	for (struct list *at; (at = list_pop(&l->to_warm)) != NULL;)
		local_put(c, container_of(at, struct local_file, warm));
}
