/* SPDX-License-Identifier: Apache-2.0 */
/* store_clock.c -- store time, FORMAT 7.1: what ages, leases and delayed deletions are counted in.
 *
 * now = base + (CLOCK_BOOTTIME - boottime at open); base = what was saved + the stop. Invariants: (1) it never goes
 * back: base is at least what was saved, and a reader whose time a crash took back by up to a minute gets it back
 * in the stop; (2) a wall clock that jumps moves it by 24 h at most, once, and only over a reboot; what a stop was
 * longer is held back until store_clock_accept(). */
#include "meta/ids.h"

#include "common/clock.h"
#include "common/error.h"
#include "common/tlv.h"
#include "meta/kv.h"
#include "meta/rows.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { MTAG_STORE = 64, MTAG_WALL, MTAG_BOOT, MTAG_HELD }; /* row M clock */

#define STOP_MAX_NS (UINT64_C(24) * 3600 * 1000 * 1000 * 1000)
/* A new store's first moment: far enough from 0 that "a day ago" is a number. */
#define STORE_TIME_FIRST_NS UINT64_C(1000000000000000000)

struct store_clock {
	_Atomic uint64_t base_ns;
	_Atomic uint64_t held_ns; /* of stops, beyond 24 h each: not counted until somebody says so */
	uint64_t boot_ns; /* CLOCK_BOOTTIME at open */
};

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* How long the store stood still. In the same boot the boottime knows exactly; after another boot it is less than
 * what was saved (and if the new boot has lasted longer already, the difference is too little, which is safe), and
 * the wall clock has to say. */
static uint64_t stop_length_ns(uint64_t wall_saved, uint64_t boot_saved, uint64_t wall_now, uint64_t boot_now)
{
	uint64_t by_wall = wall_now > wall_saved ? wall_now - wall_saved : 0;

	if (boot_now >= boot_saved)
		return boot_now - boot_saved;
	return by_wall > boot_now ? by_wall : boot_now;
}

static int clock_read(struct store_clock *c, struct slice value)
{
	uint64_t base, held, wall, boot, stop;

	if (!value_u64(value, MTAG_STORE, STORE_TIME_FIRST_NS, &base) || !value_u64(value, MTAG_HELD, 0, &held) ||
		!value_u64(value, MTAG_WALL, clock_wall_ns(), &wall) || !value_u64(value, MTAG_BOOT, c->boot_ns, &boot))
		return -GRANARY_ECORRUPT;
	stop = stop_length_ns(wall, boot, clock_wall_ns(), c->boot_ns);
	c->base_ns = base + min_u64(stop, STOP_MAX_NS);
	c->held_ns = held + (stop - min_u64(stop, STOP_MAX_NS));
	return 0;
}

int store_clock_open(struct kv *kv, struct store_clock **out)
{
	uint8_t key[ROW_KEY_MAX];
	struct store_clock *c = calloc(1, sizeof(*c));
	struct kv_value v;
	int err;

	*out = NULL;
	if (c == NULL)
		return -GRANARY_ENOMEM;
	c->boot_ns = clock_boot_ns();
	c->base_ns = STORE_TIME_FIRST_NS;
	err = kv_get(kv, row_store(key, "clock"), &v);
	if (err == 0) {
		err = clock_read(c, v.v);
		kv_value_release(&v);
	} else if (err == -GRANARY_ENOTFOUND) {
		err = 0;
	}
	if (err == 0)
		err = store_clock_save(c, kv); /* so that the next start knows this one */
	if (err == 0)
		*out = c;
	else
		free(c);
	return err;
}

uint64_t store_clock_now(const struct store_clock *c) { return c->base_ns + (clock_boot_ns() - c->boot_ns); }

int store_clock_save(struct store_clock *c, struct kv *kv)
{
	uint8_t key[ROW_KEY_MAX];
	uint8_t value[128];
	struct wr w = wr_of(value, sizeof(value));
	struct kv_txn *t = kv_txn_new(kv);
	int err;

	if (t == NULL)
		return -GRANARY_ENOMEM;
	value_begin(&w);
	tlv_put_u64(&w, MTAG_STORE, store_clock_now(c));
	tlv_put_u64(&w, MTAG_WALL, clock_wall_ns());
	tlv_put_u64(&w, MTAG_BOOT, clock_boot_ns());
	tlv_put_u64(&w, MTAG_HELD, c->held_ns);
	kv_put(t, row_store(key, "clock"), slice_of(value, wr_len(&w)));
	err = kv_submit_wait(kv, t);
	kv_txn_free(&t);
	return err;
}

uint64_t store_clock_held(const struct store_clock *c) { return c->held_ns; }

int store_clock_accept(struct store_clock *c, struct kv *kv, uint64_t *accepted_ns)
{
	*accepted_ns = atomic_exchange(&c->held_ns, 0);
	c->base_ns += *accepted_ns;
	return store_clock_save(c, kv);
}

void store_clock_free(struct store_clock **c)
{
	free(*c);
	*c = NULL;
}
