/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_peer.h -- a server as small as the client's tests need: PROTOCOL over a Unix socket, objects in
 * memory, and faults on demand. Every connection has a thread; `lock` guards the rest. */
#pragma once

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/clock.h"
#include "common/rand.h"
#include "common/wire.h"

enum { PEER_OBJECTS_MAX = 4096, PEER_CONNS_MAX = 512 };
#define PEER_KEY "TESTKEY"
#define PEER_SECRET "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

struct peer_object {
	char key[64];
	uint8_t *data;
	size_t size;
	uint64_t version;
};

struct peer {
	pthread_mutex_t lock;
	pthread_t thread;
	int listen_fd;
	char path[64];
	char url[128];
	bool stop;
	struct peer_object objects[PEER_OBJECTS_MAX];
	size_t objects_count;
	int fds[PEER_CONNS_MAX];
	pthread_t threads[PEER_CONNS_MAX];
	uint32_t conns_count;
	uint8_t *upload; /* one at a time */
	size_t upload_size;

	/* faults: each counts down, 0 is none */
	uint32_t drop_requests;  /* close instead of answering */
	uint32_t drop_midway;    /* close in the middle of a READ's data */
	uint32_t busy;           /* answer BUSY */
	uint32_t corrupt;        /* pieces whose bytes are changed after their checksum */
	uint32_t corrupt_verify; /* the same for READ_VERIFY */
	uint32_t bad_answers;    /* use bad_answer() */
	void (*bad_answer)(struct peer *p, int fd, const struct frame *f);
	bool (*others)(struct peer *p, int fd, const struct frame *f, struct cur c); /* requests not known
	                                                                              * here; NULL: none */
	bool refuse_auth, wrong_proof, silent, forget_sessions;
	uint64_t stale_session; /* refused at the log-in */

	/* seen */
	uint32_t requests, reads, verifies, resent, extents, logins;
	uint64_t last_sequence, last_session;
	uint64_t next_session, next_version;
};

struct peer_conn {
	struct peer *p;
	int fd;
};

