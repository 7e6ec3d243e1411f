/* SPDX-License-Identifier: Apache-2.0 */
/* order.c -- positions to dense ids and back; section numbers are those of docs/ORDER.md.
 * Invariants: (1) every step is a bijection, so their composition is; (2) no product overflows: N <= 2^48, L <= 2^15,
 * n * G <= 2^62; (3) no floating point: results are the same on every machine. */
#include "common/order.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/error.h"
#include "common/hash.h"

__extension__ typedef unsigned __int128 u128; /* a product of two words */

enum { ROUNDS = 6 };

static uint64_t mul_high(uint64_t a, uint64_t b)
{
	return (uint64_t)(((u128)a * b) >> 64);
}

/* ---- 2: keys and permutations ---- */

uint64_t order_key_add(uint64_t key, uint64_t value)
{
	return hash_u64(key ^ hash_u64(value + ORDER_GOLDEN));
}

uint64_t order_key(uint64_t seed, uint64_t epoch, enum order_purpose purpose)
{
	return order_key_add(order_key_add(order_key_add(0, seed), epoch), purpose);
}

/* [0, n) inside low + high * 2^low_bits, low < 2^low_bits, high < high_count. */
struct halves {
	unsigned low_bits;
	uint64_t low_mask, high_count;
};

static inline struct halves halves_of(uint64_t n)
{
	unsigned bits = n > 1 ? 64 - (unsigned)__builtin_clzll(n - 1) : 0;
	struct halves h = { .low_bits = (bits + 1) / 2 };

	h.low_mask = (UINT64_C(1) << h.low_bits) - 1;
	h.high_count = n > 1 ? ((n - 1) >> h.low_bits) + 1 : 1;
	return h;
}

/* The round function: the two multiplies of the splitmix64 finaliser; only its high bits are used. */
static inline uint64_t round_mix(uint64_t z)
{
	z *= UINT64_C(0xbf58476d1ce4e5b9);
	z ^= z >> 32;
	return z * UINT64_C(0x94d049bb133111eb);
}

static inline uint64_t round_low(const struct halves *h, uint64_t key, uint64_t high)
{
	return (round_mix(key + high) >> 1) >> (63 - h->low_bits); /* the highest low_bits bits */
}

static inline uint64_t round_high(const struct halves *h, uint64_t key, uint64_t low)
{
	return mul_high(round_mix(key + low), h->high_count);
}

uint64_t order_permute(uint64_t key, uint64_t n, uint64_t x)
{
	struct halves h = halves_of(n);

	assert(x < n);
	do {
		uint64_t low = x & h.low_mask, high = x >> h.low_bits, k = key;
		for (unsigned i = 0; i < ROUNDS; i += 2, k += 2 * ORDER_GOLDEN) {
			low = (low + round_low(&h, k, high)) & h.low_mask;
			high += round_high(&h, k + ORDER_GOLDEN, low);
			if (high >= h.high_count)
				high -= h.high_count;
		}
		x = high << h.low_bits | low;
	} while (x >= n);
	return x;
}

uint64_t order_unpermute(uint64_t key, uint64_t n, uint64_t y)
{
	struct halves h = halves_of(n);

	assert(y < n);
	do {
		uint64_t low = y & h.low_mask, high = y >> h.low_bits, k = key + (ROUNDS - 2) * ORDER_GOLDEN;
		for (unsigned i = 0; i < ROUNDS; i += 2, k -= 2 * ORDER_GOLDEN) {
			uint64_t step = round_high(&h, k + ORDER_GOLDEN, low);
			high = high >= step ? high - step : high + h.high_count - step;
			low = (low - round_low(&h, k, high)) & h.low_mask;
		}
		y = high << h.low_bits | low;
	} while (y >= n);
	return y;
}

/* ---- the spec ---- */

__attribute__((format(printf, 3, 4))) static int refuse(char *why, size_t cap, const char *format, ...)
{
	va_list args;

	if (cap > 0) {
		va_start(args, format);
		vsnprintf(why, cap, format, args);
		va_end(args);
	}
	return -GRANARY_EINVAL;
}

