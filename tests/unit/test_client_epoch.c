/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: an epoch gives every sample exactly once, the right bytes, in the order of docs/ORDER.md, however many
 * ranks there are, whatever memory it has and whatever happens to connections and bytes on the way. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/hash.h"
#include "common/order.h"
#include "common/snap.h"
#include "granary/granary.h"
#include "test_client_peer.h"

/* ---- a snapshot in memory, and the requests that read it ---- */

enum { PACKS = 5, PACK_SIZE = 1 << 20, SAMPLES_MAX = 20000, FIELDS_MAX = 3 };

struct world {
	uint8_t *packs[PACKS];
	uint64_t samples;
	uint32_t fields;
	uint32_t sizes[SAMPLES_MAX * FIELDS_MAX];
	uint8_t *pages[PACKS], *names, *manifest;
	size_t page_sizes[PACKS], names_size, manifest_size;
	struct hash128 page_hashes[PACKS], names_hash, hash;
	uint64_t bad_pack, bad_offset; /* this byte is always wrong */
	uint32_t ranges, range_bytes, reports, creates;
	bool gone, slow_pieces;
};
static struct world *world;
static struct peer *peer;
static struct granary_client *client;

static void sample_fill(uint64_t id, uint32_t field, uint8_t *to, uint32_t size)
{
	uint64_t x = hash_u64(id * 7 + field + 1);

	for (uint32_t i = 0; i < size; i++)
		to[i] = (uint8_t)(hash_u64(x + i / 8) >> (i % 8 * 8));
}

static uint32_t sample_size(uint64_t id, uint32_t field, uint32_t mean)
{
	if (id % 97 == 5)
		return 0;
	return mean / 2 + (uint32_t)(hash_u64(id * 3 + field) % mean);
}

struct place { uint32_t pack, at; };

/* Lays one row out: now and then in two pieces, with a gap, or with a hole. */
static void row_add(struct snap_page_builder *b, uint64_t id, uint32_t field, uint32_t size, struct place *p)
{
	struct snap_extent e[3];
	uint8_t *bytes = calloc(1, size + 1u);
	uint32_t count = 0, done = 0;

	sample_fill(id, field, bytes, size);
	p->at += (uint32_t)(hash_u64(id) % 300);
	if (id % 50 == 3 && size > 10) { /* a piece, a hole, the rest after a gap */
		uint32_t first = size / 3, hole = size / 4;
		memset(bytes + first, 0, hole);
		memcpy(world->packs[p->pack] + p->at, bytes, first);
		e[count++] = (struct snap_extent){ p->pack + 1, p->at, first, crc32c(0, bytes, first), false };
		e[count++] = (struct snap_extent){ 0, 0, hole, crc32c(0, bytes + first, hole), false };
		p->at += first + 700;
		done = first + hole;
	}
	memcpy(world->packs[p->pack] + p->at, bytes + done, size - done);
	e[count++] = (struct snap_extent){ p->pack + 1, p->at, size - done,
		crc32c(0, bytes + done, size - done), false };
	p->at += size - done;
	assert_true(p->at < PACK_SIZE);
	assert_int_equal(0, snap_page_add(b, e, count, 0));
	world->sizes[id * world->fields + field] = size;
	free(bytes);
}

static void world_make(uint64_t samples, uint32_t fields, uint32_t mean, uint64_t block, uint64_t window,
	uint32_t lanes)
{
	struct snap_page_ref refs[PACKS];
	struct snap_manifest m = { .fields = fields, .samples = samples, .mode = ORDER_BLOCKS, .block = block,
		.window = window, .lanes = lanes, .page_count = PACKS, .names_count = 1, .pages = refs, .created_ns = 1,
		.directories = 1, .smallest = UINT64_MAX };
	struct snap_names_builder *nb = snap_names_builder_new();
	struct snap_names_ref names = { .entries = 0 };
	uint8_t suffixes[] = { 1, 'a', 1, 'b', 1, 'c' };
	uint64_t id = 0;

	world->samples = samples;
	world->fields = fields;
	m.prefix = slice_str("train/");
	m.options = slice_str("");
	m.field_names = fields > 1 ? slice_of(suffixes, 2 * fields) : slice_of(NULL, 0);
	for (uint32_t p = 0; p < PACKS; p++) {
		struct snap_page_builder *b = snap_page_builder_new(p + 1, fields);
		uint64_t end = p + 1 == PACKS ? samples : samples * (p + 1) / PACKS, first = id;
		struct place at = { p, 100 };
		refs[p] = (struct snap_page_ref){ .pack = p + 1 };
		for (; id < end; id++) {
			uint64_t size = 0;
			for (uint32_t f = 0; f < fields; f++) {
				char key[32];
				snprintf(key, sizeof(key), "train/%08llu.%c", (unsigned long long)id, 'a' + (int)f);
				struct snap_name n = { slice_str(key), p + 1, (uint32_t)(id - first), f };
				assert_int_equal(0, snap_names_add(nb, &n));
				row_add(b, id, f, sample_size(id, f, mean), &at);
				size += world->sizes[id * fields + f];
				names.entries++;
			}
			m.bytes += size;
			refs[p].bytes += size;
			m.smallest = size < m.smallest ? size : m.smallest;
			m.largest = size > m.largest ? size : m.largest;
			m.histogram[size ? 63 - __builtin_clzll(size) : 0]++;
		}
		refs[p].samples = (uint32_t)(end - first);
		assert_int_equal(0, snap_page_finish(b, &world->pages[p], &world->page_sizes[p],
			&world->page_hashes[p]));
		snap_page_builder_free(&b);
		refs[p].hash = world->page_hashes[p];
		refs[p].size = (uint32_t)world->page_sizes[p];
	}
	assert_int_equal(0, snap_names_finish(nb, &world->names, &world->names_size, &world->names_hash));
	snap_names_builder_free(&nb);
	names.hash = world->names_hash;
	names.size = (uint32_t)world->names_size;
	names.first = slice_str("train/00000000.a");
	m.names = &names;
	assert_int_equal(0, snap_manifest_encode(&m, &world->manifest, &world->manifest_size, &world->hash));
}