static inline bool peer_send(int fd, const void *buf, size_t len)
{
	const uint8_t *at = buf;

	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool peer_recv(int fd, void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len > 0) {
		ssize_t n = recv(fd, at, len, 0);
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool peer_frame(int fd, const struct frame *f, uint16_t flags, int status, struct slice meta,
	struct slice data)
{
	uint8_t head[WIRE_HEADER_SIZE];
	struct frame a = { .op = f->op, .flags = (uint16_t)(FRAME_RESPONSE | flags), .status = (uint16_t)status,
		.meta_len = (uint32_t)meta.len, .data_len = (uint32_t)data.len, .request = f->request };

	a.meta_crc = meta.len > 0 ? crc32c(0, meta.p, meta.len) : 0;
	frame_encode(&a, head);
	return peer_send(fd, head, sizeof(head)) && peer_send(fd, meta.p, meta.len) && peer_send(fd, data.p, data.len);
}

static inline bool peer_answer(int fd, const struct frame *f, int status, struct slice meta)
{
	return peer_frame(fd, f, FRAME_LAST, status, meta, slice_of(NULL, 0));
}

static inline bool peer_error(int fd, const struct frame *f, int status, const char *text)
{
	uint8_t meta[256];
	struct wr w = wr_of(meta, sizeof(meta));

	wr_bytes16(&w, slice_str(text));
	return peer_answer(fd, f, status, slice_of(meta, wr_len(&w)));
}

/* ---- objects ---- */

static inline struct peer_object *peer_find(struct peer *p, struct slice key)
{
	for (size_t i = 0; i < p->objects_count; i++)
		if (slice_eq(slice_str(p->objects[i].key), key))
			return &p->objects[i];
	return NULL;
}

static inline struct peer_object *peer_put(struct peer *p, struct slice key, const void *data, size_t size)
{
	struct peer_object *o = peer_find(p, key);

	if (!o) {
		assert(p->objects_count < PEER_OBJECTS_MAX && key.len < sizeof(o->key));
		o = &p->objects[p->objects_count++];
		memcpy(o->key, key.p, key.len);
		o->key[key.len] = '\0';
	}
	free(o->data);
	o->data = malloc(size + 1);
	if (size > 0)
		memcpy(o->data, data, size);
	o->size = size;
	o->version = ++p->next_version;
	return o;
}

/* `size` bytes that follow from the key. */
static inline void peer_fill(const char *key, uint8_t *buf, size_t size)
{
	struct rng rng;

	rng_seed(&rng, crc32c(0, key, strlen(key)));
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = rng_next(&rng);
		memcpy(buf + i, &v, size - i < 8 ? size - i : 8);
	}
}

static inline void peer_add(struct peer *p, const char *key, size_t size)
{
	uint8_t *buf = malloc(size + 8);

	peer_fill(key, buf, size);
	pthread_mutex_lock(&p->lock);
	peer_put(p, slice_str(key), buf, size);
	pthread_mutex_unlock(&p->lock);
	free(buf);
}

/* ---- log-in ---- */

static inline void peer_proof(const char *label, struct slice a, struct slice b, struct slice tail, uint8_t *out)
{
	uint8_t secret[32], text[16384];
	struct wr w = wr_of(text, sizeof(text));
	unsigned len = 32;

	for (size_t i = 0; i < 32; i++) {
		char two[3] = { PEER_SECRET[2 * i], PEER_SECRET[2 * i + 1], 0 };
		secret[i] = (uint8_t)strtoul(two, NULL, 16);
	}
	wr_bytes(&w, label, strlen(label));
	wr_slice(&w, a);
	wr_slice(&w, b);
	wr_slice(&w, tail);
	HMAC(EVP_sha256(), secret, 32, text, wr_len(&w), out, &len);
}

static inline bool peer_login(struct peer *p, int fd)
{
	uint8_t head[WIRE_HEADER_SIZE], hello[4096], answer[512], mac[32], expect[32];
	struct frame f;

	if (!peer_recv(fd, head, sizeof(head)) || frame_decode(head, &f) < 0 || f.op != OP_HELLO || f.meta_len > 4096 ||
		!peer_recv(fd, hello, f.meta_len))
		return false;
	struct slice asked = slice_of(hello, f.meta_len);
	struct cur c = cur_of(hello, f.meta_len);
	cur_bytes(&c, 2 + 2 + 4 + 32);
	uint64_t session = cur_u64(&c);
	struct wr w = wr_of(answer, sizeof(answer));
	wr_u16(&w, 1);
	wr_u32(&w, WIRE_META_MAX);
	wr_u32(&w, WIRE_DATA_MAX);
	wr_u32(&w, 64);
	for (int i = 0; i < 6; i++)
		wr_u64(&w, (uint64_t)i + 7);
	wr_u64(&w, 42);
	wr_u64(&w, 1000);
	wr_bytes16(&w, slice_str("test peer"));
	struct slice said = slice_of(answer, wr_len(&w));
	if (!peer_answer(fd, &f, 0, said) || !peer_recv(fd, head, sizeof(head)) || frame_decode(head, &f) < 0 ||
		f.op != OP_AUTH || f.meta_len != 32 || !peer_recv(fd, mac, 32))
		return false;
	peer_proof(WIRE_CLIENT_LABEL, asked, said, slice_of(NULL, 0), expect);
	pthread_mutex_lock(&p->lock);
	bool refuse = p->refuse_auth, wrong_proof = p->wrong_proof;
	pthread_mutex_unlock(&p->lock);
	if (refuse || memcmp(mac, expect, 32) != 0) {
		peer_error(fd, &f, GRANARY_EAUTH, "unknown access key or wrong secret");
		return false;
	}
	pthread_mutex_lock(&p->lock);
	bool is_stale = session != 0 && session == p->stale_session;
	pthread_mutex_unlock(&p->lock);
	if (is_stale) {
		peer_error(fd, &f, GRANARY_ESTALE, "the session is not known any more");
		return false;
	}
	pthread_mutex_lock(&p->lock);
	if (session == 0 || p->forget_sessions)
		session = ++p->next_session;
	p->last_session = session;
	p->logins++;
	pthread_mutex_unlock(&p->lock);
	uint8_t auth[44];
	w = wr_of(auth, sizeof(auth));
	wr_u64(&w, session);
	wr_u32(&w, 60);
	peer_proof(WIRE_SERVER_LABEL, asked, said, slice_of(auth, 8), expect);
	expect[0] ^= wrong_proof;
	wr_bytes(&w, expect, 32);
	return peer_answer(fd, &f, 0, slice_of(auth, sizeof(auth)));
}

/* ---- READ ---- */

struct peer_out { /* a READ frame being made */
	uint8_t meta[1024 * 1024];
	uint8_t data[4 * 1024 * 1024];
	struct wr m;
	size_t data_len;
	uint16_t pieces;
};

static inline void out_begin(struct peer_out *o)
{
	o->m = wr_of(o->meta, sizeof(o->meta));
	wr_u16(&o->m, 0);
	o->data_len = 0;
	o->pieces = 0;
}

static inline bool out_flush(struct peer *p, struct peer_out *o, int fd, const struct frame *f, bool last)
{
	size_t n = o->data_len;

	memcpy(o->meta, &o->pieces, 2);
	if (p->drop_midway > 0 && n > 0) {
		p->drop_midway--;
		uint8_t head[WIRE_HEADER_SIZE];
		struct frame a = { .op = f->op, .flags = FRAME_RESPONSE, .meta_len = (uint32_t)wr_len(&o->m),
			.data_len = (uint32_t)n, .request = f->request, .meta_crc = crc32c(0, o->meta, wr_len(&o->m)) };
		frame_encode(&a, head);
		peer_send(fd, head, sizeof(head));
		peer_send(fd, o->meta, wr_len(&o->m));
		peer_send(fd, o->data, n / 2);
		return false;
	}
	bool good = peer_frame(fd, f, last ? FRAME_LAST : 0, 0, slice_of(o->meta, wr_len(&o->m)), slice_of(o->data, n));
	out_begin(o);
	return good;
}

static inline void out_piece(struct peer *p, struct peer_out *o, uint32_t index, const struct peer_object *obj,
	int status,
	uint64_t offset, size_t len, bool last, bool corrupt)
{
	(void)p;
	o->pieces++;
	wr_u32(&o->m, index);
	wr_u16(&o->m, (uint16_t)status);
	wr_u8(&o->m, (uint8_t)(last ? PIECE_LAST : 0));
	wr_u8(&o->m, 0);
	wr_u64(&o->m, obj ? 1000 + (uint64_t)index : 0);
	wr_u64(&o->m, obj ? obj->version : 0);
	wr_u64(&o->m, obj ? obj->size : 0);
	wr_u64(&o->m, 5);
	wr_u64(&o->m, 6);
	wr_u64(&o->m, offset);
	wr_u32(&o->m, (uint32_t)len);
	wr_u16(&o->m, (uint16_t)crc_block_count(len));
	for (size_t at = 0; at < len; at += CRC_BLOCK_SIZE)
		wr_u32(&o->m, crc32c(0, obj->data + offset + at,
			len - at < CRC_BLOCK_SIZE ? len - at : CRC_BLOCK_SIZE));
	if (len > 0)
		memcpy(o->data + o->data_len, obj->data + offset, len);
	if (corrupt && len > 0)
		o->data[o->data_len + len / 2] ^= 1;
	o->data_len += len;
}

static inline bool peer_read_object(struct peer *p, struct peer_out *o, int fd, const struct frame *f, uint32_t index,
	const struct peer_object *obj, uint64_t offset, uint64_t length, bool corrupt)
{
	enum { PIECE = 1024 * 1024 };
	uint64_t lo = offset / CRC_BLOCK_SIZE * CRC_BLOCK_SIZE;
	uint64_t end = length < obj->size - offset ? offset + length : obj->size;
	uint64_t hi = (end + CRC_BLOCK_SIZE - 1) / CRC_BLOCK_SIZE * CRC_BLOCK_SIZE;

	if (end == offset)
		hi = lo;
	hi = hi < obj->size ? hi : obj->size;
	do {
		size_t len = hi - lo < PIECE ? (size_t)(hi - lo) : PIECE;
		if (o->pieces > 0 && (len > WIRE_SMALL_MAX || o->data_len + len > WIRE_COALESCE_MAX) &&
			!out_flush(p, o, fd, f, false))
			return false;
		out_piece(p, o, index, obj, 0, lo, len, lo + len == hi, corrupt);
		if (len > WIRE_SMALL_MAX && !out_flush(p, o, fd, f, false))
			return false;
		lo += len;
	} while (lo < hi);
	return true;
}

static inline bool peer_read(struct peer *p, int fd, const struct frame *f, struct slice meta)
{
	struct cur c = cur_of(meta.p, meta.len);
	struct peer_out *o = malloc(sizeof(*o));
	bool good = true;

	out_begin(o);
	cur_bytes16(&c);
	uint8_t flags = cur_u8(&c);
	uint32_t count = cur_u32(&c);
	p->reads++;
	p->verifies += (flags & READ_VERIFY) != 0;
	for (uint32_t i = 0; i < count && good; i++) {
		uint8_t ef = cur_u8(&c), kind = cur_u8(&c);
		if (kind == REF_ID)
			cur_u64(&c);
		if (kind != REF_KEY)
			cur_u64(&c);
		struct slice key = cur_bytes16(&c);
		uint64_t offset = ef & READ_ENTRY_RANGE ? cur_u64(&c) : 0,
			length = ef & READ_ENTRY_RANGE ? cur_u64(&c) : WIRE_WHOLE;
		uint64_t version = ef & READ_ENTRY_VERSION ? cur_u64(&c) : 0;
		struct peer_object *obj = peer_find(p, key);
		int status = !obj ? GRANARY_ENOTFOUND : offset > obj->size ? GRANARY_ERANGE :
			version && version != obj->version ? GRANARY_ECHANGED : 0;
		uint32_t *corrupt = flags & READ_VERIFY ? &p->corrupt_verify : &p->corrupt;
		bool spoil = *corrupt > 0 && status == 0;
		*corrupt -= spoil;
		if (status)
			out_piece(p, o, i, NULL, status, 0, 0, true, false);
		else
			good = peer_read_object(p, o, fd, f, i, obj, offset, length, spoil);
	}
	good = good && out_flush(p, o, fd, f, true);
	free(o);
	return good && cur_done(&c);
}

/* ---- the rest ---- */

static inline struct slice peer_ref(struct cur *c)
{
	uint8_t kind = cur_u8(c);

	if (kind == REF_ID)
		cur_u64(c);
	if (kind != REF_KEY)
		cur_u64(c);
	return cur_bytes16(c);
}

static inline bool peer_stat(struct peer *p, int fd, const struct frame *f, struct cur c)
{
	uint8_t *buf = malloc(1024 * 1024), zero[16] = { 0 };
	struct wr w = wr_of(buf, 1024 * 1024);
	uint8_t flags = cur_u8(&c);
	uint32_t count = cur_u32(&c);

	wr_u32(&w, count);
	for (uint32_t i = 0; i < count; i++) {
		struct peer_object *o = peer_find(p, peer_ref(&c));
		wr_u16(&w, o ? 0 : GRANARY_ENOTFOUND);
		if (!o)
			continue;
		wr_u8(&w, STAT_FILE);
		wr_u8(&w, flags & STAT_WANT_META ? STAT_HAS_META : 0);
		wr_u64(&w, 9); wr_u64(&w, o->version); wr_u64(&w, o->size); wr_u64(&w, 5); wr_u64(&w, 6);
		wr_u32(&w, 0644); wr_u32(&w, 1); wr_u32(&w, 2);
		wr_bytes(&w, zero, 16);
		if (flags & STAT_WANT_META) {
			wr_u16(&w, 12);
			wr_bytes16(&w, slice_str("name"));
			wr_bytes16(&w, slice_str("text"));
		}
	}
	bool good = wr_ok(&w) && peer_answer(fd, f, 0, slice_of(buf, wr_len(&w)));
	free(buf);
	return good;
}

/* 5.1; false when it makes no sense. */
static inline bool peer_sequence(struct peer *p, struct cur *c, const struct frame *f)
{
	uint64_t sequence = cur_u64(c);

	cur_u64(c);
	uint64_t seen = cur_u64(c);
	p->last_sequence = sequence;
	p->resent += (f->flags & FRAME_RESENT) != 0;
	return sequence > 0 && seen < sequence;
}

static inline bool peer_put_request(struct peer *p, int fd, const struct frame *f, struct cur c, const uint8_t *data)
{
	uint8_t *buf = malloc(1024 * 1024);
	struct wr w = wr_of(buf, 1024 * 1024);
	uint32_t count;
	size_t at = 0;

	assert(peer_sequence(p, &c, f));
	count = cur_u32(&c);
	wr_u32(&w, count);
	for (uint32_t i = 0; i < count; i++) {
		struct slice key = peer_ref(&c);
		struct peer_object *o = peer_find(p, key);
		uint8_t condition = cur_u8(&c);
		cur_u64(&c);
		uint8_t flags = cur_u8(&c);
		cur_u64(&c);
		uint64_t size = cur_u64(&c), replaced = o ? o->version : 0;
		cur_u64(&c); cur_u32(&c); cur_u32(&c); cur_u32(&c);
		cur_bytes16(&c);
		bool upload = flags & PUT_UPLOAD;
		for (uint64_t b = 0; !upload && b < size; b += CRC_BLOCK_SIZE)
			assert(cur_u32(&c) == crc32c(0, data + at + b,
				size - b < CRC_BLOCK_SIZE ? size - b : CRC_BLOCK_SIZE));
		int status = condition == PUT_IF_ABSENT && o ? GRANARY_EPRECONDITION :
			upload && size != p->upload_size ? GRANARY_ESTALE : 0;
		if (status == 0)
			o = peer_put(p, key, upload ? p->upload : data + at, size);
		at += upload ? 0 : size;
		wr_u16(&w, (uint16_t)status);
		wr_u64(&w, 9); wr_u64(&w, o ? o->version : 0); wr_u64(&w, 6); wr_u64(&w, replaced);
	}
	assert(cur_done(&c) && at == f->data_len);
	bool good = peer_answer(fd, f, 0, slice_of(buf, wr_len(&w)));
	free(buf);
	return good;
}

static inline bool peer_extent(struct peer *p, int fd, const struct frame *f, struct cur c, const uint8_t *data)
{
	peer_ref(&c);
	cur_u64(&c);
	uint64_t offset = cur_u64(&c);

	for (uint32_t i = 0; i < crc_block_count(f->data_len); i++)
		cur_u32(&c);
	assert(cur_done(&c));
	p->extents++;
	if (offset == 0)
		p->upload_size = 0;
	if (offset > p->upload_size)
		return peer_error(fd, f, GRANARY_ESTALE, "no such upload");
	if (offset == p->upload_size) {
		p->upload = realloc(p->upload, p->upload_size + f->data_len);
		memcpy(p->upload + p->upload_size, data, f->data_len);
		p->upload_size += f->data_len;
	}
	return peer_answer(fd, f, 0, slice_of(NULL, 0));
}

static inline bool peer_delete(struct peer *p, int fd, const struct frame *f, struct cur c)
{
	uint8_t *buf = malloc(1024 * 1024);
	struct wr w = wr_of(buf, 1024 * 1024);

	assert(peer_sequence(p, &c, f));
	uint32_t count = cur_u32(&c);
	wr_u32(&w, count);
	for (uint32_t i = 0; i < count; i++) {
		struct peer_object *o = peer_find(p, peer_ref(&c));
		cur_u8(&c);
		cur_u64(&c);
		wr_u16(&w, o ? 0 : GRANARY_ENOTFOUND);
		wr_u64(&w, o ? o->version : 0);
		wr_u64(&w, o ? o->size : 0);
		if (o)
			o->key[0] = '\0';
	}
	assert(cur_done(&c));
	bool good = peer_answer(fd, f, 0, slice_of(buf, wr_len(&w)));
	free(buf);
	return good;
}

/* Objects in the order they were added, after `start`; good enough when that is sorted. */
static inline bool peer_list(struct peer *p, int fd, const struct frame *f, struct cur c)
{
	uint8_t *buf = malloc(1024 * 1024), zero[16] = { 0 };
	struct wr w = wr_of(buf, 1024 * 1024);
	uint32_t count = 0;
	uint8_t more = 0;

	cur_bytes16(&c);
	cur_bytes16(&c);
	struct slice after = cur_bytes16(&c);
	uint32_t max = cur_u32(&c);
	assert(cur_done(&c));
	wr_u8(&w, 0);
	wr_u32(&w, 0);
	for (size_t i = 0; i < p->objects_count; i++) {
		const struct peer_object *o = &p->objects[i];
		struct slice key = slice_str(o->key);
		int order = after.len ? memcmp(key.p, after.p, key.len < after.len ? key.len : after.len) : 1;
		if (order < 0 || (order == 0 && key.len <= after.len))
			continue;
		if (count == max) {
			more = 1;
			break;
		}
		wr_u8(&w, LIST_OBJECT);
		wr_bytes16(&w, key);
		wr_u64(&w, 9); wr_u64(&w, o->version); wr_u64(&w, o->size); wr_u64(&w, 5); wr_u64(&w, 6);
		wr_u32(&w, 0644);
		wr_u8(&w, 0);
		wr_bytes(&w, zero, 16);
		count++;
	}
	buf[0] = more;
	memcpy(buf + 1, &count, 4);
	bool good = peer_answer(fd, f, 0, slice_of(buf, wr_len(&w)));
	free(buf);
	return good;
}

static inline bool peer_request(struct peer *p, int fd, const struct frame *f, struct slice meta, const uint8_t *data)
{
	struct cur c = cur_of(meta.p, meta.len);

	p->requests++;
	if (p->drop_requests > 0) {
		p->drop_requests--;
		return false;
	}
	if (p->silent)
		return true;
	if (p->busy > 0) {
		p->busy--;
		return peer_error(fd, f, GRANARY_EBUSY, "busy");
	}
	if (p->bad_answers > 0) {
		p->bad_answers--;
		p->bad_answer(p, fd, f);
		return true;
	}
	if (f->op != OP_PING && f->op != OP_STATUS)
		cur_bytes16(&c);
	switch (f->op) {
	case OP_PING: return peer_answer(fd, f, 0, slice_of(NULL, 0));
	case OP_READ: return peer_read(p, fd, f, meta);
	case OP_STAT: return peer_stat(p, fd, f, c);
	case OP_LIST: return peer_list(p, fd, f, c);
	case OP_PUT: return peer_put_request(p, fd, f, c, data);
	case OP_EXTENT: return peer_extent(p, fd, f, c, data);
	case OP_DELETE: return peer_delete(p, fd, f, c);
	case OP_STATUS: return peer_frame(fd, f, FRAME_LAST, 0, slice_of(NULL, 0), slice_str("requests 1\n"));
	default:
		if (p->others)
			return p->others(p, fd, f, c);
		return peer_error(fd, f, GRANARY_EUNSUPPORTED, "the test peer does not know this");
	}
}

static inline void *peer_conn_main(void *arg)
{
	struct peer_conn *k = arg;
	struct peer *p = k->p;
	bool good = peer_login(p, k->fd);

	while (good) {
		uint8_t head[WIRE_HEADER_SIZE], *meta, *data;
		struct frame f;
		if (!peer_recv(k->fd, head, sizeof(head)) || frame_decode(head, &f) < 0 || f.op == OP_GOODBYE)
			break;
		meta = malloc(f.meta_len + 1u);
		data = malloc(f.data_len + 1u);
		good = peer_recv(k->fd, meta, f.meta_len) && peer_recv(k->fd, data, f.data_len);
		pthread_mutex_lock(&p->lock);
		good = good && peer_request(p, k->fd, &f, slice_of(meta, f.meta_len), data);
		pthread_mutex_unlock(&p->lock);
		free(meta);
		free(data);
	}
	shutdown(k->fd, SHUT_RDWR);
	free(k);
	return NULL;
}

static inline void *peer_main(void *arg)
{
	struct peer *p = arg;

	for (;;) {
		int fd = accept(p->listen_fd, NULL, NULL);
		if (fd < 0)
			return NULL;
		struct peer_conn *k = malloc(sizeof(*k));
		*k = (struct peer_conn){ p, fd };
		pthread_mutex_lock(&p->lock);
		assert(p->conns_count < PEER_CONNS_MAX);
		p->fds[p->conns_count] = fd;
		pthread_create(&p->threads[p->conns_count++], NULL, peer_conn_main, k);
		pthread_mutex_unlock(&p->lock);
	}
}

/* Faults are switched while the peer runs. */
#define PEER_SET(peer, field, value) do { \
		pthread_mutex_lock(&(peer)->lock); \
		(peer)->field = (value); \
		pthread_mutex_unlock(&(peer)->lock); \
	} while (0)

