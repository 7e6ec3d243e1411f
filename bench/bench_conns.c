/* SPDX-License-Identifier: Apache-2.0 */
/* bench_conns.c -- many connections at once, each reading batches one after the other: one epoll loop that speaks the
 * protocol itself (docs/PROTOCOL.md 1, 2, 4), because a thread a connection would measure the scheduler.
 *
 *   bench_conns HOST PORT CREDENTIALS BUCKET PREFIX COUNT BATCH CONNECTIONS SECONDS
 *
 * Data is received and dropped (frames are followed by their lengths, statuses are checked, checksums are the library's
 * work). Prints one JSON object: samples/s of all, and the slowest connection's rate over the mean. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/hmac.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/rand.h"
#include "common/wire.h"

enum { BUF_SIZE = 256 * 1024, META_MAX = 64 * 1024, DIR_SAMPLES = 1000 };

struct conn {
	int fd;
	uint8_t head[WIRE_HEADER_SIZE];
	uint32_t head_len, batch_left;
	uint64_t skip; /* bytes of the frame still to come */
	uint64_t done, request;
};

struct world {
	const char *bucket, *prefix;
	uint64_t count;
	uint32_t batch;
	char key_id[64];
	uint8_t secret[32];
	struct rng rng;
	uint64_t warm;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_conns: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void load_credentials(struct world *w, const char *path)
{
	char line[512];
	FILE *f = fopen(path, "r");
	if (!f) die(path);
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\r\n")] = 0;
		if (strncmp(line, "access_key=", 11) == 0)
			snprintf(w->key_id, sizeof w->key_id, "%.60s", line + 11);
		if (strncmp(line, "secret=", 7) == 0)
			for (int i = 0; i < 32; i++) {
				unsigned v = 0;
				sscanf(line + 7 + 2 * i, "%2x", &v);
				w->secret[i] = (uint8_t)v;
			}
	}
	fclose(f);
}

static void send_frame(int fd, uint8_t op, uint64_t request, const uint8_t *meta, size_t len)
{
	uint8_t out[META_MAX + WIRE_HEADER_SIZE];
	struct frame f = { .op = op,
		.meta_len = (uint32_t)len,
		.request = request,
		.meta_crc = len ? crc32c(0, meta, len) : 0 };
	frame_encode(&f, out);
	if (len) memcpy(out + WIRE_HEADER_SIZE, meta, len);
	if (send(fd, out, len + WIRE_HEADER_SIZE, MSG_NOSIGNAL) !=
		(ssize_t)(len + WIRE_HEADER_SIZE))
		die("send");
}

static size_t recv_frame(int fd, uint8_t *meta, size_t cap)
{
	uint8_t head[WIRE_HEADER_SIZE];
	struct frame f;
	if (recv(fd, head, sizeof head, MSG_WAITALL) != (ssize_t)sizeof head ||
		frame_decode(head, &f) < 0)
		die("log-in: no frame");
	if (f.meta_len > cap ||
		(f.meta_len && recv(fd, meta, f.meta_len, MSG_WAITALL) != (ssize_t)f.meta_len))
		die("log-in: cut short");
	if (f.status != 0) {
		fprintf(stderr, "bench_conns: log-in refused: %u\n", f.status);
		exit(1);
	}
	return f.meta_len;
}

static void log_in(const struct world *w, int fd)
{
	uint8_t said[META_MAX], hello[1024], answer[1024], mac[32];
	struct wr m = wr_of(hello, sizeof hello);
	unsigned mac_len = sizeof mac;
	wr_u16(&m, 1);
	wr_u16(&m, 1);
	wr_u32(&m, 1 << 20);
	rand_bytes(wr_room(&m, 32), 32);
	wr_u64(&m, 0);
	wr_u8(&m, 0);
	wr_bytes16(&m, slice_of("", 0));
	wr_bytes16(&m, slice_str(w->key_id));
	wr_bytes16(&m, slice_str("bench_conns"));
	send_frame(fd, OP_HELLO, 1, hello, wr_len(&m));
	size_t n = recv_frame(fd, answer, sizeof answer);
	struct wr t = wr_of(said, sizeof said);
	wr_bytes(&t, WIRE_CLIENT_LABEL, strlen(WIRE_CLIENT_LABEL));
	wr_bytes(&t, hello, wr_len(&m));
	wr_bytes(&t, answer, n);
	HMAC(EVP_sha256(), w->secret, 32, said, wr_len(&t), mac, &mac_len);
	send_frame(fd, OP_AUTH, 2, mac, sizeof mac);
	recv_frame(fd, answer, sizeof answer);
}