static void row_encode(struct wr *w, const char *name)
{
	wr_bytes16(w, slice_str(name));
	wr_u8(w, SNAPSHOT_READY);
	wr_u64(w, 1);
	wr_u64(w, 0);
	wr_u64(w, world->samples);
	wr_u64(w, 1000);
	wr_u64(w, 10);
	wr_u64(w, world->hash.lo);
	wr_u64(w, world->hash.hi);
	wr_bytes16(w, slice_str("train/"));
	wr_bytes16(w, slice_str("a note"));
	wr_u64(w, world->hash.lo);
	wr_u64(w, world->hash.hi);
}

static bool answer_show(int fd, const struct frame *f, struct cur c)
{
	uint8_t meta[512];
	struct wr w = wr_of(meta, sizeof(meta));

	cur_bytes16(&c);
	uint64_t offset = cur_u64(&c);
	uint32_t len = cur_u32(&c);
	assert_true(cur_done(&c) && offset <= world->manifest_size);
	if (len > world->manifest_size - offset)
		len = (uint32_t)(world->manifest_size - offset);
	row_encode(&w, "v1");
	wr_u64(&w, world->manifest_size);
	return peer_frame(fd, f, FRAME_LAST, 0, slice_of(meta, wr_len(&w)), slice_of(world->manifest + offset, len));
}

static bool answer_page(int fd, const struct frame *f, struct cur c)
{
	const uint8_t *bytes = NULL;
	size_t size = 0;
	uint8_t meta[8];

	cur_bytes16(&c);
	struct hash128 h = { cur_u64(&c), 0 };
	h.hi = cur_u64(&c);
	uint64_t offset = cur_u64(&c);
	uint32_t len = cur_u32(&c);
	assert_true(cur_done(&c));
	for (int i = 0; i < PACKS; i++)
		if (h.lo == world->page_hashes[i].lo) {
			bytes = world->pages[i];
			size = world->page_sizes[i];
		}
	if (h.lo == world->names_hash.lo) {
		bytes = world->names;
		size = world->names_size;
	}
	assert_non_null(bytes);
	assert_true(offset + len <= size);
	uint64_t all = size;
	memcpy(meta, &all, 8);
	return peer_frame(fd, f, FRAME_LAST, 0, slice_of(meta, 8), slice_of(bytes + offset, len));
}

struct range_out { struct wr m; uint8_t meta[65536], *data; size_t len; uint16_t pieces; };

static bool range_flush(struct peer *p, struct range_out *o, int fd, const struct frame *f, bool last)
{
	memcpy(o->meta, &o->pieces, 2);
	if (p->drop_midway > 0 && o->len > 0) {
		p->drop_midway--;
		return false;
	}
	bool good = peer_frame(fd, f, last ? FRAME_LAST : 0, 0, slice_of(o->meta, wr_len(&o->m)),
		slice_of(o->data, o->len));
	o->m = wr_of(o->meta, sizeof(o->meta));
	wr_u16(&o->m, 0);
	o->len = 0;
	o->pieces = 0;
	return good;
}

/* Spans that ranges were parts of, and how much was taken from them. */
struct span { uint64_t tag, pack; uint32_t offset, length, wanted, taken; };
static struct span spans[4096];
static uint32_t spans_count;
static uint64_t spans_taken;
static pthread_mutex_t spans_lock = PTHREAD_MUTEX_INITIALIZER; /* a connection of the peer is a thread */

static void span_note(uint64_t tag, uint64_t pack, uint32_t offset, uint32_t len, struct cur *c)
{
	struct span s = { .tag = tag, .pack = pack };
	uint32_t i = 0;

	s.offset = cur_u32(c);
	s.length = cur_u32(c);
	s.wanted = cur_u32(c);

	if (s.length == 0)
		return;
	assert_true(offset >= s.offset && offset + len <= s.offset + s.length && len <= s.wanted);
	pthread_mutex_lock(&spans_lock);
	while (i < spans_count && memcmp(&spans[i], &s, offsetof(struct span, taken)) != 0)
		i++;
	assert_true(i < 4096);
	if (i == spans_count)
		spans[spans_count++] = s;
	spans[i].taken += len;
	spans_taken += len;
	pthread_mutex_unlock(&spans_lock);
}

/* Pieces of odd sizes, so that samples lie across them. */
static bool answer_range(struct peer *p, int fd, const struct frame *f, struct cur c)
{
	struct range_out o = { .len = 0 };
	bool good = true;
	uint64_t tag = 0;

	cur_bytes16(&c);
	uint64_t lo = cur_u64(&c), hi = cur_u64(&c);
	bool stream = (cur_u8(&c) & RANGE_STREAM) != 0;
	if (stream) {
		tag = cur_u64(&c);
		cur_u64(&c);
		assert_int_equal(1, cur_u32(&c));
	}
	uint32_t count = cur_u32(&c);
	if (world->gone)
		return peer_error(fd, f, GRANARY_ENOTFOUND, "no such snapshot");
	if (lo != world->hash.lo || hi != world->hash.hi)
		return peer_error(fd, f, GRANARY_ECHANGED, "another snapshot");
	o.data = malloc(8 << 20);
	o.m = wr_of(o.meta, sizeof(o.meta));
	wr_u16(&o.m, 0);
	for (uint32_t i = 0; i < count && good; i++) {
		uint64_t pack = cur_u64(&c);
		uint32_t offset = cur_u32(&c), len = cur_u32(&c);
		if (stream)
			span_note(tag, pack, offset, len, &c);
		assert_true(cur_ok(&c) && pack >= 1 && pack <= PACKS && offset + len <= PACK_SIZE && len > 0);
		world->ranges++;
		world->range_bytes += len;
		for (uint32_t at = 0; at < len && good;) {
			uint32_t part = (uint32_t)(hash_u64(offset + at) % 50000) + 1;
			part = part < len - at ? part : len - at;
			memcpy(o.data + o.len, world->packs[pack - 1] + offset + at, part);
			if (p->corrupt > 0) {
				p->corrupt--;
				o.data[o.len + part / 2] ^= 1;
			}
			if (pack == world->bad_pack && world->bad_offset >= offset + at &&
				world->bad_offset < offset + at + part)
				o.data[o.len + world->bad_offset - offset - at] ^= 1;
			o.pieces++;
			wr_u32(&o.m, i);
			wr_u16(&o.m, 0);
			wr_u8(&o.m, at + part == len ? RANGE_LAST : 0);
			wr_u8(&o.m, 0);
			wr_u32(&o.m, at);
			wr_u32(&o.m, part);
			o.len += part;
			at += part;
			if (o.len > 300000 || o.pieces > 3000)
				good = range_flush(p, &o, fd, f, false);
		}
	}
	good = good && range_flush(p, &o, fd, f, true);
	free(o.data);
	return good;
}

