/* SPDX-License-Identifier: Apache-2.0 */
/* sendq.h -- answers of one connection in order, and how many of their bytes go out in one send. No I/O.
 * Small pieces travel together, up to 512 KiB a send (4 KiB samples: 4 times the rate of one a send);
 * an answer with descriptors begins a send and ends it;
 * an answer of large pieces goes alone in sends of about 128 KiB (larger ones cost a quarter: sender
 * and receiver stop overlapping). */
#pragma once

#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/wire.h"

struct answer;

enum {
	SEND_IOV_MAX = 1024,
	SEND_HEADERS_MAX = 340,         /* an answer takes at least header, meta and data */
	SEND_TOGETHER_MAX = 576 * 1024, /* a frame of WIRE_COALESCE_MAX with its meta fits */
	SEND_LARGE_MIN = 64 * 1024,     /* data above this in pieces above WIRE_SMALL_MAX: alone */
	SEND_CHUNK_SIZE = 128 * 1024,
	SEND_CHUNK_MAX = 160 * 1024, /* no short tail */
};

struct sendbuf { /* of one send in flight */
	struct sendbuf *next;
	struct iovec iov[SEND_IOV_MAX];
	uint8_t headers[SEND_HEADERS_MAX][WIRE_HEADER_SIZE];
	size_t control_len;             /* 0: none */
	/* the descriptors that go with the first byte */
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
};

struct sendq {
	struct answer *head, **tail;
	uint64_t bytes;   /* not yet sent */
	uint64_t sent;    /* of head, already sent */
	uint64_t sending; /* in flight, from there on */
};

void sendq_init(struct sendq *q);
void sendq_push(struct sendq *q, struct answer *a);
/* Fills sb with the next send; returns the count of iovecs (0: nothing queued). None may be in flight. */
uint32_t sendq_build(struct sendq *q, struct sendbuf *sb);
/* The send in flight is done: unlinks the answers that are out completely, linked by next. */
struct answer *sendq_sent(struct sendq *q);
/* Unlinks every answer that no send in flight touches. */
struct answer *sendq_drop(struct sendq *q);
