/* SPDX-License-Identifier: Apache-2.0 */
/* bench_wire.c -- the machine's own limit for moving samples over loopback: a bare sender that picks them out
 * of memory at
 * random and a bare receiver, one connection, a window of requests in flight, nothing checked, nothing looked up.
 *
 *   bench_wire SAMPLE_BYTES COALESCE_BYTES WINDOW SECONDS [MEMORY_MIB]
 *
 * COALESCE_BYTES 0: one sample a send. Prints one JSON object: samples/s, and CPU microseconds a sample of each side
 * (user and system, from getrusage). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/loopback.h"
#include "common/rand.h"

enum { REQUEST_SIZE = 16, HEADER_SIZE = 16, IOV_MAX_USED = 512, RECV_SIZE = 4 << 20 };

struct job {
	size_t sample, coalesce, window, memory;
	double seconds;
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_of(int who)
{
	struct rusage u;
	getrusage(who, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *what)
{
	fprintf(stderr, "bench_wire: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void send_all(int fd, struct iovec *iov, size_t count)
{
	while (count > 0) {
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = count };
		ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);
		if (n < 0) {
			if (errno == EINTR) continue;
			exit(0); /* the receiver is done */
		}
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
}

/* Answers requests (a sample index each) until the receiver closes. */
static void sender(int fd, const struct job *j, char *memory)
{
	static char requests[REQUEST_SIZE * 4096], header[HEADER_SIZE];
	static struct iovec iov[IOV_MAX_USED * 2];
	size_t have = 0;
	for (;;) {
		ssize_t n = recv(fd, requests + have, sizeof requests - have, 0);
		if (n <= 0) return;
		have += (size_t)n;
		size_t count = have / REQUEST_SIZE, used = 0, bytes = 0;
		for (size_t i = 0; i < count; i++) {
			uint64_t index;
			memcpy(&index, requests + i * REQUEST_SIZE, sizeof index);
			iov[used++] = (struct iovec){ header, HEADER_SIZE };
			iov[used++] = (struct iovec){ memory + index * j->sample, j->sample };
			bytes += j->sample;
			if (bytes + j->sample > j->coalesce || used + 2 > IOV_MAX_USED ||
				i + 1 == count) {
				send_all(fd, iov, used);
				used = bytes = 0;
			}
		}
		memmove(requests, requests + count * REQUEST_SIZE, have - count * REQUEST_SIZE);
		have -= count * REQUEST_SIZE;
	}
}

static void ask(int fd, struct rng *r, size_t count, uint64_t samples)
{
	char out[REQUEST_SIZE * 256];
	while (count > 0) {
		size_t n = count < 256 ? count : 256;
		for (size_t i = 0; i < n; i++) {
			uint64_t index = rng_below(r, samples);
			memcpy(out + i * REQUEST_SIZE, &index, sizeof index);
		}
		struct iovec iov = { out, n * REQUEST_SIZE };
		send_all(fd, &iov, 1);
		count -= n;
	}
}

/* Returns samples received in j->seconds. */
static uint64_t receiver(int fd, const struct job *j, double *elapsed)
{
	char *buf = malloc(RECV_SIZE);
	struct rng r;
	uint64_t samples = j->memory / j->sample, got = 0, bytes = 0;
	double start = now(), end = start + j->seconds;
	if (!buf) die("memory");
	rng_seed(&r, 1);
	ask(fd, &r, j->window, samples);
	while (now() < end) {
		ssize_t n = recv(fd, buf, RECV_SIZE, 0);
		if (n <= 0) die("recv");
		bytes += (uint64_t)n;
		uint64_t whole = bytes / (j->sample + HEADER_SIZE);
		if (whole - got >= (j->window + 3) / 4 || whole - got >= 64) {
			ask(fd, &r, (size_t)(whole - got), samples);
			got = whole;
		}
	}
	*elapsed = now() - start;
	free(buf);
	return bytes / (j->sample + HEADER_SIZE);
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: bench_wire SAMPLE_BYTES COALESCE_BYTES WINDOW SECONDS "
				"[MEMORY_MIB]\n");
		return 2;
	}
	struct job j = { .sample = strtoull(argv[1], NULL, 10),
		.coalesce = strtoull(argv[2], NULL, 10),
		.window = strtoull(argv[3], NULL, 10),
		.seconds = strtod(argv[4], NULL),
		.memory = (argc > 5 ? strtoull(argv[5], NULL, 10) : 256) << 20 };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	/* As our server does: with a congestion control that paces the limit would be a lower one. */
	setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, LOOPBACK_CONGESTION, sizeof(LOOPBACK_CONGESTION) - 1);
	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) < 0 ||
		listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&a, &len) < 0)
		die("listen");
	/* Touched before the fork, so that it is in nobody's CPU time. */
	char *memory =
		mmap(NULL, j.memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) die("memory");
	madvise(memory, j.memory, MADV_HUGEPAGE);
	memset(memory, 'x', j.memory);
	pid_t child = fork();
	if (child == 0) {
		int fd = accept(listener, NULL, NULL);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		sender(fd, &j, memory);
		_exit(0);
	}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0) die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct job warm = j; /* the connection's windows open before the clock starts */
	double elapsed = 0, before;
	warm.seconds = 0.05;
	warm.window = 1;
	if (j.window > 1) receiver(fd, &warm, &elapsed); /* it leaves one more in flight */
	before = cpu_of(RUSAGE_SELF);
	uint64_t n = receiver(fd, &j, &elapsed);
	double client = cpu_of(RUSAGE_SELF) - before;
	shutdown(fd, SHUT_RDWR);
	waitpid(child, NULL, 0);
	double server = cpu_of(RUSAGE_CHILDREN);
	printf("{\"samples_per_s\": %.1f, \"server_us\": %.3f, \"client_us\": %.3f, \"samples\": "
	       "%llu}\n",
		(double)n / elapsed, server / (double)n * 1e6, client / (double)n * 1e6,
		(unsigned long long)n);
	return 0;
}