static bool answer_create(int fd, const struct frame *f, struct cur c)
{
	uint8_t meta[1024];
	struct wr w = wr_of(meta, sizeof(meta));
	struct slice name = cur_bytes16(&c), prefix = cur_bytes16(&c), options = cur_bytes16(&c);
	char text[64];

	assert_true(cur_done(&c));
	if (world->creates++ > 0)
		return peer_error(fd, f, GRANARY_EEXIST, "there is one");
	snprintf(text, sizeof(text), "%.*s", (int)name.len, (const char *)name.p);
	row_encode(&w, text);
	wr_bytes16(&w, options.len > 0 && prefix.len > 0 ? options : slice_str(""));
	return peer_answer(fd, f, 0, slice_of(meta, wr_len(&w)));
}

static bool answer_list(int fd, const struct frame *f)
{
	uint8_t meta[1024], more = 0;
	struct wr w = wr_of(meta, sizeof(meta));

	wr_u8(&w, more);
	wr_u32(&w, 2);
	row_encode(&w, "v1");
	row_encode(&w, "v2");
	return peer_answer(fd, f, 0, slice_of(meta, wr_len(&w)));
}

static bool answer_others(struct peer *p, int fd, const struct frame *f, struct cur c)
{
	uint8_t share[8] = { 0 };

	switch (f->op) {
	case OP_SNAPSHOT_SHOW: return answer_show(fd, f, c);
	case OP_SNAPSHOT_PAGE: return answer_page(fd, f, c);
	case OP_RANGE: return answer_range(p, fd, f, c);
	case OP_SNAPSHOT_CREATE: return answer_create(fd, f, c);
	case OP_SNAPSHOT_LIST: return answer_list(fd, f);
	case OP_SNAPSHOT_REMOVE: return peer_error(fd, f, GRANARY_EBUSY, "job 'r50' reads it");
	case OP_STREAM_REPORT: world->reports++; return peer_answer(fd, f, 0, slice_of(share, 8));
	default: return peer_error(fd, f, GRANARY_EUNSUPPORTED, "not known");
	}
}

static int setup(void **state)
{
	struct granary_options o = GRANARY_INIT(granary_options);

	(void)state;
	peer = peer_start();
	peer->others = answer_others;
	world = calloc(1, sizeof(*world));
	for (int i = 0; i < PACKS; i++)
		world->packs[i] = calloc(1, PACK_SIZE);
	o.url = peer->url;
	o.access_key = PEER_KEY;
	o.secret = PEER_SECRET;
	o.timeout_ms = 10000;
	assert_int_equal(0, granary_open(&o, &client));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	granary_close(&client);
	peer_stop(peer);
	for (int i = 0; i < PACKS; i++) {
		free(world->packs[i]);
		free(world->pages[i]);
	}
	free(world->names);
	free(world->manifest);
	free(world);
	return 0;
}

/* ---- reading epochs ---- */

static struct granary_epoch_options defaults(uint32_t rank, uint32_t ranks, uint32_t batch)
{
	struct granary_epoch_options o = GRANARY_INIT(granary_epoch_options);

	o.snapshot = "v1";
	o.rank = rank;
	o.world = ranks;
	o.batch = batch;
	o.seed = 11;
	o.epoch = 2;
	o.stall_timeout_ms = 20000;
	return o;
}

static void check_sample(const struct granary_epoch_batch *b, uint32_t i)
{
	static uint8_t expected[PACK_SIZE];

	for (uint32_t f = 0; f < b->fields; f++) {
		size_t at = (size_t)i * b->fields + f;
		uint32_t size = world->sizes[b->ids[i] * b->fields + f];
		assert_int_equal(size, b->sizes[at]);
		assert_true(b->offsets[at] + b->sizes[at] <= b->data_size);
		sample_fill(b->ids[i], f, expected, size);
		if (b->ids[i] % 50 == 3 && size > 10)
			memset(expected + size / 3, 0, size / 4);
		assert_memory_equal(expected, b->data + b->offsets[at], size);
	}
}

struct seen {
	uint32_t count[SAMPLES_MAX];
	uint64_t step[SAMPLES_MAX];
	uint64_t batches, padded, skipped;
};

static int read_epoch(const struct granary_epoch_options *o, struct seen *s, uint64_t most, struct granary_token *token)
{
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	int more = granary_epoch_open(client, o, &e);

	s->batches = 0;
	if (more < 0)
		return more;
	while (s->batches < most && (more = granary_epoch_next(e, &b)) > 0) {
		assert_int_equal(o->first + s->batches * (o->step ? o->step : 1), b->number);
		for (uint32_t i = 0; i < b->count; i++) {
			check_sample(b, i);
			s->padded += (b->flags[i] & GRANARY_SAMPLE_PADDED) != 0;
			s->skipped += (b->flags[i] & GRANARY_SAMPLE_SKIPPED) != 0;
			if (b->flags[i] == 0) {
				s->count[b->ids[i]]++;
				s->step[b->ids[i]] = b->position;
			}
		}
		s->batches++;
		granary_epoch_release(e, &b);
	}
	if (token && more >= 0)
		assert_int_equal(0, granary_epoch_token(e, token));
	granary_epoch_close(&e);
	return more < 0 ? more : 0;
}

