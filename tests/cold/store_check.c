/* SPDX-License-Identifier: Apache-2.0 */
/* store_check.c -- random operations on a cold store of any type, compared with what must be there
 * (tier/store.h is the contract): store_check NAME=VALUE... -- [--seed N] [--ops N] [--max BYTES]
 * [--deadline-ms N] [--faults] With --faults an operation may fail; never may one that succeeded be untrue, a
 * failed put be seen in part, or an error be given that the contract does not name. Prints what was done;
 * status 1 at the first difference. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/rand.h"
#include "tier/store.h"

enum { OBJECTS_MAX = 4096, CHUNK_MAX = 3 * 1024 * 1024 };
enum state { ABSENT, PRESENT, UNSURE };

struct object {
	char name[COLD_NAME_MAX];
	uint64_t len, seed;
	enum state state;
	bool listed;
};

static struct object objects[OBJECTS_MAX];
static unsigned object_count;
static struct cold *store;
static struct rng rng;
static uint64_t deadline_ms = 20000;
static bool faults;
static uint8_t *buf;
static struct {
	unsigned puts, gets, stats, lists, removes, aborts, errors;
} done;

static uint64_t deadline(void)
{
	return clock_mono_ns() + deadline_ms * 1000000;
}

static _Noreturn void differs(const struct object *o, const char *what, long long got, long long wanted)
{
	printf("store_check: %s '%s': %lld, not %lld\n", what, o ? o->name : "", got, wanted);
	exit(1);
}

/* Ends the program unless the error is one that may be. */
static void failed(const struct object *o, const char *what, int err)
{
	static const int named[] = { GRANARY_EOFFLINE, GRANARY_ETIMEDOUT, GRANARY_EBUSY, GRANARY_EACCESS,
		GRANARY_ENOSPACE, GRANARY_ECORRUPT, GRANARY_EIO };
	bool known = false;

	for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++) known = known || err == -named[i];
	done.errors++;
	if (faults && known) { /* an outage fails at once: it must not use all operations up */
		struct timespec pause = { 0, 5000000 };
		nanosleep(&pause, NULL);
		return;
	}
	printf("store_check: %s '%s': %s (%s)\n", what, o ? o->name : "", error_name(err), error_text(err));
	exit(1);
}

/* The bytes of an object from offset on: any range without those before it. */
static void fill(const struct object *o, uint64_t offset, uint8_t *to, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t at = offset + i, word = (at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ o->seed;
		word ^= word >> 29;
		word *= UINT64_C(0xbf58476d1ce4e5b9);
		to[i] = (uint8_t)(word >> (8 * (at % 8)));
	}
}

static bool same(const struct object *o, uint64_t offset, const uint8_t *p, size_t len)
{
	uint8_t part[4096];

	for (size_t at = 0; at < len; at += sizeof(part)) {
		size_t n = len - at < sizeof(part) ? len - at : sizeof(part);
		fill(o, offset + at, part, n);
		if (memcmp(part, p + at, n) != 0) return false;
	}
	return true;
}

static struct object *pick(enum state state)
{
	for (unsigned i = 0; object_count && i < 16; i++) {
		struct object *o = &objects[rng_below(&rng, object_count)];
		if (o->state == state) return o;
	}
	return NULL;
}

static int put_bytes(struct object *o, bool abort)
{
	struct cold_put *put = NULL;
	int err = store->ops->put_begin(store, o->name, o->len, deadline(), &put);

	for (uint64_t at = 0; err == 0 && at < o->len;) {
		size_t n = (size_t)(1 + rng_below(&rng, CHUNK_MAX));
		if (n > o->len - at) n = (size_t)(o->len - at);
		fill(o, at, buf, n);
		err = store->ops->put_write(put, buf, n, deadline());
		at += n;
		if (abort && rng_below(&rng, 2)) break;
	}
	if (err == 0 && !abort) return store->ops->put_finish(&put, deadline());
	if (put) store->ops->put_abort(&put);
	return err;
}

static void op_put(uint64_t max)
{
	if (object_count == OBJECTS_MAX) return;
	struct object *o = &objects[object_count++];
	bool abort = rng_below(&rng, 8) == 0;

	o->seed = rng_next(&rng);
	o->len = rng_below(&rng, 4) ? rng_below(&rng, 200 * 1024) + 1 : rng_below(&rng, max) + 1;
	snprintf(o->name, sizeof(o->name), "%s/%016llx.%u", rng_below(&rng, 2) ? "p" : "q-x",
		(unsigned long long)o->seed, object_count);
	o->state = UNSURE;
	int err = put_bytes(o, abort);
	if (err == 0) o->state = abort ? ABSENT : PRESENT;
	if (err < 0) failed(o, "put", err);
	if (abort)
		done.aborts++;
	else
		done.puts++;
}

static void op_get(void)
{
	struct object *o = pick(PRESENT);

	if (!o) return;
	uint64_t offset = rng_below(&rng, o->len + 2);
	size_t len = (size_t)(1 + rng_below(&rng, CHUNK_MAX));
	int64_t want = offset >= o->len ? 0 : o->len - offset < len ? (int64_t)(o->len - offset) : (int64_t)len;
	int64_t got = store->ops->get(store, o->name, buf, len, offset, deadline());
	done.gets++;
	if (got < 0)
		failed(o, "get", (int)got);
	else if (got != want)
		differs(o, "length of a get", got, want);
	else if (!same(o, offset, buf, (size_t)got))
		differs(o, "bytes of a get", (long long)offset, (long long)offset);
}