static void ask(struct world *w, struct conn *c)
{
	uint8_t meta[META_MAX];
	struct wr m = wr_of(meta, sizeof meta);
	char key[256];
	wr_bytes16(&m, slice_str(w->bucket));
	wr_u8(&m, 0);
	wr_u32(&m, w->batch);
	for (uint32_t i = 0; i < w->batch; i++) {
		uint64_t at = rng_below(&w->rng, w->count);
		snprintf(key, sizeof key, "%s/d%04llu/s%08llu", w->prefix,
			(unsigned long long)(at / DIR_SAMPLES), (unsigned long long)at);
		wr_u8(&m, 0);
		wr_u8(&m, REF_KEY);
		wr_bytes16(&m, slice_str(key));
	}
	if (!wr_ok(&m)) die("batch too large");
	send_frame(c->fd, OP_READ, ++c->request + 2, meta, wr_len(&m));
}

/* Follows the frames in n received bytes. */
static void follow(struct world *w, struct conn *c, const uint8_t *p, size_t n)
{
	while (n > 0) {
		if (c->skip > 0) {
			size_t k = c->skip < n ? (size_t)c->skip : n;
			c->skip -= k;
			p += k;
			n -= k;
		} else {
			size_t k = WIRE_HEADER_SIZE - c->head_len < n
					   ? WIRE_HEADER_SIZE - c->head_len
					   : n;
			memcpy(c->head + c->head_len, p, k);
			c->head_len += (uint32_t)k;
			p += k;
			n -= k;
			if (c->head_len < WIRE_HEADER_SIZE) return;
			struct frame f;
			if (frame_decode(c->head, &f) < 0 || f.status != 0) die("bad answer");
			c->head_len = 0;
			c->skip = (uint64_t)f.meta_len + f.data_len;
			c->batch_left = (f.flags & FRAME_LAST) != 0;
		}
		if (c->skip == 0 && c->batch_left) {
			c->batch_left = 0;
			c->done += w->batch;
			ask(w, c);
		}
	}
}

static double cpu(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

int main(int argc, char **argv)
{
	static uint8_t buf[BUF_SIZE];
	if (argc != 10) {
		fprintf(stderr, "usage: bench_conns HOST PORT CREDENTIALS BUCKET PREFIX COUNT "
				"BATCH CONNECTIONS SECONDS\n");
		return 2;
	}
	struct world w = { .bucket = argv[4],
		.prefix = argv[5],
		.count = strtoull(argv[6], NULL, 10),
		.batch = (uint32_t)strtoul(argv[7], NULL, 10) };
	uint32_t count = (uint32_t)strtoul(argv[8], NULL, 10);
	struct conn *conns = calloc(count, sizeof *conns);
	struct sockaddr_in a = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10)) };
	int ep = epoll_create1(0), one = 1;
	inet_pton(AF_INET, argv[1], &a.sin_addr);
	load_credentials(&w, argv[3]);
	rng_seed(&w.rng, 5);
	for (uint32_t i = 0; i < count; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.u32 = i };
		conns[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		if (conns[i].fd < 0 || connect(conns[i].fd, (struct sockaddr *)&a, sizeof a) < 0)
			die("connect");
		setsockopt(conns[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		log_in(&w, conns[i].fd);
		epoll_ctl(ep, EPOLL_CTL_ADD, conns[i].fd, &e);
	}
	for (uint32_t i = 0; i < count; i++) ask(&w, &conns[i]);
	double start = now(), end = start + strtod(argv[9], NULL), c0 = cpu();
	while (now() < end) {
		struct epoll_event events[256];
		int n = epoll_wait(ep, events, 256, 1000);
		for (int i = 0; i < n; i++) {
			struct conn *c = &conns[events[i].data.u32];
			ssize_t got = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
			if (got == 0 || (got < 0 && errno != EAGAIN)) die("connection lost");
			if (got > 0) follow(&w, c, buf, (size_t)got);
		}
	}
	double seconds = now() - start, sum = 0, least = 1e300;
	for (uint32_t i = 0; i < count; i++) {
		sum += (double)conns[i].done;
		least = (double)conns[i].done < least ? (double)conns[i].done : least;
	}
	printf("{\"per_s\": %.1f, \"slowest_over_mean\": %.4f, \"client_us\": %.3f, \"samples\": "
	       "%.0f}\n",
		sum / seconds, sum > 0 ? least / (sum / count) : 0,
		sum > 0 ? (cpu() - c0) / sum * 1e6 : 0, sum);
	return 0;
}