static void assert_once(const struct seen *s)
{
	for (uint64_t i = 0; i < world->samples; i++)
		if (s->count[i] != 1)
			fail_msg("sample %llu came %u times", (unsigned long long)i, s->count[i]);
}

/* ---- memory of the caller's ---- */

struct lender {
	uint32_t lent, back, calls;
	bool refuses; /* every third time */
};

static void *lender_take(void *arg, size_t size)
{
	struct lender *l = arg;

	if (l->refuses && ++l->calls % 3 == 0)
		return NULL;
	uint64_t *p = aligned_alloc(64, (size + 127) / 64 * 64);
	assert_non_null(p);
	memset(p, 0xcc, size);
	__atomic_fetch_add(&l->lent, 1, __ATOMIC_RELAXED);
	return p;
}

static void lender_give(void *arg, void *memory, size_t size)
{
	struct lender *l = arg;

	memset(memory, 0xdd, size);
	free(memory);
	__atomic_fetch_add(&l->back, 1, __ATOMIC_RELAXED);
}

/* Goal: batches lie in it, all of it comes back, also of an epoch closed in the middle, and without it goes on too. */
static void test_batches_are_put_into_memory_of_the_caller(void **state)
{
	static struct seen s;

	(void)state;
	world_make(3000, 1, 900, 16, 4, 12);
	for (uint32_t round = 0; round < 6; round++) {
		struct lender lender = { .refuses = round >= 3 };
		struct granary_batch_memory memory = { lender_take, lender_give, &lender };
		struct granary_epoch_options o = defaults(0, 1, 32);
		o.mode = 1 + round % 3;
		o.batches = &memory;
		memset(&s, 0, sizeof(s));
		assert_int_equal(0, read_epoch(&o, &s, 9, NULL));
		assert_int_equal(lender.lent, lender.back);
		memset(&s, 0, sizeof(s));
		assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
		assert_once(&s);
		assert_true(lender.lent >= s.batches / 2);
		assert_int_equal(lender.lent, lender.back);
		memory.give = NULL;
		assert_int_equal(-GRANARY_EINVAL, read_epoch(&o, &s, 1, NULL));
	}
}

static void test_every_sample_once_in_every_mode(void **state)
{
	static struct seen s;

	(void)state;
	world_make(3000, 1, 900, 16, 4, 12);
	for (uint32_t mode = 1; mode <= 3; mode++)
		for (uint32_t ranks = 1; ranks <= 7; ranks++) {
			uint64_t batches = 0;
			memset(&s, 0, sizeof(s));
			for (uint32_t r = 0; r < ranks; r++) {
				struct granary_epoch_options o = defaults(r, ranks, 32);
				o.mode = mode;
				assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
				assert_true(r == 0 || batches == s.batches);
				batches = s.batches;
			}
			assert_once(&s);
			assert_int_equal((3000 + 32 * ranks - 1) / (32 * ranks), batches);
		}
}

/* Goal: handles that share a rank give its batches by turns, in the same steps as one handle alone, each sample once,
 * also from the middle on; the token of each is the place behind its last batch. */
static void test_handles_that_share_a_rank(void **state)
{
	static struct seen s, alone;

	(void)state;
	world_make(3000, 2, 400, 16, 4, 12);
	for (uint32_t mode = 1; mode <= 3; mode++)
		for (uint32_t ranks = 1; ranks <= 5; ranks += 2) {
			memset(&alone, 0, sizeof(alone));
			for (uint32_t r = 0; r < ranks; r++) {
				struct granary_epoch_options o = defaults(r, ranks, 16);
				o.mode = mode;
				assert_int_equal(0, read_epoch(&o, &alone, UINT64_MAX, NULL));
			}
			for (uint32_t step = 2; step <= 8; step += 3) {
				struct granary_token token, first = { .len = 0 };
				memset(&s, 0, sizeof(s));
				for (uint32_t i = 0; i < ranks * step; i++) {
					struct granary_epoch_options o = defaults(i / step, ranks, 16);
					o.mode = mode;
					o.step = step;
					o.first = i % step;
					assert_int_equal(0, read_epoch(&o, &s, 2, &token)); /* and on */
					first = i % step == 0 ? token : first;
					o.first += 2 * step;
					assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
				}
				assert_once(&s);
				assert_memory_equal(alone.step, s.step, world->samples * sizeof(s.step[0]));
				memset(&s, 0, sizeof(s));
				for (uint32_t r = 0; r < ranks; r++) { /* behind batch number `step` of all ranks */
					struct granary_epoch_options o = defaults(r, ranks, 16);
					o.mode = mode;
					assert_int_equal(0, read_epoch(&o, &s, step + 1, NULL));
					o.token = &first;
					assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
				}
				assert_once(&s);
			}
		}
}

/* Goal: where ranks share lanes the server can tell when all have taken theirs of what it read: spans are the same for
 * all ranks, and together they take of each what they say, wherever the epoch begins and ends. */
static void test_ranks_that_share_lanes_take_all_of_each_span(void **state)
{
	static struct seen s;
	static const uint32_t worlds[] = { 5, 7, 8, 18 };

	(void)state;
	world_make(3000, 2, 400, 16, 4, 12);
	for (size_t w = 0; w < 4; w++)
		for (uint32_t last = GRANARY_LAST_PAD; last <= GRANARY_LAST_DROP; last++) {
			struct granary_epoch_options o = defaults(0, worlds[w], 11);
			struct granary_token token;

			o.last = (uint8_t)last;
			memset(&s, 0, sizeof(s));
			for (uint32_t r = 0; r < worlds[w]; r++) {
				o.rank = r;
				assert_int_equal(0, read_epoch(&o, &s, 3, &token));
			}
			spans_count = 0;
			spans_taken = 0;
			o.token = &token;
			for (uint32_t r = 0; r < worlds[w]; r++) {
				o.rank = r;
				assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
			}
			if (last == GRANARY_LAST_PAD)
				assert_once(&s);
			assert_true(spans_count > 100);
			/* What was asked for before the stop may have come since: it has another tag. */
			for (uint32_t i = 0; i < spans_count; i++)
				if (spans[i].tag == spans[spans_count - 1].tag)
					assert_int_equal(spans[i].wanted, spans[i].taken);
		}
}