typedef unsigned long long ull;

static int blocks_check(const struct order_spec *s, char *why, size_t cap)
{
	if (s->block == 0 || s->block > ORDER_BLOCK_MAX || (s->block & (s->block - 1)) != 0)
		return refuse(why, cap, "block: %llu samples; it must be a power of two, 1 to 2^32", (ull)s->block);
	if (s->lanes == 0 || s->lanes > ORDER_LANES_MAX)
		return refuse(why, cap, "lanes: %u; it must be 1 to %d", s->lanes, ORDER_LANES_MAX);
	if (s->window == 0 || s->window > (UINT64_C(1) << 62) / s->block)
		return refuse(why, cap, "window: %llu blocks of %llu samples; it must be 1 block to 2^62 samples",
			(ull)s->window, (ull)s->block);
	return 0;
}

static void blocks_init(struct order *o)
{
	const struct order_spec *s = &o->spec;

	o->blocks_key = order_key(s->seed, s->epoch, ORDER_KEY_BLOCKS);
	o->window_key = order_key(s->seed, s->epoch, ORDER_KEY_WINDOW);
	o->rotation = mul_high(order_key(s->seed, s->epoch, ORDER_KEY_ROTATION), s->samples);
	o->block_shift = (uint8_t)__builtin_ctzll(s->block);
	o->blocks = s->samples >> o->block_shift;
	o->lane_items = s->samples / s->lanes;
	o->longer_lanes = (uint32_t)(s->samples % s->lanes);
}

int order_init(struct order *o, const struct order_spec *s, char *why, size_t cap)
{
	int err;

	*o = (struct order){ .spec = *s };
	if (order_mode_name(s->mode) == NULL)
		return refuse(why, cap, "mode: %u is none of exact (1), blocks (2), none (3)", s->mode);
	if (s->samples == 0)
		return refuse(why, cap, "samples: 0; there is nothing to order");
	if (s->samples > ORDER_SAMPLES_MAX)
		return refuse(why, cap, "samples: %llu; at most 2^48", (ull)s->samples);
	if (s->mode == ORDER_EXACT)
		o->exact_key = order_key(s->seed, s->epoch, ORDER_KEY_EXACT);
	if (s->mode != ORDER_BLOCKS)
		return 0;
	err = blocks_check(s, why, cap);
	if (err == 0)
		blocks_init(o);
	return err;
}

/* ---- 3.2: the sequence of permuted blocks ---- */

static uint64_t sequence_id(const struct order *o, uint64_t q)
{
	uint64_t block = q >> o->block_shift, id;

	if (block < o->blocks)
		block = order_permute(o->blocks_key, o->blocks, block);
	id = (block << o->block_shift | (q & (o->spec.block - 1))) + o->rotation;
	return id >= o->spec.samples ? id - o->spec.samples : id;
}

static uint64_t sequence_find(const struct order *o, uint64_t id)
{
	uint64_t x = id >= o->rotation ? id - o->rotation : id + o->spec.samples - o->rotation;
	uint64_t block = x >> o->block_shift;

	if (block < o->blocks)
		block = order_unpermute(o->blocks_key, o->blocks, block);
	return block << o->block_shift | (x & (o->spec.block - 1));
}

/* ---- 3.3: lanes ---- */

static uint64_t lane_start(const struct order *o, uint32_t lane) /* floor(lane * N / L) */
{
	return lane * o->lane_items + lane * o->longer_lanes / o->spec.lanes; /* lane * longer_lanes < 2^31 */
}

uint64_t order_lane_items(const struct order *o, uint32_t lane)
{
	assert(o->spec.mode == ORDER_BLOCKS && lane < o->spec.lanes);
	return lane_start(o, lane + 1) - lane_start(o, lane);
}

struct order_place order_place(const struct order *o, uint64_t position)
{
	uint64_t item = position / o->spec.lanes, lane = position % o->spec.lanes;

