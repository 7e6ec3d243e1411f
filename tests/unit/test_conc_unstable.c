/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: several sessions whose changes are answered before they are durable, on two reactors, beside others that read,
 * list and write the same directory durably: every answer is true, everything is there after the last sync. Method:
 * threads against one store; label concurrency, so ThreadSanitizer looks on. */
#include "harness_store.h"

#include "meta/kv.h"

enum { WRITERS = 3, PUTS = 120, READS = 60 };

struct writer {
	struct world *w;
	pthread_t thread;
	uint32_t index;
	uint32_t unstable; /* answers that were */
};

static void text_of(char out[64], uint32_t writer, uint32_t i)
{
	snprintf(out, 64, "bytes of put %u of writer %u", i, writer);
}

static void key_of(char out[64], uint32_t writer, uint32_t i)
{
	snprintf(out, 64, "shared/w%u-%u", writer, i % (PUTS / 2)); /* each is written twice */
}

static uint16_t put_unstable(struct peer *p, uint64_t sequence, const char *key, const char *text)
{
	struct msg m = msg_new("data");
	struct call *c;
	uint16_t flags;

	msg_sequence(&m, sequence, 0, 0);
	wr_u32(&m.w, 1);
	msg_key(&m, key);
	msg_put_rest(&m, PUT_ANY, 0, 0, text, strlen(text));
	c = msg_call(p, OP_PUT, FRAME_UNSTABLE, &m, text, strlen(text));
	assert(put_result_of(c, 0).err == 0);
	flags = c->first->flags;
	call_free(c);
	return flags;
}

static void sync_peer(struct peer *p)
{
	uint8_t buf[1];
	struct wr w = wr_of(buf, sizeof(buf));
	struct call *c;

	wr_u8(&w, 0);
	c = call(p, OP_SYNC, 0, &w, NULL, 0);
	assert(call_status(c) == 0);
	call_free(c);
}

static void *writer_main(void *arg)
{
	struct writer *t = arg;
	struct peer p;

	peer_init(&p, t->w, "root", t->index);
	for (uint32_t i = 0; i < PUTS; i++) {
		char key[64], text[64];
		key_of(key, t->index, i);
		text_of(text, t->index, i);
		t->unstable += (put_unstable(&p, i + 1, key, text) & FRAME_UNSTABLE) != 0;
		if (i % 40 == 39) sync_peer(&p);
	}
	sync_peer(&p);
	peer_release(&p);
	return NULL;
}

/* Reads what may be pending, and puts durably beside it. */
static void *other_main(void *arg)
{
	struct writer *t = arg;
	struct peer p;

	peer_init(&p, t->w, "root", t->index);
	for (uint32_t i = 0; i < READS; i++) {
		char key[64];
		struct read_result r;
		key_of(key, i % WRITERS, i * 7);
		r = read_key(&p, "data", key, 0);
		assert(r.err == 0 || r.err == -GRANARY_ENOTFOUND);
		assert(r.err < 0 || (r.len > 13 && memcmp(r.data, "bytes of put ", 13) == 0));
		free(r.data);
		snprintf(key, sizeof(key), "shared/other-%u", i);
		assert(put_key(&p, "data", key, key, strlen(key)).err == 0);
		if (i % 3 == 0) assert(delete_key(&p, "data", key) == 0);
	}
	peer_release(&p);
	return NULL;
}

static void test_sessions_side_by_side(void **state)
{
	struct world w;
	struct writer t[WRITERS + 1];
	struct peer p;
	uint32_t unstable = 0;

	(void)state;
	world_new(&w);
	key_make(&w, "root", ALL_ACTIONS, "", "");
	peer_init(&p, &w, "root", 0);
	assert_int_equal(simple_call(&p, OP_BUCKET_CREATE, "data"), 0);
	assert_int_equal(put_key(&p, "data", "shared/first", "x", 1).err, 0);
	for (uint32_t i = 0; i <= WRITERS; i++) {
		t[i] = (struct writer){ .w = &w, .index = i };
		pthread_create(&t[i].thread, NULL, i < WRITERS ? writer_main : other_main, &t[i]);
	}
	for (uint32_t i = 0; i <= WRITERS; i++) {
		pthread_join(t[i].thread, NULL);
		unstable += t[i].unstable;
	}
	assert_true(unstable > 0);
	peer_release(&p);
	world_restart(&w);
	peer_init(&p, &w, "root", 1);
	for (uint32_t writer = 0; writer < WRITERS; writer++) {
		for (uint32_t i = PUTS / 2; i < PUTS; i++) {
			char key[64], text[64];
			struct read_result r;
			key_of(key, writer, i);
			text_of(text, writer, i);
			r = read_key(&p, "data", key, 0);
			assert_int_equal(r.err, 0);
			assert_int_equal(r.len, strlen(text));
			assert_memory_equal(r.data, text, r.len);
			free(r.data);
		}
	}
	peer_release(&p);
	world_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sessions_side_by_side),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