static void test_order_is_that_of_the_definition(void **state)
{
	struct order_spec spec = { .mode = ORDER_BLOCKS, .samples = 3000, .block = 16, .window = 4,
		.lanes = 12, .seed = 11,
		.epoch = 2 };
	struct granary_epoch_options o = defaults(0, 1, 50);
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	struct order order;
	uint64_t position = 0;

	(void)state;
	world_make(3000, 1, 900, 16, 4, 12);
	assert_int_equal(0, order_init(&order, &spec, NULL, 0));
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	while (granary_epoch_next(e, &b) == 1) {
		for (uint32_t i = 0; i < b->count; i++)
			assert_int_equal(order_at(&order, position++), b->ids[i]);
		granary_epoch_release(e, &b);
	}
	assert_int_equal(3000, position);
	granary_epoch_close(&e);
}

static void test_steps_are_equal_for_every_world(void **state)
{
	static struct seen one, many;
	static const uint32_t worlds[] = { 2, 3, 4, 6 };

	(void)state;
	world_make(2500, 1, 700, 16, 4, 12);
	struct granary_epoch_options o = defaults(0, 1, 48);
	memset(&one, 0, sizeof(one));
	assert_int_equal(0, read_epoch(&o, &one, UINT64_MAX, NULL));
	for (size_t w = 0; w < 4; w++) {
		memset(&many, 0, sizeof(many));
		for (uint32_t r = 0; r < worlds[w]; r++) {
			o = defaults(r, worlds[w], 48 / worlds[w]);
			assert_int_equal(0, read_epoch(&o, &many, UINT64_MAX, NULL));
		}
		assert_memory_equal(one.step, many.step, sizeof(one.step));
	}
}

static void test_batch_counts_at_the_borders(void **state)
{
	static struct seen s;

	(void)state;
	for (uint64_t n = 319; n <= 321; n++) {
		world_make(n, 1, 500, 4, 2, 4);
		for (uint32_t last = 0; last <= 2; last++) {
			uint64_t batches[2], total = 0;
			memset(&s, 0, sizeof(s));
			for (uint32_t r = 0; r < 2; r++) {
				struct granary_epoch_options o = defaults(r, 2, 16);
				o.last = last;
				assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
				batches[r] = s.batches;
			}
			for (uint64_t i = 0; i < n; i++)
				total += s.count[i];
			if (last != GRANARY_LAST_KEEP)
				assert_int_equal(batches[0], batches[1]);
			assert_int_equal(last == GRANARY_LAST_DROP ? n / 32 * 32 : n, total);
			assert_int_equal(last == GRANARY_LAST_PAD ? (32 - n % 32) % 32 : 0, s.padded);
		}
		for (int i = 0; i < PACKS; i++)
			free(world->pages[i]);
		free(world->names);
		free(world->manifest);
		world->names = world->manifest = NULL;
		memset(world->pages, 0, sizeof(world->pages));
	}
}

static void test_groups_holes_and_small_memory(void **state)
{
	static struct seen s;
	static const uint64_t memory[] = { 0, 1 << 20, 2 << 20, 4 << 20 };

	(void)state;
	world_make(2000, 3, 600, 8, 8, 4);
	for (size_t i = 0; i < 4; i++)
		for (uint32_t ranks = 1; ranks <= 4; ranks++) {
			memset(&s, 0, sizeof(s));
			for (uint32_t r = 0; r < ranks; r++) {
				struct granary_epoch_options o = defaults(r, ranks, 10);
				o.memory = memory[i];
				assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
			}
			assert_once(&s);
		}
}

/* Goal: with one batch ahead, planned before its blocks may be asked for, nothing waits for what never comes. */
static void test_one_batch_ahead(void **state)
{
	static struct seen s;

	(void)state;
	world_make(1500, 1, 600, 4, 1, 12);
	for (uint32_t ranks = 1; ranks <= 7; ranks++) {
		memset(&s, 0, sizeof(s));
		for (uint32_t r = 0; r < ranks; r++) {
			struct granary_epoch_options o = defaults(r, ranks, 14);
			o.mode = GRANARY_MODE_BLOCKS;
			o.read_ahead = 1;
			o.memory = 1 << 20;
			assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
		}
		assert_once(&s);
	}
}

static void test_whole_blocks_travel(void **state)
{
	static struct seen s;

	(void)state;
	world_make(4000, 1, 600, 32, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 64);
	memset(&s, 0, sizeof(s));
	assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
	assert_once(&s);
	assert_true(world->ranges < 400); /* of 4,000 samples */
}

/* Goal: what a run has asked for when it stops is little more than what it used, though its budget would take the whole
 * epoch. Method: bytes asked for by a rank that takes ten batches and then none, but goes on reading if it may. */
static void test_little_is_read_ahead_of_what_is_taken(void **state)
{
	static const uint32_t worlds[] = { 1, 5 }; /* ranks of five share lanes */
	const uint32_t batches = 10, batch = 16;

	(void)state;
	world_make(6000, 1, 400, 16, 4, 4); /* windows of 256 samples */
	for (uint32_t mode = 1; mode <= 2; mode++)
		for (size_t w = 0; w < 2; w++) {
			struct granary_epoch_options o = defaults(0, worlds[w], batch);
			const struct granary_epoch_batch *b;
			struct granary_epoch *e;
			uint64_t before = world->range_bytes, used = 0;

			o.mode = mode;
			assert_int_equal(0, granary_epoch_open(client, &o, &e));
			for (uint32_t i = 0; i < batches; i++) {
				assert_int_equal(1, granary_epoch_next(e, &b));
				used += b->count;
				granary_epoch_release(e, &b);
			}
			usleep(100000);
			granary_epoch_close(&e);
			/* A 32nd of its part of the epoch, at least a batch; a batch more; in `blocks` what is left of
			 * a window, and a whole one. With what is between samples: 1.5 times their bytes. */
			uint64_t most = 6000 / 32 / worlds[w] + 2 * batch + used / 32;
			most += mode == GRANARY_MODE_BLOCKS ? 2 * 256 / worlds[w] : 0;
			assert_in_range(world->range_bytes - before, used * 200, (used + most) * 600);
		}
}