static void check_whole(struct object *o, uint64_t len)
{
	if (len != o->len) differs(o, "length", (long long)len, (long long)o->len);
	for (uint64_t at = 0; at < len; at += CHUNK_MAX) {
		int64_t got = store->ops->get(store, o->name, buf, CHUNK_MAX, at, deadline());
		if (got < 0) {
			failed(o, "get", (int)got);
			return;
		}
		if (!same(o, at, buf, (size_t)got)) differs(o, "bytes", (long long)at, (long long)at);
	}
}

/* Any object: what is known of it, and after it what was not. */
static void op_stat(struct object *o)
{
	uint64_t len = 0;
	int err = store->ops->stat(store, o->name, deadline(), &len);

	done.stats++;
	if (err == -GRANARY_ENOTFOUND) {
		if (o->state == PRESENT) differs(o, "stat", err, 0);
		if (!faults) o->state = ABSENT; /* what a proxy holds back may still arrive */
	} else if (err < 0) {
		failed(o, "stat", err);
	} else if (o->state == ABSENT) {
		differs(o, "stat of what is not there", 0, -GRANARY_ENOTFOUND);
	} else {
		check_whole(o, len);
		if (o->state == UNSURE) o->state = PRESENT;
	}
}

static void op_remove(void)
{
	struct object *o = rng_below(&rng, 4) ? pick(PRESENT) : pick(ABSENT);

	if (!o) return;
	int err = store->ops->remove(store, o->name, deadline());
	done.removes++;
	if (err < 0) failed(o, "remove", err);
	o->state = err < 0 ? (o->state == ABSENT ? ABSENT : UNSURE) : ABSENT;
}

static int listed(void *arg, const char *name, uint64_t len)
{
	(void)arg;
	for (unsigned i = 0; i < object_count; i++) {
		struct object *o = &objects[i];
		if (strcmp(o->name, name) != 0) continue;
		if (o->state == ABSENT) differs(o, "listed what is not there", 1, 0);
		if (len != o->len) differs(o, "listed length", (long long)len, (long long)o->len);
		o->listed = true;
		return 0;
	}
	printf("store_check: listed '%s', which nobody put\n", name);
	exit(1);
}

static void op_list(const char *prefix)
{
	for (unsigned i = 0; i < object_count; i++) objects[i].listed = false;
	int err = store->ops->list(store, prefix, deadline(), listed, NULL);
	done.lists++;
	if (err < 0) {
		failed(NULL, "list", err);
		return;
	}
	for (unsigned i = 0; i < object_count; i++)
		if (objects[i].state == PRESENT && !objects[i].listed &&
			strncmp(objects[i].name, prefix, strlen(prefix)) == 0)
			differs(&objects[i], "not listed", 0, 1);
}

static void op_random(uint64_t max)
{
	uint64_t kind = rng_below(&rng, 20);

	if (kind < 7)
		op_put(max);
	else if (kind < 14)
		op_get();
	else if (kind < 16 && object_count)
		op_stat(&objects[rng_below(&rng, object_count)]);
	else if (kind < 19)
		op_remove();
	else
		op_list(rng_below(&rng, 2) ? "p/" : "");
}

static void open_store(struct store_settings *settings)
{
	char why[COLD_WHY_MAX] = "", type[64];
	const struct cold_env env = { 0 };

	store_setting(settings, "type", type, sizeof(type));
	int err = store_settings_check(settings, why, sizeof(why));
	if (err == 0) err = cold_type_find(type)->open(settings, &env, &store, why, sizeof(why));
	if (err == 0) return;
	printf("store_check: %s\n", why);
	exit(2);
}

int main(int argc, char **argv)
{
	struct store_settings settings = { .name = "checked" };
	uint64_t seed = 1, ops = 200, max = 20 * 1024 * 1024;
	char why[COLD_WHY_MAX];

	for (int i = 1; i < argc; i++) {
		char *equals = strchr(argv[i], '=');
		if (strcmp(argv[i], "--faults") == 0) {
			faults = true;
		} else if (strncmp(argv[i], "--", 2) == 0 && i + 1 < argc) {
			uint64_t n = strtoull(argv[i + 1], NULL, 10);
			if (strcmp(argv[i], "--seed") == 0) seed = n;
			if (strcmp(argv[i], "--ops") == 0) ops = n;
			if (strcmp(argv[i], "--max") == 0) max = n;
			if (strcmp(argv[i], "--deadline-ms") == 0) deadline_ms = n;
			i++;
		} else if (equals) {
			*equals = '\0';
			if (store_setting_add(&settings, argv[i], equals + 1, why, sizeof(why)) < 0) {
				printf("store_check: %s\n", why);
				return 2;
			}
		}
	}
	open_store(&settings);
	rng_seed(&rng, seed);
	buf = malloc(CHUNK_MAX);
	if (!buf) return 2;
	for (uint64_t i = 0; i < ops; i++) op_random(max);
	for (unsigned i = 0; i < object_count; i++) op_stat(&objects[i]);
	op_list("");
	for (unsigned i = 0; i < object_count; i++)
		if (objects[i].state == PRESENT) (void)store->ops->remove(store, objects[i].name, deadline());
	printf("store_check: %s: seed %llu: %u puts, %u gets, %u stats, %u lists, %u removes, %u aborts, %u errors: "
	       "all true\n",
		store->where, (unsigned long long)seed, done.puts, done.gets, done.stats, done.lists, done.removes,
		done.aborts, done.errors);
	store->ops->close(store);
	free(buf);
	return 0;
}