	assert(o->spec.mode == ORDER_BLOCKS && position < o->spec.samples);
	if (item == o->lane_items) /* the last round: the lane-th of the longer lanes */
		lane = ((lane + 1) * o->spec.lanes + o->longer_lanes - 1) / o->longer_lanes - 1;
	return (struct order_place){ (uint32_t)lane, item };
}

uint64_t order_position(const struct order *o, struct order_place at)
{
	uint64_t lane = at.lane;

	assert(at.item < order_lane_items(o, at.lane));
	if (at.item == o->lane_items)
		lane = lane * o->longer_lanes / o->spec.lanes;
	return at.item * o->spec.lanes + lane;
}

/* ---- 3.4: windows ---- */

struct range {
	uint64_t start, size;
}; /* of the sequence */

static inline struct range range_of(const struct order *o, struct range lane, uint64_t window)
{
	uint64_t end = lane.start + lane.size, span = o->spec.window << o->block_shift;
	uint64_t from = (lane.start & ~(o->spec.block - 1)) + window * span;
	uint64_t start = from > lane.start ? from : lane.start;

	return (struct range){ start, (end - from > span ? from + span : end) - start };
}

static inline struct range lane_range(const struct order *o, uint32_t lane)
{
	uint64_t start = lane_start(o, lane);

	return (struct range){ start, lane_start(o, lane + 1) - start };
}

static struct range window_range(const struct order *o, uint32_t lane, uint64_t window)
{
	return range_of(o, lane_range(o, lane), window);
}

static inline uint64_t window_of(const struct order *o, uint64_t lane_first, uint64_t q)
{
	return ((q >> o->block_shift) - (lane_first >> o->block_shift)) / o->spec.window;
}

static uint64_t window_key(const struct order *o, uint32_t lane, uint64_t window)
{
	return order_key_add(o->window_key, (uint64_t)lane << 48 | window);
}

/* Where an item lies in the permuted sequence. */
static inline uint64_t item_find(const struct order *o, uint32_t lane, uint64_t item, uint64_t *window,
	uint64_t *slot)
{
	struct range all = lane_range(o, lane), r;
	uint64_t q = all.start + item;

	assert(item < all.size);
	*window = window_of(o, all.start, q);
	r = range_of(o, all, *window);
	*slot = order_permute(window_key(o, lane, *window), r.size, q - r.start);
	return r.start + *slot;
}

uint64_t order_item_window(const struct order *o, uint32_t lane, uint64_t item, uint64_t *slot)
{
	uint64_t window;

	assert(o->spec.mode == ORDER_BLOCKS && lane < o->spec.lanes);
	if (slot == NULL)
		return window_of(o, lane_start(o, lane), lane_start(o, lane) + item);
	item_find(o, lane, item, &window, slot);
	return window;
}

uint64_t order_lane_item(const struct order *o, uint32_t lane, uint64_t item)
{
	uint64_t window, slot;

	return sequence_id(o, item_find(o, lane, item, &window, &slot));
}

uint64_t order_lane_windows(const struct order *o, uint32_t lane)
{
	uint64_t items = order_lane_items(o, lane);

	return items == 0 ? 0 : order_item_window(o, lane, items - 1, NULL) + 1;
}

struct order_window order_window(const struct order *o, uint32_t lane, uint64_t window)
{
	struct range r;

	assert(window < order_lane_windows(o, lane));
	r = window_range(o, lane, window);
	return (struct order_window){ .first_item = r.start - lane_start(o, lane), .items = r.size,
		.blocks = ((r.start + r.size - 1) >> o->block_shift) - (r.start >> o->block_shift) + 1 };
}

unsigned order_window_block(const struct order *o, uint32_t lane, uint64_t window, uint64_t block,
	struct order_piece out[2])
{
	struct range r = window_range(o, lane, window);
	uint64_t from = (r.start & ~(o->spec.block - 1)) + (block << o->block_shift);
	uint64_t start = from > r.start ? from : r.start, end = r.start + r.size, to_last;