static void test_resume_with_other_worlds(void **state)
{
	static struct seen s;
	struct granary_token token, other;
	char text[GRANARY_TOKEN_TEXT_LEN + 1];

	(void)state;
	world_make(3001, 1, 600, 16, 4, 12);
	for (uint32_t mode = 1; mode <= 3; mode++) {
		static const uint32_t worlds[] = { 3, 5, 4, 1 };
		uint64_t took[] = { 7, 9, 11, UINT64_MAX };
		memset(&s, 0, sizeof(s));
		memset(&token, 0, sizeof(token));
		for (size_t leg = 0; leg < 4; leg++) {
			struct granary_token from = token;
			for (uint32_t r = 0; r < worlds[leg]; r++) {
				struct granary_epoch_options o = defaults(r, worlds[leg], 13);
				o.mode = mode;
				o.token = leg > 0 ? &from : NULL;
				if (leg > 0)
					o.seed = o.epoch = 999; /* the token knows better */
				assert_int_equal(0, read_epoch(&o, &s, took[leg], &other));
				assert_true(r == 0 || memcmp(&other, &token, sizeof(token)) == 0);
				token = other;
			}
			assert_int_equal(0, granary_token_text(&token, text));
			assert_int_equal(0, granary_token_parse(text, &other));
			assert_memory_equal(&token, &other, sizeof(token));
		}
		assert_once(&s);
	}
}

static void test_tokens_that_do_not_fit(void **state)
{
	static struct seen s;
	struct granary_token token, bad;

	(void)state;
	world_make(1000, 1, 600, 16, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 10);
	assert_int_equal(0, read_epoch(&o, &s, 3, &token));
	o.token = &bad;
	for (uint32_t bit = 0; bit < token.len * 8; bit++) {
		bad = token;
		bad.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_true(read_epoch(&o, &s, 1, NULL) < 0);
	}
	for (uint32_t len = 1; len < token.len; len++) {
		bad = token;
		bad.len = len;
		assert_true(read_epoch(&o, &s, 1, NULL) < 0);
	}
	assert_true(granary_token_parse("nonsense", &bad) < 0);
	/* of another snapshot: the same name with other samples */
	for (int i = 0; i < PACKS; i++)
		free(world->pages[i]);
	free(world->names);
	free(world->manifest);
	world_make(1001, 1, 600, 16, 4, 4);
	bad = token;
	assert_true(read_epoch(&o, &s, 1, NULL) < 0);
	assert_non_null(strstr(granary_last_error(client), "token"));
}

static void test_options_that_make_no_sense(void **state)
{
	static const uint32_t bad[][3] = { { 0, 0, 1 }, { 1, 1, 1 }, { 5, 4, 1 }, { 0, 1, 0 }, { 0, 1, 4097 } };
	static struct seen s;

	(void)state;
	world_make(100, 1, 600, 16, 4, 1);
	for (size_t i = 0; i < 5; i++) {
		struct granary_epoch_options o = defaults(bad[i][0], bad[i][1], bad[i][2]);
		assert_int_equal(-GRANARY_EINVAL, read_epoch(&o, &s, 1, NULL));
	}
	struct granary_epoch_options o = defaults(0, 1, 1);
	o.memory = 100; /* below the largest sample */
	assert_int_equal(-GRANARY_ETOOBIG, read_epoch(&o, &s, 1, NULL));
	assert_non_null(strstr(granary_last_error(client), "v1', at least"));
	assert_non_null(strstr(granary_last_error(client), "the largest, 'train/0"));
	o = defaults(0, 1, 1);
	o.mode = 4;
	assert_int_equal(-GRANARY_EINVAL, read_epoch(&o, &s, 1, NULL));
}

static void test_files_of_a_group_count_together(void **state)
{
	struct granary_epoch_options o = defaults(0, 1, 1);
	static struct seen s;

	(void)state;
	world_make(100, 3, 600, 16, 4, 1);
	o.memory = 900; /* each file is smaller */
	assert_int_equal(-GRANARY_ETOOBIG, read_epoch(&o, &s, 1, NULL));
}

/* ---- faults ---- */

static void test_lost_connections_lose_nothing(void **state)
{
	static struct seen s;

	(void)state;
	world_make(3000, 1, 800, 16, 4, 4);
	for (uint32_t mode = 1; mode <= 2; mode++) {
		struct granary_epoch_options o = defaults(0, 1, 32);
		const struct granary_epoch_batch *b;
		struct granary_epoch *e;
		int more;
		o.mode = mode;
		memset(&s, 0, sizeof(s));
		assert_int_equal(0, granary_epoch_open(client, &o, &e));
		for (uint32_t k = 0; (more = granary_epoch_next(e, &b)) > 0; k++) {
			if (k % 7 == 3)
				PEER_SET(peer, drop_requests, 1);
			if (k % 11 == 5)
				PEER_SET(peer, drop_midway, 1);
			if (k % 13 == 7)
				PEER_SET(peer, busy, 3);
			for (uint32_t i = 0; i < b->count; i++) {
				check_sample(b, i);
				s.count[b->ids[i]] += b->flags[i] == 0;
			}
			granary_epoch_release(e, &b);
		}
		assert_int_equal(0, more);
		granary_epoch_close(&e);
		assert_once(&s);
	}
}

static void test_a_flipped_bit_is_asked_for_again(void **state)
{
	static struct seen s;

	(void)state;
	world_make(2000, 1, 800, 16, 4, 4);
	for (uint32_t mode = 1; mode <= 2; mode++) {
		struct granary_epoch_options o = defaults(0, 1, 32);
		o.mode = mode;
		memset(&s, 0, sizeof(s));
		PEER_SET(peer, corrupt, 1);
		assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
		assert_once(&s);
		assert_int_equal(0, s.skipped);
	}
}