/* The environment asks for an engine that this kernel does not have: there is nothing to test. */
static inline bool peer_engine_missing(void)
{
	struct granary_options o = GRANARY_INIT(granary_options);
	struct granary_client *c;

	o.url = "granary://localhost/bucket";
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	int err = granary_open(&o, &c);
	granary_close(&c);
	return err == -GRANARY_EUNSUPPORTED;
}

static inline struct peer *peer_start(void)
{
	static int number;
	struct peer *p = calloc(1, sizeof(*p));
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	pthread_mutex_init(&p->lock, NULL);
	snprintf(p->path, sizeof(p->path), "/tmp/granary-peer-%d-%d", (int)getpid(), number++);
	snprintf(p->url, sizeof(p->url), "granary://%%2Ftmp%%2F%s/bucket", p->path + 5);
	memcpy(un.sun_path, p->path, strlen(p->path) + 1);
	p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unlink(p->path);
	assert(bind(p->listen_fd, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(p->listen_fd, 64) == 0);
	pthread_create(&p->thread, NULL, peer_main, p);
	return p;
}

static inline void peer_stop(struct peer *p)
{
	shutdown(p->listen_fd, SHUT_RDWR);
	pthread_join(p->thread, NULL);
	close(p->listen_fd);
	unlink(p->path);
	for (uint32_t i = 0; i < p->conns_count; i++) {
		shutdown(p->fds[i], SHUT_RDWR);
		pthread_join(p->threads[i], NULL);
		close(p->fds[i]);
	}
	for (size_t i = 0; i < p->objects_count; i++)
		free(p->objects[i].data);
	free(p->upload);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