	assert(from < end);
	if (end - from > o->spec.block)
		end = from + o->spec.block;
	out[0] = (struct order_piece){ sequence_id(o, start), end - start, start - r.start };
	to_last = o->spec.samples - out[0].first_id;
	if (out[0].count <= to_last)
		return 1;
	out[1] = (struct order_piece){ 0, out[0].count - to_last, out[0].first_slot + to_last };
	out[0].count = to_last;
	return 2;
}

static struct order_place blocks_find(const struct order *o, uint64_t id)
{
	uint64_t q = sequence_find(o, id), first, window, item;
	/* the largest lane whose start is at most q: floor(lane * N / L) <= q < floor((lane + 1) * N / L) */
	uint32_t lane = (uint32_t)((((u128)q + 1) * o->spec.lanes - 1) / o->spec.samples);
	struct range r;

	first = lane_start(o, lane);
	assert(q >= first && q < lane_start(o, lane + 1));
	window = window_of(o, first, q);
	r = window_range(o, lane, window);
	item = r.start - first + order_unpermute(window_key(o, lane, window), r.size, q - r.start);
	return (struct order_place){ lane, item };
}

/* ---- positions ---- */

uint64_t order_at(const struct order *o, uint64_t position)
{
	struct order_place at;

	assert(position < o->spec.samples);
	if (o->spec.mode == ORDER_NONE)
		return position;
	if (o->spec.mode == ORDER_EXACT)
		return order_permute(o->exact_key, o->spec.samples, position);
	at = order_place(o, position);
	return order_lane_item(o, at.lane, at.item);
}

uint64_t order_find(const struct order *o, uint64_t id)
{
	assert(id < o->spec.samples);
	if (o->spec.mode == ORDER_NONE)
		return id;
	if (o->spec.mode == ORDER_EXACT)
		return order_unpermute(o->exact_key, o->spec.samples, id);
	return order_position(o, blocks_find(o, id));
}

/* ---- 5: defaults ---- */

const char *order_mode_name(uint8_t mode)
{
	static const char *const names[] = { [ORDER_EXACT] = "exact", [ORDER_BLOCKS] = "blocks",
		[ORDER_NONE] = "none" };

	return mode < sizeof(names) / sizeof(names[0]) ? names[mode] : NULL;
}

enum order_mode order_auto(uint64_t mean_bytes, bool mostly_cold)
{
	return mean_bytes >= 64 * 1024 && !mostly_cold ? ORDER_EXACT : ORDER_BLOCKS;
}

static uint32_t default_lanes(uint64_t blocks)
{
	static const uint32_t lanes[] = { 3840, 1920, 960, 480, 240, 120, 60, 24, 12, 4, 1 };
	size_t i = 0;

	while (lanes[i] > 1 && blocks / lanes[i] < 16)
		i++;
	return lanes[i];
}

/* G: what holds `total` bytes of so many lanes, rounded up unless that breaks the upper limit. */
static uint64_t default_window(u128 data, u128 block_bytes, uint32_t lanes)
{
	const u128 least = (u128)1 << 30, most = (u128)256 << 30;
	u128 total = data / 64 < least ? least : data / 64, lane = block_bytes * lanes;
	uint64_t window;

	if (total > most)
		total = most;
	window = (uint64_t)((total + lane - 1) / lane);
	return window > 1 && window * lane > most ? window - 1 : window;
}

void order_defaults(uint64_t samples, uint64_t mean_bytes, bool mostly_cold, uint64_t *block, uint32_t *lanes,
	uint64_t *window)
{
	uint64_t target = mostly_cold ? UINT64_C(8) << 20 : UINT64_C(256) << 10;
	uint64_t mean = mean_bytes ? mean_bytes : 1, n = 1, blocks, lane_blocks;

	while (n * 2 <= target / mean)
		n *= 2;
	blocks = samples / n + (samples % n != 0);
	*block = n;
	*lanes = default_lanes(blocks);
	*window = default_window((u128)samples * mean, (u128)n * mean, *lanes);
	lane_blocks = blocks / *lanes + 2; /* a lane's whole range, cut blocks at both ends included */
	if (*window * *lanes >= blocks)
		*window = lane_blocks;
}