static void spoil(uint64_t id)
{
	struct granary_snapshot *snapshot;
	struct granary_snapshot_row row;

	assert_int_equal(0, granary_snapshot_open(client, "v1", &snapshot, NULL));
	assert_int_equal(0, granary_snapshot_row(snapshot, id, 0, &row));
	granary_snapshot_close(&snapshot);
	world->bad_pack = row.pack;
	world->bad_offset = row.offset + 3;
}

static void test_damaged_samples_raise_or_are_skipped(void **state)
{
	static struct seen s, again;

	(void)state;
	world_make(1500, 1, 800, 16, 4, 4);
	spoil(777);
	for (uint32_t mode = 1; mode <= 2; mode++) {
		struct granary_epoch_options o = defaults(0, 1, 32);
		o.mode = mode;
		memset(&s, 0, sizeof(s));
		assert_int_equal(-GRANARY_ECORRUPT, read_epoch(&o, &s, UINT64_MAX, NULL));
		assert_non_null(strstr(granary_last_error(client), "sample 777"));
		assert_non_null(strstr(granary_last_error(client), "train/00000777.a"));
		o.on_error = GRANARY_ERROR_SKIP;
		for (int run = 0; run < 2; run++) {
			memset(&s, 0, sizeof(s));
			assert_int_equal(0, read_epoch(&o, &s, UINT64_MAX, NULL));
			assert_int_equal(1, s.skipped);
			assert_int_equal(0, s.count[777]);
			assert_int_equal((1500 + 31) / 32, s.batches);
			assert_true(run == 0 || memcmp(&s, &again, sizeof(s)) == 0);
			again = s;
		}
	}
}

static void test_a_stall_ends_with_one_error(void **state)
{
	static struct seen s;

	(void)state;
	world_make(500, 1, 800, 16, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 32);
	struct granary_epoch *e;
	const struct granary_epoch_batch *b;
	(void)s;
	o.stall_timeout_ms = 1500;
	o.memory = 1 << 20;
	o.read_ahead = 1;
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	assert_int_equal(1, granary_epoch_next(e, &b));
	granary_epoch_release(e, &b);
	PEER_SET(peer, silent, true);
	int more;
	while ((more = granary_epoch_next(e, &b)) > 0)
		granary_epoch_release(e, &b);
	assert_int_equal(-GRANARY_ETIMEDOUT, more);
	assert_non_null(strstr(granary_last_error(client), "stalled"));
	assert_int_equal(-GRANARY_ETIMEDOUT, granary_epoch_next(e, &b));
	granary_epoch_close(&e);
}

static void test_a_snapshot_that_goes_away(void **state)
{
	(void)state;
	world_make(3000, 1, 800, 16, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 16);
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	int more;
	o.mode = GRANARY_MODE_EXACT;
	o.read_ahead = 2;
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	for (uint32_t k = 0; (more = granary_epoch_next(e, &b)) > 0; k++) {
		granary_epoch_release(e, &b);
		if (k == 5)
			world->gone = true;
	}
	assert_int_equal(-GRANARY_ENOTFOUND, more);
	granary_epoch_close(&e);
}

/* ---- the rest ---- */

static void test_into_memory_of_the_caller(void **state)
{
	static uint8_t buf[1 << 20];
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	uint64_t need, batches = 0;
	int more;

	(void)state;
	world_make(300, 1, 800, 16, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 32);
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	assert_int_equal(-GRANARY_ETOOBIG, granary_epoch_next_into(e, buf, 100, &b, &need));
	assert_null(b);
	assert_true(need > 100);
	while ((more = granary_epoch_next_into(e, buf, sizeof(buf), &b, &need)) > 0) {
		assert_ptr_equal(buf, b->data);
		for (uint32_t i = 0; i < b->count; i++)
			check_sample(b, i);
		batches++;
		granary_epoch_release(e, &b);
	}
	assert_int_equal(0, more);
	assert_int_equal(10, batches);
	granary_epoch_close(&e);
}

static void count_done(struct granary_op *op, int64_t result, void *arg)
{
	int64_t *to = arg;

	to[0]++;
	to[1] = result;
	granary_op_free(&op);
}

static void test_waiting_in_a_loop_of_ones_own(void **state)
{
	const struct granary_epoch_batch *b;
	struct granary_epoch *e;
	struct granary_op *op, *second;
	int64_t seen[2] = { 0, 1 };
	uint64_t batches = 0;

	(void)state;
	world_make(300, 1, 800, 16, 4, 4);
	struct granary_epoch_options o = defaults(0, 1, 32);
	struct pollfd fd = { .fd = granary_fd(client), .events = POLLIN };
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	for (int64_t turn = 1; seen[1] == 1; turn++) {
		assert_int_equal(0, granary_epoch_ready_start(e, GRANARY_CALL(.done = count_done, .arg = seen), &op));
		while (seen[0] < turn) {
			assert_int_equal(1, poll(&fd, 1, 10000));
			granary_poll(client, 0);
		}
		if (seen[1] == 1) {
			assert_int_equal(1, granary_epoch_next(e, &b));
			batches++;
			granary_epoch_release(e, &b);
		}
	}
	assert_int_equal(0, seen[1]);
	assert_int_equal(10, batches);
	granary_epoch_close(&e);
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	assert_int_equal(0, granary_epoch_ready_start(e, NULL, &op));
	if (!granary_op_done(op))
		assert_int_equal(-GRANARY_EBUSY, granary_epoch_ready_start(e, NULL, &second));
	granary_op_free(&op); /* canceled, or done */
	assert_int_equal(0, granary_epoch_ready_start(e, NULL, &op));
	granary_epoch_close(&e);
	assert_true(granary_wait(op, 10000) != -GRANARY_EAGAIN);
	granary_op_free(&op);
}

