/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c -- how far a long verb is. The working threads only add to counters; one thread shows them. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

enum { BAR_INTERVAL_MS = 100, LINE_INTERVAL_MS = 3000, BAR_WIDTH = 24, LINE_MAX_CHARS = 240 };

void progress_add(struct progress *p, uint64_t files, uint64_t bytes)
{
	atomic_fetch_add_explicit(&p->files, files, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->bytes, bytes, memory_order_relaxed);
}

double progress_seconds(const struct progress *p)
{
	double seconds = (double)(clock_mono_ns() - p->began_ns) / 1e9;

	return seconds < 1e-9 ? 1e-9 : seconds;
}

/* Done so far, 0..1; negative when the total is not known. */
static double progress_share(const struct progress *p)
{
	uint64_t bytes = atomic_load(&p->bytes), bytes_total = atomic_load(&p->bytes_total);
	uint64_t files = atomic_load(&p->files), files_total = atomic_load(&p->files_total);
	double share;

	if (bytes_total == 0 && files_total == 0) return -1;
	share = bytes_total > 0 ? (double)bytes / (double)bytes_total
				: (double)files / (double)files_total;
	return share > 1 ? 1 : share;
}

/* "import  34%  1,200/3,500  12 MiB  40 MiB/s  ETA 3s" */
static void progress_text(const struct progress *p, char *out, size_t cap)
{
	char files[TEXT_SHORT], total[TEXT_SHORT], bytes[TEXT_SHORT], rate[TEXT_SHORT],
		eta[TEXT_SHORT];
	double share = progress_share(p), seconds = progress_seconds(p);
	uint64_t done = atomic_load(&p->bytes), files_total = atomic_load(&p->files_total);
	char percent[16] = "";
	const char *left = "";

	if (share >= 0) snprintf(percent, sizeof(percent), " %3.0f%%", share * 100);
	if (share > 0 && share < 1 && seconds > 0.5) {
		human_seconds(eta, seconds * (1 - share) / share);
		left = eta;
	}
	snprintf(out, cap, "%s%s  %s%s%s  %s  %s/s%s%s", p->what, percent,
		human_count(files, atomic_load(&p->files)), files_total > 0 ? "/" : "",
		files_total > 0 ? human_count(total, files_total) : "", human_bytes(bytes, done),
		human_bytes(rate, (uint64_t)((double)done / seconds)),
		left[0] != '\0' ? "  ETA " : "", left);
}

static void progress_draw(struct progress *p)
{
	char text[LINE_MAX_CHARS], bar[BAR_WIDTH + 3] = "";
	double share = progress_share(p);
	struct winsize size = { .ws_col = 0 };
	unsigned width = 80;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) width = size.ws_col;
	progress_text(p, text, sizeof(text));
	if (share >= 0 && strlen(text) + BAR_WIDTH + 3 < width) {
		unsigned full = (unsigned)(share * BAR_WIDTH);
		bar[0] = '[';
		for (unsigned i = 0; i < BAR_WIDTH; i++) bar[1 + i] = i < full ? '#' : '.';
		bar[BAR_WIDTH + 1] = ']';
	}
	fprintf(stderr, "\r\033[K%s%s%.*s", bar, bar[0] != '\0' ? " " : "", (int)(width - 1), text);
	fflush(stderr);
	p->drawn = true;
}

static void *progress_main(void *arg)
{
	struct progress *p = arg;
	uint64_t interval_ms = p->bar ? BAR_INTERVAL_MS : LINE_INTERVAL_MS;
	char text[LINE_MAX_CHARS];

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += (long)(interval_ms % 1000 * 1000000);
		until.tv_sec += (time_t)(interval_ms / 1000) + until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&p->wake, &p->lock, &until) == 0) continue;
		if (p->bar) {
			progress_draw(p);
		} else {
			progress_text(p, text, sizeof(text));
			fprintf(stderr, "%s\n", text);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

void progress_start(struct progress *p, const char *what)
{
	memset(p, 0, sizeof(*p));
	p->what = what;
	p->began_ns = clock_mono_ns();
	if (opts.quiet || opts.json) return;
	p->bar = stderr_is_tty();
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	p->started = pthread_create(&p->thread, NULL, progress_main, p) == 0;
}

void progress_stop(struct progress *p)
{
	if (!p->started) return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	if (p->drawn) fputs("\r\033[K", stderr);
	p->started = false;
}