static void test_snapshots_by_name_id_and_key(void **state)
{
	struct granary_snapshot_detail d = GRANARY_INIT(granary_snapshot_detail);
	struct granary_snapshot_page *page;
	struct granary_snapshot_info *info;
	struct granary_snapshot *s;
	uint64_t id;
	uint32_t field;
	void *data;
	size_t len;

	(void)state;
	world_make(500, 2, 800, 16, 4, 4);
	assert_int_equal(0, granary_snapshot_list(client, NULL, &page, NULL));
	assert_int_equal(2, page->count);
	assert_string_equal("v2", page->entries[1].name);
	assert_string_equal("a note", page->entries[1].note);
	granary_free(page);
	assert_int_equal(0, granary_snapshot_show(client, "v1", &info, NULL));
	assert_int_equal(500, info->samples);
	assert_string_equal("train/", info->prefix);
	granary_free(info);
	assert_int_equal(-GRANARY_EBUSY, granary_snapshot_remove(client, "v1", 0, NULL));
	assert_non_null(strstr(granary_last_error(client), "r50"));
	if (granary_snapshot_open(client, "v1", &s, NULL) < 0) fail_msg("%s", granary_last_error(client));
	assert_int_equal(0, granary_snapshot_describe(s, &d));
	assert_int_equal(2, d.fields);
	assert_int_equal(500, granary_snapshot_samples(s));
	assert_int_equal(0, granary_snapshot_find(s, "train/00000123.b", &id, &field));
	assert_int_equal(123, id);
	assert_int_equal(1, field);
	assert_int_equal(-GRANARY_ENOTFOUND, granary_snapshot_find(s, "train/00000123.x", &id, &field));
	assert_int_equal(0, granary_snapshot_read(s, 123, &data, &len, NULL));
	assert_int_equal(world->sizes[246] + world->sizes[247], len);
	granary_free(data);
	assert_int_equal(-GRANARY_ERANGE, granary_snapshot_read(s, 500, &data, &len, NULL));
	granary_snapshot_close(&s);
}

/* Goal: many samples by their ids, in the order asked for, also one twice; none of them when one cannot be read. */
static void test_many_samples_by_id(void **state)
{
	static const uint64_t ids[] = { 123, 3, 499, 0, 3, 5, 123 };
	enum { COUNT = sizeof(ids) / sizeof(ids[0]) };
	uint64_t offsets[2 * COUNT + 1], sizes[2 * COUNT], wrong = 500;
	uint32_t flags[COUNT] = { 0 };
	struct granary_snapshot *s;
	void *data;

	(void)state;
	world_make(500, 2, 800, 16, 4, 4);
	assert_int_equal(0, granary_snapshot_open(client, "v1", &s, NULL));
	assert_int_equal(0, granary_snapshot_read_batch(s, ids, COUNT, &data, offsets, NULL));
	for (uint32_t i = 0; i < 2 * COUNT; i++)
		sizes[i] = offsets[i + 1] - offsets[i];
	struct granary_epoch_batch b = { .data = data, .data_size = offsets[2 * COUNT], .offsets = offsets,
		.sizes = sizes, .ids = ids, .flags = flags, .count = COUNT, .fields = 2 };
	for (uint32_t i = 0; i < COUNT; i++)
		check_sample(&b, i);
	granary_free(data);
	assert_int_equal(0, granary_snapshot_read_batch(s, ids, 0, &data, offsets, NULL));
	assert_int_equal(0, offsets[0]);
	granary_free(data);
	assert_int_equal(-GRANARY_ERANGE, granary_snapshot_read_batch(s, &wrong, 1, &data, offsets, NULL));
	assert_null(data);
	spoil(123);
	assert_int_equal(-GRANARY_ECORRUPT, granary_snapshot_read_batch(s, ids, COUNT, &data, offsets, NULL));
	assert_null(data);
	assert_non_null(strstr(granary_last_error(client), "sample 123"));
	granary_snapshot_close(&s);
}

static void test_automatic_snapshots_and_reports(void **state)
{
	struct granary_epoch_info info = GRANARY_INIT(granary_epoch_info);
	struct granary_epoch *e;

	(void)state;
	world_make(100, 1, 800, 16, 4, 1);
	struct granary_epoch_options o = defaults(0, 1, 10);
	o.snapshot = "bucket/train/";
	o.job = "My Job";
	assert_int_equal(-GRANARY_EINVAL, granary_epoch_open(client, &o, &e)); /* it stands in lines of pairs */
	o.job = "My-Job";
	assert_int_equal(0, granary_epoch_open(client, &o, &e));
	assert_int_equal(0, granary_epoch_info(e, &info));
	assert_memory_equal(".auto-my-job-", info.snapshot, 13);
	granary_epoch_close(&e);
	assert_int_equal(1, world->creates);
	assert_int_equal(2, world->reports); /* the last one after the first */
	assert_int_equal(0, granary_epoch_open(client, &o, &e)); /* EXIST is fine */
	granary_epoch_close(&e);
	assert_int_equal(2, world->creates);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_batches_are_put_into_memory_of_the_caller),
		TEST(test_every_sample_once_in_every_mode),
		TEST(test_ranks_that_share_lanes_take_all_of_each_span),
		TEST(test_handles_that_share_a_rank),
		TEST(test_order_is_that_of_the_definition),
		TEST(test_steps_are_equal_for_every_world),
		TEST(test_batch_counts_at_the_borders),
		TEST(test_groups_holes_and_small_memory),
		TEST(test_one_batch_ahead),
		TEST(test_whole_blocks_travel),
		TEST(test_little_is_read_ahead_of_what_is_taken),
		TEST(test_resume_with_other_worlds),
		TEST(test_tokens_that_do_not_fit),
		TEST(test_options_that_make_no_sense),
		TEST(test_files_of_a_group_count_together),
		TEST(test_lost_connections_lose_nothing),
		TEST(test_a_flipped_bit_is_asked_for_again),
		TEST(test_damaged_samples_raise_or_are_skipped),
		TEST(test_a_stall_ends_with_one_error),
		TEST(test_a_snapshot_that_goes_away),
		TEST(test_into_memory_of_the_caller),
		TEST(test_waiting_in_a_loop_of_ones_own),
		TEST(test_snapshots_by_name_id_and_key),
		TEST(test_many_samples_by_id),
		TEST(test_automatic_snapshots_and_reports),
	};

	if (peer_engine_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
